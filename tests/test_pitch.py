"""common/pitch.py: track of voices and of speech, codes by hand, sender and receiver."""

import numpy as np
import pytest

from common import pitch, sound
from conftest import sample_speech

NAN = np.nan


def pulses(period, n):
    """A voice: pulses `period` samples apart, int16 [n], through a resonance at 500 Hz."""
    x = np.zeros(n)
    x[np.round(np.arange(0, n, period)).astype(int)[:-1]] = 8000
    t = np.arange(80)
    return np.convolve(x, 0.95**t * np.cos(2 * np.pi * t / 16))[:n].astype(np.int16)


def noise(n, level=1000):
    return np.random.default_rng(1).normal(0, level, n).astype(np.int16)


@pytest.mark.parametrize("period", [22, 57, 125])
def test_track_of_pulses(period):
    found = pitch.track(pulses(period, 16000))
    assert found.shape == (200,)
    # the first frames have no samples before them, the last ones none after
    assert np.allclose(found[5:-3], np.log2(8000 / period), atol=np.log2(1.005))


def test_noise_and_silence_have_no_pitch():
    assert np.isnan(pitch.track(noise(16000))).mean() > 0.9
    assert np.isnan(pitch.track(np.zeros(8000, np.int16))).all()


def test_a_voice_begins_and_ends_where_it_does():
    # voice from sample 8000 to 16000: frames centred there have the numbers 101 to 201
    speech = noise(24000, 300)
    speech[8000:16000] += pulses(64, 8000)
    voiced = np.flatnonzero(~np.isnan(pitch.track(speech))[50:250]) + 50
    assert abs(voiced[0] - 101) <= 2
    assert abs(voiced[-1] - 201) <= 2
    assert np.all(np.diff(voiced) == 1)


