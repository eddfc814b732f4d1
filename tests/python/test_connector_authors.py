"""wallaroo.connectors against workers that the tests play."""

import argparse
import asyncio
import threading

import pytest

from wallaroo import connectors
from wallaroo.connectors import mocks
from wallaroo.experimental import connector_wire_messages as cwm

COOKIE = "a cookie"


def parsed(*args):
    parser = argparse.ArgumentParser()
    connectors.add_options(parser)
    return parser.parse_args(args)


def test_options(tmp_path):
    file = tmp_path / "cookie"
    file.write_text("from the file\nnot this\n")
    given = connectors.options_of(parsed(
        "--address", "[::1]:7", "--cookie-file", str(file), "--name", "n"),
        {})
    assert given == ("::1", 7, "from the file", "n")
    env = {"WALLAROO_CONNECTOR_ADDRESS": "h:8",
           "WALLAROO_CONNECTOR_COOKIE": "secret"}
    assert connectors.options_of(parsed(), env) == (
        "h", 8, "secret", "connector")
    for args, text in (
            ((), "no --address"), (("--address", "h"), "no host:port"),
            (("--address", "h:0"), "no host:port"),
            (("--address", "h:1", "--cookie-file", "/none"), "cannot read")):
        with pytest.raises(ValueError, match=text):
            connectors.options_of(parsed(*args), {})


def test_a_program_says_what_is_wrong(capsys, monkeypatch):
    monkeypatch.delenv("WALLAROO_CONNECTOR_ADDRESS", raising=False)
    with pytest.raises(SystemExit) as ended:
        connectors.run_source(args=[])
    assert ended.value.code == 2
    assert "no --address" in capsys.readouterr().err


class Running:
    """A coroutine in a thread of its own."""

    def __init__(self, work):
        self.error = None
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(work)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.loop.run_until_complete(self.task)
        except (Exception, asyncio.CancelledError) as error:
            self.error = error
        finally:
            self.loop.close()

    def end(self):
        self.thread.join(mocks.LIMIT_S)
        assert not self.thread.is_alive()
        return self.error

    def cancel(self):
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.task.cancel)
        self.end()


@pytest.fixture
def worker():
    made = mocks.ForSource()
    yield made
    made.close()


@pytest.fixture
def feed(worker):
    running = []

    def start(*sources):
        running.append(Running(connectors.serve_source(
            *sources, options=connectors.Options(
                "127.0.0.1", worker.port, COOKIE, "test"))))
        return running[-1]
    yield start
    for one in running:
        one.cancel()


class Numbers(connectors.Source):
    """Ten messages, two of them with a pause in front."""

    name = "numbers"
    idle = 0.001

    def __init__(self):
        self.calls = []
        self.threads = set()

    def seek(self, point):
        self.calls.append(("seek", point))
        self.next = 0 if point is None else point + 1
        self.paused = False

    def read(self):
        self.threads.add(threading.current_thread())
        if self.next in (3, 6) and not self.paused:
            self.paused = True
            return None
        self.paused = False
        if self.next == 10:
            raise connectors.EndOfStream
        self.next += 1
        return connectors.Record(self.next - 1, b"%d" % (self.next - 1),
                                 b"key")

    def ack(self, point):
        self.threads.add(threading.current_thread())
        self.calls.append(("ack", point))

    def close(self):
        self.calls.append("close")


class AsyncNumbers(Numbers):
    async def seek(self, point):
        super().seek(point)

    async def read(self):
        await asyncio.sleep(0)
        return super().read()

    async def ack(self, point):
        super().ack(point)

    async def close(self):
        super().close()


@pytest.mark.parametrize("kind", [Numbers, AsyncNumbers])
def test_source(worker, feed, kind):
    source = kind()
    running = feed(source)
    one = worker.accept()
    assert one.greet(6).cookie == COOKIE
    one.feed(4)
    stream, = one.open
    one.grant(0, [(stream, 2)])
    one.close()
    one = worker.accept()
    one.points = {stream: 2}
    one.greet(4)
    one.feed(8)
    assert one.got[stream] == [
        (n, b"key", b"%d" % n) for n in range(3, 10)]
    assert one.ended == {stream: 9}
    assert running.thread.is_alive()
    one.grant(4, [(stream, 9)])
    assert running.end() is None
    assert source.calls[0] == ("seek", None)
    assert source.calls.index(("seek", 2)) > 0
    assert source.calls[-2:] == [("ack", 9), "close"]
    assert len(source.threads) == 1


def test_generators(worker, feed):
    @connectors.source("plain")
    def plain(point):
        yield None
        yield 1, b"a"
        yield 2, b"b", b"key"

    @connectors.source("async")
    async def other(point):
        yield 7, b"c"

    running = feed(plain, other)
    one = worker.accept()
    one.greet(100)
    one.feed(4)
    got = {one.names[stream]: messages
           for stream, messages in one.got.items()}
    assert got == {b"plain": [(1, None, b"a"), (2, b"key", b"b")],
                   b"async": [(7, None, b"c")]}
    one.grant(10, list(one.ended.items()))
    assert running.end() is None


