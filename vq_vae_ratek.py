#!/usr/bin/env python3
"""Train the simplest VQ-VAE on rate K vectors: one Dense layer each side, a one stage quantiser between.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10
    ./vq_vae_ratek.py train.f32 --nnout vq.keras --vqout vq                  # K = 14, 7 bits every 10 ms: 700 bit/s
    ./vq_vae_ratek.py train.f32 --dec 2 --num_embedding 16384                # the same bit rate, two frames a vector
    ./vq_vae_ratek.py speech.f32 --nnin vq.keras --testout speech_vq.f32 --indexout speech.npy  # no training

A vector is --dec consecutive frames.  The encoder maps it to --embedding_dim values, the quantiser makes an index of
these, and the decoder turns the codeword into --dec frames.  Beside it stands k-means with as many codewords, on the
same vectors of the same randomly filtered speech.

Expected: 22 minutes of speech, 15 s on two cores; SD on 61 s of other speakers and recordings, seeds 1 to 3:
29.3 ± 0.5 dB² for 7 bits a frame, as k-means; with --dec 2 --overlap (350 bit/s) 32.6 ± 0.2, k-means 32.7.

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import numpy as np

import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

NAME = "vq_vae_ratek"
KEPT = ("eband_K", "dec", "num_embedding")  # options that a network brings with it
SCALE_DB = 15  # about the standard deviation of speech, which the network has as 1
BATCH = 2048  # vectors
LEARNING_RATE = 1e-4  # falls to 0 along a cosine
BETA, DECAY = 0.25, 0.95  # weight of the commitment loss; of the past in the averages that the codebook follows
GAIN_DB, FILTER_DB = 10, 4  # training data is amplified and filtered at random, smoothly with this rms
START, KMEANS = 20_000, 60_000  # vectors that k-means is started from, and trained on
LOOKS = 10  # how often training is looked at, …
LOOK_FRAMES, LOOK_BLOCK = 16384, 256  # … on how many frames, in blocks of so many
BLOCK = 2048  # vectors that are coded at a time
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part

# ---------------------------------------------------------------- arguments


def parse_args(argv=None):
    parser = ArgumentParser(
        description="One stage VQ-VAE on rate K vectors.", formatter_class=ArgumentDefaultsHelpFormatter
    )
    number = {"type": codec2_model.positive}
    group = parser.add_argument_group("data")
    group.add_argument("features", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    group.add_argument("--test", metavar="F32", help="another file that is never trained on")
    group.add_argument("--eband_K", **number, default=14, metavar="K", help="values in a vector")
    group.add_argument("--nb_samples", **number, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("network")
    group.add_argument("--dec", **number, default=1, metavar="N", help="frames in a vector")
    group.add_argument("--overlap", action="store_true", help="training vectors start at every frame, not every N-th")
    group.add_argument("--num_embedding", **number, default=128, metavar="M", help="codewords")
    group.add_argument("--embedding_dim", **number, metavar="D", help="values that are quantised (default: K · N)")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", **number, default=40, metavar="N", help="passes through the training frames")
    group.add_argument("--seed", type=codec2_model.seed, default=1, help="the same seed gives the same network")
    group.add_argument("--nnin", metavar="NET", help="take this network, with its options, instead of training one")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default=f"{NAME}.keras", metavar="NET", help="write the network here")
    group.add_argument("--vqout", metavar="STEM", help="write the codebook to STEM_1.f32")
    group.add_argument("--testout", metavar="F32", help="write decoded vectors, of --test or else of FEATURES")
    group.add_argument("--indexout", metavar="NPY", help="write the indices that stand for them [vectors][1]")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if args.num_embedding < 2:
        parser.error("--num_embedding must be 2 or more")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    if args.testout and args.indexout and os.path.realpath(args.testout) == os.path.realpath(args.indexout):
        parser.error("--testout and --indexout would be the same file")
    args.embedding_dim = args.embedding_dim or args.dec * args.eband_K
    if args.embedding_dim > args.dec * args.eband_K:
        parser.error("--embedding_dim must not be more than --eband_K times --dec")
    return args


# ---------------------------------------------------------------- data


def read_vectors(filename, K, nb_samples=None):
    """Rate K vectors [n][K] in dB."""
    x = codec2_model.read_rate_K(filename, K, nb_samples)
    codec2_model.check_rate_K(filename, x)
    return np.array(x)


def prepare(args):
    """All that can be wrong with the files, before Keras is imported, which takes seconds: data and test data."""
    nnout, book = None if args.nnin else args.nnout, args.vqout and f"{args.vqout}_1.f32"
    codec2_model.check_outputs(args, nnout, book, args.testout, args.indexout)
    if args.nnin:
        options = codec2_model.read_options(args.nnin, [NAME], KEPT)
        if options["eband_K"] != args.eband_K:
            why = f"a network for --eband_K {options['eband_K']}, not {args.eband_K}"
            raise codec2_model.FormatError(f"{args.nnin}: {why}")
        vars(args).update({name: options[name] for name in KEPT})
    x = read_vectors(args.features, args.eband_K, args.nb_samples)
    nb_train = (len(x) - len(x) // 10) // args.dec
    if not args.nnin and len(x) < MIN_FRAMES:
        raise codec2_model.FormatError(f"{args.features}: {len(x)} frames, expected at least {MIN_FRAMES}")
    if not args.nnin and nb_train < args.num_embedding:
        why = f"{nb_train} training vectors, expected at least --num_embedding {args.num_embedding}"
        raise codec2_model.FormatError(f"{args.features}: {why}")
    return x, read_vectors(args.test, args.eband_K) if args.test else None


if __name__ == "__main__":
    codec2_model.plain_errors()
    ARGS = parse_args()
    DATA, TEST = prepare(ARGS)

import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2

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


def build_network(mean, args):
    """Network from vectors [n][dec][K] to what the VQ-VAE and k-means make of each.

    Its layers are encoder, quantizer, decoder and kmeans; `mean` [K] is that of the training frames.
    """
    K, D, M, dec = args.eband_K, args.embedding_dim, args.num_embedding, args.dec
    scale = {"mean": mean, "variance": np.full(K, SCALE_DB**2)}
    inputs = keras.Input((dec, K))
    encoder = [layers.Normalization(**scale), layers.Flatten(), layers.Dense(D)]
    decoder = [
        layers.Dense(dec * K),
        layers.Reshape((dec, K)),
        layers.Normalization(**scale, invert=True),
    ]
    z_e = keras.Sequential(encoder, name="encoder")(inputs)
    z_q = VectorQuantizer(M, D, beta=BETA, decay=DECAY, name="quantizer")(z_e)
    x_hat = keras.Sequential(decoder, name="decoder")(z_q)
    kmeans = VectorQuantizer(M, dec * K, name="kmeans")(layers.Flatten()(inputs))
    return keras.Model(inputs, [x_hat, kmeans])


class RandomFilter(layers.Layer):
    """Chunks [n][dec][K] in dB as another microphone or room would have them; unchanged when not training.

    A gain and three cosines over frequency with random weights.
    """

    def __init__(self, K, seed):
        super().__init__()
        self.cosines = np.cos(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, K))).astype(np.float32)
        self.random = keras.random.SeedGenerator(seed)

    def call(self, chunks, training=False):
        if not training:
            return chunks
        n = ops.shape(chunks)[0]
        gain = keras.random.uniform((n, 1, 1), -GAIN_DB, GAIN_DB, seed=self.random)
        weights = keras.random.normal((n, 1, 3), 0, FILTER_DB * np.sqrt(2 / 3), seed=self.random)
        return chunks + gain + ops.matmul(weights, self.cosines)


# ---------------------------------------------------------------- training


def some_blocks(x):
    """At most LOOK_FRAMES of the frames x [n][K], in blocks from all over them."""
    starts = np.linspace(0, max(len(x) - LOOK_BLOCK, 0), LOOK_FRAMES // LOOK_BLOCK).astype(int)
    return x if len(x) <= LOOK_FRAMES else np.concatenate([x[start : start + LOOK_BLOCK] for start in starts])


class Watch(keras.callbacks.Callback):
    """A line an epoch, and a closer look after some.  The first Ctrl-C ends training after the step that is running."""

    def __init__(self, network, parts, film, args):
        super().__init__()
        self.network, self.film, self.args = network, film, args
        self.train_part, self.held_part = (some_blocks(parts[name]) for name in ("train", "held-out"))
        self.looks = {name: [] for name in ("epoch", "reconstruction", "held-out", "codebook", "commitment", "usage")}

    def on_train_begin(self, logs=None):
        codec2_model.ctrl_c(lambda: setattr(self.model, "stop_training", True))

    def on_epoch_end(self, epoch, logs):
        line = f"epoch {epoch + 1}/{self.args.epochs}: loss {logs['loss']:.4f}"
        last = self.model.stop_training or epoch + 1 == self.args.epochs
        if last or epoch % -(-self.args.epochs // LOOKS) == 0:
            self.look(epoch + 1)
            line += f", SD train {self.looks['reconstruction'][-1]:.2f}, held-out {self.looks['held-out'][-1]:.2f} dB²"
        print(line)

    def look(self, epoch):
        """Note the terms of the loss in dB² and the usage of codewords [stages][M]; take a picture."""
        quantizer = self.network.get_layer("quantizer")
        z_e, indices, x_hat = code(self.network, self.train_part, self.args.dec)
        held_hat = code(self.network, self.held_part, self.args.dec)[-1]
        error = np.mean((z_e - ops.convert_to_numpy(quantizer.decode(indices))) ** 2) * SCALE_DB**2
        sd, held_sd = np.mean((self.train_part - x_hat) ** 2), np.mean((self.held_part - held_hat) ** 2)
        now = (epoch, sd, held_sd, error, BETA * error, usage(indices, self.args.num_embedding))
        for values, value in zip(self.looks.values(), now, strict=True):
            values.append(value)
        if self.film:
            codebooks = ops.convert_to_numpy(quantizer.codebooks)
            self.film.shoot(self.looks, z_e, indices, codebooks, self.args.epochs)


def start(network, chunks):
    """Let the network begin with what PCA and k-means do: D principal axes of chunks [n][dec][K], codewords there."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    x = chunks[:: -(-len(chunks) // KMEANS)].reshape(-1, network.get_layer("kmeans").dim)
    axes = np.linalg.eigh(np.cov(x.T))[1][:, : -quantizer.dim - 1 : -1]  # those with the largest variances
    encoder.layers[-1].set_weights([axes, np.zeros(quantizer.dim)])
    decoder.layers[0].set_weights([axes.T, np.zeros(len(axes))])
    codewords = ops.reshape(network.get_layer("kmeans").codebooks, (-1, *chunks.shape[1:]))
    quantizer.codebooks.assign(encoder(codewords)[None])


