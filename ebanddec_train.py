#!/usr/bin/env python3
"""Train a network that turns bands sent every N frames into the rate L amplitudes of all frames.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./c2sim.py test.raw --bands test.f32 --bands_lower 10 --modelout test.model
    ./ebanddec_train.py train.f32 train.model --dec 3 --nnout dec3.keras --test test.f32 test.model
    ./ebanddec_train.py train.f32 train.model --dec 1       # the control: nothing to interpolate

Two vectors N frames apart go in, the amplitudes of the first one's frame and of those up to the
second's come out.  The mean of each frame is sent separately: the network does not see it, and its
estimates are shifted to the mean of the target, so SD and variance are the same.  Training uses all
positions, evaluation steps by N frames, as a decoder does.

Expected: 22 minutes of speech, 10 epochs, 60 s on two cores; variance on 8 minutes of 38 held-out
speakers, seeds 1 to 3, N = 3: 13.2 dB², interpolation 16.5.
Units: features 10·log10(band energy) in dB (log10 with --gain 1); model file as c2sim writes it;
errors in dB².
"""

import argparse
import functools
import math

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError, keras_file

NAME = "ebanddec_train"  # pictures are named after it
WIDTH = 128  # output bins over 0…pi
F_CUTOFF = 0.9  # of half the sample rate; no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of bands without their mean
HIDDEN = 256  # units of the three hidden layers
BATCH = 256  # pairs of vectors
STEPS = 4350  # training steps, one batch each; the default of --epochs comes to about as many
MIN_EPOCHS = 4  # of hours of speech
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # probability of a low pass, and independently of a high pass, for each frame
CUTOFF_DB = 50  # most that these take away
MIN_FRAMES = 100  # fewest training frames that are accepted, times --dec


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a network that turns band energies, sent every N frames, into amplitudes"
        " of harmonics.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("features", metavar="FEATURES", help="band energies, float32 [frames][K]")
    add("model", metavar="MODEL", help="model records of the same frames")
    test_help = "another pair, never trained on: the last figure and the plots are of it"
    add("--test", nargs=2, metavar=("F32", "MODEL"), help=test_help)
    K_help = "band energies in a vector (default: 14; 18 with --Fs 16000)"
    add("--eband_K", type=int, default=14, metavar="K", help=K_help)
    add("--eband_start", type=int, default=0, metavar="K", help="first band to use (default: 0)")
    gain_help = "features divided by this are log10(energy) (default: 10, for dB)"
    add("--gain", type=plumbing.gain, default=10, metavar="G", help=gain_help)
    Fs_help = "sample rate of the speech (default: 8000)"
    add("--Fs", type=float, default=8000, metavar="Hz", help=Fs_help)
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    dec_help = "send every N-th vector; 1 is the control"
    add("--dec", type=plumbing.positive, required=True, metavar="N", help=dec_help)
    epochs_help = f"passes through the data (default: as many as make {STEPS} steps)"
    add("--epochs", type=plumbing.positive, metavar="N", help=epochs_help)
    seed_help = "the same seed gives the same network (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = "write the network here (default: %(default)s)"
    add("--nnout", type=keras_file, default="ampnn_dec.keras", metavar="NET", help=nnout_help)
    frame_help = "plot frames from F on (default: typical ones)"
    add("--frame", type=plumbing.natural, metavar="F", help=frame_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    add("--removemean", action=plumbing.Gone, const="the network never sees the level of a frame")
    add("--frames", action=plumbing.Gone, const="--frame F plots the frames from F on")
    args = parser.parse_args(argv)
    kind = spectra.KINDS.get((args.eband_K, args.Fs))
    if kind is None:
        parser.error(spectra.unknown_kind(args.eband_K, args.Fs))
    if not kind.is_energy:
        parser.error(f"{kind.name} vectors are no band energies: newamp1_train.py is for them")
    if not 0 <= args.eband_start < args.eband_K - 1:
        parser.error(f"--eband_start: expected 0 to {args.eband_K - 2}, which leaves two bands")
    if args.noplots and not (args.plot_dir is None and args.frame is None):
        parser.error("--plot_dir and --frame have no effect with --noplots")
    return args


def load(args):
    """The parts of the data, {"train", "held-out"} and, with --test, {"test"}.

    A part is what codec2_model.load_pair() gives; "sent", the frames of the vectors that a decoder
    gets, but for the last one; "used" [u], the frames before the last vector that have a target.
    """
    files = [args.features, args.model, *(args.test or [])]
    plumbing.check_outputs([args.nnout], files, args.plot_dir)
    data = codec2_model.cut(load_pair(args.features, args.model, args), args.nb_samples)
    if args.test:
        data["test"] = load_pair(*args.test, args)
    for name, part in data.items():
        part["sent"] = np.arange(0, len(part["target"]) - args.dec, args.dec)
        model = args.test[1] if name == "test" else args.model
        least = MIN_FRAMES * args.dec if name == "train" else 1
        target = part["target"][: len(part["sent"]) * args.dec]
        part["used"] = codec2_model.used_frames(target, least, f"{model}: {name} part")
    plotted = data["test" if args.test else "held-out"]
    numbers = plotted["number"][plotted["used"]]
    if args.frame is not None and args.frame > numbers[-1]:
        expected = f"expected {numbers[0]} to {numbers[-1]}"
        raise FormatError(f"{files[-1]}: no --frame {args.frame} to plot, {expected}")
    return data


def load_pair(features, model, args):
    """What codec2_model.load_pair() gives of a pair of files."""
    bands = codec2_model.read_rate_K(features, args.eband_K, args.gain)[:, args.eband_start :]
    cutoff_hz = F_CUTOFF * args.Fs / 2
    return codec2_model.load_pair(features, model, bands, WIDTH, cutoff_hz, args.Fs)


def fit_baseline(bands, args):
    """Interpolation of bands over frequency: lines [K][WIDTH], and offset [WIDTH] in dB.

    The offset is the mean error of bands @ lines, over all harmonics of the training frames `bands`
    [n][K], also those above the cutoff.
    """
    hz = spectra.KINDS[args.eband_K, args.Fs].hz[args.eband_start :]
    bins_hz = spectra.bins_hz(WIDTH, args.Fs)
    lines = np.float32([np.interp(bins_hz, hz, one) for one in np.eye(len(hz))])
    total, count = np.zeros(WIDTH), np.zeros(WIDTH)
    for frames, records in codec2_model.read_blocks(args.model, len(bands)):
        Wo, L, A = records["Wo"], records["L"], records["A"]
        target = spectra.to_bins(Wo, L, A, WIDTH, args.Fs / 2, args.Fs)
        error = target - bands[frames] @ lines
        total += np.nansum(error, axis=0)
        count += np.sum(~np.isnan(error), axis=0)
    return lines, np.float32(total / np.maximum(count, 1))


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops


def sparse_variance(target, estimate):
    """Variance in dB², mean over the frames that have a target.

    The variance of a frame is the mean squared error without the mean error, over the bins that
    have a target; NaN is no target.  target [[[3, NaN, 5]]], estimate [[[1, 7, 4]]]: errors 2 and
    1, without their mean 0.5 and −0.5: 0.25.
    """
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=2, keepdims=True)
    mean = ops.sum(error, axis=2, keepdims=True) / ops.maximum(count, 1.0)
    error = ops.where(has_target, error - mean, 0.0)
    variance = ops.sum(error**2, axis=2, keepdims=True) / ops.maximum(count, 1.0)
    nb_frames = ops.sum(ops.cast(count > 0, error.dtype))
    return ops.sum(variance) / ops.maximum(nb_frames, 1.0)


