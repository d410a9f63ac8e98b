#!/usr/bin/env python3
"""Watch a VQ-VAE learn: codewords move through a cloud of 2-D vectors, epoch by epoch.

Usage:
    ./vq_vae_demo.py                                     # 16 codewords for Gaussian vectors
    ./vq_vae_demo.py --start corner                      # all codewords start in one corner
    ./vq_vae_demo.py --test qpsk --num_embedding 4       # a noisy QPSK constellation
    ./vq_vae_demo.py --embedding_dim 3 --plot_dir plots  # an animated GIF and its last picture

The encoder is a dummy (it does nothing), so that the quantiser sees the data as they are; the
decoder is the identity, or trained with --train_decoder.

Expected: 0.109 ± 0.002 for 16 codewords (Gaussian), 0.111 ± 0.003 with --start corner, 0.040 ±
0.001 for qpsk with 4.
Units: vectors have no unit; variances and distortions are per dimension, on vectors that are not
trained on.
"""

import argparse
import math

import numpy as np

from common import networks, plots, plumbing

NAME = "vq_vae_demo"
NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: within 0.5 % of the true ones
BATCH = 1500  # vectors
LEARNING_RATE = 0.03  # falls to 0 along a cosine
CORNER = 0.05  # standard deviation of the codewords that start in a corner
PICTURES = 20  # of the film, at most
GRID = 300  # points each way at which the film looks for the borders of cells


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Watch a VQ-VAE learn to quantise vectors in a plane.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = {"type": plumbing.positive, "metavar": "N"}
    test_help = "±1 plus noise, or Gaussian (default: gaussian)"
    add("--test", choices=("qpsk", "gaussian"), default="gaussian", help=test_help)
    add("--nb_samples", **number, default=30_000, help="training vectors (default: 30000)")
    add("--num_embedding", **number, default=16, help="codewords (default: 16)")
    add("--embedding_dim", **number, default=2, help="size of a vector (default: 2)")
    add("--train_decoder", action="store_true", help="train the decoder as well")
    start_help = "initial codebook (default: k-means++)"
    add("--start", choices=("k-means++", "corner"), default="k-means++", help=start_help)
    add("--epochs", **number, default=60, help="passes through the vectors (default: 60)")
    seed_help = "the same seed gives the same codebook (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window")
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples:
        parser.error("--num_embedding must be 2 or more, and --nb_samples no less")
    if args.noplots and args.plot_dir is not None:
        parser.error("--plot_dir has no effect with --noplots")
    return args


def load(args):
    """{"train", "held-out"}: vectors [n][D], Gaussian, or corners of a cube plus noise.

    For D = 2 these are the symbols of QPSK.
    """
    plumbing.check_outputs([], plot_dir=args.plot_dir)
    rng = np.random.default_rng(args.seed)
    x = rng.normal(size=(HELD_OUT + args.nb_samples, args.embedding_dim))
    if args.test == "qpsk":
        x = rng.choice([-1, 1], x.shape) + np.sqrt(NOISE_VARIANCE) * x
    return {"train": np.float32(x[HELD_OUT:]), "held-out": np.float32(x[:HELD_OUT])}


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq

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


