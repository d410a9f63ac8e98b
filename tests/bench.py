#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table.

Usage:
    tests/bench.py                # speech for 300 s; `make bench` keeps the table in results/bench.txt
    tests/bench.py 1000000        # memory only, of files with that many frames (1.5 GB of disk per million)

Machines differ, and others may be at work on them: a ratio compares a figure with something measured in the same run,
which is named beside it.  Input is the sample speech again and again, at random levels.  Every measurement is in a
process of its own.  Memory is the most that a process had for itself: pages of files that it maps are not counted.
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
TRAINERS = {  # options, files
    "eband_train.py": "--Wo --nnout network.keras bands.f32 speech.model",
    "ebanddec_train.py": "--dec 3 bands.f32 speech.model",
    "newamp1_train.py": "K20.f32 speech.model",
    "vq_vae_ratek.py": "bands.f32",
    "vq_vae_ratek_conv1d.py": "--num_embedding 512 --nnout vq.keras bands.f32",  # k-means for 2048 takes a minute
}
OTHERS = {  # runs that only their memory is looked at
    "codec2_model.py": "speech.model --noplots",
    "eband_out.py": "network.keras bands.f32 speech.model --modelout out.model --noplots",
    "vq_pager.py": "14 bands.f32 --plot_dir plots",
    "vq_ber.py": "vq.keras bands.f32 --ber 1 --nb_samples 3000 --noplots",
}
DEMOS = {"vq_vae_demo.py": "--epochs 2 --plot_dir plots", "vq_vae_demo_2stage.py": "--epochs 2 --plot_dir plots"}
seconds, peak = {}, {}  # of start-up; most memory in MB by script


