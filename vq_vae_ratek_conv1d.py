#!/usr/bin/env python3
"""Train a VQ-VAE that sends rate K vectors over a channel: two conv1D layers each side of a multi-stage quantiser.

Usage:
    ./vq_vae_ratek_conv1d.py train.f32 --nnout vq.keras                      # K = 14, 22 bits every 20 ms: 1100 bit/s
    ./vq_vae_ratek_conv1d.py train.f32 --dec 4 --vq_stages 4                 # 44 bits every 40 ms, the same bit rate
    ./vq_vae_ratek_conv1d.py bands.f32 --nnin vq.keras --indexout bands.npy  # the sender; no training
    ./vq_vae_ratek_conv1d.py --nnin vq.keras --indexin bands.npy --testout decoded.f32                   # the receiver

The encoder turns --dec frames and their neighbours into one vector, the quantiser makes one index per stage of it, and
the decoder turns the sum of the codewords into --dec frames.  The sender chooses the indices by analysis by synthesis:
of the --mbest sums of codewords nearest to the encoder's output, each vector takes the one whose decoded frames are
nearest to the original, in --sweeps passes over the vectors.  Beside it stands the classical quantiser at the same bit
rate: multi-stage k-means VQ of every --dec-th frame, linear interpolation between, the same search.

Frames whose mean level is not above --lower are coded, but neither trained on nor counted in the figures.

Expected: 22 minutes of speech, K = 14, 1100 bit/s, 10,000 steps, 3.5 minutes on two cores; SD on 61 s of other speakers
and recordings, seeds 1 to 3: 3.59, 3.58, 3.61 dB², classical VQ 6.7.  Four stages every 40 ms, 3.4 hours of speech,
29,000 steps: 2.48 dB² at the same bit rate, for 160 instead of 120 ms of delay (networks/README.md).

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import contextlib
import itertools
import warnings
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager
from plumbing import FormatError

import numpy as np

NAME = "vq_vae_ratek_conv1d"
OPTIONS = {  # of a network, and the values that they may have
    "script": (NAME,),
    "eband_K": range(2, 161),
    "dec": (1, 2, 4, 8),
    "vq_stages": range(1, 17),
    "num_embedding": range(2, 2**16 + 1),
    "embedding_dim": range(2, 257),
}
HIDDEN = 128  # channels of the hidden conv1D layers; 256 gain nothing, what is lost is lost in the quantiser
KERNEL = 7  # frames that a conv1D layer looks at; strided layers look at twice --dec and 3 more
DIM_PER_FRAME = 8  # values that are quantised per frame
SCALE_DB = 15  # about the standard deviation of speech; the network sees vectors divided by it
CHUNK = 32  # frames of a training sequence
BATCH = 32  # chunks
STEPS = 10_000  # training steps, a batch each, that the default of --epochs comes to
FIRST_STEPS = 250  # steps without the quantiser; in thousands of them the encoder's output would grow without bound
ROUNDS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 2e-3  # falls to 0 along a cosine
CLIP_NORM = 0.5  # of all gradients together, which is 0.2 to 0.4 most of the time; one bad batch ruined a training
TRAIN_MBEST = 4  # partial sums that the search in training carries from stage to stage
BETA = 1  # weight of the commitment loss; with 0.25 the encoder's output grows
DECAY = 0.99  # per step, of the EMA that the codebooks follow
GAIN_DB = 6  # training chunks are amplified by up to this, up or down,
FILTER_DB = 3  # and filtered by a smooth random response with this rms
CUTOFF_SHARE = 0.3  # of the chunks get a low pass, as many a high pass; with 0.05 narrow band speech has twice the SD
CUTOFF_SLOPE = 0.25  # dB/Hz at most
CUTOFF_DB = 50  # attenuation at most
FLOOR_DB = -20  # lowest band energy: the rounding noise of 16 bit samples
KMEANS = 60_000  # vectors that k-means sees
SAMPLE = 64  # blocks of 256 frames that the evaluations during training look at
TRAIN_SAMPLE = 1024  # such blocks that the figures of the training part are of, at most
PICTURES = 16  # of the film, at most
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args(argv=None):
    parser = ArgumentParser(description="Multi-stage VQ-VAE.", formatter_class=ArgumentDefaultsHelpFormatter)
    number = {"type": plumbing.positive, "metavar": "N"}
    group = parser.add_argument_group("data")
    group.add_argument("features", nargs="?", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    group.add_argument("--test", metavar="F32", help="another file that is never trained on")
    group.add_argument("--eband_K", **number, help="values in a vector: 14, or what the network of --nnin has")
    group.add_argument("--nb_samples", **number, help="use the first N frames")
    group.add_argument("--lower", type=float, default=10, metavar="dB", help="frames must have a higher mean to count")
    group = parser.add_argument_group("network")
    group.add_argument("--dec", type=int, default=2, choices=OPTIONS["dec"], help="frames per quantised vector")
    group.add_argument("--vq_stages", **number, default=2, help="stages of the quantiser")
    group.add_argument("--num_embedding", **number, default=2048, help="codewords of a stage")
    group.add_argument("--embedding_dim", **number, help=f"values that are quantised: {DIM_PER_FRAME} times --dec")
    group.add_argument("--nnin", metavar="NET", help="use this network, with its options, instead of training one")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", **number, help=f"passes through the frames: as many as make {STEPS} steps")
    group.add_argument("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    group = parser.add_argument_group("search of the sender")
    group.add_argument("--mbest", **number, default=16, help="partial sums kept from stage to stage; candidates")
    group.add_argument("--sweeps", type=plumbing.natural, default=2, metavar="N", help="0: no analysis by synthesis")
    group = parser.add_argument_group("output")
    group.add_argument("--nnout", default=f"{NAME}.keras", metavar="NET", help="write the network here")
    group.add_argument("--vqout", metavar="STEM", help="write the codebooks to STEM_1.f32, STEM_2.f32 …")
    group.add_argument("--indexout", metavar="NPY", help="write the indices of --test, else FEATURES")
    group.add_argument("--indexin", metavar="NPY", help="decode these indices with --nnin, without FEATURES")
    group.add_argument("--testout", metavar="F32", help="write the decoded vectors")
    group.add_argument("--noplots", action="store_true", help="print figures only")
    group.add_argument("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if bool(args.indexin) == bool(args.features) or (args.indexin and not (args.nnin and args.testout)):
        parser.error("give FEATURES, or --indexin with --nnin and --testout")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    args.embedding_dim = args.embedding_dim or DIM_PER_FRAME * args.dec
    for name in ("vq_stages", "num_embedding", "embedding_dim"):
        if getattr(args, name) not in OPTIONS[name]:
            parser.error(f"--{name} must be {OPTIONS[name][0]} to {OPTIONS[name][-1]}")
    return args


def load(args):
    """{"train", "held-out"} or {"file"}, and {"test"}: rate K vectors [n][K] in dB; or {"indices": [v][stages]}.

    With --nnin, args get the options of that network.
    """
    if args.nnin:
        options = plumbing.read_options(args.nnin, OPTIONS)
        if args.eband_K not in (None, options["eband_K"]):
            raise FormatError(f"{args.nnin}: a network for --eband_K {options['eband_K']}, not {args.eband_K}")
        vars(args).update({name: options[name] for name in OPTIONS})
    books = [f"{args.vqout}_{stage + 1}.f32" for stage in range(args.vq_stages)] if args.vqout else []
    outputs = [None if args.nnin else args.nnout, args.indexout, args.testout, *books]
    inputs = [args.features, args.test, args.nnin, args.indexin]
    plumbing.check_outputs(outputs, inputs, None if args.noplots else args.plot_dir)
    if args.indexin:
        return {"indices": codec2_model.read_indices(args.indexin, args.num_embedding, args.vq_stages, args.dec)}
    args.eband_K = args.eband_K or len(codec2_model.BAND_HZ)
    x = codec2_model.read_rate_K(args.features, args.eband_K, max_nb_samples=args.nb_samples)
    nb_train = len(x) - len(x) // 10  # the rest is cut off before chunks overlap
    data = {"file": x} if args.nnin else {"train": x[:nb_train], "held-out": x[nb_train:]}
    if args.test:
        data["test"] = codec2_model.read_rate_K(args.test, args.eband_K)
    needed = max(MIN_FRAMES, args.dec * args.num_embedding)
    for part, frames in data.items():
        least, found = needed if part == "train" else 1, np.count_nonzero(is_counted(frames, args))
        if found < least:
            why = f"{found} {part} frames with a mean level above {args.lower:g} dB, expected {least} or more"
            raise FormatError(f"{args.test if part == 'test' else args.features}: {why}")
    return data


def is_counted(x, args):
    """True [n] for the frames x [n][K] whose mean level is above --lower."""
    return np.float64(x.mean(axis=1)) > args.lower


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq

# ---------------------------------------------------------------- quantiser


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


# ---------------------------------------------------------------- network


def build_network(mean, args):
    """Network from frames [n][frames][K] to decoded frames; its layers are encoder, quantizer and decoder.

    `mean` [K] is that of the training frames.
    """
    scale = {"mean": mean, "variance": np.full(args.eband_K, SCALE_DB**2)}
    vq = {"num_embedding": args.num_embedding, "embedding_dim": args.embedding_dim, "stages": args.vq_stages}
    inputs = keras.Input((None, args.eband_K))
    encoder = [
        layers.Normalization(**scale),
        layers.Conv1D(HIDDEN, KERNEL, padding="same", activation="gelu"),
        layers.Conv1D(args.embedding_dim, 2 * args.dec + 3, strides=args.dec, padding="same"),
    ]
    decoder = [
        layers.Conv1DTranspose(HIDDEN, 2 * args.dec + 3, strides=args.dec, padding="same", activation="gelu"),
        layers.Conv1D(args.eband_K, KERNEL, padding="same"),
        layers.Normalization(**scale, invert=True),
    ]
    z_e = keras.Sequential(encoder, name="encoder")(inputs)  # [n][frames / dec][embedding_dim]
    z_q = VectorQuantizer(**vq, m_best=TRAIN_MBEST, beta=BETA, decay=DECAY, name="quantizer")(z_e)
    return keras.Model(inputs, keras.Sequential(decoder, name="decoder")(z_q))


def random_filter(chunks, rng):
    """Chunks [n][frames][K] in dB as other microphones, rooms or radios would have recorded them.

    A gain and three cosines over frequency with random weights; in some chunks a low pass, in some a high pass.
    """
    n, _, K = chunks.shape
    hz = {14: codec2_model.BAND_HZ, 20: codec2_model.NEWAMP1_HZ}.get(K, np.linspace(0, 4000, K))
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = weights @ np.cos(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, K)))
    response += rng.uniform(-GAIN_DB, GAIN_DB, (n, 1))
    low, high = rng.uniform(0, CUTOFF_SLOPE, (2, n, 1)) * (rng.random((2, n, 1)) < CUTOFF_SHARE)  # dB/Hz
    response -= np.minimum(low * np.maximum(hz - rng.uniform(2400, 4000, (n, 1)), 0), CUTOFF_DB)
    response -= np.minimum(high * np.maximum(rng.uniform(0, 500, (n, 1)) - hz, 0), CUTOFF_DB)
    return np.maximum(chunks + np.float32(response)[:, None], FLOOR_DB)


# ---------------------------------------------------------------- training


def train(network, x, held, args, rng):
    """Fit encoder, codebooks and decoder to frames x [n][K]; returns what the film shows, a dictionary per round."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    counted = is_counted(x, args)
    first_frames = np.flatnonzero(np.convolve(counted, np.ones(CHUNK), "valid") >= CHUNK // 2)  # of chunks with speech
    epoch_steps = -(-len(x) // (BATCH * CHUNK))
    epochs = args.epochs or -(-STEPS // epoch_steps)
    print(f"epochs: {epochs}")
    print(f"steps: {epochs * epoch_steps}")

    def random_chunks(n):
        """Filtered chunks [n][CHUNK][K] from anywhere in x, and the weights [n][CHUNK] of their frames in the loss."""
        frames = rng.choice(first_frames, n)[:, None] + np.arange(CHUNK)
        return random_filter(x[frames], rng), np.float32(counted[frames])

    def fit(model, steps):
        """Mean loss of so many training steps."""
        chunks, weights = random_chunks(steps * BATCH)
        history = model.fit(chunks, chunks, BATCH, sample_weight=weights, shuffle=False, verbose=0)
        return history.history["loss"][0]

    options = {"loss": "mse", "loss_weights": 1 / SCALE_DB**2, "steps_per_execution": 10}
    # without the quantiser first, so that the codebooks start from vectors that mean something
    model = keras.Model(network.inputs, decoder(encoder(network.inputs[0])))
    model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM), **options)
    fit(model, min(FIRST_STEPS, epochs * epoch_steps))
    some = random_chunks(-(-KMEANS * args.dec // CHUNK))[0]
    z_e = encoder.predict(some, verbose=0).reshape(-1, args.embedding_dim)
    quantizer.codebooks.assign(kmeans_codebooks(z_e, 3, args, rng))

    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=CLIP_NORM), **options)
    rounds = np.unique(np.linspace(0, epochs, ROUNDS + 1).astype(int))
    progress, history = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for before, epoch in itertools.pairwise(rounds):
            loss = fit(model, (epoch - before) * epoch_steps)
            z_e, indices, sd = look(network, x, args)
            held_sd = look(network, held, args)[2]
            codebooks = ops.convert_to_numpy(quantizer.codebooks)
            seen = {"epoch": epoch, "z_e": z_e, "indices": indices, "codebooks": codebooks}
            history.append({**seen, "training part": sd, "held-out part": held_sd})
            progress.show(epoch, f"loss {loss:.4f}, SD train {sd:.2f}, held-out {held_sd:.2f} dB²")
            if ctrl_c.pressed:
                break
    return history


def look(network, x, args):
    """z_e, indices and SD in dB² of blocks from all over x [n][K], coded without analysis by synthesis."""
    some = some_blocks(x, SAMPLE)
    z_e, indices, x_hat = code(network, some, 0, args)
    return z_e, indices, np.mean((some - x_hat)[is_counted(some, args)] ** 2)


def some_blocks(x, n):
    """At most n blocks of 256 frames from all over the frames x [frames][K]."""
    starts = np.linspace(0, max(len(x) - 256, 0), n).astype(int)
    return x if len(x) <= 256 * n else np.concatenate([x[start : start + 256] for start in starts])


def kmeans_codebooks(x, iterations, args, rng):
    """Codebooks float32 [stages][M][dim] for vectors x [n][dim]: k-means, each stage of the residuals so far."""
    codebooks = []
    for _ in range(args.vq_stages):
        start = x[rng.choice(len(x), args.num_embedding, replace=False)]
        with warnings.catch_warnings(action="ignore"):  # about codewords without vectors, which stay where they are
            codebooks.append(kmeans2(x, start, iterations, minit="matrix")[0])
        x = x - codebooks[-1][vq(x, codebooks[-1])[0]]
    return np.float32(codebooks)


# ---------------------------------------------------------------- sender and receiver


def search(quantizer, x, m_best, candidates):
    """Indices [n][candidates][stages] for vectors x [n][dim], in blocks to bound the memory for distances."""
    block = max(1, 2**24 // (m_best * quantizer.M))
    parts = [quantizer.search(x[start : start + block], m_best, candidates) for start in range(0, len(x), block)]
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


def choose(x, counted, z, decode, reach, sweeps, dec):
    """Analysis by synthesis: the number [v] of the candidate that each vector takes of its candidates z [v][C][dim].

    decode(vectors [v][dim]) gives frames [v · dec][K], to be near x [n][K] where counted [n].  A vector changes the
    frames from reach[0] to reach[1], counted from its own first frame.  Vectors that change different frames are tried
    at once; each takes the candidate with the least squared error of the frames that it changes, all others held.
    """
    apart = -(-(reach[1] - reach[0] + 1) // dec)  # vectors
    numbers, chosen = np.arange(len(z)), np.zeros(len(z), int)
    for first in [*range(min(apart, len(z)))] * sweeps:
        tried = numbers[first::apart]
        start = tried * dec + reach[0]
        start, end = np.clip([start, start + apart * dec], 0, len(x))
        errors = []
        for candidate in range(z.shape[1]):
            chosen[tried] = candidate
            error = np.mean((x - decode(z[numbers, chosen])[: len(x)]) ** 2, axis=1) * counted
            sums = np.concatenate([[0], np.cumsum(error, dtype=np.float64)])
            errors.append(sums[end] - sums[start])
        chosen[tried] = np.argmin(errors, axis=0)
    return chosen


def decode(network, z):
    """Frames [v · dec][K] that the decoder makes of vectors z [v][dim]."""
    return ops.convert_to_numpy(network.get_layer("decoder")(z[None])[0])


def code(network, x, sweeps, args):
    """Encoder output z_e [v][dim], indices int32 [v][stages] and decoded frames [n][K] of frames x [n][K].

    v = n / dec, rounded up by repeating the last frame.
    """
    encoder, quantizer = network.get_layer("encoder"), network.get_layer("quantizer")
    padded = np.maximum(np.pad(x, ((0, -len(x) % args.dec), (0, 0)), "edge"), FLOOR_DB)
    z_e = ops.convert_to_numpy(encoder(padded[None])[0])
    indices, chosen = search(quantizer, z_e, args.mbest, args.mbest if sweeps else 1), 0
    if sweeps:
        z = ops.convert_to_numpy(quantizer.decode(indices))
        _, reach = reaches(network, args)
        chosen = choose(x, is_counted(x, args), z, lambda z: decode(network, z), reach, sweeps, args.dec)
    indices = indices[np.arange(len(z_e)), chosen]
    return z_e, indices, decode(network, ops.convert_to_numpy(quantizer.decode(indices)))[: len(x)]


def reaches(network, args):
    """First and last frame that a vector depends on, and that it changes when decoded, counted from its own first one.

    Found with NaN, which goes wherever a value goes.
    """
    n, middle = 64 * args.dec, 32 * args.dec
    frames = np.zeros((n, n, args.eband_K), np.float32)
    frames[np.arange(n), np.arange(n)] = np.nan
    vectors = np.zeros((1, 64, args.embedding_dim), np.float32)
    vectors[0, 32] = np.nan
    seen = np.isnan(ops.convert_to_numpy(network.get_layer("encoder")(frames))[:, 32, 0])
    changed = np.isnan(decode(network, vectors[0])[:, 0])
    return [np.flatnonzero(flags)[[0, -1]] - middle for flags in (seen, changed)]


def code_classically(codebooks, x, sweeps, args):
    """Frames [n][K]: every dec-th frame of x [n][K] quantised with codebooks [stages][M][K], linear interpolation."""
    quantizer = VectorQuantizer(args.num_embedding, args.eband_K, args.vq_stages)
    quantizer.codebooks.assign(codebooks)
    n = np.arange(-(-len(x) // args.dec) * args.dec)
    weight = (n % args.dec / np.float32(args.dec))[:, None]

    def interpolate(z):
        following = np.minimum(n // args.dec + 1, len(z) - 1)
        return (1 - weight) * z[n // args.dec] + weight * z[following]

    z = ops.convert_to_numpy(quantizer.decode(search(quantizer, x[:: args.dec], args.mbest, args.mbest)))
    chosen = choose(x, is_counted(x, args), z, interpolate, (1 - args.dec, args.dec - 1), sweeps, args.dec)
    return interpolate(z[np.arange(len(z)), chosen])[: len(x)]


# ---------------------------------------------------------------- figures and pictures


def evaluate(part, x, decoded, args):
    """Print SD and variance of frames x [n][K] against decoded {name: [n][K]}; returns SD {name: [counted]} in dB²."""
    target, sd = np.where(is_counted(x, args)[:, None], x, np.nan), {}
    for name, x_hat in decoded.items():
        sd[name], variance = codec2_model.sd_and_variance(target, x_hat)
        print(f"{part} {name} SD: {sd[name].mean():.2f} dB²")
        print(f"{part} {name} variance: {variance.mean():.2f} dB²")
    print(f"{part} frames counted: {len(variance)} of {len(x)}")
    return sd


def show_film(history, args):
    """Film of a training: for each stage what it quantises, as a density, with its codewords; SD by epoch."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, args.vq_stages + 1, figsize=(4.5 * (args.vq_stages + 1), 4.5), layout="constrained")
    planes, residual = [], history[-1]["z_e"]  # the planes of the last epoch, for all pictures
    for stage, codebook in enumerate(history[-1]["codebooks"]):
        plane = np.linalg.eigh(np.atleast_2d(np.cov(residual.T)))[1][:, :-3:-1]  # the two principal axes
        planes.append((plane, np.percentile(residual @ plane, [0.5, 99.5], axis=0).T))
        residual = residual - codebook[history[-1]["indices"][:, stage]]
    last = np.unique(np.geomspace(1, len(history), PICTURES).astype(int)) - 1  # round of each picture, log-spaced

    def draw(picture):
        seen = history[last[picture]]
        residual = seen["z_e"]
        for stage, (ax, (plane, limits), codebook) in enumerate(zip(axes, planes, seen["codebooks"], strict=False)):
            ax.clear()
            ax.hist2d(*(residual @ plane).T, 80, range=limits, cmap="inferno", norm="symlog")
            ax.plot(*(codebook @ plane).T, "ow", markersize=2.5, markeredgecolor="black", markeredgewidth=0.3)
            ax.set(xlim=limits[0], ylim=limits[1], xlabel="Principal axis 1", ylabel="Principal axis 2")
            ax.set_title(f"{f'residual of stage {stage}' if stage else 'encoder output'} and codewords")
            residual = residual - codebook[seen["indices"][:, stage]]
        axes[-1].clear()
        for name in ("training part", "held-out part"):
            rounds = history[: last[picture] + 1]
            axes[-1].plot([r["epoch"] for r in rounds], [r[name] for r in rounds], ".-", label=name)
        values = [r[name] for r in history for name in ("training part", "held-out part")]
        axes[-1].set(xlim=(0, history[-1]["epoch"]), ylim=(0, 1.05 * max(values)))
        axes[-1].set(xlabel="Epoch", ylabel="SD (dB²)", title=f"epoch {seen['epoch']}")
        axes[-1].legend()

    plumbing.show_film(fig, draw, len(last), f"{NAME}_training", args.plot_dir)


# ---------------------------------------------------------------- main


def load_trained(filename, args):
    """The network in a file.  FormatError if its layers are not those that its options, in args, tell."""
    network = plumbing.load_network(filename)
    expected = [args.embedding_dim, args.vq_stages, args.num_embedding, args.embedding_dim, args.eband_K]
    with contextlib.suppress(ValueError, AttributeError):
        encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
        if [encoder.output_shape[-1], *quantizer.codebooks.shape, *decoder.output_shape[2:]] == expected:
            return network
    raise FormatError(f"{filename}: its layers are not those that its options tell")


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng, history = np.random.default_rng(args.seed), []
    if args.nnin:
        network = load_trained(args.nnin, args)
        classical = plumbing.read_array(args.nnin, "classical", (args.vq_stages, args.num_embedding, args.eband_K))
    else:
        x = data["train"][is_counted(data["train"], args)]
        network = build_network(x.mean(axis=0), args)
        some = random_filter(x[rng.permutation(len(x))[:KMEANS], None], rng)[:, 0]
        classical = kmeans_codebooks(some, 20, args, rng)
        history = train(network, data["train"], data["held-out"], args, rng)
        options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
        plumbing.save_network(network, {**options, "script": NAME}, args.nnout, classical=np.float16(classical))
    quantizer = network.get_layer("quantizer")
    if args.indexin:
        indices, nb_frames = data["indices"]
        x_hat = decode(network, ops.convert_to_numpy(quantizer.decode(indices)))[:nb_frames]
        codec2_model.write_rate_K(x_hat, args.testout)
        print(f"frames: {nb_frames}")
        return

    bits = args.vq_stages * np.log2(args.num_embedding)
    of_encoder, of_decoder = reaches(network, args)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * codec2_model.FRAME_S):g} bit/s")
    print(f"algorithmic delay: {of_encoder[1] - of_decoder[0]} frames, and the search")
    for part, x in data.items():
        x, sweeps = (some_blocks(x, TRAIN_SAMPLE), 0) if part == "train" else (x, args.sweeps)  # saves minutes
        print(f"{part} search: {args.mbest} candidates, {sweeps} sweeps")
        _, indices, x_hat = code(network, x, sweeps, args)
        decoded = {"network": x_hat, "classical VQ": code_classically(classical, x, sweeps, args)}
        sd = evaluate(part, x, decoded, args)
        for stage, index in enumerate(indices.T):
            used = np.count_nonzero(np.bincount(index, minlength=args.num_embedding))
            print(f"{part} codewords of stage {stage + 1} in use: {100 * used / args.num_embedding:.1f} %")

    if args.vqout:
        for stage, codebook in enumerate(ops.convert_to_numpy(quantizer.codebooks)):
            codec2_model.write_rate_K(codebook, f"{args.vqout}_{stage + 1}.f32")
    if not args.noplots:
        if history:
            show_film(history, args)
        counted = is_counted(x, args)
        frames, _ = vq_pager.typical_frames(sd["network"], x[counted].mean(axis=1))
        numbers = np.flatnonzero(counted)
        titles = [f"frame {numbers[f]}: SD {sd['network'][f]:.1f} dB²" for f in frames]
        plumbing.show({f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
        files = {"original": x[counted], "decoded": x_hat[counted]}
        vq_pager.page_vectors(files, frames, titles, f"{NAME}_frames", args.plot_dir)
    if (args.testout or args.indexout) and part == "held-out":  # the outputs are of all FEATURES
        x = np.concatenate([data["train"], data["held-out"]])
        _, indices, x_hat = code(network, x, args.sweeps, args)
    if args.testout:
        codec2_model.write_rate_K(x_hat, args.testout)
    if args.indexout:
        codec2_model.write_indices(indices, len(x), args.indexout)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
