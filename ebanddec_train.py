#!/usr/bin/env python3
"""Train a network that turns band energies sent every N frames into the rate L amplitudes of all frames.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./ebanddec_train.py train.f32 train.model --dec 3 --nnout ampnn_dec3.keras --test test.f32 test.model
    ./ebanddec_train.py train.f32 train.model --dec 1       # the control: nothing to interpolate

Two vectors N frames apart go in, the amplitudes of the first one's frame and of those up to the second's come out.  A
decoder gets the means of frames apart: the network does not see them, and its estimates are shifted to the mean of the
target, so SD and variance are the same.  Training uses all positions, evaluation steps by N frames, as a decoder does.

Expected: 22 minutes of speech, 10 epochs, 60 s on two cores; variance on 61 s of other speakers and recordings:
N = 1 10.3, 2 11.8, 3 13.6, 4 15.6 dB²; interpolation 16.3, 17.5, 19.0, 20.6.
Units: features 10·log10(band energy) in dB (log10 with --gain 1); model file as c2sim writes it; errors in dB².
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager

import numpy as np

NAME = "ebanddec_train"  # pictures are named after it
WIDTH = 128  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of bands without their mean
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # pairs of vectors
STEPS = 4350  # training steps, a batch each, that the default of --epochs comes to
MIN_EPOCHS = 4  # of hours of speech
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # share of the frames that get a low pass, and of those that get a high pass
CUTOFF_SLOPE = 0.25  # dB/Hz at most
CUTOFF_DB = 50  # attenuation at most
MIN_FRAMES = 100  # of the training part, times --dec; no network can be trained on less


def parse_args(argv=None):
    parser = ArgumentParser(description="Decimated bands to rate L.", formatter_class=ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("features", metavar="FEATURES", help="band energies, float32 [frames][K]")
    add("model", metavar="MODEL", help="model records of the same frames")
    add("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    add("--eband_K", type=int, default=14, metavar="K", help="band energies in a vector")
    add("--eband_start", type=int, default=0, metavar="K", help="first band energy to use")
    add("--gain", type=float, default=10, help="features divided by this are log10(energy)")
    add("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    add("--dec", type=plumbing.positive, required=True, metavar="N", help="send every N-th vector")
    add("--epochs", type=plumbing.positive, metavar="N", help=f"passes through the data: as many as make {STEPS} steps")
    add("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    add("--nnout", default="ampnn_dec.keras", metavar="NET", help="write the network here")
    add("--frame", type=plumbing.natural, metavar="F", help="plot held-out or --test frames from F on")
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args(argv)
    if not 0 <= args.eband_start < args.eband_K - 1 < 160:
        parser.error("--eband_K must be 2 to 160, and --eband_start leave two of these bands or more")
    if not (1e-6 < args.gain < 1e6 and 1e-6 < args.Fs < 1e6 and args.nnout.endswith(".keras")):
        parser.error("--gain and --Fs must be above 1e-6 and below 1e6, --nnout must end in .keras")
    return args


def load(args):
    """{"train", "held-out"} and, with --test, {"test"}: what load_pair() gives; "sent", the frames of vectors that a
    decoder gets but for the last one; "used" [u], the frames before the last one that have a target."""
    names = [args.features, args.model, *(args.test or [])]
    plumbing.check_outputs([args.nnout], names, None if args.noplots else args.plot_dir)
    files = []
    for features, model in zip(names[::2], names[1::2], strict=True):
        bands = codec2_model.read_rate_K(features, args.eband_K, args.gain)[:, args.eband_start :]
        files.append(codec2_model.load_pair(features, model, bands, WIDTH, F_CUTOFF_HZ, args.Fs))
    n = len(files[0]["number"][: args.nb_samples])
    cuts = {"train": slice(n - n // 10), "held-out": slice(n - n // 10, n)}  # before anything is shuffled
    data = {part: {name: values[cut] for name, values in files[0].items()} for part, cut in cuts.items()}
    data |= {"test": files[1]} if args.test else {}
    for name, part in data.items():
        part["sent"] = np.arange(0, len(part["target"]) - args.dec, args.dec)
        target = part["target"][: len(part["sent"]) * args.dec]
        what = f"{args.test[1] if name == 'test' else args.model}: {name} part"
        part["used"] = codec2_model.used_frames(target, MIN_FRAMES * args.dec if name == "train" else 1, what)
    last = part["number"][part["used"][-1]]  # of the part that is plotted
    if (args.frame or 0) > last:
        raise plumbing.FormatError(f"{names[-1]}: no --frame {args.frame}, the last one with a figure is {last}")
    return data


def fit_baseline(bands, args):
    """Lines [K][WIDTH] that interpolate between bands, and offset [WIDTH], the mean error of such an interpolation: of
    all harmonics of the training frames `bands` [n][K], also those above the cutoff."""
    hz = codec2_model.BAND_HZ if args.eband_K == 14 else np.linspace(0, args.Fs / 2, args.eband_K)  # a guess
    bins_hz = np.arange(WIDTH) * args.Fs / 2 / WIDTH
    lines = np.float32([np.interp(bins_hz, hz[args.eband_start :], e) for e in np.eye(bands.shape[1])])
    total, count = np.zeros((2, WIDTH))
    for block, records in codec2_model.read_blocks(args.model, len(bands)):
        target = codec2_model.to_bins(records["Wo"], records["L"], records["A"], WIDTH, args.Fs / 2, args.Fs)
        error = target - bands[block] @ lines
        total += np.nansum(error, axis=0)
        count += np.sum(~np.isnan(error), axis=0)
    return lines, np.float32(total / np.maximum(count, 1))


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
import matplotlib.pyplot as plt
from keras import layers, ops


def sparse_variance(target, estimate):
    """Variance in dB², mean over the frames that have a target: mean squared error without its mean; NaN is no target.

    target [[[3, NaN, 5]]], estimate [[[1, 7, 4]]]: errors 2 and 1, without their mean 0.5 and −0.5: 0.25.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=2, keepdims=True)
    error = ops.where(has_target, error - ops.sum(error, axis=2, keepdims=True) / ops.maximum(count, 1.0), 0.0)
    variance = ops.sum(error**2, axis=2, keepdims=True) / ops.maximum(count, 1.0)
    return ops.sum(variance) / ops.maximum(ops.sum(ops.cast(count > 0, error.dtype)), 1.0)


