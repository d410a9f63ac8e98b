#!/usr/bin/env python3
"""Codec 2 model files and rate K vectors: read, check and write them; look at a model file.

Usage:
    ./codec2_model.py speech.model               # frames, seconds, F0, voicing, level; pictures
    ./codec2_model.py feat.model --frame_ms 40   # a model file of c2enc
    Wo, L, A, phi, voiced = codec2_model.read("speech.model")

A model record is one 10 ms frame of speech as a harmonic series: fundamental frequency, number of
harmonics, their amplitudes and phases, and whether the frame is voiced.  A rate K vector has a
fixed number of values per frame.

Units: Wo rad/sample; A linear, as c2sim writes it; phi rad; vectors and spectra on bins in dB.
"""

import argparse
import math

import numpy as np

from common import plots, plumbing, spectra
from common.plumbing import FormatError

MAX_A = 1e6  # 16 bit speech has no larger amplitude
DB_RANGE = (-200, 160)  # lowest and highest value that vectors of 16 bit speech can have
SILENCE_DB = -60  # lowest value that a network is given; rounding to 16 bit leaves more
LOWEST_F0_HZ = 50  # that c2sim finds at 8 kHz
AT_ONCE = 4096  # model records that are worked on at a time: memory does not grow with the file

# Index m is harmonic m.  Entry 0 and entries above L carry no meaning, but a copy keeps them.
RECORD = np.dtype(
    [("Wo", "<f4"), ("L", "<i4"), ("A", "<f4", 161), ("phi", "<f4", 161), ("voiced", "<i4")]
)
# floats in a record of c2enc --mlfeat: mean, 20 mean-free values, these quantised, A[0…159]
MLFEAT = 201

# ---------------------------------------------------------------- model files


def count_items(filename, itemsize=RECORD.itemsize, what="1300 byte model records"):
    """How many items of this size in bytes a file holds.  FormatError if not whole, or none."""
    size = plumbing.check_input(filename)
    if size == 0:
        raise FormatError(f"{filename}: empty, expected {what}")
    if size % itemsize:
        why = f"{size} bytes are not a whole number of {what}"
        raise FormatError(f"{filename}: {why}: cut off, or another kind?")
    return size // itemsize


def read_records(filename, first, n):
    """n model records, from number `first` of a file on, all checked."""
    records = np.fromfile(filename, RECORD, n, offset=first * RECORD.itemsize)
    check_records(filename, records, first)
    return records


def read_frames(filename, numbers):
    """The model records of some frames, by their numbers [p], all checked."""
    return np.concatenate([read_records(filename, number, 1) for number in numbers])


def read_blocks(filename, max_nb_samples=None):
    """Yield (slice, records) for block after block of a .model file, all checked."""
    n = count_items(filename)
    n = min(n, max_nb_samples or n)
    for start in range(0, n, AT_ONCE):
        stop = min(start + AT_ONCE, n)
        yield slice(start, stop), read_records(filename, start, stop - start)


def read(filename, max_nb_samples=None):
    """Wo [n], L [n], A [n][161], phi [n][161], voiced [n] of a .model file, all checked."""
    n = count_items(filename)
    records = np.empty(min(n, max_nb_samples or n), RECORD)
    for frames, block in read_blocks(filename, len(records)):
        records[frames] = block
    return tuple(records[name] for name in RECORD.names)


def check_records(filename, records, first=0):
    """FormatError for the first of these records, number `first` on, that is no harmonic series.

    Digital silence (A = 0), frames with L = 0, and leftovers in entry 0 and above L are fine.
    """
    L, Wo, A, phi = (records[name] for name in ("L", "Wo", "A", "phi"))
    leftover = ~spectra.harmonic_mask(L)
    for name, expected, good in (
        ("L", f"0 to {spectra.MAX_AMP}", (L >= 0) & (L <= spectra.MAX_AMP)),
        ("Wo", "0 to pi", (Wo >= 0) & (Wo <= np.float32(np.pi))),
        ("A", f"0 to {MAX_A:g}", leftover | (A >= 0) & (A <= MAX_A)),
        ("phi", "a finite phase", leftover | np.isfinite(phi)),
    ):
        if good.all():
            continue
        place = tuple(np.argwhere(~good)[0])  # frame and, for A and phi, harmonic
        what = f"frame {first + place[0]}: {name}"
        if len(place) == 2:
            what += f"[{place[1]}]"
        value = records[name][place]
        raise FormatError(f"{filename}: {what} = {value:g}, expected {expected}: not a model file?")


def write(Wo, L, A, phi, voiced, filename):
    """Write model records, the inverse of read(): the same bytes; voiced may be bool."""
    fields = (Wo, L, A, phi, voiced)
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        for start in range(0, max(map(len, fields)), AT_ONCE):
            block = [values[start : start + AT_ONCE] for values in fields]
            records = np.rec.fromarrays(block, RECORD)  # ValueError if lengths differ
            check_records(filename, records, start)
            file.write(records.data)


# ---------------------------------------------------------------- vectors


