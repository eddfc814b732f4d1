"""Of the files that exactly once rests on unit tests and simulation leave
hardly a line out: tests/coverage says how much, and which."""

import os
import subprocess
import sys

import pytest

from harness import SOURCE_TREE

pytestmark = pytest.mark.level("all")


def test_hardly_a_line_is_left_out(tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", os.path.join(SOURCE_TREE, "tests", "coverage"),
         str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=1500)
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-6000:]
