#!/usr/bin/env python3
"""Train and test every script on speech that anyone has, and write the tables and pictures of the README.

Usage:
    make results                          # 40 minutes on two cores; speech from Debian's codec2-examples

Everything goes to demo/results, but for the pictures in doc/ and the lines of README.md between the two marks.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import fftconvolve

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import codec2_model

EXAMPLES = Path("/usr/share/codec2")
TRAIN = ("wav/ve9qrp.wav", "wav/vk2tpm_004.wav", "wav/david4.wav", "raw/cross.raw", "raw/g3plx.raw")
TEST = ("raw/hts1a", "raw/hts2a", "raw/big_dog", "raw/mmt1", "raw/kristoff", "raw/cq_ref", "raw/morig", "raw/forig")
SEEDS = (1, 2, 3)
WORK = ROOT / "demo" / "results"
MARKS = "<!-- made by make results -->\n", "<!-- end -->\n"
VQ = "vq_vae_ratek_conv1d.py train.f32 --test test.f32 --epochs 150"  # three minutes of speech need more epochs
BANDS, ALL = (
    "train.f32 train.model --test test.f32 test.model",
    "train_K.f32 train_K.model --test test_K.f32 test_K.model",
)
RUNS = {  # what the table calls it: command, figure, baseline, the same two on the larger data that we have
    "eband_train": (f"eband_train.py {BANDS}", "SD", "interpolation", "15.27 ± 0.06, 20.20"),
    "eband_train --Wo": (f"eband_train.py {BANDS} --Wo", "SD", "interpolation", "10.44 ± 0.02, 20.20"),
    "ebanddec_train --dec 3": (
        f"ebanddec_train.py {BANDS} --dec 3",
        "variance",
        "interpolation",
        "13.61 ± 0.05, 18.99",
    ),
    "newamp1_train": (f"newamp1_train.py {ALL}", "SD", "conventional", "12.00 ± 0.03, 17.28"),
    "vq_vae_ratek": ("vq_vae_ratek.py train.f32 --test test.f32", "SD", "k-means", "29.28 ± 0.43, 29.28"),
    "vq_vae_ratek_conv1d": (VQ, "SD", "classical VQ", "4.51 ± 0.05, 7.65"),
    "vq_vae_ratek_conv1d --vq_stages 1": (f"{VQ} --vq_stages 1", "SD", "classical VQ", "12.92, 17.79 (seed 1)"),
    "vq_vae_ratek_conv1d --eband_K 20": (
        f"{VQ.replace('.f32', '_K.f32')} --eband_K 20",
        "SD",
        "classical VQ",
        "9.60, 14.96 (seed 1)",
    ),
}
RATES = {  # bit/s: options
    350: "--vq_stages 1 --num_embedding 128 --seed 1 --noplots --nnout 350.keras",
    550: "--vq_stages 1 --seed 1 --noplots --nnout vq_vae_ratek_conv1d_--vq_stages_1_1.keras",
    700: "--num_embedding 128 --seed 1 --noplots --nnout 700.keras",
    900: "--num_embedding 512 --seed 1 --noplots --nnout 900.keras",
    1100: "--seed 1 --plot_dir plots --nnout vq_vae_ratek_conv1d_1.keras",
    1400: "--dec 1 --num_embedding 128 --seed 1 --noplots --nnout 1400.keras",
}


def command(line, log):
    """Output of a script that runs in WORK, as a user runs it; `log` keeps it, so that a second start goes on."""
    print(f"./{line}", flush=True)
    done = (WORK / log).read_text() if (WORK / log).exists() else ""
    if done.startswith(f"{line}\n"):
        return done.removeprefix(f"{line}\n")
    script, *options = line.split()
    result = subprocess.run([sys.executable, ROOT / script, *options], cwd=WORK, text=True, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"results.py: error: {line}: exit {result.returncode}")
    (WORK / log).write_text(f"{line}\n{result.stdout}")
    return result.stdout


def figures(stdout):
    """{name: value} of the lines `name: value unit`."""
    return {name: float(value) for name, value in re.findall(r"^([\w -]+): (-?[\d.]+)\b", stdout, re.MULTILINE)}


# ---------------------------------------------------------------- speech


def speech(name):
    """Samples of an example, float [n]."""
    filename = EXAMPLES / (name if "." in name else f"{name}.raw")
    return np.frombuffer(
        filename.read_bytes()[44 if filename.suffix == ".wav" else 0 :][: filename.stat().st_size // 2 * 2], "<i2"
    )


def largest_correlation(snippet, recording):
    """Largest normalised correlation of a snippet with any part of a recording as long: 1 if it is in there."""
    snippet = snippet / np.linalg.norm(snippet)
    energy = np.convolve(recording**2, np.ones(len(snippet)), "valid")
    return np.max(np.abs(fftconvolve(recording, snippet[::-1], "valid")) / np.sqrt(np.maximum(energy, 1)))


def make_features():
    """Speech and features of both sets, after a check that no test recording is inside a training recording."""
    parts = {"train": [speech(name) for name in TRAIN], "test": [speech(name) for name in TEST]}
    for name, recording in zip(TEST, parts["test"], strict=True):
        loudest = np.argmax(np.convolve(np.float64(recording) ** 2, np.ones(8000), "valid"))
        snippet = np.float64(recording[loudest : loudest + 8000])
        found = max(largest_correlation(snippet, np.float64(other)) for other in parts["train"])
        print(f"{name}: correlation with the training speech at most {found:.2f}")
        if found > 0.7:
            sys.exit(f"results.py: error: {name} is inside a training recording")
    for part, recordings in parts.items():
        np.concatenate(recordings).tofile(WORK / f"{part}.raw")
        print(f"{part}: {sum(map(len, recordings)) / 8000:.0f} s")
        command(f"c2sim.py {part}.raw --bands {part}.f32 --bands_lower 10 --modelout {part}.model", f"{part}.txt")
        command(f"c2sim.py {part}.raw --rateK --rateKout {part}_K.f32", f"{part}_K.txt")
        command(f"c2sim.py {part}.raw --modelout {part}_K.model", f"{part}_K.txt")


# ---------------------------------------------------------------- rate and distortion


def gaussian_bound(x, rates, frames=16):
    """Least SD in dB² at `rates` in bit/s for Gaussian vectors with the covariance of 160 ms blocks of x [n][K].

    Reverse water-filling: eigenvalues v get bits log2(v / D) / 2 where v > D, the others none.
    """
    blocks = np.lib.stride_tricks.sliding_window_view(x, frames, axis=0).reshape(-1, frames * x.shape[1])
    v = np.linalg.eigvalsh(np.cov(blocks.T))
    levels = np.geomspace(1e-3, v.max(), 5000)
    bits = np.array([0.5 * np.log2(v[v > D] / D).sum() for D in levels])
    sd = np.array([np.minimum(v, D).mean() for D in levels])
    return np.interp(np.array(rates) * frames * codec2_model.FRAME_S, bits[::-1], sd[::-1])


def plot_rates(points, x):
    """SD over bit rate; points {bit/s: (network, classical)} in dB²."""
    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    rates = list(points)
    for i, (name, style) in enumerate((("VQ-VAE, two conv1D layers", "o-C0"), ("classical VQ", "s--C1"))):
        ax.plot(rates, [points[rate][i] for rate in rates], style, label=name)
    grid = np.arange(350, 1401, 25)
    ax.plot(grid, gaussian_bound(x, grid), ":k", label="Gaussian bound, 160 ms blocks")
    ax.set(xlabel="Bit rate (bit/s)", ylabel="SD (dB²)", title="K = 14 band energies, test recordings", ylim=(0, None))
    ax.legend()
    ax.grid(alpha=0.3)
    fig.savefig(ROOT / "doc" / "rate_distortion.png", dpi=100)


# ---------------------------------------------------------------- listening


def plot_spectrograms():
    """The same second of speech: original, from unquantised and from quantised K = 20 vectors; their distances."""
    command("c2sim.py test.raw --rateK -o unquantised.raw", "unquantised.txt")
    network = "vq_vae_ratek_conv1d_--eband_K_20_1.keras"
    command(f"vq_vae_ratek_conv1d.py test_K.f32 --eband_K 20 --nnin {network} --testout vq_K.f32 --noplots", "vq_K.txt")
    command("c2sim.py test.raw --rateK --rateKin vq_K.f32 -o quantised.raw", "quantised.txt")
    fig, axes = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    spectra = {}
    for ax, name in zip(axes, ("test", "unquantised", "quantised"), strict=True):
        samples = np.fromfile(WORK / f"{name}.raw", "<i2").astype(float)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 256)[::80] * np.hanning(256)
        spectra[name] = 10 * np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e3)
        shown = spectra[name][: 3 * 100]
        ax.imshow(shown.T, origin="lower", aspect="auto", cmap="magma", vmin=30, vmax=110, extent=(0, 3, 0, 4000))
        ax.set(ylabel="Frequency (Hz)", title={"test": "original"}.get(name, f"{name}, K = 20, c2sim.py --rateK"))
    axes[-1].set_xlabel("Time (s)")
    fig.savefig(ROOT / "doc" / "spectrogram.png", dpi=80)
    n = min(map(len, spectra.values()))
    distance = np.sqrt(np.mean((spectra["quantised"][:n] - spectra["unquantised"][:n]) ** 2, axis=1)).mean()
    return f"Log-spectral distance between the speech from unquantised and from quantised vectors: {distance:.1f} dB.\n"


# ---------------------------------------------------------------- main


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    make_features()
    table = "| script | figure | dB², three seeds | baseline | on 22 minutes of speech |\n|---|---|---|---|---|\n"
    for name, (line, kind, baseline, larger) in RUNS.items():
        values = []
        for seed in SEEDS:
            net = f"{name.replace(' ', '_')}_{seed}"
            plots = "--plot_dir plots" if net == "vq_vae_ratek_conv1d_1" else "--noplots"
            values.append(figures(command(f"{line} --seed {seed} {plots} --nnout {net}.keras", f"{net}.txt")))
        network = [value[f"test network {kind}"] for value in values]
        base = np.mean([value[f"test {baseline} {kind}"] for value in values])
        spread = (max(network) - min(network)) / 2
        table += f"| `{name}` | {kind} | {np.mean(network):.2f} ± {spread:.2f} | {base:.2f} {baseline} | {larger} |\n"
    points = {}
    for rate, options in RATES.items():
        network = options.split()[-1].removesuffix(".keras")
        value = figures(command(f"{VQ} {options}", f"{network}.txt"))  # 550 and 1100 bit/s are in the table already
        points[rate] = value["test network SD"], value["test classical VQ SD"]
    plot_rates(points, codec2_model.read_rate_K(WORK / "test.f32", 14))
    listening = plot_spectrograms()
    for picture in ("vq_vae_ratek_conv1d_training.gif", "vq_vae_ratek_conv1d_training.png"):
        shutil.copy(WORK / "plots" / picture, ROOT / "doc")
    readme = (ROOT / "README.md").read_text()
    before, after = readme.split(MARKS[0])[0], readme.split(MARKS[1])[1]
    (ROOT / "README.md").write_text(f"{before}{MARKS[0]}{table}\n{listening}{MARKS[1]}{after}")
    print(table, listening, sep="\n")


if __name__ == "__main__":
    main()
