#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table (`make bench` keeps it in demo/bench.txt).

Machines differ, and others may be at work on them: a ratio compares a figure with something measured in the same run,
which is named beside it.  Input is the sample speech again and again, at random levels.  Every measurement is in a
process of its own, and this one has not even NumPy, as Linux counts its memory as theirs.
"""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.name: path.read_text() for path in sorted(ROOT.glob("*.py"))}
OTHERS = {  # runs that only their memory is looked at
    "codec2_model.py": "300.model",
    "eband_out.py": "network.keras 300.f32 300.model --modelout out.model",
    "vq_pager.py": "14 300.f32",
    "vq_vae_demo.py": "--epochs 2",
    "vq_vae_demo_2stage.py": "--epochs 2",
}
seconds, peak = {}, {}  # of start-up; most memory in MB by script


def run(program, *arguments, name=None, times=1):
    """Seconds that a script or another program takes, the least of some times, and the last line it prints."""
    name, least = name or program, float("inf")
    command = [sys.executable, ROOT / program] if program.endswith(".py") else [program]
    for _ in range(times):
        with open("out.txt", "w") as out, open("err.txt", "w") as err:
            start = time.perf_counter()
            process = subprocess.Popen([*command, *arguments], stdout=out, stderr=err)
            _, status, used = os.wait4(process.pid, 0)
            least = min(least, time.perf_counter() - start)
        process.returncode = os.waitstatus_to_exitcode(status)
        out, err = (Path(file).read_text(errors="replace").strip() for file in ("out.txt", "err.txt"))
        if process.returncode:
            raise RuntimeError(f"{program} ended with {process.returncode}: {err.rpartition(chr(10))[2]}")
        peak[name] = max(peak.get(name, 0), used.ru_maxrss * 1024 / 1e6)  # KiB on Linux
    return least, out.rpartition("\n")[2]


def make_input():
    """Write 3.raw and 300.raw, that many seconds of speech, up to 6 dB above or below the sample; rate K vectors."""
    import c2sim

    gain = random.Random(1)
    sample = c2sim.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    louder = ((sample * 10 ** (gain.uniform(-6, 6) / 20)).clip(-32767, 32767) for _ in range(8))
    speech = b"".join(part.astype("<i2").tobytes() for part in louder)
    for length in (3, 300):
        Path(f"{length}.raw").write_bytes(speech[: length * 2 * c2sim.FS_HZ])
    c2sim.main(["300.raw", "--rateK", "--rateKout", "rate_K.f32"])
    return ()


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
    if shutil.disk_usage(".").free < 2e9:  # not every file system knows sparse files
        yield "codec2_model.read, opening 1.3 GB", "skipped", "", "", "less than 2 GB free in the temporary folder"
        return
    open("huge.model", "wb").truncate(10**6 * RECORD.itemsize)
    huge, small = shortest(lambda: read("huge.model"), lambda: read("300.model"))
    yield "codec2_model.read, opening 1.3 GB", 1e3 * huge, "ms", huge / small, "39 MB"


def training(trainer, files):
    """Run a trainer as it is, but end training early.

    An epoch of the 27000 frames that are not held out lasts from the end of the one before to its own end, reports and
    validation included.  The compiled function also waits for batches.  So it is called again after training, with one
    that is always there: that is the time of its steps alone.  The first epoch and call compile, and do not count.
    """
    sys.argv = f"{trainer} {files} --noplots".split()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # most trainers say so, but too late, after these imports
    import keras
    import tensorflow as tf

    fit, ends, steps = keras.Model.fit, [], []  # times

    def timed_fit(model, x, y=None, batch_size=None, epochs=1, callbacks=(), **options):
        ends.clear()  # the last fit counts; vq_vae_ratek_conv1d.py has one without quantiser before
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        history = fit(model, x, y, batch_size, min(epochs, 9), callbacks=[*callbacks, clock], **options)
        batch, nb_steps = (x[0], len(x)) if y is None else ((x[:batch_size], y[:batch_size]), -(-len(x) // batch_size))
        ready = iter(tf.data.Dataset.from_tensors(batch).repeat())
        for _ in range(21):
            model.train_function(ready)
            steps.append(time.perf_counter())
        steps[:] = [(steps[-1] - steps[-20]) / 19 / model.steps_per_execution * nb_steps]  # in an epoch
        return history

    keras.Model.fit = timed_fit
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
    yield trainer, 27000 / epoch, "frames/s", steps[0] / epoch, "the compiled step alone"
    yield "    time of an epoch outside the step", 100 * (1 - steps[0] / epoch), "%"


def in_child(function, *arguments):
    """Rows of make_input(), records() or training() in another process; the memory counts for the script it runs."""
    return json.loads(run("tests/bench.py", function, *arguments, name=(*arguments, function)[0].split()[0])[1])


def speech(options, other, length):
    """Analysis or synthesis, beside the tools of Codec 2."""
    options = f"{length}.raw {options}".split()
    took = run("c2sim.py", *options, times=3)[0]
    tools = [tool for tool in (["c2sim", *options], other.split()) if shutil.which(tool[0])]
    row = f"c2sim.py {' '.join(x for x in options if x[0] == '-')}, {length} s of speech", length / took, "x real time"
    yield from [(*row, run(*tool, times=3)[0] / took, tool[0]) for tool in tools] or [row]


def start_up(name, *command):
    """Time to the first answer."""
    seconds[name] = run(*command, name=name, times=3)[0]
    yield name, 1e3 * seconds[name], "ms", seconds[name] / seconds["import numpy"], "import numpy"


def memory(script):
    """Peak of all runs of a script, with what is looked at of memory-mapped files."""
    if script in OTHERS:
        run(script, *OTHERS[script].split(), "--plot_dir", "plots")
    module = "import keras" if "\nimport keras" in SCRIPTS[script] else "import numpy"
    yield f"{script}, peak memory", peak[script], "MB", peak[script] / peak[module], module


def main():
    failed = []
    os.environ |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}

    def show(name, figure, unit="", ratio="", reference=""):
        figure, ratio = (x if isinstance(x, str) else f"{x:.{2 if x < 10 else 0}f}" for x in (figure, ratio))
        print(f"{name:<46}{figure:>8} {unit:<12}{ratio:>6}  {reference}".rstrip(), flush=True)

    def add(rows, name, *arguments):
        try:
            for row in rows(name, *arguments):
                show(*row)
        except Exception as error:  # the others go on
            failed.append(name)
            show(" ".join(map(str, (name, *arguments[:1]))), "FAILED", "", "", f"{type(error).__name__}: {error}")

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        show("measurement", "figure", "unit", "", "ratio to")
        add(in_child, "make_input")
        for s in (3, 300):
            encode = f"c2enc 700C {s}.raw bits --mlfeat mlfeat.f32 mlfeat.model"
            add(speech, f"--bands {s}.f32 --modelout {s}.model", encode, s)
            add(speech, f"--bands {s}.f32", encode, s)
            add(speech, f"--modelin {s}.model -o {s}_out.raw", "c2dec 700C bits decoded.raw", s)
        add(in_child, "records")
        for module in ("numpy", "keras", "codec2_model", "c2sim"):
            add(start_up, f"import {module}", sys.executable, "-c", f"import {module}")
        for script in SCRIPTS:
            add(start_up, f"{script} --help", script, "--help")
        add(start_up, "vq_pager.py, a page", "vq_pager.py", "20", "rate_K.f32", "--start", "29984", "--plot_dir", ".")
        add(in_child, "training", "eband_train.py --Wo", "300.f32 300.model --nnout network.keras")
        add(in_child, "training", "ebanddec_train.py --dec 3", "300.f32 300.model")
        add(in_child, "training", "newamp1_train.py", "rate_K.f32 300.model")
        add(in_child, "training", "vq_vae_ratek.py", "300.f32")
        add(in_child, "training", "vq_vae_ratek_conv1d.py --num_embedding 512", "300.f32")  # 2048 start in a minute
        for script in SCRIPTS:
            add(memory, script)
    return 1 if failed else 0


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(main())
    print(json.dumps(list(globals()[sys.argv[1]](*sys.argv[2:]))))
