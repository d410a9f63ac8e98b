"""README.md: its scripts exist and are all there, and the options in its commands are accepted."""

import re

import pytest
from conftest import ROOT, run_in

README = (ROOT / "README.md").read_text()
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "plumbing.py")


def commands():
    """(script, options) of the lines and table cells that run a script."""
    shown = re.findall(r"\./(\w+\.py)([^;`\n#]*)", README)
    return [(script, re.findall(r"--\w+", words)) for script, words in shown]


def test_every_script_has_a_row_and_every_row_a_script():
    table = README.split("## Scripts")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| (\w+\.py) \|", table, re.MULTILINE)) == SCRIPTS
    for script, command in re.findall(r"^\| (\w+\.py) .*`\./(\w+\.py)[^`]*` \|$", table, re.MULTILINE):
        assert script == command


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_are_accepted(script, tmp_path):
    used = {option for name, options in commands() if name == script for option in options}
    known = run_in(tmp_path, script, "--help").stdout
    assert used <= set(re.findall(r"--\w+", known)), f"{script}: {used}"


def test_files_and_targets_exist():
    for picture in re.findall(r"\]\((doc/[\w.]+)\)", README):
        assert (ROOT / picture).is_file(), picture
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (demo|test|results|bench|lint|clean)\b", README):
        assert f"\n{target}:" in makefile
    assert len(commands()) > 15
