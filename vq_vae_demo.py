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
    parser = ArgumentParser(description="Watch a VQ-VAE learn.", formatter_class=ArgumentDefaultsHelpFormatter)
    number = {"type": plumbing.positive}
    group = parser.add_argument_group("data")
    group.add_argument("--test", choices=("qpsk", "gaussian"), default="gaussian", help="±1 plus noise, or Gaussian")
    group.add_argument("--nb_samples", **number, default=30000, metavar="N", help="training vectors")
    group = parser.add_argument_group("network")
    group.add_argument("--num_embedding", **number, default=16, metavar="M", help="codewords")
    group.add_argument("--embedding_dim", **number, default=2, metavar="D", help="size of a vector")
    group.add_argument("--train_decoder", action="store_true", help="train the decoder as well")
    group = parser.add_argument_group("training")
    group.add_argument("--start", choices=("k-means++", "corner"), default="k-means++", help="initial codebook")
    group.add_argument("--epochs", **number, default=60, metavar="N", help="passes through the training vectors")
    group.add_argument("--seed", type=plumbing.natural, default=1, help="the same seed gives the same codebook")
    group = parser.add_argument_group("output")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window")
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples:
        parser.error("--num_embedding must be 2 or more, and --nb_samples no less")
    return args


def load(args):
    """{"train", "held-out"}: vectors [n][D], Gaussian, or corners of a cube (for D = 2 QPSK symbols) plus noise."""
    plumbing.check_outputs([], plot_dir=None if args.noplots else args.plot_dir)
    rng, data = np.random.default_rng(args.seed), {}
    for part, n in (("train", args.nb_samples), ("held-out", HELD_OUT)):
        x = rng.normal(size=(n, args.embedding_dim))
        if args.test == "qpsk":
            x = rng.choice([-1, 1], x.shape) + np.sqrt(NOISE_VARIANCE) * x
        data[part] = np.float32(x)
    return data


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
        self.M, self.dim, self.beta = num_embedding, embedding_dim, beta
        self.codebook = self.add_weight((self.M, self.dim), name="codebook")

    def get_config(self):
        return {**super().get_config(), "num_embedding": self.M, "embedding_dim": self.dim, "beta": self.beta}

    def search(self, x):
        """Indices [n] of the codewords nearest to x [n][dim]."""
        distance = ops.sum(self.codebook**2, axis=1) - 2 * ops.matmul(x, ops.transpose(self.codebook))
        return ops.argmin(distance + ops.sum(x**2, axis=1, keepdims=True), axis=1)

    def decode(self, indices):
        """Codewords [n][dim] that these indices [n] stand for."""
        return ops.take(self.codebook, indices, axis=0)

    def call(self, x):
        x_q, fixed = self.decode(self.search(x)), ops.stop_gradient(x)
        self.add_loss(ops.mean((fixed - x_q) ** 2))  # codebook loss
        self.add_loss(self.beta * ops.mean((x - ops.stop_gradient(x_q)) ** 2))  # commitment loss
        self.add_loss(0.001 * ops.mean((ops.mean(fixed, axis=0) - self.codebook) ** 2))  # unused loss
        # straight-through: the value is exactly x_q, the gradient that of the identity
        return ops.stop_gradient(x_q) + (x - fixed)


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]."""
    inputs = keras.Input((args.embedding_dim,))
    z_e = layers.Identity(name="encoder")(inputs)
    z_q = VectorQuantizer(args.num_embedding, args.embedding_dim, name="quantizer")(z_e)
    identity = {"kernel_initializer": "identity", "trainable": args.train_decoder}
    return keras.Model(inputs, layers.Dense(args.embedding_dim, name="decoder", **identity)(z_q))


def train(network, data, args, rng):
    """Fit the network to return its inputs; returns what the film shows, a dictionary per picture."""
    x, held, quantizer = data["train"], data["held-out"], network.get_layer("quantizer")
    start, _ = kmeans2(x, args.num_embedding, iter=1, minit="++", rng=rng)
    if args.start == "corner":
        start = np.quantile(x, 0.01, axis=0) + CORNER * rng.normal(size=start.shape)
    quantizer.codebook.assign(start)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(x) // BATCH) * args.epochs)
    network.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=8)
    filmed = np.unique(np.geomspace(1, args.epochs + 1, PICTURES).astype(int)) - 1  # most is learnt in the first ones
    history, progress = [], plumbing.Progress(args.epochs)
    with plumbing.CtrlC(network) as ctrl_c:
        for epoch in range(args.epochs + 1):  # 0 is the start
            if epoch > 0:
                network.fit(x, x, BATCH, verbose=0)
            _, error = quantise(network, held)
            if epoch in filmed or ctrl_c.pressed:
                codebook = ops.convert_to_numpy(quantizer.codebook)
                history.append({"epoch": epoch, "codebook": codebook, "distortion": error})
            if epoch > 0:
                progress.show(epoch, f"held-out distortion {error:.4f} per dimension")
            if ctrl_c.pressed:
                break
    return history


def quantise(network, x):
    """Indices [n] that stand for vectors x [n][D], and the distortion: mean squared error per dimension."""
    quantizer, decoder = network.get_layer("quantizer"), network.get_layer("decoder")
    parts = np.array_split(x, -(-len(x) * quantizer.M // 2**24))  # bounds the memory for distances
    indices = np.concatenate([ops.convert_to_numpy(quantizer.search(part)) for part in parts])
    x_hat = ops.convert_to_numpy(decoder(quantizer.decode(indices)))
    return indices, np.mean((x - x_hat) ** 2, dtype=np.float64)


def shannon_bound(bits, args):
    """Lower bound of the distortion per dimension at `bits` per vector: P·2^(−2R), R = bits/D.

    P is the entropy power, exp(2h)/(2πe) for a density of entropy h: the variance if Gaussian, less for all others.
    """
    power = 1.0
    if args.test == "qpsk":
        x, dx = np.linspace(-5, 5, 10001, retstep=True)
        bells = np.exp(-((x - [[-1], [1]]) ** 2) / (2 * NOISE_VARIANCE))
        density = bells.mean(axis=0) / np.sqrt(2 * np.pi * NOISE_VARIANCE)
        entropy = -np.sum(density * np.log(density + 1e-300)) * dx
        power = np.exp(2 * entropy) / (2 * np.pi * np.e)
    return power * 2 ** (-2 * bits / args.embedding_dim)


def show_film(history, held, references, args):
    """Film of a training: codewords with their cells and trails on the density of vectors `held`; distortion."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
    D, dimension = args.embedding_dim, "Dimension" if args.embedding_dim <= 2 else "Principal axis"
    axes = np.eye(D, 2) if D <= 2 else np.linalg.eigh(np.cov(held.T))[1][:, :-3:-1]  # [D][2] of the plane that is shown
    limit = np.percentile(np.abs(held @ axes), 99.9)
    side = np.linspace(-limit, limit, GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1) @ axes.T  # [GRID][GRID][D]
    epochs, values = ([seen[name] for seen in history] for name in ("epoch", "distortion"))
    limits = 0.9 * min(references.values()), 1.1 * max(values)
    trails = np.stack([seen["codebook"] @ axes for seen in history])  # [pictures][M][2]

    def draw(i):
        left.clear()
        left.hist2d(*(held @ axes).T, 80, range=[(-limit, limit)] * 2, cmap="inferno")
        cells = vq(grid.reshape(-1, D), history[i]["codebook"])[0].reshape(GRID, GRID)
        border = np.abs(np.gradient(cells)).sum(axis=0) > 0
        left.imshow(border, "gray", alpha=0.4 * border, origin="lower", extent=(-limit, limit) * 2, zorder=1)
        left.plot(*np.moveaxis(trails[: i + 1], 2, 0), color="white", linewidth=0.8, alpha=0.7)
        left.plot(*trails[i].T, "o", color="white", markersize=6, markeredgecolor="black")
        left.set(xlabel=f"{dimension} 1", ylabel=f"{dimension} 2", title=f"epoch {epochs[i]}: codewords and cells")
        right.clear()
        right.plot(epochs[: i + 1], values[: i + 1], ".-", label="VQ-VAE")
        for (name, value), style in zip(references.items(), ("--", ":"), strict=True):
            right.axhline(value, color="black", linestyle=style, label=f"{name} {value:.4f}")
        right.set(xscale="symlog", yscale="log", xlim=(0, epochs[-1]), ylim=limits)
        right.set(xlabel="Epoch", ylabel="Distortion per dimension", title=f"held-out {values[i]:.4f}")
        right.legend(loc="upper right")

    draw(0)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # axes stay where they are; laying out every picture takes longer than drawing it
    plumbing.show_film(fig, draw, len(history), "vq_vae_demo", args.plot_dir)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    bits = np.log2(args.num_embedding)
    codebook, _ = kmeans2(data["train"], args.num_embedding, iter=50, minit="++", rng=rng)
    references = {"k-means": np.mean(vq(data["held-out"], codebook)[1] ** 2) / args.embedding_dim}
    references["Shannon bound"] = shannon_bound(bits, args)
    network = build_network(args)
    history = train(network, data, args, rng)

    print(f"bits: {bits:.2f} per vector")
    for part, x in data.items():
        indices, figure = quantise(network, x)
        print(f"{part} variance before: {x.var(axis=0).mean():.4f} per dimension")
        print(f"{part} variance after: {figure:.4f} per dimension")
    for name, value in references.items():
        print(f"{name}: {value:.4f} per dimension")
    print(f"codewords in use: {len(np.unique(indices))} of {args.num_embedding}")
    if not args.noplots:
        show_film(history, data["held-out"], references, args)
    print(f"{figure:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
