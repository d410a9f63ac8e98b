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

LESS = ("--noplots", "--mbest", "2", "--sweeps", "1")
TRAIN = [
    ("eband_train", "s.f32", "s.model", "--epochs", "30", "--noplots", "--nnout", "{0}.keras"),
    ("vq_vae_ratek_conv1d", "s.f32", "--num_embedding", "16", "--epochs", "8", *LESS, "--nnout", "{0}_vq.keras"),
]
USE = [
    ("eband_out", "{0}.keras", "s.f32", "s.model", "--noplots", "--modelout", "{0}_by_{1}.model"),
    ("vq_vae_ratek_conv1d", "s.f32", "--nnin", "{0}_vq.keras", *LESS, "--testout", "{0}_by_{1}.f32"),
]


def run_here(commands, *names):
    """Figures that scripts print, called one after the other in this process."""
    printed = []
    for command in commands:
        script, *arguments = [word.format(*names) for word in command]
        module = importlib.import_module(script)
        module.KMEANS = 2000  # vectors, instead of 60,000
        args = module.parse_args(arguments)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            module.main(args, module.load(args))
        printed.append(figures(out.getvalue()))
    return printed


def in_jax():
    """Run by the test below in a process of its own: train, use these networks, and those of TensorFlow."""
    assert keras.backend.backend() == "jax"
    compile_model = keras.Model.compile  # JAX compiles ten steps ten times as long as one
    keras.Model.compile = lambda *model, **options: compile_model(*model, **{**options, "steps_per_execution": 1})
    return [run_here(TRAIN, "jax"), run_here(USE, "jax", "jax"), run_here(USE, "tensorflow", "jax")]


def test_networks_run_in_the_other_backend(sample, tmp_path, monkeypatch):
    pytest.importorskip("jax")
    assert keras.backend.backend() == "tensorflow"
    monkeypatch.chdir(tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[:600], "s.f32")
    codec2_model.write(*(values[:600] for values in codec2_model.read(sample[1])), "s.model")
    trained, own = run_here(TRAIN, "tensorflow"), run_here(USE, "tensorflow", "tensorflow")
    env = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    jax_trained, jax_own, of_tensorflow = json.loads(result.stdout.splitlines()[-1])
    of_jax = run_here(USE, "jax", "tensorflow")
    for one, other in zip(own + jax_own, of_tensorflow + of_jax, strict=True):
        assert one.keys() == other.keys()
        assert one["last"] == pytest.approx(other["last"], rel=0.01)
    for one, other in zip(trained, jax_trained, strict=True):  # with other random numbers
        assert one["last"] == pytest.approx(other["last"], rel=0.15)
    for network in ("tensorflow", "jax"):
        one, other = (codec2_model.read_floats(f"{network}_by_{backend}.f32", 14) for backend in ("tensorflow", "jax"))
        assert np.mean(np.abs(one - other) > 0.01) < 0.02  # where two codewords are equally near


if __name__ == "__main__":
    print(json.dumps(in_jax()))
