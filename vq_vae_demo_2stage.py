#!/usr/bin/env python3
"""Watch a two-stage VQ-VAE learn: the second stage quantises the residual of the first.

Usage:
    ./vq_vae_demo_2stage.py                                # two stages of 16 codewords for Gaussian vectors
    ./vq_vae_demo_2stage.py --mbest 1                      # stage after stage instead of a search over both
    ./vq_vae_demo_2stage.py --test qpsk --num_embedding 4  # the second stage finds nothing but noise

Every vector becomes the sum of one codeword per stage, so that two codebooks of M make a constellation of M² points.
Training starts from k-means, stage by stage, and moves both codebooks at once to make the error of the sum small.
There is no encoder and no decoder: the quantiser sees the data as they are.

Expected: 0.0098 ± 0.0003 for two stages of 16 (Gaussian), seeds 1 to 8; with --mbest 1 0.011 to 0.0125.
Units: vectors have no unit; variances and distortions are per dimension, on vectors that are not trained on.
"""

import warnings
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import plumbing

import numpy as np

NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: within 0.5 % of the true ones
BATCH = 500  # vectors
PICTURES = 20  # of the film, at most
GRID = 200  # points each way at which the film looks for the borders of cells


def parse_args(argv=None):
    parser = ArgumentParser(
        description="Two-stage VQ-VAE.", formatter_class=ArgumentDefaultsHelpFormatter
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
        "--num_embedding",
        type=plumbing.positive,
        default=16,
        metavar="M",
        help="codewords of a stage",
    )
    parser.add_argument(
        "--embedding_dim", type=plumbing.positive, default=2, metavar="D", help="size of a vector"
    )
    parser.add_argument(
        "--mbest", type=plumbing.positive, default=4, metavar="N", help="sums that go on to stage 2"
    )
    parser.add_argument(
        "--epochs", type=plumbing.positive, default=25, metavar="N", help="passes through these"
    )
    parser.add_argument(
        "--decay", type=float, default=0.95, help="of the moving averages that the codebooks follow"
    )
    parser.add_argument(
        "--seed", type=plumbing.natural, default=1, help="the same seed gives the same codebooks"
    )
    parser.add_argument("--noplots", action="store_true", help="print figures only")
    parser.add_argument(
        "--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window"
    )
    args = parser.parse_args(argv)
    if not (
        2 <= args.num_embedding <= args.nb_samples // 2 and 0 <= args.decay < 1
    ):  # k-means must leave residuals
        parser.error(
            "--num_embedding must be 2 to half of --nb_samples, --decay 0 or more and less than 1"
        )
    args.mbest = min(args.mbest, args.num_embedding)  # there are no more partial sums
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
import vq_search

from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq
from scipy.spatial import cKDTree


