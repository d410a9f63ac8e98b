"""What the tests share: running a script as its user does, its figures and refusals, data."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import c2sim
import codec2_model
from common import spectra

SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
# what makes trainings and searches short
SHORT = {"KMEANS": 2000, "EVALUATIONS": 3, "MEASURED": 30, "PICTURES": 2, "HELD_OUT": 1000}
SHORT |= {"SEARCHED": 128, "SEQUENCE": 16, "EXPECTATION_SEQUENCES": 1, "REFINE_EPOCHS": 2}
SHORT |= {"HIDDEN": 16}
SHORT_SEARCH = {"PATHS": 4, "SAMPLES": 64}
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def pytest_configure(config):
    """No windows, neither in this process nor in those that it starts; one thread each."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    of_keras = "__array__ implementation", "The structure of `inputs`", "Even though the `tf.config"
    for warning in of_keras:
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")
    os.environ |= {"MPLBACKEND": "Agg", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def eager():
    """Networks run operation by operation: to compile one takes longer than all it does here."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def one_correction(monkeypatch):
    """Networks of eband_train have one correction, not four: they compile three times as fast."""
    monkeypatch.setattr("eband_train.CORRECTIONS", 1)


def shorten(patch, *scripts):
    """Trainings take a moment: small networks, few paths, figures of the first frames alone."""
    from common import classical, search

    for name, value in SHORT_SEARCH.items():
        patch.setattr(search, name, value)
    for script in scripts:
        for name, value in SHORT.items():
            patch.setattr(script, name, value, raising=False)
    patch.setattr(spectra, "pieces", lambda n_frames, most: np.arange(min(n_frames, most)))
    for name in ("KMEANS_PASSES", "ROUNDS", "JOINT"):
        patch.setattr(classical, name, 1)


@pytest.fixture
def run(tmp_path):
    """run("script.py", *arguments) in `tmp_path` on a machine without a display."""

    def start(script, *arguments, **options):
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        defaults = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
        return subprocess.run(command, **(defaults | options))

    return start


def figures(stdout):
    """{name: value} of the lines `name: value unit` of stdout; "last" is the bare last line.

    Values are numbers where they can be, else the text behind the colon.
    """
    lines = [line.partition(": ") for line in stdout.splitlines()]
    values = {name: text for name, colon, text in lines if colon} | {"last": lines[-1][0]}
    for name, text in values.items():
        with contextlib.suppress(ValueError, IndexError):
            values[name] = float(text.split()[0])
    return values


def assert_refused(result, *words):
    """The script ended with one line on stderr that tells these words."""
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith(f"{Path(result.args[1]).name}: error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr


def records(count, Wo=np.pi / 40, L=39, A=100.0, voiced=1):
    """Model records [count] that are alike: 100 Hz, all harmonics of the same amplitude."""
    frames = np.zeros(count, codec2_model.RECORD)
    frames["Wo"], frames["L"], frames["voiced"] = Wo, L, voiced
    frames["A"][:, 1 : L + 1] = A
    return frames


def call(script, *arguments):
    """What a script prints that runs in this process, which may have Keras already."""
    args = script.parse_args([str(argument) for argument in arguments])
    inputs = [script.load(args)] if hasattr(script, "load") else []
    with contextlib.redirect_stdout(io.StringIO()) as out:
        script.main(args, *inputs)
    return out.getvalue()


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Paths of the band energies and the model file of 16 s of the sample speech."""
    folder = tmp_path_factory.mktemp("sample")
    sound_file(folder / "speech.wav", soundfile.read(SAMPLE, 128_000, dtype="int16")[0])
    names = folder / "bands.f32", folder / "speech.model"
    options = ("--bands", names[0], "--bands_lower", 10, "--modelout", names[1])
    call(c2sim, folder / "speech.wav", *options)
    return names


@pytest.fixture(scope="session")
def rate_K(sample):
    """Paths of the K = 20 vectors and the model file of the same speech, all frames."""
    folder = sample[0].parent
    names = folder / "K.f32", folder / "K.model"
    call(c2sim, folder / "speech.wav", "--rateK", "--rateKout", names[0])
    call(c2sim, folder / "speech.wav", "--modelout", names[1])
    return names


@pytest.fixture(scope="session")
def shared():
    """Folder of the reference data, beside the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the reference data (../shared/data) is not on this machine")
    return folder


def first_frames(pair, n, folder):
    """Paths of the first n frames of two Paths, features [frames][14] and model, in `folder`."""
    (folder / "n.f32").write_bytes(pair[0].read_bytes()[: 56 * n])
    (folder / "n.model").write_bytes(pair[1].read_bytes()[: 1300 * n])
    return folder / "n.f32", folder / "n.model"


@pytest.fixture(scope="session")
def trained(sample, tmp_path_factory):
    """Folder with ampnn.keras of eband_train.py --Wo, trained for a moment; the figures printed."""
    import tensorflow as tf

    import eband_train

    folder = tmp_path_factory.mktemp("trained")
    network, plots = folder / "ampnn.keras", folder / "plots"
    options = ("--Wo", "--epochs", 6, "--plot_dir", plots, "--nnout", network, "--test", *sample)
    tf.config.run_functions_eagerly(True)  # what `eager` and `one_correction` do for a test
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eband_train, "CORRECTIONS", 1)
        printed = call(eband_train, *sample, *options)
    tf.config.run_functions_eagerly(False)
    return folder, figures(printed)


def speech_like(n, K=14, seed=0):
    """Random vectors [n][K] in dB with about the level, shape and smoothness of speech."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 3, (n, K)), axis=0)
    return np.float32(40 + 15 * np.sin(walk / 15) - np.arange(K))


def write_quantiser(filename, dec=2, K=14, stages=2, M=16, **changed):
    """An archive of a quantiser without training: principal axes of dec frames, and k-means.

    Encoder and decoder smooth over three frames, so that vectors overlap.
    """
    import keras
    from scipy.cluster.vq import kmeans2, vq

    from common import networks

    x, dim, layers = speech_like(640 * dec, K, seed=1), 8 * dec, keras.layers
    blocks = (x.reshape(-1, dec * K) - 35) / 15
    axes = np.linalg.eigh(blocks.T @ blocks)[1][:, : -dim - 1 : -1]
    smooth = np.array([0.05, 0.9, 0.05])[:, None, None] * np.eye(K)
    frames = keras.Input((None, K))
    hidden = layers.Rescaling(1 / 15, -35 / 15)(frames)
    hidden = layers.Conv1D(K, 3, padding="same", use_bias=False, name="smooth")(hidden)
    hidden = layers.Reshape((-1, dec * K))(hidden)
    hidden = layers.Dense(dim, use_bias=False, name="axes")(hidden)
    encoder = keras.Model(frames, hidden, name="encoder")
    z = keras.Input((None, dim))
    hidden = layers.Dense(dec * K, use_bias=False, name="axes")(z)
    hidden = layers.Reshape((-1, K))(hidden)
    hidden = layers.Conv1D(K, 3, padding="same", use_bias=False, name="smooth")(hidden)
    decoder = keras.Model(z, layers.Rescaling(15, 35)(hidden), name="decoder")
    for model, matrix in ((encoder, axes), (decoder, axes.T)):
        model.get_layer("axes").set_weights([matrix])
        model.get_layer("smooth").set_weights([smooth])

    def fit(vectors):
        codebooks = []
        for _ in range(stages):
            codebook, _ = kmeans2(vectors, vectors[:: len(vectors) // M][:M], minit="matrix")
            codebooks.append(codebook)
            vectors = vectors - codebook[vq(vectors, codebook)[0]]
        return np.stack(codebooks)

    options = {"script": "mine", "eband_K": K, "Fs": 8000, "dec": dec, "vq_stages": stages}
    options |= {"num_embedding": M, "embedding_dim": dim, "lower": 10} | changed
    arrays = {"kmeans": fit(x.reshape(-1, dec * K)), "shape": spectra.shape_statistics(x)}
    codebooks = fit(blocks @ axes)
    networks.save_quantiser(encoder, decoder, codebooks, None, options, filename, **arrays)
    return filename


def sample_speech(seconds):
    """With noise of ±1, so that no frame is digitally silent."""
    samples = np.clip(soundfile.read(SAMPLE, 8000 * seconds, dtype="int16")[0], -32767, 32766)
    return samples + np.random.default_rng(5).integers(-1, 2, len(samples), np.int16)


def sound_file(name, samples, rate=8000, subtype="PCM_16", kind=None):
    """Of the kind that its suffix, or `kind`, says; bytes when there is no name."""
    target = name or io.BytesIO()
    soundfile.write(target, samples, rate, subtype, format=kind)
    return name or target.getvalue()


def snr_dB(reference, output):
    return 10 * np.log10(np.sum(reference**2.0) / np.sum((output - reference) ** 2.0))
