"""eband_out.py: the model file it writes, its figures against those files and against the trainers, bad networks."""

import importlib.util

import codec2_model
import eband_out
import ebanddec_train
import plumbing

import numpy as np
import pytest
from conftest import ROOT, assert_refused, figures
from test_eband_train import first_frames, run_script, trained  # noqa: F401, a fixture

pytestmark = pytest.mark.usefixtures("eager")

keras = eband_out.keras


def test_decimate():
    vectors = np.float32([[0], [5], [6], [9], [9], [12], [0]])
    np.testing.assert_array_equal(eband_out.decimate(vectors, 1), vectors)
    np.testing.assert_allclose(eband_out.decimate(vectors, 3)[:, 0], [0, 3, 6, 9, 6, 3, 0])
    np.testing.assert_allclose(eband_out.decimate(vectors[:6], 2)[:, 0], [0, 3, 6, 7.5, 9, 9])
    np.testing.assert_array_equal(eband_out.decimate(vectors, 2**31 - 1), np.zeros((7, 1)))


def test_model_file_and_figures(trained, sample, tmp_path):  # noqa: F811
    folder, expected = trained
    options = ("--modelout", tmp_path / "out.model", "--plot_dir", tmp_path)
    values = figures(run_script(eband_out, folder / "ampnn.keras", *sample, *options))
    for name in ("network SD", "network variance", "interpolation SD", "interpolation variance", "frames"):
        assert values[f"file {name}"] == pytest.approx(expected[f"test {name}"], abs=0.011)
    assert values["last"] == values["file network SD"]
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
def test_pairs_of_vectors(sample, tmp_path, dec):
    """All frames are there, the mean of each is that of the model file, and the figures are the trainer's."""
    network, model = tmp_path / "n.keras", tmp_path / "out.model"
    options = ("--dec", dec, "--epochs", 1, "--nb_samples", 500, "--noplots", "--test", *sample, "--nnout", network)
    expected = figures(run_script(ebanddec_train, *sample, *options))
    values = figures(run_script(eband_out, network, *sample, "--modelout", model, "--noplots"))
    assert values["file network SD"] == pytest.approx(expected["test network SD"], rel=0.01)  # a few more frames
    assert values["file interpolation SD"] == pytest.approx(expected["test interpolation SD"], rel=0.01)
    Wo, L, A, _, _ = codec2_model.read(sample[1])
    A_hat = codec2_model.read(model)[2]
    assert len(A_hat) == len(A) == values["file frames"]
    m = np.arange(161)
    used = (m >= 1) & (m <= L[:, None]) & (m * Wo[:, None] <= 3600 * 2 * np.pi / 8000)
    error = np.sum(20 * np.log10(A_hat / np.where(used, A, 1), where=used, out=np.zeros(A.shape)), axis=1)
    np.testing.assert_allclose(error / used.sum(axis=1), 0, atol=0.05)
    with pytest.raises(plumbing.FormatError, match=f"--dec {dec} of its own"):
        run_script(eband_out, network, *sample, "--dec", 2)


def test_decimated_vectors_cost_something(trained, sample):  # noqa: F811
    network = trained[0] / "ampnn.keras"
    sd = [figures(run_script(eband_out, network, *sample, "--noplots", "--dec", dec))["last"] for dec in (1, 3)]
    assert sd[0] < sd[1]


def test_network_of_a_copy_with_one_more_layer(sample, tmp_path):
    """A trainer of one's own, under another name: it trains, saves and runs here."""
    text = (ROOT / "eband_train.py").read_text()
    last = '        envelope = layers.Add()([envelope, layers.Dense(WIDTH, kernel_initializer="zeros")(x)])\n'
    assert text.count(last) == 1
    more = '        x = layers.Dense(64, activation="tanh")(x)\n'
    (tmp_path / "my_train.py").write_text(text.replace(last, more + last))
    spec = importlib.util.spec_from_file_location("my_train", tmp_path / "my_train.py")
    my_train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(my_train)
    pair, network = first_frames(sample, 300, tmp_path), tmp_path / "my.keras"
    expected = figures(run_script(my_train, *pair, "--epochs", 1, "--noplots", "--test", *pair, "--nnout", network))
    values = figures(run_script(eband_out, network, *pair, "--noplots", "--modelout", tmp_path / "out.model"))
    assert values["file network SD"] == pytest.approx(expected["test network SD"], abs=0.01)
    assert values["file interpolation SD"] == pytest.approx(expected["test interpolation SD"], abs=0.01)
    assert any(layer.units == 64 for layer in plumbing.load_network(network).layers if hasattr(layer, "units"))


