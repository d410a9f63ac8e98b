"""vq_pager.py: in a real window; files without a display; where it opens; bad input."""

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
from conftest import ROOT, call


@pytest.fixture
def vectors(tmp_path):
    """a.f32: 40 vectors of 14 values, three pages with a short last one; b.f32: 20 vectors."""
    values = np.random.default_rng(0).normal(30, 10, (40, 14))
    codec2_model.write_rate_K(values, tmp_path / "a.f32")
    codec2_model.write_rate_K(values[:20] + 1, tmp_path / "b.f32")
    return values.astype(np.float32)


def test_in_a_window(vectors, tmp_path):
    pytest.importorskip("tkinter", reason="needs tkinter (Debian: python3-tk)")
    if not (shutil.which("xvfb-run") and shutil.which("xdotool")):
        pytest.skip("needs xvfb and xdotool")
    command = ["xvfb-run", "-a", sys.executable, __file__]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=env, timeout=120, check=True)


def use_window():
    """Run under Xvfb by the test above: page forward, back, past both ends; quit by a click."""
    with Window() as window:
        for key, first in (("n", 16), ("space", 32), ("x", 32), ("b", 16), ("Left", 0), ("b", 0)):
            window.do("key", key)
            window.wait_for(first)
        window.do("mousemove", "500", "400", "click", "1")
        assert window.process.wait(20) == 0
        assert window.process.stdout.read() == ""


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
        found = subprocess.run(search, check=True, capture_output=True, text=True)
        time.sleep(0.5)  # it is mapped, but has to be drawn before it listens
        self.do("windowfocus", "--sync", found.stdout.split()[0])
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def do(self, *words):
        subprocess.run(["xdotool", *words], check=True, timeout=20)

    def wait_for(self, first):
        """Until a page is shown that begins with this vector."""
        for said in self.process.stdout:
            if said.startswith("shown"):
                assert said.split() == ["shown", str(first)]
                return
        raise AssertionError(f"ended before it showed {first}")


def test_all_pages_become_files_without_keras(vectors, run, tmp_path):
    """With modules in the way that refuse to be imported."""
    for name in ("keras", "tensorflow", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    options = ("--file2", "b.f32", "--start", 5, "--plot_dir", "plots")
    result = run("vq_pager.py", 14, "a.f32", *options, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "vectors: 40",
        f"range: {vectors.min():.2f} to {vectors.max():.2f}",
        *(f"plot: {os.path.join('plots', f'vq_pager_{page}.png')}" for page in (1, 2, 3)),
    ]
    assert len(list((tmp_path / "plots").iterdir())) == 3


def test_a_window_opens_at_speech(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "page_vectors", lambda *x, **named: calls.append((x, named)))
    codec2_model.write_rate_K(np.repeat([[1], [50]], 20, axis=0) + np.zeros(14), tmp_path / "s.f32")
    call(vq_pager, 14, tmp_path / "s.f32")
    call(vq_pager, 14, tmp_path / "s.f32", "--start", 3)
    assert [named["first"] for _, named in calls] == [20, 0]
    assert [arguments[1][0] for arguments, _ in calls] == [0, 3]


if __name__ == "__main__":
    use_window()
