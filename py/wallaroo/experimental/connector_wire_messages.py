"""Messages between connectors and workers, as bytes.

A frame is a 4-byte length, a tag and a body, everything big-endian; encode()
and decode() of a message are about its body.  Short texts have 2 bytes of
length in front.  Bodies that are cut off and texts that are too long raise
FrameError; what stands behind a body is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

U64_MAX = (1 << 64) - 1
Text = Union[str, bytes]


class FrameError(ValueError):
    """Bytes that are no message."""


class _Reader:
    """A cursor over a body."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        self.at = 0

    def take(self, n: int) -> bytes:
        piece = self.data[self.at:self.at + n]
        if len(piece) < n:
            raise FrameError("a message ends inside a field")
        self.at += n
        return piece

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        value: int = struct.unpack(form, self.take(size))[0]
        return value

    def short(self) -> bytes:
        return self.take(self.number(">H"))

    def text(self) -> str:
        try:
            return self.short().decode("utf-8")
        except UnicodeDecodeError as error:
            raise FrameError("a text is not UTF-8") from error

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def _short(value: Text) -> bytes:
    raw = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    if len(raw) > 0xFFFF:
        raise FrameError("a text of %d bytes is too long" % len(raw))
    return struct.pack(">H", len(raw)) + raw


class _Body:
    """What all messages have in common: fields by name."""

    _fields: tuple[str, ...] = ()

    def encode(self) -> bytes:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name)
            for name in self._fields
        )

    def __hash__(self) -> int:
        return hash((type(self), self.encode()))

    def __str__(self) -> str:
        return "%s(%s)" % (type(self).__name__, ", ".join(
            "%s=%r" % (name, getattr(self, name)) for name in self._fields
        ))

    __repr__ = __str__


class Hello(_Body):
    """The first message of a connector."""

    _fields = ("version", "cookie", "program_name", "instance_name")

    def __init__(
        self, version: str, cookie: str, program_name: str, instance_name: str
    ) -> None:
        self.version = version
        self.cookie = cookie
        self.program_name = program_name
        self.instance_name = instance_name

    def encode(self) -> bytes:
        return b"".join(_short(getattr(self, name)) for name in self._fields)

    @staticmethod
    def decode(bs: bytes) -> Hello:
        r = _Reader(bs)
        return Hello(r.text(), r.text(), r.text(), r.text())


class Ok(_Body):
    """Welcome, with so many credits."""

    _fields = ("initial_credits",)

    def __init__(self, initial_credits: int) -> None:
        self.initial_credits = initial_credits

    def encode(self) -> bytes:
        return struct.pack(">I", self.initial_credits)

    @staticmethod
    def decode(bs: bytes) -> Ok:
        return Ok(_Reader(bs).number(">I"))


class Error(_Body):
    """Why the connection ends."""

    _fields = ("message",)

    def __init__(self, msg: str) -> None:
        self.message = msg

    def encode(self) -> bytes:
        return _short(self.message)

    @staticmethod
    def decode(bs: bytes) -> Error:
        return Error(_Reader(bs).text())


class Notify(_Body):
    """A stream begins, or goes on."""

    _fields = ("stream_id", "stream_name", "point_of_ref")

    def __init__(
        self, stream_id: int, stream_name: Text, point_of_ref: int = 0
    ) -> None:
        self.stream_id = stream_id
        self.stream_name = stream_name
        self.point_of_ref = point_of_ref

    def encode(self) -> bytes:
        return (
            struct.pack(">Q", self.stream_id) + _short(self.stream_name)
            + struct.pack(">Q", self.point_of_ref)
        )

    @staticmethod
    def decode(bs: bytes) -> Notify:
        r = _Reader(bs)
        return Notify(r.number(">Q"), r.short(), r.number(">Q"))


class NotifyAck(_Body):
    """Whether a stream may send, and from where on."""

    _fields = ("notify_success", "stream_id", "point_of_ref")

    def __init__(
        self, notify_success: bool, stream_id: int, point_of_ref: int
    ) -> None:
        self.notify_success = notify_success
        self.stream_id = stream_id
        self.point_of_ref = point_of_ref

    def encode(self) -> bytes:
        return struct.pack(
            ">BQQ", bool(self.notify_success), self.stream_id,
            self.point_of_ref,
        )

    @staticmethod
    def decode(bs: bytes) -> NotifyAck:
        r = _Reader(bs)
        return NotifyAck(
            r.number(">B") != 0, r.number(">Q"), r.number(">Q")
        )


