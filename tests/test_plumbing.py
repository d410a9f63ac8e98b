"""What all scripts share: whole files, checked outputs, errors in one line, types of arguments."""

import os
import subprocess
import sys
import time

import pytest

from common import plumbing
from common.plumbing import FormatError
from conftest import ROOT, SCRIPTS, assert_refused

# ---------------------------------------------------------------- whole files


def test_replacing_makes_a_file_whole(tmp_path):
    (tmp_path / "x.f32").write_text("old")
    with plumbing.replacing(tmp_path / "x.f32") as new, open(new, "w") as file:
        file.write("new")
        assert (tmp_path / "x.f32").read_text() == "old"
        assert new.endswith(".f32")  # Keras and Matplotlib look at it
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.f32", "new")]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_all_files_as_they_were(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), plumbing.replacing(tmp_path / "a", tmp_path / "b") as names:  # noqa: PT012
        for name in names:
            with open(name, "w") as file:
                file.write("half")
        raise error
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_replacing_follows_links(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.f32").touch()
    (tmp_path / "link.keras").symlink_to("folder/x.f32")
    with plumbing.replacing(tmp_path / "link.keras") as new, open(new, "w") as file:
        file.write("new")
    assert (tmp_path / "link.keras").is_symlink()
    assert (tmp_path / "folder/x.f32").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    name = str(tmp_path / "none" / "x.f32")
    with pytest.raises(OSError, match="No such") as error, plumbing.replacing(name) as new:
        open(new, "w").close()
    assert error.value.filename == name
    with pytest.raises(OSError, match="No space") as error, plumbing.replacing(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert error.value.filename == tmp_path / "x"
    with pytest.raises(OSError, match="No such") as error, plumbing.replacing(tmp_path / "x"):
        open(tmp_path / "another").close()
    assert error.value.filename == str(tmp_path / "another")


# ---------------------------------------------------------------- outputs that are refused


@pytest.mark.parametrize("name", ["none/x", "file/x", ".", os.devnull, ""])
def test_outputs_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises((OSError, FormatError)) as error:
        plumbing.check_outputs([None, name])
    told = getattr(error.value, "filename", None) or str(error.value)
    assert told.startswith(name or "an output without a name")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write anywhere")
def test_a_file_in_a_folder_that_is_closed(tmp_path):
    """The new file is made beside it: what would fail after hours fails now."""
    (tmp_path / "x").touch()
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as error:
        plumbing.check_outputs([tmp_path / "x"])
    tmp_path.chmod(0o700)
    assert error.value.filename == tmp_path / "x"


def test_the_folder_for_pictures_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plumbing.check_outputs([], plot_dir="plots/1")
    assert os.listdir("plots/1") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        plumbing.check_outputs([], plot_dir="file")


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


# ---------------------------------------------------------------- one plain line

PLAIN = {  # error: what is on stderr behind "x.py: error: "
    FormatError("x.f32: 3 bytes"): "x.f32: 3 bytes",
    FileNotFoundError(2, "No such file or directory", "none"): "none: No such file or directory",
    OSError(28, "No space left on device"): "output: No space left on device",
    ModuleNotFoundError("No module named 'nix'"): "No module named 'nix': `make demo` installs "
    "what is missing, .venv/bin/python has it",
}


def test_errors_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/folder/x.py"])
    for error, text in PLAIN.items():
        plumbing.report(type(error), error, None)
        assert capsys.readouterr().err == f"x.py: error: {text}\n"
    plumbing.report(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == ""
    plumbing.report(ZeroDivisionError, ZeroDivisionError("a mistake in the script"), None)
    assert "ZeroDivisionError: a mistake in the script" in capsys.readouterr().err


def python(code, folder, *arguments):
    """CompletedProcess of Python code that was started as the scripts are."""
    command = [sys.executable, "-c", f"from common import plumbing; plumbing.start()\n{code}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": folder, "env": env, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([*command, *arguments], **options)


def test_a_mistake_in_a_script_keeps_its_traceback(tmp_path):
    result = python("1 / 0", tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_names_that_are_no_text_are_printed(tmp_path):
    code = "import sys; print(sys.argv[1]); open(sys.argv[1])"
    result = python(code, tmp_path, os.fsdecode(b"a\xff"))
    assert result.stdout == "a\\udcff\n"
    assert result.stderr == "-c: error: a\\udcff: No such file or directory\n"


def test_importing_changes_nothing(tmp_path):
    """An importing program keeps its tracebacks, and its stdout."""
    modules = [name.removesuffix(".py") for name in ("codec2_model.py", "c2sim.py")]
    code = "import sys; before = sys.excepthook, sys.stdout.line_buffering\n"
    code += f"import {', '.join(modules)}\n"
    code += "assert before == (sys.excepthook, sys.stdout.line_buffering)\nraise OSError('mine')"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.stderr.endswith("OSError: mine\n")
    assert result.stderr.startswith("Traceback")


def test_quiet_is_quiet_only_within(tmp_path):
    code = "import sys, os\nwith plumbing.quiet(): os.write(2, b'noise\\n')\n"
    code += "print('after', file=sys.stderr)"
    assert python(code, tmp_path).stderr == "after\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_quiet_leaves_no_descriptor_open():
    before = os.listdir("/proc/self/fd")
    with plumbing.quiet():
        pass
    assert os.listdir("/proc/self/fd") == before


# ---------------------------------------------------------------- arguments and progress


@pytest.mark.parametrize("script", [*SCRIPTS, "doc/demo.py"])
def test_help_shows_the_examples(script, no_keras):
    """Of the docstring, as they stand there; and no default that tells nothing."""
    command = [sys.executable, ROOT / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=no_keras)
    assert (result.returncode, result.stderr) == (0, "")
    usage, _, examples = result.stdout.partition("\nUsage:\n")
    name = os.path.basename(script)
    assert usage.startswith(f"usage: {name}")
    assert f"./{name} " in examples or "make demo" in examples
    assert "(default: None)" not in usage


@pytest.mark.parametrize("script", SCRIPTS)
def test_usage_errors_are_told_before_keras_is_loaded(script, no_keras):
    command = [sys.executable, ROOT / script, "--nonsense"]
    result = subprocess.run(command, capture_output=True, text=True, env=no_keras)
    assert_refused(result, status=2)


REFUSED = {
    plumbing.natural: ("-1", "4294967296", "1.5", "", "x", "1e3", "nan"),
    plumbing.positive: ("0", "-1", "4294967296", "1.5"),
    plumbing.probability: ("-0.1", "1.1", "nan", "x", ""),
    plumbing.level: ("nan", "inf", "-inf", "1001", "x", ""),
}


@pytest.mark.parametrize("type_", REFUSED)
def test_types_of_arguments(type_):
    assert type_("1") == 1
    for text in REFUSED[type_]:
        with pytest.raises(ValueError):  # noqa: PT011
            type_(text)


def test_progress_tells_the_time_left(capsys, monkeypatch):
    now = iter([0, 10, 40] * 2)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = plumbing.Progress(4)
    progress.show(1, "loss 0.5")
    progress.show(4, "loss 0.1")
    lines = ["epoch 1/4: loss 0.5, 0:30 left", "epoch 4/4: loss 0.1, 0:00 left\n"]
    assert capsys.readouterr().out == "\n".join(lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = plumbing.Progress(4)
    progress.show(1, "loss 0.5")
    progress.show(4, "loss 0.1")
    assert capsys.readouterr().out == "\x1b[K" + "\r".join(lines)
