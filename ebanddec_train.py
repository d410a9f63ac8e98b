#!/usr/bin/env python3
"""Train a network that turns band energies sent every N frames into the rate L amplitudes of all frames.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./ebanddec_train.py train.f32 train.model --dec 3 --nnout ampnn_dec3.keras
    ./ebanddec_train.py train.f32 train.model --dec 1       # the control: nothing to interpolate

Two vectors N frames apart go in, the amplitudes of N frames come out: of the first vector's frame and of those up to
the second's.  A decoder gets the mean of every frame apart: the network does not see the means of the vectors, and its
estimates are shifted to the mean of the target, so SD and variance are the same.  Training uses the vectors at all
positions, evaluation steps by N frames, as a decoder does.  GELU layers are here because they were better than the ReLU
and the linear network of 2019: held-out variance at N = 3 after three epochs 12.7, 12.9 and 15.8 dB².

Expected: 22 minutes of speech, 10 epochs, 60 s on two cores; variance on 61 s of other speakers and recordings, seeds
1 to 3: N = 1 10.3, 2 11.8, 3 13.6, 4 15.6 dB², all ± 0.06; interpolation 16.3, 17.5, 19.0, 20.6.

Units: features 10·log10(band energy) in dB (log10 with --gain 1); model file as c2sim writes it; errors in dB².
"""

import argparse
import json
import os
import signal
import zipfile

import numpy as np

import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

WIDTH = 128  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
BAND_HZ = [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000]  # centres of the K = 14 bands
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 2  # training data is filtered at random, smoothly with this rms …
CUTOFF_SLOPE, CUTOFF_DB = 0.25, 50  # … and with cutoffs of at most so many dB/Hz and dB
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part

# ---------------------------------------------------------------- arguments


