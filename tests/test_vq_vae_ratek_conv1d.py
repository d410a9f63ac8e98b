"""vq_vae_ratek_conv1d.py: quantiser, random filters, training, film, archive; another quantiser."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import codec2_model
import vq_ber
import vq_out
import vq_vae_ratek_conv1d as script
from common import networks, search
from conftest import call, figures, shorten, speech_like

SMALL = ("--num_embedding", "16", "--embedding_dim", "8", "--epochs", "2")


@pytest.fixture(scope="module", autouse=True)
def small_training():
    """Short, and operation by operation: to compile it takes longer than to train."""
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, script)
        yield
    tf.config.run_functions_eagerly(False)


def quantizer_of(codebooks, decay=0.99):
    """A layer without prediction."""
    stages, M, dim = np.shape(codebooks)
    layer = script.VectorQuantizer(stages, M, dim, m_best=1, beta=0.25, decay=decay, leak=0)
    layer.codebooks.assign(codebooks)
    return layer


def test_straight_through():
    """The output's gradient goes to the input; the commitment's is 2 beta / dim (z − z_hat)."""
    layer = quantizer_of([[[0.0, 0.0], [1.0, 0.0]]])
    dense = layers.Dense(2, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((2, 2)), dense, layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    z, target = np.float32([[[0, 0], [0.9, 0]]]), np.zeros((1, 2, 2), np.float32)
    before = dense.get_weights()[1]
    model.fit(z, target, verbose=0)
    through = np.array([0.5, 0])  # 2 (z_hat − target) / 4
    commitment = 0.25 * np.array([-0.1, 0])
    change = before - dense.get_weights()[1]
    np.testing.assert_allclose(change, through + commitment, atol=1e-6)


def test_codewords_move_to_the_mean_of_their_vectors():
    layer = quantizer_of([[[0.0], [10.0]]], decay=0.9)
    z = np.float32([[[0], [1], [1], [9], [8]]])  # the first one is not quantised
    for _ in range(60):
        layer(z, training=True)
    np.testing.assert_allclose(np.array(layer.codebooks)[0, :, 0], [1, 8.5], atol=0.05)


def test_unused_codewords_restart():
    layer = quantizer_of([[[0.0], [1000.0]]], decay=0.5)
    for _ in range(20):
        layer(np.float32([[[0], [1], [3]]]), training=True)
    np.testing.assert_allclose(np.sort(np.array(layer.codebooks)[0, :, 0]), [1, 3], atol=0.1)


def test_prediction_worked_by_hand():
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with n.keras and pictures of a short training; the figures printed."""
    folder = tmp_path_factory.mktemp("conv1d")
    x = speech_like(900)
    x[500:600] = -150
    codec2_model.write_rate_K(x, folder / "x.f32")
    codec2_model.write_rate_K(x[:80], folder / "test.f32")
    files = ("--nnout", folder / "n.keras", "--test", folder / "test.f32")
    options = (*SMALL, "--plot_dir", folder / "plots")
    return folder, figures(call(script, folder / "x.f32", *files, *options))


def test_figures_archive_and_pictures(trained):
    """Figures are of the network that was saved, with the search of vq_out.py."""
    folder, values = trained
    assert (values["bits"], values["bit rate"]) == (8, 400)  # two stages of 4 bits every 20 ms
    assert (values["epochs"], values["steps"], values["trained"]) == (2, 2, 2)
    assert float(values["last"]) == values["test network SD"]
    assert any(name.startswith("search ") for name in values)  # the decoder was refined
    sent = figures(call(vq_out, folder / "n.keras", folder / "test.f32", "--noplots"))
    assert sent["file network SD"] == values["test network SD"]
    assert sent["file classical VQ SD"] == values["test classical VQ SD"]
    delay_ms = values["delay of encoder, search and decoder"] + vq_out.ANALYSIS_MS
    assert sent["algorithmic delay"] == delay_ms
    quantiser = networks.load_quantiser(folder / "n.keras")
    assert quantiser.codebooks.shape == (2, 16, 8)
    assert not np.array_equal(quantiser.expected, np.eye(8))
    expected = {"script": script.NAME, "lower": 10, "seed": 1, "steps": 2, "Fs": 8000}
    assert quantiser.options.items() >= expected.items()
    names = {path.name for path in (folder / "plots").iterdir()}
    kinds = ("training.gif", "training.png", "sd.png", "frames_1.png")
    assert names == {f"vq_vae_ratek_conv1d_{kind}" for kind in kinds}


def test_expectation_worked_by_hand():
    """Vectors 0, 1, 9, 8 become 0, 0, 10, 10, and 5 does not count: 170 / (1 + 81 + 64) = 1.164."""
    coder = search.Coder(np.float32([[[0], [10]]]), None, 1, 1, lambda x: x, lambda z: z)
    x, weights = np.float32([[[0], [1], [9], [8], [5]]]), np.float32([[1, 1, 1, 1, 0]])
    expected = script.expectation(coder, x, weights, lower=-np.inf)
    np.testing.assert_allclose(expected, [[170 / 146]], rtol=2e-3)


