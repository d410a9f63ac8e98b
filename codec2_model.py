#!/usr/bin/env python3
"""Codec 2 model records and rate K vectors: read, check and write them; harmonics, bins and vectors; the metric.

Usage:
    ./codec2_model.py speech.model                # frames, seconds, F0, voicing, level; F0 track, one spectrum
    Wo, L, A, phi, voiced = codec2_model.read("speech.model")

A model record is one 10 ms frame of speech as a harmonic series: fundamental frequency, number of harmonics, their
amplitudes and phases, and whether the frame is voiced.  A rate K vector has a fixed number of values per frame.

Units: Wo rad/sample at 8 kHz; A linear, as c2sim writes it; phi rad; rate K vectors and spectra on bins in dB.
"""

import argparse
import contextlib
import os

import plumbing
from plumbing import FormatError

import numpy as np

FS_HZ = 8000
FRAME_S = 0.01  # one model record; 0.04 in the files of c2enc 700C
MAX_AMP = 160  # most harmonics in a record
HARMONICS = np.arange(MAX_AMP + 1)  # columns of A and phi
MAX_A = 1e6  # 16 bit speech has no larger amplitude
DB_RANGE = (-200, 120)  # 16 bit speech has no band energies or rate K amplitudes outside this
BLOCK = 4096  # model records that are worked on at a time (5 MB), so that memory does not grow with the file

# Index m is harmonic m.  Entry 0 and entries above L carry no meaning, but a copy of a file keeps them.
RECORD = np.dtype([("Wo", "<f4"), ("L", "<i4"), ("A", "<f4", 161), ("phi", "<f4", 161), ("voiced", "<i4")])
MLFEAT = 201  # floats in a record of c2enc --mlfeat: mean, 20 mean-free values, 20 of them quantised, A[0…159]

# centres of the K = 14 bands, and the K = 20 frequencies of newamp1: equal steps from mel(200) to mel(3700)
BAND_HZ = np.array([0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000])
NEWAMP1_K = 20
ENDS_MEL = np.floor(2595 * np.log10(1 + np.array([200, 3700]) / 700) + 0.5)
NEWAMP1_HZ = 700 * (10 ** (np.linspace(*ENDS_MEL, NEWAMP1_K) / 2595) - 1)
NODES_HZ = np.r_[0, NEWAMP1_HZ, 4000]  # for the way from K to L; the amplitude is 0 dB at both ends


