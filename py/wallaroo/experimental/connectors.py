"""Sources for connectors: readers of files, and many sources at once."""

from __future__ import annotations

import hashlib
import struct
import time
from abc import ABC, abstractmethod
from typing import Any, Optional

from . import connector_wire_messages as cwm
from ._errors import ConnectorError, Stream
from ._source import AtLeastOnceSourceConnector

# As a point of reference: nothing was ever acknowledged.
NOTHING = cwm.U64_MAX


class BaseIter(ABC):
    """An iterator with the methods of a generator."""

    def __iter__(self) -> Any:
        return self

    @abstractmethod
    def __next__(self) -> Any: ...

    def next(self) -> Any:
        return self.__next__()

    def throw(self, *args: Any) -> Any:
        raise StopIteration


class BaseSource(ABC):
    """What MultiSourceConnector reads.

    It has a name and a key, both bytes, and close(); __next__ gives (bytes
    or None, point of reference).
    """

    name: bytes
    key: bytes

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def reset(self, pos: int = 0) -> None:
        """Go on after this point of reference; NOTHING: at the beginning."""

    @abstractmethod
    def point_of_ref(self) -> int: ...

    @abstractmethod
    def __next__(self) -> tuple[Optional[bytes], int]: ...

    @abstractmethod
    def wallaroo_acked(self, point_of_ref: int) -> None:
        """Up to here it is safe."""

    def close(self) -> None:
        """It is not needed any more."""


class _FileReader(BaseIter, BaseSource):
    def __init__(self, filename: str) -> None:
        self.file = open(filename, "rb")
        self.name = self.key = filename.encode()

    def __str__(self) -> str:
        return "%s(%s)" % (type(self).__name__, self.name.decode())

    def reset(self, pos: int = 0) -> None:
        self.file.seek(0 if pos == NOTHING else pos)

    def point_of_ref(self) -> int:
        return self.file.tell()

    def wallaroo_acked(self, point_of_ref: int) -> None:
        pass

    def close(self) -> None:
        self.file.close()

    def _framed(self) -> bytes:
        header = self.file.read(4)
        if len(header) < 4:
            raise StopIteration
        body = self.file.read(struct.unpack(">I", header)[0])
        return body


class FramedFileReader(_FileReader):
    """Records with 4 bytes of length in front; the point of reference is
    where a record ends."""

    def __next__(self) -> tuple[Optional[bytes], int]:
        body = self._framed()
        return (body, self.file.tell())


class ThrottledFileReader(_FileReader):
    """Framed records or lines, so many bytes a second at most; the point of
    reference is where a record begins, so the last one is sent again."""

    def __init__(
        self,
        filename: str,
        limit_rate: int = 999999999,
        is_framed: bool = False,
        is_text_lines: bool = False,
    ) -> None:
        if is_framed == is_text_lines:
            raise ValueError("either is_framed or is_text_lines")
        super().__init__(filename)
        self.limit_rate = limit_rate
        self.is_framed = is_framed
        self.begun = time.monotonic()
        self.given = 0

    def __next__(self) -> tuple[Optional[bytes], int]:
        begin = self.file.tell()
        allowed = (time.monotonic() - self.begun) * self.limit_rate
        if self.given > allowed:
            return (None, begin)
        record = self._framed() if self.is_framed else self.file.readline()
        if not record and not self.is_framed:
            raise StopIteration
        self.given += self.file.tell() - begin
        return (record, begin)


