#!/usr/bin/env python3
"""Step through rate K vectors or codebooks, 16 to a page.

Usage:
    ./vq_pager.py 14 bands.f32                          # any key or n: next, b: back, q or a click: quit
    ./vq_pager.py 16 codebook_1.f32 --file2 codebook_2.f32
    ./vq_pager.py 20 rate_K.f32 --start 500 --plot_dir plots

Units: float32 vectors of K values, plotted as they are: dB, unless the file holds something else.

The scripts that train and run networks show their figures and pages through show() and page_through() below.
"""

import argparse
import io
import os

import numpy as np

import codec2_model

ROWS, COLUMNS = 4, 4
MAX_PNG_PAGES = 10  # written without a display; a long file has thousands
SCATTER = 2000  # vectors in a cloud
GRID = 200  # points a side that cells are drawn from
MODIFIERS = ("shift", "control", "ctrl", "alt", "super", "cmd", "caps_lock")  # keys that do nothing alone


# ---------------------------------------------------------------- windows, or PNG files


def on_screen(fig, plot_dir):
    """True when `fig` is in a window, false when it has to go to a file."""
    return plot_dir is None and fig.canvas.required_interactive_framework is not None


def save(fig, plot_dir, name):
    """Write `fig` to `name`.png, and say so."""
    os.makedirs(plot_dir or ".", exist_ok=True)
    filename = os.path.join(plot_dir or ".", f"{name}.png")
    with codec2_model.replacing(filename) as new:
        fig.savefig(new, dpi=100)
    print(f"plot: {filename}")


def show(figures, plot_dir):
    """Show figures {name: figure} in windows and wait until they are closed, or write them to files."""
    import matplotlib.pyplot as plt

    for name, fig in figures.items():
        if not on_screen(fig, plot_dir):
            save(fig, plot_dir, name)
            plt.close(fig)
    plt.show()


def page_through(draw, nb_pages, name, plot_dir, nb_png=MAX_PNG_PAGES, layout="constrained"):
    """Turn pages: draw(fig, page) fills a figure, page = 0…nb_pages − 1.

    n, space, right and any other key go on, b and left go back, both stop at the ends; q, escape, a click on the page
    or closing its window ends.  Without a display the first `nb_png` pages become files.
    """
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(12, 8), layout=layout)
    if not on_screen(fig, plot_dir):
        for page in range(min(nb_pages, nb_png)):
            fig.clear()
            draw(fig, page)
            save(fig, plot_dir, f"{name}_{page + 1}")
        if nb_pages > nb_png:
            print(f"plot: the first {nb_png} of {nb_pages} pages")
        plt.close(fig)
        return
    _pager = Pager(fig, draw, nb_pages)  # has to be kept: matplotlib does not hold on to the methods it calls
    plt.show()


class Pager:
    """Keys and clicks of page_through()."""

    def __init__(self, fig, draw, nb_pages):
        self.fig, self.draw, self.last, self.page = fig, draw, nb_pages - 1, 0
        manager = fig.canvas.manager
        if manager is not None and manager.key_press_handler_id is not None:
            fig.canvas.mpl_disconnect(manager.key_press_handler_id)  # it has other ideas about q and the arrows
        fig.canvas.mpl_connect("key_press_event", self.on_key)
        fig.canvas.mpl_connect("button_press_event", self.on_click)
        self.turn(0)

    def turn(self, pages):
        self.page = min(max(self.page + pages, 0), self.last)
        self.fig.clear()
        self.draw(self.fig, self.page)
        self.fig.canvas.draw_idle()

    def on_key(self, event):
        key = (event.key or "shift").lower()
        if key in ("q", "escape"):
            self.end()
        elif key in ("b", "left"):
            self.turn(-1)
        elif key.rpartition("+")[2] not in MODIFIERS:
            self.turn(1)

    def on_click(self, event):
        toolbar = self.fig.canvas.toolbar
        if not (toolbar and toolbar.mode):  # while the toolbar zooms or pans, clicks are its own
            self.end()

    def end(self):
        import matplotlib.pyplot as plt

        plt.close("all")


