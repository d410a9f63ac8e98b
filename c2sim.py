#!/usr/bin/env python3
"""Speech to harmonic amplitudes and features, and back: the part of Codec 2's c2sim that these
scripts need.

Usage:
    # to train on: one recording, or a folder of them
    ./c2sim.py speech.flac --bands bands.f32 --bands_lower 10 --modelout speech.model
    ./c2sim.py recordings/ --rateK --rateKout rate_K.f32
    # hear vectors that were quantised
    ./c2sim.py speech.wav --rateK --rateKin quantised.f32 --phase0 --postfilter -o q.wav
    # the same at the receiver, which takes pitch and voicing from a model file
    ./c2sim.py --modelin speech.model --rateK --rateKin quantised.f32 --phase0 --postfilter -o q.wav
    # hear a model file
    ./c2sim.py --modelin network.model -o network.wav

A 10 ms frame of speech is a sum of L harmonics of Wo with amplitudes A[m] and phases phi[m],
m = 1…L.  Analysis finds them; band energies and rate K vectors describe A[m] by a fixed number of
values; synthesis adds the harmonics up.  Several inputs are taken one after the other: the outputs
are those of the single ones, joined.

Options and numbers are those of c2sim, with these differences:
- zeros fill up a partial last frame, which c2sim fills with its last output
- digital silence has band energies of -200 dB instead of -inf, and its frames stay in the files
- --bands_lower leaves frames out of all outputs, and then pairs --rateKin with those that stay

With --rateK a model file holds the amplitudes that were resampled to K values and back.

Where the code insists on float32 (F32), another rounding would choose other pitches: candidates
often have exactly the same energy.  Elsewhere the precision does not matter.

Units: speech 16 bit at 8 kHz, Wo rad/sample, A linear, band energies and rate K vectors dB, levels
dB re 1 LSB rms (full scale is 90 dB).

References: R. McAulay and T. Quatieri, "Speech analysis/synthesis based on a sinusoidal
representation", IEEE Trans. ASSP 34(4), 1986; D. Rowe, "Techniques for harmonic sinusoidal coding",
PhD thesis, Univ. of South Australia, 1997.
"""

import argparse
import contextlib
import functools
import math
import sys

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import codec2_model
from codec2_model import RECORD
from common import plumbing, sound, spectra
from common.plumbing import FormatError
from common.spectra import FS_HZ, HARMONICS, MAX_AMP, TWO_PI, harmonic_mask

N = 80  # samples per frame
FFT = 512  # points
HISTORY = 719  # samples before a frame that its pitch estimate looks at
AT_ONCE = 512  # frames analysed at a time: their arrays stay in the processor's cache
F32 = np.float32
BIN_RAD = F32(TWO_PI / FFT)  # width of an FFT bin, rad/sample
BINS_PER_RAD = F32(1) / BIN_RAD
WO_MIN = F32(TWO_PI / 160)  # a pitch period of 160 samples
WO_MAX = F32(TWO_PI / 20)  # a pitch period of 20 samples
VOICED_DB = 6  # voiced: below 1 kHz the harmonics have this much more energy than the rest
BACKGROUND_DB = 40  # unvoiced frames below this level tell how loud the background is
LOWEST_DB = codec2_model.DB_RANGE[0]  # band energy of digital silence