def build_network(dec, lines, offset):
    """Network from pairs of vectors [p][2][K] to [p][dec][WIDTH] in dB up to a constant per frame.

    Untrained it is the baseline, lines [K][WIDTH] and offset [WIDTH] of fit_baseline(), and linear
    over time.
    """
    vectors = keras.Input((2, len(lines)))
    baseline = layers.Dense(dec * WIDTH, trainable=False)
    y = baseline(layers.Flatten()(vectors))
    second = np.arange(dec) / dec  # weight of the second vector, frame by frame
    kernel = [np.kron(1 - second, lines), np.kron(second, lines)]
    baseline.set_weights([np.concatenate(kernel), np.tile(offset, dec)])  # [2 K][dec · WIDTH]
    y = layers.Reshape((dec, WIDTH), name="interpolation")(y)
    x = (vectors - ops.mean(vectors, axis=2, keepdims=True)) / SCALE_DB  # the level does not matter
    x = layers.Flatten()(x)
    x = layers.Dense(HIDDEN, activation="gelu")(x)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
    x = layers.Dense(dec * WIDTH, kernel_initializer="zeros")(x)
    y = layers.Add()([y, layers.Reshape((dec, WIDTH))(x)])
    return keras.Model(vectors, y, name=NAME)


def random_filter(bands, target, lines, Fs, rng):
    """Bands [n][2][K] and target [n][dec][WIDTH] in dB as other microphones or rooms have them.

    Bands are sums of squared amplitudes under triangles, as are the `lines` [K][WIDTH].
    """
    hz = spectra.bins_hz(WIDTH, Fs)
    response = spectra.random_response(
        hz, len(bands), rng, FILTER_DB, cutoffs=CUTOFFS, cutoff_dB=CUTOFF_DB, Fs=Fs
    )[:, None]
    spectrum = bands @ lines
    spectrum[:, 0] = np.where(np.isnan(target[:, 0]), spectrum[:, 0], target[:, 0])
    change = energies_dB(spectrum + response, lines) - energies_dB(spectrum, lines)
    return bands + change, target + response


def energies_dB(spectrum, lines):
    """Band energies [...][K] in dB of spectra [...][WIDTH] in dB."""
    return 10 * np.log10(10 ** (spectrum / 10) @ lines.T + 1e-30)  # 1e-30: for empty bands