def test_refined_decoder_is_nearer_to_what_the_sender_chooses(trained, monkeypatch):
    enough = {"REFINE_RATE": 1e-2, "REFINE_EPOCHS": 20, "SEARCHED": 600, "SEQUENCE": 64}
    for name, value in enough.items():
        monkeypatch.setattr(script, name, value)
    quantiser = networks.load_quantiser(trained[0] / "n.keras")
    coder = search.coder_of(quantiser)
    x, args, rng = speech_like(600), script.parse_args(["x", *SMALL]), np.random.default_rng(1)

    def sd():
        return np.mean((x - search.receive(coder, search.send(coder, x), len(x))) ** 2)

    before = sd()
    script.refine(coder, quantiser.decoder, *script.sequences(x, args, rng), args.lower)
    assert sd() < 0.9 * before


def test_low_delay_starts_from_the_layers_of_another_network():
    """Each weight stays with its input: without those that one of the two lacks, both compute the
    same.
    """
    long = script.parse_args(["x", *SMALL, "--dec", "4"])
    low = script.parse_args(["x", *SMALL, "--dec", "4", "--low_delay"])
    other, network = (script.build_network(np.full(14, 30), args) for args in (long, low))
    sees, sees_low = (script.inputs_after(4, args.low_delay) for args in (long, low))
    sides = {side: other.get_layer(side) for side in ("encoder", "decoder")}
    for layer in [*sides["encoder"].layers, *sides["decoder"].layers]:
        if lacking := sees.get(layer.name, 0) - sees_low.get(layer.name, 0):
            kernel, bias = layer.get_weights()
            kernel[slice(lacking) if layer.name == "decoder_strided" else slice(-lacking, None)] = 0
            layer.set_weights([kernel, bias])
    script.start_from(network, SimpleNamespace(**sides, options={"low_delay": False}), low)
    inputs = {"encoder": speech_like(96), "decoder": speech_like(24)[:, :8]}
    for side, x in inputs.items():
        one, another = (np.array(net.get_layer(side)(x[None]))[0] for net in (other, network))
        np.testing.assert_allclose(one[8:-8], another[8:-8], atol=1e-3)
        assert np.ptp(one[8:-8], axis=0).max() > 0.1
    coder = search.coder_of_network(*map(network.get_layer, sides), np.zeros((1, 2, 8)), 4)
    assert (coder.encoder_reach[1], coder.decoder_reach[0]) == (5, -2)  # 70 ms of layers


class Rounding(layers.Layer):
    """Finite scalar quantisation: each value of z becomes one of M levels in −1…1.

    A stage has the levels of one value as codewords, so that sums of codewords are the grid.
    """

    def __init__(self, M, dim, **kwargs):
        super().__init__(**kwargs)
        levels = np.linspace(-1, 1, M, dtype=np.float32)
        self.codebooks = levels[None, :, None] * np.eye(dim, dtype=np.float32)[:, None]
        self.predictor = np.zeros((dim, dim), np.float32)
        self.M = M

    def start(self, z, rng):
        """Levels need no start."""

    def quantise_all(self, z):
        """What is decoded of all but the first of z, what was before, and indices."""
        scale = (self.M - 1) / 2
        level = ops.clip(ops.round((z[:, 1:] + 1) * scale), 0, self.M - 1)
        indices = ops.cast(ops.reshape(level, (-1, z.shape[2])), "int32")
        return level / scale - 1, z[:, :-1], indices

    def call(self, z):
        z_hat, _, _ = self.quantise_all(z)
        z_hat = ops.concatenate([z[:, :1], z_hat], axis=1)
        return z + ops.stop_gradient(z_hat - z)


def test_finite_scalar_quantisation(tmp_path, monkeypatch):
    """A copy of the script needs another layer and build_network(), and nothing else."""
    build = script.build_network

    def build_network(mean, args):
        network = build(mean, args)
        frames = network.inputs[0]
        z = layers.Activation("tanh")(network.get_layer("encoder")(frames))
        encoder = keras.Model(frames, z, name="encoder")
        quantizer = Rounding(args.num_embedding, args.embedding_dim, name="quantizer")
        return keras.Model(frames, network.get_layer("decoder")(quantizer(encoder(frames))))

    monkeypatch.setattr(script, "build_network", build_network)
    monkeypatch.setattr(vq_ber, "REPEATS", 1)
    codec2_model.write_rate_K(speech_like(400), tmp_path / "x.f32")
    net = tmp_path / "n.keras"
    sizes = ("--vq_stages", 8, "--embedding_dim", 8, "--num_embedding", 4, "--epochs", 3)
    files = ("--nnout", net, "--plot_dir", tmp_path / "plots")
    values = figures(call(script, tmp_path / "x.f32", *sizes, *files))
    assert values["bits"] == 16
    assert (tmp_path / "plots" / "vq_vae_ratek_conv1d_training.gif").exists()

    codec2_model.write_rate_K(speech_like(61), tmp_path / "y.f32")
    outputs = ("--indexout", tmp_path / "y.npy", "--testout", tmp_path / "sent.f32", "--noplots")
    call(vq_out, net, tmp_path / "y.f32", *outputs)
    call(vq_out, net, "--indexin", tmp_path / "y.npy", "--testout", tmp_path / "received.f32")
    assert (tmp_path / "received.f32").read_bytes() == (tmp_path / "sent.f32").read_bytes()
    ber = figures(call(vq_ber, net, tmp_path / "y.f32", "--ber", 10, "--noplots"))
    assert ber["renumbered SD at 10 %"] > ber["without errors SD"]
    quantiser = networks.load_quantiser(net)
    z = np.array(quantiser.encoder(speech_like(100)[None]))[0]
    nearest = np.array(search.nearest_sums(z, quantiser.codebooks, 4))
    np.testing.assert_array_equal(nearest, np.clip(np.rint((z + 1) * 1.5), 0, 3))
