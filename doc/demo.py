#!/usr/bin/env python3
"""Take speech through the codec and its parts, and make a page to listen on: demo/index.html.

Usage:
    make demo                     # public speech of Debian's codec2-examples, or the bundled sample
    make demo SPEECH=my.flac      # the first minute of your own speech
    doc/demo.py my.flac           # the same, in an environment that has the packages

Whole codecs stand first, ordered by all that they send: vq_codec.py at 700 and 1300 bit/s, and
Codec 2's own modes where c2enc and c2dec are installed.  Below them stands what each step costs:
speech from vectors that are quantised or not, with pitch and voicing as they were analysed.  A
short training on the same speech shows how a quantiser learns.

The folder demo/ is replaced when everything is done, and not touched before.

Units: speech int16 at 8 kHz, SD of harmonics in dB², bit rates in bit/s.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import codec2_model
from common import plumbing, sound, spectra

NETWORKS = ROOT / "networks"
FOLDER = ROOT / "demo"
EXAMPLES = Path("/usr/share/codec2/raw")  # Debian's codec2-examples
CLIPS = ("hts1a", "hts2a", "mmt1", "big_dog", "kristoff", "forig", "morig")  # not trained on
SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
FS = spectra.FS_HZ
MAX_S = 60  # of the user's own speech; more would not help to compare
MIN_S = 2  # a codec with a delay of half a second needs some speech
PASSAGE_S = 6  # about the length of the passages that one's own speech is cut into
RECEIVER = ("--phase0", "--postfilter")  # a receiver does not know the phases
WIDTH, CUTOFF_HZ = 128, 3600  # bins for the SD of harmonics, and up to where, as in eband_train.py
LOUD_DB = 10  # frames with a larger mean band energy count in the SD
FILM_S = 2000  # seconds of speech that pass through the short training, all epochs together
MAX_EPOCHS = 100  # of the short training
MAX_DELAY_MS = 600  # that align() looks for
DELAY_FROM_S = 60  # seconds of speech that the delay is measured on
PIECE = 8 * FS  # samples; PESQ is made for 8 s of speech
RANGE_DB = 70  # colour scale of the spectrograms, from the peak of the original down
COLOURS = "magma"


class Version(NamedTuple):
    """A version of the speech: NAME.wav, and NAME.bit where bits are sent."""

    name: str
    title: str
    rate: str  # in words
    bits: int | None = None  # bit/s, of all that is sent; of the amplitudes in the second part
    is_step: bool = False  # in the second part of the page


VERSIONS = (  # in the order of the page
    Version("original", "Original", "16 bit, 8 kHz: 128,000 bit/s"),
    Version("vq_codec_700", "vq_codec.py 700", "700 bit/s", 700),
    Version("codec2_700C", "Codec 2 700C", "700 bit/s", 700),
    Version("vq_codec_1300", "vq_codec.py 1300", "1300 bit/s", 1300),
    Version("codec2_1300", "Codec 2 1300", "1300 bit/s", 1300),
    Version("codec2_2400", "Codec 2 2400", "2400 bit/s", 2400),
    Version("codec2_3200", "Codec 2 3200", "3200 bit/s", 3200),
    Version("harmonics", "Harmonics", "not quantised", None, True),
    Version("K20", "K = 20", "not quantised", None, True),
    Version("K20_1100", "K = 20", "1100 bit/s", 1100, True),
    Version("K20_550", "K = 20", "550 bit/s", 550, True),
    Version("K14", "K = 14", "not quantised", None, True),
    Version("K14_1100", "K = 14", "1100 bit/s", 1100, True),
)
PICTURES = (  # file without its ending, caption; a GIF is shown with the PNG of its last picture
    (
        "film/vq_vae_ratek_conv1d_training",
        "A quantiser of two stages of 64 codewords learns, on this speech only.",
    ),
    (
        "film/vq_vae_ratek_conv1d_sd",
        "What it has reached: spectral distortion, and how it goes over the frames.",
    ),
    ("K14/vq_out_frames_1", "Band energies (K = 14) before and after 1100 bit/s."),
    (
        "K14/eband_out_frames_1",
        "Harmonics that a network makes of the band energies after 1100 bit/s.",
    ),
    ("K14/eband_out_sd", "SD of these harmonics, beside interpolation of the same band energies."),
)


class Failed(Exception):
    """A script or program that ended with an error: its last line on stderr."""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Make a page to listen on, demo/index.html: speech through the codec.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    speech_help = "speech to take (default: the variable SPEECH, or else public speech)"
    parser.add_argument(
        "speech", nargs="?", metavar="FILE", default=os.environ.get("SPEECH", ""), help=speech_help
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------- speech


def choose_speech(name):
    """Speech int16 [n], what it is in words, and its passages [(name, first second, last second)].

    `name` is the file that the user asks for, or empty.  Raises FormatError or OSError.
    """
    files = [EXAMPLES / f"{clip}.raw" for clip in CLIPS]
    if not name and all(map(Path.exists, files)):
        parts = [sound.read_speech(str(file)) for file in files]
        seconds = np.cumsum([0, *map(len, parts)]) / FS
        passages = list(zip(CLIPS, seconds[:-1], seconds[1:], strict=True))
        title = f"{len(CLIPS)} recordings of Debian's codec2-examples"
        return np.concatenate(parts), title, passages
    speech = sound.read_speech(name or str(SAMPLE))[: MAX_S * FS]
    length = len(speech) / FS
    if length < MIN_S:
        raise plumbing.FormatError(f"{name}: {length:.1f} s of speech, expected {MIN_S} s or more")
    seconds = np.linspace(0, length, max(round(length / PASSAGE_S), 1) + 1)
    passages = [(f"{a:.0f}–{b:.0f} s", a, b) for a, b in pairwise(seconds)]
    title = os.fsencode(os.path.basename(name)).decode(errors="replace")
    return speech, title or "the bundled synthetic sample", passages


def write_wav(filename, speech):
    soundfile.write(filename, np.asarray(speech, np.int16), FS)


def read_wav(filename):
    """Speech int16 [n] of a wav file that a script here has written."""
    return soundfile.read(filename, dtype="int16")[0]


# ---------------------------------------------------------------- quality


def spectrogram(x, window, hop, floor):
    """Power spectra in dB [frames][window / 2 + 1] of x [n], every `hop` samples.

    `floor` is added to the power.
    """
    frames = np.lib.stride_tricks.sliding_window_view(np.float32(x), window)[::hop]
    weighted = frames * np.hanning(window).astype(np.float32)
    return 10 * np.log10(np.abs(np.fft.rfft(weighted)) ** 2 + floor)


def delay(reference, degraded):
    """Samples by which `degraded` lags `reference`, 0 to 600 ms in steps of 1 ms.

    It is where their log spectra over time correlate best; modelled phases would mislead a
    correlation of samples.
    """
    n = DELAY_FROM_S * FS
    # the floor hides the noise in pauses
    a, b = (spectrogram(x[:n], 200, FS // 1000, floor=1e5) for x in (reference, degraded))
    n = min(len(a), len(b))
    lags = np.arange(min(MAX_DELAY_MS + 1, n))
    size = n + len(lags)
    a, b = (np.fft.rfft(x[:n] - x[:n].mean(axis=0), size, axis=0) for x in (a, b))
    product = np.fft.irfft((np.conj(a) * b).sum(axis=1), size)[: len(lags)]
    return FS // 1000 * int(np.argmax(product / (n - lags)))


def align(reference, degraded):
    """`degraded` without its delay, as long as `reference`."""
    degraded = degraded[delay(reference, degraded) :][: len(reference)]
    return np.pad(degraded, (0, len(reference) - len(degraded)))


def can_score():
    """True where PESQ and STOI are installed."""
    return all(map(importlib.util.find_spec, ("pesq", "pystoi")))


def piece_quality(reference, degraded):
    """PESQ (narrow band, MOS) and STOI of a piece of speech int16 [n]; None if it has no speech."""
    import pesq
    import pystoi

    try:
        with np.errstate(invalid="ignore"):
            pesq_mos = pesq.pesq(FS, reference, degraded, "nb")
            return pesq_mos, float(pystoi.stoi(reference, degraded, FS))
    except pesq.NoUtterancesError:
        return None


def objective_quality(reference, degraded):
    """PESQ and STOI of speech int16 [n], means over pieces of about 8 s; None where not installed.

    The delay is taken out.  Pieces without speech do not count.
    """
    if not can_score():
        return None, None
    degraded = align(reference, degraded)
    pieces = np.array_split(np.arange(len(reference)), max(round(len(reference) / PIECE), 1))
    scores = [piece_quality(reference[piece], degraded[piece]) for piece in pieces]
    scores = [score for score in scores if score is not None]
    return tuple(np.mean(scores, axis=0).tolist()) if scores else (None, None)


def harmonic_sd(model, bands, A_hat):
    """SD of harmonics in dB², mean over the loud frames: A_hat [n][161] against a model file.

    None when no frame is loud.
    """
    Wo, L, A, _, _ = codec2_model.read(model)
    loud = spectra.is_counted(codec2_model.read_rate_K(bands, 14), LOUD_DB)
    if not loud.any():
        return None
    target, estimate = (
        spectra.to_bins(Wo[loud], L[loud], x[loud], WIDTH, CUTOFF_HZ) for x in (A, A_hat)
    )
    estimate = np.nan_to_num(estimate)  # amplitudes of 0 count as 0 dB
    return float(spectra.measure(target, estimate).sd.mean())


# ---------------------------------------------------------------- the versions


def run(folder, program, *options, heading=None):
    """Run a script or program in `folder`; under a heading its figures are added to figures.txt.

    Failed with the last line of its stderr when it fails.
    """
    is_script = program.endswith(".py")
    command = [sys.executable, ROOT / program] if is_script else [program]
    env = {**os.environ, "MPLBACKEND": "Agg"}
    result = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, env=env
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        raise Failed(lines[-1] if lines else f"{program}: exit status {result.returncode}")
    if heading:
        command = " ".join([program, *(os.path.basename(option) for option in options)])
        lines = [
            line
            for line in result.stdout.splitlines()
            if not re.match(r"\w+ \d+/\d+: |plot: ", line)
        ]
        with open(folder / "figures.txt", "a", encoding="utf-8") as file:
            print(heading, command, *lines, sep="\n", end="\n\n", file=file)
    return result.stdout


def make_vectors(folder, version):
    """NAME.wav from K = 20 or K = 14 vectors, quantised when they have a bit rate.

    Returns the SD of harmonics in dB².
    """
    name = version.name
    heading = f"{version.title}, {version.rate}"
    plots = ("--plot_dir", "K14") if name == "K14_1100" else ("--noplots",)
    if version.bits:
        network, features = NETWORKS / f"vq_{name}.keras", f"{name[:3]}.f32"
        options = ("--indexout", f"{name}.npy", "--testout", f"{name}.f32")
        run(folder, "vq_out.py", network, features, *options, *plots, heading=heading)
    if name.startswith("K14"):
        network = NETWORKS / "bands_Wo.keras"
        options = (f"{name}.f32", "speech.model", "--modelout", f"{name}.model")
        run(folder, "eband_out.py", network, *options, *plots, heading=heading)
        run(folder, "c2sim.py", "--modelin", f"{name}.model", *RECEIVER, "-o", f"{name}.wav")
        A_hat = codec2_model.read(folder / f"{name}.model")[2]
    else:
        options = ("--modelin", "speech.model", "--rateK", "--rateKin", f"{name}.f32")
        run(folder, "c2sim.py", *options, *RECEIVER, "-o", f"{name}.wav")
        Wo, L, *_ = codec2_model.read(folder / "speech.model")
        A_hat = spectra.rate_K_to_L(codec2_model.read_rate_K(folder / f"{name}.f32", 20), Wo, L)
    return harmonic_sd(folder / "speech.model", folder / "K14.f32", A_hat)


def make_codec2(folder, name):
    """codec2_MODE.wav and .bit by Codec 2's own encoder and decoder."""
    mode = name.removeprefix("codec2_")
    read_wav(folder / "original.wav").tofile(folder / "original.raw")
    run(folder, "c2enc", mode, "original.raw", f"{name}.bit")
    run(folder, "c2dec", mode, f"{name}.bit", "codec2.raw")
    write_wav(folder / f"{name}.wav", np.fromfile(folder / "codec2.raw", "<i2"))


