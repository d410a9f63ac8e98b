"""ebanddec_train.py: pairs, means and loss by hand; training; the command line, also on bad input."""

import codec2_model
import ebanddec_train
import plumbing

import numpy as np
import pytest
from conftest import assert_refused, figures
from test_eband_train import first_frames, run_script, weights

pytestmark = pytest.mark.usefixtures("eager")

keras = ebanddec_train.keras
NAN = np.nan


def test_pairs():
    part = {"vectors": np.arange(8)[:, None] * np.ones(2), "target": np.arange(8)[:, None] * np.ones(3)}
    vectors, target = ebanddec_train.pairs(part, np.array([0, 3]), 3)
    np.testing.assert_array_equal(vectors[:, :, 0], [[0, 3], [3, 6]])
    np.testing.assert_array_equal(target[:, :, 0], [[0, 1, 2], [3, 4, 5]])
    vectors, target = ebanddec_train.pairs(part, np.arange(6), 2)
    assert vectors.shape == (6, 2, 2)
    np.testing.assert_array_equal(target[-1, :, 0], [5, 6])


def test_sparse_variance_does_not_see_the_mean():
    target = np.float32([[[3, NAN, 5], [NAN, NAN, NAN]], [[1, 2, 3], [7, NAN, NAN]]])
    estimate = np.float32([[[1, 7, 4], [0, 0, 0]], [[11, 12, 13], [0, 9, 9]]])
    loss = keras.ops.convert_to_numpy(ebanddec_train.sparse_variance(target, estimate))
    assert loss == pytest.approx(0.25 / 3)  # of three frames that have a target, two are right but for their mean


def test_an_untrained_network_interpolates_in_time_and_frequency():
    vectors = np.random.default_rng(1).normal(40, 10, (5, 2, 14)).astype(np.float32)
    lines = np.random.default_rng(2).uniform(0, 1, (14, 128)).astype(np.float32)
    network = ebanddec_train.build_network(4, lines, np.full(128, 3))
    result = keras.ops.convert_to_numpy(network(vectors))
    for i in range(4):
        expected = ((4 - i) * vectors[:, 0] + i * vectors[:, 1]) / 4 @ lines + 3
        np.testing.assert_allclose(result[:, i], expected, rtol=1e-4)


def test_one_filter_for_a_pair():
    """Both vectors and all frames between them get the same response; that of the first frame's spectrum is exact."""
    rng = np.random.default_rng(0)
    lines = np.float32([np.interp(np.arange(128) * 31.25, codec2_model.BAND_HZ, e) for e in np.eye(14)])
    target = rng.normal(40, 8, (500, 3, 128)).astype(np.float32)
    bands = 10 * np.log10(10 ** (target[:, ::2] / 10) @ lines.T).astype(np.float32)
    filtered, filtered_target = ebanddec_train.random_filter(bands, target, lines, rng)
    response = filtered_target - target
    for end in (-1, 0):  # a tenth has a low pass, a tenth a high pass, many of them steep
        ends = response[:, 0, end]
        assert 0.02 < np.mean(ends < -10) < 0.12
    np.testing.assert_allclose(response, response[:, :1].repeat(3, axis=1), atol=1e-4)
    np.testing.assert_allclose(filtered[:, 0], 10 * np.log10(10 ** (filtered_target[:, 0] / 10) @ lines.T), atol=1e-3)
    assert np.abs(filtered[:, 1] - bands[:, 1] - (filtered[:, 0] - bands[:, 0])).mean() < 1


@pytest.mark.parametrize("dec", [1, 3])
def test_trains_tests_and_plots(dec, sample, tmp_path):
    options = ("--dec", dec, "--epochs", 2, "--nb_samples", 1000, "--nnout", tmp_path / "n.keras")
    values = figures(run_script(ebanddec_train, *sample, *options, "--plot_dir", tmp_path / "plots", "--test", *sample))
    assert values["held-out network variance"] < values["held-out interpolation variance"]
    assert values["held-out network variance"] == values["held-out network SD"]
    assert values["last"] == values["test network SD"]
    n = codec2_model.count_items(sample[1], 1300, "records")
    assert n - 2 * dec < values["test frames"] <= n
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"ebanddec_train_{x}.png" for x in ("loss", "sd", "frames_1", "frames_2")}
    options = plumbing.read_options(tmp_path / "n.keras", {"input": ("band pairs",), "width": (128,), "dec": (dec,)})
    assert options["eband_K"] == 14


def test_the_same_seed_gives_the_same_network(sample, tmp_path):
    results = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ("--dec", 2, "--epochs", 1, "--noplots", "--nb_samples", 400, "--seed", seed)
        run_script(ebanddec_train, *sample, *options, "--nnout", tmp_path / "n.keras")
        results[name] = weights(tmp_path / "n.keras")
    assert all(np.array_equal(x, y) for x, y in zip(results["a"], results["b"], strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(results["a"], results["c"], strict=True))


def test_all_positions_of_the_training_part_and_no_others(sample, tmp_path, monkeypatch):
    pair, seen, random_filter = first_frames(sample, 300, tmp_path), [], ebanddec_train.random_filter
    monkeypatch.setattr(ebanddec_train, "random_filter", lambda *x: (seen.append(x[0]), random_filter(*x))[1])
    run_script(ebanddec_train, *pair, "--dec", 2, "--epochs", 1, "--noplots", "--nnout", tmp_path / "n.keras")
    bands = codec2_model.read_rate_K(pair[0], 14)
    vectors = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(vectors[:, 0], axis=0), np.sort(bands[:268], axis=0))
    np.testing.assert_array_equal(np.sort(vectors[:, 1], axis=0), np.sort(bands[2:270], axis=0))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--dec", "2", "--nb_samples", "150"], "at least 200"),
        (["--dec", "2", "--eband_K", "13"], "13"),
        (["--dec", "2", "--gain", "1"], "log10"),
        (["--dec", "2", "--frame", "100000"], "--frame 100000"),
        (["--dec", "2", "--nnout", "nowhere/n.keras"], "nowhere/n.keras"),
        (["--dec", "2147483647"], "at least"),
    ],
)
def test_bad_input_is_refused(sample, tmp_path, monkeypatch, options, word):
    monkeypatch.chdir(tmp_path)
    args = ebanddec_train.parse_args([*map(str, sample), *options])
    with pytest.raises((plumbing.FormatError, FileNotFoundError)) as error:
        ebanddec_train.load(args)
    assert word in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [(), ("--dec", "0"), ("--dec", "1.5"), ("--dec", "2", "--Wo")])
def test_usage_errors(options):
    with pytest.raises(SystemExit) as error:
        ebanddec_train.parse_args(["x.f32", "x.model", *options])
    assert error.value.code == 2


def test_command_line(run, sample, tmp_path):
    result = run("ebanddec_train.py", *sample, "--dec", 2, "--epochs", 1, "--noplots", "--nb_samples", 300)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["ampnn_dec.keras"]
    assert_refused(run("ebanddec_train.py", "nowhere.f32", sample[1], "--dec", 2), "nowhere.f32")
