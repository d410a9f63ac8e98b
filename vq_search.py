"""The sender and the receiver of a VQ-VAE: indices for frames by analysis by synthesis, and frames for indices.

For networks with the layers encoder, quantizer and decoder, as vq_vae_ratek_conv1d.py makes them, whatever is in these.
x [n][K] are frames in dB, z [v][dim] vectors of --dec frames each; args are the options of that script.
"""

import contextlib
import math

import codec2_model
import plumbing

import numpy as np

with plumbing.quiet():  # TensorFlow prints lines that nobody needs
    import keras
from keras import layers, ops

FLOOR_DB = -20  # lowest value that is coded: the rounding noise of 16 bit samples
LATER = 16  # candidates that the sweeps after the first one try again: as good as all 32
REFINE_STEPS = 20  # of the gradient descent that --harmonics starts with
REFINE_RATE = 0.02  # size of a step of it; values of z are about 1


def load_network(filename, args):
    """The quantiser in a file.  FormatError if its layers are not those that its options, in args, tell."""
    network = plumbing.load_network(filename)
    frames, z = (1, 8 * args.dec, args.eband_K), (1, 8, args.embedding_dim)  # 8 vectors, for one
    expected = [z, (args.vq_stages, args.num_embedding, args.embedding_dim), frames]
    with contextlib.suppress(ValueError, AttributeError):
        encoder, quantizer, decoder = map(network.get_layer, ("encoder", "quantizer", "decoder"))
        shapes = (
            encoder.compute_output_shape(frames),
            quantizer.codebooks.shape,
            decoder.compute_output_shape(z),
        )
        if [tuple(shape) for shape in shapes] == expected:
            return network
    raise plumbing.FormatError(f"{filename}: its layers are not those that its options tell")


def decode(network, z):
    """Frames [v · dec][K] that the decoder makes of vectors z [v][dim]."""
    return network.get_layer("decoder").predict_on_batch(z[None])[0]


def pick(x, numbers):
    """x[i, numbers[i]] of x [n][N][...] for numbers [n][k]: [n][k][...]."""
    n, N = ops.shape(x)[0], x.shape[1]
    flat = ops.reshape(x, (n * N, *x.shape[2:]))
    return ops.take(flat, ops.arange(n)[:, None] * N + numbers, axis=0)