def read_floats(filename, K, max_nb_samples=None):
    """Float32 vectors [n][K] as they are in the file.  FormatError when K does not divide it."""
    n = count_items(filename, 4 * K, f"vectors of {K} floats")
    n = min(n, max_nb_samples or n)
    return np.fromfile(filename, "<f4", n * K).reshape(n, K)


def check_floats(filename, vectors):
    """FormatError unless all values of vectors [n][K] are finite and below 1e10."""
    good = np.abs(vectors) < 1e10
    if not good.all():
        number = np.argmin(good.all(axis=1))
        raise FormatError(f"{filename}: vector {number} is not finite, or above 1e10")


def read_rate_K(filename, K, gain=10.0, max_nb_samples=None):
    """Rate K vectors [n][K] in dB, of speech; the file holds `gain` · log10(energy)."""
    vectors = read_floats(filename, K, max_nb_samples)
    check_floats(filename, vectors)
    vectors = vectors * np.float32(10 / gain)
    low, high = vectors.min(), vectors.max()
    lowest, highest = DB_RANGE
    what = f"{filename}: {low:g} to {high:g} dB is not speech"
    if low < lowest or high > highest:
        expected = f"expected {lowest} to {highest}"
        raise FormatError(f"{what}, {expected}: another kind, K or --gain?")
    if gain > 1 and low >= lowest / 10 and high <= highest / 10:
        raise FormatError(f"{what}: log10 of energies (where it is an option: --gain 1)?")
    return vectors


def read_newamp1(filename, n):
    """K = 20 vectors [n][20] in dB of n frames, and quantised amplitudes A [n][160], or None.

    Files hold 20 floats per frame, or 201: an mlfeat file, the only kind with amplitudes.
    """
    K = len(spectra.NEWAMP1_HZ)
    size = plumbing.check_input(filename) / (4 * n)
    if size == K:
        return read_rate_K(filename, K), None
    if size != MLFEAT:
        why = f"{size:g} floats for each of {n} frames, expected {K} or {MLFEAT}"
        raise FormatError(f"{filename}: {why}")
    records = read_floats(filename, MLFEAT)
    check_floats(filename, records[:, : 2 * K + 1])
    vectors = records[:, :1] + records[:, 1 : K + 1]
    if vectors.min() < DB_RANGE[0] or vectors.max() > DB_RANGE[1]:
        raise FormatError(f"{filename}: values that c2enc --mlfeat does not write: another kind?")
    # c2enc leaves values such as −4e-8, and anything at all in A[0] and above L: not checked
    return vectors, np.maximum(records[:, 2 * K + 1 :], 0)


def write_rate_K(vectors, filename):
    """Write vectors [n][K] as float32; also codebooks [M][dim]."""
    if not np.isfinite(vectors).all():
        raise FormatError(f"{filename}: not written, as the vectors are not finite")
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        file.write(np.ascontiguousarray(vectors, "<f4").data)


# ---------------------------------------------------------------- indices


def write_indices(indices, nb_frames, fingerprint, filename):
    """Write indices int32 [vectors][stages], number of frames and fingerprint of the network."""
    with plumbing.replacing(filename) as new, open(new, "wb") as file:
        np.save(file, np.int32(indices))  # np.load() of the file gives this array only
        np.save(file, np.int32(nb_frames))
        np.save(file, np.uint32(fingerprint))


def read_indices(filename, M, stages, dec):
    """What write_indices() wrote: indices int32 [vectors][1…stages], number of frames, fingerprint.

    The indices of lost vectors are −1.
    """
    count_items(filename, 4, "indices")
    with open(filename, "rb") as file:
        try:
            indices, n, fingerprint = (np.lib.format.read_array(file) for _ in range(3))
            n, fingerprint = int(n), int(fingerprint)
        except (ValueError, TypeError, MemoryError):
            why = "no indices that vq_out.py --indexout has written"
            raise FormatError(f"{filename}: {why}") from None
    is_table = indices.dtype == np.int32 and indices.ndim == 2 and indices.size > 0
    fits = is_table and len(indices) == math.ceil(n / dec) and indices.shape[1] <= stages
    if not (fits and indices.min() >= -1 and indices.max() < M):
        expected = f"int32 [vectors of {dec} frames][{stages}] below {M}"
        raise FormatError(f"{filename}: not indices of this network, expected {expected}")
    return indices, n, fingerprint


# ---------------------------------------------------------------- pairs of files


def load_pair(features, model, vectors, width, cutoff_hz, Fs=spectra.FS_HZ):
    """A pair of files in memory, one entry per frame.

    {"vectors": [n][K], digital silence at SILENCE_DB, "Wo": [n], "L": [n], "number": [n],
    "target": [n][width] of spectra.to_bins()}
    """
    n = count_items(model)
    if len(vectors) != n:
        raise FormatError(f"{features}: {len(vectors)} frames, but {model} has {n}")
    Wo, L = np.empty(n, np.float32), np.empty(n, np.int32)
    target = np.empty((n, width), np.float16)
    for frames, records in read_blocks(model):
        Wo[frames], L[frames], A = records["Wo"], records["L"], records["A"]
        target[frames] = spectra.to_bins(Wo[frames], L[frames], A, width, cutoff_hz, Fs)
    vectors = np.maximum(vectors, SILENCE_DB)
    return {"vectors": vectors, "Wo": Wo, "L": L, "target": target, "number": np.arange(n)}


