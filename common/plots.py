"""Windows with keys, or PNG and GIF files: pages of vectors and frames, SD over time, films."""

import io
import math
import os

import numpy as np

from common import plumbing, spectra

PER_PAGE = 16  # vectors, in four rows and columns
PAGES_WITHOUT_DISPLAY = 10  # PNG files that nobody asked for; a long file has thousands of pages
FRAMES_PER_PAGE = 6
TIME_POINTS = 400  # most that a curve over time has: thousands of frames would be a blot
MODIFIERS = ("shift", "control", "ctrl", "alt", "super", "cmd", "caps_lock")  # do nothing alone
# of a page; a constrained layout would take 0.5 s to find them
MARGINS = {"left": 0.07, "right": 0.98, "bottom": 0.08, "top": 0.93}
WAVE_GAP = 1.2  # vertical distance of waveforms that are drawn together, in peaks of the original
FILM_MS = 250  # of a picture of a film
LAST_MS = 2000  # of the last one
FILM_DPI = 100
KEYS = "any key or n: next page, b: back, q or a click: end"


def pyplot():
    """matplotlib.pyplot, which takes a second to import: after options and files are checked."""
    import matplotlib.pyplot as plt

    plt.rcParams["text.usetex"] = False  # not every machine has LaTeX
    return plt


def save_picture(fig, name, plot_dir, save):
    """Let save(file name) write a picture in plot_dir; False if `fig` is in a window instead."""
    if plot_dir is None and fig.canvas.required_interactive_framework:
        return False
    filename = os.path.join(plot_dir or ".", name)
    with plumbing.replacing(filename) as new:
        save(new)
    print(f"plot: {filename}")
    return True


def show(figures, plot_dir):
    """Show figures {name: figure} in windows until these are closed, or write PNG files."""
    plt = pyplot()

    for name, fig in figures.items():
        if save_picture(fig, f"{name}.png", plot_dir, fig.savefig):
            plt.close(fig)
    plt.show()


def show_film(fig, draw, nb_pictures, name, plot_dir):
    """Film of the pictures that draw(i), i = 0…nb_pictures − 1, makes of `fig`.

    In a window, or as a GIF and a PNG of the last picture.
    """

    def save(filename):
        from PIL import Image

        pictures = []
        for i in range(nb_pictures):
            draw(i)
            picture = io.BytesIO()
            fig.savefig(picture, dpi=FILM_DPI)
            pictures.append(Image.open(picture).convert("RGB"))
        durations = [FILM_MS] * (nb_pictures - 1) + [LAST_MS]
        film = {"append_images": pictures[1:], "duration": durations, "loop": 0}
        pictures[0].save(filename, save_all=True, **film)

    if not save_picture(fig, f"{name}.gif", plot_dir, save):
        from matplotlib.animation import FuncAnimation

        # a film runs as long as something refers to it
        fig.film = FuncAnimation(fig, draw, nb_pictures, interval=FILM_MS, repeat=False)
    show({name: fig}, plot_dir)


# ---------------------------------------------------------------- pages


def page_through(draw, nb_pages, name, plot_dir, first=0):
    """Turn pages: draw(fig, page) fills a figure, page = 0…nb_pages − 1; a window opens at `first`.

    n, space, right and any other key go on, b and left go back, both stop at the ends; q, escape, a
    click on the page or closing its window ends.  With a plot_dir all pages become PNG files, and
    without a display the first ones.
    """
    plt = pyplot()

    pager = Pager(plt.figure(figsize=(12, 8)), draw, nb_pages)
    if plot_dir is None and pager.fig.canvas.required_interactive_framework:
        pager.fig.canvas.manager.set_window_title(f"{name}: {KEYS}")
        pager.show(first)
        plt.show()  # its user turns the pages
        return
    shown = nb_pages if plot_dir else min(nb_pages, PAGES_WITHOUT_DISPLAY)
    for page in range(shown):
        pager.show(page)
        save_picture(pager.fig, f"{name}_{page + 1}.png", plot_dir, pager.fig.savefig)
    plt.close(pager.fig)
    if shown < nb_pages:
        print(f"no display: {shown} of {nb_pages} pages were written, --plot_dir DIR writes all")


