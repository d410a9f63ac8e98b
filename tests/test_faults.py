"""Bad input to every script is refused in one line; files that are odd but right give figures.

What the readers refuse is in test_codec2_model.py, test_archives.py and test_c2sim.py.
"""

import importlib
import os
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codec2_model
from codec2_model import RECORD
from common import sound, spectra
from common.plumbing import FormatError
from conftest import ROOT, assert_refused, run_in

pytestmark = pytest.mark.usefixtures("eager")

FRAMES = 300
SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"

# ---------------------------------------------------------------- files


def good_arrays():
    """Bands [n][14], rate K vectors [n][20], mlfeat records [n][201] and model records [n]: of no
    real speech.
    """
    rng = np.random.default_rng(2)
    records = np.zeros(FRAMES, RECORD)
    records["L"] = rng.integers(10, 81, FRAMES)
    records["Wo"] = np.pi / (records["L"] + 0.5)
    records["A"] = rng.uniform(10, 1000, records["A"].shape)
    bands, rate_K = (rng.normal(30, 8, (FRAMES, k)).astype("<f4") for k in (14, 20))
    mean = rate_K.mean(axis=1, keepdims=True)
    parts = [mean, rate_K - mean, rate_K - mean, records["A"][:, :160]]
    mlfeat = np.concatenate(parts, axis=1).astype("<f4")
    return {"bands": bands, "rate_K": rate_K, "mlfeat": mlfeat, "model": records}


