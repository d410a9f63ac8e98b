"""eband_train.py: baseline, augmentation, loss and figures by hand; the command line, also on bad input."""

import contextlib
import io
import signal

import c2sim
import codec2_model
import eband_train
import plumbing

import numpy as np
import pytest
from conftest import assert_refused, figures

pytestmark = pytest.mark.usefixtures("eager")

keras = eband_train.keras
NAN = np.nan


def run_script(script, *arguments):
    """What a script prints that runs in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        args = script.parse_args([str(argument) for argument in arguments])
        script.main(args, script.load(args))
    return out.getvalue()


def weights(filename):
    return plumbing.load_network(filename).get_weights()


def first_frames(pair, n, folder):
    """Paths of the first n frames of two Paths, features and model, in `folder`; features are [frames][14]."""
    (folder / "n.f32").write_bytes(pair[0].read_bytes()[: 56 * n])
    (folder / "n.model").write_bytes(pair[1].read_bytes()[: 1300 * n])
    return folder / "n.f32", folder / "n.model"


# ---------------------------------------------------------------- by hand


def test_sparse_loss_looks_only_at_targets():
    target = np.float32([[3, NAN, 5], [NAN, NAN, NAN], [1, 1, 1]])
    estimate = np.float32([[1, 7, 4], [9, 9, 9], [2, 2, 3]])
    loss = keras.ops.convert_to_numpy(eband_train.sparse_loss(target, estimate))
    assert loss == pytest.approx(((4 + 1) / 2 + (1 + 1 + 4) / 3) / 2)  # the frame without targets does not count


def test_sparse_loss_of_nothing_is_zero():
    nothing = np.full((2, 3), NAN, np.float32)
    assert keras.ops.convert_to_numpy(eband_train.sparse_loss(nothing, np.ones((2, 3), np.float32))) == 0


def test_gradient_only_where_there_is_a_target():
    """One step of gradient descent moves the outputs that have a target, by 2·error/count each, and no others."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
    network = keras.Model(inputs, layer(inputs))
    network.compile(keras.optimizers.SGD(1.0), eband_train.sparse_loss)
    network.fit(np.ones((2, 1)), np.float32([[3, NAN, 5], [NAN, NAN, NAN]]), batch_size=2, verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], [[3, 0, 5]])


def test_interpolation_finds_the_constant_of_every_bin(tmp_path):
    """Amplitudes made from lines between the bands and a constant by bin: the baseline gets them exactly."""
    rng = np.random.default_rng(0)
    n = 50
    bands = rng.normal(40, 10, (n, 14)).astype(np.float32)
    Wo, L, phi = np.full(n, np.pi / 20, np.float32), np.full(n, 19, np.int32), np.zeros((n, 161), np.float32)
    bins = codec2_model.harmonic_bins(Wo[:1], 128)[0]
    constant = rng.normal(0, 3, 161)
    A_dB = np.stack([np.interp(bins * 4000 / 128, codec2_model.BAND_HZ, frame) for frame in bands]) + constant
    codec2_model.write(Wo, L, 10 ** (A_dB / 20), phi, L, tmp_path / "x.model")
    names = ("x.f32", str(tmp_path / "x.model"))
    args = eband_train.parse_args(names)
    lines, offset = eband_train.fit_baseline(bands, args)
    np.testing.assert_allclose(offset[bins[1:20]], constant[1:20], atol=0.02)  # float16 targets
    np.testing.assert_allclose((bands @ lines)[:, bins[1:20]], (A_dB - constant)[:, 1:20], atol=1e-3)
    without_two, _ = eband_train.fit_baseline(bands[:, 2:], eband_train.parse_args([*names, "--eband_start", "2"]))
    np.testing.assert_array_equal(without_two[1:], lines[3:])  # above the first of the bands that are left
    np.testing.assert_array_equal(without_two[0, :13], 1)  # it goes on below: bins up to 400 Hz


