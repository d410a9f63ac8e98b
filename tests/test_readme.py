"""README.md: its scripts are all there, its commands work, its figure is what a reader gets."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.io import wavfile

from common import search
from conftest import ROOT, SCRIPTS, call, shorten

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "networks" / "README.md", *sorted((ROOT / "doc").glob("*.md"))]
MAX_WORDS = 1600


def commands():
    """(script, options) of the lines and table cells that run a script."""
    shown = re.findall(r"\./(\w+\.py)([^;`\n#|]*)", README)
    return [(script, re.findall(r"--\w+", words)) for script, words in shown]


def test_every_script_has_a_row_and_every_row_a_script():
    table = README.split("## Scripts")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| (\w+\.py) \|", table, re.MULTILINE)) == SCRIPTS
    row = r"^\| (\w+\.py) .*`\./(\w+\.py)[^`]*` \|$"
    for script, command in re.findall(row, table, re.MULTILINE):
        assert script == command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_and_pictures_exist(page):
    text = page.read_text()
    for name in re.findall(r"\]\((?!https?:)([\w./-]+)\)", text):
        assert (page.parent / name).is_file(), name
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


def test_length_and_targets():
    words = [word for word in README.split() if re.search(r"\w", word)]  # no bars of tables
    assert len(words) <= MAX_WORDS
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (demo|test|results|results-train|bench|lint)\b", README):
        assert f"\n{target}:" in makefile
    assert len(commands()) > 25


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_are_accepted(script, capsys):
    used = {option for name, options in commands() if name == script for option in options}
    with pytest.raises(SystemExit):
        importlib.import_module(script.removesuffix(".py")).parse_args(["--help"])
    assert used <= set(re.findall(r"--\w+", capsys.readouterr().out)), f"{script}: {used}"


PROMISED = "vq_K20_1100.keras speech_K.f32"  # the command whose figure the README tells


def all_commands():
    """Lines of the README that a shell runs, in their order: of code blocks and of the table."""
    pattern = r"^    ((?:\./|cp |sed ).*)|^\| \w+\.py \|.*`(.*)` \|$"
    return [block or cell for block, cell in re.findall(pattern, README, re.MULTILINE)]


def run_here(command, patch):
    """What `./script.py options` prints in this process, which has Keras already; short trainings
    and searches, few pictures.
    """
    name, *argv = shlex.split(command, comments=True)
    text = Path(name).read_text()
    specification = importlib.util.spec_from_file_location(name[2:-3], name)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    shorten(patch, script)
    patch.setattr("common.plots.PAGES_WITHOUT_DISPLAY", 1)
    if name == "./vq_ber.py":  # a minute, with tests of its own
        patch.setattr(script, "REPEATS", 1)
        patch.setattr(script, "renumber", lambda codebook, use: np.arange(len(codebook)))
        argv += ["--nb_samples", 100, "--ber", 1]
    if name == "./vq_out.py":
        if PROMISED in command:
            patch.undo()
            patch.setattr(search, "PATHS", 8)  # a quarter of the usual ones, SD is 0.1 more
            tf.config.run_functions_eagerly(False)  # compiling pays for a long search
        elif "--indexin" not in argv:
            argv += ["--mbest", 2]
        if "train.f32" in argv:
            argv += ["--nb_samples", 200]
        patch.setattr(search, "baseline_of", lambda quantiser: None)
    if '"--noplots"' in text and not {"--noplots", "--plot_dir", "--indexin"} & set(argv):
        argv.append("--noplots")
    few = {"--nb_samples": 2000} if "demo" in name else {"--num_embedding": 16}
    for option, value in ({"--epochs": 1} | few).items():
        if '"--epochs"' in text and f'"{option}"' in text:
            argv += [option, value]  # the last one counts
    return call(script, *argv)


def test_commands_work_in_the_order_given(tmp_path, monkeypatch, eager):
    """In a copy of the project, with 4 s of speech; the arecord line needs a microphone."""
    ignored = shutil.ignore_patterns(".*", "demo", "results", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)
    monkeypatch.chdir(tmp_path / "copy")
    rate, sample = wavfile.read("tests/data/sample_8k.wav")
    wavfile.write("speech.wav", rate, sample[: 4 * rate])
    wavfile.write("my.wav", rate, sample[: 2 * rate])
    os.mkdir("my_recordings")
    for i in range(2):
        wavfile.write(f"my_recordings/{i}.wav", rate, sample[: 3 * rate])
    [promised] = re.findall(r"last line is ([\d.]+), its SD in dB²", README)
    found = None
    for command in all_commands():
        if command.startswith("./"):
            with monkeypatch.context() as patch:
                printed = run_here(command.partition(";")[0], patch)
            assert "nan" not in printed
            tf.config.run_functions_eagerly(True)
            if PROMISED in command:
                found = float(printed.splitlines()[-1])
                wavfile.write("tests/data/sample_8k.wav", rate, sample[: 3 * rate])
        else:
            subprocess.run(["bash", "-ec", command], check=True)
    scripts = (Path("my_quantiser.py"), Path("vq_vae_ratek_conv1d.py"))
    mine, original = (path.read_text().splitlines() for path in scripts)
    assert len(mine) == len(original) + 1  # the convolution is there
    assert found == pytest.approx(float(promised), abs=0.15)
    assert os.path.getsize("received.wav") > 30_000
    assert os.path.getsize("my.bit") == 8 + 2 * 25 * 28 // 8
