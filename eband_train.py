#!/usr/bin/env python3
"""Train a network that turns the band energies of a frame into its rate L harmonic amplitudes.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10 --modelout train.model
    ./c2sim.py test.raw --bands test.f32 --bands_lower 10 --modelout test.model
    ./eband_train.py train.f32 train.model --Wo --nnout ampnn.keras --test test.f32 test.model

The network has 128 outputs, evenly spaced over 0 to half the sample rate.  A harmonic falls in one
of them; the loss leaves the others out.  The network starts from a linear interpolation of the
bands, works out four times which band energies its amplitudes would give, and corrects them by the
difference.  With --Wo it knows where in their bins the harmonics are.

Expected: 22 minutes of speech, 12 epochs, 4 minutes on two slow cores; SD and variance on 8 minutes
of 38 held-out speakers, seeds 1 to 3, 9.5 and 9.2 dB² with --Wo, 16.4 and 9.9 without, 23.9 and
13.8 for the interpolation.
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

NAME = "eband_train"  # pictures are named after it
WIDTH = 128  # output bins over 0…pi
FFT_BINS = 256  # of c2sim over 0…pi
WO_MIN = np.pi / spectra.MAX_AMP  # rad/sample; the lowest pitch of a record, and 0 has no logarithm
F_CUTOFF = 0.9  # of half the sample rate; no targets above, where anti-aliasing filters differ
SCALE_DB = 10  # about the standard deviation of bands without their mean
CORRECTIONS = 4  # of the spectrum, one after the other
HIDDEN = 256  # units of the two hidden layers of a correction
BATCH = 256  # frames
STEPS = 5000  # training steps, one batch each; the default of --epochs comes to about as many
LEARNING_RATE = 3e-3  # falls to 0 along a cosine
WEIGHT_DECAY = 0.2  # share of a weight that a step takes away, times the learning rate
FILTER_DB = 1  # training frames are filtered by a smooth random response with this rms
CUTOFFS = 0.1  # probability of a low pass, and independently of a high pass, for each frame
CUTOFF_DB = 50  # most that these take away
MIN_FRAMES = 100  # fewest training frames that are accepted


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a network that turns band energies into the amplitudes of harmonics.",
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
    add("--Wo", action="store_true", help="give the network the fundamental as well")
    epochs_help = f"passes through the data (default: as many as make {STEPS} steps)"
    add("--epochs", type=plumbing.positive, metavar="N", help=epochs_help)
    seed_help = "the same seed gives the same network (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = "write the network here (default: %(default)s)"
    add("--nnout", type=keras_file, default="ampnn.keras", metavar="NET", help=nnout_help)
    frame_help = "plot frames from F on (default: typical ones)"
    add("--frame", type=plumbing.natural, metavar="F", help=frame_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    add("--removemean", action=plumbing.Gone, const="the network never sees the level of a frame")
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

    A part is what codec2_model.load_pair() gives; "inputs", those of the network; "used" [u], the
    frames that have a target.
    """
    files = [args.features, args.model, *(args.test or [])]
    plumbing.check_outputs([args.nnout], files, args.plot_dir)
    data = codec2_model.cut(load_pair(args.features, args.model, args), args.nb_samples)
    if args.test:
        data["test"] = load_pair(*args.test, args)
    for name, part in data.items():
        part["inputs"] = [part["vectors"], part["Wo"][:, None]] if args.Wo else [part["vectors"]]
        model = args.test[1] if name == "test" else args.model
        least = MIN_FRAMES if name == "train" else 1
        part["used"] = codec2_model.used_frames(part["target"], least, f"{model}: {name} part")
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


