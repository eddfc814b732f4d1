"""Connectors that take a sink's outputs: two-phase commit, exactly once."""

import random
import socket
import struct
import threading
import time

import pytest

import connect
import harness
from connect import COOKIE, Sink
from harness import wait_for
from killer import Killer

APPLICATION = '''
import wallaroo
from wallaroo import experimental
from wallaroo.codecs import lines_decoder


class Total:
    count = 0


@wallaroo.key_extractor
def word(data):
    return data


@wallaroo.state_computation(name="Count", state=Total)
def count(data, state):
    state.count += 1
    return (data, state.count)


@experimental.octet_message_encoder
def encode(data):
    return b"%s %d\\n" % (data[0].encode(), data[1])


def application_setup(args):
    return wallaroo.build_application("taken", (
        wallaroo.source("words", wallaroo.TCPSourceConfig(
            "words", "127.0.0.1", args[1], lines_decoder))
        .key_by(word)
        .to(count)
        .to_sink(experimental.SinkConnectorConfig(
            "out", encode, None, args[2], "COOKIE"))))
'''.replace("COOKIE", COOKIE)

WORDS = ["w%d" % n for n in range(20)]


class App:
    def __init__(self, cluster, feeder, sink, workers=1, launch=True,
                 **settings):
        self.port = harness.free_port()
        self.feeder = feeder
        self.sent = []
        settings.setdefault("checkpoint-interval", 0.1)
        self.cluster = cluster(APPLICATION, workers=workers,
                               durability=settings.pop("durability",
                                                       "process"),
                               settings=settings)
        self.cluster.write_conf(args=[self.port, sink.port])
        if launch:
            self.cluster.start()

    def send(self, count, rng=random):
        words = [rng.choice(WORDS) for _ in range(count)]
        self.client.send("".join(word + "\n" for word in words).encode())
        self.sent += words

    def connect(self):
        self.client = self.feeder(self.port)
        return self

    def check(self, sink, moved=False):
        """Everything was taken, once, and in order; where keys have moved
        between workers, in the order of each worker's output."""
        try:
            wait_for(lambda: sink.errors or
                     len(sink.lines()) >= len(self.sent),
                     "%d lines, there are %d" % (
                         len(self.sent), len(sink.lines())))
        except harness.HarnessError as error:
            raise harness.HarnessError("%s\n%s\n%s" % (
                error, sink.events[-20:], self.cluster.log_tail())) from None
        assert not sink.errors, sink.errors
        seen = {}
        for data in sink.committed().values():
            mine = {}
            for line in data.decode().splitlines():
                word, number = line.split()
                seen.setdefault(word, []).append(int(number))
                mine.setdefault(word, []).append(int(number))
            assert all(got == sorted(got) for got in mine.values())
        for got in seen.values() if moved else ():
            got.sort()
        for word in set(self.sent):
            assert seen[word] == list(
                range(1, self.sent.count(word) + 1)), word
        assert len(sink.lines()) == len(self.sent)


@pytest.fixture
def app(cluster, feeder):
    def make(sink, **more):
        return App(cluster, feeder, sink, **more)
    return make


@pytest.fixture
def taker(opened):
    def make(**more):
        return opened(Sink(**more))
    return make


def test_clean_run(app, taker):
    """Two phases for each checkpoint; nothing is left at the stop."""
    sink = taker()
    one = app(sink).connect()
    for count in (1, 100, 2000):
        one.send(count)
        one.check(sink)
    one.cluster.stop()
    output = sink.outputs["initializer"]
    assert output.prepared is None
    assert output.committed == len(output.data) > 0
    assert len(output.ends) >= 3
    assert [event for event in sink.events if event[1] == "list"] == [
        ("initializer", "list", [])]
    one.cluster.start()			# goes on where it was
    one.connect().send(50)
    one.check(sink)
    one.cluster.stop()


@pytest.mark.level("all")
def test_names(app, taker):
    """Each worker has its connection, stream and transactions."""
    sink = taker()
    one = app(sink, workers=3).connect()
    one.send(500)
    one.check(sink)
    one.cluster.stop()
    assert sorted(sink.outputs) == ["initializer", "worker1", "worker2"]
    assert sink.outputs["worker2"].ids[0] == b"taken-w-worker2-id-out:c_id=1"


@pytest.mark.parametrize("workers", [
    pytest.param(1, marks=pytest.mark.level("all")), 3])
def test_kills_and_faults(app, taker, rng, report, workers):
    """Workers are killed, the sink closes before and after each step, says
    no, and is killed as well."""
    def faults(what, worker):
        chance = {"message": 0.0005, "vote": 0.3, "commit": 0.15}[what]
        if rng.random() > chance:
            return None
        return "close" if what != "vote" else rng.choice(
            ("close", "closed-after", "no"))
    sink = taker(faults=faults)
    one = app(sink, workers=workers).connect()
    killer = Killer(one.cluster, rng.randrange(1 << 16))
    rounds = 14 if harness.LEVEL != "check" else 5
    for _ in range(rounds):
        one.send(rng.choice((1, 50, 1000)), rng)
        time.sleep(rng.random() * 0.6)
        rng.choice((killer.kill_random, killer.kill_random, sink.crash,
                    sink.cut))()
    sink.faults = lambda what, worker: None
    one.check(sink)
    one.cluster.stop()
    one.check(sink)
    report("%d kills, %d connections, %d commits, %d aborts" % (
        killer.kills, *(sum(event[1] == kind for event in sink.events)
                        for kind in ("list", "commit", "abort"))))


