"""Speech files: raw samples, or any kind of sound file, converted to 16 bit at 8 kHz."""

import io
import itertools
import os
import re
import struct
import sys
import wave
from pathlib import Path

import numpy as np

from common import plumbing
from common.plumbing import FormatError
from common.spectra import FS_HZ

RAW = (".raw", ".sw", ".s16", ".pcm")  # names of files without a header: 16 bit samples at 8 kHz
WITH_HEADER = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au")
WITH_HEADER += (".snd", ".w64", ".rf64", ".caf")  # what is taken from a folder, beside RAW
MAX_RATE_HZ = 1_000_000
AT_ONCE = 16  # blocks that are read at once, if they are there
HEAD = 65536  # bytes of a file that its header is looked for in

# what files with a header begin with, so that they are not taken for raw samples; ftyp is m4a,
# 0&\xb2u wma, \x1aE webm
HEADER = re.compile(
    rb"RIF[FX]|RF64|riff\x2e\x91|FORM|\.snd|fLaC|OggS|ID3|caff|PK\x03\x04|.{4}ftyp"
    rb"|#!AMR|0&\xb2u|\x1aE\xdf\xa3",
    re.DOTALL,
)


def read_speech(filename):
    """Speech, int16 [samples] at 8 kHz, of a raw file or stdin (`-`), or of any sound file."""
    if filename == "-":
        data = sys.stdin.buffer.read()
    else:
        if plumbing.check_input(filename) == 0:
            raise FormatError(f"{filename}: empty, expected speech")
        if not filename.lower().endswith(RAW):
            return convert(filename, filename)
        data = Path(filename).read_bytes()
    if HEADER.match(data):
        return convert(filename, data)
    if not data or len(data) % 2:
        raise FormatError(f"{filename}: {len(data)} bytes, expected 16 bit samples")
    return np.frombuffer(data, "<i2")


def read_blocks(filename, n):
    """Iterator over the blocks of speech at 8 kHz, int16 [blocks][n] each time; zeros fill up the
    last block.

    `-` is stdin as a live stream, raw or WAV: the blocks come as soon as their samples are there.
    """
    if filename == "-":
        return live_blocks(sys.stdin.buffer, n)
    return cut(read_speech(filename), n)


def cut(speech, n):
    """Yield the blocks of speech [samples], [blocks][n] each time; zeros fill up the last block."""
    for start in range(0, len(speech), AT_ONCE * n):
        samples = speech[start : start + AT_ONCE * n]
        yield np.pad(samples, (0, -len(samples) % n)).reshape(-1, n)


