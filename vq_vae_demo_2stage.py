#!/usr/bin/env python3
"""Watch a two-stage VQ-VAE learn: the second stage quantises the residual of the first.

Usage:
    ./vq_vae_demo_2stage.py                                # two stages of 16 codewords
    ./vq_vae_demo_2stage.py --mbest 1                      # stage after stage, no search over both
    ./vq_vae_demo_2stage.py --test qpsk --num_embedding 4  # stage 2 finds nothing but noise

Every vector becomes the sum of one codeword per stage, so that two codebooks of M make a
constellation of M² points.  Training starts from k-means, stage by stage, and moves both codebooks
at once to make the error of the sum small.  There is no encoder and no decoder: the quantiser sees
the data as they are.

Expected: 0.0098 ± 0.0003 for two stages of 16 (Gaussian), seeds 1 to 8; with --mbest 1 0.011 to
0.0125.
Units: vectors have no unit; variances and distortions are per dimension, on vectors that are not
trained on.
"""

import argparse
import math
import warnings

import numpy as np

from common import networks, plots, plumbing

NAME = "vq_vae_demo_2stage"
NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: within 0.5 % of the true ones
BATCH = 500  # vectors
DECAY = 0.95  # per step, of the moving averages that the codebooks follow
BETA = 0.25  # weight of the commitment loss, which has nothing to pull here
PICTURES = 20  # of the film, at most
GRID = 200  # points each way at which the film looks for the borders of cells


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Watch a two-stage VQ-VAE learn to quantise vectors in a plane.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = {"type": plumbing.positive, "metavar": "N"}
    test_help = "±1 plus noise, or Gaussian (default: gaussian)"
    add("--test", choices=("qpsk", "gaussian"), default="gaussian", help=test_help)
    add("--nb_samples", **number, default=30_000, help="training vectors (default: 30000)")
    add("--num_embedding", **number, default=16, help="codewords of a stage (default: 16)")
    add("--embedding_dim", **number, default=2, help="size of a vector (default: 2)")
    add("--mbest", **number, default=4, help="sums that go on to stage 2 (default: 4)")
    add("--epochs", **number, default=25, help="passes through the vectors (default: 25)")
    decay_help = f"of the averages that the codebooks follow (default: {DECAY})"
    add("--decay", type=plumbing.probability, default=DECAY, metavar="P", help=decay_help)
    seed_help = "the same seed gives the same codebooks (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window")
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples // 2:  # k-means must leave residuals
        parser.error("--num_embedding must be 2 to half of --nb_samples")
    if args.decay == 1:
        parser.error("--decay must be less than 1")
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
from scipy.spatial import cKDTree

from common import search

# ---------------------------------------------------------------- quantiser


class VectorQuantizer(layers.Layer):
    """Vectors x [n][dim] become x_q, the sum of one codeword per stage, for training.

    Each stage quantises the residual so far.  The gradient of x_q goes to x unchanged
    (straight-through estimator).  The commitment loss beta·mean((x − x_q)²) pulls x to its
    codewords.  The codebooks get no gradient: EMA updates move every codeword towards the mean of
    the vectors assigned to it, and one that is hardly used restarts at a vector of the batch.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], commitment loss 0.25 · 0.1²
    / 2 = 0.00125.
    """

    def __init__(self, stages, num_embedding, embedding_dim, m_best, beta, decay, **kwargs):
        super().__init__(**kwargs)
        self.stages, self.M, self.dim = stages, num_embedding, embedding_dim
        self.m_best, self.beta, self.decay = m_best, beta, decay
        sizes = stages, num_embedding, embedding_dim
        self.codebooks = self.add_weight(sizes, trainable=False, name="codebooks")
        self.counts = self.add_weight(sizes[:2], "ones", trainable=False, name="counts")
        self.random = keras.random.SeedGenerator(1)

    def decode(self, indices):
        """Sums of codewords [n][dim] that these indices [n][stages] stand for."""
        return sum(
            ops.take(self.codebooks[stage], indices[:, stage], axis=0)
            for stage in range(self.stages)
        )

    def call(self, x, training=False):
        indices = search.nearest_sums(x, self.codebooks, self.m_best)
        x_q = ops.stop_gradient(self.decode(indices))
        self.add_loss(self.beta * ops.mean((x - x_q) ** 2))
        if training:
            self.update_codebooks(ops.stop_gradient(x) - x_q, indices)
        # straight-through: the value is exactly x_q, the gradient that of the identity
        return x_q + (x - ops.stop_gradient(x))

    def update_codebooks(self, error, indices):
        """EMA update towards the mean of the assigned vectors; error [n][dim] is z − z_hat."""
        codebooks, counts = [], []
        for stage in range(self.stages):
            index = indices[:, stage]
            assigned = error + ops.take(self.codebooks[stage], index, axis=0)
            used = ops.segment_sum(ops.ones_like(error[:, 0]), index, self.M)
            count = self.decay * self.counts[stage] + (1 - self.decay) * used
            pull = (1 - self.decay) * ops.segment_sum(error, index, self.M)
            step = pull / ops.maximum(count, 1e-9)[:, None]
            error = error - ops.take(step, index, axis=0)  # what the next stage has to correct
            unused = count < 0.2 * ops.mean(count)
            drawn = keras.random.randint((self.M,), 0, ops.shape(error)[0], seed=self.random)
            restarted = ops.take(assigned, drawn, axis=0)
            moved = self.codebooks[stage] + step
            codebooks.append(ops.where(unused[:, None], restarted, moved))
            counts.append(ops.where(unused, ops.mean(count), count))
        self.codebooks.assign(ops.stack(codebooks))
        self.counts.assign(ops.stack(counts))


