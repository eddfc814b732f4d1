"""The connector protocol by hand: one side of a connection, byte for byte.

Nothing of the package under test is used here, so that a mistake in its codec
cannot hide one in the worker's.
"""

import socket
import struct
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
