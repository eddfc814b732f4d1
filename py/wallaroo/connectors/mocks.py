"""A worker's side of the connector protocol, for tests of connectors.

ForSource listens and plays a worker to a program that feeds a source; ForSink
connects to a program that takes a sink.  Both are plain blocking sockets with
deadlines, keep account of what the program may do, and raise Broken where it
breaks a rule.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from ..experimental import connector_wire_messages as cwm

NOTHING = cwm.U64_MAX
LIMIT_S = 20.0
DATA = 1
RTAG = 77778


class Broken(Exception):
    """The program breaks a rule, or does not answer."""


class Ended(Exception):
    """The program has closed its connection."""


class Message(NamedTuple):
    """What a source has sent."""

    point: int
    key: Optional[bytes]
    body: bytes


class Connection:
    """Frames over a socket."""

    def __init__(self, sock: socket.socket, limit: float = LIMIT_S) -> None:
        self.socket = sock
        self.limit = limit
        self.bytes_at_once = 0  # 0: as many as there are
        self._rest = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *msgs: Any) -> None:
        self.send_bytes(b"".join(cwm.Frame.encode(msg) for msg in msgs))

    def send_bytes(self, data: bytes) -> None:
        size = self.bytes_at_once or max(len(data), 1)
        self.socket.settimeout(self.limit)
        try:
            for at in range(0, len(data), size):
                self.socket.sendall(data[at:at + size])
                if self.bytes_at_once:
                    time.sleep(0.001)  # a segment for each piece
        except socket.timeout:
            raise Broken(
                "it does not read what it is sent"
            ) from None
        except OSError as error:
            raise Ended(str(error)) from None

    def read(self, limit: Optional[float] = None) -> Any:
        """The next message; Broken after so many seconds without one."""
        limit = self.limit if limit is None else limit
        msg = self.read_within(limit)
        if msg is None:
            raise Broken("no message from it within %g s" % limit)
        return msg

    def read_within(self, limit: float) -> Any:
        """The next message, or None."""
        until = time.monotonic() + limit
        while True:
            if len(self._rest) >= 4:
                size = struct.unpack(">I", self._rest[:4])[0]
                if size > 1 << 20:
                    raise Broken("a frame of %d bytes" % size)
                if len(self._rest) >= 4 + size:
                    body = self._rest[4:4 + size]
                    self._rest = self._rest[4 + size:]
                    try:
                        return cwm.Frame.decode(body)
                    except ValueError as error:
                        raise Broken(str(error)) from None
            wait = until - time.monotonic()
            if wait <= 0:
                return None
            self.socket.settimeout(wait)
            try:
                data = self.socket.recv(1 << 16)
            except socket.timeout:
                return None
            except OSError as error:
                raise Ended(str(error)) from None
            if not data:
                raise Ended("the program has closed the connection")
            self._rest += data

    def ends(self) -> Optional[str]:
        """Wait for the end; the text of an ERROR before it."""
        text: Optional[str] = None
        try:
            while True:
                msg = self.read()
                if isinstance(msg, cwm.Error):
                    text = msg.message
        except Ended:
            return text

    def close(self) -> None:
        self.socket.close()


class FromSource(Connection):
    """A connection of a program that feeds a source."""

    def __init__(self, sock: socket.socket, limit: float = LIMIT_S) -> None:
        super().__init__(sock, limit)
        self.credits = 0
        self.max_credits = 0
        self.refused: set[int] = set()  # streams that are not opened
        self.points: dict[int, int] = {}  # what is told at NOTIFY
        self.names: dict[int, bytes] = {}
        self.open: dict[int, int] = {}  # stream: its last point
        self.ended: dict[int, int] = {}
        self.got: dict[int, list[Message]] = {}
        self.notified = 0
        self.count = 0  # messages

    def hello(self) -> cwm.Hello:
        msg = self.read()
        if not isinstance(msg, cwm.Hello):
            raise Broken("its first message is %s, not HELLO" % msg)
        return msg

    def ok(self, credits: int) -> None:
        self.credits = self.max_credits = credits
        self.send(cwm.Ok(credits))

    def greet(self, credits: int = 1000) -> cwm.Hello:
        msg = self.hello()
        self.ok(credits)
        return msg

    def grant(
        self, credits: int, acks: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.credits += credits
        self.send(cwm.Ack(credits, acks))

    def take(self, limit: Optional[float] = None) -> Any:
        """One message, checked and answered; None: nothing has come."""
        msg = self.read_within(self.limit if limit is None else limit)
        if msg is None:
            return None
        if isinstance(msg, cwm.Error):
            raise Broken("it says: " + msg.message)
        self.credits -= 1
        if self.credits < 0:
            raise Broken("it sends %s without a credit" % msg)
        if isinstance(msg, cwm.Notify):
            self._notify(msg)
        elif isinstance(msg, cwm.Message):
            self._message(msg)
        elif isinstance(msg, cwm.EosMessage):
            if msg.stream_id not in self.open:
                raise Broken("EOS of stream %d, which is not open"
                             % msg.stream_id)
            self.ended[msg.stream_id] = self.open.pop(msg.stream_id)
        else:
            raise Broken("a connector does not send %s" % msg)
        return msg

    def _notify(self, msg: cwm.Notify) -> None:
        stream = msg.stream_id
        name = msg.stream_name
        self.names[stream] = name if isinstance(name, bytes) \
            else name.encode()
        self.notified += 1
        success = stream not in self.refused and stream not in self.open
        point = self.points.get(stream, NOTHING)
        if success:
            self.open[stream] = point
            self.ended.pop(stream, None)
            self.got.setdefault(stream, [])
        self.send(cwm.NotifyAck(
            success, stream, point if success else msg.point_of_ref
        ))

    def _message(self, msg: cwm.Message) -> None:
        stream, point = msg.stream_id, msg.message_id
        if stream not in self.open:
            raise Broken("message %d of stream %d, which is not open"
                         % (point, stream))
        last = self.open[stream]
        if point == NOTHING or last != NOTHING and point <= last:
            raise Broken("message %d of stream %d after %d"
                         % (point, stream, last))
        self.open[stream] = point
        self.got[stream].append(Message(point, msg.key, msg.message or b""))
        self.count += 1

    def feed(self, count: int, limit: Optional[float] = None) -> None:
        """Take so many messages, or all, with credits as they are needed."""
        limit = self.limit if limit is None else limit
        until = time.monotonic() + limit
        while self.count < count and not self.all_ended():
            if self.credits <= self.max_credits // 2:
                self.grant(self.max_credits - self.credits)
            wait = until - time.monotonic()
            if wait <= 0 or self.take(wait) is None:
                break
        if self.count == 0 and not self.all_ended():
            raise Broken("no message of it within %g s" % limit)

    def all_ended(self) -> bool:
        return bool(self.ended) and not self.open

    def last_points(self) -> list[tuple[int, int]]:
        return [*self.open.items(), *self.ended.items()]


class ForSource:
    """Where a program that feeds a source connects to."""

    def __init__(self, limit: float = LIMIT_S, port: int = 0) -> None:
        self.limit = limit
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self.listener.getsockname()[1]

    @property
    def address(self) -> str:
        return "127.0.0.1:%d" % self.port

    def accept(self, limit: Optional[float] = None) -> FromSource:
        limit = self.limit if limit is None else limit
        found = self.accept_within(limit)
        if found is None:
            raise Broken("it does not connect within %g s" % limit)
        return found

    def accept_within(self, limit: float) -> Optional[FromSource]:
        self.listener.settimeout(max(limit, 0.001))
        try:
            sock = self.listener.accept()[0]
        except socket.timeout:
            return None
        return FromSource(sock, self.limit)

    def close(self) -> None:
        self.listener.close()


class ToSink(Connection):
    """A worker that is connected to a program that takes a sink."""

    def __init__(
        self, sock: socket.socket, worker: str, limit: float = LIMIT_S
    ) -> None:
        super().__init__(sock, limit)
        self.worker = worker
        self.stream = "kit-w-%s-id-out" % worker

    def greet(
        self, cookie: str, version: str = "v0.0.1", point: int = 0
    ) -> list[str]:
        """All of the greeting; the transactions that are in doubt."""
        self.send(
            cwm.Hello(version, cookie, "kit", self.worker),
            cwm.Notify(DATA, self.stream, point),
            self.inner(cwm.ListUncommitted(RTAG)),
        )
        ok = self.read()
        if isinstance(ok, cwm.Error):
            raise Broken("it says: " + ok.message)
        if not isinstance(ok, cwm.Ok) or ok.initial_credits < 2:
            raise Broken("HELLO is answered by %s, not OK with two credits "
                         "or more" % ok)
        answer = self.read()
        if not isinstance(answer, cwm.NotifyAck) \
                or not answer.notify_success or answer.stream_id != DATA:
            raise Broken("NOTIFY is answered by %s" % answer)
        listed = self.read_inner()
        if not isinstance(listed, cwm.ReplyUncommitted) \
                or listed.rtag != RTAG:
            raise Broken("ListUncommitted(%d) is answered by %s"
                         % (RTAG, listed))
        return [str(txn) for txn in listed.txn_ids]

    @staticmethod
    def inner(msg: Any) -> cwm.Message:
        return cwm.Message(0, 0, 0, None, cwm.TwoPCFrame.encode(msg))

    def read_inner(self) -> Any:
        msg = self.read()
        if isinstance(msg, cwm.Error):
            raise Broken("it says: " + msg.message)
        if not isinstance(msg, cwm.Message) or msg.stream_id != 0:
            raise Broken("it sends %s, not a MESSAGE on stream 0" % msg)
        try:
            return cwm.TwoPCFrame.decode(msg.message or b"")
        except ValueError as error:
            raise Broken(str(error)) from None

    def write(self, offset: int, *bodies: bytes) -> int:
        """Data from this offset on; where it ends."""
        data = []
        for body in bodies:
            data.append(cwm.Frame.encode(
                cwm.Message(DATA, offset, 0, None, body)
            ))
            offset += len(body)
        self.send_bytes(b"".join(data))
        return offset

    def id(self, number: int) -> str:
        return "%s:c_id=%d" % (self.stream, number)

    def ask(self, number: int, start: int, end: int) -> bool:
        """Phase 1; the vote."""
        self.send(self.inner(
            cwm.TwoPCPhase1(self.id(number), [(DATA, start, end)])
        ))
        msg = self.read_inner()
        if not isinstance(msg, cwm.TwoPCReply) \
                or msg.txn_id != self.id(number):
            raise Broken("Phase1 of %s is answered by %s"
                         % (self.id(number), msg))
        return bool(msg.commit)

    def decide(self, number: int, commit: bool) -> None:
        """Phase 2, which is not answered."""
        self.send(self.inner(cwm.TwoPCPhase2(self.id(number), commit)))

    def workers_left(self, names: Sequence[str]) -> None:
        self.send(self.inner(cwm.WorkersLeft(7, names)))


class ForSink:
    """The workers of an application that has the program as a sink."""

    def __init__(
        self, port: int, cookie: str, limit: float = LIMIT_S,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.port = port
        self.cookie = cookie
        self.limit = limit

    def connect(self, worker: str) -> ToSink:
        """As soon as it listens."""
        until = time.monotonic() + self.limit
        while True:
            try:
                sock = socket.create_connection((self.host, self.port))
                return ToSink(sock, worker, self.limit)
            except OSError as error:
                if time.monotonic() > until:
                    raise Broken("it does not listen on port %d: %s"
                                 % (self.port, error)) from None
                time.sleep(0.02)

    def ready(
        self, worker: str, must: Optional[str] = None,
        may: Optional[str] = None,
    ) -> ToSink:
        """Connected and greeted; this transaction must be in doubt, or that
        one may be, since its commit came shortly before: it is committed."""
        made = self.connect(worker)
        listed = made.greet(self.cookie)
        if listed == [may]:
            made.send(made.inner(cwm.TwoPCPhase2(listed[0], True)))
        elif listed != ([] if must is None else [must]):
            made.close()
            raise Broken("it has %s in doubt, not %s" % (
                ", ".join(listed) or "nothing", must or "nothing"))
        return made


def free_port() -> int:
    """A port that nobody has, for a program that is about to listen."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port
