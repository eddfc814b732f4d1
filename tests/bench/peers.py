"""The other stream processors, from the Python Package Index into a virtual
environment of the build directory."""

import os
import shutil
import subprocess
import sys

import sut
from sut import NotRun

# program: what pip installs
PACKAGES = {"bytewax": "bytewax==0.21.1", "pathway": "pathway==0.33.0"}
# program: work: ways of doing it
WAYS = {
    "bytewax": {kind: ("default", "tuned", "recovery", "two processes")
                for kind in ("words", "counter")},
    "pathway": {"words": ("native", "python"), "counter": ("python",)},
}
PIP_LIMIT = 900


def install(directory, package):
    python = os.path.join(directory, "bin", "python")
    for command in ([sys.executable, "-m", "venv", directory],
                    [python, "-m", "pip", "install", "-q",
                     "--disable-pip-version-check", package]):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True,
                                  timeout=PIP_LIMIT)
        except subprocess.TimeoutExpired:
            raise NotRun("pip did not end in %d s" % PIP_LIMIT) from None
        if done.returncode != 0:
            lines = done.stdout.strip().splitlines() or ["?"]
            raise NotRun("not installed: %s" % lines[-1])


def python(bench, program):
    """The interpreter that has a peer, installed when there is none."""
    directory = os.path.join(bench.peers, program)
    done = os.path.join(directory, "installed")
    if not os.path.exists(done):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(bench.peers, exist_ok=True)
        try:
            install(directory, PACKAGES[program])
        except NotRun:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        with open(done, "w"):
            pass
    return os.path.join(directory, "bin", "python")


def run(bench, python, program, kind, way, source):
    """(seconds, CPU seconds)"""
    directory = bench.path("peer")
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory)
    return sut.run_python(
        sut.here("peer_%s.py" % program), kind, way, source,
        os.path.join(directory, "output"), directory, python=python)
