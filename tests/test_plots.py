"""common/plots.py: keys and clicks, pages of vectors and frames, SD over time, files."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent

from common import plots, spectra
from conftest import records


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def pager():
    """Of three pages."""
    pager = plots.Pager(plt.figure(), lambda fig, page: None, 3)
    pager.show(0)
    return pager


def press(pager, key):
    canvas = pager.fig.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))
    return pager.page


def test_keys(pager):
    for key in ("n", " ", "right", "x"):
        assert [press(pager, key) for _ in range(3)] == [1, 2, 2]
        assert [press(pager, back) for back in ("b", "left", "B")] == [1, 0, 0]
    for modifier in ("shift", "control", "alt", None):
        assert press(pager, modifier) == 0
    press(pager, "q")
    assert not plt.fignum_exists(pager.fig.number)


def test_click_quits_unless_the_toolbar_zooms(pager):
    canvas = pager.fig.canvas
    click = MouseEvent("button_press_event", canvas, 10, 10, button=1)
    canvas.toolbar = type("Toolbar", (), {"mode": "zoom rect"})
    canvas.callbacks.process("button_press_event", click)
    assert plt.fignum_exists(pager.fig.number)
    canvas.toolbar.mode = ""
    canvas.callbacks.process("button_press_event", click)
    assert not plt.fignum_exists(pager.fig.number)


@pytest.fixture
def drawn(monkeypatch):
    """The pages, as they were when they were saved: labels, and lines by the title of the axes."""
    pages = []

    def save(fig, name, *_):
        labels = [text.get_text() for legend in fig.legends for text in legend.get_texts()]
        lines = {ax.get_title(): ax.lines for ax in fig.axes if ax.lines}
        values = {title: [line.get_xydata().T for line in lines[title]] for title in lines}
        axes = fig.get_supxlabel(), fig.get_supylabel()
        texts = [text.get_text() for text in fig.texts]
        pages.append({"labels": labels, "lines": values, "axes": axes, "texts": texts})

    monkeypatch.setattr("common.plots.save_picture", save)
    return pages


def test_second_file_over_the_first_as_far_as_it_goes(drawn):
    vectors = np.random.default_rng(0).normal(30, 10, (40, 14))
    files = {"a": vectors, "b": vectors[:20] + 1}
    numbers = np.arange(10, 40)
    hz = spectra.KINDS[14, 8000].hz
    plots.page_vectors(files, numbers, numbers, "x", "plots", hz=hz)
    first, second = drawn
    assert list(first["lines"]) == [str(number) for number in range(10, 26)]
    assert [len(lines) for lines in first["lines"].values()] == [2] * 10 + [1] * 6
    for file, line in zip(files.values(), first["lines"]["12"], strict=True):
        np.testing.assert_array_equal(line, [hz / 1000, file[12]])
    assert list(second["lines"]) == [str(number) for number in range(26, 40)]
    assert first["axes"] == ("Frequency (kHz)", "dB")
    assert first["labels"] == ["a", "b"]
    assert "page 1 of 2" in first["texts"]


def test_without_a_display_the_first_pages_become_files(drawn, capsys):
    plots.page_through(lambda fig, page: None, 12, "x", None)
    assert len(drawn) == plots.PAGES_WITHOUT_DISPLAY
    assert "10 of 12 pages were written" in capsys.readouterr().out
    plots.page_through(lambda fig, page: None, 12, "x", "plots")
    assert len(drawn) == plots.PAGES_WITHOUT_DISPLAY + 12


def test_pages_of_frames(drawn):
    """Harmonics at 100 … 500 Hz, 40 dB; the network has made 46 dB of them, the other 20 dB."""
    frames = records(7, L=5)
    estimates = {"network": np.full((7, 128), 46), "baseline": np.full((7, 128), 20)}
    titles = [f"frame {f}" for f in range(2, 9)]
    plots.page_frames(frames, titles, estimates, "frames", "plots")
    assert [len(page["lines"]) for page in drawn] == [7, 2]  # six frames; all waves have no title
    for line, dB in zip(drawn[0]["lines"]["frame 2"], (40, 46, 20), strict=True):
        np.testing.assert_allclose(line, [[100, 200, 300, 400, 500], [dB] * 5], atol=1e-4)
    (ms, wave), (_, decoded) = drawn[0]["lines"][""]
    assert (ms[0], ms[-1]) == (-10, 9.875)
    assert wave.max() == pytest.approx(500)  # all cosines in phase
    assert decoded.max() == pytest.approx(500 * 10**0.3 - 1.2 * 500, abs=1)
    assert drawn[0]["labels"] == ["original", "network", "baseline"]


def test_typical_frames_are_loud_and_spread_over_the_percentiles():
    """Frames 0 … 999 are quiet; of frame 1000 + i, SD is i."""
    sd = np.r_[np.full(1000, 1e6), np.arange(1001.0)]
    level = np.r_[np.zeros(1000), np.full(1001, 50)]
    found = plots.typical_frames(sd, level, n=4)
    np.testing.assert_array_equal(found, [1050, 1350, 1650, 1950])


def test_sd_over_time():
    """Frames 1000 to 1799 without 1400 to 1403, of 40 ms: two of them in a point."""
    numbers = np.r_[1000:1400, 1404:1800]
    figures = {
        name: spectra.Figures(np.full(len(numbers), sd), None, 800)
        for name, sd in (("network", 4.0), ("baseline", 9.0))
    }
    fig = plots.plot_sd(figures, numbers, frame_s=0.04)
    _, over_time = fig.axes
    (legend,) = fig.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["network, mean 4.0 dB²", "baseline, mean 9.0 dB²"]
    seconds, sd = over_time.lines[0].get_xydata().T
    assert len(sd) == 400
    assert (seconds[0], seconds[-1]) == (pytest.approx(40.04), pytest.approx(71.96))
    gap = np.flatnonzero(np.isnan(sd))
    np.testing.assert_allclose(seconds[gap], [56.04, 56.12])
    assert over_time.get_ylabel() == "SD (dB²), means of 0.08 s"
