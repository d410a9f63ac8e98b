"""vq_pager.py: paging through injected events, once in a real window; files without a display; bad input."""

import ctypes
import os
import shutil
import subprocess
import sys
import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, assert_refused
from matplotlib.backend_bases import KeyEvent, MouseEvent

import codec2_model
import vq_pager


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
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def use_window():
    """Run under Xvfb by the test above: page forward, back, past both ends, click to quit; close the window."""
    with Window() as window:
        for key, first in (("n", 16), ("space", 32), ("Right", 32), ("b", 16), ("Left", 0), ("b", 0), ("x", 16)):
            window.do("key", key)
            window.wait_for(f"shown: {first} to {min(first + 15, 39)}")
        window.do("mousemove", "500", "400", "click", "1")
        window.wait_for_end()
    with Window() as window:
        window.do("key", "n")
        window.wait_for("shown: 16 to 31")
        window.close()
        window.wait_for_end()
    for key in ("q", "Escape"):
        with Window() as window:
            window.do("key", key)
            window.wait_for_end()


class Window:
    """vq_pager.py in a window, its pages announced on stdout."""

    def __enter__(self):
        env = {**os.environ, "MPLBACKEND": "TkAgg"}
        command = [sys.executable, "-u", ROOT / "vq_pager.py", "14", "a.f32"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.wait_for("shown: 0 to 15")
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--name", "Figure 1"]
        self.id = subprocess.run(search, check=True, capture_output=True, text=True).stdout.split()[0]
        time.sleep(0.5)  # it is mapped, but has to be drawn before it listens
        self.do("windowfocus", "--sync", self.id)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

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

    def wait_for(self, line):
        for said in self.process.stdout:
            if said.startswith("shown"):
                assert said.strip() == line
                return
            print(said, end="")
        raise AssertionError(f"ended before it said {line}")

    def wait_for_end(self):
        assert self.process.wait(20) == 0
        assert self.process.stdout.read() == ""


# ---------------------------------------------------------------- the command line


def test_files_without_a_display(vectors, run, tmp_path):
    result = run("vq_pager.py", 14, "a.f32", "--file2", "b.f32", "--start", 5, "--plot_dir", "plots")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "vectors: 40",
        f"range: {vectors.min():.2f} to {vectors.max():.2f} dB",
        "shown: 5 to 20",
        f"plot: {os.path.join('plots', 'vq_pager_1.png')}",
        "shown: 21 to 36",
        f"plot: {os.path.join('plots', 'vq_pager_2.png')}",
        "shown: 37 to 39",
        f"plot: {os.path.join('plots', 'vq_pager_3.png')}",
    ]
    assert len(list((tmp_path / "plots").iterdir())) == 3


def test_one_vector_of_one_value(run, tmp_path):
    codec2_model.write_rate_K(np.zeros((1, 1)), tmp_path / "one.f32")
    result = run("vq_pager.py", 1, "one.f32")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "vq_pager_1.png").exists()


def test_many_pages_say_that_there_are_more(tmp_path, capsys):
    vq_pager.page_through(lambda fig, page: None, 12, "page", tmp_path, nb_png=2)
    assert capsys.readouterr().out.splitlines()[-1] == "plot: the first 2 of 12 pages"
    assert {path.name for path in tmp_path.iterdir()} == {"page_1.png", "page_2.png"}


def test_needs_neither_keras_nor_scipy(vectors, tmp_path):
    """With modules of these names in the way that refuse to be imported."""
    for name in ("keras", "tensorflow", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    code = f"import sys; sys.argv = ['vq_pager.py', '14', 'a.f32']; sys.path[:0] = ['.', {str(ROOT)!r}]; "
    code += "import vq_pager; vq_pager.main()"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"})
    assert result.returncode == 0
    assert (tmp_path / "vq_pager_3.png").exists()


# ---------------------------------------------------------------- bad input


def empty(folder):
    (folder / "empty.f32").touch()
    return [14, "empty.f32"], "empty.f32"


def truncated(folder):
    (folder / "cut.f32").write_bytes((folder / "a.f32").read_bytes()[:-1])
    return [14, "cut.f32"], "cut.f32"


def not_a_number(folder):
    codec2_model.write_rate_K([[1, np.nan]], folder / "nan.f32")
    return [2, "nan.f32"], "nan.f32"


def infinite_second(folder):
    codec2_model.write_rate_K(np.full((3, 14), np.inf), folder / "inf.f32")
    return [14, "a.f32", "--file2", "inf.f32"], "inf.f32"


CASES = [
    empty,
    truncated,
    not_a_number,
    infinite_second,
    lambda folder: ([13, "a.f32"], "13"),
    lambda folder: ([14, "nowhere.f32"], "nowhere.f32"),
    lambda folder: ([14, "a.f32", "--file2", "nowhere.f32"], "nowhere.f32"),
    lambda folder: ([14, "a.f32", "--start", 40], "40 vectors"),
    lambda folder: ([14, "."], "."),
    lambda folder: ([14, "a.f32", "--plot_dir", "b.f32"], "b.f32"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused(case, vectors, run, tmp_path):
    command, word = case(tmp_path)
    before = set(tmp_path.iterdir())
    assert_refused(run("vq_pager.py", *command), word)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [(0, "a.f32"), ("a.f32",), (14, "a.f32", "--start", -1), (14, "a.f32", "--x")])
def test_usage_errors(arguments, run):
    assert_refused(run("vq_pager.py", *arguments), status=2)


def test_help(run):
    result = run("vq_pager.py", "--help")
    assert result.returncode == 0
    for option in ("--file2", "--start", "--plot_dir"):
        assert option in result.stdout


if __name__ == "__main__":
    use_window()
