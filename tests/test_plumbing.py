"""What all scripts share: whole files, checked outputs, network archives, one-line errors, signals, pictures."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile

import plumbing
from plumbing import FormatError

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

# ---------------------------------------------------------------- whole files


def test_replacing_makes_a_file_whole(tmp_path):
    (tmp_path / "x.f32").write_text("old")
    with plumbing.replacing(tmp_path / "x.f32") as new:
        (tmp_path / new).write_text("new")
        assert (tmp_path / "x.f32").read_text() == "old"
        assert new.endswith(".f32")  # Keras and Matplotlib look at it
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.f32", "new")]


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_replacing_leaves_all_as_it_was_when_it_fails(tmp_path, old, error):
    if old:
        (tmp_path / "x.f32").write_text(old)
    with pytest.raises(error), plumbing.replacing(tmp_path / "x.f32") as new:  # noqa: PT012
        (tmp_path / new).write_text("half")
        raise error
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("x.f32", old)] if old else [])


def test_a_name_that_is_only_an_ending(tmp_path):
    with plumbing.replacing(tmp_path / ".keras") as new:
        assert new.endswith(".keras")
        (tmp_path / new).touch()
    assert (tmp_path / ".keras").exists()


def test_replacing_follows_links_and_keeps_the_mode(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.f32").touch(mode=0o640)
    (tmp_path / "link.keras").symlink_to("folder/x.f32")
    with plumbing.replacing(tmp_path / "link.keras") as new:
        assert new.endswith(".keras")
        (tmp_path / new).write_text("new")
    assert (tmp_path / "link.keras").is_symlink()
    assert (tmp_path / "folder/x.f32").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "folder/x.f32").stat().st_mode) == 0o640
    assert len(list(tmp_path.rglob("*"))) == 3


def test_new_files_get_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    with plumbing.replacing(tmp_path / "x") as new:
        (tmp_path / new).write_text("new")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_nobody_can_plant_a_link_where_the_new_file_will_be(tmp_path):
    """Its name cannot be foreseen, and its folder is closed to others."""
    names = set()
    for _ in range(2):
        with plumbing.replacing(tmp_path / "x") as new:
            folder = os.path.dirname(new)
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            (tmp_path / new).touch()
            names.add(folder)
    assert len(names) == 2


def test_names_of_255_bytes(tmp_path):
    for name in ("x" * 255, "x." + "f" * 253):
        with plumbing.replacing(tmp_path / name) as new:
            (tmp_path / new).write_text("new")
        assert (tmp_path / name).read_text() == "new"
    with pytest.raises(OSError, match="too long"):
        plumbing.check_outputs([tmp_path / ("x" * 256)])


def test_pipes_and_devices_get_a_copy(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    for special in (tmp_path / "pipe", os.devnull):
        with plumbing.replacing(special) as new:
            (tmp_path / new).write_text("new")
    reader.join(10)
    assert received == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_stdout_gets_a_copy_and_nothing_else(name, tmp_path):
    code = "import plumbing; plumbing.check_outputs([{0!r}]); print('figure: 1')\n"
    code += "with plumbing.replacing({0!r}) as new: open(new, 'w').write('data')"
    result = python(code.format(name), tmp_path)
    assert (result.stdout, result.stderr) == ("data", "figure: 1\n")


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    for name in (tmp_path / "none" / "x.f32", tmp_path):
        with pytest.raises(OSError, match=r"No such|Is a directory") as error, plumbing.replacing(name) as new:
            (tmp_path / new).touch()
        assert error.value.filename == str(name)
    with pytest.raises(FileNotFoundError) as error, plumbing.replacing(tmp_path / "x"):
        open(tmp_path / "another")
    assert error.value.filename == str(tmp_path / "another")


# ---------------------------------------------------------------- outputs that are refused


@pytest.mark.parametrize("name", ["none/x", "file/x", ".", "loop"])
def test_outputs_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as error:  # noqa: PT011
        plumbing.check_outputs([None, name])
    assert os.path.realpath(error.value.filename) == os.path.realpath(name)
    with pytest.raises(OSError, match="file"):
        plumbing.check_outputs([], plot_dir="file")
    assert len(list(tmp_path.iterdir())) == 2


def test_outputs_that_are_one_file_or_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text("input")
    (tmp_path / "link").symlink_to("in")
    plumbing.check_outputs(["a", None, "b", os.devnull, os.devnull], ["in", None, "none"], "plots/1")
    for outputs in (["in"], ["x", "./in"], ["link"]):
        with pytest.raises(FormatError, match=f"^{outputs[-1]}: .*is an input"):
            plumbing.check_outputs(outputs, ["in"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which "-" replaces
    for outputs in (["a", "a"], ["a", "./a"], ["link", "in"], ["-", "-"], ["-", "/dev/stdout"]):
        with pytest.raises(FormatError, match="named twice"):
            plumbing.check_outputs(outputs)
    assert (tmp_path / "in").read_text() == "input"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "link", "plots"}


# ---------------------------------------------------------------- network archives


@pytest.fixture
def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])


def test_a_network_comes_back_with_options_and_arrays(network, tmp_path):
    net, codebook = tmp_path / "n.keras", np.arange(6, dtype=np.float16).reshape(2, 3)
    plumbing.save_network(network, {"script": "x", "dec": 3, "Wo": True}, net, codebook=codebook)
    assert plumbing.read_options(net, {"script": ("x", "y"), "dec": range(1, 5), "Wo": (True,)})["dec"] == 3
    values = plumbing.read_array(net, "codebook", (2, 3))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, codebook)
    x = np.ones((1, 3))
    np.testing.assert_array_equal(plumbing.load_network(net)(x), network(x))
    for name, shape in (("codebook", (3, 2)), ("other", (2, 3)), ("../options", ())):
        with pytest.raises(FormatError, match=f"^{net}: no array {name}"):
            plumbing.read_array(net, name, shape)
    for value in np.nan, np.inf, 1e30, 1e300, 1j:
        plumbing.save_network(network, {}, net, codebook=np.array([value, value]))
        with pytest.raises(FormatError, match=f"^{net}: no array codebook"):
            plumbing.read_array(net, "codebook", (2,))


def test_a_network_file_is_half_as_large_as_its_weights(tmp_path):
    """They are rounded to 11 bits, in the network that is saved as well, so that both give the same."""
    layer = keras.layers.Dense(300)
    network = keras.Sequential([keras.Input((300,)), layer])
    before = np.array(layer.kernel)
    plumbing.save_network(network, {}, tmp_path / "n.keras")
    np.testing.assert_allclose(layer.kernel, before, rtol=2**-11, atol=1e-7)
    np.testing.assert_array_equal(plumbing.load_network(tmp_path / "n.keras").get_weights()[0], layer.kernel)
    assert os.path.getsize(tmp_path / "n.keras") < 0.55 * before.nbytes


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e20, 1e5])
def test_weights_of_a_diverged_training_are_neither_saved_nor_run(network, tmp_path, value):
    net = tmp_path / "n.keras"
    net.write_text("a good network")
    weights = network.get_weights()
    weights[0][1, 1] = value
    network.set_weights(weights)
    with pytest.raises(FormatError, match=f"^{net}: .*diverged"):
        plumbing.save_network(network, {}, net)
    assert net.read_text() == "a good network"
    network.save(net)
    with pytest.raises(FormatError, match=f"^{net}: .*diverged"):
        plumbing.load_network(net)


EXPECTED = {"script": ("vq",), "K": range(2, 161), "Wo": (False, True)}
GOOD = {"script": "vq", "K": 14, "Wo": False}
BAD_OPTIONS = [
    *({name: value for name, value in GOOD.items() if name != left_out} for left_out in GOOD),
    *(GOOD | {"K": K} for K in (1, 161, -14, 14.0, "14", True, None, [14], {}, 10**400, float("nan"), float("inf"))),
    *(GOOD | {"script": script} for script in ("vq2", "", None, 0, ["vq"], {"vq": 1}, True)),
    *(GOOD | {"Wo": Wo} for Wo in (0, 1, "False", None, [False], 0.0)),
    *([], [GOOD], {}, None, 14, "vq", True, [["script", "vq"], 1], [1, 2]),
]
BAD_MEMBERS = [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"script": "vq", "K": 14', b"\0" * 100, b'{"a":' * 9999]


def bad_archives(folder):
    """Fill a folder with files that are not networks of these scripts; returns their names."""
    for i, text in enumerate([*(json.dumps(options).encode() for options in BAD_OPTIONS), *BAD_MEMBERS]):
        with zipfile.ZipFile(folder / f"options {i}", "w") as archive:
            archive.writestr("options.json", text)
    whole = json.dumps(GOOD)
    with zipfile.ZipFile(folder / "no options", "w") as archive:
        archive.writestr("option.json", whole)
    with zipfile.ZipFile(folder / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("options.json", whole + " " * 2**27)
    with zipfile.ZipFile(folder / "bomb beside", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("options.json", whole)
        archive.writestr("model.weights.h5", bytes(2**27))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(folder / f"flipped {method}", "w", method) as archive:
            archive.writestr("options.json", whole)
        data = bytearray((folder / f"flipped {method}").read_bytes())
        data[45] ^= 255  # within the compressed text
        (folder / f"flipped {method}").write_bytes(data)
    (folder / "cut").write_bytes((folder / "options 1").read_bytes()[:-30])
    (folder / "empty").touch()
    (folder / "text").write_text("no archive\n" * 99)
    (folder / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999))
    os.mkfifo(folder / "pipe")
    return [*folder.iterdir(), "/dev/zero", "/dev/null"]


def test_every_bad_archive_is_refused_in_one_line(tmp_path):
    archives = bad_archives(tmp_path)
    assert len(archives) > 50
    messages = {filename: refusal(filename) for filename in archives}
    assert [filename for filename, message in messages.items() if message is None] == []
    for filename, message in messages.items():
        assert message.startswith(f"{filename}: ")
        assert "expected" in message
        assert "\n" not in message
    assert any(message.endswith(": a network with K 161, expected 2 to 160") for message in messages.values())
    for filename in (tmp_path / "none", tmp_path / "none" / "x", tmp_path):
        with pytest.raises(OSError):  # noqa: PT011
            plumbing.read_options(filename, EXPECTED)


def refusal(filename):
    """The message for a file that is refused, else None."""
    try:
        plumbing.read_options(filename, EXPECTED)
    except FormatError as error:
        return str(error)


def test_a_network_that_cannot_be_run_is_refused(network, tmp_path):
    net = tmp_path / "n.keras"
    plumbing.save_network(network, GOOD, net)
    whole = zipfile.ZipFile(net)
    members = {name: whole.read(name) for name in whole.namelist()}
    attack = json.loads(members["config.json"])
    config = {"command": f"touch {tmp_path}/it_ran"}
    attack["config"]["layers"][1] = {"module": "os", "class_name": "system", "config": config, "registered_name": None}
    half = members["model.weights.h5"][: len(members["model.weights.h5"]) // 2]
    for changed in (
        {"config.json": b"{}"},
        {"config.json": json.dumps(attack).encode()},
        {"model.weights.h5": half},
        {"model.weights.h5": b""},
        {"metadata.json": b"1"},
    ):
        with zipfile.ZipFile(net, "w") as archive:
            for name, data in (members | changed).items():
                archive.writestr(name, data)
        assert plumbing.read_options(net, EXPECTED) == GOOD
        if "metadata.json" in changed:
            continue
        with pytest.raises(FormatError, match=f"^{net}: not a network that can be run: ") as error:
            plumbing.load_network(net)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "it_ran").exists()


# ---------------------------------------------------------------- one plain line


def python(code, folder, *arguments, **options):
    """CompletedProcess of Python code that imports the modules of the project."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-c", f"import plumbing; plumbing.plain_errors()\n{code}", *map(str, arguments)]
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
    return subprocess.run(command, cwd=folder, env=env, **(defaults | options))