def build_network(with_Wo, lines, offset):
    """Network from [bands [n][K] in dB], or [bands, Wo [n][1]], to dB [n][WIDTH].

    Untrained it is the baseline, lines [K][WIDTH] and offset [WIDTH] of fit_baseline(); with Wo,
    that at the frequencies of the harmonics, plus the excess of harmonics_in_bins().
    """
    bands = keras.Input((len(lines),))
    inputs = [bands]
    x = (bands - ops.mean(bands, axis=1, keepdims=True)) / SCALE_DB  # the level does not matter
    if with_Wo:
        Wo = keras.Input((1,))
        inputs.append(Wo)
        log_Wo = ops.log(ops.maximum(Wo, WO_MIN)) + 3  # −1 to 2
        x = layers.Concatenate()([x, log_Wo])
        occupied, shift, excess = harmonics_in_bins(Wo)
    else:
        occupied, shift, excess = 1.0, 0.0, 0.0  # any bin may hold a harmonic

    baseline = layers.Dense(WIDTH, trainable=False, name="interpolation")
    y = envelope = baseline(bands)  # [n][WIDTH]
    baseline.set_weights([lines, offset])
    gradient = np.float32(np.gradient(np.eye(WIDTH), axis=1))  # envelope @ gradient: slope, dB/bin
    for _ in range(CORRECTIONS):
        power = occupied * ops.exp(ops.minimum(y, 120) * (np.log(10) / 10))  # 120 dB: stays finite
        energies = ops.matmul(power, lines.T)  # [n][K], of the bands
        difference = ops.clip(bands - 10 * ops.log10(energies + 1e-3), -20, 20) / SCALE_DB
        x = layers.Dense(HIDDEN, activation="gelu")(layers.Concatenate()([x, difference]))
        x = layers.Add()([x, layers.Dense(HIDDEN, activation="gelu")(x)])
        correction = layers.Dense(WIDTH, kernel_initializer="zeros")(x)
        envelope = layers.Add()([envelope, correction])
        y = envelope + shift * ops.matmul(envelope, gradient) + excess
    return keras.Model(inputs, y, name=NAME)


def harmonics_in_bins(Wo):
    """Where the harmonics of Wo [n][1] fall, three arrays [n][WIDTH].

    occupied  1 if a harmonic falls in the bin, else 0
    shift     its offset from the centre of the bin, in bins
    excess    by how many dB c2sim makes it too loud, as it sums whole FFT bins: for one harmonic 3,
              for the next 4, where 3.5 are meant
    """
    bins = np.arange(WIDTH, dtype=np.float32)
    width = ops.maximum(Wo, WO_MIN) * (FFT_BINS / np.pi)  # FFT bins from harmonic to harmonic
    m = ops.round(ops.divide(bins * (FFT_BINS / WIDTH), width))  # the harmonic nearest to the bin
    shift = m * width * (WIDTH / FFT_BINS) - bins
    occupied = ops.cast(ops.logical_and(ops.abs(shift) <= 0.5, m > 0), "float32")
    nb_fft_bins = ops.floor((m + 0.5) * width + 0.5) - ops.floor((m - 0.5) * width + 0.5)
    excess = 10 * ops.log10(nb_fft_bins / width)
    return occupied, occupied * shift, occupied * excess


def random_filter(bands, target, lines, Fs, rng):
    """Bands [n][K] and target [n][WIDTH] in dB as other microphones, rooms or radios have them.

    Bands are sums of squared amplitudes under triangles, as are the `lines` [K][WIDTH].
    """
    hz = spectra.bins_hz(WIDTH, Fs)
    response = spectra.random_response(
        hz, len(bands), rng, FILTER_DB, cutoffs=CUTOFFS, cutoff_dB=CUTOFF_DB, Fs=Fs
    )
    spectrum = np.where(np.isnan(target), bands @ lines, target)
    change = energies_dB(spectrum + response, lines) - energies_dB(spectrum, lines)
    return bands + change, target + response


def energies_dB(spectrum, lines):
    """Band energies [...][K] in dB of spectra [...][WIDTH] in dB."""
    return 10 * np.log10(10 ** (spectrum / 10) @ lines.T + 1e-30)  # 1e-30: for empty bands


