#!/usr/bin/env python3
"""Step through rate K vectors or codebooks, 16 to a page.

Usage:
    ./vq_pager.py 14 bands.f32        # any key or n: next page, b: back, q or a click: end
    ./vq_pager.py 16 codebook_1.f32 --file2 codebook_2.f32
    ./vq_pager.py 20 rate_K.f32 --start 500 --plot_dir plots

Units: float32 vectors of K values, plotted as they are: over frequency where they have as many
values as a kind of vectors that these scripts know.
"""

import argparse

import numpy as np

import codec2_model
from common import plots, plumbing, spectra
from common.plumbing import FormatError

SPEECH_DB = 10  # mean level of frames that count as speech


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Step through rate K vectors or codebooks, 16 to a page.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("K", type=plumbing.positive, help="values in a vector")
    add("file", metavar="FILE", help="vectors, float32")
    file2_help = "vectors to draw over those of FILE in a second colour"
    add("--file2", metavar="F.f32", help=file2_help)
    start_help = "leave out the vectors before this one (default: 0, and a window opens at speech)"
    add("--start", type=plumbing.natural, metavar="N", help=start_help)
    plot_dir_help = "write all pages there, as PNG files, instead of opening a window"
    add("--plot_dir", metavar="DIR", help=plot_dir_help)
    return parser.parse_args(argv)


def first_of_speech(vectors):
    """Number of the first loud vector of [n][K] in dB; 0 if none is as loud as speech.

    Levels 0, 2, 30 and 40 dB: the third, the first above the middle of 0 and 40.
    """
    level = vectors.mean(axis=1)
    middle = (level.min() + level.max()) / 2
    return int(np.argmax(level > max(middle, SPEECH_DB)))


def main(args):
    plumbing.check_outputs([], plot_dir=args.plot_dir)
    names = [args.file, args.file2] if args.file2 else [args.file]
    files = {}
    for name in names:
        files[name] = codec2_model.read_floats(name, args.K)
        codec2_model.check_floats(name, files[name])
    vectors = files[args.file]
    if args.start is not None and args.start >= len(vectors):
        expected = f"expected 0 to {len(vectors) - 1}"
        raise FormatError(f"{args.file}: no vector {args.start} for --start, {expected}")
    print(f"vectors: {len(vectors)}")
    print(f"range: {vectors.min():.2f} to {vectors.max():.2f}")
    hz = next((kind.hz for (K, _), kind in spectra.KINDS.items() if K == args.K), None)
    numbers = np.arange(args.start or 0, len(vectors))
    first = 0
    if args.start is None and hz is not None:
        first = first_of_speech(vectors)
    plots.page_vectors(
        files, numbers, numbers, "vq_pager", args.plot_dir, hz=hz, unit="value", first=first
    )


if __name__ == "__main__":
    plumbing.start()
    main(parse_args())
