"""What all scripts refuse alike: in one line, before Keras loads, before any work."""

import importlib
import os
import re
import shlex

import numpy as np
import pytest

import codec2_model
from codec2_model import RECORD
from common.plumbing import FormatError
from conftest import ROOT, SAMPLE, SCRIPTS, assert_refused

pytestmark = pytest.mark.usefixtures("eager")

FRAMES = 300


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: file} of no real speech, good ones, odd ones and bad ones."""
    folder = tmp_path_factory.mktemp("gute und böse")
    rng = np.random.default_rng(2)
    model = np.zeros(FRAMES, RECORD)
    model["L"] = rng.integers(10, 81, FRAMES)
    model["Wo"] = np.pi / (model["L"] + 0.5)
    model["A"] = rng.uniform(10, 1000, model["A"].shape)
    bands, rate_K = (rng.normal(30, 8, (FRAMES, K)).astype("<f4") for K in (14, 20))
    silence, phases, silent_end = (model.copy() for _ in range(3))
    silence["A"] = 0
    phases["phi"][7, 5] = np.nan
    silent_end["A"][-FRAMES // 10 :] = 0
    nan = bands.copy()
    nan[151, 3] = np.nan
    arrays = {"bands": bands, "rate_K": rate_K, "model": model, "nan": nan}
    arrays |= {"silence": silence, "phases": phases, "silent_end": silent_end}
    arrays |= {"short": bands[1:], "few": bands[:150], "log10": bands / 10, "quiet": bands - 60}
    arrays |= {"mlfeat": np.full((FRAMES, codec2_model.MLFEAT), np.nan, "<f4")}
    contents = {name: array.tobytes() for name, array in arrays.items()}
    contents |= {"cut": contents["bands"][:-3], "speech.raw": SAMPLE.read_bytes()[44:32044]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    found = {name.replace(".", "_"): folder / name for name in contents}
    return found | {network.stem: network for network in (ROOT / "networks").glob("*.keras")}


def fill(words, files):
    return [word.format(**files) for word in shlex.split(words)]


def load(script, words, files):
    """What a script does up to the point where its files have been read, in this process."""
    module = importlib.import_module(script)
    args = module.parse_args(fill(words, files))
    return module.load(args) if hasattr(module, "load") else module.main(args)


GOOD = {  # script: words that work
    "codec2_model": "{model}",
    "c2sim": "{speech_raw} --rateK -o out.wav",
    "eband_train": "{bands} {model}",
    "ebanddec_train": "{bands} {model} --dec 2",
    "newamp1_train": "{rate_K} {model}",
    "eband_out": "{bands_Wo} {bands} {model}",
    "vq_pager": "14 {bands}",
    "vq_vae_demo": "",
    "vq_vae_demo_2stage": "",
    "vq_vae_ratek": "{bands} --num_embedding 16",
    "vq_vae_ratek_conv1d": "{bands} --num_embedding 16",
    "vq_out": "{vq_K14_1100} {bands}",
    "vq_ber": "{vq_K14_1100} {bands}",
    "vq_codec": "enc 700 {speech_raw} out.bit",
}


def help_of(script, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse_args(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_examples_of_the_docstring(script, capsys):
    examples = help_of(script.removesuffix(".py"), capsys).partition("\nUsage:\n")[2]
    assert f"./{script} " in examples


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bad_file_is_refused_before_keras_loads(script, files, run, tmp_path):
    (tmp_path / "keras.py").write_text("raise SystemExit('too late: Keras is being imported')")
    good = GOOD[script.removesuffix(".py")]
    words = re.sub(r"{\w+}", "{cut}", good, count=1) or "--plot_dir {cut}"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert_refused(run(script, *fill(words, files), env=env), files["cut"])


BAD_INPUT = [  # script, words, the file that is told and what is told of it
    ("codec2_model", "{phases} --noplots", "{phases}: frame 7: phi[5]"),
    ("c2sim", "--modelin {bands} -o out.wav", "{bands}"),
    ("c2sim", "{speech_raw} --rateK --rateKin {rate_K} -o out.wav", "{rate_K}: 300 vectors"),
    ("eband_train", "{log10} {model}", "--gain 1"),
    ("eband_train", "{short} {model}", "{short}: 299 frames, but {model} has 300"),
    ("eband_train", "{bands} {silent_end}", "{silent_end}: held-out part: 0 frames"),
    ("eband_train", "{bands} {model} --test {bands} {silence}", "{silence}: test part: 0 frames"),
    ("ebanddec_train", "{bands} {model} --dec 2 --nb_samples 150", "at least 200"),
    ("ebanddec_train", "{bands} {model} --dec 2 --test {nan} {model}", "{nan}: vector 151"),
    ("newamp1_train", "{mlfeat} {model}", "{mlfeat}"),
    ("newamp1_train", "{rate_K} {model} --lower 90", "train part: 0 frames with amplitudes"),
    ("newamp1_train", "{rate_K} {model} --frames 3,999", "no --frames 3 to plot, expected 270"),
    ("eband_out", "{vq_K14_1100} {bands} {model}", "{vq_K14_1100}"),
    ("eband_out", "{bands_Wo} {bands} {silence}", "{silence}: 0 frames with amplitudes"),
    ("vq_pager", "14 {bands} --start 300", "{bands}: no vector 300 for --start, expected 0 to 299"),
    ("vq_vae_ratek", "{few} --dec 2", "{few}: 135 frames"),
    ("vq_vae_ratek_conv1d", "{quiet}", "{quiet}: 0 train frames with a mean level above 10 dB"),
    ("vq_out", "{bands_Wo} {bands}", "{bands_Wo}: no quantiser"),
    ("vq_out", "{vq_K14_1100} {bands} --stages 5", "a network of 4 stages"),
    ("vq_out", "{vq_K14_1100} --indexin {bands} --testout y", "{bands}: no indices that vq_out.py"),
    # an output that is an input, or another output
    ("eband_out", "{bands_Wo} {bands} {model} --modelout {model}", "{model}: an output that is an"),
    ("vq_out", "{vq_K14_1100} {bands} --testout x --indexout x", "x: an output that is named"),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("script", "words", "told"), BAD_INPUT)
def test_bad_input(script, words, told, files, tmp_path, monkeypatch, capsys):
    """One line, no output, no figure."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FormatError, OSError)) as error:
        load(script, words, files)
    assert told.format(**files) in str(error.value)
    assert "\n" not in str(error.value)
    assert "nan" not in capsys.readouterr().out.lower()
    assert not list(tmp_path.iterdir())


