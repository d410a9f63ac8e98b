"""Blocks that are copies, as each script tells its whole story; imports run downwards only."""

import ast

import pytest

from conftest import ROOT

COPIES = [  # name, scripts that have it
    ("sparse_loss", "eband_train newamp1_train"),
    ("fit_baseline", "eband_train ebanddec_train"),
    ("load_pair", "eband_train ebanddec_train"),
    ("VectorQuantizer", "vq_vae_demo vq_vae_ratek"),
    ("load", "vq_vae_demo vq_vae_demo_2stage"),
]
# scripts that others import, and who may
IMPORTED = {"codec2_model": None, "c2sim": ("vq_codec",)}  # None: all
# modules of common/: each imports only those behind it
ORDER = ["search", "classical", "pitch", "plots", "networks", "spectra", "plumbing"]


def definitions(path):
    """{name: source text} of the functions and classes at the top level, with decorators."""
    source = path.read_text()
    lines = source.splitlines()
    texts = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            texts[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return texts


@pytest.mark.parametrize(("name", "scripts"), COPIES)
def test_copies_are_the_same_text(name, scripts):
    original, *others = [definitions(ROOT / f"{script}.py")[name] for script in scripts.split()]
    for text in others:
        assert text == original


def imports(path):
    """Names of the modules that a file imports, wherever in it; common.x as x."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module != "common":
            names.add(node.module.removeprefix("common."))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    return names


def test_scripts_import_common_and_formats_only():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in ROOT.glob("*.py"):
        for name in imports(path) & scripts:
            assert name in IMPORTED, f"{path.name} imports {name}"
            assert IMPORTED[name] is None or path.stem in IMPORTED[name]


def test_common_imports_no_script():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    modules = {path.stem for path in (ROOT / "common").glob("*.py")} - {"__init__"}
    assert modules == set(ORDER)
    for name in modules:
        imported = imports(ROOT / "common" / f"{name}.py")
        assert not imported & scripts, name
        assert imported & modules <= set(ORDER[ORDER.index(name) + 1 :]), name
