"""MessagePack of plain data: None, bool, int, float, str, bytes, list, dict.

Strict: what is not a single whole value is refused, as are extension types,
repeated keys and nesting deeper than MAX_DEPTH.  Tuples become lists.
"""

from __future__ import annotations

import struct
from typing import Any, Union

MAX_DEPTH = 128


def pack(value: Any) -> bytes:
    """The value as MessagePack, every number in its shortest form."""
    out = bytearray()
    _pack(value, out, MAX_DEPTH)
    return bytes(out)


def unpack(data: Union[bytes, bytearray, memoryview]) -> Any:
    """The one value that data holds; ValueError if it isn't exactly one."""
    reader = _Reader(bytes(data))
    value = reader.value(MAX_DEPTH)
    if reader.position != len(reader.data):
        raise ValueError("MessagePack: bytes after the value")
    return value


def _pack(value: Any, out: bytearray, depth: int) -> None:
    if depth == 0:
        raise ValueError("MessagePack: nested too deeply")
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _pack_int(value, out)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        raw = value.encode("utf-8")
        _pack_size(out, len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB))
        out += raw
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        _pack_size(out, len(raw), 0, 0, (0xC4, 0xC5, 0xC6))
        out += raw
    elif isinstance(value, (list, tuple)):
        _pack_size(out, len(value), 0x90, 16, (None, 0xDC, 0xDD))
        for item in value:
            _pack(item, out, depth - 1)
    elif isinstance(value, dict):
        _pack_size(out, len(value), 0x80, 16, (None, 0xDE, 0xDF))
        for key, item in value.items():
            _pack(key, out, depth - 1)
            _pack(item, out, depth - 1)
    else:
        raise TypeError(
            "MessagePack: no form for %s" % type(value).__qualname__
        )


def _pack_int(value: int, out: bytearray) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    codes = (
        (0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q"),
    ) if value >= 0 else (
        (0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q"),
    )
    for code, form in codes:
        try:
            out += struct.pack(">B" + form, code, value)
            return
        except struct.error:
            pass
    raise ValueError("MessagePack: %d does not fit in 64 bits" % value)


def _pack_size(
    out: bytearray,
    n: int,
    small: int,
    small_limit: int,
    codes: tuple[Any, int, int],
) -> None:
    if n < small_limit:
        out.append(small | n)
    elif n < 1 << 8 and codes[0] is not None:
        out += struct.pack(">BB", codes[0], n)
    elif n < 1 << 16:
        out += struct.pack(">BH", codes[1], n)
    elif n < 1 << 32:
        out += struct.pack(">BI", codes[2], n)
    else:
        raise ValueError("MessagePack: too long")


class _Reader:
    """A cursor over MessagePack bytes."""

    NUMBERS = {
        0xCA: ">f", 0xCB: ">d",
        0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
        0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
    }
    SIZES = {
        0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
        0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
        0xDC: (">H", "array"), 0xDD: (">I", "array"),
        0xDE: (">H", "map"), 0xDF: (">I", "map"),
    }
    CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, n: int) -> bytes:
        end = self.position + n
        if end > len(self.data):
            raise ValueError("MessagePack: ends in the middle of a value")
        piece = self.data[self.position:end]
        self.position = end
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        if depth == 0:
            raise ValueError("MessagePack: nested too deeply")
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 256
        if code < 0x90:
            return self.container("map", code & 0x0F, depth)
        if code < 0xA0:
            return self.container("array", code & 0x0F, depth)
        if code < 0xC0:
            return self.container("str", code & 0x1F, depth)
        if code in self.CONSTANTS:
            return self.CONSTANTS[code]
        if code in self.NUMBERS:
            return self.number(self.NUMBERS[code])
        if code in self.SIZES:
            form, kind = self.SIZES[code]
            return self.container(kind, self.number(form), depth)
        raise ValueError("MessagePack: code 0x%02x is not plain data" % code)

    def container(self, kind: str, n: int, depth: int) -> Any:
        if kind == "str":
            return self.take(n).decode("utf-8")
        if kind == "bin":
            return self.take(n)
        if kind == "array":
            return [self.value(depth - 1) for _ in range(n)]
        result: dict[Any, Any] = {}
        for _ in range(n):
            key = self.value(depth - 1)
            if isinstance(key, (list, dict)):
                raise ValueError("MessagePack: a key that cannot be hashed")
            if key in result:
                raise ValueError("MessagePack: key %r is repeated" % (key,))
            result[key] = self.value(depth - 1)
        return result
