#!/usr/bin/env python3
"""Train a network that turns K = 20 newamp1 vectors into rate L harmonic amplitudes: an alternative 700C decoder.

Usage:
    ./c2sim.py train.raw --rateK --rateKout train.f32; ./c2sim.py train.raw --modelout train.model     # 10 ms frames
    ./newamp1_train.py train.f32 train.model --nnout newamp1.keras
    c2enc 700C train.raw /dev/null --mlfeat feat.f32 feat.model; ./newamp1_train.py feat.f32 feat.model # 40 ms frames

The conventional decoder joins the 20 values by parabolas.  The network gets the same vector, unquantised and without
its mean, and corrects such parabolas.  Both are scored on the same harmonics with the same mean, so that errors of gain
count alike.  Files of c2enc also carry amplitudes decoded from the quantised vector: a row of its own.

Expected: 22 minutes of speech in 10 ms frames, 10 epochs, 60 s on two cores; on 64 s of other speakers and recordings,
seeds 1 to 3: SD 12.00 ± 0.03, variance 11.53 ± 0.03 dB²; conventional 17.28 and 16.76.

Units: features in dB, rate K [frames][20] or c2enc's --mlfeat records [frames][201], told apart by their size; model
file as c2sim or c2enc writes it; errors in dB².
"""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is: its threads would get in TensorFlow's way

import numpy as np

import c2sim
import codec2_model
import vq_pager

K = codec2_model.NEWAMP1_K  # values in a vector
WIDTH = 256  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 2  # training data is filtered at random, smoothly with this rms …
CUTOFF_SLOPE, CUTOFF_DB = 0.25, 20  # … and with cutoffs of at most so many dB/Hz and dB
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args():
    parser = ArgumentParser(description="K = 20 vectors to rate L.", formatter_class=ArgumentDefaultsHelpFormatter)
    group = parser.add_argument_group("data")
    group.add_argument("features", metavar="FEATURES", help="rate K vectors [frames][20] or mlfeat [frames][201]")
    group.add_argument("model", metavar="MODEL", help="model records of the same frames")
    group.add_argument("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    group.add_argument("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    group.add_argument("--nb_samples", type=codec2_model.positive, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=codec2_model.positive, default=10, metavar="N", help="passes through the data")
    group.add_argument("--seed", type=codec2_model.seed, default=1, help="the same seed gives the same network")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default="newamp1.keras", metavar="NET", help="write the network here")
    group.add_argument("--frames", type=int, nargs="+", metavar="F", help="frames to plot (default: the held-out part)")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args()
    if not (0 < args.Fs < np.inf and min(args.frames or [0]) >= 0):
        parser.error("--Fs must be positive, --frames not negative")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    return args


# ---------------------------------------------------------------- data


def load(features, model, args):
    """Data [vectors [n][20], target [n][WIDTH], both in dB, Wo, L, quantised A if any]; Wo, L, A, phi, voiced."""
    vectors, quantised = codec2_model.read_newamp1(features, model)
    records = codec2_model.read_checked(model, features, vectors)
    Wo, L, A, _, _ = records = [values[: args.nb_samples] for values in records]
    target = codec2_model.to_bins(Wo, L, A, WIDTH, F_CUTOFF_HZ, args.Fs)
    codec2_model.check_target(model, target)
    vectors, *quantised = (values[: args.nb_samples] for values in (vectors, quantised) if values is not None)
    return [vectors, target, Wo, L, *quantised], records


def parabolas(Fs):
    """[20][WIDTH]: what every value of a vector adds to every bin when the values are joined by parabolas."""
    bins_hz = np.arange(WIDTH) * Fs / 2 / WIDTH
    return c2sim.rate_K_at(np.eye(K), np.tile(bins_hz, (K, 1))).astype(np.float32)


if __name__ == "__main__":  # all that can be wrong with the files shows before Keras is imported, which takes seconds
    codec2_model.plain_errors()
    ARGS = parse_args()
    DATA, RECORDS = load(ARGS.features, ARGS.model, ARGS)
    codec2_model.check_frames(ARGS.features, len(RECORDS[0]), MIN_FRAMES, max(ARGS.frames or [0]))
    NB_TRAIN = len(RECORDS[0]) - len(RECORDS[0]) // 10  # the rest is cut off before anything is shuffled
    codec2_model.check_target(ARGS.model, DATA[1][:NB_TRAIN], "training part")
    codec2_model.check_target(ARGS.model, DATA[1][NB_TRAIN:], "held-out part")
    TEST, _ = load(*ARGS.test, ARGS) if ARGS.test else (None, None)
    codec2_model.check_outputs(ARGS, ARGS.nnout)

import keras
import matplotlib.pyplot as plt
from keras import layers, ops

