"""The applications of examples/ that come with data: what they give is what
is expected, in one plain process and on two workers.

The file "expected" beside an application is its standard output, and
"expected-NAME" what it writes to the file NAME; its arguments are those of
its cluster.conf.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

import harness

ALL = pytest.mark.level("all")
EXAMPLES = os.path.join(harness.SOURCE_TREE, "examples")
NAMES = sorted(name for name in os.listdir(EXAMPLES) if os.path.exists(
    os.path.join(EXAMPLES, name, "expected")))
SAMPLE = "trending_words"


def read(path):
    with open(path) as file:
        return file.read()


def arguments(directory):
    """The application's, as its configuration has them."""
    conf = read(os.path.join(directory, "cluster.conf"))
    return re.findall('"([^"]*)"', re.search("args = {(.*?)}", conf).group(1))


def run(name, tmp_path, options):
    """In a copy of its directory; what it prints, by file where to."""
    directory = shutil.copytree(
        os.path.join(EXAMPLES, name), os.path.join(tmp_path, name))
    os.chmod(tmp_path, 0o755)
    temporary = os.path.join(tmp_path, "tmp")
    os.mkdir(temporary)
    env = dict(
        os.environ, PYTHONPATH=harness.python_package_dir(),
        PYTHONDONTWRITEBYTECODE="1", TMPDIR=temporary,
        WALLAROO_PREFIX=harness.build_dir(),
        ASAN_OPTIONS=harness.sanitizer_options())
    env.pop("WALLAROO_PYTHON_PACKAGE", None)
    done = subprocess.run(
        [sys.executable, "-m", "wallaroo", "run", *options, name + ".py",
         *arguments(directory)],
        cwd=directory, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=harness.LIMIT)
    assert done.returncode == 0, done.stderr
    assert os.listdir(temporary) == []
    found = {"expected": done.stdout}
    for file in os.listdir(directory):
        if file.startswith("expected-"):
            found[file] = read(os.path.join(directory, file[9:]))
    return {file: text.splitlines() for file, text in found.items()}


def expected(name):
    directory = os.path.join(EXAMPLES, name)
    return {file: read(os.path.join(directory, file)).splitlines()
            for file in os.listdir(directory) if file.startswith("expected")}


def test_there_are_some():
    assert SAMPLE in NAMES and len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_in_one_process(name, tmp_path):
    assert run(name, tmp_path, []) == expected(name)


@pytest.mark.parametrize("name", [
    name if name == SAMPLE else pytest.param(name, marks=ALL)
    for name in NAMES])
def test_on_workers(name, tmp_path):
    """The same lines; those of different keys come in any order."""
    found, right = run(name, tmp_path, ["--workers", "2"]), expected(name)
    assert {file: sorted(lines) for file, lines in found.items()} == {
        file: sorted(lines) for file, lines in right.items()}
