"""The pages of doc/: Sphinx has nothing to complain of, and what they show
is what comes out."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import snippets
import test_docs
from test_docs import SOURCE, needs_build, read
from harness import LEVEL, build_dir, python_package_dir

DOC = os.path.join(SOURCE, "doc")
PAGES = sorted(name for name in os.listdir(DOC) if name.endswith(".rst"))
# Of the others each is run by "make check-all".
SAMPLE = ["pipelines.rst"]


@needs_build
@pytest.mark.parametrize(
    "name", SAMPLE if LEVEL == "check" else PAGES)
def test_snippets(name, tmp_path):
    os.chmod(tmp_path, 0o755)
    directory = tmp_path / "page"
    directory.mkdir()
    snippets.run(os.path.join(DOC, name), str(directory),
                 snippets.environment(
                     str(tmp_path), python_package_dir(), build_dir()))
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None,
                    reason="no Sphinx (Debian package python3-sphinx)")
def test_no_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", "-m", "sphinx", "-q", "-W", "--keep-going",
         "-b", "html", "-d", str(tmp_path / "doctrees"), DOC,
         str(tmp_path / "html")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=300)
    assert done.returncode == 0 and done.stdout == "", done.stdout
    made = os.listdir(tmp_path / "html")
    assert {name[:-4] + ".html" for name in PAGES} <= set(made)
    # Nothing is fetched from elsewhere.
    for name in PAGES:
        text = (tmp_path / "html" / (name[:-4] + ".html")).read_text()
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), name


@pytest.mark.parametrize("name", PAGES)
def test_manual_pages_exist(name):
    for stem, section in re.findall(
            r":manpage:`([\w.-]+)\((\d)\)`", read("doc", name)):
        assert "%s.%s" % (stem, section) in test_docs.PAGES, stem


def test_examples_are_listed():
    listed = re.findall(r"^``(\w+)``$", read("doc", "examples.rst"), re.M)
    assert sorted(listed) == sorted(os.listdir(
        os.path.join(SOURCE, "examples")))


# -- the runner finds what it is for ------------------------------------------

CONSOLE = ".. code-block:: console\n\n   "
FILE = ".. code-block:: text\n   :caption: f\n\n   "


@pytest.mark.parametrize("text", [
    CONSOLE + "$ echo a\n   a\n",
    CONSOLE + "$ echo a; echo b\n   a\n   b\n\n   $ echo c\n   c\n\nText.\n",
    CONSOLE + "$ echo a \\\n       b\n   a b\n",
    CONSOLE + "$ true\n",
    FILE + "one\n\n" + CONSOLE + "$ cat f\n   one\n",
    CONSOLE + "$ echo took 3 s\n   took ... s\n",
])
def test_right(text, tmp_path):
    assert run_text(text, tmp_path) == text.count("::")


@pytest.mark.parametrize("text", [
    CONSOLE + "$ echo a\n   b\n",
    CONSOLE + "$ echo a\n",
    CONSOLE + "$ true\n   a\n",
    CONSOLE + "$ echo a; echo b\n   a ...\n",
    CONSOLE + "$ echo a\n   a\n   $ echo b\n   c\n",
    CONSOLE + "a\n   $ echo a\n   a\n",
    FILE + "one\n\n" + CONSOLE + "$ cat f\n   two\n",
    FILE.replace("f\n", "../f\n") + "one\n",
    FILE.replace("text", "console") + "one\n",
    ".. code-block:: python\n\n   never.run()\n",
    "Never run::\n\n   nothing\n",
    "  >>> 1 + 1\n  3\n",
])
def test_wrong(text, tmp_path):
    with pytest.raises(snippets.Wrong):
        run_text(text, tmp_path)


def run_text(text, tmp_path):
    page = tmp_path / "page.rst"
    page.write_text(text)
    return snippets.run(str(page), str(tmp_path), dict(os.environ))
