"""Each script tells its whole story, so some blocks are copies: held to the same text wherever."""

import ast

import pytest

from conftest import ROOT

COPIES = [  # name of a function, class or method; the scripts that have it
    ("sparse_loss", "eband_train newamp1_train"),
    ("fit_baseline", "eband_train ebanddec_train"),
    ("load_pair", "eband_train ebanddec_train"),
    ("energies_dB", "eband_train ebanddec_train"),
    ("VectorQuantizer", "vq_vae_demo vq_vae_ratek"),
    ("VectorQuantizer.decode", "vq_vae_demo_2stage vq_vae_ratek_conv1d"),
    ("VectorQuantizer.update_codebooks", "vq_vae_demo_2stage vq_vae_ratek_conv1d"),
    ("load", "vq_vae_demo vq_vae_demo_2stage"),
]
SCRIPTS_IMPORTED = {"codec2_model": None, "c2sim": ("vq_codec",)}  # by whom; None: by all
COMMON = {  # module: those that it may import
    "search": {"classical", "networks", "spectra", "plumbing"},
    "classical": {"spectra", "plumbing"},
    "pitch": {"networks", "spectra", "plumbing"},
    "plots": {"networks", "spectra", "plumbing"},
    "networks": {"plumbing"},
    "sound": {"spectra", "plumbing"},
    "spectra": {"plumbing"},
    "plumbing": set(),
}


def source_of(path, name):
    """Source text of a function, class or method of a script, with its docstring."""
    body = ast.parse(path.read_text())
    for part in name.split("."):
        body = next(node for node in body.body if getattr(node, "name", None) == part)
    return ast.get_source_segment(path.read_text(), body)


@pytest.mark.parametrize(("name", "scripts"), COPIES)
def test_copies_are_the_same_text(name, scripts):
    original, *others = (source_of(ROOT / f"{script}.py", name) for script in scripts.split())
    for text in others:
        assert text == original


def test_scripts_begin_and_end_alike():
    """Bad options and files are reported before Keras loads; nothing runs when one is imported."""
    start = """if __name__ == "__main__":  # report bad options and files before Keras loads
    plumbing.start()
    ARGS = parse_args()
    DATA = load(ARGS)
"""
    for path in ROOT.glob("*.py"):
        text = path.read_text()
        if "def load(args)" in text:
            assert text.count(start) == 1, path.name
            assert text.endswith('if __name__ == "__main__":\n    main(ARGS, DATA)\n'), path.name
        else:
            end = 'if __name__ == "__main__":\n    plumbing.start()\n    main(parse_args())\n'
            assert text.endswith(end), path.name


def imports(path):
    """Names of the modules that a file imports: "codec2_model", "common.search" …"""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "common":
            names |= {f"common.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_scripts_import_common_and_no_other_script():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in ROOT.glob("*.py"):
        for name in imports(path) & scripts:
            assert name in SCRIPTS_IMPORTED, path.name
            assert SCRIPTS_IMPORTED[name] is None or path.stem in SCRIPTS_IMPORTED[name], path.name


def test_common_imports_downwards_only():
    modules = {path.stem for path in (ROOT / "common").glob("[a-z]*.py")}
    assert modules <= set(COMMON)
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for module in modules:
        names = imports(ROOT / "common" / f"{module}.py")
        assert not names & scripts, module
        ours = {name.split(".")[1] for name in names if name.startswith("common.")}
        assert ours <= COMMON[module], module