class MultiSourceConnector(AtLeastOnceSourceConnector, BaseIter):
    """Sends what several sources give, each as a stream."""

    def __init__(
        self,
        version: str,
        cookie: str,
        program_name: str,
        instance_name: str,
        host: str,
        port: Any,
        delay: float = 0,
    ) -> None:
        super().__init__(
            version, cookie, program_name, instance_name, host, port, delay
        )
        # By stream: the source, and what was acknowledged of it last.
        self.sources: dict[int, list[Any]] = {}
        self.closed_sources: dict[int, Any] = {}
        self.keys: list[int] = []
        self.joining: set[int] = set()
        self.open: set[int] = set()
        self.pending_eos_ack: dict[int, int] = {}
        self.closed: set[int] = set()
        self._turn_of = 0
        self._last_sent: dict[int, int] = {}

    @staticmethod
    def get_id(name: bytes) -> int:
        """A stream's number: the same whenever the name is."""
        return int(hashlib.sha256(name).hexdigest()[:16], 16)

    def add_source(self, source: Any) -> None:
        """One more; before or after connect()."""
        key = self.get_id(source.name)
        with self._lock:
            if key in self.sources or key in self.closed:
                raise ConnectorError(
                    "there is a source %r already" % source.name
                )
            self.sources[key] = [source, NOTHING]
            self.keys.append(key)
            self.joining.add(key)
            connected = self.handshake_complete
        if connected:
            self.notify(key, source.name, source.point_of_ref())

    def connect(self) -> None:
        super().connect()
        for key in list(self.joining):
            if key not in self._streams:
                source = self.sources[key][0]
                self.notify(key, source.name, source.point_of_ref())

    def remove_source(self, source: Any) -> None:
        """It ends; gone when all of it is acknowledged."""
        key = self.get_id(source.name)
        with self._lock:
            if key not in self.sources or key in self.pending_eos_ack:
                return
            self.open.discard(key)
            stream = self._streams[key]
            if stream.is_open:
                self.end_of_stream(key)
            last: Any = self._last_sent.get(key, self.sources[key][1])
            self.pending_eos_ack[key] = last

    # -- streams

    def stream_opened(self, stream: Stream) -> None:
        if stream.id not in self.sources:
            return
        self.pending_eos_ack.pop(stream.id, None)
        self.joining.discard(stream.id)
        self.sources[stream.id][1] = stream.point_of_ref
        self._last_sent[stream.id] = stream.point_of_ref
        self.sources[stream.id][0].reset(stream.point_of_ref)
        self.open.add(stream.id)

    def stream_closed(self, stream: Stream) -> None:
        self.open.discard(stream.id)
        if stream.id in self.sources:
            self.joining.add(stream.id)

    def stream_acked(self, stream: Stream) -> None:
        found = self.sources.get(stream.id)
        if found is None:
            return
        source, last = found
        found[1] = stream.point_of_ref
        final = self.pending_eos_ack.get(stream.id)
        if final is not None and NOTHING != stream.point_of_ref > final:
            raise ConnectorError(
                "%s: %d is acknowledged, it ended at %d"
                % (source, stream.point_of_ref, final)
            )
        if final is None and last != NOTHING and stream.point_of_ref < last:
            source.reset(stream.point_of_ref)
            return
        source.wallaroo_acked(stream.point_of_ref)
        if final == stream.point_of_ref:
            self._finished(stream)

    def _finished(self, stream: Stream) -> None:
        source = self.sources.pop(stream.id)[0]
        del self.pending_eos_ack[stream.id]
        self.keys.remove(stream.id)
        self.closed.add(stream.id)
        self.closed_sources[stream.id] = source
        source.close()
        self.stream_removed(stream)
        if not self.sources:
            self.shutdown()

    # -- messages

    def __next__(self) -> Optional[cwm.Message]:
        if not self.sources and self.closed:
            raise StopIteration
        for _ in range(len(self.keys)):
            self._turn_of = (self._turn_of + 1) % len(self.keys)
            key = self.keys[self._turn_of]
            if key not in self.open:
                continue
            source = self.sources[key][0]
            try:
                value, point_of_ref = next(source)
            except StopIteration:
                self.remove_source(source)
                continue
            if value is None:
                continue
            self._last_sent[key] = point_of_ref
            return cwm.Message(key, point_of_ref, 0, source.key, value)
        return None
