"""vq_vae_demo.py: the quantiser's gradients, search and moving averages by hand; the command line, bad input."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, assert_refused
from PIL import Image

import vq_pager
import vq_vae_demo

keras = vq_vae_demo.keras
X = np.float32([[0.9, 0], [0.2, 0.3]])  # the vectors of most tests: the first goes to B, the second to A
A, B, C = [0, 0], [1, 0], [5, 5]


def quantizer(*codebooks, **options):
    """A quantiser with these codebooks, [M][dim] each."""
    codebooks = np.float32(codebooks)
    stages, M, dim = codebooks.shape
    layer = vq_vae_demo.VectorQuantizer(M, dim, stages=stages, **options)
    layer.codebooks.assign(codebooks)
    return layer


def gradients(layer, x, value):
    """Gradients of value(output, losses) for the encoder output x and for the codebooks; 0 where there is none."""
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        output = layer(x)
        result = value(output, dict(zip(("commitment_loss", "codebook_loss"), layer.losses, strict=True)))
    found = tape.gradient(result, [x, layer.codebooks.value], unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]


# ---------------------------------------------------------------- gradients


def test_straight_through():
    """The output's gradient arrives at the encoder output as it is, and not at all at the codebooks."""
    weigh = np.float32([[2, -3], [5, 7]])
    to_encoder, to_codebooks = gradients(quantizer([A, B, C]), X, lambda output, _: tf.reduce_sum(output * weigh))
    np.testing.assert_array_equal(to_encoder, weigh)
    assert not to_codebooks.any()


def test_commitment_loss_pulls_only_the_encoder():
    to_encoder, to_codebooks = gradients(quantizer([A, B, C]), X, lambda _, losses: losses["commitment_loss"])
    np.testing.assert_allclose(to_encoder, 0.25 * 2 * (X - [B, A]) / X.size, rtol=1e-6)
    assert not to_codebooks.any()


def test_codebook_loss_pulls_only_the_codebook():
    to_encoder, to_codebooks = gradients(quantizer([A, B, C]), X, lambda _, losses: losses["codebook_loss"])
    assert not to_encoder.any()
    np.testing.assert_allclose(to_codebooks, [[2 * (A - X[1]) / X.size, 2 * (B - X[0]) / X.size, [0, 0]]], rtol=1e-6)


def test_losses_by_hand():
    """The example in the docstring: error 0.1 in one of two dimensions."""
    layer = quantizer([A, B])
    np.testing.assert_array_equal(layer(X[:1]), [B])
    commitment_loss, codebook_loss = layer.losses
    assert float(codebook_loss) == pytest.approx(0.005)
    assert float(commitment_loss) == pytest.approx(0.00125)


def test_both_stages_are_pulled_by_the_error_of_the_sum():
    layer = quantizer([A, C], [[0, 1], [9, 9]])
    _, to_codebooks = gradients(layer, X[1:], lambda _, losses: losses["codebook_loss"])
    np.testing.assert_allclose(to_codebooks[:, 0], [([0, 1] - X[1])] * 2, rtol=1e-6)  # 2·error/2 each
    assert not to_codebooks[:, 1].any()


# ---------------------------------------------------------------- search


@pytest.mark.parametrize(("M", "dim"), [(2, 1), (7, 2), (64, 16)])
def test_nearest_codeword_as_by_brute_force(M, dim):
    rng = np.random.default_rng(M)
    codebook, x = rng.normal(size=(M, dim)), np.float32(rng.normal(size=(500, dim)))
    distance = np.sum((x[:, None] - codebook) ** 2, axis=2)
    np.testing.assert_array_equal(quantizer(codebook).search(x)[:, 0], np.argmin(distance, axis=1))


