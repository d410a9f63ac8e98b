#!/usr/bin/env python3
"""Send and receive rate K vectors through a quantiser that was trained here.

Usage:
    ./vq_out.py networks/vq_K14_1100.keras bands.f32                       # figures and pages
    ./vq_out.py NET bands.f32 --indexout bands.npy                         # the sender
    ./vq_out.py NET --indexin bands.npy --testout decoded.f32              # the receiver
    ./vq_out.py NET bands.f32 --lookahead 0                                # usually 40 ms less
    ./vq_out.py NET bands.f32 --vqout codebooks                            # codebooks_latent_1.f32…

NET is a network of vq_vae_ratek.py, vq_vae_ratek_conv1d.py or a copy of one of them.  The sender
turns frames into one index per stage for every vector of `dec` frames, as it was trained.  It keeps
several sequences of indices and compares them by what the receiver will decode (common/search.py);
--testout is that to the last bit.  Beside the network stands the classical quantiser that it brings
along, which has as many bits, the same search and the same delay.

In the indices, int32 [vectors][stages] in an .npy file, vectors that were lost on the way are −1
in all stages: the receiver puts something between their neighbours.

Frames that do not count in the figures are coded, too: those whose mean level was too low to be
trained on.

Units: vectors in dB, float32 [frames][K]; delays and look-ahead in ms; errors in dB².
"""

import argparse
import functools
import sys

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError

