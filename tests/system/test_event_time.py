"""Event time and the end of sources on the runtime, under kills.

What comes out must be what the reference executor gives, with any number of
workers, at any speed, whoever dies.
"""

import time
import types

import pytest

import harness
import killer
import wallaroo.testing

# Windows that no message fills and no time ends, before and behind a step
# that says nothing until its end.
FINITE = '''
import time
import types

import wallaroo
from wallaroo.codecs import lines_decoder


@wallaroo.key_extractor
def by_word(line):
    return line


@wallaroo.key_extractor
def by_letter(pair):
    return pair[0][0]


class Count(wallaroo.Aggregation):
    def initial_accumulator(self):
        return [0]

    def update(self, line, accumulator):
        time.sleep(SLEEP)
        accumulator[0] += 1

    def combine(self, a, b):
        return [a[0] + b[0]]

    def output(self, key, accumulator):
        return (key, accumulator[0]) if accumulator[0] else None


class Total(Count):
    def update(self, pair, accumulator):
        accumulator[0] += pair[1]


class Sum:
    def __init__(self):
        self.n = 0


def whole(key, state):
    time.sleep(SLEEP)
    return (key, state.n)


@wallaroo.state_computation("Sum", state=Sum, on_end=whole)
def add(pair, state):
    state.n += pair[1]


@wallaroo.encoder
def encode(pair):
    return "%s %d\\n" % pair


def application_setup(args):
    return wallaroo.build_application("finite", (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", args[1], lines_decoder))
        .key_by(by_word)
        .to(wallaroo.count_windows(1 << 40).with_timeout(None).over(Count))
        .key_by(by_letter)
        .to(add)
        .to(wallaroo.range_windows(wallaroo.hours(5)).over(Total))
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all")),
    pytest.param(3, marks=pytest.mark.level("all"))])
def test_all_comes_out_when_the_source_has_ended(cluster, rng, workers):
    app = cluster(FINITE.replace("SLEEP", "0.0005"), workers=workers)
    words = [rng.choice("ab") + str(rng.randrange(30)) for _ in range(1500)]
    source = app.write("input", "\n".join(words) + "\n")
    app.write_conf(args=[source, app.out("output")])
    expected = sorted(reference_lines(words))
    app.start()
    killing = killer.Killer(app, rng.random())
    for _ in range(4):
        time.sleep(rng.random() * 0.3)
        killing.kill_random(rng.randrange(1, workers + 1))
    harness.wait_for(lambda: app.read_out("output").count(b"\n") >=
                     len(expected), "the whole output")
    app.wait_workers()
    app.stop()
    assert sorted(app.read_out("output").splitlines()) == expected


def reference_lines(words):
    return {("%s %d" % (letter, sum(word[0] == letter for word in words)))
            .encode() for letter in "ab"}


# Readings of sensors in two files that are read at different speeds, in
# windows whose outputs tell the order in which they were applied; these in
# sliding windows under other keys.
READINGS = '''
import time
import types

import wallaroo
from wallaroo.codecs import lines_decoder


@wallaroo.computation_multi("parse")
def parse(line):
    time.sleep(SLEEP if line.startswith("slow") else 0)
    name, at, sensors = line.split(" ")
    return [(name, int(at), sensor) for sensor in sensors.split(",")]


def time_of(reading):
    return reading[1]


@wallaroo.key_extractor
def by_sensor(reading):
    return reading[2]


@wallaroo.key_extractor
def by_letter(row):
    return row[0][0]


class Seen(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, reading, accumulator):
        accumulator.append("%s%d" % reading[:2])

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return (key, ".".join(accumulator))


class All(Seen):
    def update(self, row, accumulator):
        accumulator.append("%s=%s" % row)


@wallaroo.encoder
def encode(row):
    return "%s %s\\n" % row


@wallaroo.encoder
def encode_late(reading):
    return "%s %d %s\\n" % reading


def readings(name, path):
    return (wallaroo.source(name, wallaroo.FileSourceConfig(
                name, path, lines_decoder))
            .to(parse).event_time(time_of, lateness=30))


def application_setup(args):
    return wallaroo.build_application("readings", (
        readings("slow", args[1]).merge(readings("fast", args[2]))
        .key_by(by_sensor)
        .to(wallaroo.WINDOWS
            .LATE.over(Seen))
        .key_by(by_letter)
        .to(wallaroo.BEHIND.over(All))
        .to_sink(wallaroo.FileSinkConfig(args[3], encode))))
