#!/usr/bin/env python3
"""The table of whole codecs by total bit rate: vq_codec.py and Codec 2's modes on held-out speech.

Usage:
    doc/codec_table.py                    # all of them: half an hour, most of it for vq_codec.py
    doc/codec_table.py vq_codec_700 codec2_700C codec2_700C_errors

PESQ and STOI are means over pieces of 8 s, with 95 % intervals over speakers.  The delay is that of
a live stream, sample in to sample out: the wait for a block and, in Codec 2's modes, what the
decoded file lags; vq_codec.py's is what its test measures.  With errors, 1 % of the bits behind the
header are flipped.

Units: speech int16 at 8 kHz, delays in ms.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

import demo
import measure
import vq_codec
from common import plumbing

CODECS = (
    "vq_codec_700",
    "vq_codec_1300",
    *[f"codec2_{mode}" for mode in ("700C", "1200", "1300", "1600", "2400", "3200")],
    "vq_codec_700_errors",
    "vq_codec_1300_errors",
    "codec2_700C_errors",
)
ERRORS = 0.01  # share of the bits that are flipped
CODEC2_BLOCK_MS = {"2400": 20, "3200": 20}  # 40 for the other modes


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="The table of whole codecs.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("codecs", nargs="*", choices=[[], *CODECS], default=CODECS, metavar="CODEC")
    return parser.parse_args(argv)


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def with_errors(data, header, rate=ERRORS, seed=1):
    """Bytes with this share of the bits behind the header flipped."""
    bits = np.unpackbits(np.frombuffer(data[header:], np.uint8))
    bits ^= np.random.default_rng(seed).random(len(bits)) < rate
    return data[:header] + np.packbits(bits).tobytes()


def decoded(folder, codec, samples):
    """What is left of samples int16 [n] after a codec, int16; original.raw in the folder has the
    same samples.
    """
    program, mode, *errors = codec.removeprefix("vq_").split("_")
    bits, speech = folder / f"{program}_{mode}.bit", folder / f"{codec}.raw"
    ours = [sys.executable, ROOT / "vq_codec.py"]
    if not bits.exists():
        encoder = [*ours, "enc"] if program == "codec" else ["c2enc"]
        run(*encoder, mode, folder / "original.raw", bits)
    if errors:
        header = vq_codec.HEADER.size if program == "codec" else 0
        data = with_errors(bits.read_bytes(), header)
        bits = bits.with_suffix(".errors")
        bits.write_bytes(data)
    run(*([*ours, "dec"] if program == "codec" else ["c2dec", mode]), bits, speech)
    return np.fromfile(speech, "<i2")


def delay_ms(codec, samples, coded):
    """Whole delay of a live stream."""
    program, mode = codec.removeprefix("vq_").split("_")[:2]
    if program == "codec":
        return vq_codec.DELAY_MS
    lag_ms = demo.delay(samples, coded) * 1000 // demo.FS
    return CODEC2_BLOCK_MS.get(mode, 40) + lag_ms


def row(codec, speech, coded):
    """A line of the table: codec, delay, PESQ and STOI with intervals."""
    aligned = demo.align(speech.samples, coded)
    speakers = measure.speakers_of_pieces(speech)
    scores, counted = [], []
    for number, speaker in enumerate(speakers):
        piece = slice(number * measure.PIECE, (number + 1) * measure.PIECE)
        score = demo.piece_quality(speech.samples[piece], aligned[piece])
        if score is not None:
            scores.append(score)
            counted.append(speaker)
    cells = [codec, str(delay_ms(codec, speech.samples, coded))]
    for values, digits in zip(np.transpose(scores), (2, 3), strict=True):
        low, high = measure.interval(values, np.array(counted))
        cells.append(f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return f"| {' | '.join(cells)} |"


def main(args):
    speech = measure.heldout()
    print(speech.words)
    print("| codec | delay, ms | PESQ | STOI |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.asarray(speech.samples, "<i2").tofile(folder / "original.raw")
        for codec in args.codecs:
            print(row(codec, speech, decoded(folder, codec, speech.samples)), flush=True)


if __name__ == "__main__":
    plumbing.start()
    main(parse_args())
