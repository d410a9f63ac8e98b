"""Sender and receiver of a quantiser: indices for a stream of frames, frames for a stream of
indices.

A quantiser (Coder) turns `dec` frames and their neighbours into one vector z[t], and vectors into
frames again; what is sent of a vector is one index per stage.  The sender is an M-algorithm: it
keeps the best `paths` sequences of indices, extends them vector by vector, and compares them by the
frames that the receiver would make of them (analysis by synthesis).

Units: frames are float32 [n][K] in dB, vectors float32 [v][dim] without unit.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from keras import ops

from common import classical, networks, plumbing, spectra

REACH_VECTORS = 64  # vectors in the window that reaches are measured in
CHANGES = (30, -30, 1000, -1000)  # of one input; up and down, as a maximum or a rectifier hides one
SAMPLES = 512  # random windows that the slope of the decoder is fitted to
SPAN_SHARE = 0.99  # of what a vector changes lies in the frames that the search looks at
LOOKAHEAD_MS = 40  # 80 gain nothing
PATHS = 32  # 8 take half the time, for 1 to 6 % of SD
M_BEST = 128  # partial sums that the search carries from stage to stage, of all paths together
STAND_INS = 1  # vectors of the look-ahead for which `expected` stands in when paths are compared
# bits per value.  With fewer, a quantised vector is too unlike the encoder's output: then a
# look-ahead of one vector is better spent on deciding on that vector, too
STAND_IN_BITS = 0.4
CLASSICAL_STAND_IN_BITS = 0.7
FAR = np.float32(1e30)  # cost of a path that is dropped
AT_ONCE = 32  # vectors that receive() decodes at once


# ---------------------------------------------------------------- what sender and receiver know


@dataclasses.dataclass
class Coder:
    """A quantiser: z_hat[t] = z_hat[t − 1] @ predictor + the sum of one codeword per stage, with
    z_hat[−1] = 0; without a predictor, the sum alone.

    The reaches are the first and last frame that z[t] depends on, and that it changes, counted from
    its own first one.  They are measured where not given; FormatError if they have no end.
    """

    codebooks: np.ndarray  # float32 [stages][M][dim]
    predictor: np.ndarray | None  # float32 [dim][dim]
    dec: int  # frames per vector
    K: int  # values per frame
    encode: Callable  # frames [b][v · dec][K] → vectors [b][v][dim]
    decode: Callable  # vectors [b][v][dim] → frames [b][v · dec][K]
    expected: np.ndarray | None = None  # float32 [dim][dim]: z_hat is about z @ expected; None: z
    stand_in_bits: float = STAND_IN_BITS  # per value, at least, for a stand-in in a look-ahead of 1
    encoder_reach: tuple | None = None
    decoder_reach: tuple | None = None

    def __post_init__(self):
        if self.expected is None:
            self.expected = np.eye(self.dim, dtype=np.float32)
        if self.encoder_reach is None:
            self.encoder_reach = find_encoder_reach(self.encode, self.dec, self.K)
        if self.decoder_reach is None:
            self.decoder_reach = find_decoder_reach(self.decode, self.dec, self.dim)

    @property
    def dim(self):
        return self.codebooks.shape[2]

    def usual_stand_ins(self, lookahead):
        """How many of so many vectors of look-ahead stand in for those to come."""
        stages, M, _ = self.codebooks.shape
        bits_per_value = stages * np.log2(M) / (self.dec * self.K)
        if lookahead == 1 and bits_per_value < self.stand_in_bits:
            return 0
        return min(STAND_INS, lookahead)

    def following(self, z, indices):
        """Vectors [n][dim] that follow z [n][dim] when these indices [n][stages] are received; the
        indices may be those of the first stages only.
        """
        total = sum(self.codebooks[stage][index] for stage, index in enumerate(indices.T))
        return total if self.predictor is None else total + z @ self.predictor

    def vectors(self, indices):
        """Vectors [v][dim] that indices [v][stages] stand for, from the first of all on."""
        z, vectors = np.zeros((1, self.dim), np.float32), []
        for index in indices:
            z = self.following(z, index[None])
            vectors.append(z[0])
        return np.stack(vectors)

    def predict(self, z):
        """What follows unquantised z [...][dim] on average; without a predictor, z."""
        return z if self.predictor is None else z @ self.predictor


def coder_of_network(encoder, decoder, codebooks, dec, predictor=None, expected=None):
    """The Coder of two Keras models; codebooks [stages][M][dim], predictor [dim][dim], or None or
    zeros where nothing is predicted; expected [dim][dim] or None.
    """
    has_predictor = predictor is not None and np.any(predictor)
    return Coder(
        codebooks=np.asarray(codebooks, np.float32),
        predictor=np.asarray(predictor, np.float32) if has_predictor else None,
        dec=dec,
        K=encoder.input_shape[-1],
        encode=networks.runner(encoder),
        decode=networks.runner(decoder),
        expected=expected,
    )


def coder_of(quantiser):
    """The Coder of a Quantiser of common/networks.py."""
    return coder_of_network(
        quantiser.encoder,
        quantiser.decoder,
        quantiser.codebooks,
        quantiser.options["dec"],
        quantiser.predictor,
        quantiser.expected,
    )


def baseline_of(quantiser):
    """The Coder of the classical quantiser that a Quantiser brings along, or None."""
    arrays, options = quantiser.baseline, quantiser.options
    if "classical_codebooks" in arrays:
        return coder_of_classical(arrays)
    if "kmeans" in arrays:
        return coder_of_kmeans(arrays["kmeans"], options["dec"], options["eband_K"])
    return None


def coder_of_kmeans(codebooks, dec, K):
    """The Coder of k-means, stage by stage: codebooks [stages][M][dec · K], of dec frames each."""

    def encode(frames):
        return frames.reshape(len(frames), -1, dec * K)

    def decode(z):
        return z.reshape(len(z), -1, K)

    own = (0, dec - 1)  # vectors share no frames
    reaches = {"encoder_reach": own, "decoder_reach": own}
    return Coder(np.float32(codebooks), None, dec, K, encode, decode, **reaches)


def coder_of_classical(arrays):
    """The Coder of what classical.train() returns."""
    arrays = classical.unpack(arrays)
    K = len(arrays["mean"])
    return Coder(
        codebooks=arrays["codebooks"],
        predictor=arrays["predictor"],
        dec=len(arrays["klt"]) // K,
        K=K,
        encode=lambda frames: classical.encode(frames, arrays["mean"], arrays["klt"]),
        decode=lambda z: classical.decode(z, arrays["mean"], arrays["smoother"]),
        expected=arrays["expected"],
        stand_in_bits=CLASSICAL_STAND_IN_BITS,
    )


def find_changes(function, inputs, number, name):
    """Numbers of the outputs [...][v][values] that change when input `number` of [n][values] does.

    FormatError if these are none, or go up to the first or last output.
    """
    changed = np.tile(inputs, (1 + len(CHANGES), 1, 1))
    changed[1:, number] += np.float32(CHANGES)[:, None]
    outputs = np.asarray(function(changed))
    step = np.abs(outputs[1:] - outputs[0]).max(axis=(0, 2))
    numbers = np.flatnonzero(step > 1e-5 * np.abs(outputs[0]).max())  # float32 rounds
    if len(numbers) == 0 or numbers[0] == 0 or numbers[-1] == len(step) - 1:
        raise plumbing.FormatError(
            f"the {name} looks at {'nothing' if len(numbers) == 0 else 'all'} of {REACH_VECTORS} "
            "vectors, expected layers that look at neighbours, such as convolutions"
        )
    return numbers


def find_encoder_reach(encode, dec, K):
    """First and last frame that a vector depends on, counted from its own first one."""
    n = REACH_VECTORS * dec
    x = np.random.default_rng(1).normal(30, 15, (n, K)).astype(np.float32)
    first, last = 0, dec - 1
    for frame in range(n // 2, n // 2 + dec):
        vectors = find_changes(encode, x, frame, "encoder")
        first = min(first, frame - vectors[-1] * dec)
        last = max(last, frame - vectors[0] * dec)
    return int(first), int(last)


def find_decoder_reach(decode, dec, dim):
    """First and last frame that a vector changes, counted from its own first one."""
    middle = REACH_VECTORS // 2
    z = np.random.default_rng(1).normal(size=(REACH_VECTORS, dim)).astype(np.float32)
    frames = find_changes(decode, z, middle, "decoder") - middle * dec
    return int(min(frames[0], 0)), int(max(frames[-1], dec - 1))


def lookahead_vectors(coder, lookahead_ms):
    """Whole vectors within a look-ahead: of 4 frames each, 2 in 80 ms and 1 in 79."""
    return int(lookahead_ms / 1000 / spectra.FRAME_S / coder.dec + 1e-6)


def delay_ms(coder, lookahead_ms=LOOKAHEAD_MS):
    """Whole algorithmic delay of encoder, search and decoder: a decoded frame depends on no input
    frame that is further ahead.

    An encoder that looks 5 frames ahead of the first of its own 4, 40 ms, and a decoder that
    changes frames up to 2 before its own: 50 + 40 + 20 ms.
    """
    lookahead = lookahead_vectors(coder, lookahead_ms) * coder.dec
    frames = coder.encoder_reach[1] + lookahead - coder.decoder_reach[0]
    return round(frames * spectra.FRAME_S * 1000)


def usual_lookahead_ms(coder):
    """Look-ahead in ms that is worth its delay: none where vectors share no frames, else a vector
    at least.
    """
    if coder.decoder_reach == (0, coder.dec - 1) and coder.predictor is None:
        return 0
    return max(LOOKAHEAD_MS, round(coder.dec * spectra.FRAME_S * 1000))


# ---------------------------------------------------------------- m-best search


def pick(x, numbers):
    """x[i, numbers[i]] of x [n][N][...] for numbers [n][k]: [n][k][...].

    ops.take_along_axis does the same, but is so slow that largest() would take 3.6 times as long.
    """
    n, N = ops.shape(x)[0], x.shape[1]
    flat = ops.reshape(x, (n * N, *x.shape[2:]))
    return ops.take(flat, ops.arange(n)[:, None] * N + numbers, axis=0)


def largest(scores, k):
    """Numbers int32 [n][k] of the k largest of scores [n][N], or of all, the largest first.

    They are in the k groups of scores whose maxima are the largest.  For N = 8192 it is 4.8 times
    as fast as ops.top_k with k = 4, and 1.9 times with k = 32 (TensorFlow, one core).
    """
    k = min(k, scores.shape[1])
    size = math.gcd(scores.shape[1], 32)
    groups = ops.reshape(scores, (-1, scores.shape[1] // size, size))
    best = ops.top_k(ops.max(groups, axis=2), min(k, groups.shape[1]))[1]  # [n][groups]
    members = ops.reshape(pick(groups, best), (-1, best.shape[1] * size))
    number = ops.top_k(members, k)[1]
    return pick(best, number // size) * size + number % size


def nearest_sums(x, codebooks, m_best):
    """Indices int32 [n][stages]: the sum of codewords nearest to each x [n][dim]; codebooks
    [stages][M][dim].

    Carries the m_best best partial sums to the next stage, so it may miss the nearest sum.
    """
    stages, M, dim = codebooks.shape
    residual = x[:, None]  # [n][partial sums][dim]
    indices = ops.zeros((ops.shape(x)[0], 1, 0), "int32")  # [n][partial sums][stages so far]
    for stage in range(stages):
        r, c = ops.reshape(residual, (-1, dim)), codebooks[stage]
        # −|r − c|² is the product of [2r, −|r|², 1] and [c, 1, −|c|²]: one pass over all pairs
        r_power, c_power = (ops.sum(values**2, axis=1, keepdims=True) for values in (r, c))
        rows = ops.concatenate([2 * r, -r_power, ops.ones_like(r_power)], axis=1)
        columns = ops.concatenate([c, ops.ones_like(c_power), -c_power], axis=1)
        scores = ops.matmul(rows, ops.transpose(columns))
        scores = ops.reshape(scores, (-1, indices.shape[1] * M))
        best = largest(scores, 1 if stage + 1 == stages else m_best)
        index, parent = best % M, best // M
        residual = pick(residual, parent) - ops.take(c, index, axis=0)
        indices = ops.concatenate([pick(indices, parent), index[:, :, None]], axis=2)
    return indices[:, 0]


# ---------------------------------------------------------------- sender


class Slope:
    """What the decoder makes of a change of one vector, on average over random vectors.

    first, last  the frames that change, counted from the vector's own first one, but for the outer
                 ones that hardly do
    matrix       [dim][frames · K], their change in dB per change of the vector
    inverse      [dim][dim], of the metric matrix @ matrix.T
    root         [dim][dim], metric = root @ root.T
    """

    def __init__(self, coder, codebooks):
        rng = np.random.default_rng(1)
        first, last = coder.decoder_reach
        middle = (last - first) // coder.dec + 1
        stages, M, dim = codebooks.shape
        z, vectors = np.zeros((SAMPLES, dim), np.float32), []
        for _ in range(3 * middle):  # the first ones still follow from z = 0
            z = coder.following(z, rng.integers(0, M, (SAMPLES, stages)))
            vectors.append(z)
        z = np.stack(vectors[-2 * middle - 1 :], axis=1)  # [SAMPLES][2 · middle + 1][dim]
        some, others = codebooks[-1][rng.integers(0, M, (2, SAMPLES))]
        moved = z.copy()
        moved[:, middle] += some - others
        change = np.asarray(coder.decode(moved)) - np.asarray(coder.decode(z))
        change = change[:, middle * coder.dec + first : middle * coder.dec + last + 1]

        size = (change**2).sum(axis=(0, 2))  # [frames]
        share = np.cumsum(size) / size.sum()
        start, end = np.searchsorted(share, [(1 - SPAN_SHARE) / 2, (1 + SPAN_SHARE) / 2])
        self.first, self.last = first + int(start), first + int(end)
        change = change[:, start : end + 1].reshape(SAMPLES, -1)
        # few codewords leave directions that nothing is known of: rounding errors would decide
        matrix, *_ = np.linalg.lstsq(some - others, change, rcond=1e-3)
        self.matrix = matrix.astype(np.float32)
        metric = np.float64(self.matrix @ self.matrix.T)
        metric += 1e-4 * np.trace(metric) / dim * np.eye(dim)
        self.inverse = np.linalg.inv(metric).astype(np.float32)
        self.root = np.linalg.cholesky(metric).astype(np.float32)


class Sender:
    """Turns a stream of frames into a stream of indices.

    A path is a sequence of indices; the best `paths` of them are kept.  A path is extended by
    vector c once the encoder's outputs up to vector c + stand_ins are known, and judged by the
    frames that would be decoded.  These also depend on vectors after c, which are not chosen yet.
    In their place stands z_e @ expected; where not all frames of z_e have come, the newest frame is
    repeated, and further ahead stands the prediction.  Then the index of vector c − lag on the best
    path is sent, and paths that disagree with it are dropped.  The look-ahead is lag + stand_ins.

    Every step computes with arrays of the same shapes, so indices do not depend on how many frames
    come at once.
    """

    def __init__(
        self,
        coder,
        lookahead_ms=LOOKAHEAD_MS,
        lower=-np.inf,  # dB; frames whose mean level is not above it weigh nothing
        paths=None,  # that are kept; PATHS
        m_best=M_BEST,
        tried=None,  # extended paths that are decoded and compared; two for each that is kept
        stages=None,  # use only the first ones
        stand_ins=None,  # vectors of the look-ahead; the usual ones of the coder
    ):
        self.coder, self.lower = coder, lower
        self.paths = paths or PATHS
        self.tried = tried or 2 * self.paths
        self.m_best = m_best
        lookahead = lookahead_vectors(coder, lookahead_ms)
        if stand_ins is None:
            stand_ins = coder.usual_stand_ins(lookahead)
        self.stand_ins = min(stand_ins, lookahead)
        self.lag = lookahead - self.stand_ins
        self.before = -(coder.encoder_reach[0] // coder.dec)  # vectors that the encoder looks at
        self.after = coder.encoder_reach[1] // coder.dec

        self.codebooks = coder.codebooks[:stages]
        self.slope = slope = Slope(coder, self.codebooks)
        self.nb_frames = slope.last - slope.first + 1  # that are looked at
        self.around = self.nb_frames // coder.dec  # vectors each side that change them, too
        codewords = self.codebooks @ slope.root
        power = np.sum(codewords**2, axis=2, keepdims=True)
        columns = np.concatenate([codewords, power, np.ones_like(power)], axis=2)
        self.columns = np.ascontiguousarray(columns.transpose(0, 2, 1))  # [stages][dim + 2][M]

        self.frames = np.zeros((0, coder.K), np.float32)  # those that are still needed
        self.first = 0  # number of the first of these
        self.encoded = self.extended = self.sent = 0  # vectors so far
        self.z_e = []  # encoder's outputs from number self.extended on

        # of each path
        n = self.paths
        self.cost = np.full(n, FAR)  # squared error of the frames that no later vector changes
        self.cost[0] = 0
        self.z = np.zeros((n, coder.dim), np.float32)  # the last vector
        self.past = None  # the last vectors [paths][around][dim]
        self.error = np.zeros((n, self.nb_frames, coder.K), np.float32)  # of the other frames
        self.indices = np.zeros((n, 0, len(self.codebooks)), np.int32)  # not sent yet

    def push(self, frames):
        """Indices int32 [v][stages] that are decided when these frames [n][K] have come."""
        frames = np.maximum(np.asarray(frames, np.float32), spectra.FLOOR_DB)
        self.frames = np.concatenate([self.frames, frames])
        indices = []
        while self.needed() <= self.first + len(self.frames):
            indices += self.step(self.needed())
        encoder_first = (self.encoded - self.before) * self.coder.dec
        slope_first = self.extended * self.coder.dec + self.slope.first
        newest = self.first + len(self.frames) - 1  # is repeated when it is the last of all
        first = max(min(encoder_first, slope_first, newest), self.first)
        self.frames, self.first = self.frames[first - self.first :], first
        return np.array(indices, np.int32).reshape(-1, len(self.codebooks))

    def flush(self):
        """The indices that are left when no more frames come; the last vector may be incomplete."""
        n = self.first + len(self.frames)
        indices = []
        while self.sent < math.ceil(n / self.coder.dec):
            indices += self.step(min(self.needed(), n))
        return np.array(indices, np.int32).reshape(-1, len(self.codebooks))

    def needed(self):
        """Frames that must have come before the next vector is encoded."""
        return self.encoded * self.coder.dec + self.coder.encoder_reach[1] + 1

    def window(self, first, n, nb_seen):
        """Frames [n][K] from number `first` on; the first and last of the nb_seen are repeated."""
        numbers = np.clip(np.arange(first, first + n), 0, nb_seen - 1)
        return self.frames[numbers - self.first]

    def step(self, nb_seen):
        """Encode the next vector and extend the paths by the one that is due; list of the indices
        [stages] that are sent then.  Only frames below number nb_seen are looked at.
        """
        dec, here = self.coder.dec, self.before
        first, length = self.encoded - here, here + 1 + 2 * self.after  # vectors
        x = self.window(first * dec, length * dec, nb_seen)
        z_e = np.asarray(self.coder.encode(x[None]))[0]
        self.z_e.append(z_e[here])
        self.encoded += 1
        if self.encoded <= self.stand_ins:
            return []
        outputs = [*self.z_e, *z_e[here + 1 : here + 1 + self.after]]
        for _ in range(self.around + 1 - len(outputs)):
            outputs.append(self.coder.predict(outputs[-1]))
        outputs = np.stack(outputs[: 1 + self.around])
        self.extend(outputs[0], outputs[1:] @ self.coder.expected, nb_seen)
        self.z_e.pop(0)
        self.extended += 1
        if self.extended <= self.lag:
            return []
        index = self.indices[0, 0]  # the best path is the first
        self.cost[(self.indices[:, 0] != index).any(axis=1)] = FAR
        self.indices = self.indices[:, 1:]
        self.sent += 1
        return [index]

    def extend(self, z_e, later, nb_seen):
        """Extend the paths by one vector, of which the encoder makes z_e [dim]; later [around][dim]
        stand in for those after it.
        """
        dec, slope = self.coder.dec, self.slope
        numbers = self.extended * dec + np.arange(slope.first, slope.last + 1)
        x = self.window(numbers[0], self.nb_frames, nb_seen)
        counts = spectra.is_counted(x, self.lower) & (numbers >= 0) & (numbers < nb_seen)
        weight = np.float32(counts)[:, None]
        if self.past is None:
            self.past = np.tile(z_e, (self.paths, self.around, 1))

        # where the error of a path is least, were the decoder linear: cost, and vector for it
        error = weight * self.error
        pull = error.reshape(self.paths, -1) @ slope.matrix.T
        shift = pull @ slope.inverse
        cost = self.cost + (error**2).sum(axis=(1, 2)) - (pull * shift).sum(axis=1)
        target = z_e + shift
        if self.coder.predictor is not None:
            target = target - self.z @ self.coder.predictor
        parent, indices = self.shortlist(cost, target @ slope.root)

        z = self.coder.following(self.z[parent], indices)
        later = np.tile(later, (len(z), 1, 1))
        windows = np.concatenate([self.past[parent], z[:, None], later], axis=1)
        error = x - self.decode(windows)
        squared = (weight * error**2).sum(axis=2)  # [tried][frames]
        cost = self.cost[parent] + squared.sum(axis=1)
        best = np.argsort(cost, kind="stable")[: self.paths]
        parent = parent[best]

        cost = self.cost[parent] + squared[best, :dec].sum(axis=1)
        self.cost = np.minimum(cost - cost.min(), FAR)
        self.z = z[best]
        self.past = windows[best, 1 : 1 + self.around]
        self.error = np.pad(error[best, dec:], ((0, 0), (0, dec), (0, 0)))
        self.indices = np.concatenate([self.indices[parent], indices[best, None]], axis=1)

    def shortlist(self, cost, residual):
        """Path [tried] and indices [tried][stages] of the extended paths that are best, were the
        decoder linear.

        The codewords of all stages should add up to residual [paths][dim], in the coordinates of
        the slope's root; then the path costs cost [paths].
        """
        M, last = self.codebooks.shape[1], len(self.columns) - 1
        parent, indices = np.arange(self.paths), np.zeros((self.paths, 0), np.int32)
        for stage, columns in enumerate(self.columns):
            # cost + |r − c|² is the product of [−2r, 1, cost + |r|²] and [c, |c|², 1]
            power = cost[parent] + (residual**2).sum(axis=1)
            rows = np.column_stack([-2 * residual, np.ones_like(power), power])
            costs = rows @ columns  # [rows][M]
            k = self.tried if stage == last else self.m_best
            best = classical.smallest(costs.reshape(1, -1), k)[0]
            row, index = best // M, best % M
            parent = parent[row]
            residual = residual[row] - columns[:-2, index].T
            indices = np.column_stack([indices[row], np.int32(index)])
        return parent, indices

    def decode(self, windows):
        """Frames [n][nb_frames][K] that the middle ones of vectors [n][2 · around + 1][dim] change.

        The windows stand in one long row, which a network decodes faster than a batch of them.  A
        vector hardly changes frames of other windows, and what stands there is much the same.
        """
        n, length, dim = windows.shape
        dec, around = self.coder.dec, self.around
        start = windows[0, length - around :]
        end = windows[-1, :around]
        row = np.concatenate([start, windows.reshape(-1, dim), end])
        frames = np.asarray(self.coder.decode(row[None]))[0]
        frames = frames[around * dec : (around + n * length) * dec]
        frames = frames.reshape(n, length * dec, self.coder.K)
        first = around * dec + self.slope.first
        return frames[:, first : first + self.nb_frames]


# ---------------------------------------------------------------- receiver


class Receiver:
    """Turns a stream of indices into a stream of frames.

    A lost vector, −1 in all stages, is the last one, or what is predicted from it, until the next
    one comes; then it is interpolated between these two.
    """

    def __init__(self, coder, block=1):
        self.coder, self.block = coder, block  # vectors that are decoded at once
        first, last = coder.decoder_reach
        self.before = last // coder.dec  # vectors that the frames of one depend on
        self.after = (coder.dec - 1 - first) // coder.dec
        self.z = []  # received vectors [dim] that are still needed, lost ones filled in
        self.first = self.received = self.decoded = 0  # the first of these; vectors so far
        self.predicted_from = np.zeros((1, coder.dim), np.float32)
        self.last_received = None  # the last vector that was not lost
        self.nb_lost = 0  # vectors since then

    def push(self, indices):
        """Frames [n][K] that are decided when these indices [v][stages] have come."""
        frames = [np.zeros((0, self.coder.K), np.float32)]
        for index in np.asarray(indices):
            self.receive(index)
            if self.received >= self.decoded + self.block + self.after:
                frames.append(self.decode())
        return np.concatenate(frames)

    def flush(self):
        """The frames that are left when no more indices come."""
        n = self.received - self.decoded  # vectors
        frames = [np.zeros((0, self.coder.K), np.float32)]
        while self.decoded < self.received:
            frames.append(self.decode())
        return np.concatenate(frames)[: n * self.coder.dec]

    def receive(self, index):
        """Add one vector, and fill in those that were lost before it."""
        self.received += 1
        if (index < 0).any():
            self.predicted_from = self.coder.predict(self.predicted_from)
            self.nb_lost += 1
            self.z.append(self.predicted_from[0])
            return
        self.predicted_from = self.coder.following(self.predicted_from, index[None])
        z = self.predicted_from[0]
        before = z if self.last_received is None else self.last_received
        for i in range(1, min(self.nb_lost, len(self.z)) + 1):  # the last one first
            self.z[-i] = z + (before - z) * np.float32(i / (self.nb_lost + 1))
        self.last_received, self.nb_lost = z, 0
        self.z.append(z)

    def decode(self):
        """Frames [block · dec][K] of the next block of vectors; the outer vectors are repeated."""
        first = self.decoded - self.before
        numbers = np.arange(first, first + self.before + self.block + self.after)
        numbers = np.clip(numbers, 0, self.received - 1) - self.first
        frames = np.asarray(self.coder.decode(np.stack([self.z[i] for i in numbers])[None]))[0]
        self.decoded += self.block
        oldest = max(self.decoded - self.before, 0)
        self.z, self.first = self.z[oldest - self.first :], oldest
        return frames[self.before * self.coder.dec :][: self.block * self.coder.dec]


# ---------------------------------------------------------------- whole files


def send(coder, x, lookahead_ms=LOOKAHEAD_MS, **options):
    """Indices int32 [v][stages] of frames x [n][K], v = n / dec, rounded up; options of Sender."""
    sender = Sender(coder, lookahead_ms, **options)
    return np.concatenate([sender.push(x), sender.flush()])


def receive(coder, indices, n):
    """The first n frames [n][K] that indices [v][stages] stand for."""
    receiver = Receiver(coder, AT_ONCE)
    return np.concatenate([receiver.push(indices), receiver.flush()])[:n]
