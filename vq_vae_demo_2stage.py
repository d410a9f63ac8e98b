#!/usr/bin/env python3
"""Watch a two stage VQ-VAE learn: the second stage quantises what the first one leaves over.

Usage:
    ./vq_vae_demo_2stage.py                                # two stages of 16 codewords for Gaussian vectors
    ./vq_vae_demo_2stage.py --mbest 1                      # stage after stage instead of a search over both
    ./vq_vae_demo_2stage.py --test qpsk --num_embedding 4  # the second stage finds nothing but noise

Every vector becomes the sum of one codeword a stage, so that two codebooks of M make a constellation of M² points.
Both are trained at once, on the error of the sum.  The encoder does nothing, nor does the decoder unless trained.

Expected: 0.0098 ± 0.0003 for two stages of 16 (Gaussian); 0.0117 ± 0.0006 with --mbest 1; any seed.  Units: none;
variances are those of one dimension, on vectors that are not trained on.
"""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import numpy as np

import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

NOISE_VARIANCE = 0.04  # of qpsk, per dimension
HELD_OUT = 50_000  # vectors that the figures are measured on: 0.5 % from the true ones
BATCH = 500  # vectors
LEARNING_RATE = 0.03  # falls to 0 along a cosine
MAX_FRAMES = 9  # of the animation, which take longer than the training
MAX_SUMS = 64  # codewords a stage whose sums are drawn

# ---------------------------------------------------------------- arguments


def parse_args(argv=None):
    parser = ArgumentParser(description="Watch two stages learn.", formatter_class=ArgumentDefaultsHelpFormatter)
    number = {"type": codec2_model.positive}
    group = parser.add_argument_group("data")
    group.add_argument("--test", choices=("qpsk", "gaussian"), default="gaussian", help="±1 plus noise, or Gaussian")
    group.add_argument("--nb_samples", **number, default=30000, metavar="N", help="training vectors")
    group = parser.add_argument_group("network")
    group.add_argument("--num_embedding", **number, default=16, metavar="M", help="codewords of a stage")
    group.add_argument("--embedding_dim", **number, default=2, metavar="D", help="size of a vector")
    group.add_argument("--mbest", **number, default=4, metavar="N", help="candidates that go from stage 1 to 2")
    group.add_argument("--train_decoder", action="store_true", help="train the decoder as well")
    group.add_argument("--decay", type=float, metavar="A", help="codebooks follow moving averages (say 0.99)")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", **number, default=25, metavar="N", help="passes through the training vectors")
    group.add_argument("--seed", type=codec2_model.seed, default=1, help="the same seed gives the same codebooks")
    group = parser.add_argument_group("output")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write a GIF and a PNG there instead of opening a window")
    args = parser.parse_args(argv)
    if not 2 <= args.num_embedding <= args.nb_samples:
        parser.error("--num_embedding must be 2 or more, and --nb_samples no less")
    if args.decay is not None and not 0 <= args.decay < 1:
        parser.error("--decay must be 0 or more, and less than 1")
    return args


# ---------------------------------------------------------------- data


def make_data(n, args, rng):
    """Vectors [n][D]: unit variance Gaussian, or corners of a cube (for D = 2 the QPSK constellation) plus noise."""
    noise = rng.normal(size=(n, args.embedding_dim))
    if args.test == "qpsk":
        noise = rng.choice([-1, 1], noise.shape) + np.sqrt(NOISE_VARIANCE) * noise
    return noise.astype(np.float32)


def shannon_bound(bits, args):
    """Distortion per dimension that no quantiser of so many bits a vector comes below: P·2^(−2R), R = bits/D.

    P is the entropy power, exp(2h)/(2πe) for a density of entropy h: the variance if Gaussian, less for all others.
    """
    power = 1.0
    if args.test == "qpsk":
        x, dx = np.linspace(-5, 5, 10001, retstep=True)
        bells = [np.exp(-((x - mean) ** 2) / (2 * NOISE_VARIANCE)) for mean in (-1, 1)]
        density = np.mean(bells, axis=0) / np.sqrt(2 * np.pi * NOISE_VARIANCE)
        entropy = -np.sum(density * np.log(density + 1e-300)) * dx
        power = np.exp(2 * entropy) / (2 * np.pi * np.e)
    return power * 2 ** (-2 * bits / args.embedding_dim)


if __name__ == "__main__":
    codec2_model.plain_errors()
    ARGS = parse_args()
    codec2_model.check_outputs(ARGS)  # before Keras is imported, which takes seconds

