"""doc/measure.py, results.py and results_train.py: figures by hand and of Debian's c2enc."""

import shutil
import sys

import numpy as np
import pytest

import codec2_model
from common import plumbing
from conftest import ROOT

sys.path.insert(0, str(ROOT / "doc"))
import results_train

import coding
import demo
import measure
import results

needs_debian = pytest.mark.skipif(
    not (measure.EXAMPLES.is_dir() and shutil.which("c2enc") and shutil.which("c2dec")),
    reason="Debian's codec2 and codec2-examples are not installed",
)


def noise(seconds, seed):
    return np.int16(np.random.default_rng(seed).normal(0, 1000, round(8000 * seconds)))


@pytest.fixture
def two_speakers():
    """10 s of one speaker, 15 s of another."""
    return measure.Speech("two", noise(25, 1), ["first", "second"], np.array([0, 80000]))


def test_bootstrap_draws_speakers():
    """Two speakers of 1, 1 and 3, 3: the means are 1, 2 and 3, with 1/4, 1/2 and 1/4."""
    means = measure.bootstrap([1, 1, 3, 3], [0, 0, 1, 1])
    values, count = np.unique(means, return_counts=True)
    assert values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(count / len(means), [0.25, 0.5, 0.25], atol=0.04)
    assert measure.interval([1, 1, 3, 3], [0, 0, 1, 1]) == (1, 3)
    # speaker 0 has three frames of 0, speaker 1 one frame of 4: both together have a mean of 1
    assert set(measure.bootstrap([0, 0, 0, 4], [0, 0, 0, 1])) == {0, 1, 4}


def test_figures_of_vectors():
    """Errors (3, 3) and (1, 0) dB; a quiet frame with (10, 10) counts among all frames only."""
    x = np.float32([[30, 30], [30, 30], [5, 5]])
    x_hat = x - np.float32([[3, 3], [1, 0], [10, 10]])
    found = measure.measure(x, x_hat, np.array([True, True, False]))
    assert found.sd.tolist() == [9, 0.5]
    assert found.variance == pytest.approx(0.125)
    assert found.rms == pytest.approx((3 + 0.5**0.5) / 2)
    assert (found.above_2, found.above_4) == (0.5, 0)
    assert found.sd_all == pytest.approx((9 + 0.5 + 100) / 3)


def test_straight_lines():
    """Frames 0, 2, 4 are sent; the frame after the last one sent repeats it."""
    lines = measure.straight_lines(np.array([[0], [1], [5], [2], [4], [9]]), 2)
    assert lines[:, 0].tolist() == [0, 2.5, 5, 4.5, 4, 4]


def test_flipped_bits_and_lost_vectors():
    indices = np.random.default_rng(1).integers(0, 2048, (5000, 4)).astype(np.int32)
    np.testing.assert_array_equal(measure.flip_bits(indices, 11, 1), 2047 - indices)
    wrong = measure.flip_bits(indices, 11, 0.01) ^ indices
    bits = (wrong[..., None] >> np.arange(11) & 1).mean()
    assert bits == pytest.approx(0.01, abs=0.001)
    lost = measure.lose_vectors(indices, 0.1)
    kept = (lost >= 0).all(axis=1)
    assert kept.mean() == pytest.approx(0.9, abs=0.02)
    np.testing.assert_array_equal(lost[kept], indices[kept])


def test_a_planted_recording_is_found(two_speakers):
    """128 samples of the second speaker from anywhere in a training file, to the sample."""
    train = noise(20, 2)
    assert measure.find_overlaps(two_speakers, [("clean", train)]) == []
    train[50001:50129] = two_speakers.samples[100003:100131]
    found = measure.find_overlaps(two_speakers, [("clean", noise(20, 3)), ("planted", train)])
    assert [(speaker, name) for speaker, name, _ in found] == [("second", "planted")]
    assert found[0][2] == pytest.approx(50001 / 8000, abs=64 / 8000)


def test_a_page_changes_only_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    marks = [f"<!-- made by {name} -->\nold\n<!-- end -->\n" for name in ("a", "b")]
    page.write_text("before\n" + "between\n".join(marks) + "after\n")
    measure.write_page(page, "made by b", "new\n")
    expected = "before\n" + marks[0] + "between\n" + marks[1].replace("old", "new") + "after\n"
    assert page.read_text() == expected
    measure.write_page(page, "made by b", "newer\n")
    assert page.read_text() == expected.replace("new", "newer")
    with pytest.raises(plumbing.FormatError, match="expected a line <!-- made by c -->"):
        measure.write_page(page, "made by c", "lost\n")


