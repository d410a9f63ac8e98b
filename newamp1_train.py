#!/usr/bin/env python3
"""Train a network that turns K = 20 newamp1 vectors into rate L harmonic amplitudes: an alternative 700C decoder.

Usage:
    ./c2sim.py train.raw --rateK --rateKout train.f32; ./c2sim.py train.raw --modelout train.model     # 10 ms frames
    ./newamp1_train.py train.f32 train.model --nnout newamp1.keras --test test.f32 test.model
    c2enc 700C train.raw /dev/null --mlfeat feat.f32 feat.model; ./newamp1_train.py feat.f32 feat.model # 40 ms frames

The conventional decoder joins the 20 values by parabolas.  The network gets the same vector, unquantised and without
its mean, and corrects such parabolas.  Both are scored on the same harmonics with the same mean, so that errors of gain
count alike.  Files of c2enc also carry amplitudes decoded from the quantised vector, which get figures of their own.
Frames whose mean level is not above --lower are neither trained on nor counted.

Expected: 22 minutes of speech in 10 ms frames, 11 epochs, 60 s on two cores; SD on 64 s of other speakers and rooms
11.7 dB² over the frames above 10 dB, conventional 17.4; over all frames, with --lower -200, 11.8 and 17.3.
Units: features in dB, rate K [frames][20] or c2enc's --mlfeat records [frames][201], told apart by their size; model
file as c2sim or c2enc writes it; errors in dB².
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager

import numpy as np

K = codec2_model.NEWAMP1_K  # values in a vector
NAME = "newamp1_train"  # pictures are named after it
WIDTH = 256  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of vectors without their mean
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
STEPS = 4650  # training steps, a batch each, that the default of --epochs comes to
MIN_EPOCHS = 4  # of hours of speech
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # share of the frames that get a low pass, and of those that get a high pass
CUTOFF_SLOPE = 0.25  # dB/Hz at most
CUTOFF_DB = 20  # attenuation at most
MIN_FRAMES = 100  # of the training part; no network can be trained on less


def parse_args(argv=None):
    parser = ArgumentParser(description="K = 20 vectors to rate L.", formatter_class=ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("features", metavar="FEATURES", help="rate K vectors [frames][20] or mlfeat [frames][201]")
    add("model", metavar="MODEL", help="model records of the same frames")
    add("--test", nargs=2, metavar=("F32", "MODEL"), help="another pair that is never trained on")
    add("--Fs", type=float, default=8000, metavar="Hz", help="sample rate of the speech")
    add("--lower", type=float, default=10, metavar="dB", help="frames must have a higher mean level to count")
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    add("--epochs", type=plumbing.positive, metavar="N", help=f"passes through the data: as many as make {STEPS} steps")
    add("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    add("--nnout", default="newamp1.keras", metavar="NET", help="write the network here")
    add("--frames", type=plumbing.natural, nargs="+", metavar="F", help="plot these of the held-out or --test frames")
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args(argv)
    if not (1e-6 < args.Fs < 1e6 and args.nnout.endswith(".keras")):
        parser.error("--Fs must be above 1e-6 and below 1e6, --nnout must end in .keras")
    return args


def load(args):
    """{"train", "held-out"} and, with --test, {"test"}: what load_pair() gives; "quantised" [n][160], amplitudes of an
    mlfeat file; "used" [u], the frames of the part that count."""
    names = [args.features, args.model, *(args.test or [])]
    plumbing.check_outputs([args.nnout], names, None if args.noplots else args.plot_dir)
    files = []
    for features, model in zip(names[::2], names[1::2], strict=True):
        n = codec2_model.count_items(model)
        vectors, quantised = codec2_model.read_newamp1(features, n)
        files.append(codec2_model.load_pair(features, model, vectors, WIDTH, F_CUTOFF_HZ, args.Fs))
        files[-1]["target"][~codec2_model.is_counted(vectors, args.lower)] = np.nan
        if quantised is not None:
            files[-1]["quantised"] = quantised
    n = len(files[0]["number"][: args.nb_samples])
    cuts = {"train": slice(n - n // 10), "held-out": slice(n - n // 10, n)}  # before anything is shuffled
    data = {part: {name: values[cut] for name, values in files[0].items()} for part, cut in cuts.items()}
    data |= {"test": files[1]} if args.test else {}
    for name, part in data.items():
        what = f"{args.test[1] if name == 'test' else args.model}: {name} part"
        part["used"] = codec2_model.used_frames(part["target"], MIN_FRAMES if name == "train" else 1, what)
    missing = set(args.frames or []) - set(part["number"][part["used"]].tolist())
    if missing:
        raise plumbing.FormatError(f"{names[-1]}: no --frames {max(missing)} with a figure in the {name} part")
    return data


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


def build_network(Fs):
    """Network from rate K vectors [n][20] to dB [n][WIDTH]: a correction of parabolas through the 20 values."""
    inputs = keras.Input((K,))
    mean = ops.mean(inputs, axis=1, keepdims=True)
    baseline = layers.Dense(WIDTH, use_bias=False, trainable=False, name="parabolas")
    y = baseline(inputs - mean)
    bins_hz = np.arange(WIDTH) * Fs / 2 / WIDTH
    baseline.set_weights([codec2_model.rate_K_at(np.eye(K), np.tile(bins_hz, (K, 1)))])  # they are linear in the values
    x = (inputs - mean) / SCALE_DB
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(WIDTH, kernel_initializer="zeros")(x)
    return keras.Model(inputs, mean + layers.Add()([y, x]))  # Keras takes a second term [WIDTH][1] for a bias


def random_filter(vectors, target, Fs, rng):
    """Vectors [n][20] and target [n][WIDTH] in dB as other microphones, rooms or radios would have recorded them."""
    n, hz = len(vectors), np.float32(np.r_[np.arange(WIDTH) * Fs / 2 / WIDTH, codec2_model.NEWAMP1_HZ])
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = np.float32(weights @ np.cos(np.pi * np.outer([1, 2, 3], hz) / 4000))
    low, high = np.float32(rng.uniform(0, CUTOFF_SLOPE, (2, n, 1)) * (rng.random((2, n, 1)) < CUTOFFS))  # dB/Hz
    response -= np.minimum(low * np.maximum(np.float32(rng.uniform(0, 500, (n, 1))) - hz, 0), CUTOFF_DB)
    response -= np.minimum(high * np.maximum(hz - np.float32(rng.uniform(2400, 4000, (n, 1))), 0), CUTOFF_DB)
    return vectors + response[:, WIDTH:], target + response[:, :WIDTH]


def train(network, data, args):
    """Fit the network; returns [[SD of the filtered training frames, SD of the held-out part] in dB²] by epoch."""
    part, held, rng = data["train"], data["held-out"], np.random.default_rng(args.seed)
    epoch_steps = -(-len(part["used"]) // BATCH)
    epochs = args.epochs or max(MIN_EPOCHS, round(STEPS / epoch_steps))
    print(f"epochs: {epochs}\nsteps: {epochs * epoch_steps}")
    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.Adam(rate), sparse_loss)
    progress, losses = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for epoch in range(1, epochs + 1):
            batches, loss = np.array_split(rng.permutation(part["used"]), epoch_steps), []
            for frames in batches:
                vectors, target = random_filter(part["vectors"][frames], part["target"][frames], args.Fs, rng)
                loss.append(model.train_on_batch(vectors, target))
                if ctrl_c.pressed:
                    break
            losses.append((np.mean(loss), model.evaluate(held["vectors"], held["target"], BATCH, verbose=0)))
            progress.show(epoch, "train {:.2f}, held-out {:.2f} dB²".format(*losses[-1]))
            if ctrl_c.pressed:
                break
    return losses


def estimate(network, args, part, frames):
    """Spectra {label: dB [f][WIDTH]} of frames [f] of a part of the data, by their numbers."""
    vectors, Wo, L = (part[name][frames] for name in ("vectors", "Wo", "L"))
    A = {"conventional": codec2_model.rate_K_to_L(vectors, Wo, L)}
    if "quantised" in part:
        A["700C quantised"] = np.maximum(np.pad(part["quantised"][frames], ((0, 0), (0, 1))), 1e-5)
    bins = {name: codec2_model.to_bins(Wo, L, A[name], WIDTH, np.inf, args.Fs) for name in A}
    return {"network": network.predict_on_batch(vectors), **bins}


def plot(losses, sd, part, network, args):
    """SD by epoch; SD by frame and spectra of the part of the data that the last figure is of."""
    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained", subplot_kw={"xlabel": "Epoch", "ylabel": "SD (dB²)"})
    ax.plot(np.arange(len(losses)) + 1, losses, ".-", label=["training part, filtered", "held-out part"])
    ax.legend()
    used, numbers = part["used"], part["number"][part["used"]]
    plumbing.show({f"{NAME}_loss": fig, f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
    shown = np.flatnonzero(np.isin(numbers, args.frames or []))
    if not args.frames:
        shown = vq_pager.typical_frames(sd["network"], part["vectors"][used].mean(axis=1))
    titles = [f"frame {numbers[i]}: SD {sd['network'][i]:.1f} dB²" for i in shown]
    spectra = estimate(network, args, part, used[shown])
    model = args.test[1] if args.test else args.model
    vq_pager.page_frames(model, numbers[shown], titles, spectra, f"{NAME}_frames", args.plot_dir, args.Fs)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    network = build_network(args.Fs)
    losses = train(network, data, args)
    options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
    options |= {"input": "newamp1", "width": WIDTH, "eband_K": K, "eband_start": 0, "gain": 10, "dec": 1}
    plumbing.save_network(network, options, args.nnout)
    for name, part in data.items():
        sd = codec2_model.print_figures(name, part["target"], estimate, network, args, part)
    if not args.noplots:
        plot(losses, sd, part, network, args)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