def parse_args():
    parser = argparse.ArgumentParser(
        description="Train a network from band energies every N frames to rate L.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = parser.add_argument_group("data")
    group.add_argument("features", metavar="FEATURES", help="band energies, float32 [frames][K]")
    group.add_argument("model", metavar="MODEL", help="model records of the same frames")
    group.add_argument("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    group.add_argument("--eband_K", type=int, default=14, metavar="K", help="band energies in a vector")
    group.add_argument("--eband_start", type=int, default=0, metavar="K", help="first band energy to use")
    group.add_argument("--gain", type=float, default=10, help="features divided by this are log10(energy)")
    group.add_argument("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    group.add_argument("--nb_samples", type=codec2_model.positive, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("network")
    group.add_argument(
        "--dec", type=codec2_model.positive, required=True, metavar="N", help="frames from one vector to the next"
    )
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=codec2_model.positive, default=10, metavar="N", help="passes through the training frames"
    )
    group.add_argument("--seed", type=int, default=1, help="the same seed gives the same network")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default="ampnn_dec.keras", metavar="NET", help="write the network here")
    group.add_argument("--frame", type=int, metavar="F", help="first frame to plot (default: first held-out one)")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args()
    if not 0 <= args.eband_start < args.eband_K - 1:
        parser.error("--eband_start must leave two bands or more of --eband_K")
    if not (args.gain > 0 and args.Fs > 0 and args.seed >= 0 and (args.frame or 0) >= 0):
        parser.error("--gain and --Fs must be positive, --seed and --frame not negative")
    return args


# ---------------------------------------------------------------- data


def chunks(nb_frames):
    """Slices of so many frames that memory does not grow with the file."""
    return [slice(start, start + codec2_model.CHUNK) for start in range(0, nb_frames, codec2_model.CHUNK)]


def load(features, model, args):
    """Bands [n][K] in dB; Wo, L, A, phi, voiced; target [n][WIDTH] in dB."""
    bands = codec2_model.read_rate_K(features, args.eband_K)
    records = codec2_model.read(model)
    if len(bands) != len(records[0]):
        raise codec2_model.FormatError(f"{features}: {len(bands)} frames, but {model} has {len(records[0])}")
    codec2_model.check_rate_K(features, bands, args.gain)
    codec2_model.check(model, *records[:3])
    records = [values[: args.nb_samples] for values in records]
    bands = bands[: args.nb_samples, args.eband_start :] * np.float32(10 / args.gain)
    target = codec2_model.to_bins(*records[:3], WIDTH, F_CUTOFF_HZ, args.Fs)
    if np.isnan(target).all():
        raise codec2_model.FormatError(f"{model}: digital silence only, nothing to learn from")
    return bands, records, target


def pairs(bands, target, dec, step):
    """Vectors [p][2][K] that are dec frames apart, and target [p][dec][WIDTH] from the first one's frame on.

    Positions p are `step` frames apart.
    """
    first = np.arange(0, len(bands) - dec, step)[:, None]
    return bands[first + np.array([0, dec])], target[first + np.arange(dec)]


def band_hz(args):
    """Centres of the bands that are used; of a K that is not 14 it is only known that they are spread over 0…Fs/2."""
    hz = BAND_HZ if args.eband_K == len(BAND_HZ) else np.linspace(0, args.Fs / 2, args.eband_K)
    return hz[args.eband_start :]


def fit_baseline(bands, records, args):
    """Baseline lines [K][WIDTH], offset [WIDTH]: straight lines between the bands, and one constant for every bin.

    The constants come from all harmonics, as those above the cutoff are heard too, but nothing else is learnt for them.
    """
    bins_hz = np.arange(WIDTH) * args.Fs / 2 / WIDTH
    lines = np.stack([np.interp(bins_hz, band_hz(args), e) for e in np.eye(bands.shape[1])]).astype(np.float32)
    total, count = np.zeros(WIDTH), np.zeros(WIDTH)
    for part in chunks(len(bands)):
        target = codec2_model.to_bins(*(values[part] for values in records[:3]), WIDTH, args.Fs / 2, args.Fs)
        error = target - bands[part] @ lines
        total += np.nansum(error, axis=0)
        count += np.sum(~np.isnan(error), axis=0)
    return lines, total / np.maximum(count, 1)


def prepare(args):
    """All that can be wrong with the files, before Keras is imported, which takes seconds: data and test data."""
    codec2_model.check_folder(args.nnout)
    data = load(args.features, args.model, args)
    nb_frames = len(data[2])
    if nb_frames < MIN_FRAMES * args.dec:
        why = f"{nb_frames} frames, expected at least {MIN_FRAMES * args.dec} for --dec {args.dec}"
        raise codec2_model.FormatError(f"{args.features}: {why}")
    if args.frame is not None and args.frame >= nb_frames:
        raise codec2_model.FormatError(f"{args.features}: {nb_frames} frames, no --frame {args.frame}")
    return data, load(*args.test, args) if args.test else None


if __name__ == "__main__":
    codec2_model.plain_errors()
    ARGS = parse_args()
    DATA, TEST = prepare(ARGS)

import keras
from keras import layers, ops

# ---------------------------------------------------------------- network


def build_network(bands, dec, lines, offset):
    """Network from two vectors [p][2][K] to [p][dec][WIDTH], dB up to a constant by frame: it corrects the baseline.

    `bands` are training data, which tell the scaling; lines [K][WIDTH] and offset [WIDTH] are the baseline, used on
    vectors that are interpolated in time.
    """
    inputs = keras.Input((2, bands.shape[1]))
    weight = np.arange(dec) / dec  # of the second vector
    kernel = np.concatenate([np.kron(1 - weight, lines), np.kron(weight, lines)])  # [2 K][dec · WIDTH]
    baseline = layers.Dense(dec * WIDTH, trainable=False, name="interpolation")
    y = baseline(layers.Flatten()(inputs))
    baseline.set_weights([kernel, np.tile(offset, dec)])
    shape = bands - bands.mean(axis=1, keepdims=True)
    x = inputs - ops.mean(inputs, axis=2, keepdims=True)
    x = layers.Flatten()(layers.Normalization(mean=shape.mean(axis=0), variance=shape.var(axis=0))(x))
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(dec * WIDTH, kernel_initializer="zeros")(x)
    return keras.Model(inputs, layers.Reshape((dec, WIDTH))(layers.Add()([y, x])))


class RandomResponse(layers.Layer):
    """Frequency response [n][WIDTH] in dB of another microphone, room or radio for every frame; 0 when not training.

    Three cosines over 0…Fs/2 with random weights; in half the frames a low pass, in half a high pass.
    """

    def __init__(self, seed):
        super().__init__()
        self.random = keras.random.SeedGenerator(seed)

    def call(self, frames, training=False):
        n = ops.shape(frames)[0]

        def uniform(low, high):
            return keras.random.uniform((n, 1), low, high, seed=self.random)

        hz = np.arange(WIDTH, dtype=np.float32) * 4000 / WIDTH
        cosines = np.cos(np.pi * np.outer([1, 2, 3], hz) / 4000).astype(np.float32)
        weights = keras.random.normal((n, 3), 0, FILTER_DB * np.sqrt(2 / 3), seed=self.random)
        above = ops.maximum(hz - uniform(2400, 4000), 0) * ops.maximum(uniform(-CUTOFF_SLOPE, CUTOFF_SLOPE), 0)
        below = ops.maximum(uniform(0, 500) - hz, 0) * ops.maximum(uniform(-CUTOFF_SLOPE, CUTOFF_SLOPE), 0)
        cutoffs = ops.minimum(above, CUTOFF_DB) + ops.minimum(below, CUTOFF_DB)
        return (ops.matmul(weights, cosines) - cutoffs) * float(training)


def filtered_bands(bands, target, response, lines):
    """Bands [n][K] in dB after a filter with this response [n][WIDTH]; target [n][WIDTH] is the spectrum filtered.

    They change as energies do: sums of squared amplitudes under triangles, those that `lines` [K][WIDTH] are made of.
    """

    def energies(spectrum):
        return ops.log(ops.matmul(ops.exp(spectrum * np.log(10) / 10), lines.T)) * 10 / np.log(10)

    spectrum = ops.where(ops.isnan(target), ops.matmul(bands, lines), target)
    return bands + energies(spectrum + response) - energies(spectrum)


# ---------------------------------------------------------------- loss


def sparse_variance(target, estimate):
    """Variance in dB², mean over the frames that have a target: mean squared error without its mean; NaN is no target.

    target [[[3, NaN, 5]]], estimate [[[1, 7, 4]]]: errors 2 and 1, without their mean 0.5 and −0.5: 0.25.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=2, keepdims=True)
    mean = ops.sum(error, axis=2, keepdims=True) / ops.maximum(count, 1.0)
    variance = ops.sum(ops.square(ops.where(has_target, error - mean, 0.0)), axis=2, keepdims=True)
    return ops.sum(variance / ops.maximum(count, 1.0)) / ops.maximum(ops.sum(ops.cast(count > 0, error.dtype)), 1.0)


# ---------------------------------------------------------------- training


class Progress(keras.callbacks.Callback):
    """A line an epoch.  The first Ctrl-C ends training after the step that is running, a second one aborts."""

    def on_train_begin(self, logs=None):
        signal.signal(signal.SIGINT, self.stop)

    def stop(self, *_):
        print("stopping, Ctrl-C again aborts")
        self.model.stop_training = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_epoch_end(self, epoch, logs):
        print(
            f"epoch {epoch + 1}/{self.params['epochs']}: train {logs['loss']:.2f}, held-out {logs['val_loss']:.2f} dB²"
        )

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def train(network, train_data, held_data, args):
    """Fit the network to (inputs, target); returns the losses of the training and of the held-out part by epoch."""
    target = keras.Input((args.dec, WIDTH))
    lines = network.get_layer("interpolation").get_weights()[0][: network.input_shape[2], :WIDTH]
    bands = network.inputs[0]
    response = RandomResponse(args.seed)(bands)  # the same for both vectors and all frames between them
    unknown = ops.full_like(target[:, 0], float("nan"))  # the frame of the second vector
    filtered = [filtered_bands(bands[:, i], x, response, lines) for i, x in enumerate((target[:, 0], unknown))]
    estimate = network(ops.stack(filtered, axis=1)) - response[:, None]  # to compare with target
    model = keras.Model([bands, target], estimate)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(train_data[1]) // BATCH) * args.epochs)
    model.compile(keras.optimizers.Adam(rate), sparse_variance, steps_per_execution=16)
    data, held = (([inputs, target], target) for inputs, target in (train_data, held_data))
    history = model.fit(
        *data, batch_size=BATCH, epochs=args.epochs, validation_data=held, callbacks=[Progress()], verbose=0
    ).history
    return history["loss"], history["val_loss"]


def save(network, options, filename):
    """Write the network and, as options.json in the same archive, the options that tell how to use it."""
    with codec2_model.replacing(filename) as new:
        network.save(new)
        with zipfile.ZipFile(new, "a") as archive:
            archive.writestr("options.json", json.dumps(options))


# ---------------------------------------------------------------- evaluation


def distortion(target, estimate):
    """SD and variance of every frame [n] in dB²; NaN in the target is none, frames without any are left out.

    SD is the mean squared error over the targets of a frame, variance the same without the mean error of the frame.
    target [[3, NaN, 5]], estimate [[1, 7, 4]]: SD (2² + 1²) / 2 = 2.5, variance 2.5 − 1.5² = 0.25.
    """
    has_target = ~np.isnan(target)
    count = has_target.sum(axis=1)
    used = count > 0
    error = np.where(has_target, target - estimate, 0)[used].astype(np.float64)
    mean = error.sum(axis=1) / count[used]
    sd = (error**2).sum(axis=1) / count[used]
    return sd, sd - mean**2


def evaluate(part, target, estimates):
    """Print the figures of a part of the data for estimates {name: function of a slice of frames}; returns their SD.

    SD is by frame, {name: [n]}, of the frames that have a target.
    """
    by_frame = {}
    for name, estimate in estimates.items():
        figures = []
        for frames in chunks(len(target)):
            wanted = target[frames].reshape(-1, target.shape[-1])
            figures.append(distortion(wanted, estimate(frames).reshape(wanted.shape)))
        by_frame[name], variance = np.concatenate(figures, axis=1)
        print(f"{part} {name} SD: {by_frame[name].mean():.2f} dB²")
        print(f"{part} {name} variance: {variance.mean():.2f} dB²")
    print(f"{part} frames: {len(variance)}")
    return by_frame


# ---------------------------------------------------------------- plots


def plot_loss(losses, held_losses):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    epochs = np.arange(1, len(losses) + 1)
    ax.plot(epochs, losses, ".-", label="training part, filtered")
    ax.plot(epochs, held_losses, ".-", label="held-out part")
    ax.set(xlabel="Epoch", ylabel="SD (dB²)", title="Loss")
    ax.legend()
    return fig


def plot_sd(sd):
    """Histograms of SD {name: [n]} without the worst frames, and SD frame by frame."""
    import matplotlib.pyplot as plt

    fig, (histogram, by_frame) = plt.subplots(2, 1, figsize=(8, 7), layout="constrained")
    bins = np.linspace(0, max(np.percentile(values, 98) for values in sd.values()), 60)
    for i, (name, values) in reversed(list(enumerate(sd.items()))):
        label = f"{name}, mean {values.mean():.1f} dB²"
        histogram.hist(values, bins, histtype="step", color=f"C{i}", label=label)
        by_frame.plot(values, color=f"C{i}", linewidth=0.6, label=label)
    histogram.set(xlabel="SD (dB²)", ylabel="Frames")
    by_frame.set(xlabel="Frame", ylabel="SD (dB²)", ylim=(0, bins[-1]))
    histogram.legend()
    return fig


def draw_frames(fig, frames, records, estimates, Fs):
    """Six frames: spectra of the model file and of estimates {name: dB [frames][width]}; below them the waveforms."""
    axes = fig.subplots(4, 3)
    n = np.arange(-80, 80)
    for i, f in enumerate(frames):
        Wo, L, A, phi, _ = (values[f : f + 1] for values in records)
        m = np.arange(1, L[0] + 1)
        spectra, waves = axes[i // 3 * 2, i % 3], axes[i // 3 * 2 + 1, i % 3]
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
    error = np.where(np.isnan(target), 0, target - estimate).astype(np.float32)
    count = np.sum(~np.isnan(target), axis=-1, keepdims=True)
    return estimate + error.sum(axis=-1, keepdims=True) / np.maximum(count, 1)


def main(args, data, test):
    keras.utils.set_random_seed(args.seed)
    bands, records, target = data
    nb_train = len(target) - len(target) // 10  # the rest is cut off before the pairs overlap
    lines, offset = fit_baseline(bands[:nb_train], [v[:nb_train] for v in records], args)
    network = build_network(bands[:nb_train], args.dec, lines, offset)
    print(f"weights: {network.count_params()}")
    held = pairs(bands[nb_train:], target[nb_train:], args.dec, args.dec)
    losses = train(network, pairs(bands[:nb_train], target[:nb_train], args.dec, 1), held, args)
    save(network, {**vars(args), "script": "ebanddec_train", "width": WIDTH}, args.nnout)
    baseline = keras.Model(network.inputs, network.get_layer("interpolation").output)

    def estimates(vectors, target):
        def matched(model):
            return lambda p: match_mean(model.predict_on_batch(vectors[p]).reshape(target[p].shape), target[p])

        return {"network": matched(network), "interpolation": matched(baseline)}

    train_pairs = pairs(bands[:nb_train], target[:nb_train], args.dec, args.dec)
    evaluate("train", train_pairs[1], estimates(*train_pairs))
    sd = evaluate("held-out", held[1], estimates(*held))
    figure = sd["network"].mean()
    if test:
        test_pairs = pairs(test[0], test[2], args.dec, args.dec)
        figure = evaluate("test", test_pairs[1], estimates(*test_pairs))["network"].mean()
    first = nb_train if args.frame is None else args.frame
    first = min(first, len(target) - args.dec - 1)

    def draw(fig, page):
        """Consecutive frames; a vector was sent for every N-th, the others are interpolated."""
        six = np.arange(first + 6 * page, min(first + 6 * page + 6, len(target) - args.dec))
        start = first + (six[0] - first) // args.dec * args.dec  # where a vector was sent
        vectors, wanted = pairs(
            bands[start : six[-1] + 2 * args.dec], target[start : six[-1] + 2 * args.dec], args.dec, args.dec
        )
        known = {name: f(slice(None)).reshape(-1, WIDTH)[six - start] for name, f in estimates(vectors, wanted).items()}
        draw_frames(fig, six, records, known, args.Fs)
        for i, f in enumerate(six):
            if (f - first) % args.dec:
                fig.axes[i // 3 * 6 + i % 3].set_title(f"frame {f}, interpolated")

    if not args.noplots:
        vq_pager.show({"ebanddec_train_loss": plot_loss(*losses), "ebanddec_train_sd": plot_sd(sd)}, args.plot_dir)
        vq_pager.page_through(
            draw, -(-(len(target) - args.dec - first) // 6), "ebanddec_train_frames", args.plot_dir, nb_png=2
        )
    print(f"{figure:.2f}")


if __name__ == "__main__":
    main(ARGS, DATA, TEST)