class Pager:
    """Keys and clicks of page_through()."""

    def __init__(self, fig, draw, nb_pages):
        self.fig, self.draw, self.nb_pages = fig, draw, nb_pages
        self.page = 0
        # Matplotlib binds q and the arrow keys itself
        fig.canvas.mpl_disconnect(fig.canvas.manager.key_press_handler_id)
        fig.canvas.mpl_connect("key_press_event", self.on_key)
        fig.canvas.mpl_connect("button_press_event", self.on_click)

    def show(self, page):
        self.page = min(max(page, 0), self.nb_pages - 1)
        self.fig.clear()
        self.draw(self.fig, self.page)
        is_window = self.fig.canvas.required_interactive_framework
        footer = f"page {self.page + 1} of {self.nb_pages}{f'; {KEYS}' if is_window else ''}"
        self.fig.text(MARGINS["left"], 0.01, footer, fontsize=8, color="gray")
        if is_window:
            self.fig.canvas.draw_idle()

    def on_key(self, event):
        key = (event.key or "shift").lower()
        if key in ("q", "escape"):
            pyplot().close(self.fig)
        elif key in ("b", "left"):
            self.show(self.page - 1)
        elif key.rpartition("+")[2] not in MODIFIERS:
            self.show(self.page + 1)

    def on_click(self, event):
        toolbar = self.fig.canvas.toolbar
        if not (toolbar and toolbar.mode):  # while the toolbar zooms or pans, clicks are its own
            pyplot().close(self.fig)


def page_vectors(files, numbers, titles, name, plot_dir, hz=None, unit="dB", first=0):
    """Turn pages of 16 vectors; files {label: [n][K]} are drawn over each other.

    A shorter file is drawn as far as it goes.  numbers [p] of the vectors to show, titles [p] for
    them; hz [K] are the frequencies of the values, if they have any; a window opens at the page
    with the vector at place `first`.
    """
    low, high = min(x.min() for x in files.values()), max(x.max() for x in files.values())
    margin = 0.05 * (high - low) or 1
    K = next(iter(files.values())).shape[1]
    x_axis = np.arange(K) if hz is None else np.asarray(hz) / 1000
    x_label = "Number of the value, from 0" if hz is None else "Frequency (kHz)"
    grid = {**MARGINS, "wspace": 0.05, "hspace": 0.2}

    def draw(fig, page):
        axes = fig.subplots(4, 4, sharex=True, sharey=True, gridspec_kw=grid)
        shown = range(page * PER_PAGE, min((page + 1) * PER_PAGE, len(numbers)))
        for i, ax in zip(shown, axes.flat, strict=False):
            for (label, vectors), style in zip(files.items(), ("o-C0", "s--C1"), strict=False):
                if numbers[i] < len(vectors):
                    ax.plot(x_axis, vectors[numbers[i]], style, markersize=3, label=label)
            ax.set_title(titles[i], fontsize=9, pad=2)
            ax.grid(alpha=0.3)
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
        for ax in axes.flat[: len(shown)][-4:]:  # the lowest one of each column
            ax.tick_params(labelbottom=True)
        axes[0, 0].set_ylim(low - margin, high + margin)
        fig.supxlabel(x_label)
        fig.supylabel(unit)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=8, ncols=2)

    page_through(draw, math.ceil(len(numbers) / PER_PAGE), name, plot_dir, first // PER_PAGE)


def page_frames(records, titles, estimates, name, plot_dir, Fs=spectra.FS_HZ):
    """Turn pages of six frames: amplitudes of the harmonics above, 160 samples of waveform below.

    Model records [p], titles [p], and the estimates for them, {label: dB [p][width]}; waveforms are
    those of the original and of the first estimate.
    """
    Wo, L = records["Wo"], records["L"]
    amplitudes = {label: spectra.from_bins(dB, Wo, L) for label, dB in estimates.items()}
    first = next(iter(amplitudes))
    time = np.arange(-80, 80)  # samples
    time_ms = 1000 * time / Fs

    def draw_frame(i, spectrum, wave):
        record = records[i]
        m = np.arange(1, record["L"] + 1)
        hz = m * record["Wo"] * Fs / (2 * np.pi)
        drawn = {"original": record["A"], **{label: A[i] for label, A in amplitudes.items()}}
        for (label, A), colour in zip(drawn.items(), ("k", "C0", "C1", "C2"), strict=False):
            spectrum.plot(hz, 20 * np.log10(A[m] + 1e-5), colour, label=label)
        harmonics = np.cos(np.outer(time, m) * record["Wo"] + record["phi"][m])
        original = harmonics @ record["A"][m]
        estimate = harmonics @ amplitudes[first][i][m]
        wave.plot(time_ms, original, "k")
        wave.plot(time_ms, estimate - WAVE_GAP * np.abs(original).max(), "C0")
        spectrum.set(xlabel="Frequency (Hz)", ylabel="Amplitude (dB)")
        spectrum.set_title(titles[i], fontsize=9)
        wave.set(xlabel="Time (ms)", ylabel="Signal", yticks=[])

    def draw(fig, page):
        axes = fig.subplots(4, 3, gridspec_kw={**MARGINS, "wspace": 0.2, "hspace": 0.6})
        shown = range(FRAMES_PER_PAGE * page, min(FRAMES_PER_PAGE * (page + 1), len(records)))
        for i, spectrum, wave in zip(shown, axes[::2].flat, axes[1::2].flat, strict=False):
            draw_frame(i, spectrum, wave)
        for ax in fig.axes:
            ax.set_visible(bool(ax.lines))
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=8, ncols=4)

    page_through(draw, math.ceil(len(records) / FRAMES_PER_PAGE), name, plot_dir)


