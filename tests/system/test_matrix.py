"""Faults at every fault point (tests/matrix): a sample, or all of it."""

import os
import random
import subprocess
import sys

import pytest

import harness

MATRIX = os.path.join(os.path.dirname(harness.HERE), "matrix", "matrix.py")


def play(build, *options):
    """(exit code, what it said)"""
    env = dict(os.environ, WALLAROO_BUILD=build)
    env.pop("WALLAROO_PROGRAMS", None)
    done = subprocess.run([sys.executable, "-B", MATRIX, *options], env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.level("all")
def test_sample(special_build, report):
    """A kill before or after each thing, two faults of every other kind,
    two older files, four pairs."""
    seed = random.randrange(1 << 16)
    code, output = play(special_build, "--sample", "--seed", str(seed))
    assert code == 0, output[-8000:]
    report(output.splitlines()[-1])


@pytest.mark.level("all")
def test_a_point_that_is_not_reached(special_build, monkeypatch):
    """is a failure: a power loss that nothing needs to agree after."""
    monkeypatch.setenv("WALLAROO_TEST_DISCARD", "1")
    code, output = play(special_build, "--cell", "kill w1 s0 cut_ask_before")
    assert code == 1 and "not reached: cut_ask_before" in output, output


@pytest.mark.level("all")
def test_a_broken_rule_is_seen(special_build, monkeypatch):
    """The ledger objects when a source forgets what was read and not
    published."""
    monkeypatch.setenv("WALLAROO_TEST_DISCARD", "1")
    monkeypatch.setenv("WALLAROO_PLANTED", "RULE6")
    monkeypatch.setenv("WALLAROO_TEST_LIMIT", "15")
    code, output = play(special_build, "--cell",
                        "kill w1 s0 client_read_after")
    assert code == 1 and "FAILED" in output, output


@pytest.mark.level("long")
def test_stopped_for_a_minute(special_build, report):
    """A worker, or the supervisor with it, that others took for dead."""
    cells = ["%s w3 s%d %s" % (kind, seed, point)
             for kind in ("stop", "freeze") for seed in (0, 1)
             for point in ("client_read_after", "release_before",
                           "store_commit_before")]
    options = [word for cell in cells for word in ("--cell", cell)]
    code, output = play(special_build, "--stop-seconds", "60", *options)
    assert code == 0, output[-8000:]
    report(output.splitlines()[-1])


@pytest.mark.level("long")
def test_whole_matrix(special_build, report):
    state = os.path.join(os.environ.get("WALLAROO_BUILD", os.getcwd()),
                         "matrix-state.jsonl")
    code, output = play(special_build, "--state", state, "--results",
                        os.path.join(os.path.dirname(harness.HERE),
                                     "RESULTS"))
    assert code == 0, output[-20000:]
    report(output.splitlines()[-1])
