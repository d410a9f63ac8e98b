#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table, printed and written to a file.

Usage:
    make bench                   # demo/bench.txt, in about four minutes on two cores
    tests/bench.py TABLE.txt

Machines differ, and others may be at work on them: nothing is held against a limit, but a ratio compares a figure with
something measured in the same run, which stands beside it.  Where that is cheap, a time is the best of three.  The
input is the sample speech over and over, at random levels.  Every script runs in a process of its own.  This one has
not even NumPy, as Linux counts the memory of the process that starts another one in the peak of that one.
"""

import json
import math
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
LONG_S = 300  # the longer speech, 100 frames a second
TRAINING_FRAMES = LONG_S * 100 * 9 // 10  # the rest is held out
LAST_EPOCH = 8  # counted from 0, where training ends
MB = 1e6


class Table:
    """Rows (name, figure, unit, ratio, reference), printed as they come; errors take the place of figures."""

    def __init__(self):
        self.text, self.failed = "", False

    def line(self, text):
        print(text, flush=True)
        self.text += text + "\n"

    def row(self, name, figure, unit="", ratio=None, reference=""):
        figure = figure if isinstance(figure, str) else f"{figure:.4g}" if figure < 1000 else f"{figure:.0f}"
        self.line(f"{name:<48}{figure:>9} {unit:<9}{'' if ratio is None else f'{ratio:.2f}':>7}  {reference}".rstrip())

    def add(self, name, measure, *arguments):
        """Rows that measure(*arguments) returns, or one that tells what went wrong."""
        try:
            for row in measure(*arguments):
                self.row(*row)
        except Exception as error:
            self.failed = True
            self.row(name, "FAILED", " ".join(str(error).split()))


class Runs:
    """Run scripts and other commands in a folder, and keep their peak memory."""

    def __init__(self, folder):
        self.folder, self.peak = folder, {}
        display = ("DISPLAY", "WAYLAND_DISPLAY")
        self.env = {name: value for name, value in os.environ.items() if name not in display} | {"MPLBACKEND": "Agg"}

    def __call__(self, name, *command):
        """Seconds that a command took, and the last line it printed; what `name` takes at most is kept in `peak`."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            start = time.perf_counter()
            process = subprocess.Popen([*map(str, command)], cwd=self.folder, env=self.env, stdout=out, stderr=err)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            lines = [(file.seek(0), [""] + file.read().splitlines())[1] for file in (out, err)]
        if process.returncode:
            raise RuntimeError(f"{Path(str(command[0])).name} ended with {process.returncode}: {lines[1][-1]}")
        kib = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
        self.peak[name] = max(self.peak.get(name, 0), kib * 1024 / MB)
        return seconds, lines[0][-1]

    def python(self, name, *arguments):
        return self(name, sys.executable, *arguments)

    def script(self, name, *arguments):
        return self.python(name, ROOT / name, *arguments)

    def child(self, name, *arguments):
        """Rows measured by a function of this file in another process."""
        return json.loads(self.python(name, Path(__file__).resolve(), "--child", *arguments)[1])


def best(run, *arguments):
    return min(run(*arguments)[0] for _ in range(3))


# ---------------------------------------------------------------- measurements, in processes of their own


