#!/usr/bin/env python3
"""Take speech through the trained networks of networks/ and make a page to listen on: demo/index.html.

Usage:
    make demo                     # public speech of Debian's codec2-examples, or else the bundled sample
    make demo SPEECH=my.flac      # the first minute of your own speech

Every version is what a receiver would make of pitch, voicing and vectors: phases are modelled, and post filtered.
Pitch and voicing are not quantised, so the bit rates are those of the amplitudes.  Codec 2's own modes stand beside
where c2enc and c2dec are installed, PESQ and STOI where the packages pesq and pystoi are.  A short training on the same
speech shows how a quantiser learns.

The folder demo/ is replaced when everything is done, and not touched before.

Units: speech int16 at 8 kHz, SD of harmonics in dB².
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import c2sim
import codec2_model
import plumbing

import numpy as np

NETWORKS = ROOT / "networks"
FOLDER = ROOT / "demo"
EXAMPLES = Path("/usr/share/codec2/raw")  # Debian's codec2-examples
CLIPS = ("hts1a", "hts2a", "mmt1", "big_dog", "kristoff", "forig", "morig")  # none of them is in the training speech
SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
FS = codec2_model.FS_HZ
MAX_S = 60  # of the user's own speech; more would not help to compare
MIN_S = 2  # the training needs about as much
PASSAGE_S = 6  # about the length of the passages that one's own speech is cut into
VQ = "vq_vae_ratek_conv1d.py"
RECEIVER = ("--phase0", "--postfilter")  # a receiver does not know the phases
WIDTH, CUTOFF_HZ = 128, 3600  # bins for the SD of harmonics, and up to where, as in eband_train.py
LOUD_DB = 10  # frames with a larger mean band energy count in the SD
FILM_S = 2000  # seconds of speech that pass through the short training, all epochs together
MAX_EPOCHS = 100  # of the short training
MAX_DELAY = 800  # samples; c2sim.py and most modes of c2dec have 159
PIECE = 8 * FS  # samples; PESQ is made for 8 s of speech
RANGE_DB = 70  # colour scale of the spectrograms, from the peak of the original down

VERSIONS = (  # in the order of the page: file name, what it is, bit/s of the amplitudes or None, the same in words
    ("original", "Original", None, "16 bit, 8 kHz"),
    ("harmonics", "Harmonics", None, "not quantised"),
    ("K20", "K = 20", None, "not quantised"),
    ("K20_1100", "K = 20", 1100, "1100 bit/s"),
    ("K20_550", "K = 20", 550, "550 bit/s"),
    ("K14", "K = 14", None, "not quantised"),
    ("K14_1100", "K = 14", 1100, "1100 bit/s"),
    ("codec2_3200", "Codec 2 3200", 2750, "2750 of 3200 bit/s"),  # 50 bits of LSPs and 5 of energy every 20 ms
    ("codec2_1300", "Codec 2 1300", 1025, "1025 of 1300 bit/s"),  # 36 and 5 every 40 ms
    ("codec2_700C", "Codec 2 700C", 550, "550 of 700 bit/s"),  # 18 and 4 every 40 ms
)
PICTURES = (  # (file without its ending, caption); a GIF is shown with the PNG of its last picture
    ("film/vq_vae_ratek_conv1d_training", "A quantiser of two stages of 64 codewords learns, on this speech only."),
    ("film/vq_vae_ratek_conv1d_sd", "What it has reached: spectral distortion, and how it goes over the frames."),
    ("K14/vq_vae_ratek_conv1d_frames_1", "Band energies (K = 14) before and after 1100 bit/s."),
    ("K14/eband_out_frames_1", "Harmonics that a network makes of the band energies after 1100 bit/s."),
    ("K14/eband_out_sd", "SD of these harmonics, beside interpolation of the same band energies."),
)

# ---------------------------------------------------------------- speech


def choose_speech(name):
    """Speech int16 [n], what it is in words, and its passages [(name, first second, last second)].

    `name` is the file that the user asks for, or empty.  Raises FormatError or OSError.
    """
    files = [EXAMPLES / f"{clip}.raw" for clip in CLIPS]
    if not name and all(map(Path.exists, files)):
        parts = [c2sim.read_speech(str(file)) for file in files]
        seconds = np.cumsum([0, *map(len, parts)]) / FS
        passages = list(zip(CLIPS, seconds[:-1], seconds[1:], strict=True))
        return np.concatenate(parts), f"{len(CLIPS)} recordings of Debian's codec2-examples", passages
    speech = c2sim.read_speech(name or str(SAMPLE))[: MAX_S * FS]
    if len(speech) < MIN_S * FS:
        raise plumbing.FormatError(f"{name}: {len(speech) / FS:.1f} s of speech, expected {MIN_S} s or more")
    seconds = np.linspace(0, len(speech) / FS, max(round(len(speech) / FS / PASSAGE_S), 1) + 1)
    passages = [(f"{a:.0f}–{b:.0f} s", a, b) for a, b in pairwise(seconds)]
    return speech, os.fsencode(os.path.basename(name)).decode(errors="replace") or "the bundled sample", passages


def write_wav(filename, speech):
    import soundfile

    soundfile.write(filename, np.asarray(speech, np.int16), FS)


# ---------------------------------------------------------------- quality


def spectrogram(x, window, hop, floor):
    """Power spectra in dB [frames][window / 2 + 1] of x [n], every `hop` samples; `floor` is added to the power."""
    frames = np.lib.stride_tricks.sliding_window_view(np.float32(x), window)[::hop]
    return 10 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32))) ** 2 + floor)


def delay(reference, degraded):
    """Samples by which `degraded` lags `reference`, 0…MAX_DELAY in steps of 1 ms.

    It is where their log spectra over time correlate best; modelled phases would mislead a correlation of samples.
    """
    a, b = (spectrogram(x, 200, 8, floor=1e5) for x in (reference, degraded))  # the floor hides the noise in pauses
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    n = min(len(a), len(b))
    lags = range(min(MAX_DELAY // 8 + 1, n))
    return 8 * int(np.argmax([np.mean(a[: n - lag] * b[lag:n]) for lag in lags]))


def align(reference, degraded):
    """`degraded` without its delay, as long as `reference`."""
    degraded = degraded[delay(reference, degraded) :][: len(reference)]
    return np.pad(degraded, (0, len(reference) - len(degraded)))


def objective_quality(reference, degraded):
    """PESQ (narrow band, MOS) and STOI of speech int16 [n], means over pieces of about 8 s; None where not installed.

    The delay is taken out.  Pieces without speech do not count.
    """
    try:
        import pesq
        import pystoi
    except ImportError:
        return None, None
    degraded = align(reference, degraded)
    scores = []
    for piece in np.array_split(np.arange(len(reference)), max(round(len(reference) / PIECE), 1)):
        a, b = reference[piece], degraded[piece]
        with contextlib.suppress(pesq.NoUtterancesError), np.errstate(invalid="ignore"):
            scores.append((pesq.pesq(FS, a, b, "nb"), pystoi.stoi(a, b, FS)))
    return tuple(np.mean(scores, axis=0).tolist()) if scores else (None, None)


def harmonic_sd(model, bands, A_hat):
    """SD of harmonics in dB², mean over the loud frames: amplitudes A_hat [n][161] against those of a model file.

    Raises FormatError when no frame is loud.
    """
    Wo, L, A, _, _ = codec2_model.read(model)
    loud = codec2_model.read_rate_K(bands, 14).mean(axis=1) > LOUD_DB
    if not loud.any():
        raise plumbing.FormatError(f"{bands}: no frame has a mean above {LOUD_DB} dB: the speech is silent")
    target, estimate = (codec2_model.to_bins(Wo[loud], L[loud], x[loud], WIDTH, CUTOFF_HZ) for x in (A, A_hat))
    estimate = np.nan_to_num(estimate)  # amplitudes of 0 count as 0 dB
    return float(codec2_model.sd_and_variance(target, estimate)[0].mean())


# ---------------------------------------------------------------- the versions


def run(folder, program, *options, heading=None):
    """Run a script or program in `folder`; under a heading its figures are added to figures.txt.

    When it fails, the demo ends with the last line that it has written to stderr.
    """
    command = [sys.executable, ROOT / program] if program.endswith(".py") else [program]
    env = {**os.environ, "MPLBACKEND": "Agg"}
    result = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, env=env)
    if result.returncode:
        sys.exit((result.stderr.strip().splitlines() or [f"{program}: exit status {result.returncode}"])[-1])
    if heading:
        shown = [os.path.relpath(option, ROOT) if isinstance(option, Path) else option for option in options]
        lines = [line for line in result.stdout.splitlines() if not re.match(r"\w+ \d+/\d+: |plot: ", line)]
        with open(folder / "figures.txt", "a", encoding="utf-8") as file:
            print(heading, " ".join([program, *shown]), *lines, sep="\n", end="\n\n", file=file)


def make_vectors(folder, name, bits, heading):
    """NAME.wav from K = 20 or K = 14 vectors, quantised when they have a bit rate; returns SD of harmonics in dB²."""
    plots = ("--plot_dir", "K14") if name == "K14_1100" else ("--noplots",)
    if bits:
        options = ("--nnin", NETWORKS / f"vq_{name}.keras", "--indexout", f"{name}.npy", "--testout", f"{name}.f32")
        run(folder, VQ, f"{name[:3]}.f32", *options, *plots, heading=f"{heading}: SD of vectors")
    if name.startswith("K14"):
        options = (NETWORKS / "bands_Wo.keras", f"{name}.f32", "speech.model", "--modelout", f"{name}.model")
        run(folder, "eband_out.py", *options, *plots, heading=f"{heading}: SD of harmonics, all frames")
        run(folder, "c2sim.py", "--modelin", f"{name}.model", *RECEIVER, "-o", f"{name}.wav")
        A_hat = codec2_model.read(folder / f"{name}.model")[2]
    else:
        options = ("--modelin", "speech.model", "--rateK", "--rateKin", f"{name}.f32")
        run(folder, "c2sim.py", *options, *RECEIVER, "-o", f"{name}.wav")
        Wo, L, *_ = codec2_model.read(folder / "speech.model")
        vectors = codec2_model.read_rate_K(folder / f"{name}.f32", codec2_model.NEWAMP1_K)
        A_hat = codec2_model.rate_K_to_L(vectors, Wo, L)
    return harmonic_sd(folder / "speech.model", folder / "K14.f32", A_hat)


def make_codec2(folder, mode):
    """codec2_MODE.wav by Codec 2's own encoder and decoder."""
    c2sim.read_speech(str(folder / "original.wav")).tofile(folder / "original.raw")
    run(folder, "c2enc", mode, "original.raw", "codec2.bit")
    run(folder, "c2dec", mode, "codec2.bit", "codec2.raw")
    write_wav(folder / f"codec2_{mode}.wav", np.fromfile(folder / "codec2.raw", "<i2"))


