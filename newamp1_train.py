#!/usr/bin/env python3
"""Train a network that turns K = 20 newamp1 vectors into rate L harmonic amplitudes.

Usage:
    ./c2sim.py train.raw --rateK --rateKout train.f32       # vectors of 10 ms frames
    ./c2sim.py train.raw --modelout train.model             # their model file, in a call of its own
    ./newamp1_train.py train.f32 train.model --nnout newamp1.keras --test test.f32 test.model
    c2enc 700C train.raw /dev/null --mlfeat feat.f32 feat.model   # both, of 40 ms frames
    ./newamp1_train.py feat.f32 feat.model

It is an alternative decoder for Codec 2 700C.  The conventional decoder joins the 20 values by
parabolas.  The network gets the same vector, unquantised and without its mean, and corrects such
parabolas.  Both are scored on the same harmonics with the same mean, so that errors of gain count
alike.  Files of c2enc also carry amplitudes decoded from the quantised vector, which get figures of
their own.  Frames whose mean level is not above --lower are neither trained on nor counted.

Expected: 22 minutes of speech in 10 ms frames, 11 epochs, 60 s on two cores; SD on 8 minutes of 38
held-out speakers, seeds 1 to 3, 9.8 dB² over the frames above 10 dB, conventional 12.5.
Units: features in dB, rate K [frames][20] or c2enc's --mlfeat records [frames][201], told apart by
their size; model file as c2sim or c2enc writes it; errors in dB².
"""

import argparse
import functools
import itertools
import math

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError, keras_file

