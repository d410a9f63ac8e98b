#!/usr/bin/env python3
"""Train a network that turns the K = 14 band energies of a frame into its rate L harmonic amplitudes.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./eband_train.py train.f32 train.model --Wo --nnout ampnn.keras --test test.f32 test.model

The network has 128 outputs, evenly spaced over 0…4 kHz.  A harmonic falls in one; the loss leaves the others out.
The network starts from a linear interpolation of the bands, works out four times which bands its amplitudes would give,
and corrects them by the difference.  With --Wo it knows where in their bins the harmonics are.

Expected: 22 minutes of speech, 12 epochs, 4 minutes on two slow cores; SD and variance on 61 s of other speakers and
recordings 10.2 and 10.0 dB² with --Wo, 14.9 and 10.4 without, 20.2 and 16.3 for the interpolation.
Units: features 10·log10(band energy) in dB (log10 with --gain 1); model file as c2sim writes it; errors in dB².
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager

import numpy as np

NAME = "eband_train"  # pictures are named after it
WIDTH = 128  # output bins over 0…pi
FFT_BINS = 256  # of c2sim over 0…pi
WO_MIN = np.pi / codec2_model.MAX_AMP  # rad/sample; a record has no harmonics for a lower pitch, and 0 has no logarithm
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of bands without their mean
ROUNDS = 4  # corrections of the spectrum, one after the other
HIDDEN = 256  # units of the two hidden layers of a round
BATCH = 256  # frames
STEPS = 5000  # training steps, a batch each, that the default of --epochs comes to
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
WEIGHT_DECAY = 0.2  # share of a weight that a step takes away, times the learning rate
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # share of the frames that get a low pass, and of those that get a high pass
CUTOFF_SLOPE = 0.25  # dB/Hz at most
CUTOFF_DB = 50  # attenuation at most
MIN_FRAMES = 100  # of the training part; no network can be trained on less


def parse_args(argv=None):
    parser = ArgumentParser(description="Bands to rate L.", formatter_class=ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("features", metavar="FEATURES", help="band energies, float32 [frames][K]")
    add("model", metavar="MODEL", help="model records of the same frames")
    add("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    add("--eband_K", type=int, default=14, metavar="K", help="band energies in a vector")
    add("--eband_start", type=int, default=0, metavar="K", help="first band energy to use")
    add("--gain", type=float, default=10, help="features divided by this are log10(energy)")
    add("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    add("--Wo", action="store_true", help="give the network the fundamental as well")
    add("--epochs", type=plumbing.positive, metavar="N", help=f"passes through the data: as many as make {STEPS} steps")
    add("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    add("--nnout", default="ampnn.keras", metavar="NET", help="write the network here")
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
    """{"train", "held-out"} and, with --test, {"test"}: what load_pair() gives; "inputs" of the network; "used" [u],
    the frames that have a target."""
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
        part["inputs"] = [part["vectors"], part["Wo"][:, None]] if args.Wo else [part["vectors"]]
        what = f"{args.test[1] if name == 'test' else args.model}: {name} part"
        part["used"] = codec2_model.used_frames(part["target"], MIN_FRAMES if name == "train" else 1, what)
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


def sparse_loss(target, estimate):
    """SD in dB², mean over the frames that have a target: mean squared error over its bins, where NaN is no target.

    target [[3, NaN, 5]], estimate [[1, 7, 4]]: (2² + 1²) / 2 = 2.5.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=1)
    sd = ops.sum(error**2, axis=1) / ops.maximum(count, 1.0)
    return ops.sum(sd) / ops.maximum(ops.sum(ops.cast(count > 0, error.dtype)), 1.0)


def build_network(with_Wo, lines, offset):
    """Network from [bands [n][K] in dB] or [bands, Wo [n][1]] to dB [n][WIDTH]: a correction of the baseline."""
    bands, Wo = keras.Input((len(lines),)), keras.Input((1,))
    baseline = layers.Dense(WIDTH, trainable=False, name="interpolation")
    envelope = y = baseline(bands)
    baseline.set_weights([lines, offset])
    x = (bands - ops.mean(bands, axis=1, keepdims=True)) / SCALE_DB  # the level does not matter
    x = layers.Concatenate()([x, ops.log(ops.maximum(Wo, WO_MIN)) + 3]) if with_Wo else x  # Wo as −1 to 2
    occupied, shift, excess = harmonics_in_bins(Wo) if with_Wo else (1.0, 0.0, 0.0)  # any bin may hold one
    gradient = np.float32(np.gradient(np.eye(WIDTH), axis=1))  # envelope @ gradient is its slope in dB per bin
    for _ in range(ROUNDS):
        power = occupied * ops.exp(ops.minimum(y, 120) * (np.log(10) / 10))  # 120 dB keeps it finite
        energies = ops.matmul(power, lines.T)  # [n][K], of the bands
        difference = ops.clip(bands - 10 * ops.log10(energies + 1e-3), -20, 20) / SCALE_DB
        x = layers.Dense(HIDDEN, activation="gelu")(layers.Concatenate()([x, difference]))
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
        envelope = layers.Add()([envelope, layers.Dense(WIDTH, kernel_initializer="zeros")(x)])
        y = envelope + shift * ops.matmul(envelope, gradient) + excess
    return keras.Model([bands, Wo] if with_Wo else [bands], y)


