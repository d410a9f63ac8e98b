"""vq_vae_demo.py: losses, gradients and search by hand; start in a corner; figures and film."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import vq_vae_demo as script
from conftest import call, figures

keras = script.keras
# the vectors of most tests: the first goes to B, the second to A
X = np.float32([[0.9, 0], [0.2, 0.3]])
A, B, C = [0, 0], [1, 0], [5, 5]


def quantizer(codebook, **options):
    """A quantiser with this codebook [M][dim]."""
    layer = script.VectorQuantizer(*np.shape(codebook), **options)
    layer.codebook.assign(codebook)
    return layer


def gradients(value):
    """Gradients of value(output, losses) of A, B and C for X, and for the codebook."""
    layer, x = quantizer([A, B, C]), tf.Variable(X)
    with tf.GradientTape() as tape:
        output = layer(x)
        names = ("codebook", "commitment", "unused")
        result = value(output, dict(zip(names, layer.losses, strict=True)))
    found = tape.gradient(result, [x, layer.codebook.value], unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]


@pytest.fixture
def drawn(monkeypatch):
    """Films are drawn, but not rendered: (limits of the axes …, title) of every picture."""
    pictures = []

    def show_film(fig, draw, nb_pictures, name, plot_dir):
        for i in range(nb_pictures):
            draw(i)
            limits = [(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes]
            pictures.append([*limits, fig.axes[0].get_title()])

    monkeypatch.setattr(script.plots, "show_film", show_film)
    monkeypatch.setattr(script, "HELD_OUT", 10_000)
    return pictures


def test_straight_through():
    """The gradient of the output arrives at the encoder as it is, at the codebook not at all."""
    weigh = np.float32([[2, -3], [5, 7]])
    to_encoder, to_codebook = gradients(lambda output, _: tf.reduce_sum(output * weigh))
    np.testing.assert_array_equal(to_encoder, weigh)
    assert not to_codebook.any()


def test_commitment_loss_pulls_only_the_encoder():
    to_encoder, to_codebook = gradients(lambda _, losses: losses["commitment"])
    np.testing.assert_allclose(to_encoder, 0.25 * 2 * (X - [B, A]) / X.size, rtol=1e-6)
    assert not to_codebook.any()


def test_codebook_loss_pulls_only_the_codebook():
    to_encoder, to_codebook = gradients(lambda _, losses: losses["codebook"])
    assert not to_encoder.any()
    expected = [2 * (A - X[1]) / X.size, 2 * (B - X[0]) / X.size, [0, 0]]
    np.testing.assert_allclose(to_codebook, expected, rtol=1e-6)


def test_unused_loss_pulls_every_codeword_to_the_mean():
    to_encoder, to_codebook = gradients(lambda _, losses: losses["unused"])
    assert not to_encoder.any()
    expected = 0.001 * 2 * (np.array([A, B, C]) - X.mean(axis=0)) / 6
    np.testing.assert_allclose(to_codebook, expected, rtol=1e-5)


def test_losses_by_hand():
    """The example in the docstring."""
    layer = quantizer([A, B])
    np.testing.assert_array_equal(layer(X[:1]), [B])
    assert list(map(float, layer.losses)) == pytest.approx([0.005, 0.00125, 0.000205])


@pytest.mark.parametrize(("M", "dim"), [(2, 1), (64, 16)])
def test_nearest_codeword_as_by_brute_force(M, dim):
    rng = np.random.default_rng(M)
    codebook, x = rng.normal(size=(M, dim)), np.float32(rng.normal(size=(500, dim)))
    distance = np.sum((x[:, None] - codebook) ** 2, axis=2)
    np.testing.assert_array_equal(quantizer(codebook).search(x), np.argmin(distance, axis=1))


def test_shannon_bound():
    """1 / 16 for Gaussian vectors at 2 bits per dimension; the noise for qpsk at 1 bit."""
    assert script.shannon_bound(script.parse_args([])) == 0.0625
    qpsk = script.parse_args(["--test", "qpsk", "--num_embedding", "4"])
    assert script.shannon_bound(qpsk) == script.NOISE_VARIANCE


def test_qpsk_finds_the_constellation(run, tmp_path):
    """The script as its user runs it."""
    options = ("--test", "qpsk", "--num_embedding", 4, "--epochs", 2, "--nb_samples", 20000)
    result = run("vq_vae_demo.py", *options, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    values = figures(result.stdout)
    assert values["bits"] == 2
    assert values["codewords in use"] == 4
    assert values["held-out variance before"] == pytest.approx(1 + script.NOISE_VARIANCE, rel=0.01)
    assert values["held-out variance after"] <= 1.03 * script.NOISE_VARIANCE
    assert values["k-means"] <= 1.03 * script.NOISE_VARIANCE
    assert float(values["last"]) == values["held-out variance after"]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"vq_vae_demo.gif", "vq_vae_demo.png"}
    with Image.open(tmp_path / "plots" / "vq_vae_demo.gif") as film:
        assert film.n_frames >= 3  # the start as well


def test_codewords_walk_out_of_a_corner(drawn):
    """They start where most vectors are far away, and end in use, within 10 % of k-means."""
    options = ("--noplots", "--epochs", 25, "--start", "corner")
    values = figures(call(script, *options))
    assert values["codewords in use"] == 16
    assert values["held-out variance after"] < 1.1 * values["k-means"]


def test_film_keeps_its_plane(drawn):
    """The axes have the same limits from the first picture to the last; other sizes work."""
    sizes = ("--num_embedding", 5, "--embedding_dim", 3, "--train_decoder")
    call(script, *sizes, "--epochs", 6, "--nb_samples", 2000, "--start", "corner")
    *planes, titles = zip(*drawn, strict=True)
    assert all(len(set(plane)) == 1 for plane in planes)
    assert [title.partition(":")[0] for title in titles] == [f"epoch {epoch}" for epoch in range(7)]