'''


def lines_of_readings(rng, name, count):
    """Times that go on by 2 for each line, and up to 60 back."""
    return ["%s %d %s" % (
        name, max(0, 2 * n - rng.choice((0, 5, 20, 60))),
        ",".join(rng.choice("ab") + str(rng.randrange(8))
                 for _ in range(rng.randrange(1, 4))))
        for n in range(count)]


def by_key(lines):
    """Lines by their first word, in order."""
    found = {}
    for line in lines:
        found.setdefault(line.split(b" ")[0], []).append(line)
    return found


def reference(source, args, inputs):
    """By key what the reference executor makes of an application; what was
    late, and what of it is in a file."""
    module = types.ModuleType("reference")
    exec(source, module.__dict__)
    result = wallaroo.testing.run(
        module.application_setup(["app"] + args), inputs)
    lines = result.outputs[args[2]]
    late_lines = [line.rstrip(b"\n") for path in args[3:]
                  for line in result.outputs.get(path, ())]
    return (by_key(line.rstrip(b"\n") for line in lines), result.late,
            sorted(late_lines))


@pytest.mark.parametrize("workers,policy", [
    (2, "drop"),
    pytest.param(1, "drop", marks=pytest.mark.level("all")),
    pytest.param(3, "fire-per-message", marks=pytest.mark.level("all")),
    pytest.param(5, "to a sink", marks=pytest.mark.level("all"))])
def test_windows_are_the_references_at_any_speed(cluster, rng, workers,
                                                 policy, report):
    """Each key's outputs, in order, with kills."""
    check_readings(cluster, rng, workers, policy, report, READINGS
                   .replace("WINDOWS", "range_windows(100)" + (
                       ".with_early_firings(30)" if workers == 5 else ""))
                   .replace("BEHIND",
                            "range_windows(400).with_slide(100)"))


@pytest.mark.parametrize("workers,policy", [
    (2, "to a sink"),
    pytest.param(1, "fire-per-message", marks=pytest.mark.level("all")),
    pytest.param(3, "to a sink", marks=pytest.mark.level("all"))])
def test_sessions_are_the_references_at_any_speed(cluster, rng, workers,
                                                  policy, report):
    """With sessions of other keys behind that also fire early, and kills."""
    check_readings(cluster, rng, workers, policy, report, READINGS
                   .replace("WINDOWS", "session_windows(20)")
                   .replace("BEHIND", "session_windows(12)"
                            ".with_early_firings(5).LATE"))


def check_readings(cluster, rng, workers, policy, report, source):
    source = source.replace(
        "LATE", "with_late_to(wallaroo.FileSinkConfig(args[4], encode_late))"
        if policy == "to a sink" else "with_late_data_policy(%r)" % policy, 1)
    source = source.replace(
        "LATE", "with_late_data_policy(%r)" % policy.replace(
            "to a sink", "drop"))
    app = cluster(source.replace("SLEEP", "0.0005"), workers=workers)
    lines = {name: lines_of_readings(rng, name, count)
             for name, count in (("slow", 1200), ("fast", 1500))}
    paths = [app.write(name, "\n".join(lines[name]) + "\n")
             for name in ("slow", "fast")]
    app.write_conf(args=paths + [app.out("output"), app.out("late")])
    expected, late, late_lines = reference(
        source.replace("SLEEP", "0"), paths + ["/o", "/late"], {
            name: [line.encode() for line in lines[name]] for name in lines})
    count = sum(map(len, expected.values()))
    app.start()
    killing = killer.Killer(app, rng.random())

    def written():
        return app.read_out("output").count(b"\n")

    while written() < count and killing.kills < 12:
        time.sleep(rng.random() * 0.2)
        killing.kill_random(rng.randrange(1, workers + 1))
    harness.wait_for(lambda: written() >= count, "all windows")
    if late_lines:
        harness.wait_for(
            lambda: app.read_out("late").count(b"\n") >= len(late_lines),
            "what is late")
    app.wait_workers()
    app.stop()
    actual = by_key(app.read_out("output").splitlines())
    if policy == "fire-per-message":	# what is late waits for nothing
        for lines_by_key in (actual, expected):
            for found in lines_by_key.values():
                found.sort()
    assert actual == expected
    assert bool(late) == (policy != "fire-per-message")
    if policy == "to a sink":
        assert sorted(app.read_out("late").splitlines()) == late_lines
        assert late_lines
    report("%d late, %d windows, %d kills" % (
        len(late), count, killing.kills))
