"""eband_train.py: baseline, augmentation, loss and figures by hand; the command line, also on bad input."""

import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT, assert_refused

import codec2_model
import eband_train

keras = eband_train.keras
NAN = np.nan


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


def test_distortion():
    target = np.float16([[3, NAN, 5], [NAN, NAN, NAN], [1, 1, 1]])
    estimate = np.float32([[1, 7, 4], [9, 9, 9], [2, 2, 2]])
    sd, variance = eband_train.distortion(target, estimate)
    np.testing.assert_allclose(sd, [2.5, 1])
    np.testing.assert_allclose(variance, [0.25, 0], atol=1e-12)


def arguments(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["eband_train.py", "features", "model", *options])
    return eband_train.parse_args()


def test_baseline_finds_the_constant_of_every_bin(monkeypatch):
    """Targets made from lines between the bands and a constant by bin: the baseline gets them exactly."""
    rng = np.random.default_rng(0)
    n, args = 50, arguments(monkeypatch)
    bands = rng.normal(40, 10, (n, 14))
    Wo, L = np.full(n, np.pi / 20, np.float32), np.full(n, 19, np.int32)
    bins = codec2_model.harmonic_bins(Wo[:1], 128)[0]
    hz = bins * 4000 / 128
    constant = rng.normal(0, 3, 161)
    A_dB = np.stack([np.interp(hz, eband_train.BAND_HZ, frame) for frame in bands]) + constant
    lines, offset = eband_train.fit_baseline(bands, (Wo, L, (10 ** (A_dB / 20)).astype(np.float32)), args)
    np.testing.assert_allclose(offset[bins[1:20]], constant[1:20], atol=0.02)  # float16 targets
    np.testing.assert_allclose((bands @ lines)[:, bins[1:20]], (A_dB - constant)[:, 1:20], atol=1e-3)


def test_random_filter_changes_bands_as_it_changes_amplitudes(monkeypatch):
    """A harmonic in every bin: bands worked out from the filtered amplitudes are what the filter makes of them."""
    rng = np.random.default_rng(0)
    lines, _ = eband_train.fit_baseline(np.zeros((0, 14)), [np.zeros(0)] * 3, arguments(monkeypatch))
    target = rng.normal(40, 8, (500, 128)).astype(np.float32)
    bands = 10 * np.log10(10 ** (target / 10) @ lines.T).astype(np.float32)
    response = eband_train.random_response(rng, 500)
    filtered = eband_train.filtered_bands(bands, target, response, lines)
    np.testing.assert_allclose(filtered, 10 * np.log10(10 ** ((target + response) / 10) @ lines.T), atol=1e-3)
    assert np.sqrt(np.mean(response[:, 32:70] ** 2)) == pytest.approx(eband_train.FILTER_DB, rel=0.2)  # 1 to 2.2 kHz
    assert response[:, -1].min() < -30  # some have a low pass

    sparse = np.where(rng.random(target.shape) < 0.3, target, np.nan).astype(np.float32)
    assert np.isfinite(eband_train.filtered_bands(bands, sparse, response, lines)).all()


def test_training_data_is_filtered_and_held_out_data_is_not(monkeypatch):
    """Batches hold every frame once an epoch, in another order each time; a filter moves bands and target alike."""
    lines, _ = eband_train.fit_baseline(np.zeros((0, 14)), [np.zeros(0)] * 3, arguments(monkeypatch))
    target = np.random.default_rng(1).normal(40, 8, (700, 128)).astype(np.float16)
    bands = 10 * np.log10(10 ** (np.float32(target) / 10) @ lines.T).astype(np.float32)

    def epoch(batches):
        parts = [((inputs[0]), target) for inputs, target in (batches[i] for i in range(len(batches)))]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    held = eband_train.Batches([bands, target], 1)
    first, first_target = epoch(held)
    order = np.argsort(first[:, 0])
    np.testing.assert_array_equal(first[order], bands[np.argsort(bands[:, 0])])
    np.testing.assert_array_equal(first_target[order], target[np.argsort(bands[:, 0])])
    held.on_epoch_end()
    assert not np.array_equal(epoch(held)[0], first)

    change = eband_train.filter_batch
    filtered, filtered_target = epoch(eband_train.Batches([bands, target], 1, lambda r, batch: change(r, batch, lines)))
    assert not np.isin(filtered, bands).all()
    np.testing.assert_allclose(filtered, 10 * np.log10(10 ** (filtered_target / 10) @ lines.T), atol=1e-3)


