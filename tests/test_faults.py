"""Bad input to every script: a matrix of bad files for all arguments, bad outputs, bad options, and random bytes."""

import contextlib
import json
import os
import shlex
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_in
from hypothesis import given, settings
from hypothesis import strategies as st

import c2sim
import codec2_model
from codec2_model import MAX_AMP, RECORD, FormatError

FRAMES = 300
SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
LOOP = "loop"  # a link to itself: cannot be opened, not even by root

# ---------------------------------------------------------------- commands

# {slot} stands for a good file; bad ones take the place of those that are named last
COMMANDS = [
    ("codec2_model.py", "{model} --noplots", "model"),
    ("c2sim.py", "{speech} --bands out.f32 --modelout out.model -o out.wav", "speech"),
    ("c2sim.py", "--modelin {model} --phase0 --postfilter -o out.wav --modelout out.model", "model"),
    ("c2sim.py", "{speech} --rateK --rateKin {rate_K} -o out.wav", "rate_K"),
    (
        "eband_train.py",
        "{bands} {model} --test {test_bands} {test_model} --noplots --nnout out.keras",
        "bands model test_bands test_model",
    ),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --noplots --nnout out.keras", "bands model"),
    ("newamp1_train.py", "{rate_K} {model} --noplots --nnout out.keras", "rate_K model"),
    ("newamp1_train.py", "{mlfeat} {model} --noplots --nnout out.keras", "mlfeat"),
    ("eband_out.py", "{network} {bands} {model} --noplots --modelout out.model", "network bands model"),
    ("vq_pager.py", "14 {codebook} --file2 {codebook_2}", "codebook codebook_2"),
    ("vq_vae_ratek.py", "{bands} --noplots --nnout out.keras --vqout out", "bands"),
    (
        "vq_vae_ratek_conv1d.py",
        "{bands} --test {test_bands} --num_embedding 16 --noplots --nnout out.keras --vqout out",
        "bands test_bands",
    ),
]
COMMANDS = [command for command in COMMANDS if (ROOT / command[0]).exists()]
KINDS = {
    "model": "model",
    "test_model": "model",
    "bands": "vectors",
    "test_bands": "vectors",
    "rate_K": "vectors",
    "mlfeat": "vectors",
    "codebook": "codebook",
    "codebook_2": "codebook",
    "speech": "speech",
    "network": "network",
}


def fill(words, files, **changed):
    return [word.format(**{**files, **changed}) for word in shlex.split(words)]


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


def foreign(size):
    """Files of another kind that have the right size, so that only the contents tell."""
    noise = np.random.default_rng(3).bytes(size)
    words = b"# No vectors here, but words and numbers: 12.5 dB\n"
    return {
        "png": (b"\x89PNG\r\n\x1a\n" + noise)[:size],
        "zip": (b"PK\x03\x04" + noise)[:size],
        "wav": SAMPLE.read_bytes()[:size],
        "text": (words * size)[:size],
    }