def make_vq_codec(folder, name):
    """vq_codec_RATE.wav and .bit by vq_codec.py."""
    rate = name.removeprefix("vq_codec_")
    run(folder, "vq_codec.py", "enc", rate, "original.wav", f"{name}.bit", heading=name)
    run(folder, "vq_codec.py", "dec", f"{name}.bit", f"{name}.wav")


def make_versions(folder):
    """All versions of original.wav in `folder`; returns {name: SD of harmonics in dB²}."""
    print("  harmonics, K = 14 band energies and K = 20 mel values", flush=True)
    run(folder, "c2sim.py", "original.wav", "--bands", "K14.f32", "--modelout", "speech.model")
    run(folder, "c2sim.py", "original.wav", "--rateK", "--rateKout", "K20.f32")
    run(folder, "c2sim.py", "--modelin", "speech.model", *RECEIVER, "-o", "harmonics.wav")
    sd = {}
    for version in VERSIONS:
        name = version.name
        if name in ("original", "harmonics"):
            continue
        is_codec2 = name.startswith("codec2_")
        if is_codec2 and not (shutil.which("c2enc") and shutil.which("c2dec")):
            continue
        print(f"  {version.title}, {version.rate}", flush=True)
        if is_codec2:
            make_codec2(folder, name)
        elif name.startswith("vq_codec_"):
            make_vq_codec(folder, name)
        else:
            sd[name] = make_vectors(folder, version)
    return sd


