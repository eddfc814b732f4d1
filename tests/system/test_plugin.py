"""The tests of tests/python/plugin_sample.py, on real workers."""

import os
import subprocess
import sys

import pytest

import harness

PYTHON_TESTS = os.path.join(harness.SOURCE_TREE, "tests", "python")


@pytest.mark.level("all")
@pytest.mark.parametrize("workers", [1, 3])
def test_sample(workers, tmp_path):
    os.mkdir(tmp_path / "tmp")
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(
            [harness.python_package_dir(), PYTHON_TESTS]),
        PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(tmp_path / "tmp"),
        WALLAROO_PREFIX=harness.build_dir(),
        ASAN_OPTIONS=harness.sanitizer_options())
    environment.pop("WALLAROO_PYTHON_PACKAGE", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "wallaroo.pytest_plugin",
         "-p", "no:cacheprovider", "-q", "-c", os.devnull, "--rootdir",
         PYTHON_TESTS, "--basetemp", str(tmp_path / "base"),
         "--wallaroo-cluster", str(workers), "plugin_sample.py"],
        cwd=PYTHON_TESTS, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
    assert os.listdir(tmp_path / "tmp") == []
