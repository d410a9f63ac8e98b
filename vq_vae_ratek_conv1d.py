#!/usr/bin/env python3
"""Train a VQ-VAE that sends rate K vectors over a channel: two conv1D layers each side, a two stage quantiser between.

Usage:
    ./c2sim.py train.raw --bands train.f32 --bands_lower 10
    ./vq_vae_ratek_conv1d.py train.f32 --nnout vq.keras --vqout vq          # K = 14, 22 bits every 20 ms: 1100 bit/s
    ./vq_vae_ratek_conv1d.py train.f32 --vq_stages 1                        # 550 bit/s
    ./vq_vae_ratek_conv1d.py speech.f32 --nnin vq.keras --testout speech_vq.f32 --indexout speech.npy  # no training

The encoder turns --dec frames into one vector, with an eye on the frames around, the quantiser makes an index a stage
of it, and the decoder turns the sum of these codewords into --dec frames.  Beside it stands the multi-stage VQ that
speech coders have used for decades, at the same bit rate: every --dec-th frame quantised and straight lines between,
codebooks trained by k-means on the same randomly filtered speech.  Both search their stages together (m-best).

Expected: 22 minutes of speech, 4 minutes and 1.2 GB on two cores; SD on 61 s of other speakers and recordings, seeds
1 to 3: K = 14 at 1100 bit/s 4.51 ± 0.05 dB², classical 7.65; at 550 bit/s 12.9, 17.8; K = 20 at 1100 bit/s 9.6, 15.0.

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import numpy as np

import c2sim
import codec2_model
import vq_pager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

NAME = "vq_vae_ratek_conv1d"
KEPT = ("eband_K", "dec", "num_embedding", "vq_stages")  # options that a network brings with it
BAND_HZ = [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2000, 2400, 2800, 3200, 4000]  # centres of the K = 14 bands
HIDDEN, KERNEL = 128, 7  # channels of the hidden conv1D layers, frames (or vectors) that a layer looks at
SCALE_DB = 15  # about the standard deviation of speech, which the network has as 1
CHUNK, HOP = 32, 15  # frames of a training chunk, and from one to the next
BATCH = 32  # chunks
LEARNING_RATE = 4e-3  # falls to 0 along a cosine
BETA, DECAY = 0.25, 0.99  # weight of the commitment loss; of the past in the averages that codebooks follow
GAIN_DB, FILTER_DB = 6, 3  # training data is amplified and filtered at random, smoothly with this rms …
CUTOFF_SLOPE, CUTOFF_DB, CUTOFFS = 0.25, 50, 0.05  # … and with cutoffs, at most so many dB/Hz and dB, in some chunks …
FLOOR_DB = -20  # … down to what rounding to 16 bit leaves
START, KMEANS = 20_000, 60_000  # vectors that codebooks are started from, and the classical ones trained on
LOOKS = 10  # how often training is looked at, …
LOOK_FRAMES, LOOK_BLOCK = 16384, 256  # … on how many frames, in blocks of so many
BLOCK, REACH = 4096, 32  # frames that are coded at a time, and more than those around that they depend on
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part

# ---------------------------------------------------------------- arguments


def parse_args(argv=None):
    parser = ArgumentParser(description="Two stage VQ-VAE on rate K.", formatter_class=ArgumentDefaultsHelpFormatter)
    number = {"type": codec2_model.positive}
    group = parser.add_argument_group("data")
    group.add_argument("features", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    group.add_argument("--test", metavar="F32", help="another file that is never trained on")
    group.add_argument("--eband_K", **number, default=14, metavar="K", help="values in a vector")
    group.add_argument("--nb_samples", **number, metavar="N", help="use the first N frames")
    group = parser.add_argument_group("network")
    group.add_argument("--dec", type=int, default=2, choices=(1, 2, 4), help="frames for a quantised vector")
    group.add_argument("--num_embedding", **number, default=2048, metavar="M", help="codewords of a stage")
    group.add_argument("--embedding_dim", **number, default=16, metavar="D", help="size of a quantised vector")
    group.add_argument("--vq_stages", type=int, default=2, choices=(1, 2), help="stages of the quantiser")
    group.add_argument("--mbest", **number, default=4, metavar="N", help="candidates that go from stage 1 to 2")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", **number, default=40, metavar="N", help="passes through the training frames")
    group.add_argument("--seed", type=codec2_model.seed, default=1, help="the same seed gives the same network")
    group.add_argument("--nnin", metavar="NET", help="take this network, with its options, instead of training one")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default=f"{NAME}.keras", metavar="NET", help="write the network here")
    group.add_argument("--vqout", metavar="STEM", help="write the codebooks to STEM_1.f32 and STEM_2.f32")
    group.add_argument("--testout", metavar="F32", help="write decoded vectors, of --test or else of FEATURES")
    group.add_argument("--indexout", metavar="NPY", help="write the indices that stand for them [vectors][stages]")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if args.num_embedding < 2:
        parser.error("--num_embedding must be 2 or more")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    if args.testout and args.indexout and os.path.realpath(args.testout) == os.path.realpath(args.indexout):
        parser.error("--testout and --indexout would be the same file")
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


def build_network(mean, args):
    """Network from frames [n][frames][K] to what the VQ-VAE and the classical quantiser make of each.

    Its layers are encoder, quantizer, decoder and classical; `mean` [K] is that of the training frames.
    """
    K, D, dec = args.eband_K, args.embedding_dim, args.dec
    scale = {"mean": mean, "variance": np.full(K, SCALE_DB**2)}
    vq = {"num_embedding": args.num_embedding, "stages": args.vq_stages, "m_best": args.mbest, "decay": DECAY}
    inputs = keras.Input((None, K))
    encoder = [
        layers.Normalization(**scale),
        layers.Conv1D(HIDDEN, KERNEL, padding="same", activation="gelu"),
        layers.Conv1D(D, KERNEL, strides=dec, padding="same"),
    ]
    decoder = [
        layers.Conv1DTranspose(HIDDEN, KERNEL, strides=dec, padding="same", activation="gelu"),
        layers.Conv1D(K, KERNEL, padding="same"),
        layers.Normalization(**scale, invert=True),
    ]
    z_e = keras.Sequential(encoder, name="encoder")(inputs)  # [n][frames / dec][D]
    z_q = VectorQuantizer(embedding_dim=D, beta=BETA, **vq, name="quantizer")(z_e)
    x_hat = keras.Sequential(decoder, name="decoder")(z_q)
    return keras.Model(inputs, [x_hat, VectorQuantizer(embedding_dim=K, **vq, name="classical")(inputs)])


class RandomFilter(layers.Layer):
    """Chunks [n][frames][K] in dB as another microphone, room or radio would have them; unchanged when not training.

    A gain and three cosines over frequency with random weights; in some chunks a low pass, in some a high pass.
    """

    def __init__(self, K, seed):
        super().__init__()
        hz = {14: BAND_HZ, 20: c2sim.RATE_K_HZ}.get(K, np.linspace(0, 4000, K))  # of another K they are only a guess
        self.hz, self.random = np.array(hz, np.float32), keras.random.SeedGenerator(seed)

    def call(self, chunks, training=False):
        if not training:
            return chunks
        n = ops.shape(chunks)[0]

        def uniform(low, high):
            return keras.random.uniform((n, 1, 1), low, high, seed=self.random)

        def slope():
            return ops.maximum(uniform(CUTOFF_SLOPE * (1 - 1 / CUTOFFS), CUTOFF_SLOPE), 0)

        cosines = np.cos(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, len(self.hz)))).astype(np.float32)
        weights = keras.random.normal((n, 1, 3), 0, FILTER_DB * np.sqrt(2 / 3), seed=self.random)
        response = ops.matmul(weights, cosines) + uniform(-GAIN_DB, GAIN_DB)
        above = ops.maximum(self.hz - uniform(2400, 4000), 0) * slope()
        below = ops.maximum(uniform(0, 500) - self.hz, 0) * slope()
        return ops.maximum(chunks + response - ops.minimum(above, CUTOFF_DB) - ops.minimum(below, CUTOFF_DB), FLOOR_DB)


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


def train(network, chunks, watch, args, rng):
    """Fit encoder, codebooks and decoder to chunks [n][CHUNK][K], filtered at random."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    inputs = keras.Input(chunks.shape[1:])
    filtered = RandomFilter(args.eband_K, args.seed)(inputs)
    z_e = encoder(filtered)

    def fit(z, rate, epochs, callbacks):
        model = keras.Model(inputs, decoder(z) - filtered + inputs)  # to compare with the inputs
        model.compile(keras.optimizers.Adam(rate), "mse", loss_weights=1 / SCALE_DB**2, steps_per_execution=16)
        model.fit(chunks, chunks, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=0)

    fit(z_e, LEARNING_RATE, 1, [])  # without the quantiser, so that codebooks start from vectors that mean something
    some = chunks[rng.permutation(len(chunks))[: START * args.dec // CHUNK]]
    quantizer.start(ops.convert_to_numpy(encoder(some)).reshape(-1, args.embedding_dim), rng)
    steps = -(-len(chunks) // BATCH) * args.epochs
    fit(quantizer(z_e), keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), args.epochs, [watch])


def train_classical(quantizer, chunks, args, rng):
    """Train codebooks for single frames, by k-means stage after stage, on chunks [n][CHUNK][K] filtered at random."""
    some = chunks[rng.permutation(len(chunks))[: KMEANS // CHUNK]]
    filtered = RandomFilter(args.eband_K, args.seed)(some, training=True)
    residual = ops.convert_to_numpy(filtered).reshape(-1, args.eband_K)
    codebooks = []
    for _ in range(args.vq_stages):
        start = spread(residual[:START], args.num_embedding, rng)[0]
        codebooks.append(kmeans2(residual, start, iter=20, minit="matrix")[0])
        residual = residual - codebooks[-1][vq(residual, codebooks[-1])[0]]
    quantizer.codebooks.assign(np.stack(codebooks))


# ---------------------------------------------------------------- evaluation


def encode(network, x, dec):
    """Vectors z_e [v][D] and indices [v][stages] that the sender makes of frames x [n][K]; v = n / dec, rounded up.

    Blocks overlap by more than a vector depends on, so that there are no seams.  The last frame is repeated if needed.
    """
    encoder, quantizer = network.get_layer("encoder"), network.get_layer("quantizer")
    x = np.pad(x, ((0, -len(x) % dec), (0, 0)), "edge")
    z_e, indices = [], []
    for start in range(0, len(x), BLOCK):
        first = max(start - REACH, 0)
        z = encoder(x[None, first : start + BLOCK + REACH])[0, (start - first) // dec :][: BLOCK // dec]
        z_e.append(ops.convert_to_numpy(z))
        indices.append(ops.convert_to_numpy(quantizer.search(z)))
    return np.concatenate(z_e), np.concatenate(indices)


def decode(network, indices, dec):
    """Frames x_hat [v · dec][K] that the receiver makes of indices [v][stages]."""
    quantizer, decoder = network.get_layer("quantizer"), network.get_layer("decoder")
    x_hat = []
    for start in range(0, len(indices), BLOCK // dec):
        first = max(start - REACH // dec, 0)
        z_q = quantizer.decode(indices[first : start + (BLOCK + REACH) // dec])
        x_hat.append(ops.convert_to_numpy(decoder(z_q[None])[0, (start - first) * dec :][:BLOCK]))
    return np.concatenate(x_hat)


def code(network, x, dec):
    """Sender and receiver: z_e [v][D], indices [v][stages] and x_hat [n][K] of frames x [n][K]."""
    z_e, indices = encode(network, x, dec)
    return z_e, indices, decode(network, indices, dec)[: len(x)]


def code_classically(network, x, dec):
    """Frames x_hat [n][K]: every dec-th of x [n][K] quantised, and straight lines between."""
    quantizer = network.get_layer("classical")
    x_hat = [quantizer.decode(quantizer.search(x[i : i + BLOCK : dec])) for i in range(0, len(x), BLOCK)]
    sent = np.concatenate(x_hat)
    last, part = np.divmod(np.arange(len(x)), dec)
    following = sent[np.minimum(last + 1, len(sent) - 1)]
    return sent[last] + (part / np.float32(dec))[:, None] * (following - sent[last])


def usage(indices, M):
    """How often each codeword is used [stages][M]."""
    return np.stack([np.bincount(index, minlength=M) for index in indices.T])


def evaluate(part, x, network, args):
    """Print the figures of frames x [n][K]; returns SD of every frame in dB², {name: [n]}."""
    _, indices, x_hat = code(network, x, args.dec)
    sd = {"network": np.mean((x - x_hat) ** 2, axis=1)}
    sd["classical VQ"] = np.mean((x - code_classically(network, x, args.dec)) ** 2, axis=1)
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
        chunks = np.lib.stride_tricks.sliding_window_view(parts["train"], CHUNK, axis=0)[::HOP].transpose(0, 2, 1)
        train_classical(network.get_layer("classical"), chunks, args, rng)
        if not args.noplots:
            film = vq_pager.Film(vq_pager.draw_training, f"{NAME}_training", args.plot_dir, (2, args.vq_stages + 1))
        train(network, chunks, Watch(network, parts, film, args), args, rng)
        codec2_model.save_network(network, {**vars(args), "script": NAME}, args.nnout)
        codec2_model.ctrl_c(None)
    for name in ("quantizer", "classical"):
        network.get_layer(name).m_best = args.mbest
    if test is not None:
        parts["test"] = test
    bits = args.vq_stages * np.log2(args.num_embedding)
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
