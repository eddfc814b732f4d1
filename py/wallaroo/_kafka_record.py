"""Records of Kafka as encoders make them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Optional

# What the worker reads: partition, bytes of the key, bytes of the value; -1
# is none.  Then key and value.
_PACK = struct.Struct("=iii").pack
_MOST = 2**31 - 1


def _bytes(part: Any, record: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode("utf-8")
    if isinstance(part, (bytearray, memoryview)):
        return bytes(part)
    raise TypeError("encode gave %r for Kafka" % (record,))


def parts(record: Any) -> tuple[Optional[bytes], Optional[bytes], int]:
    """Value, key and partition (-1: by the key) of what an encoder made:
    the value alone, (value, key) or (value, key, partition)."""
    if not isinstance(record, tuple):
        return _bytes(record, record), None, -1
    if len(record) not in (2, 3):
        raise TypeError(
            "encode must return (value, key, partition) for Kafka, not %r"
            % (record,)
        )
    value, key = record[:2]
    partition = record[2] if len(record) == 3 else None
    if partition is None:
        partition = -1
    elif (
        not isinstance(partition, int) or isinstance(partition, bool)
        or not 0 <= partition <= _MOST
    ):
        raise TypeError("encode gave %r for Kafka" % (record,))
    return (
        None if value is None else _bytes(value, record),
        None if key is None else _bytes(key, record),
        partition,
    )


def packing(encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same encoder, giving what the worker reads."""

    def encode_record(message: Any) -> Optional[bytes]:
        record = encode(message)
        if record is None:
            return None
        value, key, partition = parts(record)
        return _PACK(
            partition, -1 if key is None else len(key),
            -1 if value is None else len(value)
        ) + (key or b"") + (value or b"")

    return encode_record
