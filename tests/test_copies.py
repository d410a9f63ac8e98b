"""Each script tells its whole story, so some blocks are copies: these are held to the same text wherever they occur."""

import ast

import pytest
from conftest import ROOT

COPIES = [  # name, scripts that have it
    ("sparse_loss", "eband_train newamp1_train"),
    ("fit_baseline", "eband_train ebanddec_train"),
    ("load_pair", "eband_train ebanddec_train"),
    ("energies_dB", "eband_train ebanddec_train"),
    ("VectorQuantizer", "vq_vae_demo vq_vae_ratek"),
    ("VectorQuantizer", "vq_vae_demo_2stage vq_vae_ratek_conv1d"),
    ("load", "vq_vae_demo vq_vae_demo_2stage"),
]


def definitions(path):
    """{name: source text} of the functions and classes at the top level of a script, with their decorators."""
    source = path.read_text()
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    lines = source.splitlines()
    first = {node.name: min([node.lineno, *(d.lineno for d in node.decorator_list)]) for node in nodes}
    return {node.name: "\n".join(lines[first[node.name] - 1 : node.end_lineno]) for node in nodes}


@pytest.mark.parametrize(("name", "scripts"), COPIES)
def test_copies_are_the_same_text(name, scripts):
    original, *others = [definitions(ROOT / f"{script}.py")[name] for script in scripts.split()]
    for text in others:
        assert text == original


def test_imports_run_downwards_only():
    """Scripts import vq_search, vq_pager, codec2_model, plumbing; each of these only those behind it; nobody c2sim."""
    order = ["vq_search", "vq_pager", "codec2_model", "plumbing"]
    ours = {path.stem for path in ROOT.glob("*.py")}
    for path in ROOT.glob("*.py"):
        below = order[order.index(path.stem) + 1 :] if path.stem in order else order
        below = [*below, "vq_vae_ratek_conv1d"] if path.stem == "vq_ber" else below  # whose networks it works on
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert imported & ours <= set(below), path.name