def make_versions(folder):
    """All versions of original.wav in `folder`; returns {name: SD of harmonics in dB²} of those that have one."""
    print("  harmonics, K = 14 band energies and K = 20 mel values", flush=True)
    run(folder, "c2sim.py", "original.wav", "--bands", "K14.f32", "--modelout", "speech.model")
    run(folder, "c2sim.py", "original.wav", "--rateK", "--rateKout", "K20.f32")
    run(folder, "c2sim.py", "--modelin", "speech.model", *RECEIVER, "-o", "harmonics.wav")
    sd = {}
    for name, what, bits, rate in VERSIONS[2:]:
        if not name.startswith("codec2"):
            print(f"  {what}, {rate}", flush=True)
            sd[name] = make_vectors(folder, name, bits, f"{what}, {rate}")
        elif shutil.which("c2enc") and shutil.which("c2dec"):
            print(f"  {what}", flush=True)
            make_codec2(folder, name.removeprefix("codec2_"))
    return sd


def make_film(folder, seconds):
    """Train a small quantiser on the band energies of the speech, and show how it learns."""
    print("  a short training on the same speech, as a film", flush=True)
    epochs = min(int(FILM_S / seconds), MAX_EPOCHS)
    options = ("--num_embedding", "64", "--epochs", str(epochs), "--nnout", "film.keras", "--plot_dir", "film")
    run(folder, VQ, "K14.f32", *options, heading="A short training on this speech: SD of vectors")