OUTPUTS = ["--bands", "--rateKout", "--modelout", "--nnout", "--testout", "--indexout", "--vqout"]
OUTPUTS += ["--plot_dir", "-o"]


@pytest.mark.parametrize("script", sorted(GOOD.keys() - {"vq_codec"}))
def test_bad_output(script, files, tmp_path, monkeypatch, capsys):
    """Told before the work is done, not after it: here its folder is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    shown = help_of(script, capsys)
    options = [option for option in OUTPUTS if f"\n  {option} " in shown]
    assert options
    for option in options:
        name = "a_file/x.wav" if option == "-o" else "a_file/x.keras"
        with pytest.raises((OSError, FormatError), match="a_file"):
            load(script, f"{GOOD[script]} {option} {name}", files)
        assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


TOLD = [  # script, words, what the usage error tells
    ("eband_train", "x.f32 x.model --eband_K 13", "--eband_K 14 --eband_start 1"),
    ("eband_train", "x.f32 x.model --eband_K 20", "newamp1_train.py"),
    ("eband_train", "x.f32 x.model --nnout x.h5", ".keras (.h5 was the format of 2019)"),
    ("eband_train", "x.f32 x.model --noplots --frame 3", "no effect with --noplots"),
    ("ebanddec_train", "x.f32 x.model --dec 2 --frames 30,31", "--frames is gone: --frame F plots"),
    ("eband_out", "n.keras x.f32 x.model --gain 10", "--gain is gone: it is saved"),
    ("vq_vae_ratek", "x.f32 --eband_K 20 --embedding_dim 41 --dec 2", "--embedding_dim"),
    ("vq_out", "n.keras x.f32 --indexin x.npy --testout y.f32", "--indexin"),
    ("vq_out", "n.keras --indexin x.npy --testout y --mbest 4", "--mbest has no effect"),
    ("vq_codec", "dec x.bit y.mp3", "y.mp3: speech is written as .wav"),
    ("c2sim", "x.raw", "nothing to write"),
    ("c2sim", "x.raw --rateKin K.f32 -o y.raw", "--rateKin needs --rateK"),
    ("c2sim", "x.raw --rateK --bands bands.f32", "--rateK has no effect without"),
    ("c2sim", "x.raw --phase0 --bands b.f32", "--phase0 and --postfilter have no effect without"),
    ("c2sim", "x.raw -o y.flac", "-o y.flac: speech is written as .wav"),
]


@pytest.mark.parametrize(("script", "words", "told"), TOLD)
def test_usage_errors(script, words, told, capsys):
    with pytest.raises(SystemExit) as error:
        importlib.import_module(script).parse_args(words.split())
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert ": error: " in last
    assert told in last
