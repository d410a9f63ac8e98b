"""Scripts that are killed, interrupted, out of disk space or without a reader, and input that is odd but not wrong."""

import contextlib
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile

import codec2_model
import plumbing

import keras
import numpy as np
import pytest
from conftest import ROOT, assert_refused, figures

pytestmark = pytest.mark.usefixtures("eager")

SAMPLE = ROOT / "tests" / "data" / "sample_8k.wav"
OLD = b"a good file from before"


@pytest.fixture
def small(sample, tmp_path, monkeypatch, one_correction):
    """300 frames of the sample, "s.f32" and "s.model", in the working folder."""
    monkeypatch.chdir(tmp_path)
    codec2_model.write_rate_K(codec2_model.read_rate_K(sample[0], 14)[300:600], "s.f32")
    codec2_model.write(*(values[300:600] for values in codec2_model.read(sample[1])), "s.model")
    return "s.f32", "s.model"


def main(script, *arguments):
    """Run a script as its user does, but in this process."""
    module = importlib.import_module(script)
    args = module.parse_args(list(map(str, arguments)))
    module.main(args, module.load(args)) if hasattr(module, "load") else module.main(args)


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
sources = [codec2_model.read_floats(name, 325) for name in ("c", "d")]
while True:
    for vectors in sources:
        codec2_model.write_rate_K(vectors, "out")
""",
    "c2sim": """
import c2sim
while True:
    for name in "a", "b":
        c2sim.main(c2sim.parse_args(["--modelin", name, "--modelout", "out"]))
""",
    "save_network": """
import shutil
import plumbing
class Network:
    def get_weights(self):
        return []
    def set_weights(self, weights):
        pass
    def save(self, name):
        shutil.copy(self.source, name)
while True:
    for Network.source in "a.zip", "b.zip":
        plumbing.save_network(Network(), {"dec": 1}, "out")
""",
}


@contextlib.contextmanager
def running(code, folder):
    """The process of a Python program, which ends in the hard way."""
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_while_writing(writer, sample, tmp_path):
    """A process that is stopped leaves on the disk what one that is killed there would have left."""
    records = np.frombuffer(sample[1].read_bytes(), codec2_model.RECORD)
    vectors = np.random.default_rng(1).normal(size=(len(records), 325)).astype("<f4")
    contents = [data.tobytes() for data in (records, records[::-2], vectors, vectors[::-2])]
    for name, content in zip("abcd", contents, strict=True):
        (tmp_path / name).write_bytes(content)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("config.json", content)
            archive.writestr("model.weights.h5", content)
    (tmp_path / "out").write_bytes(OLD)
    rng = np.random.default_rng(1)
    midway = 0
    with running(WRITERS[writer], tmp_path) as process:
        while (tmp_path / "out").read_bytes() == OLD:  # until it is written for the first time
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        for _ in range(10):
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            midway += any(name.startswith(".new_") for name in os.listdir(tmp_path))
            if writer == "save_network":
                assert_whole_network(tmp_path / "out")
            else:
                assert (tmp_path / "out").read_bytes() in contents
            process.send_signal(signal.SIGCONT)
    assert midway, "never stopped while a file was being written: the test tests nothing"


# ---------------------------------------------------------------- disk full

FULL = [  # arguments, output, most bytes that can be written to a file
    (["c2sim.py", SAMPLE, "--bands", "out.f32"], "out.f32", 1000),
    (["c2sim.py", SAMPLE, "-o", "out.wav"], "out.wav", 20),
    (["c2sim.py", SAMPLE, "-o", "out.wav"], "out.wav", 100_000),
    (["c2sim.py", "--modelin", "s.model", "--modelout", "out.model"], "out.model", 20_000),
    (["vq_pager.py", 14, "s.f32", "--plot_dir", "."], "vq_pager_1.png", 5000),
]


def limit(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("arguments", "out", "size"), FULL)
def test_disk_full(arguments, out, size, small, run, tmp_path):
    """A limit to the size of files stands for the full disk."""
    (tmp_path / out).write_bytes(OLD)
    before = set(tmp_path.iterdir())
    result = run(*arguments, preexec_fn=limit(size), timeout=120)
    assert_refused(result, out, "File too large")
    assert (tmp_path / out).read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


def test_disk_full_for_the_functions_that_write(small, tmp_path):
    (tmp_path / "out").write_bytes(OLD)
    before = set(tmp_path.iterdir())
    code = """
import codec2_model, numpy, plumbing
class Network:
    def get_weights(self):
        return []
    def set_weights(self, weights):
        pass
    def save(self, name):
        open(name, "wb").write(bytes(10_000))
for write, *data in (
    (plumbing.save_network, Network(), {}),
    (codec2_model.write, *codec2_model.read("s.model")),
    (codec2_model.write_rate_K, [[1.0] * 9999]),
    (codec2_model.write_indices, numpy.zeros((9999, 2)), 9999),
):
    try:
        write(*data, "out")
    except OSError as error:
        assert error.filename == "out", error
    else:
        raise AssertionError(write)
