"""Every interpreter from 3.9 to 3.13 that this machine has."""

import glob
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import HERE

MINORS = range(9, 14)


def version(path):
    """(3, minor) of an interpreter that works, else None."""
    try:
        out = subprocess.run(
            [path, "-c", "import sys; print(sys.version_info[:2])"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    numbers = re.findall(r"\d+", out.stdout)
    return tuple(map(int, numbers)) if out.returncode == 0 else None


def interpreters():
    paths = [sys.executable]
    for minor in MINORS:
        name = "python3.%d" % minor
        paths.append(shutil.which(name) or "")
        paths += glob.glob(
            os.path.expanduser("~/.pyenv/versions/*/bin/" + name))
    found = {}
    for path in filter(None, paths):
        v = version(path)
        if v and v[0] == 3 and v[1] in MINORS:
            found.setdefault(v, path)
    return found


FOUND = interpreters()


def test_there_is_at_least_this_one():
    assert sys.version_info[:2] in FOUND


@pytest.mark.parametrize(
    "path", FOUND.values(), ids=["%d.%d" % v for v in FOUND])
def test_interpreter(path, environment):
    out = subprocess.run(
        [path, "-W", "error", os.path.join(HERE, "self_check.py")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60,
    )
    assert (out.returncode, out.stdout) == (0, "ok\n")
