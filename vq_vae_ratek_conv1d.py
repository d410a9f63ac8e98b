#!/usr/bin/env python3
"""Train a VQ-VAE on rate K vectors: two conv1D layers each side of a multi-stage quantiser.

Usage:
    ./vq_vae_ratek_conv1d.py train.f32 --nnout vq.keras      # K = 14, 22 bits every 20 ms: 1100 bit/s
    ./vq_vae_ratek_conv1d.py train.f32 --dec 4 --vq_stages 4 # 44 bits every 40 ms, the same bit rate
    ./vq_out.py vq.keras bands.f32 --indexout bands.npy      # the sender
    ./vq_out.py vq.keras --indexin bands.npy --testout decoded.f32                    # the receiver

The encoder turns --dec frames and their neighbours into one vector, the quantiser makes one index
per stage of it, and the decoder turns the sum of the codewords into --dec frames.  The sender
(common/search.py) chooses the indices by analysis by synthesis: those whose decoded frames are
nearest to the original.  Beside it stands the classical quantiser at the same bit rate and delay,
with the same search: multi-stage k-means VQ of every --dec-th frame, linear interpolation between.

Frames whose mean level is not above --lower are coded, but neither trained on nor counted in the
figures.

Expected: 22 minutes of speech, K = 14, 1100 bit/s, 12,000 steps, 5 minutes on two cores; SD on 61 s
of other speakers and recordings, seeds 1 to 3: 3.47, 3.41, 3.43 dB², classical VQ 6.5.  Four stages
every 40 ms, --blocks 1, 3.4 hours of speech, 29,000 steps: 2.17 dB² at the same bit rate, for 280
instead of 120 ms of delay.  --blocks 1 makes SD 6 to 11 % lower, for 120 ms of this delay and twice
the time per step (networks/README.md).

Units: features in dB, float32 [frames][K]; errors in dB².
"""

import argparse
import math
import warnings

import numpy as np

import codec2_model
from common import networks, plots, plumbing, spectra
from common.plumbing import FormatError