NAME = "newamp1_train"  # pictures are named after it
K = len(spectra.NEWAMP1_HZ)  # values in a vector
WIDTH = 256  # output bins over 0…pi
F_CUTOFF_HZ = 3600  # no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of vectors without their mean
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # frames
STEPS = 4650  # training steps, one batch each; the default of --epochs comes to about as many
MIN_EPOCHS = 4  # of hours of speech
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # probability of a low pass, and independently of a high pass, for each frame
CUTOFF_DB = 20  # most that these take away
MIN_FRAMES = 100  # fewest training frames that are accepted
MIN_SD = 0.01  # dB², of the conventional decoder; rounding of the targets makes 0.0003
MIN_SD_FRAMES = 1000  # that this is looked for in


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a network that turns newamp1 vectors into the amplitudes of harmonics.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    features_help = "vectors, float32 [frames][20], or mlfeat records [frames][201]"
    add("features", metavar="FEATURES", help=features_help)
    add("model", metavar="MODEL", help="model records of the same frames")
    test_help = "another pair, never trained on: the last figure and the plots are of it"
    add("--test", nargs=2, metavar=("F32", "MODEL"), help=test_help)
    lower_help = "frames must have a higher mean level to count (default: 10)"
    add("--lower", type=plumbing.level, default=10, metavar="dB", help=lower_help)
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    epochs_help = f"passes through the data (default: as many as make {STEPS} steps)"
    add("--epochs", type=plumbing.positive, metavar="N", help=epochs_help)
    seed_help = "the same seed gives the same network (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = "write the network here (default: %(default)s)"
    add("--nnout", type=keras_file, default="newamp1.keras", metavar="NET", help=nnout_help)
    frames_help = "plot these frames, for example 300,310 (default: typical ones)"
    add("--frames", type=numbers, nargs="+", metavar="F", help=frames_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    for name in ("--removemean", "--scale"):
        add(name, action=plumbing.Gone, const="scaling is learnt from the training part")
    args = parser.parse_args(argv)
    if args.noplots and not (args.plot_dir is None and args.frames is None):
        parser.error("--plot_dir and --frames have no effect with --noplots")
    args.frames = list(itertools.chain(*(args.frames or [])))  # those of each argument
    return args


def numbers(text):
    """Type of numbers of frames with commas between them: "5,300,7"."""
    return [plumbing.natural(number) for number in text.strip(",").split(",")]


def load(args):
    """The parts of the data, {"train", "held-out"} and, with --test, {"test"}.

    A part is what codec2_model.load_pair() gives; "quantised" [n][160], the amplitudes of an mlfeat
    file; "used" [u], the frames that count.
    """
    files = [args.features, args.model, *(args.test or [])]
    plumbing.check_outputs([args.nnout], files, args.plot_dir)
    data = codec2_model.cut(load_pair(args.features, args.model, args.lower), args.nb_samples)
    if args.test:
        data["test"] = load_pair(*args.test, args.lower)
    for name, part in data.items():
        model = args.test[1] if name == "test" else args.model
        least = MIN_FRAMES if name == "train" else 1
        part["used"] = codec2_model.used_frames(part["target"], least, f"{model}: {name} part")
    plotted = data["test" if args.test else "held-out"]
    with_figure = plotted["number"][plotted["used"]]
    missing = np.setdiff1d(args.frames, with_figure)
    if len(missing):
        expected = f"expected {with_figure[0]} to {with_figure[-1]}, and above --lower"
        raise FormatError(f"{files[-1]}: no --frames {missing[0]} to plot, {expected}")
    return data


def load_pair(features, model, lower):
    """What codec2_model.load_pair() gives of a pair of files, and "quantised" of an mlfeat file."""
    n = codec2_model.count_items(model)
    vectors, quantised = codec2_model.read_newamp1(features, n)
    pair = codec2_model.load_pair(features, model, vectors, WIDTH, F_CUTOFF_HZ)
    counted = spectra.is_counted(vectors, lower)
    pair["target"][~counted] = np.nan
    if quantised is not None:
        pair["quantised"] = quantised
    first = np.flatnonzero(counted)[:MIN_SD_FRAMES]
    estimate = conventional(pair, first)["conventional"]
    sd = spectra.measure(pair["target"][first], estimate).sd
    if len(sd) and sd.mean() < MIN_SD:
        found = f"holds the amplitudes that the conventional decoder makes of {features}"
        todo = f"write it in a call of its own: c2sim.py SPEECH --modelout {model}"
        raise FormatError(f"{model}: {found}, expected those of the speech: {todo}")
    return pair


def conventional(part, frames):
    """{label: dB [f][WIDTH]} that the conventional decoder makes, for frames [f] of a part."""
    Wo, L = part["Wo"][frames], part["L"][frames]
    amplitudes = {"conventional": spectra.rate_K_to_L(part["vectors"][frames], Wo, L)}
    if "quantised" in part:
        quantised = np.pad(part["quantised"][frames], ((0, 0), (0, 1)))  # 160 values: up to A[159]
        amplitudes["700C quantised"] = np.maximum(quantised, 1e-5)
    return {label: spectra.to_bins(Wo, L, A, WIDTH, np.inf) for label, A in amplitudes.items()}


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops


def sparse_loss(target, estimate):
    """SD in dB², mean over the frames that have a target.

    The mean squared error of a frame is over the bins that have a target; NaN is no target.
    target [[3, NaN, 5]], estimate [[1, 7, 4]]: (2² + 1²) / 2 = 2.5.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=1)
    sd = ops.sum(error**2, axis=1) / ops.maximum(count, 1.0)
    nb_frames = ops.sum(ops.cast(count > 0, error.dtype))
    return ops.sum(sd) / ops.maximum(nb_frames, 1.0)


def build_network():
    """Network from vectors [n][K] to [n][WIDTH] in dB.

    Untrained it draws parabolas through the vector without its mean: as the conventional decoder
    from 300 to 3400 Hz, but at 0 Hz and 4 kHz it is at the mean, where that decoder is at 0 dB.
    """
    vectors = keras.Input((K,))
    mean = ops.mean(vectors, axis=1, keepdims=True)
    baseline = layers.Dense(WIDTH, use_bias=False, trainable=False, name="parabolas")
    y = baseline(vectors - mean)
    one_by_one = np.eye(K)  # parabolas are linear in the values
    bins_hz = np.tile(spectra.bins_hz(WIDTH), (K, 1))
    baseline.set_weights([spectra.rate_K_at(one_by_one, bins_hz)])
    x = (vectors - mean) / SCALE_DB  # the level does not matter
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(WIDTH, kernel_initializer="zeros")(x)
    y = layers.Add()([y, x])
    return keras.Model(vectors, mean + y, name=NAME)  # not y + mean: Keras takes that for a bias


def random_filter(vectors, target, rng):
    """Vectors [n][K] and target [n][WIDTH] in dB as other microphones, rooms, radios have them."""
    hz = np.concatenate([spectra.bins_hz(WIDTH), spectra.NEWAMP1_HZ])
    response = spectra.random_response(
        hz, len(vectors), rng, FILTER_DB, cutoffs=CUTOFFS, cutoff_dB=CUTOFF_DB
    )
    return vectors + response[:, WIDTH:], target + response[:, :WIDTH]


def train(network, data, args):
    """Fit the network until all epochs are done, or Ctrl-C.

    Returns [[training loss, held-out loss] in dB²] of the epochs done, and how many were planned.
    Training frames are filtered at random, held-out frames are as they are.
    """
    part, held_out = data["train"], data["held-out"]
    rng = np.random.default_rng(args.seed)
    steps = math.ceil(len(part["used"]) / BATCH)
    epochs = args.epochs or max(MIN_EPOCHS, round(STEPS / steps))
    print(f"epochs: {epochs}")
    print(f"steps: {epochs * steps}")
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps)
    model = keras.Model(network.inputs, network.outputs)  # the network itself has no optimiser
    model.compile(keras.optimizers.Adam(rate), sparse_loss)
    progress, losses = plumbing.Progress(epochs), []
    try:
        for epoch in range(1, epochs + 1):
            batch_losses = []
            for frames in np.array_split(rng.permutation(part["used"]), steps):
                vectors, target = part["vectors"][frames], part["target"][frames]
                vectors, target = random_filter(vectors, target, rng)
                batch_losses.append(model.train_on_batch(vectors, target))
            loss = np.mean(batch_losses)
            held_out_loss = model.evaluate(
                held_out["vectors"], held_out["target"], BATCH, verbose=0
            )
            losses.append((loss, held_out_loss))
            progress.show(epoch, f"train {loss:.2f}, held-out {held_out_loss:.2f} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        if not losses:
            raise
        # main() saves the network before it prints anything
    return losses, epochs


def estimate(network, part, frames):
    """Spectra {label: dB [f][WIDTH]} of some frames of a part of the data, by their numbers [f]."""
    network_dB = network.predict_on_batch(part["vectors"][frames])
    return {"network": network_dB, **conventional(part, frames)}


def evaluate(network, data):
    """{part: {label: Figures}} of the network and of its baseline."""
    figures = {}
    for name, part in data.items():
        estimate_part = functools.partial(estimate, network, part)
        figures[name] = spectra.measure_blocks(part["target"], estimate_part)
    return figures


def plot(losses, figures, network, part, args):
    """SD by epoch; SD over time and spectra of a part with its {label: Figures}."""
    sd, used = figures["network"].sd, part["used"]
    numbers = part["number"][used]
    frame_s = 4 * spectra.FRAME_S if "quantised" in part else spectra.FRAME_S
    labels = ["training part, filtered", "held-out part"]
    pictures = {
        f"{NAME}_loss": plots.plot_losses(losses, labels, "SD (dB²)"),
        f"{NAME}_sd": plots.plot_sd(figures, numbers, frame_s),
    }
    plots.show(pictures, args.plot_dir)
    if args.frames:
        shown = np.flatnonzero(np.isin(numbers, args.frames))
    else:
        shown = plots.typical_frames(sd, part["vectors"][used].mean(axis=1))
    titles = [f"frame {numbers[i]}: SD {sd[i]:.1f} dB²" for i in shown]
    model = args.test[1] if args.test else args.model
    records = codec2_model.read_frames(model, numbers[shown])
    estimates = estimate(network, part, used[shown])
    plots.page_frames(records, titles, estimates, f"{NAME}_frames", args.plot_dir)


def main(args, data):
    networks.set_up(args.seed)
    networks.print_device()
    network = build_network()
    losses, epochs = train(network, data, args)
    options = {
        "input": "newamp1",
        "eband_K": K,
        "eband_start": 0,
        "gain": 10,
        "Fs": spectra.FS_HZ,
        "width": WIDTH,
        "dec": 1,
        "lower": args.lower,
        "epochs": len(losses),
        "seed": args.seed,
    }
    networks.save(network, options, args.nnout)
    if len(losses) < epochs:
        print(f"stopped: after {len(losses)} of {epochs} epochs")
    figures = evaluate(network, data)
    for part, found in figures.items():
        spectra.print_figures(part, found)
    last = "test" if args.test else "held-out"
    if not args.noplots:
        plot(losses, figures[last], network, data[last], args)
    print(f"{figures[last]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
