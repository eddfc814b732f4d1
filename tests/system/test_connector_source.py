"""Connectors that feed a source: the protocol's session, and exactly once."""

import struct
import threading
import time

import pytest

import connect
import harness
from connect import COOKIE, NOTHING, Closed, Peer
from harness import wait_for
from killer import Killer

APPLICATION = '''
import wallaroo
from wallaroo import experimental


class Last:
    number = 0


@experimental.stream_message_decoder
def decode(data):
    if data == b"none":
        return None
    key, number = data.split(b" ")
    return (key.decode(), int(number))


@experimental.stream_message_encoder
def encode_in(data):
    return data


@wallaroo.computation(name="Same")
def same(data):
    return data


@wallaroo.key_extractor
def key_of(data):
    return data[0]


@wallaroo.state_computation(name="Order", state=Last)
def order(data, state):
    state.number += 1
    return "%s %d %d" % (data[0], data[1], state.number)


@wallaroo.encoder
def encode(data):
    return data + "\\n"


def application_setup(args):
    source = experimental.SourceConnectorConfig(
        "feed", encode_in, decode, args[1], "COOKIE", int(args[3]), int(args[4]))
    pipeline = wallaroo.source("Feed", source)
    if "keyed" not in args:
        pipeline = pipeline.to(same).key_by(key_of)
    return wallaroo.build_application("connected", (
        pipeline.to(order).to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''.replace("COOKIE", COOKIE)


class App:
    """The application, running, and a way to talk to it."""

    def __init__(self, cluster, opened, workers=1, credits=(100, 50), more=(),
                 **settings):
        self.port = harness.free_port()
        self.opened = opened
        settings.setdefault("checkpoint-interval", 0.1)
        self.cluster = cluster(APPLICATION, workers=workers,
                               durability=settings.pop("durability",
                                                       "process"),
                               settings=settings)
        self.cluster.write_conf(args=[
            self.port, self.cluster.out("out"), *credits, *more])
        self.cluster.start()

    def peer(self, **more):
        return self.opened(Peer(self.port, **more))

    def lines(self, count=None):
        """The output, when it has so many lines."""
        def complete():
            lines = self.cluster.read_out("out").decode().splitlines()
            return lines if count is None or len(lines) >= count else None
        return wait_for(complete, "%s lines" % count)


@pytest.fixture
def app(cluster, opened):
    def make(**more):
        return App(cluster, opened, **more)
    return make


def exact(lines, counts):
    """Every number of every key once, and in order."""
    seen = {}
    for line in lines:
        key, number, nth = line.split()
        seen.setdefault(key, []).append((int(number), int(nth)))
    assert {key: len(got) for key, got in seen.items()} == counts
    for key, got in seen.items():
        assert got == [(n, n) for n in range(1, counts[key] + 1)], key


def test_session(app):
    """HELLO to EOS: points, credits, repeats, empty messages."""
    one = app(credits=(10, 8))
    peer = one.peer()
    assert peer.credits == 10
    assert peer.notify(7, point=3) == (True, NOTHING)
    peer.message(7, 0, b"a 1")		# the first number may be anything
    peer.message(7, 5, b"a 2")
    peer.message(7, 5, b"a 99")		# came before
    peer.message(7, 4, b"a 99")
    peer.message(7, 6, b"none")		# the decoder drops it
    peer.message(7, 8, b"")		# moves the point
    peer.message(7, 9, b"a 3")
    peer.wait_acked(7, 9)
    for n in range(4, 40):		# more than the credits at once
        peer.message(7, 10 * n, b"a %d" % n)
    peer.send(connect.eos(7))
    peer.wait_acked(7, 390)
    assert peer.notify(7) == (True, 390)	# and again
    peer.send(connect.eos(7) + connect.notify(8, "empty") + connect.eos(8))
    assert peer.expect(connect.NOTIFY_ACK)[0] == 1
    peer.wait_acked(8, NOTHING)
    exact(one.lines(39), {"a": 39})
    one.cluster.stop()


def test_told_to_connect_again(app):
    """At a stop: behind the last points, to the same address."""
    one = app(**{"checkpoint-interval": 3600})
    peer = one.peer()
    assert peer.notify(1) == (True, NOTHING)
    for n in range(1, 40):
        peer.message(1, n, b"a %d" % n)
    exact(one.lines(39), {"a": 39})
    one.cluster.stop()
    with pytest.raises(Closed):
        while True:
            peer.take()
    assert peer.restarts == [b"\0\0\0\0"]
    assert peer.acked == {1: 39}
    one.cluster.start()
    assert one.peer().notify(1) == (True, 39)
    one.cluster.stop()


@pytest.mark.level("all")
def test_key_of_a_message(app):
    """It is the current key where nothing else sets one."""
    one = app(more=["keyed"])
    peer = one.peer()
    peer.notify(1)
    for n, key in enumerate((b"", b"x", b"", b"\xff\0y", b"x"), 1):
        peer.message(1, n, b"k %d" % n, key)
    assert sorted(one.lines(5)) == [
        "k 1 1", "k 2 1", "k 3 2", "k 4 1", "k 5 2"]
    one.cluster.stop()


def test_violations_cost_their_connection(app):
    """And nothing else: another connection goes on meanwhile."""
    one = app()
    good = one.peer()
    good.notify(1)
    peer = one.peer()			# says why, and goes
    peer.send(connect.frame(connect.ERROR, connect.short("enough")))
    with pytest.raises(Closed):
        peer.read()
    one.cluster.wait_log("the connector says: enough")
    wrong = [
        ([connect.notify(2)],
         "Bad protocol FSM state: HELLO must come first"),
        ([connect.hello(version="0.0.2")],
         "Unknown protocol version: 0.0.2"),
        ([connect.hello(version="v\"\n\xff")], None),
        ([connect.hello(cookie="Dragons")], "Bad cookie"),
        ([connect.hello(cookie="")], "Bad cookie"),
        ([connect.hello(cookie=COOKIE + COOKIE)], "Bad cookie"),
        ([connect.frame(connect.HELLO, b"\0\5")],
         "Unable to decode message"),
        ([connect.frame(99)], "Unable to decode message"),
        ([struct.pack(">I", 0)], "Unable to decode message"),
        ([struct.pack(">I", 1 << 31)], "frame larger than max_size"),
    ]
    later = [
        ([connect.hello()], "Bad protocol FSM state: HELLO was said before"),
        ([connect.frame(connect.OK, b"\0\0\0\1")], "Invalid message: ok"),
        ([connect.frame(connect.NOTIFY_ACK)], "Invalid message: notify_ack"),
        ([connect.frame(connect.ACK)], "Invalid message: ack"),
        ([connect.frame(connect.RESTART)], "Invalid message: restart"),
        ([connect.message(77, 1, b"a 1")],
         "Bad/unregistered stream_id 77 with message_id 1"),
        ([connect.message(1, 1, b"a 1")],	# another one's
         "Bad/unregistered stream_id 1 with message_id 1"),
        ([connect.notify(3), connect.message(3, NOTHING, b"a 1")],
         "Bad/unregistered stream_id 3 with message_id %d" % NOTHING),
        ([connect.eos(1)], "Unknown StreamId"),
        ([connect.notify(3), connect.eos(3), connect.message(3, 1, b"a 1")],
         "Bad/unregistered stream_id 3 with message_id 1"),
        ([connect.frame(connect.NOTIFY, connect.u64(1))],
         "Unable to decode message"),
    ]
    for number, (frames, text) in enumerate(wrong + later):
        peer = one.peer(greet=number >= len(wrong))
        peer.send(*frames)
        if number >= len(wrong):
            while True:			# answers to what was right
                tag, body = peer.take()
                if tag == connect.ERROR:
                    got = body[2:].decode()
                    break
        else:
            got = peer.error()
        assert text is None or got == text
        assert COOKIE not in got
        good.message(1, number + 1, b"a %d" % (number + 1))
        peer.close()
    assert COOKIE not in one.cluster.log()
    count = len(wrong + later)
    exact(one.lines(count), {"a": count})
    assert good.notify(1)[0] is False	# it has it already
    one.cluster.stop()


@pytest.mark.level("all")
def test_silent_and_slow(app):
    """Who says nothing is let go; who takes no answers, too."""
    one = app(credits=(1 << 20, (1 << 20) - 1), **{
        "connector-timeout": 3, "connector-streams": 3})
    silent = one.peer(greet=False)
    silent.send(b"\0\0")		# not even a length
    with pytest.raises(Closed):
        silent.read()
    peer = one.peer()
    for stream in (1, 2, 3):
        assert peer.notify(stream)[0]
    deaf = one.peer()
    deaf.send(connect.notify(9))
    assert deaf.error() == "Too many streams"
    deaf = one.peer()
    ended = threading.Event()

    def flood():
        try:
            while True:			# each is answered, nobody reads
                deaf.send(connect.notify(1) * 2000)
        except Closed:
            ended.set()
    threading.Thread(target=flood, daemon=True).start()
    wait_for(ended.is_set, "the end of a connector that takes no answers")
    peer.message(1, 1, b"a 1")
    assert one.lines(1) == ["a 1 1"]
    one.cluster.stop()


class Sender:
    """A connector with streams of numbered messages, which comes back."""

    def __init__(self, port, streams, count, rng):
        self.port, self.count, self.rng = port, count, rng
        self.streams = streams
        self.points = {}
        self.connected = 0
        self.failure = None
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        try:
            while len(self.done()) < len(self.streams):
                try:
                    self.session(Peer(self.port))
                except (Closed, ConnectionError):
                    time.sleep(0.02)
        except BaseException as error:	# shown by join()
            self.failure = error

    def done(self):
        return [stream for stream in self.streams
                if self.points.get(stream) == self.count]

    def session(self, peer):
        self.connected += 1
        try:
            at = {}
            for stream in self.streams:
                point = peer.open(stream)
                # What was acknowledged is never forgotten.
                known = self.points.get(stream, 0)
                assert (0 if point == NOTHING else point) >= known
                at[stream] = known if point == NOTHING else point
            peer.acked.clear()
            while any(n < self.count for n in at.values()):
                stream = self.rng.choice(self.streams)
                for _ in range(self.rng.choice((1, 1, 10, 60))):
                    if at[stream] < self.count:
                        at[stream] += 1
                        peer.message(stream, at[stream], b"k%d %d" % (
                            stream, at[stream]))
                self.points.update(peer.acked)
                if self.rng.random() < 0.002:
                    raise Closed("of its own")
                time.sleep(0.0005)
            for stream in self.streams:
                peer.wait_acked(stream, self.count)
        finally:
            self.points.update(peer.acked)
            peer.close()

    def join(self, limit=240):
        self.thread.join(limit)
        assert not self.thread.is_alive(), self.points
        if self.failure:
            raise self.failure


@pytest.mark.parametrize("workers", [
    pytest.param(1, marks=pytest.mark.level("all")), 3])
def test_kills(app, rng, report, workers):
    """Workers are killed, and the connector breaks off at any byte: every
    message counts once, in order; and what was acknowledged stays so."""
    count = 3000 * workers if harness.LEVEL != "check" else 800
    one = app(workers=workers)
    sender = Sender(one.port, [3, 1 << 62, 5], count, rng)
    killer = Killer(one.cluster, rng.randrange(1 << 16))
    for _ in range(20):
        before = sender.connected
        killed = killer.kill_random()
        if 0 in killed and rng.random() < 0.8:	# it lives, and works
            wait_for(lambda: sender.connected > before
                     or not sender.thread.is_alive(), "the connector")
        sender.thread.join(rng.random() * 0.5)
        if not sender.thread.is_alive():
            break
    sender.join()
    exact(one.lines(3 * count), {
        "k3": count, "k%d" % (1 << 62): count, "k5": count})
    one.cluster.stop()
    report("%d kills, %d connections" % (killer.kills, sender.connected))


@pytest.mark.level("all")
def test_starts_and_sizes(app, rng):
    """Points survive stops, also with another number of workers, kills of
    everything, and of the supervisor alone."""
    one = app(workers=2)
    total = 0
    for workers, end in ((2, "stop"), (3, "kill"), (3, "supervisor"),
                         (3, "stop"), (1, "stop")):
        if not total == 0:
            one.cluster.write_conf(workers=workers)
            one.cluster.start()
        total += 200
        peer = one.peer()
        for stream in (1, 2):
            at = peer.open(stream)
            at = 0 if at == NOTHING else at
            assert at == total - 200
            for n in range(at + 1, total + 1):
                peer.message(stream, n, b"k%d %d" % (stream, n))
        for stream in (1, 2):
            peer.wait_acked(stream, total)
        {"stop": one.cluster.stop, "kill": one.cluster.kill_everything,
         "supervisor": one.cluster.kill_supervisor}[end]()
        with pytest.raises(Closed):
            while True:
                peer.take()
    exact(one.lines(2 * total), {"k1": total, "k2": total})


@pytest.mark.level("all")
@pytest.mark.parametrize("durability", ["none", "machine"])
def test_durability(app, durability):
    """Acknowledged is what a checkpoint has; with none, what was processed,
    and a new start knows of nothing."""
    more = {"runtime-directory": None} if durability == "machine" else {}
    one = app(durability=durability, **more)
    peer = one.peer()
    assert peer.notify(1) == (True, NOTHING)
    for n in range(1, 301):
        peer.message(1, n, b"a %d" % n)
    peer.send(connect.eos(1))
    peer.wait_acked(1, 300)
    exact(one.lines(300), {"a": 300})
    one.cluster.stop()
    one.cluster.start()
    assert one.peer().notify(1) == (
        True, 300 if durability == "machine" else NOTHING)
    one.cluster.stop()
