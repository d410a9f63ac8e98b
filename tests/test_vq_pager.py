"""vq_pager.py: paging through injected events, once in a real window; files without a display; bad input."""

import ctypes
import os
import shutil
import subprocess
import sys
import time

import codec2_model
import vq_pager
from plumbing import FormatError

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, assert_refused
from matplotlib.backend_bases import KeyEvent, MouseEvent


@pytest.fixture
def vectors(tmp_path):
    """a.f32: 40 vectors of 14 values, three pages with a short last one; b.f32: 20 vectors."""
    values = np.random.default_rng(0).normal(30, 10, (40, 14))
    codec2_model.write_rate_K(values, tmp_path / "a.f32")
    codec2_model.write_rate_K(values[:20] + 1, tmp_path / "b.f32")
    return values.astype(np.float32)


# ---------------------------------------------------------------- keys and clicks


class Turner:
    """A pager of three pages, and what its user does."""

    def __init__(self):
        self.fig, self.drawn = plt.figure(), []
        self.pager = vq_pager.Pager(self.fig, lambda fig, page: self.drawn.append(page), 3)
        self.pager.show(0)

    def press(self, *keys):
        for key in keys:
            self.fig.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", self.fig.canvas, key))
        return self.pager.page

    def click(self):
        event = MouseEvent("button_press_event", self.fig.canvas, 10, 10, button=1)
        self.fig.canvas.callbacks.process("button_press_event", event)

    def is_open(self):
        return plt.fignum_exists(self.fig.number)


@pytest.fixture
def turner():
    yield Turner()
    plt.close("all")


@pytest.mark.parametrize("key", ["n", " ", "right", "x", "enter", "N"])
def test_next(turner, key):
    assert [turner.press(key) for _ in range(3)] == [1, 2, 2]
    assert turner.drawn[:3] == [0, 1, 2]


