"""README.md: its scripts exist and are all there, and its commands work, in the order given."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, SCRIPTS, run_in
from scipy.io import wavfile

README = (ROOT / "README.md").read_text()


def commands():
    """(script, options) of the lines and table cells that run a script."""
    shown = re.findall(r"\./(\w+\.py)([^;`\n#]*)", README)
    return [(script, re.findall(r"--\w+", words)) for script, words in shown]


def test_every_script_has_a_row_and_every_row_a_script():
    table = README.split("## Scripts")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| (\w+\.py) \|", table, re.MULTILINE)) == SCRIPTS
    for script, command in re.findall(r"^\| (\w+\.py) .*`\./(\w+\.py)[^`]*` \|$", table, re.MULTILINE):
        assert script == command


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_are_accepted(script, tmp_path):
    used = {option for name, options in commands() if name == script for option in options}
    known = run_in(tmp_path, script, "--help").stdout
    assert used <= set(re.findall(r"--\w+", known)), f"{script}: {used}"


def test_files_and_targets_exist():
    for picture in re.findall(r"\]\((doc/[\w.]+)\)", README):
        assert (ROOT / picture).is_file(), picture
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (demo|test|results|bench|lint|clean)\b", README):
        assert f"\n{target}:" in makefile
    assert len(commands()) > 15


def all_commands():
    """Lines of the README that a shell runs, in their order: those of code blocks and of the table of scripts."""
    lines = re.findall(r"^    ((?:\./|cp |sed ).*)|^\| \w+\.py \|.*`(.*)` \|$", README, re.MULTILINE)
    return [block or cell for block, cell in lines]


def run_here(command):
    """Run `./script.py options` in this process, which has Keras already; one epoch, a short search, few pictures."""
    name, *argv = shlex.split(command, comments=True)
    specification = importlib.util.spec_from_file_location(name[2:-3], name)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    script.PICTURES, script.KMEANS, script.ROUNDS = 2, 2500, 1  # of a film; vectors; corrections, or evaluations
    script.renumber = lambda codebook, use: np.arange(len(codebook))  # of vq_ber.py: a minute, with tests of its own
    with open(name) as file:
        known = file.read()
    argv += ["--noplots"] if "--noplots" in known and "--plot_dir" not in argv else []
    argv += ["--epochs", "1"] if "--epochs" in known and "--nnin" not in argv else []
    argv += ["--mbest", "4", "--sweeps", "1"] if "--sweeps" in known else []
    args = script.parse_args(argv)
    script.main(*([args, script.load(args)] if hasattr(script, "load") else [args]))


def test_commands_work_in_the_order_given(tmp_path, monkeypatch, capsys):
    """In a copy of the project, with a minute of speech.wav; the sample is its first 8 s."""
    ignored = shutil.ignore_patterns(".*", "demo", "results", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)
    monkeypatch.chdir(tmp_path / "copy")
    rate, sample = wavfile.read("tests/data/sample_8k.wav")
    wavfile.write("speech.wav", rate, np.tile(sample, 2))
    wavfile.write("tests/data/sample_8k.wav", rate, sample[: 8 * rate])
    for command in all_commands():
        if command.startswith("./") and ";" not in command:
            run_here(command)
            assert "nan" not in capsys.readouterr().out
        else:
            subprocess.run(["bash", "-ec", command], check=True)
    assert os.path.getsize("received.wav") > 100_000
