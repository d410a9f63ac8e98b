#!/usr/bin/env python3
"""Codec 2 model records and rate K vectors: read, check, write, and look at them.

Usage:
    ./codec2_model.py speech.model                # frames, seconds, F0, voicing, level; F0 track, one spectrum
    Wo, L, A, phi, voiced = codec2_model.read("speech.model")

A model record is one 10 ms frame of speech as a harmonic series: fundamental frequency, number of harmonics, their
amplitudes and phases, and whether the frame is voiced.  All scripts share this module: it holds the file formats, the
way from harmonics to bins and back, and how a script writes files and ends when one is not what it should be.

Units: Wo rad/sample at 8 kHz; A linear, as c2sim writes it; phi rad; rate K vectors as in their file (dB, or log10).
"""

import argparse
import contextlib
import errno
import json
import math
import mmap
import os
import signal
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np

FS_HZ = 8000
FRAME_S = 0.01  # one model record; 0.04 in the files of c2enc 700C
MAX_AMP = 160  # most harmonics in a record
DB_RANGE = (-200, 120)  # outside this no 16 bit speech has its band energies or rate K amplitudes
SPOT_CHECKS = 256  # records that read() looks at, however long the file

# Index m is harmonic m.  Entry 0 and entries above L carry no meaning, but a copy of a file keeps them.
RECORD = np.dtype(
    [("Wo", "<f4"), ("L", "<i4"), ("A", "<f4", MAX_AMP + 1), ("phi", "<f4", MAX_AMP + 1), ("voiced", "<i4")]
)
NEWAMP1_K = 20  # values in a newamp1 vector
MLFEAT = 201  # floats in a record of c2enc --mlfeat: mean, 20 mean-free values, 20 of them quantised, A[0…159]
CHUNK = 4096  # records handled at a time (5 MB), so that memory does not grow with the file


class FormatError(ValueError):
    """A file that is not what it should be: the message names the file, what is wrong and what was expected."""


def chunks(nb_frames):
    """Slices of CHUNK frames, the last one shorter."""
    return [slice(start, min(start + CHUNK, nb_frames)) for start in range(0, nb_frames, CHUNK)]


# ---------------------------------------------------------------- model records


def read(filename, max_nb_samples=None):
    """Open a .model file: Wo [n], L [n], A [n][161], phi [n][161], voiced [n], memory-mapped and read-only.

    Nothing but a few spread records is read, so that this takes milliseconds whatever the length; check() reads them
    all.  `max_nb_samples` keeps the first so many frames.  Raises FormatError, or OSError when it cannot be opened.
    """
    records = _map(filename, RECORD, (), f"{RECORD.itemsize} byte model records")
    spots = np.unique(np.linspace(0, len(records) - 1, SPOT_CHECKS).astype(int))
    with open(filename, "rb", buffering=0) as file:  # the map would read megabytes ahead of every one
        seen = b"".join(os.pread(file.fileno(), RECORD.itemsize, spot * RECORD.itemsize) for spot in spots)
    looked_at = np.frombuffer(seen, RECORD)
    _check_records(filename, looked_at["Wo"], looked_at["L"], looked_at["A"], spots)
    return tuple(records[:max_nb_samples][name] for name in RECORD.names)


def check(filename, Wo, L, A, phi=None):
    """Read every record that read() has opened; FormatError for the first that cannot be a harmonic series.

    Leftovers in entry 0 and above L, amplitudes of 0 (digital silence) and frames with L = 0 are fine.  Returns Wo
    and L in memory: looking at all of them in the file would map every page of it.
    """
    Wo_copy, L_copy = np.empty(len(Wo), np.float32), np.empty(len(L), np.int32)
    for part in chunks(len(Wo)):
        Wo_copy[part], L_copy[part], numbers = Wo[part], L[part], range(part.start, part.stop)
        _check_records(filename, Wo_copy[part], L_copy[part], A[part], numbers)
        if phi is not None:
            good = np.isfinite(phi[part]) | ~harmonic_mask(L_copy[part])
            _check_values(filename, "phi", phi[part], good, numbers, "a finite phase")
        release(A)
    return Wo_copy, L_copy


