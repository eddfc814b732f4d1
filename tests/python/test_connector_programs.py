"""Programs that feed a source and empty a sink, against a worker that the
tests play."""

import socket
import struct
import subprocess
import sys
import threading

import pytest

from test_connectors import LIMIT, NEVER, Worker
from wallaroo import experimental
from wallaroo.experimental import base_meta2, base_meta3
from wallaroo.experimental import connector_wire_messages as cwm

APPLICATION = '''
import wallaroo
from wallaroo import experimental

SEEN = []


@experimental.stream_message_encoder
def to_worker(text):
    return text.encode()


@experimental.stream_message_decoder
def from_worker(payload):
    return payload.decode()


@experimental.octet_message_encoder
def octets(text):
    return text.encode()


@wallaroo.decoder(header_length=2, length_fmt="<H")
def short(payload):
    return ("short", payload)


def application_setup(args):
    SEEN.append(args)
    source = experimental.SourceConnectorConfig(
        "feed", to_worker, from_worker, %d, "cookie", 10, 5)
    other = experimental.SourceConnectorConfig("other", octets, None, 1)
    sinks = [
        experimental.SinkConnectorConfig(
            "one", octets, from_worker, %d, "cookie"),
        experimental.SinkConnectorConfig("plain", octets, short, %d),
    ]
    pipeline = wallaroo.source("In", source).merge(
        wallaroo.source("Other", other))
    return wallaroo.build_application(
        "Connected", TO_SINK(pipeline, sinks))


def TO_SINK(pipeline, sinks):
    return pipeline.to_sinks(sinks)
'''


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


