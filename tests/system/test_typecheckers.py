"""What tests/python shows to Debian's mypy, to pyright and to today's mypy.

That needs the package index.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

import harness

TYPED = os.path.join(harness.SOURCE_TREE, "tests", "python", "typed")


EXAMPLES = os.path.join(harness.SOURCE_TREE, "examples")


@pytest.fixture
def venv(tmp_path):
    directory = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([directory / "bin" / "pip", "install", "-q",
                    "pyright[nodejs]", "mypy", "pytest"], check=True)
    return directory


@pytest.mark.level("long")
def test_mypy(venv, tmp_path):
    """The examples have no types, and are no reason for complaints."""
    for options, path in ((["--strict"], harness.python_package_dir()),
                          (["--strict"], os.path.join(TYPED, "right")),
                          (["--check-untyped-defs"], EXAMPLES)):
        files = [os.path.join(base, name)
                 for base, _, names in os.walk(path) for name in names
                 if name.endswith(".py") and not name.startswith("test_")]
        out = subprocess.run(
            [venv / "bin" / "mypy", *options, "--cache-dir",
             tmp_path / "cache", *files], stdout=subprocess.PIPE, text=True,
            env=dict(os.environ, MYPYPATH=harness.python_package_dir()))
        assert out.returncode == 0, out.stdout


@pytest.mark.level("long")
def test_pyright(venv, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(harness.python_package_dir(), project)
    shutil.copytree(TYPED, project / "typed")

    def errors(*paths):
        out = subprocess.run(
            [venv / "bin" / "pyright", "--outputjson", *paths], cwd=project,
            stdout=subprocess.PIPE).stdout
        return {(os.path.relpath(found["file"], project),
                 found["range"]["start"]["line"] + 1, found["message"])
                for found in json.loads(out)["generalDiagnostics"]
                if found["severity"] == "error"}

    assert errors() == set()
    assert errors("typed/right") == set()
    found = {(path, line) for path, line, _ in errors("typed/wrong")}
    wrong = set()
    for name in os.listdir(project / "typed" / "wrong"):
        path = os.path.join("typed", "wrong", name)
        with open(project / path) as file:
            wrong |= {(path, number) for number, line in enumerate(file, 1)
                      if "# wrong" in line}
    assert found == wrong
