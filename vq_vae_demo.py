#!/usr/bin/env python3
"""Watch a VQ-VAE learn: codewords move through a cloud of 2-D vectors, epoch by epoch.

Usage:
    ./vq_vae_demo.py                                     # 16 codewords for Gaussian vectors
    ./vq_vae_demo.py --start corner                      # all codewords start in one corner and have to walk
    ./vq_vae_demo.py --test qpsk --num_embedding 4       # a noisy QPSK constellation
    ./vq_vae_demo.py --embedding_dim 3 --plot_dir plots  # an animated GIF and its last picture there

The encoder is a dummy (it does nothing), so that the quantiser sees the data as they are; the decoder is the identity,
or trained with --train_decoder.

Expected: 0.109 ± 0.002 for 16 codewords (Gaussian), 0.111 ± 0.003 with --start corner, 0.040 ± 0.001 for qpsk with 4.
Units: vectors have no unit; variances and distortions are per dimension, on vectors that are not trained on.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import plumbing

import numpy as np

NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: within 0.5 % of the true ones
BATCH = 1500  # vectors
LEARNING_RATE = 0.03  # falls to 0 along a cosine
CORNER = 0.05  # standard deviation of the codewords that start in a corner
PICTURES = 20  # of the film, at most
GRID = 300  # points each way at which the film looks for the borders of cells


def parse_args(argv=None):
    parser = ArgumentParser(
        description="Watch a VQ-VAE learn.", formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--test",
        choices=("qpsk", "gaussian"),
        default="gaussian",
        help="±1 plus noise, or Gaussian",
    )
    parser.add_argument(
        "--nb_samples", type=plumbing.positive, default=30000, metavar="N", help="training vectors"
    )
    parser.add_argument(
        "--num_embedding", type=plumbing.positive, default=16, metavar="M", help="codewords"
    )
    parser.add_argument(
        "--embedding_dim", type=plumbing.positive, default=2, metavar="D", help="size of a vector"
    )
    parser.add_argument("--train_decoder", action="store_true", help="train the decoder as well")
    parser.add_argument(
        "--start", choices=("k-means++", "corner"), default="k-means++", help="initial codebook"
    )
    parser.add_argument(
        "--epochs", type=plumbing.positive, default=60, metavar="N", help="passes through these"
    )
    parser.add_argument(
        "--seed", type=plumbing.natural, default=1, help="the same seed gives the same codebook"
    )
    parser.add_argument("--noplots", action="store_true", help="print figures only")
    parser.add_argument(
        "--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window"
    )
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples:
        parser.error("--num_embedding must be 2 or more, and --nb_samples no less")
    return args


def load(args):
    """{"train", "held-out"}: vectors [n][D], Gaussian, or corners of a cube (for D = 2 QPSK symbols) plus noise."""
    plumbing.check_outputs([], plot_dir=None if args.noplots else args.plot_dir)
    rng = np.random.default_rng(args.seed)
    x = rng.normal(size=(HELD_OUT + args.nb_samples, args.embedding_dim))
    if args.test == "qpsk":
        x = rng.choice([-1, 1], x.shape) + np.sqrt(NOISE_VARIANCE) * x
    return {"train": np.float32(x[HELD_OUT:]), "held-out": np.float32(x[:HELD_OUT])}


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq


@keras.saving.register_keras_serializable("codec2_one_stage")
class VectorQuantizer(layers.Layer):
    """Vectors x [n][dim] become x_q, the nearest of M codewords; the gradient of x_q goes to x (straight-through).

    The codebook loss pulls codewords to their vectors, the commitment loss pulls vectors to their codeword.  The unused
    loss pulls all codewords to the mean vector: so weakly that it only moves those that are nearest to no vector.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], codebook loss 0.1² / 2 = 0.005, commitment loss
    0.25 · 0.005 = 0.00125, unused loss 0.001 · (0.9² + 0.1²) / 4 = 0.000205.
    """

    def __init__(self, num_embedding, embedding_dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta
        self.codebook = self.add_weight((num_embedding, embedding_dim), name="codebook")

    def search(self, x):
        """Indices [n] of the codewords nearest to x [n][dim].  The distance lacks x², the same for all codewords."""
        distance = ops.sum(self.codebook**2, axis=1) - 2 * ops.matmul(
            x, ops.transpose(self.codebook)
        )
        return ops.argmin(distance, axis=1)

    def call(self, x):
        x_q, fixed = ops.take(self.codebook, self.search(x), axis=0), ops.stop_gradient(x)
        self.add_loss(ops.mean((fixed - x_q) ** 2))  # codebook loss
        self.add_loss(self.beta * ops.mean((x - ops.stop_gradient(x_q)) ** 2))  # commitment loss
        self.add_loss(
            0.001 * ops.mean((ops.mean(fixed, axis=0) - self.codebook) ** 2)
        )  # unused loss
        return ops.stop_gradient(x_q) + (
            x - fixed
        )  # straight-through: exactly x_q, with the gradient of x


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]."""
    inputs = keras.Input((args.embedding_dim,))
    z_e = layers.Identity(name="encoder")(inputs)
    z_q = VectorQuantizer(args.num_embedding, args.embedding_dim, name="quantizer")(z_e)
    identity = {"kernel_initializer": "identity", "trainable": args.train_decoder}
    return keras.Model(inputs, layers.Dense(args.embedding_dim, name="decoder", **identity)(z_q))


