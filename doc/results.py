#!/usr/bin/env python3
"""Measure the shipped networks on speech that nothing was trained on; write tables and a picture.

Usage:
    make results              # ten minutes on two cores; goes on where it was stopped
    doc/results.py --public   # the public recordings of codec2-examples, printed and in a table of
                              # their own in doc/experiments.md; so it is without ../shared, too

The tables go to the README and to doc/experiments.md, between marks.  What is measured once is kept
in results/ until the networks, the search or the speech change.

Quantisers: frames count whose vector has a mean above 10 dB, unless a column says "all".  The delay
counts the look-ahead of analysis, encoder, search and decoder; a classical quantiser searches as
far ahead as makes its delay that of the network in whose archive it is.

Units: speech int16 at 8 kHz, vectors in dB, errors in dB², delays in ms.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
os.environ.update(ONE_THREAD)  # before NumPy is imported: one process works on each core

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import codec2_model
import demo
import measure
from common import plumbing, search, spectra

README = ROOT / "README.md"
EXPERIMENTS = ROOT / "doc" / "experiments.md"
PICTURES = ROOT / "doc"
WORK = ROOT / "results"
NETWORKS = ROOT / "networks"
PROCESSES = 2
LOWER_DB = 10  # frames with a larger mean count
ANALYSIS_MS = 20  # of speech after the middle of a frame that c2sim.py looks at
LOOKAHEADS_MS = (0, 40, 80, 160, 240)  # of the curve over delay
LONGEST_MS = 400  # whole delay that the curve goes up to
EVERY = 4  # every so many speakers for the curve, and for errors and conditions
CURVE = ("vq_K20_1100", "vq_K20_550")
ROBUST = "vq_K20_1100"  # the network that errors and conditions are tried on
CONDITIONS = (
    "telephone band, 300 to 3400 Hz",
    "white noise, 20 dB below the speech",
    "20 dB quieter",
    "6 dB louder, clipped where it must",
)
TABLES = (  # marks in README.md and doc/experiments.md
    "quantisers",
    "network or classical",
    "differences",
    "errors and conditions",
    "speech",
    "bout",
    "public recordings",
)
BIT_ERRORS = (0.001, 0.01, 0.03)
LOST = (0.02, 0.1)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Measure the shipped networks on held-out speech; write tables and a picture.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    public_help = "measure on the public recordings of codec2-examples"
    parser.add_argument("--public", action="store_true", help=public_help)
    return parser.parse_args(argv)


# ---------------------------------------------------------------- features


def folder_of(speech):
    """Folder that keeps what is measured on this speech."""
    folder = WORK / measure.key(speech.samples.tobytes())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_features(folder, samples):
    """Files of a piece of speech in `folder`: speech.wav, speech.model, K14.f32, K20.f32."""
    if (folder / "K20.f32").exists():
        return
    folder.mkdir(exist_ok=True)
    demo.write_wav(folder / "speech.wav", samples)
    files = ("--bands", "K14.f32", "--modelout", "speech.model")
    demo.run(folder, "c2sim.py", "speech.wav", *files)
    demo.run(folder, "c2sim.py", "speech.wav", "--rateK", "--rateKout", "K20.f32")


def vectors(folder, K):
    return codec2_model.read_rate_K(folder / f"K{K}.f32", K)


# ---------------------------------------------------------------- quantisers


def kind_of(name):
    """K of the vectors of vq_K20_1100: 20."""
    return int(name.split("_")[1][1:])


@functools.cache
def coders(name):
    """The Coder of a network of networks/, and that of the classical quantiser in its archive."""
    from common import networks

    quantiser = networks.load_quantiser(NETWORKS / f"{name}.keras")
    return {"network": search.coder_of(quantiser), "classical": search.baseline_of(quantiser)}


def network_names():
    """Names of the quantisers in networks/."""
    return sorted(file.stem for file in NETWORKS.glob("vq_*.keras"))


def bits_of(coder):
    """Bits per stage."""
    return round(np.log2(coder.codebooks.shape[1]))


def bit_rate(coder):
    """In bit/s."""
    return len(coder.codebooks) * bits_of(coder) / (coder.dec * spectra.FRAME_S)


def usual_lookahead_ms(name, which):
    """That of vq_out.py: the classical quantiser has as much delay as the network."""
    network = coders(name)["network"]
    lookahead_ms = search.usual_lookahead_ms(network)
    if which == "network":
        return lookahead_ms
    own_ms = search.delay_ms(coders(name)["classical"], 0)
    return max(search.delay_ms(network, lookahead_ms) - own_ms, 0)


def code(folder, name, which, lookahead_ms=None):
    """Indices and decoded vectors of the features in `folder`; kept in a file.

    {"indices": [v][stages], "x_hat": [n][K], "delay_ms", "bit_rate"}; lookahead_ms of the search,
    None: the usual one.
    """
    if lookahead_ms is None:
        lookahead_ms = usual_lookahead_ms(name, which)

    def make():
        coder, x = coders(name)[which], vectors(folder, kind_of(name))
        indices = search.send(coder, x, lookahead_ms=lookahead_ms, lower=LOWER_DB)
        return {
            "indices": indices,
            "x_hat": search.receive(coder, indices, len(x)),
            "delay_ms": search.delay_ms(coder, lookahead_ms) + ANALYSIS_MS,
            "bit_rate": bit_rate(coder),
        }

    sources = (ROOT / "common" / file for file in ("search.py", "classical.py"))
    digits = measure.key(NETWORKS / f"{name}.keras", *filter(Path.exists, sources))
    return measure.kept(folder / f"{name}_{which}_{lookahead_ms:g}ms_{digits}.npz", make)


def receive_wrong(folder, name, which, errors, rate):
    """x_hat [n][K] of indices with flipped bits or lost vectors; kept in a file."""
    sent = code(folder, name, which)

    def make():
        coder = coders(name)[which]
        indices = sent["indices"]
        if errors == "bit errors":
            indices = measure.flip_bits(indices, bits_of(coder), rate)
        else:
            indices = measure.lose_vectors(indices, rate)
        return {"x_hat": search.receive(coder, indices, len(sent["x_hat"]))}

    digits = measure.key(sent["x_hat"].tobytes())
    file = f"{name}_{which}_{errors.replace(' ', '_')}_{rate:g}_{digits}.npz"
    return measure.kept(folder / file, make)


# ---------------------------------------------------------------- speech


def speech_quality(folder, name):
    """PESQ and STOI of NAME.wav for each piece of 8 s: {"quality": [pieces][2]}, NaN where silent.

    Kept in a file, as it takes a third of a second for each piece.
    """

    def make():
        original = demo.read_wav(folder / "speech.wav")
        degraded = demo.align(original, demo.read_wav(folder / f"{name}.wav"))
        scores = np.full((len(original) // measure.PIECE, 2), np.nan)
        for i in range(len(scores)):
            piece = slice(i * measure.PIECE, (i + 1) * measure.PIECE)
            found = demo.piece_quality(original[piece], degraded[piece])
            scores[i] = np.nan if found is None else found
        return {"quality": scores}

    digits = measure.key(folder / f"{name}.wav")
    return measure.kept(folder / f"{name}_quality_{digits}.npz", make)


def make_speech(folder, name, x_hat, decoder):
    """NAME.wav and NAME.model of vectors x_hat [n][K], or of the harmonics themselves when None."""
    if (folder / f"{name}.wav").exists():
        return
    model = "speech.model" if x_hat is None else f"{name}.model"
    if x_hat is not None:
        codec2_model.write_rate_K(x_hat, folder / f"{name}.f32")
        if decoder == "conventional":
            Wo, L, _, phi, voiced = codec2_model.read(folder / "speech.model")
            A = spectra.rate_K_to_L(x_hat, Wo, L)
            codec2_model.write(Wo, L, A, phi, voiced, folder / model)
        else:
            network = NETWORKS / f"{decoder}.keras"
            files = (network, f"{name}.f32", "speech.model", "--modelout", model, "--noplots")
            demo.run(folder, "eband_out.py", *files)
    if decoder == "conventional" and x_hat is not None:
        source = ("--modelin", "speech.model", "--rateK", "--rateKin", f"{name}.f32")
    else:
        source = ("--modelin", model)
    demo.run(folder, "c2sim.py", *source, *demo.RECEIVER, "-o", f"{name}.wav")


def harmonic_figures(folder, name):
    """SD of harmonics of NAME.model: {"sd": [u] dB², "frame": [u]}, of the frames that count."""

    def make():
        Wo, L, A, _, _ = codec2_model.read(folder / "speech.model")
        loud = spectra.is_counted(vectors(folder, 14), LOWER_DB)
        A_hat = codec2_model.read(folder / f"{name}.model")[2]
        target, estimate = (
            spectra.to_bins(Wo[loud], L[loud], x[loud], demo.WIDTH, demo.CUTOFF_HZ)
            for x in (A, A_hat)
        )
        used = ~np.isnan(target).all(axis=1)
        sd = spectra.measure(target, np.nan_to_num(estimate)).sd
        return {"sd": sd, "frame": np.flatnonzero(loud)[used]}

    digits = measure.key(folder / f"{name}.model")
    return measure.kept(folder / f"{name}_harmonics_{digits}.npz", make)


CHAINS = (  # name of the files, quantiser (network, which) or None, decoder
    ("harmonics", None, None),
    ("K20", None, "conventional"),
    ("K20_newamp1", None, "newamp1"),
    ("K20_1100", ("vq_K20_1100", "network"), "conventional"),
    ("K20_1100_newamp1", ("vq_K20_1100", "network"), "newamp1"),
    ("K20_1100_classical", ("vq_K20_1100", "classical"), "conventional"),
    ("K20_550", ("vq_K20_550", "network"), "conventional"),
    ("K20_550_newamp1", ("vq_K20_550", "network"), "newamp1"),
    ("K20_550_classical", ("vq_K20_550", "classical"), "conventional"),
    ("K14", None, "bands_Wo"),
    ("K14_1100", ("vq_K14_1100", "network"), "bands_Wo"),
    ("K14_1100_classical", ("vq_K14_1100", "classical"), "bands_Wo"),
)


def chain(folder, name, quantiser, decoder):
    """Speech of one of CHAINS, its PESQ and STOI, and its SD of harmonics."""
    if quantiser:
        x_hat = code(folder, *quantiser)["x_hat"]
        digits = measure.key(x_hat.tobytes(), ROOT / "c2sim.py")
    else:
        x_hat = None if name == "harmonics" else vectors(folder, int(name[1:3]))
        digits = measure.key(ROOT / "c2sim.py")
    if decoder not in (None, "conventional"):
        digits = measure.key(digits, NETWORKS / f"{decoder}.keras")
    file = f"{name}_{digits}"
    make_speech(folder, file, x_hat, decoder)
    found = speech_quality(folder, file)
    if name != "harmonics":
        found = {**found, **harmonic_figures(folder, file)}
    return found


def bout(folder):
    """The same vectors by 700C's quantiser and by ours, both heard through c2dec; kept in files.

    --loadratek replaces the shapes (vectors without their mean) that c2dec decodes.  Interpolation,
    energy, pitch, phases and post filter are its own for both, so that only the quantiser differs.
    """
    x = vectors(folder, 20)
    demo.read_wav(folder / "speech.wav").tofile(folder / "speech.raw")
    files = ("700C.bit", "--mlfeat", "700C.f32", "700C.model")
    demo.run(folder, "c2enc", "700C", "speech.raw", *files)
    sent = codec2_model.read_floats(folder / "700C.f32", codec2_model.MLFEAT)
    mean, shapes = sent[:, :1], sent[:, 21:41]
    ours = code(folder, "vq_K20_550", "network")["x_hat"]
    our_shapes = ours[3::4][: len(shapes)]  # c2enc leaves out a last part of 40 ms
    our_shapes = our_shapes - our_shapes.mean(axis=1, keepdims=True)
    found = {}
    for name, heard in (("700C", shapes), ("ours", our_shapes)):
        file = f"bout_{name}_{measure.key(heard.tobytes())}"
        if not (folder / f"{file}.wav").exists():
            codec2_model.write_rate_K(heard, folder / f"{file}.f32")
            load = ("--loadratek", f"{file}.f32")
            demo.run(folder, "c2dec", "700C", "700C.bit", f"{file}.raw", *load)
            demo.write_wav(folder / f"{file}.wav", np.fromfile(folder / f"{file}.raw", "<i2"))
        found[name] = speech_quality(folder, file)["quality"]
    found["x_hat_700C"] = interpolate_700C(mean + shapes, len(x))
    found["x_hat_ours"] = ours
    return found


def interpolate_700C(sent, n):
    """Vectors [n][K] of 10 ms frames: 700C sends frames 3, 7, 11 …, here sent [v][K], with straight
    lines between.

    [[0], [4]], n = 9: 0 0 0 0 1 2 3 4 4.
    """
    numbers = 4 * np.arange(len(sent)) + 3
    return np.stack([np.interp(np.arange(n), numbers, values) for values in sent.T], axis=1)


# ---------------------------------------------------------------- work for two processes


def do(job):
    """Run one of the functions above in a process of its own; what it finds is kept in a file."""
    function, arguments = job
    globals()[function](*arguments)


def jobs_of(speech, part, conditions):
    """Lists of jobs, each of which needs what the one before has made."""
    folder = folder_of(speech)
    names = network_names()
    whole = [("code", (folder, name, which)) for name, which in quantisers(names)]
    some = [
        ("code", (part, name, which, lookahead))
        for name in names
        if name.startswith(CURVE)
        for which in ("network", "classical")
        for lookahead in LOOKAHEADS_MS
    ]
    some += [
        ("code", (place, ROBUST, which))
        for place in conditions.values()
        for which in ("network", "classical")
    ]
    errors = [
        ("receive_wrong", (part, ROBUST, which, what, rate))
        for which in ("network", "classical")
        for what, rates in (("bit errors", BIT_ERRORS), ("lost vectors", LOST))
        for rate in rates
    ]
    chains = [("chain", (folder, *row)) for row in CHAINS] if demo.can_score() else []
    return [whole + some, errors + chains]


def quantisers(names):
    return [(name, which) for name in names for which in ("network", "classical")]


def work(lists):
    """Do lists of jobs with two processes, one list after the other."""
    context = multiprocessing.get_context("spawn")  # a copy of a process with Keras hangs
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, context) as pool:
        for jobs in lists:
            progress = plumbing.Progress(len(jobs), "job")
            waiting = {pool.submit(do, job): job for job in jobs}
            for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                future.result()  # raises what the job has raised
                function, arguments = waiting[future]
                words = " ".join(str(x) for x in arguments[1:])
                progress.show(done, f"{function} {words}")


# ---------------------------------------------------------------- tables


def figures_of(folder, speech, name, x_hat, counted=None):
    """Figures of decoded vectors, and the speakers [u] of the frames that count."""
    x = vectors(folder, kind_of(name))
    counted = spectra.is_counted(x, LOWER_DB) if counted is None else counted
    found = measure.measure(x, x_hat, counted)
    return found, measure.speakers_of_frames(speech, len(x))[counted]


def title(name, which):
    """How a quantiser is called in the tables."""
    return f"`{name}.keras`" if which == "network" else "classical"


def kmeans_lines(folder, name):
    """x_hat [n][K]: multi-stage k-means of every dec-th vector, straight lines between; or None.

    This is the baseline of older versions of these pages.
    """
    from common import networks

    quantiser = networks.load_quantiser(NETWORKS / f"{name}.keras")
    codebooks, dec = quantiser.baseline.get("kmeans"), quantiser.options["dec"]
    if codebooks is None:
        return None

    def make():
        x = np.maximum(vectors(folder, kind_of(name)), spectra.FLOOR_DB)
        sent = x[::dec]
        quantised = np.zeros_like(sent)
        books = np.float32(codebooks)
        for start in range(0, len(sent), 256):
            found = search.nearest_sums(sent[start : start + 256], books, 16)
            for book, index in zip(books, np.asarray(found)[:, 0].T, strict=True):
                quantised[start : start + 256] += book[index]
        lines = np.stack(
            [
                np.interp(np.arange(len(x)), np.arange(len(sent)) * dec, values)
                for values in quantised.T
            ],
            axis=1,
        )
        return {"x_hat": lines}

    digits = measure.key(codebooks.tobytes())
    return measure.kept(folder / f"{name}_lines_{digits}.npz", make)["x_hat"]


QUANTISER_HEAD = (
    "quantiser",
    "K",
    "bit/s",
    "delay, ms",
    "SD, dB²",
    "95 % interval",
    "variance",
    "rms, dB",
    "above 2 dB, %",
    "above 4 dB, %",
    "SD, all frames",
)


def quantiser_row(label, K, rate, delay_ms, found, speakers):
    shares = [f"{100 * share:.1f}" for share in (found.above_2, found.above_4)]
    mean, spread = float(found.sd.mean()), measure.interval(found.sd, speakers)
    return (
        *(label, K, rate, delay_ms, mean, spread, found.variance, found.rms),
        *shares,
        found.sd_all,
    )


def quantiser_rows(speech):
    """{row: (Figures, speakers, rate, delay)} of all quantisers, for two tables."""
    folder = folder_of(speech)
    rows = {}
    for name in network_names():
        K = kind_of(name)
        for which in ("network", "classical"):
            coded = code(folder, name, which)
            found, speakers = figures_of(folder, speech, name, coded["x_hat"])
            rate, delay = round(float(coded["bit_rate"])), int(coded["delay_ms"])
            rows[name, which] = (found, speakers, K, rate, delay)
        lines = kmeans_lines(folder, name)
        if lines is not None:
            dec = coders(name)["network"].dec
            delay = round((dec - 1) * 1000 * spectra.FRAME_S) + ANALYSIS_MS
            found, speakers = figures_of(folder, speech, name, lines)
            rows[name, "lines"] = (found, speakers, K, rate, delay)
            x = vectors(folder, K)
            found, speakers = figures_of(folder, speech, name, measure.straight_lines(x, dec))
            rows[f"K{K}", f"floor {dec}"] = (found, speakers, K, None, delay)
    return rows


LABELS = {
    "classical": "classical",
    "lines": "k-means, straight lines",
}


def label(name, which):
    if which == "network":
        return f"`{name}.keras`"
    return LABELS.get(which, "not quantised, straight lines over 40 ms")


def quantiser_table(speech, rows):
    """All quantisers of amplitudes, with intervals."""
    order = sorted(
        rows, key=lambda row: (rows[row][2], -(rows[row][3] or 0), rows[row][0].sd.mean())
    )
    lines = []
    for name, which in order:
        found, speakers, K, rate, delay = rows[name, which]
        lines.append(quantiser_row(label(name, which), K, rate, delay, found, speakers))
    counted = {rows[row][2]: (len(rows[row][1]), row) for row in rows}
    frames = len(vectors(folder_of(speech), 20))
    words = " and ".join(f"{n} (K = {K})" for K, (n, _) in sorted(counted.items()))
    text = f"Test speech: {speech.words}; {words} of {frames} frames count.\n\n"
    return text + measure.table(QUANTISER_HEAD, *lines)


def short_table(speech, rows):
    """The quantisers in the README: network, classical, and the difference."""
    lines = []
    for name, which in rows:
        if which != "network":
            continue
        found, speakers, K, rate, delay = rows[name, "network"]
        other, _, _, _, other_delay = rows[name, "classical"]
        difference = found.sd - other.sd
        lines.append(
            (
                *(f"`{name}.keras`", K, rate, delay, float(found.sd.mean())),
                *(other_delay, float(other.sd.mean()), float(difference.mean())),
                measure.interval(difference, speakers),
            )
        )
    head = (
        "network",
        "K",
        "bit/s",
        "delay, ms",
        "SD, dB²",
        "delay of classical",
        "SD of classical",
    )
    head += ("difference", "95 % interval")
    return f"Test speech: {speech.words}.\n\n" + measure.table(head, *lines)


def difference_table(rows):
    """Paired differences in dB² between any two quantisers of the same vectors, with intervals."""
    lines = []
    keys = [row for row in rows if rows[row][3]]
    for i, first in enumerate(keys):
        for second in keys[i + 1 :]:
            if rows[first][2] != rows[second][2]:
                continue
            difference = rows[first][0].sd - rows[second][0].sd
            spread = measure.interval(difference, rows[first][1])
            words = [f"{label(*row)}, {rows[row][3]} bit/s" for row in (first, second)]
            lines.append((*words, rows[first][2], float(difference.mean()), spread))
    head = ("quantiser", "less", "K", "difference of SD, dB²", "95 % interval")
    return measure.table(head, *lines)


def robust_table(speech, part, conditions):
    """SD of network and classical quantiser with errors, and in other conditions."""
    folder = folder_of(part)
    clean = spectra.is_counted(vectors(folder, kind_of(ROBUST)), LOWER_DB)
    lines = []

    def add(words, place, x_hats):
        found = [figures_of(place, part, ROBUST, x_hat, clean) for x_hat in x_hats]
        sd = [figures.sd for figures, _ in found]
        difference = sd[0] - sd[1]
        spread = measure.interval(difference, found[0][1])
        lines.append((words, *(float(x.mean()) for x in (*sd, difference)), spread))

    both = ("network", "classical")
    plain = [code(folder, ROBUST, which)["x_hat"] for which in both]
    add("as it is", folder, plain)
    for what, rates in (("bit errors", BIT_ERRORS), ("lost vectors", LOST)):
        for rate in rates:
            wrong = [receive_wrong(folder, ROBUST, which, what, rate)["x_hat"] for which in both]
            add(f"{100 * rate:g} % {what}", folder, wrong)
    for words, place in conditions.items():
        add(words, place, [code(place, ROBUST, which)["x_hat"] for which in both])
    head = ("condition", f"`{ROBUST}.keras`", "classical", "difference", "95 % interval")
    text = f"Test speech: {part.words}; frames that are loud as it is.\n\n"
    return text + measure.table(head, *lines)


def quality_cells(quality, pieces):
    """Cells of a table: PESQ, its interval, STOI; quality [pieces][2]."""
    spoken = ~np.isnan(quality[:, 0])
    pesq, stoi = quality[spoken].T
    spread = measure.interval(pesq, pieces[spoken])
    return float(pesq.mean()), spread, float(stoi.mean())


def chain_table(speech):
    """The whole chain with unquantised pitch and voicing: SD of harmonics, PESQ, STOI."""
    folder, pieces = folder_of(speech), measure.speakers_of_pieces(speech)
    lines = []
    for name, quantiser, decoder in CHAINS:
        found = chain(folder, name, quantiser, decoder)
        sd = spread = None
        if "sd" in found:
            sd = float(found["sd"].mean())
            frames = measure.speakers_of(speech, found["frame"] * measure.FRAME)
            spread = measure.interval(found["sd"], frames)
        rate = int(quantiser[0].split("_")[2]) if quantiser else None
        words = label(*quantiser) if quantiser else f"none, {name[:3].replace('K', 'K = ')}"
        if name == "harmonics":
            words = "none, all harmonics"
        how = decoder if decoder in (None, "conventional") else f"`{decoder}.keras`"
        lines.append((rate, words, how, sd, spread, *quality_cells(found["quality"], pieces)))
    head = ("bit/s of amplitudes", "quantiser", "decoder", "SD of harmonics, dB²")
    head += ("95 % interval", "PESQ", "95 % interval", "STOI")
    text = f"Test speech: {speech.words}, {len(pieces)} pieces of 8 s for PESQ and STOI.\n\n"
    return text + measure.table(head, *lines)


def bout_table(speech):
    """700C's quantiser and ours on the same vectors, through the same decoder."""
    folder, pieces = folder_of(speech), measure.speakers_of_pieces(speech)
    found = bout(folder)
    lines = []
    for name, words, bits in (
        ("700C", "700C's own", 22),
        ("ours", "`vq_K20_550.keras`, and 700C's energy", 26),
    ):
        figures, _ = figures_of(folder, speech, "vq_K20_550", found[f"x_hat_{name}"])
        sd, variance = float(figures.sd.mean()), figures.variance
        lines.append((words, bits, sd, variance, *quality_cells(found[name], pieces)))
    head = ("quantiser", "bits every 40 ms", "SD of vectors, dB²", "variance, dB²")
    head += ("PESQ", "95 % interval", "STOI")
    return f"Test speech: {speech.words}.\n\n" + measure.table(head, *lines)


