"""Network archives: a Keras file, the options that tell how to use it, and NumPy arrays.

Networks may come from strangers, so this is the one place where malice is expected: Keras' safe
mode, plain layers, checked options, bounded sizes.  Keras is imported by the functions that need
it, as it takes seconds.
"""

import functools
import json
import logging
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from common import plumbing
from common.plumbing import FormatError

MAX_WEIGHT = 1e4  # a trained network has none above 1000, and squares of what it makes stay finite
MAX_BYTES = 2**26  # of an unpacked archive; networks have a few million
MAX_DB = 1000  # what a network makes is between −1000 and 1000 dB


class Quantiser(NamedTuple):
    """What sender and receiver know.

    z_hat[t] = z_hat[t − 1] @ predictor + one codeword of each stage.
    """

    encoder: object  # Keras model: frames [n][frames][K] in dB → z [n][vectors][dim]
    decoder: object  # Keras model: z [n][vectors][dim] → frames [n][frames][K] in dB
    codebooks: np.ndarray  # float32 [stages][M][dim]
    predictor: np.ndarray  # float32 [dim][dim]; zeros where nothing is predicted
    expected: np.ndarray  # float32 [dim][dim]: on average z_hat is z @ expected
    options: dict  # those it was trained with
    baseline: dict  # arrays of the classical quantiser; "shape" of the training vectors
    fingerprint: int  # uint32, of all that the receiver needs to know


# ---------------------------------------------------------------- Keras


def set_up(seed=None):
    """Set what these scripts need, whatever ~/.keras/keras.json says, and the random seed."""
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    # TensorFlow warns when a network is run on arrays of several sizes, as a search does
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with plumbing.quiet():  # of CUDA, which misses a GPU as soon as devices are looked for
        keras.distribution.list_devices()
    if seed is not None:
        keras.utils.set_random_seed(seed)


def print_device():
    """Print on which backend and devices a training runs."""
    import keras

    devices = ", ".join(keras.distribution.list_devices())
    print(f"backend: {keras.backend.backend()} on {devices}")


# ---------------------------------------------------------------- write


def save(network, options, filename, **arrays):
    """Write a Keras network, its options and NumPy arrays into one archive.

    Its weights are rounded to 11 bits, which changes no figure and makes the file half as large.
    """
    check_weights(network, filename)
    network.set_weights([np.float32(np.float16(values)) for values in network.get_weights()])
    with plumbing.replacing(filename) as new:
        network.save(new)
        with zipfile.ZipFile(new) as saved:
            members = {name: saved.read(name) for name in saved.namelist()}
        with zipfile.ZipFile(new, "w", zipfile.ZIP_BZIP2) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
            archive.writestr("options.json", json.dumps(options))
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, values)


def save_quantiser(encoder, decoder, codebooks, predictor, options, filename, **arrays):
    """Write a quantiser: encoder and decoder in one Keras model, codebooks as an array.

    codebooks [stages][M][dim] and predictor [dim][dim] (None: nothing is predicted) are rounded to
    11 bits.  Other arrays are `expected` [dim][dim] and those of the classical quantiser.
    """
    import keras

    frames, z = keras.Input(encoder.input.shape[1:]), keras.Input(decoder.input.shape[1:])
    both = keras.Model([frames, z], [encoder(frames), decoder(z)])
    arrays["codebooks"] = np.float16(codebooks)
    if predictor is not None:
        arrays["predictor"] = np.float16(predictor)
    save(both, options, filename, **arrays)


# ---------------------------------------------------------------- read


def read_options(filename, expected):
    """The options that a network was saved with.

    FormatError unless the value of each of `expected` {name: values} is one of these.
    """
    plumbing.check_input(filename)
    with open(filename, "rb") as file:
        options = unpack_options(file)
    if options is None:
        raise FormatError(f"{filename}: expected a network that one of these scripts has written")
    for name, allowed in expected.items():
        value = options.get(name)
        if type(value) is not type(allowed[0]) or value not in allowed:
            found = f"a network with {name} {value!r}"
            raise FormatError(f"{filename}: {found}, expected {in_words(allowed)}")
    return options