# ---------------------------------------------------------------- the command line


def figures(stdout):
    """{name: value} of the lines `name: value unit`."""
    lines = (
        line.split(": ") for line in stdout.splitlines() if ": " in line and not line.startswith(("epoch", "plot"))
    )
    return {name: float(value.split()[0]) for name, value in lines}


def weights(filename):
    return keras.models.load_model(filename, compile=False).get_weights()


def test_trains_tests_and_plots(run, sample, tmp_path):
    features, model = sample
    result = run(
        "eband_train.py", features, model, "--Wo", "--epochs", 3, "--plot_dir", "plots", "--test", features, model
    )
    assert result.returncode == 0, result.stderr
    values = figures(result.stdout)
    nb_frames = os.path.getsize(model) // 1300
    assert values["train frames"] == nb_frames - nb_frames // 10
    assert values["held-out frames"] == nb_frames // 10
    assert values["held-out network SD"] < values["held-out interpolation SD"]
    assert values["held-out network variance"] < values["held-out network SD"]
    assert float(result.stdout.splitlines()[-1]) == values["test network SD"]
    parts = [values[f"{part} network SD"] * values[f"{part} frames"] for part in ("train", "held-out")]
    assert values["test network SD"] == pytest.approx(sum(parts) / nb_frames, abs=0.01)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"eband_train_{x}.png" for x in ("loss", "sd", "frames_1", "frames_2")}
    assert (tmp_path / "ampnn.keras").exists()
    assert "Traceback" not in result.stderr


def test_seed_decides_everything_and_held_out_frames_nothing(run, sample, tmp_path):
    bands = codec2_model.read_rate_K(sample[0], 14)[:1000]
    Wo, L, A, phi, voiced = (values[:1000] for values in codec2_model.read(sample[1]))
    codec2_model.write(Wo, L, A, phi, voiced, tmp_path / "a.model")
    codec2_model.write_rate_K(bands, tmp_path / "a.f32")
    codec2_model.write(Wo[:900], L[:900], A[:900], phi[:900], voiced[:900], tmp_path / "b.model")
    with open(tmp_path / "b.model", "ab") as file:  # another held-out part
        file.write(bytes((tmp_path / "a.model").read_bytes()[: 100 * 1300]))
    codec2_model.write_rate_K(np.concatenate([bands[:900], bands[:100]]), tmp_path / "b.f32")
    for name, seed in (("a", 1), ("b", 1), ("a", 2)):
        options = ("--epochs", 1, "--noplots", "--seed", seed, "--nnout", f"{name}{seed}.keras")
        assert run("eband_train.py", f"{name}.f32", f"{name}.model", *options).returncode == 0
    a1, b1, a2 = (weights(tmp_path / f"{name}.keras") for name in ("a1", "b1", "a2"))
    assert all(np.array_equal(x, y) for x, y in zip(a1, b1, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a1, a2, strict=True))


def test_digital_silence_and_log10_features(run, sample, tmp_path):
    """Frames with A = 0 have no target and do not count; --gain 1 takes features that are log10."""
    bands = codec2_model.read_rate_K(sample[0], 14)[:300]
    Wo, L, A, phi, voiced = (values[:300] for values in codec2_model.read(sample[1]))
    A = A.copy()
    A[50:60] = 0
    A[280:285] = 0
    codec2_model.write(Wo, L, A, phi, voiced, tmp_path / "s.model")
    codec2_model.write_rate_K(bands / 10, tmp_path / "s.f32")
    result = run("eband_train.py", "s.f32", "s.model", "--gain", 1, "--epochs", 1, "--noplots")
    assert result.returncode == 0, result.stderr
    assert "nan" not in result.stdout
    assert figures(result.stdout)["train frames"] == 260
    assert figures(result.stdout)["held-out frames"] == 25


