"""eband_out.py: the model file it writes, its figures against those files and against the trainer, bad input."""

import shutil
import zipfile

import numpy as np
import pytest
from conftest import assert_refused, run_in
from test_eband_train import figures

import codec2_model
import eband_out


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A network trained for a moment, and the figures of its trainer for the whole sample."""
    folder = tmp_path_factory.mktemp("trained")
    result = run_in(folder, "eband_train.py", *sample, "--Wo", "--epochs", 2, "--noplots", "--test", *sample)
    assert result.returncode == 0, result.stderr
    return folder / "ampnn.keras", figures(result.stdout)


def test_decimate():
    vectors = np.float32([[0], [5], [6], [9], [9], [12], [0]])
    np.testing.assert_array_equal(eband_out.decimate(vectors, 1), vectors)
    np.testing.assert_allclose(eband_out.decimate(vectors, 3)[:, 0], [0, 3, 6, 9, 6, 3, 0])
    np.testing.assert_allclose(eband_out.decimate(vectors[:6], 2)[:, 0], [0, 3, 6, 7.5, 9, 9])


def test_model_file_and_figures(trained, sample, run, tmp_path):
    network, expected = trained
    result = run("eband_out.py", network, *sample, "--modelout", "out.model", "--plot_dir", ".")
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    assert values == pytest.approx({name: expected[name.replace("file", "test")] for name in values}, abs=0.011)
    assert float(result.stdout.splitlines()[-1]) == values["file network SD"]
    assert len(list(tmp_path.glob("eband_out_*.png"))) == 3

    Wo, L, A, phi, voiced = codec2_model.read(sample[1])
    out = codec2_model.read(tmp_path / "out.model")
    for same, name in ((Wo, 0), (L, 1), (phi, 3), (voiced, 4)):
        np.testing.assert_array_equal(same, out[name])
    m = np.arange(161)
    harmonic = (m >= 1) & (m <= L[:, None])
    assert np.all(np.isfinite(out[2][harmonic]))
    assert np.all(out[2][harmonic] > 0)

    # the figures once more, from nothing but the two files
    used = harmonic & (m * Wo[:, None] <= 3600 * 2 * np.pi / 8000) & (A > 0)
    error = np.where(used, 20 * np.log10(out[2] / np.where(used, A, 1), where=used, out=np.zeros(A.shape)), 0)
    count = used.sum(axis=1)
    mean = error.sum(axis=1) / count
    sd = (error**2).sum(axis=1) / count
    assert values["file network SD"] == pytest.approx(sd.mean(), abs=0.01)
    assert values["file network variance"] == pytest.approx((sd - mean**2).mean(), abs=0.01)


@pytest.mark.parametrize("dec", [1, 3])
def test_networks_of_ebanddec_train(run, sample, tmp_path, dec):
    """All frames are there, the mean of each is that of the model file, and the figures are the trainer's."""
    options = ("--dec", dec, "--epochs", 1, "--noplots", "--test", *sample)
    expected = figures(run("ebanddec_train.py", *sample, *options).stdout)
    result = run("eband_out.py", "ampnn_dec.keras", *sample, "--modelout", "out.model", "--noplots")
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    assert values["file network SD"] == pytest.approx(expected["test network SD"], rel=0.01)  # a few more frames
    assert values["file interpolation SD"] == pytest.approx(expected["test interpolation SD"], rel=0.01)
    Wo, L, A, _, _ = codec2_model.read(sample[1])
    A_hat = codec2_model.read(tmp_path / "out.model")[2]
    assert len(A_hat) == len(A) == values["file frames"]
    m = np.arange(161)
    used = (m >= 1) & (m <= L[:, None]) & (m * Wo[:, None] <= 3600 * 2 * np.pi / 8000)
    error = np.sum(20 * np.log10(A_hat / np.where(used, A, 1), where=used, out=np.zeros(A.shape)), axis=1)
    np.testing.assert_allclose(error / used.sum(axis=1), 0, atol=0.05)
    result = run("eband_out.py", "ampnn_dec.keras", *sample, "--dec", 2, "--noplots")
    assert_refused(result, f"--dec {dec} of its own")


def test_decimated_vectors_cost_something(trained, sample, run):
    sd = [
        float(run("eband_out.py", trained[0], *sample, "--noplots", "--dec", dec).stdout.split()[-1]) for dec in (1, 3)
    ]
    assert sd[0] < sd[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{model}", "{features}", "{model}"], "network"),
        (["nowhere.keras", "{features}", "{model}"], "nowhere.keras"),
        (["{network}", "{model}", "{features}"], "{features}"),
        (["{network}", "{features}", "{model}", "--frame", "100000"], "--frame 100000"),
        (["{network}", "{features}", "{model}", "--modelout", "nowhere/out.model"], "nowhere/out.model"),
        (["cut.keras", "{features}", "{model}"], "cut.keras"),
        (["broken.keras", "{features}", "{model}"], "broken.keras"),
    ],
)
def test_bad_input_is_refused(arguments, word, trained, sample, run, tmp_path):
    (tmp_path / "cut.keras").write_bytes(trained[0].read_bytes()[:5000])
    shutil.copy(trained[0], tmp_path / "whole.keras")
    with zipfile.ZipFile(trained[0]) as whole, zipfile.ZipFile(tmp_path / "broken.keras", "w") as broken:
        for name in ("options.json", "config.json", "metadata.json"):
            broken.writestr(name, whole.read(name))
    names = {"network": trained[0], "features": sample[0], "model": sample[1]}
    before = set(tmp_path.iterdir())
    result = run("eband_out.py", *(a.format(**names) for a in arguments), "--noplots")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert word.format(**names) in result.stderr.splitlines()[-1]
    assert set(tmp_path.iterdir()) == before


def test_usage_errors(run, trained, sample):
    assert_refused(run("eband_out.py", trained[0], *sample, "--dec", 0), status=2)
