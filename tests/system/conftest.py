"""Levels, and the fixtures that every system test uses.

WALLAROO_LEVEL says how much is run: check (a sample, under a minute), all
(what `make check-all` runs) or long (soaks).  A test says its level with
@pytest.mark.level("all"); without one it belongs to check.
"""

import os
import random

import pytest

import harness
import specialbuild
from harness import LEVEL, LEVELS

if LEVEL not in LEVELS:
    raise pytest.UsageError("WALLAROO_LEVEL must be one of %s, not %r"
                            % (", ".join(LEVELS), LEVEL))
left_out = {}
reported = []


class Lanes:
    """With several processes that run tests, each tells the first one."""

    @staticmethod
    def pytest_testnodedown(node, error):
        if not error:
            left_out.update(node.workeroutput["left_out"])

    @staticmethod
    def pytest_sessionfinish(session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = left_out


def level_of(item):
    mark = item.get_closest_marker("level")
    return mark.args[0] if mark else "check"


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "level(name): check, all or long; see conftest.py")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(Lanes())
    harness.raise_file_limit()


def pytest_collection_modifyitems(config, items):
    here = os.path.dirname(os.path.abspath(__file__))
    keep, out = [], []
    for item in items:
        level = level_of(item)
        assert level in LEVELS, item.nodeid
        mine = str(item.fspath).startswith(here)
        if mine and LEVELS.index(level) > LEVELS.index(LEVEL):
            left_out[level] = left_out.get(level, 0) + 1
            out.append(item)
        else:
            keep.append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = keep


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        reported.extend(
            "%s: %s" % (report.nodeid.rsplit("::", 1)[-1], text)
            for name, text in report.user_properties if name == "measured")


def pytest_terminal_summary(terminalreporter):
    more = ", ".join("%d more with WALLAROO_LEVEL=%s" % (
        left_out[level], level) for level in LEVELS if level in left_out)
    for line in reported:
        terminalreporter.write_line("measured: " + line)
    terminalreporter.write_line("system tests: level %s%s" % (
        LEVEL, "; " + more if more else ""))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.test_failed = True


@pytest.fixture
def level():
    return LEVEL


@pytest.fixture
def report(request):
    """Say a measured figure in the summary: report("30 kills")."""
    def say(text):
        # tests/run reads it there, too
        request.node.user_properties.append(("measured", text))
    return say


@pytest.fixture
def opened(request):
    """Register what must be closed when the test ends: opened(thing)."""
    things = []

    def add(thing):
        things.append(thing)
        return thing
    yield add
    failed = getattr(request.node, "test_failed", False)
    reports = []
    for thing in reversed(things):
        if isinstance(thing, harness.Cluster):
            reports += thing.reports()
            thing.close(failed=failed or bool(reports))
        else:
            thing.close()
    assert not reports, reports


@pytest.fixture
def cluster(opened):
    """Make a cluster that is cleaned up: cluster(source, workers=2)."""
    def make(source, **more):
        return opened(harness.Cluster(source, **more))
    return make


@pytest.fixture
def receiver(opened):
    def make(**more):
        return opened(harness.Receiver(**more))
    return make


@pytest.fixture
def feeder(opened):
    def make(port, **more):
        return opened(harness.Feeder(port, **more))
    return make


@pytest.fixture(scope="session")
def special_build():
    """A build directory configured with the options that only tests use;
    taken from WALLAROO_SPECIAL_BUILD, or made."""
    with specialbuild.given_or_made() as build:
        yield build


@pytest.fixture
def rng():
    """Random numbers whose seed is printed with a failure."""
    seed = int(os.environ.get("WALLAROO_SEED", random.randrange(1 << 32)))
    print("WALLAROO_SEED=%d" % seed)
    return random.Random(seed)