def test_pieces_give_the_same_track_and_come_in_time():
    speech = sample_speech(2)
    tracker, parts = pitch.Tracker(), []
    for start in range(0, 16000, 80):
        parts.append(tracker.push(speech[start : start + 80]))
        assert sum(map(len, parts)) == max(start // 80 + 1 - pitch.LOOKAHEAD, 0)
    parts.append(tracker.flush())
    np.testing.assert_allclose(np.concatenate(parts), pitch.track(speech), rtol=1e-9)


def test_track_agrees_with_praat(shared):
    parselmouth = pytest.importorskip("parselmouth")
    speech = sound.read_speech(str(shared / "heldout" / "heldout.flac"))
    found = parselmouth.Sound(speech / 32768, 8000.0).to_pitch_ac(
        time_step=0.01,
        pitch_floor=pitch.LOW_HZ,
        pitch_ceiling=pitch.HIGH_HZ,
        silence_threshold=pitch.SILENT,
        voicing_threshold=pitch.VOICED,
    )
    ours = pitch.track(speech)
    centres = (np.arange(len(ours)) - 1) * 0.01  # s
    nearest = np.rint((centres - found.xs()[0]) / 0.01).astype(int)
    there = (nearest >= 0) & (nearest < found.n_frames)
    hz = found.selected_array["frequency"][nearest[there]]
    theirs = np.log2(np.where(hz > 0, hz, NAN))
    ours = ours[there]
    assert np.mean(np.isnan(ours) == np.isnan(theirs)) >= 0.9
    both = ~np.isnan(ours + theirs)
    assert np.mean(np.abs(ours - theirs)[both] < np.log2(1.03)) >= 0.9


@pytest.mark.parametrize("bits", [6, 8])
def test_index_0_is_unvoiced_after_every_state(bits):
    codes = pitch.Codes(bits)
    kinds = np.array([pitch.UNVOICED, pitch.BEGUN, pitch.VOICED_ON])
    blocks, _ = codes.extend(pitch.State(kinds, np.array([NAN, 7, 7]), np.array([0, 0, 0])))
    assert blocks.shape == (3, 2**bits, 4)
    assert np.isnan(blocks[:, 0]).all()


def test_codes_by_hand():
    codes = pitch.Codes(6)
    cell = np.log2(400 / 55) / 15  # octaves: 0.1908
    (blocks,), (before,) = codes.extend(pitch.START)
    assert np.isnan(before).all()
    np.testing.assert_allclose(blocks[1], [np.log2(55) + cell / 2] * 4)
    # 15 levels for each first frame: 1 to 15, 16 to 30 …
    np.testing.assert_allclose(blocks[18], [NAN] + [np.log2(55) + 2.5 * cell] * 3)
    assert pitch.states_after(pitch.START, blocks[18:19]) == ([pitch.BEGUN], blocks[18, 3:], [1])

    # then 9 parts of the cell by 6 changes: index 1 is the lowest pitch, falling by 0.3 octaves
    begun = pitch.State(np.array([pitch.BEGUN]), np.array([7.0]), np.array([1]))
    (blocks,), (before,) = codes.extend(begun)
    start = 7 - cell * 4 / 9
    np.testing.assert_allclose(before[1], [NAN, start + 0.15, start + 0.075, start])
    np.testing.assert_allclose(blocks[1], start + np.array([-0.075, -0.15, -0.225, -0.3]))

    # then 3 lengths by 3 falls, 3 bends by 17 changes: 10 + 17 + 8 is neither bend nor change
    (blocks,), (before,) = codes.extend(begun._replace(kind=np.array([pitch.VOICED_ON])))
    assert np.isnan(before).all()
    np.testing.assert_allclose(blocks[1], [7 - 0.1 / 4, NAN, NAN, NAN])
    np.testing.assert_allclose(blocks[10 + 17 + 8], [7, 7, 7, 7])
    np.testing.assert_allclose(blocks[10 + 8], [7 - 0.02, 7 - 0.04, 7 - 0.02, 7])
    np.testing.assert_allclose(blocks[10 + 17 + 16], 7 + 0.3 * np.array([0.25, 0.5, 0.75, 1]))


def test_costs_by_hand():
    off = np.log2(1.03)
    cost = pitch.pitch_cost(np.array([7 + off, 7, 7, NAN]), np.array([7, 7, NAN, 7]))
    assert cost == pytest.approx(1)
    assert pitch.pitch_cost(np.array([9.0, 7, 7, 7]), np.array([7.0, 7, 7, 7])) == pitch.MOST
    assert pitch.pitch_cost(np.array([7.5, 7, 7, 7]), np.array([7.0, 7, 7, 7]), slack=0.5) == 0
    assert pitch.voicing_cost(np.array([NAN, 7, 7, 7]), np.array([7, 7, 7, NAN])) == 6


def send_and_receive(track, bits):
    """Decoded track of one [4 n], and the indices."""
    sender, receiver, indices, blocks = pitch.Sender(bits), pitch.Receiver(bits), [], []
    for number, block in enumerate(track.reshape(-1, 4)):
        indices += sender.push(block)
        assert len(indices) == max(number + 1 - pitch.LAG, 0)
    indices += sender.flush()
    for number, index in enumerate(indices):
        assert 0 <= index < 2**bits
        blocks += receiver.push(index)
        assert len(blocks) == number
    return np.concatenate([*blocks, *receiver.flush()]), indices


@pytest.mark.parametrize(("bits", "error"), [(6, 1.03), (8, 1.02)])
def test_a_gliding_voice_comes_back(bits, error):
    track = np.full(80, NAN)
    track[13:62] = np.log2(np.linspace(100, 160, 49))  # begins and ends within a block
    decoded, _ = send_and_receive(track, bits)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(track))
    assert np.nanmax(np.abs(decoded - track)) < np.log2(error)


def test_a_voice_goes_on_in_lost_blocks():
    track = np.full(40, np.log2(123))
    decoded, indices = send_and_receive(track, 8)
    receiver, blocks = pitch.Receiver(8), []
    for number, index in enumerate(indices):
        blocks += receiver.push(pitch.LOST if number in (4, 5) else index)
    lossy = np.concatenate([*blocks, *receiver.flush()])
    np.testing.assert_allclose(lossy, decoded, atol=np.log2(1.01))
