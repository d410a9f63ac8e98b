"""What every script needs and no experiment changes: one-line errors, files, network archives, windows and pictures."""

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import zipfile

STDOUT = ("-", "/dev/stdout")
MAX_WEIGHT = 1e4  # of a network; a trained one has none above 1000, and squares of what it makes stay finite


class FormatError(ValueError):
    """A file that is not what it should be: the message names the file, what is wrong and what was expected."""


def report(kind, error, trace):
    """One line on stderr for a bad file, a missing package or no memory; none for Ctrl-C and a closed pipe."""
    if issubclass(kind, OSError) and error.filename is None:  # a full disk or closed pipe at stdout
        sys.stdout = None  # or Python would write what is left once more
    if issubclass(kind, KeyboardInterrupt | BrokenPipeError):
        return
    if issubclass(kind, OSError):
        error = f"{error.filename or 'output'}: {error.strerror or error}"
    elif issubclass(kind, ImportError):
        error = f"{error}: `make demo` installs what is missing, .venv/bin/python has it"
    elif not issubclass(kind, FormatError | MemoryError) and "backend" not in str(error):  # of Keras or Matplotlib
        return sys.__excepthook__(kind, error, trace)
    print(f"{os.path.basename(sys.argv[0])}: error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)


sys.excepthook = report  # before NumPy is imported: it may be missing, or Ctrl-C be pressed meanwhile
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np


def plain_errors():
    """Prepare a script for closed files and names of any bytes."""
    [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]  # so that no other file gets the number of a closed stdout
    sys.stdout, sys.stderr = (file or open(os.devnull, "w") for file in (sys.stdout, sys.stderr))
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


@contextlib.contextmanager
def quiet():
    """Keep stderr empty while the block imports Keras: TensorFlow prints six lines.  Ctrl-C ends the script at once."""
    stderr, ctrl_c = os.dup(2), signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        signal.signal(signal.SIGINT, ctrl_c)


@contextlib.contextmanager
def CtrlC(model):
    """`with CtrlC(model) as ctrl_c:` the first Ctrl-C ends model.fit() after a step, a second one aborts the script."""

    def stop(*_):
        signal.signal(signal.SIGINT, usual)
        stop.pressed = model.stop_training = True
        print("\nstopping, Ctrl-C again aborts")

    stop.pressed, usual = False, signal.signal(signal.SIGINT, stop)
    yield stop
    signal.signal(signal.SIGINT, usual)


class Progress:
    """Lines such as `epoch 3/40: loss 0.12, 2:10 left`; on a terminal one line that is written over."""

    def __init__(self, epochs):
        self.total, self.start = epochs, time.monotonic()

    def show(self, done, text):
        left = int((time.monotonic() - self.start) * (self.total - done) / done)
        line = f"epoch {done}/{self.total}: {text}, {left // 60}:{left % 60:02d} left"
        print(f"\x1b[K{line}", end="\r", flush=True) if sys.stdout.isatty() and done < self.total else print(line)


def natural(text, least=0):
    """Type of an argument that is a whole number, 0 or more; also a seed, which has 32 bits."""
    if not least <= int(text) < 2**32:
        raise ValueError
    return int(text)


def positive(text):
    """Type of an argument that is a whole number above 0."""
    return natural(text, least=1)


@contextlib.contextmanager
def temporary_folder(**options):
    """Name of a folder that is there for the block only, even when SIGTERM or SIGHUP end the script meanwhile.

    Elsewhere these signals end it at once: TensorFlow swallows an exception that a handler raises while it builds a
    graph, and the training goes on.
    """
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # not with nohup
                signal.signal(number, lambda number, _: sys.exit(128 + number))
                stack.callback(signal.signal, number, signal.SIG_DFL)
        yield stack.enter_context(tempfile.TemporaryDirectory(**options))


@contextlib.contextmanager
def replacing(filename):
    """Name of a new file.  If the block goes well, it replaces `filename`, or is copied to `-`, a device or a pipe."""
    target, copied = os.path.realpath(filename), filename in STDOUT or is_special(filename)
    try:
        with temporary_folder(prefix=".new_", dir=None if copied else os.path.dirname(target)) as folder:
            new = os.path.join(folder, "x" + os.path.splitext(f"x{os.path.basename(filename)}")[1])  # of `.keras`, too
            yield new
            if copied:
                with open(os.dup(1) if filename in STDOUT else filename, "wb") as sink, open(new, "rb") as source:
                    sink.write(source.read())
            else:
                if os.path.isfile(target):
                    os.chmod(new, os.stat(target).st_mode)
                os.replace(new, target)
    except OSError as error:  # a full disk does not say which file it was for
        if ".new_" in (error.filename or ".new_"):
            error.filename = str(filename)
        raise


def is_special(filename):
    """True for devices and pipes, which may have no end."""
    return os.path.exists(filename) and not os.path.isfile(filename) and not os.path.isdir(filename)


def check_outputs(outputs, inputs=(), plot_dir=None):
    """Refuse, before hours of work, outputs that cannot be written, are named twice or are inputs; None is no file."""
    os.makedirs(plot_dir or ".", exist_ok=True)
    outputs = [*outputs, plot_dir and os.path.join(plot_dir, "plot.png")]
    taken = {os.path.realpath(name): "is an input, too" for name in inputs if name}
    for name in filter(None, outputs):
        path, existed = os.path.realpath("/dev/stdout" if name == "-" else name), os.path.exists(name)
        if path in taken:
            raise FormatError(f"{name}: an output that {taken[path]}, expected another name")
        if name in STDOUT:
            sys.stdout = sys.stderr  # what is printed must not get into the file
            taken[path] = "is named twice"
        elif not is_special(name):
            taken[path] = "is named twice"
            open(path, "ab").close()  # OSError for a folder that is missing, takes no files, or is the name itself
            if not existed:
                os.unlink(path)


def save_network(network, options, filename, **arrays):
    """Write a Keras network, the options that tell how to use it, and NumPy arrays into one archive.

    Its weights are rounded to 11 bits, which changes no figure and makes the file half as large.
    """
    check_weights(network, filename)
    network.set_weights([np.float32(np.float16(values)) for values in network.get_weights()])
    with CtrlC(network), replacing(filename) as new:
        network.save(f"{new}.keras")
        with zipfile.ZipFile(f"{new}.keras") as saved, zipfile.ZipFile(new, "w", zipfile.ZIP_BZIP2) as archive:
            for name in saved.namelist():
                archive.writestr(name, saved.read(name))
            archive.writestr("options.json", json.dumps(options))
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, values)


