#!/usr/bin/env python3
"""Speech to harmonic amplitudes and features, and back: the part of Codec 2's c2sim that these scripts need.

Usage:
    ./c2sim.py speech.flac --bands bands.f32 --bands_lower 10 --modelout speech.model     # to train on
    ./c2sim.py speech.wav --rateK --rateKout rate_K.f32                                   # K = 20 vectors
    ./c2sim.py speech.wav --rateK --rateKin quantised.f32 --phase0 --postfilter -o q.wav  # hear quantised vectors
    ./c2sim.py --modelin speech.model --rateK --rateKin quantised.f32 --phase0 --postfilter -o q.wav  # the receiver
    ./c2sim.py --modelin network.model -o network.wav                                     # hear a model file

A 10 ms frame of speech is a sum of L harmonics of Wo with amplitudes A[m] and phases phi[m], m = 1…L.  Analysis finds
them; band energies and rate K vectors describe A[m] by a fixed number of values; synthesis adds the harmonics up.
The receiver takes pitch and voicing (and phases, unless --phase0) from a model file, the amplitudes from vectors.
Options and numbers are those of c2sim, but zeros fill up a partial last frame (c2sim fills it with its last output).
Where the code insists on float32 (F32), another rounding would choose other pitches: candidates often have exactly the
same energy.  Elsewhere the precision does not matter.

Units: speech 16 bit at 8 kHz, Wo rad/sample, A linear, band energies and rate K vectors dB.

References: R. McAulay and T. Quatieri, "Speech analysis/synthesis based on a sinusoidal representation", IEEE Trans.
ASSP 34(4), 1986; D. Rowe, "Techniques for harmonic sinusoidal coding", PhD thesis, Univ. of South Australia, 1997.
"""

import argparse
import contextlib
import io
import math
import re
import sys
import wave
from pathlib import Path

import codec2_model
import plumbing
from codec2_model import FS_HZ, HARMONICS, MAX_AMP, NEWAMP1_HZ, NEWAMP1_K, RECORD, harmonic_mask
from plumbing import FormatError

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

N = 80  # samples per frame
FFT = 512  # points
HISTORY = 719  # samples before a frame that its pitch estimate looks at
BLOCK = 512  # frames analysed at a time: their arrays stay in the processor's cache
F32 = np.float32
TWO_PI = 6.283185307  # as Codec 2 has it
BIN_RAD = F32(TWO_PI / FFT)  # width of an FFT bin, rad/sample
BINS_PER_RAD = F32(1) / BIN_RAD
WO_MIN = F32(TWO_PI / 160)  # a pitch period of 160 samples
WO_MAX = F32(TWO_PI / 20)  # a pitch period of 20 samples
VOICED_DB = 6  # voiced: below 1 kHz the harmonics have this much more energy than what they leave unexplained
BACKGROUND_DB = 40  # unvoiced frames below this level tell how loud the background is
RAW = (".raw", ".sw", ".s16", ".pcm")  # names of files without a header: 16 bit samples at 8 kHz
# what files of other kinds begin with (ftyp: m4a, ff: MP3, PK: zip), so that they are not taken for raw samples
HEADER = re.compile(rb"RIF[FX]|RF64|FORM|\.snd|fLaC|OggS|ID3|PK\x03\x04|.{4}ftyp|\xff.{12,40}(Xing|Info)", re.S)
SIZES = re.compile(r"(?i)(?:riff|form|size) *: (\d+) \(should be (\d+)\)")  # in libsndfile's log: wrong sizes
STREAMED = 0x7FFFF000  # bytes; programs that write to a pipe put this size or a larger one into the header


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Speech to harmonic amplitudes and features, and back.")
    speech = f"speech: {' '.join(RAW)} are raw 16 bit 8 kHz mono, others wav flac ogg mp3 aiff au; - for raw on stdin"
    parser.add_argument("input", nargs="?", metavar="INPUT", help=speech)
    group = parser.add_argument_group("features")
    group.add_argument("--bands", metavar="F.f32", help="write 14 band energies per frame, dB")
    lower = "leave frames whose mean band energy is not above this out of the --bands and --modelout files"
    group.add_argument("--bands_lower", type=float, default=-math.inf, metavar="dB", help=lower)
    group.add_argument("--rateK", action="store_true", help="resample the amplitudes to K = 20 values and back")
    group.add_argument("--rateKout", metavar="F.f32", help="write the rate K vectors, dB")
    group.add_argument("--rateKin", metavar="F.f32", help="go on with rate K vectors from this file, post filtered")
    group = parser.add_argument_group("model")
    group.add_argument("--modelout", metavar="F.model", help="write model records")
    group.add_argument("--modelin", metavar="F.model", help="take model records from here; INPUT is not needed")
    group = parser.add_argument_group("synthesis")
    group.add_argument("--phase0", action="store_true", help="model the phases instead of using those measured")
    group.add_argument("--postfilter", action="store_true", help="random phases where the background shows through")
    group.add_argument("-o", dest="out", metavar="OUT", help="write speech: .wav or raw; any output may be -, stdout")
    args = parser.parse_args(argv)
    if not (args.input or args.modelin):
        parser.error("nothing to work on: name a speech file, or a model file with --modelin")
    if not (args.bands or args.rateKout or args.modelout or args.out):
        parser.error("nothing to write: name an output with --bands, --rateKout, --modelout or -o")
    if args.modelin and args.bands:
        parser.error("--modelin replaces the analysis that --bands needs")
    if (args.rateKin or args.rateKout) and not args.rateK:
        parser.error("--rateKin and --rateKout need --rateK")
    return args


