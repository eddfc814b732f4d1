"""Timers of keys on the runtime, under kills: each fires once; ttl.

By event time each key's outputs are the reference executor's, on any number
of workers; by processing time a timer that was due while nobody was alive
fires at the start.
"""

import contextlib
import glob
import os
import sqlite3
import time

import pytest

import harness
import killer
from test_event_time import by_key, reference

# Visits of two files that are read at different speeds; when nothing came for
# a visitor in 40 units of event time, what there was is put out, and each 100
# units while he is there a mark.
VISITS = '''
import time

import wallaroo
from wallaroo.codecs import lines_decoder


@wallaroo.computation("parse")
def parse(line):
    time.sleep(SLEEP if line.startswith("slow") else 0)
    name, at, visitor = line.split(" ")
    return (name, int(at), visitor)


def time_of(visit):
    return visit[1]


@wallaroo.key_extractor
def by_visitor(visit):
    return visit[2]


class Visits:
    def __init__(self):
        self.seen = []


def fired(name, state, timers):
    row = (timers.key, name, timers.now, ".".join(state.seen))
    if name == "mark":
        timers.set("mark", 100)
    else:
        state.seen.clear()
        timers.cancel("mark")
    return row


@wallaroo.state_computation("visits", state=Visits, on_timer=fired)
def visits(visit, state, timers):
    if not state.seen:
        timers.set("mark", 100)
    state.seen.append("%s%d" % visit[:2])
    timers.set("gone", after=40)


@wallaroo.key_extractor
def by_letter(row):
    return row[0][0]


class All(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, row, accumulator):
        accumulator.append("%s-%s-%d-%s" % row)

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return (key, "|".join(accumulator))


@wallaroo.encoder
def encode(row):
    return "%s %s\\n" % row


def visits_of(name, path):
    return (wallaroo.source(name, wallaroo.FileSourceConfig(
                name, path, lines_decoder))
            .to(parse).event_time(time_of, lateness=30))


def application_setup(args):
    return wallaroo.build_application("visits", (
        visits_of("slow", args[1]).merge(visits_of("fast", args[2]))
        .key_by(by_visitor)
        .to(visits)
        .key_by(by_letter)
        .to(wallaroo.range_windows(200).over(All))
        .to_sink(wallaroo.FileSinkConfig(args[3], encode))))
'''


def lines_of_visits(rng, name, count):
    """Times that go on by 3 for each line, and up to 60 back; a visitor comes
    often for a while."""
    return ["%s %d %s%d" % (
        name, max(0, 3 * n - rng.choice((0, 0, 5, 20, 60))),
        rng.choice("ab"), (n // 40 + rng.randrange(4)) % 12)
        for n in range(count)]


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all")),
    pytest.param(3, marks=pytest.mark.level("all")),
    pytest.param(5, marks=pytest.mark.level("all"))])
def test_by_event_time_as_the_reference_at_any_speed(cluster, rng, workers,
                                                     report):
    """Each key's outputs, in order, with kills."""
    app = cluster(VISITS.replace("SLEEP", "0.0005"), workers=workers)
    lines = {name: lines_of_visits(rng, name, count)
             for name, count in (("slow", 1200), ("fast", 1500))}
    paths = [app.write(name, "\n".join(lines[name]) + "\n")
             for name in ("slow", "fast")]
    app.write_conf(args=paths + [app.out("output")])
    expected, late, _ = reference(
        VISITS.replace("SLEEP", "0"), paths + ["/o"],
        {name: [line.encode() for line in lines[name]] for name in lines})
    assert not late
    count = sum(map(len, expected.values()))
    app.start()
    killing = killer.Killer(app, rng.random())

    def written():
        return app.read_out("output").count(b"\n")

    while written() < count and killing.kills < 12:
        time.sleep(rng.random() * 0.2)
        killing.kill_random(rng.randrange(1, workers + 1))
    harness.wait_for(lambda: written() >= count, "all windows")
    app.wait_workers()
    app.stop()
    assert by_key(app.read_out("output").splitlines()) == expected
    report("%d windows, %d kills" % (count, killing.kills))


