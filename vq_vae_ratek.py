#!/usr/bin/env python3
"""Train the simplest VQ-VAE on rate K vectors: a Dense layer each side of a one-stage quantiser.

Usage:
    ./vq_vae_ratek.py train.f32 --nnout vq.keras          # K = 14, 7 bits every 10 ms: 700 bit/s
    ./vq_vae_ratek.py train.f32 --dec 2 --num_embedding 16384                  # the same bit rate
    ./vq_out.py vq.keras bands.f32 --indexout bands.npy                        # the sender
    ./vq_out.py vq.keras --indexin bands.npy --testout decoded.f32             # the receiver

A vector is --dec consecutive frames.  The encoder maps it to --embedding_dim values, the quantiser
makes an index of these, and the decoder turns the codeword into --dec frames.  The baseline is
k-means with as many codewords.

Expected: 22 minutes of speech, 15 s on two cores; SD on 8 minutes of 38 held-out speakers, seeds 1
to 3, 37.0 dB² for 7 bits per frame, k-means 37.3.

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import argparse
import math
import warnings

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError

NAME = "vq_vae_ratek"
SCALE_DB = 15  # about the standard deviation of speech; the network sees vectors divided by it
BATCH = 2048  # vectors
STEPS = 2400  # training steps, one batch each; the default of --epochs comes to about as many
EVALUATIONS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 3e-5  # falls to 0 along a cosine; with more, only the training speech is fitted
GAIN_DB = 10  # training vectors are amplified by up to this, up or down,
FILTER_DB = 4  # and filtered by a smooth random response with this rms
KMEANS = 60_000  # vectors that k-means sees
MEASURED = 3000  # most frames of the training and of the held-out part that are measured
PROGRESS = 2000  # most held-out frames that the lines printed during a training are of
ALL_DB = -1000  # mean level above which frames count: all do
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a one-stage VQ-VAE on rate K vectors.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = {"type": plumbing.positive, "metavar": "N"}
    add("features", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    test_help = "another file, never trained on: the last figure and the plots are of it"
    add("--test", metavar="F32", help=test_help)
    K_help = "values in a vector (default: 14; 18 with --Fs 16000; 20 for newamp1)"
    add("--eband_K", **number, default=14, help=K_help)
    Fs_help = "sample rate of the speech (default: 8000)"
    add("--Fs", type=plumbing.positive, default=spectra.FS_HZ, metavar="Hz", help=Fs_help)
    gain_help = "features divided by this are log10(energy) (default: 10, for dB)"
    add("--gain", type=plumbing.gain, default=10, metavar="G", help=gain_help)
    add("--nb_samples", **number, help="use the first N frames")
    add("--dec", **number, default=1, help="frames per quantised vector (default: 1)")
    add("--overlap", action="store_true", help="training vectors start at every frame")
    add("--num_embedding", **number, default=128, help="codewords (default: 128)")
    dim_help = "values that are quantised (default: --eband_K times --dec)"
    add("--embedding_dim", **number, help=dim_help)
    epochs_help = f"passes through the frames (default: as many as make {STEPS} steps)"
    add("--epochs", **number, help=epochs_help)
    seed_help = "the same seed gives the same network (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = f"write the network here (default: {NAME}.keras)"
    nnout = f"{NAME}.keras"
    add("--nnout", type=plumbing.keras_file, default=nnout, metavar="NET", help=nnout_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    for name in ("--nnin", "--indexin", "--indexout", "--testout", "--vqout"):
        add(name, action=plumbing.Gone, const="vq_out.py has it, for a trained network")
    for name in ("--removemean", "--scale"):
        add(name, action=plumbing.Gone, const="scaling is learnt from the training part")
    args = parser.parse_args(argv)
    if (args.eband_K, args.Fs) not in spectra.KINDS:
        known = f"known are {spectra.kinds_in_words()}"
        add_one = "another kind is a row of KINDS in common/spectra.py"
        parser.error(f"--eband_K {args.eband_K}, --Fs {args.Fs}: {known}; {add_one}")
    args.embedding_dim = args.embedding_dim or args.dec * args.eband_K
    for name, allowed in networks.QUANTISER_OPTIONS.items():
        if name in args and getattr(args, name) not in allowed:
            parser.error(f"--{name} must be {networks.in_words(allowed)}")
    if args.embedding_dim > args.dec * args.eband_K:
        parser.error("--embedding_dim must be at most --eband_K times --dec")
    if args.noplots and args.plot_dir is not None:
        parser.error("--plot_dir has no effect with --noplots")
    return args


def load(args):
    """{"train", "held-out"} and, with --test, {"test"}: rate K vectors [n][K] in dB."""
    plumbing.check_outputs([args.nnout], [args.features, args.test], args.plot_dir)
    x = codec2_model.read_rate_K(args.features, args.eband_K, args.gain, args.nb_samples)
    nb_train = len(x) - len(x) // 10  # the rest is cut off before vectors overlap
    least = max(MIN_FRAMES, 10 * args.dec)  # the held-out part has a vector as well
    expected = max(least, args.dec * args.num_embedding)
    if nb_train < expected:
        seconds = math.ceil(expected * spectra.FRAME_S / 0.9)
        advice = f"expected {expected}: give it {seconds} s of speech"
        if nb_train >= least:
            advice += f", or --num_embedding {2 ** int(np.log2(nb_train / args.dec))}"
        raise FormatError(f"{args.features}: {nb_train} frames to train on, {advice}")
    data = {"train": x[:nb_train], "held-out": x[nb_train:]}
    if args.test:
        data["test"] = codec2_model.read_rate_K(args.test, args.eband_K, args.gain)
    return data


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2

from common import search

# ---------------------------------------------------------------- quantiser


class VectorQuantizer(layers.Layer):
    """Vectors x [..., dim] become x_q, the nearest of M codewords; its gradient goes to x.

    The codebook loss pulls codewords to their vectors, the commitment loss pulls vectors to their
    codeword.  The unused loss pulls all codewords to the mean vector: so weakly that it only moves
    those that are nearest to no vector.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], codebook loss 0.1² / 2 =
    0.005, commitment loss 0.25 · 0.005 = 0.00125, unused loss 0.001 · (0.9² + 0.1²) / 4 = 0.000205.
    """

    def __init__(self, num_embedding, embedding_dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.beta = embedding_dim, beta
        self.codebook = self.add_weight((num_embedding, embedding_dim), name="codebook")

    def search(self, x):
        """Indices [n] of the codewords nearest to x [n][dim].

        The distance lacks x², which is the same for all codewords.
        """
        power = ops.sum(self.codebook**2, axis=1)
        distance = power - 2 * ops.matmul(x, ops.transpose(self.codebook))
        return ops.argmin(distance, axis=1)

    def call(self, inputs):
        x = ops.reshape(inputs, (-1, self.dim))
        x_q = ops.take(self.codebook, self.search(x), axis=0)
        fixed = ops.stop_gradient(x)
        mean = ops.mean(fixed, axis=0)
        self.add_loss(ops.mean((fixed - x_q) ** 2))  # codebook loss
        self.add_loss(self.beta * ops.mean((x - ops.stop_gradient(x_q)) ** 2))  # commitment loss
        self.add_loss(0.001 * ops.mean((mean - self.codebook) ** 2))  # unused loss
        # straight-through: the value is exactly x_q, the gradient that of the identity
        return ops.reshape(ops.stop_gradient(x_q) + (x - fixed), ops.shape(inputs))


# ---------------------------------------------------------------- network


def build_network(mean, args):
    """Network from frames [n][frames][K] to decoded ones; `mean` [K] is that of the training part.

    Its layers are encoder, quantizer and decoder.
    """
    K, size = args.eband_K, args.dec * args.eband_K
    scale = {"mean": mean, "variance": np.full(K, SCALE_DB**2)}

    frames = keras.Input((None, K))
    hidden = layers.Normalization(**scale)(frames)
    hidden = layers.Reshape((-1, size))(hidden)  # [n][vectors][dec · K]
    z_e = layers.Dense(args.embedding_dim, name="to_axes")(hidden)
    encoder = keras.Model(frames, z_e, name="encoder")

    z_q = keras.Input((None, args.embedding_dim))
    hidden = layers.Dense(size, name="from_axes")(z_q)
    hidden = layers.Reshape((-1, K))(hidden)  # [n][frames][K]
    decoded = layers.Normalization(**scale, invert=True)(hidden)
    decoder = keras.Model(z_q, decoded, name="decoder")

    quantizer = VectorQuantizer(args.num_embedding, args.embedding_dim, name="quantizer")
    return keras.Model(frames, decoder(quantizer(encoder(frames))))


def random_filter(vectors, args, rng):
    """Vectors [n][dec][K] in dB as other microphones, rooms or radios would have recorded them."""
    hz = spectra.KINDS[args.eband_K, args.Fs].hz
    response = spectra.random_response(hz, len(vectors), rng, FILTER_DB, GAIN_DB, Fs=args.Fs)
    return vectors + response[:, None]


# ---------------------------------------------------------------- training


def fit_kmeans(x, M):
    """Codebook float32 [M][dim] of k-means for vectors x [n][dim], which starts at the first M."""
    with warnings.catch_warnings(action="ignore"):  # about codewords that are nearest to no vector
        return np.float32(kmeans2(x, x[:M], 20, minit="matrix")[0])


def start_as_kmeans(network, x, codebook):
    """Start as PCA and k-means: the encoder projects on the principal axes of x [n][dec · K]."""
    encoder, decoder = network.get_layer("encoder"), network.get_layer("decoder")
    dim = encoder.output.shape[-1]
    _, axes = np.linalg.eigh(np.cov(x.T))
    axes = axes[:, ::-1][:, :dim]  # those with the largest variances, which come last
    encoder.get_layer("to_axes").set_weights([axes, np.zeros(dim)])
    decoder.get_layer("from_axes").set_weights([axes.T, np.zeros(len(axes))])
    frames = codebook.reshape(1, -1, encoder.input.shape[-1])  # [1][M · dec][K]
    network.get_layer("quantizer").codebook.assign(encoder(frames)[0])


def train(network, x, held, args, rng):
    """Fit the network to frames x [n][K]; returns the codebook of k-means, and the steps made and
    planned.
    """
    first_frames = np.arange(0, len(x) - args.dec + 1, 1 if args.overlap else args.dec)
    vectors = x[first_frames[:, None] + np.arange(args.dec)]  # [v][dec][K]
    epoch_steps = math.ceil(len(vectors) / BATCH)
    epochs = args.epochs or math.ceil(STEPS / epoch_steps)
    steps = epochs * epoch_steps
    print(f"epochs: {epochs}")
    print(f"steps: {steps}")

    n = max(args.num_embedding, min(len(x), KMEANS))
    some = random_filter(rng.choice(vectors, n), args, rng).reshape(n, -1)
    codebook = fit_kmeans(some, args.num_embedding)
    start_as_kmeans(network, some, codebook)

    model = keras.Model(network.inputs, network.outputs)  # the network is saved without optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    weight = 1 / SCALE_DB**2
    model.compile(keras.optimizers.Adam(rate), "mse", loss_weights=weight, steps_per_execution=10)
    held = held[spectra.pieces(len(held), PROGRESS)]
    held = held[None, : len(held) // args.dec * args.dec]  # whole vectors
    progress = plumbing.Progress(steps, "step")
    done = 0
    ends = np.linspace(0, steps, min(EVALUATIONS, steps) + 1).astype(int)[1:]  # of rounds, in steps
    try:
        for end in ends.tolist():
            chosen = random_filter(rng.choice(vectors, (end - done) * BATCH), args, rng)
            loss = model.fit(chosen, chosen, BATCH, shuffle=False, verbose=0).history["loss"][0]
            done = end
            held_sd = np.mean((held - network.predict_on_batch(held)) ** 2)
            progress.show(done, f"loss {loss:.4f}, held-out SD {held_sd:.2f} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        if done == 0:
            raise
        # main() saves the network before it prints anything
    return codebook, done, steps


# ---------------------------------------------------------------- figures


def evaluate(coders, x):
    """Decode x [n][K] with {label: Coder}: {label: Figures}, {label: frames}, {label: indices}."""
    figures, decoded, indices = {}, {}, {}
    for label, coder in coders.items():
        indices[label] = search.send(coder, x, lookahead_ms=0)
        decoded[label] = search.receive(coder, indices[label], len(x))
        figures[label] = spectra.measure(x, decoded[label])
    return figures, decoded, indices


def plot(figures, numbers, x, decoded, args):
    """SD over time, and pages of some frames; numbers [n] of the frames x [n][K] and decoded."""
    plots.show({f"{NAME}_sd": plots.plot_sd(figures, numbers)}, args.plot_dir)
    sd = figures["network"].sd
    frames = plots.typical_frames(sd, x.mean(axis=1))
    titles = [f"frame {numbers[frame]}: SD {sd[frame]:.1f} dB²" for frame in frames]
    files = {"original": x, "decoded": decoded["network"]}
    hz = spectra.KINDS[args.eband_K, args.Fs].hz
    plots.page_vectors(files, frames, titles, f"{NAME}_frames", args.plot_dir, hz)


def main(args, data):
    networks.set_up(args.seed)
    networks.print_device()
    rng = np.random.default_rng(args.seed)
    x = data["train"]
    network = build_network(x.mean(axis=0), args)
    kmeans, steps, planned = train(network, x, data["held-out"], args, rng)
    encoder, decoder = network.get_layer("encoder"), network.get_layer("decoder")
    codebooks = ops.convert_to_numpy(network.get_layer("quantizer").codebook)[None]
    options = {
        "script": NAME,
        "eband_K": args.eband_K,
        "Fs": args.Fs,
        "dec": args.dec,
        "vq_stages": 1,
        "num_embedding": args.num_embedding,
        "embedding_dim": args.embedding_dim,
        "lower": ALL_DB,
        "seed": args.seed,
        "steps": steps,
    }
    arrays = {"kmeans": kmeans[None], "shape": spectra.shape_statistics(x)}
    networks.save_quantiser(encoder, decoder, codebooks, None, options, args.nnout, **arrays)
    print(f"trained: {steps} of {planned} steps")

    quantiser = networks.load_quantiser(args.nnout)  # what is measured is what was saved
    coders = {"network": search.coder_of(quantiser), "k-means": search.baseline_of(quantiser)}
    bits = np.log2(args.num_embedding)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * spectra.FRAME_S):g} bit/s")
    print(f"delay of encoder and decoder: {search.delay_ms(coders['network'], 0)} ms")
    numbers = {part: spectra.pieces(len(x), MEASURED) for part, x in data.items()}
    if args.test:
        numbers["test"] = np.arange(len(data["test"]))  # all
    figures, decoded = {}, {}
    for part, x in data.items():
        figures[part], decoded[part], indices = evaluate(coders, x[numbers[part]])
        spectra.print_figures(part, figures[part], len(x))
        used = 100 * len(np.unique(indices["network"])) / args.num_embedding
        print(f"{part} codewords of stage 1 in use: {used:.1f} %")
    part = "test" if args.test else "held-out"
    if not args.noplots:
        first = len(data["train"]) if part == "held-out" else 0  # frame of the file
        shown = data[part][numbers[part]]
        plot(figures[part], first + numbers[part], shown, decoded[part], args)
    print(f"{figures[part]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
