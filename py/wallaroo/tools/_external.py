"""The external channel of a running application, as its clients see it."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple, Optional

HEAD = struct.Struct(">IH")
LARGEST = 1 << 30  # of an answer
TIMEOUT_S = 30.0

PRINT, ROTATE_LOG, SHUTDOWN, SHRINK = 1, 2, 3, 4
SHRINK_ANSWER, SHRINK_ERROR = 5, 6
NOT_INITIALIZED = 11


class Kind(NamedTuple):
    """A type of message: its id and whether it is answered."""

    id: int
    answered: bool


KINDS = {
    "print": Kind(PRINT, False),
    "rotate-log": Kind(ROTATE_LOG, False),
    "clean-shutdown": Kind(SHUTDOWN, False),
    "partition-query": Kind(7, True),
    "cluster-status-query": Kind(9, True),
    "partition-count-query": Kind(12, True),
    "source-ids-query": Kind(14, True),
    "boundary-count-status": Kind(16, False),
    "state-entity-query": Kind(17, True),
    "stateless-partition-query": Kind(19, True),
    "state-entity-count-query": Kind(21, True),
    "stateless-partition-count-query": Kind(23, True),
    "cluster-state-entity-count-query": Kind(25, True),
}


class ExternalError(Exception):
    """The application could not be asked, or what it said is no answer."""


class Answer(NamedTuple):
    id: int
    payload: bytes

    def text(self) -> str:
        return self.payload.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.payload)


def split_address(text: str) -> tuple[str, int]:
    """"host:port", also "[::1]:port"."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() \
            or not 0 < int(port) < 65536:
        raise ValueError(
            "%r is no address: HOST:PORT is, with a port from 1 to 65535"
            % text
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or "127.0.0.1", int(port)


def encode(message: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) + 2, message) + payload


class Channel:
    """A connection to the external channel of an application."""

    def __init__(self, address: str, timeout: float = TIMEOUT_S) -> None:
        try:
            self.socket = socket.create_connection(
                split_address(address), timeout
            )
        except OSError as error:
            raise ExternalError(
                "cannot connect to %s: %s" % (address, error)
            ) from error
        self.address = address

    def send(self, message: int, payload: bytes = b"") -> None:
        try:
            self.socket.sendall(encode(message, payload))
        except OSError as error:
            raise self.lost(error) from error

    def receive(self) -> Answer:
        size, message = HEAD.unpack(self.exactly(HEAD.size))
        if not 2 <= size <= LARGEST:
            raise ExternalError(
                "%s does not speak this protocol" % self.address
            )
        return Answer(message, self.exactly(size - 2))

    def exactly(self, count: int) -> bytes:
        parts = []
        while count > 0:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except OSError as error:
                raise self.lost(error) from error
            if not part:
                raise self.lost(None)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def lost(self, error: Optional[OSError]) -> ExternalError:
        return ExternalError("%s: %s" % (
            self.address, error or "the connection was closed",
        ))

    def ask(self, message: int, payload: bytes = b"") -> Answer:
        self.send(message, payload)
        return self.receive()

    def finish(self) -> None:
        """What was sent is taken before the connection ends."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(4096):
                pass
        except OSError:
            pass  # an application that ends may reset it
        self.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
