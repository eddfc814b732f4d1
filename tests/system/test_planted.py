"""A test that cannot fail is a defect: each rule that recovery rests on can
be broken in a build made for this, and then a test must object."""

import os
import subprocess
import sys

import pytest

from harness import LEVEL

pytestmark = pytest.mark.level("all")

KILLS = "test_kill.py::test_random_kills"
SETTINGS = "test_kill.py::test_kills_with_other_settings"
PRESSURE = "test_pressure.py::test_pressure_between_workers"
POWER = "test_power_loss.py::test_live_streams"
OWNERS = "test_supervisor_kill.py::test_workers_end_with_their_supervisor"
# rule: (what is broken, tests of which one must fail, how often to try)
RULES = {
    "RULE1": ("outboxes are not cut at the one release word",
              [KILLS, SETTINGS], 4),
    "RULE2": ("what a channel brings again is not known by its position",
              [KILLS], 2),
    "RULE3": ("a replay drops outputs up to the wrong position",
              [KILLS], 2),
    "RULE4": ("acknowledged before it is safe", [KILLS], 4),
    "RULE5": ("the journal is freed before the checkpoint is there",
              [SETTINGS], 4),
    "RULE6": ("a source forgets what was read and not yet published",
              [KILLS, SETTINGS], 4),
    "RULE7": ("processing waits for an outbox", [PRESSURE], 2),
    "RULE8": ("a checkpoint without the undecoded remainders",
              [SETTINGS, KILLS], 3),
    "RULE9": ("two owners at once", [OWNERS], 2),
    "STABLE3": ("what is synced here leaves, what it came from may be lost",
                [POWER], 4),
    "STABLE4": ("acknowledged before it is synced", [POWER], 4),
    "STABLE5": ("a checkpoint commits before what it came from is synced",
                [POWER], 4),
}
# Power has to fail often until these are seen; the simulation, in which it
# does, finds them each time (tests/sim/test_planted.py).
LONG = ("STABLE3", "STABLE4", "STABLE5")


def run_tests(build, tests, rule=None):
    """(exit code of pytest, its output)"""
    env = dict(os.environ, WALLAROO_BUILD=build, WALLAROO_LEVEL="all",
               WALLAROO_TEST_SECONDS="6", WALLAROO_TEST_LIMIT="20")
    env.pop("WALLAROO_SEED", None)
    env.pop("WALLAROO_PROGRAMS", None)
    if rule:
        env["WALLAROO_PLANTED"] = rule
        env["WALLAROO_TEST_LOSSES"] = "10"
        env["WALLAROO_TEST_DISCARD"] = "1"
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p",
         "no:cacheprovider", *tests],
        cwd=os.path.dirname(os.path.abspath(__file__)), env=env,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def test_nothing_planted(special_build):
    """The build by itself is sound: its failures below are the rules'."""
    tests = sorted({test for rule in RULES if LEVEL == "long" or
                    rule not in LONG for test in RULES[rule][1]})
    code, output = run_tests(special_build, tests)
    assert code == 0, output[-6000:]


@pytest.mark.parametrize("rule", [
    pytest.param(rule, marks=pytest.mark.level("long"))
    if rule in LONG else rule for rule in sorted(RULES)])
def test_broken_rule_is_seen(special_build, rule, report):
    what, tests, tries = RULES[rule]
    for attempt in range(1, tries + 1):
        code, output = run_tests(special_build, tests, rule)
        assert code in (0, 1), output[-6000:]
        if code == 1:
            reason = [line for line in output.splitlines()
                      if line.startswith("E  ")]
            report("%s, %s: seen in run %d: %s" % (
                rule, what, attempt,
                reason[0][1:].strip()[:100] if reason else "?"))
            return
    pytest.fail("%s: %s, and no test objects" % (rule, what))