ERRORS = {  # code: what is on stderr behind "-c: error: "
    "raise plumbing.FormatError('x.f32: two\\nlines')": "x.f32: two lines",
    "open('none')": "none: No such file or directory",
    "open(b'\\xff')": "b'\\xff': No such file or directory",
    "raise MemoryError": "out of memory",
    "import numpy; numpy.empty(2**55, bool)": "Unable to allocate 32.0 PiB for an array with shape (36028797018963968,)"
    " and data type bool",
    "import nix": "No module named 'nix': `make demo` installs what is missing, .venv/bin/python has it",
}


def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/folder/x.py"])
    for code, text in ERRORS.items():
        try:
            exec(code, {"plumbing": plumbing})
        except BaseException as error:
            plumbing.report(type(error), error, None)
        assert capsys.readouterr().err == f"x.py: error: {text}\n"
    for error in (KeyboardInterrupt(), BrokenPipeError(32, "Broken pipe", "x")):
        plumbing.report(type(error), error, None)
    assert capsys.readouterr().err == ""
    plumbing.report(ZeroDivisionError, ZeroDivisionError("a mistake in the script"), None)
    assert "ZeroDivisionError: a mistake in the script" in capsys.readouterr().err


def test_a_mistake_in_a_script_keeps_its_traceback(tmp_path):
    result = python("1 / 0", tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_python_without_the_packages(tmp_path):
    """An empty module of that name in the way stands for another Python."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\")")
    for script in ("vq_pager.py", "eband_train.py"):
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        result = subprocess.run([sys.executable, ROOT / script, "--help"], env=env, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith(f"{script}: error: No module named 'numpy': `make demo` installs")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("variable", "code"), [("KERAS_BACKEND", "import keras"), ("MPLBACKEND", "import matplotlib")])
def test_backends_that_do_not_exist(variable, code, tmp_path):
    result = python(f"with plumbing.quiet(): {code}", tmp_path, env={variable: "nonsense"})
    assert result.returncode == 1
    assert result.stderr.startswith("-c: error: ")
    assert "nonsense" in result.stderr
    assert result.stderr.count("\n") == 1


def test_quiet_is_quiet_only_within(tmp_path):
    code = "import sys, os\nwith plumbing.quiet(): os.write(2, b'noise\\n')\nprint('after', file=sys.stderr)"
    assert python(code, tmp_path).stderr == "after\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_stdin_stdout_stderr(closed, tmp_path):
    """Files that are opened then do not get into the way of what is printed."""
    code = "file = open('x', 'w')\nprint('figure: 1', flush=True)\nwith plumbing.quiet(): pass\nfile.write('data')\n"
    code += "file.close(); open('none')"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": f"import plumbing; plumbing.plain_errors()\n{code}"}
    command = f'{sys.executable} -c "$CODE" {closed}'
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert (tmp_path / "x").read_text() == "data"
    assert result.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "figure: 1\n")
    assert result.stderr == ("" if "2>&-" in closed else "-c: error: none: No such file or directory\n")


def test_data_for_a_closed_stdout_is_no_success(tmp_path):
    code = "import plumbing; plumbing.plain_errors()\nwith plumbing.replacing('-') as new: open(new, 'w').write('data')"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": code}
    command = ["bash", "-c", f'{sys.executable} -c "$CODE" >&-']
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (1, "-c: error: -: Bad file descriptor\n")


def test_names_that_are_not_utf8_are_printed(tmp_path):
    result = python("import sys; print(sys.argv[1]); open(sys.argv[1])", tmp_path, os.fsdecode(b"a\xff"))
    assert result.stdout == "a\\udcff\n"
    assert result.stderr == "-c: error: a\\udcff: No such file or directory\n"


# ---------------------------------------------------------------- signals

HALF = """
import os, signal, sys, time
with plumbing.replacing("x") as new:
    open(new, "w").write("half")
    print("writing", flush=True)
    time.sleep(30)
"""


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_killed_script_leaves_no_temporary_file(number, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import plumbing; plumbing.plain_errors()\n{HALF}"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        assert process.wait(30) == (-number if number == signal.SIGINT else 128 + number)
        assert process.stderr.read() == b""
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_ends_a_script_that_catches_exceptions(tmp_path):
    """TensorFlow does, while it builds a graph."""
    code = "import os, time\nwith plumbing.replacing('x') as new: open(new, 'w')\n"
    code += "try: os.kill(os.getpid(), 15); time.sleep(5)\nexcept BaseException: print('still here')"
    result = python(code, tmp_path)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "")


def test_nohup_is_respected(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('still here')"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert python(code, tmp_path, preexec_fn=ignore).stdout == "still here\n"


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("module", ["numpy", "keras"])
def test_ctrl_c_while_packages_are_imported(module, tmp_path):
    """A module of that name in the way presses Ctrl-C; without plumbing, NumPy and Keras tell long stories."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise ImportError('interrupted')"
    (tmp_path / f"{module}.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, ROOT / "vq_vae_demo.py"], cwd=tmp_path, env=env, capture_output=True)
    assert result.returncode == -signal.SIGINT
    assert result.stderr == b""


class Model:
    stop_training = False


@pytest.mark.usefixtures("usual_signals")
def test_the_first_ctrl_c_stops_the_training_and_the_second_the_script(capsys):
    model = Model()
    with plumbing.CtrlC(model) as ctrl_c:
        assert not ctrl_c.pressed
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.pressed
        assert model.stop_training
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().out == "\nstopping, Ctrl-C again aborts\n"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------- arguments and progress


@pytest.mark.parametrize("text", ["-1", "4294967296", "1.5", "", "x", "1e3", "nan"])
def test_whole_numbers(text):
    assert (plumbing.natural("4294967295"), plumbing.natural("0"), plumbing.positive("1")) == (2**32 - 1, 0, 1)
    for of_type in (plumbing.natural, plumbing.positive):
        with pytest.raises(ValueError):  # noqa: PT011
            of_type(text)
    with pytest.raises(ValueError):  # noqa: PT011
        plumbing.positive("0")


def test_progress_tells_the_time_left(capsys, monkeypatch):
    now = iter([0, 10, 40])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = plumbing.Progress(4)
    progress.show(1, "loss 0.5")
    progress.show(4, "loss 0.1")
    assert capsys.readouterr().out == "epoch 1/4: loss 0.5, 0:30 left\nepoch 4/4: loss 0.1, 0:00 left\n"
    now = iter([0, 10, 40])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = plumbing.Progress(4)
    progress.show(1, "loss 0.5")
    progress.show(4, "loss 0.1")
    assert capsys.readouterr().out == "\x1b[Kepoch 1/4: loss 0.5, 0:30 left\repoch 4/4: loss 0.1, 0:00 left\n"


# ---------------------------------------------------------------- pictures


def test_figures_and_films_become_files(tmp_path, capsys):
    fig, ax = plt.subplots()
    drawn = []

    def draw(i):
        drawn.append(i)
        ax.clear()
        ax.plot([0, i])

    plumbing.show_film(fig, draw, 3, "film", tmp_path)
    assert capsys.readouterr().out == f"plot: {tmp_path}/film.gif\nplot: {tmp_path}/film.png\n"
    with Image.open(tmp_path / "film.gif") as film:
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            durations.append(film.info["duration"])
        assert film.n_frames == 3
        assert durations[0] == 250
        assert durations[2] >= 2000  # time to look at the last one
        assert film.info["loop"] == 0
    assert drawn[-1] == 2
    assert not plt.get_fignums()
