"""Bad input to every script: one refusal per argument on the command line, the other kinds in this process.

What the readers refuse is in test_codec2_model.py and test_plumbing.py, bad speech in test_c2sim.py.
"""

import functools
import importlib
import json
import os
import shlex
import zipfile

import c2sim
import codec2_model
import plumbing
from codec2_model import MAX_AMP, RECORD, FormatError

import numpy as np
import pytest
from conftest import ROOT, SCRIPTS, assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("eager")

FRAMES = 300
SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"

# ---------------------------------------------------------------- files


def good_arrays():
    """Bands [n][14], rate K vectors [n][20], mlfeat records [n][201] and model records [n]: of no real speech."""
    rng = np.random.default_rng(2)
    records = np.zeros(FRAMES, RECORD)
    records["L"] = rng.integers(10, 81, FRAMES)
    records["Wo"] = np.pi / (records["L"] + 0.5)
    records["A"] = rng.uniform(10, 1000, (FRAMES, MAX_AMP + 1))
    bands, rate_K = (rng.normal(30, 8, (FRAMES, k)).astype("<f4") for k in (14, 20))
    mean_free = rate_K - rate_K.mean(axis=1, keepdims=True)
    mlfeat = np.concatenate([rate_K.mean(axis=1, keepdims=True), mean_free, mean_free, records["A"][:, :160]], axis=1)
    return {"bands": bands, "rate_K": rate_K, "mlfeat": mlfeat.astype("<f4"), "model": records}


def changed(array, value, *place):
    """A copy in which one value is another."""
    array = array.copy()
    array[place] = value
    return array


