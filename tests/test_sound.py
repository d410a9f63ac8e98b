"""common/sound.py: kinds of sound files, streams whose length nobody knows, what is no speech."""

from pathlib import Path

import numpy as np
import pytest

from common import sound
from common.plumbing import FormatError
from conftest import SAMPLE, sample_speech, snr_dB, sound_file


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder."""
    monkeypatch.chdir(tmp_path)


def test_other_rates_and_channels_are_converted(capsys):
    """440 Hz at 16 kHz in both channels, with offsets that cancel; longer than what is converted at
    a time.
    """
    t = np.arange(16000 * 61 + 77) / 16000
    tone = np.rint(10000 * np.sin(2 * np.pi * 440 * t)).astype("<i2")
    converted = sound.read_speech(
        sound_file("stereo.wav", np.stack([tone + 500, tone - 500], axis=1), 16000)
    )
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


@pytest.mark.parametrize("what", ["x.wav ULAW", "x.ogg VORBIS", "x.mp3 MPEG_LAYER_III"])
def test_coarse_sample_formats_are_converted(what):
    t = np.arange(8000) / 8000
    samples = np.rint(8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
    name, subtype = what.split()
    sound_file(name, samples, 8000, subtype)
    assert snr_dB(samples.astype(float), sound.read_speech(name)) > 25


def test_samples_clip():
    sound_file("x.wav", np.array([-2, 0.5, 2]), 8000, "FLOAT")
    assert sound.read_speech("x.wav").tolist() == [-32768, 16384, 32767]


@pytest.mark.parametrize(
    "kind",
    ["WAV PCM_16", "FLAC PCM_16", "AIFF PCM_16", "AU PCM_16", "OGG VORBIS", "MP3 MPEG_LAYER_III"],
)
@pytest.mark.parametrize("name", ["x.raw", "x"])
def test_content_and_not_the_name_tells_the_kind(kind, name):
    samples = sample_speech(1)
    kind, subtype = kind.split()
    Path(name).write_bytes(sound_file(None, samples, 8000, subtype, kind))
    assert len(sound.read_speech(name)) == len(samples)


def wav_with(samples, size, magic=b"RIFF"):
    """A WAV file whose header tells another size of its samples, in bytes."""
    wav = bytearray(sound_file(None, samples, kind="WAV"))
    assert wav[36:40] == b"data"
    wav[:4] = magic
    wav[40:44] = size.to_bytes(4, "little")
    return bytes(wav)


STREAMS = {  # 2000 samples: bytes of the file, samples that are read, what the warning tells
    "size 0": (
        lambda x: wav_with(x, 0),
        2000,
        "its header tells 0 bytes of samples, there are 4000",
    ),
    "RF64": (lambda x: wav_with(x, 2**32 - 1, b"RF64"), 2000, "4294967295 bytes"),
    "a few bytes short": (lambda x: wav_with(x, 4000)[:-7], 1996, "there are 3993: all read"),
    "flac": (lambda x: flac_without_length(x), 2000, "no length"),
    "half a flac": (lambda x: sound_file(None, np.tile(x, 9), kind="FLAC")[:-9000], 4096, "2.25 s"),
}


def flac_without_length(samples):
    flac = bytearray(sound_file(None, samples, kind="FLAC"))
    flac[21] &= 0xF0  # 36 bits of the number of samples
    flac[22:26] = bytes(4)
    return flac


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_read_to_their_end(kind, capsys):
    make, least, warning = STREAMS[kind]
    samples = sample_speech(1)[:2000]
    Path("x").write_bytes(make(samples))
    read = sound.read_speech("x")
    assert len(read) >= least
    np.testing.assert_array_equal(read[:least], np.tile(samples, 9)[:least])
    assert warning in capsys.readouterr().err
    Path("x").rename("x.raw")
    np.testing.assert_array_equal(sound.read_speech("x.raw"), read)


def test_a_wav_with_other_chunks_is_read_without_a_warning(capsys):
    """One in front of the samples that holds the word data, one behind them."""
    samples = sample_speech(1)
    wav = sound_file(None, samples, kind="WAV")
    chunk = b"LIST\x10\x00\x00\x00INFOICMT\x04\x00\x00\x00data"
    Path("x.wav").write_bytes(wav[:36] + chunk + wav[36:] + chunk)
    np.testing.assert_array_equal(sound.read_speech("x.wav"), samples)
    assert capsys.readouterr().err == ""


def test_sizes_of_mpeg_frames():
    """MPEG 1 at 128 kbit/s and 44.1 kHz: 144·128000/44100 = 417.96 bytes, one more when padded."""
    sizes = {
        b"\xff\xfb\x90\x00": 417,
        b"\xff\xfb\x92\x00": 418,
        b"\xff\xf3\x48\x00": 72 * 32000 // 16000,
        b"\xff\xf1\x50\x80\x02\x80\x00": 20,  # AAC tells it: 20 bytes
        b"\xff\xff\xff\xff": 0,
        b"\x01\x00\xff\xff": 0,
    }
    for header, size in sizes.items():
        assert sound.mpeg_frame_size(header.ljust(7, b"\0")) == size, header.hex()
    assert not sound.is_mpeg(b"\xff\xfb\x90\x00" + bytes(1000))


# ---------------------------------------------------------------- what is refused


BAD_SPEECH = {
    "odd.raw": (b"123", "3 bytes"),
    "empty.raw": (b"", "empty"),
    "text.wav": (b"no speech" * 9, "not speech, or broken"),
    "raw_samples": (bytes(1000), r"files end in \.raw"),
    "m4a.raw": (bytes(4) + b"ftypM4A " + bytes(1000), "not speech"),
    "y.model": (bytes(1300), "not speech"),
    "x.f32": (np.full(140, 30, "<f4").tobytes(), "not speech"),
    "header.wav": (SAMPLE.read_bytes()[:20], "not speech"),
    "no_data.wav": (SAMPLE.read_bytes()[:2000].replace(b"data", b"junk"), "not speech"),
    "no_samples.wav": (SAMPLE.read_bytes()[:40] + bytes(4), "no samples"),
    "webm.raw": (b"\x1aE\xdf\xa3" + bytes(1000), "convert others: ffmpeg -i webm.raw"),
    "aac.raw": ((b"\xff\xf1\x50\x80\x02\x80" + bytes(14)) * 9, "not speech"),
}


@pytest.mark.parametrize("name", BAD_SPEECH)
def test_bad_speech_is_refused(name):
    content, what = BAD_SPEECH[name]
    Path(name).write_bytes(content)
    with pytest.raises(FormatError, match=f"^{name}: .*{what}"):
        sound.read_speech(name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(value):
    sound_file("bad.wav", np.array([0, value, 0]), 8000, "FLOAT")
    with pytest.raises(FormatError, match=r"^bad\.wav: .*not all samples are numbers"):
        sound.read_speech("bad.wav")
