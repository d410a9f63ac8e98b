#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table, printed and written to a file (make bench: demo/bench.txt).

Machines differ, and others may be at work on them: nothing is held against a limit, but a ratio compares a figure with
something measured in the same run, which is named beside it.  Input is the sample speech again and again, at random
levels.  Every measurement is in a process of its own.  This one has not even NumPy: Linux counts its memory as theirs.
"""

import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.name: path.read_text() for path in sorted(ROOT.glob("*.py"))}
ENCODE = "c2enc 700C {0}.raw bits --mlfeat mlfeat.f32 mlfeat.model"
SPEECH = {  # options of c2sim.py and c2sim: another tool that does most of the same; {0} is 3 or 300, seconds of speech
    "--bands {0}.f32 --modelout {0}.model": ENCODE,
    "--bands {0}.f32": ENCODE,
    "--modelin {0}.model -o {0}_out.raw": "c2dec 700C bits decoded.raw",
}
TRAINERS = {  # script and options: input
    "eband_train.py --Wo": "300.f32 300.model --nnout network.keras",
    "ebanddec_train.py --dec 3": "300.f32 300.model",
    "newamp1_train.py": "rate_K.f32 300.model",
    "vq_vae_ratek.py": "300.f32",
    "vq_vae_ratek_conv1d.py --num_embedding 512": "300.f32",  # the usual 2048 take a minute before training
}
EPOCHS = 9  # of training; the first one compiles and does not count
OTHERS = {  # runs that only their memory is looked at
    "codec2_model.py": "300.model",
    "eband_out.py": "network.keras 300.f32 300.model --modelout out.model",
    "vq_pager.py": "14 300.f32",
    "vq_vae_demo.py": "--epochs 2",
    "vq_vae_demo_2stage.py": "--epochs 2",
}
seconds, peak = {}, {}  # of start-up; most memory in MB by script


def run(program, *arguments, name=None):
    """Seconds that a script or another program takes, and the last line it prints."""
    start_of_command = [sys.executable, ROOT / program] if program.endswith(".py") else [program]
    with open("out.txt", "w") as out, open("err.txt", "w") as err:
        start = time.perf_counter()
        process = subprocess.Popen([*start_of_command, *arguments], stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    out, err = (Path(file).read_text(errors="replace").strip().rpartition("\n")[2] for file in ("out.txt", "err.txt"))
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}: {err}")
    peak[name or program] = max(peak.get(name or program, 0), used.ru_maxrss * 1024 / 1e6)  # KiB on Linux
    return took, out


def best(*command, **options):
    return min(run(*command, **options)[0] for _ in range(3))


# ---------------------------------------------------------------- run in another process, which prints the rows


def make_input():
    """Write 3.raw and 300.raw, that many seconds of speech, up to 6 dB above or below the sample; rate K vectors."""
    import numpy as np

    import c2sim

    speech = c2sim.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    gains = 10 ** (np.random.default_rng(1).uniform(-6, 6, (8, 1)) / 20)
    speech = np.clip(gains * speech, -32767, 32767).astype("<i2").ravel()
    speech[: 3 * c2sim.FS_HZ].tofile("3.raw")
    speech[: 300 * c2sim.FS_HZ].tofile("300.raw")
    c2sim.main(["300.raw", "--rateK", "--rateKout", "rate_K.f32"])
    return []


def shortest(*jobs):
    """Seconds that each job takes at best; they take turns, so that other work on the machine slows them all."""
    took = []
    for job in jobs * 7:
        start = time.perf_counter()
        job()
        took.append(time.perf_counter() - start)
    return [min(took[i :: len(jobs)]) for i in range(len(jobs))]


def records():
    """Read and write 117 MB of records, as NumPy does; open a sparse file of 1.3 GB."""
    import numpy as np

    from codec2_model import RECORD, read, write

    data = np.tile(np.fromfile("300.model", RECORD), 3)
    data.tofile("long.model")
    fields = [data[name].copy() for name in RECORD.names]
    ours, numpys = shortest(lambda: [*map(np.array, read("long.model"))], lambda: np.fromfile("long.model", RECORD))
    yield "codec2_model.read, all fields", data.nbytes / 1e6 / ours, "MB/s", numpys / ours, "numpy fromfile"
    ours, numpys = shortest(lambda: write(*fields, "ours.model"), lambda: data.tofile("numpys.model"))
    yield "codec2_model.write, all fields", data.nbytes / 1e6 / ours, "MB/s", numpys / ours, "numpy tofile"
    opening = "codec2_model.read alone, opening 1.3 GB"
    if shutil.disk_usage(".").free < 2e9:  # not every file system knows sparse files
        yield opening, "skipped", "", None, "less than 2 GB free in the temporary folder"
        return
    with open("huge.model", "wb") as file:
        file.truncate(10**6 * RECORD.itemsize)
    huge, small = shortest(lambda: read("huge.model"), lambda: read("300.model"))
    yield opening, 1e3 * huge, "ms", huge / small, "39 MB"


def training(trainer, files):
    """Run a trainer as it is, but end training early.

    An epoch of the 27000 frames that are not held out lasts from the end of the one before to its own end, reports and
    validation included.  The compiled function also waits for batches.  So it is called again after training, with one
    that is always there: that is the time of the steps alone, and the rest of an epoch is outside of them.
    """
    sys.argv = f"{trainer} {files} --noplots".split()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # most trainers say so, but too late, after these imports
    import keras
    import numpy as np
    import tensorflow as tf

    fit, ends, steps = keras.Model.fit, [], []  # times

    def timed_fit(model, x, y=None, batch_size=None, epochs=1, callbacks=(), **options):
        ends.clear()  # the last fit counts; vq_vae_ratek_conv1d.py has one without quantiser before
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        history = fit(model, x, y, batch_size, min(epochs, EPOCHS), callbacks=[*callbacks, clock], **options)
        batch = x[0] if y is None else (x[:batch_size], y[:batch_size])
        ready = iter(tf.data.Dataset.from_tensors(tf.nest.map_structure(np.float32, batch)).repeat())
        for _ in range(21):  # the first one compiles
            model.train_function(ready)
            steps.append(time.perf_counter())
        nb_steps = len(x) if y is None else -(-len(x) // batch_size)
        steps[:] = [(steps[-1] - steps[-20]) / 19 / model.steps_per_execution * nb_steps]  # in an epoch
        return history

    keras.Model.fit = timed_fit
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
    yield trainer, 27000 / epoch, "frames/s", steps[0] / epoch, "the compiled step alone"
    yield "    time of an epoch outside the step", 100 * (1 - steps[0] / epoch), "%"


# ---------------------------------------------------------------- rows


def in_child(function, *arguments):
    """Those of a function above; of a trainer, the memory is its own."""
    name = (*arguments, function)[0].split()[0]
    return json.loads(run("tests/bench.py", function, *arguments, name=name)[1])


def speech(options, other, length):
    """Analysis or synthesis, beside the tools of Codec 2."""
    options = f"{length}.raw {options.format(length)}".split()
    took = best("c2sim.py", *options)
    tools = [tool for tool in (["c2sim", *options], other.format(length).split()) if shutil.which(tool[0])]
    names = " ".join(x for x in options if x[0] == "-")
    row = f"c2sim.py {names}, {length} s of speech", length / took, "x real time"
    yield from [(*row, best(*tool) / took, tool[0]) for tool in tools] or [row]


def start_up(name, *command):
    """Time to the first answer."""
    seconds[name] = best(*command, name=name)
    yield name, 1e3 * seconds[name], "ms", seconds[name] / seconds["import numpy"], "import numpy"


def memory(script):
    """Peak of all runs of a script, with what is looked at of memory-mapped files."""
    if script in OTHERS:
        run(script, *OTHERS[script].split(), "--plot_dir", "plots")
    module = "import keras" if "\nimport keras" in SCRIPTS[script] else "import numpy"
    yield f"{script}, peak memory", peak[script], "MB", peak[script] / peak[module], module


def main(filename):
    failed = False
    os.environ |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    Path(filename).parent.mkdir(exist_ok=True)
    with open(filename, "w") as table, tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):

        def show(name, figure, unit="", ratio=None, reference=""):
            figure = figure if isinstance(figure, str) else f"{figure:.{2 if figure < 10 else 0}f}"
            ratio = "" if ratio is None else f"{ratio:.2f}"
            for file in (table, sys.stdout):
                print(f"{name:<46}{figure:>8} {unit:<12}{ratio:>6}  {reference}".rstrip(), file=file, flush=True)

        def add(rows, name, *arguments):
            nonlocal failed
            try:
                for row in rows(name, *arguments):
                    show(*row)
            except Exception as error:  # the others go on
                failed = True
                show(name, "FAILED", reference=str(error))

        show("measurement", "figure", "unit", None, "ratio to")
        add(in_child, "make_input")
        for length in (3, 300):
            for options, other in SPEECH.items():
                add(speech, options, other, length)
        add(in_child, "records")
        for module in ("numpy", "keras", "codec2_model", "c2sim"):
            add(start_up, f"import {module}", sys.executable, "-c", f"import {module}")
        for script in SCRIPTS:
            add(start_up, f"{script} --help", script, "--help")
        Path("page.f32").write_bytes(Path("300.f32").read_bytes()[: 16 * 14 * 4])
        add(start_up, "vq_pager.py, one page", "vq_pager.py", "14", "page.f32", "--plot_dir", "plots")
        for trainer, files in TRAINERS.items():
            add(in_child, "training", trainer, files)
        for script in SCRIPTS:
            add(memory, script)
    return failed


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] not in ("make_input", "records"):
        sys.exit(main(sys.argv[1]))
    print(json.dumps(list(globals()[sys.argv[1]](*sys.argv[2:]))))