def page_vectors(files, start, name, plot_dir, nb_png=MAX_PNG_PAGES):
    """Turn pages of 16 vectors from number `start` on; files {name: [n][K]} are drawn over each other."""
    vectors = next(iter(files.values()))
    nb_vectors, K = vectors.shape
    low, high = min(x.min() for x in files.values()), max(x.max() for x in files.values())
    margin = 0.05 * (high - low) or 1

    def draw(fig, page):
        first = start + page * ROWS * COLUMNS
        last = min(first + ROWS * COLUMNS, nb_vectors)
        fig.subplots_adjust(0.07, 0.08, 0.98, 0.91, wspace=0.08, hspace=0.25)
        axes = fig.subplots(ROWS, COLUMNS, sharex=True, sharey=True)
        axes[0, 0].locator_params(nbins=5)
        for n, ax in zip(range(first, last), axes.flat, strict=False):
            for (label, vectors), style in zip(files.items(), ("o-C0", "s--C1"), strict=False):
                if n < len(vectors):
                    ax.plot(np.arange(K), vectors[n], style, markersize=3, label=label)
            ax.set_title(f"{n}", fontsize=9, pad=2)
            ax.grid(alpha=0.3)
        for ax in axes.flat[max(last - first - COLUMNS, 0) : last - first]:
            ax.tick_params(labelbottom=True)  # of a short page as well
        for ax in axes.flat[last - first :]:
            ax.set_visible(False)
        axes[0, 0].set_ylim(low - margin, high + margin)
        fig.supxlabel("k")
        fig.supylabel("dB")
        fig.suptitle(f"{' and '.join(files)}: vectors {first} to {last - 1} of {nb_vectors}")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=8)
        print(f"shown: {first} to {last - 1}")

    # a constrained layout takes a second a page
    page_through(draw, -(-(nb_vectors - start) // (ROWS * COLUMNS)), name, plot_dir, nb_png, layout=None)


def plot_sd(sd):
    """Histograms of SD {name: [n]} in dB² without the worst frames, and SD frame by frame."""
    import matplotlib.pyplot as plt

    fig, (histogram, by_frame) = plt.subplots(2, 1, figsize=(8, 7), layout="constrained")
    bins = np.linspace(0, max(np.percentile(values, 98) for values in sd.values()), 60)
    for i, (name, values) in reversed(list(enumerate(sd.items()))):
        label = f"{name}, mean {values.mean():.1f} dB²"
        histogram.hist(values, bins, histtype="step", color=f"C{i}", label=label)
        by_frame.plot(values, color=f"C{i}", linewidth=0.6, label=label)
    histogram.set(xlabel="SD (dB²)", ylabel="Frames")
    by_frame.set(xlabel="Frame", ylabel="SD (dB²)", ylim=(0, bins[-1]))
    histogram.legend()
    return fig


class Film:
    """Axes that draw(axes, …) fills again and again: live in a window, or as an animated GIF."""

    def __init__(self, draw, name, plot_dir, shape):
        import matplotlib.pyplot as plt

        rows, columns = shape
        self.fig, self.axes = plt.subplots(rows, columns, figsize=(5 * columns, 4.5 * rows))
        self.fig.subplots_adjust(0.15 / columns, 0.12 / rows, 1 - 0.03 / columns, 1 - 0.08 / rows, 0.25, 0.25)
        self.draw, self.name, self.plot_dir, self.frames = draw, name, plot_dir, []
        self.live = on_screen(self.fig, plot_dir)

    def shoot(self, *what):
        import matplotlib.pyplot as plt
        from PIL import Image

        if self.live and not plt.fignum_exists(self.fig.number):
            return  # the window was closed: go on without
        for ax in self.axes.flat:
            for artist in (*ax.lines, *ax.images, *ax.patches):  # ax.clear() drops the ticks too, which is slow
                artist.remove()
        self.draw(self.axes, *what)
        if self.live:
            plt.pause(0.01)
            return
        picture = io.BytesIO()
        self.fig.savefig(picture, dpi=70, pil_kwargs={"compress_level": 1})
        self.frames.append(Image.open(picture).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE))

    def show(self):
        """Leave the window open until it is closed, or write the GIF, and the last frame as PNG."""
        import matplotlib.pyplot as plt

        if self.live:
            plt.show()
            return
        if self.frames:
            filename = os.path.join(self.plot_dir or ".", f"{self.name}.gif")
            durations = [150] * (len(self.frames) - 1) + [3000]  # ms
            with codec2_model.replacing(filename) as new:
                self.frames[0].save(new, save_all=True, append_images=self.frames[1:], duration=durations, loop=0)
            print(f"plot: {filename}")
        show({self.name: self.fig}, self.plot_dir)


# ---------------------------------------------------------------- quantisers


class Plane:
    """The two dimensions that a plot shows of vectors [n][D]; of D ≠ 2 the first two principal axes of the data."""

    def __init__(self, x):
        D = x.shape[1]
        self.axes, self.mean, self.name = np.eye(2), np.zeros(D), "dimension"
        if D != 2:
            self.mean, self.name = x.mean(axis=0), "principal axis"
            _, axes = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))  # in rising order
            self.axes = np.concatenate([axes.T[::-1], np.zeros((1, D))])[:2]  # of D = 1 the second is nothing
        self.limit = 1.1 * np.abs(self.project(x[:SCATTER])).max()

    def project(self, x):
        return (x - self.mean) @ self.axes.T

    def draw_cells(self, ax, cell_of):
        """Borders of the cells that cell_of(vectors [n][D]) numbers [n]; of D > 2 where the plane cuts them."""
        side = np.linspace(-self.limit, self.limit, GRID)
        grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        cells = cell_of((grid @ self.axes + self.mean).astype(np.float32)).reshape(GRID, GRID)
        border = np.zeros((GRID, GRID))
        border[:, 1:] += cells[:, 1:] != cells[:, :-1]
        border[1:] += cells[1:] != cells[:-1]
        extent = (-self.limit, self.limit, -self.limit, self.limit)
        ax.imshow(border > 0, origin="lower", extent=extent, cmap="Greys", vmax=2, interpolation="bilinear")

    def draw(self, ax, x, title, trails=()):
        """Vectors x [n][D] as a cloud; codewords, trails [epochs][M][D], where they are and the way they came."""
        ax.plot(*self.project(x[:SCATTER]).T, ".", color="C0", markersize=2, alpha=0.4)
        if len(trails):
            ax.plot(*np.moveaxis(self.project(np.stack(trails)), 2, 0), "-", color="black", linewidth=0.8)
            ax.plot(*self.project(trails[-1]).T, "o", color="C1", markeredgecolor="black", markersize=6)
        limits = (-self.limit, self.limit)
        ax.set(xlabel=f"{self.name} 1", ylabel=f"{self.name} 2", title=title, aspect="equal", xlim=limits, ylim=limits)


