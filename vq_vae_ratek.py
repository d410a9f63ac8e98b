#!/usr/bin/env python3
"""Train the simplest VQ-VAE on rate K vectors: one Dense layer each side, a one-stage quantiser between.

Usage:
    ./vq_vae_ratek.py train.f32 --nnout vq.keras                      # K = 14, 7 bits every 10 ms: 700 bit/s
    ./vq_vae_ratek.py train.f32 --dec 2 --num_embedding 16384         # the same bit rate, two frames per vector
    ./vq_vae_ratek.py bands.f32 --nnin vq.keras --indexout bands.npy  # the sender; no training
    ./vq_vae_ratek.py --nnin vq.keras --indexin bands.npy --testout decoded.f32                    # the receiver

A vector is --dec consecutive frames.  The encoder maps it to --embedding_dim values, the quantiser makes an index of
these, and the decoder turns the codeword into --dec frames.  The baseline is k-means with as many codewords.

Expected: 22 minutes of speech, 15 s on two cores; SD on 61 s of other speakers and recordings, seeds 1 and 2: 28.9 dB²
for 7 bits per frame, k-means 29.1; with --dec 2 --overlap (350 bit/s) 32.8, k-means 33.1 (seed 1).
Units: features in dB, float32 [frames][K]; errors in dB².
"""

import itertools
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import codec2_model
import plumbing
import vq_pager

import numpy as np

NAME = "vq_vae_ratek"
OPTIONS = {"script": (NAME,)}  # of a network, and the values that they may have
OPTIONS |= dict.fromkeys(("eband_K", "dec", "num_embedding", "embedding_dim"), range(1, 2**16 + 1))
SCALE_DB = 15  # about the standard deviation of speech; the network sees vectors divided by it
BATCH = 2048  # vectors
STEPS = 2400  # training steps, a batch each, that the default of --epochs comes to
ROUNDS = 40  # lines printed and evaluations made during a training
LEARNING_RATE = 3e-5  # falls to 0 along a cosine; with more, the network fits the training speech and no other
GAIN_DB = 10  # training vectors are amplified by up to this, up or down,
FILTER_DB = 4  # and filtered by a smooth random response with this rms
KMEANS = 60_000  # vectors that k-means sees


def parse_args(argv=None):
    parser = ArgumentParser(description="One-stage VQ-VAE.", formatter_class=ArgumentDefaultsHelpFormatter)
    number = {"type": plumbing.positive, "metavar": "N"}
    parser.add_argument("features", nargs="?", metavar="FEATURES", help="rate K vectors in dB, float32 [frames][K]")
    parser.add_argument("--test", metavar="F32", help="another file that is never trained on")
    parser.add_argument("--eband_K", **number, help="values in a vector: 14, or what the network of --nnin has")
    parser.add_argument("--nb_samples", **number, help="use the first N frames")
    parser.add_argument("--dec", **number, default=1, help="frames per quantised vector")
    parser.add_argument("--overlap", action="store_true", help="training vectors start at every frame, not every N-th")
    parser.add_argument("--num_embedding", **number, default=128, help="codewords")
    parser.add_argument("--embedding_dim", **number, help="values that are quantised: --eband_K times --dec")
    parser.add_argument("--nnin", metavar="NET", help="use this network, with its options, instead of training one")
    parser.add_argument("--epochs", **number, help=f"passes through the frames: as many as make {STEPS} steps")
    parser.add_argument("--seed", type=plumbing.natural, default=1, help="the same seed gives the same network")
    parser.add_argument("--nnout", default=f"{NAME}.keras", metavar="NET", help="write the network here")
    parser.add_argument("--vqout", metavar="STEM", help="write the codebook to STEM_1.f32")
    parser.add_argument("--indexout", metavar="NPY", help="write the indices of --test, else FEATURES")
    parser.add_argument("--indexin", metavar="NPY", help="decode these indices with --nnin, without FEATURES")
    parser.add_argument("--testout", metavar="F32", help="write the decoded vectors")
    parser.add_argument("--noplots", action="store_true", help="print figures only")
    parser.add_argument("--plot_dir", metavar="DIR", help="write pictures there instead of opening windows")
    args = parser.parse_args(argv)
    if bool(args.indexin) == bool(args.features) or (args.indexin and not (args.nnin and args.testout)):
        parser.error("give FEATURES, or --indexin with --nnin and --testout")
    if not args.nnout.endswith(".keras"):
        parser.error("--nnout must end in .keras")
    if not 2 <= args.num_embedding <= 2**16 or (args.embedding_dim or 1) > args.dec * (args.eband_K or 14):
        parser.error("--num_embedding must be 2 to 65536, --embedding_dim at most --eband_K times --dec")
    return args


