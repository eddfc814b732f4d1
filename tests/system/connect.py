"""The connector protocol by hand: one side of a connection, byte for byte.

Nothing of the package under test is used here, so that a mistake in its codec
cannot hide one in the worker's.
"""

import socket
import struct
import threading
import time

from harness import LIMIT, HarnessError

NOTHING = (1 << 64) - 1
COOKIE = "Dragons-Love-Tacos"

(HELLO, OK, ERROR, NOTIFY, NOTIFY_ACK, MESSAGE, ACK, RESTART, EOS) = range(9)


def short(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">H", len(data)) + data


def frame(tag, *parts):
    body = bytes([tag]) + b"".join(parts)
    return struct.pack(">I", len(body)) + body


def u64(*numbers):
    return struct.pack(">%dQ" % len(numbers), *numbers)


def hello(version="0.0.1", cookie=COOKIE, program="prog", instance="inst"):
    return frame(HELLO, short(version), short(cookie), short(program),
                 short(instance))


def notify(stream, name="s", point=0):
    return frame(NOTIFY, u64(stream), short(name), u64(point))


def message(stream, number, body, key=b""):
    return frame(MESSAGE, u64(stream, number), struct.pack(">q", 0),
                 short(key), body)


def eos(stream):
    return frame(EOS, u64(stream))


class Closed(Exception):
    """The other side has ended the connection."""


class Peer:
    """A connector that feeds a source."""

    def __init__(self, port, limit=None, greet=True):
        self.limit = LIMIT if limit is None else limit
        self.received = b""
        self.credits = 0
        self.acked = {}
        self.restarts = []
        deadline = time.monotonic() + self.limit
        while True:
            try:
                self.sock = socket.create_connection(
                    ("127.0.0.1", port), self.limit)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise HarnessError("nobody listens on %d" % port)
                time.sleep(0.02)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if greet:
            self.send(hello())
            tag, body = self.read()
            assert tag == OK, (tag, body)
            self.credits = struct.unpack(">I", body)[0]

    def send(self, *frames):
        try:
            self.sock.sendall(b"".join(frames))
        except OSError as error:
            raise Closed(str(error)) from None

    def read(self, limit=None):
        """The next frame's tag and body."""
        self.sock.settimeout(self.limit if limit is None else limit)
        while True:
            if len(self.received) >= 4:
                size = 4 + struct.unpack(">I", self.received[:4])[0]
                if len(self.received) >= size:
                    got = self.received[4:size]
                    self.received = self.received[size:]
                    return got[0], got[1:]
            try:
                piece = self.sock.recv(1 << 16)
            except socket.timeout:
                raise HarnessError("no answer in %g s" % self.limit) from None
            except OSError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("end")
            self.received += piece

    def take(self):
        """The next frame; credits and points of an ACK are noted."""
        tag, body = self.read()
        if tag == ACK:
            credits, count = struct.unpack(">II", body[:8])
            assert len(body) == 8 + 16 * count
            self.credits += credits
            for at in range(8, len(body), 16):
                stream, point = struct.unpack(">QQ", body[at:at + 16])
                self.acked[stream] = point
        if tag == RESTART:
            self.restarts.append(body)
            raise Closed("told to connect again")
        return tag, body

    def expect(self, tag):
        """The body of the next frame that is no ACK, which must be this."""
        while True:
            got, body = self.take()
            if got == tag:
                return body
            assert got == ACK, (got, body)

    def error(self):
        """The text of the ERROR that must come; the end must follow."""
        body = self.expect(ERROR)
        try:
            while True:
                self.read()
        except Closed:
            return body[2:].decode()

    def notify(self, stream, point=0):
        """(success, point) of the answer."""
        self.send(notify(stream, "stream-%d" % stream, point))
        self.credits -= 1
        body = self.expect(NOTIFY_ACK)
        success, answered, at = struct.unpack(">BQQ", body)
        assert answered == stream
        return bool(success), at

    def open(self, stream):
        """Announce until it succeeds: its former connection may not have
        been given up yet.  The point."""
        while True:
            success, point = self.notify(stream)
            if success:
                return point
            time.sleep(0.05)

    def message(self, stream, number, body, key=b""):
        """One more message; waits for credits."""
        while self.credits <= 0:
            self.take()
        self.credits -= 1
        self.send(message(stream, number, body, key))

    def wait_acked(self, stream, point):
        while self.acked.get(stream) != point:
            tag, body = self.take()
            assert tag == ACK, (tag, body)

    def close(self):
        self.sock.close()


