#!/usr/bin/env python3
"""Train a VQ-VAE on rate K vectors: conv1D layers each side of a multi-stage quantiser.

Usage:
    ./vq_vae_ratek_conv1d.py train.f32 --nnout vq.keras  # K = 14, 22 bits every 20 ms: 1100 bit/s
    ./vq_vae_ratek_conv1d.py train.f32 --dec 4 --vq_stages 4             # 44 bits every 40 ms
    ./vq_vae_ratek_conv1d.py train.f32 --dec 4 --vq_stages 4 --low_delay --start vq.keras
    ./vq_out.py vq.keras bands.f32 --indexout bands.npy                  # the sender
    ./vq_out.py vq.keras --indexin bands.npy --testout decoded.f32       # the receiver

The encoder turns --dec frames and their neighbours into one vector, the quantiser makes one index
per stage of it, and the decoder turns the sum of the codewords into --dec frames.  The sender
(common/search.py) chooses the indices by analysis by synthesis: those whose decoded frames are
nearest to the original.  When all is trained, the decoder is trained further on what the sender
chooses.  Beside it stands the classical quantiser at the same bit rate and delay, with the same
search: predictive multi-stage VQ of blocks of --dec frames (common/classical.py).

Frames whose mean level is not above --lower are coded, but neither trained on nor counted in the
figures.

Expected: 22 minutes of speech, a quarter of an hour on two cores; SD on 8 minutes of 38 held-out
speakers 3.0 dB², the classical quantiser 3.2.  With hours of speech: networks/README.md.

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
CHUNK = 64  # frames of a training sequence; the vectors of a chunk are predicted one from another
BATCH = 16  # chunks
STEPS = 12_000  # training steps, a batch each, that the default of --epochs comes to
FIRST_STEPS = 250  # without the quantiser; in thousands the encoder's output would grow unbounded
EVALUATIONS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 2e-3  # falls to 0 along a cosine
CLIP_NORM = 0.5  # of all gradients, mostly 0.2 to 0.4 together; one bad batch ruined a training
TRAIN_MBEST = 4  # partial sums that the search in training carries from stage to stage
BETA = 1  # weight of the commitment loss; with 0.25 the encoder's output grows
DECAY = 0.99  # per step, of the EMA that the codebooks and the predictor follow
LEAK = 0.6  # of the prediction that is used; more gains little, and wrong bits last longer
RIDGE = 1e-4  # of the mean power of z: keeps the predictor finite where a value of z is always 0
START_RATE = 1e-3  # highest learning rate of a training that starts from another network
WARM_STEPS = 200  # in which it rises to that
GAIN_DB = 10  # training chunks are amplified by up to this, up or down,
FILTER_DB = 4  # and filtered by a smooth random response with this rms
CUTOFF_DB = 50  # most that a low pass or a high pass takes away
KMEANS = 60_000  # vectors that k-means sees
SEARCHED = 400_000  # frames that the sender codes, at most, for the decoder to be refined on
SEQUENCE = 64  # vectors of a sequence of these
REFINE_PATHS = 8  # of this search; more take long
EXPECTATION_SEQUENCES = 125  # sequences that tell what the search makes of a vector on average
REFINE_EPOCHS = 20  # passes through these
REFINE_RATE = 2e-4  # highest learning rate of the decoder when it is refined
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
    delay_help = "layers that see little of what comes later: 70 instead of 280 ms with --dec 4"
    add("--low_delay", action="store_true", help=delay_help)
    leak_help = f"share of the prediction that is used, 0 for none (default: {LEAK:g})"
    add("--leak", type=plumbing.probability, default=LEAK, metavar="P", help=leak_help)
    start_help = "start from the layers of this network, with or without --low_delay"
    add("--start", metavar="NET", help=start_help)
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
    gone = "--nnin --indexin --indexout --testout --vqout --mbest --sweeps"
    for name in gone.split():
        add(name, action=plumbing.Gone, const="vq_out.py has it, for a trained network")
    for name in ("--removemean", "--scale"):
        add(name, action=plumbing.Gone, const="scaling is learnt from the training part")
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
    plumbing.check_outputs([args.nnout], [args.features, args.test, args.start], args.plot_dir)
    if args.start:
        check_start(args)
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
        seconds = math.ceil(least * spectra.FRAME_S / 0.9)
        advice = f"expected {least}: give it {seconds} s of speech"
        if found >= MIN_FRAMES:
            advice += f", or --num_embedding {2 ** int(np.log2(found / args.dec))}"
        raise FormatError(f"{args.features}: {what}, {advice}")


def check_start(args):
    """FormatError unless the layers of the network --start fit."""
    options = networks.read_quantiser_options(args.start)
    for name in ("eband_K", "dec", "embedding_dim"):
        if options[name] != getattr(args, name):
            why = f"a network with {name} {options[name]}, expected {getattr(args, name)}"
            raise FormatError(f"{args.start}: {why}")
    if options.get("script") != NAME or "low_delay" not in options:
        raise FormatError(f"{args.start}: expected a network that this script has trained")


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
    """Vectors z [n][vectors][dim] become z_hat, what is decoded of them, for training.

    z_hat[t] = z_hat[t − 1] @ predictor + one codeword per stage; each stage quantises the residual
    so far.  The first vector of a sequence is not quantised: it stands for what came before.

    The gradient of z_hat goes to z unchanged (straight-through estimator).  The commitment loss
    beta·mean((z − z_hat)²) pulls z to what is decoded of it.  Codebooks and predictor get no
    gradient.  EMA updates move every codeword towards the mean of the vectors assigned to it, and
    one that is hardly used restarts at a vector of the batch.  The predictor is `leak` times the
    least-squares prediction of z[t] from z_hat[t − 1], by an EMA of their covariances; with a leak
    below 1, what a wrong bit does dies away.

    Codewords [0, 0] and [1, 0], predictor 0.5 · I, beta 0.25, z = [[2, 0], [1.9, 0]]: residual
    [0.9, 0], z_hat = [[2, 0], [2, 0]], commitment loss 0.25 · 0.1² / 2 = 0.00125.
    """

    def __init__(self, stages, num_embedding, embedding_dim, m_best, beta, decay, leak, **kwargs):
        super().__init__(**kwargs)
        self.stages, self.M, self.dim = stages, num_embedding, embedding_dim
        self.m_best, self.beta, self.decay, self.leak = m_best, beta, decay, leak
        sizes, square = (stages, num_embedding, embedding_dim), (embedding_dim, embedding_dim)
        self.codebooks = self.add_weight(sizes, trainable=False, name="codebooks")
        self.counts = self.add_weight(sizes[:2], "ones", trainable=False, name="counts")
        self.predictor = self.add_weight(square, "zeros", trainable=False, name="predictor")
        self.power = self.add_weight(square, "zeros", trainable=False, name="power")
        self.product = self.add_weight(square, "zeros", trainable=False, name="product")
        self.random = keras.random.SeedGenerator(1)

    def decode(self, indices):
        """Sums of codewords [n][dim] that these indices [n][stages] stand for."""
        return sum(
            ops.take(self.codebooks[stage], indices[:, stage], axis=0)
            for stage in range(self.stages)
        )

    def quantise(self, z, before, m_best):
        """z_hat for z, and indices [n · vectors][stages], if `before` was decoded of the vectors
        before; all [n][vectors][dim].
        """
        predicted = ops.matmul(before, self.predictor)
        residual = ops.reshape(z - predicted, (-1, self.dim))
        indices = search.nearest_sums(residual, self.codebooks, m_best)
        return predicted + ops.reshape(self.decode(indices), ops.shape(z)), indices

    def quantise_all(self, z):
        """z_hat, what was decoded before each vector, and indices, for all but the first of the
        vectors z.

        In a closed loop each vector waits for the one before.  Two rounds over all vectors at once
        come to nearly the same errors: the first predicts from z, the second from its z_hat.
        """
        first, before, z = z[:, :1], z[:, :-1], z[:, 1:]
        if self.leak:
            z_hat, _ = self.quantise(z, before, 1)
            before = ops.concatenate([first, z_hat[:, :-1]], axis=1)
        z_hat, indices = self.quantise(z, before, self.m_best)
        return z_hat, before, indices

    def compute_output_shape(self, input_shape):
        return input_shape  # JAX cannot find out by itself, as the first vector goes apart

    def call(self, inputs, training=False):
        z = ops.stop_gradient(inputs)
        z_hat, before, indices = map(ops.stop_gradient, self.quantise_all(z))
        self.add_loss(self.beta * ops.mean((inputs[:, 1:] - z_hat) ** 2))
        if training:
            self.update_codebooks(ops.reshape(z[:, 1:] - z_hat, (-1, self.dim)), indices)
            self.update_predictor(z[:, 1:], before)
        # straight-through: the value is exactly z_hat, the gradient that of the identity
        return ops.concatenate([z[:, :1], z_hat], axis=1) + (inputs - z)

    def update_predictor(self, z, before):
        """EMA update towards the best prediction of z from what was decoded before."""
        z, before = (ops.reshape(x, (-1, self.dim)) for x in (z, before))
        n = ops.cast(ops.shape(z)[0], z.dtype)
        rows = ops.transpose(before) / n
        self.power.assign(self.decay * self.power + (1 - self.decay) * ops.matmul(rows, before))
        self.product.assign(self.decay * self.product + (1 - self.decay) * ops.matmul(rows, z))
        self.predictor.assign(self.solve())

    def solve(self):
        """The predictor for the covariances so far."""
        mean = ops.trace(self.power) / self.dim
        power = self.power + (RIDGE * mean + 1e-9) * ops.eye(self.dim)
        return self.leak * ops.solve(power, self.product)

    def start(self, z, rng):
        """Let predictor and codebooks start from vectors z [n][vectors][dim]: k-means of residuals.

        Twice: of those predicted from z, then of those predicted from what the first codebooks make
        of it.
        """
        first, target = z[:, :1], z[:, 1:]
        z_hat = target.copy()
        for _ in range(2):
            before = np.concatenate([first, z_hat[:, :-1]], axis=1)
            rows = before.reshape(-1, self.dim)
            self.power.assign(rows.T @ rows / len(rows))
            self.product.assign(rows.T @ target.reshape(-1, self.dim) / len(rows))
            self.predictor.assign(self.solve())
            residual = target - before @ ops.convert_to_numpy(self.predictor)
            residual = residual.reshape(-1, self.dim)
            self.codebooks.assign(fit_kmeans(residual, self.stages, self.M, 3, rng))
            for some in np.array_split(np.arange(len(z)), 16):  # bounds the memory for distances
                z_hat[some], _ = self.quantise(target[some], before[some], 1)

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


def inputs_after(dec, low_delay):
    """How many inputs after its own a convolution sees, by name of the layer.

    Of decoder_strided: how many frames before its own a vector changes.
    """
    if low_delay:
        frames, vectors, encoder, decoder = 0, 0, dec // 2, dec // 2
    else:
        frames, vectors, encoder, decoder = KERNEL // 2, 1, (dec + 4) // 2, (dec + 3) // 2
    return {
        "encoder_frames": frames,
        "encoder_linear": encoder,
        "encoder_strided": encoder,
        "encoder_block": vectors,
        "decoder_vectors": vectors,
        "decoder_block": vectors,
        "decoder_strided": decoder,
        "decoder_frames": frames,
    }


def build_network(mean, args):
    """Network from frames [n][frames][K] to decoded ones; `mean` [K] is that of the training part.

    Its layers are encoder, quantizer and decoder.  Encoder: a convolution over frames, then two
    strided ones side by side, one linear, one with gelu and a residual block; z_e is their sum.
    Decoder: a convolution over vectors and a residual block, joined with z_q, then a transposed
    strided convolution and a convolution over frames.
    """
    K, dim, dec = args.eband_K, args.embedding_dim, args.dec
    kernel = 2 * dec + 3  # frames, of the strided layers
    after = inputs_after(dec, args.low_delay)
    scale = {"mean": mean, "variance": np.full(K, SCALE_DB**2)}

    def conv(x, filters, kernel, name, activation=None, strides=1):
        x = layers.ZeroPadding1D((kernel - strides - after[name], after[name]))(x)
        return layers.Conv1D(filters, kernel, strides, activation=activation, name=name)(x)

    def residual_block(x, name):  # x [n][vectors][HIDDEN]; at first it adds nothing
        hidden = layers.LayerNormalization(name=f"{name}_norm")(x)
        hidden = conv(hidden, HIDDEN, 3, name, "gelu")
        return x + layers.Dense(HIDDEN, kernel_initializer="zeros", name=f"{name}_out")(hidden)

    frames = keras.Input((None, K))
    hidden = layers.Normalization(**scale)(frames)
    hidden = conv(hidden, HIDDEN, KERNEL, "encoder_frames", "gelu")
    z_e = conv(hidden, dim, kernel, "encoder_linear", strides=dec)  # [n][vectors][dim]
    hidden = conv(hidden, HIDDEN, kernel, "encoder_strided", "gelu", dec)
    hidden = residual_block(hidden, "encoder_block")
    z_e = z_e + layers.Dense(dim, kernel_initializer="zeros", name="encoder_out")(hidden)
    encoder = keras.Model(frames, z_e, name="encoder")

    z_q = keras.Input((None, dim))
    hidden = conv(z_q, HIDDEN, 3, "decoder_vectors")
    hidden = residual_block(hidden, "decoder_block")
    hidden = layers.Concatenate()([z_q, hidden])
    hidden = layers.Conv1DTranspose(HIDDEN, kernel, dec, name="decoder_strided")(hidden)
    before = after["decoder_strided"]
    hidden = layers.Cropping1D((before, kernel - dec - before))(hidden)
    hidden = layers.Activation("gelu")(hidden)
    hidden = conv(hidden, K, KERNEL, "decoder_frames")  # [n][frames][K]
    decoded = layers.Normalization(**scale, invert=True)(hidden)
    decoder = keras.Model(z_q, decoded, name="decoder")

    sizes = args.vq_stages, args.num_embedding, dim
    quantizer = VectorQuantizer(*sizes, TRAIN_MBEST, BETA, DECAY, args.leak, name="quantizer")
    return keras.Model(frames, decoder(quantizer(encoder(frames))))


def start_from(network, other, args):
    """Copy the layers of the encoder and decoder of another Quantiser, with or without low delay.

    A weight of a convolution stays with the input that it is for, counted from the output; where
    this network sees an input that the other one does not see, there are zeros.
    """
    after = inputs_after(args.dec, args.low_delay)
    others = inputs_after(args.dec, other.options["low_delay"])
    for side, source in (("encoder", other.encoder), ("decoder", other.decoder)):
        for layer in source.layers:
            weights = layer.get_weights()
            if layer.name in after:
                fewer = others[layer.name] - after[layer.name]
                weights[0] = moved(weights[0], -fewer if layer.name == "decoder_strided" else fewer)
            if weights:
                network.get_layer(side).get_layer(layer.name).set_weights(weights)


def moved(kernel, n):
    """Kernel [inputs][...] moved by n inputs, with zeros where there were none.

    [1, 2, 3] moved by 1: [0, 1, 2]; by −1: [2, 3, 0].
    """
    padded = np.pad(kernel, [(abs(n), abs(n)), *[(0, 0)] * (kernel.ndim - 1)])
    return padded[abs(n) - n :][: len(kernel)]


def random_filter(chunks, args, rng):
    """Chunks [n][frames][K] in dB as other microphones, rooms, radios would have recorded them."""
    kind = spectra.KINDS[args.eband_K, args.Fs]
    response = spectra.random_response(
        kind.hz, len(chunks), rng, FILTER_DB, GAIN_DB, args.cutoffs, CUTOFF_DB, args.Fs
    )
    filtered = np.maximum(chunks + response[:, None], spectra.FLOOR_DB)
    return np.maximum(filtered, filtered.max(axis=2, keepdims=True) - kind.range_db)


def random_chunks(x, n, args, rng):
    """Filtered chunks [n][CHUNK][K] from anywhere in x [frames][K], and weights of their frames.

    At least half of the frames of a chunk count, or as many as there are in any.  Weights are
    [n][CHUNK].
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
    """Fit encoder, codebooks, predictor and decoder to data["train"] [n][K], or until Ctrl-C.

    Returns what the film shows, a dictionary per evaluation; the steps made, and those planned.
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
        if args.start:
            rate = keras.optimizers.schedules.CosineDecay(
                START_RATE / 10, steps, warmup_target=START_RATE, warmup_steps=WARM_STEPS
            )
        else:
            # without the quantiser first, so that codebooks start from vectors that mean something
            model = keras.Model(network.inputs, decoder(encoder(network.inputs[0])))
            adam = keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM)
            model.compile(adam, **options)
            chunks, weights = random_chunks(x, min(FIRST_STEPS, steps) * BATCH, args, rng)
            model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
            rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
        n = max(KMEANS, args.num_embedding)  # vectors
        chunks, _ = random_chunks(x, math.ceil(n / (CHUNK // args.dec - 1)), args, rng)
        quantizer.start(encoder.predict(chunks, verbose=0), rng)

        model = keras.Model(network.inputs, network.outputs)  # the network has no optimiser
        model.compile(keras.optimizers.Adam(rate, global_clipnorm=CLIP_NORM), **options)
        for end in np.linspace(0, steps, min(EVALUATIONS, steps) + 1).astype(int)[1:].tolist():
            chunks, weights = random_chunks(x, (end - done) * BATCH, args, rng)
            model.fit(chunks, chunks, BATCH, sample_weight=weights, verbose=0)
            done = end
            held_out_sd, _, _ = look(network, some["held-out"], args)
            train_sd, residual, indices = look(network, some["train"], args)  # what the film shows
            seen = {"step": done, "SD": {"held-out": held_out_sd, "train": train_sd}}
            seen |= {"residual": residual, "indices": indices}
            history.append({**seen, "codebooks": ops.convert_to_numpy(quantizer.codebooks)})
            progress.show(done, f"SD held-out {held_out_sd:.2f}, train {train_sd:.2f} dB²")
    except (KeyboardInterrupt, BrokenPipeError):
        if done == 0:
            raise
        # main() saves the network before it prints anything
    return history, done, steps


def look(network, x, args):
    """SD in dB² of frames x [n][K] by a quick search, what stage 1 quantises [v][dim], and indices
    [v][stages].

    Each vector takes the sum of codewords nearest to it, whatever the decoder makes of it.
    """
    encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
    x = x[: len(x) // args.dec * args.dec]
    z = encoder.predict_on_batch(x[None])
    z_hat, before, indices = map(ops.convert_to_numpy, quantizer.quantise_all(z))
    decoded = decoder.predict_on_batch(np.concatenate([z[:, :1], z_hat], axis=1))[0]
    error = (x - decoded)[spectra.is_counted(x, args.lower)]
    residual = z[:, 1:] - before @ ops.convert_to_numpy(quantizer.predictor)
    return np.mean(error**2), residual[0], indices


def sequences(x, args, rng):
    """Sequences [n][frames][K] from all over x [frames][K], every second one filtered, and weights
    [n][frames].
    """
    length = min(SEQUENCE, len(x) // args.dec) * args.dec
    first = np.linspace(0, len(x) - length, min(SEARCHED, len(x)) // length).astype(int)
    numbers = first[:, None] + np.arange(length)
    frames, weights = x[numbers], np.float32(spectra.is_counted(x, args.lower)[numbers])
    frames[::2] = random_filter(frames[::2], args, rng)
    return np.maximum(frames, spectra.FLOOR_DB), weights


def expectation(coder, frames, weights, lower):
    """What the sender makes of vectors z on average, [dim][dim]: z_hat is about z @ expected.

    By least squares over what it chooses for sequences [n][frames][K] with weights [n][frames].
    """
    x = frames.reshape(-1, coder.K)
    z = np.asarray(coder.encode(x[None]))[0]
    options = {"lookahead_ms": search.usual_lookahead_ms(coder), "lower": lower}
    z_hat = coder.vectors(search.send(coder, x, **options, paths=REFINE_PATHS))
    return classical.regression(z, z_hat, weights.reshape(-1, coder.dec).mean(axis=1))


def refine(coder, decoder, frames, weights, lower):
    """Find what a Coder's sender should expect, and train its decoder further on what the sender
    chooses for sequences [n][frames][K] with weights [n][frames], or until Ctrl-C.

    Returns whether it was finished.  The decoder learns what the search makes of vectors, which is
    not what the m-best search makes of them.
    """
    n, length, K = frames.shape
    progress, indices = plumbing.Progress(EVALUATIONS, "search"), []
    try:
        some = np.unique(np.linspace(0, n - 1, EXPECTATION_SEQUENCES).astype(int))
        coder.expected = expectation(coder, frames[some], weights[some], lower)
        sender = search.Sender(
            coder, search.usual_lookahead_ms(coder), lower=lower, paths=REFINE_PATHS
        )
        for done, piece in enumerate(np.array_split(frames.reshape(-1, K), EVALUATIONS), 1):
            indices.append(sender.push(piece))
            progress.show(done, "what the decoder is refined on")
        indices.append(sender.flush())
        z = coder.vectors(np.concatenate(indices)).reshape(n, -1, coder.dim)
        edge = max(-coder.decoder_reach[0], coder.decoder_reach[1])
        weights[:, :edge] = weights[:, length - edge :] = 0  # these depend on vectors outside
        steps = REFINE_EPOCHS * math.ceil(n / BATCH)
        rate = keras.optimizers.schedules.CosineDecay(
            REFINE_RATE / 10, steps, warmup_target=REFINE_RATE, warmup_steps=50
        )
        model = keras.Model(decoder.inputs, decoder.outputs)
        model.compile(keras.optimizers.Adam(rate), "mse", loss_weights=1 / SCALE_DB**2)
        model.fit(z, frames, BATCH, REFINE_EPOCHS, sample_weight=weights, verbose=0)
    except (KeyboardInterrupt, BrokenPipeError):
        return False
    return True


# ---------------------------------------------------------------- film


def stage_inputs(seen):
    """What each stage quantises, [v][dim] each: what the prediction and the stages before leave."""
    inputs, residual = [], seen["residual"]
    for codebook, index in zip(seen["codebooks"], seen["indices"].T, strict=True):
        inputs.append(residual)
        residual = residual - codebook[index]
    return inputs


def show_film(history, args):
    """Film of a training: for each stage what it quantises, as a density, with its codewords; SD.

    Its planes are the two principal axes at the end of the training.
    """
    plt = plots.pyplot()

    n = min(args.vq_stages, FILM_STAGES)
    columns, rows = min(n, 2), math.ceil(n / 2)
    fig = plt.figure(figsize=(3.2 * columns, 2.9 * rows + 2.2), layout="constrained")
    grid = fig.add_gridspec(rows + 1, columns, height_ratios=[4] * rows + [3])
    axes = [fig.add_subplot(grid[divmod(stage, columns)]) for stage in range(n)]
    curve = fig.add_subplot(grid[rows, :])
    fig.suptitle("dots: codewords; colour: vectors, black few, yellow many")
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
            size = max(1.5, 24 / len(codewords) ** 0.5)
            style = {"markersize": size, "markeredgecolor": "black", "markeredgewidth": 0.2}
            ax.plot(*codewords.T, "ow", **style)
            ax.set(xlim=limits[stage][0], ylim=limits[stage][1])
            ax.set(xlabel="Principal axis 1", ylabel="Principal axis 2")
            ax.set_title(f"stage {stage + 1}: the rest" if stage else "stage 1")
        curve.clear()
        for part, values in sd.items():
            curve.plot(steps[: rounds[picture]], values[: rounds[picture]], ".-", label=part)
        curve.set(xlim=(0, steps[-1]), ylim=(0, 1.05 * highest), title=f"step {seen['step']}")
        curve.set(xlabel="Step", ylabel="SD (dB²)")
        curve.legend(loc="upper right")

    plots.show_film(fig, draw, len(rounds), f"{NAME}_training", args.plot_dir)


# ---------------------------------------------------------------- figures


def measured_frames(part, x, lower):
    """Numbers of the frames of a part x [n][K] that its figures are of: of the test part all."""
    some = spectra.pieces(len(x), MEASURED)
    if part == "test" or not spectra.is_counted(x[some], lower).any():
        return np.arange(len(x))
    return some


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
    if args.start:
        start_from(network, networks.load_quantiser(args.start), args)
    history, steps, planned = train(network, data, args, rng)
    options = {
        "script": NAME,
        "eband_K": args.eband_K,
        "Fs": args.Fs,
        "dec": args.dec,
        "vq_stages": args.vq_stages,
        "num_embedding": args.num_embedding,
        "embedding_dim": args.embedding_dim,
        "lower": args.lower,
        "low_delay": args.low_delay,
        "leak": args.leak,
        "seed": args.seed,
        "steps": steps,
    }
    encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
    codebooks = ops.convert_to_numpy(quantizer.codebooks)
    predictor = ops.convert_to_numpy(quantizer.predictor)
    contents = (encoder, decoder, codebooks, predictor, options, args.nnout)
    arrays = {**baseline, "shape": spectra.shape_statistics(x)}
    networks.save_quantiser(*contents, **arrays)
    is_refined = False
    if steps == planned:
        coder = search.coder_of_network(encoder, decoder, codebooks, args.dec, predictor)
        is_refined = refine(coder, decoder, *sequences(data["train"], args, rng), args.lower)
        networks.save_quantiser(*contents, **arrays, expected=coder.expected)
    print(f"trained: {steps} of {planned} steps")
    if not is_refined:
        print("stopped: before the decoder was refined")

    quantiser = networks.load_quantiser(args.nnout)  # what is measured is what was saved
    coders = {"network": search.coder_of(quantiser), "classical VQ": search.baseline_of(quantiser)}
    bits = args.vq_stages * np.log2(args.num_embedding)
    network_ms = search.usual_lookahead_ms(coders["network"])
    delay_ms = search.delay_ms(coders["network"], network_ms)
    lookahead_ms = {
        label: max(delay_ms - search.delay_ms(coder, 0), 0) for label, coder in coders.items()
    }
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * spectra.FRAME_S):g} bit/s")
    print(f"delay of encoder, search and decoder: {delay_ms} ms")
    numbers = {part: measured_frames(part, frames, args.lower) for part, frames in data.items()}
    figures, decoded = {}, {}
    for part, frames in data.items():
        some = frames[numbers[part]]
        figures[part], decoded[part], indices = evaluate(coders, some, lookahead_ms, args.lower)
        spectra.print_figures(part, figures[part], len(frames))
        for stage, index in enumerate(indices["network"].T):
            used = 100 * len(np.unique(index)) / args.num_embedding
            print(f"{part} codewords of stage {stage + 1} in use: {used:.1f} %")

    part = "test" if args.test else "held-out"
    if not args.noplots:
        if history:
            show_film(history, args)
        first = len(data["train"]) if part == "held-out" else 0  # frame of the file
        shown = data[part][numbers[part]]
        plot(figures[part], first + numbers[part], shown, decoded[part], args)
    print(f"{figures[part]['network'].sd.mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