@pytest.mark.level("all")
def test_in_doubt(app, taker):
    """Killed between the vote and the decision, on each side of it."""
    sink = taker()
    one = app(sink, **{"connector-timeout": 5}).connect()
    one.send(10)
    one.check(sink)
    for commit in (False, True):
        voted = threading.Event()

        def faults(what, worker):
            if what == "vote":
                voted.set()
                return None if commit else "silent"
            return "close" if what == "commit" else None
        sink.faults = faults
        one.send(100)
        wait_for(voted.is_set, "a vote")
        pid = one.cluster.kill9(0)
        sink.faults = lambda what, worker: None
        one.cluster.wait_replaced(0, pid)
        one.check(sink)
    # A sink that does not answer is given up, and asked again.
    silent = []
    sink.faults = lambda what, worker: "silent" if what == "vote" \
        and not silent and not silent.append(1) else None
    one.send(100)
    one.check(sink)
    assert one.cluster.log_contains("no answer")
    one.cluster.stop()


@pytest.mark.level("all")
def test_refused(app, taker):
    """A wrong cookie, a program that is no sink, one that is not there: the
    worker tries again, inputs are not lost, and the cookie is not shown."""
    sink = taker(cookie="another")
    one = app(sink).connect()
    one.send(100)
    one.cluster.wait_log(r"it says: cookie\?\?\?")
    assert sink.lines() == []
    port = sink.port
    sink.close()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(harness.LIMIT)
        for answer in (
            connect.frame(connect.OK, struct.pack(">I", 1)),
            connect.frame(connect.NOTIFY_ACK, b"\1", connect.u64(1, 0)),
            connect.frame(connect.OK, struct.pack(">I", 2))
                + connect.frame(connect.NOTIFY_ACK, b"\0",
                                connect.u64(1, 0)),
            connect.frame(connect.ACK, struct.pack(">II", 1, 0)),
            connect.frame(connect.RESTART),
            b"GET / HTTP/1.0\r\n",
            b"\0\0\0\0",
        ):
            peer = listener.accept()[0]
            peer.settimeout(harness.LIMIT)
            peer.sendall(answer)
            while True:
                try:
                    if not peer.recv(65536):
                        break
                except ConnectionResetError:
                    break
            peer.close()
    one.check(taker(port=port))
    assert COOKIE not in one.cluster.log()
    one.cluster.stop()


@pytest.mark.level("all")
def test_sizes_and_everybody_killed(app, taker, rng):
    """Offsets go on over stops with another number of workers, kills of
    everything, and stops while the sink is away."""
    sink = taker()
    one = app(sink, workers=2, launch=False, **{"stop-timeout": 1})
    for workers, end in ((2, "stop"), (3, "kill"), (3, "away"), (1, "stop"),
                         (3, "away"), (2, "supervisor"), (2, "stop")):
        one.cluster.write_conf(workers=workers)
        one.cluster.start()
        one.connect().send(300, rng)
        one.check(sink, moved=True)
        one.send(300, rng)
        wait_for(lambda: one.cluster.stat("records_in") >= 600
                 or one.cluster.status()["state"] != "running", "records")
        if end == "away":
            sink.crash()
            sink.faults = lambda what, worker: "close"
        {"stop": one.cluster.stop, "away": one.cluster.stop,
         "kill": one.cluster.kill_everything,
         "supervisor": one.cluster.kill_supervisor}[end]()
        sink.faults = lambda what, worker: None
        if end == "stop":
            one.check(sink, moved=True)


@pytest.mark.level("all")
def test_workers_left(app, taker, rng):
    """The remaining workers say which ones are no more, as long as they are
    not."""
    sink = taker()
    one = app(sink, workers=3, launch=False)
    left = {3: set(), 2: {("worker2",)}, 1: {("worker1", "worker2")}}
    for workers in (3, 1, 2, 3):
        sink.events.clear()
        one.cluster.write_conf(workers=workers)
        one.cluster.start()
        one.connect().send(300, rng)
        one.check(sink, moved=True)
        one.cluster.stop()
        said = [event for event in sink.events if event[1] == "left"]
        assert {tuple(sorted(names)) for _, _, names in said} == \
            left[workers]
        assert len(said) >= (0 if workers == 3 else workers)


@pytest.mark.level("all")
def test_on_a_disk(app, taker, rng):
    """durability = machine: outputs wait for the sync, too."""
    sink = taker()
    one = app(sink, workers=2, durability="machine",
              **{"runtime-directory": None}).connect()
    killer = Killer(one.cluster, 1)
    for _ in range(5):
        one.send(300, rng)
        killer.kill_random()
    one.check(sink)
    one.cluster.stop()


@pytest.mark.level("all")
def test_without_checkpoints(app, taker):
    one = app(taker(), durability="none", launch=False)
    code, log = one.cluster.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert "there are none with durability = none" in log
