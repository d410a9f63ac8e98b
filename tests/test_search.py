"""Sender and receiver: m-best search, reaches and delay, the live search, lost vectors."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from common import plumbing, search

K, DEC, DIM = 2, 2, 4
BLUR = np.array([0.3, 1, 0.3])  # what the linear decoder does to frames,
SHARPEN = np.array([0.12, -0.4, 1.27, -0.4, 0.12])  # and about its inverse


def filtered(frames, taps):
    """Frames [b][n][K] through a filter over time; there are zeros outside."""
    side = len(taps) // 2
    padded = np.pad(frames, ((0, 0), (side, side), (0, 0)))
    n = frames.shape[1]
    return np.float32(sum(padded[:, i : i + n] * tap for i, tap in enumerate(taps)))


@functools.cache
def linear_coder(predicts=False, M=16, stages=2):
    """A vector is two frames side by side, which the encoder sharpens and the decoder blurs.

    Its reaches are (−2, 3) and (−1, 2).
    """

    def encode(frames):
        return filtered(frames - 30, SHARPEN).reshape(len(frames), -1, DIM)

    def decode(z):
        return filtered(z.reshape(len(z), -1, K), BLUR) + 30

    size = 12 / 2.0 ** np.arange(stages)[:, None, None]
    codebooks = np.float32(np.random.default_rng(3).normal(size=(stages, M, DIM)) * size)
    predictor = 0.5 * np.eye(DIM, dtype=np.float32) if predicts else None
    return search.Coder(codebooks, predictor, DEC, K, encode, decode)


@functools.cache
def network_coder():
    """A small convolutional network with the reaches (−2, 3) and (−2, 3)."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    frames, z = keras.Input((None, K)), keras.Input((None, DIM))
    hidden = layers.Conv1D(8, 3, padding="same", activation="gelu")(frames / 20)
    encoder = keras.Model(frames, layers.Conv1D(DIM, 4, strides=DEC, padding="same")(hidden))
    hidden = layers.Conv1DTranspose(8, 4, strides=DEC, padding="same", activation="gelu")(z)
    decoder = keras.Model(z, 20 * layers.Conv1D(K, 3, padding="same")(hidden))
    codebooks = np.random.default_rng(1).normal(size=(2, 16, DIM)) / np.array([1, 2])[:, None, None]
    return search.coder_of_network(encoder, decoder, codebooks, DEC)


def speech(n, seed=1):
    """Frames [n][K] that change slowly, about 30 dB."""
    steps = np.random.default_rng(seed).normal(0, 6, (n + 20, K))
    smooth = np.stack([np.convolve(column, np.ones(8), "valid")[:n] for column in steps.T], axis=1)
    return np.float32(30 + smooth)


def error(coder, x, indices):
    return np.mean((x - search.receive(coder, indices, len(x))) ** 2)


def test_sums_nearest_to_a_vector():
    """0.9 is 1 − 0.1 (error 0), 1 + 0.1 or 0 + 0.4; the nearest first codeword of 0.45 is 0, but
    1 − 0.5 is nearer than 0 + 0.3."""
    codebooks = np.float32([[[0], [1]], [[0.3], [-0.5]]])
    x = np.float32([[0.45]])
    np.testing.assert_array_equal(search.nearest_sums(x, codebooks, 1), [[0, 0]])
    np.testing.assert_array_equal(search.nearest_sums(x, codebooks, 2), [[1, 1]])


def test_m_best_search_with_all_sums_is_exhaustive():
    rng = np.random.default_rng(1)
    codebooks, x = rng.normal(size=(2, 4, 3)).astype("f"), rng.normal(size=(9, 3)).astype("f")
    pairs = np.array(list(itertools.product(range(4), range(4))))
    sums = codebooks[0][pairs[:, 0]] + codebooks[1][pairs[:, 1]]
    nearest = pairs[np.argmin(((x[:, None] - sums) ** 2).sum(axis=2), axis=1)]
    np.testing.assert_array_equal(search.nearest_sums(x, codebooks, 16), nearest)


def test_reaches_of_convolutions():
    coder = network_coder()
    assert coder.encoder_reach == (-2, 3)
    assert coder.decoder_reach == (-2, 3)
    linear = linear_coder()
    assert linear.encoder_reach == (-2, 3)
    assert linear.decoder_reach == (-1, 2)
    assert search.usual_lookahead_ms(linear) == 40
    assert search.usual_lookahead_ms(dataclasses.replace(linear, dec=8)) == 80  # a vector at least


def test_what_quantising_makes_of_later_vectors_stands_in(monkeypatch):
    seen, extend = [], search.Sender.extend

    def record(self, z_e, later, nb_seen):
        seen.append(later)
        extend(self, z_e, later, nb_seen)

    monkeypatch.setattr(search.Sender, "extend", record)
    for expected in (None, 0.5 * np.eye(DIM, dtype=np.float32)):
        search.send(dataclasses.replace(linear_coder(), expected=expected), speech(40))
    before, halved = np.array_split(seen, 2)
    np.testing.assert_allclose(halved, before / 2)


