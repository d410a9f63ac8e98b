#!/usr/bin/env python3
"""Watch a two-stage VQ-VAE learn: the second stage quantises the residual of the first.

Usage:
    ./vq_vae_demo_2stage.py                                # two stages of 16 codewords for Gaussian vectors
    ./vq_vae_demo_2stage.py --mbest 1                      # stage after stage instead of a search over both
    ./vq_vae_demo_2stage.py --test qpsk --num_embedding 4  # the second stage finds nothing but noise

Every vector becomes the sum of one codeword per stage, so that two codebooks of M make a constellation of M² points.
Both are trained at once, on the error of the sum.  The encoder does nothing, nor does the decoder unless trained.

Expected: 0.0102 ± 0.0002 for two stages of 16 (Gaussian), any seed; with --mbest 1 0.012 to 0.014.
Units: vectors have no unit; variances and distortions are per dimension, on vectors that are not trained on.
"""

import warnings
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import plumbing

import numpy as np

NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: within 0.5 % of the true ones
BATCH = 500  # vectors
LEARNING_RATE = 0.03  # of a trained decoder; falls to 0 along a cosine
PICTURES = 20  # of the film, at most
GRID = 200  # points each way at which the film looks for the borders of cells
MAX_SUMS = 4096  # sums of codewords that the film shows


def parse_args(argv=None):
    parser = ArgumentParser(
        description="Watch a two-stage VQ-VAE learn.", formatter_class=ArgumentDefaultsHelpFormatter
    )
    number = {"type": plumbing.positive}
    group = parser.add_argument_group("data")
    group.add_argument("--test", choices=("qpsk", "gaussian"), default="gaussian", help="±1 plus noise, or Gaussian")
    group.add_argument("--nb_samples", **number, default=30000, metavar="N", help="training vectors")
    group = parser.add_argument_group("network")
    group.add_argument("--num_embedding", **number, default=16, metavar="M", help="codewords of a stage")
    group.add_argument("--embedding_dim", **number, default=2, metavar="D", help="size of a vector")
    group.add_argument("--mbest", **number, default=4, metavar="N", help="partial sums that go on to stage 2")
    group.add_argument("--decay", type=float, default=0.95, metavar="A", help="of the EMA that the codebooks follow")
    group.add_argument("--train_decoder", action="store_true", help="train the decoder as well")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", **number, default=25, metavar="N", help="passes through the training vectors")
    group.add_argument("--seed", type=plumbing.natural, default=1, help="the same seed gives the same codebooks")
    group = parser.add_argument_group("output")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window")
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples // 2:  # or k-means leaves no residuals for stage 2
        parser.error("--num_embedding must be 2 or more, and --nb_samples at least twice that")
    args.mbest = min(args.mbest, args.num_embedding)  # there are no more partial sums
    if not 0 <= args.decay < 1:
        parser.error("--decay must be 0 or more, and less than 1")
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


