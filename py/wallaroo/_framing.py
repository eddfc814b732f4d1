"""Payloads cut out of a stream of bytes, as a decoder's framing says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional


class FramingError(Exception):
    """Bytes that cannot be cut into payloads."""


class Cutter:
    """Takes bytes as they come and gives the whole payloads in them."""

    def __init__(self, decoder: Any, max_size: int) -> None:
        self.decoder = decoder
        self.max_size = max_size
        self.lines = getattr(decoder, "framing", "header") == "lines"
        self.header_length = 0 if self.lines else decoder.header_length()
        # Bytes that came; those before `at` have been given away.
        self.data = b""
        self.at = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are whole with these bytes."""
        self.data = self.data[self.at:] + data
        self.at = 0
        payload = self.cut()
        while payload is not None:
            yield payload
            payload = self.cut()

    def end(self) -> Iterator[bytes]:
        """A last line without an end of line; else nothing may be left."""
        rest = self.data[self.at:]
        if not rest:
            return
        if not self.lines:
            raise FramingError("%d bytes of a frame at the end" % len(rest))
        yield rest[:-1] if rest.endswith(b"\r") else rest

    def cut(self) -> Optional[bytes]:
        """The next payload if it is whole."""
        return self.cut_line() if self.lines else self.cut_frame()

    def cut_line(self) -> Optional[bytes]:
        newline = self.data.find(b"\n", self.at)
        end = len(self.data) if newline == -1 else newline
        if end > self.at and self.data[end - 1:end] == b"\r":
            end -= 1
        if end - self.at > self.max_size:
            raise FramingError("a line longer than %d bytes" % self.max_size)
        if newline == -1:
            return None
        line = self.data[self.at:end]
        self.at = newline + 1
        return line

    def cut_frame(self) -> Optional[bytes]:
        start = self.at + self.header_length
        if len(self.data) < start:
            return None
        end = start + self.length(self.data[self.at:start])
        if len(self.data) < end:
            return None
        payload = self.data[start:end]
        self.at = end
        return payload

    def length(self, header: bytes) -> int:
        """The payload's length that a header announces."""
        try:
            length = self.decoder.payload_length(header)
        except Exception as error:
            raise FramingError("no length in %r" % header) from error
        if not isinstance(length, int) or not 0 <= length <= self.max_size:
            raise FramingError(
                "a payload of %r bytes; at most %d are allowed"
                % (length, self.max_size)
            )
        return length
