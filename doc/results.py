#!/usr/bin/env python3
"""Measure the shipped networks on speech that nothing was trained on; write tables and a picture.

Usage:
    make results              # 25 minutes on two cores; goes on where it was stopped
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
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

import coding  # before NumPy, as it sets the number of threads
import demo
import measure
from common import plumbing, spectra

README = ROOT / "README.md"
EXPERIMENTS = ROOT / "doc" / "experiments.md"
PICTURES = ROOT / "doc"
BOTH = ("network", "classical")
LONGEST_MS = 400  # whole delay that the curve goes up to
TABLES = (  # marks in README.md and doc/experiments.md
    "codecs",
    "codec differences",
    "network or classical",
    "quantisers",
    "differences",
    "errors",
    "conditions",
    "speech",
    "bout",
    "public recordings",
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Measure the shipped networks on held-out speech; write tables and a picture.",
        epilog=plumbing.epilog(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    public_help = "measure on the public recordings of codec2-examples"
    parser.add_argument("--public", action="store_true", help=public_help)
    return parser.parse_args(argv)


# ---------------------------------------------------------------- quantisers


class Row(NamedTuple):
    """A quantiser, or what interpolation alone costs."""

    label: str
    K: int
    bit_rate: int | None
    delay_ms: int
    found: measure.Figures
    speakers: np.ndarray  # [u] of the frames that count


def make_row(label, K, bit_rate, delay_ms, x_hat, folder, speech):
    """The Row of decoded vectors x_hat [n][K]."""
    x = coding.vectors(folder, K)
    counted = spectra.is_counted(x, coding.LOWER_DB)
    speakers = measure.speakers_of_frames(speech, len(x))[counted]
    return Row(label, K, bit_rate, delay_ms, measure.measure(x, x_hat, counted), speakers)


def make_rows(speech):
    """{(network, which)}: Row of all quantisers; "floor" is straight lines between vectors that are
    not quantised.
    """
    folder = coding.folder_of(speech)
    rows = {}
    for name in coding.network_names():
        K = coding.kind_of(name)
        for which, label in zip(BOTH, (f"`{name}.keras`", "classical"), strict=True):
            coded = coding.code(folder, name, which)
            rate, delay_ms = round(float(coded["bit_rate"])), int(coded["delay_ms"])
            rows[name, which] = make_row(label, K, rate, delay_ms, coded["x_hat"], folder, speech)
        dec = coding.coders(name)["network"].dec
        delay_ms = round((dec - 1) * 1000 * spectra.FRAME_S) + coding.ANALYSIS_MS
        floor = measure.straight_lines(coding.vectors(folder, K), dec)
        label = f"not quantised, straight lines over {dec * 10} ms"
        rows[f"K{K}", f"floor {dec}"] = make_row(label, K, None, delay_ms, floor, folder, speech)
    return rows


def quantiser_cells(row):
    """Cells of a table: SD and its interval, variance, rms, outliers, SD of all frames."""
    sd = row.found.sd
    shares = [f"{100 * share:.1f}" for share in (row.found.above_2, row.found.above_4)]
    figures = (float(sd.mean()), measure.interval(sd, row.speakers), row.found.variance)
    return *figures, row.found.rms, *shares, row.found.sd_all


def quantiser_table(speech, rows):
    """All quantisers of amplitudes, with intervals."""

    def place(row):
        return row.K, -(row.bit_rate or 0), row.found.sd.mean()

    lines = [
        (row.label, row.K, row.bit_rate, row.delay_ms, *quantiser_cells(row))
        for row in sorted(rows.values(), key=place)
    ]
    counted = {row.K: len(row.speakers) for row in rows.values()}
    words = " and ".join(f"{n} (K = {K})" for K, n in sorted(counted.items()))
    n = len(coding.vectors(coding.folder_of(speech), 20))
    head = ("quantiser", "K", "bit/s", "delay, ms", "SD, dB²", "95 % interval", "variance, dB²")
    head += ("rms, dB", "above 2 dB, %", "above 4 dB, %", "SD of all frames, dB²")
    text = f"Test speech: {speech.words}; {words} of {n} frames count.\n\n"
    return text + measure.table(head, *lines)


def short_table(speech, rows):
    """The quantisers in the README: network, classical, and the difference."""
    lines = []
    for (name, which), network in rows.items():
        if which != "network":
            continue
        classical = rows[name, "classical"]
        difference = network.found.sd - classical.found.sd
        figures = [float(sd.mean()) for sd in (network.found.sd, classical.found.sd, difference)]
        spread = measure.interval(difference, network.speakers)
        lines.append(
            (network.label, network.K, network.bit_rate, network.delay_ms, *figures, spread)
        )
    head = ("network", "K", "bit/s", "delay, ms", "SD, dB²", "classical, dB²")
    head += ("difference", "95 % interval")
    return f"Test speech: {speech.words}.\n\n" + measure.table(head, *lines)


def difference_table(rows):
    """Paired differences in dB² between any two quantisers of the same vectors, with intervals."""
    quantisers = [row for row in rows.values() if row.bit_rate]
    lines = []
    for i, first in enumerate(quantisers):
        for second in quantisers[i + 1 :]:
            if first.K != second.K:
                continue
            difference = first.found.sd - second.found.sd
            spread = measure.interval(difference, first.speakers)
            words = [
                f"{row.label}, {row.bit_rate} bit/s, {row.delay_ms} ms" for row in (first, second)
            ]
            lines.append((*words, first.K, float(difference.mean()), spread))
    head = ("quantiser", "less", "K", "difference of SD, dB²", "95 % interval")
    return measure.table(head, *lines)


# ---------------------------------------------------------------- errors and conditions


def error_table(speech, rows):
    """SD of all quantisers when bits are wrong or vectors get lost."""
    folder = coding.folder_of(speech)
    lines = []
    for (name, which), row in rows.items():
        if which not in BOTH:
            continue
        x = coding.vectors(folder, row.K)
        counted = spectra.is_counted(x, coding.LOWER_DB)
        found = [float(row.found.sd.mean())]
        for error in coding.ERRORS:
            x_hat = coding.receive_wrong(folder, name, which, *error)["x_hat"]
            found.append(float(measure.measure(x, x_hat, counted).sd.mean()))
        lines.append((row.label, row.K, row.bit_rate, row.delay_ms, *found))
    head = ("quantiser", "K", "bit/s", "delay, ms", "no errors")
    head += tuple(f"{100 * rate:g} % {what}" for what, rate in coding.ERRORS)
    return f"Test speech: {speech.words}. SD in dB².\n\n" + measure.table(head, *lines)


def condition_table(part, conditions):
    """SD of network and classical quantiser on speech of other kinds."""
    name, folder = coding.ROBUST, coding.folder_of(part)
    K = coding.kind_of(name)
    loud = spectra.is_counted(coding.vectors(folder, K), coding.LOWER_DB)
    speakers = measure.speakers_of_frames(part, len(loud))[loud]
    lines = []
    for words, place in {"as it is": folder, **conditions}.items():
        x = coding.vectors(place, K)
        decoded = [coding.code(place, name, which)["x_hat"] for which in BOTH]
        sd = [measure.measure(x, x_hat, loud).sd for x_hat in decoded]
        difference = sd[0] - sd[1]
        figures = [float(values.mean()) for values in (*sd, difference)]
        lines.append((words, *figures, measure.interval(difference, speakers)))
    head = ("condition", f"`{name}.keras`", "classical", "difference", "95 % interval")
    text = f"Test speech: {part.words}; the frames that count when it is as it is. SD in dB².\n\n"
    return text + measure.table(head, *lines)


# ---------------------------------------------------------------- speech


def codec_table(speech):
    """Whole codecs, by all that they send."""
    folder, pieces = coding.folder_of(speech), measure.speakers_of_pieces(speech)
    lines = []
    for codec in coding.codecs():
        found = coding.make_codec(folder, codec)
        delay_ms = int(found["delay_ms"])
        lines.append(
            (codec.words, codec.bit_rate, delay_ms, *quality_cells(found["quality"], pieces))
        )
    head = ("codec", "bit/s", "delay, ms", "PESQ", "95 % interval", "STOI")
    text = f"Test speech: {speech.words}; {len(pieces)} pieces of 8 s.\n\n"
    return text + measure.table(head, *lines)


def quality_cells(quality, pieces):
    """Cells of a table: PESQ, its interval, STOI; quality [pieces][2], NaN where silent."""
    spoken = ~np.isnan(quality[:, 0])
    pesq, stoi = quality[spoken].T
    spread = measure.interval(pesq, pieces[spoken])
    return float(pesq.mean()), spread, float(stoi.mean())


def codec_difference_table(speech):
    """PESQ of ours less that of the others, piece by piece, with intervals."""
    folder, pieces = coding.folder_of(speech), measure.speakers_of_pieces(speech)
    clean = [codec for codec in coding.codecs() if not codec.errors]
    pesq = {codec: coding.make_codec(folder, codec)["quality"][:, 0] for codec in clean}
    lines = []
    for ours in clean:
        for other in clean:
            if ours.name.startswith("vq_codec") and other != ours:
                difference = pesq[ours] - pesq[other]
                spoken = ~np.isnan(difference)
                spread = measure.interval(difference[spoken], pieces[spoken])
                lines.append((ours.words, other.words, float(difference[spoken].mean()), spread))
    return measure.table(("codec", "less", "difference of PESQ", "95 % interval"), *lines)


def speech_table(speech):
    """The whole chain with unquantised pitch and voicing: SD of harmonics, PESQ, STOI."""
    folder, pieces = coding.folder_of(speech), measure.speakers_of_pieces(speech)
    lines = []
    for chain in coding.CHAINS:
        found = coding.make_chain(folder, chain)
        sd = spread = None
        if "sd" in found:
            sd = float(found["sd"].mean())
            frames = measure.speakers_of(speech, found["frame"] * measure.FRAME)
            spread = measure.interval(found["sd"], frames)
        quality = quality_cells(found["quality"], pieces)
        lines.append((chain.bit_rate, chain.words, chain.decoder, sd, spread, *quality))
    head = ("bit/s of amplitudes", "quantiser", "decoder", "SD of harmonics, dB²")
    head += ("95 % interval", "PESQ", "95 % interval", "STOI")
    text = f"Test speech: {speech.words}; PESQ and STOI of {len(pieces)} pieces of 8 s.\n\n"
    return text + measure.table(head, *lines)


def bout_table(speech):
    """700C's quantiser and ours on the same vectors, through the same decoder."""
    folder, pieces = coding.folder_of(speech), measure.speakers_of_pieces(speech)
    x = coding.vectors(folder, 20)
    counted = spectra.is_counted(x, coding.LOWER_DB)
    bout = coding.make_bout(folder)
    lines = []
    for name, words, bits in (
        ("700C", "700C's own", 22),
        ("ours", "`vq_K20_550.keras`, and 700C's energy", 26),
    ):
        found = measure.measure(x, bout[f"x_hat_{name}"], counted)
        quality = quality_cells(bout[name], pieces)
        lines.append((words, bits, float(found.sd.mean()), found.variance, *quality))
    head = ("quantiser", "bits every 40 ms", "SD of vectors, dB²", "variance, dB²")
    head += ("PESQ", "95 % interval", "STOI")
    return f"Test speech: {speech.words}.\n\n" + measure.table(head, *lines)


