"""Sender and receiver of a quantiser: indices for a stream of frames, and frames for a stream of
indices.

A quantiser (Coder) turns `dec` frames and their neighbours into one vector z[t], and vectors into
frames again; what is sent of a vector is one index per stage.  The sender is an M-algorithm: it
keeps the best `paths` sequences of indices, extends each of them by vector after vector, and
compares them by the frames that the receiver would decode of them.

Units: frames are float32 [n][K] in dB, vectors float32 [v][dim] without unit.
"""

import dataclasses
import math
from collections.abc import Callable

from common import classical, plumbing, spectra

import numpy as np
from keras import ops

REACH_VECTORS = 64  # vectors in the window that reaches are measured in
CHANGES = (30, -30, 1000, -1000)  # of one input; up and down, as a maximum or a rectifier hides one
SPAN_SHARE = 0.99  # of what a vector changes must lie in the frames that the search looks at
SAMPLES = 1024  # random windows that the slope of the decoder is fitted to
LOOKAHEAD_MS = 80
PATHS = 8
M_BEST = 64  # partial sums that the search carries from stage to stage, of all paths together
TRIED = 12  # of the extended paths are decoded and compared
STAND_INS = 1  # vectors of the look-ahead that are not yet decided on when a path is compared
BLOCK = 32  # vectors that receive() decodes at once
FAR = 1e30  # cost of a path that is dropped


# ---------------------------------------------------------------- what sender and receiver know


@dataclasses.dataclass
class Coder:
    """A quantiser: z_hat[t] = z_hat[t − 1] @ predictor + the sum of one codeword per stage, with
    z_hat[−1] = 0; without a predictor, the sum alone.

    The reaches are the first and last frame that z[t] depends on, and that it changes, counted from
    its own first one.
    """

    codebooks: np.ndarray  # float32 [stages][M][dim]
    predictor: np.ndarray | None  # float32 [dim][dim]
    dec: int  # frames per vector
    K: int  # values per frame
    encode: Callable  # frames [b][v · dec][K] -> vectors [b][v][dim]
    decode: Callable  # vectors [b][v][dim] -> frames [b][v · dec][K]
    encoder_reach: tuple = None
    decoder_reach: tuple = None

    def __post_init__(self):
        self.encoder_reach = self.encoder_reach or find_encoder_reach(self)
        self.decoder_reach = self.decoder_reach or find_decoder_reach(self)

    @property
    def dim(self):
        return self.codebooks.shape[2]

    def next(self, z, indices):
        """Vectors [n][dim] that follow z [n][dim] when these indices [n][stages] are received."""
        sums = sum(book[index] for book, index in zip(self.codebooks, indices.T, strict=False))
        return sums if self.predictor is None else sums + z @ self.predictor


def coder_of_network(encoder, decoder, codebooks, dec, predictor=None):
    """The Coder of two Keras models; codebooks [stages][M][dim], predictor [dim][dim] or None."""
    return Coder(
        codebooks=np.asarray(codebooks, np.float32),
        predictor=None if predictor is None else np.asarray(predictor, np.float32),
        dec=dec,
        K=encoder.input_shape[-1],
        encode=encoder.predict_on_batch,
        decode=decoder.predict_on_batch,
    )


