#!/usr/bin/env python3
"""Measure the trained networks on public speech, and write the tables of the README and doc/spectrogram.png.

Usage:
    make results                     # minutes: the networks of networks/ on recordings of Debian's codec2-examples
    doc/results.py --speech FILE     # the same tables for any speech; they are printed, and no file is written

Phases are modelled, and speech is post filtered, as a receiver would have to.  Pitch and voicing are those of the
original, but for Codec 2; the bit rates are those of the amplitudes.  Frames count whose mean level is above 10 dB,
that of the vector for vectors, that of the band energies for harmonics, which count up to 3600 Hz.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB².
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import c2sim
import codec2_model
import plumbing

import demo
import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import fftconvolve

README = ROOT / "README.md"
EXPERIMENTS = ROOT / "doc" / "experiments.md"
PICTURES = ROOT / "doc"
EXAMPLES = Path("/usr/share/codec2")  # Debian's codec2-examples
TRAIN = ("wav/ve9qrp.wav", "wav/vk2tpm_004.wav", "wav/david4.wav", "raw/cross.raw", "raw/g3plx.raw")
TEST = ("hts1a", "hts2a", "big_dog", "mmt1", "kristoff", "cq_ref", "morig", "forig")
SOUNDS = Path("/usr/share/asterisk/sounds")  # Debian's asterisk-core-sounds-{en,es,fr,it}-wav
VOICE_S = 300  # seconds of each of these four voices; their 100 minutes would leave the other speakers no weight
SAME = 0.7  # correlation above which a recording is taken to be inside another
FS = codec2_model.FS_HZ
VERSIONS = (  # (file name as in demo.py, quantiser, decoder)
    ("harmonics", "none, all harmonics", "none"),
    ("K20", "none, K = 20", "conventional"),
    ("K20_newamp1", "none, K = 20", "`newamp1.keras`"),
    ("K20_1100", "`vq_K20_1100.keras`", "conventional"),
    ("K20_1100_newamp1", "`vq_K20_1100.keras`", "`newamp1.keras`"),
    ("K20_550", "`vq_K20_550.keras`", "conventional"),
    ("K20_550_newamp1", "`vq_K20_550.keras`", "`newamp1.keras`"),
    ("K14", "none, K = 14", "`bands_Wo.keras`"),
    ("K14_1100", "`vq_K14_1100.keras`", "`bands_Wo.keras`"),
    ("K14_1100_harmonics", "the same, `--harmonics`", "`bands_Wo.keras`"),
    ("codec2_3200", "`c2enc 3200`", "`c2dec 3200`"),
    ("codec2_1300", "`c2enc 1300`", "`c2dec 1300`"),
    ("codec2_700C", "`c2enc 700C`", "`c2dec 700C`"),
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Measure the trained networks, write the README's tables.")
    parser.add_argument("--speech", metavar="FILE", help="print the tables for this speech, write no file")
    return parser.parse_args(argv)


def script(folder, name, *options):
    """What a script prints that runs in `folder`; if it fails, this one ends."""
    result = subprocess.run([sys.executable, ROOT / name, *options], cwd=folder, text=True, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"results: error: {name} {' '.join(map(str, options))}: exit {result.returncode}")
    return result.stdout


def figures(stdout):
    """{name: value} of the lines `name: value unit`."""
    return {name: float(value) for name, value in re.findall(r"^([\w -]+): (-?[\d.]+)\b", stdout, re.MULTILINE)}


def table(head, *rows):
    """Markdown of rows of cells; floats get two digits, None a dash."""
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([f"{cell:.2f}" if isinstance(cell, float) else "–" if cell is None else str(cell) for cell in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_page(page, made_by, text):
    """Put the text into a Markdown page, between the mark of the command that has made it and the next end mark."""
    mark, end = f"<!-- made by {made_by} -->\n", "<!-- end -->\n"
    before, found, after = page.read_text(encoding="utf-8").partition(mark)
    if not found or end not in after:
        raise plumbing.FormatError(f"{page}: expected a line {mark.strip()} and after it a line {end.strip()}")
    page.write_text(before + mark + text + end + after.partition(end)[2], encoding="utf-8")


# ---------------------------------------------------------------- public speech


def check_packages():
    """End here if anything is missing that the tables need."""
    if not (EXAMPLES.is_dir() and shutil.which("c2enc") and all(map(importlib.util.find_spec, ("pesq", "pystoi")))):
        sys.exit("results: error: missing: apt-get install codec2 codec2-examples, or pip install pesq pystoi")


def largest_correlation(snippet, recording):
    """Largest normalised correlation of a snippet with any part of a recording as long: 1 if it is in there."""
    snippet, recording = np.float64(snippet), np.float64(recording)
    energy = np.cumsum(np.r_[0, recording**2])
    energy = np.maximum(energy[len(snippet) :] - energy[: -len(snippet)], 1)
    product = fftconvolve(recording, snippet[::-1], "valid")
    return np.max(np.abs(product) / np.sqrt(energy)) / np.linalg.norm(snippet)


def public_speech():
    """Training and test speech int16 [n], after a check that no test recording is inside a training recording."""
    train = [c2sim.read_speech(str(EXAMPLES / name)) for name in TRAIN]
    for voice in sorted(SOUNDS.glob("*_[fm]_*")):  # en_US_f_Allison and so on: language, country, sex and name
        files = [str(file) for file in sorted(voice.rglob("*.wav")) if file.parent.name != "silence"]
        train.append(np.concatenate([c2sim.read_speech(file) for file in files])[: VOICE_S * FS])
    print(f"training speech: {len(TRAIN)} of codec2-examples, {len(train) - len(TRAIN)} Asterisk voices")
    test = [c2sim.read_speech(str(EXAMPLES / "raw" / f"{name}.raw")) for name in TEST]
    for name, recording in zip(TEST, test, strict=True):
        energy = np.cumsum(np.r_[0, np.float64(recording) ** 2])
        loudest = np.argmax(energy[FS:] - energy[:-FS])  # where the second with the largest energy begins
        snippet = recording[loudest : loudest + FS]
        found = max(largest_correlation(snippet, other) for other in train)
        print(f"{name}: correlation with the training speech at most {found:.2f}", flush=True)
        if found > SAME:
            sys.exit(f"results: error: {name} is inside a training recording")
    return np.concatenate(train), np.concatenate(test)


# ---------------------------------------------------------------- figures


def sd_and_variance(x, x_hat):
    """SD and variance in dB² of vectors x_hat [n][K], means over the frames x [n][K] that are loud enough to count."""
    error = np.float64(x - x_hat)[x.mean(axis=1) > demo.LOUD_DB]
    return float(np.mean(error**2)), float(np.mean(np.var(error, axis=1)))


def code_700C(folder, raw, n):
    """What c2enc makes of a raw file: n vectors [n][20] of 10 ms frames, and the shapes [v][20] sent every 40 ms.

    Shapes are vectors without their mean.  The mean of a vector is the one before it is quantised.
    """
    demo.run(folder, "c2enc", "700C", raw, "700C.bit", "--mlfeat", "700C.f32", "700C.model")
    sent = codec2_model.read_floats(folder / "700C.f32", codec2_model.MLFEAT)
    return interpolate_700C(sent[:, :1] + sent[:, 21:41], n), sent[:, 21:41]


def interpolate_700C(vectors, n):
    """Vectors [n][K] of 10 ms frames: 700C sends frames 3, 7, 11 …, here vectors [v][K], with straight lines between.

    [[0], [4]], n = 9: 0 0 0 0 1 2 3 4 4.
    """
    return np.stack([np.interp(np.arange(n), 4 * np.arange(len(vectors)) + 3, values) for values in vectors.T], axis=1)


def measure(folder, speech):
    """The tables in Markdown for speech int16 [n]; `folder` gets all versions of it."""
    # c2sim.py leaves out frames of zeros, and all versions have to be as long as the original: replace zeros by ±1
    speech = np.where(speech == 0, np.random.default_rng(1).choice([-1, 1], len(speech)), speech).astype(np.int16)
    demo.write_wav(folder / "original.wav", speech)
    sd = demo.make_versions(folder)
    for name in ("K20", "K20_1100", "K20_550"):
        network, model = demo.NETWORKS / "newamp1.keras", f"{name}_newamp1.model"
        script(folder, "eband_out.py", network, f"{name}.f32", "speech.model", "--modelout", model, "--noplots")
        script(folder, "c2sim.py", "--modelin", model, *demo.RECEIVER, "-o", f"{name}_newamp1.wav")
        files = (folder / "speech.model", folder / "K14.f32")
        sd[f"{name}_newamp1"] = demo.harmonic_sd(*files, codec2_model.read(folder / model)[2])
    search = ("--harmonics", "speech.model", demo.NETWORKS / "bands_Wo.keras", "--testout", "K14_1100_harmonics.f32")
    script(folder, demo.VQ, "K14.f32", "--nnin", demo.NETWORKS / "vq_K14_1100.keras", *search, "--noplots")
    sd["K14_1100_harmonics"] = demo.make_vectors(folder, "K14_1100_harmonics", None, "search for harmonics")
    x = {K: codec2_model.read_rate_K(folder / f"K{K}.f32", K) for K in (14, 20)}
    loud, loud_K20 = (x[K].mean(axis=1) > demo.LOUD_DB for K in (14, 20))
    text = f"Errors in dB² of {np.sum(loud)} of {len(loud)} frames, those of K = 20 vectors of {np.sum(loud_K20)}.\n"
    tables = chain_table(folder, speech, x, sd), rate_L_table(folder, x, loud), bout_table(folder, speech, x)
    return "\n".join([text, *tables])


def chain_table(folder, speech, x, sd):
    """All versions of the speech; vectors x {K: [n][K]}, SD of harmonics sd {file name: dB²}.  And classical VQ."""
    bits = {name: bits for name, _, bits, _ in demo.VERSIONS}
    sections = (folder / "figures.txt").read_text(encoding="utf-8").split("\n\n")  # one for each script that ran
    rows, classical = [], []
    for name, quantiser, decoder in VERSIONS:
        vectors = name.removesuffix("_newamp1")
        coded, sd_vectors = vectors.removesuffix("_harmonics"), None
        if (folder / f"{coded}.npy").exists():  # a network of ours has made indices
            K = int(coded[1:3])
            sd_vectors, _ = sd_and_variance(x[K], codec2_model.read_rate_K(folder / f"{vectors}.f32", K))
            if name == coded:
                found = figures(next(part for part in sections if f"vq_{name}.keras" in part))
                what = f"classical VQ, K = {K}, every {1000 * found['bits'] / found['bit rate']:.0f} ms"
                classical.append((bits[name], what, None, found["file classical VQ SD"], None, None, None))
        quality = demo.objective_quality(speech, c2sim.read_speech(str(folder / f"{name}.wav")))
        rows.append((bits[coded], quantiser, decoder, sd_vectors, sd.get(name), *quality))
    return table(
        ("bit/s", "quantiser", "decoder", "SD of vectors", "SD of harmonics", "PESQ", "STOI"), *rows, *classical
    )


def rate_L_table(folder, x, loud):
    """Harmonics from vectors x {K: [n][K]} that are not quantised, of the frames `loud` [n]; and by baselines."""
    codec2_model.write(*(values[loud] for values in codec2_model.read(folder / "speech.model")), folder / "loud.model")
    rows = []
    for name, K, baseline in (("bands_Wo", 14, "interpolation"), ("newamp1", 20, "conventional")):
        codec2_model.write_rate_K(x[K][loud], folder / "loud.f32")
        files = (demo.NETWORKS / f"{name}.keras", "loud.f32", "loud.model")
        found = figures(script(folder, "eband_out.py", *files, "--noplots"))
        for decoder, title in (("network", f"`{name}.keras`"), (baseline, baseline)):
            rows.append((f"K = {K}", title, found[f"file {decoder} SD"], found[f"file {decoder} variance"]))
    return table(("vectors, not quantised", "decoder", "SD of harmonics", "variance of harmonics"), *rows)


def bout_table(folder, speech, x):
    """The same vectors at the same bit rate by 700C's quantiser and by ours, both heard through c2dec.

    --loadratek replaces the shapes that c2dec decodes.  Interpolation, energy, pitch, phases and post filter are its
    own for both, so that only the quantiser differs.
    """
    speech.tofile(folder / "original.raw")
    by_700C, shapes = code_700C(folder, "original.raw", len(x[20]))
    by_network = codec2_model.read_rate_K(folder / "K20_550.f32", 20)
    sent = by_network[3::4][: len(shapes)]  # c2enc leaves out a last part of 40 ms
    ours = ("`vq_K20_550.keras`", by_network, sent - sent.mean(axis=1, keepdims=True))
    rows = []
    for quantiser, vectors, heard in (("700C's own, its mean not quantised", by_700C, shapes), ours):
        codec2_model.write_rate_K(heard, folder / "shapes.f32")
        demo.run(folder, "c2dec", "700C", "700C.bit", "700C.raw", "--loadratek", "shapes.f32")
        quality = demo.objective_quality(speech, c2sim.read_speech(str(folder / "700C.raw")))
        rows.append((quantiser, *sd_and_variance(x[20], vectors), *quality))
    return table(("quantiser, K = 20, 550 bit/s", "SD of vectors", "variance of vectors", "PESQ", "STOI"), *rows)


def plot_spectrograms(folder):
    """The first three seconds: original, from unquantised and from quantised K = 20 vectors."""
    titles = {"original": "original", "K20": "K = 20, not quantised", "K20_1100": "K = 20, 1100 bit/s"}
    original = c2sim.read_speech(str(folder / "original.wav"))
    fig, axes = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        speech = demo.align(original, c2sim.read_speech(str(folder / f"{name}.wav")))[: 3 * FS]
        ax.specgram(np.float64(speech), NFFT=256, Fs=FS, noverlap=176, cmap="magma", vmin=-30, vmax=40)
        ax.set(ylabel="Frequency (Hz)", title=title)
    axes[-1].set_xlabel("Time (s)")
    fig.savefig(PICTURES / "spectrogram.png", dpi=80)


def main(args):
    check_packages()
    speech = c2sim.read_speech(args.speech) if args.speech is not None else public_speech()[1]
    with plumbing.temporary_folder() as folder:
        text = measure(Path(folder), speech)
        if args.speech is None:
            plot_spectrograms(Path(folder))
            write_page(README, "make results", text)
    print(f"\n{text}")


if __name__ == "__main__":
    plumbing.plain_errors()
    main(parse_args())