# ---------------------------------------------------------------- network


def build_network(vectors, lines):
    """Network from rate K vectors [n][20] to dB [n][WIDTH]: a correction of parabolas, which lines [K][WIDTH] hold.

    `vectors` are training inputs, which tell the scaling.
    """
    inputs = keras.Input((K,))
    mean = ops.mean(inputs, axis=1, keepdims=True)
    shape = vectors - vectors.mean(axis=1, keepdims=True)
    y = layers.Dense(WIDTH, use_bias=False, trainable=False, name="parabolas")
    x = layers.Normalization(mean=shape.mean(axis=0), variance=shape.var(axis=0))(inputs - mean)
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(WIDTH, kernel_initializer="zeros")(x)
    network = keras.Model([inputs], layers.Add()([y(inputs - mean), x]) + mean)
    y.set_weights([lines])
    return network


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


def filter_batch(random, batch, at_vector):
    """A batch of training data after random filters; at_vector [WIDTH][K] gives the response where the vectors are."""
    vectors, target = batch
    response = random_response(random, len(target))
    return vectors + response @ at_vector, np.float32(target) + response


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


def train(network, train_data, held_data, args):
    """Fit the network to filtered training data; returns by epoch their "loss" and the "val_loss" of held-out data."""
    bins_hz = np.arange(WIDTH) * args.Fs / 2 / WIDTH
    at_vector = np.float32([np.interp(c2sim.RATE_K_HZ, bins_hz, e) for e in np.eye(WIDTH)])
    batches = Batches(train_data, args.seed, lambda random, batch: filter_batch(random, batch, at_vector))
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


def plot_errors(sd, level):
    """Histograms of SD {name: [n]} side by side; SD against frame level [n] in dB; SD of the first 300 frames."""
    fig, axes = plt.subplots(3, len(sd), figsize=(9, 9), layout="constrained", squeeze=False)
    limit = max(np.percentile(values, 98) for values in sd.values())
    first = axes[2, 0].get_gridspec()
    for ax in axes[2]:
        ax.remove()
    by_frame = fig.add_subplot(first[2, :])
    for i, (name, values) in enumerate(sd.items()):
        axes[0, i].hist(values, np.linspace(0, limit, 60), color=f"C{i}")
        axes[0, i].set(xlabel="SD (dB²)", ylabel="Frames", title=f"{name}, mean {values.mean():.1f} dB²")
        axes[1, i].plot(level, values, ".", color=f"C{i}", markersize=2)
        axes[1, i].set(xlabel="Frame level (dB)", ylabel="SD (dB²)", ylim=(0, limit))
        by_frame.plot(values[:300], color=f"C{i}", label=name)
    by_frame.set(xlabel="Frame", ylabel="SD (dB²)")
    by_frame.legend()
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
    network = build_network(train_data[0], parabolas(args.Fs))
    print(f"weights: {network.count_params()}")
    losses = train(network, train_data[:2], held_data[:2], args)
    codec2_model.save_network(network, {**vars(args), "script": "newamp1_train", "width": WIDTH}, args.nnout)
    codec2_model.ctrl_c(None)

    def estimates(data):
        vectors, target, Wo, L, *quantised = data
        amplitudes = {"conventional": c2sim.rate_K_to_L(vectors, Wo, L)}
        if quantised:
            amplitudes["700C quantised"] = np.maximum(np.pad(quantised[0], ((0, 0), (0, 1))), 1e-5)
        known = {name: codec2_model.to_bins(Wo, L, A, WIDTH, args.Fs / 2, args.Fs) for name, A in amplitudes.items()}
        return target, {"network": network.predict_on_batch([vectors]), **known}

    evaluate("train", estimates, train_data)
    sd = evaluate("held-out", estimates, held_data)
    last_sd = evaluate("test", estimates, test) if test else sd
    to_plot = np.array(args.frames or range(nb_train, len(data[0])))

    def draw(fig, page):
        frames = to_plot[6 * page : 6 * page + 6]
        _, known = estimates([values[frames] for values in data])
        draw_frames(fig, frames, records, {name: known[name] for name in ("network", "conventional")}, args.Fs)

    if not args.noplots:
        vectors, target, *_ = held_data
        level = vectors.mean(axis=1)[~np.isnan(target).all(axis=1)]
        figures = {"newamp1_train_loss": plot_loss(losses), "newamp1_train_sd": plot_errors(sd, level)}
        vq_pager.show(figures, args.plot_dir)
        vq_pager.page_through(draw, -(-len(to_plot) // 6), "newamp1_train_frames", args.plot_dir, nb_png=2)
    print(f"{last_sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA, RECORDS, NB_TRAIN, TEST)
