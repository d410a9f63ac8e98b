"""ebanddec_train.py: pairs, means, loss and baseline by hand; training; bad input."""

import keras
import numpy as np
import pytest

import codec2_model
import ebanddec_train
from common import networks, spectra
from conftest import call, figures

pytestmark = pytest.mark.usefixtures("eager")

NAN = np.nan


def test_pairs():
    frames = np.arange(8)[:, None]
    part = {"vectors": frames * np.ones(2), "target": frames * np.ones(3)}
    vectors, target = ebanddec_train.pairs(part, np.array([0, 3]), 3)
    np.testing.assert_array_equal(vectors[:, :, 0], [[0, 3], [3, 6]])
    np.testing.assert_array_equal(target[:, :, 0], [[0, 1, 2], [3, 4, 5]])


def test_sparse_variance_does_not_see_the_mean():
    target = np.float32([[[3, NAN, 5], [NAN, NAN, NAN]], [[1, 2, 3], [7, NAN, NAN]]])
    estimate = np.float32([[[1, 7, 4], [0, 0, 0]], [[11, 12, 13], [0, 9, 9]]])
    loss = keras.ops.convert_to_numpy(ebanddec_train.sparse_variance(target, estimate))
    assert loss == pytest.approx(0.25 / 3)  # two of the three frames are right but for their mean


def test_an_untrained_network_interpolates_in_time_and_frequency():
    vectors = np.random.default_rng(1).normal(40, 10, (5, 2, 14)).astype(np.float32)
    lines = np.random.default_rng(2).uniform(0, 1, (14, 128)).astype(np.float32)
    network = ebanddec_train.build_network(4, lines, np.full(128, 3))
    result = keras.ops.convert_to_numpy(network(vectors))
    for i in range(4):
        between = ((4 - i) * vectors[:, 0] + i * vectors[:, 1]) / 4
        np.testing.assert_allclose(result[:, i], between @ lines + 3, rtol=1e-4)


def test_one_filter_for_a_pair():
    """Both vectors and all frames between get the same response; the first one's is exact."""
    rng = np.random.default_rng(0)
    hz = spectra.KINDS[14, 8000].hz
    lines = np.float32([np.interp(spectra.bins_hz(128), hz, one) for one in np.eye(14)])
    target = rng.normal(40, 8, (500, 3, 128)).astype(np.float32)
    bands = ebanddec_train.energies_dB(target[:, ::2], lines)
    filtered, filtered_target = ebanddec_train.random_filter(bands, target, lines, 8000, rng)
    response = filtered_target - target
    for end in (-1, 0):  # a tenth has a low pass, a tenth a high pass, many of them steep
        assert 0.02 < np.mean(response[:, 0, end] < -10) < 0.12
    np.testing.assert_allclose(response, response[:, :1].repeat(3, axis=1), atol=1e-4)
    first = 10 * np.log10(10 ** (filtered_target[:, 0] / 10) @ lines.T)
    np.testing.assert_allclose(filtered[:, 0], first, atol=1e-3)


@pytest.mark.parametrize(("dec", "plot"), [(1, False), (3, True)])
def test_trains_tests_and_plots(dec, plot, sample, tmp_path):
    network, plots = tmp_path / "n.keras", tmp_path / "plots"
    options = ("--dec", dec, "--epochs", 2, "--nb_samples", 1000, "--nnout", network)
    pictures = ("--plot_dir", plots) if plot else ("--noplots",)
    values = figures(call(ebanddec_train, *sample, *options, *pictures, "--test", *sample))
    assert values["held-out network variance"] < values["held-out interpolation variance"]
    assert values["held-out network variance"] == values["held-out network SD"]
    assert values["last"] == values["test network SD"]
    n = codec2_model.count_items(sample[1])
    assert n - 2 * dec < values["test frames"] <= n
    if plot:
        names = ("loss", "sd", "frames_1", "frames_2", "frames_3")
        found = {path.name for path in plots.iterdir()}
        assert found == {f"ebanddec_train_{name}.png" for name in names}
    expected = {"input": ("band pairs",), "width": (128,), "dec": (dec,), "eband_K": (14,)}
    assert networks.read_options(network, expected)
