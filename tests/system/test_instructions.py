"""The runtime's own instructions per event do not grow unnoticed."""

import os
import shutil
import sys

import pytest

import harness

sys.path.insert(0, os.path.join(harness.SOURCE_TREE, "tests", "bench"))
import instructions		# noqa: E402

GROWTH = 1.02


def comparable():
    """The kept figures, where this build can be held against them."""
    built, kept = instructions.read_kept()
    assert set(kept) == set(instructions.WORKLOADS)
    for tool in ("valgrind", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip("%s is not installed" % tool)
    now = instructions.built_by(harness.program("wallaroo-worker"))
    if now != built:
        pytest.skip("the kept figures are of a worker built by %s, this one "
                    "is by %s" % (built, now))
    return kept


@pytest.mark.level("all")
def test_own_instructions_per_event(report):
    kept = comparable()
    counted = instructions.count_all(valgrind=shutil.which("valgrind"))
    more = []
    for name, counts in counted.items():
        ours, _, _ = instructions.per_event(counts, instructions.EVENTS)
        report("%s: %.1f instructions, %.1f are kept" % (
            name, ours, kept[name]))
        if ours > kept[name] * GROWTH:
            more.append("%s: %.1f instead of %.1f" % (
                name, ours, kept[name]))
    assert not more, (
        "more instructions of our own per event than tests/bench/INSTRUCTIONS"
        " says: %s; if that must be, tests/bench/instructions.py --update "
        "writes the file, in the same commit" % ", ".join(more))