# ---------------------------------------------------------------- speech files


def read_speech(filename):
    """Speech, int16 [samples] at 8 kHz, of a raw file or stdin (`-`), or of any file that libsndfile opens."""
    if filename == "-":
        data = sys.stdin.buffer.read() if sys.stdin else b""  # None: closed
    else:
        codec2_model.count_items(filename, 1, "speech")  # refuses what is empty or no regular file
        if not filename.lower().endswith(RAW):
            return convert(filename, filename)
        data = Path(filename).read_bytes()
    if HEADER.match(data):
        return convert(filename, io.BytesIO(data))
    if not data or len(data) % 2:
        raise FormatError(f"{filename}: {len(data)} bytes, expected 16 bit samples")
    return np.frombuffer(data, "<i2")


def convert(filename, source):
    """Speech, int16 [samples] at 8 kHz, of a sound file with a header: mean of its channels, resampled."""
    import scipy  # loads scipy.signal, which takes a second, only when it is used
    import soundfile

    pieces, mono = [], np.zeros(0)
    try:
        with plumbing.quiet(), soundfile.SoundFile(source) as sound:  # quiet: the MP3 decoder prints warnings
            rate, kind, log = sound.samplerate, (sound.samplerate, sound.subtype, sound.channels), sound.extra_info
            if not 1000 <= rate <= 1_000_000:
                raise soundfile.SoundFileRuntimeError(f"{rate} Hz, expected 1000 to 1000000")
            # 30 s and the 2 s before them at a time; of the overlap each result loses the second at its own end
            while len(block := sound.read(30 * rate, always_2d=True)):
                if not np.isfinite(block).all():
                    raise soundfile.SoundFileRuntimeError("not all samples are numbers")
                mono = np.r_[mono[-2 * rate :], block.mean(axis=1)]
                piece = mono if rate == FS_HZ else scipy.signal.resample_poly(mono, FS_HZ, rate)
                piece = np.clip(np.rint(piece * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
                if pieces:
                    pieces[-1], piece = pieces[-1][:-FS_HZ], piece[FS_HZ:]
                pieces.append(piece)
            nb_promised = sound.frames * FS_HZ // rate
    except soundfile.SoundFileError as error:
        why = str(getattr(error, "error_string", error)).rstrip(".")
        raise FormatError(f"{filename}: not speech: {why} (names of raw 16 bit files end in {' '.join(RAW)})") from None
    speech = np.concatenate(pieces) if pieces else mono
    longer = any(int(there) < int(size) < STREAMED for size, there in SIZES.findall(log))
    if len(speech) < max(nb_promised, 1) or longer:
        raise FormatError(f"{filename}: {len(speech)} samples can be read, its header promises more: cut off?")
    if kind != (FS_HZ, "PCM_16", 1):
        print(f"{filename}: converted from {rate} Hz, {kind[1]}, {kind[2]} channel(s)", file=sys.stderr)
    return speech


def create(filename, stack, is_speech=False):
    """Function that writes bytes to a file, which appears whole when `stack` closes without an error, or not at all."""
    file = stack.enter_context(open(stack.enter_context(plumbing.replacing(filename)), "wb"))
    if not (is_speech and filename.lower().endswith(".wav")):
        return file.write
    wav = stack.enter_context(wave.open(file, "wb"))
    wav.setparams((1, 2, FS_HZ, 0, "NONE", None))
    return wav.writeframes


# ---------------------------------------------------------------- analysis

LOW, HIGH = 16, 128  # the first estimate is a bin of a 512 point DFT at 1600 Hz: 50 to 400 Hz in steps of 3.125 Hz

# notch v[n] = s[n] − s[n−1] + 0.95 v[n−1], then a 600 Hz low pass (Hamming windowed sinc): their impulse response is
# cut after 480 samples, where it is below 3e-10; the matrix leads from 555 squares to every fifth output of a frame
LOWPASS = np.sinc(0.15 * (np.arange(48) - 23.5)) * np.hamming(48)
LOWPASS /= LOWPASS.sum()
RESPONSE = np.convolve(LOWPASS, np.r_[1, -0.05 * 0.95 ** np.arange(479)])[:480]
DECIMATE = np.stack([np.pad(RESPONSE[::-1], (5 * j, 75 - 5 * j)) for j in range(16)], axis=1)

# DFT of 64 Hann windowed samples, for the bins that the search looks at and their neighbours
HANN = 0.5 - 0.5 * np.cos(TWO_PI * np.arange(64) / 63)
DFT_RAD = TWO_PI / FFT * np.outer(np.arange(64), np.arange(LOW - 1, HIGH + 1))
DFT = (HANN[:, None] * np.hstack([np.cos(DFT_RAD), np.sin(DFT_RAD)])).astype(F32)

WINDOW = 0.5 - 0.5 * np.cos(TWO_PI * np.arange(278) / 278)  # Hann, scaled so that a sine of peak a has A close to a/2
WINDOW /= np.sqrt(FFT * np.sum(WINDOW**2))
LEFT, RIGHT = np.split(WINDOW, 2)
WINDOW_TRANSFORM = np.fft.fftshift(np.fft.fft(np.r_[RIGHT, np.zeros(FFT - 278), LEFT]).real)  # peak at 256


def initial_pitch(x, start, previous):
    """First pitch estimate [n], a bin LOW…HIGH, of n frames with the samples before them, x [HISTORY + 80 n].

    The square of a harmonic signal has a peak at its fundamental: square, remove DC, low pass, keep every fifth sample,
    take the highest peak of the spectrum.  A lower peak at a fraction of its frequency may be the real fundamental.
    `start` is the number of the first frame's first sample, `previous` the estimate of the frame before.
    """
    squares = np.square(x, dtype=np.float64)
    squares[: max(HISTORY - start, 0)] = 0  # before the file
    z = (np.ascontiguousarray(sliding_window_view(squares, 555)[::N]) @ DECIMATE).ravel()
    # c2sim adds 1 from sample 0 on between notch and low pass
    z += np.interp(start - 3 * N + 5 * np.arange(len(z)), np.arange(-1, 48), np.r_[0, np.cumsum(LOWPASS)])
    lines = np.ascontiguousarray(sliding_window_view(z, 64)[:: N // 5], F32) @ DFT
    F = np.zeros((len(lines), HIGH + 1), F32)  # power
    F[:, LOW - 1 :] = np.square(lines).reshape(len(lines), 2, -1).sum(axis=1)
    best = LOW + np.argmax(F[:, LOW:], axis=1)
    # one row for every fraction 1/q of the best bin that is not below the range; frames and q ascend
    frame, q = np.nonzero(best[:, None] // np.arange(2, HIGH // LOW + 1) >= LOW)
    centre = best[frame] // (q + 2)
    lo, hi = np.maximum(LOW, centre * 8 // 10), centre * 12 // 10
    k = lo[:, None] + np.arange(26)
    b = lo + np.argmax(np.where(k <= hi[:, None], F[frame[:, None], k], -1), axis=1)
    power, top = F[frame, b], F[frame, best[frame]]
    strong = power > 0.3 * top
    weak = (power > 0.15 * top) & (power > F[frame, b - 1]) & (power > F[frame, b + 1])
    # a weak peak counts only near the pitch of the frame before, so this needs a loop over the frames
    pitch = [*best, previous]  # pitch[-1] is that of the frame before
    for f, low, high, bin_, sure in zip(*(v[weak].tolist() for v in (frame, lo, hi, b, strong)), strict=True):
        if sure or low < pitch[f - 1] < high:
            pitch[f] = bin_
    return np.array(pitch[:-1])


class Refinement:
    """Choose, among fundamentals near a given one, the one whose harmonics hold the most energy.

    Their periods are up to `half` samples from those of Wo [cases], in steps of `step` samples.  All in float32, as
    the energies of candidates are often equal.  There are few possible fundamentals, so that tables hold them all:
    Wo [cases][1 + candidates], the given one first, and FFT bins of their harmonics [m − 1][cases][1 + candidates].
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
        # bin 257 holds no energy: for harmonics above L, for periods too long, and so that the given Wo never wins
        self.bins[np.arange(len(bins))[:, None] >= self.L] = 257
        self.bins[:, :, 1:][:, periods > (period + half).astype(F32)] = 257
        self.bins[:, :, 0] = 257

    def choose(self, P, case):
        """Index into the table of Wo [n] for the power P [n][257]; the given Wo if no candidate has any."""
        P = np.pad(P, ((0, 0), (0, 1)))
        chosen = np.empty(len(P), int)
        for part in np.array_split(np.argsort(self.L[case]), -(-len(P) // 64)):  # frames of about the same L, for speed
            bins = self.bins[: self.L[case[part[-1]]]].take(case[part], axis=1)
            E = P.take(part[:, None] * P.shape[1] + bins).sum(axis=0)  # float32, m ascending
            chosen[part] = np.argmax(E, axis=1)  # the first one on ties
        return case * self.Wo.shape[1] + chosen


def amplitudes_and_phases(Wo, L, S, P):
    """A, phi [n][161]: the energy between the midpoints to the next harmonics, the phase of the nearest bin."""
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
    """Voiced flag [n]: is the spectrum below 1 kHz a row of window transforms, one at every harmonic?"""
    L1, L2 = L // 4, L // 2  # harmonics up to 1 kHz and 2 kHz
    frame, m = np.nonzero(harmonic_mask(L1))
    spacing = (Wo.astype(np.float64) * FFT / TWO_PI)[frame]  # bins
    first, end = (np.ceil(((m + side) * spacing).astype(F32)).astype(int) for side in (-0.5, 0.5))
    width = end - first
    start = np.cumsum(width) - width  # of a band, where all bins of all bands are in a row
    k = np.arange(width.sum()) + np.repeat(first - start, width)
    shift = (256.5 - (m.astype(F32) * Wo[frame]).astype(np.float64) * FFT / TWO_PI).astype(int)
    template = WINDOW_TRANSFORM[np.repeat(shift, width) + k]
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
    ratio = 10 * np.log10((1e-4 + energy[f, L2]) / (1e-4 + energy[f, L] - energy[f, L2 - 1]))
    voiced = (snr > VOICED_DB) | (ratio > 10)
    return voiced & ~((ratio < -10) | ((ratio < -4) & (Wo <= F32(TWO_PI * 60 / FS_HZ))))


def transform(x):
    """Spectra S [n][257] and their power P [n][257] of n frames with the samples before them, x [HISTORY + 80 n].

    A frame is centred 80 samples before its first one.
    """
    frames = sliding_window_view(x[HISTORY - 219 :], 278)[::N]
    buffer = np.zeros((len(frames), FFT))  # double, as NumPy is faster there
    buffer[:, :139] = frames[:, 139:] * RIGHT  # the centre at time 0: phases are then those at the frame's centre
    buffer[:, -139:] = frames[:, :139] * LEFT
    S = np.fft.rfft(buffer)
    return S, (np.square(S.real) + np.square(S.imag)).astype(F32)


def model_records(Wo, S, P):
    """Model records [n] of frames with the fundamentals Wo float32 [n], from their spectra."""
    # as many harmonics as fit below 4 kHz, one less when the last of them is at 3.8 kHz or above
    L = (np.pi / Wo.astype(np.float64)).astype(F32).astype(np.int32)
    L = L - (Wo * L.astype(F32) >= np.float64(0.95 * np.pi))
    A, phi = amplitudes_and_phases(Wo, L, S, P)
    return np.rec.fromarrays([Wo, L, A, phi, voicing(Wo, L, A, S, P)], RECORD)


def analyse(speech, need_model):
    """Yield (slice, model records [n], band energies [n][14]) block after block; no records without `need_model`."""
    if need_model:
        T0 = (FS_HZ / (3.125 * np.arange(LOW, HIGH + 1))).astype(F32)
        coarse = Refinement((TWO_PI / T0.astype(np.float64)).astype(F32), 5, 1)
        fine = Refinement(coarse.Wo.ravel(), 1, 0.25)
        pitch = [LOW]
    for start in range(0, len(speech), BLOCK * N):
        old = min(start, HISTORY)
        x = speech[start - old : start + BLOCK * N].astype(F32)
        x = np.pad(x, (HISTORY - old, (old - len(x)) % N), constant_values=(1, 0))  # c2sim starts with ones
        S, P = transform(x)
        records = None
        if need_model:
            pitch = initial_pitch(x, start, pitch[-1])
            Wo = np.clip(fine.Wo.take(fine.choose(P, coarse.choose(P, pitch - LOW))), WO_MIN, WO_MAX)
            records = model_records(Wo, S, P)
        yield slice(start // N, start // N + len(P)), records, band_energies(P)


# ---------------------------------------------------------------- features: band energies (14), rate K vectors (20)

# [257][14]: overlapping triangles with peaks at 0 200 400 … 1600 2000 … 3200 4000 Hz, the outer two doubled
BANDS = np.zeros((FFT // 2 + 1, 14), F32)
for i, start in enumerate([0, 12, 25, 38, 51, 64, 76, 89, 102, 128, 153, 179, 204]):
    width = (12, 25, 51)[(i >= 8) + (i >= 12)]
    rise = np.arange(width) / width
    BANDS[start : start + width, [i, i + 1]] = np.stack([1 - rise, rise], axis=1)
BANDS[:, [0, 13]] *= 2


def band_energies(P):
    """Energies [n][14] in dB; −inf for digital silence."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(P @ BANDS)


def harmonics_to_grid(f_hz, Wo, L, A_dB):
    """Amplitude [n][f] at the frequencies `f_hz`, by parabolas through three neighbouring harmonics each."""
    F0 = np.maximum(Wo.astype(np.float64), 1e-6)[:, None] * (FS_HZ / TWO_PI)
    m = 1 + np.clip(np.ceil(f_hz / F0).astype(int) - 2, 0, np.maximum(L - 3, 0)[:, None])
    return codec2_model.parabola(f_hz, HARMONICS * F0, A_dB, m)


def rate_L_to_K(Wo, L, A):
    """Rate K vectors [n][20] in dB, from amplitudes no further than 50 dB below the largest."""
    A_dB = 20 * np.log10(np.where(harmonic_mask(L), A, 0).astype(np.float64) + 1e-16)
    floor = np.maximum(A_dB.max(axis=1), -100) - 50
    return harmonics_to_grid(NEWAMP1_HZ, Wo, L, np.maximum(A_dB, floor[:, None])).astype(F32)


def sharpened(vectors):
    """Post filter of vectors [n][20] that come from a file: peaks up and valleys down by 1.5, same energy."""
    mean = vectors.mean(axis=1, dtype=np.float64, keepdims=True)
    emphasis = 20 * np.log10(NEWAMP1_HZ / 300)
    before = vectors - mean + emphasis
    after = 1.5 * before
    gain = 10 * np.log10(np.sum(10 ** (after / 10), 1) / np.sum(10 ** (before / 10), 1))[:, None]
    return after - gain - emphasis + mean


# ---------------------------------------------------------------- phases and synthesis

PHASE_HZ = np.arange(65) * 62.5  # where the phase model works
# log amplitude in dB on PHASE_HZ → minimum phase in rad [65][65], by folding the cepstrum
FOLD = np.r_[1, np.full(63, 2), 1, np.zeros(63)]
MINIMUM_PHASE = np.fft.rfft(np.fft.irfft(np.eye(65), 128) * FOLD).imag * np.log(10) / 20


class Random:
    """c2sim's random numbers 0…32767: a 32 bit linear congruential generator, `count` of them at a time."""

    state = np.uint32(1)

    def draw(self, count):
        factors = np.cumprod(np.r_[1, np.full(count, 1103515245)], dtype=np.uint32)
        states = factors * self.state + (np.cumsum(factors, dtype=np.uint32) - factors) * np.uint32(12345)
        self.state = states[-1]
        return states[1:] >> np.uint32(16) & np.uint32(32767)


class Phases:
    """Set the phases of model records: a model that needs none sent, or noise where the background shows through."""

    def __init__(self, phase0, postfilter):
        self.phase0, self.postfilter = phase0, postfilter
        self.random = Random()
        self.excitation = F32(0)  # phase of the fundamental
        self.background = 0.0  # dB, smoothed level of the unvoiced frames that are quiet

    def apply(self, records):
        Wo, L, A, phi = (records[name] for name in ("Wo", "L", "A", "phi"))
        harmonic, voiced = harmonic_mask(L), records["voiced"][:, None] != 0
        level = 10 * np.log10((1e-12 + np.sum(np.square(A, dtype=np.float64), 1, where=harmonic)) / np.maximum(L, 1))
        excitation, background = np.empty((2, len(L), 1))
        for f in range(len(L)):
            phase = float(self.excitation + F32(N) * Wo[f])  # float32, as in c2sim: rounding adds up over minutes
            self.excitation = excitation[f] = F32(phase - TWO_PI * math.floor(F32(phase / TWO_PI + 0.5)))
            if level[f] < BACKGROUND_DB and not voiced[f]:
                self.background = 0.9 * self.background + 0.1 * level[f]
            background[f] = self.background
        hidden = self.postfilter & (10 ** ((background + 6) / 20) > A)
        noise = harmonic & np.where(voiced, hidden, self.phase0)  # harmonics that get a random phase
        random = np.zeros(A.shape, F32)
        random[noise] = TWO_PI / 32767 * self.random.draw(np.count_nonzero(noise))  # frame by frame, m ascending
        if self.phase0:  # the vocal tract filter has the minimum phase that fits the amplitudes
            A_dB = 20 * np.log10(np.maximum(A, 1e-10, dtype=np.float64))
            theta = harmonics_to_grid(PHASE_HZ, Wo, L, A_dB) @ MINIMUM_PHASE
            bins = np.float64(HARMONICS.astype(F32) * Wo[:, None]) * (128 / TWO_PI)
            bins = (bins + 0.5).astype(F32).astype(int)  # float32 decides ties
            model = np.where(voiced, (HARMONICS * excitation).astype(F32), random)
            model += np.take_along_axis(theta, np.minimum(bins, 64), axis=1).astype(F32)
            phi[:] = np.where(harmonic, model - F32(TWO_PI) * np.rint(model / F32(TWO_PI)), 0)
        phi[noise & voiced] = random[noise & voiced]


def synthesise(records, tail):
    """Model records [n] → speech int16 [n][80], 159 samples late: inverse FFTs, overlapped by triangles.

    `tail` [1][80] is what the frame before leaves for the first one; the new one is returned, too.
    """
    X = np.zeros((len(records), FFT // 2 + 1), complex)  # double, as NumPy is faster there
    frame, m = np.nonzero(harmonic_mask(records["L"]))
    bins = (m.astype(F32) * records["Wo"][frame]).astype(np.float64) * (FFT / TWO_PI) + 0.5
    # where two harmonics meet in one bin the later one stays
    X[frame, np.minimum(bins.astype(int), 255)] = records["A"][frame, m] * np.exp(1j * records["phi"][frame, m])
    y = np.fft.irfft(X, FFT, norm="forward")
    rise = np.arange(N, dtype=F32) / N
    tails = np.vstack([tail, np.pad(y[:, 1:N], ((0, 0), (0, 1)))])  # the last sample of a frame has no overlap
    speech = np.roll(y, 79, axis=1)[:, :N] * rise + tails[:-1] * (1 - rise)
    return np.clip(speech, -32767, 32767).astype(np.int16), tails[-1:]


def main(args):
    outputs = {"bands": args.bands, "rateKout": args.rateKout, "modelout": args.modelout, "out": args.out}
    inputs = [name for name in (args.input, args.modelin, args.rateKin) if name != "-"]
    plumbing.check_outputs(outputs.values(), inputs)  # also sends what is printed to stderr if one of them is stdout
    if args.modelin:
        n = codec2_model.count_items(args.modelin)
        blocks = ((part, records, None) for part, records in codec2_model.read_blocks(args.modelin))
    else:
        speech = read_speech(args.input)
        n = -(-len(speech) // N)
        blocks = analyse(speech, need_model=bool(args.rateK or args.modelout or args.out))
    if args.rateKin and len(rate_K := codec2_model.read_rate_K(args.rateKin, NEWAMP1_K)) != n:
        why = f"{len(rate_K)} vectors, expected {n}, the frames of {args.modelin or args.input}"
        raise FormatError(f"{args.rateKin}: {why}")
    phases, tail, written = Phases(args.phase0, args.postfilter), np.zeros((1, N)), 0
    with contextlib.ExitStack() as stack:
        write = {key: create(name, stack, is_speech=key == "out") for key, name in outputs.items() if name}
        for part, records, bands in blocks:
            if args.rateK:
                vectors = rate_L_to_K(records["Wo"], records["L"], records["A"])
                if args.rateKout:
                    write["rateKout"](vectors.data)
                if args.rateKin:
                    vectors = sharpened(rate_K[part])
                records["A"] = codec2_model.rate_K_to_L(vectors, records["Wo"], records["L"])
            if args.phase0 or args.postfilter:
                phases.apply(records)
            if args.out:
                samples, tail = synthesise(records, tail)
                write["out"](samples.data)
            # digital silence has -inf dB, which is above no limit
            keep = bands.mean(axis=1) > args.bands_lower if args.bands else np.full(len(records), True)
            if args.bands:
                write["bands"](bands[keep].data)
            if args.modelout:
                codec2_model.check_records(args.modelout, records[keep], written)
                write["modelout"](records[keep].data)
            written += np.count_nonzero(keep)
        if not written:
            raise FormatError(f"{args.input}: no frame has a mean band energy above {args.bands_lower:g} dB")
    reason = f" (mean band energy not above {args.bands_lower:g} dB)" if written < n else ""
    print(f"frames: {written} written, {n - written} left out{reason}")


if __name__ == "__main__":
    plumbing.plain_errors()
    main(parse_args())
