"""Scripts that are killed, interrupted, out of disk space or without a reader, and input that is odd but not wrong."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT, assert_refused

import codec2_model

SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
PYTHON = [sys.executable, "-c"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
OLD = b"a good file from before"


@pytest.fixture
def small(sample, tmp_path):
    """300 frames of the sample, "s.f32" and "s.model"."""
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[300:600], tmp_path / "s.f32")
    codec2_model.write(*(values[300:600] for values in codec2_model.read(sample[1])), tmp_path / "s.model")
    return "s.f32", "s.model"


def assert_whole_network(filename):
    with zipfile.ZipFile(filename) as archive:
        assert archive.testzip() is None
        assert {"config.json", "model.weights.h5", "options.json"} <= set(archive.namelist())


# ---------------------------------------------------------------- killed while writing

WRITERS = {  # each writes `out` again and again, from one source and the other
    "write": """
import codec2_model
sources = [codec2_model.read(name) for name in ("a", "b")]
while True:
    for fields in sources:
        codec2_model.write(*fields, "out")
""",
    "write_rate_K": """
import codec2_model
sources = [codec2_model.read_rate_K(name, 325) for name in ("a", "b")]
while True:
    for vectors in sources:
        codec2_model.write_rate_K(vectors, "out")
""",
    "c2sim": """
import c2sim
while True:
    for name in "a", "b":
        c2sim.main(["--modelin", name, "--modelout", "out"])
""",
    "eband_train": """
import os
import keras
import codec2_model
os.link("out", "out.keras")
os.symlink("out.keras", "link")
os.rename("link", "out")  # which is there all the time
while True:
    for seed in 1, 2:
        keras.utils.set_random_seed(seed)
        network = keras.Sequential([keras.Input((14,)), keras.layers.Dense(2000), keras.layers.Dense(128)])
        for i in range(100):
            codec2_model.save_network(network, {"seed": seed}, "out.keras")
""",
}


@contextlib.contextmanager
def running(code, folder):
    """The process of a Python program, which ends in the hard way."""
    process = subprocess.Popen([*PYTHON, code], cwd=folder, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_while_writing(writer, sample, tmp_path):
    """A process that is stopped leaves on the disk what one that is killed there would have left."""
    records = np.frombuffer(sample[1].read_bytes(), codec2_model.RECORD)
    contents = [records.tobytes(), records[::-2].tobytes()]
    for name, content in zip("ab", contents, strict=True):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out").write_bytes(contents[0])
    rng = np.random.default_rng(1)
    midway = 0
    with running(WRITERS[writer], tmp_path) as process:
        while (tmp_path / "out").read_bytes() == contents[0]:  # until it is written for the first time
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        for _ in range(20):
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            midway += any(name.startswith(".out.") for name in os.listdir(tmp_path))
            if writer == "eband_train":
                assert_whole_network(tmp_path / "out")
            else:
                assert (tmp_path / "out").read_bytes() in contents
            process.send_signal(signal.SIGCONT)
    assert midway, "never stopped while a file was being written: the test tests nothing"
    if writer == "eband_train":
        assert keras.models.load_model(tmp_path / "out.keras", compile=False).count_params() == 15 * 2000 + 2001 * 128
    else:
        assert (tmp_path / "out").read_bytes() in contents


# ---------------------------------------------------------------- disk full

FULL = [  # arguments, output, most bytes that can be written to a file
    (["c2sim.py", SAMPLE, "--bands", "out.f32"], "out.f32", 1000),
    (["c2sim.py", SAMPLE, "--rateK", "--rateKout", "out.f32"], "out.f32", 100_000),
    (["c2sim.py", SAMPLE, "-o", "out.wav"], "out.wav", 20),
    (["c2sim.py", SAMPLE, "-o", "out.wav"], "out.wav", 100_000),
    (["vq_pager.py", 14, "s.f32", "--plot_dir", "."], "vq_pager_1.png", 5000),
    (["codec2_model.py", "s.model", "--plot_dir", "."], "codec2_model.png", 5000),
    (["eband_train.py", "s.f32", "s.model", "--epochs", 1, "--noplots", "--nnout", "out.keras"], "out.keras", 100_000),
]


def limit(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("arguments", "out", "size"), FULL)
def test_disk_full(arguments, out, size, small, run, tmp_path):
    """A limit to the size of files stands for the full disk."""
    (tmp_path / out).write_bytes(OLD)
    before = set(tmp_path.iterdir())
    result = run(*arguments, preexec_fn=limit(size), timeout=120)
    assert result.returncode == 1, result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"{arguments[0]}: error: ")
    assert out in error
    assert "File too large" in error
    assert "Traceback" not in result.stderr
    assert (tmp_path / out).read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("call", ["write(*codec2_model.read('s.model'), 'out')", "write_rate_K([[1.0] * 9999], 'out')"])
def test_disk_full_for_the_functions_that_write(call, small, tmp_path):
    (tmp_path / "out").write_bytes(OLD)
    before = set(tmp_path.iterdir())
    code = f"import codec2_model; codec2_model.plain_errors(); codec2_model.{call}"
    command = [*PYTHON, code]
    result = subprocess.run(
        command, cwd=tmp_path, env=ENV, capture_output=True, text=True, preexec_fn=limit(5000), timeout=60
    )
    assert result.returncode == 1
    assert result.stderr.startswith("-c: error: out: ")
    assert result.stderr.count("\n") == 1
    assert "None" not in result.stderr
    assert (tmp_path / "out").read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- Ctrl-C

INTERRUPT = """
import os, runpy, signal, sys
import keras

