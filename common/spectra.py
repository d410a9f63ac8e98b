"""Spectra as rate K vectors, L harmonics and bins; SD and variance; random responses.

A rate K vector has a fixed number of values per frame, in dB.  A frame's L harmonics have linear
amplitudes A [161]; index m is harmonic m, entry 0 and entries above L carry no meaning.  `width`
bins span 0 to half the sample rate; a frame has a target only in the bins of its harmonics, the
others are NaN.
"""

import sys
from typing import NamedTuple

import numpy as np

from common.plumbing import FormatError

FS_HZ = 8000
FRAME_S = 0.01  # one model record; 0.04 in the files of c2enc 700C
MAX_AMP = 160  # most harmonics in a record
HARMONICS = np.arange(MAX_AMP + 1)  # columns of A
FLOOR_DB = -20  # lowest value that is coded: the rounding noise of 16 bit samples
ACTIVE_DB = 16  # active frames are less than this below the active level, as in ITU-T P.56
NORMAL_DB = 64  # usual active level of speech, dB re 1 LSB rms: 26 dB below full scale
# speech with a lower active level gets a warning, as weak speech then falls below --lower.  67 dB
# speech made 55 dB has 8 % (K = 14) and 38 % (K = 20) more SD over the frames that counted before
QUIET_DB = 55
TYPICAL_F0_HZ = 200  # assumed for levels of K = 20 vectors: within 4 dB of those of the bands
TWO_PI = 6.283185307  # as Codec 2 has it

BAND_HZ = [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000]
BAND_16K_HZ = [*BAND_HZ[:13], 4000, 4800, 5600, 6800, 8000]


def mel(hz):
    """Frequency in mel, rounded to whole ones as in Codec 2: mel(200) = 283, mel(3700) = 2072."""
    return np.floor(2595 * np.log10(1 + np.asarray(hz) / 700) + 0.5)


def mel_grid(low_hz, high_hz, K):
    """K frequencies in Hz, equally spaced in mel."""
    return 700 * (10 ** (np.linspace(mel(low_hz), mel(high_hz), K) / 2595) - 1)


class Kind(NamedTuple):
    """A kind of rate K vectors."""

    name: str
    hz: np.ndarray  # [K], centres of bands, or where the spectrum is sampled
    is_energy: bool  # values are 10·log10 of band energies, not 20·log10 of amplitudes
    range_db: float = np.inf  # the analysis clips a frame's values this far below its largest


# the kinds of vectors by K and sample rate in Hz; a kind of your own is a row here and a function
# in c2sim.py
KINDS = {
    (14, 8000): Kind("bands", np.array(BAND_HZ), is_energy=True),
    (18, 16000): Kind("bands at 16 kHz", np.array(BAND_16K_HZ), is_energy=True),
    (20, 8000): Kind("newamp1", mel_grid(200, 3700, 20), is_energy=False, range_db=50),
}
NEWAMP1_HZ = KINDS[20, 8000].hz


def kinds_in_words():
    """The kinds of vectors that KINDS knows, for a message: "14 (bands, 8000 Hz), …"."""
    return ", ".join(f"{K} ({kind.name}, {Fs} Hz)" for (K, Fs), kind in KINDS.items())


def unknown_kind(K, Fs):
    """A message for a kind of vectors that KINDS does not have, which says what to do."""
    known = f"known are {kinds_in_words()}"
    part = "--eband_start uses a part of the bands: --eband_K 14 --eband_start 1"
    return f"no known vectors have {K} values at {Fs:g} Hz: {known}; {part}"


# ---------------------------------------------------------------- frames


def is_counted(x, lower):
    """True [n] for the frames x [n][K] whose mean level in dB is above `lower`."""
    return np.float64(x.mean(axis=1)) > lower


