"""doc/results.py: the bound and the check of the recordings, by hand."""

import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "doc"))
import results


def test_gaussian_bound():
    """White vectors of variance 9: D = 9 · 2^(−2 R) for R bits a value, here 2 values every 10 ms."""
    x = np.random.default_rng(1).normal(0, 3, (60000, 2))
    sd = results.gaussian_bound(x, [100, 200, 400])
    np.testing.assert_allclose(sd, 9 * 2.0 ** (-2 * np.array([0.5, 1, 2])), rtol=0.03)


def test_gaussian_bound_knows_what_repeats():
    """Vectors that stay the same for 16 frames need a sixteenth of the bits."""
    x = np.random.default_rng(1).normal(0, 3, (6000, 1)).repeat(16, axis=0)[:, [0, 0]]
    blocks = np.lib.stride_tricks.sliding_window_view(x, 16, axis=0)[::16]
    assert np.ptp(blocks, axis=(1, 2)).max() == 0
    assert (
        results.gaussian_bound(x, [100])[0]
        < 0.3 * results.gaussian_bound(np.random.default_rng(2).permutation(x), [100])[0]
    )


@pytest.mark.parametrize(("gain", "inside"), [(0.3, True), (-2, True), (0, False)])
def test_correlation_finds_a_recording_inside_another(gain, inside):
    random = np.random.default_rng(1)
    recording, snippet = random.normal(0, 1000, 40000), random.normal(0, 1000, 8000)
    recording[12345:20345] += 0 if not inside else gain * snippet - recording[12345:20345]
    found = results.largest_correlation(snippet, recording)
    assert found == pytest.approx(1, abs=1e-3) if inside else found < 0.1


def test_figures():
    lines = "epoch 3/4: loss 0.5, SD train 4.00\ntest classical VQ SD: 7.61 dB²\ntest frames: 12\n4.46\n"
    assert results.figures(lines) == {"test classical VQ SD": 7.61, "test frames": 12.0}