def make_film(folder, seconds):
    """Train a small quantiser on the band energies of the speech, and show how it learns.

    The page does without, if the speech is too short or otherwise not what a training needs.
    """
    print("  a short training on the same speech, as a film", flush=True)
    epochs = max(min(int(FILM_S / seconds), MAX_EPOCHS), 1)
    options = ("--num_embedding", "64", "--epochs", str(epochs), "--nnout", "film.keras")
    try:
        run(
            folder,
            "vq_vae_ratek_conv1d.py",
            "K14.f32",
            *options,
            "--plot_dir",
            "film",
            heading="A short training on this speech",
        )
    except Failed as error:
        print(f"  there is no film: {error}", flush=True)


# ---------------------------------------------------------------- page


def missing_in_words():
    """What is not on the page, and how to get it; empty when nothing is missing."""
    words = []
    if not can_score():
        why = "PESQ and STOI are not installed: .venv/bin/pip install pesq pystoi"
        words.append(f"{why} (pesq needs a C compiler: apt-get install gcc python3-dev).")
    if not (shutil.which("c2enc") and shutil.which("c2dec")):
        words.append("Codec 2 is not installed: apt-get install codec2.")
    return " ".join(words)


def make_picture(filename, speech, peak_dB):
    """Spectrogram PNG of speech int16 [n], 0 to 4 kHz, from peak_dB − RANGE_DB to peak_dB."""
    import matplotlib.image

    picture = spectrogram(np.pad(speech, 128), 256, 64, floor=1).T
    scale = {"vmin": peak_dB - RANGE_DB, "vmax": peak_dB, "cmap": COLOURS, "origin": "lower"}
    matplotlib.image.imsave(filename, picture, **scale)