def test_a_maximum_does_not_hide_a_reach():
    def encode(frames):
        return frames.reshape(len(frames), -1, 2 * K).max(axis=2, keepdims=True)

    assert search.find_encoder_reach(encode, 2, K) == (0, 1)


def test_a_recurrent_network_is_refused():
    def decode(z):
        return np.repeat(np.cumsum(z, axis=1), 2, axis=1)

    with pytest.raises(plumbing.FormatError, match="decoder looks at all of 64 vectors"):
        search.find_decoder_reach(decode, 2, DIM)


@pytest.mark.parametrize("lookahead_ms", [0, 60])
def test_the_delay_is_what_an_experiment_finds(lookahead_ms):
    """No decoded frame changes longer before a changed input frame; with much look-ahead hardly
    any does that much earlier, as most paths agree by then."""
    coder, x = linear_coder(predicts=True), speech(48)
    before = search.receive(coder, search.send(coder, x, lookahead_ms), len(x))
    ahead = []
    for frame in range(20, 32):
        changed = x.copy()
        changed[frame:] += np.random.default_rng(frame).normal(0, 40, K).astype("f")
        after = search.receive(coder, search.send(coder, changed, lookahead_ms), len(x))
        ahead.append(frame - np.flatnonzero((after != before).any(axis=1))[0])
    delay = search.delay_ms(coder, lookahead_ms)
    assert delay == 40 + lookahead_ms
    if lookahead_ms == 60:
        assert 40 < 10 * max(ahead) <= delay
    else:
        assert 10 * max(ahead) == delay


@pytest.mark.parametrize("coder", [linear_coder, lambda: linear_coder(True), network_coder])
@pytest.mark.parametrize("n", [1, 2, 61])
def test_a_stream_gives_the_indices_and_frames_of_the_file(coder, n):
    coder, x = coder(), speech(n)
    indices = search.send(coder, x, lookahead_ms=40)
    assert indices.shape == ((n + 1) // 2, 2)
    assert indices.dtype == np.int32
    decoded = search.receive(coder, indices, n)
    assert decoded.shape == x.shape
    for step in (1, 7):
        sender = search.Sender(coder, lookahead_ms=40)
        parts = [sender.push(x[i : i + step]) for i in range(0, n, step)]
        np.testing.assert_array_equal(np.concatenate([*parts, sender.flush()]), indices)
        receiver = search.Receiver(coder, search.AT_ONCE)
        parts = [receiver.push(indices[i : i + step]) for i in range(0, len(indices), step)]
        np.testing.assert_array_equal(np.concatenate([*parts, receiver.flush()])[:n], decoded)
    live = search.Receiver(coder)
    frames = np.concatenate([live.push(indices), live.flush()])[:n]
    np.testing.assert_allclose(frames, decoded, atol=1e-3)


@pytest.mark.parametrize("predicts", [False, True])
def test_many_paths_find_the_best_indices_of_all(predicts):
    """4 vectors of 4 codewords, one stage: 256 sequences, all of them decoded."""
    coder, x = linear_coder(predicts, M=4, stages=1), speech(8)
    every = np.array(list(itertools.product(range(4), repeat=4)))
    errors = [error(coder, x, indices[:, None]) for indices in every]
    options = {"lookahead_ms": 80, "paths": 256, "tried": 1024, "stand_ins": 0}
    found = search.send(coder, x, **options)
    assert error(coder, x, found) < 1.1 * np.min(errors) < 0.5 * np.median(errors)


@pytest.mark.parametrize("coder", [linear_coder, network_coder])
def test_what_is_decoded_is_nearer_than_with_the_nearest_sums(coder):
    coder, x = coder(), speech(400)
    z_e = np.asarray(coder.encode(x[None]))[0]
    nearest = np.asarray(search.nearest_sums(z_e, coder.codebooks, 16))
    found = search.send(coder, x, lookahead_ms=40)
    assert error(coder, x, found) < 0.95 * error(coder, x, nearest)


def test_the_receiver_decodes_sums_of_codewords_and_the_prediction():
    """z_hat: c0, then half of it and c1, then half of that and c2."""
    coder = linear_coder(True)
    indices = np.random.default_rng(1).integers(0, 8, (40, 2))
    z = [np.zeros(DIM)]
    for first, second in indices:
        z.append(z[-1] / 2 + coder.codebooks[0][first] + coder.codebooks[1][second])
    expected = coder.decode(np.float32(z[1:])[None])[0]
    decoded = search.receive(coder, indices, 80)
    np.testing.assert_allclose(decoded[2:-2], expected[2:-2], atol=1e-3)


def test_lost_vectors_are_interpolated():
    """Two vectors lost between a and b: a + (b − a) / 3 and a + 2 (b − a) / 3."""
    coder = linear_coder()
    indices = np.random.default_rng(1).integers(0, 8, (20, 2))
    z = coder.following(None, indices)
    indices[10:12] = -1
    z[10], z[11] = (2 * z[9] + z[12]) / 3, (z[9] + 2 * z[12]) / 3
    expected = coder.decode(z[None])[0]
    np.testing.assert_allclose(search.receive(coder, indices, 40)[2:-2], expected[2:-2], atol=1e-3)