class Message(_Body):
    """One message of a stream; without key or body they are None."""

    _fields = ("stream_id", "message_id", "event_time", "key", "message")

    def __init__(
        self,
        stream_id: int,
        message_id: int,
        event_time: int,
        key: Optional[bytes] = None,
        message: Optional[bytes] = None,
    ) -> None:
        for name, value in (("key", key), ("message", message)):
            if value is not None and not isinstance(
                value, (bytes, bytearray)
            ):
                raise TypeError(
                    "%s must be bytes or None, not %s"
                    % (name, type(value).__name__)
                )
        self.stream_id = stream_id
        self.message_id = message_id
        self.event_time = event_time
        self.key = key
        self.message = message

    def encode(self) -> bytes:
        return (
            struct.pack(
                ">QQq", self.stream_id, self.message_id, self.event_time
            )
            + _short(self.key or b"") + bytes(self.message or b"")
        )

    @staticmethod
    def decode(bs: bytes) -> Message:
        r = _Reader(bs)
        return Message(
            r.number(">Q"), r.number(">Q"), r.number(">q"),
            r.short() or None, r.rest() or None,
        )


class Ack(_Body):
    """New credits, and how far streams are safe."""

    _fields = ("credits", "acks")

    def __init__(
        self, credits: int, acks: Iterable[tuple[int, int]]
    ) -> None:
        self.credits = credits
        self.acks = [(stream, point) for stream, point in acks]

    def encode(self) -> bytes:
        return struct.pack(">II", self.credits, len(self.acks)) + b"".join(
            struct.pack(">QQ", stream, point) for stream, point in self.acks
        )

    @staticmethod
    def decode(bs: bytes) -> Ack:
        r = _Reader(bs)
        credits, n = r.number(">I"), r.number(">I")
        return Ack(credits, [
            (r.number(">Q"), r.number(">Q")) for _ in range(n)
        ])


class Restart(_Body):
    """Connect again, maybe to another address."""

    _fields = ("address",)

    def __init__(self, address: Optional[str] = None) -> None:
        self.address = address

    def encode(self) -> bytes:
        raw = (self.address or "").encode("utf-8")
        return struct.pack(">I", len(raw)) + raw

    @staticmethod
    def decode(bs: bytes) -> Restart:
        if len(bs) == 0:
            return Restart()
        r = _Reader(bs)
        raw = r.take(r.number(">I"))
        try:
            return Restart(raw.decode("utf-8") or None)
        except UnicodeDecodeError as error:
            raise FrameError("an address is not UTF-8") from error


class EosMessage(_Body):
    """A stream has ended."""

    _fields = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id

    def encode(self) -> bytes:
        return struct.pack(">Q", self.stream_id)

    @staticmethod
    def decode(bs: bytes) -> EosMessage:
        return EosMessage(_Reader(bs).number(">Q"))


class WorkersLeft(_Body):
    """These workers are no more."""

    _fields = ("rtag", "leaving_workers")

    def __init__(self, rtag: int, leaving_workers: Iterable[Text]) -> None:
        self.rtag = rtag
        self.leaving_workers = list(leaving_workers)

    def encode(self) -> bytes:
        return _tagged_texts(self.rtag, self.leaving_workers)

    @staticmethod
    def decode(bs: bytes) -> WorkersLeft:
        return WorkersLeft(*_read_tagged_texts(bs))


class ListUncommitted(_Body):
    """Which transactions are in doubt?"""

    _fields = ("rtag",)

    def __init__(self, rtag: int) -> None:
        self.rtag = rtag

    def encode(self) -> bytes:
        return struct.pack(">Q", self.rtag)

    @staticmethod
    def decode(bs: bytes) -> ListUncommitted:
        return ListUncommitted(_Reader(bs).number(">Q"))


class ReplyUncommitted(_Body):
    """These are."""

    _fields = ("rtag", "txn_ids")

    def __init__(self, rtag: int, txn_ids: Iterable[Text]) -> None:
        self.rtag = rtag
        self.txn_ids = list(txn_ids)

    def encode(self) -> bytes:
        return _tagged_texts(self.rtag, self.txn_ids)

    @staticmethod
    def decode(bs: bytes) -> ReplyUncommitted:
        return ReplyUncommitted(*_read_tagged_texts(bs))