def row(label, K, delay_ms, errors):
    """A results.Row of four frames of two speakers, with these errors in dB."""
    x = np.full((4, K), 30.0)
    found = measure.measure(x, x + np.array(errors)[:, None], np.ones(4, bool))
    return results.Row(label, K, 1100, delay_ms, found, np.array([0, 0, 1, 1]))


ROWS = {
    ("vq_K20_1100", "network"): row("`vq_K20_1100.keras`", 20, 360, [2, 2, 2, 2]),
    ("vq_K20_1100", "classical"): row("classical", 20, 360, [3, 3, 3, 3]),
    ("vq_K14_1100", "network"): row("`vq_K14_1100.keras`", 14, 360, [1, 1, 1, 1]),
    ("vq_K14_1100", "classical"): row("classical", 14, 360, [1, 1, 2, 2]),
}


def test_differences_are_of_the_same_vectors():
    """Errors of 1 and 2 dB: SD 2.5, rms 1.5, the means of the speakers 1 and 4.

    4 − 9 = −5 dB² for each speaker (K = 20), 0 and −3 (K = 14); never K = 20 less K = 14.
    """
    cells = results.quantiser_cells(ROWS["vq_K14_1100", "classical"])
    assert cells == (2.5, (1, 4), 0, 1.5, "0.0", "0.0", 2.5)
    lines = results.difference_table(ROWS).splitlines()
    assert len(lines) == 2 + 2
    assert lines[2].endswith("| 20 | −5.00 | −5.00 to −5.00 |")
    assert lines[3].endswith("| 14 | −1.50 | −3.00 to 0.00 |")


@needs_debian
def test_700C_vectors_are_those_of_c2sim_and_heard_through_c2dec(tmp_path, monkeypatch):
    """Record i is frame 4 i + 3; 700C's own shapes, given to c2dec, are the very same speech."""
    speech = measure.read_any(measure.EXAMPLES / "raw" / "hts1a.raw")
    coding.make_features(tmp_path, speech)
    x = coding.vectors(tmp_path, 20)
    monkeypatch.setattr(coding, "code", lambda *_: {"x_hat": x + 1})
    monkeypatch.setattr(coding, "speech_quality", lambda folder, name: {"quality": name})
    found = coding.make_bout(tmp_path)
    sent = codec2_model.read_floats(tmp_path / "700C.f32", codec2_model.MLFEAT)[:, :41]
    np.testing.assert_allclose(sent[:, :1] + sent[:, 1:21], x[3::4], atol=0.01)
    np.testing.assert_allclose(found["x_hat_700C"][3::4], sent[:, :1] + sent[:, 21:], atol=1e-3)
    demo.run(tmp_path, "c2dec", "700C", "700C.bit", "own.raw")
    loaded = (tmp_path / f"{found['700C']}.raw").read_bytes()
    assert (tmp_path / "own.raw").read_bytes() == loaded


def test_700C_on_the_reference_speech(shared):
    """Codec 2's own files: SD 27.0 dB² with the mean before it is quantised, variance 17.1 dB²."""
    x = codec2_model.read_rate_K(shared / "c2sim" / "test_rateK.f32", 20)
    sent = codec2_model.read_floats(shared / "c2enc" / "test_mlfeat.f32", codec2_model.MLFEAT)
    vectors = coding.interpolate_700C(sent[:, :1] + sent[:, 21:41], len(x))
    found = measure.measure(x, vectors, x.mean(axis=1) > 10)
    assert (found.sd.mean(), found.variance) == pytest.approx((27.03, 17.10), abs=0.01)


def test_speech_from_vectors(tmp_path):
    """Speech as long as the original; vectors that are 3 dB louder have more SD of harmonics."""
    speech = measure.read_any(ROOT / "tests" / "data" / "sample_8k.wav")[:16000]
    coding.make_features(tmp_path, speech)
    x = coding.vectors(tmp_path, 20)
    coding.make_speech(tmp_path, "K20", x, "conventional")
    found = coding.harmonic_figures(tmp_path, "K20")
    assert len(demo.read_wav(tmp_path / "K20.wav")) == len(speech)
    louder = coding.vectors(tmp_path, 20) + 3
    coding.make_speech(tmp_path, "louder", louder, "conventional")
    more = coding.harmonic_figures(tmp_path, "louder")["sd"].mean()
    assert more > found["sd"].mean() + 4
    assert found["frame"].max() < len(x)


@needs_debian
def test_public_training_speech(monkeypatch, tmp_path):
    """Without Asterisk's voices 186 s, none of which is in the public test recordings."""
    monkeypatch.setattr(results_train, "SOUNDS", tmp_path)
    train = results_train.public_training()
    assert len(train) // 8000 == 186
    assert measure.find_overlaps(measure.public(), [("train", train)]) == []