@keras.saving.register_keras_serializable("codec2")
class VectorQuantizer(layers.Layer):
    """Vectors x [..., dim] become x_q, the sum of one codeword per stage; each stage quantises the residual so far.

    The gradient of x_q goes to x unchanged (straight-through estimator).  The commitment loss beta·mean((x − x_q)²)
    pulls x to its codewords.  The codebooks get no gradient: EMA updates move every codeword towards the mean of the
    vectors assigned to it, and one that is hardly used restarts at a vector of the batch.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], commitment loss 0.25 · 0.1² / 2 = 0.00125.
    """

    def __init__(
        self, num_embedding, embedding_dim, stages, m_best=4, beta=0.25, decay=0.99, **kwargs
    ):
        super().__init__(**kwargs)
        self.M, self.dim, self.stages, self.m_best = num_embedding, embedding_dim, stages, m_best
        self.beta, self.decay = beta, decay
        self.codebooks = self.add_weight(
            (stages, self.M, self.dim), trainable=False, name="codebooks"
        )
        self.counts = self.add_weight((stages, self.M), "ones", trainable=False, name="counts")
        self.random = keras.random.SeedGenerator(1)

    def get_config(self):
        names = {
            "num_embedding": self.M,
            "embedding_dim": self.dim,
            "stages": self.stages,
            "m_best": self.m_best,
        }
        return {**super().get_config(), **names, "beta": self.beta, "decay": self.decay}

    def search(self, x, m_best, candidates=1):
        """Indices [n][candidates][stages] of the sums of codewords nearest to x [n][dim], the best first.

        Carries the m_best best partial sums to the next stage, so it may miss the nearest sum.
        """
        residual = x[:, None]  # [n][partial sums][dim]
        indices = ops.zeros((ops.shape(x)[0], 1, 0), "int32")  # [n][partial sums][stages so far]
        for stage in range(self.stages):
            r, c = ops.reshape(residual, (-1, self.dim)), self.codebooks[stage]
            # −|r − c|² is the product of [2r, −|r|², 1] and [c, 1, −|c|²]: one pass over all pairs instead of four
            rows = ops.concatenate(
                [2 * r, -ops.sum(r**2, axis=1, keepdims=True), ops.ones_like(r[:, :1])], axis=1
            )
            columns = ops.concatenate(
                [c, ops.ones_like(c[:, :1]), -ops.sum(c**2, axis=1, keepdims=True)], axis=1
            )
            scores = ops.reshape(
                ops.matmul(rows, ops.transpose(columns)), (-1, indices.shape[1] * self.M)
            )
            best = vq_search.largest(scores, candidates if stage + 1 == self.stages else m_best)
            index, parent = best % self.M, best // self.M
            residual = vq_search.pick(residual, parent) - ops.take(c, index, axis=0)
            indices = ops.concatenate([vq_search.pick(indices, parent), index[:, :, None]], axis=2)
        return indices

    def decode(self, indices):
        """Vectors [..., dim] that these indices [..., stages] stand for."""
        return sum(
            ops.take(self.codebooks[stage], indices[..., stage], axis=0)
            for stage in range(self.stages)
        )

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
            step = (
                (1 - self.decay)
                * ops.segment_sum(error, index, self.M)
                / ops.maximum(count, 1e-9)[:, None]
            )
            error = error - ops.take(
                step, index, axis=0
            )  # what the next stage still has to correct
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
    sizes = args.num_embedding, args.embedding_dim, 2, args.mbest
    return keras.Model(inputs, VectorQuantizer(*sizes, decay=args.decay, name="quantizer")(inputs))