class TwoPCPhase1(_Body):
    """Can you commit?  where_list: (stream, start, end)."""

    _fields = ("txn_id", "where_list")

    def __init__(
        self, txn_id: Text, where_list: Iterable[Sequence[int]]
    ) -> None:
        self.txn_id = txn_id
        self.where_list = [
            (stream, start, end) for stream, start, end in where_list
        ]

    def encode(self) -> bytes:
        return (
            _short(self.txn_id) + struct.pack(">I", len(self.where_list))
            + b"".join(struct.pack(">QQQ", *w) for w in self.where_list)
        )

    @staticmethod
    def decode(bs: bytes) -> TwoPCPhase1:
        r = _Reader(bs)
        txn_id, n = r.text(), r.number(">I")
        return TwoPCPhase1(txn_id, [
            (r.number(">Q"), r.number(">Q"), r.number(">Q"))
            for _ in range(n)
        ])


class _Decision(_Body):
    _fields = ("txn_id", "commit")

    def __init__(self, txn_id: Text, commit: bool) -> None:
        self.txn_id = txn_id
        self.commit = commit

    def encode(self) -> bytes:
        return _short(self.txn_id) + struct.pack(">B", bool(self.commit))

    @classmethod
    def decode(cls, bs: bytes) -> Any:
        r = _Reader(bs)
        return cls(r.text(), r.number(">B") == 1)


class TwoPCReply(_Decision):
    """The sink can commit, or cannot."""


class TwoPCPhase2(_Decision):
    """What is decided."""


def _tagged_texts(rtag: int, texts: Sequence[Text]) -> bytes:
    return struct.pack(">QI", rtag, len(texts)) + b"".join(
        _short(text) for text in texts
    )


def _read_tagged_texts(bs: bytes) -> tuple[int, list[str]]:
    r = _Reader(bs)
    rtag, n = r.number(">Q"), r.number(">I")
    return rtag, [r.text() for _ in range(n)]


def encode_phase2r(txn_id: Text, commit: bool) -> bytes:
    """A decision without its tag."""
    return TwoPCPhase2(txn_id, commit).encode()


def decode_phase2r(bs: bytes) -> tuple[str, bool]:
    """The transaction and what is decided of it."""
    decision: TwoPCPhase2 = TwoPCPhase2.decode(bs)
    return str(decision.txn_id), decision.commit


def _tagged(tags: dict[int, Any], msg: Any) -> bytes:
    for tag, cls in tags.items():
        if type(msg) is cls:
            body: bytes = msg.encode()
            return struct.pack(">B", tag) + body
    raise TypeError("%r is no message of this kind" % (msg,))


def _of_tag(tags: dict[int, Any], bs: bytes) -> Any:
    if len(bs) == 0:
        raise FrameError("a frame without a tag")
    if bs[0] not in tags:
        raise FrameError("a frame with the unknown tag %d" % bs[0])
    return tags[bs[0]].decode(bytes(bs[1:]))


class Frame:
    """Messages with length and tag."""

    _TAGS: dict[int, Any] = {
        0: Hello, 1: Ok, 2: Error, 3: Notify, 4: NotifyAck, 5: Message,
        6: Ack, 7: Restart, 8: EosMessage, 9: WorkersLeft,
    }

    @classmethod
    def encode(cls, msg: Any) -> bytes:
        """Length, tag and body."""
        data = _tagged(cls._TAGS, msg)
        return struct.pack(">I", len(data)) + data

    @classmethod
    def decode(cls, bs: bytes) -> Any:
        """The message of tag and body, without length."""
        return _of_tag(cls._TAGS, bs)

    @staticmethod
    def read_header(bs: bytes) -> int:
        """The length of what follows."""
        return _Reader(bs).number(">I")


class TwoPCFrame:
    """Messages of two-phase commit with their tag; they travel as the body
    of a Message of stream 0."""

    _TAGS: dict[int, Any] = {
        201: ListUncommitted, 202: ReplyUncommitted, 203: TwoPCPhase1,
        204: TwoPCReply, 205: TwoPCPhase2, 206: WorkersLeft,
    }

    @classmethod
    def encode(cls, msg: Any) -> bytes:
        """Tag and body."""
        return _tagged(cls._TAGS, msg)

    @classmethod
    def decode(cls, bs: bytes) -> Any:
        """The message of tag and body."""
        return _of_tag(cls._TAGS, bs)
