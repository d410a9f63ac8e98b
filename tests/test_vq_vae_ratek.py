"""vq_vae_ratek.py: it starts from k-means; its archive; figures; refusals."""

import numpy as np
import pytest

import codec2_model
import vq_vae_ratek as script
from common import networks, search
from common.plumbing import FormatError
from conftest import assert_refused, call, figures, speech_like

pytestmark = pytest.mark.usefixtures("eager")


def train(folder, *options):
    """Figures of a short training on speech-like vectors; the network is n.keras in `folder`."""
    codec2_model.write_rate_K(speech_like(601), folder / "x.f32")
    usual = ("--num_embedding", 16, "--epochs", 2, "--nnout", folder / "n.keras", "--noplots")
    return figures(call(script, folder / "x.f32", *usual, *options))


@pytest.mark.parametrize(("dec", "dim", "overlap"), [(1, 14, False), (3, 10, True)])
def test_the_archive_is_what_was_measured(dec, dim, overlap, tmp_path):
    """Decoded by hand: each index is one codeword, which the decoder makes dec frames of."""
    options = ("--dec", dec, "--embedding_dim", dim, *["--overlap"] * overlap)
    values = train(tmp_path, *options)
    assert values["bits"] == 4
    assert values["bit rate"] == pytest.approx(400 / dec, rel=1e-4)
    assert values["algorithmic delay"] == 10 * (dec - 1)
    assert values["epochs"] == values["steps"] == values["trained"] == 2
    assert float(values["last"]) == values["held-out network SD"]

    quantiser = networks.load_quantiser(tmp_path / "n.keras")
    assert quantiser.codebooks.shape == (1, 16, dim)
    assert quantiser.options["steps"] == 2
    held = speech_like(601)[541:]
    coder = search.coder_of(quantiser)
    indices = search.send(coder, held, lookahead_ms=0)
    decoded = quantiser.decoder.predict(quantiser.codebooks[0][indices[:, 0]][None], verbose=0)[0]
    sd = np.mean((held - decoded[: len(held)]) ** 2)
    assert values["held-out network SD"] == pytest.approx(sd, abs=0.006)
    used = 100 * len(np.unique(indices)) / 16
    assert values["held-out codewords of stage 1 in use"] == pytest.approx(used, abs=0.06)


def test_start_is_k_means(tmp_path, monkeypatch):
    """Before it learns, and with as many values as the frames have, it does what k-means does."""
    monkeypatch.setattr(script, "LEARNING_RATE", 1e-12)
    values = train(tmp_path, "--dec", 2)
    for part in ("train", "held-out"):
        kmeans = values[f"{part} k-means SD"]
        assert values[f"{part} network SD"] == pytest.approx(kmeans, rel=0.005)


def test_k_means_finds_two_clouds(tmp_path, monkeypatch):
    """Two clouds and two codewords: their centres."""
    monkeypatch.setattr(script, "GAIN_DB", 1)
    monkeypatch.setattr(script, "FILTER_DB", 0.1)
    rng = np.random.default_rng(1)
    centres = np.float32([[20], [60]])
    x = centres[rng.integers(0, 2, 1000)] + rng.normal(0, 1, (1000, 14))
    codec2_model.write_rate_K(x, tmp_path / "clouds.f32")
    options = ("--num_embedding", 2, "--epochs", 1, "--noplots", "--nnout", tmp_path / "n.keras")
    call(script, tmp_path / "clouds.f32", *options)
    codebook = networks.load_quantiser(tmp_path / "n.keras").baseline["kmeans"][0]
    ordered = codebook[np.argsort(codebook[:, 0])]
    np.testing.assert_allclose(ordered, np.repeat(centres, 14, axis=1), atol=0.5)


def test_epochs_follow_the_data(tmp_path, monkeypatch):
    """As many as make STEPS training steps, rounded up: 541 training frames are 3 steps of 256."""
    monkeypatch.setattr(script, "STEPS", 7)
    monkeypatch.setattr(script, "BATCH", 256)
    codec2_model.write_rate_K(speech_like(601), tmp_path / "x.f32")
    options = ("--noplots", "--nnout", tmp_path / "n.keras", "--num_embedding", 4)
    values = figures(call(script, tmp_path / "x.f32", *options))
    assert (values["epochs"], values["steps"]) == (3, 9)


def test_command_line(run, sample, tmp_path):
    """As its user runs it; the same seed gives the same figures in this process."""
    options = (sample[0], "--num_embedding", 16, "--epochs", 2, "--nb_samples", 1000)
    files = ("--nnout", tmp_path / "n.keras", "--test", sample[0])
    result = run("vq_vae_ratek.py", *options, *files, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    values = figures(result.stdout)
    assert float(values["last"]) == values["test network SD"]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"vq_vae_ratek_sd.png", "vq_vae_ratek_frames_1.png"}


def test_seed_decides_everything(tmp_path):
    codebooks = []
    for seed in (1, 1, 2):
        train(tmp_path, "--seed", seed)
        codebooks.append(networks.read_arrays(tmp_path / "n.keras")["codebooks"].tobytes())
    assert codebooks[0] == codebooks[1] != codebooks[2]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--embedding_dim 15", "--embedding_dim"),
        ("--eband_K 20 --embedding_dim 41 --dec 2", "--embedding_dim"),
        ("--num_embedding 1", "--num_embedding"),
        ("--eband_K 13", "14 (bands, 8000 Hz)"),
        ("--eband_K 14 --Fs 16000", "18 (bands at 16 kHz, 16000 Hz)"),
        ("--nnout x.h5", ".keras"),
        ("--nnin x.keras --indexin x.npy", "vq_out.py"),
        ("--scale 2", "--scale is gone: scaling is learnt"),
        ("--noplots --plot_dir p", "--plot_dir"),
    ],
)
def test_usage_errors(options, words, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["x.f32", *options.split()])
    assert words in capsys.readouterr().err


def test_too_little_speech(tmp_path):
    codec2_model.write_rate_K(speech_like(150), tmp_path / "x.f32")
    with pytest.raises(FormatError, match=r"x\.f32: 135 frames .*expected 256.*--num_embedding 64"):
        script.load(script.parse_args([str(tmp_path / "x.f32"), "--dec", "2"]))
    options = "--dec 16 --num_embedding 2 --nb_samples 112"  # 11 held-out frames: no vector
    with pytest.raises(FormatError, match=r"x\.f32: 101 frames .*expected 160: give it 2 s"):
        script.load(script.parse_args([str(tmp_path / "x.f32"), *options.split()]))


def test_answers_before_keras_loads(no_keras, run):
    assert_refused(run("vq_vae_ratek.py", "none.f32", env=no_keras), "none.f32")
