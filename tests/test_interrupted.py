"""Scripts that are interrupted, out of disk space or without a reader: nothing good is lost."""

import importlib
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

import codec2_model
from common import networks, plumbing
from conftest import ROOT, SCRIPTS, assert_refused, figures

pytestmark = pytest.mark.usefixtures("eager")

SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
OLD = b"a good file from before"


@pytest.fixture
def small(sample, tmp_path, monkeypatch, one_correction):
    """300 frames of the sample in the working folder: bands, K = 20 vectors, model file."""
    monkeypatch.chdir(tmp_path)
    model = codec2_model.read(sample[1])
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[300:600], "s.f32")
    codec2_model.write(*(values[300:600] for values in model), "s.model")
    K20 = np.random.default_rng(1).normal(30, 8, (300, 20))
    codec2_model.write_rate_K(K20, "K20.f32")


def main(script, *arguments):
    """Run a script as its user does, but in this process."""
    module = importlib.import_module(script)
    args = module.parse_args(list(map(str, arguments)))
    module.main(args, module.load(args)) if hasattr(module, "load") else module.main(args)


# ---------------------------------------------------------------- Ctrl-C

OPTIONS = ["--epochs", "3", "--noplots", "--nnout", "out.keras"]
QUANTISER = "s.f32 --num_embedding 8 --embedding_dim 4"
TRAININGS = {
    "eband_train": "s.f32 s.model",
    "ebanddec_train": "s.f32 s.model --dec 2",
    "newamp1_train": "K20.f32 s.model",
    "vq_vae_ratek": QUANTISER,
    "vq_vae_ratek_conv1d": QUANTISER,
}


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C when the training reports its first epoch."""
    show = plumbing.Progress.show

    def interrupted(progress, done, text):
        show(progress, done, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(plumbing.Progress, "show", interrupted)


@pytest.mark.usefixtures("small", "ctrl_c")
@pytest.mark.parametrize("script", TRAININGS)
def test_ctrl_c_saves_and_reports(script, tmp_path, capsys):
    main(script, *TRAININGS[script].split(), *OPTIONS)
    out = capsys.readouterr().out
    assert len(re.findall(r"^\w+ \d+/\d+: ", out, re.MULTILINE)) == 1
    assert re.search(r"^(stopped: after 1 of 3 epochs|trained: 1 steps)$", out, re.MULTILINE)
    assert np.isfinite(float(figures(out)["last"]))
    networks.load(tmp_path / "out.keras")


class NoReader:
    """A pipe whose reader Ctrl-C has killed, too, as that of `| tee log`."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        pass

    def isatty(self):
        return False


@pytest.mark.usefixtures("small", "ctrl_c")
@pytest.mark.parametrize("script", TRAININGS)
def test_ctrl_c_behind_a_pipe_saves(script, tmp_path, monkeypatch):
    module = importlib.import_module(script)
    args = module.parse_args([*TRAININGS[script].split(), *OPTIONS])
    data = module.load(args)

    def interrupted(progress, done, text):
        monkeypatch.setattr(sys, "stdout", NoReader())
        raise KeyboardInterrupt

    monkeypatch.setattr(plumbing.Progress, "show", interrupted)
    with pytest.raises(BrokenPipeError):
        module.main(args, data)
    monkeypatch.undo()
    networks.load(tmp_path / "out.keras")


def test_ctrl_c_that_was_ignored_stays_ignored():
    """As under nohup, or `trap '' INT`: no script touches signals."""
    for script in [*(ROOT / name for name in SCRIPTS), *(ROOT / "common").glob("*.py")]:
        assert "import signal" not in script.read_text(), script


# ---------------------------------------------------------------- disk full


@pytest.mark.parametrize("size", [100, 20_000])
def test_disk_full(size, run, tmp_path):
    """A limit to the size of files stands for the full disk: none of several outputs changes."""
    for name in ("out.f32", "out.wav"):
        (tmp_path / name).write_bytes(OLD)
    limits = (size, size)
    arguments = (SAMPLE, "--bands", "out.f32", "-o", "out.wav")
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)}
    result = run("c2sim.py", *arguments, **full)
    assert_refused(result, "out.", "File too large")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "out.f32": OLD,
        "out.wav": OLD,
    }


def test_disk_full_for_a_network(tmp_path, monkeypatch):
    """The name that is told is that of the file, not of the new one beside it."""
    import keras

    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    (tmp_path / "out.keras").write_bytes(OLD)

    def save(new):
        raise OSError(28, "No space left on device", new)

    monkeypatch.setattr(network, "save", save)
    with pytest.raises(OSError, match="No space") as error:
        networks.save(network, {}, tmp_path / "out.keras")
    assert error.value.filename == tmp_path / "out.keras"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [OLD]


# ---------------------------------------------------------------- nobody reads

PIPES = [("codec2_model.py", "s.model", "--noplots"), ("c2sim.py", SAMPLE, "-o", "-")]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("command", PIPES)
def test_closed_stdout_is_quiet(command, tmp_path):
    """As with `| head -1`: no complaint, and no half a file."""
    arguments = [sys.executable, ROOT / command[0], *map(str, command[1:])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=tmp_path, **pipes) as process:
        process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read().decode()
        process.wait(timeout=120)
    known = ("frames: ", f"{SAMPLE}: ")
    assert not [line for line in errors.splitlines() if not line.startswith(known)]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("command", PIPES)
def test_stdout_on_a_full_disk(command, run):
    with open("/dev/full", "w") as full:
        result = run(*command, stdout=full)
    assert result.returncode != 0
    assert f"{command[0]}: error: output: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
