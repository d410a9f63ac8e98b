"""common/sound.py: kinds of sound files, streams whose length nobody knows, what is no speech."""

import io
from pathlib import Path

import numpy as np
import pytest

from common import sound
from common.plumbing import FormatError
from conftest import SAMPLE, sample_speech, sound_file


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder."""
    monkeypatch.chdir(tmp_path)


def test_other_rates_and_channels_are_converted(capsys):
    """440 Hz at 16 kHz in both channels; longer than what is converted at a time."""
    t = np.arange(16000 * 61 + 77) / 16000
    tone = np.rint(10000 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    sound_file("stereo.wav", np.stack([tone + 500, tone - 500], axis=1), 16000)
    converted = sound.read_speech("stereo.wav")
    assert capsys.readouterr().err == "stereo.wav: converted from 16000 Hz, PCM_16, 2 channel(s)\n"
    assert len(converted) == 8000 * 61 + 39
    np.testing.assert_allclose(converted[100:-100], tone[::2][100:-100], rtol=0, atol=15)  # 0.01 dB


EXACT = ("x.wav PCM_24", "x.wav FLOAT", "x.flac PCM_16", "x.aiff PCM_24", "x.au PCM_16")


@pytest.mark.parametrize("what", EXACT)
def test_all_sample_formats_are_converted(what):
    samples = np.random.default_rng(6).integers(-(2**15), 2**15, 800).astype(np.int16)
    name, *kind, subtype = what.split()
    scaled = samples / 2**15 if subtype in ("FLOAT", "DOUBLE") else samples
    sound_file(name, scaled, 8000, subtype, *kind)
    np.testing.assert_array_equal(sound.read_speech(name), samples)


@pytest.mark.parametrize("kind", ["WAV PCM_16", "FLAC PCM_16", "OGG VORBIS"])
def test_content_and_not_the_name_tells_the_kind(kind):
    samples = sample_speech(1)
    kind, subtype = kind.split()
    Path("x.raw").write_bytes(sound_file(None, samples, 8000, subtype, kind))
    assert len(sound.read_speech("x.raw")) == len(samples)


def wav_with(samples, size):
    """A WAV file whose header tells another size of its samples, in bytes."""
    wav = bytearray(sound_file(None, samples, kind="WAV"))
    wav[40:44] = size.to_bytes(4, "little")
    return bytes(wav)


STREAMS = {  # 2000 samples: bytes of the file, samples that are read, what the warning tells
    "size 0": (lambda x: wav_with(x, 0), 2000, "tells 0 bytes of samples, there are 4000"),
    "a few bytes short": (lambda x: wav_with(x, 4000)[:-7], 1996, "there are 3993: all read"),
    "half a flac": (lambda x: sound_file(None, np.tile(x, 9), kind="FLAC")[:-9000], 4096, "2.25 s"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_read_to_their_end(kind, capsys):
    make, least, warning = STREAMS[kind]
    samples = sample_speech(1)[:2000]
    Path("x").write_bytes(make(samples))
    read = sound.read_speech("x")
    assert len(read) >= least
    np.testing.assert_array_equal(read[:least], np.tile(samples, 9)[:least])
    assert warning in capsys.readouterr().err


def test_wav_as_a_live_stream():
    """Its samples and nothing else, whatever stands before or after them."""
    samples = sample_speech(1)[:2000]
    wav, extensible = (sound_file(None, samples, kind=kind) for kind in ("WAV", "WAVEX"))
    note = b"LIST" + (1000).to_bytes(4, "little") + bytes(range(250)) * 4
    for stream in (wav, extensible, wav[:12] + note + wav[12:], wav + note, wav_with(samples, 0)):
        blocks = np.concatenate([*sound.live_blocks(io.BytesIO(stream), 320)])
        assert blocks.shape == (7, 320)
        np.testing.assert_array_equal(blocks.ravel()[:2000], samples)


BAD_SPEECH = {
    "odd.raw": (b"123", "3 bytes"),
    "empty.raw": (b"", "empty"),
    "text.wav": (b"no speech" * 9, "not speech, or broken"),
    "m4a.raw": (bytes(4) + b"ftypM4A " + bytes(1000), "not speech"),
    "x.f32": (np.full(140, 30, "<f4").tobytes(), "not speech"),
    "header.wav": (SAMPLE.read_bytes()[:20], "not speech"),
    "no_samples.wav": (SAMPLE.read_bytes()[:40] + bytes(4), "no samples"),
}


@pytest.mark.parametrize("name", BAD_SPEECH)
def test_bad_speech_is_refused(name):
    content, what = BAD_SPEECH[name]
    Path(name).write_bytes(content)
    with pytest.raises(FormatError, match=f"^{name}: .*{what}"):
        sound.read_speech(name)