def test_harmonics_in_bins_are_those_of_c2sim():
    """Its amplitudes of a flat spectrum differ only because some harmonics get an FFT bin more than others."""
    rng = np.random.default_rng(0)
    Wo = np.float32(rng.uniform(np.pi / 160, np.pi / 10, 500))  # the lowest have two harmonics in some bins
    L = np.int32(np.pi / Wo)
    occupied, shift, _ = map(keras.ops.convert_to_numpy, eband_train.harmonics_in_bins(Wo[:, None]))
    has_target = ~np.isnan(codec2_model.to_bins(Wo, L, np.ones((500, 161)), 128, 4000))
    np.testing.assert_array_equal(occupied[:, :127] == 1, has_target[:, :127])  # the last bin takes those above, too
    m = ((np.arange(128) + shift) * np.pi / 128 / Wo[:, None])[occupied == 1]
    np.testing.assert_allclose(m, np.rint(m), atol=1e-4)

    Wo = np.float32(rng.uniform(np.pi / 80, np.pi / 10, 500))
    L = np.int32(np.pi / Wo)
    excess = keras.ops.convert_to_numpy(eband_train.harmonics_in_bins(Wo[:, None])[2])
    A, _ = c2sim.amplitudes_and_phases(Wo, L - 1, *np.ones((2, 500, 257)))
    error = codec2_model.to_bins(Wo, L - 1, A, 128, 4000) - np.float32(10 * np.log10(Wo * 256 / np.pi))[:, None]
    assert np.nanstd(error) > 0.2
    assert np.nanmax(np.abs(error - excess)) < 0.01  # to_bins() rounds to float16


def test_the_network_gets_the_logarithm_of_Wo():
    """Beside what harmonics_in_bins() makes of it: inputs of the first layer are 14 bands, Wo and 14 differences."""
    lines = np.float32([np.interp(np.arange(128), np.linspace(0, 127, 14), e) for e in np.eye(14)])
    network = eband_train.build_network(True, lines, np.zeros(128))
    first = next(layer for layer in network.layers if getattr(layer, "units", 0) == eband_train.HIDDEN)
    look = keras.Model(network.inputs, first.input)
    Wo = np.float32([[0], [np.pi / 160], [np.pi / 10]])  # 0 in a frame without harmonics
    x = look.predict_on_batch([np.zeros((3, 14), np.float32), Wo])
    assert x.shape == (3, 14 + 1 + 14)
    np.testing.assert_allclose(x[:, 14], np.log(np.pi / np.array([160, 160, 10])) + 3, rtol=1e-5)


def test_untrained_network_reads_a_slope_where_the_harmonics_are():
    """2 dB per band everywhere: amplitudes are those of the frequencies m·Wo, and what c2sim's FFT bins add to them."""
    Wo = np.float32(np.random.default_rng(0).uniform(np.pi / 80, np.pi / 10, (50, 1)))
    lines = np.float32([np.interp(np.arange(128), np.linspace(0, 127, 14), e) for e in np.eye(14)])
    network = eband_train.build_network(True, lines, np.zeros(128))
    y = network.predict_on_batch([np.tile(np.float32(2 * np.arange(14)), (50, 1)), Wo])
    m = np.rint(np.arange(128) * np.pi / 128 / Wo)  # the harmonic nearest to each bin
    found = (m > 0) & (np.rint(m * Wo * 128 / np.pi) == np.arange(128))
    excess = keras.ops.convert_to_numpy(eband_train.harmonics_in_bins(Wo)[2])
    expected = 2 * 13 / 127 * m * Wo * 128 / np.pi + excess
    np.testing.assert_allclose(y[found], expected[found], atol=1e-3)


