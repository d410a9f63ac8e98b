"""newamp1_train.py: its conventional decoder, both kinds of features, silence; bad input."""

import os
import shutil
import subprocess

import keras
import numpy as np
import pytest

import c2sim
import codec2_model
import eband_out
import newamp1_train
from common import networks, sound, spectra
from conftest import SAMPLE, call, figures

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def resampled(rate_K, tmp_path_factory):
    """Path of a model file of the amplitudes after K to L."""
    model = tmp_path_factory.mktemp("resampled") / "L.model"
    options = ("--rateK", "--rateKout", model.with_suffix(".f32"), "--modelout", model)
    call(c2sim, rate_K[0].parent / "speech.wav", *options)
    return model


def test_an_untrained_network_draws_parabolas_and_follows_the_level():
    """Those of the conventional decoder for vectors without their mean, in every fourth bin."""
    vectors = np.random.default_rng(0).normal(40, 10, (3, 20)).astype(np.float32)
    network = newamp1_train.build_network()
    dB = keras.ops.convert_to_numpy(network(vectors))
    mean = vectors.mean(axis=1, keepdims=True)
    Wo, L = np.full(3, 4 * np.pi / 256, np.float32), np.full(3, 60, np.int32)
    A_dB = 20 * np.log10(spectra.rate_K_to_L(vectors - mean, Wo, L)[:, 1:61])
    np.testing.assert_allclose((dB - mean)[:, 4:244:4], A_dB, atol=1e-3)
    louder = keras.ops.convert_to_numpy(network(vectors + 7))
    np.testing.assert_allclose(louder, dB + 7, atol=1e-3)


def test_random_filter_moves_vectors_and_target_alike():
    """Values change by the response at their frequencies; a bin without a target gets none."""
    rng = np.random.default_rng(0)
    target = np.where(rng.random((200, 256)) < 0.3, np.nan, 40).astype(np.float16)
    vectors, filtered = newamp1_train.random_filter(np.zeros((200, 20), np.float32), target, rng)
    np.testing.assert_array_equal(np.isnan(filtered), np.isnan(target))
    around = slice(100, 112)  # bins around 1640 Hz
    frames = np.flatnonzero(np.isfinite(filtered[:, around]).all(axis=1))
    k = np.argmin(np.abs(spectra.NEWAMP1_HZ - 1640))
    hz = spectra.bins_hz(256)[around]
    expected = [np.interp(spectra.NEWAMP1_HZ[k], hz, filtered[i, around] - 40) for i in frames]
    np.testing.assert_allclose(vectors[frames, k], expected, atol=0.05)  # the target is float16


@pytest.fixture(scope="module")
def trained(rate_K, tmp_path_factory):
    """Folder with a network that was trained for a moment on all frames, and the figures."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--epochs", 2, "--lower", -200, "--frames", "8,300", 9, "--test", *rate_K)
    files = ("--nnout", folder / "n.keras", "--plot_dir", folder / "plots")
    return folder, figures(call(newamp1_train, *rate_K, *options, *files))


def test_rate_K_vectors(trained, rate_K, resampled):
    folder, values = trained
    assert values["held-out network SD"] < values["held-out conventional SD"]
    assert not any("700C" in name for name in values)
    assert values["last"] == values["test network SD"]
    names = {path.name for path in (folder / "plots").iterdir()}
    assert names == {f"newamp1_train_{x}.png" for x in ("loss", "sd", "frames_1")}
    expected = {"input": ("newamp1",), "width": (256,), "eband_K": (20,), "dec": (1,)}
    networks.read_options(folder / "n.keras", expected)

    again = figures(call(eband_out, folder / "n.keras", *rate_K, "--noplots"))
    for name in ("network SD", "network variance", "conventional SD"):
        assert again[f"file {name}"] == pytest.approx(values[f"test {name}"], abs=0.01)

    # the conventional decoder's figure once more, from c2sim's own model file after K to L
    Wo, L, A, _, _ = codec2_model.read(rate_K[1])
    A_hat = codec2_model.read(resampled)[2]
    m = np.arange(161)
    hz = m * Wo[:, None] * 8000 / (2 * np.pi)
    used = (m >= 1) & (m <= L[:, None]) & (hz <= 3600) & (A > 0)
    error = np.where(used, 20 * np.log10(np.where(used, A_hat, 1) / np.where(used, A, 1)), 0)
    sd = np.sum(error**2, axis=1) / used.sum(axis=1)
    assert values["test conventional SD"] == pytest.approx(sd.mean(), abs=0.02)


def test_silence_is_neither_trained_on_nor_counted(rate_K, tmp_path):
    """Frames of −150 dB among speech: the figures are those of the other frames."""
    vectors = codec2_model.read_rate_K(rate_K[0], 20)[:300]
    records = np.fromfile(rate_K[1], codec2_model.RECORD)[:300]
    vectors[20:60], records["A"][20:60] = -150, 3e-8
    vectors.tofile(tmp_path / "s.f32")
    records.tofile(tmp_path / "s.model")
    n = np.count_nonzero(vectors[:270].mean(axis=1) > 10)
    assert n < 230
    options = ("--epochs", 1, "--noplots", "--nnout", tmp_path / "n.keras")
    out = call(newamp1_train, tmp_path / "s.f32", tmp_path / "s.model", *options)
    assert f"train frames: {n} of 270\n" in out
    assert figures(out)["train conventional SD"] < 50


@pytest.mark.skipif(not shutil.which("c2enc"), reason="needs Debian's codec2")
def test_features_of_c2enc_to_speech(tmp_path, monkeypatch):
    """The 40 ms route: c2enc, training, eband_out, synthesis."""
    monkeypatch.chdir(tmp_path)
    sound.read_speech(str(SAMPLE)).tofile("speech.raw")
    command = "c2enc 700C speech.raw bits --mlfeat feat.f32 feat.model"
    subprocess.run(command.split(), check=True, capture_output=True)
    pair = ("feat.f32", "feat.model")
    options = ("--epochs", 8, "--lower", -200, "--noplots", "--test", *pair)
    values = figures(call(newamp1_train, *pair, *options, "--nnout", "n.keras"))
    found = [values[f"train {label} SD"] for label in ("network", "conventional", "700C quantised")]
    assert found == sorted(found)
    out = call(eband_out, "n.keras", *pair, "--noplots", "--modelout", "out.model")
    assert figures(out)["last"] == pytest.approx(values["test network SD"], abs=0.01)
    call(c2sim, "--modelin", "out.model", "-o", "out.raw")
    assert os.path.getsize("out.raw") == 160 * codec2_model.count_items("feat.model")