# ---------------------------------------------------------------- page


def make_page(folder, title, passages, sd):
    """Make index.html of the versions NAME.wav in `folder`, their delays taken out; returns what it tells of each.

    sd {name: SD of harmonics in dB²}; passages [(name, first second, last second)].
    """
    import matplotlib.image

    original = c2sim.read_speech(str(folder / "original.wav"))
    peak_dB = spectrogram(original, 256, 64, floor=1).max()
    versions = []
    for name, what, bits, rate in VERSIONS:
        if not (folder / f"{name}.wav").exists():
            continue
        speech, pesq, stoi = original, None, None
        if name != "original":
            speech = align(original, c2sim.read_speech(str(folder / f"{name}.wav")))
            write_wav(folder / f"{name}.wav", speech)
            pesq, stoi = objective_quality(original, speech)
        picture = spectrogram(np.pad(speech, 128), 256, 64, floor=1).T
        scale = {"vmin": peak_dB - RANGE_DB, "vmax": peak_dB, "cmap": "magma", "origin": "lower"}
        matplotlib.image.imsave(folder / f"{name}.png", picture, **scale)
        figures = {"bits": bits, "rate": rate, "sd": sd.get(name), "pesq": pesq, "stoi": stoi}
        versions.append({"file": name, "name": what, **figures})
    pictures = [
        {"file": name, "film": (folder / f"{name}.gif").exists(), "text": text}
        for name, text in PICTURES
        if (folder / f"{name}.png").exists()
    ]
    data = {"title": title, "seconds": len(original) / FS, "passages": passages}
    blob = json.dumps({**data, "versions": versions, "pictures": pictures}).replace("<", "\\u003c")
    page = (ROOT / "doc" / "listen.html").read_text(encoding="utf-8").replace("{}", blob, 1)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return versions