OPTIONS = {"script": "x", "input": "bands", "width": 128, "eband_K": 14, "eband_start": 0, "dec": 1, "gain": 10.0}
OPTIONS |= {"Fs": 8000.0}
QUANTISER = {"eband_K": 14, "dec": 2, "num_embedding": 16, "embedding_dim": 16, "vq_stages": 2}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{name: file}: good ones, and some that are bad; the names have a space and other letters.

    The networks are archives with good options and no network, which is enough until Keras is loaded.
    """
    folder = tmp_path_factory.mktemp("gute und böse")
    arrays = good_arrays()
    bands, model = arrays["bands"], arrays["model"]
    silence, phases, no_pitch = model.copy(), model.copy(), model.copy()
    silence["A"] = 0
    phases["phi"][7, 5] = np.nan
    for name in ("Wo", "L", "A"):  # as other tools write silence
        no_pitch[name][FRAMES // 2] = 0
    silent_end, silent_beginning = model.copy(), model.copy()
    silent_end["A"][-FRAMES // 10 :] = 0
    silent_last = changed(model, model[0], slice(-5, None))
    silent_last["A"][-5:] = 0
    silent_beginning["A"][: -FRAMES // 10] = 0
    arrays |= {"silence": silence, "phases": phases, "no_pitch": no_pitch}
    arrays |= {"silent_end": silent_end, "silent_beginning": silent_beginning}
    arrays |= {"highest_pitch": changed(model, np.array((np.pi, 1, 100, 0, 1), RECORD), slice(None))}
    arrays |= {"silent_last": silent_last, "narrow_bands": np.repeat(bands, 12, axis=1)[:, :160]}
    arrays |= {"short": bands[1:], "log10": bands / 10, "nan": changed(bands, np.nan, 151, 3), "loud": bands + 100}
    arrays |= {"mlfeat_nan": changed(arrays["mlfeat"], np.nan, 5, 50), "low": bands - 60}
    contents = {name: array.tobytes() for name, array in arrays.items()}
    contents |= {"cut": contents["bands"][:-3], "speech.raw": SAMPLE.read_bytes()[44:32044], "empty": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    networks = {"network": OPTIONS, "pairs": OPTIONS | {"input": "band pairs", "dec": 3}, "gain": OPTIONS | {"gain": 0}}
    for script in ("vq_vae_ratek", "vq_vae_ratek_conv1d"):
        networks[script] = QUANTISER | {"script": script, "vq_stages": 1 + script.endswith("conv1d")}
    for name, options in networks.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("options.json", json.dumps(options))
    for stages in (1, 2):
        codec2_model.write_indices(np.zeros((5, stages)), 10, folder / f"indices_{stages}")
    return {name.replace(".", "_"): folder / name for name in os.listdir(folder)} | {"none": folder / "none"}


def fill(words, files):
    return [word.format(**files) for word in shlex.split(words)]


# ---------------------------------------------------------------- the command line, before Keras is loaded


@pytest.fixture
def run_without_keras(run, tmp_path_factory, monkeypatch):
    """run() with a Keras that ends whoever imports it."""
    folder = tmp_path_factory.mktemp("no_keras")
    (folder / "keras.py").write_text("raise SystemExit('too late: Keras takes seconds to import')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return functools.partial(run, timeout=60)


# {bad} is a file that is refused; every argument that names an input has its turn
QUIET = "--noplots --epochs 1 --nnout out.keras"
BAD_INPUTS = [
    ("codec2_model.py", "{bad} --noplots", "cut"),
    ("c2sim.py", "{bad} -o out.wav", "empty"),
    ("c2sim.py", "--modelin {bad} -o out.wav", "phases"),
    ("c2sim.py", "{speech_raw} --rateK --rateKin {bad} -o out.wav", "nan"),
    ("eband_train.py", f"{{bad}} {{model}} {QUIET}", "nan"),
    ("eband_train.py", f"{{bands}} {{bad}} {QUIET}", "cut"),
    ("eband_train.py", f"{{bands}} {{model}} --test {{bad}} {{model}} {QUIET}", "log10"),
    ("eband_train.py", f"{{bands}} {{model}} --test {{bands}} {{bad}} {QUIET}", "silence"),
    ("ebanddec_train.py", f"{{bad}} {{model}} --dec 2 {QUIET}", "short"),
    ("ebanddec_train.py", f"{{bands}} {{bad}} --dec 2 {QUIET}", "phases"),
    ("ebanddec_train.py", f"{{bands}} {{model}} --dec 2 --test {{bad}} {{model}} {QUIET}", "nan"),
    ("ebanddec_train.py", f"{{bands}} {{model}} --dec 2 --test {{bands}} {{bad}} {QUIET}", "cut"),
    ("newamp1_train.py", f"{{bad}} {{model}} {QUIET}", "mlfeat_nan"),
    ("newamp1_train.py", f"{{rate_K}} {{bad}} {QUIET}", "silence"),
    ("newamp1_train.py", f"{{rate_K}} {{model}} --test {{bad}} {{model}} {QUIET}", "bands"),
    ("newamp1_train.py", f"{{rate_K}} {{model}} --test {{rate_K}} {{bad}} {QUIET}", "none"),
    ("eband_out.py", "{bad} {bands} {model} --noplots --modelout out.model", "vq_vae_ratek"),
    ("eband_out.py", "{network} {bad} {model} --noplots --modelout out.model", "rate_K"),
    ("eband_out.py", "{network} {bands} {bad} --noplots --modelout out.model", "phases"),
    ("vq_pager.py", "14 {bad}", "nan"),
    ("vq_pager.py", "14 {bands} --file2 {bad}", "cut"),
    ("vq_vae_ratek.py", f"{{bad}} --num_embedding 16 --vqout out {QUIET}", "nan"),
    ("vq_vae_ratek.py", f"{{bands}} --test {{bad}} --num_embedding 16 {QUIET}", "log10"),
    ("vq_vae_ratek.py", "{bands} --nnin {bad} --testout out.f32 --noplots", "network"),
    ("vq_vae_ratek.py", "--nnin {vq_vae_ratek} --indexin {bad} --testout out.f32", "indices_2"),
    ("vq_vae_ratek_conv1d.py", f"{{bad}} --num_embedding 16 --vqout out {QUIET}", "low"),
    ("vq_vae_ratek_conv1d.py", f"{{bands}} --test {{bad}} --num_embedding 16 {QUIET}", "loud"),
    ("vq_vae_ratek_conv1d.py", "{bands} --nnin {bad} --testout out.f32 --noplots", "vq_vae_ratek"),
    ("vq_vae_ratek_conv1d.py", "--nnin {vq_vae_ratek_conv1d} --indexin {bad} --testout out.f32", "indices_1"),
    ("vq_ber.py", "{bad} {bands} --noplots --nnout out.keras", "bands"),
    ("vq_ber.py", "{vq_vae_ratek_conv1d} {bad} --noplots --nnout out.keras", "cut"),
]


@pytest.mark.parametrize(("script", "words", "bad"), BAD_INPUTS)
def test_bad_input(script, words, bad, files, run_without_keras, tmp_path):
    result = run_without_keras(script, *fill(words, files | {"bad": files[bad]}))
    assert_refused(result, f"{files[bad]}: ")
    assert "nan" not in result.stdout.lower()
    assert not list(tmp_path.iterdir())


# every argument that names an output has its turn; {out} is in a folder that does not exist
BAD_OUTPUTS = [
    *(
        ("c2sim.py", f"{{speech_raw}} {option} {{out}}")
        for option in ("--bands", "--rateK --rateKout", "--modelout", "-o")
    ),
    *(
        ("eband_train.py", f"{{bands}} {{model}} {option}")
        for option in ("--noplots --nnout {out}", "--plot_dir {file}")
    ),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --noplots --nnout {out}"),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --plot_dir {file}"),
    ("newamp1_train.py", "{rate_K} {model} --noplots --nnout {out}"),
    ("newamp1_train.py", "{rate_K} {model} --plot_dir {file}"),
    ("eband_out.py", "{network} {bands} {model} --noplots --modelout {out}"),
    ("eband_out.py", "{network} {bands} {model} --plot_dir {file}"),
    ("vq_vae_ratek.py", "{bands} --num_embedding 16 --noplots --nnout {out}"),
    ("vq_vae_ratek.py", "{bands} --num_embedding 16 --plot_dir {file}"),
    *(
        ("vq_vae_ratek.py", f"{{bands}} --num_embedding 16 --noplots {name} {{out}}")
        for name in ("--vqout", "--testout")
    ),
    ("vq_vae_ratek.py", "{bands} --num_embedding 16 --noplots --indexout {out}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --noplots --nnout {out}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --plot_dir {file}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --noplots --vqout {out}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --noplots --testout {out}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --noplots --indexout {out}"),
    ("vq_ber.py", "{vq_vae_ratek_conv1d} {bands} --noplots --nnout {out}"),
    ("codec2_model.py", "{model} --plot_dir {file}"),
    ("vq_pager.py", "14 {bands} --plot_dir {file}"),
    ("vq_vae_demo.py", "--plot_dir {file}"),
    ("vq_vae_demo_2stage.py", "--plot_dir {file}"),
    ("vq_ber.py", "{vq_vae_ratek_conv1d} {bands} --plot_dir {file}"),
]


@pytest.mark.parametrize(("script", "words"), BAD_OUTPUTS)
def test_bad_output(script, words, files, run_without_keras, tmp_path):
    """Told before the work is done, not after it."""
    (tmp_path / "a_file").touch()
    result = run_without_keras(script, *fill(words, files | {"out": "none/x.keras", "file": "a_file"}))
    assert_refused(result, "a_file: " if "{file}" in words else "none/x.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_usage(script, run_without_keras):
    result = run_without_keras(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {script}")
    assert result.stderr == ""
    assert_refused(run_without_keras(script, "--unknown"), status=2)


# ---------------------------------------------------------------- bad options, in this process

EPOCHS = "epochs=0 epochs=-1 epochs=1.5 epochs=many epochs= nb_samples=0 nb_samples=-1 nb_samples=1e3"
SEED = "seed=-1 seed=x seed=4294967296"
BANDS = "eband_K=0 eband_K=-14 eband_K=x eband_start=-1 eband_start=13 gain=0 gain=-10 gain=nan gain=inf gain=x"
BANDS += " eband_K=1 eband_K=161 eband_K=99999999999 gain=1e-45"
FS = "Fs=0 Fs=-8000 Fs=nan Fs=inf Fs=1e308 Fs=1e-308 frame=-1 frame=x nnout=out"
QUANTISER_OPTIONS = "eband_K=0 num_embedding=0 num_embedding=1 embedding_dim=0 dec=0 nnout=out indexin={bands}"
USAGE = {
    "codec2_model": ("{model}", "nb_samples=0 nb_samples=x nb_samples=1e3 frame=-1 frame=x"),
    "c2sim": ("{speech_raw} -o out.wav", "bands_lower=x rateKin={rate_K} rateKout=out.f32"),
    "eband_train": ("{bands} {model}", f"{EPOCHS} {SEED} {BANDS} {FS} test={{bands}} dec=2"),
    "ebanddec_train": ("{bands} {model} --dec 2", f"{EPOCHS} {SEED} {BANDS} {FS} dec=0 dec=-1 dec=2.5 Wo=1"),
    "newamp1_train": (
        "{rate_K} {model}",
        f"{EPOCHS} {SEED} {FS} frames=-1 frames= eband_K=20",
    ),
    "eband_out": ("{network} {bands} {model}", "nb_samples=0 dec=0 dec=-1 dec=x frame=-1"),
    "vq_pager": ("14 {bands}", "start=-1 start=x file2="),
    "vq_vae_demo": ("", f"{EPOCHS} {SEED} test=qam num_embedding=1 embedding_dim=0 start=x"),
    "vq_vae_demo_2stage": (
        "",
        f"{EPOCHS} {SEED} test=qam num_embedding=0 mbest=0 nb_samples=31 decay=1 decay=-0.1 decay=nan",
    ),
    "vq_vae_ratek": ("{bands}", f"{EPOCHS} {SEED} {QUANTISER_OPTIONS} num_embedding=65537"),
    "vq_vae_ratek_conv1d": (
        "{bands}",
        f"{EPOCHS} {SEED} {QUANTISER_OPTIONS} vq_stages=0 mbest=0 sweeps=-1 blocks=5 lower=x eband_K=1 eband_K=161",
    ),
    "vq_ber": ("{vq_vae_ratek_conv1d} {bands}", f"{SEED} nb_samples=0 ber=-1 ber=0 ber=51 ber=nan ber= nnout=x"),
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


# ---------------------------------------------------------------- refused when the files are read

OTHERS = [  # script, words, word of the message
    ("codec2_model", f"{{model}} --noplots --frame {FRAMES}", f"--frame {FRAMES}"),
    ("codec2_model", "{bands} --noplots", "{bands}"),
    ("c2sim", "{speech_raw} --rateK --rateKin {bands} -o out.wav", "{bands}"),
    ("c2sim", "--modelin {bands} -o out.wav", "{bands}"),
    ("c2sim", "{speech_raw} --bands out.f32 --bands_lower 300 --modelout out.model", "300 dB"),
    ("c2sim", "{speech_raw} --bands out.f32 --bands_lower nan", "nan dB"),
    ("c2sim", "{speech_raw} --bands out --modelout out", "named twice"),
    ("c2sim", "{speech_raw} -o x --rateK --rateKout ./x", "named twice"),
    ("c2sim", "--modelin {model} --modelout {model}", "is an input"),
    ("eband_train", "{model} {bands}", "{model}"),
    ("eband_train", "{bands} {model} --nb_samples 99", "at least 100"),
    ("eband_train", f"{{bands}} {{model}} --frame {FRAMES}", f"--frame {FRAMES}"),
    ("eband_train", "{bands} {model} --gain 1", "{bands}"),
    ("eband_train", "{bands} {model} --eband_K 13", "{bands}"),
    ("eband_train", "{bands} {model} --eband_K 7", "{bands}"),
    ("eband_train", "{log10} {model}", "{log10}"),
    ("eband_train", "{bands} {silence}", "{silence}"),
    ("eband_train", "{bands} {silent_end}", "{silent_end}"),
    ("eband_train", "{bands} {silent_beginning}", "{silent_beginning}"),
    ("eband_train", "{bands} {model} --test {rate_K} {model}", "{rate_K}"),
    ("ebanddec_train", "{model} {bands} --dec 2", "{model}"),
    ("ebanddec_train", "{bands} {model} --dec 4", "at least 400"),
    ("ebanddec_train", "{bands} {model} --dec 4294967295", "at least"),
    ("ebanddec_train", "{bands} {model} --dec 2 --gain 1", "{bands}"),
    ("ebanddec_train", "{bands} {model} --dec 2 --frame 299", "--frame 299, the last one with a figure is 297"),
    ("eband_train", "{bands} {silent_last} --frame 299", "--frame 299, the last one with a figure is 294"),
    ("ebanddec_train", "{bands} {silence} --dec 2", "{silence}"),
    ("newamp1_train", "{model} {rate_K}", "{rate_K}"),
    ("newamp1_train", "{bands} {model}", "{bands}"),
    ("newamp1_train", "{rate_K} {model} --nb_samples 99", "at least 100"),
    ("newamp1_train", f"{{rate_K}} {{model}} --frames 3 {FRAMES}", f"no --frames {FRAMES}"),
    ("newamp1_train", "{rate_K} {model} --lower nan", "0 frames with amplitudes"),
    ("newamp1_train", "{rate_K} {model} --lower 1e308", "0 frames with amplitudes"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 16 --lower 1e308", "above 1e+308 dB"),
    ("newamp1_train", "{rate_K} {model} --frames 3 299", "no --frames 3 "),
    ("eband_out", "{bands} {bands} {model}", "{bands}"),
    ("eband_out", "{gain} {bands} {model}", "{gain}"),
    ("eband_out", "{pairs} {bands} {model} --dec 2", "{pairs}"),
    ("eband_out", "{network} {model} {bands}", "{bands}"),
    ("eband_out", "{network} {bands} {silence}", "{silence}"),
    ("eband_out", f"{{network}} {{bands}} {{model}} --frame {FRAMES}", f"--frame {FRAMES}"),
    ("eband_out", "{network} {bands} {model} --nb_samples 5 --frame 5", "--frame 5"),
    ("eband_out", "{network} {bands} {silent_last} --frame 295", "--frame 295, the last one with a figure is 294"),
    ("eband_out", "{network} {bands} {model} --modelout {model}", "is an input"),
    ("vq_vae_ratek", "{bands} --num_embedding 16 --eband_K 13", "{bands}"),
    ("vq_vae_ratek", "{bands} --num_embedding 300", "{bands}"),
    ("vq_vae_ratek", "{bands} --nnin {bands}", "{bands}"),
    ("vq_vae_ratek", "{rate_K} --nnin {vq_vae_ratek} --eband_K 20", "eband_K 14"),
    ("vq_vae_ratek", "{bands} --nnin {vq_vae_ratek} --testout x --indexout x", "named twice"),
    ("vq_vae_ratek", "{bands} --nnin {vq_vae_ratek} --testout {bands}", "is an input"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 16 --eband_K 13", "{bands}"),
    ("vq_vae_ratek_conv1d", "{bands} --num_embedding 300", "{bands}"),
    ("vq_vae_ratek_conv1d", "{bands} --nnin {bands}", "{bands}"),
    ("vq_vae_ratek_conv1d", "{rate_K} --nnin {vq_vae_ratek_conv1d} --eband_K 20", "eband_K 14"),
    ("vq_vae_ratek_conv1d", "{bands} --nnin {vq_vae_ratek_conv1d} --testout x --indexout x", "named twice"),
    ("vq_ber", "{vq_vae_ratek_conv1d} {rate_K}", "{rate_K}"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("script", "words", "word"), OTHERS)
def test_refused_when_loaded(script, words, word, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(script)
    args = module.parse_args(fill(words, files))
    with pytest.raises(FormatError) as error:
        module.load(args) if hasattr(module, "load") else module.main(args)
    assert word.format(**files) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


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
        ("narrow_bands", "ebanddec_train", "{changed} {model} --dec 1 --eband_K 160 --epochs 1 --noplots"),
        ("narrow_bands", "eband_train", "{changed} {model} --eband_K 160 --epochs 1 --noplots"),
        ("no_pitch", "newamp1_train", "{rate_K} {changed} --epochs 1 --noplots"),
        ("highest_pitch", "newamp1_train", "{rate_K} {changed} --epochs 1 --noplots --Fs 7000"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.usefixtures("one_correction")
def test_figures_are_numbers(changed, script, words, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(script)
    args = module.parse_args(fill(words, files | {"changed": files[changed]}))
    try:
        module.main(args, module.load(args)) if hasattr(module, "load") else module.main(args)
    except FormatError as error:  # or the script says why there are none, which is as good
        assert str(files[changed]) in str(error)  # noqa: PT017
    assert not {"nan", "inf"} & set(capsys.readouterr().out.replace("/", " ").split())


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
@given(count=st.integers(0, 4), changes=CHANGES, cut=st.sampled_from([0] * 8 + [1, 1299, 1300]), noise=st.binary())
def test_any_model_file_is_read_or_refused(scratch, count, changes, cut, noise):
    data = good_arrays()["model"][:count].tobytes() or noise
    data = changed_bytes(data, changes, min(cut, len(data))) if data else data
    scratch.write_bytes(data)
    fields = result_unless_refused(codec2_model.read, scratch)
    if fields is None:
        return
    Wo, L, A, phi, voiced = fields
    assert len(Wo) == len(data) / 1300 > 0
    assert ((Wo >= 0) & (Wo <= np.pi) & (L >= 0) & (L <= MAX_AMP)).all()
    assert np.isfinite(A[codec2_model.harmonic_mask(L)]).all()
    target = codec2_model.to_bins(Wo, L, A, 128, 3600)
    assert not np.isinf(target).any()
    codec2_model.write(Wo, L, A, phi, voiced, scratch)
    assert scratch.read_bytes() == data


@FUZZ
@given(data=st.binary(max_size=400), K=st.integers(1, 30), gain=st.sampled_from([10.0, 1.0]), speech=st.booleans())
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
    chunk = b"WAVEfmt " + np.array(header, "<u4").tobytes() + b"data" + np.array(size, "<u4").tobytes()
    return b"RIFF" + np.array(len(chunk) + size, "<u4").tobytes() + chunk + samples


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 47), st.integers(0, 255)), max_size=4),
    cut=st.sampled_from([0] * 6 + [1, 2, 150, 190]),
    header=st.sampled_from([{}, {"channels": 2}, {"bits": 8}, {"bits": 24}, {"bits": 32}, {"bits": 32, "tag": 3}]),
    noise=st.binary(max_size=64),
    is_wav=st.booleans(),
)
def test_any_speech_file_is_read_or_refused(scratch, changes, cut, header, noise, is_wav):
    data = wav_bytes(bytes(range(150)), **header)
    for place, value in changes:
        data = data[:place] + bytes([value]) + data[place + 1 :]
    data = data[: len(data) - cut] if is_wav else noise
    scratch.write_bytes(data)
    speech = result_unless_refused(c2sim.read_speech, str(scratch))
    if speech is None:
        return
    assert speech.dtype == np.int16
    assert speech.ndim == 1
    assert len(speech) > 0


# ---------------------------------------------------------------- networks of others


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folder of networks that Keras has written, with options as if they came from eband_train."""
    import keras

    folder = tmp_path_factory.mktemp("networks")

    class Strange(keras.layers.Layer):
        def call(self, x):
            return x

    def attack(x):
        (folder / "it_ran").touch()
        return x

    def interpolation(width=128):
        return keras.layers.Dense(width, name="interpolation")

    layers = {
        "lambda": (14, keras.layers.Lambda(attack, name="interpolation"), keras.layers.Dense(128)),
        "python_lambda": (14, keras.layers.Lambda(lambda x: attack(x), name="interpolation"), keras.layers.Dense(128)),
        "unknown_class": (14, Strange(name="interpolation"), keras.layers.Dense(128)),
        "no_interpolation": (14, keras.layers.Dense(128)),
        "other_input": (10, interpolation()),
        "other_output": (14, interpolation(100)),
        "good": (14, interpolation()),
    }
    for name, (width, *stack) in layers.items():
        x = inputs = keras.Input((width,))
        for layer in stack:
            x = layer(x)
        plumbing.save_network(keras.Model(inputs, x), OPTIONS, folder / f"{name}.keras")
    (folder / "it_ran").unlink()
    return folder