def test_ctrl_c_saves_and_reports(sample, tmp_path):
    command = [sys.executable, "-u", ROOT / "eband_train.py", *sample, "--epochs", "1000", "--noplots"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 0
    assert float(rest.splitlines()[-1]) == figures(rest)["held-out network SD"]
    assert len(weights(tmp_path / "ampnn.keras")) > 4


def test_options_travel_with_the_network(run, sample, tmp_path):
    run("eband_train.py", *sample, "--epochs", 1, "--noplots", "--eband_start", 2, "--nb_samples", 200)
    with zipfile.ZipFile(tmp_path / "ampnn.keras") as archive:
        assert b'"eband_start": 2' in archive.read("options.json")
    assert keras.models.load_model(tmp_path / "ampnn.keras", compile=False).input_shape == (None, 12)


# ---------------------------------------------------------------- bad input


def truncated(features, model, folder):
    (folder / "cut.f32").write_bytes(features.read_bytes()[:-5])
    return ["cut.f32", model], "cut.f32"


def empty(features, model, folder):
    (folder / "empty.f32").touch()
    return ["empty.f32", model], "empty.f32"


def one_more_frame(features, model, folder):
    (folder / "more.f32").write_bytes(features.read_bytes() + bytes(56))
    return ["more.f32", model], "frames"


def too_few(features, model, folder):
    return [features, model, "--nb_samples", "20"], "at least 100"


def log10(features, model, folder):
    codec2_model.write_rate_K(codec2_model.read_rate_K(features, 14) / 10, folder / "log10.f32")
    return ["log10.f32", model], "--gain 1"


def not_a_number(features, model, folder):
    bands = np.array(codec2_model.read_rate_K(features, 14))
    bands[200, 3] = np.nan
    codec2_model.write_rate_K(bands, folder / "nan.f32")
    return ["nan.f32", model], "vector 200"


def negative_amplitude(features, model, folder):
    fields = [np.array(values) for values in codec2_model.read(model)]
    fields[2][700, 1] = -1
    codec2_model.write(*fields, folder / "negative.model")
    return [features, "negative.model"], "frame 700"


CASES = [
    truncated,
    empty,
    one_more_frame,
    too_few,
    log10,
    not_a_number,
    negative_amplitude,
    lambda features, model, folder: ([model, features], model.name),  # swapped
    lambda features, model, folder: (["nowhere.f32", model], "nowhere.f32"),
    lambda features, model, folder: ([features, folder], folder.name),
    lambda features, model, folder: ([features, model, "--gain", "1"], "log10"),
    lambda features, model, folder: ([features, model, "--eband_K", "13"], "13"),
    lambda features, model, folder: ([features, model, "--eband_K", "7"], "frames"),
    lambda features, model, folder: ([features, model, "--nnout", "nowhere/n.keras"], "nowhere/n.keras"),
    lambda features, model, folder: ([features, model, "--test", "nowhere.f32", model], "nowhere.f32"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused(case, run, sample, tmp_path):
    command, word = case(*sample, tmp_path)
    before = set(tmp_path.iterdir())
    assert_refused(run("eband_train.py", *command, "--noplots", "--epochs", 1), word)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "option", [("--epochs", 0), ("--eband_start", 13), ("--gain", 0), ("--nb_samples", -3), ("--x",)]
)
def test_usage_errors(option, run, sample):
    assert_refused(run("eband_train.py", *sample, *option), status=2)


def test_help(run):
    result = run("eband_train.py", "--help")
    assert result.returncode == 0
    for option in ("--Wo", "--test", "--eband_K", "--seed", "--plot_dir", "--nnout"):
        assert option in result.stdout
