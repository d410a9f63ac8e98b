#!/usr/bin/env python3
"""Step through rate K vectors or codebooks, 16 to a page.

Usage:
    ./vq_pager.py 14 bands.f32                            # any key or n: next page, b: back, q or a click: end
    ./vq_pager.py 16 codebook_1.f32 --file2 codebook_2.f32
    ./vq_pager.py 20 rate_K.f32 --start 500 --plot_dir plots

Scripts that train and run networks show their pages and SD plots with the functions below.

Units: float32 vectors of K values, plotted as they are.
"""

import argparse
import warnings

import codec2_model
import plumbing

import numpy as np

PER_PAGE = 16  # vectors, in four rows and columns
MAX_PNG_PAGES = 2  # pages that are written where there is no display; a long file has thousands
MODIFIERS = ("shift", "control", "ctrl", "alt", "super", "cmd", "caps_lock")  # keys that do nothing alone
MARGINS = {"left": 0.06, "right": 0.98, "bottom": 0.07, "top": 0.94}  # Matplotlib takes half a second to work them out
WAVE_GAP = 1.2  # vertical distance of waveforms that are drawn together, in peaks of the original


def page_through(draw, nb_pages, name, plot_dir):
    """Turn pages: draw(fig, page) fills a figure, page = 0…nb_pages − 1.

    n, space, right and any other key go on, b and left go back, both stop at the ends; q, escape, a click on the page
    or closing its window ends.  Without a display the first pages become PNG files.
    """
    import matplotlib.pyplot as plt

    pager = Pager(plt.figure(figsize=(12, 8)), draw, nb_pages)
    for page in range(min(nb_pages, MAX_PNG_PAGES)):
        pager.show(page)
        if not plumbing.save_picture(pager.fig, f"{name}_{page + 1}.png", plot_dir, pager.fig.savefig):
            return plt.show()  # a window: its user turns the pages
    plt.close(pager.fig)


class Pager:
    """Keys and clicks of page_through()."""

    def __init__(self, fig, draw, nb_pages):
        self.fig, self.draw, self.nb_pages = fig, draw, nb_pages
        fig.canvas.mpl_disconnect(fig.canvas.manager.key_press_handler_id)  # Matplotlib binds q and the arrow keys
        fig.canvas.mpl_connect("key_press_event", self.on_key)
        fig.canvas.mpl_connect("button_press_event", self.on_click)

    def show(self, page):
        self.page = min(max(page, 0), self.nb_pages - 1)
        self.fig.clear()
        self.draw(self.fig, self.page)
        self.fig.canvas.draw_idle()

    def on_key(self, event):
        key = (event.key or "shift").lower()
        if key in ("q", "escape"):
            self.end()
        elif key in ("b", "left"):
            self.show(self.page - 1)
        elif key.rpartition("+")[2] not in MODIFIERS:
            self.show(self.page + 1)

    def on_click(self, event):
        toolbar = self.fig.canvas.toolbar
        if not (toolbar and toolbar.mode):  # while the toolbar zooms or pans, clicks are its own
            self.end()

    def end(self):
        import matplotlib.pyplot as plt

        plt.close(self.fig)