def make_page(folder, title, passages, sd):
    """Make index.html of the versions NAME.wav in `folder`, their delays taken out.

    sd {name: SD of harmonics in dB²}; passages [(name, first second, last second)].  Returns what
    the page tells of each version.
    """
    import matplotlib

    original = read_wav(folder / "original.wav")
    peak_dB = spectrogram(original, 256, 64, floor=1).max()
    versions = []
    for version in VERSIONS:
        name = version.name
        if not (folder / f"{name}.wav").exists():
            continue
        speech, pesq, stoi = original, None, None
        if name != "original":
            speech = align(original, read_wav(folder / f"{name}.wav"))
            write_wav(folder / f"{name}.wav", speech)
            pesq, stoi = objective_quality(original, speech)
        make_picture(folder / f"{name}.png", speech, peak_dB)
        bits = folder / f"{name}.bit"
        size = 2 * len(original) if name == "original" else None
        versions.append(
            {
                "file": name,
                "name": version.title,
                "rate": version.rate,
                "bits": version.bits,
                "step": version.is_step,
                "bytes": bits.stat().st_size if bits.exists() else size,
                "sd": sd.get(name),
                "pesq": pesq,
                "stoi": stoi,
            }
        )
    pictures = [
        {"file": name, "film": (folder / f"{name}.gif").exists(), "text": text}
        for name, text in PICTURES
        if (folder / f"{name}.png").exists()
    ]
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 9))
    data = {
        "title": title,
        "seconds": len(original) / FS,
        "passages": passages,
        "versions": versions,
        "pictures": pictures,
        "colours": [matplotlib.colors.to_hex(colour) for colour in colours],
        "range_dB": RANGE_DB,
        "missing": missing_in_words(),
    }
    blob = json.dumps(data).replace("<", "\\u003c")
    page = (ROOT / "doc" / "listen.html").read_text(encoding="utf-8")
    page = page.replace("{}", blob, 1)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return versions