def train(network, data, lines, args):
    """Fit the network until all epochs are done, or Ctrl-C.

    Returns [[training loss, held-out loss] in dB²] of the epochs done, and how many were planned.
    Training frames are filtered at random, held-out frames are as they are.
    """
    part, held_out = data["train"], data["held-out"]
    rng = np.random.default_rng(args.seed)
    steps = math.ceil(len(part["used"]) / BATCH)
    epochs = args.epochs or max(1, round(STEPS / steps))
    print(f"epochs: {epochs}")
    print(f"steps: {epochs * steps}")
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps)
    model = keras.Model(network.inputs, network.outputs)  # the network itself has no optimiser
    model.compile(keras.optimizers.AdamW(rate, WEIGHT_DECAY), sparse_loss)
    progress, losses = plumbing.Progress(epochs), []
    try:
        for epoch in range(1, epochs + 1):
            batch_losses = []
            for frames in np.array_split(rng.permutation(part["used"]), steps):
                bands, *Wo = (values[frames] for values in part["inputs"])
                bands, target = random_filter(bands, part["target"][frames], lines, args.Fs, rng)
                batch_losses.append(model.train_on_batch([bands, *Wo], target))
            loss = np.mean(batch_losses)
            held_out_loss = model.evaluate(held_out["inputs"], held_out["target"], BATCH, verbose=0)
            losses.append((loss, held_out_loss))
            progress.show(epoch, f"train {loss:.2f}, held-out {held_out_loss:.2f} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        if not losses:
            raise
        # main() saves the network before it prints anything
    return losses, epochs


def estimate(models, part, frames):
    """Spectra {label: dB [f][WIDTH]} of some frames of a part of the data, by their numbers [f]."""
    return models.predict_on_batch([values[frames] for values in part["inputs"]])


def evaluate(models, data):
    """{part: {label: Figures}} of the network and of its baseline."""
    figures = {}
    for name, part in data.items():
        estimate_part = functools.partial(estimate, models, part)
        figures[name] = spectra.measure_blocks(part["target"], estimate_part)
    return figures


def plot(losses, figures, models, part, args):
    """SD by epoch; SD over time and spectra of a part with its {label: Figures}."""
    sd, used = figures["network"].sd, part["used"]
    numbers = part["number"][used]
    labels = ["training part, filtered", "held-out part"]
    pictures = {
        f"{NAME}_loss": plots.plot_losses(losses, labels, "SD (dB²)"),
        f"{NAME}_sd": plots.plot_sd(figures, numbers),
    }
    plots.show(pictures, args.plot_dir)
    level = part["vectors"][used].mean(axis=1)
    shown = plots.frames_to_show(args.frame, numbers, sd, level)
    titles = [f"frame {numbers[i]}: SD {sd[i]:.1f} dB²" for i in shown]
    model = args.test[1] if args.test else args.model
    records = codec2_model.read_frames(model, numbers[shown])
    estimates = estimate(models, part, used[shown])
    plots.page_frames(records, titles, estimates, f"{NAME}_frames", args.plot_dir, args.Fs)


def main(args, data):
    networks.set_up(args.seed)
    networks.print_device()
    lines, offset = fit_baseline(data["train"]["vectors"], args)
    network = build_network(args.Wo, lines, offset)
    losses, epochs = train(network, data, lines, args)
    options = {
        "input": "bands and Wo" if args.Wo else "bands",
        "eband_K": args.eband_K,
        "eband_start": args.eband_start,
        "gain": args.gain,
        "Fs": args.Fs,
        "width": WIDTH,
        "dec": 1,
        "epochs": len(losses),
        "seed": args.seed,
    }
    networks.save(network, options, args.nnout)
    if len(losses) < epochs:
        print(f"stopped: after {len(losses)} of {epochs} epochs")
    interpolation = network.get_layer("interpolation").output
    outputs = {"network": network.output, "interpolation": interpolation}
    models = keras.Model(network.inputs, outputs)
    figures = evaluate(models, data)
    for part, found in figures.items():
        spectra.print_figures(part, found)
    last = "test" if args.test else "held-out"
    if not args.noplots:
        plot(losses, figures[last], models, data[last], args)
    print(f"{figures[last]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
