#!/usr/bin/env python3
"""Train a VQ-VAE that sends rate K vectors over a channel: two conv1D layers each side of a multi-stage quantiser.

Usage:
    ./vq_vae_ratek_conv1d.py train.f32 --nnout vq.keras                      # K = 14, 22 bits every 20 ms: 1100 bit/s
    ./vq_vae_ratek_conv1d.py train.f32 --dec 4 --vq_stages 4                 # 44 bits every 40 ms, the same bit rate
    ./vq_vae_ratek_conv1d.py bands.f32 --nnin vq.keras --indexout bands.npy  # the sender; no training
    ./vq_vae_ratek_conv1d.py --nnin vq.keras --indexin bands.npy --testout decoded.f32                   # the receiver

The encoder turns --dec frames and their neighbours into one vector, the quantiser makes one index per stage of it, and
the decoder turns the sum of the codewords into --dec frames.  The sender (vq_search.py) chooses the indices by analysis
by synthesis: of the --mbest sums of codewords nearest to the encoder's output, each vector takes the one whose decoded
frames are nearest to the original, in --sweeps passes over the vectors.  With --harmonics it is the one of which a
network from eband_train.py or newamp1_train.py makes the best harmonics.  Beside it stands the classical quantiser at
the same bit rate: multi-stage k-means VQ of every --dec-th frame, linear interpolation between, the same search.

Frames whose mean level is not above --lower are coded, but neither trained on nor counted in the figures.

Expected: 22 minutes of speech, K = 14, 1100 bit/s, 12,000 steps, 5 minutes on two cores; SD on 61 s of other
speakers and recordings, seeds 1 to 3: 3.47, 3.41, 3.43 dB², classical VQ 6.5.  Four stages every 40 ms, --blocks 1,
3.4 hours of speech, 29,000 steps: 2.17 dB² at the same bit rate, for 280 instead of 120 ms of delay.  --blocks 1 makes
SD 6 to 11 % lower, for 120 ms of this delay and twice the time per step (networks/README.md).

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import itertools
import warnings
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace

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
HIDDEN = 128  # channels of the hidden layers; 256 gain nothing
KERNEL = 7  # frames that a conv1D layer looks at; strided layers look at twice --dec and 3 more
DIM_PER_FRAME = 8  # values that are quantised per frame
SCALE_DB = 15  # about the standard deviation of speech; the network sees vectors divided by it
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
    add("--blocks", type=int, default=0, choices=range(5), help="residual blocks on each side; each adds to the delay")
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
        found = np.count_nonzero(codec2_model.is_counted(frames, args.lower))
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


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
import vq_search

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
            r, c = ops.reshape(residual, (-1, self.dim)), self.codebooks[stage]
            # −|r − c|² is the product of [2r, −|r|², 1] and [c, 1, −|c|²]: one pass over all pairs instead of four
            rows = ops.concatenate([2 * r, -ops.sum(r**2, axis=1, keepdims=True), ops.ones_like(r[:, :1])], axis=1)
            columns = ops.concatenate([c, ops.ones_like(c[:, :1]), -ops.sum(c**2, axis=1, keepdims=True)], axis=1)
            scores = ops.reshape(ops.matmul(rows, ops.transpose(columns)), (-1, indices.shape[1] * self.M))
            best = vq_search.largest(scores, candidates if stage + 1 == self.stages else m_best)
            index, parent = best % self.M, best // self.M
            residual = vq_search.pick(residual, parent) - ops.take(c, index, axis=0)
            indices = ops.concatenate([vq_search.pick(indices, parent), index[:, :, None]], axis=2)
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

    `mean` [K] is that of the training frames.  Each side is two conv1D layers, one of them strided; with --blocks,
    residual blocks beside the inner one.
    """
    scale = {"mean": mean, "variance": np.full(args.eband_K, SCALE_DB**2)}
    stride = {"kernel_size": 2 * args.dec + 3, "strides": args.dec, "padding": "same"}

    frames = keras.Input((None, args.eband_K))
    hidden = layers.Normalization(**scale)(frames)
    hidden = layers.Conv1D(HIDDEN, KERNEL, padding="same", activation="gelu")(hidden)
    z_e = layers.Conv1D(args.embedding_dim, **stride)(hidden)  # [n][frames / dec][embedding_dim]
    if args.blocks:
        hidden = residual_blocks(layers.Conv1D(HIDDEN, activation="gelu", **stride)(hidden), args.blocks)
        z_e = z_e + layers.Dense(args.embedding_dim, kernel_initializer="zeros")(hidden)
    encoder = keras.Model(frames, z_e, name="encoder")

    z_q = hidden = keras.Input((None, args.embedding_dim))
    if args.blocks:
        hidden = residual_blocks(layers.Conv1D(HIDDEN, 3, padding="same")(z_q), args.blocks)
        hidden = layers.Concatenate()([z_q, hidden])
    hidden = layers.Conv1DTranspose(HIDDEN, activation="gelu", **stride)(hidden)
    decoded = layers.Conv1D(args.eband_K, KERNEL, padding="same")(hidden)
    decoder = keras.Model(z_q, layers.Normalization(**scale, invert=True)(decoded), name="decoder")

    sizes = args.num_embedding, args.embedding_dim, args.vq_stages
    quantizer = VectorQuantizer(*sizes, m_best=TRAIN_MBEST, beta=BETA, decay=DECAY, name="quantizer")
    return keras.Model(frames, decoder(quantizer(encoder(frames))))


