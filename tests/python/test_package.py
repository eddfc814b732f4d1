"""The distribution: what gets installed, and under which names."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import PACKAGE, ROOT


def text(*path):
    with open(os.path.join(*path)) as file:
        return file.read()


def test_version_is_that_of_the_whole():
    configure = os.path.join(ROOT, "configure.ac")
    if not os.path.exists(configure):
        pytest.skip("there is no configure.ac here")
    whole = re.search(
        r"AC_INIT\(\[[^]]*\],\s*\[([^]]*)\]", text(configure)).group(1)
    ours = re.search(
        '^version = "(.*)"$', text(PACKAGE, "pyproject.toml"), re.M).group(1)
    assert ours == whole


def test_wheel(tmp_path):
    tools = (
        "import setuptools, pip; n = setuptools.__version__.split('.')[0]\n"
        "assert int(n) >= 61\n"
        "if int(n) < 71: import wheel"
    )
    if subprocess.run(
        [sys.executable, "-c", tools], stderr=subprocess.DEVNULL
    ).returncode != 0:
        pytest.skip("needs pip, setuptools from 61 on, and wheel")
    source = tmp_path / "py"
    shutil.copytree(
        PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    for directory in (source, source / "wallaroo",
                      source / "wallaroo" / "tools"):  # may be read-only
        directory.chmod(0o755)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
         "--no-index", "--no-build-isolation", "--disable-pip-version-check",
         "--wheel-dir", str(tmp_path), str(source)],
        check=True, cwd=tmp_path,
    )
    [wheel] = [p for p in os.listdir(tmp_path) if p.endswith(".whl")]
    assert re.fullmatch(r"wallaroo_streams-[\d.]+-py3-none-any\.whl", wheel)
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read([
            n for n in names if n.endswith("METADATA")][0]).decode()
    ours = {
        os.path.relpath(os.path.join(where, name), PACKAGE)
        for where, _, names in os.walk(os.path.join(PACKAGE, "wallaroo"))
        for name in names if not where.endswith("__pycache__")
    }
    assert {n for n in names if n.startswith("wallaroo/")} == ours
    assert "wallaroo/py.typed" in names
    assert "Name: wallaroo-streams" in metadata
    assert "Requires-Python: >=3.9" in metadata
    assert "Requires-Dist" not in metadata