@pytest.mark.parametrize("key", ["b", "left", "B"])
def test_back(turner, key):
    turner.press("n", "n")
    assert [turner.press(key) for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("key", ["shift", "control", "alt", "ctrl+shift", None])
def test_modifiers_alone_do_nothing(turner, key):
    assert turner.press(key) == 0


@pytest.mark.parametrize("key", ["q", "Q", "escape"])
def test_quit(turner, key):
    turner.press("n", key)
    assert not turner.is_open()


def test_click_quits(turner):
    turner.click()
    assert not turner.is_open()


def test_click_while_the_toolbar_zooms_is_its_own(turner):
    turner.fig.canvas.toolbar = type("Toolbar", (), {"mode": "zoom rect"})
    turner.click()
    assert turner.is_open()
    turner.fig.canvas.toolbar.mode = ""
    turner.click()
    assert not turner.is_open()


def test_default_keys_are_off(turner):
    """Of Matplotlib's own keys, l would make an axis logarithmic, s save."""
    assert turner.fig.canvas.manager.key_press_handler_id not in turner.fig.canvas.callbacks.callbacks.get(
        "key_press_event", {}
    )


# ---------------------------------------------------------------- a real window


@pytest.mark.skipif(not (shutil.which("xvfb-run") and shutil.which("xdotool")), reason="needs xvfb and xdotool")
def test_in_a_window(vectors, tmp_path):
    pytest.importorskip("tkinter", reason="needs tkinter (Debian: python3-tk)")
    command = ["xvfb-run", "-a", sys.executable, __file__]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def use_window():
    """Run under Xvfb by the test above: page forward, back, past both ends, click to quit; close the window."""
    with Window() as window:
        for key, first in (("n", 16), ("space", 32), ("Right", 32), ("b", 16), ("Left", 0), ("b", 0), ("x", 16)):
            window.do("key", key)
            window.wait_for(first)
        window.do("mousemove", "500", "400", "click", "1")
        window.wait_for_end()
    with Window() as window:
        window.do("key", "n")
        window.wait_for(16)
        window.close()
        window.wait_for_end()
    with Window() as window:
        window.do("key", "q")
        window.wait_for_end()


SHOW = """
import sys, vq_pager
show = vq_pager.Pager.show
def told(pager, page):
    show(pager, page)
    print("shown", pager.fig.axes[0].get_title(), flush=True)
vq_pager.Pager.show = told
vq_pager.main(vq_pager.parse_args(sys.argv[1:]))
"""


class Window:
    """vq_pager.py in a window, its pages announced on stdout."""

    def __enter__(self):
        env = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SHOW, "14", "a.f32"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.wait_for(0)
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--name", "Figure 1"]
        self.id = subprocess.run(search, check=True, capture_output=True, text=True).stdout.split()[0]
        time.sleep(0.5)  # it is mapped, but has to be drawn before it listens
        self.do("windowfocus", "--sync", self.id)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def do(self, *words):
        subprocess.run(["xdotool", *words], check=True, timeout=20)

    def close(self):
        """As the close button of a window manager does, which Xvfb has none of: xdotool only learnt it in 2021."""
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = x11.XInternAtom.restype = ctypes.c_void_p
        display = ctypes.c_void_p(x11.XOpenDisplay(None))
        protocols, delete = (x11.XInternAtom(display, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
        # struct XClientMessageEvent: type, serial, send_event, display, window, message_type, format, data[5]
        event = (ctypes.c_long * 24)(33, 0, 0, 0, int(self.id), protocols, 32, delete, 0)
        x11.XSendEvent(display, ctypes.c_ulong(int(self.id)), False, ctypes.c_long(0), event)
        x11.XSync(display, False)

    def wait_for(self, first):
        """Until a page is shown that begins with this vector."""
        for said in self.process.stdout:
            if said.startswith("shown"):
                assert said.split() == ["shown", str(first)]
                return
        raise AssertionError(f"ended before it showed {first}")

    def wait_for_end(self):
        assert self.process.wait(20) == 0
        assert self.process.stdout.read() == ""


# ---------------------------------------------------------------- the command line


def test_files_without_a_display(vectors, run, tmp_path):
    """The first two of three pages."""
    result = run("vq_pager.py", 14, "a.f32", "--file2", "b.f32", "--start", 5, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "vectors: 40",
        f"range: {vectors.min():.2f} to {vectors.max():.2f}",
        f"plot: {os.path.join('plots', 'vq_pager_1.png')}",
        f"plot: {os.path.join('plots', 'vq_pager_2.png')}",
    ]
    assert len(list((tmp_path / "plots").iterdir())) == 2


@pytest.fixture
def main(tmp_path, monkeypatch):
    """main(arguments) of the pager in `tmp_path`, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: vq_pager.main(vq_pager.parse_args(list(map(str, arguments))))


@pytest.fixture
def drawn(monkeypatch):
    """The axes of all pages, as they were when they were saved."""
    pages = []

    def save(figure, name, *_):
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        lines = {ax.get_title(): [line.get_ydata() for line in ax.lines] for ax in figure.axes if ax.lines}
        pages.append({"unit": figure.get_supylabel(), "labels": labels, "lines": lines})
        return True

    monkeypatch.setattr("plumbing.save_picture", save)
    return pages


def test_second_file_over_the_first_as_far_as_it_goes(vectors, main, drawn):
    main(14, "a.f32", "--file2", "b.f32", "--start", 10)
    first, second = drawn
    assert list(first["lines"]) == [str(number) for number in range(10, 26)]
    assert [len(lines) for lines in first["lines"].values()] == [2] * 10 + [1] * 6
    np.testing.assert_array_equal(first["lines"]["12"][0], vectors[12])
    np.testing.assert_array_equal(first["lines"]["12"][1], vectors[12] + 1)
    assert list(second["lines"]) == [str(number) for number in range(26, 40)]
    assert first["unit"] == "value"  # whatever it is, dB or not
    assert first["labels"] == ["a.f32", "b.f32"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [b"$x$.f32", b"$a_{$.f32", b"\xff\xe6.f32", b"a%s{x}\\n.f32", "日\x01".encode()])
def test_names_that_mean_something_to_matplotlib(name, vectors, main, tmp_path):
    name = os.fsdecode(name)
    os.rename(tmp_path / "a.f32", tmp_path / name)
    main(14, name, "--start", 39)
    assert (tmp_path / "vq_pager_1.png").exists()


def test_one_vector_of_one_value(main, tmp_path):
    codec2_model.write_rate_K(np.zeros((1, 1)), tmp_path / "one.f32")
    main(1, "one.f32")
    assert (tmp_path / "vq_pager_1.png").exists()


def test_needs_neither_keras_nor_scipy(vectors, tmp_path):
    """With modules of these names in the way that refuse to be imported."""
    for name in ("keras", "tensorflow", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, ROOT / "vq_pager.py", "14", "a.f32"], cwd=tmp_path, env=env)
    assert result.returncode == 0
    assert (tmp_path / "vq_pager_2.png").exists()


# ---------------------------------------------------------------- frames


def test_typical_frames_are_loud_and_spread_over_the_percentiles():
    """Frames 0 … 999 are quiet; of frame 1000 + i, SD is i."""
    sd = np.r_[np.full(1000, 1e6), np.arange(1001.0)]
    level = np.r_[np.zeros(1000), np.full(1001, 50)]
    np.testing.assert_array_equal(vq_pager.typical_frames(sd, level, n=4), [1050, 1350, 1650, 1950])


def test_pages_of_frames(drawn, tmp_path):
    """Frames 2 to 8 have harmonics at 100 … 500 Hz, 40 dB; the network has made 46 dB of them, the other 20 dB."""
    records = np.zeros(9, codec2_model.RECORD)
    records["Wo"], records["L"], records["A"][2:, 1:6] = np.pi / 40, 5, 100
    records.tofile(tmp_path / "x.model")
    spectra = {"network": np.full((7, 128), 46), "baseline": np.full((7, 128), 20)}
    titles = [f"frame {f}" for f in range(2, 9)]
    vq_pager.page_frames(tmp_path / "x.model", range(2, 9), titles, spectra, "frames", None)
    assert [len(page["lines"]) for page in drawn] == [7, 2]  # six frames, and their waves, without a title
    original, network, baseline = drawn[0]["lines"]["frame 2"]
    np.testing.assert_allclose(original, 40, atol=1e-4)
    np.testing.assert_allclose(network, 46, atol=1e-4)
    np.testing.assert_allclose(baseline, 20, atol=1e-4)
    wave, decoded = drawn[0]["lines"][""]
    assert wave.max() == pytest.approx(500)  # all cosines in phase
    assert decoded.max() == pytest.approx(500 * 10**0.3 - 1.2 * 500 * 10**0.3, abs=1)


def test_sd_over_frames():
    sd = {"network": np.arange(100.0), "baseline": np.full(100, 200.0)}
    fig = vq_pager.plot_sd(sd, np.arange(1000, 1100))
    histogram, by_frame = fig.axes
    assert {text.get_text() for text in histogram.get_legend().get_texts()} == {
        "network, mean 49.5 dB²",
        "baseline, mean 200.0 dB²",
    }
    assert by_frame.lines[-1].get_xdata()[0] == 1000
    plt.close(fig)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ((14, "cut.f32"), "cut.f32"),
        ((14, "nan.f32"), "nan.f32"),
        ((14, "a.f32", "--file2", "nan.f32"), "nan.f32"),
        ((13, "a.f32"), "vectors of 13 floats"),
        ((99999999999, "a.f32"), "K"),
        ((14, "a.f32", "--file2", "nowhere.f32"), "nowhere.f32"),
        ((14, "a.f32", "--start", 40), "40 vectors"),
        ((14, "a.f32", "--plot_dir", "b.f32"), "b.f32"),
        ((0, "a.f32"), "K"),
        ((14, "a.f32", "--start", -1), "--start"),
    ],
)
def test_bad_input_is_refused(command, word, vectors, main, tmp_path, capsys):
    (tmp_path / "cut.f32").write_bytes((tmp_path / "a.f32").read_bytes()[:-1])
    np.full((3, 14), np.nan, "<f4").tofile(tmp_path / "nan.f32")
    before = set(tmp_path.iterdir())
    with pytest.raises((FormatError, OSError, SystemExit)) as error:
        main(*command)
    assert word in str(error.value) + capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


def test_refusals_on_the_command_line(vectors, run):
    assert_refused(run("vq_pager.py", 14, "a.f32", "--file2", "nowhere.f32"), "nowhere.f32")
    assert_refused(run("vq_pager.py", 14, "a.f32", "--x"), "--x", status=2)


def test_help(run):
    result = run("vq_pager.py", "--help")
    assert result.returncode == 0
    for option in ("--file2", "--start", "--plot_dir"):
        assert option in result.stdout


if __name__ == "__main__":
    use_window()