@keras.saving.register_keras_serializable("codec2")
class VectorQuantizer(layers.Layer):
    """Vectors x [..., dim] become x_q, the sum of one codeword per stage; each stage quantises the residual so far.

    The gradient of x_q goes to x unchanged (straight-through estimator).  The commitment loss beta·mean((x − x_q)²)
    pulls x to its codewords.  The codebooks get no gradient: EMA updates move every codeword towards the mean of the
    vectors assigned to it, and one that is hardly used restarts at a vector of the batch.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], commitment loss 0.25 · 0.1² / 2 = 0.00125.
    """

    def __init__(self, num_embedding, embedding_dim, stages, m_best=4, beta=0.25, decay=0.99, **kwargs):
        super().__init__(**kwargs)
        self.M, self.dim, self.stages, self.m_best = num_embedding, embedding_dim, stages, m_best
        self.beta, self.decay = beta, decay
        self.codebooks = self.add_weight((stages, self.M, self.dim), trainable=False, name="codebooks")
        self.counts = self.add_weight((stages, self.M), "ones", trainable=False, name="counts")
        self.random = keras.random.SeedGenerator(1)

    def get_config(self):
        names = {"num_embedding": self.M, "embedding_dim": self.dim, "stages": self.stages, "m_best": self.m_best}
        return {**super().get_config(), **names, "beta": self.beta, "decay": self.decay}

    def search(self, x, m_best, candidates=1):
        """Indices [n][candidates][stages] of the sums of codewords nearest to x [n][dim], the best first.

        Carries the m_best best partial sums to the next stage, so it may miss the nearest sum.
        """
        residual = x[:, None]  # [n][partial sums][dim]
        indices = ops.zeros((ops.shape(x)[0], 1, 0), "int32")  # [n][partial sums][stages so far]
        for stage in range(self.stages):
            codebook = self.codebooks[stage]
            product = ops.matmul(ops.reshape(residual, (-1, self.dim)), ops.transpose(codebook))
            distance = ops.reshape(product, (-1, indices.shape[1], self.M)) * -2 + ops.sum(codebook**2, axis=1)
            distance = distance + ops.sum(residual**2, axis=2, keepdims=True)
            distance = ops.reshape(distance, (-1, indices.shape[1] * self.M))
            kept = min(candidates if stage + 1 == self.stages else m_best, distance.shape[1])
            best = ops.top_k(-distance, kept)[1] if kept > 1 else ops.argmin(distance, axis=1, keepdims=True)
            index, parent = ops.cast(best, "int32") % self.M, (ops.cast(best, "int32") // self.M)[:, :, None]
            residual = ops.take_along_axis(residual, parent, axis=1) - ops.take(codebook, index, axis=0)
            indices = ops.concatenate([ops.take_along_axis(indices, parent, axis=1), index[:, :, None]], axis=2)
        return indices

    def decode(self, indices):
        """Vectors [..., dim] that these indices [..., stages] stand for."""
        return sum(ops.take(self.codebooks[stage], indices[..., stage], axis=0) for stage in range(self.stages))

    def call(self, x, training=False):
        flat = ops.reshape(x, (-1, self.dim))
        indices = self.search(flat, self.m_best)[:, 0]
        x_q = ops.stop_gradient(self.decode(indices))
        self.add_loss(self.beta * ops.mean((flat - x_q) ** 2))
        if training:
            self.update_codebooks(ops.stop_gradient(flat) - x_q, indices)
        # straight-through: the value is exactly x_q, the gradient that of the identity
        return ops.reshape(x_q + (flat - ops.stop_gradient(flat)), ops.shape(x))

    def update_codebooks(self, error, indices):
        """EMA update of the codewords towards the mean of the assigned vectors; error [n][dim] is x − x_q."""
        codebooks, counts = [], []
        for stage in range(self.stages):
            index = indices[:, stage]
            assigned = error + ops.take(self.codebooks[stage], index, axis=0)
            used = ops.segment_sum(ops.ones_like(error[:, 0]), index, self.M)
            count = self.decay * self.counts[stage] + (1 - self.decay) * used
            step = (1 - self.decay) * ops.segment_sum(error, index, self.M) / ops.maximum(count, 1e-9)[:, None]
            error = error - ops.take(step, index, axis=0)  # what the next stage still has to correct
            unused = count < 0.2 * ops.mean(count)
            drawn = keras.random.randint((self.M,), 0, ops.shape(error)[0], seed=self.random)
            restarted = ops.take(assigned, drawn, axis=0)
            codebooks.append(ops.where(unused[:, None], restarted, self.codebooks[stage] + step))
            counts.append(ops.where(unused, ops.mean(count), count))
        self.codebooks.assign(ops.stack(codebooks))
        self.counts.assign(ops.stack(counts))


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]."""
    inputs = keras.Input((args.embedding_dim,))
    z_e = layers.Identity(name="encoder")(inputs)
    sizes = {"num_embedding": args.num_embedding, "embedding_dim": args.embedding_dim, "stages": 2}
    z_q = VectorQuantizer(**sizes, m_best=args.mbest, decay=args.decay, name="quantizer")(z_e)
    identity = {"kernel_initializer": "identity", "trainable": args.train_decoder}
    return keras.Model(inputs, layers.Dense(args.embedding_dim, name="decoder", **identity)(z_q))


def kmeans_codebooks(x, iterations, args, rng):
    """Codebooks [2][M][D] by k-means: the first for vectors x [n][D], the second for the residuals."""
    codebooks = []
    for _ in range(2):
        codebooks.append(kmeans2(x, args.num_embedding, iterations, minit="++", rng=rng)[0])
        x = x - codebooks[-1][vq(x, codebooks[-1])[0]]
    return np.stack(codebooks)


def train(network, data, args, rng):
    """Fit the network to return its inputs; returns what the film shows, a dictionary per picture."""
    x, held, quantizer = data["train"], data["held-out"], network.get_layer("quantizer")
    quantizer.codebooks.assign(kmeans_codebooks(x, 1, args, rng))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(x) // BATCH) * args.epochs)
    warnings.filterwarnings("ignore", "The model does not have any trainable weights")  # without --train_decoder
    network.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=8)
    filmed = np.unique(np.geomspace(1, args.epochs + 1, PICTURES).astype(int)) - 1  # most is learnt in the first ones
    history, progress = [], plumbing.Progress(args.epochs)
    with plumbing.CtrlC(network) as ctrl_c:
        for epoch in range(args.epochs + 1):  # 0 is the start
            if epoch > 0:
                network.fit(x, x, BATCH, verbose=0)
            indices, error = quantise(network, held)
            if epoch in filmed or ctrl_c.pressed:
                seen = {"epoch": epoch, "indices": indices, "distortion": error}
                history.append({**seen, "codebooks": ops.convert_to_numpy(quantizer.codebooks)})
            if epoch > 0:
                progress.show(epoch, f"held-out distortion {error:.4f} per dimension")
            if ctrl_c.pressed:
                break
    return history


def quantise(network, x):
    """Indices [n][2] that stand for vectors x [n][D], and the distortion: mean squared error per dimension."""
    quantizer, decoder = network.get_layer("quantizer"), network.get_layer("decoder")
    parts = np.array_split(x, -(-len(x) * quantizer.M * quantizer.m_best // 2**24))  # bounds the memory for distances
    indices = np.concatenate([ops.convert_to_numpy(quantizer.search(part, quantizer.m_best)[:, 0]) for part in parts])
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
    """Film of a training: the codebooks on the density of what they quantise, their sums with cells, and figures."""
    import matplotlib.pyplot as plt

    fig, ((*stages, sums), (figures, *usage)) = plt.subplots(2, 3, figsize=(10, 6.5), layout="constrained")
    D, M = args.embedding_dim, args.num_embedding
    axes = np.eye(D, 2) if D <= 2 else np.linalg.eigh(np.cov(held.T))[1][:, :-3:-1]  # [D][2] of the plane that is shown
    epochs, values = ([seen[name] for seen in history] for name in ("epoch", "distortion"))
    trails = np.stack([seen["codebooks"] @ axes for seen in history])  # [pictures][2][M][2]
    limits = np.percentile(np.abs(held @ axes), 99.9) * np.array([-1, 1])
    residual_limits = 1.2 * np.abs(trails[-1, 1]).max() * np.array([-1, 1])
    side = np.linspace(*limits, GRID)
    grid = (np.stack(np.meshgrid(side, side), axis=-1) @ axes.T).reshape(-1, D)

    def draw(i):
        codebooks, indices = history[i]["codebooks"], history[i]["indices"]
        residual = held - codebooks[0][indices[:, 0]]
        points = (codebooks[0][:, None] + codebooks[1]).reshape(M * M, D)[:MAX_SUMS]
        for ax, x, dots, shown, title in (
            (stages[0], held, trails[i, 0], limits, f"epoch {epochs[i]}: codebook 1"),
            (stages[1], residual, trails[i, 1], residual_limits, "codebook 2, residuals"),
            (sums, held, points @ axes, limits, "sums and their cells"),
        ):
            ax.clear()
            ax.hist2d(*(x @ axes).T, 80, range=[shown, shown], cmap="inferno")
            size = 3 if ax is sums else 5
            ax.plot(*dots.T, "o", color="white", markersize=size, markeredgecolor="black", markeredgewidth=0.5)
            ax.set(title=title, aspect="equal", xlim=shown, ylim=shown)
        for stage, ax in enumerate(stages):
            ax.plot(*np.moveaxis(trails[: i + 1, stage], 2, 0), color="white", linewidth=0.8, alpha=0.7)
        border = np.abs(np.gradient(vq(grid, points)[0].reshape(GRID, GRID))).sum(axis=0) > 0
        sums.imshow(border, "gray", alpha=0.4 * border, origin="lower", extent=(*limits, *limits), zorder=1)
        figures.clear()
        figures.plot(epochs[: i + 1], values[: i + 1], ".-", label="VQ-VAE")
        for (name, value), style in zip(references.items(), ("--", ":"), strict=True):
            figures.axhline(value, color="black", linestyle=style, label=f"{name} {value:.4f}")
        figures.set(xscale="symlog", xlim=(0, epochs[-1]), ylim=(0, 1.1 * max(*references.values(), values[0])))
        figures.set(xlabel="Epoch", ylabel="Distortion per dimension", title=f"held-out {values[i]:.4f}")
        figures.legend(fontsize="small", loc="center right")
        for stage, ax in enumerate(usage):
            ax.clear()
            ax.bar(np.arange(M), np.bincount(indices[:, stage], minlength=M))
            ax.set(xlabel="Codeword", ylabel="Held-out vectors", title=f"use of codebook {stage + 1}")

    draw(0)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # axes stay where they are; laying out every picture takes longer than drawing it
    plumbing.show_film(fig, draw, len(history), "vq_vae_demo_2stage", args.plot_dir)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    bits = 2 * np.log2(args.num_embedding)
    first, second = kmeans_codebooks(data["train"], 50, args, rng)
    residual = data["held-out"] - first[vq(data["held-out"], first)[0]]
    references = {"k-means, stage by stage": np.mean(vq(residual, second)[1] ** 2) / args.embedding_dim}
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
    for stage in range(2):
        counts = np.bincount(indices[:, stage], minlength=args.num_embedding)
        print(f"codewords of stage {stage + 1} in use: {np.count_nonzero(counts)} of {args.num_embedding}")
        print(f"use of stage {stage + 1}: {' '.join(map(str, counts))} vectors")
    if not args.noplots:
        show_film(history, data["held-out"], references, args)
    print(f"{figure:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