def pieces(n_frames, most):
    """Numbers of at most `most` ≥ 256 of n_frames frames, in pieces of 256 from all over them."""
    if n_frames <= most:
        return np.arange(n_frames)
    starts = np.linspace(0, n_frames - 256, max(most // 256, 1)).astype(int)
    return (starts[:, None] + np.arange(256)).ravel()


def harmonic_mask(L):
    """True where column m of [n][161] is a harmonic of its frame: m = 1…L[n]."""
    return (HARMONICS >= 1) & (np.asarray(L)[:, None] >= HARMONICS)


# ---------------------------------------------------------------- levels


def frame_levels(vectors, Fs=FS_HZ):
    """Levels [n] in dB re 1 LSB rms of the frames with the vectors [n][K].

    A sine of peak a has A = a/2, thus the power a²/2 = 2 A².  Those of vectors that sample the
    spectrum are estimates, as if all frames were of TYPICAL_F0_HZ.
    """
    kind = KINDS[vectors.shape[1], Fs]
    power = 10 ** (np.float64(vectors) / 10)
    if kind.is_energy:
        power[:, [0, -1]] /= 2  # the outer bands are doubled
        return 10 * np.log10(2 * power.sum(axis=1))
    return 10 * np.log10(2 * np.trapezoid(power, kind.hz) / TYPICAL_F0_HZ)


def active_level(levels):
    """Mean power in dB of the active frames among those with these levels [n] in dB.

    Also returns True [n] where a frame is active: less than ACTIVE_DB below that mean.
    Half of the frames 60 dB, the others 20 dB: (60, [True …, False …]).
    """
    level, active = -np.inf, np.full(len(levels), True)
    while True:
        mean = 10 * np.log10(np.mean(10 ** (levels[active] / 10)))
        if mean <= level:  # it only rises, as ever fewer frames are active
            return level, active
        level, active = mean, levels > mean - ACTIVE_DB


def print_level(name, levels, file=None):
    """Print length and active level of speech with these levels [n]; warn when it is quiet."""
    level, active = active_level(levels)
    seconds, share = len(levels) * FRAME_S, 100 * active.mean()
    text = f"{level:.1f} dB re 1 LSB rms in {share:.0f} % of the frames"
    print(f"{name}: {seconds:.2f} s, active level {text}", file=file)
    if level < 0:
        print(f"{name}: warning: silence", file=sys.stderr)
    elif level < QUIET_DB:
        text = f"quiet speech: amplify it by {NORMAL_DB - level:.0f} dB, or fewer frames count"
        print(f"{name}: warning: {text}", file=sys.stderr)


def shape_statistics(vectors):
    """Mean and standard deviation, float32 [2][K], of the shapes of vectors [n][K] in dB.

    A shape is a vector without its mean.  A network keeps those of the vectors that it was trained
    on.
    """
    shapes = vectors - vectors.mean(axis=1, keepdims=True)
    return np.float32([shapes.mean(axis=0), shapes.std(axis=0)])


def shape_distance(vectors, statistics):
    """How far the shapes of vectors [n][K] are from that mean, rms, in units of that deviation.

    1 for the vectors that the statistics [2][K] are of, 0.7 to 1.3 for other speech, 1.5 for K = 20
    vectors that are taken for K = 14.
    """
    mean, deviation = statistics
    shapes = vectors - vectors.mean(axis=1, keepdims=True)
    deviations = (shapes - mean) / np.maximum(deviation, 0.1)
    return np.sqrt(np.mean(np.square(deviations, dtype=np.float64)))


def shape_change(vectors, statistics):
    """How far a shape of vectors [n][K] is from the one before, rms, in units of that deviation.

    0.2 to 0.5 for speech every 10 ms, 0.6 to 0.9 every 40 ms, 1.3 to 3.2 for another K.
    """
    shapes = vectors - vectors.mean(axis=1, keepdims=True)
    changes = np.diff(shapes, axis=0) / np.maximum(statistics[1], 0.1)
    return np.sqrt(np.mean(np.square(changes, dtype=np.float64))) if len(changes) else 0.0


# ---------------------------------------------------------------- harmonics and bins


def bins_hz(width, Fs=FS_HZ):
    """Centre frequencies [width] in Hz of bins over 0 to Fs / 2: bin 3 of 128 is at 93.75 Hz."""
    return np.arange(width) * (Fs / 2 / width)


def harmonic_bins(Wo, width):
    """Bin of every harmonic, int [n][161]: round(m·Wo·width/pi), at most width − 1.

    Wo = pi/40, width = 128: harmonic 1 is in bin 3 (3.2), harmonic 2 in bin 6 (6.4), harmonic 39 in
    bin 125 (124.8).
    """
    position = np.asarray(Wo, np.float64)[:, None] * (HARMONICS * width / np.pi)
    return np.minimum(np.rint(position).astype(int), width - 1)


def to_bins(Wo, L, A, width, cutoff_hz, Fs=FS_HZ):
    """Sparse rate L target in dB, float16 [n][width]: 20·log10(A) in bins of harmonics, else NaN.

    Harmonics above `cutoff_hz` and those with A = 0 have no target.  Rounding to float16 adds
    0.0003 dB² to an MSE.
    """
    hz = HARMONICS * np.asarray(Wo, np.float64)[:, None] * Fs / (2 * np.pi)
    wanted = harmonic_mask(L) & (A > 0) & (hz <= cutoff_hz)
    frame, _ = np.nonzero(wanted)
    target = np.full((len(Wo), width), np.nan, np.float16)
    target[frame, harmonic_bins(Wo, width)[wanted]] = 20 * np.log10(A[wanted])
    return target


def from_bins(spectrum, Wo, L):
    """Linear amplitudes A [n][161] of harmonics 1…L, else 0, from spectra [n][width] in dB."""
    bins = harmonic_bins(Wo, spectrum.shape[1])
    A_dB = np.take_along_axis(np.asarray(spectrum, np.float64), bins, axis=1)
    return np.where(harmonic_mask(L), 10 ** (A_dB / 20), 0).astype(np.float32)


# ---------------------------------------------------------------- rate K vectors and harmonics


def parabola(x, nodes, values, k):
    """Values at x [n][f] of parabolas, each through three points: nodes and values [n][N].

    k [n][f] is the number of the first of the three.
    """
    row = np.arange(len(k))[:, None]
    x1, x2, x3 = (nodes[row, k + i] for i in range(3))
    y1, y2, y3 = (values[row, k + i] for i in range(3))
    slope = (y2 - y1) / (x2 - x1)
    curve = ((y3 - y2) / (x3 - x2) - slope) / (x3 - x1)
    return y1 + (x - x1) * (slope + curve * (x - x2))


def rate_K_at(vectors, f_hz):
    """Amplitudes in dB at the frequencies f_hz [n][f], by parabolas through vectors [n][K].

    They sample the spectrum, as those of K = 20.  It is 0 dB at 0 Hz and at half the sample rate.
    """
    nodes = np.r_[0, KINDS[vectors.shape[1], FS_HZ].hz, FS_HZ / 2]
    values = np.pad(np.asarray(vectors, np.float64), ((0, 0), (1, 1)))
    k = np.clip(np.searchsorted(nodes, f_hz) - 1, 0, len(nodes) - 3)
    return parabola(f_hz, np.broadcast_to(nodes, values.shape), values, k)


def rate_K_to_L(vectors, Wo, L):
    """A [n][161] from vectors [n][K] that sample the spectrum: the conventional decoder."""
    A_dB = rate_K_at(vectors, HARMONICS * np.asarray(Wo, np.float64)[:, None] * (FS_HZ / TWO_PI))
    A = 10 ** (np.minimum(A_dB, 119) / 20)  # 16 bit speech has no amplitude of 120 dB
    return np.where(harmonic_mask(L), A, 0).astype(np.float32)


# ---------------------------------------------------------------- errors


class Figures(NamedTuple):
    """What is measured of one estimate: SD and variance of every frame that counts, in dB²."""

    sd: np.ndarray  # [u]
    variance: np.ndarray  # [u], without each frame's mean error
    n_frames: int  # of these and those that do not count


def measure(target, estimate):
    """Figures of estimates [n][width] in dB for a target [n][width] in dB, where NaN is no target.

    SD is the mean squared error over the targets of a frame, variance that without the frame's mean
    error.  Frames without any target do not count.  FormatError for estimates that are not finite.
    target [[3, NaN, 5]], estimate [[1, 7, 4]]: SD (2² + 1²) / 2 = 2.5, variance 2.5 − 1.5² = 0.25.
    """
    has_target = ~np.isnan(target)
    if not np.isfinite(estimate[has_target]).all():
        raise FormatError("a network that makes values that are not finite: training diverged?")
    used = has_target.any(axis=1)
    error = np.float64(target[used]) - np.where(has_target, estimate, np.nan)[used]
    return Figures(np.nanmean(error**2, axis=1), np.nanvar(error, axis=1), len(target))


def measure_blocks(target, estimate, block=4096):
    """{label: Figures} of a target [n][width] in dB, for a block of frames at a time.

    estimate(frames [f]) gives {label: dB [f][width]}.
    """
    found = {}
    for start in range(0, len(target), block):
        frames = np.arange(start, min(start + block, len(target)))
        for label, dB in estimate(frames).items():
            found.setdefault(label, []).append(measure(target[frames], dB))
    figures = {}
    for label, blocks in found.items():
        sd = np.concatenate([one.sd for one in blocks])
        variance = np.concatenate([one.variance for one in blocks])
        figures[label] = Figures(sd, variance, len(target))
    return figures


def print_figures(part, figures, n_frames=None):
    """Print the means of {label: Figures} of a part of the data, and over how many frames.

    n_frames is how many the part has, if not all of them were measured.
    """
    for label, found in figures.items():
        print(f"{part} {label} SD: {found.sd.mean():.2f} dB²")
        print(f"{part} {label} variance: {found.variance.mean():.2f} dB²")
    first = next(iter(figures.values()))  # all are of the same frames
    print(f"{part} frames: {len(first.sd)} of {n_frames or first.n_frames}")


def match_mean(estimate, target):
    """The estimate [...][width] in dB, shifted to the mean of the target of each frame.

    target [[3, NaN, 5]], estimate [[1, 7, 4]]: [[2.5, 8.5, 5.5]].
    """
    count = np.sum(~np.isnan(target), axis=-1, keepdims=True)
    return estimate + np.nansum(target - estimate, axis=-1, keepdims=True) / np.maximum(count, 1)


# ---------------------------------------------------------------- augmentation


def random_response(hz, n, rng, filter_dB, gain_dB=0.0, cutoffs=0.0, cutoff_dB=50.0, Fs=FS_HZ):
    """Random responses in dB, float32 [n][f] at hz [f], as of microphones, rooms and radios.

    filter_dB  rms of the smooth part: three cosines over frequency with random weights
    gain_dB    a random gain is up to this, up or down
    cutoffs    probability of a low pass, and independently of a high pass
    cutoff_dB  most that these take away
    """
    weights = rng.normal(0, filter_dB * np.sqrt(2 / 3), (n, 3))
    response = weights @ np.cos(np.pi * np.outer([1, 2, 3], hz) / (Fs / 2))
    response += rng.uniform(-gain_dB, gain_dB, (n, 1))
    slope = rng.uniform(0, 0.25, (2, n, 1)) * (rng.random((2, n, 1)) < cutoffs)  # dB/Hz
    low_pass_hz = rng.uniform(0.6, 1, (n, 1)) * Fs / 2
    high_pass_hz = rng.uniform(0, 500, (n, 1))
    response -= np.minimum(slope[0] * np.maximum(hz - low_pass_hz, 0), cutoff_dB)
    response -= np.minimum(slope[1] * np.maximum(high_pass_hz - hz, 0), cutoff_dB)
    return np.float32(response)