def cut(pair, max_nb_samples=None):
    """{"train", "held-out"}: nine tenths of a pair of files, and the last tenth.

    One contiguous block is held out, before anything is shuffled or made into sequences.
    """
    n = len(pair["number"][:max_nb_samples])
    parts = {"train": slice(n - n // 10), "held-out": slice(n - n // 10, n)}
    return {
        part: {name: values[frames] for name, values in pair.items()}
        for part, frames in parts.items()
    }


def used_frames(target, least, what):
    """Numbers [u] of the frames with a target; FormatError about `what` for fewer than `least`."""
    used = np.flatnonzero(~np.isnan(target).all(axis=1))
    if len(used) < least:
        raise FormatError(f"{what}: {len(used)} frames with amplitudes, expected at least {least}")
    return used


# ---------------------------------------------------------------- a look at a model file


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Tell and plot what is in a Codec 2 model file.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="FILE.model", help="model file to look at")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    ms_help = "of a frame (default: 10; files of c2enc have 40)"
    add("--frame_ms", type=plumbing.positive, default=10, metavar="ms", help=ms_help)
    Fs_help = "sample rate of the speech (default: 8000)"
    add("--Fs", type=plumbing.positive, default=8000, metavar="Hz", help=Fs_help)
    frame_help = "spectrum to plot (default: the loudest)"
    add("--frame", type=plumbing.natural, metavar="F", help=frame_help)
    add("--noplots", action="store_true", help="print only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args(argv)
    if args.noplots and not (args.plot_dir is None and args.frame is None):
        parser.error("--plot_dir and --frame have no effect with --noplots")
    return args


def main(args):
    plumbing.check_outputs([], plot_dir=args.plot_dir)
    fields = []  # without A and phi, which hours of speech have gigabytes of
    for _, records in read_blocks(args.model, args.nb_samples):
        # a sine of peak a has A = a/2, thus power a²/2 = 2 A²
        harmonic = spectra.harmonic_mask(records["L"])
        power = 2 * np.sum(np.square(records["A"], dtype=np.float64), axis=1, where=harmonic)
        fields.append([*(records[name].copy() for name in ("Wo", "L", "voiced")), power])
    Wo, L, voiced, power = map(np.concatenate, zip(*fields, strict=True))
    if args.frame is not None and args.frame >= len(Wo):
        raise FormatError(f"{args.model}: {len(Wo)} frames, no --frame {args.frame}")
    F0_hz = Wo * (args.Fs / (2 * np.pi))
    print(f"frames: {len(Wo)}")
    print(f"length: {len(Wo) * args.frame_ms / 1000:.2f} s")
    print(f"F0: {F0_hz.min():.1f} to {F0_hz.max():.1f} Hz")
    if 0 < F0_hz.min() < 0.99 * LOWEST_F0_HZ:
        print(f"hint: c2sim finds no F0 below {LOWEST_F0_HZ} Hz: speech of 16 kHz, --Fs 16000?")
    print(f"harmonics: {L.min()} to {L.max()}")
    print(f"voiced: {100 * np.mean(voiced != 0):.1f} %")
    print(f"level: {10 * np.log10(max(power.mean(), 1e-10)):.1f} dB re 1 LSB rms")
    if not args.noplots:
        frame = np.argmax(power) if args.frame is None else args.frame
        plot(F0_hz, voiced, frame, args)


def plot(F0_hz, voiced, frame, args):
    """F0 [n] in Hz over time, and the amplitudes of one frame."""
    plt = plots.pyplot()

    fig, (track, spectrum) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
    seconds = np.arange(len(F0_hz)) * args.frame_ms / 1000
    for label, colour, shown in (("voiced", "C3", voiced != 0), ("unvoiced", "C0", voiced == 0)):
        track.plot(seconds[shown], F0_hz[shown], ".", color=colour, markersize=2, label=label)
    track.set(xlabel="Time (s)", ylabel="F0 (Hz)", title="fundamental frequency")
    track.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=4)
    [record] = read_frames(args.model, [frame])
    m = np.arange(1, record["L"] + 1)
    A_dB = 20 * np.log10(np.maximum(record["A"][m], 1e-10))
    spectrum.plot(m * F0_hz[frame], A_dB, "o-", markersize=3)
    title = f"frame {frame}, F0 {F0_hz[frame]:.0f} Hz"
    spectrum.set(xlabel="Frequency (Hz)", ylabel="Amplitude (dB)", title=title)
    plots.show({"codec2_model": fig}, args.plot_dir)


if __name__ == "__main__":
    plumbing.start()
    main(parse_args())