def live_blocks(file, n):
    """Yield the blocks int16 [blocks][n] that an open file, raw or WAV, has as yet."""
    new, left = file.read(2 * n), sys.maxsize
    while (chunks := wav_chunks(new)) and b"data" not in chunks and len(new) < HEAD:
        if not (more := file.read1(HEAD)):
            break
        new += more
    if b"fmt " in chunks and b"data" in chunks:
        _, channels, hz, _, _, bits = struct.unpack_from("<HHIIHH", new, chunks[b"fmt "][0])
        if (channels, hz, bits) != (1, FS_HZ, 16):
            found = f"{channels} channel(s) of {bits} bit at {hz} Hz"
            raise FormatError(f"-: {found}, expected 16 bit mono at {FS_HZ} Hz")
        start, size = chunks[b"data"]
        new = new[start:]
        left = size if 0 < size < 2**31 - 2**16 else sys.maxsize  # a live one is not known
    elif HEADER.match(new):
        raise FormatError(f"-: neither raw samples nor WAV, expected 16 bit mono at {FS_HZ} Hz")
    data = b""
    while new := new[:left]:
        left -= len(new)
        data += new
        whole = len(data) - len(data) % (2 * n)
        yield from cut(np.frombuffer(data[:whole], "<i2"), n)
        data = data[whole:]
        new = file.read1(AT_ONCE * 2 * n)
    yield from cut(np.frombuffer(data[: len(data) // 2 * 2], "<i2"), n)


def convert(filename, source):
    """Speech, int16 [samples] at 8 kHz, of a sound file with a header: mean of its channels,
    resampled.

    `source` is the file name or its bytes.  What can be read of a file that is cut off is taken.
    """
    import soundfile

    source = with_length(filename, source)
    try:
        with plumbing.quiet(), soundfile.SoundFile(source) as sound:  # the MP3 decoder prints
            rate, kind, channels = sound.samplerate, sound.subtype, sound.channels
            if not 1000 <= rate <= MAX_RATE_HZ:
                raise FormatError(f"{filename}: {rate} Hz, expected 1000 to {MAX_RATE_HZ}")
            promised = sound.frames / rate
            speech, seconds = resample(filename, sound)
    except soundfile.SoundFileError:  # what libsndfile tells of a broken file is often misleading
        raise FormatError(
            f"{filename}: not speech, or broken; {how_to_convert(filename)}"
        ) from None
    if not len(speech):
        raise FormatError(f"{filename}: no samples can be read; {how_to_convert(filename)}")
    if seconds < promised:
        told = f"{promised:.2f} s" if promised < 1e9 else "no length"
        warn(filename, f"its header tells {told}, {seconds:.2f} s can be read: cut off?")
    if (rate, kind, channels) != (FS_HZ, "PCM_16", 1):
        text = f"{filename}: converted from {rate} Hz, {kind}, {channels} channel(s)"
        print(text, file=sys.stderr)
    return speech


def how_to_convert(filename):
    return f"raw 16 bit files end in {' '.join(RAW)}, convert others: ffmpeg -i {filename} new.wav"


def warn(filename, text):
    print(f"{filename}: warning: {text}", file=sys.stderr)


def with_length(filename, source):
    """The sound file `source`, a name or bytes, as something that soundfile opens.

    A program that writes WAV to a pipe cannot know its length: where the header tells 0, this
    returns a copy that tells the length.  A warning when it tells too much.
    """
    is_named = isinstance(source, str)
    size = os.path.getsize(source) if is_named else len(source)
    head = read_head(source) if is_named else source[:HEAD]
    start, promised = wav_chunks(head).get(b"data", (0, 0))
    there = size - start
    if start and (promised == 0 or there < promised):
        warn(filename, f"its header tells {promised} bytes of samples, there are {there}: all read")
    if start and promised in (0, 2**32 - 1):
        data = bytearray(Path(source).read_bytes() if is_named else source)
        data[:4] = b"RIFF"  # in RF64 another chunk tells the length
        data[start - 4 : start] = min(there, 2**32 - 1).to_bytes(4, "little")
        source = bytes(data)
        is_named = False
    return source if is_named else io.BytesIO(source)


def read_head(filename):
    with open(filename, "rb") as file:
        return file.read(HEAD)


def wav_chunks(head):
    """{name: where its content starts, and how many bytes it is} of the chunks of a WAV file with
    these first bytes, up to the samples, b"data"; {} for another kind of file.
    """
    chunks, start = {}, 12
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return chunks
    while start + 8 <= len(head) and b"data" not in chunks:
        size = int.from_bytes(head[start + 4 : start + 8], "little")
        chunks[head[start : start + 4]] = start + 8, size
        start += 8 + size + size % 2
    return chunks


def resample(filename, sound):
    """Speech, int16 [samples] at 8 kHz, of an open sound file, and how many seconds were read."""
    import scipy  # loads scipy.signal, which takes a second, only when it is used

    rate, n = sound.samplerate, 0
    pieces, mono = [], np.zeros(0)
    seconds = read_seconds(sound)
    # 30 s and the 2 s before them at a time; of the overlap each loses the second at its own end
    while block := list(itertools.islice(seconds, 30)):
        n += sum(map(len, block))
        mono = np.concatenate([mono[-2 * rate :], *block])
        if not np.isfinite(mono).all():
            raise FormatError(f"{filename}: not all samples are numbers")
        piece = mono if rate == FS_HZ else scipy.signal.resample_poly(mono, FS_HZ, rate)
        piece = np.clip(np.rint(piece * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        if pieces:
            pieces[-1], piece = pieces[-1][:-FS_HZ], piece[FS_HZ:]
        pieces.append(piece)
    return np.concatenate(pieces or [mono]), n / rate


def read_seconds(sound):
    """Yield the mean of the channels of an open sound file, a second at a time, up to its end or to
    where it is broken.
    """
    import soundfile

    while True:
        block = np.full((sound.samplerate, sound.channels), np.nan)
        try:
            n = len(sound.read(out=block))
        except soundfile.SoundFileError:  # what was decoded before the fault is in the block
            n = 1 + np.max(np.flatnonzero(~np.isnan(block[:, 0])), initial=-1)
        if n == 0:
            return
        yield block[:n].mean(axis=1)


def find_files(inputs):
    """Names of the files among `inputs`, and of the speech files in folders among them."""
    found = []
    for name in inputs:
        if not os.path.isdir(name):
            found.append(name)
            continue
        files = [path for path in sorted(Path(name).rglob("*")) if is_speech(path)]
        if not files:
            why = f"no speech in this folder, expected {' '.join(RAW + WITH_HEADER)}"
            raise FormatError(f"{name}: {why}")
        found += map(str, files)
    return found


def is_speech(path):
    """Does a file look like speech by its name?  Hidden ones are left-overs of other programs."""
    known = path.suffix.lower() in RAW + WITH_HEADER
    return known and not path.name.startswith(".") and path.is_file()


def start_wav(file, stack):
    """Function that writes samples to a WAV file."""
    wav = stack.enter_context(wave.open(file, "wb"))  # noqa: SIM115
    wav.setparams((1, 2, FS_HZ, 0, "NONE", None))
    return wav.writeframes
