#!/usr/bin/env python3
"""Run a trained network on rate K features and write a .model file to listen to.

Usage:
    ./eband_out.py ampnn.keras test.f32 test.model --modelout network.model
    ./c2sim.py --modelin network.model -o network.wav
    ./eband_out.py ampnn.keras test.f32 test.model --dec 3      # every third vector, the others interpolated

The network's amplitudes take the place of those in the model file; Wo, L, phases and voicing stay.  The mean of a frame
comes with its vector, or, for networks of ebanddec_train.py, from the amplitudes of the model file.

Units: as in the script that trained the network; errors in dB².
"""

import argparse
import os

import numpy as np

import c2sim
import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

SCRIPTS = ("eband_train", "ebanddec_train", "newamp1_train")  # whose networks run here
F_CUTOFF_HZ = 3600  # figures over harmonics up to here

# ---------------------------------------------------------------- arguments


def parse_args():
    parser = argparse.ArgumentParser(
        description="Run a trained network, write a .model file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = parser.add_argument_group("data")
    group.add_argument("network", metavar="NET", help="network from eband_train, ebanddec_train or newamp1_train")
    group.add_argument("features", metavar="FEATURES", help="vectors of the kind that the network was trained on")
    group.add_argument("model", metavar="MODEL", help="model records of the same frames")
    group.add_argument("--nb_samples", type=codec2_model.positive, metavar="N", help="use the first N frames")
    group.add_argument(
        "--dec", type=codec2_model.positive, default=1, metavar="N", help="interpolate all but every N-th"
    )
    group = parser.add_argument_group("output")
    group.add_argument("--modelout", metavar="OUT", help="write the model file with the network's amplitudes")
    group.add_argument("--frame", type=int, default=0, metavar="F", help="first frame to plot")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args()
    if args.frame < 0:
        parser.error("--frame must not be negative")
    return args


# ---------------------------------------------------------------- data


def load(args, options):
    """Vectors [n][K] in dB; model records Wo, L, A, phi, voiced; target [n][width] in dB."""
    codec2_model.read(args.model)  # a file that is not one of these is told of first
    if options["script"] == "newamp1_train":
        vectors, _ = codec2_model.read_newamp1(args.features, args.model)
        records = codec2_model.read_checked(args.model, args.features, vectors)
    else:
        vectors = codec2_model.read_rate_K(args.features, options["eband_K"])
        records = codec2_model.read_checked(args.model, args.features, vectors, options["gain"])
        vectors = vectors[:, options["eband_start"] :] * np.float32(10 / options["gain"])
    codec2_model.check_frames(args.features, len(vectors[: args.nb_samples]), 1, args.frame)
    if args.dec > 1 and "dec" in options:
        raise codec2_model.FormatError(f"{args.network}: has --dec {options['dec']} of its own, expected no --dec")
    vectors, *records = (values[: args.nb_samples] for values in (vectors, *records))
    target = codec2_model.to_bins(*records[:3], options["width"], F_CUTOFF_HZ, options["Fs"])
    codec2_model.check_target(args.model, target)
    return decimate(vectors, args.dec), records, target


def decimate(vectors, dec):
    """Vectors [n][K]: every dec-th is kept, the others are interpolated, and the last few repeat the last kept."""
    frame = np.arange(len(vectors))
    dec = min(dec, len(vectors))
    last = frame // dec * dec
    following = np.minimum(last + dec, frame[-1] // dec * dec)
    weight = ((frame - last) / dec)[:, None].astype(np.float32)
    return (1 - weight) * vectors[last] + weight * vectors[following]


def prepare(args):
    """All that can be wrong with the files, before Keras is imported, which takes seconds: options and data."""
    options = codec2_model.read_options(args.network, SCRIPTS)
    data = load(args, options)
    codec2_model.check_outputs(args, args.modelout)
    return options, data


if __name__ == "__main__":
    codec2_model.plain_errors()
    ARGS = parse_args()
    OPTIONS, DATA = prepare(ARGS)

import keras

# ---------------------------------------------------------------- evaluation


def distortion(target, estimate):
    """SD and variance of every frame [n] in dB²; NaN in the target is none, frames without any are left out.

    SD is the mean squared error over the targets of a frame, variance the same without the mean error of the frame.
    target [[3, NaN, 5]], estimate [[1, 7, 4]]: SD (2² + 1²) / 2 = 2.5, variance 2.5 − 1.5² = 0.25.
    """
    used = ~np.isnan(target).all(axis=1)
    error = np.float64(target[used]) - estimate[used]
    return np.nanmean(error**2, axis=1), np.nanvar(error, axis=1)


def evaluate(part, estimates, data):
    """Print the figures of a part of the data; returns SD by frame {name: [n]}, of the frames that have a target.

    estimates(data) gives the target and {name: estimate}, all dB [n][WIDTH].
    """
    parts = ([values[frames] for values in data] for frames in codec2_model.chunks(len(data[0])))
    figures = [{name: distortion(target, dB) for name, dB in known.items()} for target, known in map(estimates, parts)]
    sd = {}
    for name in figures[0]:
        sd[name], variance = np.concatenate([chunk[name] for chunk in figures], axis=1)
        print(f"{part} {name} SD: {sd[name].mean():.2f} dB²")
        print(f"{part} {name} variance: {variance.mean():.2f} dB²")
    print(f"{part} frames: {len(variance)}")
    return sd


# ---------------------------------------------------------------- plots


def draw_frames(fig, frames, records, estimates, Fs):
    """Six frames: spectra of the model file and of estimates {name: dB [frames][width]}; below them the waveforms."""
    axes = fig.subplots(4, 3)
    n = np.arange(-80, 80)
    for i, (f, spectra, waves) in enumerate(zip(frames, axes[::2].flat, axes[1::2].flat, strict=False)):
        Wo, L, A, phi, _ = (values[f : f + 1] for values in records)
        m = np.arange(1, L[0] + 1)
        amplitudes = {name: codec2_model.from_bins(x[i : i + 1], Wo, L) for name, x in estimates.items()}
        for (name, A_hat), colour in zip({"original": A, **amplitudes}.items(), ("black", "C0", "C1"), strict=True):
            spectra.plot(m * Wo * Fs / (2 * np.pi), 20 * np.log10(A_hat[0, m] + 1e-5), colour, label=name)
            waves.plot(n, np.cos(np.outer(n, m) * Wo + phi[0, m]) @ A_hat[0, m], colour)
        spectra.set(title=f"frame {f}", xlabel="Frequency (Hz)", ylabel="Amplitude (dB)")
        waves.set(xlabel="Sample", ylabel="Signal")
    axes[0, 0].legend()


# ---------------------------------------------------------------- main


def match_mean(estimate, target):
    """The estimate [...][WIDTH] in dB, shifted to the mean of the target of each frame."""
    count = np.sum(~np.isnan(target), axis=-1, keepdims=True)
    return estimate + np.nansum(target - estimate, axis=-1, keepdims=True) / np.maximum(count, 1)


def estimators(network, options, vectors, records, target):
    """{name: function of a slice of frames} for the estimates of the network and of its baseline, dB [n][width]."""
    Wo, L = records[:2]

    def predict(model):
        inputs = [vectors, Wo[:, None]] if options.get("Wo") else [vectors]
        return lambda frames: model.predict_on_batch([values[frames] for values in inputs])

    def predict_decimated(model):
        dec, last = options["dec"], (len(vectors) - 1) // options["dec"] * options["dec"]

        def estimate(frames):
            f = np.arange(len(vectors))[frames]
            sent = np.arange(f[0] // dec, f[-1] // dec + 1)[:, None] * dec
            dB = model.predict_on_batch(vectors[np.minimum(sent + np.array([0, dec]), last)])
            return match_mean(dB.reshape(-1, options["width"])[f - sent[0]], target[frames])

        return estimate

    def conventional(frames):
        A = c2sim.rate_K_to_L(vectors[frames], Wo[frames], L[frames])
        return codec2_model.to_bins(Wo[frames], L[frames], A, options["width"], options["Fs"] / 2, options["Fs"])

    if options["script"] == "newamp1_train":
        return {"network": predict(network), "conventional": conventional}
    baseline = keras.Model(network.inputs, network.get_layer("interpolation").output)
    predict = predict_decimated if options["script"] == "ebanddec_train" else predict
    return {"network": predict(network), "interpolation": predict(baseline)}


def main(args, options, data):
    vectors, records, target = data
    try:
        network = keras.models.load_model(args.network, compile=False)
        known = estimators(network, options, vectors, records, target)
        for estimate in known.values():
            estimate(np.arange(1)).reshape(1, options["width"])
    except Exception as error:  # Keras has many words for a network that is broken, or of another shape
        why = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise codec2_model.FormatError(f"{args.network}: not a network that can be run: {why}") from None

    def estimates(data):
        frames = data[0]
        return target[frames], {name: estimate(frames) for name, estimate in known.items()}

    sd = evaluate("file", estimates, [np.arange(len(target))])
    if args.modelout:
        Wo, L, A, phi, voiced = records
        A_hat = np.empty(A.shape, np.float32)
        for part in codec2_model.chunks(len(Wo)):
            A_hat[part] = codec2_model.from_bins(known["network"](part), Wo[part], L[part])
        codec2_model.write(Wo, L, A_hat, phi, voiced, args.modelout)

    def draw(fig, page):
        frames = np.arange(args.frame + 6 * page, min(args.frame + 6 * page + 6, len(target)))
        draw_frames(fig, frames, records, estimates([frames])[1], options["Fs"])

    if not args.noplots:
        vq_pager.show({"eband_out_sd": vq_pager.plot_sd(sd)}, args.plot_dir)
        vq_pager.page_through(draw, -(-(len(target) - args.frame) // 6), "eband_out_frames", args.plot_dir, nb_png=2)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, OPTIONS, DATA)