def train(network, codebooks, data, args):
    """Fit the network to return its inputs, from these codebooks; returns what look() sees at first and every epoch."""
    x = data["train"]
    network.get_layer("quantizer").codebooks.assign(codebooks)
    warnings.filterwarnings(
        "ignore", "The model does not have any trainable weights"
    )  # codebooks get no gradient
    network.compile(loss="mse", steps_per_execution=8)
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
    """{"codebooks": [2][M][D], "indices": [n][2] of vectors x [n][D], "distortion": mean squared error}."""
    quantizer = network.get_layer("quantizer")
    parts = np.array_split(
        x, -(-len(x) * quantizer.M * quantizer.m_best // 2**24)
    )  # bounds the memory for distances
    indices = np.concatenate(
        [ops.convert_to_numpy(quantizer.search(part, quantizer.m_best)[:, 0]) for part in parts]
    )
    error = x - ops.convert_to_numpy(quantizer.decode(indices))
    codebooks = ops.convert_to_numpy(quantizer.codebooks)
    return {
        "codebooks": codebooks,
        "indices": indices,
        "distortion": np.mean(error**2, dtype=np.float64),
    }


def show_film(history, held, kmeans, bound, args):
    """Film of a training: the codebooks on the density of what they quantise, their sums with cells, and figures."""
    import matplotlib.pyplot as plt

    spaces = {
        "left": 0.08,
        "right": 0.98,
        "bottom": 0.08,
        "top": 0.95,
        "wspace": 0.3,
        "hspace": 0.25,
    }
    fig, ((*stages, sums), (figures, *usage)) = plt.subplots(
        2, 3, figsize=(10, 6.5), gridspec_kw=spaces
    )
    plane = np.eye(args.embedding_dim, 2)  # [D][2]: the first two dimensions are shown
    trails = np.stack([seen["codebooks"] @ plane for seen in history])  # [epochs][2][M][2]
    values = np.array([seen["distortion"] for seen in history])
    limits = np.percentile(np.abs(held @ plane), 99.9) * np.array([-1, 1])
    residual_limits = 1.2 * np.abs(trails[-1, 1]).max() * np.array([-1, 1])
    side = np.linspace(*limits, GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) @ plane.T  # [points][D]
    epochs = (
        np.unique(np.geomspace(1, len(values), PICTURES).astype(int)) - 1
    )  # most is learnt in the first ones

    def draw(i):
        for ax in fig.axes:
            ax.clear()
        epoch = epochs[i]
        (first, second), indices = history[epoch]["codebooks"], history[epoch]["indices"]
        points = (first[:, None] + second).reshape(-1, args.embedding_dim)
        for ax, x, codewords, shown, title in (
            (stages[0], held, first, limits, f"epoch {epoch}: codebook 1"),
            (
                stages[1],
                held - first[indices[:, 0]],
                second,
                residual_limits,
                "codebook 2, residuals",
            ),
            (sums, held, points, limits, "sums and their cells"),
        ):
            ax.hist2d(*(x @ plane).T, 80, range=[shown, shown], cmap="inferno")
            ax.plot(
                *(codewords @ plane).T,
                "ow",
                markersize=4,
                markeredgecolor="black",
                markeredgewidth=0.5,
            )
            ax.set(title=title, xlabel="Dimension 1", ylabel="Dimension 2")
        cells = cKDTree(points).query(grid)[1].reshape(GRID, GRID)
        border = np.abs(np.gradient(cells)).sum(axis=0) > 0
        sums.imshow(
            border, "gray", alpha=0.4 * border, origin="lower", extent=(*limits, *limits), zorder=1
        )
        for stage in range(2):
            stages[stage].plot(
                *np.moveaxis(trails[: epoch + 1, stage], 2, 0), color="white", linewidth=0.8
            )
            usage[stage].hist(
                indices[:, stage], np.arange(args.num_embedding + 1) - 0.5, rwidth=0.8
            )
            usage[stage].set(xlabel="Codeword", title=f"held-out vectors, codebook {stage + 1}")
        figures.plot(epochs[: i + 1], values[epochs[: i + 1]], ".-", label="VQ-VAE")
        figures.axhline(
            kmeans, color="black", linestyle="--", label=f"k-means, stage by stage {kmeans:.4f}"
        )
        figures.axhline(bound, color="black", linestyle=":", label=f"Shannon bound {bound:.4f}")
        figures.set(xscale="symlog", xlim=(0, epochs[-1]), ylim=(0, 1.1 * max(kmeans, *values)))
        figures.set(
            xlabel="Epoch", ylabel="Distortion per dimension", title=f"held-out {values[epoch]:.4f}"
        )
        figures.legend(fontsize="small", loc="center right")

    plumbing.show_film(fig, draw, len(epochs), "vq_vae_demo_2stage", args.plot_dir)


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    # k-means, stage by stage: the reference, and where the training starts
    x, held = data["train"], data["held-out"]
    first, _ = kmeans2(x, args.num_embedding, iter=50, minit="++", rng=args.seed)
    second, _ = kmeans2(
        x - first[vq(x, first)[0]], args.num_embedding, iter=50, minit="++", rng=args.seed
    )
    kmeans = np.mean(vq(held - first[vq(held, first)[0]], second)[1] ** 2) / args.embedding_dim
    # Shannon's lower bound of the distortion, R = bits/D, is P·2^(−2R).  P, the entropy power, is the variance when
    # vectors are Gaussian; in qpsk the sign adds 1 bit to the entropy of the noise, and P is 4 times its variance
    bits = 2 * np.log2(args.num_embedding)
    bound = (4 * NOISE_VARIANCE if args.test == "qpsk" else 1) * 2 ** (
        -2 * bits / args.embedding_dim
    )
    network = build_network(args)
    history = train(network, np.stack([first, second]), data, args)

    print(f"bits: {bits:.2f} per vector")
    for part, x in data.items():
        seen = look(network, x)
        print(f"{part} variance before: {x.var(axis=0).mean():.4f} per dimension")
        print(f"{part} variance after: {seen['distortion']:.4f} per dimension")
    print(f"k-means, stage by stage: {kmeans:.4f} per dimension")
    print(f"Shannon bound: {bound:.4f} per dimension")
    for stage in range(2):
        counts = np.bincount(seen["indices"][:, stage], minlength=args.num_embedding)
        print(
            f"codewords of stage {stage + 1} in use: {np.count_nonzero(counts)} of {args.num_embedding}"
        )
        print(f"use of stage {stage + 1}: {' '.join(map(str, counts))} vectors")
    if not args.noplots:
        show_film(history, held, kmeans, bound, args)
    print(f"{seen['distortion']:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