def _check_records(filename, Wo, L, A, numbers):
    _check_values(filename, "L", L, (L >= 0) & (L <= MAX_AMP), numbers, f"0 to {MAX_AMP}: not a model file?")
    _check_values(filename, "Wo", Wo, (Wo >= 0) & (Wo <= np.float32(np.pi)), numbers, "0 to pi: not a model file?")
    _check_amplitudes(filename, L, A, numbers)


def _check_amplitudes(filename, L, A, numbers):
    good = ((A >= 0) & np.isfinite(A)) | ~harmonic_mask(L)[:, : A.shape[1]]
    _check_values(filename, "A", A, good, numbers, "a finite amplitude >= 0")


def _check_values(filename, name, values, good, numbers, expected):
    """FormatError for the first of values [n] or [n][m], of frames with these numbers, that is not good."""
    if not good.all():
        f, *m = np.argwhere(~good)[0]
        name = f"{name}[{m[0]}]" if m else name
        raise FormatError(f"{filename}: frame {numbers[f]}: {name} = {values[f, *m]:g}, expected {expected}")


def write(Wo, L, A, phi, voiced, filename):
    """Write model records, the inverse of read(): the same bytes, leftovers included.

    Wo, L, voiced [n] (voiced may be bool); A, phi [n][161].  The file appears whole or not at all.
    """
    fields = dict(zip(RECORD.names, (Wo, L, A, phi, voiced), strict=True))
    if len({len(values) for values in fields.values()}) != 1:
        raise ValueError("frame counts differ: " + ", ".join(f"{name} {len(v)}" for name, v in fields.items()))
    with replacing(filename) as new, open(new, "wb") as file:
        buffer = np.empty(512, RECORD)  # stays in the processor's cache
        for start in range(0, len(Wo), len(buffer)):
            records = buffer[: len(Wo) - start]
            for name, values in fields.items():
                records[name] = values[start : start + len(records)]
            file.write(records.data)


def release(values):
    """Give back the memory that the pages of a memory-mapped file take once they have been looked at."""
    while isinstance(values, np.ndarray):
        values = values.base
    if isinstance(values, mmap.mmap):
        values.madvise(mmap.MADV_DONTNEED)


def check_frames(filename, nb_frames, needed, frame=None):
    """FormatError when a file has fewer frames than needed, or not the one asked for with --frame."""
    if nb_frames < needed:
        raise FormatError(f"{filename}: {nb_frames} frames, expected at least {needed}")
    if frame is not None and frame >= nb_frames:
        raise FormatError(f"{filename}: {nb_frames} frames, no --frame {frame}")


# ---------------------------------------------------------------- rate K vectors


def read_rate_K(filename, K, max_nb_samples=None):
    """Open a file of float32 vectors [n][K], memory-mapped and read-only, as they are in the file.

    Raises FormatError when K does not divide the file, OSError when it cannot be opened.
    """
    return _map(filename, np.dtype("<f4"), (K,), f"vectors of {K} floats")[:max_nb_samples]


def check_rate_K(filename, vectors, gain=10.0):
    """Read what read_rate_K() has opened; FormatError when values are not finite or cannot have the unit expected.

    That is dB for a `gain` of 10, log10 for 1.
    """
    low, high = np.array(DB_RANGE) * gain / 10
    unit = {10: "dB", 1: "log10"}.get(gain, f"{gain:g} log10")
    all_log10 = gain > 1
    for frames in chunks(len(vectors)):
        part = vectors[frames]
        bad = ~((part >= low) & (part <= high))
        if bad.any():
            f, k = np.argwhere(bad)[0]
            why = f"vector {frames.start + f}: {part[f, k]:g} cannot be {unit}, expected {low:g} to {high:g}"
            raise FormatError(f"{filename}: {why}: another kind of file, K or --gain?")
        all_log10 = all_log10 and part.min() >= DB_RANGE[0] / 10 and part.max() <= DB_RANGE[1] / 10
    if all_log10:
        why = f"no value above {DB_RANGE[1] // 10}, too low for speech in {unit}"
        raise FormatError(f"{filename}: {why}: log10, as before Dec 2020 (--gain 1)?")


