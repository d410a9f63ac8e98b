"""The predictor of vq_vae_ratek_conv1d.py's quantiser, and its networks of short delay."""

import numpy as np

import vq_vae_ratek_conv1d as script
from common import search


def test_values_worked_by_hand():
    quantizer = script.VectorQuantizer(1, 2, 2, m_best=1, beta=0.25, decay=0.99, leak=0.5)
    quantizer.codebooks.assign([[[0, 0], [1, 0]]])
    quantizer.predictor.assign(0.5 * np.eye(2))
    z_hat = np.asarray(quantizer(np.float32([[[2, 0], [1.9, 0]]])))
    assert z_hat.tolist() == [[[2, 0], [2, 0]]]
    np.testing.assert_allclose(quantizer.losses, [0.00125], rtol=1e-5)


def test_two_rounds_come_to_the_errors_of_a_closed_loop():
    rng = np.random.default_rng(1)
    z = np.zeros((300, 16, 4), np.float32)
    z[:, 0] = rng.normal(size=(300, 4))
    for t in range(1, 16):  # variance 1, of which 0.64 can be predicted
        z[:, t] = 0.8 * z[:, t - 1] + 0.6 * rng.normal(size=(300, 4))
    quantizer = script.VectorQuantizer(2, 64, 4, m_best=4, beta=1, decay=0.99, leak=0.75)
    quantizer.start(z, rng)
    np.testing.assert_allclose(quantizer.predictor, 0.75 * 0.8 * np.eye(4), atol=0.03)
    two_rounds = np.mean((np.asarray(quantizer.quantise_all(z)[0]) - z[:, 1:]) ** 2)
    before, errors = z[:, :1], []
    for t in range(1, 16):
        before, _ = quantizer.quantise(z[:, t : t + 1], before, 4)
        errors.append(np.mean((np.asarray(before)[:, 0] - z[:, t]) ** 2))
    np.testing.assert_allclose(two_rounds, np.mean(errors), rtol=0.02)


def test_a_start_from_another_network_keeps_each_weight_at_its_input():
    assert script.moved(np.array([1, 2, 3]), 1).tolist() == [0, 1, 2]
    assert script.moved(np.array([1, 2, 3]), -1).tolist() == [2, 3, 0]


def test_low_delay_is_70_ms():
    args = script.parse_args(["x", "--dec", "4", "--num_embedding", "16", "--low_delay"])
    network = script.build_network(np.zeros(14), args)
    encoder, decoder = network.get_layer("encoder"), network.get_layer("decoder")
    coder = search.coder_of_network(encoder, decoder, np.zeros((2, 16, 32)), 4)
    assert search.delay_ms(coder, 0) == 70