def own_memory(process):
    """MB that a running process has for itself."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # it has just ended
        return 0


def run(program, *arguments, name=None, times=1):
    """Seconds that a script or another program takes, the least of some times, and the last line it prints."""
    name, least = name or program, float("inf")
    command = [sys.executable, ROOT / program] if program.endswith(".py") else [program]
    for _ in range(times):
        with open("out.txt", "w") as out, open("err.txt", "w") as err:
            start = time.perf_counter()
            process = subprocess.Popen([*command, *arguments], stdout=out, stderr=err)
            while process.poll() is None:
                peak[name] = max(peak.get(name, 0), own_memory(process))
                time.sleep(0.01)
            least = min(least, time.perf_counter() - start)
        if process.returncode:
            error = Path("err.txt").read_text(errors="replace").strip()
            raise RuntimeError(f"{program} ended with {process.returncode}: {error.rpartition(chr(10))[2]}")
    return least, Path("out.txt").read_text(errors="replace").strip().rpartition("\n")[2]


def make_input(nb_frames):
    """Write speech.raw, 30 s or less of it in short.raw, and the bands, K = 20 vectors and model of nb_frames."""
    import c2sim
    from codec2_model import RECORD

    import numpy as np

    gain = random.Random(1)
    sample = c2sim.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    louder = ((sample * 10 ** (gain.uniform(-6, 6) / 20)).clip(-32767, 32767) for _ in range(8))
    speech = np.concatenate([part.astype("<i2") for part in louder])[: 300 * c2sim.FS_HZ]
    speech.tofile("speech.raw")
    speech[: 3 * c2sim.FS_HZ].tofile("short.raw")
    outputs = "--bands bands.f32 --rateK --rateKout K20.f32 --modelout speech.model"
    c2sim.main(c2sim.parse_args(["speech.raw", *outputs.split()]))
    for name, itemsize in (("bands.f32", 56), ("K20.f32", 80), ("speech.model", RECORD.itemsize)):
        data, size = Path(name).read_bytes(), int(nb_frames) * itemsize
        with open(name, "wb") as file:
            for start in range(0, size, len(data)):
                file.write(data[: size - start])
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
    """Read and write 117 MB of records, as NumPy does."""
    from codec2_model import RECORD, read_blocks, write

    import numpy as np

    data = np.tile(np.fromfile("speech.model", RECORD), 3)
    data.tofile("long.model")
    fields = [data[name].copy() for name in RECORD.names]
    ours, numpys = shortest(lambda: list(read_blocks("long.model")), lambda: np.fromfile("long.model", RECORD))
    yield "codec2_model.read_blocks, checks included", data.nbytes / 1e6 / ours, "MB/s", numpys / ours, "numpy fromfile"
    ours, numpys = shortest(lambda: write(*fields, "ours.model"), lambda: data.tofile("numpys.model"))
    yield "codec2_model.write, checks included", data.nbytes / 1e6 / ours, "MB/s", numpys / ours, "numpy tofile"


def training(trainer):
    """Run a trainer as it is, for 80 epochs at most, and look at the clock whenever it reports an epoch.

    The time until the first report does not count: functions are compiled then.
    """
    epochs = 80 if trainer.startswith("vq_") else 8
    sys.argv = f"{trainer} {TRAINERS[trainer]} --epochs {epochs} --noplots".split()
    import plumbing

    import keras

    reports, show, fitting = [], plumbing.Progress.show, [0.0]

    def timed(fit):
        def timed_fit(*arguments, **options):
            start = time.perf_counter()
            result = fit(*arguments, **options)
            fitting[0] += time.perf_counter() - start
            return result

        return timed_fit

    def timed_show(progress, done, text):
        reports.append((done, time.perf_counter(), fitting[0]))
        show(progress, done, text)

    keras.Model.fit, keras.Model.train_on_batch = map(timed, (keras.Model.fit, keras.Model.train_on_batch))
    plumbing.Progress.show = timed_show
    runpy.run_path(str(ROOT / trainer), run_name="__main__")
    done, took, in_fit = (last - first for first, last in zip(reports[0], reports[-1], strict=True))
    yield (
        f"{trainer}, training",
        27000 * done / took,
        "frames/s",
        in_fit / took,
        "share of Keras's training steps in the time",
    )


def in_child(function, *arguments):
    """Rows of make_input(), records() or training() in another process; the memory counts for the script it runs."""
    return json.loads(run("tests/bench.py", function, *arguments, name=(*arguments, function)[0])[1])


def speech(options, other, name, length):
    """Analysis or synthesis, beside the tools of Codec 2."""
    options = f"{name} {options}".split()
    took = run("c2sim.py", *options, times=3)[0]
    tools = [tool for tool in (["c2sim", *options], other.split()) if shutil.which(tool[0])]
    row = f"c2sim.py {' '.join(x for x in options if x[0] == '-')}, {length} s of speech", length / took, "x real time"
    yield from [(*row, run(*tool, times=3)[0] / took, tool[0]) for tool in tools] or [row]


def start_up(name, *command):
    """Time to the first answer."""
    seconds[name] = run(*command, name=name, times=3)[0]
    yield name, 1e3 * seconds[name], "ms", seconds[name] / seconds["import numpy"], "import numpy"


def memory(script, options):
    """Peak of all runs of a script, this one included."""
    took = run(script, *options.split())[0] if options else 0
    yield f"{script}, memory", peak[script], "MB", *([f"{took:.0f}", "s for this run"] if options else [])


def main(nb_frames):
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
        add(in_child, "make_input", str(nb_frames or 30000))
        if nb_frames:
            for script, options in TRAINERS.items():
                add(memory, script, f"{options} --epochs 1 --noplots")
            for script, options in OTHERS.items():
                add(memory, script, options)
            return len(failed)
        for name, length in (("short.raw", 3), ("speech.raw", 300)):
            encode = f"c2enc 700C {name} bits --mlfeat mlfeat.f32 mlfeat.model"
            add(speech, "--bands b.f32 --modelout m.model", encode, name, length)
            add(speech, "--bands b.f32", encode, name, length)
            add(speech, "--modelin m.model -o out.raw", "c2dec 700C bits decoded.raw", name, length)
        add(in_child, "records")
        for module in ("numpy", "keras", "codec2_model", "c2sim"):
            add(start_up, f"import {module}", sys.executable, "-c", f"import {module}")
        for script in sorted({path.name for path in ROOT.glob("*.py")} - {"plumbing.py", "vq_search.py"}):
            add(start_up, f"{script} --help", script, "--help")
        add(start_up, "vq_pager.py, a page", "vq_pager.py", "20", "K20.f32", "--start", "29984", "--plot_dir", ".")
        for script in TRAINERS:
            add(in_child, "training", script)
        for script, options in (dict.fromkeys(TRAINERS, "") | OTHERS | DEMOS | {"c2sim.py": ""}).items():
            add(memory, script, options)
    return len(failed)


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1].isdigit():
        sys.exit(main(int((sys.argv[1:] or [0])[0])))
    print(json.dumps(list(globals()[sys.argv[1]](*sys.argv[2:]))))
