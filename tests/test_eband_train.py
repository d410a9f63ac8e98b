"""eband_train.py: baseline, augmentation, loss and network by hand; training; bad input."""

import keras
import numpy as np
import pytest

import c2sim
import codec2_model
import eband_train
from common import networks, spectra
from conftest import call, figures, first_frames

pytestmark = pytest.mark.usefixtures("eager")

NAN = np.nan
# lines from band to band, as if all bands were equally wide
LINES = np.float32([np.interp(np.arange(128), np.linspace(0, 127, 14), one) for one in np.eye(14)])


def test_sparse_loss_looks_only_at_targets():
    target = np.float32([[3, NAN, 5], [NAN, NAN, NAN], [1, 1, 1]])
    estimate = np.float32([[1, 7, 4], [9, 9, 9], [2, 2, 3]])
    loss = keras.ops.convert_to_numpy(eband_train.sparse_loss(target, estimate))
    first, third = (4 + 1) / 2, (1 + 1 + 4) / 3
    assert loss == pytest.approx((first + third) / 2)  # the frame without targets does not count


def test_gradient_only_where_there_is_a_target():
    """A step of gradient descent moves outputs with a target by 2·error/count, and no others."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
    network = keras.Model(inputs, layer(inputs))
    network.compile(keras.optimizers.SGD(1.0), eband_train.sparse_loss)
    target = np.float32([[3, NAN, 5], [NAN, NAN, NAN]])
    network.fit(np.ones((2, 1)), target, batch_size=2, verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], [[3, 0, 5]])


def write_lines(folder, K, Fs):
    """Bands [50][K] and x.model with amplitudes on the lines between them, plus 3 dB.

    Harmonics at 200 Hz, 400 Hz, … at 8 kHz, and of twice that at 16 kHz.
    """
    n = 50
    bands = np.random.default_rng(0).normal(40, 10, (n, K)).astype(np.float32)
    Wo, L = np.full(n, np.pi / 20, np.float32), np.full(n, 19, np.int32)
    bins_hz = spectra.harmonic_bins(Wo[:1], 128)[0] * Fs / 2 / 128
    hz = spectra.KINDS[K, Fs].hz
    A_dB = np.array([np.interp(bins_hz, hz, frame) for frame in bands]) + 3
    phi = np.zeros((n, 161), np.float32)
    codec2_model.write(Wo, L, 10 ** (A_dB / 20), phi, L, folder / "x.model")
    return bands, A_dB


def test_interpolation_finds_lines_and_constant(tmp_path):
    """Amplitudes on lines between the centres of the bands: the baseline gets them exactly."""
    bands, A_dB = write_lines(tmp_path, 14, 8000)
    names = ["x.f32", str(tmp_path / "x.model")]
    lines, offset = eband_train.fit_baseline(bands, eband_train.parse_args(names))
    bins = spectra.harmonic_bins([np.pi / 20], 128)[0, 1:20]
    np.testing.assert_allclose(offset[bins], 3, atol=0.02)  # float16 targets
    np.testing.assert_allclose((bands @ lines)[:, bins], A_dB[:, 1:20] - 3, atol=1e-3)
    # of a part of the bands: lines above the first of them stay; below, its value goes on
    args = eband_train.parse_args([*names, "--eband_start", "2"])
    without_two, _ = eband_train.fit_baseline(bands[:, 2:], args)
    np.testing.assert_array_equal(without_two[1:], lines[3:])
    np.testing.assert_array_equal(without_two[0, :13], 1)  # bins up to 400 Hz


def test_harmonics_in_bins_are_those_of_to_bins():
    Wo = np.float32(np.random.default_rng(0).uniform(np.pi / 160, np.pi / 10, 500))
    L = np.int32(np.pi / Wo)  # the lowest pitches have two harmonics in some bins
    found = eband_train.harmonics_in_bins(Wo[:, None])
    occupied, shift, _ = map(keras.ops.convert_to_numpy, found)
    has_target = ~np.isnan(spectra.to_bins(Wo, L, np.ones((500, 161)), 128, 4000))
    np.testing.assert_array_equal(occupied[:, :127] == 1, has_target[:, :127])
    m = ((np.arange(128) + shift) * np.pi / 128 / Wo[:, None])[occupied == 1]
    np.testing.assert_allclose(m, np.rint(m), atol=1e-4)


def test_excess_is_that_of_c2sim():
    """Of a flat spectrum, c2sim's amplitudes differ only as some harmonics get one FFT bin more."""
    Wo = np.float32(np.random.default_rng(0).uniform(np.pi / 80, np.pi / 10, 500))
    L = np.int32(np.pi / Wo) - 1
    excess = keras.ops.convert_to_numpy(eband_train.harmonics_in_bins(Wo[:, None])[2])
    A, _ = c2sim.amplitudes_and_phases(Wo, L, *np.ones((2, 500, 257)))
    mean_dB = np.float32(10 * np.log10(Wo * 256 / np.pi))[:, None]
    error = spectra.to_bins(Wo, L, A, 128, 4000) - mean_dB
    assert np.nanstd(error) > 0.2
    assert np.nanmax(np.abs(error - excess)) < 0.01  # to_bins() rounds to float16