# ---------------------------------------------------------------- picture


def curve_points(part):
    """{(network, which): [(delay in ms, SD in dB²)]}, with and without search."""
    folder = folder_of(part)
    points = {}
    for name in network_names():
        if not name.startswith(CURVE):
            continue
        for which in ("network", "classical"):
            for lookahead in LOOKAHEADS_MS:
                coded = code(folder, name, which, lookahead)
                found, _ = figures_of(folder, part, name, coded["x_hat"])
                point = (int(coded["delay_ms"]), float(found.sd.mean()))
                if point[0] <= LONGEST_MS:
                    points.setdefault((name, which), []).append(point)
    return points


def plot_delay(points, words):
    """SD over the whole delay; names stand at the ends of the curves."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    rates = sorted({name.split("_")[2] for name, _ in points})
    ends = []
    for (name, which), curve in points.items():
        ms, sd = zip(*curve, strict=True)
        colour = f"C{rates.index(name.split('_')[2])}"
        ax.plot(ms, sd, "o-" if which == "network" else "s:", color=colour, markersize=4)
        words_here = name.removeprefix("vq_") if which == "network" else "classical"
        ends.append((sd[-1], ms[-1], f"{words_here}, {name.split('_')[2]} bit/s", colour))
    highest = max(sd for curve in points.values() for _, sd in curve)
    above, gap = -np.inf, 0.05 * highest  # so that no label covers another
    for sd, ms, text, colour in sorted(ends):
        above = max(sd, above + gap)
        ax.annotate(text, (ms, sd), (ms + 8, above), va="center", color=colour)
    ax.set(xlabel="Whole delay: encoder, search, decoder (ms)", ylabel="SD of vectors (dB²)")
    ax.set(xlim=(0, 1.4 * LONGEST_MS), ylim=(0, 1.1 * highest), title=f"K = 20; {words}")
    ax.set_xticks(range(0, LONGEST_MS + 1, 40))
    ax.grid(alpha=0.3)
    return fig


# ---------------------------------------------------------------- main


def check_overlap(speech):
    """End here if any of the test speech is in any training speech that is on this machine."""
    found = measure.find_overlaps(speech, measure.training_speech())
    for speaker, name, second in found:
        print(f"results: error: {speaker} is in {name}, from {second:.1f} s on", file=sys.stderr)
    if found:
        sys.exit(1)
    print(f"{speech.words}: none of it is in the training speech")


def prepare(speech):
    """Features of the speech, of a part of its speakers, and of this part in other conditions.

    Returns the part and {condition: folder}.
    """
    part = measure.some_speakers(speech, EVERY) if len(speech.names) > 2 * EVERY else speech
    make_features(folder_of(speech), speech.samples)
    make_features(folder_of(part), part.samples)
    conditions = {}
    for i, words in enumerate(CONDITIONS):
        conditions[words] = folder_of(part) / f"condition_{i}"
        make_features(conditions[words], measure.degrade(part.samples, words))
    return part, conditions


def main(args):
    is_public = args.public or not (measure.SHARED / "heldout").is_dir()
    if is_public and not measure.EXAMPLES.is_dir():
        sys.exit("results: error: no speech: apt-get install codec2-examples")
    speech = measure.public() if is_public else measure.heldout()
    check_overlap(speech)
    part, conditions = prepare(speech)
    work(jobs_of(speech, folder_of(part), conditions))
    rows = quantiser_rows(speech)
    tables = {"quantisers": quantiser_table(speech, rows)}
    if not is_public:
        tables |= {
            "network or classical": short_table(speech, rows),
            "differences": difference_table(rows),
            "errors and conditions": robust_table(speech, part, conditions),
        }
    if demo.can_score():
        tables["speech"] = chain_table(speech)
        if shutil.which("c2enc") and not is_public:
            tables["bout"] = bout_table(speech)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if is_public:
        write("public recordings", "\n".join(tables.values()))
        return
    for name, text in tables.items():
        write(name, text)
    fig = plot_delay(curve_points(part), part.words)
    fig.savefig(PICTURES / "delay.png", dpi=100)


def write(name, text):
    """Put a table into each page that has a mark for it."""
    mark = f"made by make results: {name}"
    pages = [page for page in (README, EXPERIMENTS) if f"<!-- {mark} -->" in page.read_text()]
    if not pages:
        raise plumbing.FormatError(f"{EXPERIMENTS}: expected a line <!-- {mark} -->")
    for page in pages:
        measure.write_page(page, mark, text)


if __name__ == "__main__":
    plumbing.start()
    try:
        main(parse_args())
    except demo.Failed as error:
        sys.exit(str(error))