def draw_distortion(ax, distortions, references, epochs):
    """Held-out distortion by epoch, and horizontal lines at the references {name: distortion}."""
    ax.plot(range(len(distortions)), distortions, ".-", color="C1", label="VQ-VAE")
    for (name, value), style in zip(references.items(), ("--", ":"), strict=True):
        ax.axhline(value, color="black", linestyle=style, label=f"{name} {value:.4f}")
    ax.set(xlabel="Epoch", ylabel="Distortion per dimension", title=f"held-out {distortions[-1]:.4f}")
    ax.set(xlim=(-0.02 * epochs, 1.02 * epochs), ylim=(0, 1.1 * max(*distortions, *references.values())))
    ax.legend(loc="lower right")


def draw_training(axes, looks, z_e, indices, codebooks, epochs):
    """How a VQ-VAE learns: encoder space of each stage with its codewords and their use; figures by epoch.

    z_e [n][D], indices [n][stages], codebooks [stages][M][D] now; looks {name: values so far}, of all `epochs`.
    """
    for stage, ((space, used), codebook) in enumerate(zip(axes.T, codebooks, strict=False)):
        plane = np.linalg.eigh(np.cov(z_e.T))[1][:, :-3:-1]  # the two axes with the largest variance
        cloud, codewords = (z_e - z_e.mean(axis=0)) @ plane, (codebook - z_e.mean(axis=0)) @ plane
        limits = np.percentile(cloud, [0.1, 99.9], axis=0).T
        density = np.histogram2d(*cloud.T, 80, limits)[0]
        space.imshow(np.sqrt(density.T), origin="lower", extent=limits.ravel(), aspect="auto", cmap="Blues")
        space.plot(*codewords.T, ".", color="C1", markersize=3)
        space.set(xlim=limits[0], ylim=limits[1], xlabel="Principal axis 1", ylabel="Principal axis 2")
        space.set_title(["encoder output and codewords", "what stage 1 leaves over, and codewords"][stage])
        counts = np.sort(looks["usage"][-1][stage])[::-1]
        used.plot(counts, color="C0")
        used.set(xlabel="Codeword, most used first", ylabel="Vectors", title=f"use of codebook {stage + 1}")
        used.set_ylim(0, 1.05 * counts[0])
        z_e = z_e - codebook[indices[:, stage]]
    terms, share = axes[:, -1]
    for name, style in (("reconstruction", ".-C0"), ("held-out", ".-C1"), ("codebook", "--k"), ("commitment", ":k")):
        terms.semilogy(looks["epoch"], looks[name], style, label=name)
    terms.set(xlabel="Epoch", ylabel="dB²", xlim=(0, epochs), title=f"held-out {looks['held-out'][-1]:.2f} dB²")
    terms.legend()
    for stage, (counts, style) in enumerate(zip(np.moveaxis(looks["usage"], 1, 0), (".-C0", ".--C1"), strict=False)):
        share.plot(looks["epoch"], 100 * np.mean(counts > 0, axis=1), style, label=f"stage {stage + 1}")
    share.set(xlabel="Epoch", ylabel="Codewords in use (%)", xlim=(0, epochs), ylim=(0, 105))
    share.legend()