def load(args):
    """{"train", "held-out"} or {"file"}, and {"test"}: rate K vectors [n][K] in dB; or {"indices": [v][1]}."""
    if args.nnin:  # args get the options of that network
        expected = OPTIONS | ({"eband_K": (args.eband_K,)} if args.eband_K else {})
        options = plumbing.read_options(args.nnin, expected)
        vars(args).update({name: options[name] for name in OPTIONS})
    args.eband_K = args.eband_K or len(codec2_model.BAND_HZ)
    args.embedding_dim = args.embedding_dim or args.dec * args.eband_K
    outputs = [None if args.nnin else args.nnout, args.indexout, args.testout, args.vqout and f"{args.vqout}_1.f32"]
    plot_dir = None if args.noplots else args.plot_dir
    plumbing.check_outputs(outputs, [args.features, args.test, args.nnin, args.indexin], plot_dir)
    if args.indexin:
        return {"indices": codec2_model.read_indices(args.indexin, args.num_embedding, 1, args.dec)}
    x = codec2_model.read_rate_K(args.features, args.eband_K, max_nb_samples=args.nb_samples)
    nb_train = len(x) - len(x) // 10  # the rest is cut off before vectors overlap
    needed = max(10, args.dec * args.num_embedding)  # of fewer than 10 frames, none is held out
    if not args.nnin and nb_train < needed:
        raise plumbing.FormatError(f"{args.features}: {nb_train} frames to train on, --num_embedding needs {needed}")
    data = {"file": x} if args.nnin else {"train": x[:nb_train], "held-out": x[nb_train:]}
    return data | ({"test": codec2_model.read_rate_K(args.test, args.eband_K)} if args.test else {})


if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.plain_errors()
    ARGS = parse_args()
    DATA = load(ARGS)

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops
from scipy.cluster.vq import kmeans2


