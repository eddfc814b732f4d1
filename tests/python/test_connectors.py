"""Source connectors against a worker that the tests play."""

import socket
import struct
import subprocess
import sys
import threading

import pytest

from wallaroo import experimental
from wallaroo.experimental import connector_wire_messages as cwm
from wallaroo.experimental import connectors

LIMIT = 30
NEVER = connectors.NOTHING


class Worker:
    """One side of the protocol, by hand."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(LIMIT)
        self.port = self.listener.getsockname()[1]
        self.socket = None

    def accept(self):
        self.socket = self.listener.accept()[0]
        self.socket.settimeout(LIMIT)

    def read(self):
        def exactly(n):
            data = b""
            while len(data) < n:
                piece = self.socket.recv(n - len(data))
                assert piece, "the connector has closed the connection"
                data += piece
            return data
        return cwm.Frame.decode(exactly(struct.unpack(">I", exactly(4))[0]))

    def send(self, *messages):
        self.socket.sendall(b"".join(map(cwm.Frame.encode, messages)))

    def welcome(self, credits=100):
        self.accept()
        hello = self.read()
        assert hello == cwm.Hello("0.0.1", "cookie", "program", "one")
        self.send(cwm.Ok(credits))

    def ended(self):
        return self.socket.recv(1) == b""

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.listener.close()


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


class Recorder(experimental.AtLeastOnceSourceConnector):
    def __init__(self, port):
        super().__init__(
            "0.0.1", "cookie", "program", "one", "127.0.0.1", port)
        self.events = []
        self.changed = threading.Condition()

    def note(self, kind, stream):
        with self.changed:
            self.events.append((kind, stream.id, stream.point_of_ref))
            self.changed.notify_all()

    def stream_added(self, stream):
        self.note("added", stream)

    def stream_opened(self, stream):
        self.note("opened", stream)

    def stream_closed(self, stream):
        self.note("closed", stream)

    def stream_acked(self, stream):
        self.note("acked", stream)

    def wait(self, *event):
        with self.changed:
            assert self.changed.wait_for(
                lambda: event in self.events, LIMIT), (event, self.events)


class Pair:
    """A connector that is connected, and its worker."""

    def __init__(self, worker, connector, credits=100):
        self.connector = connector
        thread = threading.Thread(target=worker.welcome, args=(credits,))
        thread.start()
        connector.connect()
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_stream(worker):
    c = Recorder(worker.port)
    Pair(worker, c, 10)
    assert c.credits == 10 and c.handshake_complete and c.writable()
    c.data = []
    c.notify(7, b"name")
    assert worker.read() == cwm.Notify(7, b"name", 0)
    with pytest.raises(experimental.ProtocolError, match="not open"):
        c.write(cwm.Message(7, 1, 0, None, b"early"))
    worker.send(cwm.NotifyAck(True, 7, NEVER))
    c.wait("opened", 7, NEVER)
    c.write(cwm.Message(7, 1, 0, b"k", b"one"))
    c.write(cwm.Message(7, 2, 0, None, b"two"))
    assert worker.read() == cwm.Message(7, 1, 0, b"k", b"one")
    assert worker.read() == cwm.Message(7, 2, 0, None, b"two")
    assert c.credits == 7
    worker.send(cwm.Ack(3, [(7, 2), (99, 5)]))
    c.wait("acked", 7, 2)
    assert c.credits == 10
    c.end_of_stream(7)
    assert worker.read() == cwm.EosMessage(7)
    assert len(c.data) == 4 and c._sent == 4
    c.shutdown()
    assert worker.ended() and c.join(LIMIT) is None
    assert [kind for kind, _, _ in c.events] == [
        "added", "added", "opened", "acked"]


def test_what_cannot_be_sent(worker):
    c = Recorder(worker.port)
    for msg in (cwm.Ok(1), cwm.Hello("", "", "", ""), "text"):
        with pytest.raises(experimental.ProtocolError):
            c.write(msg)
    with pytest.raises(experimental.ConnectorError, match="needs a name"):
        c.notify(1)
    c.notify(1, b"n")
    with pytest.raises(experimental.ConnectorError, match="point_of_ref"):
        c.notify(1, b"n")
    assert c.pending_sends() and c.credits == -1 and not c.writable()


def test_refused(worker):
    def refuse():
        worker.accept()
        worker.read()
        worker.send(cwm.Error("Bad cookie"))
    thread = threading.Thread(target=refuse)
    thread.start()
    c = Recorder(worker.port)
    with pytest.raises(experimental.ConnectorError, match="Bad cookie"):
        c.connect()
    thread.join(LIMIT)
    assert c.stopped.is_set() and str(c.join()) == "Bad cookie"


def test_nobody_listens(worker):
    worker.close()
    c = Recorder(worker.port)
    with pytest.raises(OSError):
        c.connect()
    assert c.stopped.is_set() and isinstance(c.join(), OSError)


def test_a_stream_that_is_refused_is_tried_again(worker):
    c = Recorder(worker.port)
    Pair(worker, c)
    c.notify(7, b"name")
    worker.read()
    worker.send(cwm.NotifyAck(False, 7, 5), cwm.Ack(1, []))
    assert worker.read() == cwm.Notify(7, b"name", 5)
    worker.send(cwm.NotifyAck(True, 7, 5))
    c.wait("opened", 7, 5)
    c.shutdown()


def test_the_worker_dies(worker):
    c = Recorder(worker.port)
    Pair(worker, c)
    c.notify(7, b"name")
    worker.read()
    worker.send(cwm.NotifyAck(True, 7, NEVER), cwm.Ack(0, [(7, 3)]))
    c.wait("acked", 7, 3)
    worker.socket.close()
    worker.welcome(50)
    assert worker.read() == cwm.Notify(7, b"name", 3)
    c.wait("closed", 7, 3)
    worker.send(cwm.NotifyAck(True, 7, 2))
    c.wait("opened", 7, 2)
    c.write(cwm.Message(7, 4, 0, None, b"x"))
    assert worker.read().message_id == 4
    c.shutdown()
    assert c.join(LIMIT) is None


def test_restart_elsewhere(worker):
    c = Recorder(worker.port)
    Pair(worker, c)
    c.notify(7, b"name")
    worker.read()
    worker.send(cwm.NotifyAck(True, 7, 1))
    c.wait("opened", 7, 1)
    other = Worker()
    worker.send(cwm.Restart("127.0.0.1:%d" % other.port))
    other.welcome(5)
    assert other.read() == cwm.Notify(7, b"name", 1)
    assert worker.ended()
    c.shutdown(cwm.Error("enough"))
    assert other.read() == cwm.Error("enough")
    other.close()
    assert c.join(LIMIT) == cwm.Error("enough")


@pytest.mark.parametrize("message,answer", [
    (cwm.Error("no more"), None),
    (cwm.EosMessage(1), "Invalid message"),
])
def test_errors_of_the_worker(worker, message, answer):
    c = Recorder(worker.port)
    Pair(worker, c)
    worker.send(message)
    if answer is not None:
        assert worker.read().message.startswith(answer)
    assert c.join(LIMIT) is not None


def test_a_subclass_that_raises(worker):
    class Bad(Recorder):
        def stream_opened(self, stream):
            raise KeyError("mine")

    c = Bad(worker.port)
    Pair(worker, c)
    c.notify(7, b"name")
    worker.read()
    worker.send(cwm.NotifyAck(True, 7, 1))
    assert isinstance(c.join(LIMIT), KeyError)


# -- sources ------------------------------------------------------------------

def framed(*records):
    return b"".join(struct.pack(">I", len(r)) + r for r in records)


@pytest.fixture
def framed_file(tmp_path):
    path = tmp_path / "framed"
    path.write_bytes(framed(b"abcd", b"", b"xyz"))
    return str(path)


def test_framed_file_reader(framed_file):
    reader = connectors.FramedFileReader(framed_file)
    assert isinstance(reader, connectors.BaseSource)
    assert isinstance(reader, connectors.BaseIter)
    assert reader.name == reader.key == framed_file.encode()
    assert list(reader) == [(b"abcd", 8), (b"", 12), (b"xyz", 19)]
    reader.reset(8)
    assert reader.next() == (b"", 12) and reader.point_of_ref() == 12
    reader.reset(NEVER)
    assert next(reader) == (b"abcd", 8)
    with pytest.raises(StopIteration):
        reader.throw(ValueError)
    assert framed_file in str(reader)
    reader.wallaroo_acked(8)
    reader.close()


def test_throttled_file_reader(framed_file, tmp_path):
    reader = connectors.ThrottledFileReader(framed_file, is_framed=True)
    assert list(reader) == [(b"abcd", 0), (b"", 8), (b"xyz", 12)]
    reader.reset(8)
    assert next(reader) == (b"", 8)
    reader.close()
    path = tmp_path / "lines"
    path.write_bytes(b"a\nbc\nd")
    reader = connectors.ThrottledFileReader(str(path), is_text_lines=True)
    assert list(reader) == [(b"a\n", 0), (b"bc\n", 2), (b"d", 5)]
    reader.close()
    slow = connectors.ThrottledFileReader(
        str(path), limit_rate=0, is_text_lines=True)
    assert next(slow) == (b"a\n", 0) and next(slow) == (None, 2)
    slow.close()
    for modes in ({}, {"is_framed": True, "is_text_lines": True}):
        with pytest.raises(ValueError):
            connectors.ThrottledFileReader(str(path), **modes)


def multi(worker):
    return connectors.MultiSourceConnector(
        "0.0.1", "cookie", "program", "one", "127.0.0.1", worker.port)


def test_stream_ids():
    assert connectors.MultiSourceConnector.get_id(b"celsius.msg") \
        == 12633152394524196402


def test_several_files(worker, tmp_path):
    names = []
    for n in range(3):
        path = tmp_path / ("file%d" % n)
        path.write_bytes(framed(*[b"%d.%d" % (n, i) for i in range(n * 5)]))
        names.append(str(path))
    c = multi(worker)
    for name in names[:2]:
        c.add_source(connectors.FramedFileReader(name))
    reader = connectors.FramedFileReader(names[0])
    with pytest.raises(experimental.ConnectorError, match="already"):
        c.add_source(reader)
    reader.close()
    Pair(worker, c, 1000)
    c.add_source(connectors.FramedFileReader(names[2]))
    got, ended = {}, 0
    last = {}
    while ended < 3:
        msg = worker.read()
        if isinstance(msg, cwm.Notify):
            got[msg.stream_id] = []
            last[msg.stream_id] = NEVER
            worker.send(cwm.NotifyAck(True, msg.stream_id, NEVER))
        elif isinstance(msg, cwm.Message):
            got[msg.stream_id].append(msg.message)
            last[msg.stream_id] = msg.message_id
            assert msg.key.decode() in names
        else:
            ended += 1
            worker.send(cwm.Ack(0, [(msg.stream_id,
                                     last[msg.stream_id])]))
    assert c.join(LIMIT) is None
    assert [got[c.get_id(name.encode())] for name in names] == [
        [b"%d.%d" % (n, i) for i in range(n * 5)] for n in range(3)]
    assert len(c.closed_sources) == len(c.closed) == 3 and not c.sources


def test_a_file_goes_on_where_it_was_acknowledged(worker, tmp_path):
    path = tmp_path / "file"
    records = [b"%04d" % n for n in range(10)]
    path.write_bytes(framed(*records))
    c = multi(worker)
    c.add_source(connectors.FramedFileReader(str(path)))
    Pair(worker, c, 1000)
    notify = worker.read()
    worker.send(cwm.NotifyAck(True, notify.stream_id, NEVER))
    assert [worker.read().message for _ in range(6)] == records[:6]
    worker.socket.close()		# nothing was acknowledged but 3
    worker.welcome(1000)
    assert worker.read().stream_id == notify.stream_id
    worker.send(cwm.NotifyAck(True, notify.stream_id, 24))
    assert [worker.read() for _ in range(7)] == [
        cwm.Message(notify.stream_id, 8 * (n + 1), 0,
                    str(path).encode(), records[n]) for n in range(3, 10)]
    assert worker.read() == cwm.EosMessage(notify.stream_id)
    worker.send(cwm.Ack(0, [(notify.stream_id, 80)]))
    assert c.join(LIMIT) is None


def test_credits_are_kept_to(worker, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(framed(*[b"x"] * 10))
    c = multi(worker)
    c.add_source(connectors.FramedFileReader(str(path)))
    Pair(worker, c, 3)
    stream = worker.read().stream_id
    worker.send(cwm.NotifyAck(True, stream, NEVER))
    assert [worker.read().message_id for _ in range(2)] == [5, 10]
    worker.socket.settimeout(0.3)
    with pytest.raises(OSError):
        worker.read()			# it has no credit left
    worker.socket.settimeout(LIMIT)
    worker.send(cwm.Ack(8, []))
    assert [worker.read().message_id for _ in range(8)] == [
        5 * n for n in range(3, 11)]
    c.shutdown()


def test_an_older_acknowledgement_goes_back(worker, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(framed(*[b"x"] * 100))
    c = multi(worker)
    reader = connectors.FramedFileReader(str(path))
    c.add_source(reader)
    key = c.get_id(reader.name)
    c._streams[key] = experimental.Stream(key, reader.name, 0, True)
    c.stream_opened(c._streams[key]._replace(point_of_ref=50))
    assert next(reader)[1] == 55
    c.stream_acked(c._streams[key]._replace(point_of_ref=20))
    assert next(reader)[1] == 25
    c.pending_eos_ack[key] = 25
    with pytest.raises(experimental.ConnectorError, match="it ended at 25"):
        c.stream_acked(c._streams[key]._replace(point_of_ref=30))
    reader.close()


def test_no_processor_time_while_idle(worker, environment):
    """A connector with nothing to do waits; it does not look again and
    again."""
    code = (
        "import sys, time, resource\n"
        "from wallaroo.experimental import connectors\n"
        "c = connectors.MultiSourceConnector('0.0.1', 'cookie', 'program',"
        " 'one', '127.0.0.1', int(sys.argv[1]))\n"
        "c.connect()\n"
        "turns = []\n"
        "real = c._turn\n"
        "c._turn = lambda: (turns.append(1), real())\n"
        "sys.stdin.read()\n"
        "c.shutdown()\n"
        "print(len(turns) < 50)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(worker.port)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.welcome()
    threading.Event().wait(0.5)		# to have time to be busy in
    out, _ = child.communicate("", timeout=LIMIT)
    assert out == "True\n"