def build_network(dec, lines, offset):
    """Network from two vectors [p][2][K] to [p][dec][WIDTH], dB up to a constant by frame: it corrects the baseline."""
    inputs = keras.Input((2, len(lines)))
    weight = np.arange(dec) / dec  # of the second vector
    kernel = np.concatenate([np.kron(1 - weight, lines), np.kron(weight, lines)])  # [2 K][dec · WIDTH]
    baseline = layers.Dense(dec * WIDTH, trainable=False)
    y = baseline(layers.Flatten()(inputs))
    baseline.set_weights([kernel, np.tile(offset, dec)])
    y = layers.Reshape((dec, WIDTH), name="interpolation")(y)
    x = layers.Flatten()((inputs - ops.mean(inputs, axis=2, keepdims=True)) / SCALE_DB)
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(dec * WIDTH, kernel_initializer="zeros")(x)
    return keras.Model(inputs, layers.Add()([y, layers.Reshape((dec, WIDTH))(x)]))


def random_filter(bands, target, lines, rng):
    """Bands [n][2][K] and target [n][dec][WIDTH] in dB as other microphones, rooms, radios would have recorded them;
    bands are sums of squared amplitudes under triangles, which the `lines` [K][WIDTH] of the baseline are, too."""
    n, hz = len(bands), np.arange(WIDTH, dtype=np.float32) * 4000 / WIDTH
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = np.float32(weights @ np.cos(np.pi * np.outer([1, 2, 3], hz) / 4000))
    low, high = np.float32(rng.uniform(0, CUTOFF_SLOPE, (2, n, 1)) * (rng.random((2, n, 1)) < CUTOFFS))  # dB/Hz
    response -= np.minimum(low * np.maximum(np.float32(rng.uniform(0, 500, (n, 1))) - hz, 0), CUTOFF_DB)
    response -= np.minimum(high * np.maximum(hz - np.float32(rng.uniform(2400, 4000, (n, 1))), 0), CUTOFF_DB)
    response = response[:, None]
    spectrum = bands @ lines
    spectrum[:, 0] = np.where(np.isnan(target[:, 0]), spectrum[:, 0], target[:, 0])
    before, after = (10 ** (x / 10) @ lines.T + 1e-30 for x in (spectrum, spectrum + response))  # for empty bands
    return bands + 10 * np.log10(after / before), target + response


