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
nearest to the original, in --sweeps passes over the vectors.  With --harmonics it is the one of which a network from
eband_train.py or newamp1_train.py makes the best harmonics.  Beside it stands the classical quantiser at the same bit
rate: multi-stage k-means VQ of every --dec-th frame, linear interpolation between, the same search.

Frames whose mean level is not above --lower are coded, but neither trained on nor counted in the figures.

Expected: 22 minutes of speech, K = 14, 1100 bit/s, 12,000 steps, 5 minutes on two cores; SD on 61 s of other
speakers and recordings, seeds 1 to 3: 3.47, 3.41, 3.43 dB², classical VQ 6.5.  Four stages every 40 ms, 3.4 hours of
speech, 29,000 steps: 2.44 dB² at the same bit rate, for 160 instead of 120 ms of delay (networks/README.md).

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
REFINE_STEPS = 20  # of the gradient descent that --harmonics starts with
REFINE_RATE = 0.02  # size of a step of it; values of z are about 1
F_CUTOFF_HZ = 3600  # harmonics that --harmonics counts, as in the training of the decoder
CHUNK = 32  # frames of a training sequence
BATCH = 32  # chunks
STEPS = 12_000  # training steps, a batch each, that the default of --epochs comes to
FIRST_STEPS = 250  # steps without the quantiser; in thousands of them the encoder's output would grow without bound
ROUNDS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 2e-3  # falls to 0 along a cosine
CLIP_NORM = 0.5  # of all gradients together, which is 0.2 to 0.4 most of the time; one bad batch ruined a training
TRAIN_MBEST = 4  # partial sums that the search in training carries from stage to stage
BETA = 1  # weight of the commitment loss; with 0.25 the encoder's output grows
DECAY = 0.99  # per step, of the EMA that the codebooks follow
GAIN_DB = 10  # training chunks are amplified by up to this, up or down,
FILTER_DB = 4  # and filtered by a smooth random response with this rms
CUTOFF_SLOPE = 0.25  # dB/Hz at most
CUTOFF_DB = 50  # attenuation at most
NEWAMP1_RANGE_DB = 50  # of K = 20 vectors of one frame, filtered ones as well
FLOOR_DB = -20  # lowest band energy: the rounding noise of 16 bit samples
KMEANS = 60_000  # vectors that k-means sees
SAMPLE = 64  # blocks of 256 frames that the evaluations during training look at
TRAIN_SAMPLE = 1024  # such blocks that the figures of the training part are of, at most
PICTURES = 16  # of the film, at most
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args(argv=None):
    parser = ArgumentParser(description="Multi-stage VQ-VAE.", formatter_class=ArgumentDefaultsHelpFormatter)
    add, number = parser.add_argument, {"type": plumbing.positive, "metavar": "N"}
    add("features", nargs="?", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    add("--test", metavar="F32", help="another file that is never trained on")
    add("--eband_K", **number, help="values in a vector: 14, or what the network of --nnin has")
    add("--nb_samples", **number, help="use the first N frames")
    add("--lower", type=float, default=10, metavar="dB", help="frames must have a higher mean to count")
    add("--dec", type=int, default=2, choices=OPTIONS["dec"], help="frames per quantised vector")
    add("--vq_stages", **number, default=2, help="stages of the quantiser")
    add("--num_embedding", **number, default=2048, help="codewords of a stage")
    add("--embedding_dim", **number, help=f"values that are quantised: {DIM_PER_FRAME} times --dec")
    add("--epochs", **number, help=f"passes through the frames: as many as make {STEPS} steps")
    add("--cutoffs", type=float, default=0.3, metavar="P", help="share of the training speech made narrow band")
    add("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    add("--mbest", **number, default=32, help="candidates of the search: partial sums kept from stage to stage")
    add("--sweeps", type=plumbing.natural, default=3, metavar="N", help="0: no analysis by synthesis")
    add("--harmonics", nargs=2, metavar=("MODEL", "NET"), help="search for the harmonics that this decoder makes")
    add("--nnin", metavar="NET", help="use this network, with its options, instead of training one")
    add("--nnout", default=f"{NAME}.keras", metavar="NET", help="write the network here")
    add("--vqout", metavar="STEM", help="write the codebooks to STEM_1.f32, STEM_2.f32 …")
    add("--indexout", metavar="NPY", help="write the indices of --test, else FEATURES")
    add("--indexin", metavar="NPY", help="decode these indices with --nnin, without FEATURES")
    add("--testout", metavar="F32", help="write the decoded vectors")
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if bool(args.indexin) == bool(args.features) or (args.indexin and not (args.nnin and args.testout)):
        parser.error("give FEATURES, or --indexin with --nnin and --testout")
    if args.harmonics and (args.test or args.nb_samples or args.indexin or not args.nnin):
        parser.error("--harmonics goes with --nnin and all of FEATURES")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    args.embedding_dim = args.embedding_dim or DIM_PER_FRAME * args.dec
    for name in ("eband_K", "vq_stages", "num_embedding", "embedding_dim"):
        if getattr(args, name) not in (None, *OPTIONS[name]):
            parser.error(f"--{name} must be {OPTIONS[name][0]} to {OPTIONS[name][-1]}")
    return args


def load(args):
    """{"train", "held-out"} or {"file"}, and {"test"}: rate K vectors [n][K] in dB; or {"indices": [v][stages]}.

    With --nnin, args get the options of that network; with --harmonics, "pair" is what codec2_model.load_pair() gives.
    """
    if args.nnin:
        options = plumbing.read_options(args.nnin, OPTIONS)
        if args.eband_K not in (None, options["eband_K"]):
            raise FormatError(f"{args.nnin}: a network for --eband_K {options['eband_K']}, not {args.eband_K}")
        vars(args).update({name: options[name] for name in OPTIONS})
    books = [f"{args.vqout}_{stage + 1}.f32" for stage in range(args.vq_stages)] if args.vqout else []
    outputs = [None if args.nnin else args.nnout, args.indexout, args.testout, *books]
    inputs = [args.features, args.test, args.nnin, args.indexin, *(args.harmonics or [])]
    plumbing.check_outputs(outputs, inputs, None if args.noplots else args.plot_dir)
    if args.indexin:
        return {"indices": codec2_model.read_indices(args.indexin, args.num_embedding, args.vq_stages, args.dec)}
    args.eband_K = args.eband_K or len(codec2_model.BAND_HZ)
    x = codec2_model.read_rate_K(args.features, args.eband_K, max_nb_samples=args.nb_samples)
    nb_train = len(x) - len(x) // 10  # the rest is cut off before chunks overlap
    data = {"file": x} if args.nnin else {"train": x[:nb_train], "held-out": x[nb_train:]}
    if args.test:
        data["test"] = codec2_model.read_rate_K(args.test, args.eband_K)
    for part, frames in data.items():
        least = max(MIN_FRAMES, args.dec * args.num_embedding) if part == "train" else 1
        found = np.count_nonzero(is_counted(frames, args))
        if found < least:
            why = f"{found} {part} frames with a mean level above {args.lower:g} dB, expected {least} or more"
            raise FormatError(f"{args.test if part == 'test' else args.features}: {why}")
    if args.harmonics:
        model, decoder = args.harmonics
        expected = {"input": ("bands", "bands and Wo", "newamp1"), "width": range(2, 4097)}
        expected |= {"eband_K": (args.eband_K,), "eband_start": (0,)}
        width = plumbing.read_options(decoder, expected)["width"]
        data["pair"] = codec2_model.load_pair(args.features, model, x, width, F_CUTOFF_HZ)
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


def random_filter(chunks, cutoffs, rng):
    """Chunks [n][frames][K] in dB as other microphones, rooms or radios would have recorded them.

    A gain and three cosines over frequency with random weights; a low pass in this share of the chunks, a high pass in
    as many.
    """
    n, _, K = chunks.shape
    hz = {14: codec2_model.BAND_HZ, 20: codec2_model.NEWAMP1_HZ}.get(K, np.linspace(0, 4000, K))
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = weights @ np.cos(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, K)))
    response += rng.uniform(-GAIN_DB, GAIN_DB, (n, 1))
    low, high = rng.uniform(0, CUTOFF_SLOPE, (2, n, 1)) * (rng.random((2, n, 1)) < cutoffs)  # dB/Hz
    response -= np.minimum(low * np.maximum(hz - rng.uniform(2400, 4000, (n, 1)), 0), CUTOFF_DB)
    response -= np.minimum(high * np.maximum(rng.uniform(0, 500, (n, 1)) - hz, 0), CUTOFF_DB)
    filtered = np.maximum(chunks + np.float32(response)[:, None], FLOOR_DB)
    if K == codec2_model.NEWAMP1_K:  # whose analysis clips the harmonics as far below the largest one
        filtered = np.maximum(filtered, filtered.max(axis=2, keepdims=True) - NEWAMP1_RANGE_DB)
    return filtered