def blocks(n):
    """Slices that cut n frames into blocks of BLOCK, the last one shorter."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def count_items(filename, itemsize=RECORD.itemsize, what="1300 byte model records"):
    """How many items of this size in bytes a file holds.  FormatError if they are not whole, or none."""
    size = os.stat(filename).st_size
    if not os.path.isfile(filename):  # a pipe or device may have no end
        raise FormatError(f"{filename}: not a regular file, expected {what}")
    if size == 0 or size % itemsize:
        raise FormatError(f"{filename}: {size} bytes are not a whole number of {what}: empty, cut off, another kind?")
    return size // itemsize


def read_items(filename, dtype, first, n):
    """n items, from number `first` of a file on.  They are read and not mapped, as the file may become shorter."""
    items = np.fromfile(filename, dtype, n, offset=first * dtype.itemsize)
    if len(items) < n:
        raise FormatError(f"{filename}: became shorter while it was read")
    return items


def read_records(filename, first, n):
    """n model records, from number `first` of a file on, all checked."""
    records = read_items(filename, RECORD, first, n)
    check_records(filename, records, first)
    return records


def read_blocks(filename, max_nb_samples=None):
    """Yield (slice, records) for block after block of a .model file, all checked."""
    n = count_items(filename)
    for part in blocks(min(n, max_nb_samples or n)):
        yield part, read_records(filename, part.start, part.stop - part.start)


def read(filename, max_nb_samples=None):
    """Wo [n], L [n], A [n][161], phi [n][161], voiced [n] of a .model file, all checked, in memory: 1.3 kB a frame."""
    n = count_items(filename)
    records = np.empty(min(n, max_nb_samples or n), RECORD)
    for part, block in read_blocks(filename, len(records)):
        records[part] = block
    return tuple(records[name] for name in RECORD.names)


def check_records(filename, records, first=0):
    """FormatError for the first of these records, number `first` of a file and on, that is no harmonic series.

    Digital silence (A = 0), frames with L = 0, and leftovers in entry 0 and above L are fine.
    """
    leftover = ~harmonic_mask(records["L"])
    for name, expected, good in (
        ("L", f"0 to {MAX_AMP}", (records["L"] >= 0) & (records["L"] <= MAX_AMP)),
        ("Wo", "0 to pi", (records["Wo"] >= 0) & (records["Wo"] <= np.float32(np.pi))),
        ("A", f"0 to {MAX_A:g}", leftover | (records["A"] >= 0) & (records["A"] <= MAX_A)),
        ("phi", "a finite phase", leftover | np.isfinite(records["phi"])),
    ):
        if not good.all():
            f, *m = np.argwhere(~good)[0].tolist()
            what = f"frame {first + f}: {name}{m or ''} = {records[name][f, *m]:g}, expected {expected}"
            raise FormatError(f"{filename}: {what}: not a model file?")


def write(Wo, L, A, phi, voiced, filename):
    """Write model records, the inverse of read(): the same bytes, leftovers included; voiced may be bool."""
    fields = (Wo, L, A, phi, voiced)
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        for part in blocks(max(map(len, fields))):
            records = np.rec.fromarrays([values[part] for values in fields], RECORD)  # ValueError if lengths differ
            check_records(filename, records, part.start)
            file.write(records.data)


def read_floats(filename, K, max_nb_samples=None):
    """Float32 vectors [n][K] as they are in the file, all finite.  FormatError when K does not divide the file."""
    n = count_items(filename, 4 * K, f"vectors of {K} floats")
    vectors = read_items(filename, np.dtype(("<f4", K)), 0, min(n, max_nb_samples or n)).reshape(-1, K)
    good = np.abs(vectors) < 1e10
    if not good.all():
        raise FormatError(f"{filename}: vector {np.argmin(good.all(axis=1))} is not finite, or above 1e10")
    return vectors


def read_rate_K(filename, K, gain=10.0, max_nb_samples=None):
    """Rate K vectors [n][K] in dB, of speech, else FormatError.  Values in the file are `gain` · log10(energy)."""
    vectors = read_floats(filename, K, max_nb_samples) * np.float32(10 / gain)
    low, high = vectors.min(), vectors.max()
    is_log10 = gain > 1 and low >= DB_RANGE[0] / 10 and high <= DB_RANGE[1] / 10  # too low for speech in dB
    if low < DB_RANGE[0] or high > DB_RANGE[1] or is_log10:
        raise FormatError(f"{filename}: {low:g} to {high:g} dB is not speech: another kind, K or --gain (1: log10)?")
    return vectors


def read_newamp1(filename, n):
    """K = 20 vectors [n][20] in dB of n frames, and the quantised amplitudes A [n][160] in an mlfeat file, or None."""
    size = os.path.getsize(filename) / (4 * n)
    if size == NEWAMP1_K:
        return read_rate_K(filename, NEWAMP1_K), None
    if size != MLFEAT:
        raise FormatError(f"{filename}: {size:g} floats for each of {n} frames, expected {NEWAMP1_K} or {MLFEAT}")
    records = read_floats(filename, MLFEAT)
    vectors, A = records[:, :1] + records[:, 1 : NEWAMP1_K + 1], records[:, 2 * NEWAMP1_K + 1 :]
    if vectors.min() < DB_RANGE[0] or vectors.max() > DB_RANGE[1] or A.min() < -1e-3 or A.max() > MAX_A:
        raise FormatError(f"{filename}: values that c2enc --mlfeat does not write: another kind of file?")
    return vectors, np.maximum(A, 0)  # c2enc leaves values such as −4e-8


def write_rate_K(vectors, filename):
    """Write vectors [n][K] as float32; also codebooks [M][dim].  The file appears whole or not at all."""
    if not np.isfinite(vectors).all():
        raise FormatError(f"{filename}: not written, as the vectors are not finite")
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        file.write(np.ascontiguousarray(vectors, "<f4").data)


def write_indices(indices, nb_frames, filename):
    """Write what a quantiser sends, indices int32 [vectors][stages], and how many frames they stand for."""
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        np.save(file, np.int32(indices))
        np.save(file, np.int32(nb_frames))  # np.load() of the file gives the first array only


def read_indices(filename, M, stages, dec):
    """What write_indices() has written.  FormatError for another M (codewords per stage), dec (frames per vector)."""
    count_items(filename, 4, "indices")
    good = False
    with open(filename, "rb") as file, contextlib.suppress(Exception):  # there are many ways to be no .npy file
        indices, n = np.load(file), int(np.load(file))
        fits = indices.dtype == np.int32 and indices.shape == (-(-n // dec), stages)
        good = fits and indices.min() >= 0 and indices.max() < M
    if not good:
        raise FormatError(f"{filename}: expected int32 [vectors of {dec} frames][{stages}] from 0 to {M - 1}")
    return indices, n


def load_pair(features, model, vectors, width, cutoff_hz, Fs=FS_HZ):
    """A pair of files in memory: {"vectors": [n][K] as given, "Wo": [n], "L": [n], "target": [n][width], to_bins();
    "number": [n], that of each frame in the file}."""
    n = count_items(model)
    if len(vectors) != n:
        raise FormatError(f"{features}: {len(vectors)} frames, but {model} has {n}")
    Wo, L, target = np.empty(n, np.float32), np.empty(n, np.int32), np.empty((n, width), np.float16)
    for part, records in read_blocks(model, n):
        Wo[part], L[part], A = records["Wo"], records["L"], records["A"]
        target[part] = to_bins(Wo[part], L[part], A, width, cutoff_hz, Fs)
    return {"vectors": vectors, "Wo": Wo, "L": L, "target": target, "number": np.arange(n)}


def used_frames(target, least, what):
    """Numbers [u] of the frames that have a target; FormatError, which begins with `what`, for fewer than `least`."""
    used = np.flatnonzero(~np.isnan(target).all(axis=1))
    if len(used) < least:
        raise FormatError(f"{what}: {len(used)} frames with amplitudes, expected at least {least}")
    return used


def is_counted(x, lower):
    """True [n] for the frames x [n][K] whose mean level in dB is above `lower`."""
    return np.float64(x.mean(axis=1)) > lower


def harmonic_mask(L):
    """True where column m of [n][161] is a harmonic of its frame: m = 1…L[n]."""
    return (HARMONICS >= 1) & (np.asarray(L)[:, None] >= HARMONICS)


def harmonic_bins(Wo, width):
    """Bin of every harmonic, int [n][161]: round(m·Wo·width/pi), at most width − 1.  `width` bins span 0…pi.

    Wo = pi/40, width = 128: harmonic 1 is in bin 3 (3.2), harmonic 2 in bin 6 (6.4), harmonic 39 in bin 125 (124.8).
    """
    return np.minimum(np.rint(np.asarray(Wo, np.float64)[:, None] * (HARMONICS * width / np.pi)).astype(int), width - 1)


def to_bins(Wo, L, A, width, cutoff_hz, Fs=FS_HZ):
    """Sparse rate L target in dB, float16 [n][width]: 20·log10(A) in the bins of harmonics, NaN in bins without one.

    Harmonics above `cutoff_hz` and those with A = 0 have no target.  Rounding to float16 adds 0.0003 dB² to an MSE.
    """
    target = np.full((len(Wo), width), np.nan, np.float16)
    hz = HARMONICS * np.asarray(Wo, np.float64)[:, None] * Fs / (2 * np.pi)
    wanted = harmonic_mask(L) & (A > 0) & (hz <= cutoff_hz)
    target[np.nonzero(wanted)[0], harmonic_bins(Wo, width)[wanted]] = 20 * np.log10(A[wanted])
    return target


def from_bins(spectrum, Wo, L):
    """Amplitudes A [n][161] (linear) of the harmonics 1…L from spectra in dB on bins [n][width]; the rest is 0."""
    bins = harmonic_bins(Wo, spectrum.shape[1])
    A = 10 ** (np.take_along_axis(np.asarray(spectrum, np.float64), bins, axis=1) / 20)
    return np.where(harmonic_mask(L), A, 0).astype(np.float32)


def parabola(x, nodes, values, k):
    """Values at x [n][f] of the parabolas through nodes and values [n][N] number k, k + 1, k + 2, for k [n][f]."""
    x1, x2, x3 = (np.take_along_axis(nodes, k + i, axis=1) for i in range(3))
    y1, y2, y3 = (np.take_along_axis(values, k + i, axis=1) for i in range(3))
    slope = (y2 - y1) / (x2 - x1)
    curve = ((y3 - y2) / (x3 - x2) - slope) / (x3 - x1)
    return y1 + (x - x1) * (slope + curve * (x - x2))


def rate_K_at(vectors, f_hz):
    """Amplitudes in dB at the frequencies f_hz [n][f], by parabolas through the values of rate K vectors [n][20]."""
    values = np.pad(np.asarray(vectors, np.float64), ((0, 0), (1, 1)))
    k = np.clip(np.searchsorted(NODES_HZ, f_hz) - 1, 0, len(NODES_HZ) - 3)
    return parabola(f_hz, np.broadcast_to(NODES_HZ, values.shape), values, k)


def rate_K_to_L(vectors, Wo, L):
    """A [n][161] from rate K vectors [n][20]: the conventional decoder."""
    A_dB = rate_K_at(vectors, HARMONICS * np.asarray(Wo, np.float64)[:, None] * (FS_HZ / 6.283185307))
    return np.where(harmonic_mask(L), 10 ** (np.minimum(A_dB, 119) / 20), 0).astype(np.float32)


def sd_and_variance(target, estimate):
    """SD and variance of every frame [n] in dB²: mean squared error over its targets, and that without its mean error.

    Frames without any target are left out.
    target [[3, NaN, 5]], estimate [[1, 7, 4]]: SD (2² + 1²) / 2 = 2.5, variance 2.5 − 1.5² = 0.25.
    """
    used = ~np.isnan(target).all(axis=1)
    error = np.float64(target[used]) - estimate[used]
    return np.nanmean(error**2, axis=1), np.nanvar(error, axis=1)


def match_mean(estimate, target):
    """The estimate [...][width] in dB, shifted to the mean of the target of each frame.

    target [[3, NaN, 5]], estimate [[1, 7, 4]]: [[2.5, 8.5, 5.5]].
    """
    count = np.sum(~np.isnan(target), axis=-1, keepdims=True)
    return estimate + np.nansum(target - estimate, axis=-1, keepdims=True) / np.maximum(count, 1)


def print_figures(part, target, estimate, *inputs):
    """Print mean SD and variance of every estimate of a part of the data; returns {label: SD [u] in dB²} of the frames
    that have a target.  estimate(*inputs, frames) gives {label: dB [f][width]} for the frames of these numbers [f]."""
    figures, sd = [], {}
    for block in blocks(len(target)):
        spectra = estimate(*inputs, np.arange(block.start, block.stop))
        figures.append({label: sd_and_variance(target[block], x) for label, x in spectra.items()})
    for label in figures[0]:
        sd[label], variance = np.concatenate([of_block[label] for of_block in figures], axis=1)
        print(f"{part} {label} SD: {sd[label].mean():.2f} dB²")
        print(f"{part} {label} variance: {variance.mean():.2f} dB²")
    print(f"{part} frames: {len(variance)} of {len(target)}")
    return sd


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Tell and plot what is in a Codec 2 model file.")
    parser.add_argument("model", metavar="FILE.model", help="model file to look at")
    parser.add_argument("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    parser.add_argument("--frame", type=plumbing.natural, metavar="F", help="spectrum to plot (default: loudest)")
    parser.add_argument("--noplots", action="store_true", help="print only")
    parser.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    return parser.parse_args(argv)


def main(args):
    plumbing.check_outputs([], plot_dir=args.plot_dir)
    Wo, L, A, _, voiced = read(args.model, args.nb_samples)
    # a sine of peak a has A = a/2, thus power a²/2 = 2 A²
    power = [2 * np.sum(np.float64(A[s]) ** 2, axis=1, where=harmonic_mask(L[s])) for s in blocks(len(L))]
    power = np.concatenate(power)
    if args.frame is not None and args.frame >= len(Wo):
        raise FormatError(f"{args.model}: {len(Wo)} frames, no --frame {args.frame}")
    F0_hz = Wo * (FS_HZ / (2 * np.pi))
    print(f"frames: {len(Wo)}")
    print(f"length: {len(Wo) * FRAME_S:.2f} s")
    print(f"F0: {F0_hz.min():.1f} to {F0_hz.max():.1f} Hz")
    print(f"harmonics: {L.min()} to {L.max()}")
    print(f"voiced: {100 * np.mean(voiced != 0):.1f} %")
    print(f"level: {10 * np.log10(max(power.mean(), 1e-10)):.1f} dB re 1 LSB rms")
    if args.noplots:
        return
    import matplotlib.pyplot as plt

    frame = np.argmax(power) if args.frame is None else args.frame
    fig, (track, spectrum) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
    track.scatter(np.arange(len(Wo)) * FRAME_S, F0_hz, s=2, c=voiced != 0, cmap="coolwarm", vmin=0, vmax=1)
    track.set(xlabel="Time (s)", ylabel="F0 (Hz)", title="fundamental frequency, red where voiced")
    m = np.arange(1, L[frame] + 1)
    spectrum.plot(m * F0_hz[frame], 20 * np.log10(np.maximum(A[frame, m], 1e-10)), "o-", markersize=3)
    spectrum.set(xlabel="Frequency (Hz)", ylabel="Amplitude (dB)", title=f"frame {frame}, F0 {F0_hz[frame]:.0f} Hz")
    plumbing.show({"codec2_model": fig}, args.plot_dir)


if __name__ == "__main__":
    plumbing.plain_errors()
    main(parse_args())
