"""The package and a typed application, as a strict type checker sees them."""

import os
import re
import subprocess
import sys

import pytest

from conftest import EXAMPLES, HERE, PACKAGE

WRONG = [
    "valid(3)",
    "wallaroo.computation(name=3)",
    "wallaroo.state_computation(version='1')",
    "wallaroo.FileSourceConfig('a')",
    "wallaroo.TCPSourceConfig('n', 'h')",
    "wallaroo.TCPSinkConfig('h', None, encode)",
]


def mypy(tmp_path, environment, *paths):
    """With what it has learned of the package in another test."""
    pytest.importorskip("mypy")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir",
         str(tmp_path.parent / "mypy-cache"), *paths],
        env=dict(environment, MYPYPATH=environment["PYTHONPATH"]),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def test_the_sample_runs(capsys):
    import typed_sample

    typed_sample.check()
    assert "b'1\\n'" in capsys.readouterr().out


def test_package_and_sample(tmp_path, environment):
    out = mypy(
        tmp_path, environment, os.path.join(PACKAGE, "wallaroo"),
        os.path.join(HERE, "typed_sample.py"))
    assert out.returncode == 0, out.stdout


def test_what_is_right(tmp_path, environment):
    out = mypy(tmp_path, environment, os.path.join(HERE, "typed", "right"))
    assert out.returncode == 0, out.stdout


def test_examples(tmp_path, environment):
    paths = [
        os.path.join(EXAMPLES, name, name + ".py")
        for name in sorted(os.listdir(EXAMPLES))]
    programs = os.path.join(EXAMPLES, "connectors", "python")
    paths += [os.path.join(programs, name)
              for name in sorted(os.listdir(programs))
              if name.endswith(".py")]
    assert len(paths) >= 10
    out = mypy(tmp_path, environment, *paths)
    assert out.returncode == 0, out.stdout


@pytest.mark.parametrize("name", os.listdir(
    os.path.join(HERE, "typed", "wrong")))
def test_mistakes_are_seen(tmp_path, environment, name):
    """Each line with the comment "wrong", and no other."""
    path = os.path.join(HERE, "typed", "wrong", name)
    with open(path) as file:
        wrong = {number for number, line in enumerate(file, 1)
                 if "# wrong" in line}
    out = mypy(tmp_path, environment, path).stdout
    found = set(map(int, re.findall(r"%s:(\d+): error" % name, out)))
    assert found == wrong and wrong, out


def test_more_mistakes_are_seen(tmp_path, environment):
    source = tmp_path / "wrong.py"
    lines = ["import wallaroo", "from typed_sample import encode, valid"]
    source.write_text("\n".join(lines + WRONG) + "\n")
    out = mypy(tmp_path, environment, str(source)).stdout
    for number, line in enumerate(WRONG, len(lines) + 1):
        assert "wrong.py:%d: error" % number in out, (line, out)