def read_newamp1(filename, model):
    """Rate K vectors [n][20] in dB, and the quantised amplitudes A [n][160] that mlfeat records carry, else None."""
    L = read(model)[1]
    nb_frames = len(L)
    size = os.path.getsize(filename) / (4 * nb_frames)
    if size not in (NEWAMP1_K, MLFEAT):
        why = f"{size:g} floats for each of the {nb_frames} frames of {model}, expected {NEWAMP1_K} or {MLFEAT}"
        raise FormatError(f"{filename}: {why}")
    records = read_rate_K(filename, int(size))
    if size == NEWAMP1_K:
        return records, None
    vectors = np.empty((nb_frames, NEWAMP1_K), np.float32)
    A = records[:, 2 * NEWAMP1_K + 1 :]
    for part in chunks(nb_frames):
        with np.errstate(all="ignore"):  # read_checked() looks at the sums
            vectors[part] = records[part, :1] + records[part, 1 : NEWAMP1_K + 1]
        _check_amplitudes(filename, L[part], A[part], range(part.start, part.stop))
        release(records)
    return vectors, A


def read_checked(filename, features, vectors, gain=10.0):
    """Wo, L, A, phi, voiced as from read(), of the frames that `vectors` of the file `features` are of; all checked."""
    Wo, L, A, phi, voiced = read(filename)
    if len(vectors) != len(Wo):
        raise FormatError(f"{features}: {len(vectors)} frames, but {filename} has {len(Wo)}")
    check_rate_K(features, vectors, gain)
    return *check(filename, Wo, L, A, phi), A, phi, voiced


def write_rate_K(vectors, filename):
    """Write vectors [n][K] as float32; also codebooks [M][dim].  The file appears whole or not at all."""
    with replacing(filename) as new:
        Path(new).write_bytes(np.ascontiguousarray(vectors, "<f4").data)


