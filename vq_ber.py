#!/usr/bin/env python3
"""What do bit errors do to a quantiser, and how much does the numbering of its codewords matter?

Usage:
    ./vq_ber.py vq.keras test.f32                               # SD over the bit error rate, as numbered and renumbered
    ./vq_ber.py vq.keras train.f32 --nnout vq_renumbered.keras  # writes the renumbered network

A wrong bit makes the receiver take another codeword, so those near each other should have numbers that differ in one
bit.  Every stage is ordered along the principal axis of its codewords and numbered in Gray code; then pairs of them
swap numbers as long as that lowers the expected squared error of one wrong bit (binary switching).

Units: features in dB; bit error rates in %; errors in dB².

Reference: K. Zeger and A. Gersho, "Pseudo-Gray coding", IEEE Trans. Communications 38(12), 1990.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing

import numpy as np

BER = (0.01, 0.03, 0.1, 0.3, 1, 3)  # %
REPEATS = 4  # each figure is the mean over so many patterns of bit errors
STAGE_BER = 1  # %, of the figures for one stage alone


def parse_args(argv=None):
    parser = ArgumentParser(description="Bit errors.", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("network", metavar="NET", help="network of vq_vae_ratek_conv1d.py")
    parser.add_argument("features", metavar="FEATURES", help="rate K vectors to code, in dB")
    parser.add_argument("--ber", type=float, nargs="+", default=BER, metavar="%", help="bit error rates")
    parser.add_argument("--nb_samples", type=plumbing.positive, metavar="N", help="use the first N frames")
    parser.add_argument("--seed", type=plumbing.natural, default=1, help="of the bit errors")
    parser.add_argument("--nnout", metavar="NET2", help="write the renumbered network here")
    parser.add_argument("--noplots", action="store_true", help="print figures only")
    parser.add_argument("--plot_dir", metavar="DIR", help="write the picture there instead of opening a window")
    args = parser.parse_args(argv)
    if not (all(0 <= ber <= 50 for ber in args.ber) and any(args.ber)):
        parser.error("--ber must be 0 to 50 %, and one above 0")
    if args.nnout and not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    return args


def load(args):
    """{"x": rate K vectors [n][K] in dB, "options": those of the network}."""
    plumbing.check_outputs([args.nnout], [args.network, args.features], None if args.noplots else args.plot_dir)
    expected = {"script": ("vq_vae_ratek_conv1d",), "eband_K": range(2, 161)}
    options = plumbing.read_options(args.network, expected | {"num_embedding": [2**bits for bits in range(1, 17)]})
    x = codec2_model.read_rate_K(args.features, options["eband_K"], max_nb_samples=args.nb_samples)
    return {"x": x, "options": options}


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

import vq_search  # imports Keras
import vq_vae_ratek_conv1d as coder

from keras import ops


def renumber(codebook, use):
    """Codeword [M] for each number, so that one wrong bit costs little; codebook [M][dim], use [M] of the codewords.

    Codewords 0, 1, 2, 3 on a line, equally used: the numbers 00, 01, 10, 11 cost least, errors of 1, 2, 1 and 2.
    """
    M = len(codebook)
    axis = np.linalg.eigh(np.atleast_2d(np.cov(codebook.T)))[1][:, -1]
    number = np.arange(M) ^ np.arange(M) >> 1  # Gray code of the place along the principal axis
    codeword = np.empty(M, int)
    codeword[number] = np.argsort(codebook @ axis)
    codebook, use = np.float64(codebook[codeword]), use[codeword]
    product = codebook @ codebook.T  # float64 and symmetric: rounding errors of the gains made pairs swap for ever
    power = np.diag(product)
    distance = np.maximum(power[:, None] + power - 2 * product, 0)
    cost = distance * (use[:, None] + use)  # of taking one number for the other, both ways
    neighbours = np.arange(M)[:, None] ^ (1 << np.arange(M.bit_length() - 1))  # [M][bits]
    swapped = True
    while swapped:
        swapped = False
        for a in range(M):
            now = np.take_along_axis(cost, neighbours, axis=1).sum(axis=1)  # [M], of wrong bits in each number
            a_moved = cost[a, neighbours].sum(axis=1)  # [M], if the codeword of number a had each number
            other_moved = cost[neighbours[a]].sum(axis=0)  # [M], if the codeword of each number had number a
            gain = now[a] + now - a_moved - other_moved
            gain[neighbours[a]] -= 2 * cost[a, neighbours[a]]  # these two stay neighbours
            b = np.argmax(gain)
            if gain[b] > 1e-6 * now[a]:
                cost[[a, b]] = cost[[b, a]]
                cost[:, [a, b]] = cost[:, [b, a]]
                codeword[[a, b]] = codeword[[b, a]]
                swapped = True
    return codeword


def renumber_network(network, indices):
    """Renumber the codewords of a network for their use in indices [v][stages], which are returned as renumbered."""
    quantizer = network.get_layer("quantizer")
    codebooks, counts = (np.array(ops.convert_to_numpy(x)) for x in (quantizer.codebooks, quantizer.counts))
    renumbered = np.empty_like(indices)
    for stage, index in enumerate(indices.T):
        use = np.bincount(index, minlength=quantizer.M) + 1  # of rare codewords, a short file has none
        codeword = renumber(codebooks[stage], use / use.sum())
        codebooks[stage], counts[stage] = codebooks[stage][codeword], counts[stage][codeword]
        renumbered[:, stage] = np.argsort(codeword)[index]
    quantizer.codebooks.assign(codebooks)
    quantizer.counts.assign(counts)
    return renumbered


def flip_bits(indices, M, ber, rng):
    """Indices [v][stages] of M codewords after a channel that flips each bit with a probability of `ber` [stages] %."""
    bits = np.arange(M.bit_length() - 1)
    wrong = rng.random((*indices.shape, len(bits))) < ber[:, None] / 100
    return indices ^ (wrong << bits).sum(axis=-1)


def sd_after(network, indices, x, counted, ber, seed):
    """SD in dB² of what the receiver makes of indices [v][stages] after bit errors at the rates `ber` [stages] in %."""
    rng, quantizer, sd = np.random.default_rng(seed), network.get_layer("quantizer"), []
    for _ in range(REPEATS):
        received = flip_bits(indices, quantizer.M, ber, rng)
        x_hat = vq_search.decode(network, ops.convert_to_numpy(quantizer.decode(received)))[: len(x)]
        sd.append(np.mean((x - x_hat)[counted] ** 2))
    return np.mean(sd)


def main(args, data):
    x, options = data["x"], data["options"]
    coder_args = coder.parse_args([args.features, "--nnin", args.network])
    coder.load(coder_args)  # checks all options of the network and takes them over
    network = vq_search.load_network(args.network, coder_args)
    counted = codec2_model.is_counted(x, coder_args.lower)
    _, indices, x_hat = vq_search.code(network, x, coder_args.sweeps, coder_args)
    print(f"frames counted: {np.count_nonzero(counted)} of {len(x)}")
    print(f"without bit errors SD: {np.mean((x - x_hat)[counted] ** 2):.2f} dB²")
    nb_stages = options["vq_stages"]
    channels = [(f"{STAGE_BER} % in stage {i + 1} only", STAGE_BER * np.eye(nb_stages)[i]) for i in range(nb_stages)]
    channels += [(f"{ber:g} %", np.full(nb_stages, ber)) for ber in args.ber]
    sd = {"as numbered": [], "renumbered": []}
    for name, values in sd.items():
        if name == "renumbered":
            indices = renumber_network(network, indices)
        for channel, ber in channels:
            values.append(sd_after(network, indices, x, counted, ber, args.seed))
            print(f"{name} SD at {channel}: {values[-1]:.2f} dB²")
    if args.nnout:
        shape = nb_stages, options["num_embedding"], options["eband_K"]
        classical = plumbing.read_array(args.network, "classical", shape)
        plumbing.save_network(network, options, args.nnout, classical=np.float16(classical))
    if not args.noplots:
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
        for name, values in sd.items():
            ax.loglog(args.ber, values[nb_stages:], "o-", label=name)
        ax.set(xlabel="Bit error rate (%)", ylabel="SD of vectors (dB²)", title="Numbering of the codewords")
        ax.grid(alpha=0.3, which="both")
        ax.legend()
        plumbing.show({"vq_ber": fig}, args.plot_dir)
    print(f"{sd['renumbered'][-1]:.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
