"""TensorFlow (in this process) and JAX: each runs the networks of the other; the figures agree."""

import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import codec2_model
from conftest import ROOT, call, figures, shorten, write_quantiser

BANDS = ROOT / "networks" / "bands_Wo.keras"  # trained by TensorFlow
SMALL = ("--num_embedding", "16", "--epochs", "2", "--noplots")
TRAIN = [
    ("eband_train", "s.f32", "s.model", "--epochs", "2", "--noplots", "--nnout", "jax.keras"),
    ("vq_vae_ratek_conv1d", "s.f32", *SMALL, "--nnout", "vq_jax.keras"),
]
USE = [
    ("eband_out", BANDS, "s.f32", "s.model", "--noplots"),
    ("eband_out", "jax.keras", "s.f32", "s.model", "--noplots"),
    ("vq_out", "vq.keras", "s.f32", "--noplots", "--testout", "1_{}.f32"),
    ("vq_out", "vq_jax.keras", "s.f32", "--noplots", "--testout", "2_{}.f32"),
]


def run_here(patch, *commands):
    """Figures that scripts print, called one after the other in this process, shortened."""
    printed = []
    for name, *arguments in commands:
        script = importlib.import_module(name)
        shorten(patch, script)
        patch.setattr(script, "CORRECTIONS", 1, raising=False)
        words = [str(word).format(keras.backend.backend()) for word in arguments]
        printed.append(figures(call(script, *words)))
    return printed


def in_jax():
    """Run by the test below in a process of its own: train, use these networks and TensorFlow's."""
    assert keras.backend.backend() == "jax"
    compile_model = keras.Model.compile

    def compile_one_step(*model, **options):  # JAX compiles ten steps ten times as long as one
        return compile_model(*model, **{**options, "steps_per_execution": 1})

    keras.Model.compile = compile_one_step
    return run_here(pytest.MonkeyPatch(), *TRAIN, *USE)[len(TRAIN) :]


def test_networks_run_in_the_other_backend(sample, tmp_path, monkeypatch):
    pytest.importorskip("jax")
    assert keras.backend.backend() == "tensorflow"
    monkeypatch.chdir(tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[:600], "s.f32")
    codec2_model.write(*(values[:600] for values in codec2_model.read(sample[1])), "s.model")
    write_quantiser("vq.keras")
    env = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, __file__]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    by_jax = json.loads(result.stdout.splitlines()[-1])
    for one, other in zip(by_jax, run_here(monkeypatch, *USE), strict=True):
        assert one.keys() == other.keys()
        assert one["last"] == pytest.approx(other["last"], rel=0.01)
    for name in ("1", "2"):
        files = (f"{name}_{backend}.f32" for backend in ("tensorflow", "jax"))
        one, other = (codec2_model.read_floats(file, 14) for file in files)
        assert np.mean(np.abs(one - other) > 0.01) < 0.05  # where two paths are equally good


if __name__ == "__main__":
    print(json.dumps(in_jax()))