"""
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, preexec_fn=limit(5000), timeout=60)
    assert (tmp_path / "out").read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- Ctrl-C

TRAINING = ("eband_train", "s.f32", "s.model", "--epochs", 3, "--noplots", "--nnout", "out.keras")


@pytest.fixture
def press(monkeypatch, usual_signals):
    """press(step, times): Ctrl-C after that training step, so many times."""
    train_on_batch = keras.Model.train_on_batch

    def press(step, times):
        def interrupted(*arguments):
            result = train_on_batch(*arguments)
            interrupted.steps += 1
            for _ in range(times if interrupted.steps == step else 0):
                signal.raise_signal(signal.SIGINT)
            return result

        interrupted.steps = 0
        monkeypatch.setattr(keras.Model, "train_on_batch", interrupted)

    return press


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (5, 3)])  # an epoch has two steps
def test_ctrl_c_keeps_what_there_is(step, epoch, press, small, capsys):
    press(step, times=1)
    main(*TRAINING)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines.count("stopping, Ctrl-C again aborts") == 1
    assert len([line for line in lines if line.startswith("epoch ")]) == epoch
    assert np.isfinite(float(figures(out)["last"]))
    assert_whole_network("out.keras")
    plumbing.load_network("out.keras")


def test_second_ctrl_c_aborts(press, small, tmp_path, capsys):
    (tmp_path / "out.keras").write_bytes(OLD)
    before = set(tmp_path.iterdir())
    press(2, times=2)
    with pytest.raises(KeyboardInterrupt):
        main(*TRAINING)
    assert "SD" not in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "out.keras").read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


def test_ctrl_c_while_the_network_is_saved(small, tmp_path, capsys, usual_signals):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    save = network.save

    def interrupted(name):
        signal.raise_signal(signal.SIGINT)
        save(name)

    network.save = interrupted
    plumbing.save_network(network, {}, "out.keras")
    assert_whole_network("out.keras")
    assert "stopping" in capsys.readouterr().out


# ---------------------------------------------------------------- nobody reads

PIPES = [
    ("codec2_model.py", "s.model", "--noplots"),
    ("c2sim.py", SAMPLE, "-o", "-"),
    ("vq_pager.py", 14, "s.f32", "--plot_dir", "."),
    ("vq_vae_demo.py", "--epochs", 50, "--nb_samples", 2000, "--noplots"),
]


@pytest.mark.parametrize("command", PIPES)
def test_closed_stdout_is_quiet(command, small, tmp_path):
    """As with `| head -1`: no word, and no half a file."""
    arguments = [sys.executable, ROOT / command[0], *map(str, command[1:])]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read().decode()
        process.wait(timeout=120)
    assert not [line for line in errors.splitlines() if not line.startswith("frames: ")]
    assert process.returncode in (0, 1)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("command", PIPES[:2])
def test_stdout_on_a_full_disk(command, small, run):
    with open("/dev/full", "w") as full:
        assert_refused(run(*command, stdout=full), "No space left")


# ---------------------------------------------------------------- odd names, odd speech


@pytest.fixture(scope="module")
def odd_speech():
    square = np.where(np.arange(8000) // 40 % 2, 32767, -32768)
    return {"one_sample": [1000], "one_frame": square[:80], "silence": np.zeros(8000), "square": square}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["one_sample", "one_frame", "silence", "square"])
def test_odd_speech_goes_through(name, odd_speech, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.asarray(odd_speech[name], "<i2").tofile("x.raw")
    nb_frames = -(-len(odd_speech[name]) // 80)
    outputs = ("--rateKout", "x.f32", "--modelout", "x.model", "-o", "x.wav")
    main("c2sim", "x.raw", "--rateK", "--phase0", "--postfilter", *outputs)
    main("c2sim", "--modelin", "x.model", "-o", "y.wav")
    main("codec2_model", "x.model", *(("--plot_dir", ".") if name == "silence" else ("--noplots",)))
    assert not {"nan", "inf"} & set(capsys.readouterr().out.split())
    assert (tmp_path / "x.model").stat().st_size == 1300 * nb_frames
    assert (tmp_path / "y.wav").stat().st_size == 44 + 160 * nb_frames


@pytest.mark.usefixtures("one_correction")
@pytest.mark.filterwarnings("error:.*(parse|mathtext|surrogate)")
def test_odd_names_links_and_one_frame(tmp_path, capsys):
    """From speech to speech, through files with odd names and through links."""
    folder = tmp_path / "Grüße an alle $x$"
    folder.mkdir()
    link = tmp_path / "Sprache ü.wav"
    link.symlink_to(SAMPLE)
    network, linked = tmp_path / "Netz – 1.keras", folder / "dort.keras"
    linked.write_bytes(OLD)
    network.symlink_to(linked)
    bands, model, out = folder / "Bänder 14.f32", folder / "日本 %s {x}.model", folder / "-heraus.model"
    plots = folder / "Bilder"
    main("c2sim", link, "--bands", bands, "--bands_lower", 10, "--modelout", model)
    options = ("--nb_samples", 400, "--epochs", 1, "--Wo", "--nnout", network, "--noplots")
    main("eband_train", bands, model, *options)
    assert network.is_symlink()
    assert_whole_network(linked)
    main("codec2_model", model, "--noplots")
    main("vq_pager", 14, bands, "--start", 500, "--plot_dir", plots)
    options = ("--nb_samples", 1, "--dec", 999999999, "--modelout", out, "--noplots")
    main("eband_out", network, bands, model, *options)
    assert out.stat().st_size == 1300
    main("c2sim", "--modelin", out, "-o", folder / "y.wav")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert len(list(plots.iterdir())) > 0