import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq

# ---------------------------------------------------------------- quantiser


def spread(x, M, rng, candidates=8):
    """Start of a codebook [M][dim], and what it leaves over of the vectors x [n][dim] when every one takes the nearest.

    The codewords are vectors far from those already taken: of some that are drawn with probabilities that rise with the
    squared distance, the one that lowers the total distance most (greedy k-means++).
    """
    residual = x - x[rng.integers(len(x))]
    codebook = [x[0] - residual[0]]
    distance, power = np.sum(residual**2, axis=1, dtype=np.float64), np.sum(x**2, axis=1)
    while len(codebook) < M:
        p = distance + np.finfo(np.float64).tiny  # all distances are 0 when there are fewer different vectors than M
        drawn = x[rng.choice(len(x), candidates, p=p / p.sum())]
        to_drawn = np.sum(drawn**2, axis=1)[:, None] - 2 * drawn @ x.T + power
        codebook.append(drawn[np.argmin(np.minimum(to_drawn, distance).sum(axis=1))])
        new = x - codebook[-1]
        new_distance = np.sum(new**2, axis=1)
        closer = new_distance < distance
        residual[closer], distance[closer] = new[closer], new_distance[closer]
    return np.stack(codebook), residual


@keras.saving.register_keras_serializable("codec2")
class VectorQuantizer(layers.Layer):
    """Vectors [..., dim] become the sum of one codeword of each stage; a stage quantises what those before leave over.

    Gradients pass as if the layer were not there (straight-through estimator), which leaves none for the codebooks.  So
    it has two loss terms of its own: codebook_loss pulls the codewords to the vector, commitment_loss the vector to the
    codewords.  With `decay` (say 0.99) the codebooks follow moving averages instead of codebook_loss, and a codeword
    that is not used starts again elsewhere.  An m-best search keeps so many candidates from stage to stage.

    Vector [0.9, 0], codewords [0, 0] and [1, 0], beta 0.25: output [1, 0], losses 0.005 and 0.00125.
    """

    def __init__(self, num_embedding, embedding_dim, stages=1, m_best=1, beta=0.25, decay=None, **kwargs):
        super().__init__(**kwargs)
        self.M, self.dim, self.stages, self.m_best = num_embedding, embedding_dim, stages, m_best
        self.beta, self.decay = beta, decay
        self.codebooks = self.add_weight((stages, self.M, self.dim), trainable=decay is None, name="codebooks")
        if decay is not None:
            self.counts = self.add_weight((stages, self.M), "ones", trainable=False, name="counts")
            self.random = keras.random.SeedGenerator(1)

    def get_config(self):
        names = {"num_embedding": self.M, "embedding_dim": self.dim, "stages": self.stages, "m_best": self.m_best}
        return {**super().get_config(), **names, "beta": self.beta, "decay": self.decay}

    def start(self, x, rng):
        """Start the codebooks from vectors x [n][dim], each stage from what the ones before leave over."""
        codebooks = []
        for _ in range(self.stages):
            codebook, x = spread(x, self.M, rng)
            codebooks.append(codebook)
        self.codebooks.assign(np.stack(codebooks))

    def search(self, x):
        """Indices [..., stages] of the codewords whose sum is nearest to x [..., dim], or near it (m-best search)."""
        residual = ops.reshape(x, (-1, 1, self.dim))  # [n][candidates][dim]
        indices = ops.zeros((ops.shape(residual)[0], 1, 0), "int32")  # [n][candidates][stages so far]
        for stage in range(self.stages):
            codebook = self.codebooks[stage]
            distance = ops.sum(ops.square(codebook), axis=1) - 2 * ops.matmul(residual, ops.transpose(codebook))
            distance = distance + ops.sum(ops.square(residual), axis=2, keepdims=True)  # [n][candidates][M]
            distance = ops.reshape(distance, (-1, indices.shape[1] * self.M))
            if stage + 1 < self.stages:
                best = ops.top_k(-distance, min(self.m_best, distance.shape[1]))[1]
            else:
                best = ops.argmin(distance, axis=1, keepdims=True)
            best = ops.cast(best, "int32")
            index, parent = best % self.M, (best // self.M)[:, :, None]
            residual = ops.take_along_axis(residual, parent, axis=1) - ops.take(codebook, index, axis=0)
            indices = ops.concatenate([ops.take_along_axis(indices, parent, axis=1), index[:, :, None]], axis=2)
        return ops.reshape(indices, (*ops.shape(x)[:-1], self.stages))

    def decode(self, indices):
        """Vectors [..., dim] that these indices [..., stages] stand for."""
        return sum(ops.take(self.codebooks[stage], indices[..., stage], axis=0) for stage in range(self.stages))

    def call(self, x, training=False):
        indices = self.search(x)
        quantized = self.decode(indices)
        commitment_loss = self.beta * ops.mean(ops.square(x - ops.stop_gradient(quantized)))
        self.add_loss(commitment_loss)
        if self.decay is None:
            codebook_loss = ops.mean(ops.square(ops.stop_gradient(x) - quantized))
            self.add_loss(codebook_loss)
        elif training:
            self.follow(ops.reshape(x - quantized, (-1, self.dim)), ops.reshape(indices, (-1, self.stages)))
        return ops.stop_gradient(quantized) + (x - ops.stop_gradient(x))  # adds 0, so that the value stays exact

    def follow(self, error, indices):
        """Move the codewords to moving averages of what they ought to have been; error [n][dim] is what was left."""
        codebooks, counts = [], []
        for stage in range(self.stages):
            index = indices[:, stage]
            wanted = error + ops.take(self.codebooks[stage], index, axis=0)
            now = ops.segment_sum(ops.ones_like(error[:, 0]), index, self.M)
            count = self.decay * self.counts[stage] + (1 - self.decay) * now
            step = (1 - self.decay) * ops.segment_sum(error, index, self.M) / ops.maximum(count, 1e-9)[:, None]
            codebook = self.codebooks[stage] + step
            error = error - ops.take(step, index, axis=0)  # the next stage has less left to do
            unused = count < 0.2 * ops.mean(count)
            drawn = keras.random.randint((self.M,), 0, ops.shape(error)[0], seed=self.random)
            codebooks.append(ops.where(unused[:, None], ops.take(wanted, drawn, axis=0), codebook))
            counts.append(ops.where(unused, ops.mean(count), count))
        self.codebooks.assign(ops.stack(codebooks))
        self.counts.assign(ops.stack(counts))


# ---------------------------------------------------------------- network


def build_network(args):
    """Network from vectors [n][D] to vectors [n][D]; its layers are named encoder, quantizer and decoder."""
    D = args.embedding_dim
    inputs = keras.Input((D,))
    z_e = layers.Identity(name="encoder")(inputs)
    z_q = VectorQuantizer(args.num_embedding, D, stages=2, m_best=args.mbest, decay=args.decay, name="quantizer")(z_e)
    decoder = layers.Dense(D, kernel_initializer="identity", trainable=args.train_decoder, name="decoder")
    return keras.Model(inputs, decoder(z_q))


# ---------------------------------------------------------------- training


class Watch(keras.callbacks.Callback):
    """A line and a picture an epoch.  The first Ctrl-C ends training after the step that is running."""

    def __init__(self, held, film, args):
        super().__init__()
        self.held, self.film = held, film
        self.every = -(-args.epochs // MAX_FRAMES)
        self.distortions, self.codebooks = [], []

    def on_train_begin(self, logs=None):
        codec2_model.ctrl_c(self.stop)
        self.look(last=False)

    def stop(self):
        self.model.stop_training = True

    def on_epoch_end(self, epoch, logs):
        self.look(last=self.model.stop_training or epoch + 1 == self.params["epochs"])
        print(f"epoch {epoch + 1}/{self.params['epochs']}: held-out {self.distortions[-1]:.4f} per dimension")

    def on_train_end(self, logs=None):
        codec2_model.ctrl_c(None)

    def look(self, last):
        epoch = len(self.distortions)
        indices, x_hat = quantise(self.model, self.held)
        self.distortions.append(distortion(self.held, x_hat))
        self.codebooks.append(ops.convert_to_numpy(self.model.get_layer("quantizer").codebooks))
        if self.film and (last or epoch % self.every == 0):
            self.film.shoot(self, indices)


def train(network, x, watch, args, rng):
    """Start the codebooks from the vectors x [n][D] and fit the network to return them."""
    network.get_layer("quantizer").start(x, rng)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(x) // BATCH) * args.epochs)
    network.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=8)
    network.fit(x, x, batch_size=BATCH, epochs=args.epochs, callbacks=[watch], verbose=0)


# ---------------------------------------------------------------- evaluation


def quantise(network, x):
    """Indices [n][stages] that stand for vectors x [n][D], and the vectors [n][D] that the network makes of them."""
    quantizer, decoder = network.get_layer("quantizer"), network.get_layer("decoder")
    parts = np.array_split(x, -(-len(x) * quantizer.M * quantizer.m_best // 2**24))  # bounds the memory for distances
    indices = ops.concatenate([quantizer.search(part) for part in parts])
    return ops.convert_to_numpy(indices), ops.convert_to_numpy(decoder(quantizer.decode(indices)))


def distortion(x, x_hat):
    """Mean squared error per dimension: [[0, 0], [1, 3]] and [[0, 1], [1, 2]] differ by 0.5."""
    return np.mean((x - x_hat) ** 2, dtype=np.float64)


def kmeans(x, held, M, rng):
    """What k-means with M codewords for vectors x [n][D] leaves over of x and of the vectors held [n][D]."""
    codebook = kmeans2(x, spread(x, M, rng)[0], iter=50, minit="matrix", rng=rng)[0]
    return x - codebook[vq(x, codebook)[0]], held - codebook[vq(held, codebook)[0]]


# ---------------------------------------------------------------- plots


def draw_epoch(axes, watch, indices, planes, references, args):
    """Codebooks, their sums, distortion, and how often every codeword is used."""
    M, epoch = args.num_embedding, len(watch.codebooks) - 1
    first, second = np.moveaxis(np.stack(watch.codebooks), 1, 0)  # [epochs][M][D]
    residual = watch.held[: vq_pager.SCATTER] - first[-1][indices[: vq_pager.SCATTER, 0]]
    planes[0].draw(axes[0, 0], watch.held, f"epoch {epoch}: codebook 1, data", first)
    planes[1].draw(axes[0, 1], residual, "codebook 2, what stage 1 leaves over", second)
    planes[0].draw_cells(axes[0, 2], lambda x: quantise(watch.model, x)[0] @ [M, 1])
    planes[0].draw(axes[0, 2], watch.held, f"{M}² sums and their cells")
    if M <= MAX_SUMS:
        sums = (first[-1][:, None] + second[-1]).reshape(M * M, -1)
        axes[0, 2].plot(*planes[0].project(sums).T, ".", color="C1", markersize=4)
    vq_pager.draw_distortion(axes[1, 0], watch.distortions, references, args.epochs)
    for stage, ax in enumerate(axes[1, 1:]):
        counts = np.bincount(indices[:, stage], minlength=M)
        ax.stairs(counts, np.arange(M + 1), fill=True, color="C0", edgecolor="white")
        ax.set(xlabel="Codeword", ylabel="Held-out vectors", title=f"use of codebook {stage + 1}")
        ax.set_ylim(0, 1.1 * counts.max())


# ---------------------------------------------------------------- main


def main(args):
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    x, held = make_data(args.nb_samples, args, rng), make_data(HELD_OUT, args, rng)
    M, bits = args.num_embedding, 2 * np.log2(args.num_embedding)
    _, left_over = kmeans(*kmeans(x, held, M, rng), M, rng)
    references = {"k-means, stage by stage": np.mean(left_over**2), "Shannon bound": shannon_bound(bits, args)}

    network = build_network(args)
    planes = []

    def draw(axes, watch, indices):
        if not planes:
            first = watch.codebooks[0][0][indices[:, 0]]
            planes.extend([vq_pager.Plane(held), vq_pager.Plane(held - first)])
        draw_epoch(axes, watch, indices, planes, references, args)

    film = None if args.noplots else vq_pager.Film(draw, "vq_vae_demo_2stage", args.plot_dir, (2, 3))
    train(network, x, Watch(held, film, args), args, rng)

    print(f"bits: {bits:.2f} per vector")
    for part, vectors in (("train", x), ("held-out", held)):
        indices, x_hat = quantise(network, vectors)
        figure = distortion(vectors, x_hat)
        print(f"{part} variance before: {distortion(vectors, vectors.mean(axis=0)):.4f} per dimension")
        print(f"{part} variance after: {figure:.4f} per dimension")
    for name, value in references.items():
        print(f"{name}: {value:.4f} per dimension")
    for stage in range(2):
        counts = np.bincount(indices[:, stage], minlength=M)
        print(f"codewords of stage {stage + 1} in use: {np.count_nonzero(counts)} of {M}")
        print(f"use of stage {stage + 1}: {' '.join(map(str, counts))} vectors")
    if film:
        film.show()
    print(f"{figure:.4f}")


if __name__ == "__main__":
    main(ARGS)