def test_an_empty_stream(worker, feed):
    @connectors.source("empty")
    def empty(point):
        return
        yield

    running = feed(empty)
    one = worker.accept()
    one.greet(100)
    one.feed(1)
    stream, = one.ended
    one.grant(2, [(stream, mocks.NOTHING)])
    assert running.end() is None


def test_what_the_author_does_wrong(worker, feed):
    @connectors.source("back")
    def back(point):
        yield 2, b"a"
        yield 2, b"b"

    @connectors.source("raises")
    def raises(point):
        raise KeyError("secret")
        yield

    @connectors.source("long")
    def long(point):
        yield 1, b"a" * (1 << 20)

    @connectors.source("disk")
    async def disk(point):
        raise OSError("no disk")
        yield

    for source, kind, text in ((disk, OSError, "no disk"),
                               (back, ValueError, "does not come after"),
                               (raises, KeyError, "secret"),
                               (long, ValueError, "too long")):
        running = feed(source)
        one = worker.accept()
        one.greet(100)
        while True:
            msg = one.read()
            if isinstance(msg, cwm.Error):
                break
            if isinstance(msg, cwm.Notify):
                one._notify(msg)
        assert msg.message == "the connector has failed: " + kind.__name__
        error = running.end()
        assert isinstance(error, kind) and text in str(error)
    with pytest.raises(ValueError, match="two sources are named"):
        asyncio.run(connectors.serve_source(
            back, back, options=connectors.Options("h", 1)))


def test_refused(worker, feed):
    running = feed(Numbers())
    one = worker.accept()
    one.hello()
    one.send(cwm.Error("Bad cookie"))
    assert isinstance(running.end(), connectors.Refused)


def test_a_worker_that_breaks_rules(worker, feed):
    feed(Numbers())
    for msg, text in ((cwm.Ok(3), "does not send"),
                      (cwm.NotifyAck(True, 7, 0), "no NOTIFY"),
                      (cwm.Restart("nonsense"), "RESTART")):
        one = worker.accept()
        one.greet(0)
        one.send(msg)
        assert text in one.ends()


class Log(connectors.Sink):
    """Keeps what it was told, and says no to what has a no in it."""

    made = {}

    def __init__(self, stream):
        super().__init__(stream)
        self.calls = []
        self.position = connectors.Position()
        Log.made[stream] = self

    def open(self):
        return self.position

    def write(self, offset, message):
        self.calls.append((offset, message))

    def prepare(self, transaction):
        self.calls.append(transaction)
        return not any(call[1] == b"no" for call in self.calls)

    def commit(self, transaction):
        self.calls = ["commit"]
        self.position = connectors.Position(transaction.end)

    def abort(self, transaction):
        self.calls = [("abort", transaction.start)]

    def workers_left(self, names):
        self.calls.append(("left", *names))


class AsyncLog(Log):
    async def open(self):
        return super().open()

    async def write(self, offset, message):
        await asyncio.sleep(0)
        super().write(offset, message)

    async def prepare(self, transaction):
        return super().prepare(transaction)

    async def commit(self, transaction):
        super().commit(transaction)


@pytest.mark.parametrize("kind", [Log, AsyncLog])
def test_sink(kind):
    port = mocks.free_port()
    running = Running(connectors.serve_sink(
        kind, options=connectors.Options("127.0.0.1", port, COOKIE)))
    try:
        one = mocks.ForSink(port, COOKIE).ready("w")
        assert one.write(0, b"ab", b"c") == 3
        assert one.ask(1, 0, 3)
        log = kind.made[one.stream]
        assert log.calls == [(0, b"ab"), (2, b"c"), (one.id(1), 0, 3)]
        one.decide(1, True)
        one.write(3, b"no")
        assert not one.ask(2, 3, 5)
        one.decide(2, False)
        one.workers_left(["worker1"])
        assert one.ask(3, 3, 3)
        assert log.calls == [("abort", 3), ("left", "worker1"),
                             (one.id(3), 3, 3)]
        one.write(3, b"x")		# inside a transaction
        assert "inside" in one.ends()
        one.close()
    finally:
        running.cancel()


def test_a_sink_that_fails():
    class Fails(Log):
        def write(self, offset, message):
            raise OSError("no space left")

    port = mocks.free_port()
    running = Running(connectors.serve_sink(
        Fails, options=connectors.Options("127.0.0.1", port, COOKIE)))
    one = mocks.ForSink(port, COOKIE).ready("w")
    one.write(0, b"a")
    one.ends()
    one.close()
    assert "no space" in str(running.end())