def harmonics_in_bins(Wo):
    """Of each bin [n][WIDTH], from Wo [n][1]: 1 if a harmonic is in it, else 0; how many bins it is above its middle;
    by how many dB c2sim makes it too loud, which adds up 3 FFT bins for one harmonic and 4 for the next, not 3.5."""
    width, bins = ops.maximum(Wo, WO_MIN) * (FFT_BINS / np.pi), np.arange(WIDTH, dtype=np.float32)
    m = ops.round(ops.divide(bins * (FFT_BINS / WIDTH), width))  # the nearest harmonic
    shift = m * width * (WIDTH / FFT_BINS) - bins
    occupied = ops.cast(ops.logical_and(ops.abs(shift) <= 0.5, m > 0), "float32")
    count = ops.floor((m + 0.5) * width + 0.5) - ops.floor((m - 0.5) * width + 0.5)  # of FFT bins
    return occupied, occupied * shift, occupied * 10 * ops.log10(count / width)


def random_filter(bands, target, lines, rng):
    """Bands [n][K] and target [n][WIDTH] in dB as other microphones, rooms or radios would have recorded them;
    bands are sums of squared amplitudes under triangles, which the `lines` [K][WIDTH] of the baseline are, too."""
    n, hz = len(bands), np.arange(WIDTH, dtype=np.float32) * 4000 / WIDTH
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = np.float32(weights @ np.cos(np.pi * np.outer([1, 2, 3], hz) / 4000))
    low, high = np.float32(rng.uniform(0, CUTOFF_SLOPE, (2, n, 1)) * (rng.random((2, n, 1)) < CUTOFFS))  # dB/Hz
    response -= np.minimum(low * np.maximum(np.float32(rng.uniform(0, 500, (n, 1))) - hz, 0), CUTOFF_DB)
    response -= np.minimum(high * np.maximum(hz - np.float32(rng.uniform(2400, 4000, (n, 1))), 0), CUTOFF_DB)
    spectrum = np.where(np.isnan(target), bands @ lines, target)
    before, after = (10 ** (x / 10) @ lines.T + 1e-30 for x in (spectrum, spectrum + response))  # for empty bands
    return bands + 10 * np.log10(after / before), target + response


def train(network, data, lines, args):
    """Fit the network; returns [[SD of the filtered training frames, SD of the held-out part] in dB²] by epoch."""
    part, held, rng = data["train"], data["held-out"], np.random.default_rng(args.seed)
    epoch_steps = -(-len(part["used"]) // BATCH)
    epochs = args.epochs or max(1, round(STEPS / epoch_steps))
    print(f"epochs: {epochs}\nsteps: {epochs * epoch_steps}")
    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.AdamW(rate, WEIGHT_DECAY), sparse_loss)
    progress, losses = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for epoch in range(1, epochs + 1):
            batches, loss = np.array_split(rng.permutation(part["used"]), epoch_steps), []
            for frames in batches:
                bands, *Wo = (values[frames] for values in part["inputs"])
                bands, target = random_filter(bands, part["target"][frames], lines, rng)
                loss.append(model.train_on_batch([bands, *Wo], target))
                if ctrl_c.pressed:
                    break
            losses.append((np.mean(loss), model.evaluate(held["inputs"], held["target"], BATCH, verbose=0)))
            progress.show(epoch, "train {:.2f}, held-out {:.2f} dB²".format(*losses[-1]))
            if ctrl_c.pressed:
                break
    return losses


def estimate(models, part, frames):
    """Spectra {label: dB [f][WIDTH]} of frames [f] of a part of the data, by their numbers."""
    return models.predict_on_batch([values[frames] for values in part["inputs"]])


def plot(losses, sd, part, models, args):
    """SD by epoch; SD by frame and spectra of the part of the data that the last figure is of."""
    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained", subplot_kw={"xlabel": "Epoch", "ylabel": "SD (dB²)"})
    ax.plot(np.arange(len(losses)) + 1, losses, ".-", label=["training part, filtered", "held-out part"])
    ax.legend()
    used, numbers = part["used"], part["number"][part["used"]]
    plumbing.show({f"{NAME}_loss": fig, f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
    shown = vq_pager.frames_to_show(args.frame, numbers, sd["network"], part["vectors"][used].mean(axis=1))
    titles = [f"frame {numbers[i]}: SD {sd['network'][i]:.1f} dB²" for i in shown]
    spectra = estimate(models, part, used[shown])
    model = args.test[1] if args.test else args.model
    vq_pager.page_frames(model, numbers[shown], titles, spectra, f"{NAME}_frames", args.plot_dir, args.Fs)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    lines, offset = fit_baseline(data["train"]["vectors"], args)
    network = build_network(args.Wo, lines, offset)
    losses = train(network, data, lines, args)
    options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
    options |= {"input": "bands and Wo" if args.Wo else "bands", "width": WIDTH, "dec": 1}
    plumbing.save_network(network, options, args.nnout)
    outputs = {"network": network.output, "interpolation": network.get_layer("interpolation").output}
    models = keras.Model(network.inputs, outputs)
    for name, part in data.items():
        sd = codec2_model.print_figures(name, part["target"], estimate, models, part)
    if not args.noplots:
        plot(losses, sd, part, models, args)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