# ---------------------------------------------------------------- picture


def curve_points(part):
    """{(network, which): [(delay in ms, SD in dB²)]} for look-aheads of the search."""
    folder = coding.folder_of(part)
    x = coding.vectors(folder, 20)
    counted = spectra.is_counted(x, coding.LOWER_DB)
    points = {}
    for name, which, lookahead_ms in coding.curve_jobs():
        coded = coding.code(folder, name, which, lookahead_ms)
        delay_ms = int(coded["delay_ms"])
        if delay_ms <= LONGEST_MS:
            sd = measure.measure(x, coded["x_hat"], counted).sd
            points.setdefault((name, which), []).append((delay_ms, float(sd.mean())))
    return points


def plot_delay(points, words):
    """SD over the whole delay; names stand below the curves of networks, above the others."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    rates = sorted({name.split("_")[2] for name, _ in points})
    for (name, which), curve in points.items():
        ms, sd = zip(*curve, strict=True)
        rate = name.split("_")[2]
        colour = f"C{rates.index(rate)}"
        if which == "network":
            marker, text, points_below, side = "o-", name.removeprefix("vq_"), 8, "top"
        else:
            marker, text, points_below, side = "s:", f"classical, {rate} bit/s", -8, "bottom"
        ax.plot(ms, sd, marker, color=colour, markersize=4)
        place = {"textcoords": "offset points", "ha": "right", "va": side}
        ax.annotate(text, (ms[-1], sd[-1]), (0, -points_below), color=colour, **place)
    ax.set(xlabel="Whole delay: analysis, encoder, search, decoder (ms)")
    ax.set(ylabel="SD of vectors (dB²)", title=f"K = 20; {words}")
    ax.set(xlim=(0, LONGEST_MS), ylim=(0, None))
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


def write(name, text):
    """Put a table into each page that has a mark for it."""
    mark = f"made by make results: {name}"
    pages = [page for page in (README, EXPERIMENTS) if f"<!-- {mark} -->" in page.read_text()]
    if not pages:
        raise plumbing.FormatError(f"{EXPERIMENTS}: expected a line <!-- {mark} -->")
    for page in pages:
        measure.write_page(page, mark, text)


def make_tables(speech, part, conditions, is_public):
    """{name: Markdown}."""
    rows = make_rows(speech)
    tables = {"quantisers": quantiser_table(speech, rows)}
    if not is_public:
        tables["network or classical"] = short_table(speech, rows)
        tables["differences"] = difference_table(rows)
        tables["errors"] = error_table(speech, rows)
        tables["conditions"] = condition_table(part, conditions)
    if demo.can_score():
        tables["codecs"] = codec_table(speech)
        if not is_public:
            tables["codec differences"] = codec_difference_table(speech)
        tables["speech"] = speech_table(speech)
        if shutil.which("c2enc") and not is_public:
            tables["bout"] = bout_table(speech)
    return tables


def main(args):
    is_public = args.public or not (measure.SHARED / "heldout").is_dir()
    if is_public and not measure.EXAMPLES.is_dir():
        sys.exit("results: error: no speech: apt-get install codec2-examples")
    speech = measure.public() if is_public else measure.heldout()
    check_overlap(speech)
    part, conditions = coding.prepare(speech, is_public)
    coding.work(coding.jobs_of(speech, part, conditions))
    tables = make_tables(speech, part, conditions, is_public)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if is_public:
        write("public recordings", "\n".join(tables.values()))
        return
    for name, text in tables.items():
        write(name, text)
    fig = plot_delay(curve_points(part), part.words)
    fig.savefig(PICTURES / "delay.png", dpi=100)


if __name__ == "__main__":
    plumbing.start()
    try:
        main(parse_args())
    except demo.Failed as error:
        sys.exit(str(error))
