"""The classical quantiser: its training on speech-like chains, and what its archive holds."""

import itertools

import numpy as np
import pytest

from common import classical, search

K, DEC, M, STAGES = 3, 2, 16, 2


def correlated(n, seed):
    """Frames [n][K] in dB that remember 90 % of the frame before."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n + 1, K))
    for i in range(n):
        x[i + 1] = 0.9 * x[i] + rng.normal(0, 5, K)
    return np.float32(30 + x[1:])


@pytest.fixture(scope="module")
def trained():
    """Arrays of a small quantiser, and the lines that its training reported."""
    x, lines = correlated(12_000, 1), []
    counted = x.mean(axis=1) > 20
    rng = np.random.default_rng(1)
    arrays = classical.train(x, counted, DEC, STAGES, M, rng, report=lines.append)
    return arrays, lines


def test_training_lowers_the_error_and_the_archive_is_small(trained):
    arrays, lines = trained
    sd = [float(line.split()[-2]) for line in lines]
    assert len(sd) == classical.ROUNDS
    assert sd[-1] <= sd[0] < 6
    assert arrays["classical_codebooks"].dtype == np.int8
    assert sum(values.nbytes for values in arrays.values()) < 2 * STAGES * M * DEC * K + 1000
    predictor = classical.unpack(arrays)["predictor"]
    assert np.abs(np.linalg.eigvals(predictor)).max() < 1  # errors of the channel die away


def test_prediction_paths_and_smoother_gain(trained):
    """8 bits per 6 values; without prediction, multi-stage k-means of the same blocks."""
    coder = search.coder_of_classical(trained[0])
    assert coder.encoder_reach == (0, DEC - 1)
    assert coder.decoder_reach == (-DEC, 2 * DEC - 1)
    x = correlated(1000, 2)
    indices = search.send(coder, x, lookahead_ms=80, paths=16)
    sd = np.mean((x - search.receive(coder, indices, len(x))) ** 2)

    blocks = correlated(12_000, 1).reshape(-1, DEC * K)
    codebooks = classical.kmeans_stages(blocks, STAGES, M, np.random.default_rng(1))
    blocks = x.reshape(-1, DEC * K)
    nearest = np.asarray(search.nearest_sums(blocks, codebooks, M))
    decoded = codebooks[0][nearest[:, 0]] + codebooks[1][nearest[:, 1]]
    assert sd < 0.75 * np.mean((blocks - decoded) ** 2)


def test_paths_find_the_best_sequence(monkeypatch):
    """3 blocks of one stage of 4 codewords: all 64 sequences are compared."""
    monkeypatch.setattr(classical, "PATHS", 64)
    rng = np.random.default_rng(1)
    u, codebook = rng.normal(size=(2, 3, 2)).astype("f"), rng.normal(size=(4, 2)).astype("f")
    predictor, weight = np.float32([[0.9, 0.1], [-0.1, 0.8]]), np.float32([[1, 0.5, 1]] * 2)
    indices, u_hat = classical.code(u, weight, codebook[None], predictor)
    for chain in range(2):
        errors = []
        for sequence in itertools.product(range(4), repeat=3):
            z, error = np.zeros(2), 0
            for t, index in enumerate(sequence):
                z = z @ predictor + codebook[index]
                error += weight[chain, t] * ((u[chain, t] - z) ** 2).sum()
            errors.append((error, sequence))
        assert tuple(indices[chain, :, 0]) == min(errors)[1]
        np.testing.assert_allclose(
            u_hat[chain, -1],
            u_hat[chain, 1] @ predictor + codebook[indices[chain, 2, 0]],
            atol=1e-5,
        )