# ---------------------------------------------------------------- bad input

OPTIONS = {"input": "bands", "width": 128, "eband_K": 14, "eband_start": 0, "dec": 1, "gain": 10, "Fs": 8000}


def save_dense(filename, options=OPTIONS, K=14, width=128, name="interpolation", bias=0):
    inputs = keras.Input((K,))
    layer = keras.layers.Dense(width, name=name, bias_initializer=keras.initializers.Constant(bias))
    plumbing.save_network(keras.Model(inputs, layer(inputs)), options, filename)
    return filename


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"K": 10}, ["inputs", "10", "14"]),
        ({"width": 100}, ["output", "100", "128"]),
        ({"name": "other"}, ["interpolation"]),
        ({"bias": 9e3}, ["not finite, or not -1000"]),
        ({"options": OPTIONS | {"input": "bands and Wo"}}, ["inputs"]),
        ({"options": OPTIONS | {"input": "band pairs", "dec": 2}}, ["inputs"]),
        ({"options": OPTIONS | {"input": "anything"}}, ["'anything'", "bands and Wo"]),
        ({"options": OPTIONS | {"eband_start": 20}}, ["inputs"]),
        ({"options": OPTIONS | {"width": 10**6}}, ["width 1000000"]),
        ({"options": OPTIONS | {"dec": 0}}, ["dec 0"]),
        ({"options": OPTIONS | {"gain": float("nan")}}, ["gain and Fs"]),
        ({"options": OPTIONS | {"gain": -10}}, ["gain and Fs"]),
        ({"options": OPTIONS | {"Fs": "8000"}}, ["gain and Fs"]),
        ({"options": {name: OPTIONS[name] for name in OPTIONS if name != "Fs"}}, ["gain and Fs"]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Keras warns of other shapes
def test_network_that_is_not_what_its_options_tell(changes, words, sample, tmp_path):
    """One line, and nothing is written."""
    network = save_dense(tmp_path / "n.keras", **changes)
    with pytest.raises(plumbing.FormatError) as error:
        run_script(eband_out, network, *first_frames(sample, 100, tmp_path), "--modelout", tmp_path / "out.model")
    for word in (str(network), *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.model").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{model}", "{features}", "{model}"], "expected a network"),
        (["nowhere.keras", "{features}", "{model}"], "nowhere.keras"),
        (["{network}", "{model}", "{features}"], "{features}"),
        (["{network}", "{features}", "{model}", "--frame", "100000"], "--frame 100000"),
        (["{network}", "{features}", "{model}", "--modelout", "nowhere/out.model"], "nowhere/out.model"),
        (["{network}", "{features}", "{model}", "--modelout", "{model}"], "is an input"),
        (["cut.keras", "{features}", "{model}"], "cut.keras"),
    ],
)
def test_bad_input_is_refused(arguments, word, trained, sample, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    network = trained[0] / "ampnn.keras"
    (tmp_path / "cut.keras").write_bytes(network.read_bytes()[:5000])
    names = {"network": network, "features": sample[0], "model": sample[1]}
    before = set(tmp_path.iterdir())
    args = eband_out.parse_args([*(a.format(**names) for a in arguments), "--noplots"])
    with pytest.raises((plumbing.FormatError, FileNotFoundError)) as error:
        eband_out.load(args)
    assert word.format(**names) in str(error.value)
    assert set(tmp_path.iterdir()) == before


def test_silence_is_refused(sample, trained, tmp_path):  # noqa: F811
    features, model = first_frames(sample, 100, tmp_path)
    records = np.fromfile(model, codec2_model.RECORD)
    records["A"] = 0
    records.tofile(model)
    with pytest.raises(plumbing.FormatError, match=r"n\.model: 0 frames with amplitudes"):
        eband_out.load(eband_out.parse_args([str(trained[0] / "ampnn.keras"), str(features), str(model)]))


@pytest.mark.parametrize("option", [("--dec", "0"), ("--frame", "-1"), ("--nb_samples", "0")])
def test_usage_errors(option):
    with pytest.raises(SystemExit) as error:
        eband_out.parse_args(["n.keras", "x.f32", "x.model", *option])
    assert error.value.code == 2


def test_command_line(run, sample, trained, tmp_path):  # noqa: F811
    network = trained[0] / "ampnn.keras"
    result = run("eband_out.py", network, *sample, "--nb_samples", 20, "--modelout", "o.model", "--noplots")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "o.model").stat().st_size == 20 * 1300
    assert_refused(run("eband_out.py", sample[1], *sample), "expected a network")
