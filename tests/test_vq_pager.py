"""vq_pager.py: in a real window; files without a display; where it opens; bad input."""

import ctypes
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import codec2_model
import vq_pager
from common import plots
from common.plumbing import FormatError
from conftest import ROOT, assert_refused


@pytest.fixture
def vectors(tmp_path):
    """a.f32: 40 vectors of 14 values, three pages with a short last one; b.f32: 20 vectors."""
    values = np.random.default_rng(0).normal(30, 10, (40, 14))
    codec2_model.write_rate_K(values, tmp_path / "a.f32")
    codec2_model.write_rate_K(values[:20] + 1, tmp_path / "b.f32")
    return values.astype(np.float32)


# ---------------------------------------------------------------- a real window


@pytest.mark.skipif(
    not (shutil.which("xvfb-run") and shutil.which("xdotool")), reason="needs xvfb and xdotool"
)
def test_in_a_window(vectors, tmp_path):
    pytest.importorskip("tkinter", reason="needs tkinter (Debian: python3-tk)")
    command = ["xvfb-run", "-a", sys.executable, __file__]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


def use_window():
    """Run under Xvfb by the test above: page forward, back, past both ends, click to quit; close
    the window.
    """
    with Window() as window:
        for key, first in (
            ("n", 16),
            ("space", 32),
            ("Right", 32),
            ("b", 16),
            ("Left", 0),
            ("b", 0),
            ("x", 16),
        ):
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
from common.plots import Pager
show = Pager.show
def told(pager, page):
    show(pager, page)
    print("shown", pager.fig.axes[0].get_title(), flush=True)
Pager.show = told
vq_pager.main(vq_pager.parse_args(sys.argv[1:]))
"""


class Window:
    """vq_pager.py in a window, its pages announced on stdout."""

    def __enter__(self):
        env = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SHOW, "14", "a.f32"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.wait_for(0)
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--name", "vq_pager"]
        self.id = subprocess.run(search, check=True, capture_output=True, text=True).stdout.split()[
            0
        ]
        time.sleep(0.5)  # it is mapped, but has to be drawn before it listens
        self.do("windowfocus", "--sync", self.id)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def do(self, *words):
        subprocess.run(["xdotool", *words], check=True, timeout=20)

    def close(self):
        """As the close button of a window manager does, which Xvfb has none of: xdotool only learnt
        it in 2021.
        """
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = x11.XInternAtom.restype = ctypes.c_void_p
        display = ctypes.c_void_p(x11.XOpenDisplay(None))
        protocols, delete = (
            x11.XInternAtom(display, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")
        )
        # struct XClientMessageEvent: type, serial, send_event, display, window, message_type,
        # format, data[5]
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


def test_all_pages_become_files(vectors, run, tmp_path):
    options = ("--file2", "b.f32", "--start", 5, "--plot_dir", "plots")
    result = run("vq_pager.py", 14, "a.f32", *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "vectors: 40",
        f"range: {vectors.min():.2f} to {vectors.max():.2f}",
        *(f"plot: {os.path.join('plots', f'vq_pager_{page}.png')}" for page in (1, 2, 3)),
    ]
    assert len(list((tmp_path / "plots").iterdir())) == 3


@pytest.fixture
def main(tmp_path, monkeypatch):
    """main(arguments) of the pager in `tmp_path`, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: vq_pager.main(vq_pager.parse_args(list(map(str, arguments))))


def test_needs_neither_keras_nor_scipy(vectors, tmp_path):
    """With modules of these names in the way that refuse to be imported."""
    for name in ("keras", "tensorflow", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "vq_pager.py", "14", "a.f32", "--start", "39"]
    assert subprocess.run(command, cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "vq_pager_1.png").exists()


def test_opens_at_speech():
    levels = np.array([0, 2, 30, 40])[:, None]
    assert vq_pager.first_of_speech(levels + np.zeros(14)) == 2
    assert vq_pager.first_of_speech(levels / 10 + np.zeros(14)) == 0  # no speech, log10, a codebook


@pytest.mark.parametrize(
    ("K", "options", "first", "numbers"),
    [
        (14, (), 20, range(40)),
        (14, ("--start", 3), 0, range(3, 40)),
        (7, (), 0, range(80)),  # of no known kind
    ],
)
def test_where_a_window_opens(K, options, first, numbers, main, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "page_vectors", lambda *x, **named: calls.append((x, named)))
    codec2_model.write_rate_K(np.repeat([[1], [50]], 20, axis=0) + np.zeros(14), tmp_path / "s.f32")
    main(K, "s.f32", *options)
    ((arguments, named),) = calls
    assert arguments[1].tolist() == list(numbers)
    assert named["first"] == first
    assert (named["hz"] is None) == (K == 7)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ((14, "cut.f32"), "cut.f32"),
        ((14, "nan.f32"), "nan.f32: vector 0 is not finite"),
        ((14, "a.f32", "--file2", "nan.f32"), "nan.f32"),
        ((13, "a.f32"), "vectors of 13 floats"),
        ((99999999999, "a.f32"), "K"),
        ((14, "a.f32", "--file2", "nowhere.f32"), "nowhere.f32"),
        ((14, "a.f32", "--start", 40), "a.f32: no vector 40 for --start, expected 0 to 39"),
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


def test_help_shows_the_examples(run):
    result = run("vq_pager.py", "--help")
    assert result.returncode == 0
    assert "./vq_pager.py 14 bands.f32        # any key or n: next page, b: back" in result.stdout
    assert "default: None" not in result.stdout


if __name__ == "__main__":
    use_window()