NAME = "vq_vae_ratek_conv1d"
HIDDEN = 128  # channels of the hidden layers; 256 gain nothing
KERNEL = 7  # frames that a conv1D layer looks at; strided layers look at twice --dec and 3 more
DIM_PER_FRAME = 8  # values that are quantised per frame
SCALE_DB = 15  # about the standard deviation of speech; the network sees vectors divided by it
CHUNK = 32  # frames of a training sequence
BATCH = 32  # chunks
STEPS = 12_000  # training steps, a batch each, that the default of --epochs comes to
FIRST_STEPS = 250  # without the quantiser; in thousands the encoder's output would grow unbounded
ROUNDS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 2e-3  # falls to 0 along a cosine
CLIP_NORM = 0.5  # of all gradients, mostly 0.2 to 0.4 together; one bad batch ruined a training
TRAIN_MBEST = 4  # partial sums that the search in training carries from stage to stage
BETA = 1  # weight of the commitment loss; with 0.25 the encoder's output grows
DECAY = 0.99  # per step, of the EMA that the codebooks follow
GAIN_DB = 10  # training chunks are amplified by up to this, up or down,
FILTER_DB = 4  # and filtered by a smooth random response with this rms
CUTOFF_DB = 50  # most that a low pass or a high pass takes away
KMEANS = 60_000  # vectors that k-means sees
LOOK = 4096  # vectors that these evaluations search for at a time
PROGRESS = 16_384  # frames of a part that the lines printed during a training are of, at most
MEASURED = 3000  # frames of training and held-out part that the figures are of, at most
PICTURES = 16  # of the film, at most
FILM_STAGES = 4  # that the film shows, at most
MIN_FRAMES = 100  # fewer cannot be split in a training and a held-out part


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a multi-stage VQ-VAE on rate K vectors.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    number = {"type": plumbing.positive, "metavar": "N"}
    add("features", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    test_help = "another file, never trained on: the last figure and the plots are of it"
    add("--test", metavar="F32", help=test_help)
    K_help = "values in a vector (default: 14; 18 with --Fs 16000; 20 for newamp1)"
    add("--eband_K", **number, default=14, help=K_help)
    Fs_help = "sample rate of the speech (default: 8000)"
    add("--Fs", type=plumbing.positive, default=spectra.FS_HZ, metavar="Hz", help=Fs_help)
    gain_help = "features divided by this are log10(energy) (default: 10, for dB)"
    add("--gain", type=plumbing.gain, default=10, metavar="G", help=gain_help)
    add("--nb_samples", **number, help="use the first N frames")
    lower_help = "frames with a higher mean level count (default: 10)"
    add("--lower", type=plumbing.level, default=10, metavar="dB", help=lower_help)
    dec_help = "frames per quantised vector: 1, 2, 4 or 8 (default: 2)"
    add("--dec", type=int, default=2, choices=(1, 2, 4, 8), metavar="N", help=dec_help)
    add("--vq_stages", **number, default=2, help="stages of the quantiser (default: 2)")
    add("--num_embedding", **number, default=2048, help="codewords of a stage (default: 2048)")
    dim_help = f"values that are quantised (default: {DIM_PER_FRAME} times --dec)"
    add("--embedding_dim", **number, help=dim_help)
    blocks_help = "residual blocks on each side; one adds to the delay (default: 0)"
    add("--blocks", type=int, default=0, choices=(0, 1), metavar="N", help=blocks_help)
    epochs_help = f"passes through the frames (default: as many as make {STEPS} steps)"
    add("--epochs", **number, help=epochs_help)
    cutoffs_help = "share of the training speech that is made narrow band (default: 0.3)"
    add("--cutoffs", type=plumbing.probability, default=0.3, metavar="P", help=cutoffs_help)
    seed_help = "the same seed gives the same network (default: 1)"
    add("--seed", type=plumbing.natural, default=1, metavar="N", help=seed_help)
    nnout_help = f"write the network here (default: {NAME}.keras)"
    nnout = f"{NAME}.keras"
    add("--nnout", type=plumbing.keras_file, default=nnout, metavar="NET", help=nnout_help)
    add("--noplots", action="store_true", help="print figures only")
    add("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    for name in ("--nnin", "--indexin", "--indexout", "--testout", "--vqout", "--mbest"):
        add(name, action=plumbing.Gone, const="vq_out.py has it, for a trained network")
    args = parser.parse_args(argv)
    if (args.eband_K, args.Fs) not in spectra.KINDS:
        known = f"known are {spectra.kinds_in_words()}"
        add_one = "another kind is a row of KINDS in common/spectra.py"
        parser.error(f"--eband_K {args.eband_K}, --Fs {args.Fs}: {known}; {add_one}")
    args.embedding_dim = args.embedding_dim or DIM_PER_FRAME * args.dec
    for name, allowed in networks.QUANTISER_OPTIONS.items():
        if getattr(args, name) not in allowed:
            parser.error(f"--{name} must be {networks.in_words(allowed)}")
    if args.noplots and args.plot_dir is not None:
        parser.error("--plot_dir has no effect with --noplots")
    return args


def load(args):
    """{"train", "held-out"} and, with --test, {"test"}: rate K vectors [n][K] in dB."""
    plumbing.check_outputs([args.nnout], [args.features, args.test], args.plot_dir)
    x = codec2_model.read_rate_K(args.features, args.eband_K, args.gain, args.nb_samples)
    nb_train = len(x) - len(x) // 10  # the rest is cut off before chunks overlap
    data = {"train": x[:nb_train], "held-out": x[nb_train:]}
    if args.test:
        data["test"] = codec2_model.read_rate_K(args.test, args.eband_K, args.gain)
    for part, frames in data.items():
        found = np.count_nonzero(spectra.is_counted(frames, args.lower))
        what = f"{found} {part} frames with a mean level above {args.lower:g} dB"
        if found == 0:
            raise FormatError(f"{args.test if part == 'test' else args.features}: {what}")
        if part == "train":
            check_size(found, what, args)
    return data


def check_size(found, what, args):
    """FormatError if the frames found are too few to train on; `what` says how many."""
    least = max(MIN_FRAMES, args.dec * args.num_embedding)
    if found < least:
        seconds = math.ceil(least * spectra.FRAME_S)
        advice = f"expected {least}: give it {seconds} s of speech"
        fewer = 2 ** int(np.log2(max(found // args.dec, 2)))
        if found >= MIN_FRAMES:
            advice += f", or --num_embedding {fewer}"
        raise FormatError(f"{args.features}: {what}, {advice}")


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2, vq

from common import classical, search

# ---------------------------------------------------------------- quantiser


class VectorQuantizer(layers.Layer):
    """Vectors x [..., dim] become x_q, the sum of one codeword per stage, for training.

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

    def start(self, x, rng):
        """Let the codebooks start from k-means of vectors x [n][dim]."""
        self.codebooks.assign(fit_kmeans(x, self.stages, self.M, 3, rng))

    def decode(self, indices):
        """Vectors [n][dim] that these indices [n][stages] stand for."""
        return sum(
            ops.take(self.codebooks[stage], indices[:, stage], axis=0)
            for stage in range(self.stages)
        )

    def call(self, inputs, training=False):
        x = ops.reshape(inputs, (-1, self.dim))
        indices = search.nearest_sums(x, self.codebooks, self.m_best)[:, 0]
        x_q = ops.stop_gradient(self.decode(indices))
        self.add_loss(self.beta * ops.mean((x - x_q) ** 2))
        if training:
            self.update_codebooks(ops.stop_gradient(x) - x_q, indices)
        # straight-through: the value is exactly x_q, the gradient that of the identity
        return ops.reshape(x_q + (x - ops.stop_gradient(x)), ops.shape(inputs))

    def update_codebooks(self, error, indices):
        """EMA update towards the mean of the assigned vectors; error [n][dim] is x − x_q."""
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


def fit_kmeans(x, stages, M, iterations, rng):
    """Codebooks float32 [stages][M][dim] for vectors x [n][dim], each of the residuals so far."""
    codebooks = []
    for _ in range(stages):
        start = x[rng.choice(len(x), M, replace=False)]
        with warnings.catch_warnings(action="ignore"):  # codewords without vectors stay there
            codebook, _ = kmeans2(x, start, iterations, minit="matrix")
        codebooks.append(codebook)
        x = x - codebook[vq(x, codebook)[0]]
    return np.float32(codebooks)


# ---------------------------------------------------------------- network


def build_network(mean, args):
    """Network from frames [n][frames][K] to decoded ones; `mean` [K] is that of the training part.

    Its layers are encoder, quantizer and decoder.  Encoder and decoder are two conv1D layers each,
    one of them strided; with --blocks 1 there is a residual block beside the inner one.
    """
    K, dim = args.eband_K, args.embedding_dim
    scale = {"mean": mean, "variance": np.full(K, SCALE_DB**2)}
    stride = {"kernel_size": 2 * args.dec + 3, "strides": args.dec, "padding": "same"}

    frames = keras.Input((None, K))
    hidden = layers.Normalization(**scale)(frames)
    hidden = layers.Conv1D(HIDDEN, KERNEL, padding="same", activation="gelu")(hidden)
    z_e = layers.Conv1D(dim, **stride)(hidden)  # [n][vectors][dim]
    if args.blocks:
        hidden = layers.Conv1D(HIDDEN, activation="gelu", **stride)(hidden)
        hidden = residual_block(hidden)
        z_e = z_e + layers.Dense(dim, kernel_initializer="zeros")(hidden)
    encoder = keras.Model(frames, z_e, name="encoder")

    z_q = hidden = keras.Input((None, dim))
    if args.blocks:
        hidden = residual_block(layers.Conv1D(HIDDEN, 3, padding="same")(z_q))
        hidden = layers.Concatenate()([z_q, hidden])
    hidden = layers.Conv1DTranspose(HIDDEN, activation="gelu", **stride)(hidden)
    hidden = layers.Conv1D(K, KERNEL, padding="same")(hidden)  # [n][frames][K]
    decoded = layers.Normalization(**scale, invert=True)(hidden)
    decoder = keras.Model(z_q, decoded, name="decoder")

    quantizer = VectorQuantizer(
        args.vq_stages, args.num_embedding, dim, TRAIN_MBEST, BETA, DECAY, name="quantizer"
    )
    return keras.Model(frames, decoder(quantizer(encoder(frames))))


def residual_block(x):
    """Vectors x [n][vectors][HIDDEN] and what they and their neighbours add; at first nothing."""
    hidden = layers.LayerNormalization()(x)
    hidden = layers.Conv1D(HIDDEN, 3, padding="same", activation="gelu")(hidden)
    return x + layers.Dense(HIDDEN, kernel_initializer="zeros")(hidden)


def random_filter(chunks, args, rng):
    """Chunks [n][frames][K] in dB as other microphones, rooms or radios would have recorded them."""
    kind = spectra.KINDS[args.eband_K, args.Fs]
    response = spectra.random_response(
        kind.hz, len(chunks), rng, FILTER_DB, GAIN_DB, args.cutoffs, CUTOFF_DB, args.Fs
    )
    filtered = np.maximum(chunks + response[:, None], spectra.FLOOR_DB)
    return np.maximum(filtered, filtered.max(axis=2, keepdims=True) - kind.range_db)


def random_chunks(x, n, args, rng):
    """Filtered chunks [n][CHUNK][K] from anywhere in x [frames][K], and weights of their frames.

    Half of the frames of a chunk count, or as many as there are in any.  Weights are [n][CHUNK].
    """
    counted = spectra.is_counted(x, args.lower)
    in_chunk = np.convolve(counted, np.ones(CHUNK), "valid")  # [first frame of a chunk]
    first = np.flatnonzero(in_chunk >= min(CHUNK // 2, in_chunk.max()))
    frames = rng.choice(first, n)[:, None] + np.arange(CHUNK)
    return random_filter(x[frames], args, rng), np.float32(counted[frames])


# ---------------------------------------------------------------- training


def train_baseline(x, args, rng):
    """Arrays of the classical quantiser for frames x [n][K], which gives as many bits per frame."""
    counted = spectra.is_counted(x, args.lower)

    def filtered(chunks, rng):
        return random_filter(chunks, args, rng)

    sizes = args.dec, args.vq_stages, args.num_embedding
    return classical.train(x, counted, *sizes, rng, filtered)


def train(network, data, args, rng):
    """Fit encoder, codebooks and decoder to data["train"] [n][K], or until Ctrl-C.

    Returns what the film shows, a dictionary per round, and the number of steps made.
    """
    encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
    x = data["train"]
    epoch_steps = math.ceil(len(x) / (BATCH * CHUNK))
    steps = epoch_steps * (args.epochs or math.ceil(STEPS / epoch_steps))
    print(f"epochs: {steps // epoch_steps}")
    print(f"steps: {steps}")
    options = {"loss": "mse", "loss_weights": 1 / SCALE_DB**2, "steps_per_execution": 10}
    some = {part: data[part][spectra.pieces(len(data[part]), PROGRESS)] for part in data}
    progress, history, done = plumbing.Progress(steps, "step"), [], 0
    try:
        # without the quantiser first, so that the codebooks start from vectors that mean something
        model = keras.Model(network.inputs, decoder(encoder(network.inputs[0])))
        model.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM), **options)
        chunks, weights = random_chunks(x, min(FIRST_STEPS, steps) * BATCH, args, rng)
        model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
        n = max(KMEANS, args.num_embedding)  # vectors
        chunks, _ = random_chunks(x, math.ceil(n * args.dec / CHUNK), args, rng)
        quantizer.start(encoder.predict(chunks, verbose=0).reshape(-1, args.embedding_dim), rng)

        model = keras.Model(network.inputs, network.outputs)  # the network has no optimiser
        rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
        model.compile(keras.optimizers.Adam(rate, global_clipnorm=CLIP_NORM), **options)
        for end in np.linspace(0, steps, min(ROUNDS, steps) + 1).astype(int)[1:].tolist():
            chunks, weights = random_chunks(x, (end - done) * BATCH, args, rng)
            model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
            done = end
            seen = {"step": done, "SD": {}}
            for part in ("held-out", "train"):
                seen["SD"][part], seen["z_e"], seen["indices"] = look(network, some[part], args)
            history.append({**seen, "codebooks": ops.convert_to_numpy(quantizer.codebooks)})
            sd = ", ".join(f"{part} {value:.2f}" for part, value in seen["SD"].items())
            progress.show(done, f"SD {sd} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # main() saves the network before it prints anything
    return history, done


def look(network, x, args):
    """SD in dB² of frames x [n][K] by a quick search, encoder output [v][dim], indices [v][stages].

    Each vector takes the sum of codewords nearest to it, whatever the decoder makes of it.
    """
    encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
    x = x[: len(x) // args.dec * args.dec]
    z_e = encoder.predict_on_batch(x[None])[0]
    blocks = np.array_split(z_e, math.ceil(len(z_e) / LOOK))  # bounds the memory for distances
    nearest = [search.nearest_sums(z, quantizer.codebooks, TRAIN_MBEST)[:, 0] for z in blocks]
    indices = np.concatenate([ops.convert_to_numpy(part) for part in nearest])
    z_q = ops.convert_to_numpy(quantizer.decode(indices))
    counted = spectra.is_counted(x, args.lower)
    error = (x - decoder.predict_on_batch(z_q[None])[0])[counted]
    return np.mean(error**2), z_e, indices


# ---------------------------------------------------------------- film


def stage_inputs(seen):
    """What each stage quantises, [v][dim] each: the encoder's output, less the stages before."""
    inputs, residual = [], seen["z_e"]
    for codebook, index in zip(seen["codebooks"], seen["indices"].T, strict=True):
        inputs.append(residual)
        residual = residual - codebook[index]
    return inputs


def show_film(history, args):
    """Film of a training: for each stage what it quantises, as a density, with its codewords; SD.

    Its planes are the two principal axes at the end of the training.
    """
    import matplotlib.pyplot as plt

    n = min(args.vq_stages, FILM_STAGES)
    fig, axes = plt.subplots(1, n + 1, figsize=(4.5 * (n + 1), 4.5), layout="constrained")
    last = stage_inputs(history[-1])[:n]
    planes = [np.linalg.eigh(np.cov(x.T))[1][:, :-3:-1] for x in last]
    limits = [
        np.percentile(x @ plane, [0.5, 99.5], axis=0).T
        for x, plane in zip(last, planes, strict=True)
    ]
    rounds = np.unique(np.geomspace(1, len(history), PICTURES).astype(int))  # of each picture
    steps = [seen["step"] for seen in history]
    sd = {part: [seen["SD"][part] for seen in history] for part in ("train", "held-out")}
    highest = max(max(values) for values in sd.values())

    def draw(picture):
        seen = history[rounds[picture] - 1]
        inputs = stage_inputs(seen)
        for stage in range(n):
            ax, plane = axes[stage], planes[stage]
            ax.clear()
            density = inputs[stage] @ plane
            ax.hist2d(*density.T, 80, range=limits[stage], cmap="inferno", norm="symlog")
            codewords = seen["codebooks"][stage] @ plane
            style = {"markersize": 2.5, "markeredgecolor": "black", "markeredgewidth": 0.3}
            ax.plot(*codewords.T, "ow", **style)
            ax.set(xlim=limits[stage][0], ylim=limits[stage][1])
            ax.set(xlabel="Principal axis 1", ylabel="Principal axis 2")
            what = f"residual of stage {stage}" if stage else "encoder output"
            ax.set_title(f"{what} and codewords")
        curve = axes[-1]
        curve.clear()
        for part, values in sd.items():
            curve.plot(steps[: rounds[picture]], values[: rounds[picture]], ".-", label=part)
        curve.set(xlim=(0, steps[-1]), ylim=(0, 1.05 * highest), title=f"step {seen['step']}")
        curve.set(xlabel="Step", ylabel="SD (dB²)")
        curve.legend()

    plots.show_film(fig, draw, len(rounds), f"{NAME}_training", args.plot_dir)


# ---------------------------------------------------------------- figures


def evaluate(coders, x, lookahead_ms, lower):
    """Decode x [n][K] with {label: Coder}: {label: Figures}, {label: frames}, {label: indices}."""
    target = np.where(spectra.is_counted(x, lower)[:, None], x, np.nan)
    figures, decoded, indices = {}, {}, {}
    for label, coder in coders.items():
        indices[label] = search.send(coder, x, lookahead_ms=lookahead_ms[label], lower=lower)
        decoded[label] = search.receive(coder, indices[label], len(x))
        figures[label] = spectra.measure(target, decoded[label])
    return figures, decoded, indices


def plot(figures, numbers, x, decoded, args):
    """SD over time, and pages of some frames; numbers [n] of the frames x [n][K] and decoded."""
    counted = spectra.is_counted(x, args.lower)
    numbers, x, decoded = numbers[counted], x[counted], decoded["network"][counted]
    plots.show({f"{NAME}_sd": plots.plot_sd(figures, numbers)}, args.plot_dir)
    sd = figures["network"].sd
    shown = plots.typical_frames(sd, x.mean(axis=1))
    titles = [f"frame {numbers[i]}: SD {sd[i]:.1f} dB²" for i in shown]
    files = {"original": x, "decoded": decoded}
    hz = spectra.KINDS[args.eband_K, args.Fs].hz
    plots.page_vectors(files, shown, titles, f"{NAME}_frames", args.plot_dir, hz)


def main(args, data):
    networks.set_up(args.seed)
    networks.print_device()
    rng = np.random.default_rng(args.seed)
    x = data["train"][spectra.is_counted(data["train"], args.lower)]
    baseline = train_baseline(data["train"], args, rng)
    network = build_network(x.mean(axis=0), args)
    history, steps = train(network, data, args, rng)
    options = {
        "script": NAME,
        "eband_K": args.eband_K,
        "Fs": args.Fs,
        "dec": args.dec,
        "vq_stages": args.vq_stages,
        "num_embedding": args.num_embedding,
        "embedding_dim": args.embedding_dim,
        "lower": args.lower,
        "seed": args.seed,
        "steps": steps,
    }
    encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
    codebooks = ops.convert_to_numpy(quantizer.codebooks)
    arrays = {**baseline, "shape": spectra.shape_statistics(x)}
    networks.save_quantiser(encoder, decoder, codebooks, None, options, args.nnout, **arrays)
    print(f"trained: {steps} steps")

    quantiser = networks.load_quantiser(args.nnout)  # what is measured is what was saved
    coders = {"network": search.coder_of(quantiser), "classical VQ": search.baseline_of(quantiser)}
    bits = args.vq_stages * np.log2(args.num_embedding)
    delay_ms = search.delay_ms(coders["network"], search.LOOKAHEAD_MS)
    lookahead_ms = {
        label: max(delay_ms - search.delay_ms(coder, 0), 0) for label, coder in coders.items()
    }
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * spectra.FRAME_S):g} bit/s")
    print(f"algorithmic delay: {delay_ms} ms")
    numbers = {part: spectra.pieces(len(frames), MEASURED) for part, frames in data.items()}
    if args.test:
        numbers["test"] = np.arange(len(data["test"]))  # all
    figures, decoded = {}, {}
    for part, frames in data.items():
        some = frames[numbers[part]]
        figures[part], decoded[part], indices = evaluate(coders, some, lookahead_ms, args.lower)
        spectra.print_figures(part, figures[part])
        for stage, index in enumerate(indices["network"].T):
            used = 100 * len(np.unique(index)) / args.num_embedding
            print(f"{part} codewords of stage {stage + 1} in use: {used:.1f} %")

    part = "test" if args.test else "held-out"
    if not args.noplots:
        if history:
            show_film(history, args)
        shown = data[part][numbers[part]]
        plot(figures[part], numbers[part], shown, decoded[part], args)
    print(f"{figures[part]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
