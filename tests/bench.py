#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table, printed and written to a file (make bench: demo/bench.txt).

Machines differ, and others may be at work on them: nothing is held against a limit, but a ratio compares a figure with
something measured in the same run, which is named beside it.  Input is the sample speech again and again, at random
levels.  Every measurement is in a process of its own.  This one has not even NumPy: Linux counts its memory as theirs.
"""

import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USES_KERAS = {path.name: "\nimport keras" in path.read_text() for path in sorted(ROOT.glob("*.py"))}
TRAINERS = {  # script and options: input
    "eband_train.py --Wo": "300.f32 300.model --nnout network.keras",
    "ebanddec_train.py --dec 3": "300.f32 300.model",
    "newamp1_train.py": "rate_K.f32 300.model",
    "vq_vae_ratek.py": "300.f32",
    "vq_vae_ratek_conv1d.py --num_embedding 512": "300.f32",  # the usual 2048 take a minute before training
}
OTHERS = (
    "codec2_model.py 300.model",
    "eband_out.py network.keras 300.f32 300.model --modelout out.model",
    "vq_pager.py 14 300.f32",
    "vq_vae_demo.py --epochs 2",
    "vq_vae_demo_2stage.py --epochs 2",
)
EPOCHS = 9  # of training; the first one compiles and does not count
peak = {}  # most memory in MB that a script took


def run(program, *arguments, name=None):
    """Seconds that a script or another program takes, and the last line it prints."""
    python = [sys.executable, ROOT / program] if program.endswith(".py") else [program]
    with open("out.txt", "w") as out, open("err.txt", "w") as err:
        start = time.perf_counter()
        process = subprocess.Popen([*python, *arguments], stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    out, err = (Path(file).read_text(errors="replace").strip().rpartition("\n")[2] for file in ("out.txt", "err.txt"))
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}: {err}")
    name, kib = name or program, used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    peak[name] = max(peak.get(name, 0), kib * 1024 / 1e6)
    return seconds, out


def best(*command):
    return min(run(*command)[0] for _ in range(3))


# ---------------------------------------------------------------- measured by other processes, which print the rows


def make_speech():
    """Write 3.raw and 300.raw, that many seconds of speech: the sample again and again, up to 6 dB up or down."""
    import c2sim
    import numpy as np

    speech = c2sim.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    gains = 10 ** (np.random.default_rng(1).uniform(-6, 6, (8, 1)) / 20)
    speech = np.clip(gains * speech, -32767, 32767).astype("<i2").ravel()
    for seconds in (3, 300):
        speech[: seconds * c2sim.FS_HZ].tofile(f"{seconds}.raw")
    return []


def records():
    """Read and write 117 MB of records, as NumPy does; open a sparse file of 1.3 GB."""
    import codec2_model
    import numpy as np

    data = np.tile(np.fromfile("300.model", codec2_model.RECORD), 3)
    data.tofile("long.model")
    fields = [data[name].copy() for name in data.dtype.names]
    jobs = {
        "read": lambda: [np.array(values) for values in codec2_model.read("long.model")],
        "fromfile": lambda: np.fromfile("long.model", data.dtype),
        "write": lambda: codec2_model.write(*fields, "new.model"),
        "tofile": lambda: data.tofile("new.model"),
        "39 MB": lambda: codec2_model.read("300.model"),
    }
    if space := shutil.disk_usage(".").free > 2e9:  # not every file system knows sparse files
        with open("huge.model", "wb") as file:
            file.truncate(10**6 * data.itemsize)
        jobs["1.3 GB"] = lambda: codec2_model.read("huge.model")
    took = dict.fromkeys(jobs, math.inf)
    for _ in range(7):  # in turn, so that other work on the machine slows them all
        for name, job in jobs.items():
            Path("new.model").unlink(missing_ok=True)
            start = time.perf_counter()
            job()
            took[name] = min(took[name], time.perf_counter() - start)
    for ours, numpys in (("read", "fromfile"), ("write", "tofile")):
        speed = data.nbytes / 1e6 / took[ours]
        yield f"codec2_model.{ours}, all fields", speed, "MB/s", took[numpys] / took[ours], f"numpy {numpys}"
    huge = (took["1.3 GB"] * 1e3, "ms", took["1.3 GB"] / took["39 MB"], "39 MB") if space else ("skipped", "no 2 GB free")
    yield "codec2_model.read, opening 1.3 GB", *huge


def training(trainer, files):
    """Run a trainer as it is, but stop training early.

    An epoch goes from the end of the one before to its own, with validation and reports.  The compiled function takes
    its batches itself and waits for them.  So when training is over, it is called with a batch that is always there,
    which gives the time of a step alone; what an epoch takes beyond all its steps is outside of them.
    """
    sys.argv = [*trainer.split(), *files.split(), "--noplots"]
    source = ROOT / sys.argv[0]
    if "OPENBLAS_NUM_THREADS" in source.read_text():
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the script would do so too late, after these imports
    import keras
    import numpy as np
    import tensorflow as tf

    fit, ends, times = keras.Model.fit, [], []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ends.append(time.perf_counter())
            self.model.stop_training |= epoch == EPOCHS - 1

    def timed_fit(model, x, y=None, batch_size=None, callbacks=(), **options):
        ends.clear()  # the last fit counts; vq_vae_ratek_conv1d.py has one without quantiser before
        history = fit(model, x, y, batch_size, callbacks=[*callbacks, Clock()], **options)
        batch = x[0] if y is None else (x[:batch_size], y[:batch_size])
        ready = iter(tf.data.Dataset.from_tensors(tf.nest.map_structure(np.float32, batch)).repeat())
        times[:] = [time.perf_counter()]
        for _ in range(21):  # the first one compiles
            model.train_function(ready)
            times.append(time.perf_counter())
        nb_steps = len(x) if y is None else -(-len(x) // batch_size)
        times[:] = [(times[-1] - times[1]) / 20 / model.steps_per_execution * nb_steps]
        return history

    keras.Model.fit = timed_fit
    runpy.run_path(str(source), run_name="__main__")
    epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
    nb_frames = os.path.getsize("300.model") // 1300 * 9 // 10  # the rest is held out
    yield trainer, nb_frames / epoch, "frames/s", times[0] / epoch, "the compiled step alone"
    yield "    time of an epoch outside the step", 100 * (1 - times[0] / epoch), "%"


# ---------------------------------------------------------------- measured here


def measured(function, *arguments):
    """Rows that another process measures with a function above."""
    name = arguments[0].split()[0] if arguments else None  # a trainer
    return json.loads(run("tests/bench.py", function, *arguments, name=name)[1])


def speech(seconds):
    """Speed of analysis and synthesis, beside the tools of Codec 2 that do most of the same."""
    raw, bands, model = (f"{seconds}{suffix}" for suffix in (".raw", ".f32", ".model"))
    encode = ("c2enc", "700C", raw, "bits", "--mlfeat", "mlfeat.f32", "mlfeat.model")
    for what, options, other in (
        ("--bands --modelout", ("--bands", bands, "--modelout", model), encode),
        ("--bands", ("--bands", bands), encode),
        ("--modelin -o", ("--modelin", model, "-o", "out.raw"), ("c2dec", "700C", "bits", "out.raw")),
    ):
        took = best("c2sim.py", raw, *options)
        row = f"c2sim.py {what}, {seconds} s of speech", seconds / took, "x real time"
        tools = [tool for tool in (("c2sim", raw, *options), other) if shutil.which(tool[0])]
        yield from [(*row, best(*tool) / took, tool[0]) for tool in tools] or [row]


def quietly(*command):
    """No row, but files and memory for others."""
    run(*command)
    return []


def start_up():
    """Time to the first answer."""
    Path("page.f32").write_bytes(Path("300.f32").read_bytes()[: 16 * 14 * 4])
    commands = {f"{name} --help": (name, "--help") for name in USES_KERAS}
    commands["vq_pager.py, a page"] = ("vq_pager.py", "14", "page.f32", "--plot_dir", "plots")
    commands |= {f"import {name}": (sys.executable, "-c", f"import {name}") for name in ("codec2_model", "c2sim")}
    numpy = best(sys.executable, "-c", "import numpy")
    for name, command in commands.items():
        took = best(*command)
        yield name, 1e3 * took, "ms", took / numpy, "import numpy"


def memory():
    """Peak of all runs, with what is looked at of memory-mapped files."""
    for name in ("numpy", "keras"):
        run(sys.executable, "-c", f"import {name}", name=name)
    for name, keras in USES_KERAS.items():
        module = "keras" if keras else "numpy"
        yield f"{name}, peak memory", peak[name], "MB", peak[name] / peak[module], f"import {module}"


def main(filename):
    lines, failed = [], []

    def show(name, figure, unit="", ratio=None, reference=""):
        figure = figure if isinstance(figure, str) else f"{figure:.{2 if abs(figure) < 10 else 0}f}"
        ratio = "" if ratio is None else f"{ratio:.2f}"
        lines.append(f"{name:<44}{figure:>8} {unit:<12}{ratio:>6}  {reference}".rstrip())
        print(lines[-1], flush=True)

    def add(measure, *arguments):
        try:
            for row in measure(*arguments):
                show(*row)
        except Exception as error:  # the others go on
            failed.append(measure)
            show(" ".join(map(str, arguments)) or measure.__name__, "FAILED", reference=str(error))

    os.environ |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    filename = Path(filename).resolve()
    filename.parent.mkdir(exist_ok=True)
    show("measurement", "figure", "unit", None, "ratio to")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        add(measured, "make_speech")
        add(speech, 3)
        add(speech, 300)
        add(measured, "records")
        add(start_up)
        add(quietly, "c2sim.py", "300.raw", "--rateK", "--rateKout", "rate_K.f32")
        for trainer, files in TRAINERS.items():
            add(measured, "training", trainer, files)
        for command in OTHERS:
            add(quietly, *command.split(), "--plot_dir", "plots")
        add(memory)
        os.chdir(ROOT)
    filename.write_text("\n".join(lines) + "\n")
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1] in ("make_speech", "records", "training"):
        print(json.dumps(list(globals()[sys.argv[1]](*sys.argv[2:]))))
    else:
        sys.exit(main(sys.argv[1]))