# ---------------------------------------------------------------- network and training


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]."""
    inputs = keras.Input((args.embedding_dim,))
    m_best = min(args.mbest, args.num_embedding)  # there are no more partial sums
    sizes = 2, args.num_embedding, args.embedding_dim
    quantizer = VectorQuantizer(*sizes, m_best, BETA, args.decay, name="quantizer")
    return keras.Model(inputs, quantizer(inputs))


def fit_kmeans(data, M, seed):
    """Codebooks float32 [2][M][D] of k-means, stage by stage, and their held-out distortion."""
    x, held = data["train"], data["held-out"]
    first, _ = kmeans2(x, M, iter=50, minit="++", rng=seed)
    second, _ = kmeans2(x - first[vq(x, first)[0]], M, iter=50, minit="++", rng=seed)
    error = vq(held - first[vq(held, first)[0]], second)[1]
    return np.float32([first, second]), np.mean(error**2) / x.shape[1]


def train(network, data, args):
    """Fit the network to return its inputs, until all epochs are done, or Ctrl-C.

    Returns what measure() gives at the start and after every epoch.
    """
    x, held = data["train"], data["held-out"]
    # the codebooks get no gradient
    warnings.filterwarnings("ignore", "The model does not have any trainable weights")
    network.compile(loss="mse", steps_per_execution=8)
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
    """{"codebooks": [2][M][D], "indices": [n][2] of vectors x [n][D], "distortion"}."""
    quantizer = network.get_layer("quantizer")
    codebooks = ops.convert_to_numpy(quantizer.codebooks)
    distances = len(x) * quantizer.M * quantizer.m_best
    indices = []
    for some in np.array_split(x, math.ceil(distances / 2**24)):  # bounds their memory
        found = search.nearest_sums(some, codebooks, quantizer.m_best)
        indices.append(ops.convert_to_numpy(found))
    indices = np.concatenate(indices)
    error = x - codebooks[0, indices[:, 0]] - codebooks[1, indices[:, 1]]
    distortion = np.mean(error**2, dtype=np.float64)
    return {"codebooks": codebooks, "indices": indices, "distortion": distortion}


def shannon_bound(args):
    """Shannon's lower bound of the distortion per dimension, P·2^(−2R) for R bits per dimension.

    P, the entropy power, is the variance when vectors are Gaussian; in qpsk the sign adds 1 bit to
    the entropy of the noise, and P is 4 times its variance.
    """
    bits = 2 * np.log2(args.num_embedding)
    power = 4 * NOISE_VARIANCE if args.test == "qpsk" else 1
    return power * 2 ** (-2 * bits / args.embedding_dim)


# ---------------------------------------------------------------- film


def show_film(history, held, kmeans, bound, args):
    """Film of a training: both codebooks on the density of what they quantise, their sums, figures.

    kmeans and bound are the distortions of k-means and of Shannon's bound.
    """
    plt = plots.pyplot()

    spaces = {"left": 0.08, "right": 0.98, "bottom": 0.08, "top": 0.95}
    spaces |= {"wspace": 0.3, "hspace": 0.35}
    fig, axes = plt.subplots(2, 3, figsize=(10, 6.5), gridspec_kw=spaces)
    stages, sums, curve, usage = axes[0, :2], axes[0, 2], axes[1, 0], axes[1, 1:]
    plane = np.eye(args.embedding_dim, 2)  # [D][2]: the first two dimensions are shown
    trails = np.stack([seen["codebooks"] @ plane for seen in history])  # [epochs][2][M][2]
    values = np.array([seen["distortion"] for seen in history])
    limits = np.percentile(np.abs(held @ plane), 99.9) * np.array([-1, 1])
    residual_limits = 1.2 * np.abs(trails[-1, 1]).max() * np.array([-1, 1])
    side = np.linspace(*limits, GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) @ plane.T  # [points][D]
    # most is learnt in the first epochs
    epochs = np.unique(np.geomspace(1, len(values), PICTURES).astype(int)) - 1

    def draw_vectors(ax, x, codewords, limits, title):
        ax.hist2d(*(x @ plane).T, 80, range=[limits, limits], cmap="inferno")
        dots = {"markersize": 4, "markeredgecolor": "black", "markeredgewidth": 0.5}
        ax.plot(*(codewords @ plane).T, "ow", **dots)
        ax.set(title=title, xlabel="Dimension 1", ylabel="Dimension 2")

    def draw(i):
        for ax in fig.axes:
            ax.clear()
        epoch = epochs[i]
        (first, second), indices = history[epoch]["codebooks"], history[epoch]["indices"]
        residual = held - first[indices[:, 0]]
        points = (first[:, None] + second).reshape(-1, args.embedding_dim)
        draw_vectors(stages[0], held, first, limits, f"epoch {epoch}: codebook 1")
        draw_vectors(stages[1], residual, second, residual_limits, "codebook 2, residuals")
        draw_vectors(sums, held, points, limits, "sums and their cells")
        cells = cKDTree(points).query(grid)[1].reshape(GRID, GRID)
        border = np.abs(np.gradient(cells)).sum(axis=0) > 0
        image = {"origin": "lower", "extent": (*limits, *limits), "zorder": 1}
        sums.imshow(border, "gray", alpha=0.4 * border, **image)
        for stage in range(2):
            lines = trails[: epoch + 1, stage]
            stages[stage].plot(lines[..., 0], lines[..., 1], color="white", linewidth=0.8)
            bins = np.arange(args.num_embedding + 1) - 0.5
            usage[stage].hist(indices[:, stage], bins, rwidth=0.8)
            usage[stage].set(xlabel="Codeword", title=f"held-out vectors, codebook {stage + 1}")
        curve.plot(epochs[: i + 1], values[epochs[: i + 1]], ".-", label="VQ-VAE")
        black = {"color": "black"}
        curve.axhline(kmeans, linestyle="--", label=f"k-means {kmeans:.4f}", **black)
        curve.axhline(bound, linestyle=":", label=f"Shannon bound {bound:.4f}", **black)
        curve.set(xscale="symlog", xlim=(0, epochs[-1]), ylim=(0, 1.1 * max(kmeans, *values)))
        curve.set(xlabel="Epoch", ylabel="Distortion per dimension")
        curve.xaxis.set_major_formatter("{x:g}")
        curve.set_title(f"held-out {values[epoch]:.4f}")
        curve.legend(fontsize="small", loc="center right")

    plots.show_film(fig, draw, len(epochs), NAME, args.plot_dir)


# ---------------------------------------------------------------- main


def main(args, data):
    networks.set_up(args.seed)
    codebooks, kmeans = fit_kmeans(data, args.num_embedding, args.seed)
    bound = shannon_bound(args)
    network = build_network(args)
    network.get_layer("quantizer").codebooks.assign(codebooks)
    history = train(network, data, args)

    if len(history) <= args.epochs:
        print(f"stopped: after {len(history) - 1} of {args.epochs} epochs")
    print(f"bits: {2 * np.log2(args.num_embedding):.2f} per vector")
    seen = {part: measure(network, x) for part, x in data.items()}
    for part, x in data.items():
        print(f"{part} variance before: {x.var(axis=0).mean():.4f} per dimension")
        print(f"{part} variance after: {seen[part]['distortion']:.4f} per dimension")
    print(f"k-means, stage by stage: {kmeans:.4f} per dimension")
    print(f"Shannon bound: {bound:.4f} per dimension")
    for stage in range(2):
        index = seen["held-out"]["indices"][:, stage]
        counts = np.bincount(index, minlength=args.num_embedding)
        used = np.count_nonzero(counts)
        print(f"codewords of stage {stage + 1} in use: {used} of {args.num_embedding}")
        print(f"use of stage {stage + 1}: {' '.join(map(str, counts))} vectors")
    if not args.noplots:
        show_film(history, data["held-out"], kmeans, bound, args)
    print(f"{seen['held-out']['distortion']:.4f}")


if __name__ == "__main__":
    main(ARGS, DATA)
