"""vq_vae_ratek.py: it starts from k-means, codes whole files; sender and receiver; networks that do not fit."""

import codec2_model
import plumbing
import vq_vae_ratek as script

import numpy as np
import pytest
from conftest import assert_refused, figures, run_in
from test_vq_vae_ratek_conv1d import speech_like

pytestmark = pytest.mark.usefixtures("eager")

keras = script.keras
OUTPUTS = {"--nnout": "n.keras", "--vqout": "n", "--testout": "n.f32", "--indexout": "n.npy"}


def run_here(capsys, *options):
    """Figures of a run in this process, which has Keras already."""
    args = script.parse_args(list(map(str, options)))
    script.main(args, script.load(args))
    return figures(capsys.readouterr().out)


def train(folder, capsys, *options):
    """Figures of a short training on speech-like vectors; all outputs are in `folder`."""
    codec2_model.write_rate_K(speech_like(1001), folder / "x.f32")
    outputs = [text for name, file in OUTPUTS.items() for text in (name, folder / file)]
    return run_here(capsys, folder / "x.f32", "--num_embedding", 16, "--epochs", 2, *outputs, "--noplots", *options)


@pytest.mark.parametrize(("dec", "dim", "overlap"), [(1, 14, False), (2, 28, True), (3, 10, False)])
def test_indices_and_network_give_the_output(dec, dim, overlap, tmp_path, capsys):
    values = train(tmp_path, capsys, "--dec", dec, "--embedding_dim", dim, *["--overlap"] * overlap)
    assert values["bits"] == 4
    assert values["bit rate"] == pytest.approx(400 / dec, rel=1e-4)
    assert values["algorithmic delay"] == dec - 1
    assert values["epochs"] == values["steps"] == 2
    assert float(values["last"]) == values["held-out network SD"]

    indices = np.load(tmp_path / "n.npy")
    assert indices.shape == (-(-1001 // dec), 1)
    assert indices.dtype == np.int32
    network = plumbing.load_network(tmp_path / "n.keras")
    expected = codec2_model.read_rate_K(tmp_path / "n.f32", 14)
    np.testing.assert_array_equal(script.decode(network, indices)[:1001], expected)
    codebook = codec2_model.read_floats(tmp_path / "n_1.f32", dim)
    np.testing.assert_array_equal(network.get_layer("quantizer").codebook, codebook)

    x = speech_like(1001)
    sd = np.mean((x - expected) ** 2, axis=1)
    assert sd[:901].mean() == pytest.approx(values["train network SD"], abs=0.3)  # the last vector may reach over
    assert values["train network SD"] < 0.8 * np.mean((x - x.mean(axis=0)) ** 2)

    received = tmp_path / "received.f32"
    network, indices = tmp_path / "n.keras", tmp_path / "n.npy"
    assert run_here(capsys, "--nnin", network, "--indexin", indices, "--testout", received)["frames"] == 1001
    assert received.read_bytes() == (tmp_path / "n.f32").read_bytes()


def test_receiver_with_other_numbers_of_threads(tmp_path, monkeypatch, capsys):
    """A sender with one thread, a receiver with two in a process of its own."""
    codec2_model.write_rate_K(speech_like(1001), tmp_path / "x.f32")
    monkeypatch.chdir(tmp_path)
    network = ("--dec", "2", "--num_embedding", "400", "--epochs", "1", "--nnout", "n.keras")
    args = script.parse_args(["x.f32", *network, "--testout", "s.f32", "--indexout", "s.npy", "--noplots"])
    script.main(args, script.load(args))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    options = ("--nnin", "n.keras", "--indexin", "s.npy", "--testout", "r.f32")
    assert run_in(tmp_path, "vq_vae_ratek.py", *options).returncode == 0
    assert (tmp_path / "r.f32").read_bytes() == (tmp_path / "s.f32").read_bytes()


def test_decoded_alike_in_another_file(tmp_path, capsys):
    """What an index stands for does not depend on the vectors around it."""
    train(tmp_path, capsys, "--dec", 2)
    network = plumbing.load_network(tmp_path / "n.keras")
    indices = np.random.default_rng(0).integers(0, 16, (300, 1))
    whole = script.decode(network, indices)
    for v in (0, 17, 299):
        np.testing.assert_array_equal(script.decode(network, indices[v : v + 1]), whole[2 * v : 2 * v + 2])


def test_start_is_k_means(tmp_path, capsys, monkeypatch):
    """Before it learns anything, and when no dimension is left out, the network does what k-means does."""
    monkeypatch.setattr(script, "LEARNING_RATE", 1e-12)
    values = train(tmp_path, capsys, "--dec", 2)
    assert values["train network SD"] == pytest.approx(values["train k-means SD"], abs=0.02)
    assert values["held-out network SD"] == pytest.approx(values["held-out k-means SD"], abs=0.02)


def test_k_means_finds_two_clouds(tmp_path, capsys, monkeypatch):
    """Two clouds and two codewords: their centres."""
    monkeypatch.setattr(script, "GAIN_DB", 1)
    monkeypatch.setattr(script, "FILTER_DB", 0.1)
    rng = np.random.default_rng(1)
    centres = np.float32([[20], [60]])
    x = centres[rng.integers(0, 2, 2000)] + rng.normal(0, 1, (2000, 14))
    codec2_model.write_rate_K(x, tmp_path / "clouds.f32")
    options = ("--num_embedding", 2, "--epochs", 1, "--noplots", "--nnout", tmp_path / "n.keras")
    run_here(capsys, tmp_path / "clouds.f32", *options)
    codebook = plumbing.read_array(tmp_path / "n.keras", "kmeans", (2, 14))
    np.testing.assert_allclose(codebook[np.argsort(codebook[:, 0])], np.repeat(centres, 14, axis=1), atol=0.5)


def test_random_filter():
    """The same for all frames of a chunk, smooth over frequency, with the gain and the rms that the constants tell."""
    change = script.random_filter(np.zeros((4000, 3, 14), np.float32), np.random.default_rng(0))
    assert (change == change[:, :1]).all()
    shape = change[:, 0] - change[:, 0].mean(axis=1, keepdims=True)
    assert np.sqrt(np.mean(shape**2)) == pytest.approx(script.FILTER_DB, rel=0.1)
    assert change[:, 0].mean(axis=1).std() == pytest.approx(script.GAIN_DB / np.sqrt(3), rel=0.05)
    spectrum = np.abs(np.fft.rfft(np.concatenate([shape, shape[:, ::-1]], axis=1)))  # even, as cosines are
    assert (spectrum[:, 5:].max(axis=1) < 0.25 * spectrum.max(axis=1)).mean() > 0.95


def test_epochs_follow_the_data(tmp_path, capsys, monkeypatch):
    """As many as make STEPS training steps, rounded up: 4500 training frames are 3 steps of 2048."""
    monkeypatch.setattr(script, "STEPS", 7)
    codec2_model.write_rate_K(speech_like(5000), tmp_path / "x.f32")
    values = run_here(capsys, tmp_path / "x.f32", "--noplots", "--nnout", tmp_path / "n.keras", "--num_embedding", 4)
    assert (values["epochs"], values["steps"]) == (3, 9)


def test_command_line(run, sample, tmp_path, capsys):
    options = ("--num_embedding", 16, "--epochs", 2, "--test", sample[0], "--plot_dir", "plots", "--testout", "t.f32")
    result = run("vq_vae_ratek.py", sample[0], *options, "--nnout", "n.keras")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    values = figures(result.stdout)
    x, x_hat = (codec2_model.read_rate_K(name, 14) for name in (sample[0], tmp_path / "t.f32"))
    assert values["test network SD"] == pytest.approx(np.mean((x - x_hat) ** 2), abs=0.006)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "vq_vae_ratek_sd.png",
        "vq_vae_ratek_frames_1.png",
    }
    again = (sample[0], "--nnin", tmp_path / "n.keras", "--testout", tmp_path / "again.f32", "--noplots")
    values = run_here(capsys, *again)
    assert float(values["last"]) == values["file network SD"]
    assert (tmp_path / "again.f32").read_bytes() == (tmp_path / "t.f32").read_bytes()
    other = run("vq_vae_ratek_conv1d.py", sample[0], "--nnin", "n.keras")
    assert_refused(other, "n.keras", "vq_vae_ratek_conv1d")


def test_vectors_of_one_value(tmp_path, capsys):
    codec2_model.write_rate_K(speech_like(500)[:, :1], tmp_path / "x.f32")
    options = ("--eband_K", 1, "--num_embedding", 16, "--epochs", 1, "--nnout", tmp_path / "n.keras", "--noplots")
    assert run_here(capsys, tmp_path / "x.f32", *options)["held-out network SD"] < 20


def test_seed_decides_everything(tmp_path, capsys):
    files = []
    for seed in (1, 1, 2):
        train(tmp_path, capsys, "--seed", seed)
        files.append((tmp_path / "n_1.f32").read_bytes())
    assert files[0] == files[1] != files[2]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        ({"dec": 3}, "layers"),
        ({"eband_K": 7}, "layers"),
        ({"embedding_dim": 3}, "layers"),
        ({"num_embedding": 15}, "kmeans"),
        ({"dec": "2"}, "dec"),
        ({"script": "vq_vae_ratek_conv1d"}, "script"),
    ],
)
def test_network_that_is_not_what_its_options_tell(lie, word, tmp_path):
    options = {"script": "vq_vae_ratek", "eband_K": 14, "dec": 2, "num_embedding": 16, "embedding_dim": 28}
    args = script.parse_args(["x", "--dec", "2", "--num_embedding", "16", "--eband_K", "14", "--embedding_dim", "28"])
    network = script.build_network(np.zeros(14), args)
    plumbing.save_network(network, options | lie, tmp_path / "n.keras", kmeans=np.zeros((16, 28), np.float32))
    codec2_model.write_rate_K(speech_like(100), tmp_path / "x.f32")
    K = lie.get("eband_K", 14)
    args = script.parse_args([str(tmp_path / "x.f32"), "--nnin", str(tmp_path / "n.keras"), "--eband_K", str(K)])
    with pytest.raises(plumbing.FormatError, match=f"n.keras.*{word}"):
        script.main(args, script.load(args))


def test_network_without_a_quantizer(tmp_path):
    inputs = keras.Input((1, 14))
    options = {"script": "vq_vae_ratek", "eband_K": 14, "dec": 1, "num_embedding": 16, "embedding_dim": 14}
    plumbing.save_network(keras.Model(inputs, keras.layers.Dense(14)(inputs)), options, tmp_path / "n.keras")
    codec2_model.write_rate_K(speech_like(100), tmp_path / "x.f32")
    args = script.parse_args([str(tmp_path / "x.f32"), "--nnin", str(tmp_path / "n.keras")])
    with pytest.raises(plumbing.FormatError, match=r"n\.keras: its layers"):
        script.main(args, script.load(args))


@pytest.mark.parametrize("options", ["", "--indexin x.npy", "x.f32 --indexin x.npy --nnin n --testout o"])
def test_features_or_indices(options, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(options.split())
    assert "--indexin" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--embedding_dim 15", "--eband_K 20 --embedding_dim 41 --dec 2"])
def test_embedding_larger_than_the_vector(options, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["x.f32", *options.split()])
    assert "--embedding_dim" in capsys.readouterr().err
