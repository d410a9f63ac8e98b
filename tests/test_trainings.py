"""What all trainers do alike: Ctrl-C loses nothing, the seed decides everything."""

import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import codec2_model
from common import networks, plumbing
from conftest import ROOT, call, figures, shorten, speech_like

TRAININGS = {
    "eband_train": "K14.f32 x.model",
    "ebanddec_train": "K14.f32 x.model --dec 2",
    "newamp1_train": "K20.f32 x.model",
    "vq_vae_ratek": "K14.f32 --num_embedding 8 --embedding_dim 4 --dec 8",
    "vq_vae_ratek_conv1d": "K14.f32 --num_embedding 8 --embedding_dim 4 --dec 8",
    "vq_vae_demo": "--nb_samples 1000",
    "vq_vae_demo_2stage": "--nb_samples 1000",
}


@pytest.fixture
def files(sample, tmp_path, monkeypatch, eager, one_correction):
    """300 frames in the working folder: bands, K = 20 vectors, model file."""
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch, *map(importlib.import_module, TRAININGS))
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[:300], "K14.f32")
    codec2_model.write(*codec2_model.read(sample[1], 300), "x.model")
    codec2_model.write_rate_K(speech_like(300, 20), "K20.f32")


def train(script, *options):
    """What a short training prints; its network is out.keras."""
    nnout = () if "demo" in script else ("--nnout", "out.keras")
    words = (*TRAININGS[script].split(), *options, *nnout, "--noplots")
    return call(importlib.import_module(script), *words)


@pytest.mark.parametrize("script", TRAININGS)
def test_ctrl_c_saves_and_reports(script, files, monkeypatch):
    show = plumbing.Progress.show

    def interrupted(progress, done, text):
        show(progress, done, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(plumbing.Progress, "show", interrupted)
    out = train(script, "--epochs", 3)
    assert len(re.findall(r"^\w+ \d+/\d+: ", out, re.MULTILINE)) == 1
    assert np.isfinite(figures(out)["last"])
    told = r"^(stopped: after 1 of 3 epochs|trained: 1 of 3 steps)$"
    assert re.search(told, out, re.MULTILINE)
    if "demo" not in script:
        networks.load("out.keras")


@pytest.mark.parametrize("script", [script for script in TRAININGS if "demo" not in script])
def test_ctrl_c_before_the_first_step_leaves_the_old_network(script, files, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ("fit", "train_on_batch"):
        monkeypatch.setattr(keras.Model, name, interrupted)
    Path("out.keras").write_text("a good network")
    with pytest.raises(KeyboardInterrupt):
        train(script, "--epochs", 3)
    assert Path("out.keras").read_text() == "a good network"


def test_ctrl_c_behind_a_pipe_saves(files, monkeypatch):
    """Ctrl-C kills the reader as well, that of `| tee log`, and nothing can be printed any more."""

    def interrupted(progress, done, text):
        monkeypatch.setattr(sys.stdout, "write", broken_pipe)
        print(text)

    def broken_pipe(text):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(plumbing.Progress, "show", interrupted)
    with pytest.raises(BrokenPipeError):
        train("eband_train", "--epochs", 3)
    networks.load("out.keras")


def test_a_real_ctrl_c(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup makes it ignored
    command = [sys.executable, ROOT / "vq_vae_demo.py", "--epochs", "100000", "--noplots"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        signal.signal(signal.SIGINT, before)
        epochs = 0
        while epochs < 5:  # right after the first one it was an error within TensorFlow, once
            epochs += " left" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert float(out.splitlines()[-1]) > 0


@pytest.mark.parametrize("script", TRAININGS)
def test_the_seed_decides_everything(script, files):
    results = []
    for seed in (1, 1, 2):
        out = train(script, "--epochs", 1, "--seed", seed)
        values = [line for line in out.splitlines() if not line.endswith(" left")]
        if "demo" not in script:
            values += [weights.tobytes() for weights in networks.load("out.keras").get_weights()]
            values += [array.tobytes() for array in networks.read_arrays("out.keras").values()]
        results.append(values)
    assert results[0] == results[1] != results[2]
