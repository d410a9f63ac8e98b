"""vq_codec.py: bits by hand, rate, delay, live streams, lost vectors, bad files."""

import subprocess
import sys
import time

import numpy as np
import pytest

import vq_codec as script
from common import networks, sound
from common.plumbing import FormatError
from conftest import ROOT, SAMPLE, call

SAMPLES = 32 * script.BLOCK - 100  # of the speech coded here; zeros fill up the last vector


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """Folder with speech.raw, and its 700.bit, 700.raw, 1300.bit and 1300.raw."""
    folder = tmp_path_factory.mktemp("coded")
    speech = sound.read_speech(str(SAMPLE))[:SAMPLES]
    speech.tofile(folder / "speech.raw")
    for rate in script.RATES:
        call(script, "enc", rate, folder / "speech.raw", folder / f"{rate}.bit")
        call(script, "dec", folder / f"{rate}.bit", folder / f"{rate}.raw")
    return folder


def decode(folder, data, *options):
    """Samples that dec makes of a file of these bytes."""
    (folder / "some.bit").write_bytes(data)
    call(script, "dec", folder / "some.bit", folder / "some.raw", *options)
    return np.fromfile(folder / "some.raw", "<i2")


def test_bits_by_hand():
    writer = script.BitWriter([3, 6])
    assert writer.push([[5, 3]]) == b"\xa1"  # 101 00001 | 1
    assert writer.push([[7, 0], [1, 63]]) == b"\xf0\x0f"  # 1 1110 000 | 00 001 111 | 111
    assert writer.flush() == b"\xe0"
    assert script.BitWriter([3, 6]).flush() == b""


def test_bits_come_back_in_pieces():
    widths = [11, 11, 6]
    rng = np.random.default_rng(1)
    groups = [[int(rng.integers(2**width)) for width in widths] for _ in range(9)]
    writer, reader, found = script.BitWriter(widths), script.BitReader(widths), []
    data = writer.push(groups[:2]) + writer.push(groups[2:]) + writer.flush()
    assert len(data) == 32  # 9 · 28 bits are 31.5 bytes
    for byte in data:
        found += reader.push(bytes([byte]))
    assert found == groups
    assert reader.bits == "0000"