def page_vectors(files, numbers, titles, name, plot_dir, unit="dB"):
    """Turn pages of 16 vectors; files {label: [n][K]} are drawn over each other, a shorter one as far as it goes.

    numbers [p] of the vectors to show, titles [p] for them; `unit` labels the values.
    """
    # a file may have any name: Matplotlib takes $ for a formula, and cannot show bytes that are no letters
    warnings.filterwarnings("ignore", "Glyph .* missing")  # nor all letters of the world
    files = {name.encode(errors="replace").decode().replace("$", r"\$"): vectors for name, vectors in files.items()}
    low, high = min(x.min() for x in files.values()), max(x.max() for x in files.values())
    margin = 0.05 * (high - low) or 1

    def draw(fig, page):
        axes = fig.subplots(4, 4, sharex=True, sharey=True, gridspec_kw={**MARGINS, "wspace": 0.05, "hspace": 0.2})
        shown = range(page * PER_PAGE, min((page + 1) * PER_PAGE, len(numbers)))
        for i, ax in zip(shown, axes.flat, strict=False):
            for (label, vectors), style in zip(files.items(), ("o-C0", "s--C1"), strict=False):
                if numbers[i] < len(vectors):
                    ax.plot(vectors[numbers[i]], style, markersize=3, label=label)
            ax.set_title(titles[i], fontsize=9, pad=2)
            ax.grid(alpha=0.3)
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
        axes[0, 0].set_ylim(low - margin, high + margin)
        fig.supxlabel("k")
        fig.supylabel(unit)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=8, ncols=2)

    page_through(draw, -(-len(numbers) // PER_PAGE), name, plot_dir)


def typical_frames(sd, level, n=16):
    """Numbers [n] of frames that show how good or bad a coder is: of the half of the frames with the larger `level`
    [frames], those at even percentiles of SD [frames], 5 to 95 %."""
    loud = np.flatnonzero(level >= np.median(level))
    rank = np.rint(np.linspace(0.05, 0.95, n) * (len(loud) - 1)).astype(int)
    return loud[np.argsort(sd[loud], kind="stable")[rank]]


def frames_to_show(first, numbers, sd, level):
    """Places in `numbers` [frames] of the next 60 frames from number `first` on, or of typical ones when it is None."""
    return typical_frames(sd, level) if first is None else np.flatnonzero(numbers >= first)[:60]


def page_frames(model, numbers, titles, spectra, name, plot_dir, Fs=codec2_model.FS_HZ):
    """Turn pages of six frames of a model file: amplitudes of the harmonics above, 20 ms of waveform below.

    numbers [p] of the frames, titles [p], and the estimates for them, spectra {label: dB [p][width]}.
    """
    records = [codec2_model.read_records(model, number, 1)[0] for number in numbers]

    def draw(fig, page):
        axes = fig.subplots(4, 3, gridspec_kw={**MARGINS, "wspace": 0.2, "hspace": 0.6})
        n = np.arange(-80, 80)
        shown = range(6 * page, min(6 * page + 6, len(records)))
        for i, spectrum, wave in zip(shown, axes[::2].flat, axes[1::2].flat, strict=False):
            Wo, L, A, phi, _ = records[i]
            m = np.arange(1, L + 1)
            amplitudes = {"original": A}
            amplitudes |= {label: codec2_model.from_bins(x[i : i + 1], [Wo], [L])[0] for label, x in spectra.items()}
            for (label, A_hat), colour in zip(amplitudes.items(), ("k", "C0", "C1"), strict=False):
                spectrum.plot(m * Wo * Fs / (2 * np.pi), 20 * np.log10(A_hat[m] + 1e-5), colour, label=label)
                if colour != "C1":  # original and network only, the network below
                    signal = np.cos(np.outer(n, m) * Wo + phi[m]) @ A_hat[m]
                    gap = WAVE_GAP * np.abs(signal).max() if colour == "C0" else 0
                    wave.plot(n / 8, signal - gap, colour)
            spectrum.set(xlabel="Frequency (Hz)", ylabel="Amplitude (dB)")
            spectrum.set_title(titles[i], fontsize=9)
            wave.set(xlabel="Time (ms)", ylabel="Signal", yticks=[])
        for ax in fig.axes:
            ax.set_visible(bool(ax.lines))
        axes[0, 0].legend()

    page_through(draw, -(-len(records) // 6), name, plot_dir)


def plot_sd(sd, numbers=None):
    """Histograms of SD {name: [n]} in dB² without the worst 2 % of the frames, and SD over frame `numbers` [n]."""
    import matplotlib.pyplot as plt

    fig, (histogram, by_frame) = plt.subplots(2, 1, figsize=(8, 7), layout="constrained")
    bins = np.linspace(0, max(np.percentile(values, 98) for values in sd.values()), 60)
    for i, (name, values) in reversed(list(enumerate(sd.items()))):
        label = f"{name}, mean {values.mean():.1f} dB²"
        histogram.hist(values, bins, histtype="step", color=f"C{i}", label=label)
        by_frame.plot(np.arange(len(values)) if numbers is None else numbers, values, color=f"C{i}", linewidth=0.6)
    histogram.set(xlabel="SD (dB²)", ylabel="Frames")
    by_frame.set(xlabel="Frame", ylabel="SD (dB²)", ylim=(0, bins[-1]))
    histogram.legend()
    return fig


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Step through rate K vectors or codebooks, 16 to a page.")
    parser.add_argument("K", type=plumbing.positive, help="values in a vector")
    parser.add_argument("file", metavar="FILE", help="vectors, float32")
    parser.add_argument("--file2", metavar="F.f32", help="vectors to draw over those of FILE in a second colour")
    parser.add_argument("--start", type=plumbing.natural, default=0, metavar="N", help="first vector to show")
    parser.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    return parser.parse_args(argv)


def main(args):
    plumbing.check_outputs([], plot_dir=args.plot_dir)
    files = {name: codec2_model.read_floats(name, args.K) for name in (args.file, args.file2) if name}
    vectors = files[args.file]
    if args.start >= len(vectors):
        raise plumbing.FormatError(f"{args.file}: {len(vectors)} vectors, --start {args.start} is beyond the last")
    print(f"vectors: {len(vectors)}")
    print(f"range: {vectors.min():.2f} to {vectors.max():.2f}")
    numbers = np.arange(args.start, len(vectors))
    page_vectors(files, numbers, numbers, "vq_pager", args.plot_dir, unit="value")


if __name__ == "__main__":
    plumbing.plain_errors()
    main(parse_args())
