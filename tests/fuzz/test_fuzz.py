"""Fuzzing until nothing new comes; in check-long only.

A run that was interrupted goes on where it was: tests/fuzz/run keeps count
in the build directory.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "fuzz.h")) as file:
    TARGETS = re.findall(r"^\tT\((\w+)\)", file.read(), re.M)


@pytest.mark.parametrize("target", TARGETS)
def test_until_quiet(target):
    if shutil.which(os.environ.get("WALLAROO_FUZZ_CC") or "clang-14") is None:
        pytest.skip("the Debian packages clang-14 and libclang-rt-14-dev are "
                    "not installed")
    out = subprocess.run(
        [sys.executable, "-B", os.path.join(HERE, "run"), "--seconds",
         "quiet", target], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    assert out.returncode == 0, out.stdout
