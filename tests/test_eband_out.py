"""eband_out.py: the model file, its figures against that file and the trainers, bad networks."""

import importlib.util
import inspect

import keras
import numpy as np
import pytest

import codec2_model
import eband_out
import eband_train
import ebanddec_train
from common import networks, spectra
from common.plumbing import FormatError
from conftest import ROOT, call, figures, first_frames

pytestmark = pytest.mark.usefixtures("eager")


def test_decimate():
    vectors = np.float32([[0], [5], [6], [9], [9], [12], [0]])
    np.testing.assert_array_equal(eband_out.decimate(vectors, 1), vectors)
    np.testing.assert_allclose(eband_out.decimate(vectors, 3)[:, 0], [0, 3, 6, 9, 6, 3, 0])
    np.testing.assert_allclose(eband_out.decimate(vectors[:6], 2)[:, 0], [0, 3, 6, 7.5, 9, 9])


def errors_dB(model, model_hat):
    """20·log10 of amplitudes over others [n][161]; NaN above 3600 Hz and where A = 0."""
    Wo, L, A, _, _ = codec2_model.read(model)
    A_hat = codec2_model.read(model_hat)[2]
    m = np.arange(161)
    hz = m * Wo[:, None] * 8000 / (2 * np.pi)
    used = (m >= 1) & (m <= L[:, None]) & (hz <= 3600) & (A > 0)
    return np.where(used, 20 * np.log10(np.where(used, A_hat, 1) / np.where(used, A, 1)), np.nan)


def test_model_file_and_figures(trained, sample, tmp_path):
    folder, expected = trained
    out = tmp_path / "out.model"
    options = ("--modelout", out, "--plot_dir", tmp_path)
    values = figures(call(eband_out, folder / "ampnn.keras", *sample, *options))
    for name in ("network", "interpolation"):
        for what in (f"{name} SD", f"{name} variance"):
            assert values[f"file {what}"] == pytest.approx(expected[f"test {what}"], abs=0.011)
    assert values["file frames"] == expected["test frames"]
    assert values["last"] == values["file network SD"]
    assert len(list(tmp_path.glob("eband_out_*.png"))) == 4

    before, after = codec2_model.read(sample[1]), codec2_model.read(out)
    for field in (0, 1, 3, 4):  # Wo, L, phases, voicing
        np.testing.assert_array_equal(before[field], after[field])
    harmonic = spectra.harmonic_mask(before[1])
    assert (after[2][harmonic] > 0).all()
    assert np.isfinite(after[2]).all()

    # the figures once more, from nothing but the two files
    error = errors_dB(sample[1], out)
    sd, variance = np.nanmean(error**2, axis=1), np.nanvar(error, axis=1)
    assert values["file network SD"] == pytest.approx(sd.mean(), abs=0.01)
    assert values["file network variance"] == pytest.approx(variance.mean(), abs=0.01)


def test_pairs_of_vectors(sample, tmp_path):
    """All frames are there with the mean of the model file, and the figures are the trainer's."""
    network, model = tmp_path / "n.keras", tmp_path / "out.model"
    options = ("--dec", 3, "--epochs", 1, "--nb_samples", 400, "--noplots", "--test", *sample)
    expected = figures(call(ebanddec_train, *sample, *options, "--nnout", network))
    values = figures(call(eband_out, network, *sample, "--modelout", model, "--noplots"))
    for name in ("network SD", "interpolation SD"):  # of a few more frames
        assert values[f"file {name}"] == pytest.approx(expected[f"test {name}"], rel=0.01)
    assert codec2_model.count_items(model) == codec2_model.count_items(sample[1])
    assert values["file frames"] == codec2_model.count_items(model)
    means = np.nanmean(errors_dB(sample[1], model), axis=1)
    np.testing.assert_allclose(means, 0, atol=0.05)
    args = eband_out.parse_args([str(x) for x in (network, *sample, "--dec", 2)])
    with pytest.raises(FormatError, match="--dec 3 of its own"):
        eband_out.load(args)


def absolute_loss(target, estimate):
    """Mean absolute error in dB over all bins that have a target."""
    has_target = keras.ops.logical_not(keras.ops.isnan(target))
    error = keras.ops.where(has_target, target - estimate, 0.0)
    count = keras.ops.sum(keras.ops.cast(has_target, error.dtype))
    return keras.ops.sum(keras.ops.abs(error)) / keras.ops.maximum(count, 1.0)


def test_a_copy_with_another_loss_and_one_more_layer(sample, tmp_path):
    """A trainer of one's own with another text of sparse_loss(): it trains, saves, runs here."""
    text = (ROOT / "eband_train.py").read_text()
    ours = inspect.getsource(absolute_loss).replace("absolute_loss", "sparse_loss")
    changes = {
        inspect.getsource(eband_train.sparse_loss): ours.replace("keras.ops", "ops"),
        "correction = layers.Dense(": "x = layers.Dense(64)(x)\n        correction = layers.Dense(",
        "CORRECTIONS = 4": "CORRECTIONS = 1",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "my_train.py").write_text(text)
    spec = importlib.util.spec_from_file_location("my_train", tmp_path / "my_train.py")
    my_train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(my_train)
    pair, network = first_frames(sample, 300, tmp_path), tmp_path / "my.keras"
    options = ("--epochs", 2, "--noplots", "--test", *pair, "--nnout", network)
    printed = call(my_train, *pair, *options)
    last = next(line for line in printed.splitlines() if line.startswith("epoch 2/2: train"))
    loss, expected = float(last.split()[3].rstrip(",")), figures(printed)
    assert 1 < loss < np.sqrt(expected["train interpolation SD"])  # dB, not dB²
    assert expected["held-out network SD"] < expected["held-out interpolation SD"]
    out = call(eband_out, network, *pair, "--noplots", "--modelout", tmp_path / "out.model")
    assert figures(out)["last"] == pytest.approx(expected["test network SD"], abs=0.01)
    assert 64 in [getattr(layer, "units", 0) for layer in networks.load(network).layers]


OPTIONS = {"input": "bands", "width": 128, "eband_K": 14, "eband_start": 0, "dec": 1}
OPTIONS |= {"gain": 10, "Fs": 8000}


def save_dense(filename, options=OPTIONS, K=14, width=128, bias=0):
    inputs = keras.Input((K,))
    layer = keras.layers.Dense(width, bias_initializer=keras.initializers.Constant(bias))
    networks.save(keras.Model(inputs, layer(inputs)), options, filename)
    return filename


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"K": 10}, "14"),
        ({"width": 100}, "128"),
        ({"bias": 500}, "above 120 dB"),
        ({"options": OPTIONS | {"input": "bands and Wo"}}, "cannot be run"),
        ({"options": OPTIONS | {"input": "anything"}}, "bands or bands and Wo or"),
        ({"options": OPTIONS | {"gain": float("nan")}}, "gain nan"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Keras warns of other shapes
def test_network_that_is_not_what_its_options_tell(changes, word, sample, tmp_path):
    """One line, and nothing is written."""
    network, out = save_dense(tmp_path / "n.keras", **changes), tmp_path / "out.model"
    with pytest.raises(FormatError, match=f"^{network}: .*{word}"):
        call(eband_out, network, *first_frames(sample, 100, tmp_path), "--modelout", out)
    assert not out.exists()