def random_chunks(x, n, args, rng):
    """Filtered chunks [n][CHUNK][K] from anywhere in x [frames][K], and the weights [n][CHUNK] of their frames."""
    counted = is_counted(x, args)
    speech = np.convolve(counted, np.ones(CHUNK), "valid")  # frames of it in the chunk that begins at each frame
    first = np.flatnonzero(speech >= min(CHUNK // 2, speech.max()))
    frames = rng.choice(first, n)[:, None] + np.arange(CHUNK)
    return random_filter(x[frames], args.cutoffs, rng), np.float32(counted[frames])


# ---------------------------------------------------------------- training


def train(network, x, held, args, rng):
    """Fit encoder, codebooks and decoder to frames x [n][K]; returns what the film shows, a dictionary per round."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    epoch_steps = -(-len(x) // (BATCH * CHUNK))
    epochs = args.epochs or -(-STEPS // epoch_steps)
    print(f"epochs: {epochs}\nsteps: {epochs * epoch_steps}")
    options = {"loss": "mse", "loss_weights": 1 / SCALE_DB**2, "steps_per_execution": 10}

    # without the quantiser first, so that the codebooks start from vectors that mean something
    model = keras.Model(network.inputs, decoder(encoder(network.inputs[0])))
    model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM), **options)
    chunks, weights = random_chunks(x, min(FIRST_STEPS, epochs * epoch_steps) * BATCH, args, rng)
    model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
    chunks, _ = random_chunks(x, -(-KMEANS * args.dec // CHUNK), args, rng)
    z_e = encoder.predict(chunks, verbose=0).reshape(-1, args.embedding_dim)
    quantizer.codebooks.assign(kmeans_codebooks(z_e, 3, args, rng))

    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=CLIP_NORM), **options)
    progress, history = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for before, epoch in itertools.pairwise(np.unique(np.linspace(0, epochs, ROUNDS + 1).astype(int))):
            chunks, weights = random_chunks(x, (epoch - before) * epoch_steps * BATCH, args, rng)
            model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
            seen = {"epoch": epoch, "codebooks": ops.convert_to_numpy(quantizer.codebooks)}
            for part, frames in (("held-out", held), ("train", x)):  # without analysis by synthesis, which takes longer
                some = some_blocks(frames, SAMPLE)
                seen["z_e"], seen["indices"], x_hat = code(network, some, 0, args)
                seen[part] = np.mean((some - x_hat)[is_counted(some, args)] ** 2)
            history.append(seen)
            progress.show(epoch, f"SD train {seen['train']:.2f}, held-out {seen['held-out']:.2f} dB²")
            if ctrl_c.pressed:
                break
    return history


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


def choose(z, error, reach, sweeps, dec):
    """Analysis by synthesis: the number [v] of the candidate that each vector takes of its candidates z [v][C][dim].

    error(vectors [v][dim]) gives the squared error [n] of the frames decoded from them.  A vector changes the frames
    from reach[0] to reach[1], counted from its own first frame.  Vectors that change different frames are tried at
    once; each takes the candidate with the least error of the frames that it changes, all others held.
    """
    apart = -(-(reach[1] - reach[0] + 1) // dec)  # vectors
    numbers, chosen = np.arange(len(z)), np.zeros(len(z), int)
    for first in [*range(min(apart, len(z)))] * sweeps:
        tried = numbers[first::apart]
        start, errors = tried * dec + reach[0], []
        for candidate in range(z.shape[1]):
            chosen[tried] = candidate
            sums = np.concatenate([[0], np.cumsum(error(z[numbers, chosen]), dtype=np.float64)])
            start_sum, end_sum = (sums[np.clip(frame, 0, len(sums) - 1)] for frame in (start, start + apart * dec))
            errors.append(end_sum - start_sum)
        chosen[tried] = np.argmin(errors, axis=0)
    return chosen


def decode(network, z):
    """Frames [v · dec][K] that the decoder makes of vectors z [v][dim]."""
    return ops.convert_to_numpy(network.get_layer("decoder")(z[None])[0])


def code(network, x, sweeps, args, pair=None):
    """Encoder output z_e [v][dim], indices int32 [v][stages] and decoded frames [n][K] of frames x [n][K].

    v = n / dec, rounded up by repeating the last frame.  With a `pair`, the search minimises the error of harmonics.
    """
    encoder, quantizer = network.get_layer("encoder"), network.get_layer("quantizer")
    padded = np.maximum(np.pad(x, ((0, -len(x) % args.dec), (0, 0)), "edge"), FLOOR_DB)
    z_e = ops.convert_to_numpy(encoder(padded[None])[0])
    if not sweeps:
        indices = search(quantizer, z_e, args.mbest, 1)[:, 0]
        return z_e, indices, decode(network, ops.convert_to_numpy(quantizer.decode(indices)))[: len(x)]

    def error(z):
        x_hat = decode(network, z)[: len(x)]
        return harmonic_error(x_hat, pair) if pair else np.mean((x - x_hat) ** 2, axis=1) * counted

    counted, (_, reach) = is_counted(x, args), reaches(network, args)
    indices = search(quantizer, refine(z_e, network, pair) if pair else z_e, args.mbest, args.mbest)
    z, numbers = ops.convert_to_numpy(quantizer.decode(indices)), np.arange(len(z_e))
    chosen = choose(z, error, reach, sweeps, args.dec)
    return z_e, indices[numbers, chosen], decode(network, z[numbers, chosen])[: len(x)]


def harmonic_error(x_hat, pair):
    """Squared error [n], mean over the harmonics that the network pair["decoder"] makes of vectors x_hat [n][K]."""
    errors = []
    for block in codec2_model.blocks(len(x_hat)):
        inputs = [x_hat[block], pair["Wo"][block, None]][: len(pair["decoder"].inputs)]
        error = pair["target"][block] - pair["decoder"].predict_on_batch(inputs)
        has_target = ~np.isnan(error)
        count = np.maximum(np.count_nonzero(has_target, axis=1), 1)
        errors.append(np.sum(error**2, axis=1, where=has_target) / count)
    return np.concatenate(errors)


def sparse_loss(target, estimate):
    """Squared error, mean over the harmonics of a frame and then over frames; NaN is no target."""
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    count = ops.sum(ops.cast(has_target, error.dtype), axis=-1)
    return ops.mean(ops.sum(error**2, axis=-1) / ops.maximum(count, 1.0))


def refine(z, network, pair):
    """Vectors z [v][dim] moved by gradient descent to where they would make better harmonics, were they not quantised.

    Candidates near the encoder's output only would leave half of what the search for harmonics gains.
    """
    n, numbers, Wo = len(pair["Wo"]), keras.Input((len(z),), dtype="int32"), keras.Input((len(pair["Wo"]), 1))
    points = layers.Embedding(*z.shape)
    frames = network.get_layer("decoder")(points(numbers))[:, :n]  # [1][n][K]
    inputs = [ops.reshape(values, (n, -1)) for values in (frames, Wo)][: len(pair["decoder"].inputs)]
    model = keras.Model([numbers, Wo], ops.expand_dims(pair["decoder"](inputs), 0))
    points.set_weights([z])
    network.trainable = pair["decoder"].trainable = False
    model.compile(keras.optimizers.Adam(REFINE_RATE), sparse_loss)
    target = np.float32(pair["target"])[None]
    model.fit([np.arange(len(z))[None], pair["Wo"][None, :, None]], target, epochs=REFINE_STEPS, verbose=0)
    return points.get_weights()[0]


def reaches(network, args):
    """First and last frame that a vector depends on, and that it changes when decoded, counted from its own first one.

    Found with NaN, which goes wherever a value goes.
    """
    n, middle = 64 * args.dec, 32 * args.dec
    frames = np.zeros((n, n, args.eband_K), np.float32)
    frames[np.arange(n), np.arange(n)] = np.nan
    vectors = np.zeros((64, args.embedding_dim), np.float32)
    vectors[32] = np.nan
    seen = np.isnan(ops.convert_to_numpy(network.get_layer("encoder")(frames))[:, 32, 0])
    changed = np.isnan(decode(network, vectors)[:, 0])
    return [np.flatnonzero(flags)[[0, -1]] - middle for flags in (seen, changed)]


def code_classically(codebooks, x, sweeps, args):
    """Frames [n][K]: every dec-th frame of x [n][K] quantised with codebooks [stages][M][K], linear interpolation."""
    quantizer = VectorQuantizer(args.num_embedding, args.eband_K, args.vq_stages)
    quantizer.codebooks.assign(codebooks)
    n, counted = np.arange(len(x)), is_counted(x, args)
    weight = (n % args.dec / np.float32(args.dec))[:, None]

    def interpolate(z):
        following = np.minimum(n // args.dec + 1, len(z) - 1)
        return (1 - weight) * z[n // args.dec] + weight * z[following]

    def error(z):
        return np.mean((x - interpolate(z)) ** 2, axis=1) * counted

    z = ops.convert_to_numpy(quantizer.decode(search(quantizer, x[:: args.dec], args.mbest, args.mbest)))
    chosen = choose(z, error, (1 - args.dec, args.dec - 1), sweeps, args.dec)
    return interpolate(z[np.arange(len(z)), chosen])


# ---------------------------------------------------------------- figures and pictures


def evaluate(part, x, decoded, args):
    """Print SD and variance of frames x [n][K] against decoded {name: [n][K]}; returns SD {name: [counted]} in dB²."""
    counted, sd = is_counted(x, args), {}
    for name, x_hat in decoded.items():
        sd[name], variance = codec2_model.sd_and_variance(x[counted], x_hat[counted])
        print(f"{part} {name} SD: {sd[name].mean():.2f} dB²")
        print(f"{part} {name} variance: {variance.mean():.2f} dB²")
    print(f"{part} frames counted: {len(variance)} of {len(x)}")
    return sd


def stage_inputs(seen):
    """What each stage quantises: the encoder's output, and what the stages before it have left, [v][dim] each."""
    parts = [codebook[index] for codebook, index in zip(seen["codebooks"], seen["indices"].T, strict=True)]
    return seen["z_e"] - np.cumsum([np.zeros_like(seen["z_e"]), *parts[:-1]], axis=0)


def show_film(history, args):
    """Film of a training: for each stage what it quantises, as a density, with its codewords; SD by epoch."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, args.vq_stages + 1, figsize=(4.5 * (args.vq_stages + 1), 4.5), layout="constrained")
    last = stage_inputs(history[-1])  # the planes of all pictures are those of the last epoch
    planes = [np.linalg.eigh(np.cov(x.T))[1][:, :-3:-1] for x in last]  # the two principal axes
    limits = [np.percentile(x @ plane, [0.5, 99.5], axis=0).T for x, plane in zip(last, planes, strict=True)]
    shown = np.unique(np.geomspace(1, len(history), PICTURES).astype(int)) - 1  # rounds, log-spaced
    highest = max(seen[part] for seen in history for part in ("train", "held-out"))

    def draw(picture):
        seen = history[shown[picture]]
        for stage, (x, codebook) in enumerate(zip(stage_inputs(seen), seen["codebooks"], strict=True)):
            ax, plane, (xlim, ylim) = axes[stage], planes[stage], limits[stage]
            ax.clear()
            ax.hist2d(*(x @ plane).T, 80, range=limits[stage], cmap="inferno", norm="symlog")
            ax.plot(*(codebook @ plane).T, "ow", markersize=2.5, markeredgecolor="black", markeredgewidth=0.3)
            ax.set(xlim=xlim, ylim=ylim, xlabel="Principal axis 1", ylabel="Principal axis 2")
            ax.set_title(f"{f'residual of stage {stage}' if stage else 'encoder output'} and codewords")
        axes[-1].clear()
        rounds = history[: shown[picture] + 1]
        for part in ("train", "held-out"):
            axes[-1].plot([r["epoch"] for r in rounds], [r[part] for r in rounds], ".-", label=f"{part} part")
        axes[-1].set(xlim=(0, history[-1]["epoch"]), ylim=(0, 1.05 * highest), title=f"epoch {seen['epoch']}")
        axes[-1].set(xlabel="Epoch", ylabel="SD (dB²)")
        axes[-1].legend()

    plumbing.show_film(fig, draw, len(shown), f"{NAME}_training", args.plot_dir)


# ---------------------------------------------------------------- main


def load_trained(filename, args):
    """The network in a file.  FormatError if its layers are not those that its options, in args, tell."""
    network = plumbing.load_network(filename)
    frames, z = (1, 8 * args.dec, args.eband_K), (1, 8, args.embedding_dim)  # 8 vectors, for one
    expected = [z, (args.vq_stages, args.num_embedding, args.embedding_dim), frames]
    with contextlib.suppress(ValueError, AttributeError):
        encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
        shapes = encoder.compute_output_shape(frames), quantizer.codebooks.shape, decoder.compute_output_shape(z)
        if [tuple(shape) for shape in shapes] == expected:
            return network
    raise FormatError(f"{filename}: its layers are not those that its options tell")


def load_decoder(filename, pair):
    """The network in a file that makes spectra of vectors, or of vectors and Wo.  FormatError if it does not fit."""
    decoder = plumbing.load_network(filename)
    shapes = [tuple(x.shape[1:]) for x in (*decoder.inputs, decoder.outputs[0])]
    vector, spectrum = pair["vectors"].shape[1:], pair["target"].shape[1:]
    if shapes not in ([vector, spectrum], [vector, (1,), spectrum]):
        raise FormatError(f"{filename}: its layers are not those that its options tell")
    return keras.Model(decoder.inputs, decoder.outputs[0])  # takes a list, also of one input


def receive(network, indices, nb_frames, args):
    """The receiver: write the frames that these indices [v][stages] stand for."""
    z = ops.convert_to_numpy(network.get_layer("quantizer").decode(indices))
    codec2_model.write_rate_K(decode(network, z)[:nb_frames], args.testout)
    print(f"frames: {nb_frames}")


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng, history = np.random.default_rng(args.seed), []
    if args.nnin:
        network = load_trained(args.nnin, args)
        classical = plumbing.read_array(args.nnin, "classical", (args.vq_stages, args.num_embedding, args.eband_K))
    else:
        x = data["train"][is_counted(data["train"], args)]
        network = build_network(x.mean(axis=0), args)
        some = random_filter(x[rng.permutation(len(x))[:KMEANS], None], args.cutoffs, rng)[:, 0]
        classical = kmeans_codebooks(some, 20, args, rng)
        history = train(network, data["train"], data["held-out"], args, rng)
        options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
        plumbing.save_network(network, {**options, "script": NAME}, args.nnout, classical=np.float16(classical))
    pair = data.pop("pair", None)
    if pair:
        pair["decoder"] = load_decoder(args.harmonics[1], pair)
    if args.indexin:
        return receive(network, *data["indices"], args)

    bits = args.vq_stages * np.log2(args.num_embedding)
    of_encoder, of_decoder = reaches(network, args)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * codec2_model.FRAME_S):g} bit/s")
    print(f"algorithmic delay: {of_encoder[1] - of_decoder[0]} frames, and the search")
    for part, x in data.items():
        x, sweeps = (some_blocks(x, TRAIN_SAMPLE), 0) if part == "train" else (x, args.sweeps)  # saves minutes
        print(f"{part} search: {args.mbest} candidates, {sweeps} sweeps")
        _, indices, x_hat = code(network, x, sweeps, args, pair)
        sd = evaluate(part, x, {"network": x_hat, "classical VQ": code_classically(classical, x, sweeps, args)}, args)
        for stage, index in enumerate(indices.T):
            used = 100 * len(np.unique(index)) / args.num_embedding
            print(f"{part} codewords of stage {stage + 1} in use: {used:.1f} %")

    if args.vqout:
        for stage, codebook in enumerate(ops.convert_to_numpy(network.get_layer("quantizer").codebooks)):
            codec2_model.write_rate_K(codebook, f"{args.vqout}_{stage + 1}.f32")
    if not args.noplots:
        if history:
            show_film(history, args)
        numbers = np.flatnonzero(is_counted(x, args))
        files = {"original": x[numbers], "decoded": x_hat[numbers]}
        frames, _ = vq_pager.typical_frames(sd["network"], files["original"].mean(axis=1))
        titles = [f"frame {numbers[f]}: SD {sd['network'][f]:.1f} dB²" for f in frames]
        plumbing.show({f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
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
