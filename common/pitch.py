"""Pitch and voicing that can be sent: a track of them, its coding in blocks of 40 ms, its decoding.

The tracker finds, in every frame, the lags at which the autocorrelation has peaks, and then the
path through these candidates that is likely as a whole: jumps of the pitch and changes of voicing
cost something (P. Boersma, "Accurate short-term analysis of the fundamental frequency", IFA
Proceedings 17, 1993).

A block of four frames becomes one index of 6 or 8 bits.  What an index means depends on what came
before: after an unvoiced frame it tells where a voice begins and roughly at which pitch, the next
one makes that pitch precise, and those after it change it.  The sender keeps several sequences of
indices and takes the one of which the receiver makes the track that is nearest to the real one.

Units: pitch is log2 of the frequency in Hz, so that differences are octaves; NaN is unvoiced.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.spectra import FS_HZ

N = 80  # samples per frame
BLOCK = 4  # frames that one index stands for

# ------------------------------------------------------------------------------- tracker

LOW_HZ, HIGH_HZ = 60, 400  # of the pitch; a voice may fall to LOWEST between two indices
WINDOW = 320  # samples, three periods of 75 Hz; a longer one smooths away what PESQ hears
FFT = 1024  # points
UPSAMPLED = 2  # points of the autocorrelation per sample, so that a parabola finds its peaks
CANDIDATES = 14  # peaks of a frame
LOOKAHEAD = 3  # frames; 10 more change 1 % of the voiced ones
VOICED = 0.45  # autocorrelation, 1 for a periodic signal, above which a loud frame is voiced
SILENT = 0.02  # frames whose peak is this far below the loudest are hardly voiced
DECAY = 0.9998  # per frame, of the loudest peak: 10 dB per minute
QUIETEST = 100.0  # the loudest peak is never taken to be less
OCTAVE_COST = 0.01  # per octave downwards: of two equally high peaks the higher pitch wins
JUMP_COST = 0.35  # per octave from frame to frame
VOICING_COST = 0.14  # of a change between voiced and unvoiced

HANN = np.hanning(WINDOW + 1)[:WINDOW]
LAGS = np.arange(int(UPSAMPLED * FS_HZ / HIGH_HZ) - 1, int(UPSAMPLED * FS_HZ / LOW_HZ) + 3)


def autocorrelation(frames):
    """Of windowed frames [n][WINDOW], at LAGS [n][lags]."""
    X = np.fft.rfft(frames, FFT)
    r = np.fft.irfft(X.real**2 + X.imag**2, FFT * UPSAMPLED)
    return r[:, LAGS] / np.maximum(r[:, :1], 1e-9)


OF_WINDOW = autocorrelation(HANN[None])


def candidates(frames):
    """Strengths and lags in samples, both [n][CANDIDATES], of the peaks of the autocorrelation of
    frames [n][WINDOW]; a strength is −inf where there are fewer peaks.

    Divided by that of the window, the autocorrelation of a periodic signal is about 1 at its
    period.
    """
    centred = frames - frames.mean(axis=1, keepdims=True)
    r = autocorrelation(centred * HANN) / OF_WINDOW
    left, middle, right = r[:, :-2], r[:, 1:-1], r[:, 2:]
    is_peak = (middle > left) & (middle >= right) & (middle > 0.1)
    curve = np.where(is_peak, np.minimum(left - 2 * middle + right, -1e-12), -1)
    # of the top of a parabola through the three, which a single click makes equal but for rounding
    shift = np.clip((left - right) / (2 * curve), -0.5, 0.5)
    strength = np.minimum(middle - (left - right) * shift / 4, 1)
    lag = (LAGS[1:-1] + np.where(is_peak, shift, 0)) / UPSAMPLED
    inside = is_peak & (lag >= FS_HZ / HIGH_HZ) & (lag <= FS_HZ / LOW_HZ)
    strength = strength - OCTAVE_COST * np.log2(lag * (HIGH_HZ / FS_HZ))
    strength = np.where(inside, strength, -np.inf)
    best = np.argsort(-strength, axis=1, kind="stable")[:, :CANDIDATES]
    row = np.arange(len(best))[:, None]
    return strength[row, best], lag[row, best]


class Tracker:
    """Pitch [n] of frame after frame of a stream of samples.

    Frame n is centred at sample 80 (n − 1), as in c2sim.py, and its window ends with the frame's
    last sample.  A frame's pitch is decided LOOKAHEAD frames later.
    """

    def __init__(self):
        self.past = np.zeros(WINDOW - N)  # samples before the next frame
        self.loudest = QUIETEST
        self.score = None  # of the best path to each candidate of the last frame; 0 is unvoiced
        self.last = None  # these candidates
        self.pitches = []  # [1 + CANDIDATES] of the frames that are not decided yet
        self.back = []  # candidate of the frame before, on the best path to each of theirs

    def push(self, samples):
        """Pitch [n] of the frames that are decided once these samples [80 n] are known."""
        x = np.concatenate([self.past, samples])
        self.past = x[-len(self.past) :]
        frames = sliding_window_view(x, WINDOW)[::N]
        peaks = np.abs(frames - frames.mean(axis=1, keepdims=True)).max(axis=1)
        strengths, lags = candidates(frames)
        strengths = np.column_stack([[self.unvoiced_strength(peak) for peak in peaks], strengths])
        pitches = np.column_stack([np.full(len(lags), np.nan), np.log2(FS_HZ / lags)])
        decided = []
        for frame_strengths, frame_pitches in zip(strengths, pitches, strict=True):
            self.extend(frame_strengths, frame_pitches)
            if len(self.pitches) > LOOKAHEAD:
                decided.append(self.decide())
        return np.array(decided)

    def unvoiced_strength(self, peak):
        """Update the loudest peak so far by that of the next frame; strength of no voice in it.

        VOICED if the frame is loud, up to 2 more for silence, which is then never voiced.
        """
        self.loudest = max(self.loudest * DECAY, peak)
        return VOICED + max(2 - peak / self.loudest * (1 + VOICED) / SILENT, 0)

    def flush(self):
        """Pitch [n] of the frames that are left."""
        return np.array([self.decide() for _ in range(len(self.pitches))])

    def extend(self, strengths, pitches):
        """Add a frame with these candidates [1 + CANDIDATES] to the paths."""
        if self.score is None:
            self.score, back = strengths, np.zeros(len(strengths), int)
        else:
            cost = JUMP_COST * np.abs(self.last[:, None] - pitches)
            cost[0], cost[:, 0], cost[0, 0] = VOICING_COST, VOICING_COST, 0
            score = self.score[:, None] - cost
            back = score.argmax(axis=0)
            self.score = score.max(axis=0) + strengths
            self.score -= self.score.max()
        self.last = pitches
        self.pitches.append(pitches)
        self.back.append(back)

    def decide(self):
        """Pitch of the oldest frame, on the path that is the best one now."""
        chosen = self.score.argmax()
        for back in self.back[:0:-1]:
            chosen = back[chosen]
        self.back.pop(0)
        return self.pitches.pop(0)[chosen]


def track(speech):
    """Pitch [n] of all frames of speech int16 [samples]; zeros fill up the last one."""
    tracker = Tracker()
    parts = []
    for start in range(0, len(speech), 512 * N):
        samples = speech[start : start + 512 * N]
        parts.append(tracker.push(np.pad(samples, (0, -len(samples) % N))))
    return np.concatenate([*parts, tracker.flush()])


# ------------------------------------------------------------------------------- codes

LOWEST, HIGHEST = np.log2(55), np.log2(400)  # of what is decoded
NONE = [np.nan] * BLOCK
RISE = np.arange(1, BLOCK + 1) / BLOCK  # of a straight line from the last frame before a block
BEND = np.array([0.5, 1, 0.5, 0])  # what a pitch may do besides
FALLS = (-0.1, 0, 0.1)  # octaves per block, of a voice that ends within it
UNVOICED, BEGUN, VOICED_ON = range(3)  # states: the last frame has no voice, a new one, an old one


class State(NamedTuple):
    """What sender and receiver know after a block, of one sequence of indices or of many [n]."""

    kind: np.ndarray  # int [n]
    pitch: np.ndarray  # of the last frame, NaN if UNVOICED
    first: np.ndarray  # the first voiced frame of the block if BEGUN, otherwise 0


START = State(np.array([UNVOICED]), np.array([np.nan]), np.array([0]))


class Layout(NamedTuple):
    """How the indices are shared out."""

    cells: int  # equal parts of the pitch range that a voice may begin in
    fine: int  # parts of a cell, in the index after it
    changes: tuple  # octaves per block, in that index
    bends: tuple  # octaves, in that index
    later_changes: tuple  # octaves per block, in all others
    later_bends: tuple  # octaves, in all others


def grid(n, largest, power):
    """n values from −largest to largest, closer together around 0: grid(5, 1, 2) is −1, −1/4, 0,
    1/4, 1."""
    x = np.linspace(-1, 1, n)
    return tuple(np.sign(x) * np.abs(x) ** power * largest)


# 1 + 4 · cells, 1 + fine · changes · bends + 9 and 1 + 9 + changes · bends must fit into 2^bits
LAYOUTS = {
    6: Layout(15, 9, grid(6, 0.3, 1.5), (0,), grid(17, 0.3, 1.8), (-0.04, 0, 0.04)),
    8: Layout(63, 3, grid(15, 0.3, 1.5), grid(5, 0.06, 1), grid(49, 0.3, 1.8), grid(5, 0.06, 1)),
}


class Codes:
    """What the indices of 6 or 8 bits mean, after each state.

    Index 0 is four unvoiced frames, always.
    """

    def __init__(self, bits):
        layout = LAYOUTS[bits]
        cell = (HIGHEST - LOWEST) / layout.cells
        levels = LOWEST + cell * (np.arange(layout.cells) + 0.5)
        self.bits, self.half_cell = bits, cell / 2
        unvoiced = [NONE]
        for first in range(BLOCK):
            for level in levels:
                unvoiced.append([np.nan] * first + [level] * (BLOCK - first))

        # of a voice that has begun in the block before: how far its pitch there was from the
        # middle of the cell [codes], how it rose per frame [codes], and what follows [codes][4]
        offsets, slopes, begun = [0], [0], [NONE]
        for offset in cell * ((np.arange(layout.fine) + 0.5) / layout.fine - 0.5):
            for change in layout.changes:
                for bend in layout.bends:
                    offsets.append(offset)
                    slopes.append(change / BLOCK)
                    begun.append(offset + change * RISE + bend * BEND)
        for offset in (-cell / 3, 0, cell / 3):
            for length in range(1, BLOCK):
                offsets.append(offset)
                slopes.append(0)
                begun.append([offset] * length + [np.nan] * (BLOCK - length))

        voiced = [NONE]
        for length in range(1, BLOCK):
            for fall in FALLS:
                voiced.append([*(fall * RISE[:length]), *[np.nan] * (BLOCK - length)])
        for bend in layout.later_bends:
            for change in layout.later_changes:
                voiced.append(change * RISE + bend * BEND)

        self.blocks = self.fill(unvoiced, begun, voiced)  # by kind of state
        self.offset, self.slope = self.fill(offsets, slopes)

    def fill(self, *tables):
        """Array of 2^bits rows for each table; the unused indices mean the same as index 0."""
        size = 2**self.bits
        return np.array([[*table, *[table[0]] * (size - len(table))] for table in tables])

    def extend(self, state):
        """Pitches [n][codes][4] of the block after each state for every index, and what they make
        of those of the block before, [n][codes][4], NaN where they say nothing about it.
        """
        pitch = state.pitch[:, None, None]
        start = np.where(state.kind == UNVOICED, 0, state.pitch)[:, None, None]
        blocks = np.clip(start + self.blocks[state.kind], LOWEST, HIGHEST)
        before = pitch + self.offset[:, None] + self.slope[:, None] * (RISE - 1) * BLOCK
        is_known = (state.kind == BEGUN)[:, None] & (np.arange(BLOCK) >= state.first[:, None])
        return blocks, np.where(is_known[:, None], np.clip(before, LOWEST, HIGHEST), np.nan)


def states_after(state, blocks):
    """States after the blocks [n][4] that follow these states."""
    is_voiced = ~np.isnan(blocks[:, -1])
    has_begun = is_voiced & (state.kind == UNVOICED)
    kind = np.where(is_voiced, np.where(has_begun, BEGUN, VOICED_ON), UNVOICED)
    first = np.where(has_begun, np.count_nonzero(np.isnan(blocks), axis=1), 0)
    return State(kind, blocks[:, -1], first)


# ------------------------------------------------------------------------------- sender

PATHS = 12
COMPARED = 60  # extended paths among which those with different states are looked for
LAG = 3  # blocks between an index and the newest block that the search has seen
SCALE = np.log2(1.03)  # octaves; a pitch that is 3 % off costs 1,
MOST = 6  # one that is further off never more than this
MISSED = 4  # a voiced frame that is decoded as unvoiced costs this,
INVENTED = 2  # and one the other way round this; it is heard less


def pitch_cost(pitches, wanted, slack=0.0):
    """Cost [...] of blocks [...][4] where the pitch ought to be `wanted` [4]: of the frames that
    are voiced on both sides.  An error up to `slack` costs nothing.

    Errors of 3 % and 0 in two voiced frames cost 1, whatever the voicing of the other two.
    """
    error = np.fmax(np.abs(pitches - wanted) - slack, 0)  # 0 also where one of them is NaN
    return np.minimum((error / SCALE) ** 2, MOST) @ np.ones(BLOCK)


def voicing_cost(pitches, wanted):
    """Cost [...] of the frames of blocks [...][4] that are voiced on one side only.

    NaN, 7, 7, 7 for 7, 7, 7, NaN costs 4 + 2.
    """
    should_be = ~np.isnan(wanted)
    return (should_be != ~np.isnan(pitches)) @ np.where(should_be, MISSED, INVENTED)


class Sender:
    """Turns blocks of four pitches into indices of 6 or 8 bits, LAG blocks later.

    It keeps the best sequences of indices, the best one first.
    """

    def __init__(self, bits):
        self.codes = Codes(bits)
        self.wanted = np.array(NONE)  # the block before
        # of each sequence
        self.cost = np.zeros(1)
        self.state = START
        self.indices = np.zeros((1, 0), int)  # not sent yet

    def push(self, pitches):
        """List of the indices, none or one, that are decided once this block [4] is known."""
        costs, blocks = self.extend(pitches)
        best = np.argpartition(costs, COMPARED, axis=None)[:COMPARED]
        best = np.sort(best)  # so that of equal ones the first wins
        best = best[np.argsort(costs.ravel()[best], kind="stable")]
        parent, index = np.divmod(best, costs.shape[1])
        parents = State(*(values[parent] for values in self.state))
        state = states_after(parents, blocks[parent, index])
        # of several that lead to about the same state the best one is enough
        nearby = np.where(state.kind == UNVOICED, 0, np.rint(state.pitch * 500))
        _, first = np.unique([state.kind, state.first, nearby], axis=1, return_index=True)
        kept = np.sort(first)[:PATHS]
        self.state = State(*(values[kept] for values in state))
        self.cost = costs.ravel()[best[kept]] - costs.ravel()[best[0]]
        self.indices = np.column_stack([self.indices[parent[kept]], index[kept]])
        self.wanted = pitches
        return self.send() if self.indices.shape[1] > LAG else []

    def flush(self):
        """List of the indices that are left."""
        return self.indices[0].tolist()

    def extend(self, pitches):
        """Costs [paths][codes] of all paths with all indices, and the blocks [paths][codes][4] that
        these mean.
        """
        blocks, before = self.codes.extend(self.state)
        # where a voice begins, the next index will move its pitch by up to half a cell
        slack = np.where(self.state.kind == UNVOICED, self.codes.half_cell, 0)[:, None, None]
        late = pitch_cost(before, self.wanted)
        now = pitch_cost(blocks, pitches, slack)
        return self.cost[:, None] + late + now + voicing_cost(blocks, pitches), blocks

    def send(self):
        """The oldest index of the best path; paths that disagree are dropped."""
        sent = self.indices[0, 0]
        agree = self.indices[:, 0] == sent
        self.cost, self.indices = self.cost[agree], self.indices[agree, 1:]
        self.state = State(*(values[agree] for values in self.state))
        return [int(sent)]


# ------------------------------------------------------------------------------- receiver

LOST = -1  # index of a block that was not received


class Receiver:
    """Turns indices into blocks of four pitches, one block later."""

    def __init__(self, bits):
        self.codes = Codes(bits)
        self.state = START
        self.block = None  # the last one, [4]

    def push(self, index):
        """List of the blocks [4], none or one, that are decided once this index is received.

        In a lost block a voice stays as it was before.
        """
        if index == LOST:
            block = np.full(BLOCK, self.state.pitch[0])
        else:
            blocks, before = self.codes.extend(self.state)
            block = blocks[0, index]
            if self.state.kind == BEGUN:
                self.block = before[0, index]
        decided = self.flush()
        self.state, self.block = states_after(self.state, block[None]), block
        return decided

    def flush(self):
        """List of the blocks that are left."""
        return [] if self.block is None else [self.block]