def pairs(part, first, dec):
    """Vectors [p][2][K] of the frames `first` [p] and of those dec later, and target [p][dec][WIDTH] from first on."""
    return part["vectors"][first[:, None] + [0, dec]], part["target"][first[:, None] + np.arange(dec)]


def train(network, data, lines, args):
    """Fit the network; returns [[variance of the filtered training frames, of the held-out part] in dB²] by epoch."""
    part, held, rng = data["train"], data["held-out"], np.random.default_rng(args.seed)
    first = part["used"][part["used"] < len(part["target"]) - args.dec]
    held_vectors, held_target = pairs(held, held["sent"], args.dec)
    epoch_steps = -(-len(first) // BATCH)
    epochs = args.epochs or max(MIN_EPOCHS, round(STEPS / epoch_steps))
    print(f"epochs: {epochs}\nsteps: {epochs * epoch_steps}")
    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.Adam(rate), sparse_variance)
    progress, losses = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for epoch in range(1, epochs + 1):
            batches, loss = np.array_split(rng.permutation(first), epoch_steps), []
            for frames in batches:
                vectors, target = random_filter(*pairs(part, frames, args.dec), lines, rng)
                loss.append(model.train_on_batch(vectors, target))
                if ctrl_c.pressed:
                    break
            losses.append((np.mean(loss), model.evaluate(held_vectors, held_target, BATCH, verbose=0)))
            progress.show(epoch, "train {:.2f}, held-out {:.2f} dB²".format(*losses[-1]))
            if ctrl_c.pressed:
                break
    return losses


def estimate(models, dec, part, frames):
    """Spectra {label: dB [f][WIDTH]} of frames [f] of a part of the data, by their numbers, with the targets' means."""
    first, pair = np.unique(frames // dec * dec, return_inverse=True)
    vectors, target = pairs(part, first, dec)
    spectra = models.predict_on_batch(vectors)
    return {label: codec2_model.match_mean(x, target)[pair, frames % dec] for label, x in spectra.items()}


def plot(losses, sd, part, models, args):
    """Variance by epoch; SD by frame and spectra of the part of the data that the last figure is of."""
    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    ax.plot(np.arange(len(losses)) + 1, losses, ".-", label=["training part, filtered", "held-out part"])
    ax.set(xlabel="Epoch", ylabel="Variance (dB²)")
    ax.legend()
    used, numbers = part["used"], part["number"][part["used"]]
    plumbing.show({f"{NAME}_loss": fig, f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
    shown = vq_pager.frames_to_show(args.frame, numbers, sd["network"], part["vectors"][used].mean(axis=1))
    titles = [f"frame {numbers[i]} (vector + {used[i] % args.dec}): SD {sd['network'][i]:.1f} dB²" for i in shown]
    spectra = estimate(models, args.dec, part, used[shown])
    model = args.test[1] if args.test else args.model
    vq_pager.page_frames(model, numbers[shown], titles, spectra, f"{NAME}_frames", args.plot_dir, args.Fs)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    lines, offset = fit_baseline(data["train"]["vectors"], args)
    network = build_network(args.dec, lines, offset)
    losses = train(network, data, lines, args)
    options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
    options |= {"input": "band pairs", "width": WIDTH}
    plumbing.save_network(network, options, args.nnout)
    outputs = {"network": network.output, "interpolation": network.get_layer("interpolation").output}
    models = keras.Model(network.inputs, outputs)
    for name, part in data.items():
        target = part["target"][: len(part["sent"]) * args.dec]
        sd = codec2_model.print_figures(name, target, estimate, models, args.dec, part)
    if not args.noplots:
        plot(losses, sd, part, models, args)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
