"""ebanddec_train.py: pairs, means and loss by hand; the command line, also on bad input."""

import sys

import numpy as np
import pytest
from conftest import assert_refused
from test_eband_train import figures, weights

import codec2_model
import ebanddec_train

keras = ebanddec_train.keras
NAN = np.nan


def test_pairs():
    bands, target = np.arange(8)[:, None] * np.ones(2), np.arange(8)[:, None] * np.ones(3)
    vectors, wanted = (values[::3] for values in ebanddec_train.pairs(bands, target, 3))
    np.testing.assert_array_equal(vectors[:, :, 0], [[0, 3], [3, 6]])
    np.testing.assert_array_equal(wanted[:, :, 0], [[0, 1, 2], [3, 4, 5]])
    vectors, wanted = ebanddec_train.pairs(bands, target, 2)
    assert vectors.shape == (6, 2, 2)
    np.testing.assert_array_equal(wanted[-1, :, 0], [5, 6])
    assert np.shares_memory(vectors, bands)
    assert np.shares_memory(wanted, target)


def test_sparse_variance_does_not_see_the_mean():
    target = np.float32([[[3, NAN, 5], [NAN, NAN, NAN]], [[1, 2, 3], [7, NAN, NAN]]])
    estimate = np.float32([[[1, 7, 4], [0, 0, 0]], [[11, 12, 13], [0, 9, 9]]])
    loss = keras.ops.convert_to_numpy(ebanddec_train.sparse_variance(target, estimate))
    assert loss == pytest.approx(0.25 / 3)  # of three frames that have a target, two are right but for their mean


def test_match_mean():
    target = np.float32([[3, NAN, 5], [NAN, NAN, NAN]])
    matched = ebanddec_train.match_mean(np.float32([[1, 7, 4], [1, 2, 3]]), target)
    np.testing.assert_allclose(matched, [[2.5, 8.5, 5.5], [1, 2, 3]])
    sd, variance = ebanddec_train.distortion(target, matched)
    np.testing.assert_allclose(sd, variance)


def test_an_untrained_network_interpolates_in_time_and_frequency(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ebanddec_train.py", "features", "model", "--dec", "4"])
    args = ebanddec_train.parse_args()
    lines, _ = ebanddec_train.fit_baseline(np.zeros((0, 14)), [np.zeros(0)] * 3, args)
    vectors = np.random.default_rng(1).normal(40, 10, (5, 2, 14)).astype(np.float32)
    network = ebanddec_train.build_network(vectors[:, 0], 4, lines, np.full(128, 3))
    result = keras.ops.convert_to_numpy(network(vectors))
    for i in range(4):
        expected = ((4 - i) * vectors[:, 0] + i * vectors[:, 1]) / 4 @ lines + 3
        np.testing.assert_allclose(result[:, i], expected, rtol=1e-4)


@pytest.mark.parametrize("dec", [1, 3])
def test_trains_tests_and_plots(run, sample, tmp_path, dec):
    options = ("--dec", dec, "--epochs", 2, "--plot_dir", "plots", "--test", *sample)
    result = run("ebanddec_train.py", *sample, *options)
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    assert values["held-out network variance"] < values["held-out interpolation variance"]
    assert values["held-out network variance"] == values["held-out network SD"]
    assert float(result.stdout.splitlines()[-1]) == values["test network SD"]
    nb_frames = len(codec2_model.read(sample[1])[0])
    assert nb_frames - 2 * dec < values["test frames"] <= nb_frames
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"ebanddec_train_{x}.png" for x in ("loss", "sd", "frames_1", "frames_2")}
    assert len(weights(tmp_path / "ampnn_dec.keras")) > 4


def test_the_same_seed_gives_the_same_network(run, sample, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = (
            "--dec",
            2,
            "--epochs",
            1,
            "--noplots",
            "--nb_samples",
            600,
            "--seed",
            seed,
            "--nnout",
            f"{name}.keras",
        )
        assert run("ebanddec_train.py", *sample, *options).returncode == 0
    a, b, c = (weights(tmp_path / f"{name}.keras") for name in "abc")
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"features": "nowhere.f32"}, "nowhere.f32"),
        ({"options": ["--dec", "2", "--nb_samples", "150"]}, "at least 200"),
        ({"options": ["--dec", "2", "--eband_K", "13"]}, "13"),
        ({"options": ["--dec", "2", "--gain", "1"]}, "log10"),
        ({"options": ["--dec", "2", "--frame", "100000"]}, "--frame 100000"),
        ({"options": ["--dec", "2", "--nnout", "nowhere/n.keras"]}, "nowhere/n.keras"),
    ],
)
def test_bad_input_is_refused(run, sample, tmp_path, change, word):
    features, options = change.get("features", sample[0]), change.get("options", ["--dec", "2"])
    assert_refused(run("ebanddec_train.py", features, sample[1], "--noplots", "--epochs", 1, *options), word)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [(), ("--dec", "0"), ("--dec", "1.5"), ("--dec", "2", "--Wo")])
def test_usage_errors(run, sample, options):
    assert_refused(run("ebanddec_train.py", *sample, *options), status=2)
