"""What all scripts share: whole files, checked outputs, errors in one line, progress."""

import argparse
import os
import subprocess
import sys
import time

import pytest

from common import plumbing
from common.plumbing import FormatError
from conftest import ROOT


def test_replacing_makes_a_file_whole(tmp_path):
    (tmp_path / "x.f32").write_text("old")
    with plumbing.replacing(tmp_path / "x.f32") as new, open(new, "w") as file:
        file.write("new")
        assert (tmp_path / "x.f32").read_text() == "old"
        assert new.endswith(".f32")  # Keras and Matplotlib look at it
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.f32", "new")]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_all_files_as_they_were(tmp_path, error):
    (tmp_path / "a").write_text("old")

    def write(name):
        with open(name, "w") as file:
            file.write("half")

    def fail(name):
        write(name)
        raise error

    with pytest.raises(error):
        plumbing.write_all({tmp_path / "a": write, tmp_path / "b": fail})
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("name", ["none/x", "file/x", ".", os.devnull, ""])
def test_outputs_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises((OSError, FormatError)) as error:
        plumbing.check_outputs([None, name])
    told = getattr(error.value, "filename", None) or str(error.value)
    assert told.startswith(name or "an output without a name")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_that_are_one_file_or_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text("input")
    (tmp_path / "link").symlink_to("in")
    plumbing.check_outputs(["a", None, "b", "-"], ["in", None, "none", "-"])
    for outputs in (["in"], ["x", "./in"], ["link"]):
        with pytest.raises(FormatError, match=f"^{outputs[-1]}: .*is an input"):
            plumbing.check_outputs(outputs, ["in"])
    for outputs in (["a", "a"], ["a", "./a"], ["link", "in"], ["-", "-"]):
        with pytest.raises(FormatError, match=f"^{outputs[-1]}: .*named twice"):
            plumbing.check_outputs(outputs)
    assert (tmp_path / "in").read_text() == "input"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "link"}


def test_errors_are_one_line(capsys, monkeypatch):
    """A mistake in a script keeps its traceback."""
    monkeypatch.setattr(sys, "argv", ["/some/folder/x.py"])
    plain = {
        FormatError("x.f32: 3 bytes"): "x.f32: 3 bytes",
        FileNotFoundError(2, "No such file", "none"): "none: No such file",
        OSError(28, "No space left on device"): "output: No space left on device",
    }
    for error, text in plain.items():
        plumbing.report(type(error), error, None)
        assert capsys.readouterr().err == f"x.py: error: {text}\n"
    plumbing.report(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == ""
    plumbing.report(ZeroDivisionError, ZeroDivisionError("a mistake in the script"), None)
    assert "ZeroDivisionError: a mistake in the script" in capsys.readouterr().err


def test_types_of_arguments():
    refused = {
        plumbing.natural: ("-1", "x", "1e3", "1.5", ""),
        plumbing.positive: ("0", "-1", "x"),
        plumbing.probability: ("1.1", "-0.1", "nan"),
        plumbing.level: ("nan", "inf", "x"),
        plumbing.gain: ("0", "nan", "inf"),
        plumbing.keras_file: ("out", "x.h5", ""),
    }
    for kind, texts in refused.items():
        for text in texts:
            with pytest.raises((ValueError, argparse.ArgumentTypeError)):
                kind(text)


def test_importing_changes_nothing():
    """An importing program keeps its tracebacks, and its stdout."""
    code = """
import sys
before = sys.excepthook, sys.stdout.line_buffering
import codec2_model, c2sim
assert before == (sys.excepthook, sys.stdout.line_buffering)"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": ROOT}, check=True)


def test_progress_tells_the_time_left(capsys, monkeypatch):
    now = iter([0, 10, 40])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = plumbing.Progress(4)
    progress.show(1, "loss 0.5")
    progress.show(4, "loss 0.1")
    lines = ["epoch 1/4: loss 0.5, 0:30 left", "epoch 4/4: loss 0.1, 0:00 left\n"]
    assert capsys.readouterr().out == "\n".join(lines)
