"""Runs that end by themselves, with exit code 0 and everything written."""

import collections
import os
import signal
import subprocess

import pytest

import apps
import harness
from harness import EXIT_CLEAN, LEVEL
from words import Zipf

LINES = 4000 if LEVEL == "check" else 20000


def counted(lines):
    counts = collections.Counter(word for line in lines
                                 for word in line.split())
    return sorted("%s %d" % (word, n) for word, total in counts.items()
                  for n in range(1, total + 1))


def finite(cluster, source, **more):
    return cluster(source, settings={"at-end": "stop", "stop-timeout": 0},
                   **more)


def files(app, lines):
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])


def output(app):
    return sorted(app.read_out("output").decode().splitlines())


@pytest.mark.parametrize("durability", [
    "process", pytest.param("none", marks=pytest.mark.level("all")),
    pytest.param("machine", marks=pytest.mark.level("all"))])
@pytest.mark.parametrize("workers", [
    3, pytest.param(1, marks=pytest.mark.level("all"))])
def test_file_to_file(cluster, workers, durability):
    app = finite(cluster, apps.FILE_COUNT, workers=workers,
                 durability=durability)
    lines = Zipf(3).lines(LINES // 4, per_line=4)
    if durability == "machine":
        app.write_conf(runtime_directory=None)	# on the disk
    files(app, lines)
    code, log = app.run_to_exit()
    assert code == EXIT_CLEAN, log
    assert "every source has ended" in log
    assert "not everything" not in log
    assert output(app) == counted(lines)


def kill_one(app, rng):
    """A worker, or the supervisor, whose successor is started; whatever the
    application is at.  It may have ended meanwhile: then nobody."""
    supervisor = app.process.pid
    workers = [pid for pid in harness.processes_marked(app.mark)
               if pid != supervisor]
    if workers and rng.random() < 0.7:
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            pass
    elif app.process.poll() is None:
        app.process.kill()
        if app.process.wait() != EXIT_CLEAN:
            app.wait_gone()
            app.launch()


@pytest.mark.parametrize("seed", [
    0] + [pytest.param(seed, marks=pytest.mark.level("all"))
          for seed in (1, 2)])
def test_under_kills(cluster, rng, seed):
    """Of workers and of the supervisor, at work and while it ends: the next
    one finds the sources ended, and ends."""
    app = finite(cluster, apps.slow(apps.FILE_COUNT, 0.0002), workers=3)
    lines = Zipf(4 + seed).lines(LINES // 4, per_line=4)
    files(app, lines)
    expected = counted(lines)
    app.start()
    for part in sorted(rng.random() for _ in range(6)):
        harness.wait_for(
            lambda: app.read_out("output").count(b"\n")
            >= part * len(expected) or app.process.poll() is not None,
            "a part of the output")
        kill_one(app, rng)
    harness.wait_for(lambda: app.process.poll() is not None
                     or app.log_contains("every source has ended"),
                     "the end of all sources")
    kill_one(app, rng)
    assert app.wait_exit() == EXIT_CLEAN, app.log_tail()
    assert output(app) == expected
    app.wait_gone()


def test_again_there_is_nothing_to_do(cluster):
    """The state is kept: a second start ends at once and writes nothing."""
    app = finite(cluster, apps.FILE_NUMBER)
    files(app, ["one", "two"])
    assert app.run_to_exit()[0] == EXIT_CLEAN
    before = app.read_out("output")
    assert before == b"1 one\n2 two\n"
    assert app.run_to_exit()[0] == EXIT_CLEAN
    assert app.read_out("output") == before


def test_position_after_a_replay(cluster):
    """Whoever looks at the counters sees that nothing is left to do."""
    app = cluster(apps.FILE_NUMBER, settings={"checkpoint-interval": 3600})
    files(app, ["one", "two"])
    app.start()
    harness.wait_for(lambda: app.read_out("output").count(b"\n") == 2,
                     "both lines")
    pid = app.kill9(0)
    app.wait_replaced(0, pid)

    def all_done():
        worker = app.workers()[0]
        return worker["journal_done"] == worker["journal_tail"] > 0

    harness.wait_for(all_done, "the position of what was replayed", limit=20)
    app.stop()
    assert app.read_out("output") == b"1 one\n2 two\n"


def test_generator(cluster):
    app = finite(cluster, apps.GENERATE, workers=2)
    app.write_conf(args=["numbers", "500", app.out("output")])
    assert app.run_to_exit()[0] == EXIT_CLEAN
    assert app.read_out("output") == "".join(
        "%d %d\n" % (n, n * (n + 1) // 2) for n in range(1, 501)).encode()


def test_stdin_to_stdout(cluster):
    """As a filter between two pipes."""
    app = finite(cluster, apps.STDIO, workers=2)
    app.write_conf(args=[])
    lines = Zipf(5).lines(500, per_line=1)
    reader, writer = os.pipe()
    app.launch(stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(("\n".join(lines) + "\n").encode())
    data = app.process.stdout.read()
    assert app.wait_exit() == EXIT_CLEAN
    app.process.stdout.close()
    assert data == "".join("%d %s\n" % pair for pair in
                           enumerate(lines, 1)).encode()


def test_waits_for_a_receiver_that_is_away(cluster):
    """The end is when the sink has everything, not when it was tried."""
    receiver = harness.Receiver()
    receiver.unlisten()
    app = finite(cluster, apps.FILE_COUNT.replace(
        "wallaroo.FileSinkConfig(args[2], encode)",
        "wallaroo.TCPSinkConfig(*args[2].split(':'), encode)"), workers=2)
    lines = Zipf(6).lines(200, per_line=4)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, receiver.address()])
    app.start()
    harness.wait_for(lambda: app.stat("sources_open") == 0
                     and app.stat("records_in") == len(lines),
                     "the end of the source")
    assert app.process.poll() is None
    receiver.listen()
    assert app.wait_exit() == EXIT_CLEAN
    got = sorted(line for connection in receiver.connections
                 for line in connection.data().decode().splitlines())
    assert got == counted(lines)
    receiver.close()


WINDOWS = apps.FILE_NUMBER.replace("""@wallaroo.encoder
""", """class Count(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)

    def combine(self, one, other):
        return one + other

    def output(self, key, accumulator):
        return str(len(accumulator)) if accumulator else None


@wallaroo.encoder
""").replace(".to(number)", """.to(
            wallaroo.range_windows(wallaroo.milliseconds(RANGE)).over(Count))""")


@pytest.mark.parametrize("range_ms", [
    3600000, pytest.param(100, marks=pytest.mark.level("all"))])
def test_windows_close_before_the_end(cluster, range_ms):
    app = finite(cluster, WINDOWS.replace("RANGE", str(range_ms)),
                 workers=2)
    files(app, ["x"] * 1000)
    code, log = app.run_to_exit()
    assert code == EXIT_CLEAN, log
    assert sum(map(int, app.read_out("output").split())) == 1000