def pairs(part, first, dec):
    """Pairs of vectors [p][2][K] and their target [p][dec][WIDTH].

    The vectors are of frames `first` [p] and of those dec later, the target is of the frames from
    `first` on that are before the second vector.
    """
    target = part["target"][first[:, None] + np.arange(dec)]
    return part["vectors"][first[:, None] + [0, dec]], target


def train(network, data, lines, args):
    """Fit the network until all epochs are done, or Ctrl-C.

    Returns [[training loss, held-out loss] in dB²] of the epochs done, and how many were planned.
    Training frames are filtered at random, held-out frames are as they are.
    """
    part, held_out = data["train"], data["held-out"]
    rng = np.random.default_rng(args.seed)
    first = part["used"][part["used"] < len(part["target"]) - args.dec]
    held_out_pairs, held_out_target = pairs(held_out, held_out["sent"], args.dec)
    steps = math.ceil(len(first) / BATCH)
    epochs = args.epochs or max(MIN_EPOCHS, round(STEPS / steps))
    print(f"epochs: {epochs}")
    print(f"steps: {epochs * steps}")
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps)
    model = keras.Model(network.inputs, network.outputs)  # the network itself has no optimiser
    model.compile(keras.optimizers.Adam(rate), sparse_variance)
    progress, losses = plumbing.Progress(epochs), []
    try:
        for epoch in range(1, epochs + 1):
            batch_losses = []
            for frames in np.array_split(rng.permutation(first), steps):
                bands, target = pairs(part, frames, args.dec)
                bands, target = random_filter(bands, target, lines, args.Fs, rng)
                batch_losses.append(model.train_on_batch(bands, target))
            loss = np.mean(batch_losses)
            held_out_loss = model.evaluate(held_out_pairs, held_out_target, BATCH, verbose=0)
            losses.append((loss, held_out_loss))
            progress.show(epoch, f"train {loss:.2f}, held-out {held_out_loss:.2f} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        if not losses:
            raise
        # main() saves the network before it prints anything
    return losses, epochs


def estimate(models, dec, part, frames):
    """Spectra {label: dB [f][WIDTH]} of some frames of a part of the data, by their numbers [f].

    With the mean of the target.
    """
    first, pair = np.unique(frames // dec * dec, return_inverse=True)
    vectors, target = pairs(part, first, dec)
    estimates = models.predict_on_batch(vectors)
    matched = {label: spectra.match_mean(dB, target) for label, dB in estimates.items()}
    return {label: dB[pair, frames % dec] for label, dB in matched.items()}


def evaluate(models, dec, data):
    """{part: {label: Figures}} of the network and of its baseline."""
    figures = {}
    for name, part in data.items():
        target = part["target"][: len(part["sent"]) * dec]
        estimate_part = functools.partial(estimate, models, dec, part)
        figures[name] = spectra.measure_blocks(target, estimate_part)
    return figures


def plot(losses, figures, models, part, args):
    """Variance by epoch; SD over time and spectra of a part with its {label: Figures}."""
    sd, used = figures["network"].sd, part["used"]
    numbers = part["number"][used]
    labels = ["training part, filtered", "held-out part"]
    pictures = {
        f"{NAME}_loss": plots.plot_losses(losses, labels, "Variance (dB²)"),
        f"{NAME}_sd": plots.plot_sd(figures, numbers),
    }
    plots.show(pictures, args.plot_dir)
    level = part["vectors"][used].mean(axis=1)
    shown = plots.frames_to_show(args.frame, numbers, sd, level)
    titles = [
        f"frame {numbers[i]} (vector + {used[i] % args.dec}): SD {sd[i]:.1f} dB²" for i in shown
    ]
    model = args.test[1] if args.test else args.model
    records = codec2_model.read_frames(model, numbers[shown])
    estimates = estimate(models, args.dec, part, used[shown])
    plots.page_frames(records, titles, estimates, f"{NAME}_frames", args.plot_dir, args.Fs)


def main(args, data):
    networks.set_up(args.seed)
    networks.print_device()
    lines, offset = fit_baseline(data["train"]["vectors"], args)
    network = build_network(args.dec, lines, offset)
    losses, epochs = train(network, data, lines, args)
    options = {
        "input": "band pairs",
        "eband_K": args.eband_K,
        "eband_start": args.eband_start,
        "gain": args.gain,
        "Fs": args.Fs,
        "width": WIDTH,
        "dec": args.dec,
        "epochs": len(losses),
        "seed": args.seed,
    }
    networks.save(network, options, args.nnout)
    if len(losses) < epochs:
        print(f"stopped: after {len(losses)} of {epochs} epochs")
    interpolation = network.get_layer("interpolation").output
    outputs = {"network": network.output, "interpolation": interpolation}
    models = keras.Model(network.inputs, outputs)
    figures = evaluate(models, args.dec, data)
    for part, found in figures.items():
        spectra.print_figures(part, found)
    last = "test" if args.test else "held-out"
    if not args.noplots:
        plot(losses, figures[last], models, data[last], args)
    print(f"{figures[last]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