def changed(array, value, *place):
    """A copy in which one value is another."""
    array = array.copy()
    array[place] = value
    return array


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{name: file}: good ones, and some that are bad; the names have a space and other letters."""
    folder = tmp_path_factory.mktemp("gute und böse")
    arrays = good_arrays()
    bands, model = arrays["bands"], arrays["model"]
    silence, phases, no_pitch, silent_end = (model.copy() for _ in range(4))
    silence["A"] = 0
    phases["phi"][7, 5] = np.nan
    for name in ("Wo", "L", "A"):  # as other tools write silence
        no_pitch[name][FRAMES // 2] = 0
    silent_end["A"][-FRAMES // 10 :] = 0
    highest_pitch = np.array((np.pi, 1, 100, 0, 1), RECORD)
    silent_vectors = changed(bands, codec2_model.DB_RANGE[0], slice(100, 110))
    arrays |= {"silence": silence, "phases": phases, "no_pitch": no_pitch}
    arrays |= {"silent_end": silent_end, "silent_vectors": silent_vectors}
    arrays |= {"highest_pitch": np.repeat(highest_pitch, FRAMES)}
    arrays |= {"short": bands[1:], "log10": bands / 10, "nan": changed(bands, np.nan, 151, 3)}
    arrays |= {"mlfeat_nan": changed(arrays["mlfeat"], np.nan, 5, 10), "quiet": bands - 60}
    contents = {name: array.tobytes() for name, array in arrays.items()}
    contents |= {"cut": contents["bands"][:-3], "empty": b""}
    contents |= {"speech.raw": SAMPLE.read_bytes()[44:32044]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    found = {name.replace(".", "_"): folder / name for name in os.listdir(folder)}
    for network in (ROOT / "networks").glob("*.keras"):
        found[network.stem] = network
    return found | {"none": folder / "none"}


def fill(words, files):
    return [word.format(**files) for word in shlex.split(words)]


# ---------------------------------------------------------------- bad input

# {bad} is a file that is refused; every argument that names an input has its turn
BAD_INPUTS = [  # script, words, bad files
    ("codec2_model", "{bad} --noplots", "cut empty none phases"),
    ("c2sim", "{bad} -o out.wav", "empty cut none"),
    ("c2sim", "--modelin {bad} -o out.wav", "phases bands"),
    ("c2sim", "{speech_raw} --rateK --rateKin {bad} -o out.wav", "nan rate_K"),
    ("eband_train", "{bad} {model}", "nan log10 cut short rate_K"),
    ("eband_train", "{bands} {bad}", "cut phases silence bands"),
    ("eband_train", "{bands} {model} --test {bad} {model}", "log10"),
    ("eband_train", "{bands} {model} --test {bands} {bad}", "silence"),
    ("ebanddec_train", "{bad} {model} --dec 2", "short nan"),
    ("ebanddec_train", "{bands} {bad} --dec 2", "phases silence"),
    ("ebanddec_train", "{bands} {model} --dec 2 --test {bad} {model}", "nan"),
    ("ebanddec_train", "{bands} {model} --dec 2 --test {bands} {bad}", "cut"),
    ("newamp1_train", "{bad} {model}", "mlfeat_nan bands"),
    ("newamp1_train", "{rate_K} {bad}", "silence"),
    ("newamp1_train", "{rate_K} {model} --test {bad} {model}", "bands"),
    ("newamp1_train", "{rate_K} {model} --test {rate_K} {bad}", "none"),
    ("eband_out", "{bad} {bands} {model} --noplots", "vq_K14_1100 bands none"),
    ("eband_out", "{bands_Wo} {bad} {model} --noplots", "rate_K cut"),
    ("eband_out", "{bands_Wo} {bands} {bad} --noplots", "phases silence"),
    ("vq_pager", "14 {bad}", "nan empty"),
    ("vq_pager", "14 {bands} --file2 {bad}", "cut"),
    ("vq_vae_ratek", "{bad} --num_embedding 16", "nan rate_K"),
    ("vq_vae_ratek", "{bands} --num_embedding 16 --test {bad}", "log10"),
    ("vq_vae_ratek_conv1d", "{bad} --num_embedding 16", "quiet cut"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 16 --test {bad}", "cut"),
    ("vq_out", "{bad} {bands} --testout out.f32 --noplots", "bands_Wo model none"),
    ("vq_out", "{vq_K14_1100} {bad} --testout out.f32 --noplots", "nan quiet none"),
    ("vq_out", "{vq_K14_1100} --indexin {bad} --testout out.f32", "bands none"),
    ("vq_ber", "{bad} {bands} --noplots", "bands bands_Wo"),
    ("vq_ber", "{vq_K14_1100} {bad} --noplots", "cut"),
    ("vq_codec", "enc 700 {bad} out.bit", "empty none"),
    ("vq_codec", "dec {bad} out.wav", "empty bands none"),
]


def run_here(script, words, files):
    """What a script does up to the point where its files are read, in this process."""
    module = importlib.import_module(script)
    args = module.parse_args(fill(words, files))
    return module.load(args) if hasattr(module, "load") else module.main(args)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("script", "words", "bad"), [(*row[:2], bad) for row in BAD_INPUTS for bad in row[2].split()]
)
def test_bad_input(script, words, bad, files, tmp_path, monkeypatch, capsys):
    """One line that begins with its name, or the error of a missing file; no output, no figure."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FormatError, OSError)) as error:
        run_here(script, words, files | {"bad": files[bad]})
    told = str(error.value)
    assert str(files[bad]) in told
    assert "\n" not in told
    assert "nan" not in capsys.readouterr().out.lower()
    assert not list(tmp_path.iterdir())


ONE_EACH = {script: (script, words, bad) for script, words, bad in reversed(BAD_INPUTS)}


@pytest.mark.parametrize("script", ONE_EACH)
def test_bad_input_on_the_command_line(script, files, tmp_path, no_keras):
    """Exit status and stderr, before Keras is loaded."""
    _, words, bad = ONE_EACH[script]
    bad = files[bad.split()[0]]
    result = run_in(tmp_path, f"{script}.py", *fill(words, files | {"bad": bad}), env=no_keras)
    assert_refused(result, bad)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad output

