"""What tests with a real Kafka share: the system tests' fixtures, and a
broker for all tests that do not harm it."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(TESTS, "system"),
                os.path.join(TESTS, "matrix")]

import harness
import specialbuild


@pytest.fixture(scope="session")
def broker():
    from kafka import Cluster
    with Cluster() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def special_build():
    """Programs with fault points; those of WALLAROO_SPECIAL_BUILD, or made
    for this run."""
    with specialbuild.given_or_made() as build:
        yield build


@pytest.fixture
def cluster(request):
    """Make a cluster that is cleaned up: cluster(source, workers=2)."""
    made = []

    def make(source, **more):
        made.append(harness.Cluster(source, **more))
        return made[-1]
    yield make
    report = getattr(request.node, "report", None)
    for one in reversed(made):
        one.close(failed=report is None or report.failed)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.report = outcome.get_result()
