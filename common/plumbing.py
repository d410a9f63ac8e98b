"""Errors in one line, whole output files, progress lines, types of arguments."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path


class FormatError(ValueError):
    """A file that is not what it should be: the message says what is wrong, what was expected."""


def report(kind, error, trace):
    """One line on stderr for what a user can mend, nothing for Ctrl-C, the traceback for a bug."""
    if issubclass(kind, BrokenPipeError):  # Python flushes stdout when it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if issubclass(kind, KeyboardInterrupt | BrokenPipeError):
        return
    if issubclass(kind, OSError):
        message = f"{error.filename or 'output'}: {error.strerror or error}"
    elif issubclass(kind, ImportError):
        message = f"{error}: `make demo` installs what is missing, .venv/bin/python has it"
    elif issubclass(kind, FormatError):
        message = str(error)
    else:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)


def start():
    """Prepare a script that is run, not imported: errors in one line, lines that appear at once."""
    sys.excepthook = report
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported


@contextlib.contextmanager
def quiet():
    """Keep stderr empty during the block: libraries in C print there, TensorFlow when it loads."""
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


class Progress:
    """Lines such as `epoch 3/40: loss 0.12, 2:10 left`; on a terminal one line, written over."""

    def __init__(self, total, what="epoch"):
        self.total, self.what = total, what
        self.start = time.monotonic()

    def show(self, done, text):
        seconds = time.monotonic() - self.start
        left = int(seconds * (self.total - done) / done)
        line = f"{self.what} {done}/{self.total}: {text}, {left // 60}:{left % 60:02d} left"
        if sys.stdout.isatty() and done < self.total:
            print(f"\x1b[K{line}", end="\r", flush=True)
        else:
            print(line)


# ---------------------------------------------------------------- arguments


def natural(text):
    """Type of an argument that is a whole number, 0 or more; also a seed, which has 32 bits."""
    if not 0 <= int(text) < 2**32:
        raise ValueError
    return int(text)


def positive(text):
    """Type of an argument that is a whole number above 0."""
    if natural(text) == 0:
        raise ValueError
    return int(text)


def probability(text):
    """Type of an argument that is a probability, 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def level(text):
    """Type of an argument that is a level in dB."""
    if not abs(float(text)) <= 1000:  # also refuses nan
        raise ValueError
    return float(text)


def gain(text):
    """Type of --gain, by which a file is divided: 10 for dB, 1 for log10."""
    if not 1e-6 < float(text) < 1e6:  # also refuses nan
        raise ValueError
    return float(text)


def keras_file(text):
    """Type of the name of a network that is written."""
    if not text.endswith(".keras"):
        hint = " (.h5 was the format of 2019)" if text.endswith(".h5") else ""
        raise argparse.ArgumentTypeError(f"{text}: expected a name that ends in .keras{hint}")
    return text


class Gone(argparse.Action):
    """An option of 2019 that is gone: add("--old", action=Gone, const="what to do instead")."""

    def __init__(self, option_strings, dest, const):
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs="*",
            const=const,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is gone: {self.const}")


def epilog(docstring):
    """The lines of a script's docstring from `Usage:` on, for its --help."""
    return docstring[docstring.index("Usage:") :]


# ---------------------------------------------------------------- output files


@contextlib.contextmanager
def replacing(filename):
    """Name of a new file beside `filename`, which it replaces if the block goes well."""
    new = new_name(filename)
    try:
        yield new
        os.replace(new, os.path.realpath(filename))  # a link stays a link
    except OSError as error:
        if error.filename in (new, None):  # a full disk does not say which file it was for
            error.filename = filename
        raise
    finally:
        Path(new).unlink(missing_ok=True)


def write_all(outputs):
    """Write {file name: function that writes a file of the name it is given}: all, or none."""
    with contextlib.ExitStack() as stack:
        new = [stack.enter_context(replacing(filename)) for filename in outputs]
        for name, write in zip(new, outputs.values(), strict=True):
            write(name)


def new_name(filename):
    """Name of a new file beside `filename` with the same ending, which libraries look at."""
    path = Path(os.path.realpath(filename))
    return str(path.with_name(f".new_{os.getpid()}_{path.name}"))


def check_input(filename):
    """Size in bytes of a file.  FormatError for a folder, a pipe or an endless device."""
    size = os.stat(filename).st_size
    if not os.path.isfile(filename):
        raise FormatError(f"{filename}: not a regular file")
    return size


def check_outputs(outputs, inputs=(), plot_dir=None):
    """Refuse, before hours of work, outputs that cannot be written, are named twice or are inputs.

    None stands for no file, `-` for stdin or stdout.  Makes the folder for pictures.
    """
    if plot_dir is not None:
        os.makedirs(plot_dir, exist_ok=True)
        outputs = [*outputs, os.path.join(plot_dir, "plot.png")]
    taken = {
        os.path.realpath(name): "is an input, too" for name in inputs if name not in (None, "-")
    }
    for name in outputs:
        if name is None:
            continue
        if name == "":
            raise FormatError("an output without a name, expected one")
        path = "-" if name == "-" else os.path.realpath(name)
        if path in taken:
            raise FormatError(f"{name}: an output that {taken[path]}, expected another name")
        taken[path] = "is named twice"
        if name != "-":
            try_output(name)


def try_output(filename):
    """Make and remove the new file that replacing() would make: what would fail then, fails now."""
    if os.path.exists(filename) and not os.path.isfile(filename):
        raise FormatError(f"{filename}: a folder or a device, expected the name of a file")
    folder = Path(filename).parent
    if not folder.is_dir():
        raise FormatError(f"{filename}: {folder} is no folder")
    new = new_name(filename)
    try:
        open(new, "wb").close()
    except OSError as error:
        error.filename = filename
        raise
    os.remove(new)