class Files:
    """An application module, and command lines for it."""

    def __init__(self, directory, source_port):
        self.ports = (source_port, free_port(), free_port())
        self.path = directory / "connected_app.py"
        self.path.write_text(APPLICATION % self.ports)

    def args(self, name, *more):
        return ["program", "--application-module", "connected_app",
                "--connector", name, *more]


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def files(tmp_path, worker, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Files(tmp_path, worker.port)
    sys.modules.pop("connected_app", None)


def test_names_of_the_application(files, monkeypatch):
    args = files.args("feed", "--feed-rate", "7", "--else", "x")
    base = experimental.BaseConnector(args, ["rate"], ["burst"])
    assert (base.params.rate, base.params.burst) == ("7", None)
    assert (base._host, base._port, base._cookie) == (
        "127.0.0.1", str(files.ports[0]), "cookie")
    assert (base._max_credits, base._refill_credits) == (10, 5)
    assert base._encoder.name() == "to_worker"
    assert sys.modules["connected_app"].SEEN == [args]
    monkeypatch.setattr(sys, "argv", files.args("other"))
    assert experimental.BaseConnector()._port == "1"
    with pytest.raises(RuntimeError, match="Unable to find a source "
                       "connector with the name one"):
        experimental.BaseConnector(files.args("one"))
    with pytest.raises(RuntimeError, match="Unable to find a sink "
                       "connector with the name feed"):
        experimental.SinkConnector(files.args("feed"))
    with pytest.raises(SystemExit):
        experimental.BaseConnector(files.args("feed"), ["rate"])
    with pytest.raises(SystemExit):	# host and port, if nothing is said
        experimental.SourceConnector(files.args("feed"))


def test_a_single_sink_is_found(files):
    files.path.write_text(files.path.read_text().replace(
        "pipeline.to_sinks(sinks)", "pipeline.to_sink(sinks[0])"))
    sink = experimental.SinkConnector(files.args("one"))
    assert sink._port == str(files.ports[1])


def test_bases_for_both_pythons():
    assert base_meta2.BaseMeta is base_meta3.BaseMeta

    class Derived(base_meta3.BaseMeta):
        pass
    assert isinstance(Derived(), base_meta2.BaseMeta)


# -- feeding a source ---------------------------------------------------------

def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def hello(worker, credits=100, point=NEVER):
    """Take the connector; the number of its stream."""
    worker.accept()
    assert worker.read() == cwm.Hello(
        "0.0.1", "cookie", "SourceConnector", "feed")
    worker.send(cwm.Ok(credits))
    notify = worker.read()
    assert notify.stream_name == b"feed"
    worker.send(cwm.NotifyAck(True, notify.stream_id, point))
    return notify.stream_id


@pytest.fixture
def source(files):
    source = experimental.SourceConnector(files.args("feed"), [])
    yield source
    source.close()


def connected(source, worker, **options):
    thread = in_thread(source.connect)
    stream = hello(worker, **options)
    thread.join(LIMIT)
    assert not thread.is_alive()
    return stream


def test_a_source_writes(source, worker):
    with pytest.raises(RuntimeError, match="Please call connect before"):
        source.write("too early")
    stream = connected(source, worker)
    source.write("a")
    source.write("b", event_time=7, key="k")
    assert worker.read() == cwm.Message(stream, 1, 0, None, b"a")
    assert worker.read() == cwm.Message(stream, 2, 7, b"k", b"b")
    assert source.count == 2


def test_a_source_goes_on_after_what_is_there(source, worker):
    stream = connected(source, worker, point=41)
    source.write("a")
    assert worker.read() == cwm.Message(stream, 42, 0, None, b"a")


def test_what_is_lost_is_sent_again(source, worker):
    stream = connected(source, worker, credits=6)
    for text in "abcd":
        source.write(text)
    for _ in "abcd":
        worker.read()
    worker.send(cwm.Ack(3, [(stream, 1)]))
    worker.socket.close()
    hello(worker, credits=3, point=2)
    assert worker.read() == cwm.Message(stream, 3, 0, None, b"c")
    assert worker.read() == cwm.Message(stream, 4, 0, None, b"d")
    worker.send(cwm.Ack(2, []))
    source.write("e")
    assert worker.read() == cwm.Message(stream, 5, 0, None, b"e")


def test_a_source_waits_for_credits(source, worker):
    """One is spent on the stream itself."""
    stream = connected(source, worker, credits=3)
    source.write("a")
    source.write("b")
    writing = in_thread(source.write, "c")
    assert [worker.read().message_id for _ in range(2)] == [1, 2]
    writing.join(0.2)
    assert writing.is_alive()
    worker.send(cwm.Ack(1, []))
    assert worker.read() == cwm.Message(stream, 3, 0, None, b"c")
    writing.join(LIMIT)


def test_what_is_kept_has_a_limit(source, worker, monkeypatch):
    from wallaroo.experimental import _programs
    monkeypatch.setattr(_programs, "KEPT_BYTES", 10)
    connected(source, worker)
    for n in range(20):
        source.write("xyz")
    assert [m.message_id for m in source._sender.kept] == [18, 19, 20]


def test_a_refused_source(source, worker):
    failures = []

    def connect():
        try:
            source.connect()
        except experimental.ConnectorError as error:
            failures.append(str(error))
    thread = in_thread(connect)
    worker.accept()
    worker.read()
    worker.send(cwm.Error("Bad cookie"))
    thread.join(LIMIT)
    assert failures == ["Bad cookie"]


def test_a_write_after_the_end_raises(source, worker):
    connected(source, worker)
    worker.send(cwm.Error("no more of it"))
    source._sender.join(LIMIT)
    with pytest.raises(experimental.ConnectorError, match="no more of it"):
        for _ in range(3):
            source.write("x")


def test_a_worker_that_is_not_there_yet(files, environment, worker):
    """A whole program: it waits for the worker, and when it ends all has
    been sent."""
    port = worker.port
    worker.listener.close()
    program = files.path.parent / "feeder.py"
    program.write_text(
        "import sys\nfrom wallaroo.experimental import SourceConnector\n"
        "connector = SourceConnector(required_params=['say'])\n"
        "print('wait', flush=True)\nconnector.connect()\n"
        "for n in range(2000):\n"
        "    connector.write('%s %d' % (connector.params.say, n))\n")
    child = subprocess.Popen(
        [sys.executable, str(program), *files.args("feed")[1:],
         "--feed-say", "word"], env=environment, stdout=subprocess.PIPE,
        text=True)
    assert child.stdout.readline() == "wait\n"
    worker.listener = socket.create_server(("127.0.0.1", port))
    worker.listener.settimeout(LIMIT)
    stream = hello(worker, credits=5000)
    for n in range(2000):
        assert worker.read() == cwm.Message(
            stream, n + 1, 0, None, b"word %d" % n)
    assert worker.ended()
    assert child.wait(LIMIT) == 0
    child.stdout.close()


# -- emptying a sink ----------------------------------------------------------

class Client:
    """What a worker is for a sink."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), LIMIT)

    def send(self, *messages):
        for message in messages:
            self.socket.sendall(cwm.Frame.encode(message))

    def read(self):
        with_length = b""
        while len(with_length) < 4 or len(with_length) < 4 + struct.unpack(
                ">I", with_length[:4])[0]:
            piece = self.socket.recv(1)
            assert piece, "it has closed the connection"
            with_length += piece
        return cwm.Frame.decode(with_length[4:])

    def open(self, name="w1", cookie="cookie"):
        self.send(cwm.Hello("v0.0.1", cookie, "Connected", name),
                  cwm.Notify(1, b"stream", 0),
                  phase(cwm.ListUncommitted(77)))

    def opened(self):
        assert self.read() == cwm.Ok(500)
        assert self.read() == cwm.NotifyAck(True, 1, 0)
        assert two_phase(self.read()) == cwm.ReplyUncommitted(77, [])


def phase(message):
    return cwm.Message(0, 0, 0, None, cwm.TwoPCFrame.encode(message))


def two_phase(message):
    assert message.stream_id == 0
    return cwm.TwoPCFrame.decode(message.message)


def output(offset, body):
    return cwm.Message(1, offset, 0, None, body)


@pytest.fixture
def sink(files):
    sink = experimental.SinkConnector(files.args("one"))
    with pytest.raises(RuntimeError, match="Please call listen before"):
        sink.read()
    sink.listen()
    yield sink
    for key in list(sink._selector.get_map().values()):
        key.fileobj.close()
    sink._selector.close()


@pytest.fixture
def client(sink, files):
    client = Client(files.ports[1])
    yield client
    client.socket.close()


def test_a_sink_reads(sink, client):
    client.open()
    client.send(output(0, b"abc"), output(3, b"de"))
    assert (sink.read(LIMIT), sink.read(LIMIT)) == ("abc", "de")
    client.opened()
    with pytest.raises(TimeoutError):
        sink.read(0.01)


def test_a_sink_agrees_to_transactions(sink, client):
    client.open()
    client.send(output(0, b"a"), phase(cwm.TwoPCPhase1("t:1", [(1, 0, 1)])),
                phase(cwm.TwoPCPhase2("t:1", True)),
                phase(cwm.WorkersLeft(7, ["w2"])), output(1, b"b"))
    assert (sink.read(LIMIT), sink.read(LIMIT)) == ("a", "b")
    client.opened()
    assert two_phase(client.read()) == cwm.TwoPCReply("t:1", True)


def test_a_sink_drops_what_came_before(sink, files):
    """A worker that recovered writes again from where its checkpoint was."""
    one, two = Client(files.ports[1]), Client(files.ports[1])
    one.open()
    one.send(output(0, b"a"), output(1, b"b"))
    assert (sink.read(LIMIT), sink.read(LIMIT)) == ("a", "b")
    one.socket.close()
    two.open()
    two.send(output(1, b"b"), output(2, b"c"), output(9, b"d"))
    assert (sink.read(LIMIT), sink.read(LIMIT)) == ("c", "d")
    other = Client(files.ports[1])
    other.open("w2")			# has offsets of its own
    other.send(output(0, b"A"))
    assert sink.read(LIMIT) == "A"
    for client in (two, other):
        client.socket.close()


@pytest.mark.parametrize("send,answer", [
    (lambda c: c.open(cookie="x"), "the cookie is another one"),
    (lambda c: (c.open(), c.send(cwm.Ack(1, []))), "a worker does not send"),
    (lambda c: (c.open(), c.socket.sendall(b"\xff" * 4)), "a frame of"),
    (lambda c: (c.open(), c.socket.sendall(b"\0\0\0\1\x63")), "unknown tag"),
])
def test_a_sink_refuses(sink, files, send, answer):
    wrong, right = Client(files.ports[1]), Client(files.ports[1])
    send(wrong)
    right.open()
    right.send(output(0, b"a"))
    assert sink.read(LIMIT) == "a"	# others are not disturbed
    with pytest.raises(TimeoutError):
        sink.read(0.1)
    while True:
        message = wrong.read()
        if isinstance(message, cwm.Error):
            break
    assert answer in message.message
    wrong.socket.close()
    right.socket.close()


def test_a_sink_takes_plain_frames(files):
    """Of a TCP sink, as the decoder says, in pieces."""
    sink = experimental.SinkConnector(files.args("plain"))
    sink.listen("127.0.0.1", files.ports[2], backlog=5)
    client = socket.create_connection(("127.0.0.1", files.ports[2]))
    raw = b"\3\0abc" + b"\0\0" + b"\2\0de" + b"\1\0f"
    for at in range(len(raw)):
        client.sendall(raw[at:at + 1])
    assert [sink.read(LIMIT) for _ in range(4)] == [
        ("short", b"abc"), ("short", b""), ("short", b"de"),
        ("short", b"f")]
    client.close()
    for key in list(sink._selector.get_map().values()):
        key.fileobj.close()
    sink._selector.close()


def test_plain_frames_of_connector_encoders(sink, files):
    """Their first bytes may look like a hello's."""
    encoder = sys.modules["connected_app"].to_worker
    client = socket.create_connection(("127.0.0.1", files.ports[1]))
    client.sendall(encoder.encode("x"))
    assert sink.read(LIMIT) == "\0" * 12 + "x"
    client.close()
