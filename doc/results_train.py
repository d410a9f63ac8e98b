#!/usr/bin/env python3
"""Train every script on public speech alone; write the table of doc/experiments.md and the pictures that need training.

Usage:
    make results-train                                # an hour; goes on where it was stopped
    doc/results_train.py --seeds 1 2 3                # three times as long; the table tells what the seed changes
    doc/results_train.py --epochs 1                   # to see whether all runs; doc/ stays as it is

Training speech: recordings of Debian's codec2-examples (3 minutes) and, where they are installed, five minutes of each
voice of asterisk-core-sounds-{en,es,fr,it}-wav.  Test speech: the recordings that `make results` takes.  What the
scripts print is kept in results/; a second start takes it from there.  The pictures are of the first seed.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB², delays in ms.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import codec2_model
import plumbing

import demo
import matplotlib.pyplot as plt
import numpy as np
import results

WORK = ROOT / "results"
FS = codec2_model.FS_HZ
FRAME_MS = 1000 * codec2_model.FRAME_S
BANDS = "train.f32 train.model --test test.f32 test.model"
ALL = "train_K.f32 train_K.model --test test_K.f32 test_K.model"
VQ = "vq_vae_ratek_conv1d.py train.f32 --test test.f32"
VQ_K20 = "vq_vae_ratek_conv1d.py train_K.f32 --eband_K 20 --test test_K.f32"
RUNS = {  # row of the table: command, figure, baseline
    "eband_train": (f"eband_train.py {BANDS}", "SD", "interpolation"),
    "eband_train --Wo": (f"eband_train.py {BANDS} --Wo", "SD", "interpolation"),
    "ebanddec_train --dec 3": (f"ebanddec_train.py {BANDS} --dec 3", "variance", "interpolation"),
    "newamp1_train": (f"newamp1_train.py {ALL}", "SD", "conventional"),
    "vq_vae_ratek": ("vq_vae_ratek.py train.f32 --test test.f32", "SD", "k-means"),
    "vq_vae_ratek_conv1d": (VQ, "SD", "classical VQ"),
    "vq_vae_ratek_conv1d --vq_stages 1": (f"{VQ} --vq_stages 1", "SD", "classical VQ"),
    "vq_vae_ratek_conv1d --eband_K 20": (f"{VQ_K20} --dec 2 --vq_stages 2", "SD", "classical VQ"),
}
STAGE_BITS = 11
CURVES = {
    1: (1, 2),
    2: (1, 2, 4),
    4: (1, 2, 4, 8),
}  # --dec: --vq_stages, for the picture of rate and distortion
CURVE_EPOCHS = 16  # of the ten trainings for both pictures: about 2000 steps each
DELAYS = {1: 1, 2: 2, 4: 4, 8: 8}  # --dec: --vq_stages, all 1100 bit/s, for the picture of delay
DEC_8_S = 600  # seconds of training speech that --dec 8 needs: 2048 codewords want 2048 vectors of eight frames


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train every script on public speech, write table and pictures."
    )
    parser.add_argument(
        "--epochs", type=plumbing.positive, metavar="N", help="of every training, to try it"
    )
    parser.add_argument(
        "--seeds", type=plumbing.natural, nargs="+", default=[1], metavar="N", help="of the table"
    )
    return parser.parse_args(argv)


def run(folder, line):
    """What a script prints that runs in `folder`; once that is done, it comes from the file that keeps it."""
    log = folder / (re.sub(r"[^\w.-]+", "_", line) + ".txt")
    print(f"./{line}", flush=True)
    if not log.exists():
        name, *options = line.split()
        printed = results.script(folder, name, *options)
        with plumbing.replacing(log) as new, open(new, "w", encoding="utf-8") as file:
            file.write(printed)
    return log.read_text(encoding="utf-8")


def make_features(folder, part, speech):
    """PART.raw, PART.f32 and PART.model for K = 14 bands, PART_K.f32 and PART_K.model for K = 20 vectors."""
    speech.tofile(folder / f"{part}.raw")
    run(folder, f"c2sim.py {part}.raw --bands {part}.f32 --bands_lower 10 --modelout {part}.model")
    run(folder, f"c2sim.py {part}.raw --rateK --rateKout {part}_K.f32")
    run(folder, f"c2sim.py {part}.raw --modelout {part}_K.model")


def make_table(folder, args):
    """Markdown with the figures of RUNS; the pictures of how a quantiser learns go to `folder`/plots."""
    rows = []
    for name, (line, kind, baseline) in RUNS.items():
        found = []
        for seed in args.seeds:
            plots = "--plot_dir plots" if line == VQ and seed == args.seeds[0] else "--noplots"
            found.append(results.figures(run(folder, f"{line} --seed {seed}{args.more} {plots}")))
        network = [value[f"test network {kind}"] for value in found]
        spread = (max(network) - min(network)) / 2 if len(network) > 1 else None
        steps = f"{found[0]['steps']:.0f}" if "steps" in found[0] else None
        other = float(np.mean([value[f"test {baseline} {kind}"] for value in found]))
        rows.append((f"`{name}`", steps, kind, float(np.mean(network)), spread, other, baseline))
    head = (
        "script",
        "training steps",
        "figure",
        "network",
        "± half the range of seeds",
        "baseline",
        "which is",
    )
    return results.table(head, *rows)


# ---------------------------------------------------------------- rate, distortion and delay


def gaussian_bound(x, rates, frames=16):
    """Least SD in dB² at `rates` in bit/s for Gaussian vectors with the covariance of 160 ms blocks of x [n][K].

    Reverse water-filling: eigenvalues v get bits log2(v / D) / 2 where v > D, the others none.
    """
    blocks = np.lib.stride_tricks.sliding_window_view(x, frames, axis=0).reshape(
        -1, frames * x.shape[1]
    )
    v = np.linalg.eigvalsh(np.cov(blocks.T))
    levels = np.geomspace(1e-3, v.max(), 5000)
    bits = np.array([0.5 * np.log2(v[v > D] / D).sum() for D in levels])
    sd = np.array([np.minimum(v, D).mean() for D in levels])
    return np.interp(np.array(rates) * frames * codec2_model.FRAME_S, bits[::-1], sd[::-1])


def bit_rate(dec, stages):
    """In bit/s."""
    return STAGE_BITS * stages / (dec * codec2_model.FRAME_S)


def plot_rates(found, x, sd_700C):
    """SD over bit rate, curves for each --dec; found {(dec, stages): figures}, x [n][20] loud test vectors."""
    fig, ax = plt.subplots(figsize=(9, 6), layout="constrained")
    grid = np.arange(275, 2201, 25)
    bound = gaussian_bound(x, grid)
    ax.plot(grid, bound, "--k")
    ends = [
        (bound[-1], "Gaussian bound", "k")
    ]  # height, text and colour of the labels at the ends of the curves
    for i, (dec, stages) in enumerate(CURVES.items()):
        rates = [bit_rate(dec, n) for n in stages]
        for name, style in (("network", "o-"), ("classical VQ", "s:")):
            sd = [found[dec, n][f"test {name} SD"] for n in stages]
            ax.plot(rates, sd, f"{style}C{i}", markersize=4)
            ends.append((sd[-1], f"{name}, {dec * FRAME_MS:.0f} ms", f"C{i}"))
    ax.plot(550, sd_700C, "*k", markersize=12)
    ax.text(590, sd_700C, "Codec 2 700C, 40 ms", va="center")
    above, gap = -np.inf, 0.04 * ax.get_ylim()[1]  # so that no label covers another
    for height, text, colour in sorted(ends):
        above = max(height, above + gap)
        ax.text(grid[-1] + 40, above, text, va="center", color=colour)
    ax.set(
        xlabel="Bit rate (bit/s)", ylabel="SD of vectors (dB²)", xlim=(200, 2900), ylim=(0, None)
    )
    ax.set_title("K = 20, a vector every 10, 20 or 40 ms; short trainings on public speech")
    ax.grid(alpha=0.3)
    return fig


def plot_delays(found):
    """SD over the algorithmic delay at 1100 bit/s; found {(dec, stages): figures}."""
    pairs = [pair for pair in DELAYS.items() if pair in found]
    delays = {
        "network": [found[pair]["algorithmic delay"] * FRAME_MS for pair in pairs],
        "classical VQ": [
            (dec - 1) * FRAME_MS for dec, _ in pairs
        ],  # it waits for the next vector to interpolate
    }
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for (name, ms), style in zip(delays.items(), ("o-", "s:"), strict=True):
        sd = [found[pair][f"test {name} SD"] for pair in pairs]
        ax.plot(ms, sd, style, label=name)
        for (dec, stages), *point in zip(pairs, ms, sd, strict=True):
            text = f"{STAGE_BITS * stages} bits, {dec * FRAME_MS:.0f} ms"
            ax.annotate(text, point, (0, -14), textcoords="offset points", ha="center")
    ax.set(
        xlabel="Algorithmic delay, without the search (ms)",
        ylabel="SD of vectors (dB²)",
        ylim=(0, None),
    )
    ax.set(
        xlim=(-20, 20 + max(delays["network"])),
        title="1100 bit/s, K = 20; short trainings on public speech",
    )
    ax.legend()
    ax.grid(alpha=0.3)
    return fig


def main(args):
    results.check_packages()
    args.more = f" --epochs {args.epochs}" if args.epochs else ""
    speech = dict(zip(("train", "test"), results.public_speech(), strict=True))
    if len(speech["train"]) < DEC_8_S * FS:
        print(
            "no Asterisk voices, so --dec 8 is left out: apt-get install asterisk-core-sounds-{en,es,fr,it}-wav"
        )
    folder = WORK / f"{len(speech['train']) // FS}_s"  # other recordings have a folder of their own
    folder.mkdir(parents=True, exist_ok=True)
    for part, samples in speech.items():
        make_features(folder, part, samples)
    table = make_table(folder, args)

    found, more = {}, args.more or f" --epochs {CURVE_EPOCHS}"
    curves = {(dec, n) for dec, stages in CURVES.items() for n in stages}
    for dec, stages in sorted(curves | set(DELAYS.items())):
        if dec < 8 or len(speech["train"]) >= DEC_8_S * FS:
            line = (
                f"{VQ_K20} --dec {dec} --vq_stages {stages} --seed {args.seeds[0]}{more} --noplots"
            )
            found[dec, stages] = results.figures(run(folder, line))
    x = codec2_model.read_rate_K(folder / "test_K.f32", codec2_model.NEWAMP1_K)
    by_700C, _ = results.code_700C(folder, "test.raw", len(x))
    pictures = folder if args.epochs else results.PICTURES
    loud = x[x.mean(axis=1) > demo.LOUD_DB]
    plot_rates(found, loud, results.sd_and_variance(x, by_700C)[0]).savefig(
        pictures / "rate_distortion.png", dpi=100
    )
    plot_delays(found).savefig(pictures / "delay.png", dpi=100)
    seconds = [f"{len(samples) / FS:.0f} s" for samples in speech.values()]
    text = f"Trained on {seconds[0]}, tested on {seconds[1]} of public speech; dB², {len(args.seeds)} seed(s).\n\n"
    text += table
    if not args.epochs:
        for picture in ("vq_vae_ratek_conv1d_training.gif", "vq_vae_ratek_conv1d_training.png"):
            shutil.copy(folder / "plots" / picture, pictures)
        results.write_page(results.EXPERIMENTS, "make results-train", text)
    print(f"\n{text}")


if __name__ == "__main__":
    plumbing.plain_errors()
    main(parse_args())
