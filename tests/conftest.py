"""What the tests share: running a script as its user does, how it refuses bad input, the reference data."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def run_in(folder, script, *arguments, **options):
    """CompletedProcess of a script that ran in `folder` on a machine without a display."""
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env["MPLBACKEND"] = "Agg"
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 300}
    command = [sys.executable, ROOT / script, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=env, **(defaults | options))


@pytest.fixture
def run(tmp_path):
    """run("script.py", *arguments) in `tmp_path`."""
    return functools.partial(run_in, tmp_path)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Band energies and model file of the sample speech."""
    folder = tmp_path_factory.mktemp("sample")
    wav = ROOT / "tests" / "data" / "sample_8k.wav"
    options = ("--bands", "bands.f32", "--bands_lower", 10, "--modelout", "speech.model")
    assert run_in(folder, "c2sim.py", wav, *options).returncode == 0
    return folder / "bands.f32", folder / "speech.model"


def assert_refused(result, *words, status=1):
    """The script ended with this status and one line on stderr, after the usage when that was wrong (status 2)."""
    lines = result.stderr.splitlines()
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert lines[-1].startswith(f"{Path(result.args[1]).name}: error: ")
    assert status == 2 or len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[-1]


@pytest.fixture(scope="session")
def shared():
    """Folder of the reference data, beside the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the reference data (../shared/data) is not on this machine")
    return folder