SAMPLED = [K for (K, Fs), kind in spectra.KINDS.items() if Fs == FS_HZ and not kind.is_energy]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Speech to harmonic amplitudes and features, and back.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    speech_help = (
        f"speech, or a folder of it: {' '.join(sound.RAW)} are raw 16 bit 8 kHz mono, others "
    )
    speech_help += "wav flac ogg mp3 aiff au; - for raw on stdin"
    parser.add_argument("input", nargs="*", metavar="INPUT", help=speech_help)

    add = parser.add_argument_group("features").add_argument
    add("--bands", metavar="F.f32", help="write 14 band energies per frame, dB")
    lower_help = "leave frames whose mean band energy is not above this out of all outputs"
    add("--bands_lower", type=plumbing.level, metavar="dB", help=lower_help)
    add("--rateK", action="store_true", help="resample the amplitudes to K values and back")
    add("--rateKout", metavar="F.f32", help="write the rate K vectors, dB")
    rateKin_help = "go on with rate K vectors from this file, post filtered"
    add("--rateKin", metavar="F.f32", help=rateKin_help)
    K_help = "values of these vectors (default: 20)"
    add("--K", type=int, choices=SAMPLED, help=K_help)

    add = parser.add_argument_group("model").add_argument
    add("--modelout", metavar="F.model", help="write model records")
    modelin_help = "take model records from here; INPUT is then not read"
    add("--modelin", metavar="F.model", help=modelin_help)

    add = parser.add_argument_group("synthesis").add_argument
    add("--phase0", action="store_true", help="model the phases instead of using those measured")
    postfilter_help = "random phases where the background shows through"
    add("--postfilter", action="store_true", help=postfilter_help)
    out_help = f"write speech: .wav, or raw as {' '.join(sound.RAW)}; any output may be -, stdout"
    add("-o", dest="out", metavar="OUT", help=out_help)

    args = parser.parse_args(argv)
    check_options(args, parser.error)
    args.K = args.K or len(spectra.NEWAMP1_HZ)
    return args


def check_options(args, error):
    """Call error(message) for options that do not go together, or have no effect."""
    outputs = (args.bands, args.rateKout, args.modelout, args.out)
    goes_on = args.modelout is not None or args.out is not None
    if not args.input and args.modelin is None:
        error("nothing to work on: name a speech file, or a model file with --modelin")
    if all(name is None for name in outputs):
        error("nothing to write: name an output with --bands, --rateKout, --modelout or -o")
    if args.modelin is not None and args.bands is not None:
        error("--modelin replaces the analysis that --bands needs")
    if args.modelin is not None and args.bands_lower is not None:
        error("--modelin replaces the analysis that --bands_lower needs")
    for name in ("rateKin", "rateKout", "K"):
        if getattr(args, name) is not None and not args.rateK:
            error(f"--{name} needs --rateK")
    if args.rateKin is not None and not goes_on:
        error("--rateKin has no effect without -o or --modelout")
    if args.rateK and not (goes_on or args.rateKout is not None):
        error("--rateK has no effect without --rateKout, -o or --modelout")
    if (args.phase0 or args.postfilter) and not goes_on:
        error("--phase0 and --postfilter have no effect without -o or --modelout")
    if args.out not in (None, "", "-") and not args.out.lower().endswith((".wav", *sound.RAW)):
        error(f"-o {args.out}: speech is written as .wav, or raw as {' '.join(sound.RAW)}")


# ---------------------------------------------------------------- outputs


def open_outputs(outputs, stack):
    """{key: function that writes bytes} for outputs {key: file name or None}; `-` is stdout.

    When `stack` closes without an error, the files appear whole, else none of them.
    """
    new = {}  # {key: name of the new file}; all are closed before the first one replaces another
    for key, name in outputs.items():
        if name not in (None, "-"):
            new[key] = stack.enter_context(plumbing.replacing(name))
    write = {}
    for key, name in outputs.items():
        if name == "-":
            write[key] = sys.stdout.buffer.write
        elif name is not None:
            file = stack.enter_context(open(new[key], "wb"))  # noqa: SIM115
            is_wav = key == "out" and name.lower().endswith(".wav")
            write[key] = sound.start_wav(file, stack) if is_wav else file.write
    return write


# ---------------------------------------------------------------- analysis

# the first estimate is a bin of a 512 point DFT at 1600 Hz: 50 to 400 Hz in steps of 3.125 Hz
FIRST_BIN, LAST_BIN = 16, 128

# notch v[n] = s[n] − s[n−1] + 0.95 v[n−1], then a 600 Hz low pass (Hamming windowed sinc): their
# impulse response is cut after 480 samples, where it is below 3e-10; the matrix leads from 555
# squares to every fifth output of a frame
LOWPASS = np.sinc(0.15 * (np.arange(48) - 23.5)) * np.hamming(48)
LOWPASS /= LOWPASS.sum()
RESPONSE = np.convolve(LOWPASS, np.r_[1, -0.05 * 0.95 ** np.arange(479)])[:480]
DECIMATE = np.stack([np.pad(RESPONSE[::-1], (5 * j, 75 - 5 * j)) for j in range(16)], axis=1)