# every argument that names an output has its turn; {out} is in a folder that does not exist
BAD_OUTPUTS = [
    ("c2sim", "{speech_raw} --bands {out}"),
    ("c2sim", "{speech_raw} --rateK --rateKout {out}"),
    ("c2sim", "{speech_raw} --modelout {out}"),
    ("c2sim", "{speech_raw} -o none/x.wav"),
    ("eband_train", "{bands} {model} --noplots --nnout none/x.keras"),
    ("ebanddec_train", "{bands} {model} --dec 2 --noplots --nnout none/x.keras"),
    ("newamp1_train", "{rate_K} {model} --noplots --nnout none/x.keras"),
    ("eband_out", "{bands_Wo} {bands} {model} --noplots --modelout {out}"),
    ("vq_vae_ratek", "{bands} --num_embedding 16 --noplots --nnout none/x.keras"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 16 --noplots --nnout none/x.keras"),
    ("vq_out", "{vq_K14_1100} {bands} --noplots --testout {out}"),
    ("vq_out", "{vq_K14_1100} {bands} --noplots --indexout none/x.npy"),
    ("vq_out", "{vq_K14_1100} {bands} --noplots --vqout {out}"),
    ("vq_ber", "{vq_K14_1100} {bands} --noplots --nnout none/x.keras"),
    ("vq_codec", "enc 700 {speech_raw} {out}"),
    ("codec2_model", "{model} --plot_dir {file}"),
    ("eband_train", "{bands} {model} --plot_dir {file}"),
    ("ebanddec_train", "{bands} {model} --dec 2 --plot_dir {file}"),
    ("newamp1_train", "{rate_K} {model} --plot_dir {file}"),
    ("eband_out", "{bands_Wo} {bands} {model} --plot_dir {file}"),
    ("vq_pager", "14 {bands} --plot_dir {file}"),
    ("vq_vae_demo", "--plot_dir {file}"),
    ("vq_vae_demo_2stage", "--plot_dir {file}"),
    ("vq_vae_ratek", "{bands} --num_embedding 16 --plot_dir {file}"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 16 --plot_dir {file}"),
    ("vq_out", "{vq_K14_1100} {bands} --plot_dir {file}"),
    ("vq_ber", "{vq_K14_1100} {bands} --plot_dir {file}"),
]


@pytest.mark.parametrize(("script", "words"), BAD_OUTPUTS)
def test_bad_output(script, words, files, tmp_path, monkeypatch):
    """Told before the work is done, not after it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    with pytest.raises(OSError) as error:  # noqa: PT011
        run_here(script, words, files | {"out": "none/x.f32", "file": "a_file"})
    assert str(error.value.filename).startswith("a_file" if "{file}" in words else "none/x")
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("eband_out", "{bands_Wo} {bands} {model} --noplots --modelout {model}"),
        ("vq_out", "{vq_K14_1100} {bands} --noplots --testout {bands}"),
        ("vq_out", "{vq_K14_1100} {bands} --noplots --testout x --indexout x"),
        ("vq_codec", "enc 700 {speech_raw} {speech_raw}"),
    ],
)
def test_an_output_that_is_an_input_or_another(script, words, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=r"is an input|is named twice"):
        run_here(script, words, files)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad options

COMMON = "nb_samples=0 nb_samples=-1 nb_samples=1e3"
TRAINING = f"{COMMON} epochs=0 epochs=1.5 epochs= seed=-1 seed=x seed=4294967296 nnout=out nnout="
BANDS = "eband_K=0 eband_K=13 eband_K=x eband_start=-1 eband_start=14 gain=0 gain=nan gain=inf"
FS = "Fs=0 Fs=-8000 Fs=nan frame=-1 frame=x"
QUANTISER = "eband_K=0 eband_K=13 num_embedding=0 num_embedding=1 embedding_dim=0 dec=0"
USAGE = {  # script: good words, options that are usage errors
    "codec2_model": ("{model}", f"{COMMON} frame=-1 frame=x Fs=0 frame_ms=0"),
    "c2sim": ("{speech_raw} -o out.wav", "bands_lower=x rateKin={rate_K} rateKout=out.f32"),
    "eband_train": ("{bands} {model}", f"{TRAINING} {BANDS} {FS} test={{bands}} dec=2"),
    "ebanddec_train": ("{bands} {model} --dec 2", f"{TRAINING} {BANDS} {FS} dec=0 dec=2.5"),
    "newamp1_train": ("{rate_K} {model}", f"{TRAINING} {FS} frames=-1 frames= eband_K=20"),
    "eband_out": ("{bands_Wo} {bands} {model}", f"{COMMON} dec=0 dec=-1 dec=x frame=-1"),
    "vq_pager": ("14 {bands}", "start=-1 start=x file2="),
    "vq_vae_demo": ("", f"{TRAINING} test=qam num_embedding=1 embedding_dim=0 start=x"),
    "vq_vae_demo_2stage": ("", f"{TRAINING} test=qam num_embedding=0 mbest=0 decay=1 decay=nan"),
    "vq_vae_ratek": ("{bands}", f"{TRAINING} {QUANTISER} num_embedding=65537"),
    "vq_vae_ratek_conv1d": (
        "{bands}",
        f"{TRAINING} {QUANTISER} vq_stages=0 blocks=5 lower=x lower=nan cutoffs=nan cutoffs=2",
    ),
    "vq_out": (
        "{vq_K14_1100} {bands}",
        f"{COMMON} mbest=0 lookahead=-1 lookahead=x stages=0 frame=-1 indexin={{bands}} gain=0",
    ),
    "vq_ber": ("{vq_K14_1100} {bands}", "seed=-1 nb_samples=0 ber=-1 ber=0 ber=51 ber=nan nnout=x"),
    "vq_codec": ("enc 700 {speech_raw} out.bit", "nonsense=1"),
}


@pytest.mark.parametrize("script", USAGE)
def test_usage_errors(script, files, capsys):
    module, (words, options) = importlib.import_module(script), USAGE[script]
    module.parse_args(fill(words, files))
    for option in options.split():
        name, _, value = option.partition("=")
        with pytest.raises(SystemExit) as error:
            module.parse_args([*fill(words, files), f"--{name}", *fill(value, files)])
        assert error.value.code == 2, option
        assert ": error: " in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------- odd files that are no error

EBAND = "{bands} {changed} --epochs 1 --noplots"


@pytest.mark.parametrize(
    ("changed", "script", "words"),
    [
        ("no_pitch", "codec2_model", "{changed} --noplots"),
        ("silence", "codec2_model", "{changed} --noplots"),
        ("no_pitch", "c2sim", "--modelin {changed} --phase0 --postfilter -o out.wav"),
        ("no_pitch", "eband_train", f"{EBAND} --Wo"),
        ("silent_end", "ebanddec_train", f"{EBAND} --dec 1 --test {{bands}} {{model}}"),
        ("silent_vectors", "eband_train", "{changed} {model} --epochs 1 --noplots"),
        ("silent_vectors", "eband_out", "{bands_Wo} {changed} {model} --noplots"),
        ("silent_vectors", "vq_out", "{vq_K14_1100} {changed} --mbest 1 --noplots"),
        ("no_pitch", "newamp1_train", "{rate_K} {changed} --epochs 1 --noplots"),
        ("highest_pitch", "newamp1_train", "{rate_K} {changed} --epochs 1 --noplots"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.usefixtures("one_correction")
def test_figures_are_numbers(changed, script, words, files, tmp_path, monkeypatch, capsys):
    """Or a script says why there are none, which is as good."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(script)
    args = module.parse_args(fill(words, files | {"changed": files[changed]}))
    refused = ""
    try:
        module.main(args, module.load(args)) if hasattr(module, "load") else module.main(args)
    except FormatError as error:
        refused = str(error)
    assert str(files[changed]) in refused or not refused
    printed = set(capsys.readouterr().out.replace("/", " ").split())
    assert not {"nan", "inf", "-inf"} & printed


# ---------------------------------------------------------------- random bytes

FUZZ = settings(derandomize=True, deadline=None, max_examples=200, database=None)
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


def changed_bytes(data, changes, cut):
    """Some bytes at places 0…1 replaced, `cut` bytes left out at the end."""
    data = bytearray(data)
    for place, value in changes:
        data[int(place * len(data))] = value
    return bytes(data[: len(data) - cut])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A name for one file after the other."""
    return tmp_path_factory.mktemp("scratch") / "x"


def result_unless_refused(function, filename, *arguments):
    """None when the file is refused as documented."""
    try:
        return function(filename, *arguments)
    except FormatError as error:
        message = str(error)
    assert message.startswith(f"{filename}: ")
    assert "\n" not in message
    return None


@FUZZ
@given(
    count=st.integers(0, 4),
    changes=CHANGES,
    cut=st.sampled_from([0] * 8 + [1, 1299, 1300]),
    noise=st.binary(),
)
def test_any_model_file_is_read_or_refused(scratch, count, changes, cut, noise):
    data = good_arrays()["model"][:count].tobytes() or noise
    data = changed_bytes(data, changes, min(cut, len(data))) if data else data
    scratch.write_bytes(data)
    fields = result_unless_refused(codec2_model.read, scratch)
    if fields is None:
        return
    Wo, L, A, phi, voiced = fields
    assert len(Wo) == len(data) / 1300 > 0
    assert ((Wo >= 0) & (Wo <= np.pi) & (L >= 0) & (L <= spectra.MAX_AMP)).all()
    assert np.isfinite(A[spectra.harmonic_mask(L)]).all()
    target = spectra.to_bins(Wo, L, A, 128, 3600)
    assert not np.isinf(target).any()
    codec2_model.write(Wo, L, A, phi, voiced, scratch)
    assert scratch.read_bytes() == data


@FUZZ
@given(
    data=st.binary(max_size=400),
    K=st.integers(1, 30),
    gain=st.sampled_from([10.0, 1.0]),
    speech=st.booleans(),
)
def test_any_rate_K_file_is_read_or_refused(scratch, data, K, gain, speech):
    if speech:  # values in the range, so that some are taken
        data = (np.frombuffer(data, np.uint8).astype("<f4") * gain / 40).tobytes()
    scratch.write_bytes(data)
    vectors = result_unless_refused(codec2_model.read_rate_K, scratch, K, gain)
    if vectors is None:
        return
    assert vectors.shape == (len(data) // (4 * K), K)
    assert (np.abs(vectors) <= 200).all()
    codec2_model.write_rate_K(codec2_model.read_floats(scratch, K), scratch)
    assert scratch.read_bytes() == data


def wav_bytes(samples, channels=1, rate=8000, bits=16, tag=1):
    size = len(samples)
    align = channels * bits // 8
    header = [16, tag + (channels << 16), rate, rate * align % 2**32, align + (bits << 16)]
    chunk = b"WAVEfmt " + np.array(header, "<u4").tobytes() + b"data"
    chunk += np.array(size, "<u4").tobytes()
    return b"RIFF" + np.array(len(chunk) + size, "<u4").tobytes() + chunk + samples


HEADERS = [{}, {"channels": 2}, {"bits": 8}, {"bits": 24}, {"bits": 32}, {"bits": 32, "tag": 3}]


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 47), st.integers(0, 255)), max_size=4),
    cut=st.sampled_from([0] * 6 + [1, 2, 150, 190]),
    header=st.sampled_from(HEADERS),
    noise=st.binary(max_size=64),
    is_wav=st.booleans(),
)
def test_any_speech_file_is_read_or_refused(scratch, changes, cut, header, noise, is_wav):
    data = bytearray(wav_bytes(bytes(range(150)), **header))
    for place, value in changes:
        data[place] = value
    scratch.write_bytes(data[: len(data) - cut] if is_wav else noise)
    speech = result_unless_refused(sound.read_speech, str(scratch))
    if speech is None:
        return
    assert speech.dtype == np.int16
    assert speech.ndim == 1
    assert len(speech) > 0