def residual_blocks(x, n):
    """Vectors x [batch][v][HIDDEN] and what n hidden layers make of them and their neighbours; at first nothing."""
    for _ in range(n):
        hidden = layers.LayerNormalization()(x)
        hidden = layers.Conv1D(HIDDEN, 3, padding="same", activation="gelu")(hidden)
        x = x + layers.Dense(HIDDEN, kernel_initializer="zeros")(hidden)
    return x


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
    filtered = np.maximum(chunks + np.float32(response)[:, None], vq_search.FLOOR_DB)
    if K == codec2_model.NEWAMP1_K:  # whose analysis clips the harmonics as far below the largest one
        filtered = np.maximum(filtered, filtered.max(axis=2, keepdims=True) - NEWAMP1_RANGE_DB)
    return filtered


def random_chunks(x, n, args, rng):
    """Filtered chunks [n][CHUNK][K] from anywhere in x [frames][K], and the weights [n][CHUNK] of their frames."""
    counted = codec2_model.is_counted(x, args.lower)
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
    quick = Namespace(**{**vars(args), "mbest": TRAIN_MBEST})  # all of --mbest would take longer than the training
    progress, history = plumbing.Progress(epochs), []
    with plumbing.CtrlC(model) as ctrl_c:
        for before, epoch in itertools.pairwise(np.unique(np.linspace(0, epochs, ROUNDS + 1).astype(int))):
            chunks, weights = random_chunks(x, (epoch - before) * epoch_steps * BATCH, args, rng)
            model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
            seen = {"epoch": epoch, "codebooks": ops.convert_to_numpy(quantizer.codebooks)}
            for part, frames in (("held-out", held), ("train", x)):  # without analysis by synthesis
                some = some_blocks(frames, SAMPLE)
                seen["z_e"], seen["indices"], x_hat = vq_search.code(network, some, 0, quick)
                seen[part] = np.mean((some - x_hat)[codec2_model.is_counted(some, args.lower)] ** 2)
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


# ---------------------------------------------------------------- pictures


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


def main(args, data):
    keras.utils.set_random_seed(args.seed)
    rng, history = np.random.default_rng(args.seed), []
    if args.nnin:
        network = vq_search.load_network(args.nnin, args)
        classical = plumbing.read_array(args.nnin, "classical", (args.vq_stages, args.num_embedding, args.eband_K))
    else:
        x = data["train"][codec2_model.is_counted(data["train"], args.lower)]
        network = build_network(x.mean(axis=0), args)
        some = random_filter(x[rng.permutation(len(x))[:KMEANS], None], args.cutoffs, rng)[:, 0]
        classical = kmeans_codebooks(some, 20, args, rng)
        history = train(network, data["train"], data["held-out"], args, rng)
        options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
        plumbing.save_network(network, {**options, "script": NAME}, args.nnout, classical=np.float16(classical))
    if args.indexin:  # the receiver
        indices, nb_frames = data["indices"]
        z = ops.convert_to_numpy(network.get_layer("quantizer").decode(indices))
        codec2_model.write_rate_K(vq_search.decode(network, z)[:nb_frames], args.testout)
        print(f"frames: {nb_frames}")
        return
    pair = vq_search.load_decoder(args.harmonics[1], data.pop("pair")) if args.harmonics else None
    baseline = VectorQuantizer(args.num_embedding, args.eband_K, args.vq_stages)
    baseline.codebooks.assign(classical)

    bits = args.vq_stages * np.log2(args.num_embedding)
    of_encoder, of_decoder = vq_search.reaches(network, args)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * codec2_model.FRAME_S):g} bit/s")
    print(f"algorithmic delay: {of_encoder[1] - of_decoder[0]} frames, and the search")
    for part, x in data.items():
        x, sweeps = (some_blocks(x, TRAIN_SAMPLE), 0) if part == "train" else (x, args.sweeps)  # saves minutes
        print(f"{part} search: {args.mbest} candidates, {sweeps} sweeps")
        _, indices, x_hat = vq_search.code(network, x, sweeps, args, pair)
        decoded = {"network": x_hat, "classical VQ": vq_search.code_classically(baseline, x, sweeps, args)}
        counted = codec2_model.is_counted(x, args.lower)
        target = np.where(counted[:, None], x, np.nan)
        sd = codec2_model.print_figures(part, target, lambda y, n: {label: y[label][n] for label in y}, decoded)
        for stage, index in enumerate(indices.T):
            used = 100 * len(np.unique(index)) / args.num_embedding
            print(f"{part} codewords of stage {stage + 1} in use: {used:.1f} %")

    if args.vqout:
        for stage, codebook in enumerate(ops.convert_to_numpy(network.get_layer("quantizer").codebooks)):
            codec2_model.write_rate_K(codebook, f"{args.vqout}_{stage + 1}.f32")
    if not args.noplots:
        if history:
            show_film(history, args)
        numbers = np.flatnonzero(counted)
        files = {"original": x[numbers], "decoded": x_hat[numbers]}
        frames = vq_pager.typical_frames(sd["network"], files["original"].mean(axis=1))
        titles = [f"frame {numbers[f]}: SD {sd['network'][f]:.1f} dB²" for f in frames]
        plumbing.show({f"{NAME}_sd": vq_pager.plot_sd(sd, numbers)}, args.plot_dir)
        vq_pager.page_vectors(files, frames, titles, f"{NAME}_frames", args.plot_dir)
    if (args.testout or args.indexout) and part == "held-out":  # the outputs are of all FEATURES
        x = np.concatenate([data["train"], data["held-out"]])
        _, indices, x_hat = vq_search.code(network, x, args.sweeps, args)
    if args.testout:
        codec2_model.write_rate_K(x_hat, args.testout)
    if args.indexout:
        codec2_model.write_indices(indices, len(x), args.indexout)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