def test_m_best_search():
    """With all candidates it finds the best sum, as by brute force; with one each stage takes its own nearest."""
    rng = np.random.default_rng(0)
    codebooks, x = rng.normal(size=(2, 8, 3)), np.float32(rng.normal(size=(300, 3)))
    sums = (codebooks[0][:, None] + codebooks[1]).reshape(64, 3)
    best = np.argmin(np.sum((x[:, None] - sums) ** 2, axis=2), axis=1)
    np.testing.assert_array_equal(quantizer(*codebooks, m_best=8).search(x), np.stack([best // 8, best % 8], axis=1))

    first = np.argmin(np.sum((x[:, None] - codebooks[0]) ** 2, axis=2), axis=1)
    residual = x - codebooks[0][first]
    second = np.argmin(np.sum((residual[:, None] - codebooks[1]) ** 2, axis=2), axis=1)
    np.testing.assert_array_equal(quantizer(*codebooks).search(x), np.stack([first, second], axis=1))


def test_decoded_indices_are_the_output_exactly():
    """Also for time series [n][time][dim], as the rate K scripts have them."""
    rng = np.random.default_rng(0)
    layer = quantizer(*rng.normal(size=(2, 32, 16)), m_best=4)
    x = np.float32(40 * rng.normal(size=(20, 5, 16)))
    indices = layer.search(x)
    assert indices.shape == (20, 5, 2)
    np.testing.assert_array_equal(layer(x), layer.decode(indices))


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(50, 7, 4)))
    inputs = keras.Input((None, 4))
    network = keras.Model(inputs, quantizer(*rng.normal(size=(2, 8, 4)), m_best=3, decay=0.9)(inputs))
    network.save(tmp_path / "n.keras")
    loaded = keras.models.load_model(tmp_path / "n.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), network.predict(x, verbose=0))
    assert (loaded.layers[1].m_best, loaded.layers[1].decay) == (3, 0.9)


# ---------------------------------------------------------------- start, and moving averages


def test_start_finds_every_cluster():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        centres = 10 * np.stack(np.meshgrid(range(4), range(4)), axis=-1).reshape(16, 2)
        x = np.float32(centres[rng.integers(16, size=2000)] + rng.normal(size=(2000, 2)))
        codebook, residual = vq_vae_demo.spread(x, 16, rng)
        assert len(np.unique(np.rint(codebook / 10), axis=0)) == 16
        assert np.abs(residual).max() < 10


def test_start_with_fewer_different_vectors_than_codewords():
    codebook, residual = vq_vae_demo.spread(np.float32([[1, 2], [3, 4], [1, 2]]), 5, np.random.default_rng(0))
    assert codebook.shape == (5, 2)
    assert not residual.any()


def test_moving_averages():
    """Counts start at 1: A moves by its error·0.1/(0.9·1 + 0.1·1), both vectors move B by the mean of their errors."""
    layer = quantizer([A, B, C], decay=0.9)
    layer(np.float32([[0.1, 0.2], [1.1, 0], [1.3, 0.2]]), training=True)
    assert len(layer.losses) == 1
    np.testing.assert_allclose(layer.codebooks[0], [[0.01, 0.02], [1 + 0.04 / 1.1, 0.02 / 1.1], C], rtol=1e-5)
    np.testing.assert_allclose(layer.counts[0], [1, 1.1, 0.9], rtol=1e-6)
    before = keras.ops.convert_to_numpy(layer.codebooks)
    layer(X)
    np.testing.assert_array_equal(layer.codebooks, before)


def test_unused_codeword_starts_again():
    layer = quantizer([A, B, [1e3, 1e3]], decay=0.9)
    x = np.float32(np.random.default_rng(0).normal(size=(100, 2)))
    for _ in range(40):
        layer(x, training=True)
    assert len(np.unique(layer.search(x))) == 3


# ---------------------------------------------------------------- figures


def arguments(*options):
    return vq_vae_demo.parse_args(list(map(str, options)))


def test_shannon_bound():
    assert vq_vae_demo.shannon_bound(4, arguments()) == pytest.approx(1 / 16)
    bound = vq_vae_demo.shannon_bound(2, arguments("--test", "qpsk"))  # 1 bit per dimension: all but the noise
    assert bound == pytest.approx(vq_vae_demo.NOISE_VARIANCE, rel=1e-4)


def test_distortion():
    assert vq_vae_demo.distortion(np.array([[0, 0], [1, 3]]), np.array([[0, 1], [1, 2]])) == 0.5


@pytest.mark.parametrize("D", [1, 2, 5])
def test_plane(D):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, D)) * np.arange(1, D + 1) + 7 * (D != 2)
    shown = vq_pager.Plane(x).project(x)
    np.testing.assert_allclose(
        shown.var(axis=0), x.var(axis=0)[::-1][:2] if D > 2 else [*x.var(axis=0), 0][:2], rtol=0.2
    )


