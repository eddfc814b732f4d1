"""data_receiver: a TCP server that writes what it gets to its output.

The first line of the output is "Listening on HOST:PORT"; then come the bytes
of all connections as they arrive.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
from typing import Optional

from . import _options
from ._external import split_address

NAME = "data_receiver"
LARGEST = 64 << 20  # a frame


def parse(argv: list[str]) -> argparse.Namespace:
    parser = _options.parser(
        NAME, "Write what TCP clients send to the standard output."
    )
    parser.add_argument(
        "-l", "--listen", required=True, metavar="HOST:PORT",
        type=_options.address, help="where to listen",
    )
    parser.add_argument(
        "-f", "--framed", action="store_true",
        help="clients send a 4-byte length before each message; each is "
        "written with a newline behind it",
    )
    parser.add_argument(
        "-n", "--no-write", action="store_true", help="write nothing"
    )
    parser.add_argument(
        "-b", "--buffer-size", type=_options.natural, default=16384,
        metavar="N", help="bytes to read at once (default: 16384)",
    )
    return parser.parse_args(_options.without_pony(argv))


def write(data: bytes) -> None:
    """All of it, at once: who reads the output sees what has come."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]


class Frames:
    """Cuts the bytes of one connection; whole messages become lines."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, data: bytes) -> bytes:
        self.rest += data
        lines, at = [], 0
        while len(self.rest) - at >= 4:
            size = int.from_bytes(self.rest[at:at + 4], "big")
            if size > LARGEST:
                raise ValueError("a message of %d bytes is too long" % size)
            if len(self.rest) - at - 4 < size:
                break
            lines.append(bytes(self.rest[at + 4:at + 4 + size]) + b"\n")
            at += 4 + size
        del self.rest[:at]
        return b"".join(lines)


class Receiver:
    def __init__(self, address: str, framed: bool, silent: bool,
                 size: int) -> None:
        host, port = split_address(address)
        self.framed = framed
        self.silent = silent
        self.size = size
        self.selector = selectors.DefaultSelector()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept()
                else:
                    self.read(key.fileobj, key.data)  # type: ignore[arg-type]

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return  # it went away
        connection.setblocking(False)
        self.selector.register(
            connection, selectors.EVENT_READ,
            Frames() if self.framed else None,
        )

    def read(self, connection: socket.socket,
             frames: Optional[Frames]) -> None:
        try:
            data = connection.recv(self.size)
            out = data if frames is None else frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            _options.complain(NAME, "a connection is closed: %s" % error)
            data = out = b""
        if out and not self.silent:
            write(out)
        if not data:
            if frames is not None and frames.rest:
                _options.complain(NAME, "a connection ended within a message")
            self.selector.unregister(connection)
            connection.close()


def main(argv: Optional[list[str]] = None) -> int:
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        receiver = Receiver(options.listen, options.framed, options.no_write,
                            options.buffer_size)
    except OSError as error:
        _options.complain(NAME, "cannot listen on %s: %s" % (
            options.listen, error))
        return 1
    try:
        write(("Listening on %s\n" % options.listen).encode())
        receiver.run()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        return 1
    return 0