epoch_wanted, times = int(sys.argv[1]), int(sys.argv[2])

def interrupt(self, epoch, logs=None):
    global times
    while epoch == epoch_wanted and times:
        times -= 1
        os.kill(os.getpid(), signal.SIGINT)

keras.callbacks.Callback.on_epoch_begin = interrupt
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def interrupted(epoch, times, folder):
    """eband_train for 3 epochs, with so many Ctrl-C at the start of an epoch: exactly there, on any machine."""
    options = ("--epochs", 3, "--noplots", "--nnout", "out.keras")
    command = [*PYTHON, INTERRUPT, epoch, times, ROOT / "eband_train.py", "s.f32", "s.model", *options]
    return subprocess.run(map(str, command), cwd=folder, env=ENV, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("epoch", [0, 2])  # for one in the middle see test_eband_train.py
def test_ctrl_c_keeps_what_there_is(epoch, small, tmp_path):
    result = interrupted(epoch, 1, tmp_path)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len([line for line in lines if line.startswith("stopping")]) == 1
    assert len([line for line in lines if line.startswith("epoch")]) == epoch + 1
    assert f"held-out network SD: {lines[-1]} dB²" in lines
    assert np.isfinite(float(lines[-1]))
    assert_whole_network(tmp_path / "out.keras")
    network = keras.models.load_model(tmp_path / "out.keras", compile=False)
    assert all(np.isfinite(values).all() for values in network.get_weights())


@pytest.mark.parametrize("script", ["eband_train.py", "newamp1_train.py"])
def test_ctrl_c_while_the_network_is_saved(script, small, tmp_path):
    codec2_model.write_rate_K(np.random.default_rng(1).normal(30, 8, (300, 20)), tmp_path / "K.f32")
    code = """
import os, runpy, signal, sys
import codec2_model
save_network = codec2_model.save_network
def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    save_network(*arguments)
codec2_model.save_network = interrupted
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    features = "s.f32" if script == "eband_train.py" else "K.f32"
    command = [*PYTHON, code, ROOT / script, features, "s.model", "--epochs", 1, "--noplots", "--nnout", "out.keras"]
    result = subprocess.run(map(str, command), cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert np.isfinite(float(result.stdout.splitlines()[-1]))
    assert_whole_network(tmp_path / "out.keras")


def test_second_ctrl_c_aborts(small, tmp_path):
    (tmp_path / "out.keras").write_bytes(OLD)
    before = set(tmp_path.iterdir())
    result = interrupted(1, 2, tmp_path)
    assert result.returncode == -signal.SIGINT
    assert "Traceback" not in result.stderr
    assert "held-out network" not in result.stdout
    assert (tmp_path / "out.keras").read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- nobody reads

PIPES = [
    ("codec2_model.py", "s.model", "--noplots"),
    ("c2sim.py", SAMPLE, "-o", "-"),
    ("vq_pager.py", 14, "s.f32", "--plot_dir", "."),
    ("vq_vae_demo.py", "--epochs", 50, "--nb_samples", 2000, "--noplots"),
    ("eband_train.py", "s.f32", "s.model", "--epochs", 50, "--noplots", "--nnout", "out.keras"),
]


@pytest.mark.parametrize("command", PIPES)
def test_closed_stdout_is_quiet(command, small, tmp_path):
    """As with `| head -1`: no traceback, and no half a file."""
    arguments = [sys.executable, ROOT / command[0], *map(str, command[1:])]
    with subprocess.Popen(arguments, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=120)
    assert b"Traceback" not in errors
    assert b"Exception" not in errors
    assert process.returncode in (0, 1)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    if (tmp_path / "out.keras").exists():
        assert_whole_network(tmp_path / "out.keras")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("command", PIPES[:3])
def test_stdout_on_a_full_disk(command, small, run):
    with open("/dev/full", "w") as full:
        assert_refused(run(*command, stdout=full), "No space left")


# ---------------------------------------------------------------- odd names, odd speech


def assert_quiet(result):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert not {"nan", "inf"} & set((result.stdout or "").split())


def write_speech(filename, samples):
    np.asarray(samples, "<i2").tofile(filename)


@pytest.fixture(scope="module")
def odd_speech():
    square = np.where(np.arange(8000) // 40 % 2, 32767, -32768)
    return {"one_sample": [1000], "one_frame": square[:80], "silence": np.zeros(8000), "square": square}


@pytest.mark.parametrize("name", ["one_sample", "one_frame", "silence", "square"])
def test_odd_speech_goes_through(name, odd_speech, run, tmp_path):
    write_speech(tmp_path / "x.raw", odd_speech[name])
    nb_frames = -(-len(odd_speech[name]) // 80)
    outputs = ("--rateKout", "x.f32", "--modelout", "x.model", "-o", "x.wav")
    for command in (
        ("c2sim.py", "x.raw", "--rateK", "--phase0", "--postfilter", *outputs),
        ("c2sim.py", "--modelin", "x.model", "-o", "y.wav"),
        ("codec2_model.py", "x.model", "--plot_dir" if name == "silence" else "--noplots", *["."][: name == "silence"]),
    ):
        result = run(*command, timeout=60)
        assert_quiet(result)
        assert result.stderr == ""
    assert (tmp_path / "x.model").stat().st_size == 1300 * nb_frames
    assert (tmp_path / "y.wav").stat().st_size == 44 + 160 * nb_frames


def test_odd_names_links_and_one_frame(small, odd_speech, run, tmp_path):
    """From speech to speech, through files with spaces and other letters in their names and through links."""
    folder = tmp_path / "Grüße an alle"
    folder.mkdir()
    link = tmp_path / "Sprache ü.wav"
    link.symlink_to(SAMPLE)
    network, linked = tmp_path / "Netz – 1.keras", folder / "dort.keras"
    linked.write_bytes(OLD)
    network.symlink_to(linked)
    bands, model, out = folder / "Bänder 14.f32", folder / "日本 %s {x}.model", folder / "-heraus.model"
    assert_quiet(run("c2sim.py", link, "--bands", bands, "--bands_lower", 10, "--modelout", model))
    plots = folder / "Bilder"
    options = ("--nb_samples", 400, "--epochs", 1, "--Wo", "--nnout", network, "--noplots")
    assert_quiet(run("eband_train.py", bands, model, *options))
    assert network.is_symlink()
    assert_whole_network(linked)
    assert_quiet(run("codec2_model.py", model, "--plot_dir", plots))
    assert_quiet(run("vq_pager.py", 14, bands, "--plot_dir", plots))
    options = ("--nb_samples", 1, "--dec", 99999999999999999999, "--modelout", out, "--noplots")
    assert_quiet(run("eband_out.py", network, bands, model, *options))
    assert out.stat().st_size == 1300
    assert_quiet(run("c2sim.py", "--modelin", out, "-o", folder / "y.wav"))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