@keras.saving.register_keras_serializable("codec2_one_stage")
class VectorQuantizer(layers.Layer):
    """Vectors x [n][dim] become x_q, the nearest of M codewords; the gradient of x_q goes to x (straight-through).

    The codebook loss pulls codewords to their vectors, the commitment loss pulls vectors to their codeword.  The unused
    loss pulls all codewords to the mean vector: so weakly that it only moves those that are nearest to no vector.

    Codewords [0, 0] and [1, 0], x = [0.9, 0], beta 0.25: x_q = [1, 0], codebook loss 0.1² / 2 = 0.005, commitment loss
    0.25 · 0.005 = 0.00125, unused loss 0.001 · (0.9² + 0.1²) / 4 = 0.000205.
    """

    def __init__(self, num_embedding, embedding_dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta
        self.codebook = self.add_weight((num_embedding, embedding_dim), name="codebook")

    def search(self, x):
        """Indices [n] of the codewords nearest to x [n][dim].  The distance lacks x², the same for all codewords."""
        distance = ops.sum(self.codebook**2, axis=1) - 2 * ops.matmul(x, ops.transpose(self.codebook))
        return ops.argmin(distance, axis=1)

    def call(self, x):
        x_q, fixed = ops.take(self.codebook, self.search(x), axis=0), ops.stop_gradient(x)
        self.add_loss(ops.mean((fixed - x_q) ** 2))  # codebook loss
        self.add_loss(self.beta * ops.mean((x - ops.stop_gradient(x_q)) ** 2))  # commitment loss
        self.add_loss(0.001 * ops.mean((ops.mean(fixed, axis=0) - self.codebook) ** 2))  # unused loss
        return ops.stop_gradient(x_q) + (x - fixed)  # straight-through: exactly x_q, with the gradient of x


def build_network(mean, args):
    """Network from vectors [v][dec][K] to decoded ones; `mean` [K] is that of the training frames."""
    frames = (args.dec, args.eband_K)
    inputs = keras.Input(frames)
    encoder = [layers.Rescaling(1 / SCALE_DB, -mean / SCALE_DB), layers.Flatten(), layers.Dense(args.embedding_dim)]
    decoder = [layers.Dense(args.dec * args.eband_K), layers.Reshape(frames), layers.Rescaling(SCALE_DB, mean)]
    z_e = keras.Sequential(encoder, name="encoder")(inputs)  # [v][embedding_dim]
    z_q = VectorQuantizer(args.num_embedding, args.embedding_dim, name="quantizer")(z_e)
    return keras.Model(inputs, keras.Sequential(decoder, name="decoder")(z_q))


def random_filter(chunks, rng):
    """Chunks [n][frames][K] in dB after random filters: a gain and three cosines over frequency."""
    n, _, K = chunks.shape
    weights = rng.normal(0, FILTER_DB * np.sqrt(2 / 3), (n, 3))
    response = weights @ np.cos(np.pi * np.outer([1, 2, 3], np.linspace(0, 1, K)))
    response += rng.uniform(-GAIN_DB, GAIN_DB, (n, 1))
    return chunks + np.float32(response)[:, None]


def train(network, x, held, args, rng):
    """Fit the network to frames x [n][K]; returns the codebook [M][dec · K] of k-means."""
    encoder, quantizer, decoder = (network.get_layer(name) for name in ("encoder", "quantizer", "decoder"))
    first_frames = np.arange(0, len(x) - args.dec + 1, 1 if args.overlap else args.dec)
    vectors = x[first_frames[:, None] + np.arange(args.dec)]  # [v][dec][K]
    epoch_steps = -(-len(vectors) // BATCH)
    epochs = args.epochs or -(-STEPS // epoch_steps)
    print(f"epochs: {epochs}\nsteps: {epochs * epoch_steps}")

    # start as PCA and k-means: the encoder projects on the principal axes, the quantiser has the codewords
    some = random_filter(rng.choice(vectors, max(args.num_embedding, min(len(x), KMEANS))), rng)
    flat = some.reshape(len(some), -1)
    kmeans = kmeans2(flat, flat[: args.num_embedding], 20, minit="matrix")[0]
    axes = np.linalg.eigh(np.atleast_2d(np.cov(flat.T)))[1]  # the last ones have the largest variances
    axes = axes[:, : -args.embedding_dim - 1 : -1]
    encoder.layers[-1].set_weights([axes, np.zeros(args.embedding_dim)])
    decoder.layers[0].set_weights([axes.T, np.zeros(len(axes))])
    quantizer.codebook.assign(encoder(kmeans.reshape(-1, args.dec, args.eband_K)))

    model = keras.Model(network.inputs, network.outputs)  # so that the network is saved without an optimiser
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * epoch_steps)
    model.compile(keras.optimizers.Adam(rate), "mse", loss_weights=1 / SCALE_DB**2, steps_per_execution=10)
    progress = plumbing.Progress(epochs)
    with plumbing.CtrlC(model) as ctrl_c:
        for before, epoch in itertools.pairwise(np.unique(np.linspace(0, epochs, ROUNDS + 1).astype(int))):
            chosen = random_filter(rng.choice(vectors, (epoch - before) * epoch_steps * BATCH), rng)
            loss = model.fit(chosen, chosen, BATCH, shuffle=False, verbose=0).history["loss"][0]
            held_sd = np.mean((held - decode(network, encode(network, held))[: len(held)]) ** 2)
            progress.show(epoch, f"loss {loss:.4f}, held-out SD {held_sd:.2f} dB²")
            if ctrl_c.pressed:
                break
    return kmeans


def encode(network, x):
    """Indices int32 [v][1] that stand for frames x [n][K]; the last frame is repeated where dec does not divide n."""
    encoder, quantizer, dec = network.get_layer("encoder"), network.get_layer("quantizer"), network.input_shape[1]
    x = np.pad(x, ((0, -len(x) % dec), (0, 0)), "edge")
    z_e = ops.convert_to_numpy(encoder(x.reshape(-1, dec, x.shape[1])))
    parts = np.array_split(z_e, -(-len(z_e) * quantizer.codebook.shape[0] // 2**24))  # bounds the memory for distances
    return np.concatenate([ops.convert_to_numpy(quantizer.search(part)) for part in parts])[:, None]


def decode(network, indices):
    """Frames [v · dec][K] that indices [v][1] stand for.  Decodes every codeword once: all files get the same bits."""
    quantizer, decoder = network.get_layer("quantizer"), network.get_layer("decoder")
    codewords = ops.convert_to_numpy(decoder(ops.convert_to_tensor(quantizer.codebook)))  # [M][dec][K]
    return codewords[indices[:, 0]].reshape(-1, codewords.shape[2])


def main(args, data):
    if args.nnin:
        network = plumbing.load_network(args.nnin)
        shapes = {layer.name: layer.output.shape[1:] for layer in network.layers[1:]}
        frames, z = (args.dec, args.eband_K), (args.embedding_dim,)
        if network.input_shape[1:] != frames or shapes != {"encoder": z, "quantizer": z, "decoder": frames}:
            raise plumbing.FormatError(f"{args.nnin}: its layers are not those that its options tell")
        kmeans = plumbing.read_array(args.nnin, "kmeans", (args.num_embedding, args.dec * args.eband_K))
    else:
        network = build_network(data["train"].mean(axis=0), args)
        kmeans = train(network, data["train"], data["held-out"], args, np.random.default_rng(args.seed))
        options = {name: value for name, value in vars(args).items() if isinstance(value, int | float)}  # no file names
        plumbing.save_network(network, {**options, "script": NAME}, args.nnout, kmeans=kmeans)
    if args.indexin:  # the receiver
        indices, nb_frames = data["indices"]
        codec2_model.write_rate_K(decode(network, indices)[:nb_frames], args.testout)
        print(f"frames: {nb_frames}")
        return

    # k-means as a network, so that it codes with the same functions
    baseline = keras.Sequential([keras.Input((args.dec, args.eband_K)), layers.Flatten(name="encoder")])
    baseline.add(VectorQuantizer(*kmeans.shape, name="quantizer"))
    baseline.add(layers.Reshape((args.dec, args.eband_K), name="decoder"))
    baseline.get_layer("quantizer").codebook.assign(kmeans)
    bits = np.log2(args.num_embedding)
    print(f"bits: {bits:g} per vector")
    print(f"bit rate: {bits / (args.dec * codec2_model.FRAME_S):g} bit/s")
    print(f"algorithmic delay: {args.dec - 1} frames")
    for part, x in data.items():
        indices = encode(network, x)
        x_hat = {"network": decode(network, indices)[: len(x)]}
        x_hat["k-means"] = decode(baseline, encode(baseline, x))[: len(x)]
        sd = codec2_model.print_figures(part, x, lambda y, n: {label: y[label][n] for label in y}, x_hat)
        print(f"{part} codewords of stage 1 in use: {100 * len(np.unique(indices)) / args.num_embedding:.1f} %")

    if args.vqout:
        codec2_model.write_rate_K(ops.convert_to_numpy(network.get_layer("quantizer").codebook), f"{args.vqout}_1.f32")
    if not args.noplots:
        plumbing.show({f"{NAME}_sd": vq_pager.plot_sd(sd)}, args.plot_dir)
        frames = vq_pager.typical_frames(sd["network"], x.mean(axis=1))
        titles = [f"frame {f}: SD {sd['network'][f]:.1f} dB²" for f in frames]
        files = {"original": x, "decoded": x_hat["network"]}
        vq_pager.page_vectors(files, frames, titles, f"{NAME}_frames", args.plot_dir)
    if part == "held-out":  # the outputs are of all FEATURES
        x = np.concatenate([data["train"], data["held-out"]])
        indices = encode(network, x)
    if args.testout:
        codec2_model.write_rate_K(decode(network, indices)[: len(x)], args.testout)
    if args.indexout:
        codec2_model.write_indices(indices, len(x), args.indexout)
    print(f"{sd['network'].mean():.2f}")


if __name__ == "__main__":
    main(ARGS, DATA)
