"""Each script tells its whole story, so some blocks are copies: these are held to the same text wherever they occur."""

import ast

import pytest
from conftest import ROOT

TRAINERS = ("eband_train.py", "ebanddec_train.py", "newamp1_train.py")
DEMOS = ("vq_vae_demo.py", "vq_vae_demo_2stage.py")
RATE_K = ("vq_vae_ratek.py", "vq_vae_ratek_conv1d.py")
COPIES = {  # scripts that may have them: names; others may mean what a script likes
    DEMOS + RATE_K: ("VectorQuantizer", "spread"),
    RATE_K: ("read_vectors", "some_blocks", "Watch", "code", "usage", "load"),
    DEMOS: (*("make_data", "shannon_bound", "train", "Watch", "quantise", "distortion", "kmeans"),),
    TRAINERS: (*("fit_baseline", "random_response", "filtered_bands", "sparse_loss", "Batches", "plot_loss"),),
    (*TRAINERS, "eband_out.py"): (*("distortion", "evaluate", "match_mean", "draw_frames"),),
}


def definitions(path):
    """{name: source text} of the functions and classes at the top level of a script, with their decorators."""
    source = path.read_text()
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    lines = source.splitlines()
    first = {node.name: min([node.lineno, *(d.lineno for d in node.decorator_list)]) for node in nodes}
    return {node.name: "\n".join(lines[first[node.name] - 1 : node.end_lineno]) for node in nodes}


@pytest.mark.parametrize(("scripts", "name"), [(scripts, name) for scripts in COPIES for name in COPIES[scripts]])
def test_copies_are_the_same_text(scripts, name):
    texts = {script: definitions(ROOT / script).get(name) for script in scripts if (ROOT / script).exists()}
    texts = {script: text for script, text in texts.items() if text is not None}
    assert len(texts) > 1, f"{name} is a copy of nothing in {scripts}"
    original, *others = texts
    for script in others:
        assert texts[script] == texts[original], f"{name} differs in {original} and {script}"
