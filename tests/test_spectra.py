"""Spectra: the numbers of the docstrings, harmonics to bins and vectors and back, levels, SD."""

import numpy as np
import pytest

from common import spectra
from common.plumbing import FormatError
from common.spectra import KINDS
from conftest import records


def test_harmonic_bins_by_hand():
    bins = spectra.harmonic_bins([np.pi / 40, np.pi / 80, 0], 128)
    assert bins.shape == (3, 161)
    # 3.2, 6.4, 124.8; then the last bin
    assert bins[0, [0, 1, 2, 39, 40, 160]].tolist() == [0, 3, 6, 125, 127, 127]
    assert bins[1, [1, 2, 3, 79]].tolist() == [2, 3, 5, 126]  # 1.6, 3.2, 4.8, 126.4
    assert not bins[2].any()


def test_bins_hold_the_amplitudes_of_the_harmonics():
    """There and back.  float16 leaves an error of up to 1/64 dB below 64 dB."""
    rng = np.random.default_rng(4)
    L = rng.integers(10, 81, 20)
    Wo = (np.pi / (L + 0.5)).astype(np.float32)
    harmonic = spectra.harmonic_mask(L)
    A = np.float32(np.where(harmonic, rng.uniform(2, 1500, (20, 161)), np.nan))
    target = spectra.to_bins(Wo, L, A, 128, cutoff_hz=4000)
    assert target.dtype == np.float16
    assert np.isfinite(target).sum(axis=1).tolist() == L.tolist()
    A_hat = spectra.from_bins(target, Wo, L)
    error_dB = 20 * np.log10(A_hat[harmonic] / A[harmonic])
    np.testing.assert_allclose(error_dB, 0, atol=1 / 60)
    assert not A_hat[~harmonic].any()


def test_target_by_hand():
    """F0 = 100 Hz: bins 3, 6, 10 …; A = 0 and what is above the cutoff have no target."""
    frames = records(2)
    frames["A"][0, 2] = 0
    frames["A"][1] = 0
    frames["A"][:, 40:] = 1e4
    target = spectra.to_bins(frames["Wo"], frames["L"], frames["A"], 128, cutoff_hz=3650)
    expected = np.full((2, 128), np.nan)
    expected[0, [round(3.2 * m) for m in range(1, 37) if m != 2]] = 40
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(frames["L"], 39)


