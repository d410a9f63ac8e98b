"""newamp1_train.py: its conventional decoder, both kinds of features, c2enc's own files; bad input."""

import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_in
from test_eband_train import figures, weights

import c2sim
import codec2_model
import newamp1_train

keras = newamp1_train.keras
WAV = ROOT / "tests" / "data" / "sample_8k.wav"


@pytest.fixture(scope="module")
def rate_K(tmp_path_factory):
    """Rate K vectors and model file of the sample speech, 10 ms frames."""
    folder = tmp_path_factory.mktemp("rate_K")
    assert run_in(folder, "c2sim.py", WAV, "--rateK", "--rateKout", "k.f32").returncode == 0
    assert run_in(folder, "c2sim.py", WAV, "--modelout", "k.model").returncode == 0
    return folder / "k.f32", folder / "k.model"


@pytest.fixture(scope="module")
def mlfeat(tmp_path_factory):
    """Features and model file of the sample speech from c2enc 700C, 40 ms frames."""
    if not shutil.which("c2enc"):
        pytest.skip("c2enc is not on this machine (Debian package codec2)")
    folder = tmp_path_factory.mktemp("mlfeat")
    c2sim.read_speech(str(WAV)).tofile(folder / "speech.raw")
    command = ["c2enc", "700C", "speech.raw", "bits", "--mlfeat", "feat.f32", "feat.model"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "feat.f32", folder / "feat.model"


def test_parabolas_are_the_conventional_decoder():
    """A harmonic in the centre of every fourth bin: the matrix and c2sim's decoder agree there."""
    vectors = np.random.default_rng(0).normal(40, 10, (3, 20)).astype(np.float32)
    Wo, L = np.full(3, 4 * np.pi / 256, np.float32), np.full(3, 60, np.int32)
    A_dB = 20 * np.log10(c2sim.rate_K_to_L(vectors, Wo, L)[:, 1:61])
    np.testing.assert_allclose((vectors @ newamp1_train.parabolas(8000))[:, 4:244:4], A_dB, atol=1e-3)


def test_an_untrained_network_joins_by_parabolas_and_follows_the_level():
    vectors = np.random.default_rng(0).normal(40, 10, (3, 20)).astype(np.float32)
    lines = newamp1_train.parabolas(8000)
    network = newamp1_train.build_network(vectors, lines)
    dB = keras.ops.convert_to_numpy(network([vectors]))
    mean = vectors.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(dB, (vectors - mean) @ lines + mean, atol=1e-3)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(network([vectors + 7])), dB + 7, atol=1e-3)


def test_rate_K_vectors(run, rate_K, tmp_path):
    options = ("--epochs", 2, "--plot_dir", "plots", "--frames", 5, 300, 7, 8, 9, 1000, 2000, "--test", *rate_K)
    result = run("newamp1_train.py", *rate_K, *options)
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    assert values["held-out network SD"] < values["held-out conventional SD"]
    assert not any("700C" in name for name in values)
    assert float(result.stdout.splitlines()[-1]) == values["test network SD"]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"newamp1_train_{x}.png" for x in ("loss", "sd", "frames_1", "frames_2")}

    # the conventional decoder's figure once more, from c2sim's own model file after K to L
    assert run("c2sim.py", WAV, "--rateK", "--rateKout", "x.f32", "--modelout", "L.model").returncode == 0
    Wo, L, A, _, _ = codec2_model.read(rate_K[1])
    A_hat = codec2_model.read(tmp_path / "L.model")[2]
    m = np.arange(161)
    used = (m >= 1) & (m <= L[:, None]) & (m * Wo[:, None] <= 3600 * 2 * np.pi / 8000) & (A > 0)
    error = np.where(used, 20 * np.log10(np.where(used, A_hat, 1) / np.where(used, A, 1)), 0)
    sd = np.sum(error**2, axis=1) / used.sum(axis=1)
    assert values["test conventional SD"] == pytest.approx(sd.mean(), abs=0.02)


def test_features_of_c2enc_to_speech(run, mlfeat, tmp_path):
    """The 40 ms route: c2enc, training, eband_out, synthesis."""
    result = run("newamp1_train.py", *mlfeat, "--epochs", 20, "--noplots", "--test", *mlfeat)
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    assert values["train network SD"] < values["train conventional SD"] < values["train 700C quantised SD"]
    out = run("eband_out.py", "newamp1.keras", *mlfeat, "--noplots", "--modelout", "out.model")
    assert float(out.stdout.split()[-1]) == pytest.approx(values["test network SD"], abs=0.01)
    assert run("c2sim.py", "--modelin", "out.model", "-o", "out.raw").returncode == 0
    assert (tmp_path / "out.raw").stat().st_size == 160 * len(codec2_model.read(mlfeat[1])[0])


def test_the_same_seed_gives_the_same_network(run, rate_K, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ("--epochs", 1, "--noplots", "--nb_samples", 600, "--seed", seed, "--nnout", f"{name}.keras")
        assert run("newamp1_train.py", *rate_K, *options).returncode == 0
    a, b, c = (weights(tmp_path / f"{name}.keras") for name in "abc")
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["{model}", "{features}"], "{features}"),  # swapped
        (["nowhere.f32", "{model}"], "nowhere.f32"),
        (["{bands}", "{model}"], "expected 20 or 201"),
        (["{features}", "{model}", "--nb_samples", "50"], "at least 100"),
        (["{features}", "{model}", "--frames", "3", "100000"], "100000"),
        (["{features}", "{model}", "--nnout", "nowhere/n.keras"], "nowhere/n.keras"),
    ],
)
def test_bad_input_is_refused(run, rate_K, sample, tmp_path, options, word):
    names = {"features": rate_K[0], "model": rate_K[1], "bands": sample[0]}
    result = run("newamp1_train.py", *(x.format(**names) for x in options), "--epochs", 1, "--noplots")
    assert_refused(result, word.format(**names))
    assert not list(tmp_path.iterdir())
