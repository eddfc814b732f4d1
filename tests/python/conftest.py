"""Find the package in the source tree, also without PYTHONPATH."""

import os
import sys

import pytest

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
PACKAGE = os.path.join(ROOT, "py")
EXAMPLES = os.path.join(ROOT, "examples")
HERE = os.path.dirname(os.path.realpath(__file__))

sys.path.insert(0, PACKAGE)
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True


@pytest.fixture
def environment(tmp_path_factory):
    """The environment of child processes that import the package."""
    return dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([PACKAGE, HERE]),
        PYTHONDONTWRITEBYTECODE="1",
        TMPDIR=str(tmp_path_factory.mktemp("children")),
    )
