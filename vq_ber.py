#!/usr/bin/env python3
"""What do bit errors and lost vectors do to a quantiser, and does numbering its codewords help?

Usage:
    ./vq_ber.py networks/vq_K14_1100.keras test.f32              # SD over the bit error rate
    ./vq_ber.py vq.keras train.f32 --nnout vq_renumbered.keras   # writes the renumbered network

A wrong bit makes the receiver take another codeword, so those near each other should have numbers
that differ in one bit.  Every stage is ordered along the principal axis of its codewords and
numbered in Gray code; then pairs of them swap numbers as long as that lowers the expected squared
error of one wrong bit (binary switching).  Beside it stand the numbers that the network has, and
random ones.  The networks in networks/ have been renumbered already.

The last line is the SD at 1 % bit errors, renumbered.

Units: features in dB; rates in %; errors in dB².

Reference: K. Zeger and A. Gersho, "Pseudo-Gray coding", IEEE Trans. Communications 38(12), 1990.
"""

import argparse
import functools

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError

NAME = "vq_ber"
BER = (0.01, 0.03, 0.1, 0.3, 1, 3)  # %
STATED_BER = 1  # %, of the last line and of the figures for one stage alone
LOST = 5  # % of the vectors
REPEATS = 4  # each figure is the mean over so many patterns of errors


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Measure what bit errors do to a quantiser, and renumber its codewords.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("network", metavar="NET", help="network of vq_vae_ratek*.py")
    add("features", metavar="FEATURES", help="rate K vectors to code, in dB")
    ber_help = f"bit error rates (default: {' '.join(map(str, BER))})"
    add("--ber", type=float, nargs="+", default=BER, metavar="%", help=ber_help)
    add("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    seed_help = "of the errors and of the random numbers (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = "write the renumbered network here"
    add("--nnout", type=plumbing.keras_file, metavar="NET2", help=nnout_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write the picture there instead of opening a window")
    args = parser.parse_args(argv)
    if not all(0 < ber <= 50 for ber in args.ber):  # false for nan
        parser.error("--ber must be above 0 and at most 50 %")
    if args.noplots and args.plot_dir is not None:
        parser.error("--plot_dir has no effect with --noplots")
    return args


def load(args):
    """{"vectors": [n][K] in dB, "options": those of the network}."""
    plumbing.check_outputs([args.nnout], [args.network, args.features], args.plot_dir)
    options = networks.read_quantiser_options(args.network)
    M = options["num_embedding"]
    if M & (M - 1):
        why = f"{M} codewords, expected a power of 2: others have no bits to flip"
        raise FormatError(f"{args.network}: {why}")
    K = options["eband_K"]
    x = codec2_model.read_rate_K(args.features, K, max_nb_samples=args.nb_samples)
    if not spectra.is_counted(x, options["lower"]).any():
        why = f"no frame with a mean level above {options['lower']:g} dB"
        raise FormatError(f"{args.features}: {why}")
    return {"vectors": x, "options": options}


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    from common import search

# ---------------------------------------------------------------- numbers of codewords


def renumber(codebook, use):
    """For each number the codeword [M] that it should stand for, so that a wrong bit costs little.

    codebook [M][dim]; use [M] is how often each codeword is sent.  Codewords 0, 1, 2, 3 on a line,
    equally used: the numbers 00, 01, 10, 11 cost least, errors of 1, 2, 1 and 2.
    """
    M = len(codebook)
    axis = np.linalg.eigh(np.atleast_2d(np.cov(codebook.T)))[1][:, -1]
    number = np.arange(M) ^ np.arange(M) >> 1  # Gray code of the place along the principal axis
    codeword = np.empty(M, int)
    codeword[number] = np.argsort(codebook @ axis)
    # float64 and symmetric: with rounding errors in the gains, pairs swapped for ever
    codebook, use = np.float64(codebook[codeword]), use[codeword]
    product = codebook @ codebook.T
    power = np.diag(product)
    distance = np.maximum(power[:, None] + power - 2 * product, 0)
    cost = distance * (use[:, None] + use)  # of taking one number for the other, both ways
    neighbours = np.arange(M)[:, None] ^ (1 << np.arange(M.bit_length() - 1))  # [M][bits]
    swapped = True
    while swapped:
        swapped = False
        for a in range(M):
            # [M]: cost of wrong bits in each number
            now = np.take_along_axis(cost, neighbours, axis=1).sum(axis=1)
            # [M], for each number b: cost of a's codeword at b, and of b's codeword at a
            a_moved = cost[a, neighbours].sum(axis=1)
            other_moved = cost[neighbours[a]].sum(axis=0)
            gain = now[a] + now - a_moved - other_moved
            gain[neighbours[a]] -= 2 * cost[a, neighbours[a]]  # these two stay neighbours
            b = np.argmax(gain)
            if gain[b] > 1e-6 * now[a]:
                cost[[a, b]] = cost[[b, a]]
                cost[:, [a, b]] = cost[:, [b, a]]
                codeword[[a, b]] = codeword[[b, a]]
                swapped = True
    return codeword


def good_numbers(codebooks, indices):
    """For each number the codeword [stages][M] that it should stand for; indices [v][stages] tell
    how often each is sent.
    """
    numbers = []
    for codebook, index in zip(codebooks, indices.T, strict=True):
        use = np.bincount(index, minlength=len(codebook)) + 1  # a short file lacks rare codewords
        numbers.append(renumber(codebook, use / use.sum()))
    return np.array(numbers)


# ---------------------------------------------------------------- errors


def flip_bits(indices, M, ber, rng):
    """Indices [v][stages] of M codewords after bit errors; ber [stages] in % per bit."""
    bits = np.arange(M.bit_length() - 1)
    wrong = rng.random((*indices.shape, len(bits))) < np.asarray(ber)[:, None] / 100
    return indices ^ (wrong << bits).sum(axis=-1)


def lose(indices, share, rng):
    """Indices [v][stages] of which `share` % of the vectors are lost: −1."""
    lost = rng.random(len(indices)) < share / 100
    return np.where(lost[:, None], -1, indices)


def sd_after(errors, coder, numbers, indices, x, lower, seed):
    """SD in dB² of frames x [n][K] after errors(numbers sent [v][stages], rng) on the way.

    numbers [stages][M] are the codewords that numbers stand for, indices [v][stages] codewords.
    """
    rng, counted, sd = np.random.default_rng(seed), spectra.is_counted(x, lower), []
    number_of = np.argsort(numbers, axis=1)
    stage = np.arange(indices.shape[1])
    for _ in range(REPEATS):
        received = errors(number_of[stage, indices], rng=rng)
        is_lost = (received < 0).any(axis=1, keepdims=True)
        decoded = np.where(is_lost, -1, numbers[stage, received])
        x_hat = search.receive(coder, decoded, len(x))
        sd.append(np.mean((x - x_hat)[counted] ** 2))
    return np.mean(sd)


def measure(coder, numberings, indices, x, lower, args):
    """{numbering: {channel: SD in dB²}} for numberings {name: codewords [stages][M]}; prints it."""
    stages, M, _ = coder.codebooks.shape
    channels = {}  # {name: bit error rates [stages] in %}
    for stage in range(stages):
        channels[f"{STATED_BER} % in stage {stage + 1} only"] = STATED_BER * np.eye(stages)[stage]
    for ber in sorted({*args.ber, STATED_BER}):
        channels[f"{ber:g} %"] = np.full(stages, ber)
    found = {}
    for name, numbers in numberings.items():
        found[name] = {}
        for channel, ber in channels.items():
            errors = functools.partial(flip_bits, M=M, ber=ber)
            sd = sd_after(errors, coder, numbers, indices, x, lower, args.seed)
            found[name][channel] = sd
            print(f"{name} SD at {channel}: {sd:.2f} dB²")
    return found


def plot(found, args):
    """SD over the bit error rate."""
    plt = plots.pyplot()

    fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, sd in found.items():
        ax.loglog(args.ber, [sd[f"{ber:g} %"] for ber in args.ber], "o-", label=name)
    ax.set(xlabel="Bit error rate (%)", ylabel="SD of vectors (dB²)")
    ax.set_title("Numbering of the codewords")
    ax.set_xticks(args.ber, [f"{ber:g}" for ber in args.ber])
    ax.yaxis.set_major_formatter("{x:g}")  # 10, not a power of ten
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.grid(alpha=0.3, which="both")
    ax.legend(loc="upper left")
    plots.show({NAME: fig}, args.plot_dir)


def save(quantiser, numbers, filename):
    """Write a Quantiser with its codewords in another order: numbers [stages][M]."""
    codebooks = np.take_along_axis(quantiser.codebooks, numbers[:, :, None], axis=1)
    networks.save_quantiser(
        quantiser.encoder,
        quantiser.decoder,
        codebooks,
        quantiser.predictor,
        quantiser.options,
        filename,
        expected=quantiser.expected,
        **quantiser.baseline,
    )


def main(args, data):
    quantiser = networks.load_quantiser(args.network)
    coder = search.coder_of(quantiser)
    x, lower = data["vectors"], data["options"]["lower"]
    lookahead_ms = search.usual_lookahead_ms(coder)
    indices = search.send(coder, x, lookahead_ms=lookahead_ms, lower=lower)
    stages, M, _ = coder.codebooks.shape
    as_numbered = np.tile(np.arange(M), (stages, 1))
    numberings = {
        "at random": np.random.default_rng(args.seed).permuted(as_numbered, axis=1),
        "as numbered": as_numbered,
        "renumbered": good_numbers(coder.codebooks, indices),
    }
    if args.nnout:
        save(quantiser, numberings["renumbered"], args.nnout)

    counted = np.count_nonzero(spectra.is_counted(x, lower))
    print(f"frames: {counted} of {len(x)}")
    for name, share in (("without errors", 0), (f"{LOST} % lost", LOST)):
        errors = functools.partial(lose, share=share)
        sd = sd_after(errors, coder, as_numbered, indices, x, lower, args.seed)
        print(f"{name} SD: {sd:.2f} dB²")
    found = measure(coder, numberings, indices, x, lower, args)
    if not args.noplots:
        plot(found, args)
    stated = {name: sd[f"{STATED_BER} %"] for name, sd in found.items()}
    print(f"at {STATED_BER} %: {', '.join(f'{name} {sd:.1f}' for name, sd in stated.items())} dB²")
    print(f"{stated['renumbered']:.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