NAME = "vq_out"
ANALYSIS_MS = 20  # of speech after the middle of a frame that c2sim.py looks at
MOST_CHANGE = 1.0  # of shapes from frame to frame; vectors of another K have 1.3 and more
MOST_DISTANCE = 1.5  # of shapes from those of the training; most speech has 0.7 to 1.3


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Send and receive rate K vectors through a trained quantiser.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = {"type": plumbing.positive, "metavar": "N"}
    add("network", metavar="NET", help="network of vq_vae_ratek*.py")
    add("features", nargs="?", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    gain_help = "features divided by this are log10(energy) (default: 10, dB)"
    add("--gain", type=plumbing.gain, metavar="G", help=gain_help)
    add("--nb_samples", **number, help="use the first N frames")
    add("--indexout", metavar="NPY", help="write the indices")
    add("--testout", metavar="F32", help="write the decoded vectors, in dB")
    add("--indexin", metavar="NPY", help="decode these indices to --testout, without FEATURES")
    add("--vqout", metavar="STEM", help="write the codebooks to STEM_latent_1.f32 and so on")
    add("--mbest", **number, help="partial sums that the search carries from stage to stage")
    lookahead_help = "of the search (default: 40 or one vector; 0 if vectors share no frames)"
    add("--lookahead", type=plumbing.natural, metavar="ms", help=lookahead_help)
    add("--stages", **number, help="send the indices of the first N stages only")
    frame_help = "pages show frames from F on (default: typical ones)"
    add("--frame", type=plumbing.natural, metavar="F", help=frame_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if bool(args.indexin) == bool(args.features):
        parser.error("give FEATURES to send, or --indexin and --testout to receive")
    if args.indexin:
        if not args.testout:
            parser.error("--indexin goes with --testout")
        senders = "gain nb_samples indexout vqout mbest lookahead stages frame noplots plot_dir"
        for name in senders.split():
            if getattr(args, name) is not parser.get_default(name):
                parser.error(f"--{name} has no effect with --indexin")
    if args.noplots and not (args.plot_dir is None and args.frame is None):
        parser.error("--plot_dir and --frame have no effect with --noplots")
    return args


def load(args):
    """{"options"} of the network and {"vectors": [n][K] in dB}, or {"indices"} to decode."""
    options = networks.read_quantiser_options(args.network)
    if args.stages is not None and args.stages > options["vq_stages"]:
        why = f"a network of {options['vq_stages']} stages, --stages {args.stages} asks for more"
        raise FormatError(f"{args.network}: {why}")
    outputs = [args.indexout, args.testout, *codebook_names(args.vqout, options["vq_stages"])]
    inputs = [args.network, args.features, args.indexin]
    plumbing.check_outputs(outputs, inputs, args.plot_dir)
    if args.indexin:
        sizes = options["num_embedding"], options["vq_stages"], options["dec"]
        return {"options": options, "indices": codec2_model.read_indices(args.indexin, *sizes)}
    K, gain = options["eband_K"], args.gain or 10
    x = codec2_model.read_rate_K(args.features, K, gain, args.nb_samples)
    counted = np.flatnonzero(spectra.is_counted(x, options["lower"]))
    if len(counted) == 0:
        why = f"no frame with a mean level above {options['lower']:g} dB"
        raise FormatError(f"{args.features}: {why}: silence, or speech that is too quiet")
    if args.frame is not None and args.frame > counted[-1]:
        expected = f"expected 0 to {counted[-1]}"
        raise FormatError(f"{args.features}: no --frame {args.frame} to show, {expected}")
    statistics = networks.read_arrays(args.network).get("shape")
    if statistics is not None and statistics.shape != (2, K):
        found = f"statistics of shape {statistics.shape}, expected (2, {K})"
        raise FormatError(f"{args.network}: a network with {found}")
    return {"options": options, "vectors": x, "statistics": statistics}


def codebook_names(stem, stages):
    """Names of the files of --vqout: of the encoder's space, and classical ones."""
    if stem is None:
        return []
    return [f"{stem}_{kind}_{i + 1}.f32" for kind in ("latent", "classical") for i in range(stages)]


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    from common import search

# ---------------------------------------------------------------- what goes in


def look_at(filename, x, options, statistics):
    """Print how long and loud the vectors x [n][K] are, and warn when they are not as in training.

    statistics [2][K] is what spectra.shape_statistics() gave of the training vectors, or None.
    """
    if (options["eband_K"], options["Fs"]) in spectra.KINDS:
        spectra.print_level(filename, spectra.frame_levels(x, options["Fs"]))
    counted = x[spectra.is_counted(x, options["lower"])]
    print(f"frames above {options['lower']:g} dB: {len(counted)} of {len(x)}")
    if statistics is None:
        return
    change = spectra.shape_change(counted, statistics)
    distance = spectra.shape_distance(counted, statistics)
    print(f"distance from the training vectors: {distance:.2f}, usual is 0.7 to 1.3")
    if change > MOST_CHANGE:
        why = f"vectors change by {change:.2f} from frame to frame, speech by 0.2 to 0.5"
        warn(filename, f"{why}: another K, kind or frame rate?")
    elif distance > MOST_DISTANCE:
        warn(filename, f"vectors at a distance of {distance:.2f} from those of the training")


def warn(filename, text):
    print(f"{filename}: warning: {text}", file=sys.stderr)


# ---------------------------------------------------------------- sender and receiver


def make_coders(quantiser, lookahead_ms):
    """{label: (Coder, look-ahead in ms)} of the network and of its baseline, at the same delay."""
    network, classical = search.coder_of(quantiser), search.baseline_of(quantiser)
    if lookahead_ms is None:
        lookahead_ms = search.usual_lookahead_ms(network)
    coders = {"network": (network, lookahead_ms)}
    if classical is not None:
        rest = search.delay_ms(network, lookahead_ms) - search.delay_ms(classical, 0)
        coders["classical VQ"] = (classical, max(rest, 0))
    return coders


def print_rate(coders, stages, M, dec):
    """Print bits and delays, so that nobody has to add them up."""
    coder, lookahead_ms = coders["network"]
    bits = stages * np.log2(M)
    delay_ms = search.delay_ms(coder, lookahead_ms)
    print(f"bits: {bits:g} per vector of {dec} frames")
    print(f"bit rate: {bits / (dec * spectra.FRAME_S):g} bit/s")
    print(f"delay of encoder and decoder: {search.delay_ms(coder, 0)} ms")
    print(f"delay of the search: {delay_ms - search.delay_ms(coder, 0)} ms")
    print(f"delay of the analysis: {ANALYSIS_MS} ms")
    print(f"algorithmic delay: {delay_ms + ANALYSIS_MS} ms")
    if "classical VQ" in coders:
        classical = search.delay_ms(*coders["classical VQ"])
        print(f"algorithmic delay of the classical VQ: {classical + ANALYSIS_MS} ms")


def evaluate(coders, x, lower, stages, mbest):
    """Code x [n][K] with {label: (Coder, look-ahead)}: {label: Figures}, indices and frames of
    each.
    """
    target = np.where(spectra.is_counted(x, lower)[:, None], x, np.nan)
    options = {"lower": lower, "stages": stages}
    if mbest is not None:
        options["m_best"] = mbest
    figures, indices, decoded = {}, {}, {}
    for label, (coder, lookahead_ms) in coders.items():
        indices[label] = search.send(coder, x, lookahead_ms=lookahead_ms, **options)
        decoded[label] = search.receive(coder, indices[label], len(x))
        figures[label] = spectra.measure(target, decoded[label])
    return figures, indices, decoded


def print_rms(figures):
    """Print the rms error of a frame, which is what the literature has, and how often it is
    large.
    """
    for label, found in figures.items():
        rms = np.sqrt(found.sd)
        print(f"{label} rms error of a frame: {rms.mean():.2f} dB")
        for limit in (2, 4):
            print(f"{label} frames above {limit} dB: {100 * np.mean(rms > limit):.2f} %")


def write(args, coders, fingerprint, indices, decoded):
    """Write all outputs that were asked for, or none; decoded [n][K] are frames."""
    outputs = {}  # {file name: what writes a file}
    if args.indexout:
        outputs[args.indexout] = functools.partial(
            codec2_model.write_indices, indices, len(decoded), fingerprint
        )
    if args.testout:
        outputs[args.testout] = functools.partial(codec2_model.write_rate_K, decoded)
    if args.vqout:
        books = [book for coder, _ in coders.values() for book in coder.codebooks]
        names = codebook_names(args.vqout, len(coders["network"][0].codebooks))
        for name, book in zip(names, books, strict=False):  # there may be no classical ones
            outputs[name] = functools.partial(codec2_model.write_rate_K, book)
            print(f"{name}: {len(book)} codewords of {book.shape[1]} values")
        print("codebooks named latent hold values of the encoder, not of vectors")
    plumbing.write_all(outputs)


def plot(figures, x, decoded, args, options):
    """SD over time, and pages of frames that count: x [n][K] and decoded ones."""
    numbers = np.flatnonzero(spectra.is_counted(x, options["lower"]))
    plots.show({f"{NAME}_sd": plots.plot_sd(figures, numbers)}, args.plot_dir)
    sd = figures["network"].sd
    files = {"original": x[numbers], "decoded": decoded[numbers]}
    shown = plots.frames_to_show(args.frame, numbers, sd, files["original"].mean(axis=1))
    titles = [f"frame {numbers[i]}: SD {sd[i]:.1f} dB²" for i in shown]
    kind = spectra.KINDS.get((options["eband_K"], options["Fs"]))
    hz = None if kind is None else kind.hz
    plots.page_vectors(files, shown, titles, f"{NAME}_frames", args.plot_dir, hz)


def receive(args, quantiser, indices, n_frames, fingerprint):
    """Decode indices [v][stages] and write the frames."""
    if fingerprint != quantiser.fingerprint:
        which = f"{fingerprint:08x}, that of {args.network} is {quantiser.fingerprint:08x}"
        raise FormatError(f"{args.indexin}: indices of another network: {which}")
    x_hat = search.receive(search.coder_of(quantiser), indices, n_frames)
    codec2_model.write_rate_K(x_hat, args.testout)
    lost = np.mean((indices < 0).any(axis=1))
    print(f"frames: {n_frames}")
    print(f"length: {n_frames * spectra.FRAME_S:.2f} s")
    print(f"lost vectors: {100 * lost:.1f} %")


def main(args, data):
    quantiser = networks.load_quantiser(args.network)
    options = data["options"]
    if args.indexin:
        receive(args, quantiser, *data["indices"])
        return
    x, lower = data["vectors"], options["lower"]
    stages = args.stages or options["vq_stages"]
    look_at(args.features, x, options, data["statistics"])
    coders = make_coders(quantiser, args.lookahead)
    print_rate(coders, stages, options["num_embedding"], options["dec"])
    figures, indices, decoded = evaluate(coders, x, lower, stages, args.mbest)
    write(args, coders, quantiser.fingerprint, indices["network"], decoded["network"])
    spectra.print_figures("file", figures)
    print_rms(figures)
    if not args.noplots:
        plot(figures, x, decoded["network"], args, options)
    print(f"{figures['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
