#!/usr/bin/env python3
"""Speed, start-up time and memory of the scripts: a table.

Usage:
    tests/bench.py                # of 300 s of speech; `make bench` keeps it in results/bench.txt
    tests/bench.py 2000000        # memory only, for files of that many frames (3 GB of disk)

Input is the sample speech again and again, at random levels.  NumPy's import, beside the start-up
times, tells how fast the machine is now.  Memory is the largest resident set of a process.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # of speech
TRAIN = 0.9  # share of the frames that is trained on
TRAINERS = {  # options, files
    "eband_train.py": "bands.f32 speech.model --Wo --nnout network.keras",
    "ebanddec_train.py": "bands.f32 speech.model --dec 3 --nnout dec.keras",
    "newamp1_train.py": "K20.f32 speech.model --nnout newamp1.keras",
    "vq_vae_ratek.py": "bands.f32 --nnout ratek.keras",
    "vq_vae_ratek_conv1d.py": "bands.f32 --num_embedding 256 --nnout vq.keras",
}
NETWORK = str(ROOT / "networks" / "vq_K14_1100.keras")
OTHERS = {  # what only the memory and the time of a run is told of
    "codec2_model.py": "speech.model --noplots",
    "eband_out.py": "network.keras bands.f32 speech.model --modelout out.model --noplots",
    "vq_pager.py": "14 bands.f32",
    "vq_ber.py": "vq.keras bands.f32 --ber 1 --nb_samples 3000 --noplots",
    "vq_out.py": f"{NETWORK} bands.f32 --indexout bands.npy --noplots --nb_samples 30000",
}
START_UPS = ("numpy", "keras", "codec2_model", "c2sim")  # modules


def show(name, figure, unit="", remark=""):
    figure = f"{figure:.{2 if figure < 10 else 0}f}"
    print(f"{name:<48}{figure:>8} {unit:<10}{remark}".rstrip(), flush=True)


def run(command):
    """Seconds and MB of a process; RuntimeError if it fails."""
    with open("err.txt", "w") as err:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
    if status:
        error = Path("err.txt").read_text(errors="replace").strip()
        raise RuntimeError(f"{command[1]} failed: {error.rpartition(chr(10))[2]}")
    scale = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS
    return took, usage.ru_maxrss / scale


def script(name, options):
    return [sys.executable, ROOT / name, *options.split()]


def best(command, times=3):
    """Seconds of the fastest of some runs."""
    return min(run(command)[0] for _ in range(times))


def make_input(nb_frames):
    """Write speech.raw, 3 s of it in short.raw, and the features and model of nb_frames."""
    import numpy as np

    import c2sim
    from codec2_model import RECORD
    from common import sound

    gain = random.Random(1)
    sample = sound.read_speech(str(ROOT / "tests" / "data" / "sample_8k.wav"))
    louder = [sample * 10 ** (gain.uniform(-6, 6) / 20) for _ in range(8)]
    speech = np.concatenate(louder).clip(-32767, 32767).astype("<i2")[: SECONDS * 8000]
    speech.tofile("speech.raw")
    speech[: 3 * 8000].tofile("short.raw")
    for options in ("--bands bands.f32 --modelout speech.model", "--rateK --rateKout K20.f32"):
        c2sim.main(c2sim.parse_args(["speech.raw", *options.split()]))
    for name, size in (("bands.f32", 56), ("K20.f32", 80), ("speech.model", RECORD.itemsize)):
        data = Path(name).read_bytes()
        with open(name, "wb") as file:
            for start in range(0, nb_frames * size, len(data)):
                file.write(data[: nb_frames * size - start])


def speech_speed():
    """Analysis and synthesis, beside Codec 2's own coder where it is installed."""
    jobs = {
        "c2sim.py, analysis": script("c2sim.py", "speech.raw --bands b.f32 --modelout m.model"),
        "c2sim.py, synthesis": script("c2sim.py", "--modelin m.model --phase0 -o out.raw"),
    }
    if shutil.which("c2enc"):
        jobs["c2enc 700C"] = ["c2enc", "700C", "speech.raw", "bits"]
    for name, command in jobs.items():
        show(name, SECONDS / best(command), "x real time")


def codec_speed():
    """Sender and receiver of vq_codec.py, without the seconds that Keras takes to start."""
    jobs = {
        "enc": lambda speech: script("vq_codec.py", f"enc 700 {speech}.raw {speech}.bit"),
        "dec": lambda speech: script("vq_codec.py", f"dec {speech}.bit decoded.wav"),
    }
    if shutil.which("taskset"):
        jobs["enc and dec on one core"] = on_one_core
    for name, command in jobs.items():
        few_took, many_took = (best(command(speech)) for speech in ("short", "speech"))
        speed = (SECONDS - 3) / (many_took - few_took)
        show(f"vq_codec.py {name}, 700 bit/s", speed, "x real time")


def on_one_core(speech):
    """The command that sends samples through both, in a pipe."""
    codec = f"{sys.executable} {ROOT / 'vq_codec.py'}"
    pipe = f"cat {speech}.raw | {codec} enc 700 - - | {codec} dec - - > decoded.raw"
    return ["taskset", "-c", "0", "bash", "-c", pipe]


def start_up():
    for name in START_UPS:
        show(f"import {name}", 1e3 * best([sys.executable, "-c", f"import {name}"]), "ms")
    for path in sorted(ROOT.glob("*.py")):
        show(f"{path.name} --help", 1e3 * best(script(path.name, "--help")), "ms")


def training_speed(name):
    """Training frames per second: of a long training less a short one."""
    few, many = (10, 90) if name.startswith("vq_") else (1, 9)
    options = f"{TRAINERS[name]} --noplots --epochs"
    took = run(script(name, f"{options} {many}"))[0] - run(script(name, f"{options} {few}"))[0]
    show(f"{name}, training", SECONDS * 100 * TRAIN * (many - few) / took, "frames/s")


def memory():
    trainings = {name: f"{options} --epochs 1 --noplots" for name, options in TRAINERS.items()}
    for name, options in (trainings | OTHERS).items():
        took, megabytes = run(script(name, options))
        show(f"{name}, memory", megabytes, "MB", f"{took:.0f} s")


def main(nb_frames):
    os.environ |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_input(nb_frames or SECONDS * 100)
        if not nb_frames:
            speech_speed()
            codec_speed()
            start_up()
            for name in TRAINERS:
                training_speed(name)
        memory()
        os.chdir(ROOT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 0)
