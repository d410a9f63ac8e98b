#!/usr/bin/env python3
"""Run a trained network on rate K features and write a .model file to listen to.

Usage:
    ./eband_out.py ampnn.keras test.f32 test.model --modelout network.model
    ./c2sim.py --modelin network.model -o network.wav
    ./eband_out.py ampnn.keras test.f32 test.model --dec 3      # every third vector, the others interpolated

The network's amplitudes take the place of those in the model file; Wo, L, phases and voicing stay.  The mean of a frame
comes with its vector, or, for pairs of vectors (ebanddec_train.py), from the amplitudes of the model file.

Units: as in the script that trained the network; errors in dB².
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager
from plumbing import FormatError

import numpy as np

INPUTS = ("bands", "bands and Wo", "band pairs", "newamp1")  # what a network can have as its inputs
SIZES = {"width": range(2, 4097), "eband_K": range(2, 161), "eband_start": range(159), "dec": range(1, 1001)}
F_CUTOFF_HZ = 3600  # figures over harmonics up to here, as in training


def parse_args(argv=None):
    parser = ArgumentParser(description="Network to model file.", formatter_class=ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("network", metavar="NET", help="network from eband_train, ebanddec_train, newamp1_train or a copy of these")
    add("features", metavar="FEATURES", help="vectors of the kind that the network was trained on")
    add("model", metavar="MODEL", help="model records of the same frames")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    add("--dec", type=plumbing.positive, default=1, metavar="N", help="interpolate all but every N-th vector")
    add("--modelout", metavar="OUT", help="write the model file with the network's amplitudes")
    add("--frame", type=plumbing.natural, metavar="F", help="plot frames from F on, not typical ones")
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    return parser.parse_args(argv)


def load(args):
    """What codec2_model.load_pair() gives; "used" [u], the frames with a target; of the network "options", "inputs" and
    "dec", the frames that it gives for one input."""
    files = [args.network, args.features, args.model]
    plumbing.check_outputs([args.modelout], files, None if args.noplots else args.plot_dir)
    options = plumbing.read_options(args.network, {"input": INPUTS, **SIZES})
    numbers = [options.get(name) for name in ("gain", "Fs")]
    if not all(isinstance(x, int | float) and 1e-6 < x < 1e6 for x in numbers):
        raise FormatError(f"{args.network}: a network with gain and Fs {numbers}, expected positive numbers")
    if args.dec > 1 and options["input"] == "band pairs":
        raise FormatError(f"{args.network}: has --dec {options['dec']} of its own, expected no --dec")
    n = codec2_model.count_items(args.model, codec2_model.RECORD.itemsize, "1300 byte model records")
    if options["input"] == "newamp1":
        vectors, _ = codec2_model.read_newamp1(args.features, n)
    else:
        vectors = codec2_model.read_rate_K(args.features, options["eband_K"], options["gain"])
        vectors = vectors[:, options["eband_start"] :]
    data = codec2_model.load_pair(args.features, args.model, vectors, options["width"], F_CUTOFF_HZ, options["Fs"])
    data = {name: values[: args.nb_samples] for name, values in data.items()}
    data |= {"options": options, "used": codec2_model.used_frames(data["target"], 1, args.model), "dec": 1}
    if (args.frame or 0) > data["used"][-1]:
        raise FormatError(f"{args.model}: no --frame {args.frame}, the last one with a figure is {data['used'][-1]}")
    vectors = data["vectors"] = decimate(data["vectors"], args.dec)
    data["inputs"] = [vectors, data["Wo"][:, None]] if options["input"] == "bands and Wo" else [vectors]
    if options["input"] == "band pairs":
        data["dec"] = options["dec"]
        sent = np.arange(0, len(vectors), data["dec"])
        data["inputs"] = [vectors[np.minimum(sent[:, None] + [0, data["dec"]], sent[-1])]]
    return data


def decimate(vectors, dec):
    """Vectors [n][K]: every dec-th is kept, the others are interpolated, and the last few repeat the last kept."""
    frames, sent = np.arange(len(vectors)), np.arange(0, len(vectors), dec)
    return np.float32([np.interp(frames, sent, values) for values in vectors[sent].T]).T


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras


def load_network(filename, data):
    """The network, with an output for each name: {"network", "interpolation"; only "network" from newamp1 vectors}."""
    options, network = data["options"], plumbing.load_network(filename)
    output = (None, options["dec"], options["width"]) if options["input"] == "band pairs" else (None, options["width"])
    expected = [(None, *values.shape[1:]) for values in data["inputs"]], output
    try:
        found = [tuple(x.shape) for x in network.inputs], tuple(network.outputs[0].shape)
        if found != expected:
            raise ValueError(f"inputs and output {found}, expected {expected}")
        outputs = {"network": network.outputs[0]}
        if options["input"] != "newamp1":
            outputs["interpolation"] = network.get_layer("interpolation").output
        return keras.Model(network.inputs, outputs)
    except Exception as error:  # Keras raises many exception types for layers that do not fit
        raise FormatError(f"{filename}: not a network that can be run: {' '.join(str(error).split())[:300]}") from None


@np.errstate(over="ignore", invalid="ignore")  # of a bad network; main() looks at what comes out
def estimate(network, data, frames):
    """Spectra {name: dB [f][width]} of some frames, by their numbers [f]."""
    options, dec = data["options"], data["dec"]
    sent, row = np.unique(frames // dec, return_inverse=True)
    spectra = network.predict_on_batch([values[sent] for values in data["inputs"]])
    spectra = {name: x.reshape(-1, dec, options["width"])[row, frames % dec] for name, x in spectra.items()}
    if options["input"] == "newamp1":
        Wo, L, Fs = data["Wo"][frames], data["L"][frames], options["Fs"]
        A = codec2_model.rate_K_to_L(data["vectors"][frames], Wo, L)
        spectra["conventional"] = codec2_model.to_bins(Wo, L, A, options["width"], np.inf, Fs)
    if options["input"] == "band pairs":
        spectra = {name: codec2_model.match_mean(x, data["target"][frames]) for name, x in spectra.items()}
    return spectra


def main(args, data):
    network, used = load_network(args.network, data), data["used"]
    # the amplitudes in A_hat are replaced block after block
    Wo, L, A_hat, phi, voiced = codec2_model.read(args.model, len(data["target"]))

    def estimate_and_keep(frames):
        spectra = estimate(network, data, frames)
        if not ((spectra["network"] > -1000) & (spectra["network"] < 120)).all():
            raise FormatError(f"{args.network}: a network with estimates that are not finite, or not -1000 to 120 dB")
        A_hat[frames] = codec2_model.from_bins(spectra["network"], Wo[frames], L[frames])
        return spectra

    sd = codec2_model.print_figures("file", data["target"], estimate_and_keep)
    if args.modelout:
        codec2_model.write(Wo, L, A_hat, phi, voiced, args.modelout)
    if not args.noplots:
        plumbing.show({"eband_out_sd": vq_pager.plot_sd(sd, used)}, args.plot_dir)
        shown = vq_pager.frames_to_show(args.frame, used, sd["network"], data["vectors"][used].mean(axis=1))
        titles = [f"frame {used[i]}: SD {sd['network'][i]:.1f} dB²" for i in shown]
        spectra, Fs = estimate(network, data, used[shown]), data["options"]["Fs"]
        vq_pager.page_frames(args.model, used[shown], titles, spectra, "eband_out_frames", args.plot_dir, Fs)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