# ---------------------------------------------------------------- main


def print_versions(versions):
    """One line per version: what it is, bit/s of the amplitudes, SD of harmonics, PESQ, and its file."""
    print(f"\n{'':26}{'bit/s':>6}{'SD dB²':>8}{'PESQ':>6}  file")
    for version in versions[1:]:
        what = version["name"] if version["bits"] else f"{version['name']}, not quantised"
        sd, pesq = ("–" if value is None else f"{value:.2f}" for value in (version["sd"], version["pesq"]))
        print(f"{what:26}{version['bits'] or '–':>6}{sd:>8}{pesq:>6}  {FOLDER.name}/{version['file']}.wav")


def main(speech_name):
    speech, title, passages = choose_speech(speech_name)
    print(f"{title}: {len(speech) / FS:.0f} s", flush=True)
    # c2sim.py leaves out frames of zeros, and all versions have to be as long as the original: replace zeros by ±1
    speech = np.where(speech == 0, np.random.default_rng(1).choice([-1, 1], len(speech)), speech)
    with plumbing.temporary_folder(prefix=".demo_", dir=FOLDER.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        write_wav(folder / "original.wav", speech)
        sd = make_versions(folder)
        make_film(folder, len(speech) / FS)
        print("  the page", flush=True)
        versions = make_page(folder, title, passages, sd)
        if FOLDER.exists():
            FOLDER.rename(Path(temporary) / "old")
        folder.rename(FOLDER)
    print_versions(versions)
    print(f"\nTo listen and compare, open {FOLDER.name}/index.html")


if __name__ == "__main__":
    plumbing.plain_errors()
    main(os.environ.get("SPEECH", ""))
