"""vq_vae_ratek_conv1d.py: sender and receiver, seams, search, random filters; the command line."""

import numpy as np
import pytest
from conftest import assert_refused

import codec2_model
import vq_vae_ratek_conv1d as script

keras = script.keras
SMALL = ("--num_embedding", "32", "--epochs", "2", "--embedding_dim", "8", "--noplots")


def figures(stdout):
    """{name: value} of the lines `name: value unit`."""
    lines = (line.split(": ") for line in stdout.splitlines() if ": " in line)
    return {name: float(value.split()[0]) for name, value in lines if not name.startswith(("epoch", "plot", "shown"))}


def network_of(*options):
    """A network with random weights and codebooks, and its options."""
    args = script.parse_args(["x.f32", "--num_embedding", "16", *map(str, options)])
    keras.utils.set_random_seed(1)
    network = script.build_network(np.zeros(args.eband_K), args)
    random = np.random.default_rng(1)
    for layer in (network.get_layer("quantizer"), network.get_layer("classical")):
        layer.codebooks.assign(random.normal(size=layer.codebooks.shape))
    return network, args


def speech_like(n, K=14):
    """Vectors [n][K] in dB that wander like formants."""
    phase = np.arange(n)[:, None] / 15 + np.arange(K) * np.sin(np.arange(n) / 90)[:, None]
    return np.float32(30 + 15 * np.sin(phase) + np.random.default_rng(2).normal(0, 2, (n, K)))


# ---------------------------------------------------------------- sender and receiver