def coder_of(quantiser):
    """The Coder of a Quantiser of common/networks.py."""
    return coder_of_network(
        quantiser.encoder,
        quantiser.decoder,
        quantiser.codebooks,
        quantiser.options["dec"],
        quantiser.predictor if quantiser.predictor.any() else None,
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
    """The Coder of k-means, stage by stage: codebooks [stages][M][dec · K], of dec frames each.

    With codebooks [stages][M][K] every dec-th frame is sent, and the others lie on straight lines.
    """

    def encode(frames):
        return frames[:, ::dec] if sends_one else frames.reshape(len(frames), -1, dec * K)

    def decode(z):
        if not sends_one:
            return z.reshape(len(z), -1, K)
        following = np.concatenate([z[:, 1:], z[:, -1:]], axis=1)
        weight = np.arange(dec, dtype=np.float32)[:, None] / dec  # of the following vector
        frames = (1 - weight) * z[:, :, None] + weight * following[:, :, None]
        return frames.reshape(len(z), -1, K)

    codebooks = np.float32(codebooks)
    sends_one = codebooks.shape[2] == K
    if sends_one:
        reaches = {"encoder_reach": (0, 0), "decoder_reach": (1 - dec, dec - 1)}
    else:
        reaches = {"encoder_reach": (0, dec - 1), "decoder_reach": (0, dec - 1)}
    return Coder(codebooks, None, dec, K, encode, decode, **reaches)


def coder_of_classical(arrays):
    """The Coder of what classical.train() returns."""
    arrays = classical.unpack(arrays)
    return Coder(
        codebooks=arrays["codebooks"],
        predictor=arrays["predictor"],
        dec=len(arrays["klt"]) // len(arrays["mean"]),
        K=len(arrays["mean"]),
        encode=lambda frames: classical.encode(frames, arrays),
        decode=lambda z: classical.decode(z, arrays),
    )


def find_changes(function, inputs, number):
    """Numbers of the outputs [...][v][values] that change when input `number` of [n][values] does."""
    changed = np.tile(inputs, (1 + len(CHANGES), 1, 1))
    changed[1:, number] += np.float32(CHANGES)[:, None]
    outputs = np.asarray(function(changed))
    step = np.abs(outputs[1:] - outputs[0]).max(axis=(0, 2))
    return np.flatnonzero(step > 1e-5 * np.abs(outputs[0]).max())


def find_encoder_reach(coder):
    """First and last frame that a vector depends on."""
    n, dec = REACH_VECTORS * coder.dec, coder.dec
    x = np.random.default_rng(1).normal(30, 15, (n, coder.K)).astype(np.float32)
    first, last = 0, dec - 1
    for frame in range(n // 2, n // 2 + dec):
        vectors = find_changes(coder.encode, x, frame)
        refuse_all(vectors, REACH_VECTORS, "encoder")
        first, last = min(first, frame - vectors[-1] * dec), max(last, frame - vectors[0] * dec)
    return int(first), int(last)


def find_decoder_reach(coder):
    """First and last frame that a vector changes."""
    z = np.random.default_rng(1).normal(size=(REACH_VECTORS, coder.dim)).astype(np.float32)
    frames = find_changes(coder.decode, z, REACH_VECTORS // 2)
    refuse_all(frames, REACH_VECTORS * coder.dec, "decoder")
    frames = frames - REACH_VECTORS // 2 * coder.dec
    return int(min(frames[0], 0)), int(max(frames[-1], coder.dec - 1))


def refuse_all(outputs, n, name):
    """FormatError if the changed outputs reach an end of the n outputs that there are."""
    if len(outputs) == 0 or outputs[0] == 0 or outputs[-1] == n - 1:
        why = "no output changes" if len(outputs) == 0 else f"{REACH_VECTORS} vectors are not enough"
        raise plumbing.FormatError(
            f"the {name}'s reach in time cannot be found, {why}: expected layers that look at "
            "neighbours, such as convolutions, and not at all that came before"
        )


def delay_ms(coder, lookahead_ms):
    """Whole algorithmic delay of encoder, search and decoder in ms: an input frame changes no
    output frame that is longer ago.
    """
    lookahead = lookahead_vectors(coder, lookahead_ms) * coder.dec
    frames = coder.encoder_reach[1] + lookahead - coder.decoder_reach[0]
    return round(frames * spectra.FRAME_S * 1000)


def usual_lookahead_ms(coder):
    """Look-ahead in ms that is worth its delay: none where vectors share no frames."""
    overlaps = coder.decoder_reach != (0, coder.dec - 1)
    return LOOKAHEAD_MS if overlaps or coder.predictor is not None else 0


def lookahead_vectors(coder, lookahead_ms):
    """Whole vectors within a look-ahead in ms: 2 for 80 ms and 4 frames per vector, 1 for 70."""
    return int(lookahead_ms / 1000 / spectra.FRAME_S / coder.dec + 1e-6)


# ---------------------------------------------------------------- m-best search


def largest(scores, k):
    """Numbers int32 [n][k] of the k largest of scores [n][N], or of all, the largest first.

    They are in the k groups of scores whose maxima are the largest.
    """
    k = min(k, scores.shape[1])
    size = math.gcd(scores.shape[1], 32)
    groups = ops.reshape(scores, (-1, scores.shape[1] // size, size))
    best = ops.top_k(ops.max(groups, axis=2), min(k, groups.shape[1]))[1]  # [n][groups]
    members = ops.take_along_axis(groups, best[:, :, None], axis=1)
    number = ops.top_k(ops.reshape(members, (-1, best.shape[1] * size)), k)[1]
    return ops.take_along_axis(best, number // size, axis=1) * size + number % size


def nearest_sums(x, codebooks, m_best, candidates=1):
    """Indices int32 [n][candidates][stages] of the sums of codewords nearest to x [n][dim], the best
    first; codebooks [stages][M][dim].

    Carries the m_best best partial sums to the next stage, so it may miss the nearest sum.
    """
    stages, M, dim = codebooks.shape
    residual = x[:, None]  # [n][partial sums][dim]
    indices = ops.zeros((ops.shape(x)[0], 1, 0), "int32")  # [n][partial sums][stages so far]
    for stage in range(stages):
        r, c = ops.reshape(residual, (-1, dim)), codebooks[stage]
        # −|r − c|² is the product of [2r, −|r|², 1] and [c, 1, −|c|²]: one pass over all pairs
        r_power, c_power = (ops.sum(v**2, axis=1, keepdims=True) for v in (r, c))
        rows = ops.concatenate([2 * r, -r_power, ops.ones_like(r_power)], axis=1)
        columns = ops.concatenate([c, ops.ones_like(c_power), -c_power], axis=1)
        scores = ops.matmul(rows, ops.transpose(columns))
        scores = ops.reshape(scores, (-1, indices.shape[1] * M))
        best = largest(scores, candidates if stage + 1 == stages else m_best)
        index, parent = best % M, (best // M)[:, :, None]
        residual = ops.take_along_axis(residual, parent, axis=1) - ops.take(c, index, axis=0)
        indices = ops.take_along_axis(indices, parent, axis=1)
        indices = ops.concatenate([indices, index[:, :, None]], axis=2)
    return indices


def smallest(values, k):
    """Numbers [k] of the k smallest of the values [N] of a NumPy array, or of all.

    The smallest first, as largest() does it.
    """
    k = min(k, len(values))
    size = math.gcd(len(values), 32)
    groups = values.reshape(size, -1)  # the minimum of columns is faster than that of rows
    best = np.argpartition(groups.min(axis=0), min(k, groups.shape[1]) - 1)[:k]
    members = groups[:, best].ravel()
    number = np.argpartition(members, k - 1)[:k]
    number = number[np.argsort(members[number], kind="stable")]
    return number // len(best) * groups.shape[1] + best[number % len(best)]


# ---------------------------------------------------------------- sender


class Slope:
    """What the decoder makes of small changes of a vector, on average over random vectors.

    frames [first, last] are those in which a vector changes something, counted from its own first
    one; matrix [dim][(last − first + 1) · K] is the mean change of them per change of the vector.
    """

    def __init__(self, coder, codebooks):
        dec, dim, rng = coder.dec, coder.dim, np.random.default_rng(1)
        first, last = coder.decoder_reach
        around = (last - first) // dec + 1  # vectors each side
        length = 2 * around + 1
        z, stages = np.zeros((SAMPLES, dim), np.float32), codebooks.shape[:2]
        steps = []
        for _ in range(length + 8):
            z = coder.next(z, rng.integers(0, stages[1], (SAMPLES, stages[0])))
            steps.append(z)
        z = np.stack(steps[-length:], axis=1)  # [SAMPLES][length][dim]
        codewords = codebooks[-1][rng.integers(0, stages[1], (2, SAMPLES))]
        change = codewords[0] - codewords[1]
        moved = z.copy()
        moved[:, around] += change
        difference = [coder.decode(part) for part in (moved, z)]
        difference = (difference[0] - difference[1])[:, around * dec + first :][:, : last - first + 1]
        size = (difference**2).sum(axis=(0, 2))
        inside = np.cumsum(size) / size.sum()
        start = np.searchsorted(inside, (1 - SPAN_SHARE) / 2)
        stop = np.searchsorted(inside, (1 + SPAN_SHARE) / 2) + 1
        self.first, self.last = int(first + start), int(first + stop - 1)
        difference = difference[:, start:stop].reshape(SAMPLES, -1)
        self.matrix = np.linalg.lstsq(change, difference, rcond=None)[0].astype(np.float32)
        metric = np.float64(self.matrix @ self.matrix.T)
        metric += 1e-4 * np.trace(metric) / dim * np.eye(dim)
        self.inverse = np.float32(np.linalg.inv(metric))
        self.root = np.float32(np.linalg.cholesky(metric))  # metric = root @ root.T


class Sender:
    """Turns a stream of frames into a stream of indices.

    Vector c is decided on when the encoder's outputs up to c + stand_ins are known.  These, and
    what the encoder makes of the frames after them as far as they are there, stand in for the
    vectors to come.  The index of vector c − lag on the best path is sent then, and paths that
    disagree with it are dropped.  lag and stand_ins together are the look-ahead.
    """

    def __init__(
        self,
        coder,
        lookahead_ms=LOOKAHEAD_MS,
        lower=-np.inf,  # dB; frames whose mean level is not above it weigh nothing
        paths=PATHS,
        m_best=M_BEST,
        tried=TRIED,
        stages=None,  # use only the first ones
        stand_ins=STAND_INS,
    ):
        self.coder, self.lower = coder, lower
        self.paths, self.m_best, self.tried = paths, m_best, tried
        self.codebooks = coder.codebooks[:stages]
        lookahead = lookahead_vectors(coder, lookahead_ms)
        self.stand_ins = min(stand_ins, lookahead)
        self.lag = lookahead - self.stand_ins
        self.before = -(coder.encoder_reach[0] // coder.dec)  # vectors that the encoder looks at
        self.after = coder.encoder_reach[1] // coder.dec

        self.slope = slope = Slope(coder, self.codebooks)
        self.around = (slope.last - slope.first) // coder.dec  # vectors that these frames depend on
        weighted = self.codebooks @ slope.root
        power = np.sum(weighted**2, axis=2, keepdims=True)
        self.columns = np.concatenate([weighted, power, np.ones_like(power)], axis=2)
        self.columns = np.ascontiguousarray(self.columns.transpose(0, 2, 1))  # [stages][dim + 2][M]

        self.frames, self.first = np.zeros((0, coder.K), np.float32), 0  # stored, number of the first
        self.z_e = []  # of vectors self.compared and later
        self.encoded = self.compared = self.sent = 0  # vectors so far
        n_frames = slope.last - slope.first + 1
        self.cost = np.full(paths, FAR, np.float32)  # squared error of frames that are decided
        self.cost[0] = 0
        self.past = None  # z_hat [paths][around][dim]
        self.indices = np.zeros((paths, 0, len(self.codebooks)), np.int32)  # not sent yet
        self.error = np.zeros((paths, n_frames, coder.K), np.float32)  # of frames that are open

    def push(self, frames):
        """Indices int32 [v][stages] that are decided once these frames [n][K] are known."""
        frames = np.maximum(np.asarray(frames, np.float32), spectra.FLOOR_DB)
        self.frames = np.concatenate([self.frames, frames])
        n, reach = self.first + len(self.frames), self.coder.encoder_reach[1] + 1
        sent = []
        while self.encoded * self.coder.dec + reach <= n:
            sent += self.step(self.encoded * self.coder.dec + reach)
        oldest = (self.compared - self.before - 2) * self.coder.dec + min(self.slope.first, 0)
        drop = max(oldest - self.first, 0)
        self.frames, self.first = self.frames[drop:], self.first + drop
        return np.array(sent, np.int32).reshape(-1, len(self.codebooks))

    def flush(self):
        """The indices that are left when no more frames come; the last vector may be incomplete."""
        n, sent = self.first + len(self.frames), []
        while self.sent < math.ceil(n / self.coder.dec):
            known = self.encoded * self.coder.dec + self.coder.encoder_reach[1] + 1
            sent += self.step(min(known, n))
        return np.array(sent, np.int32).reshape(-1, len(self.codebooks))

    def known(self, first, n, n_known):
        """Frames [n][K] from number `first` on, of n_known that are known; the outer ones are
        repeated."""
        return self.frames[np.clip(np.arange(first, first + n), 0, n_known - 1) - self.first]

    def step(self, n_known):
        """Encode the next vector, decide on the one that is due; returns a list of the indices
        [stages] that are sent."""
        dec, t = self.coder.dec, self.encoded
        length = self.before + 1 + 2 * self.after
        frames = self.known((t - self.before) * dec, length * dec, n_known)
        z_e = np.asarray(self.coder.encode(frames[None])[0])
        self.z_e.append(z_e[self.before])
        self.encoded += 1
        if self.encoded <= self.stand_ins:
            return []
        future = np.concatenate([self.z_e, z_e[self.before + 1 : self.before + 1 + self.after]])
        numbers = np.minimum(np.arange(self.around + 1), len(future) - 1)
        self.compare(future[numbers], n_known)
        self.z_e.pop(0)
        self.compared += 1
        if self.compared <= self.lag:
            return []
        sent = self.indices[0, 0]  # the best path is the first
        self.cost[(self.indices[:, 0] != sent).any(axis=1)] = FAR
        self.indices = self.indices[:, 1:]
        self.sent += 1
        return [sent]

    def compare(self, future, n_known):
        """Extend all paths by one vector; future [1 + around][dim] are the encoder's outputs for it
        and those to come."""
        slope, dec, c = self.slope, self.coder.dec, self.compared
        first, n = c * dec + slope.first, slope.last - slope.first + 1
        x = self.known(first, n, n_known)
        there = (np.arange(first, first + n) >= 0) & (np.arange(first, first + n) < n_known)
        weight = np.float32(spectra.is_counted(x, self.lower) & there)[:, None]
        if self.past is None:
            self.past = np.tile(future[0], (self.paths, self.around, 1))
            self.z_last = np.zeros((self.paths, self.coder.dim), np.float32)
        # the best change of the encoder's output, were the decoder linear
        weighted = weight * self.error
        pull = weighted.reshape(self.paths, -1) @ slope.matrix.T
        shift = pull @ slope.inverse
        base = self.cost + (weighted * self.error).sum(axis=(1, 2)) - (pull * shift).sum(axis=1)
        target = future[0] + shift
        if self.coder.predictor is not None:
            target -= self.z_last @ self.coder.predictor
        parent, indices = self.shortlist(target @ slope.root, base)
        z = self.coder.next(self.z_last[parent], indices)
        windows = np.concatenate(
            [self.past[parent], z[:, None], np.tile(future[1:], (len(z), 1, 1))], axis=1
        )
        decoded = self.decode(windows)
        error = x - decoded
        errors = (weight * error**2).sum(axis=2)  # [tried][frames]
        cost = self.cost[parent] + errors.sum(axis=1)
        order = np.argsort(cost, kind="stable")[: self.paths]
        parent, z = parent[order], z[order]
        self.cost = self.cost[parent] + errors[order, :dec].sum(axis=1)
        self.cost = np.minimum(self.cost - self.cost.min(), FAR)
        self.past = windows[order, 1 : self.around + 1]
        self.z_last = z
        self.indices = np.concatenate([self.indices[parent], indices[order, None]], axis=1)
        self.error = np.zeros_like(self.error)
        self.error[:, :-dec] = error[order, dec:]

    def decode(self, windows):
        """Frames [n][slope.first … slope.last][K] of the middle one of vectors [n][length][dim].

        The windows stand in one long sequence, which is faster than a batch; what a vector changes
        hardly reaches into the next window, and that is much the same for all of them.
        """
        n, length, dim = windows.shape
        ends = windows[:1, length - self.around :].reshape(-1, dim), windows[-1:, : self.around].reshape(-1, dim)
        row = np.concatenate([ends[0], windows.reshape(-1, dim), ends[1]])
        frames = np.asarray(self.coder.decode(row[None])[0])
        frames = frames[self.around * self.coder.dec :][: n * length * self.coder.dec]
        frames = frames.reshape(n, length * self.coder.dec, self.coder.K)
        start = self.around * self.coder.dec + self.slope.first
        return frames[:, start : start + self.slope.last - self.slope.first + 1]

    def shortlist(self, residual, base):
        """Paths [tried] and indices [tried][stages] that extend them best, were the decoder linear.

        residual [paths][dim] is what the codewords of all stages must add, base [paths] the cost if
        they could.
        """
        M, last = self.codebooks.shape[1], len(self.columns) - 1
        parent, indices = np.arange(self.paths), np.zeros((self.paths, 0), np.int32)
        for stage, columns in enumerate(self.columns):
            # base + |r − c|² is the product of [−2r, 1, base + |r|²] and [c, |c|², 1]
            power = base[parent] + (residual**2).sum(axis=1)
            rows = np.column_stack([-2 * residual, np.ones_like(power), power])
            scores = np.float32(rows) @ columns
            best = smallest(scores.ravel(), self.tried if stage == last else self.m_best)
            row, index = best // M, best % M
            parent = parent[row]
            residual = residual[row] - columns[:-2, index].T
            indices = np.column_stack([indices[row], np.int32(index)])
        return parent, indices


# ---------------------------------------------------------------- receiver


class Receiver:
    """Turns a stream of indices into a stream of frames.

    A lost vector (−1 in all stages) is interpolated between its neighbours; with a predictor, what
    was received before dies away.
    """

    def __init__(self, coder, block=1):
        self.coder, self.block = coder, block  # vectors that are decoded at once
        first, last = coder.decoder_reach
        self.before = last // coder.dec  # vectors that the frames of one depend on
        self.after = (coder.dec - 1 - first) // coder.dec
        self.z = np.zeros((0, coder.dim), np.float32)  # those stored
        self.is_known = np.zeros(0, bool)  # [vectors stored]
        self.last = np.zeros((1, coder.dim), np.float32)
        self.first = self.decoded = 0  # number of the first vector stored; vectors so far

    def push(self, indices):
        """Frames [n][K] that are decided once these indices [v][stages] are received."""
        z, known = [self.z], [self.is_known]
        for index in np.asarray(indices):
            is_known = (index >= 0).all()
            if is_known:
                self.last = self.coder.next(self.last, index[None])
            elif self.coder.predictor is not None:
                self.last = self.last @ self.coder.predictor
            z.append(self.last)
            known.append([is_known])
        self.z, self.is_known = np.concatenate(z), np.concatenate(known)
        frames = [np.zeros((0, self.coder.K), np.float32)]
        while self.decoded + self.block + self.after <= self.first + len(self.z):
            frames.append(self.decode())
        drop = max(self.decoded - self.before - REACH_VECTORS - self.first, 0)
        self.z, self.is_known, self.first = self.z[drop:], self.is_known[drop:], self.first + drop
        return np.concatenate(frames)

    def flush(self):
        """The frames that are left when no more indices come."""
        n = self.first + len(self.z) - self.decoded  # vectors
        frames = [np.zeros((0, self.coder.K), np.float32)]
        for _ in range(math.ceil(n / self.block)):
            frames.append(self.decode())
        return np.concatenate(frames)[: n * self.coder.dec]

    def decode(self):
        """Frames of the next block of vectors."""
        n = self.before + self.block + self.after
        numbers = np.arange(self.decoded - self.before, self.decoded - self.before + n) - self.first
        numbers = np.clip(numbers, 0, len(self.z) - 1)
        known = np.flatnonzero(self.is_known[: numbers[-1] + 1])
        z = self.z[: numbers[-1] + 1]
        if 0 < len(known) < len(z):
            z = np.stack([np.interp(np.arange(len(z)), known, column[known]) for column in z.T], 1)
        frames = np.asarray(self.coder.decode(np.float32(z[numbers])[None])[0])
        start = self.before * self.coder.dec
        self.decoded += self.block
        return frames[start : start + self.block * self.coder.dec]


# ---------------------------------------------------------------- whole files


def send(coder, x, **options):
    """Indices int32 [v][stages] of frames x [n][K]: v = n / dec, rounded up.  Options are those of
    Sender."""
    sender = Sender(coder, **options)
    return np.concatenate([sender.push(x), sender.flush()])


def receive(coder, indices, n):
    """The first n frames [n][K] that indices [v][stages] stand for."""
    receiver = Receiver(coder, BLOCK)
    return np.concatenate([receiver.push(indices), receiver.flush()])[:n]
