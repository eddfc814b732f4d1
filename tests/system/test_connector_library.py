"""The package's own connectors against real workers, both ways."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

import harness
from connect import COOKIE
from harness import frame, wait_for
from killer import Killer
from test_connector_source import APPLICATION, exact
from wallaroo.experimental import connectors

BOTH = '''
import wallaroo
from wallaroo import experimental


class Last:
    number = 0


@experimental.stream_message_encoder
def to_worker(text):
    return text.encode()


@experimental.stream_message_decoder
def from_worker(data):
    return data.decode()


@wallaroo.state_computation(name="Order", state=Last)
def order(data, state):
    state.number += 1
    return "%s %d" % (data, state.number)


@experimental.octet_message_encoder
def out(text):
    return text.encode()


def application_setup(args):
    source, sink = int(PORTS[0]), int(PORTS[1])
    return wallaroo.build_application("both", (
        wallaroo.source("Feed", experimental.SourceConnectorConfig(
            "feed", to_worker, from_worker, source, "secret", 10, 5))
        .to(order)
        .to_sink(experimental.SinkConnectorConfig(
            "taker", out, from_worker, sink, "secret"))))
'''

FEED = '''
import sys
from wallaroo import experimental
connector = experimental.SourceConnector(None, [], ["host", "port"])
connector.connect()
for line in sys.stdin:
    connector.write(line.strip())
connector.close()
'''

TAKE = '''
from wallaroo import experimental
connector = experimental.SinkConnector(None, [], ["host", "port"])
connector.listen()
while True:
    print(connector.read(), flush=True)
'''


@pytest.fixture
def program(opened):
    class Program(subprocess.Popen):
        def close(self):
            self.kill()
            self.wait()

    def make(cluster, text, *args, **more):
        return opened(Program(
            [sys.executable, "-c", text, *args], text=True,
            stderr=open(cluster.log_path, "a"), env={
                **os.environ, "PYTHONPATH": os.pathsep.join(
                    [harness.python_package_dir(), cluster.app_dir])},
            **more))
    return make


@pytest.mark.level("all")
def test_files_of_frames(cluster, rng, report):
    """MultiSourceConnector: it ends when everything is acknowledged, and by
    then everything has counted once, whoever was killed."""
    port = harness.free_port()
    one = cluster(APPLICATION, workers=2,
                  settings={"checkpoint-interval": 0.1})
    one.write_conf(args=[port, one.out("out"), 50, 25])
    one.start()
    feed = connectors.MultiSourceConnector(
        "0.0.1", COOKIE, "prog", "inst", "127.0.0.1", port)
    count = 10000
    for key in ("a", "b", "empty"):
        path = one.write(key + ".msg", b"" if key == "empty" else b"".join(
            frame(b"%s %d" % (key.encode(), n))
            for n in range(1, count + 1)))
        feed.add_source(connectors.FramedFileReader(path))
    feed.connect()
    killer = Killer(one, rng.randrange(1 << 16))
    for _ in range(8):
        if feed.stopped.wait(rng.random() * 0.2):
            break
        killer.kill(0)			# it has the streams
        one.wait_workers()
    assert feed.stopped.wait(240), feed.sources
    assert feed.error is None
    assert killer.kills > 0
    lines = wait_for(lambda: [
        lines for lines in [one.read_out("out").decode().splitlines()]
        if len(lines) >= 2 * count], "all lines")[0]
    exact(lines, {"a": count, "b": count})
    one.stop()
    report("%d kills" % killer.kills)


@pytest.mark.level("all")
def test_programs(cluster, program):
    """SourceConnector and SinkConnector, as scripts use them."""
    ports = [harness.free_port(), harness.free_port()]
    one = cluster("PORTS = %r\n%s" % (ports, BOTH),
                  settings={"checkpoint-interval": 0.1})
    args = ["--application-module", "app_under_test", "--connector"]
    taker = program(one, TAKE, *args, "taker", stdout=subprocess.PIPE)
    one.start()
    feeder = program(one, FEED, *args, "feed", stdin=subprocess.PIPE)
    feeder.stdin.write("".join("line%d\n" % n for n in range(300)))
    feeder.stdin.close()
    got = []

    def read():
        for line in taker.stdout:
            got.append(line)
    threading.Thread(target=read, daemon=True).start()
    wait_for(lambda: len(got) >= 300, "300 lines")
    assert got == ["line%d %d\n" % (n, n + 1) for n in range(300)]
    assert feeder.wait(harness.LIMIT) == 0
    one.stop()


AUTHORS = '''
import sys
from wallaroo import connectors

sys.path.insert(0, sys.argv.pop(1))
kind, place = sys.argv.pop(1), sys.argv.pop(1)
if kind == "source":
    from file_source import Lines
    connectors.run_source(Lines(place))
else:
    from sqlite_sink import Table
    connectors.run_sink(lambda stream: Table(stream, place))
'''


@pytest.mark.level("all")
def test_for_authors(cluster, program, rng, report):
    """A source and a sink of the examples, while worker, source and sink
    are killed: a query sees everything once."""
    ports = [harness.free_port(), harness.free_port()]
    one = cluster("PORTS = %r\n%s" % (ports, BOTH),
                  settings={"checkpoint-interval": 0.1})
    count = 5000
    lines = one.write("lines", "".join(
        "line%d\n" % n for n in range(count)).encode())
    database = os.path.join(one.dir, "out.db")
    examples = os.path.join(harness.SOURCE_TREE, "examples", "connectors",
                            "python")
    args = {name: [examples, name, place, "--address",
                   "127.0.0.1:%d" % port, "--cookie-file",
                   one.write("cookie", b"secret\n")]
            for name, place, port in (("source", lines, ports[0]),
                                      ("sink", database, ports[1]))}
    running = {name: program(one, AUTHORS, *more)
               for name, more in args.items()}
    one.start()
    killer = Killer(one, rng.randrange(1 << 16))

    def committed():
        try:
            db = sqlite3.connect("file:%s?mode=ro" % database, uri=True)
            with contextlib.closing(db):
                return db.execute("SELECT COUNT(*) FROM output").fetchone()[0]
        except sqlite3.OperationalError:
            return 0			# it is not there yet, or busy
    for number in range(6):
        wait_for(lambda: running["source"].poll() is not None or
                 committed() >= number * count // 8, "more lines")
        killer.kill(0)
        one.wait_workers()
        name = rng.choice(list(args))
        if name == "source" and running[name].poll() == 0:
            continue
        running[name].close()
        running[name] = program(one, AUTHORS, *args[name])
    assert running["source"].wait(harness.LIMIT) == 0
    wait_for(lambda: committed() >= count, "all lines")
    one.stop()
    running["sink"].terminate()
    assert running["sink"].wait(harness.LIMIT) == 0
    db = sqlite3.connect(database)
    with contextlib.closing(db):
        got = [body.decode() for body, in db.execute(
            "SELECT body FROM output ORDER BY at")]
    assert got == ["line%d %d" % (n, n + 1) for n in range(count)]
    report("%d kills of the worker" % killer.kills)