def make_speech():
    """Files 3.raw and 300.raw, that many seconds of speech: the sample again and again, up to 6 dB up or down."""
    import numpy as np

    import c2sim

    sample = c2sim.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    nb = LONG_S * c2sim.FS_HZ
    gains = 10 ** (np.random.default_rng(1).uniform(-6, 6, (-(-nb // len(sample)), 1)) / 20)
    speech = np.clip(gains * sample, -32767, 32767).astype("<i2").ravel()[:nb]
    speech.tofile(f"{LONG_S}.raw")
    speech[: 3 * c2sim.FS_HZ].tofile("3.raw")
    return []


def measure_records():
    """Read and write 117 MB of records as NumPy would; open a sparse file of 1.3 GB."""
    import numpy as np

    import codec2_model

    records = np.tile(np.fromfile(f"{LONG_S}.model", codec2_model.RECORD), 3)
    records.tofile("long.model")
    fields = [records[name].copy() for name in records.dtype.names]
    jobs = {
        "read": lambda: [np.array(values) for values in codec2_model.read("long.model")],
        "fromfile": lambda: np.fromfile("long.model", codec2_model.RECORD),
        "write": lambda: codec2_model.write(*fields, "written.model"),
        "tofile": lambda: records.tofile("written.model"),
        "open 39 MB": lambda: codec2_model.read(f"{LONG_S}.model"),
        "open 1.3 GB": lambda: codec2_model.read("huge.model"),
    }
    missing = "" if shutil.disk_usage(".").free > 2e9 else "less than 2 GB free"
    if missing:
        del jobs["open 1.3 GB"]
    else:
        Path("huge.model").touch()
        os.truncate("huge.model", 10**6 * codec2_model.RECORD.itemsize)
    seconds = dict.fromkeys(jobs, math.inf)
    for _ in range(7):  # in turn, so that other work on the machine hits them all
        for name, job in jobs.items():
            Path("written.model").unlink(missing_ok=True)
            start = time.perf_counter()
            job()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    for ours, numpys in (("read", "fromfile"), ("write", "tofile")):
        speed = records.nbytes / MB / seconds[ours]
        yield f"codec2_model.{ours}, all fields", speed, "MB/s", seconds[numpys] / seconds[ours], f"numpy.{numpys}"
    opening = "codec2_model.read alone, 1.3 GB"
    if missing:
        yield opening, "skipped", missing
    else:
        ratio = seconds["open 1.3 GB"] / seconds["open 39 MB"]
        yield opening, seconds["open 1.3 GB"] * 1e3, "ms", ratio, "the same, 39 MB"


def measure_training(script, *arguments):
    """Run a trainer with its usual number of epochs, but stop it after 9, of which the first one compiles.

    An epoch goes from the end of the one before to its own, with its validation and reports.  Calls of the compiled
    function wait for batches, too.  So, once training is over, it is called with a batch that is there already: that is
    the time of the step alone, and what an epoch takes beyond its number of steps is not in the step.
    """
    import keras
    import tensorflow as tf

    fit, seed = keras.Model.fit, keras.utils.set_random_seed
    start, ends, calls, results, in_fit = [], [], [], {}, []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            calls.append(-time.perf_counter())

        def on_train_batch_end(self, batch, logs=None):
            calls[-1] += time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            ends.append(time.perf_counter())
            if epoch == 0:
                calls.clear()
            self.model.stop_training |= epoch == LAST_EPOCH

    def timed_fit(model, x, y=None, batch_size=None, epochs=1, callbacks=(), **options):
        began = time.perf_counter()
        clock = [Clock()] if epochs > 1 else []  # some train for an epoch without quantiser first
        history = fit(model, x, y, batch_size, epochs, callbacks=[*callbacks, *clock], **options)
        if clock:
            nb = len(ends) - 1
            results.update(epoch=(ends[-1] - ends[0]) / nb, calls=sum(calls) / nb)
            batch = x[0] if y is None else (x[:batch_size], y[:batch_size])
            batch = tf.nest.map_structure(lambda values: tf.cast(values, "float32"), batch)
            ready = iter(tf.data.Dataset.from_tensors(batch).repeat())
            model.train_function(ready)
            steps, again = len(x) if y is None else -(-len(x) // batch_size), time.perf_counter()
            for _ in range(30):
                model.train_function(ready)
            results["step"] = steps * (time.perf_counter() - again) / 30 / model.steps_per_execution
        in_fit.append(time.perf_counter() - began)
        return history

    def first_of_main(value):
        start.append(time.perf_counter())
        seed(value)

    keras.Model.fit, keras.utils.set_random_seed = timed_fit, first_of_main
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")
    outside = time.perf_counter() - start[0] - sum(in_fit)
    epoch, step = results["epoch"], results["step"]
    name = Path(script).stem
    yield f"{name}: training", TRAINING_FRAMES / epoch, "frames/s", step / epoch, "the compiled step alone"
    yield f"{name}: not in the compiled step", 100 * (1 - step / epoch), "%"
    yield f"{name}: … of it validation, reports", 100 * (1 - results["calls"] / epoch), "%"
    yield f"{name}: main() outside of fit", outside, "s", outside / epoch, "an epoch"