@pytest.mark.parametrize(("rate", "size"), [(700, 112), (1300, 208)])
def test_rate_and_length(rate, size, coded):
    # 32 vectors of 28 or 52 bits: 1.28 s at 700 or 1300 bit/s
    assert (coded / f"{rate}.bit").stat().st_size == 8 + size
    assert (coded / f"{rate}.bit").read_bytes()[:4] == bytes([ord("v"), ord("q"), 1, rate // 100])
    decoded = np.fromfile(coded / f"{rate}.raw", "<i2")
    assert len(decoded) == 32 * script.BLOCK


@pytest.mark.parametrize("rate", [700, 1300])
def test_loudness_over_time_is_that_of_the_speech(rate, coded):
    speech = np.fromfile(coded / "speech.raw", "<i2")
    decoded = np.fromfile(coded / f"{rate}.raw", "<i2")[159:]  # synthesis is that late
    n = min(len(speech), len(decoded)) // 320 * 320
    power = np.stack([speech[:n], decoded[:n]]).reshape(2, -1, 320).astype(float) ** 2
    levels = 10 * np.log10(power.mean(axis=2) + 1e3)
    assert np.corrcoef(levels)[0, 1] > 0.9
    assert abs(np.mean(levels[0] - levels[1])) < 3


def test_delay_is_what_help_says(coded, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert script.load(script.parse_args(["dec", "-", "-"]))["header"] is None  # not waited for
    speech = np.fromfile(coded / "speech.raw", "<i2", 18 * script.BLOCK)
    for rate, sizes in script.RATES.items():
        assert f"{sizes.delay_ms} ms at {rate} bit/s" in told
        quantiser = networks.load_quantiser(script.NETWORKS / sizes.network)
        widths = script.widths(quantiser, rate)
        writer, reader = script.BitWriter(widths), script.BitReader(widths)
        encoder = script.Encoder(quantiser, sizes.pitch)
        decoder = script.Decoder(quantiser, sizes.pitch, script.load_amplitudes(script.DECODER))
        heard = latest = 0
        for number, samples in enumerate(np.concatenate([*sound.cut(speech, script.BLOCK)])):
            data = writer.push(encoder.push(samples))
            new = len(decoder.push(reader.push(data)))
            if new:  # sample number `heard` had to wait for this block
                latest = max(latest, (number + 1) * script.BLOCK - heard)
            heard += new
        assert (latest + 159) / 8 == pytest.approx(sizes.delay_ms, abs=1)


def test_a_pipe_with_pauses_carries_the_same_bits_and_speech(coded):
    command = [sys.executable, ROOT / "vq_codec.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0"
    wav += b"data\xff\xff\xff\xff"
    speech = (coded / "speech.raw").read_bytes()
    with subprocess.Popen([*command, "enc", "700", "-", "-"], **pipes) as sender:
        for piece in (wav, speech[:1001], speech[1001:20000], speech[20000:]):
            sender.stdin.write(piece)
            sender.stdin.flush()
            time.sleep(0.1)
        bits = sender.communicate()[0]
    assert bits == (coded / "700.bit").read_bytes()
    with subprocess.Popen([*command, "dec", "-", "-"], **pipes) as receiver:
        for piece in (bits[:3], bits[3:9], bits[9:50], bits[50:]):
            receiver.stdin.write(piece)
            receiver.stdin.flush()
            time.sleep(0.1)
        decoded = receiver.communicate()[0]
    assert decoded == (coded / "700.raw").read_bytes()


def test_what_was_received_of_a_file_that_is_cut_off_is_decoded(coded, capsys):
    data, whole = (coded / "700.bit").read_bytes(), np.fromfile(coded / "700.raw", "<i2")
    # 8 + 91 bytes: 26 vectors of 3.5 bytes; 8 + 93: 26, and 16 bits of the next one
    decoded = decode(coded, data[: 8 + 91])
    assert len(decoded) == 26 * script.BLOCK
    assert capsys.readouterr().err == ""
    # a vector changes 14 frames before it: the first 22 vectors sound as they do in the whole file
    np.testing.assert_array_equal(decoded[: 22 * script.BLOCK], whole[: 22 * script.BLOCK])
    np.testing.assert_array_equal(decode(coded, data[: 8 + 93]), decoded)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("data", [b"", b"RIFFxxxxWAVE", b"vq\2\7xxxx"])
def test_foreign_files_are_refused(data, tmp_path):
    (tmp_path / "f.bit").write_bytes(data)
    args = script.parse_args(["dec", str(tmp_path / "f.bit"), str(tmp_path / "out.raw")])
    with pytest.raises(FormatError, match="not a bit file"):
        script.load(args)


def test_other_networks_are_refused(coded):
    data = bytearray((coded / "700.bit").read_bytes())
    data[4] ^= 1  # of the fingerprint
    with pytest.raises(FormatError, match="another network"):
        decode(coded, bytes(data))
    other = script.NETWORKS / script.RATES[1300].network
    with pytest.raises(FormatError, match=r"44 bits per vector, expected .* 22 bits"):
        call(script, "enc", 700, coded / "speech.raw", coded / "x.bit", "--net", other)
    assert not (coded / "x.bit").exists()


def test_a_live_recording_ends_with_ctrl_c(coded, monkeypatch):
    """What has come is kept; without any samples or bits there is no file."""
    speech = np.fromfile(coded / "speech.raw", "<i2")[: 30 * script.BLOCK].reshape(30, -1)

    def blocks(speech):
        yield from speech[:, None]
        raise KeyboardInterrupt

    monkeypatch.setattr(sound, "read_blocks", lambda *_: blocks(speech))
    call(script, "enc", 700, "-", coded / "live.bit")
    bits, whole = ((coded / name).read_bytes() for name in ("live.bit", "700.bit"))
    assert len(bits) > 8 + 3.5 * 15
    assert bits[:-1] == whole[: len(bits) - 1]  # the last byte is filled up
    monkeypatch.setattr(sound, "read_blocks", lambda *_: blocks(speech[:0]))
    with pytest.raises(FormatError, match="-: no samples"):
        call(script, "enc", 700, "-", coded / "none.bit")
    with pytest.raises(FormatError, match="no bits after the header"):
        decode(coded, whole[:8])
    assert not (coded / "none.bit").exists()