# A number of milliseconds after which a key is put out.
ALARMS = '''
import wallaroo
from wallaroo.codecs import lines_decoder


@wallaroo.key_extractor
def by_name(line):
    return line.split(" ")[0]


class Alarms:
    def __init__(self):
        self.set = self.fired = 0


def fired(name, state, timers):
    state.fired += 1
    return "%s %s %d %d" % (timers.key, name, state.set, state.fired)


@wallaroo.state_computation("alarms", state=Alarms, on_timer=fired)
def alarms(line, state, timers):
    state.set += 1
    for part in line.split(" ")[1:]:
        name, after = part.split("=")
        timers.set(name, wallaroo.milliseconds(int(after)))


@wallaroo.encoder
def encode(line):
    return line + "\\n"


def application_setup(args):
    host, port = args[1].split(":")
    return wallaroo.build_application("alarms", (
        wallaroo.source("lines", wallaroo.TCPSourceConfig(
            "lines", host, port, lines_decoder))
        .key_by(by_name)
        .to(alarms)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''


# Keys that live for TTL milliseconds, by the time of arrival.
LIVES = ALARMS.replace("""on_timer=fired)
def alarms(line, state, timers):
    state.set += 1
    for part in line.split(" ")[1:]:
        name, after = part.split("=")
        timers.set(name, wallaroo.milliseconds(int(after)))
""", """ttl=wallaroo.milliseconds(TTL))
def alarms(line, state):
    state.set += 1
    return "%s %d" % (line, state.set)
""")


@pytest.mark.parametrize("workers,clean", [
    (2, False),
    pytest.param(1, True, marks=pytest.mark.level("all")),
    pytest.param(3, False, marks=pytest.mark.level("all"))])
def test_expired_state_does_not_come_back(cluster, workers, clean):
    """It is gone from memory, from the file and from what is asked."""
    app, port = alarms(cluster, source=LIVES.replace("TTL", "1500"),
                       workers=workers)
    names = ["k%d" % n for n in range(60)]

    def states():
        return [app.ctl_raw("state", "get", "alarms", name).returncode == 0
                for name in names]

    def end():
        if clean:
            app.stop()
        else:
            app.kill_everything()
            app.wait_gone()

    def feed():
        with harness.Feeder(port) as feeder:
            before = len(lines_of(app))
            feeder.send("".join(name + "\n" for name in names).encode())
            harness.wait_for(lambda: len(lines_of(app)) == before + 60,
                             "the lines")

    app.start()
    feed()
    app.ctl("checkpoint")
    killing = killer.Killer(app)
    killing.kill_random()
    harness.wait_for(lambda: app.stat("keys") == 0, "the end of all keys")
    assert not any(states()[:5])
    killing.kill_random(workers)
    app.wait_workers()
    harness.wait_for(lambda: app.stat("keys") == 0, "the end after a death")
    end()
    app.start()
    app.wait_workers()
    harness.wait_for(lambda: app.stat("keys") == 0, "the end after a start")
    assert not any(states()[:5])
    feed()
    app.ctl("checkpoint")
    app.stop()
    # What is left in the files is what had not expired.
    app.start()
    harness.wait_for(lambda: app.stat("keys") == 0, "the end of all keys")
    app.ctl("checkpoint")
    app.stop()
    assert lines_of(app).count("k7 1") == 2
    assert rows_in_files(app) == 0


def rows_in_files(app):
    found = 0
    for path in glob.glob(os.path.join(app.state_dir, "worker-*.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as db:
            found += db.execute("SELECT count(*) FROM state").fetchone()[0]
            assert db.execute("SELECT count(*) FROM delta").fetchone()[0] == 0
    return found


def alarms(cluster, source=ALARMS, **more):
    port = harness.free_port()
    app = cluster(source, **more)
    if more.get("durability") == "machine":
        app.write_conf(runtime_directory=None)	# on the disk
    app.write_conf(args=["127.0.0.1:%d" % port, app.out("output")])
    return app, port


def lines_of(app):
    return app.read_out("output").decode().splitlines()


@pytest.mark.parametrize("workers,durability", [
    (2, "process"),
    pytest.param(1, "process", marks=pytest.mark.level("all")),
    pytest.param(3, "machine", marks=pytest.mark.level("all"))])
def test_by_processing_time_each_fires_once(cluster, rng, workers,
                                            durability, report):
    app, port = alarms(cluster, workers=workers, durability=durability)
    names = ["k%d" % n for n in range(40)]
    app.start()
    killing = killer.Killer(app, rng.random())
    with harness.Feeder(port) as feeder:
        for name in names:
            feeder.send(("%s a=%d b=%d\n" % (
                name, rng.randrange(2000), rng.randrange(2000))).encode())
        feeder.wait_acknowledged()
        while len(lines_of(app)) < 80 and killing.kills < 8:
            time.sleep(rng.random() * 0.3)
            killing.kill_random(rng.randrange(1, workers + 1))
        harness.wait_for(lambda: len(lines_of(app)) >= 80, "all timers")
        killing.kill_random(workers)	# nothing comes again
        feeder.send(b"last a=0\n")
        harness.wait_for(lambda: len(lines_of(app)) > 80, "the last one")
    app.wait_workers()
    app.stop()
    assert sorted(line.split(" ")[0] for line in lines_of(app)) == sorted(
        2 * names + ["last"])
    assert sorted(line.split(" ")[1:3] for line in lines_of(app)) == sorted(
        40 * [["a", "1"], ["b", "1"]] + [["a", "1"]])
    report("%d kills" % killing.kills)


@pytest.mark.parametrize("clean", [
    False, pytest.param(True, marks=pytest.mark.level("all"))])
def test_due_while_everything_was_dead(cluster, clean):
    """It fires at the start, once, in order; what was not due then waits."""
    app, port = alarms(cluster, workers=2)
    app.start()
    with harness.Feeder(port) as feeder:
        feeder.send(b"x c=3000 a=2500 b=2600\nx far=3600000\n")
        harness.wait_for(lambda: app.stat("records_in") == 2, "the lines")
        began = time.monotonic()
    if clean:
        app.stop()
    else:
        app.kill_everything()
        app.wait_gone()
    # Where the machine was too slow for that, the result is the same.
    time.sleep(max(0, began + 3.1 - time.monotonic()))
    app.start()
    harness.wait_for(lambda: len(lines_of(app)) >= 3, "the three timers")
    app.kill_everything()
    app.wait_gone()
    app.start()
    with harness.Feeder(port) as feeder:
        feeder.send(b"y d=0\n")
        harness.wait_for(lambda: len(lines_of(app)) > 3, "another one")
    app.stop()
    assert lines_of(app) == ["x a 2 1", "x b 2 2", "x c 2 3", "y d 1 1"]