# ---------------------------------------------------------------- command line


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Step through rate K vectors or codebooks, 16 to a page.")
    parser.add_argument("K", type=codec2_model.positive, help="values a vector")
    parser.add_argument("file", metavar="FILE", help="vectors, float32")
    parser.add_argument("--file2", metavar="F.f32", help="vectors to draw over those of FILE in a second colour")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first vector to show (default: %(default)s)")
    parser.add_argument("--plot_dir", metavar="DIR", help="write PNG files there instead of opening windows")
    args = parser.parse_args(argv)
    if args.start < 0:
        parser.error("--start must not be negative")
    return args


def main():
    args = parse_args()
    names = [name for name in (args.file, args.file2) if name]
    files = [codec2_model.read_rate_K(name, args.K) for name in names]
    nb_vectors = len(files[0])
    if args.start >= nb_vectors:
        raise codec2_model.FormatError(f"{args.file}: {nb_vectors} vectors, --start {args.start} is beyond the last")
    ranges = [(float(vectors.min()), float(vectors.max())) for vectors in files]
    for name, values in zip(names, ranges, strict=True):
        if not np.isfinite(values).all():
            raise codec2_model.FormatError(f"{name}: NaN or infinite values, expected vectors in dB: another kind?")
    print(f"vectors: {nb_vectors}")
    print(f"range: {ranges[0][0]:.2f} to {ranges[0][1]:.2f} dB")

    page_vectors(dict(zip(names, files, strict=True)), args.start, "vq_pager", args.plot_dir)


if __name__ == "__main__":
    codec2_model.plain_errors()
    main()
