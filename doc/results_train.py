#!/usr/bin/env python3
"""Train every script with its default options, three seeds each; write the table and the film.

Usage:
    make results-train             # hours on two cores; goes on where it was stopped
    doc/results_train.py --seeds 1                   # a third of the time, no spread
    doc/results_train.py --epochs 1 --seeds 1        # to see whether all runs; doc/ stays as it is

Trained on ../shared/data/speech/train_8k.sw, 22 minutes of ten speakers, tested on the held-out
speech beside it.  Without ../shared: trained on recordings of Debian's codec2-examples (3 minutes)
and, where they are installed, five minutes of each voice of asterisk-core-sounds-{en,es,fr,it}-wav;
tested on the public recordings of codec2-examples that are not among them.

What the scripts print is kept in results/; a second start takes it from there.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB².
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import coding
import demo
import measure
import results
from common import plumbing, sound

VOICE_S = 300  # seconds of each of these voices; all 100 minutes would outweigh the other speakers
TRAIN = ("wav/ve9qrp.wav", "wav/vk2tpm_004.wav", "wav/david4.wav", "raw/cross.raw", "raw/g3plx.raw")
SOUNDS = Path("/usr/share/asterisk/sounds")  # Debian's asterisk-core-sounds-{en,es,fr,it}-wav
BANDS = "train.f32 train.model --test test.f32 test.model"
ALL = "train_K.f32 train_K.model --test test_K.f32 test_K.model"
VQ = "vq_vae_ratek_conv1d.py train.f32 --test test.f32"
RUNS = {  # row of the table: command, figure, baseline
    "eband_train.py": (f"eband_train.py {BANDS}", "SD", "interpolation"),
    "eband_train.py --Wo": (f"eband_train.py {BANDS} --Wo", "SD", "interpolation"),
    "ebanddec_train.py --dec 3": (
        f"ebanddec_train.py {BANDS} --dec 3",
        "variance",
        "interpolation",
    ),
    "newamp1_train.py": (f"newamp1_train.py {ALL}", "SD", "conventional"),
    "vq_vae_ratek.py": ("vq_vae_ratek.py train.f32 --test test.f32", "SD", "k-means"),
    "vq_vae_ratek_conv1d.py": (VQ, "SD", "classical"),
}
FILM = "vq_vae_ratek_conv1d_training"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train every script with its default options; write the table and the film.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=plumbing.positive, metavar="N", help="of every training, to try it")
    seeds_help = "seeds of each training (default: 1 2 3)"
    add(
        "--seeds", type=plumbing.natural, nargs="+", default=[1, 2, 3], metavar="N", help=seeds_help
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------- speech


def public_training():
    """Training speech int16 [n] that anyone can have."""
    parts = [measure.read_any(measure.EXAMPLES / name) for name in TRAIN]
    for voice in sorted(SOUNDS.glob("*_[fm]_*")):  # en_US_f_Allison: language, country, sex, name
        files = [file for file in sorted(voice.rglob("*.wav")) if file.parent.name != "silence"]
        speech = [sound.read_speech(str(file)) for file in files]
        parts.append(np.concatenate(speech)[: VOICE_S * measure.FS])
    return np.concatenate(parts)


def choose_speech():
    """Training speech int16 [n], what it is in words, and the test Speech."""
    if (measure.SHARED / "heldout").is_dir():
        train = measure.read_any(measure.SHARED / "speech" / "train_8k.sw")
        return train, "train_8k.sw", measure.heldout()
    return public_training(), "public recordings", measure.public()


def make_features(folder, part, samples):
    """PART.f32 and PART.model for K = 14 bands, PART_K.f32 and PART_K.model for K = 20 vectors."""
    samples.tofile(folder / f"{part}.raw")
    loud = ("--bands", f"{part}.f32", "--bands_lower", "10", "--modelout", f"{part}.model")
    run(folder, f"c2sim.py {part}.raw {' '.join(loud)}")
    run(folder, f"c2sim.py {part}.raw --rateK --rateKout {part}_K.f32")
    run(folder, f"c2sim.py {part}.raw --modelout {part}_K.model")


# ---------------------------------------------------------------- trainings


def run(folder, line):
    """What a script prints that runs in `folder`; once it has run, it comes from the file that
    keeps it.
    """
    log = folder / (re.sub(r"[^\w.-]+", "_", line) + ".txt")
    print(f"./{line}", flush=True)
    if not log.exists():
        name, *options = line.split()
        printed = demo.run(folder, name, *options)
        with plumbing.replacing(log) as new:
            Path(new).write_text(printed, encoding="utf-8")
    return log.read_text(encoding="utf-8")


def figures(stdout):
    """{name: value} of the lines `name: value unit` that a script has printed."""
    found = re.findall(r"^([\w -]+): (-?[\d.]+)\b", stdout, re.MULTILINE)
    return {name: float(value) for name, value in found}


def baseline_figure(found, baseline, kind):
    """The figure of a baseline that a script has printed: its name begins as `baseline` says."""
    names = [name for name in found if re.match(f"test {baseline}.* {kind}$", name)]
    return found[names[0]]


def make_table(folder, seeds, more):
    """Markdown with the figures of RUNS; the film of a training goes to folder/plots."""
    rows = []
    for name, (line, kind, baseline) in RUNS.items():
        found = []
        for seed in seeds:
            plots = "--plot_dir plots" if line == VQ and seed == seeds[0] else "--noplots"
            printed = run(folder, f"{line} --seed {seed}{more} {plots}")
            found.append(figures(printed))
        network = [value[f"test network {kind}"] for value in found]
        spread = (max(network) - min(network)) / 2 if len(network) > 1 else None
        steps = f"{found[0]['steps']:.0f}" if "steps" in found[0] else None
        other = float(np.mean([baseline_figure(value, baseline, kind) for value in found]))
        row = (f"`{name}`", steps, kind, float(np.mean(network)), spread, other, baseline)
        rows.append(row)
    head = ("script", "steps", "figure", "network", "± half the range", "baseline", "which is")
    return measure.table(head, *rows)


def main(args):
    train, words, test = choose_speech()
    overlaps = measure.find_overlaps(test, [(words, train)])
    if overlaps:
        sys.exit(f"results_train: error: {overlaps[0][0]} is in the training speech")
    folder = coding.WORK / f"train_{measure.key(train.tobytes(), test.samples.tobytes())}"
    folder.mkdir(parents=True, exist_ok=True)
    make_features(folder, "train", train)
    make_features(folder, "test", test.samples)
    more = f" --epochs {args.epochs}" if args.epochs else ""
    table = make_table(folder, args.seeds, more)
    minutes = len(train) / measure.FS / 60
    seeds = f"{len(args.seeds)} seeds" if len(args.seeds) > 1 else "one seed"
    text = f"Trained on {words}, {minutes:.0f} minutes. Test speech: {test.words}; dB², {seeds}.\n"
    text += f"\n{table}"
    print(f"\n{text}")
    if not args.epochs:
        for ending in ("gif", "png"):
            shutil.copy(folder / "plots" / f"{FILM}.{ending}", results.PICTURES)
        measure.write_page(results.EXPERIMENTS, "made by make results-train", text)


if __name__ == "__main__":
    plumbing.start()
    try:
        main(parse_args())
    except demo.Failed as error:
        sys.exit(str(error))
