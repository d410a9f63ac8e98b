"""vq_vae_ratek.py: it starts from k-means, codes whole files; the command line."""

import numpy as np
import pytest
from conftest import assert_refused
from test_vq_vae_ratek_conv1d import figures, speech_like

import codec2_model
import vq_vae_ratek as script

keras = script.keras


def train(folder, *options):
    """Figures of a short training in this process, so that Keras is imported once."""
    codec2_model.write_rate_K(speech_like(1001), folder / "x.f32")
    files = ("--nnout", folder / "n.keras", "--vqout", folder / "n", "--testout", folder / "n.f32")
    files += ("--indexout", folder / "n.npy", "--noplots")
    args = script.parse_args(list(map(str, (folder / "x.f32", "--num_embedding", 16, "--epochs", 2, *files, *options))))
    script.main(args, *script.prepare(args))


@pytest.mark.parametrize(("dec", "dim", "overlap"), [(1, 14, False), (2, 28, True), (3, 10, False)])
def test_indices_and_network_give_the_output(dec, dim, overlap, tmp_path, capsys):
    train(tmp_path, "--dec", dec, "--embedding_dim", dim, *["--overlap"] * overlap)
    stdout = capsys.readouterr().out
    values = figures(stdout)
    assert values["bits"] == 4
    assert values["bit rate"] == pytest.approx(400 / dec, rel=1e-4)
    assert float(stdout.splitlines()[-1]) == values["held-out network SD"]
    indices = np.load(tmp_path / "n.npy")
    assert indices.shape == (-(-1001 // dec), 1)
    network = keras.models.load_model(tmp_path / "n.keras", compile=False)
    expected = codec2_model.read_rate_K(tmp_path / "n.f32", 14)
    np.testing.assert_array_equal(script.decode(network, indices, dec)[:1001], expected)
    codebook = codec2_model.read_rate_K(tmp_path / "n_1.f32", dim)
    np.testing.assert_array_equal(network.get_layer("quantizer").decode(indices), codebook[indices[:, 0]])
    x = speech_like(1001)
    sd = np.mean((x - expected) ** 2, axis=1)
    assert sd[:901].mean() == pytest.approx(values["train network SD"], abs=0.3)  # the last vector may reach over
    assert values["train network SD"] < 0.8 * np.mean((x - x.mean(axis=0)) ** 2)


def test_it_starts_from_k_means(tmp_path, capsys):
    """Before the first step, and when nothing is left out, the network does what k-means does."""
    args = script.parse_args(["x.f32", "--num_embedding", "16", "--dec", "2"])
    x = speech_like(1000)
    network = script.build_network(x.mean(axis=0), args)
    chunks = x.reshape(-1, 2, 14)
    script.train_kmeans(network.get_layer("kmeans"), chunks, args, np.random.default_rng(1))
    script.start(network, chunks)
    np.testing.assert_allclose(script.code(network, x, 2)[2], script.code_by_kmeans(network, x, 2), atol=1e-3)


def test_k_means_is_at_least_near_the_optimum(tmp_path):
    """Two clouds and two codewords: their centres."""
    args = script.parse_args(["x.f32", "--num_embedding", "2"])
    random = np.random.default_rng(1)
    centres = np.float32([[0], [60]])
    x = (centres[random.integers(0, 2, 4000)] + random.normal(0, 1, (4000, 14))).astype(np.float32)
    network = script.build_network(x.mean(axis=0), args)
    script.train_kmeans(network.get_layer("kmeans"), x[:, None], args, random)
    codebook = np.sort(keras.ops.convert_to_numpy(network.get_layer("kmeans").codebooks)[0], axis=0)
    np.testing.assert_allclose(codebook, np.repeat(centres, 14, axis=1), atol=2)


def test_command_line(run, sample, tmp_path):
    options = ("--num_embedding", 16, "--epochs", 2, "--test", sample[0], "--plot_dir", "plots", "--testout", "t.f32")
    result = run("vq_vae_ratek.py", sample[0], *options, "--nnout", "n.keras")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    values = figures(result.stdout)
    x, x_hat = (codec2_model.read_rate_K(name, 14) for name in (sample[0], tmp_path / "t.f32"))
    assert values["test network SD"] == pytest.approx(np.mean((x - x_hat) ** 2), abs=0.006)
    names = {f"vq_vae_ratek_{name}" for name in ("training.gif", "training.png", "sd.png")}
    pages = {f"vq_vae_ratek_frames_{page}.png" for page in (1, 2)}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names | pages
    again = run("vq_vae_ratek.py", sample[0], "--nnin", "n.keras", "--testout", "again.f32", "--noplots")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.f32").read_bytes() == (tmp_path / "t.f32").read_bytes()
    other = run("vq_vae_ratek_conv1d.py", sample[0], "--nnin", "n.keras")
    assert_refused(other, "n.keras", "vq_vae_ratek_conv1d")


def test_embedding_larger_than_the_vector(run):
    assert_refused(run("vq_vae_ratek.py", "x.f32", "--embedding_dim", 15), "--embedding_dim", status=2)
