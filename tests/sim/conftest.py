"""WALLAROO_LEVEL says how much is run, as in tests/system: check, all or
long."""

import os

import pytest

LEVELS = ("check", "all", "long")
LEVEL = os.environ.get("WALLAROO_LEVEL", "check")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "level(name): check, all or long; see conftest.py")


def pytest_collection_modifyitems(config, items):
    here = os.path.dirname(os.path.abspath(__file__))
    keep, out = [], []
    for item in items:
        mark = item.get_closest_marker("level")
        level = mark.args[0] if mark else "check"
        assert level in LEVELS, item.nodeid
        mine = str(item.fspath).startswith(here)
        if mine and LEVELS.index(level) > LEVELS.index(LEVEL):
            out.append(item)
        else:
            keep.append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = keep


@pytest.fixture(scope="session")
def sim():
    """The simulation's program."""
    build = os.environ.get("WALLAROO_BUILD") or os.path.dirname(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = os.path.join(build, "tests", "sim", "sim")
    assert os.path.exists(program), "make check builds " + program
    return program