def typical_frames(sd, level, n=16):
    """Numbers [n] of frames that show how good or bad a coder is.

    Of the half of the frames with the larger `level` [frames], those at even percentiles of SD
    [frames], 5 to 95 %.
    """
    loud = np.flatnonzero(level >= np.median(level))
    rank = np.rint(np.linspace(0.05, 0.95, n) * (len(loud) - 1)).astype(int)
    return loud[np.argsort(sd[loud], kind="stable")[rank]]


def frames_to_show(first, numbers, sd, level):
    """Places in `numbers` [frames] of 60 frames from number `first` on, or of typical ones."""
    return typical_frames(sd, level) if first is None else np.flatnonzero(numbers >= first)[:60]


# ---------------------------------------------------------------- figures


def plot_sd(figures, numbers, frame_s=spectra.FRAME_S):
    """Histograms of SD {label: Figures} without the worst 2 % of the frames, and SD over time.

    numbers [u] are those of the frames in their file, frame_s the seconds from frame to frame.
    """
    plt = pyplot()

    fig, (histogram, over_time) = plt.subplots(2, 1, figsize=(8, 7), layout="constrained")
    bins = np.linspace(0, max(np.percentile(found.sd, 98) for found in figures.values()), 60)
    n = math.ceil((numbers[-1] - numbers[0] + 1) / TIME_POINTS)  # frames in a point
    for i, (label, found) in enumerate(figures.items()):
        style = {"color": f"C{i}", "zorder": 3 - i}  # the network's lies above the others
        text = f"{label}, mean {found.sd.mean():.1f} dB²"
        histogram.hist(found.sd, bins, histtype="step", label=text, **style)
        first, means = means_over_time(found.sd, numbers, n)
        over_time.plot((first + n / 2) * frame_s, means, linewidth=1, **style)
    histogram.set(xlabel="SD of a frame (dB²)", ylabel="Frames")
    ylabel = f"SD (dB²), means of {n * frame_s:.2g} s" if n > 1 else "SD (dB²)"
    over_time.set(xlabel="Time in the file (s)", ylabel=ylabel)
    over_time.set_ylim(bottom=0)
    fig.legend(loc="outside upper center", ncols=len(figures))
    return fig


def means_over_time(values, numbers, n):
    """Means of the values [u] of frames `numbers` [u], of every n frames of the file.

    Returns the first of these frames [points], and the means [points]; NaN where no frame counts.
    values [1, 3, 5, 7], numbers [10, 11, 12, 16], n = 2: frames 10, 12, 14, 16; 2, 5, NaN, 7.
    """
    point = (numbers - numbers[0]) // n
    count = np.bincount(point)
    means = np.bincount(point, values) / np.where(count > 0, count, np.nan)
    return numbers[0] + n * np.arange(len(count)), means


def plot_losses(losses, labels, ylabel):
    """Losses [epochs][curves] over the epochs of a training, which may have none."""
    plt = pyplot()
    from matplotlib.ticker import MaxNLocator

    fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    values = np.reshape(losses, (-1, len(labels)))
    ax.plot(np.arange(len(values)) + 1, values, ".-", label=labels)
    ax.set(xlabel="Epoch", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    fig.legend(loc="outside right upper")
    return fig
