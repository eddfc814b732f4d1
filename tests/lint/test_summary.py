"""tests/summary: a failure is never added up to a success."""

import json
import os
import subprocess
import sys

import pytest

SUMMARY = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), "summary")

TAP_GOOD = "ok 1 - a: x\nok 2 - a: y\n1..2\n"
TAP_BAD = "ok 1 - a: x\nnot ok 2 - a: y: why\n1..2\n"
TAP_CUT = "ok 1 - a: x\n"
TAP_SHORT = "ok 1 - a: x\n1..2\n"
XML_GOOD = "<testsuites><testsuite><testcase classname='c' name='n'/>" \
    "<testcase classname='c' name='s'><skipped message='m'/></testcase>" \
    "</testsuite></testsuites>"
XML_BAD = "<testsuites><testsuite><testcase classname='c' name='n'>" \
    "<failure message='m'/></testcase></testsuite></testsuites>"
XML_ERROR = XML_BAD.replace("failure", "error")
XML_NONE = "<testsuites><testsuite/></testsuites>"
XML_SKIPPED = "<testsuites><testsuite><testcase classname='c' name='s'>" \
    "<skipped message='m'/></testcase></testsuite></testsuites>"


def summary(directory, **suites):
    for name, (code, report) in suites.items():
        (directory / (name + ".status")).write_text(
            json.dumps({"exit": code}))
        if report is not None:
            kind = ".xml" if report.startswith("<") else ".tap"
            (directory / (name + kind)).write_text(report)
    done = subprocess.run([sys.executable, SUMMARY, str(directory)],
                          stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout.splitlines()


def test_adds_up(tmp_path):
    code, out = summary(tmp_path, a=(0, TAP_GOOD), b=(0, XML_GOOD))
    assert out[-1] == "3 passed, 0 failed"
    assert "skipped: c.s: m" in out
    assert code == 0


@pytest.mark.parametrize("code, report, last", [
    (1, TAP_BAD, "3 passed, 1 failed"),
    (0, TAP_BAD, "3 passed, 1 failed"),
    (0, TAP_CUT, "3 passed, 1 failed"),
    (0, TAP_SHORT, "3 passed, 1 failed"),
    (0, "", "2 passed, 1 failed"),
    (1, TAP_GOOD, "4 passed, 1 failed"),
    (99, XML_GOOD, "3 passed, 1 failed"),
    (-11, TAP_GOOD, "4 passed, 1 failed"),
    (None, XML_GOOD, "3 passed, 1 failed"),
    (1, XML_BAD, "2 passed, 1 failed"),
    (0, XML_ERROR, "2 passed, 1 failed"),
    (5, XML_NONE, "2 passed, 1 failed"),
    (0, XML_NONE, "2 passed, 1 failed"),
    (0, XML_SKIPPED, "2 passed, 1 failed"),
    (0, "<testsuites>", "2 passed, 1 failed"),
    (0, None, "2 passed, 1 failed"),
])
def test_failure(tmp_path, code, report, last):
    result, out = summary(tmp_path, a=(0, TAP_GOOD), b=(code, report))
    assert out[-1] == last
    assert result == 1
    assert any(line.startswith("failed: ") for line in out)


def test_left_behind(tmp_path):
    (tmp_path / "a-left.status").write_text(
        json.dumps({"exit": 0, "left": ["process x", "file y"]}))
    code, out = summary(tmp_path, a=(0, TAP_GOOD))
    assert out[-1] == "2 passed, 2 failed"
    assert "failed: a-left: process x" in out
    assert code == 1


def test_nothing_at_all(tmp_path):
    assert summary(tmp_path) == (1, ["0 passed, 0 failed"])
