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

import argparse
import json
import os
import signal
import zipfile

import numpy as np

import c2sim
import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

K = 20  # values in a vector
MLFEAT = 201  # floats in a record: mean, K mean-free values, K of them quantised, A[0…159] decoded from these
WIDTH = 256  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 2  # training data is filtered at random, smoothly with this rms …
CUTOFF_SLOPE, CUTOFF_DB = 0.25, 20  # … and with cutoffs of at most so many dB/Hz and dB
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part

# ---------------------------------------------------------------- arguments


def parse_args():
    parser = argparse.ArgumentParser(
        description="Train a network from K = 20 vectors to rate L.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "features", metavar="FEATURES", help="rate K vectors [frames][20] or mlfeat records [frames][201]"
    )
    group.add_argument("model", metavar="MODEL", help="model records of the same frames")
    group.add_argument("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    group.add_argument("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    group.add_argument("--nb_samples", type=codec2_model.positive, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=codec2_model.positive, default=10, metavar="N", help="passes through the training frames"
    )
    group.add_argument("--seed", type=int, default=1, help="the same seed gives the same network")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default="newamp1.keras", metavar="NET", help="write the network here")
    group.add_argument("--frames", type=int, nargs="+", metavar="F", help="frames to plot (default: the held-out part)")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args()
    if not (args.Fs > 0 and args.seed >= 0 and min(args.frames or [0]) >= 0):
        parser.error("--Fs must be positive, --seed and --frames not negative")
    return args


# ---------------------------------------------------------------- data


def chunks(nb_frames):
    """Slices of so many frames that memory does not grow with the file."""
    return [slice(start, start + codec2_model.CHUNK) for start in range(0, nb_frames, codec2_model.CHUNK)]


def read_vectors(features, model, nb_frames):
    """Rate K vectors [n][20] in dB, and the quantised amplitudes A [n][161] that mlfeat records carry, else None."""
    size = os.path.getsize(features) / (4 * nb_frames)
    if size not in (K, MLFEAT):
        why = f"{size:g} floats for each of the {nb_frames} frames of {model}, expected {K} or {MLFEAT}"
        raise codec2_model.FormatError(f"{features}: {why}")
    records = codec2_model.read_rate_K(features, int(size))
    if size == K:
        return records, None
    return records[:, :1] + records[:, 1 : K + 1], np.pad(records[:, 2 * K + 1 :], ((0, 0), (0, 1)))


def load(features, model, args):
    """Vectors [n][20] in dB; Wo, L, A, phi, voiced; target [n][WIDTH] in dB; quantised A [n][161] or None."""
    records = codec2_model.read(model)
    vectors, quantised = read_vectors(features, model, len(records[0]))
    codec2_model.check_rate_K(features, vectors)
    codec2_model.check(model, *records[:3])
    Wo, L, A, _, _ = records = [values[: args.nb_samples] for values in records]
    target = codec2_model.to_bins(Wo, L, A, WIDTH, F_CUTOFF_HZ, args.Fs)
    if np.isnan(target).all():
        raise codec2_model.FormatError(f"{model}: digital silence only, nothing to learn from")
    return vectors[: args.nb_samples], records, target, quantised


def parabolas(Fs):
    """[20][WIDTH]: what every value of a vector adds to every bin when the values are joined by parabolas."""
    bins_hz = np.arange(WIDTH) * Fs / 2 / WIDTH
    return c2sim.rate_K_at(np.eye(K), np.tile(bins_hz, (K, 1))).astype(np.float32)


def prepare(args):
    """All that can be wrong with the files, before Keras is imported, which takes seconds: data and test data."""
    codec2_model.check_folder(args.nnout)
    data = load(args.features, args.model, args)
    nb_frames = len(data[2])
    if nb_frames < MIN_FRAMES:
        raise codec2_model.FormatError(f"{args.features}: {nb_frames} frames, expected at least {MIN_FRAMES}")
    if max(args.frames or [0]) >= nb_frames:
        raise codec2_model.FormatError(f"{args.features}: {nb_frames} frames, no frame {max(args.frames)}")
    return data, load(*args.test, args) if args.test else None


