"""Test speech, its speakers and conditions; figures with intervals; results that are kept in files.

The test speech is ../shared/data/heldout where that is: 38 speakers on whom nothing was trained,
tuned or chosen.  Elsewhere it is the nine public recordings of it, of Debian's codec2-examples.

Intervals are of the bootstrap over speakers: speakers are drawn with replacement, as many as there
are, and 95 % of the means so found lie in the interval.  Frames of one speaker are much alike, so
that an interval over frames would be far too narrow.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB², delays in ms.
"""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import butter, sosfiltfilt

from common import plumbing, spectra

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EXAMPLES = Path("/usr/share/codec2")  # Debian's codec2-examples
PUBLIC = ("hts1a", "hts2a", "forig", "morig", "mmt1", "big_dog", "kristoff", "cq_ref", "vk5qi")
FS = spectra.FS_HZ
FRAME = round(FS * spectra.FRAME_S)  # samples
PIECE = 8 * FS  # samples; PESQ is made for 8 s of speech
DRAWS = 2000  # of the bootstrap
WINDOW = 64  # samples that must be equal for a recording to be in another one
PEAK_TO_PEAK = 100  # windows with less are silence, which may be equal by chance


class Speech(NamedTuple):
    """Test speech, one speaker after the other."""

    words: str  # what it is, for the line above a table
    samples: np.ndarray  # int16 [n]
    names: list  # of the speakers
    starts: np.ndarray  # first sample of each, whole frames


# ---------------------------------------------------------------- test speech


def read_any(filename):
    """Speech int16 [n] of a sound file or a raw one."""
    if Path(filename).suffix in (".raw", ".sw"):
        return np.fromfile(filename, "<i2")
    return soundfile.read(filename, dtype="int16")[0]