# DFT of 64 Hann windowed samples, for the bins that the search looks at and their neighbours
HANN = 0.5 - 0.5 * np.cos(TWO_PI * np.arange(64) / 63)
DFT_RAD = TWO_PI / FFT * np.outer(np.arange(64), np.arange(FIRST_BIN - 1, LAST_BIN + 1))
DFT = (HANN[:, None] * np.hstack([np.cos(DFT_RAD), np.sin(DFT_RAD)])).astype(F32)

# Hann window, scaled so that a sine of peak a has A close to a/2
WINDOW = 0.5 - 0.5 * np.cos(TWO_PI * np.arange(278) / 278)
WINDOW /= np.sqrt(FFT * np.sum(WINDOW**2))
LEFT, RIGHT = np.split(WINDOW, 2)
WINDOW_TRANSFORM = np.fft.fft(np.r_[RIGHT, np.zeros(FFT - 278), LEFT]).real
WINDOW_TRANSFORM = np.fft.fftshift(WINDOW_TRANSFORM)  # peak at 256


def initial_pitch(x, start, previous):
    """First pitch estimate [n], a bin FIRST_BIN…LAST_BIN, of n frames with the samples before them,
    x [HISTORY + 80 n].

    The square of a harmonic signal has a peak at its fundamental: square, remove DC, low pass, keep
    every fifth sample, take the highest peak of the spectrum.  A lower peak at a fraction of its
    frequency may be the real fundamental.  `start` is the number of the first frame's first sample,
    `previous` the estimate of the frame before.
    """
    squares = np.square(x, dtype=np.float64)
    squares[: max(HISTORY - start, 0)] = 0  # before the file
    z = (np.ascontiguousarray(sliding_window_view(squares, 555)[::N]) @ DECIMATE).ravel()
    # c2sim adds 1 from sample 0 on between notch and low pass
    n = start - 3 * N + 5 * np.arange(len(z))
    z += np.interp(n, np.arange(-1, 48), np.r_[0, np.cumsum(LOWPASS)])
    lines = np.ascontiguousarray(sliding_window_view(z, 64)[:: N // 5], F32) @ DFT
    F = np.zeros((len(lines), LAST_BIN + 1), F32)  # power
    F[:, FIRST_BIN - 1 :] = np.square(lines).reshape(len(lines), 2, -1).sum(axis=1)
    best = FIRST_BIN + np.argmax(F[:, FIRST_BIN:], axis=1)

    # one row for every fraction 1/q of the best bin that is in the range; frames and q ascend
    fractions = np.arange(2, LAST_BIN // FIRST_BIN + 1)
    frame, q = np.nonzero(best[:, None] // fractions >= FIRST_BIN)
    centre = best[frame] // fractions[q]
    first, last = np.maximum(FIRST_BIN, centre * 8 // 10), centre * 12 // 10
    k = first[:, None] + np.arange(26)
    b = first + np.argmax(np.where(k <= last[:, None], F[frame[:, None], k], -1), axis=1)
    power, top = F[frame, b], F[frame, best[frame]]
    is_peak = (power > F[frame, b - 1]) & (power > F[frame, b + 1])
    strong = power > 0.3 * top
    candidate = (power > 0.15 * top) & is_peak

    # a weak peak counts only near the pitch of the frame before, so this needs a loop over frames
    pitch = [*best, previous]  # pitch[-1] is that of the frame before
    columns = (values[candidate].tolist() for values in (frame, first, last, b, strong))
    for f, low, high, bin_, sure in zip(*columns, strict=True):
        if sure or low < pitch[f - 1] < high:
            pitch[f] = bin_
    return np.array(pitch[:-1])


class Refinement:
    """Choose, among fundamentals near a given one, the one whose harmonics hold the most energy.

    Their periods are up to `half` samples from those of Wo [cases], in steps of `step` samples.
    All in float32, as the energies of candidates are often equal.  There are few possible
    fundamentals, so that tables hold them all: Wo [cases][1 + candidates], the given one first, and
    FFT bins of their harmonics [m − 1][cases][1 + candidates].
    """

    def __init__(self, Wo, half, step):
        period = TWO_PI / Wo.astype(np.float64)[:, None]
        steps = np.full((len(Wo), int(2 * half / step)), step, F32)
        periods = np.cumsum(np.hstack([(period - half).astype(F32), steps]), axis=1, dtype=F32)
        self.Wo = np.hstack([Wo[:, None], (TWO_PI / periods.astype(np.float64)).astype(F32)])
        self.L = (np.pi / Wo.astype(np.float64)).astype(int)
        increments = np.broadcast_to(self.Wo * BINS_PER_RAD, (self.L.max(), *self.Wo.shape))
        bins = (np.cumsum(increments, axis=0, dtype=F32) + 0.5).astype(np.int32)
        self.bins = np.minimum(bins, FFT - bins)
        # bin 257 holds no energy: for harmonics above L, for periods that are too long, and so that
        # the given Wo never wins
        self.bins[np.arange(len(bins))[:, None] >= self.L] = 257
        self.bins[:, :, 1:][:, periods > (period + half).astype(F32)] = 257
        self.bins[:, :, 0] = 257

    def choose(self, P, case):
        """Index into the table of Wo [n] for the power P [n][257]; the given Wo if no candidate has
        any energy.
        """
        P = np.pad(P, ((0, 0), (0, 1)))
        chosen = np.empty(len(P), int)
        by_L = np.argsort(self.L[case])
        for group in np.array_split(by_L, math.ceil(len(P) / 64)):  # of about the same L, for speed
            bins = self.bins[: self.L[case[group[-1]]]].take(case[group], axis=1)
            E = P.take(group[:, None] * P.shape[1] + bins).sum(axis=0)  # float32, m ascending
            chosen[group] = np.argmax(E, axis=1)  # the first one on ties
        return case * self.Wo.shape[1] + chosen


def amplitudes_and_phases(Wo, L, S, P):
    """A, phi [n][161]: the energy between the midpoints to the next harmonics, the phase of the
    nearest bin.
    """
    A, phi = np.zeros((2, len(Wo), MAX_AMP + 1), F32)
    frame, m = np.nonzero(harmonic_mask(L + 1))  # one more: the upper edge of the last harmonic
    edges = ((m - 0.5) * (Wo.astype(np.float64) * BINS_PER_RAD)[frame] + 0.5).astype(int)
    energy = np.add.reduceat(P.ravel(), frame * P.shape[1] + np.minimum(edges, FFT // 2))
    harmonic = m <= L[frame]
    frame, m = frame[harmonic], m[harmonic]
    nearest = (m.astype(F32) * Wo[frame] / BIN_RAD + 0.5).astype(int)
    A[frame, m] = np.sqrt(energy[harmonic])
    phi[frame, m] = np.angle(S[frame, nearest].astype(np.complex64))
    return A, phi


def voicing(Wo, L, A, S, P):
    """Voiced flag [n]: is the spectrum below 1 kHz a row of window transforms, one at every
    harmonic?
    """
    L1, L2 = L // 4, L // 2  # harmonics up to 1 kHz and 2 kHz
    frame, m = np.nonzero(harmonic_mask(L1))
    spacing = (Wo.astype(np.float64) * FFT / TWO_PI)[frame]  # bins
    first = np.ceil(((m - 0.5) * spacing).astype(F32)).astype(int)
    end = np.ceil(((m + 0.5) * spacing).astype(F32)).astype(int)
    width = end - first
    start = np.cumsum(width) - width  # of a band, where all bins of all bands are in a row
    k = np.arange(width.sum()) + np.repeat(first - start, width)
    shift = 256.5 - (m.astype(F32) * Wo[frame]).astype(np.float64) * FFT / TWO_PI
    template = WINDOW_TRANSFORM[np.repeat(shift.astype(int), width) + k]
    bins = np.repeat(frame * P.shape[1], width) + k
    # least squares fit of the template to S in every band, and what it leaves
    fit = np.add.reduceat(S.take(bins) * template, start)
    explained = np.abs(fit) ** 2 / np.add.reduceat(template**2, start)
    left = np.add.reduceat(P.take(bins).astype(np.float64), start) - explained
    error = 1e-4 + np.maximum(np.bincount(frame, left, len(Wo)), 0)
    f = np.arange(len(L))
    energy = np.cumsum(A[:, : L.max() + 1].astype(np.float64) ** 2, axis=1)  # of harmonics 1…m
    snr = 10 * np.log10((1e-4 + energy[f, L1]) / error)
    # voiced speech has most of its energy below 2 kHz; harmonic L2 counts on both sides
    below, above = energy[f, L2], energy[f, L] - energy[f, L2 - 1]
    ratio = 10 * np.log10((1e-4 + below) / (1e-4 + above))
    voiced = (snr > VOICED_DB) | (ratio > 10)
    is_low_pitch = Wo <= F32(TWO_PI * 60 / FS_HZ)
    return voiced & ~((ratio < -10) | ((ratio < -4) & is_low_pitch))


def transform(x):
    """Spectra S [n][257] and their power P [n][257] of n frames with the samples before them,
    x [HISTORY + 80 n].

    A frame is centred 80 samples before its first one.
    """
    frames = sliding_window_view(x[HISTORY - 219 :], 278)[::N]
    buffer = np.zeros((len(frames), FFT))  # double, as NumPy is faster there
    # the centre at time 0: phases are then those at the frame's centre
    buffer[:, :139] = frames[:, 139:] * RIGHT
    buffer[:, -139:] = frames[:, :139] * LEFT
    S = np.fft.rfft(buffer)
    return S, (np.square(S.real) + np.square(S.imag)).astype(F32)


def count_harmonics(Wo):
    """L int32 [n] for Wo float32 [n]: as many harmonics as fit below 4 kHz, one less when the last
    of them is at 3.8 kHz or above.
    """
    L = (np.pi / Wo.astype(np.float64)).astype(F32).astype(np.int32)
    return L - (Wo * L.astype(F32) >= np.float64(0.95 * np.pi))


def model_records(Wo, S, P):
    """Model records [n] of frames with the fundamentals Wo float32 [n], from their spectra."""
    L = count_harmonics(Wo)
    A, phi = amplitudes_and_phases(Wo, L, S, P)
    return np.rec.fromarrays([Wo, L, A, phi, voicing(Wo, L, A, S, P)], RECORD)


@functools.cache
def refinements():
    """The two steps that lead from the first estimate, number 0… of a bin, to the pitch."""
    T0 = (FS_HZ / (3.125 * np.arange(FIRST_BIN, LAST_BIN + 1))).astype(F32)
    coarse = Refinement((TWO_PI / T0.astype(np.float64)).astype(F32), 5, 1)
    return coarse, Refinement(coarse.Wo.ravel(), 1, 0.25)


def analyse(speech, need_model):
    """Yield model records [n], or None without `need_model`, and band energies [n][14] of block
    after block of the speech int16 [samples].
    """
    past = np.ones(HISTORY, F32)  # samples before the next block; c2sim starts with ones
    previous = FIRST_BIN  # first pitch estimate of the frame before
    for start in range(0, len(speech), AT_ONCE * N):
        samples = speech[start : start + AT_ONCE * N].astype(F32)
        x = np.concatenate([past, np.pad(samples, (0, -len(samples) % N))])
        S, P = transform(x)
        records = None
        if need_model:
            pitch = initial_pitch(x, start, previous)
            coarse, fine = refinements()
            chosen = fine.choose(P, coarse.choose(P, pitch - FIRST_BIN))
            Wo = np.clip(fine.Wo.take(chosen), WO_MIN, WO_MAX)
            records = model_records(Wo, S, P)
            previous = pitch[-1]
        yield records, band_energies(P)
        past = x[-HISTORY:]


# ------------------------------------------- features: band energies (14), rate K vectors (20)

# [257][14]: overlapping triangles with peaks at 0 200 400 … 1600 2000 … 3200 4000 Hz, the outer two
# doubled
BAND_BINS = [0, 12, 25, 38, 51, 64, 76, 89, 102, 128, 153, 179, 204]  # of the peaks, but 4 kHz
SLOPE_BINS = [12] * 8 + [25] * 4 + [51]  # from a peak to the next, or one less, as in c2sim
BANDS = np.zeros((FFT // 2 + 1, 14), F32)
for i, (start, width) in enumerate(zip(BAND_BINS, SLOPE_BINS, strict=True)):
    rise = np.arange(width) / width
    BANDS[start : start + width, [i, i + 1]] = np.stack([1 - rise, rise], axis=1)
BANDS[:, [0, 13]] *= 2


def band_energies(P):
    """Energies [n][14] in dB; LOWEST_DB for digital silence."""
    with np.errstate(divide="ignore"):
        return np.maximum(10 * np.log10(P @ BANDS), F32(LOWEST_DB))


def harmonics_to_grid(f_hz, Wo, L, A_dB):
    """Amplitude [n][f] at the frequencies `f_hz`, by parabolas through three neighbouring harmonics
    each.

    Where there are fewer than three harmonics the last one stands for those above it.
    """
    number = np.clip(HARMONICS, 1, np.maximum(L, 1)[:, None])
    A_dB = np.take_along_axis(A_dB, number, axis=1)
    F0 = np.maximum(Wo.astype(np.float64), 1e-6)[:, None] * (FS_HZ / TWO_PI)
    m = 1 + np.clip(np.ceil(f_hz / F0).astype(int) - 2, 0, np.maximum(L - 3, 0)[:, None])
    return spectra.parabola(f_hz, HARMONICS * F0, A_dB, m)


def rate_L_to_K(Wo, L, A, kind=spectra.KINDS[20, FS_HZ]):
    """Rate K vectors [n][K] in dB: the amplitudes at the frequencies of this kind of vectors.

    They are of amplitudes no further below the largest than the kind allows: 50 dB for K = 20.
    """
    A_dB = 20 * np.log10(np.where(harmonic_mask(L), A, 0).astype(np.float64) + 1e-16)
    floor = np.maximum(A_dB.max(axis=1), -100) - kind.range_db
    vectors = harmonics_to_grid(kind.hz, Wo, L, np.maximum(A_dB, floor[:, None]))
    return np.clip(vectors, *codec2_model.DB_RANGE).astype(F32)


def sharpened(vectors, hz, factor=1.5):
    """Post filter of vectors [n][K] that come from a file: peaks up and valleys down by a factor,
    same energy.
    """
    mean = vectors.mean(axis=1, dtype=np.float64, keepdims=True)
    emphasis = 20 * np.log10(hz / 300)
    before = vectors - mean + emphasis
    after = factor * before
    gain = 10 * np.log10(np.sum(10 ** (after / 10), 1) / np.sum(10 ** (before / 10), 1))[:, None]
    return after - gain - emphasis + mean


# ---------------------------------------------------------------- phases and synthesis

PHASE_HZ = np.arange(65) * 62.5  # where the phase model works
# log amplitude in dB on PHASE_HZ → minimum phase in rad [65][65], by folding the cepstrum
FOLD = np.r_[1, np.full(63, 2), 1, np.zeros(63)]
MINIMUM_PHASE = np.fft.rfft(np.fft.irfft(np.eye(65), 128) * FOLD).imag * np.log(10) / 20


class Random:
    """c2sim's random numbers 0…32767, `count` of them at a time: a 32 bit linear congruential
    generator.
    """

    state = np.uint32(1)

    def draw(self, count):
        factors = np.cumprod(np.r_[1, np.full(count, 1103515245)], dtype=np.uint32)
        offsets = np.cumsum(factors, dtype=np.uint32) - factors
        states = factors * self.state + offsets * np.uint32(12345)
        self.state = states[-1]
        return states[1:] >> np.uint32(16) & np.uint32(32767)


class Phases:
    """Set the phases of model records: a model that needs none sent, or noise where the background
    shows through.
    """

    def __init__(self, phase0, postfilter):
        self.phase0, self.postfilter = phase0, postfilter
        self.random = Random()
        self.excitation = F32(0)  # phase of the fundamental
        self.background = 0.0  # dB, smoothed level of the unvoiced frames that are quiet

    def apply(self, records):
        """Set records["phi"] of the next frames."""
        Wo, L, phi = (records[name] for name in ("Wo", "L", "phi"))
        harmonic, voiced = harmonic_mask(L), records["voiced"][:, None] != 0
        A = np.where(harmonic, records["A"], 0)
        power = (1e-12 + np.sum(np.square(A, dtype=np.float64), axis=1)) / np.maximum(L, 1)
        background, excitation = self.track(Wo, power, voiced)
        hidden = self.postfilter & (10 ** ((background + 6) / 20) > A)
        noise = harmonic & np.where(voiced, hidden, self.phase0)  # harmonics with a random phase
        random = np.zeros(A.shape, F32)
        numbers = self.random.draw(np.count_nonzero(noise))  # frame by frame, m ascending
        random[noise] = TWO_PI / 32767 * numbers
        if self.phase0:
            model = np.where(voiced, (HARMONICS * excitation).astype(F32), random)
            model += minimum_phase(Wo, L, A)
            model -= F32(TWO_PI) * np.rint(model / F32(TWO_PI))
            phi[:] = np.where(harmonic, model, 0)
        phi[noise & voiced] = random[noise & voiced]

    def track(self, Wo, power, voiced):
        """Background level in dB and phase of the fundamental, both [n][1], of the next frames."""
        level = 10 * np.log10(power)
        background, excitation = np.empty((2, len(Wo), 1))
        for f in range(len(Wo)):
            # float32, as in c2sim: rounding adds up over minutes
            phase = float(self.excitation + F32(N) * Wo[f])
            turns = math.floor(F32(phase / TWO_PI + 0.5))
            self.excitation = excitation[f] = F32(phase - TWO_PI * turns)
            if level[f] < BACKGROUND_DB and not voiced[f]:
                self.background = 0.9 * self.background + 0.1 * level[f]
            background[f] = self.background
        return background, excitation


def minimum_phase(Wo, L, A):
    """Phases float32 [n][161] of the harmonics after the vocal tract filter: the minimum phase that
    fits the amplitudes.
    """
    A_dB = 20 * np.log10(np.maximum(A, 1e-10, dtype=np.float64))
    theta = harmonics_to_grid(PHASE_HZ, Wo, L, A_dB) @ MINIMUM_PHASE
    bins = np.float64(HARMONICS.astype(F32) * Wo[:, None]) * (128 / TWO_PI)
    bins = (bins + 0.5).astype(F32).astype(int)  # float32 decides ties
    return np.take_along_axis(theta, np.minimum(bins, 64), axis=1).astype(F32)


def synthesise(records, tail):
    """Model records [n] → speech int16 [n][80], 159 samples late: inverse FFTs, overlapped by
    triangles.

    `tail` [1][80] is what the frame before leaves for the first one; the new one is returned, too.
    """
    X = np.zeros((len(records), FFT // 2 + 1), complex)  # double, as NumPy is faster there
    frame, m = np.nonzero(harmonic_mask(records["L"]))
    bins = (m.astype(F32) * records["Wo"][frame]).astype(np.float64) * (FFT / TWO_PI) + 0.5
    harmonics = records["A"][frame, m] * np.exp(1j * records["phi"][frame, m])
    # where two harmonics meet in one bin the later one stays
    X[frame, np.minimum(bins.astype(int), 255)] = harmonics
    y = np.fft.irfft(X, FFT, norm="forward")
    rise = np.arange(N, dtype=F32) / N
    left = np.pad(y[:, 1:N], ((0, 0), (0, 1)))  # the last sample of a frame has no overlap
    tails = np.vstack([tail, left])
    speech = np.roll(y, 79, axis=1)[:, :N] * rise + tails[:-1] * (1 - rise)
    return np.clip(speech, -32767, 32767).astype(np.int16), tails[-1:]


# ---------------------------------------------------------------- main


class Run:
    """What is done with the frames of one speech or model file after the other."""

    def __init__(self, args, write):
        self.args, self.write = args, write
        self.kind = spectra.KINDS[args.K, FS_HZ]
        self.rate_K = None
        if args.rateKin is not None:
            self.rate_K = codec2_model.read_rate_K(args.rateKin, args.K)
        self.used = 0  # frames that stayed
        self.left_out = 0

    def start_file(self):
        """A file sounds the same whatever comes before it."""
        self.phases = Phases(self.args.phase0, self.args.postfilter)
        self.tail = np.zeros((1, N))

    def add(self, records, bands):
        """Take the next model records [n] and band energies [n][14]; one of them may be None."""
        args = self.args
        n = len(records if bands is None else bands)
        if args.bands_lower is not None:
            keep = spectra.is_counted(bands, args.bands_lower)
            bands = bands[keep]
            records = None if records is None else records[keep]
            self.left_out += n - np.count_nonzero(keep)
            n = np.count_nonzero(keep)
        first = self.used
        self.used += n
        if args.bands is not None:
            self.write["bands"](bands.data)
        if records is None or n == 0:
            return
        if args.rateK and not self.resample(records, first):
            return
        if args.phase0 or args.postfilter:
            self.phases.apply(records)
        if args.out is not None:
            samples, self.tail = synthesise(records, self.tail)
            self.write["out"](samples.data)
        if args.modelout is not None:
            codec2_model.check_records(args.modelout, records, first)
            self.write["modelout"](records.data)

    def resample(self, records, first):
        """Amplitudes to vectors and back.  False when the file of vectors has come to its end."""
        Wo, L = records["Wo"], records["L"]
        vectors = rate_L_to_K(Wo, L, records["A"], self.kind)
        if self.args.rateKout is not None:
            self.write["rateKout"](vectors.data)
        if self.rate_K is not None:
            vectors = self.rate_K[first : first + len(records)]
            if len(vectors) < len(records):
                return False  # finish() tells how many are expected
            vectors = sharpened(vectors, self.kind.hz)
        records["A"] = spectra.rate_K_to_L(vectors, Wo, L)
        return True

    def finish(self, names):
        """FormatError when vectors and frames are not as many, or no frame has stayed."""
        if self.used == 0:
            lower = self.args.bands_lower
            raise FormatError(f"{names}: no frame has a mean band energy above {lower:g} dB")
        if self.rate_K is not None and len(self.rate_K) != self.used:
            why = f"{len(self.rate_K)} vectors, expected {self.used}, the frames of {names}"
            raise FormatError(f"{self.args.rateKin}: {why}")


def main(args):
    files = [] if args.modelin is not None else sound.find_files(args.input)
    outputs = {key: getattr(args, key) for key in ("bands", "rateKout", "modelout", "out")}
    plumbing.check_outputs(outputs.values(), [*files, args.modelin, args.rateKin])
    log = sys.stderr if "-" in outputs.values() else sys.stdout
    if args.modelin is not None and args.input:
        print(f"{args.input[0]}: not read, as --modelin replaces it", file=log)
    need_model = args.rateK or args.modelout is not None or args.out is not None
    with contextlib.ExitStack() as stack:
        run = Run(args, open_outputs(outputs, stack))
        if args.modelin is not None:
            run.start_file()
            for _, records in codec2_model.read_blocks(args.modelin):
                run.add(records, None)
        for name in files:
            run.start_file()
            levels = []
            for records, bands in analyse(sound.read_speech(name), need_model):
                levels.append(spectra.frame_levels(bands))
                run.add(records, bands)
            spectra.print_level(name, np.concatenate(levels), log)
        run.finish(args.modelin or " ".join(args.input))
        sys.stdout.flush()
    if args.rateK and args.modelout is not None and args.rateKin is None and args.out is None:
        text = f"{args.K} values resampled, as in c2sim; to train on, write it without --rateK"
        print(f"{args.modelout}: amplitudes of {text}", file=log)
    reason = f" (mean band energy not above {args.bands_lower:g} dB)" if run.left_out else ""
    print(f"frames: {run.used} written, {run.left_out} left out{reason}", file=log)


if __name__ == "__main__":
    plumbing.start()
    main(parse_args())