def test_rate_K_to_L_goes_through_the_vector():
    """A harmonic at a newamp1 frequency has the value of the vector; parabolas run between."""
    vectors = np.random.default_rng(1).uniform(20, 60, (1, 20))
    Wo = [spectra.NEWAMP1_HZ[3] * 2 * np.pi / 8000]
    A = spectra.rate_K_to_L(vectors, Wo, [5])
    assert A.shape == (1, 161)
    np.testing.assert_allclose(20 * np.log10(A[0, 1]), vectors[0, 3], rtol=1e-6)
    np.testing.assert_array_equal(A[0] > 0, spectra.harmonic_mask([5])[0])
    np.testing.assert_allclose(
        spectra.rate_K_at(vectors, spectra.NEWAMP1_HZ[None]), vectors, rtol=1e-9
    )
    nodes, x = np.array([[0, 1, 2, 4], [1, 2, 4, 7]]), np.array([[1, 3.5], [2.5, 7]])
    values = spectra.parabola(x, nodes, 3 + 2 * nodes - nodes**2, np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(values, 3 + 2 * x - x**2)  # through any three points of it


def test_kinds_of_vectors():
    """Centres as LPCNet and newamp1 have them; mel(200) = 283, mel(3700) = 2072."""
    assert spectra.mel([200, 3700]).tolist() == [283, 2072]
    assert KINDS[14, 8000].hz.tolist()[-6:] == [1600, 2000, 2400, 2800, 3200, 4000]
    assert KINDS[18, 16000].hz.tolist()[-6:] == [3200, 4000, 4800, 5600, 6800, 8000]
    np.testing.assert_allclose(KINDS[20, 8000].hz[[0, 1, -1]], [199.82, 278.22, 3701.05], atol=0.01)
    for (K, Fs), kind in KINDS.items():
        assert len(kind.hz) == K
        assert (np.diff(kind.hz) > 0).all()
        assert kind.hz[-1] <= Fs / 2
    np.testing.assert_allclose(spectra.bins_hz(128)[[0, 3, 127]], [0, 93.75, 3968.75])


def test_shapes_of_vectors():
    """Two vectors with shapes ±[1, −1, 0] · 3 dB about [5, −5, 0], at any level."""
    shapes = np.array([[8, -8, 0], [2, -2, 0]])
    statistics = spectra.shape_statistics(shapes + np.array([[40], [70]]))
    np.testing.assert_allclose(statistics, [[5, -5, 0], [3, 3, 0]])
    distance = spectra.shape_distance(np.array([[11, -11, 0.0]]), statistics)
    assert distance == pytest.approx(np.sqrt(8 / 3))  # deviations of 2, 2 and 0 spreads
    same = spectra.shape_distance(shapes + 10, statistics)
    assert same == pytest.approx(np.sqrt(2 / 3))  # the third value does not spread


def test_active_level_by_hand():
    """Frames 16 dB or more below the active ones do not count, others do."""
    level, active = spectra.active_level(np.repeat([60.0, 20.0], 5))
    assert level == pytest.approx(60)
    assert active.tolist() == [True] * 5 + [False] * 5
    level, active = spectra.active_level(np.array([60.0, 50.0]))
    assert level == pytest.approx(10 * np.log10((1e6 + 1e5) / 2))
    assert active.all()
    assert spectra.active_level(np.full(3, -197.0)) == (pytest.approx(-197), pytest.approx([1] * 3))


def test_sd_and_variance_by_hand():
    target = np.array([[3, np.nan, 5], [np.nan] * 3, [1, 1, 1]], np.float16)
    figures = spectra.measure(target, np.array([[1, 7, 4], [0, 0, 0], [3, 3, 3]]))
    assert figures.sd.tolist() == [2.5, 4]
    assert figures.variance.tolist() == [0.25, 0]
    assert figures.n_frames == 3
    with pytest.raises(FormatError, match="not finite"):
        spectra.measure(target, np.full((3, 3), np.inf))


def test_match_mean():
    target = np.float32([[3, np.nan, 5], [np.nan] * 3])
    matched = spectra.match_mean(np.float32([[1, 7, 4], [1, 2, 3]]), target)
    np.testing.assert_allclose(matched, [[2.5, 8.5, 5.5], [1, 2, 3]])
    figures = spectra.measure(target, matched)
    np.testing.assert_allclose(figures.sd, figures.variance)


def test_figures_in_blocks(capsys):
    """Blocks of two frames, one of which has no target: means over frames, not over blocks."""
    target = np.float32([[3, np.nan, 5], [1, 1, np.nan], [np.nan] * 3, [0, 0, 0]])
    error = np.float32([[1, 1, 1], [2, 0, 0], [9, 9, 9], [3, 3, 0]])
    found = spectra.measure_blocks(target, lambda i: {"a": target[i] + error[i]}, block=2)
    assert found["a"].sd.tolist() == [1, 2, 6]
    spectra.print_figures("test", found)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["test a SD: 3.00 dB²", "test a variance: 1.00 dB²", "test frames: 3 of 4"]


def test_random_responses_have_the_size_that_is_asked_for():
    """Smooth parts of 3 dB rms, gains up to 10 dB; without either 0 dB."""
    rng = np.random.default_rng(1)
    hz = np.arange(0, 4000, 50)
    assert not spectra.random_response(hz, 5, rng, filter_dB=0).any()
    smooth = spectra.random_response(hz, 4000, rng, filter_dB=3)
    assert smooth.shape == (4000, 80)
    assert smooth.std() == pytest.approx(3, rel=0.05)
    gains = spectra.random_response(hz, 4000, rng, 0, gain_dB=10)
    assert (np.ptp(gains, axis=1) == 0).all()
    assert np.abs(gains).max() == pytest.approx(10, abs=0.1)


def test_cutoffs():
    """A low pass falls from 0.6 of the band on, a high pass below 500 Hz, by up to 50 dB; half of
    the responses get each of them.
    """
    hz = np.array([0, 250, 500, 2400, 3200, 4000])
    response = spectra.random_response(hz, 4000, np.random.default_rng(1), 0, cutoffs=0.5)
    assert not response[:, 2:4].any()
    assert response.max() == 0
    assert response.min() == -50
    assert np.mean(response[:, -1] < 0) == pytest.approx(0.5, abs=0.03)
    assert np.mean(response[:, 0] < 0) == pytest.approx(0.5, abs=0.03)
    assert np.mean((response[:, 0] < 0) & (response[:, -1] < 0)) == pytest.approx(0.25, abs=0.03)
    wide = spectra.random_response(2 * hz, 4000, np.random.default_rng(1), 0, cutoffs=1, Fs=16000)
    assert not wide[:, 3].any()  # 4800 Hz
    assert (wide[:, -1] < 0).mean() > 0.99