def heldout():
    """The held-out speech beside this project."""
    folder = SHARED / "heldout"
    with open(folder / "heldout.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    samples = read_any(folder / "heldout.flac")
    names = [row["speaker"] for row in rows]
    starts = np.array([int(row["first_sample"]) for row in rows])
    words = f"held-out speech, {len(names)} speakers, {len(samples) / FS / 60:.1f} minutes"
    return Speech(words, samples, names, starts)


def public():
    """The public recordings of the held-out speech."""
    parts = []
    for name in PUBLIC:
        samples = read_any(next(EXAMPLES.glob(f"*/{name}.*")))
        parts.append(samples[: len(samples) // FRAME * FRAME])
    starts = np.cumsum([0, *map(len, parts[:-1])])
    samples = np.concatenate(parts)
    words = f"{len(parts)} public recordings of codec2-examples, {len(samples) / FS:.0f} s"
    return Speech(words, samples, list(PUBLIC), starts)


def some_speakers(speech, every):
    """Every so many of the speakers, for what takes long."""
    numbers = range(0, len(speech.names), every)
    ends = [*speech.starts[1:], len(speech.samples)]
    parts = [speech.samples[speech.starts[i] : ends[i]] for i in numbers]
    samples = np.concatenate(parts)
    words = (
        f"{len(parts)} of the {len(speech.names)} speakers, {len(samples) / FS / 60:.1f} minutes"
    )
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return Speech(words, samples, [speech.names[i] for i in numbers], starts)


def speakers_of(speech, samples):
    """Number [n] of the speaker at each of these samples [n]."""
    return np.searchsorted(speech.starts, samples, side="right") - 1


def speakers_of_frames(speech, n):
    """Number [n] of the speaker of each of n frames."""
    return speakers_of(speech, np.arange(n) * FRAME)


def speakers_of_pieces(speech):
    """Number of the speaker in the middle of each piece of 8 s; an incomplete last one is left out.

    Starts 0 and 80000, 25 s: pieces 0 to 8, 8 to 16 and 16 to 24 s belong to speakers 0, 1, 1.
    """
    middles = np.arange(len(speech.samples) // PIECE) * PIECE + PIECE // 2
    return speakers_of(speech, middles)


def degrade(samples, condition):
    """Speech int16 [n] as a radio, a telephone or a quiet microphone would give it."""
    x = np.float64(samples)
    if condition == "telephone band, 300 to 3400 Hz":
        x = sosfiltfilt(butter(4, [300, 3400], "bandpass", fs=FS, output="sos"), x)
    elif condition == "white noise, 20 dB below the speech":
        rms = np.sqrt(np.mean(x**2))
        x += np.random.default_rng(1).normal(0, rms / 10, len(x))
    elif condition == "20 dB quieter":
        x /= 10
    elif condition == "6 dB louder, clipped where it must":
        x *= 2
    elif condition:
        raise ValueError(condition)
    return np.int16(np.clip(np.rint(x), -32768, 32767))


# ---------------------------------------------------------------- overlap with training speech


WEIGHTS = np.random.default_rng(1).integers(1, 2**63, WINDOW, dtype=np.uint64)


def hash_windows(windows):
    """A number for each of windows int16 [n][64]: uint64 [n].  Sums wrap around, as they may.

    Equal windows have equal numbers; others only by a chance of 2^−64.
    """
    return np.int64(windows).view(np.uint64) @ WEIGHTS


def hash_everywhere(samples, block=2**16):
    """Numbers of the windows that begin at each sample."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)
    blocks = [windows[i : i + block] for i in range(0, len(windows), block)]
    return np.concatenate([hash_windows(part) for part in blocks])


def find_overlaps(speech, train):
    """What of the test speech is in the training speech, sample for sample: [(speaker, name, s)].

    train are pairs (name, samples int16 [n]).  Any 128 samples that both have are found, where they
    are not silent; s is the first second in the training speech.
    """
    everywhere = hash_everywhere(speech.samples)
    known = np.sort(everywhere)
    found = []
    for name, samples in train:
        windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
        numbers = hash_windows(windows)
        place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        is_speech = np.ptp(np.int32(windows), axis=1) >= PEAK_TO_PEAK
        same = np.flatnonzero(is_speech & (known[place] == numbers))
        if len(same):
            sample = np.flatnonzero(everywhere == numbers[same[0]])[0]
            speaker = speech.names[int(speakers_of(speech, sample))]
            found.append((speaker, name, float(same[0] * WINDOW / FS)))
    return found


def training_speech():
    """Yield (name, samples int16 [n]) of all training speech that is on this machine."""
    files = [SHARED / "speech" / "train_8k.sw", *sorted(SHARED.glob("speech_large/*.flac"))]
    for file in filter(Path.exists, files):
        yield file.name, read_any(file)


# ---------------------------------------------------------------- figures


def bootstrap(values, speakers):
    """Means float64 [draws] of values [n] of speakers [n], who are drawn with replacement."""
    count = np.bincount(speakers)
    total = np.bincount(speakers, np.float64(values))
    there = np.flatnonzero(count)
    rng = np.random.default_rng(1)
    draws = there[rng.integers(0, len(there), (DRAWS, len(there)))]
    return total[draws].sum(axis=1) / count[draws].sum(axis=1)


def interval(values, speakers):
    """95 % interval of the mean of values [n] of speakers [n].

    Two speakers with the values 1, 1 and 3, 3: the means 1, 2 and 3 are drawn with probabilities of
    1/4, 1/2 and 1/4, so that the interval is 1 to 3.
    """
    low, high = np.percentile(bootstrap(values, speakers), [2.5, 97.5])
    return float(low), float(high)


class Figures(NamedTuple):
    """Of estimates of vectors, in dB and dB²."""

    sd: np.ndarray  # [u] of the frames that count, dB²
    variance: float  # dB², without each frame's mean error
    rms: float  # dB, mean over the frames of the root of sd
    above_2: float  # share of the frames with more than 2 dB
    above_4: float
    sd_all: float  # dB², of all frames


def measure(x, x_hat, counted):
    """Figures of x_hat [n][K] for x [n][K]; counted [n] frames.

    Errors 3 and 3 dB in one frame, 1 and 0 in another: SD 9 and 0.5, variance (0 + 0.25) / 2, rms
    (3 + 0.71) / 2, half of the frames above 2 dB, none above 4.
    """
    error = np.float64(x) - x_hat
    sd = np.mean(error**2, axis=1)
    rms = np.sqrt(sd[counted])
    return Figures(
        sd=sd[counted],
        variance=float(np.var(error[counted], axis=1).mean()),
        rms=float(rms.mean()),
        above_2=float(np.mean(rms > 2)),
        above_4=float(np.mean(rms > 4)),
        sd_all=float(sd.mean()),
    )


def interpolate(sent, numbers, n):
    """Vectors [n][K] on straight lines between those sent [v][K], which are frames number [v].

    The first and the last one are repeated outwards.
    """
    return np.stack([np.interp(np.arange(n), numbers, values) for values in sent.T], axis=1)


def straight_lines(x, dec):
    """Every dec-th of the vectors x [n][K], and straight lines between: what interpolation costs.

    [[0], [1], [5], [2], [4]] with dec 2: 0 2.5 5 4.5 4.
    """
    return interpolate(x[::dec], np.arange(0, len(x), dec), len(x))


def flip_bits(indices, bits, rate, seed=1):
    """Indices [v][stages] after a channel that flips every bit with probability `rate`."""
    wrong = np.random.default_rng(seed).random((*indices.shape, bits)) < rate
    return indices ^ (wrong << np.arange(bits)).sum(axis=2).astype(indices.dtype)


def lose_vectors(indices, rate, seed=1):
    """Indices [v][stages] with −1 in all stages of a vector with probability `rate`."""
    lost = np.random.default_rng(seed).random(len(indices)) < rate
    return np.where(lost[:, None], -1, indices)


# ---------------------------------------------------------------- results that are kept


def key(*parts):
    """Eight digits that change when one of the parts does: text, or the content of a file."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
    return digest.hexdigest()[:8]


def kept(filename, make):
    """{name: array} of an .npz file, made by make() when it is not there."""
    if not filename.exists():
        with plumbing.replacing(filename) as new:
            np.savez(new, **make())
    with np.load(filename) as arrays:
        return dict(arrays)


# ---------------------------------------------------------------- Markdown


def cell(value):
    """A cell of a table: two digits, a dash for None, "low to high" for a pair."""
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return f"{cell(value[0])} to {cell(value[1])}"
    return f"{value:.2f}".replace("-", "−") if isinstance(value, float) else str(value)


def table(head, *rows):
    """Markdown of rows of cells."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_page(page, name, text):
    """Put text into a Markdown page, between the mark of this name and the next end mark."""
    mark, end = f"<!-- {name} -->\n", "<!-- end -->\n"
    before, found, after = page.read_text(encoding="utf-8").partition(mark)
    if not found or end not in after:
        why = f"expected a line {mark.strip()} and after it a line {end.strip()}"
        raise plumbing.FormatError(f"{page}: {why}")
    text = before + mark + text + end + after.partition(end)[2]
    with plumbing.replacing(page) as new:
        Path(new).write_text(text, encoding="utf-8")