BAD_NETWORKS = {
    "lambda": "attack",
    "python_lambda": "Lambda",
    "unknown_class": "Strange",
    "no_interpolation": "interpolation",
    "other_input": "14",
    "other_output": "128",
}


def run_eband_out(network, files):
    import eband_out

    command = [network, files["bands"], files["model"], "--noplots", "--modelout", "out.model"]
    args = eband_out.parse_args(list(map(str, command)))
    eband_out.main(args, eband_out.load(args))
    return True


@pytest.mark.filterwarnings("ignore")  # Keras warns of other shapes
@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_network_that_cannot_be_run_is_refused(name, networks, files, tmp_path, monkeypatch):
    """Nothing of it is executed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError) as error:
        run_eband_out(networks / f"{name}.keras", files)
    assert str(error.value).startswith(f"{networks / name}.keras: ")
    assert BAD_NETWORKS[name] in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert not (networks / "it_ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_network_with_changed_bytes_runs_or_is_refused(networks, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_eband_out(networks / "good.keras", files)
    assert (tmp_path / "out.model").stat().st_size == FRAMES * RECORD.itemsize
    good = (networks / "good.keras").read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for i in range(30):
        place = rng.integers(len(good)) if i % 2 else -rng.integers(1, 800)  # half of them in the table of contents
        data = bytearray(changed_bytes(good, [], 0 if i % 3 else rng.integers(1, len(good))))
        data[place % len(data)] ^= 1 << rng.integers(8)
        (networks / "changed.keras").write_bytes(data)
        refused += not result_unless_refused(run_eband_out, networks / "changed.keras", files)
    assert 10 < refused < 30
    assert "nan" not in capsys.readouterr().out