@pytest.mark.parametrize("with_Wo", [True, False])
def test_network_sees_what_is_wrong_with_its_bands(with_Wo):
    """Untrained it is the interpolation; the first hidden layer sees bands without their mean, Wo, the differences."""
    rng = np.random.default_rng(0)
    lines = np.float32([np.interp(np.arange(128), np.linspace(0, 127, 14), e) for e in np.eye(14)])
    network = eband_train.build_network(with_Wo, lines, np.zeros(128))
    bands, Wo = rng.normal(40, 5, (6, 14)).astype(np.float32), np.full((6, 1), np.pi / 32, np.float32)
    inputs = [bands, Wo][: 1 + with_Wo]
    np.testing.assert_allclose(network.predict_on_batch(inputs), bands @ lines, rtol=1e-5)
    power = 10 ** (bands @ lines / 10)
    power[:, np.setdiff1d(np.arange(128), np.arange(4, 128, 4) if with_Wo else np.arange(128))] = 0
    difference = (bands - 10 * np.log10(power @ lines.T)) / eband_train.SCALE_DB
    hidden = next(layer for layer in network.layers if isinstance(layer, keras.layers.Dense) and layer.units == 256)
    seen = keras.Model(network.inputs, hidden.input).predict_on_batch(inputs)
    np.testing.assert_allclose(seen[:, -14:], difference, atol=1e-3)
    np.testing.assert_allclose(seen[:, :14], (bands - bands.mean(axis=1, keepdims=True)) / 10, atol=1e-5)


def test_the_level_of_a_recording_does_not_matter():
    """30 dB less in, 30 dB less out, with random weights; a high pitch, which leaves some bands without a harmonic."""
    rng = np.random.default_rng(0)
    lines = np.float32([np.interp(np.arange(128), np.linspace(0, 127, 14), e) for e in np.eye(14)])
    network = eband_train.build_network(True, lines, np.zeros(128))
    for weights in network.trainable_weights:
        weights.assign(rng.normal(0, 0.1, weights.shape))
    bands, Wo = rng.normal(60, 5, (6, 14)).astype(np.float32), np.full((6, 1), np.pi / 9, np.float32)
    spectra = network.predict_on_batch([bands, Wo])
    assert np.abs(spectra - bands @ lines).max() > 1
    np.testing.assert_allclose(network.predict_on_batch([bands - 30, Wo]), spectra - 30, atol=1e-2)


