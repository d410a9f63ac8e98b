#!/usr/bin/env python3
"""Train a network that turns the K = 14 band energies of a frame into its rate L harmonic amplitudes.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./eband_train.py train.f32 train.model --Wo --nnout ampnn.keras
    ./eband_train.py train.f32 train.model --test test.f32 test.model      # figures for another pair as well

The network has 128 outputs, evenly spaced over 0…4 kHz.  Every harmonic of a frame falls in one of them; the others
have no target in that frame, and the loss looks away from them.  The network corrects a linear interpolation of the
band energies and sees them without their mean, so that the level of a recording does not matter to it.

Expected: 22 minutes of speech, 20 epochs, 75 s on two cores; on 61 s of other speakers and recordings, seeds 1 to 3:
with --Wo SD 10.44 ± 0.02, variance 10.24 ± 0.02 dB²; without 15.27 ± 0.06, 10.57 ± 0.01; interpolation 20.20, 16.31.

Units: features 10·log10(band energy) in dB (log10 with --gain 1); model file as c2sim writes it; errors in dB².
"""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is: its threads would get in TensorFlow's way

import numpy as np

import codec2_model
import vq_pager

WIDTH = 128  # output bins over 0…pi
WO_MIN = np.pi / codec2_model.MAX_AMP  # a record has no harmonics for a lower pitch; 0 where there is none
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
BAND_HZ = [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000]  # centres of the K = 14 bands
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 2  # training data is filtered at random, smoothly with this rms …
CUTOFF_SLOPE, CUTOFF_DB = 0.25, 50  # … and with cutoffs of at most so many dB/Hz and dB
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args():
    parser = ArgumentParser(description="Bands to rate L.", formatter_class=ArgumentDefaultsHelpFormatter)
    group = parser.add_argument_group("data")
    group.add_argument("features", metavar="FEATURES", help="band energies, float32 [frames][K]")
    group.add_argument("model", metavar="MODEL", help="model records of the same frames")
    group.add_argument("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    group.add_argument("--eband_K", type=int, default=14, metavar="K", help="band energies in a vector")
    group.add_argument("--eband_start", type=int, default=0, metavar="K", help="first band energy to use")
    group.add_argument("--gain", type=float, default=10, help="features divided by this are log10(energy)")
    group.add_argument("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    group.add_argument("--nb_samples", type=codec2_model.positive, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("network and training")
    group.add_argument("--Wo", action="store_true", help="give the network the fundamental as well")
    group.add_argument("--epochs", type=codec2_model.positive, default=20, metavar="N", help="passes through the data")
    group.add_argument("--seed", type=codec2_model.seed, default=1, help="the same seed gives the same network")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default="ampnn.keras", metavar="NET", help="write the network here")
    group.add_argument("--frame", type=int, metavar="F", help="first frame to plot (default: first held-out one)")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args()
    if not 0 <= args.eband_start < args.eband_K - 1:
        parser.error("--eband_start must leave two bands or more of --eband_K")
    if not (0 < args.gain < np.inf and 0 < args.Fs < np.inf and (args.frame or 0) >= 0):
        parser.error("--gain and --Fs must be positive, --frame not negative")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    return args


# ---------------------------------------------------------------- data


def load(features, model, args):
    """Data [bands [n][K], target [n][WIDTH]] in dB, [bands, Wo [n][1], target] with --Wo; Wo, L, A, phi, voiced."""
    bands = codec2_model.read_rate_K(features, args.eband_K)
    records = codec2_model.read_checked(model, features, bands, args.gain)
    Wo, L, A, _, _ = records = [values[: args.nb_samples] for values in records]
    bands = bands[: args.nb_samples, args.eband_start :] * np.float32(10 / args.gain)
    target = codec2_model.to_bins(Wo, L, A, WIDTH, F_CUTOFF_HZ, args.Fs)
    codec2_model.check_target(model, target)
    return [bands, Wo[:, None], target] if args.Wo else [bands, target], records


def fit_baseline(bands, records, args):
    """Baseline lines [K][WIDTH], offset [WIDTH]: straight lines between the bands, and one constant for every bin.

    The constants come from all harmonics, as those above the cutoff are heard too, but nothing else is learnt for them.
    """
    hz = BAND_HZ if args.eband_K == len(BAND_HZ) else np.linspace(0, args.Fs / 2, args.eband_K)  # a guess
    bins_hz = np.arange(WIDTH) * args.Fs / 2 / WIDTH
    lines = np.float32([np.interp(bins_hz, hz[args.eband_start :], e) for e in np.eye(bands.shape[1])])
    total, count = np.zeros(WIDTH), np.zeros(WIDTH)
    for part in codec2_model.chunks(len(bands)):
        target = codec2_model.to_bins(*(values[part] for values in records[:3]), WIDTH, args.Fs / 2, args.Fs)
        error = target - bands[part] @ lines
        total += np.nansum(error, axis=0)
        count += np.sum(~np.isnan(error), axis=0)
    return lines, total / np.maximum(count, 1)


if __name__ == "__main__":  # all that can be wrong with the files shows before Keras is imported, which takes seconds
    codec2_model.plain_errors()
    ARGS = parse_args()
    DATA, RECORDS = load(ARGS.features, ARGS.model, ARGS)
    codec2_model.check_frames(ARGS.features, len(RECORDS[0]), MIN_FRAMES, ARGS.frame)
    NB_TRAIN = len(RECORDS[0]) - len(RECORDS[0]) // 10  # the rest is cut off before anything is shuffled
    codec2_model.check_target(ARGS.model, DATA[-1][:NB_TRAIN], "training part")
    codec2_model.check_target(ARGS.model, DATA[-1][NB_TRAIN:], "held-out part")
    TEST, _ = load(*ARGS.test, ARGS) if ARGS.test else (None, None)
    codec2_model.check_outputs(ARGS, ARGS.nnout)

import keras
import matplotlib.pyplot as plt
from keras import layers, ops

# ---------------------------------------------------------------- network


def build_network(bands, Wo, lines, offset):
    """Network from [bands [n][K] in dB] or [bands, Wo [n][1]] to dB [n][WIDTH]: a correction of the baseline.

    Training data `bands` and, if any, `Wo` tell the scaling; lines [K][WIDTH] and offset [WIDTH] are the baseline.
    """
    inputs = [keras.Input(values.shape[1:]) for values in (bands, *Wo)]
    baseline = layers.Dense(WIDTH, trainable=False, name="interpolation")
    y = baseline(inputs[0])
    baseline.set_weights([lines, offset])
    shape = bands - bands.mean(axis=1, keepdims=True)
    x = inputs[0] - ops.mean(inputs[0], axis=1, keepdims=True)
    x = layers.Normalization(mean=shape.mean(axis=0), variance=shape.var(axis=0))(x)
    if Wo:
        log_Wo = np.log(np.maximum(Wo[0], WO_MIN))
        scale = layers.Normalization(mean=log_Wo.mean(), variance=log_Wo.var())
        x = layers.Concatenate()([x, scale(ops.log(ops.maximum(inputs[1], WO_MIN)))])
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(WIDTH, kernel_initializer="zeros")(x)
    return keras.Model(inputs, layers.Add()([y, x]))


# ---------------------------------------------------------------- loss and training


def sparse_loss(target, estimate):
    """SD in dB², mean over the frames that have a target: mean squared error over its bins, where NaN is no target.

    target [[3, NaN, 5]], estimate [[1, 7, 4]]: (2² + 1²) / 2 = 2.5.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=1)
    sd = ops.sum(ops.square(error), axis=1) / ops.maximum(count, 1.0)
    return ops.sum(sd) / ops.maximum(ops.sum(ops.cast(count > 0, error.dtype)), 1.0)


def random_response(random, n):
    """Frequency responses [n][WIDTH] in dB of other microphones, rooms or radios.

    Three cosines over 0…Fs/2 with random weights; in half the frames a low pass, in half a high pass.
    """
    hz = np.arange(WIDTH, dtype=np.float32) * 4000 / WIDTH
    weights = random.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    low_hz, high_hz = np.float32([random.uniform(0, 500, (n, 1)), random.uniform(2400, 4000, (n, 1))])
    low_slope, high_slope = np.float32(random.uniform(-CUTOFF_SLOPE, CUTOFF_SLOPE, (2, n, 1))).clip(0)
    low = np.minimum(low_slope * np.maximum(low_hz - hz, 0), CUTOFF_DB)
    high = np.minimum(high_slope * np.maximum(hz - high_hz, 0), CUTOFF_DB)
    return np.float32(weights @ np.cos(np.pi * np.outer([1, 2, 3], hz) / 4000)) - low - high


def filtered_bands(bands, target, response, lines):
    """Bands [n][K] in dB after a filter with this response [n][WIDTH]; target [n][WIDTH] is the spectrum filtered.

    They change as energies do: sums of squared amplitudes under triangles, those that `lines` [K][WIDTH] are made of.
    """
    spectrum = np.where(np.isnan(target), bands @ lines, target)
    before, after = (np.exp(x * np.float32(np.log(10) / 10)) @ lines.T for x in (spectrum, spectrum + response))
    return bands + 10 * np.log10(after / before)


def filter_batch(random, batch, lines):
    """A batch of training data after random filters."""
    bands, *Wo, target = batch
    target, response = np.float32(target), random_response(random, len(target))
    return filtered_bands(bands, target, response, lines), *Wo, target + response


class Batches(keras.utils.PyDataset):
    """Batches of data after change(random, batch), if any, in another order every epoch; the data is not copied."""

    def __init__(self, data, seed, change=None):
        super().__init__()
        self.data, self.change, self.random = data, change, np.random.default_rng(seed)
        self.order = np.arange(len(data[0]))
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.order) // BATCH)

    def __getitem__(self, i):
        batch = [values[self.order[i * BATCH : (i + 1) * BATCH]] for values in self.data]
        *inputs, target = self.change(self.random, batch) if self.change else batch
        return tuple(inputs), target

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def train(network, train_data, held_data, lines, args):
    """Fit the network to filtered training data; returns by epoch their "loss" and the "val_loss" of held-out data."""
    batches = Batches(train_data, args.seed, lambda random, batch: filter_batch(random, batch, lines))
    held = Batches(held_data, args.seed)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, len(batches) * args.epochs)
    model = keras.Model(network.inputs, network.output)  # the network is saved as it is, without optimiser and loss
    model.compile(keras.optimizers.Adam(rate), sparse_loss, steps_per_execution=16)

    def stop():
        model.stop_training = True

    def report(epoch, losses):
        print(f"epoch {epoch + 1}/{args.epochs}: train {losses['loss']:.2f}, held-out {losses['val_loss']:.2f} dB²")

    progress = keras.callbacks.LambdaCallback(on_train_begin=lambda _: codec2_model.ctrl_c(stop), on_epoch_end=report)
    return model.fit(batches, epochs=args.epochs, validation_data=held, callbacks=[progress], verbose=0).history


# ---------------------------------------------------------------- evaluation and plots


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


def plot_loss(losses):
    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, label in (("loss", "training part, filtered"), ("val_loss", "held-out part")):
        ax.plot(np.arange(1, len(losses[name]) + 1), losses[name], ".-", label=label)
    ax.set(xlabel="Epoch", ylabel="SD (dB²)", title="Loss")
    ax.legend()
    return fig


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


def main(args, data, records, nb_train, test):
    keras.utils.set_random_seed(args.seed)
    train_data, held_data = [values[:nb_train] for values in data], [values[nb_train:] for values in data]
    bands, *Wo, _ = train_data
    lines, offset = fit_baseline(bands, records, args)
    network = build_network(bands, Wo, lines, offset)
    print(f"weights: {network.count_params()}")
    losses = train(network, train_data, held_data, lines, args)
    codec2_model.save_network(network, {**vars(args), "script": "eband_train", "width": WIDTH}, args.nnout)
    codec2_model.ctrl_c(None)

    def estimates(data):
        *inputs, target = data
        return target, {"network": network.predict_on_batch(inputs), "interpolation": inputs[0] @ lines + offset}

    evaluate("train", estimates, train_data)
    sd = evaluate("held-out", estimates, held_data)
    last_sd = evaluate("test", estimates, test) if test else sd
    first = nb_train if args.frame is None else args.frame

    def draw(fig, page):
        frames = np.arange(first + 6 * page, min(first + 6 * page + 6, len(data[0])))
        draw_frames(fig, frames, records, estimates([values[frames] for values in data])[1], args.Fs)

    if not args.noplots:
        vq_pager.show({"eband_train_loss": plot_loss(losses), "eband_train_sd": vq_pager.plot_sd(sd)}, args.plot_dir)
        vq_pager.page_through(draw, -(-(len(data[0]) - first) // 6), "eband_train_frames", args.plot_dir, nb_png=2)
    print(f"{last_sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA, RECORDS, NB_TRAIN, TEST)