def read_options(filename, expected):
    """The options that a network was saved with; FormatError unless each of expected {name: values} is one of these."""
    options = None
    if not is_special(filename):
        with open(filename, "rb") as file, contextlib.suppress(Exception):  # a broken archive has many ways to be one
            archive = zipfile.ZipFile(file)
            if sum(member.file_size for member in archive.infolist()) < 2**26:  # bytes; networks have a few million
                options = dict(json.loads(archive.read("options.json")))
    if options is None:
        raise FormatError(f"{filename}: expected a network that one of these scripts has written")
    for name, allowed in expected.items():
        value = options.get(name)
        if type(value) is not type(allowed[0]) or value not in allowed:
            values = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
            raise FormatError(f"{filename}: a network with {name} {value!r}, expected {values}")
    return options


def read_array(filename, name, shape):
    """The array of this name and shape, float32, that a network was saved with."""
    values = np.empty(0)
    with contextlib.suppress(Exception), np.errstate(over="ignore"):
        archive = np.load(filename)  # NumPy reads any zip archive as if it were an .npz file
        values = archive[name].astype(np.float32, casting="same_kind")
    if values.shape != tuple(shape) or not (np.abs(values) < MAX_WEIGHT).all():
        raise FormatError(f"{filename}: no array {name} of {tuple(shape)} usual numbers in this network")
    return values


def load_network(filename):
    """The Keras network in an archive.  Raises FormatError for one that is broken."""
    import keras

    try:
        network = keras.models.load_model(filename, compile=False)
    except Exception as error:  # Keras raises many exception types for a bad file
        why = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise FormatError(f"{filename}: not a network that can be run: {why}") from None
    check_weights(network, filename)
    return network


def check_weights(network, filename):
    """FormatError for weights that are not finite, or far larger than any that were ever trained."""
    if not all((np.abs(values) < MAX_WEIGHT).all() for values in network.get_weights()):
        why = f"weights that are not finite or above {MAX_WEIGHT:g}: training diverged?"
        raise FormatError(f"{filename}: a network with {why}")


def save_picture(fig, name, plot_dir, save):
    """Let save(file name) write a picture in plot_dir, unless `fig` is in a window.  True when it is written."""
    if plot_dir is None and fig.canvas.required_interactive_framework:
        return False
    filename = os.path.join(plot_dir or ".", name)
    with replacing(filename) as new:
        save(new)
    print(f"plot: {filename}")
    return True


def show(figures, plot_dir):
    """Show figures {name: figure} in windows and wait until they are closed, or write them to PNG files."""
    import matplotlib.pyplot as plt

    for name, fig in figures.items():
        if save_picture(fig, f"{name}.png", plot_dir, fig.savefig):
            plt.close(fig)
    plt.show()


def show_film(fig, draw, nb_pictures, name, plot_dir):
    """Let draw(i), i = 0…nb_pictures − 1, fill `fig` again and again: a film in a window, or a GIF and a last PNG."""

    def save(filename):
        from PIL import Image

        pictures = []
        for i in range(nb_pictures):
            draw(i)
            fig.savefig(picture := io.BytesIO(), dpi=70)
            pictures.append(Image.open(picture).convert("RGB"))
        durations = [*[250] * (nb_pictures - 1), 2000]  # ms
        pictures[0].save(filename, save_all=True, append_images=pictures[1:], duration=durations, loop=0)

    if not save_picture(fig, f"{name}.gif", plot_dir, save):
        from matplotlib.animation import FuncAnimation

        fig.film = FuncAnimation(fig, draw, nb_pictures, interval=250, repeat=False)  # runs while it has a name
    show({name: fig}, plot_dir)
