#!/usr/bin/env python3
"""Run a trained network on rate K vectors and write a model file to listen to.

Usage:
    ./eband_out.py ampnn.keras test.f32 test.model --modelout network.model
    ./c2sim.py --modelin network.model -o network.wav
    ./eband_out.py ampnn.keras test.f32 test.model --dec 3    # every third vector, interpolated

The network's amplitudes take the place of those in the model file; Wo, L, phases and voicing stay.
The mean of a frame comes with its vector, or, for pairs of vectors (ebanddec_train.py), from the
amplitudes of the model file.

Units: as in the script that trained the network; errors in dB².
"""

import argparse
import functools
import math
import sys

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError

NAME = "eband_out"  # pictures are named after it
F_CUTOFF = 0.9  # of half the sample rate; figures are over harmonics up to here, as in training
OPTIONS = {  # values that these options of a network may have
    "input": ("bands", "bands and Wo", "band pairs", "newamp1"),
    "width": range(2, 4097),
    "eband_K": range(2, 161),
    "eband_start": range(159),
    "dec": range(1, 1001),
}
MAX_DB = 120  # 16 bit speech has no louder harmonic
USUAL_DISTANCE = (0.75, 1.3)  # of the vectors from those of the training: 0.9 to 1.1 for speech


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Run a network on rate K vectors: figures, and a model file to listen to.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    network_help = "from eband_train.py, ebanddec_train.py, newamp1_train.py or a copy of these"
    add("network", metavar="NET", help=network_help)
    features_help = "vectors of the kind that the network was trained on"
    add("features", metavar="FEATURES", help=features_help)
    add("model", metavar="MODEL", help="model records of the same frames")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    dec_help = "keep every N-th vector, interpolate the others (default: 1, all)"
    add("--dec", type=plumbing.positive, default=1, metavar="N", help=dec_help)
    add("--modelout", metavar="OUT", help="write the model file with the network's amplitudes")
    frame_help = "plot frames from F on (default: typical ones)"
    add("--frame", type=plumbing.natural, metavar="F", help=frame_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    known = "it is saved with the network"
    for name in ("--eband_K", "--eband_start", "--gain"):
        add(name, action=plumbing.Gone, const=known)
    args = parser.parse_args(argv)
    if args.noplots and not (args.plot_dir is None and args.frame is None):
        parser.error("--plot_dir and --frame have no effect with --noplots")
    return args


def load(args):
    """What codec2_model.load_pair() gives, and

    "options"  those of the network
    "dec"      frames that the network gives for one input
    "inputs"   arrays [inputs][...] for the network
    "used"     frames [u] that have a target
    """
    files = [args.network, args.features, args.model]
    plumbing.check_outputs([args.modelout], files, args.plot_dir)
    options = read_options(args.network)
    if args.dec > 1 and options["input"] == "band pairs":
        own = f"a network with --dec {options['dec']} of its own"
        raise FormatError(f"{args.network}: {own}, expected no --dec")
    data = load_pair(args.features, args.model, options)
    data = {name: values[: args.nb_samples] for name, values in data.items()}
    data["options"] = options
    data["used"] = codec2_model.used_frames(data["target"], 1, args.model)
    if args.frame is not None and args.frame > data["used"][-1]:
        expected = f"expected 0 to {data['used'][-1]}"
        raise FormatError(f"{args.model}: no --frame {args.frame} to plot, {expected}")
    warn_of_other_vectors(args.features, data["vectors"][data["used"]], options)

    vectors = data["vectors"] = decimate(data["vectors"], args.dec)
    data["dec"], data["inputs"] = 1, [vectors]
    if options["input"] == "bands and Wo":
        data["inputs"].append(data["Wo"][:, None])
    if options["input"] == "band pairs":
        data["dec"] = options["dec"]
        sent = np.arange(0, len(vectors), data["dec"])
        pairs = sent[:, None] + [0, data["dec"]]
        data["inputs"] = [vectors[np.minimum(pairs, sent[-1])]]  # the last one is its own pair
    return data


def read_options(filename):
    """The options of a network, checked."""
    options = networks.read_options(filename, OPTIONS)
    for name in ("gain", "Fs"):
        value = options.get(name)
        if not (isinstance(value, int | float) and 1e-6 < value < 1e6):
            why = f"a network with {name} {value}, expected a positive number"
            raise FormatError(f"{filename}: {why}")
    K = options["eband_K"] - options["eband_start"]
    for name in ("shape_mean", "shape_spread"):
        values = options.get(name, [0.0] * K)  # networks of before 2027 have none
        if not (isinstance(values, list) and len(values) == K and all(isinstance(x, float) for x in values)):
            raise FormatError(f"{filename}: a network with {name} {values}, expected {K} numbers")
    return options