# ---------------------------------------------------------------- network and training


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]."""
    inputs = keras.Input((args.embedding_dim,))
    z_e = layers.Identity(name="encoder")(inputs)
    z_q = VectorQuantizer(args.num_embedding, args.embedding_dim, name="quantizer")(z_e)
    identity = {"kernel_initializer": "identity", "trainable": args.train_decoder}
    return keras.Model(inputs, layers.Dense(args.embedding_dim, name="decoder", **identity)(z_q))


def train(network, data, args, rng):
    """Fit the network to return its inputs, until all epochs are done, or Ctrl-C.

    Returns codebook and distortion at the start and after every epoch.
    """
    x, held, quantizer = data["train"], data["held-out"], network.get_layer("quantizer")
    initial, _ = kmeans2(x, args.num_embedding, iter=1, minit="++", rng=rng)
    if args.start == "corner":
        initial = np.quantile(x, 0.01, axis=0) + CORNER * rng.normal(size=initial.shape)
    quantizer.codebook.assign(initial)
    steps = math.ceil(len(x) / BATCH) * args.epochs
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    network.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=8)
    history, progress = [measure(network, held)], plumbing.Progress(args.epochs)
    try:
        for epoch in range(1, args.epochs + 1):
            network.fit(x, x, BATCH, verbose=0)
            history.append(measure(network, held))
            distortion = history[-1]["distortion"]
            progress.show(epoch, f"held-out distortion {distortion:.4f} per dimension")
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return history


def measure(network, x):
    """{"codebook": [M][D], "distortion": mean squared error per dimension of vectors x [n][D]}."""
    error = x - network.predict(x, BATCH, verbose=0)
    codebook = ops.convert_to_numpy(network.get_layer("quantizer").codebook)
    return {"codebook": codebook, "distortion": np.mean(error**2, dtype=np.float64)}


def shannon_bound(args):
    """Shannon's lower bound of the distortion per dimension, P·2^(−2R) for R bits per dimension.

    P, the entropy power, is the variance when vectors are Gaussian; in qpsk the sign adds 1 bit to
    the entropy of the noise, and P is 4 times its variance.
    """
    bits = np.log2(args.num_embedding)
    power = 4 * NOISE_VARIANCE if args.test == "qpsk" else 1
    return power * 2 ** (-2 * bits / args.embedding_dim)


# ---------------------------------------------------------------- film


def show_film(history, held, kmeans, bound, args):
    """Film of a training: codewords with their cells and trails on the density of `held`; figures.

    kmeans and bound are the distortions of k-means and of Shannon's bound.
    """
    plt = plots.pyplot()

    spaces = {"left": 0.06, "right": 0.98, "wspace": 0.24}
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8), gridspec_kw=spaces)
    plane = np.eye(args.embedding_dim, 2)  # [D][2]: the first two dimensions are shown
    limit = np.percentile(np.abs(held @ plane), 99.9)
    side = np.linspace(-limit, limit, GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) @ plane.T  # [points][D]
    trails = np.stack([seen["codebook"] @ plane for seen in history])  # [epochs][M][2]
    values = np.array([seen["distortion"] for seen in history])
    limits = 0.9 * min(bound, *values), 1.1 * max(kmeans, *values)
    # most is learnt in the first epochs
    epochs = np.unique(np.geomspace(1, len(values), PICTURES).astype(int)) - 1

    def draw(i):
        left.clear()
        right.clear()
        epoch = epochs[i]
        left.hist2d(*(held @ plane).T, 80, range=[(-limit, limit)] * 2, cmap="inferno")
        cells = vq(grid, history[epoch]["codebook"])[0].reshape(GRID, GRID)
        border = np.abs(np.gradient(cells)).sum(axis=0) > 0
        image = {"origin": "lower", "extent": (-limit, limit) * 2, "zorder": 1}
        left.imshow(border, "gray", alpha=0.4 * border, **image)
        lines = trails[: epoch + 1]
        left.plot(lines[..., 0], lines[..., 1], color="white", linewidth=0.8, alpha=0.7)
        left.plot(*trails[epoch].T, "o", color="white", markersize=6, markeredgecolor="black")
        left.set_title(f"epoch {epoch}: codewords and cells")
        left.set(xlabel="Dimension 1", ylabel="Dimension 2")
        right.plot(epochs[: i + 1], values[epochs[: i + 1]], ".-", label="VQ-VAE")
        black = {"color": "black"}
        right.axhline(kmeans, linestyle="--", label=f"k-means {kmeans:.4f}", **black)
        right.axhline(bound, linestyle=":", label=f"Shannon bound {bound:.4f}", **black)
        right.set(xscale="symlog", yscale="log", xlim=(0, epochs[-1]), ylim=limits)
        right.set(xlabel="Epoch", ylabel="Distortion per dimension")
        right.xaxis.set_major_formatter("{x:g}")
        right.set_title(f"held-out {values[epoch]:.4f}")
        right.legend(loc="upper right")

    plots.show_film(fig, draw, len(epochs), NAME, args.plot_dir)


# ---------------------------------------------------------------- main


def main(args, data):
    networks.set_up(args.seed)
    rng = np.random.default_rng(args.seed)
    held = data["held-out"]
    codebook, _ = kmeans2(data["train"], args.num_embedding, iter=50, minit="++", rng=rng)
    kmeans = np.mean(vq(held, codebook)[1] ** 2) / args.embedding_dim
    bound = shannon_bound(args)
    network = build_network(args)
    history = train(network, data, args, rng)

    if len(history) <= args.epochs:
        print(f"stopped: after {len(history) - 1} of {args.epochs} epochs")
    print(f"bits: {np.log2(args.num_embedding):.2f} per vector")
    distortion = {part: measure(network, x)["distortion"] for part, x in data.items()}
    for part, x in data.items():
        print(f"{part} variance before: {x.var(axis=0).mean():.4f} per dimension")
        print(f"{part} variance after: {distortion[part]:.4f} per dimension")
    print(f"k-means: {kmeans:.4f} per dimension")
    print(f"Shannon bound: {bound:.4f} per dimension")
    indices, _ = vq(held, history[-1]["codebook"])
    print(f"codewords in use: {len(np.unique(indices))} of {args.num_embedding}")
    if not args.noplots:
        show_film(history, held, kmeans, bound, args)
    print(f"{distortion['held-out']:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