def test_random_filter_changes_bands_as_it_changes_amplitudes(sample):
    """A harmonic in every bin: bands worked out from the filtered amplitudes are what the filter makes of them."""
    rng = np.random.default_rng(0)
    args = eband_train.parse_args(list(map(str, sample)))
    lines, _ = eband_train.fit_baseline(np.zeros((1, 14), np.float32), args)
    target = rng.normal(40, 8, (500, 128)).astype(np.float32)
    bands = 10 * np.log10(10 ** (target / 10) @ lines.T).astype(np.float32)
    filtered, filtered_target = eband_train.random_filter(bands, target, lines, rng)
    np.testing.assert_allclose(filtered, 10 * np.log10(10 ** (filtered_target / 10) @ lines.T), atol=1e-3)
    response = filtered_target - target
    assert np.sqrt(np.mean(response[:, 32:70] ** 2)) == pytest.approx(eband_train.FILTER_DB, rel=0.2)  # 1 to 2.2 kHz
    for ends in (response[:, -1], response[:, 0]):  # a tenth has a low pass, a tenth a high pass, many of them steep
        assert 0.02 < np.mean(ends < -10) < 0.12
        assert ends.min() < -30

    sparse = np.where(rng.random(target.shape) < 0.3, target, NAN).astype(np.float16)
    filtered, filtered_target = eband_train.random_filter(bands, sparse, lines, rng)
    assert np.isfinite(filtered).all()
    np.testing.assert_array_equal(np.isnan(filtered_target), np.isnan(sparse))


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """Folder with a network that was trained for a moment, and the figures that were printed."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--Wo", "--epochs", 2, "--plot_dir", folder / "plots", "--nnout", folder / "ampnn.keras")
    return folder, figures(run_script(eband_train, *sample, *options, "--test", *sample))


def test_figures_and_plots(trained, sample):
    folder, values = trained
    n = codec2_model.count_items(sample[1], 1300, "records")
    assert values["train frames"] == n - n // 10
    assert values["held-out frames"] == n // 10
    assert values["held-out network SD"] < values["held-out interpolation SD"]
    assert values["held-out network variance"] < values["held-out network SD"]
    assert float(values["last"]) == values["test network SD"]
    parts = [values[f"{part} network SD"] * values[f"{part} frames"] for part in ("train", "held-out")]
    assert values["test network SD"] == pytest.approx(sum(parts) / n, abs=0.01)
    names = {path.name for path in (folder / "plots").iterdir()}
    assert names == {f"eband_train_{x}.png" for x in ("loss", "sd", "frames_1", "frames_2")}


def test_options_travel_with_the_network(trained):
    options = plumbing.read_options(trained[0] / "ampnn.keras", {"input": ("bands and Wo",), "width": (128,)})
    assert (options["eband_K"], options["eband_start"], options["gain"], options["dec"]) == (14, 0, 10, 1)


@pytest.mark.usefixtures("one_correction")
def test_every_training_frame_once_an_epoch_and_no_held_out_frame(sample, tmp_path, monkeypatch):
    """In another order every epoch, filtered batch by batch; the default number of epochs makes STEPS steps."""
    pair, seen, random_filter = first_frames(sample, 300, tmp_path), [], eband_train.random_filter
    monkeypatch.setattr(eband_train, "STEPS", 10)
    monkeypatch.setattr(eband_train, "random_filter", lambda *x: (seen.append(x[0]), random_filter(*x))[1])
    values = figures(run_script(eband_train, *pair, "--noplots", "--nnout", tmp_path / "n.keras"))
    assert (values["epochs"], values["steps"]) == (5, 10)  # 270 frames are 2 batches
    assert [len(bands) for bands in seen] == [135] * 10
    bands = codec2_model.read_rate_K(pair[0], 14)[:270]
    epochs = np.concatenate(seen).reshape(5, 270, 14)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(bands, axis=0))
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.usefixtures("one_correction")
def test_seed_decides_everything_and_held_out_frames_nothing(sample, tmp_path):
    features, model = first_frames(sample, 300, tmp_path)
    for path, size in ((features, 56), (model, 1300)):  # b has another held-out part
        content = path.read_bytes()
        (tmp_path / f"b{path.suffix}").write_bytes(content[: 270 * size] + content[: 30 * size])
    results = {}
    for name, pair, seed in (("a", (features, model), 1), ("b", (tmp_path / "b.f32", tmp_path / "b.model"), 1)):
        run_script(eband_train, *pair, "--epochs", 1, "--noplots", "--seed", seed, "--nnout", tmp_path / "x.keras")
        results[name] = weights(tmp_path / "x.keras")
    run_script(eband_train, features, model, "--epochs", 1, "--noplots", "--seed", 2, "--nnout", tmp_path / "x.keras")
    assert all(np.array_equal(x, y) for x, y in zip(results["a"], results["b"], strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(results["a"], weights(tmp_path / "x.keras"), strict=True))


@pytest.mark.usefixtures("one_correction")
def test_digital_silence_and_log10_features(sample, tmp_path):
    """Frames with A = 0 have no target and do not count; --gain 1 takes features that are log10."""
    features, model = first_frames(sample, 300, tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(features, 14) / 10, features)
    Wo, L, A, phi, voiced = (np.array(values) for values in codec2_model.read(model))
    A[50:60] = 0
    A[280:285] = 0
    codec2_model.write(Wo, L, A, phi, voiced, model)
    options = ("--gain", 1, "--epochs", 1, "--eband_start", 2, "--plot_dir", tmp_path, "--frame", 282)
    out = run_script(eband_train, features, model, *options, "--nnout", tmp_path / "x.keras")
    assert "nan" not in out
    assert figures(out)["train frames"] == 260
    assert figures(out)["held-out frames"] == 25
    assert plumbing.load_network(tmp_path / "x.keras").input_shape == (None, 12)
    options = plumbing.read_options(tmp_path / "x.keras", {"input": ("bands",)})
    assert (options["eband_start"], options["gain"]) == (2, 1)


@pytest.mark.usefixtures("one_correction")
def test_ctrl_c_saves_and_reports(sample, tmp_path, monkeypatch):
    calls, random_filter = [], eband_train.random_filter

    def interrupted(*x):
        calls.append(x)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return random_filter(*x)

    monkeypatch.setattr(eband_train, "random_filter", interrupted)
    options = ("--nb_samples", 300, "--epochs", 1000, "--noplots", "--nnout", tmp_path / "x.keras")
    out = run_script(eband_train, *sample, *options)
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("epoch ")] == [
        f"epoch {epoch}/1000"
        for epoch in (1, 2)  # two steps each
    ]
    assert figures(out)["last"] == figures(out)["held-out network SD"]
    assert len(weights(tmp_path / "x.keras")) > 4


# ---------------------------------------------------------------- bad input


def one_more_frame(features, model, folder):
    (folder / "more.f32").write_bytes(features.read_bytes() + bytes(56))
    return ["more.f32", model], "frames"


def log10(features, model, folder):
    codec2_model.write_rate_K(codec2_model.read_rate_K(features, 14) / 10, folder / "log10.f32")
    return ["log10.f32", model], "--gain"


def not_a_number(features, model, folder):
    bands = np.array(codec2_model.read_rate_K(features, 14))
    bands[200, 3] = np.nan
    bands.tofile(folder / "nan.f32")
    return ["nan.f32", model], "vector 200"


def silent_end(features, model, folder):
    records = np.fromfile(model, codec2_model.RECORD)
    records["A"][-len(records) // 10 :] = 0
    records.tofile(folder / "silent.model")
    return [features, "silent.model"], "silent.model: held-out part: 0 frames with amplitudes"


CASES = [
    one_more_frame,
    log10,
    not_a_number,
    silent_end,
    lambda features, model, folder: ([model, features], model.name),  # swapped
    lambda features, model, folder: (["nowhere.f32", model], "nowhere.f32"),
    lambda features, model, folder: ([features, model, "--nb_samples", "99"], "at least 100"),
    lambda features, model, folder: ([features, model, "--gain", "1"], "log10"),
    lambda features, model, folder: ([features, model, "--eband_K", "13"], "13"),
    lambda features, model, folder: ([features, model, "--eband_K", "7"], "frames"),
    lambda features, model, folder: ([features, model, "--nnout", "nowhere/n.keras"], "nowhere/n.keras"),
    lambda features, model, folder: ([features, model, "--nnout", "n.keras", "--frame", "99999"], "--frame 99999"),
    lambda features, model, folder: ([features, model, "--test", "nowhere.f32", model], "nowhere.f32"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused(case, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, word = case(*sample, tmp_path)
    before = set(tmp_path.iterdir())
    args = eband_train.parse_args([str(x) for x in command])
    with pytest.raises((plumbing.FormatError, FileNotFoundError)) as error:
        eband_train.load(args)
    assert word in str(error.value)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "option",
    [("--epochs", "0"), ("--eband_start", "13"), ("--gain", "0"), ("--Fs", "inf"), ("--nnout", "x"), ("--x",)],
)
def test_usage_errors(option, capsys):
    with pytest.raises(SystemExit) as error:
        eband_train.parse_args(["x.f32", "x.model", *option])
    assert error.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_command_line(run, sample, tmp_path):
    """As its user runs it: nothing on stderr, one file; and one line for a file that is not there."""
    result = run("eband_train.py", *sample, "--epochs", 1, "--noplots", "--nb_samples", 300)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["ampnn.keras"]
    assert_refused(run("eband_train.py", "nowhere.f32", sample[1]), "nowhere.f32")