# -- sinks --------------------------------------------------------------------

(LIST_UNCOMMITTED, REPLY_UNCOMMITTED, PHASE1, REPLY, PHASE2,
 WORKERS_LEFT) = range(201, 207)


class Output:
    """What a sink has of one worker, as if it were on a disk."""

    def __init__(self):
        self.data = b""
        self.committed = 0
        self.ends = []			# of committed transactions
        self.prepared = None		# (id, start, end), voted yes
        self.must_abort = None		# why the next one is refused
        self.live = None		# the connection that there is
        self.ids = []			# of all transactions, in order

    def restart(self):
        """The sink's process was killed: what was not prepared is gone."""
        end = self.prepared[2] if self.prepared else self.committed
        self.data = self.data[:end]


class Sink:
    """A program that takes outputs by two-phase commit, and is strict.

    faults: called with (what, worker) at "message", "vote" and "commit";
    "close" closes the connection there, "closed-after" when the answer was
    sent, "no" refuses a transaction, "silent" does not answer.
    """

    def __init__(self, port=None, cookie=COOKIE, faults=None):
        self.cookie = cookie
        self.faults = faults or (lambda what, worker: None)
        self.outputs = {}
        self.errors = []		# rules that the worker has broken
        self.events = []
        self.sockets = []
        self.lock = threading.RLock()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port or 0))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(50)
        self.closed = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.closed:
            try:
                sock = self.listener.accept()[0]
            except OSError:
                return
            with self.lock:
                self.sockets.append(sock)
            threading.Thread(target=self.serve, args=(sock,),
                             daemon=True).start()

    def serve(self, sock):
        connection = SinkConnection(self, sock)
        try:
            connection.run()
        except (Closed, OSError):
            pass
        except BaseException as error:	# a rule was broken
            with self.lock:
                self.errors.append(repr(error))
        finally:
            with self.lock:
                if connection.output is not None \
                        and connection.output.live is connection:
                    connection.output.live = None
            sock.close()

    def crash(self):
        """All connections and all that was not prepared are gone."""
        with self.lock:
            for output in self.outputs.values():
                output.live = None
                output.restart()
            self.cut()

    def cut(self):
        with self.lock:
            for sock in self.sockets:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.sockets = []

    def committed(self):
        """By worker: what readers may trust."""
        with self.lock:
            return {worker: output.data[:output.committed]
                    for worker, output in self.outputs.items()}

    def lines(self):
        return [line for data in self.committed().values()
                for line in data.decode().splitlines()]

    def close(self):
        self.closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)	# wakes accept()
        except OSError:
            pass
        self.listener.close()
        self.cut()