def largest(scores, k):
    """Numbers int32 [n][k] of the k largest of scores [n][N], or of all, the largest first, faster than top_k.

    They are in the k groups of scores whose maxima are the largest.
    """
    k = min(k, scores.shape[1])
    size = math.gcd(scores.shape[1], 32)
    groups = ops.reshape(scores, (-1, scores.shape[1] // size, size))
    best = ops.top_k(ops.max(groups, axis=2), min(k, groups.shape[1]))[1]
    number = ops.top_k(ops.reshape(pick(groups, best), (-1, best.shape[1] * size)), k)[1]
    return pick(best, number // size) * size + number % size


def nearest(quantizer, x, m_best, candidates):
    """Indices [n][candidates][stages] of the sums nearest to x [n][dim], in blocks that bound the distances' memory."""
    block = max(1, 2**24 // (m_best * quantizer.M))
    parts = [
        quantizer.search(x[start : start + block], m_best, candidates)
        for start in range(0, len(x), block)
    ]
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


def code(network, x, sweeps, args, pair=None):
    """Encoder output z_e [v][dim], indices int32 [v][stages] and decoded frames [n][K] of frames x [n][K].

    v = n / dec, rounded up by repeating the last frame.  With a `pair` of load_decoder(), the search minimises the
    error of harmonics.
    """
    encoder, quantizer = network.get_layer("encoder"), network.get_layer("quantizer")
    padded = np.maximum(np.pad(x, ((0, -len(x) % args.dec), (0, 0)), "edge"), FLOOR_DB)
    z_e = ops.convert_to_numpy(encoder(padded[None])[0])
    counted, numbers = codec2_model.is_counted(x, args.lower), np.arange(len(z_e))

    def error(z):
        x_hat = decode(network, z)[: len(x)]
        return harmonic_error(x_hat, pair) if pair else np.mean((x - x_hat) ** 2, axis=1) * counted

    wanted = refine(z_e, network, pair) if pair else z_e
    indices = nearest(quantizer, wanted, args.mbest, args.mbest if sweeps else 1)
    z = ops.convert_to_numpy(quantizer.decode(indices))
    chosen = choose(z, error, reaches(network, args)[1], sweeps, args.dec) if sweeps else 0
    return z_e, indices[numbers, chosen], decode(network, z[numbers, chosen])[: len(x)]


def choose(z, error, reach, sweeps, dec):
    """Analysis by synthesis: the number [v] of the candidate that each vector takes of its candidates z [v][C][dim].

    error(vectors [v][dim]) gives the squared error [n] of the frames decoded from them.  A vector changes the frames
    from reach[0] to reach[1], counted from its own first frame.  Vectors that change different frames are tried at
    once; each takes the candidate with the least error of the frames that it changes, all others held.  Sweeps
    after the first one try only the candidates that were best in it.
    """
    apart = -(-(reach[1] - reach[0] + 1) // dec)  # vectors
    numbers, chosen = np.arange(len(z)), np.zeros(len(z), int)
    tried = np.tile(
        np.arange(z.shape[1]), (len(z), 1)
    )  # candidates, the best of the last sweep first
    for _ in range(sweeps):
        for first in range(min(apart, len(z))):
            vectors = numbers[first::apart]
            start, errors = vectors * dec + reach[0], []
            for candidate in tried[vectors].T:
                chosen[vectors] = candidate
                sums = np.concatenate([[0], np.cumsum(error(z[numbers, chosen]), dtype=np.float64)])
                start_sum, end_sum = (
                    sums[np.clip(frame, 0, len(sums) - 1)] for frame in (start, start + apart * dec)
                )
                errors.append(end_sum - start_sum)
            order = np.argsort(errors, axis=0, kind="stable").T
            tried[vectors] = np.take_along_axis(tried[vectors], order, axis=1)
            chosen[vectors] = tried[vectors, 0]
        tried = tried[:, :LATER]
    return chosen


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


def code_classically(quantizer, x, sweeps, args):
    """Frames [n][K]: every dec-th frame of x [n][K] quantised, linear interpolation between, the same search."""
    n, counted = np.arange(len(x)), codec2_model.is_counted(x, args.lower)
    weight = (n % args.dec / np.float32(args.dec))[:, None]

    def interpolate(z):
        following = np.minimum(n // args.dec + 1, len(z) - 1)
        return (1 - weight) * z[n // args.dec] + weight * z[following]

    def error(z):
        return np.mean((x - interpolate(z)) ** 2, axis=1) * counted

    z = ops.convert_to_numpy(
        quantizer.decode(nearest(quantizer, x[:: args.dec], args.mbest, args.mbest))
    )
    chosen = choose(z, error, (1 - args.dec, args.dec - 1), sweeps, args.dec)
    return interpolate(z[np.arange(len(z)), chosen])


# ---------------------------------------------------------------- the search for harmonics


def load_decoder(filename, pair):
    """Add to a pair of codec2_model.load_pair() the "decoder" in a file, which makes spectra of its vectors (and Wo).

    FormatError if it does not fit.
    """
    decoder = plumbing.load_network(filename)
    shapes = [tuple(x.shape[1:]) for x in (*decoder.inputs, decoder.outputs[0])]
    vector, spectrum = pair["vectors"].shape[1:], pair["target"].shape[1:]
    if shapes not in ([vector, spectrum], [vector, (1,), spectrum]):
        raise plumbing.FormatError(f"{filename}: its layers are not those that its options tell")
    inputs = [*decoder.inputs, keras.Input((1,), name="Wo_left_out")][
        :2
    ]  # a decoder without Wo ignores it
    return {**pair, "decoder": keras.Model(inputs, decoder.outputs[0])}


def sparse_error(target, estimate):
    """Squared error [...], mean over the harmonics of a frame, of spectra [...][width]; NaN is no target."""
    has_target = ops.logical_not(ops.isnan(target))
    error = ops.where(has_target, target - estimate, 0.0)
    return ops.sum(error**2, axis=-1) / ops.maximum(
        ops.sum(ops.cast(has_target, error.dtype), axis=-1), 1.0
    )


def harmonic_error(x_hat, pair):
    """Squared error [n], mean over the harmonics that pair["decoder"] makes of vectors x_hat [n][K]."""
    errors = []
    for block in codec2_model.blocks(len(x_hat)):
        spectra = pair["decoder"].predict_on_batch([x_hat[block], pair["Wo"][block, None]])
        errors.append(
            ops.convert_to_numpy(sparse_error(np.float32(pair["target"][block]), spectra))
        )
    return np.concatenate(errors)


def refine(z, network, pair):
    """Vectors z [v][dim] moved by gradient descent to where they would make better harmonics, were they not quantised.

    Candidates near the encoder's output only would leave half of what the search for harmonics gains.
    """
    n, numbers, Wo = (
        len(pair["Wo"]),
        keras.Input((len(z),), dtype="int32"),
        keras.Input((len(pair["Wo"]), 1)),
    )
    points = layers.Embedding(*z.shape)
    frames = network.get_layer("decoder")(points(numbers))[:, :n]  # [1][n][K]
    inputs = [ops.reshape(values, (n, -1)) for values in (frames, Wo)]
    model = keras.Model([numbers, Wo], ops.expand_dims(pair["decoder"](inputs), 0))
    points.set_weights([z])
    network.trainable = pair["decoder"].trainable = False
    model.compile(keras.optimizers.Adam(REFINE_RATE), sparse_error)
    target = np.float32(pair["target"])[None]
    model.fit(
        [np.arange(len(z))[None], pair["Wo"][None, :, None]], target, epochs=REFINE_STEPS, verbose=0
    )
    return points.get_weights()[0]