def train(network, data, args, rng):
    """Fit the network to return its inputs; returns codebook and distortion at the start and after every epoch."""
    x, quantizer = data["train"], network.get_layer("quantizer")
    start, _ = kmeans2(x, args.num_embedding, iter=1, minit="++", rng=rng)
    if args.start == "corner":
        start = np.quantile(x, 0.01, axis=0) + CORNER * rng.normal(size=start.shape)
    quantizer.codebook.assign(start)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(x) // BATCH) * args.epochs)
    network.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=8)
    history, progress = [look(network, data["held-out"])], plumbing.Progress(args.epochs)
    with plumbing.CtrlC(network) as ctrl_c:
        for epoch in range(1, args.epochs + 1):
            network.fit(x, x, BATCH, verbose=0)
            history.append(look(network, data["held-out"]))
            progress.show(
                epoch, f"held-out distortion {history[-1]['distortion']:.4f} per dimension"
            )
            if ctrl_c.pressed:
                break
    return history


def look(network, x):
    """{"codebook": [M][D], "distortion": mean squared error per dimension of vectors x [n][D]}."""
    error = x - network.predict(x, BATCH, verbose=0)
    codebook = ops.convert_to_numpy(network.get_layer("quantizer").codebook)
    return {"codebook": codebook, "distortion": np.mean(error**2, dtype=np.float64)}


def show_film(history, held, kmeans, bound, args):
    """Film of a training: codewords with their cells and trails on the density of vectors `held`; distortion."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.8), gridspec_kw={"left": 0.06, "right": 0.98, "wspace": 0.24}
    )
    plane = np.eye(args.embedding_dim, 2)  # [D][2]: the first two dimensions are shown
    limit = np.percentile(np.abs(held @ plane), 99.9)
    side = np.linspace(-limit, limit, GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) @ plane.T  # [points][D]
    trails = np.stack([seen["codebook"] @ plane for seen in history])  # [epochs][M][2]
    values = np.array([seen["distortion"] for seen in history])
    limits = 0.9 * min(bound, *values), 1.1 * max(kmeans, *values)
    epochs = (
        np.unique(np.geomspace(1, len(values), PICTURES).astype(int)) - 1
    )  # most is learnt in the first ones

    def draw(i):
        left.clear()
        right.clear()
        epoch = epochs[i]
        left.hist2d(*(held @ plane).T, 80, range=[(-limit, limit)] * 2, cmap="inferno")
        cells = vq(grid, history[epoch]["codebook"])[0].reshape(GRID, GRID)
        border = np.abs(np.gradient(cells)).sum(axis=0) > 0
        left.imshow(
            border, "gray", alpha=0.4 * border, origin="lower", extent=(-limit, limit) * 2, zorder=1
        )
        left.plot(
            trails[: epoch + 1, :, 0],
            trails[: epoch + 1, :, 1],
            color="white",
            linewidth=0.8,
            alpha=0.7,
        )
        left.plot(*trails[epoch].T, "o", color="white", markersize=6, markeredgecolor="black")
        left.set(
            xlabel="Dimension 1", ylabel="Dimension 2", title=f"epoch {epoch}: codewords and cells"
        )
        right.plot(epochs[: i + 1], values[epochs[: i + 1]], ".-", label="VQ-VAE")
        right.axhline(kmeans, color="black", linestyle="--", label=f"k-means {kmeans:.4f}")
        right.axhline(bound, color="black", linestyle=":", label=f"Shannon bound {bound:.4f}")
        right.set(xscale="symlog", yscale="log", xlim=(0, epochs[-1]), ylim=limits)
        right.set(
            xlabel="Epoch", ylabel="Distortion per dimension", title=f"held-out {values[epoch]:.4f}"
        )
        right.legend(loc="upper right")

    plumbing.show_film(fig, draw, len(epochs), "vq_vae_demo", args.plot_dir)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    codebook, _ = kmeans2(data["train"], args.num_embedding, iter=50, minit="++", rng=rng)
    kmeans = np.mean(vq(data["held-out"], codebook)[1] ** 2) / args.embedding_dim
    # Shannon's lower bound of the distortion, R = bits/D, is P·2^(−2R).  P, the entropy power, is the variance when
    # vectors are Gaussian; in qpsk the sign adds 1 bit to the entropy of the noise, and P is 4 times its variance
    bits = np.log2(args.num_embedding)
    power = 4 * NOISE_VARIANCE if args.test == "qpsk" else 1
    bound = power * 2 ** (-2 * bits / args.embedding_dim)
    network = build_network(args)
    history = train(network, data, args, rng)

    print(f"bits: {bits:.2f} per vector")
    for part, x in data.items():
        distortion = look(network, x)["distortion"]
        print(f"{part} variance before: {x.var(axis=0).mean():.4f} per dimension")
        print(f"{part} variance after: {distortion:.4f} per dimension")
    print(f"k-means: {kmeans:.4f} per dimension")
    print(f"Shannon bound: {bound:.4f} per dimension")
    indices, _ = vq(data["held-out"], history[-1]["codebook"])
    print(f"codewords in use: {len(np.unique(indices))} of {args.num_embedding}")
    if not args.noplots:
        show_film(history, data["held-out"], kmeans, bound, args)
    print(f"{distortion:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