def with_value(array, value, column=3):
    """The bytes of vectors, one of them changed in one value, not near the ends."""
    array = array.copy()
    array[FRAMES // 2 + 1, column] = value
    return array.tobytes()


def with_field(records, name, value, *m):
    """The bytes of model records, one of them changed in one field."""
    records = records.copy()
    records[name][(FRAMES // 2 + 1, *m)] = value
    return records.tobytes()


def archive(filename, members):
    with zipfile.ZipFile(filename, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)


OPTIONS = {"script": "eband_train", "eband_K": 14, "eband_start": 0, "gain": 10, "Fs": 8000, "width": 128, "Wo": False}
NETWORKS = {  # bad ones that are told without Keras
    "no_options": {"config.json": "{}"},
    "options_cut": {"options.json": '{"script": "eba'},
    "options_list": {"options.json": "[1, 2]"},
    "options_empty": {"options.json": "{}"},
    "options_binary": {"options.json": b"\xff\xfe\x00"},
    "vq": {"options.json": json.dumps({"script": "vq_vae_ratek_conv1d", "eband_K": 14})},
}


def bad_contents(kind, good):
    """{what: bytes} of the bad files in place of a good one, an array or the bytes of a file."""
    if kind == "speech":
        wav = SAMPLE.read_bytes()
        return {"cut": wav[44:1001], "header_cut.wav": wav[:30], "text.wav": b"not speech " * 50, "features.f32": wav}
    if kind == "network":
        return {**foreign(5000), "cut": good[:100]}
    contents = {**foreign(good.nbytes), "cut": good.tobytes()[:-3]}
    if kind == "model":
        fields = {
            "L_low": ("L", -1),
            "L_high": ("L", 161),
            "Wo_nan": ("Wo", np.nan),
            "Wo_low": ("Wo", -0.01),
            "Wo_high": ("Wo", 3.15),
            "A_nan": ("A", np.nan, 1),
            "A_inf": ("A", np.inf, 2),
            "A_low": ("A", -1, 9),
        }
        contents |= {what: with_field(good, *change) for what, change in fields.items()}
        return {**contents, "short": good[:-1].tobytes(), "long": np.r_[good, good[:1]].tobytes()}
    contents |= {what: with_value(good, float(what)) for what in ("nan", "-inf")}
    if kind == "codebook":  # of any unit, and of any finite values
        del contents["text"]
        return contents
    contents |= {what: with_value(good, float(what)) for what in ("1e30",)}
    contents |= {"long": np.r_[good, good[:1]].tobytes(), "log10": (good / 10).tobytes()}
    return {**contents, "model": foreign(good.nbytes)["zip"][:4] + good_arrays()["model"].tobytes()[: good.nbytes - 4]}


ALWAYS_BAD = ["missing", "folder", "empty", LOOP]
ALONE = ("short", "long")  # a file of another length is bad only beside one that it has to fit


def bad_files(slot):
    """Names of the bad files that can take the place of a slot."""
    if slot.startswith("test_"):  # goes the same way as its sibling: a few show that it is looked at
        return ["missing", "empty", "cut", "long", "nan" if slot == "test_bands" else "A_nan"]
    arrays = good_arrays()
    good = arrays.get(slot, arrays["bands"])
    names = list(bad_contents(KINDS[slot], bytes(5000) if KINDS[slot] == "network" else good))
    return ALWAYS_BAD + names + (list(NETWORKS) if slot == "network" else [])


def is_alone(script, slot):
    return script.startswith("vq_") or (script in ("codec2_model.py", "c2sim.py") and slot == "model")


BAD_INPUTS = [
    (script, words, slot, what)
    for script, words, changed in COMMANDS
    for slot in changed.split()
    for what in bad_files(slot)
    if not (what in ALONE and is_alone(script, slot))
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{slot: good file}, and beside them the bad ones, SLOT/WHAT; the names have a space and other letters."""
    folder = tmp_path_factory.mktemp("gute und böse")
    good = {name: array for name, array in good_arrays().items()}
    good |= {"test_bands": good["bands"], "test_model": good["model"]}
    good |= {"codebook": good["bands"], "codebook_2": good["bands"]}
    network = folder / "network.keras"
    archive(network, {"options.json": json.dumps(OPTIONS), "config.json": "{}"})
    good["network"] = network.read_bytes()
    good["speech"] = SAMPLE.read_bytes()[44 : 44 + FRAMES * 160]
    for slot, content in good.items():
        (folder / slot).write_bytes(content if isinstance(content, bytes) else content.tobytes())
        bad = folder / f"bad {slot}"
        bad.mkdir()
        for what, text in bad_contents(KINDS[slot], content).items():
            (bad / what).write_bytes(text)
        (bad / "empty").touch()
        (bad / "folder").mkdir()
        (bad / LOOP).symlink_to(LOOP)
    for what, members in NETWORKS.items():
        archive(folder / "bad network" / what, members)
    return {slot: folder / slot for slot in good}


def bad_file(files, slot, what):
    return files[slot].with_name(f"bad {slot}") / what


@pytest.fixture(scope="session")
def no_keras(tmp_path_factory):
    """Folder with a Keras that ends whoever imports it."""
    folder = tmp_path_factory.mktemp("no_keras")
    (folder / "keras.py").write_text("raise SystemExit('too late: Keras takes seconds to import')")
    return folder


@pytest.fixture
def run_without_keras(run, no_keras, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(no_keras))
    return run


# ---------------------------------------------------------------- bad files, one argument after the other


def test_the_matrix_is_one():
    assert len(BAD_INPUTS) + len(BAD_OUTPUTS) + len(USAGE_ERRORS) + len(OTHERS) > 250


@pytest.mark.parametrize(("script", "words", "slot", "what"), BAD_INPUTS)
def test_bad_file(script, words, slot, what, files, run_without_keras, tmp_path):
    bad = bad_file(files, slot, what)
    result = run_without_keras(script, *fill(words, files, **{slot: bad}), timeout=60)
    assert_refused(result, bad)
    assert "nan" not in result.stdout.lower()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad outputs

OUTPUTS = [
    ("c2sim.py", "{speech} --bands {out}"),
    ("c2sim.py", "{speech} --rateK --rateKout {out}"),
    ("c2sim.py", "{speech} --modelout {out}"),
    ("c2sim.py", "{speech} -o {out}"),
    ("eband_train.py", "{bands} {model} --noplots --nnout {out}"),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --noplots --nnout {out}"),
    ("newamp1_train.py", "{rate_K} {model} --noplots --nnout {out}"),
    ("eband_out.py", "{network} {bands} {model} --noplots --modelout {out}"),
    ("vq_vae_ratek.py", "{bands} --noplots --nnout {out}"),
    ("vq_vae_ratek_conv1d.py", "{bands} --noplots --nnout {out}"),
]
BAD_OUTPUTS = [
    (script, words, out)
    for script, words in OUTPUTS
    if (ROOT / script).exists()
    for out in ("nowhere/out.keras", "a_file/out.keras", "folder.keras", "read_only/out.keras", "/proc/out.keras")
    if out[0] != "/" or script == "c2sim.py"  # root may write to /proc, says the system, until it is tried
]


@pytest.mark.parametrize(("script", "words", "out"), BAD_OUTPUTS)
def test_bad_output(script, words, out, files, run_without_keras, tmp_path):
    if out.startswith("read_only") and os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "a_file").touch()
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "read_only").mkdir(mode=0o500)
    before = set(tmp_path.rglob("*"))
    assert_refused(run_without_keras(script, *fill(words, files, out=out), timeout=60), f"{out}: ")
    assert set(tmp_path.rglob("*")) == before


PLOTS = [
    ("codec2_model.py", "{model}"),
    ("vq_pager.py", "14 {bands}"),
    ("eband_out.py", "{network} {bands} {model} --modelout out.model"),
    ("vq_vae_demo.py", "--epochs 1"),
    ("vq_vae_demo_2stage.py", "--epochs 1"),
    ("eband_train.py", "{bands} {model} --epochs 1"),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --epochs 1"),
    ("newamp1_train.py", "{rate_K} {model} --epochs 1"),
    ("vq_vae_ratek.py", "{bands} --epochs 1"),
    ("vq_vae_ratek_conv1d.py", "{bands} --num_embedding 16 --epochs 1"),
]
PLOTS = [command for command in PLOTS if (ROOT / command[0]).exists()]


@pytest.mark.parametrize(("script", "words"), PLOTS)
def test_plot_dir_that_is_a_file(script, words, files, run_without_keras, tmp_path):
    """Told before the work is done, not after it."""
    (tmp_path / "a_file").touch()
    assert_refused(run_without_keras(script, *fill(words, files), "--plot_dir", "a_file", timeout=60), "a_file: ")
    assert [file.name for file in tmp_path.iterdir()] == ["a_file"]


# ---------------------------------------------------------------- bad options

TRAINER = "epochs=0 epochs=-1 epochs=1.5 epochs=many epochs= nb_samples=0 nb_samples=-1 seed=-1 seed=x unknown=1"
BANDS = "eband_K=0 eband_K=-14 eband_K=x eband_start=-1 eband_start=13 gain=0 gain=-10 gain=nan gain=x"
FS = "Fs=0 Fs=-8000 Fs=nan frame=-1 frame=x"
USAGE = {
    "codec2_model.py": ("{model}", "nb_samples=0 nb_samples=x nb_samples=1e3 frame=-1 frame=x unknown=1"),
    "c2sim.py": ("{speech} -o out.wav", "bands_lower=x rateKin={rate_K} rateKout=out.f32 unknown=1 modelin="),
    "eband_train.py": ("{bands} {model}", f"{TRAINER} {BANDS} {FS} test={{bands}} dec=2"),
    "ebanddec_train.py": ("{bands} {model} --dec 2", f"{TRAINER} {BANDS} {FS} dec=0 dec=-1 dec=2.5 Wo=1"),
    "newamp1_train.py": ("{rate_K} {model}", f"{TRAINER} Fs=0 Fs=-1 Fs=nan frames=-1 frames=x frames= eband_K=20"),
    "eband_out.py": ("{network} {bands} {model}", "nb_samples=0 dec=0 dec=-1 dec=x frame=-1 unknown=1"),
    "vq_pager.py": ("14 {bands}", "start=-1 start=x unknown=1 file2="),
    "vq_vae_demo.py": ("", f"{TRAINER} test=qam num_embedding=1 embedding_dim=0 decay=1 decay=-1 decay=nan"),
    "vq_vae_demo_2stage.py": ("", "epochs=0 nb_samples=0 seed=-1 num_embedding=0 decay=2 mbest=0 mbest=x"),
    "vq_vae_ratek.py": ("{bands}", f"{TRAINER} eband_K=0 num_embedding=0 embedding_dim=0 dec=0"),
    "vq_vae_ratek_conv1d.py": ("{bands}", f"{TRAINER} eband_K=0 num_embedding=0 embedding_dim=0 dec=0"),
}
USAGE_ERRORS = [
    (script, words, option)
    for script, (words, options) in USAGE.items()
    if (ROOT / script).exists()
    for option in options.split()
]


@pytest.mark.parametrize(("script", "words", "option"), USAGE_ERRORS)
def test_usage_error(script, words, option, files, run_without_keras, tmp_path):
    name, _, value = option.partition("=")
    command = [*fill(words, files), f"--{name}", *fill(value, files)]
    result = run_without_keras(script, *command, timeout=60)
    assert_refused(result, status=2)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad in other ways

OF_BOTH_RATE_K = [  # as in OTHERS, without the script
    ("{bands} --seed 4294967296", "--seed", 2),
    ("{bands} --num_embedding 16 --noplots --epochs 1 --nnout out", "out", 2),
    ("{bands} --num_embedding 16 --noplots --epochs 1 --testout out --indexout out", "out", 2),
]
OTHERS = [  # script, words, word of the message, status
    ("codec2_model.py", f"{{model}} --noplots --frame {FRAMES}", f"--frame {FRAMES}", 1),
    ("codec2_model.py", "{bands} --noplots", "{bands}", 1),
    ("c2sim.py", "{speech} --rateK --rateKin {bands} -o out.wav", "{bands}", 1),
    ("c2sim.py", "--modelin {bands} -o out.wav", "{bands}", 1),
    ("c2sim.py", "{speech} --bands out.f32 --bands_lower 300 --modelout out.model", "300 dB", 1),
    ("c2sim.py", "{speech} --bands out.f32 --bands_lower nan", "nan dB", 1),
    ("c2sim.py", "--modelin {phases} -o out.wav", "{phases}", 1),
    ("c2sim.py", "{speech} --bands out --modelout out", "same file", 2),
    ("c2sim.py", "{speech} -o x --rateK --rateKout ./x", "same file", 2),
    ("eband_train.py", "{model} {bands}", "{model}", 1),
    ("eband_train.py", "{bands} {model} --nb_samples 99", "at least 100", 1),
    ("eband_train.py", f"{{bands}} {{model}} --frame {FRAMES}", f"--frame {FRAMES}", 1),
    ("eband_train.py", "{bands} {model} --gain 1", "{bands}", 1),
    ("eband_train.py", "{bands} {model} --eband_K 13", "{bands}", 1),
    ("eband_train.py", "{bands} {model} --eband_K 7", "{bands}", 1),
    ("eband_train.py", "{bands} {model} --eband_K 99999999999", "{bands}", 1),
    ("eband_train.py", "{bands} {silence}", "{silence}", 1),
    ("eband_train.py", "{bands} {phases}", "{phases}", 1),
    ("eband_train.py", "{bands} {model} --test {bands} {silence}", "{silence}", 1),
    ("eband_train.py", "{bands} {model} --test {rate_K} {model}", "{rate_K}", 1),
    ("eband_train.py", "{bands} {model} --seed 4294967296", "--seed", 2),
    ("eband_train.py", "{bands} {model} --noplots --epochs 1 --nnout out", "out", 2),
    ("eband_train.py", "{bands} {model} --noplots --epochs 1 --gain inf", "--gain", 2),
    ("eband_train.py", "{bands} {model} --Fs inf", "--Fs", 2),
    ("ebanddec_train.py", "{model} {bands} --dec 2", "{model}", 1),
    ("ebanddec_train.py", "{bands} {model} --dec 4", "at least 400", 1),
    ("ebanddec_train.py", "{bands} {model} --dec 99999999999999999999", "at least", 1),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --gain 1", "{bands}", 1),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --eband_K 99999999999", "{bands}", 1),
    ("ebanddec_train.py", "{bands} {silence} --dec 2", "{silence}", 1),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --seed 4294967296", "--seed", 2),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --noplots --epochs 1 --nnout out", "out", 2),
    ("ebanddec_train.py", "{bands} {model} --dec 2 --Fs inf", "--Fs", 2),
    ("newamp1_train.py", "{model} {rate_K}", "{rate_K}", 1),
    ("newamp1_train.py", "{bands} {model}", "{bands}", 1),
    ("newamp1_train.py", "{rate_K} {model} --nb_samples 99", "at least 100", 1),
    ("newamp1_train.py", f"{{rate_K}} {{model}} --frames 3 {FRAMES}", f"no --frame {FRAMES}", 1),
    ("newamp1_train.py", "{rate_K} {silence}", "{silence}", 1),
    ("newamp1_train.py", "{rate_K} {model} --seed 4294967296", "--seed", 2),
    ("newamp1_train.py", "{rate_K} {model} --noplots --epochs 1 --nnout out", "out", 2),
    ("newamp1_train.py", "{rate_K} {model} --Fs inf", "--Fs", 2),
    ("newamp1_train.py", "{mlfeat_A} {model} --noplots --epochs 1 --nnout out.keras", "{mlfeat_A}", 1),
    ("newamp1_train.py", "{mlfeat_low} {model} --noplots --epochs 1 --nnout out.keras", "A[1] = -1", 1),
    ("eband_out.py", "{bands} {bands} {model}", "{bands}", 1),
    ("eband_out.py", "{network} {bands} {phases}", "phi[5] = nan", 1),
    ("eband_out.py", "{network} {model} {bands}", "{bands}", 1),
    ("eband_out.py", "{network} {bands} {silence}", "{silence}", 1),
    ("eband_out.py", f"{{network}} {{bands}} {{model}} --frame {FRAMES}", f"--frame {FRAMES}", 1),
    ("eband_out.py", "{network} {bands} {model} --nb_samples 5 --frame 5", "--frame 5", 1),
    ("eband_out.py", "{network} {rate_K} {model}", "{rate_K}", 1),
    ("vq_pager.py", "13 {bands}", "{bands}", 1),
    ("vq_pager.py", "99999999999 {bands}", "{bands}", 1),
    ("vq_pager.py", f"14 {{bands}} --start {FRAMES}", f"--start {FRAMES}", 1),
    ("vq_pager.py", "0 {bands}", "argument K", 2),
    ("vq_vae_demo.py", "--seed 4294967296", "--seed", 2),
    ("vq_vae_demo.py", "--num_embedding 300 --nb_samples 299", "--nb_samples", 2),
    ("vq_vae_demo_2stage.py", "--seed 4294967296", "--seed", 2),
    ("vq_vae_ratek.py", "{bands} --eband_K 13", "{bands}", 1),
    ("vq_vae_ratek.py", "{bands} --nnin {bands}", "{bands}", 1),
    ("vq_vae_ratek.py", "{bands} --nnin {network}", "{network}", 1),
    ("vq_vae_ratek_conv1d.py", "{bands} --eband_K 13", "{bands}", 1),
    ("vq_vae_ratek_conv1d.py", "{bands} --nnin {bands}", "{bands}", 1),
    ("vq_vae_ratek_conv1d.py", "{bands} --nnin {network}", "{network}", 1),
    ("vq_vae_ratek.py", "{bands} --nnin {vq_vae_ratek}", "{vq_vae_ratek}", 1),
    ("vq_vae_ratek_conv1d.py", "{bands} --nnin {vq_vae_ratek_conv1d}", "{vq_vae_ratek_conv1d}", 1),
    *((script, *case) for script in ("vq_vae_ratek.py", "vq_vae_ratek_conv1d.py") for case in OF_BOTH_RATE_K),
]
OTHERS = [case for case in OTHERS if (ROOT / case[0]).exists()]


@pytest.fixture(scope="session")
def odd_files(files):
    """Good files by slot, and some that are bad in a way that only one script may notice."""
    arrays = good_arrays()
    silence = arrays["model"].copy()
    silence["A"] = 0
    contents = {
        "silence": silence.tobytes(),
        "phases": with_field(arrays["model"], "phi", np.nan, 5),
        "mlfeat_A": with_value(arrays["mlfeat"], np.nan, column=50),
        "mlfeat_low": with_value(arrays["mlfeat"], -1, column=42),
    }
    more = {name: files["model"].with_name(name) for name in contents}
    for name, content in contents.items():
        more[name].write_bytes(content)
    for script in ("vq_vae_ratek", "vq_vae_ratek_conv1d"):
        more[script] = files["model"].with_name(script)
        archive(more[script], {"options.json": json.dumps({"script": script, "eband_K": 14})})
    return files | more


@pytest.mark.parametrize(("script", "words", "word", "status"), OTHERS)
def test_bad_otherwise(script, words, word, status, odd_files, run_without_keras, tmp_path):
    result = run_without_keras(script, *fill(words, odd_files), timeout=60)
    assert_refused(result, word.format(**odd_files), status=status)
    assert "nan" not in result.stdout.lower()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- silence and huge values that are no error


def no_pitch(records):
    """The records of a frame without harmonics, as other tools write them for silence."""
    for name in ("Wo", "L", "A"):
        records[name][FRAMES // 2] = 0


def silent_end(records):
    records["A"][-FRAMES // 10 :] = 0


def silent_beginning(records):
    records["A"][: -FRAMES // 10] = 0


def loud(records):
    records["A"][7, 1] = 1e30


@pytest.mark.parametrize(
    ("change", "script", "words"),
    [
        (no_pitch, "codec2_model.py", "{changed} --noplots"),
        (no_pitch, "c2sim.py", "--modelin {changed} --phase0 --postfilter -o out.wav"),
        (no_pitch, "eband_train.py", "{bands} {changed} --Wo --epochs 1 --noplots"),
        (loud, "codec2_model.py", "{changed}"),
        (loud, "c2sim.py", "--modelin {changed} --postfilter -o out.wav"),
        (silent_end, "eband_train.py", "{bands} {changed} --epochs 1 --noplots"),
        (silent_beginning, "eband_train.py", "{bands} {changed} --epochs 1 --noplots"),
        (silent_beginning, "ebanddec_train.py", "{bands} {changed} --dec 2 --epochs 1 --noplots"),
        (silent_end, "newamp1_train.py", "{rate_K} {changed} --epochs 1 --noplots"),
        (silent_end, "ebanddec_train.py", "{bands} {changed} --dec 1 --epochs 1 --noplots"),
    ],
)
def test_figures_are_numbers(change, script, words, files, run, tmp_path):
    """Or the script says why there are none, which is as good."""
    records = good_arrays()["model"]
    change(records)
    records.tofile(tmp_path / "changed.model")
    result = run(script, *fill(words, files, changed="changed.model"), timeout=60)
    if result.returncode:
        assert_refused(result, "changed.model")
    assert not {"nan", "inf"} & set(result.stdout.replace("/", " ").split())
    assert "RuntimeWarning" not in result.stderr


# ---------------------------------------------------------------- WAV headers that lie


def wav_bytes(samples, channels=1, rate=8000, bits=16, tag=1):
    size = len(samples)
    align = channels * bits // 8
    header = [16, tag + (channels << 16), rate, rate * align % 2**32, align + (bits << 16)]
    chunk = b"WAVEfmt " + np.array(header, "<u4").tobytes() + b"data" + np.array(size, "<u4").tobytes()
    return b"RIFF" + np.array(len(chunk) + size, "<u4").tobytes() + chunk + samples


@pytest.mark.parametrize("cut", [1, 2, 2000, 5000])
def test_wav_file_that_was_cut_off(cut, run, tmp_path):
    (tmp_path / "cut.wav").write_bytes(wav_bytes(bytes(range(256)) * 20)[:-cut])
    assert_refused(run("c2sim.py", "cut.wav", "-o", "out.raw", timeout=60), "cut.wav: ", 5164 - cut, 5164)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_file_that_was_a_stream(size, scratch):
    """Programs that write to a pipe do not know the length before."""
    samples = bytes(range(256)) * 20
    header = wav_bytes(samples)[:44].replace(np.uint32(5120).tobytes(), np.uint32(size).tobytes())
    scratch.write_bytes(header[:4] + np.uint32(size).tobytes() + header[8:] + samples)
    np.testing.assert_array_equal(read_speech(scratch), np.frombuffer(samples, "<i2"))


@pytest.mark.parametrize(
    "header",
    [
        {"channels": 0},
        {"channels": 65535},
        {"bits": 0},
        {"tag": 7},
        {"rate": 2**32 - 1},
        {"rate": 0},
        {"rate": 999},
        {"rate": 1_000_001},
        {"rate": 2**31 - 1},
    ],
)
def test_wav_header_that_lies(header, run, tmp_path):
    (tmp_path / "lies.wav").write_bytes(wav_bytes(bytes(range(256)) * 20, **header))
    result = run("c2sim.py", "lies.wav", "-o", "out.raw", timeout=60)
    assert_refused(result, "lies.wav: ")
    assert [file.name for file in tmp_path.iterdir()] == ["lies.wav"]


# ---------------------------------------------------------------- random bytes

FUZZ = settings(derandomize=True, deadline=None, max_examples=300, database=None)
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


def read_and_check(filename):
    fields = codec2_model.read(filename)
    codec2_model.check(filename, *fields[:3])
    return fields


def read_and_check_rate_K(filename, K, gain):
    vectors = codec2_model.read_rate_K(filename, K)
    codec2_model.check_rate_K(filename, vectors, gain)
    return vectors


def read_speech(filename):
    with contextlib.redirect_stderr(None):
        return c2sim.read_speech(str(filename))


@FUZZ
@given(count=st.integers(0, 4), changes=CHANGES, cut=st.sampled_from([0] * 8 + [1, 1299, 1300]), noise=st.binary())
def test_any_model_file_is_read_or_refused(scratch, count, changes, cut, noise):
    data = good_arrays()["model"][:count].tobytes() or noise
    data = changed_bytes(data, changes, min(cut, len(data))) if data else data
    scratch.write_bytes(data)
    fields = result_unless_refused(read_and_check, scratch)
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
    vectors = result_unless_refused(read_and_check_rate_K, scratch, K, gain)
    if vectors is None:
        return
    assert vectors.shape == (len(data) // (4 * K), K)
    assert (np.abs(vectors) <= 20 * gain).all()
    codec2_model.write_rate_K(vectors, scratch)
    assert scratch.read_bytes() == data


HEADERS = st.lists(st.tuples(st.integers(0, 47), st.integers(0, 255)), max_size=4)


@FUZZ
@given(
    changes=HEADERS,
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
    speech = result_unless_refused(read_speech, scratch)
    if speech is None:
        return
    assert speech.dtype == np.int16
    assert speech.ndim == 1
    assert len(speech) > 0


# ---------------------------------------------------------------- networks of others

MAKE_NETWORKS = """
import sys
import keras

def attack(x):
    open("it_ran", "w")
    return x

class Strange(keras.layers.Layer):
    def call(self, x):
        return x

def save(name, width, *layers):
    keras.Sequential([keras.Input((width,)), *layers]).save(name + ".keras")

save("lambda", 14, keras.layers.Lambda(attack, name="interpolation"), keras.layers.Dense(128))
save("python_lambda", 14, keras.layers.Lambda(lambda x: attack(x), name="interpolation"), keras.layers.Dense(128))
save("unknown_class", 14, Strange(name="interpolation"), keras.layers.Dense(128))
save("no_interpolation", 14, keras.layers.Dense(128))
save("other_input", 10, keras.layers.Dense(128, name="interpolation"))
save("other_output", 14, keras.layers.Dense(100, name="interpolation"))
save("good", 14, keras.layers.Dense(128, name="interpolation"))
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folder of networks that Keras has written, with options as if they came from eband_train."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "make.py").write_text(MAKE_NETWORKS)
    run_in(folder, folder / "make.py", check=True)
    (folder / "it_ran").unlink()
    for network in folder.glob("*.keras"):
        with zipfile.ZipFile(network, "a") as file:
            file.writestr("options.json", json.dumps(OPTIONS))
    whole = zipfile.ZipFile(folder / "good.keras")
    members = {name: whole.read(name) for name in whole.namelist()}
    names = {
        "no_network": ["options.json"],
        "no_weights": ["options.json", "config.json", "metadata.json"],
    }
    for name, kept in names.items():
        archive(folder / f"{name}.keras", {member: members[member] for member in kept})
    attack = json.loads(members["config.json"])
    attack["config"]["layers"][1] = {
        "module": "os",
        "class_name": "system",
        "config": {"command": "touch it_ran"},
        "registered_name": None,
    }
    archive(folder / "os_system.keras", {**members, "config.json": json.dumps(attack)})
    weights = bytearray(members["model.weights.h5"])
    weights[len(weights) // 4 :] = bytes(len(weights) - len(weights) // 4)
    archive(folder / "weights_gone.keras", {**members, "model.weights.h5": bytes(weights)})
    return folder


BAD_NETWORKS = {
    "lambda": "attack",
    "python_lambda": "Lambda",
    "unknown_class": "Strange",
    "os_system": "system",
    "no_interpolation": "interpolation",
    "other_input": "14",
    "other_output": "128",
    "no_network": "",
    "no_weights": "",
    "weights_gone": "",
}


def run_eband_out(network, files, monkeypatch):
    """Run eband_out in this process, which saves the seconds that Keras takes to import."""
    import eband_out

    command = [network, files["bands"], files["model"], "--noplots", "--modelout", "out.model"]
    monkeypatch.setattr(sys, "argv", ["eband_out.py", *map(str, command)])
    args = eband_out.parse_args()
    eband_out.main(args, *eband_out.prepare(args))
    return True


@pytest.mark.filterwarnings("ignore")  # Keras warns of other shapes
@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_network_that_cannot_be_run_is_refused(name, networks, files, tmp_path, monkeypatch):
    """Nothing of it is executed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError) as error:
        run_eband_out(networks / f"{name}.keras", files, monkeypatch)
    assert str(error.value).startswith(f"{networks / name}.keras: not a network that can be run: ")
    assert BAD_NETWORKS[name] in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_network_of_another_kind_on_the_command_line(networks, files, run, tmp_path):
    result = run("eband_out.py", networks / "lambda.keras", files["bands"], files["model"], "--modelout", "out.model")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"eband_out.py: error: {networks / 'lambda.keras'}: ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_network_with_changed_bytes_runs_or_is_refused(networks, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_eband_out(networks / "good.keras", files, monkeypatch)
    assert (tmp_path / "out.model").stat().st_size == FRAMES * RECORD.itemsize
    good = (networks / "good.keras").read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for i in range(60):
        place = rng.integers(len(good)) if i % 2 else -rng.integers(1, 800)  # half of them in the table of contents
        data = changed_bytes(good, [], 0 if i % 3 else rng.integers(1, len(good)))
        data = bytearray(data)
        data[place % len(data)] ^= 1 << rng.integers(8)
        (networks / "changed.keras").write_bytes(data)
        refused += not result_unless_refused(run_eband_out, networks / "changed.keras", files, monkeypatch)
    assert 20 < refused < 60
    assert "nan" not in capsys.readouterr().out
