"""TensorFlow (in this process) and JAX: each runs the networks that the other has trained, and the figures agree."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys

import codec2_model

import keras
import numpy as np
import pytest
from conftest import ROOT, figures

QUIET = ("--noplots", "--mbest", "2", "--sweeps", "1")
BANDS, VQ = ROOT / "networks" / "bands_Wo.keras", ROOT / "networks" / "vq_K14_1100.keras"  # trained by TensorFlow
TRAIN = [
    ("eband_train", "s.f32", "s.model", "--epochs", "30", "--noplots", "--nnout", "jax.keras"),
    ("vq_vae_ratek_conv1d", "s.f32", "--num_embedding", "16", "--epochs", "2", *QUIET, "--nnout", "vq_jax.keras"),
]
USE = [
    ("eband_out", BANDS, "s.f32", "s.model", "--noplots"),
    ("eband_out", "jax.keras", "s.f32", "s.model", "--noplots"),
    ("vq_vae_ratek_conv1d", "s.f32", "--nnin", VQ, *QUIET, "--testout", "1_{}.f32"),
    ("vq_vae_ratek_conv1d", "s.f32", "--nnin", "vq_jax.keras", *QUIET, "--testout", "2_{}.f32"),
]


def run_here(*commands):
    """Figures that scripts print, called one after the other in this process."""
    printed = []
    for script, *arguments in commands:
        module = importlib.import_module(script)
        module.KMEANS, module.ROUNDS = 2000, 1  # vectors, instead of 60,000; corrections, or evaluations
        args = module.parse_args([str(word).format(keras.backend.backend()) for word in arguments])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            module.main(args, module.load(args))
        printed.append(figures(out.getvalue()))
    return printed


def in_jax():
    """Run by the test below in a process of its own: train, use these networks, and those of TensorFlow."""
    assert keras.backend.backend() == "jax"
    compile_model = keras.Model.compile  # JAX compiles ten steps ten times as long as one
    keras.Model.compile = lambda *model, **options: compile_model(*model, **{**options, "steps_per_execution": 1})
    return [run_here(*TRAIN), run_here(*USE)]


def test_networks_run_in_the_other_backend(sample, tmp_path, monkeypatch):
    pytest.importorskip("jax")
    assert keras.backend.backend() == "tensorflow"
    monkeypatch.chdir(tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[:600], "s.f32")
    codec2_model.write(*(values[:600] for values in codec2_model.read(sample[1])), "s.model")
    env = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    result = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    trained, by_jax = json.loads(result.stdout.splitlines()[-1])
    for one, other in zip(by_jax, run_here(*USE), strict=True):
        assert one.keys() == other.keys()
        assert one["last"] == pytest.approx(other["last"], rel=0.01)
    for name in ("1", "2"):
        one, other = (codec2_model.read_floats(f"{name}_{backend}.f32", 14) for backend in ("tensorflow", "jax"))
        assert np.mean(np.abs(one - other) > 0.01) < 0.02  # where two codewords are equally near
    (by_tensorflow,) = run_here(TRAIN[0])  # with other random numbers
    assert trained[0]["last"] == pytest.approx(by_tensorflow["last"], rel=0.15)


if __name__ == "__main__":
    print(json.dumps(in_jax()))