# ---------------------------------------------------------------- the command line


def figures(stdout):
    """{name: value} of the lines `name: value unit`."""
    lines = (
        line.split(": ") for line in stdout.splitlines() if ": " in line and not line.startswith(("epoch", "plot"))
    )
    return {name: float(value.split()[0]) for name, value in lines}


def test_qpsk_finds_the_constellation(run, tmp_path):
    options = ("--test", "qpsk", "--num_embedding", 4, "--epochs", 3, "--nb_samples", 20000)
    result = run("vq_vae_demo.py", *options, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    values = figures(result.stdout)
    assert values["bits"] == 2
    assert values["codewords in use"] == 4
    assert values["held-out variance before"] == pytest.approx(1 + vq_vae_demo.NOISE_VARIANCE, rel=0.01)
    assert values["held-out variance after"] <= 1.03 * vq_vae_demo.NOISE_VARIANCE
    assert values["k-means"] <= 1.03 * vq_vae_demo.NOISE_VARIANCE
    assert float(result.stdout.splitlines()[-1]) == values["held-out variance after"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"vq_vae_demo.gif", "vq_vae_demo.png"}
    with Image.open(tmp_path / "plots" / "vq_vae_demo.gif") as film:
        assert film.n_frames == 4  # the start as well


@pytest.mark.parametrize(
    "options",
    [("--embedding_dim", 1, "--num_embedding", 2), ("--embedding_dim", 3, "--num_embedding", 5, "--train_decoder")],
)
def test_other_sizes(options, tmp_path, capsys):
    """In this process, which has Keras already."""
    vq_vae_demo.main(arguments(*options, "--epochs", 5, "--nb_samples", 10000, "--plot_dir", tmp_path))
    values = figures(capsys.readouterr().out)
    assert values["codewords in use"] == options[3]
    assert values["Shannon bound"] < values["held-out variance after"] < 1.05 * values["k-means"]
    assert {path.name for path in tmp_path.iterdir()} == {"vq_vae_demo.gif", "vq_vae_demo.png"}


def test_seed_decides_everything(run, capsys):
    """In another process as well."""
    options = ("--epochs", 1, "--nb_samples", 2000, "--noplots", "--num_embedding", 5, "--decay", 0.99)
    vq_vae_demo.main(arguments(*options, "--seed", 1))
    first = capsys.readouterr().out
    vq_vae_demo.main(arguments(*options, "--seed", 2))
    assert run("vq_vae_demo.py", *options, "--seed", 1).stdout == first
    assert capsys.readouterr().out != first


def test_ctrl_c_reports(tmp_path):
    command = [sys.executable, "-u", ROOT / "vq_vae_demo.py", "--epochs", "10000", "--noplots", "--nb_samples", "2000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 0
    assert float(rest.splitlines()[-1]) == figures(rest)["held-out variance after"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("script", ["vq_vae_demo.py", "vq_vae_demo_2stage.py"])
@pytest.mark.parametrize(
    ("option", "word"),
    [
        (("--test", "qam"), "qam"),
        (("--num_embedding", 1), "--num_embedding"),
        (("--num_embedding", 11, "--nb_samples", 10), "--nb_samples"),
        (("--embedding_dim", 0), "--embedding_dim"),
        (("--epochs", "x"), "--epochs"),
        (("--decay", 1), "--decay"),
        (("--seed", -1), "--seed"),
        (("--x",), "--x"),
    ],
)
def test_usage_errors(script, option, word, run):
    assert_refused(run(script, *option), word, status=2)


@pytest.mark.parametrize("script", ["vq_vae_demo.py", "vq_vae_demo_2stage.py"])
def test_plot_dir_that_is_a_file(script, run, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(run(script, "--plot_dir", "file"), "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("script", ["vq_vae_demo.py", "vq_vae_demo_2stage.py"])
def test_help(script, run):
    result = run(script, "--help")
    assert result.returncode == 0
    for option in ("--test", "--num_embedding", "--embedding_dim", "--seed", "--plot_dir", "--train_decoder"):
        assert option in result.stdout