# ---------------------------------------------------------------- main


def print_versions(versions):
    """One line per version: what it is, bit/s, size of its bits, SD of harmonics, PESQ, its file.

    The second part begins with a heading of its own.
    """
    head = f"{'bit/s':>6}{'bytes':>8}{'SD dB²':>8}{'PESQ':>6}  file"
    print(f"\n{'all that is sent':24}{head}")
    was_step = False
    for version in versions[1:]:
        if version["step"] and not was_step:
            print(f"\n{'amplitudes only':24}{head}")
            was_step = True
        cells = [version["bits"] or "–", version["bytes"] or "–"]
        cells += ["–" if version[key] is None else f"{version[key]:.2f}" for key in ("sd", "pesq")]
        title = version["name"]
        if not version["bits"]:
            title += ", not quantised"
        row = f"{title:24}{cells[0]:>6}{cells[1]:>8}{cells[2]:>8}{cells[3]:>6}"
        print(f"{row}  {FOLDER.name}/{version['file']}.wav")


@contextlib.contextmanager
def temporary_folder():
    """A new folder beside demo/, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix=".demo_", dir=FOLDER.parent) as name:
        yield Path(name)


def main(args):
    speech, title, passages = choose_speech(args.speech)
    print(f"{title}: {len(speech) / FS:.0f} s", flush=True)
    with temporary_folder() as temporary:
        folder = temporary / "new"
        folder.mkdir()
        write_wav(folder / "original.wav", speech)
        try:
            sd = make_versions(folder)
        except Failed as error:
            sys.exit(str(error))
        make_film(folder, len(speech) / FS)
        print("  the page", flush=True)
        versions = make_page(folder, title, passages, sd)
        if FOLDER.exists():
            FOLDER.rename(temporary / "old")
        folder.rename(FOLDER)
    print_versions(versions)
    if missing_in_words():
        print(f"\n{missing_in_words()}")
    print(f"\nTo listen and compare, open {FOLDER.name}/index.html")


if __name__ == "__main__":
    plumbing.start()
    main(parse_args())