if __name__ == "__main__":
    codec2_model.plain_errors()
    ARGS = parse_args()
    DATA, TEST = prepare(ARGS)

import keras
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


# ---------------------------------------------------------------- loss


def sparse_loss(target, estimate):
    """SD in dB², mean over the frames that have a target: mean squared error over its bins, where NaN is no target.

    target [[3, NaN, 5]], estimate [[1, 7, 4]]: (2² + 1²) / 2 = 2.5.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=1)
    sd = ops.sum(ops.square(error), axis=1) / ops.maximum(count, 1.0)
    return ops.sum(sd) / ops.maximum(ops.sum(ops.cast(count > 0, error.dtype)), 1.0)


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
    bins_hz = np.arange(WIDTH) * args.Fs / 2 / WIDTH
    at_vector = np.stack([np.interp(c2sim.RATE_K_HZ, bins_hz, e) for e in np.eye(WIDTH)]).astype(np.float32)
    response = RandomResponse(args.seed)(network.inputs[0])
    estimate = network([network.inputs[0] + ops.matmul(response, at_vector)]) - response  # to compare with target
    model = keras.Model(network.inputs, estimate)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(train_data[1]) // BATCH) * args.epochs)
    model.compile(keras.optimizers.Adam(rate), sparse_loss, steps_per_execution=16)
    history = model.fit(
        *train_data, batch_size=BATCH, epochs=args.epochs, validation_data=held_data, callbacks=[Progress()], verbose=0
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


def plot_errors(sd, level):
    """Histograms of SD {name: [n]} side by side; SD against frame level [n] in dB; SD of the first 300 frames."""
    import matplotlib.pyplot as plt

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


def main(args, data, test):
    keras.utils.set_random_seed(args.seed)
    vectors, records, target, _ = data
    nb_train = len(target) - len(target) // 10  # the rest is cut off before anything is shuffled
    train_part, held_part = slice(nb_train), slice(nb_train, None)
    network = build_network(vectors[train_part], parabolas(args.Fs))
    print(f"weights: {network.count_params()}")
    losses = train(network, *(([vectors[part]], target[part]) for part in (train_part, held_part)), args)
    save(network, {**vars(args), "script": "newamp1_train", "width": WIDTH}, args.nnout)

    def estimates(part, data):
        vectors, quantised, Wo, L = (x if x is None else x[part] for x in (data[0], data[3], *data[1][:2]))

        def conventional(frames):
            A = c2sim.rate_K_to_L(vectors[frames], Wo[frames], L[frames])
            return codec2_model.to_bins(Wo[frames], L[frames], A, WIDTH, args.Fs / 2, args.Fs)

        def decoded_700C(frames):
            A = np.maximum(quantised[frames], 1e-5)
            return codec2_model.to_bins(Wo[frames], L[frames], A, WIDTH, args.Fs / 2, args.Fs)

        known = {"network": lambda frames: network.predict_on_batch([vectors[frames]]), "conventional": conventional}
        return known if quantised is None else {**known, "700C quantised": decoded_700C}

    evaluate("train", target[train_part], estimates(train_part, data))
    sd = evaluate("held-out", target[held_part], estimates(held_part, data))
    figure = sd["network"].mean()
    if test:
        figure = evaluate("test", test[2], estimates(slice(None), test))["network"].mean()
    to_plot = np.array(args.frames or range(nb_train, len(target)))

    def draw(fig, page):
        frames = to_plot[6 * page : 6 * page + 6]
        known = estimates(slice(None), data)
        draw_frames(fig, frames, records, {name: known[name](frames) for name in ("network", "conventional")}, args.Fs)

    if not args.noplots:
        level = vectors[held_part].mean(axis=1)[~np.isnan(target[held_part]).all(axis=1)]
        figures = {"newamp1_train_loss": plot_loss(*losses), "newamp1_train_sd": plot_errors(sd, level)}
        vq_pager.show(figures, args.plot_dir)
        vq_pager.page_through(draw, -(-len(to_plot) // 6), "newamp1_train_frames", args.plot_dir, nb_png=2)
    print(f"{figure:.2f}")


if __name__ == "__main__":
    main(ARGS, DATA, TEST)