def unpack_options(file):
    """The options in an open archive, or None."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                return None
            return dict(json.loads(archive.read("options.json")))
    except Exception:  # zipfile raises many exception types for a bad file
        return None


def in_words(allowed):
    """Allowed values for a message: "2 to 160", or "a or b"."""
    if isinstance(allowed, range):
        return f"{allowed[0]} to {allowed[-1]}"
    return " or ".join(map(str, allowed))


def read_arrays(filename):
    """{name: array} that a network was saved with, all of usual numbers."""
    with zipfile.ZipFile(filename) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): read_array(archive, name) for name in members}


def read_array(archive, name):
    """One of the arrays in an open archive."""
    try:
        with archive.open(name) as file:
            values = np.lib.format.read_array(file)
    except Exception:  # zipfile and NumPy raise many exception types for a bad file
        raise FormatError(f"{archive.filename}: {name} in this network is broken") from None
    if values.dtype.kind not in "fi" or not (np.abs(np.float64(values)) < MAX_WEIGHT).all():
        raise FormatError(f"{archive.filename}: {name} in this network holds unusual numbers")
    return values


def load(filename):
    """The Keras network in an archive.  FormatError if it is broken or has layers of its own."""
    import keras

    set_up()
    try:
        with plumbing.quiet():
            network = keras.models.load_model(filename, compile=False)
    except Exception as error:  # Keras raises many exception types for a bad file
        why = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise FormatError(f"{filename}: not a network that can be run: {why}") from None
    check_weights(network, filename)
    return network


@functools.cache
def runner(network):
    """What network.predict_on_batch does, arrays to arrays; 0.25 ms quicker with TensorFlow.

    A live sender calls it every few milliseconds, always with arrays of the same few shapes, and
    without it would take a sixth longer.  Other backends take predict_on_batch.  Whoever asks again
    for the same network gets what has been compiled.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return network.predict_on_batch
    import tensorflow as tf

    compiled = {}  # by shape

    def run(x):
        if x.shape not in compiled:
            function = tf.function(lambda inputs: network(inputs, training=False))
            compiled[x.shape] = function.get_concrete_function(tf.TensorSpec(x.shape))
        return compiled[x.shape](tf.constant(x, tf.float32)).numpy()

    return run


def check_weights(network, filename):
    """FormatError for weights that are not finite, or far larger than trained ones ever were."""
    if not all((np.abs(values) < MAX_WEIGHT).all() for values in network.get_weights()):
        why = f"weights that are not finite or above {MAX_WEIGHT:g}: training diverged?"
        raise FormatError(f"{filename}: a network with {why}")


def check_run(network, shapes, output_shapes, filename):
    """Run a network on zeros of these shapes.  FormatError if it fails or gives other shapes."""
    try:
        with np.errstate(all="ignore"):
            outputs = network.predict_on_batch([np.zeros(shape, np.float32) for shape in shapes])
    except Exception as error:  # whatever layers that do not fit raise
        why = " ".join(str(error).split())[:300]
        raise FormatError(f"{filename}: a network that cannot be run: {why}") from None
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    found = [tuple(output.shape) for output in outputs]
    if found != [tuple(shape) for shape in output_shapes]:
        raise FormatError(f"{filename}: a network that makes {found}, expected {output_shapes}")
    if not all((np.abs(output) < MAX_DB).all() for output in outputs):  # false for nan
        why = f"makes values that are not finite, or above {MAX_DB} dB"
        raise FormatError(f"{filename}: a network that {why}")


QUANTISER_OPTIONS = {  # values that these options of a quantiser may have
    "eband_K": range(2, 161),
    "Fs": range(1000, 192_001),
    "dec": range(1, 17),
    "vq_stages": range(1, 17),
    "num_embedding": range(2, 2**16 + 1),
    "embedding_dim": range(1, 2**12),
}


def read_quantiser_options(filename):
    """The options of a quantiser: those above, and `lower`, dB above which frames count."""
    if not {"vq_stages", "Fs"} <= set(read_options(filename, {})):
        why = "no quantiser, or an old network? Train it anew, or take one of networks/"
        raise FormatError(f"{filename}: {why}")
    options = read_options(filename, QUANTISER_OPTIONS)
    lower = options.get("lower")
    if not (isinstance(lower, int | float) and abs(lower) <= MAX_DB):
        raise FormatError(f"{filename}: a network with lower {lower!r}, expected a level in dB")
    return options


def load_quantiser(filename):
    """The Quantiser in an archive, run once.  FormatError if its parts do not fit its options."""
    options = read_quantiser_options(filename)
    names = ("vq_stages", "num_embedding", "embedding_dim", "dec", "eband_K")
    stages, M, dim, dec, K = (options[name] for name in names)
    arrays = read_arrays(filename)
    codebooks = arrays.pop("codebooks", np.zeros(0))
    predictor = arrays.pop("predictor", np.zeros((dim, dim)))
    expected = arrays.pop("expected", np.eye(dim))
    shapes = (codebooks.shape, predictor.shape, expected.shape)
    if shapes != ((stages, M, dim), (dim, dim), (dim, dim)):
        raise FormatError(f"{filename}: no codebooks of the size that its options tell")
    network = load(filename)
    if not {"encoder", "decoder"} <= {layer.name for layer in network.layers}:
        raise FormatError(f"{filename}: a network without the layers encoder and decoder")
    check_run(network, [(1, 8 * dec, K), (1, 8, dim)], [(1, 8, dim), (1, 8 * dec, K)], filename)
    decoder = network.get_layer("decoder")
    known = [codebooks, predictor, *decoder.get_weights()]
    return Quantiser(
        encoder=network.get_layer("encoder"),
        decoder=decoder,
        codebooks=np.float32(codebooks),
        predictor=np.float32(predictor),
        expected=np.float32(expected),
        options=options,
        baseline=arrays,
        fingerprint=zlib.crc32(b"".join(np.float32(values).tobytes() for values in known)),
    )