class SinkConnection:
    def __init__(self, sink, sock):
        self.sink, self.sock = sink, sock
        self.output = None
        self.worker = None
        self.rest = b""

    def frames(self):
        while True:
            while len(self.rest) >= 4:
                size = 4 + struct.unpack(">I", self.rest[:4])[0]
                if len(self.rest) < size:
                    break
                got, self.rest = self.rest[4:size], self.rest[size:]
                yield got[0], got[1:]
            piece = self.sock.recv(1 << 16)
            if not piece:
                raise Closed("end")
            self.rest += piece

    def send(self, data):
        self.sock.sendall(data)

    def inner(self, *parts):
        self.send(frame(MESSAGE, u64(0, 0, 0), short(b""), *parts))

    def run(self):
        stream = None
        for tag, body in self.frames():
            with self.sink.lock:
                if tag == HELLO:
                    self.hello(body)
                elif tag == NOTIFY:
                    stream = self.notify(body)
                elif tag == ERROR:
                    raise AssertionError("worker says %r" % body)
                else:
                    assert tag == MESSAGE and stream is not None, tag
                    number, offset, time_ = struct.unpack(">QQq", body[:24])
                    assert body[24:26] == b"\0\0" and time_ == 0
                    if number == 0:
                        self.control(stream, body[26:])
                    else:
                        assert number == 1
                        self.data(offset, body[26:])

    def hello(self, body):
        texts = []
        while body:
            n = struct.unpack(">H", body[:2])[0]
            texts.append(body[2:2 + n].decode())
            body = body[2 + n:]
        version, cookie, program, self.worker = texts
        assert version == "v0.0.1" and program
        if cookie != self.sink.cookie:
            self.send(frame(ERROR, short("cookie\n\"\x1b")))
            raise Closed("cookie")
        output = self.sink.outputs.setdefault(self.worker, Output())
        if output.live is not None:
            self.send(frame(ERROR, short("there is one already")))
            raise Closed("twice")
        output.live, self.output = self, output
        self.send(frame(OK, struct.pack(">I", 500)))

    def notify(self, body):
        stream, n = struct.unpack(">QH", body[:10])
        assert stream == 1
        assert len(body) == 18 + n
        self.send(frame(NOTIFY_ACK, b"\1", u64(1, len(self.output.data))))
        return body[10:10 + n]

    def data(self, offset, body):
        output = self.output
        assert body, "an empty message"
        # After an answer it waits for the decision.
        assert output.prepared is None, "data inside a transaction"
        fault = self.sink.faults("message", self.worker)
        if fault == "close":
            raise Closed("of its own")
        if offset > len(output.data):
            output.must_abort = "gap"
            return
        assert offset == len(output.data), "%d comes again, have %d" % (
            offset, len(output.data))
        output.data += body

    def control(self, stream, body):
        output, tag = self.output, body[0]
        if tag == LIST_UNCOMMITTED:
            ids = [output.prepared[0]] if output.prepared else []
            self.sink.events.append((self.worker, "list", ids))
            self.inner(bytes([REPLY_UNCOMMITTED]), body[1:9],
                       struct.pack(">I", len(ids)), *map(short, ids))
            return
        if tag == WORKERS_LEFT:
            self.workers_left(body)
            return
        n = struct.unpack(">H", body[1:3])[0]
        name, rest = body[3:3 + n], body[3 + n:]
        assert name.startswith(stream + b":c_id="), name
        if tag == PHASE1:
            self.phase1(name, rest)
            return
        assert tag == PHASE2 and len(rest) == 1, (tag, rest)
        self.phase2(name, rest == b"\1")

    def workers_left(self, body):
        rtag, count = struct.unpack(">QI", body[1:13])
        assert rtag == 7
        names, at = [], 13
        for _ in range(count):
            n = struct.unpack(">H", body[at:at + 2])[0]
            names.append(body[at + 2:at + 2 + n].decode())
            at += 2 + n
        assert names and at == len(body)
        self.sink.events.append((self.worker, "left", names))

    def phase1(self, name, rest):
        output = self.output
        count, stream, start, end = struct.unpack(">IQQQ", rest)
        assert (count, stream) == (1, 1) and output.prepared is None
        assert name not in output.ids, "%r is used twice" % name
        output.ids.append(name)
        why = output.must_abort
        output.must_abort = None
        if start != output.committed or start > end:
            raise AssertionError("from %d to %d, %d is committed" % (
                start, end, output.committed))
        if end > len(output.data):
            why = why or "more than has come"
        fault = self.sink.faults("vote", self.worker)
        if fault == "close":
            raise Closed("before the vote")
        if fault == "silent":
            return
        yes = why is None and fault != "no"
        if yes:
            output.prepared = (name, start, end)
        self.sink.events.append((self.worker, "yes" if yes else "no", end))
        self.inner(bytes([REPLY]), short(name), b"\1" if yes else b"\0")
        if fault == "closed-after":
            raise Closed("after the vote")

    def phase2(self, name, commit):
        output = self.output
        self.sink.events.append((self.worker, "commit" if commit else
                                 "abort", output.prepared))
        if output.prepared is None:
            assert not commit, "%r was never prepared" % name
            output.data = output.data[:output.committed]
            return
        assert name == output.prepared[0]
        if commit:
            output.committed = output.prepared[2]
            output.ends.append(output.committed)
        else:
            output.data = output.data[:output.prepared[1]]
        output.prepared = None
        if self.sink.faults("commit", self.worker) == "close":
            raise Closed("after the commit")