@pytest.mark.parametrize("dec", [1, 2, 4])
def test_no_seams(dec, monkeypatch):
    """The same vectors, indices and frames whether a file is coded at once or in short blocks."""
    network, _ = network_of("--dec", dec)
    x = speech_like(333)
    z_whole, indices_whole, whole = script.code(network, x, dec)
    monkeypatch.setattr(script, "BLOCK", 64)
    z_e, indices, x_hat = script.code(network, x, dec)
    assert len(x_hat) == len(x)
    assert len(z_e) == len(indices) == -(-len(x) // dec)
    np.testing.assert_allclose(z_e, z_whole, atol=1e-4)
    np.testing.assert_array_equal(indices, indices_whole)
    np.testing.assert_allclose(x_hat, whole, atol=1e-3)


@pytest.mark.parametrize("dec", [1, 2, 4])
def test_reach(dec):
    """Frames before or after change only what is within reach of them."""
    network, _ = network_of("--dec", dec)
    x = speech_like(200)
    z_e, _, x_hat = script.code(network, x, dec)
    after, _, after_hat = script.code(network, np.concatenate([x, x[:1] + 20]), dec)
    before, _, before_hat = script.code(network, np.concatenate([x[-dec:] - 20, x]), dec)
    far = script.REACH
    np.testing.assert_allclose(after[: -far // dec], z_e[: len(after) - -(-far // dec)], atol=1e-4)
    np.testing.assert_allclose(after_hat[: 200 - 2 * far], x_hat[: 200 - 2 * far], atol=1e-3)
    np.testing.assert_allclose(before[far // dec + 1 :], z_e[far // dec :], atol=1e-4)
    np.testing.assert_allclose(before_hat[2 * far + dec :], x_hat[2 * far :], atol=1e-3)
    assert np.abs(before[1] - z_e[0]).max() > 1e-3  # within reach it does change
    assert np.abs(after[len(z_e) - 1] - z_e[-1]).max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_short_files(n):
    network, _ = network_of()
    _, indices, x_hat = script.code(network, speech_like(n), 2)
    assert indices.shape == (-(-n // 2), 2)
    assert x_hat.shape == (n, 14)
    assert np.isfinite(x_hat).all()


def test_m_best_is_never_worse_than_greedy():
    network, _ = network_of()
    quantizer = network.get_layer("quantizer")
    x = np.random.default_rng(3).normal(size=(2000, 16)).astype(np.float32)
    error = {}
    for m in (1, 4, 16):
        quantizer.m_best = m
        error[m] = np.sum((x - keras.ops.convert_to_numpy(quantizer.decode(quantizer.search(x)))) ** 2, axis=1)
    assert (error[4] <= error[1] * (1 + 1e-5)).all()
    assert (error[16] <= error[4] * (1 + 1e-5)).all()
    assert error[4].mean() < 0.99 * error[1].mean()
    first, second = keras.ops.convert_to_numpy(quantizer.codebooks)  # 16 candidates of 16 are a full search
    full = ((x[:50, None, None] - first[:, None] - second) ** 2).sum(axis=3).min(axis=(1, 2))
    np.testing.assert_allclose(error[16][:50], full, rtol=1e-4)


def test_classical_interpolation():
    """Frames that are not sent lie on straight lines; those after the last repeat it."""
    network, _ = network_of("--vq_stages", 1)
    quantizer = network.get_layer("classical")
    codebook = np.repeat(np.arange(16, dtype=np.float32)[:, None], 14, axis=1) * 10
    quantizer.codebooks.assign(codebook[None])
    x = np.repeat(np.float32([0, 99, 20, 99, 80, 99])[:, None], 14, axis=1)
    np.testing.assert_allclose(script.code_classically(network, x, 2)[:, 3], [0, 10, 20, 50, 80, 80])


# ---------------------------------------------------------------- random filters


def test_filter_only_when_training():
    x = np.stack([speech_like(32)] * 8)
    random_filter = script.RandomFilter(14, 1)
    np.testing.assert_array_equal(random_filter(x), x)
    filtered = keras.ops.convert_to_numpy(random_filter(x, training=True))
    response = filtered - x
    assert np.abs(response).max() > 1
    level = filtered > script.FLOOR_DB
    constant = np.where(level, response - response[:, :1], 0)
    assert np.abs(constant[level & level[:, :1]]).max() < 1e-4  # the same for all frames of a chunk
    assert np.abs(response[0] - response[1]).max() > 0.1  # another for the next
    assert (filtered >= script.FLOOR_DB).all()


def test_filter_statistics():
    """Gain and smooth response as the constants say, cutoffs in as many chunks as they say."""
    x = np.full((20000, 1, 14), 60, np.float32)
    response = keras.ops.convert_to_numpy(script.RandomFilter(14, 1)(x, training=True))[:, 0] - 60
    middle = response[:, 5:9]  # 1 to 1.6 kHz: no cutoff reaches there
    assert np.abs(middle.mean()) < 0.1
    expected = script.GAIN_DB**2 / 3 + script.FILTER_DB**2
    np.testing.assert_allclose(middle.var(), expected, rtol=0.15)
    steep = response[:, 0] < middle.mean(axis=1) - 25
    assert 0.1 * script.CUTOFFS < steep.mean() < script.CUTOFFS


# ---------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Folder with what a short training writes, and what it prints."""
    folder = tmp_path_factory.mktemp("trained")
    from conftest import run_in

    files = ("--nnout", "n.keras", "--vqout", "n", "--testout", "n.f32", "--indexout", "n.npy", "--plot_dir", "plots")
    options = (*SMALL[:-1], "--test", sample[0], "--nb_samples", 1000, *files)
    result = run_in(folder, "vq_vae_ratek_conv1d.py", sample[0], *options)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return folder, result.stdout


def test_figures(trained, sample):
    folder, stdout = trained
    values = figures(stdout)
    assert (values["bits"], values["bit rate"]) == (10, 500)  # two stages of 5 bits every 20 ms
    assert float(stdout.splitlines()[-1]) == values["test network SD"]
    x = codec2_model.read_rate_K(sample[0], 14)
    x_hat = codec2_model.read_rate_K(folder / "n.f32", 14)
    assert values["test frames"] == len(x) == len(x_hat)
    assert values["test network SD"] == pytest.approx(np.mean((x - x_hat) ** 2), abs=0.006)
    assert values["held-out frames"] == 100
    indices = np.load(folder / "n.npy")
    assert indices.shape == (-(-len(x) // 2), 2)
    assert indices.dtype.kind == "i"
    for stage in (0, 1):
        share = 100 * len(np.unique(indices[:, stage])) / 32
        assert values[f"test codewords of stage {stage + 1} in use"] == pytest.approx(share, abs=0.06)
    mean_square = np.mean((x - x.mean(axis=0)) ** 2)
    assert values["test network SD"] < 0.5 * mean_square
    assert values["test classical VQ SD"] < 0.5 * mean_square


def test_indices_and_network_give_the_output(trained):
    """What a receiver has, network and indices, makes exactly what the sender's machine has written."""
    folder, _ = trained
    network = keras.models.load_model(folder / "n.keras", compile=False)
    indices = np.load(folder / "n.npy")
    x_hat = script.decode(network, indices, 2)
    expected = codec2_model.read_rate_K(folder / "n.f32", 14)
    np.testing.assert_array_equal(x_hat[: len(expected)], expected)
    codebooks = [codec2_model.read_rate_K(folder / f"n_{stage}.f32", 8) for stage in (1, 2)]
    z_q = sum(codebook[index] for codebook, index in zip(codebooks, indices.T, strict=True))
    np.testing.assert_array_equal(network.get_layer("quantizer").decode(indices), z_q)


def test_plots(trained):
    folder, _ = trained
    names = {f"vq_vae_ratek_conv1d_{name}" for name in ("training.gif", "training.png", "sd.png")}
    pages = {f"vq_vae_ratek_conv1d_frames_{page}.png" for page in (1, 2)}
    assert {path.name for path in (folder / "plots").iterdir()} == names | pages


def test_without_training(trained, run, sample, tmp_path):
    folder, stdout = trained
    options = ("--nnin", folder / "n.keras", "--testout", "again.f32", "--indexout", "again.npy", "--noplots")
    result = run("vq_vae_ratek_conv1d.py", sample[0], *options)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.f32").read_bytes() == (folder / "n.f32").read_bytes()
    assert np.array_equal(np.load(tmp_path / "again.npy"), np.load(folder / "n.npy"))
    assert figures(result.stdout)["file network SD"] == figures(stdout)["test network SD"]
    assert not (tmp_path / "vq_vae_ratek_conv1d.keras").exists()


def test_network_for_another_K(trained, run, tmp_path):
    folder, _ = trained
    codec2_model.write_rate_K(speech_like(280, 20), tmp_path / "K20.f32")  # a whole number of vectors of 14, too
    result = run("vq_vae_ratek_conv1d.py", "K20.f32", "--nnin", folder / "n.keras", "--eband_K", 20)
    assert_refused(result, "n.keras", "14", "20")


def test_fewer_vectors_than_codewords(run, sample):
    result = run("vq_vae_ratek_conv1d.py", sample[0], "--nb_samples", 1000, "--num_embedding", 451)
    assert_refused(result, sample[0], "450", "451")


def test_same_seed_same_network(sample, tmp_path, capsys):
    """In this process, so that Keras is imported once; K = 20 and one stage, too."""
    books = []
    codec2_model.write_rate_K(speech_like(600, 20), tmp_path / "x.f32")
    for seed in ("1", "1", "2"):
        files = ("--nnout", f"{tmp_path}/n.keras", "--vqout", f"{tmp_path}/n", "--indexout", f"{tmp_path}/n.npy")
        options = ("--eband_K", "20", "--vq_stages", "1", "--seed", seed)
        args = script.parse_args([f"{tmp_path}/x.f32", *SMALL, *options, *files])
        script.main(args, *script.prepare(args))
        books.append(((tmp_path / "n_1.f32").read_bytes(), np.load(tmp_path / "n.npy").tobytes()))
    assert books[0] == books[1]
    assert books[0][0] != books[2][0]
    assert not (tmp_path / "n_2.f32").exists()
    values = figures(capsys.readouterr().out)
    assert (values["bits"], values["bit rate"]) == (5, 250)
