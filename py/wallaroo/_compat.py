"""Small things that applications find in the package."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any


class Unbuffered:
    """A text stream that is flushed after each write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, data: str) -> int:
        n: int = self.stream.write(data)
        self.stream.flush()
        return n

    def writelines(self, lines: Iterable[str]) -> None:
        self.stream.writelines(lines)
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def show_prints_at_once() -> None:
    """Make lines that are printed into a file or pipe appear at once."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not stream.isatty():
            reconfigure(line_buffering=True)


def serialize(o: Any) -> bytes:
    """An object as bytes, where the application has no serialize()."""
    return pickle.dumps(o)


def deserialize(bs: bytes) -> Any:
    """The object that serialize() made the bytes of."""
    return pickle.loads(bs)


def dt_to_timestamp(dt: datetime) -> float:
    """Seconds since 1970; a time without zone is local time."""
    return dt.timestamp()