def _map(filename, dtype, shape, what):
    """Memory-map a whole file as records, arrays of this `shape`."""
    itemsize = dtype.itemsize * math.prod(shape)
    size = os.stat(filename).st_size
    if not stat.S_ISREG(os.stat(filename).st_mode):
        raise FormatError(f"{filename}: not a regular file, expected {what}")
    if size == 0:
        raise FormatError(f"{filename}: empty file, expected {what}")
    if size % itemsize:
        raise FormatError(f"{filename}: {size} bytes are not a whole number of {what}: truncated, or another kind?")
    return np.memmap(filename, dtype, "r", shape=(size // itemsize, *shape))


# ---------------------------------------------------------------- harmonics and bins


def harmonic_mask(L):
    """True where column m of [n][161] is a harmonic of its frame: m = 1…L[n]."""
    m = np.arange(MAX_AMP + 1)
    return (m >= 1) & (m <= np.asarray(L)[:, None])


def harmonic_bins(Wo, width):
    """Bin of every harmonic, int [n][161]: round(m·Wo·width/pi), at most width − 1.  `width` bins span 0…pi.

    Wo = pi/40, width = 128: harmonic 1 is in bin 3 (3.2), harmonic 2 in bin 6 (6.4), harmonic 39 in bin 125 (124.8).
    """
    m = np.arange(MAX_AMP + 1)
    return np.minimum(np.rint(np.asarray(Wo, np.float64)[:, None] * (m * width / np.pi)).astype(int), width - 1)


def to_bins(Wo, L, A, width, cutoff_hz, Fs=FS_HZ):
    """Sparse rate L target in dB, float16 [n][width]: 20·log10(A) in the bins of harmonics, NaN in bins without one.

    Harmonics above `cutoff_hz` and those with A = 0 have no target.  L itself is left as it is.  float16 keeps millions
    of frames in memory, and its rounding adds 0.0003 dB² to a mean squared error.
    """
    target = np.full((len(Wo), width), np.nan, np.float16)
    cutoff = cutoff_hz * 2 * np.pi / Fs
    m = np.arange(MAX_AMP + 1)
    for part in chunks(len(Wo)):
        wanted = harmonic_mask(L[part]) & (A[part] > 0) & (m * np.float64(Wo[part])[:, None] <= cutoff)
        frame = np.nonzero(wanted)[0]
        target[part.start + frame, harmonic_bins(Wo[part], width)[wanted]] = 20 * np.log10(A[part][wanted])
        release(A)
    return target


def from_bins(spectrum, Wo, L):
    """Amplitudes A [n][161] (linear) of the harmonics 1…L from spectra in dB on bins [n][width]; the rest is 0."""
    bins = harmonic_bins(Wo, spectrum.shape[1])
    A = 10 ** (np.take_along_axis(np.asarray(spectrum, np.float64), bins, axis=1) / 20)
    return np.where(harmonic_mask(L), A, 0).astype(np.float32)


def check_target(filename, target, part="file"):
    """FormatError when no bin of a target [...][width] from to_bins() has a value."""
    if all(np.isnan(target[frames]).all() for frames in chunks(len(target))):
        raise FormatError(f"{filename}: digital silence only in the {part}, expected speech")


# ---------------------------------------------------------------- networks


def save_network(network, options, filename):
    """Write a Keras network and, as options.json in the same archive, the options that tell how to use it."""
    with replacing(filename) as new:
        network.save(new)
        with zipfile.ZipFile(new, "a") as archive:
            archive.writestr("options.json", json.dumps(options))


def read_options(filename, scripts, names=()):
    """Options of a network that one of the scripts has written, these `names` among them; FormatError for any other."""
    with open(filename, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                options = json.loads(archive.read("options.json"))
            known = options["script"] in scripts and all(name in options for name in names)
        except Exception:  # a broken archive has many ways to be one
            known = False
    if not known:
        raise FormatError(f"{filename}: expected a network of {' or '.join(scripts)}")
    return options


# ---------------------------------------------------------------- how scripts write files and report bad ones


@contextlib.contextmanager
def replacing(filename):
    """Name of a file beside `filename` that takes its place at the end of the block, if nothing went wrong.

    So a file is there whole or not at all, and a good one is never lost to a bad one.  Devices are written directly.
    """
    check_folder(filename)
    target = Path(os.path.realpath(filename))
    if target.exists() and not target.is_file():
        yield target
        return
    new = target.with_name(f".{target.stem}.{os.getpid()}{Path(filename).suffix}")  # Keras looks at the suffix
    try:
        yield new
        os.replace(new, target)
    except OSError as error:  # a full disk does not say which file it was for
        if error.filename is None or str(error.filename) == str(new):
            error.filename = str(filename)
        raise
    finally:
        new.unlink(missing_ok=True)


def check_folder(filename):
    """OSError now, before hours of training, when `filename` could not be written later."""
    folder = os.path.dirname(os.path.realpath(filename))
    if os.path.isdir(filename):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(filename))
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder to write to", str(filename))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(filename))


def check_outputs(args, *filenames):
    """OSError now when one of these files or, in --plot_dir, plots could not be written later; the folder is made."""
    for filename in filter(None, filenames):
        check_folder(filename)
    if args.plot_dir and not args.noplots:
        os.makedirs(args.plot_dir, exist_ok=True)
        check_folder(os.path.join(args.plot_dir, "plot.png"))


def positive(text):
    """Type of an argument that is a whole number above 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def seed(text):
    """Type of an argument that seeds random numbers: NumPy and Keras take 32 bits."""
    if not 0 <= int(text) < 2**32:
        raise ValueError
    return int(text)


def ctrl_c(stop):
    """From now on the first Ctrl-C calls stop(), to end long work early, a second one aborts; None: back to usual."""

    def first(*_):
        print("stopping, Ctrl-C again aborts")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    signal.signal(signal.SIGINT, first if stop else signal.default_int_handler)


def plain_errors():
    """End the script with one line on stderr for a file that is bad or cannot be used, and quietly after Ctrl-C."""

    def report(kind, error, trace):
        script = Path(sys.argv[0]).name
        if issubclass(kind, FormatError):
            print(f"{script}: error: {error}", file=sys.stderr)
        elif issubclass(kind, BrokenPipeError):  # stdout went away, as with `| head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        elif issubclass(kind, OSError):
            print(f"{script}: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        elif not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report
    sys.stdout.reconfigure(line_buffering=True)


# ---------------------------------------------------------------- command line


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Tell and plot what is in a Codec 2 model file.")
    parser.add_argument("model", metavar="FILE.model", help="model file to look at")
    parser.add_argument("--nb_samples", type=positive, metavar="N", help="use the first N frames (default: all)")
    parser.add_argument("--frame", type=int, metavar="F", help="frame whose spectrum is plotted (default: loudest)")
    parser.add_argument("--noplots", action="store_true", help="print only")
    parser.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args(argv)
    if (args.frame or 0) < 0:
        parser.error("--frame must not be negative")
    return args


def main(argv=None):
    args = parse_args(argv)
    Wo, L, A, phi, voiced = read(args.model, args.nb_samples)
    check(args.model, Wo, L, A, phi)
    check_frames(args.model, len(Wo), 1, args.frame)
    F0_hz = Wo * (FS_HZ / (2 * np.pi))
    power = np.zeros(len(Wo))  # a sine of peak a has A = a/2, thus power a²/2 = 2 A²
    for part in chunks(len(Wo)):
        power[part] = 2 * np.sum(np.square(A[part], dtype=np.float64), axis=1, where=harmonic_mask(L[part]))
    print(f"frames: {len(Wo)}")
    print(f"length: {len(Wo) * FRAME_S:.2f} s")
    print(f"F0: {F0_hz.min():.1f} to {F0_hz.max():.1f} Hz")
    print(f"harmonics: {L.min()} to {L.max()}")
    print(f"voiced: {100 * np.mean(voiced != 0):.1f} %")
    print(f"level: {10 * np.log10(max(power.mean(), 1e-10)):.1f} dB re 1 LSB rms")
    if not args.noplots:
        plot(args, F0_hz, L, A, voiced, np.argmax(power) if args.frame is None else args.frame)


def plot(args, F0_hz, L, A, voiced, frame):
    """F0 track above, spectrum of one frame below."""
    import matplotlib.pyplot as plt

    import vq_pager

    fig, (track, spectrum) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
    t = np.arange(len(F0_hz)) * FRAME_S
    track.plot(t, np.where(voiced != 0, F0_hz, np.nan), ".", markersize=3, label="voiced")
    track.plot(t, np.where(voiced != 0, np.nan, F0_hz), ".", markersize=2, color="0.75", label="unvoiced")
    track.set(xlabel="Time (s)", ylabel="F0 (Hz)", title=Path(args.model).name)
    track.legend()
    m = np.arange(1, L[frame] + 1)
    spectrum.plot(m * F0_hz[frame], 20 * np.log10(np.maximum(A[frame, m], 1e-10)), "o-", markersize=3)
    spectrum.set(xlabel="Frequency (Hz)", ylabel="Amplitude (dB)", title=f"frame {frame}, F0 {F0_hz[frame]:.0f} Hz")
    vq_pager.show({"codec2_model": fig}, args.plot_dir)


if __name__ == "__main__":
    plain_errors()
    main()
