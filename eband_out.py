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
    for name in ("--eband_K", "--eband_start", "--gain", "--removemean"):
        add(name, action=plumbing.Gone, const="it is saved with the network")
    args = parser.parse_args(argv)
    if args.noplots and not (args.plot_dir is None and args.frame is None):
        parser.error("--plot_dir and --frame have no effect with --noplots")
    return args


def load(args):
    """What codec2_model.load_pair() gives, and

    "options"  those of the network
    "dec"      frames that the network gives for one input
    "inputs"   arrays for the network, one item for each of its inputs [n] or [n / dec]
    "used"     frames [u] that have a target
    "frame_s"  seconds from frame to frame
    """
    inputs = [args.network, args.features, args.model]
    plumbing.check_outputs([args.modelout], inputs, args.plot_dir)
    options = read_options(args.network)
    if args.dec > 1 and options["input"] == "band pairs":
        own = f"a network with --dec {options['dec']} of its own"
        raise FormatError(f"{args.network}: {own}, expected no --dec")
    pair, frame_s = load_pair(args.features, args.model, options)
    data = {name: values[: args.nb_samples] for name, values in pair.items()}
    data["options"] = options
    data["frame_s"] = frame_s
    data["used"] = codec2_model.used_frames(data["target"], 1, args.model)
    if args.frame is not None and args.frame > data["used"][-1]:
        expected = f"expected 0 to {data['used'][-1]}"
        raise FormatError(f"{args.model}: no --frame {args.frame} to plot, {expected}")
    data["vectors"] = decimate(data["vectors"], args.dec)
    data["dec"] = 1
    data["inputs"] = [data["vectors"]]
    if options["input"] == "bands and Wo":
        data["inputs"].append(data["Wo"][:, None])
    elif options["input"] == "band pairs":
        data["dec"] = options["dec"]
        sent = np.arange(0, len(data["vectors"]), data["dec"])
        pairs = sent[:, None] + [0, data["dec"]]
        pairs = np.minimum(pairs, sent[-1])  # the last vector sent is the second one of its pair
        data["inputs"] = [data["vectors"][pairs]]
    return data


def read_options(filename):
    """The options of a network, checked."""
    if "vq_stages" in networks.read_options(filename, {}):
        raise FormatError(f"{filename}: a quantiser, which vq_out.py runs")
    options = networks.read_options(filename, OPTIONS)
    for name in ("gain", "Fs"):
        value = options.get(name)
        if not (isinstance(value, int | float) and 1e-6 < value < 1e6):
            why = f"a network with {name} {value}, expected a positive number"
            raise FormatError(f"{filename}: {why}")
    if options["eband_start"] > options["eband_K"] - 2:
        why = f"eband_start {options['eband_start']} of {options['eband_K']} bands"
        raise FormatError(f"{filename}: a network with {why}, expected two bands or more")
    return options


def load_pair(features, model, options):
    """What codec2_model.load_pair() gives of a pair of files; seconds from frame to frame."""
    width, Fs, frame_s = options["width"], options["Fs"], spectra.FRAME_S
    if options["input"] == "newamp1":
        n = codec2_model.count_items(model)
        vectors, quantised = codec2_model.read_newamp1(features, n)
        if quantised is not None:  # a file of c2enc
            frame_s = 4 * spectra.FRAME_S
    else:
        vectors = codec2_model.read_rate_K(features, options["eband_K"], options["gain"])
        vectors = vectors[:, options["eband_start"] :]
    cutoff_hz = F_CUTOFF * Fs / 2
    return codec2_model.load_pair(features, model, vectors, width, cutoff_hz, Fs), frame_s


def decimate(vectors, dec):
    """Vectors [n][K]: every dec-th is kept, the others are interpolated.

    The last few repeat the last that is kept.
    """
    frames = np.arange(len(vectors))
    sent = frames[::dec]
    return np.float32([np.interp(frames, sent, values) for values in vectors[sent].T]).T


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras


def load_network(filename, data):
    """The network with a named output {"network"} and, if it has that layer, {"interpolation"}."""
    network = networks.load(filename)
    outputs = {"network": network.outputs[0]}
    if "interpolation" in {layer.name for layer in network.layers}:
        outputs["interpolation"] = network.get_layer("interpolation").output
    options = data["options"]
    frames = (options["dec"],) if options["input"] == "band pairs" else ()
    shape = (1, *frames, options["width"])
    models = keras.Model(network.inputs, list(outputs.values()))
    input_shapes = [(1, *values.shape[1:]) for values in data["inputs"]]
    networks.check_run(models, input_shapes, [shape] * len(outputs), filename)
    return keras.Model(network.inputs, outputs)


def estimate(models, data, frames):
    """Spectra {label: dB [f][width]} of some frames, by their numbers [f]."""
    options, dec = data["options"], data["dec"]
    sent, row = np.unique(frames // dec, return_inverse=True)
    found = models.predict_on_batch([values[sent] for values in data["inputs"]])
    estimates = {}
    for label, dB in found.items():
        estimates[label] = dB.reshape(-1, dec, options["width"])[row, frames % dec]
        if options["input"] == "band pairs":
            estimates[label] = spectra.match_mean(estimates[label], data["target"][frames])
    if options["input"] == "newamp1":
        Wo, L = data["Wo"][frames], data["L"][frames]
        A = spectra.rate_K_to_L(data["vectors"][frames], Wo, L)
        estimates["conventional"] = spectra.to_bins(Wo, L, A, options["width"], np.inf)
    return estimates


def evaluate(models, data, A_hat, filename):
    """{label: Figures} of all frames; the network's amplitudes replace those in A_hat [n][161]."""

    def estimate_and_keep(frames):
        estimates = estimate(models, data, frames)
        if not (estimates["network"] < MAX_DB).all():  # false for nan; silence may have −127 dB
            why = f"makes amplitudes that are not finite, or above {MAX_DB} dB"
            raise FormatError(f"{filename}: a network that {why}")
        Wo, L = data["Wo"][frames], data["L"][frames]
        A_hat[frames] = spectra.from_bins(estimates["network"], Wo, L)
        return estimates

    return spectra.measure_blocks(data["target"], estimate_and_keep)


def plot(figures, models, data, args):
    """SD over time, and spectra."""
    used, sd, options = data["used"], figures["network"].sd, data["options"]
    fig = plots.plot_sd(figures, used, data["frame_s"])
    plots.show({f"{NAME}_sd": fig}, args.plot_dir)
    shown = plots.frames_to_show(args.frame, used, sd, data["vectors"][used].mean(axis=1))
    titles = [f"frame {used[i]}: SD {sd[i]:.1f} dB²" for i in shown]
    records = codec2_model.read_frames(args.model, used[shown])
    estimates = estimate(models, data, used[shown])
    plots.page_frames(records, titles, estimates, f"{NAME}_frames", args.plot_dir, options["Fs"])


def main(args, data):
    models = load_network(args.network, data)
    Wo, L, A_hat, phi, voiced = codec2_model.read(args.model, len(data["target"]))
    figures = evaluate(models, data, A_hat, args.network)
    spectra.print_figures("file", figures)
    if args.modelout:
        codec2_model.write(Wo, L, A_hat, phi, voiced, args.modelout)
    if not args.noplots:
        plot(figures, models, data, args)
    print(f"{figures['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