def train(network, chunks, watch, args):
    """Fit encoder, codebooks and decoder to chunks [n][dec][K], filtered at random."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    inputs = keras.Input(chunks.shape[1:])
    filtered = RandomFilter(args.eband_K, args.seed)(inputs)
    model = keras.Model(inputs, decoder(quantizer(encoder(filtered))) - filtered + inputs)  # to compare with the inputs
    start(network, chunks)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, -(-len(chunks) // BATCH) * args.epochs)
    model.compile(keras.optimizers.Adam(rate), "mse", loss_weights=1 / SCALE_DB**2, steps_per_execution=16)
    model.fit(chunks, chunks, batch_size=BATCH, epochs=args.epochs, callbacks=[watch], verbose=0)


def train_kmeans(quantizer, chunks, args, rng):
    """Train a codebook by k-means on vectors, chunks [n][dec][K], filtered at random."""
    some = chunks[rng.permutation(len(chunks))[:KMEANS]]
    filtered = ops.convert_to_numpy(RandomFilter(args.eband_K, args.seed)(some, training=True))
    x = filtered.reshape(-1, args.dec * args.eband_K)
    first = spread(x[:START], args.num_embedding, rng)[0]
    quantizer.codebooks.assign(kmeans2(x, first, iter=20, minit="matrix")[0][None])


# ---------------------------------------------------------------- evaluation


def encode(network, x, dec):
    """Vectors z_e [v][D] and indices [v][1] that the sender makes of frames x [n][K]; v = n / dec, rounded up.

    The last frame is repeated if needed.
    """
    encoder, quantizer = network.get_layer("encoder"), network.get_layer("quantizer")
    x = np.pad(x, ((0, -len(x) % dec), (0, 0)), "edge").reshape(-1, dec, x.shape[1])
    z_e = [encoder(x[start : start + BLOCK]) for start in range(0, len(x), BLOCK)]
    indices = [ops.convert_to_numpy(quantizer.search(z)) for z in z_e]
    return np.concatenate(z_e), np.concatenate(indices)


def decode(network, indices, dec):
    """Frames x_hat [v · dec][K] that the receiver makes of indices [v][1]."""
    z_q = network.get_layer("quantizer").decode(indices)
    x_hat = ops.convert_to_numpy(network.get_layer("decoder")(z_q))
    return x_hat.reshape(-1, x_hat.shape[2])


def code(network, x, dec):
    """Sender and receiver: z_e [v][D], indices [v][stages] and x_hat [n][K] of frames x [n][K]."""
    z_e, indices = encode(network, x, dec)
    return z_e, indices, decode(network, indices, dec)[: len(x)]


def code_by_kmeans(network, x, dec):
    """Frames x_hat [n][K] that k-means makes of frames x [n][K]."""
    quantizer = network.get_layer("kmeans")
    vectors = np.pad(x, ((0, -len(x) % dec), (0, 0)), "edge").reshape(-1, dec * x.shape[1])
    x_hat = [quantizer.decode(quantizer.search(vectors[i : i + BLOCK])) for i in range(0, len(vectors), BLOCK)]
    return np.concatenate(x_hat).reshape(-1, x.shape[1])[: len(x)]


def usage(indices, M):
    """How often each codeword is used [stages][M]."""
    return np.stack([np.bincount(index, minlength=M) for index in indices.T])


def evaluate(part, x, network, args):
    """Print the figures of frames x [n][K]; returns SD of every frame in dB², {name: [n]}."""
    _, indices, x_hat = code(network, x, args.dec)
    sd = {"network": np.mean((x - x_hat) ** 2, axis=1)}
    sd["k-means"] = np.mean((x - code_by_kmeans(network, x, args.dec)) ** 2, axis=1)
    for name, values in sd.items():
        print(f"{part} {name} SD: {values.mean():.2f} dB²")
    for stage, counts in enumerate(usage(indices, args.num_embedding)):
        print(f"{part} codewords of stage {stage + 1} in use: {100 * np.mean(counts > 0):.1f} %")
    print(f"{part} frames: {len(x)}")
    return sd


# ---------------------------------------------------------------- main


def load(filename):
    """Network that was written by this script; FormatError when it is broken."""
    try:
        return keras.models.load_model(filename, compile=False)
    except Exception as error:  # Keras has many words for it
        why = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise codec2_model.FormatError(f"{filename}: not a network that can be run: {why}") from None


def main(args, x, test):
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    nb_train = len(x) - len(x) // 10  # cut off before chunks overlap
    film = None
    if args.nnin:
        parts, network = {"file": x}, load(args.nnin)
    else:
        parts = {"train": x[:nb_train], "held-out": x[nb_train:]}
        network = build_network(parts["train"].mean(axis=0), args)
        chunks = np.lib.stride_tricks.sliding_window_view(parts["train"], args.dec, axis=0).transpose(0, 2, 1)
        chunks = chunks if args.overlap else chunks[:: args.dec]
        train_kmeans(network.get_layer("kmeans"), chunks, args, rng)
        if not args.noplots:
            film = vq_pager.Film(vq_pager.draw_training, f"{NAME}_training", args.plot_dir, (2, 2))
        train(network, chunks, Watch(network, parts, film, args), args)
        codec2_model.save_network(network, {**vars(args), "script": NAME}, args.nnout)
        codec2_model.ctrl_c(None)
    if test is not None:
        parts["test"] = test
    bits = np.log2(args.num_embedding)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * codec2_model.FRAME_S):g} bit/s")
    for part, frames in parts.items():
        sd = evaluate(part, frames, network, args)

    sent = x if test is None else test
    if args.testout or args.indexout or not args.noplots:
        _, indices, x_hat = code(network, sent, args.dec)
    if args.vqout:
        for stage, codebook in enumerate(ops.convert_to_numpy(network.get_layer("quantizer").codebooks)):
            codec2_model.write_rate_K(codebook, f"{args.vqout}_{stage + 1}.f32")
    if args.testout:
        codec2_model.write_rate_K(x_hat, args.testout)
    if args.indexout:
        with codec2_model.replacing(args.indexout) as new, open(new, "wb") as file:
            np.save(file, indices)
    if film:
        film.show()
    if not args.noplots:
        vq_pager.show({f"{NAME}_sd": vq_pager.plot_sd(sd)}, args.plot_dir)
        first = nb_train if "held-out" in parts and test is None else 0
        vq_pager.page_vectors({"original": sent, "decoded": x_hat}, first, f"{NAME}_frames", args.plot_dir, nb_png=2)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA, TEST)
