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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, as it is made of the tree."""
    tmp_path = tmp_path_factory.mktemp("wheel")
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
    pip("wheel", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    [name] = [p for p in os.listdir(tmp_path) if p.endswith(".whl")]
    return tmp_path / name


def pip(command, *args):
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", *map(str, args)],
        check=True, cwd="/",
    )


def test_wheel(wheel):
    assert re.fullmatch(
        r"wallaroo_streams-[\d.]+-py3-none-any\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
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


def test_console_scripts(wheel, tmp_path):
    """Installed, each tool of the build is a program of pip's."""
    pip("install", "--target", tmp_path, wheel)
    scripts = {
        "cluster_shrinker": "cluster_shrinker", "machida3": "machida3",
        "cluster_shutdown": "cluster_shutdown", "sender": "sender",
        "external_sender": "external_sender",
        "data_receiver": "data_receiver", "machida3-resilience": "machida3",
    }
    assert set(os.listdir(tmp_path / "bin")) == set(scripts)
    for script, program in scripts.items():
        out = subprocess.run(
            [str(tmp_path / "bin" / script), "--help"], check=True,
            stdout=subprocess.PIPE, text=True, cwd="/",
            env=dict(os.environ, PYTHONPATH=str(tmp_path),
                     PYTHONDONTWRITEBYTECODE="1"),
        ).stdout
        assert out.startswith("usage: %s " % program)