@pytest.mark.parametrize("with_Wo", [True, False])
def test_network_sees_what_is_wrong_with_its_bands(with_Wo):
    """Untrained it is the interpolation; the first layer sees bands without mean, differences."""
    rng = np.random.default_rng(0)
    network = eband_train.build_network(with_Wo, LINES, np.zeros(128))
    bands = rng.normal(40, 5, (6, 14)).astype(np.float32)
    inputs = [bands, np.full((6, 1), np.pi / 32, np.float32)] if with_Wo else [bands]
    np.testing.assert_allclose(network.predict_on_batch(inputs), bands @ LINES, rtol=1e-5)
    occupied = np.zeros(128)
    occupied[4 if with_Wo else 0 :: 4 if with_Wo else 1] = 1
    power = occupied * 10 ** (bands @ LINES / 10)
    difference = (bands - 10 * np.log10(power @ LINES.T)) / eband_train.SCALE_DB
    first = next(x for x in network.layers if getattr(x, "units", 0) == eband_train.HIDDEN)
    seen = keras.Model(network.inputs, first.input).predict_on_batch(inputs)
    np.testing.assert_allclose(seen[:, -14:], difference, atol=1e-3)
    shapes = bands - bands.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(seen[:, :14], shapes / 10, atol=1e-5)


def test_random_filter_changes_bands_as_it_changes_amplitudes():
    """A harmonic in every bin: the bands of the filtered amplitudes are the filtered bands."""
    rng = np.random.default_rng(0)
    target = rng.normal(40, 8, (500, 128)).astype(np.float32)
    bands = eband_train.energies_dB(target, LINES)
    filtered, filtered_target = eband_train.random_filter(bands, target, LINES, 8000, rng)
    expected = 10 * np.log10(10 ** (filtered_target / 10) @ LINES.T)
    np.testing.assert_allclose(filtered, expected, atol=1e-3)
    response = filtered_target - target
    rms = np.sqrt(np.mean(response[:, 32:70] ** 2))  # 1 to 2.2 kHz of 4
    assert rms == pytest.approx(eband_train.FILTER_DB, rel=0.2)
    for ends in (response[:, -1], response[:, 0]):  # low passes; high passes
        assert 0.02 < np.mean(ends < -10) < 0.12
        assert ends.min() < -30
    sparse = np.where(rng.random(target.shape) < 0.3, target, NAN).astype(np.float16)
    filtered, filtered_target = eband_train.random_filter(bands, sparse, LINES, 8000, rng)
    assert np.isfinite(filtered).all()
    np.testing.assert_array_equal(np.isnan(filtered_target), np.isnan(sparse))


def test_figures_and_plots(trained, sample):
    folder, values = trained
    n = codec2_model.count_items(sample[1])
    assert values["train frames"] == n - n // 10
    assert values["held-out frames"] == n // 10
    assert values["held-out network SD"] < values["held-out interpolation SD"]
    assert values["held-out network variance"] < values["held-out network SD"]
    assert values["last"] == values["test network SD"]
    names = ("loss", "sd", "frames_1", "frames_2", "frames_3")
    found = {path.name for path in (folder / "plots").iterdir()}
    assert found == {f"eband_train_{name}.png" for name in names}
    expected = {"input": ("bands and Wo",), "width": (128,)}
    options = networks.read_options(folder / "ampnn.keras", expected)
    assert [options[x] for x in ("eband_K", "eband_start", "gain", "dec")] == [14, 0, 10, 1]


@pytest.mark.usefixtures("one_correction")
def test_every_training_frame_once_an_epoch_and_no_held_out_frame(sample, tmp_path, monkeypatch):
    """In another order every epoch; the default number of epochs makes STEPS steps."""
    pair, seen, random_filter = first_frames(sample, 300, tmp_path), [], eband_train.random_filter

    def watched(*arguments):
        seen.append(arguments[0])
        return random_filter(*arguments)

    monkeypatch.setattr(eband_train, "STEPS", 10)
    monkeypatch.setattr(eband_train, "random_filter", watched)
    values = figures(call(eband_train, *pair, "--noplots", "--nnout", tmp_path / "n.keras"))
    assert (values["epochs"], values["steps"]) == (5, 10)  # 270 frames are 2 batches
    assert [len(bands) for bands in seen] == [135] * 10
    bands = codec2_model.read_rate_K(pair[0], 14)[:270]
    epochs = np.concatenate(seen).reshape(5, 270, 14)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(bands, axis=0))
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.usefixtures("one_correction")
def test_digital_silence_and_log10_features(sample, tmp_path):
    """Frames with A = 0 do not count; --gain 1 takes features that are log10."""
    features, model = first_frames(sample, 300, tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(features, 14) / 10, features)
    Wo, L, A, phi, voiced = codec2_model.read(model)
    A[50:60] = A[280:285] = 0
    codec2_model.write(Wo, L, A, phi, voiced, model)
    network = tmp_path / "x.keras"
    options = ("--gain", 1, "--epochs", 1, "--eband_start", 2, "--nnout", network, "--noplots")
    values = figures(call(eband_train, features, model, *options))
    assert (values["train frames"], values["held-out frames"]) == (260, 25)
    assert networks.load(network).input_shape == (None, 12)
    options = networks.read_options(network, {"input": ("bands",)})
    assert (options["eband_start"], options["gain"]) == (2, 1)


@pytest.mark.usefixtures("one_correction")
def test_18_bands_at_16_kHz(tmp_path):
    """Lines and constant are found again; targets end below 7.2 kHz."""
    bands, _ = write_lines(tmp_path, 18, 16000)
    model = tmp_path / "x.model"
    model.write_bytes(model.read_bytes() * 4)
    codec2_model.write_rate_K(np.tile(bands, (4, 1)), tmp_path / "x.f32")
    names = (tmp_path / "x.f32", model, "--eband_K", 18, "--Fs", 16000)
    data = eband_train.load(eband_train.parse_args(list(map(str, names))))
    assert np.isfinite(data["train"]["target"]).sum(axis=1).tolist() == [17] * 180  # 400 … 6800 Hz
    out = call(eband_train, *names, "--epochs", 1, "--noplots", "--nnout", tmp_path / "x.keras")
    assert figures(out)["held-out interpolation SD"] < 0.01
