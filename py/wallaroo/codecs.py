"""Ready decoders and encoders.

Decoders make messages of a byte source's payloads, encoders make bytes of
messages.  For each form there are classes, whose instances can be given
options, and an instance with the usual ones::

    lines     lines_decoder, lines_encoder            str, one per line
    JSON      json_decoder, json_encoder              one value per line
    CSV       csv_decoder, csv_encoder                one record per line
    frames    framed_decoder, framed_encoder          bytes after a length
    MsgPack   msgpack_decoder, msgpack_encoder        values in such frames

json_lines(Order) and csv_lines(Order) are decoders that give instances of the
dataclass Order; the encoders for JSON and CSV take dataclasses, too.

A decoder that returns None drops the payload; so blank lines of JSON and CSV
are passed over (and so is JSON's null).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Optional, TypeVar, Union

from . import _into, _msgpack
from ._errors import api_error
from ._wrapped import OctetDecoder, OctetEncoder

Out = TypeVar("Out")
Bytes = Union[bytes, bytearray, memoryview]


class LineDecoder(OctetDecoder[Out], Generic[Out]):
    """Base of decoders that get a line at a time, without its end."""

    framing = "lines"

    def name(self) -> str:
        return type(self).__name__


class LinesDecoder(LineDecoder[str]):
    """A line as str.

    encoding and errors are those of bytes.decode(); by default any bytes
    come out of LinesEncoder as they went in.

    >>> codecs.lines_decoder.decode(b"one line")
    'one line'
    """

    def __init__(
        self, encoding: str = "utf-8", errors: str = "surrogateescape"
    ) -> None:
        self.encoding = encoding
        self.errors = errors

    def decode(self, payload: bytes) -> str:
        return payload.decode(self.encoding, self.errors)


class LinesEncoder(OctetEncoder[Any]):
    """str(message) and an end of line.

    >>> codecs.lines_encoder.encode(42)
    b'42\\n'
    """

    def __init__(
        self, encoding: str = "utf-8", errors: str = "surrogateescape"
    ) -> None:
        self.encoding = encoding
        self.errors = errors

    def name(self) -> str:
        return type(self).__name__

    def encode(self, data: Any) -> bytes:
        return (str(data) + "\n").encode(self.encoding, self.errors)


class JSONLinesDecoder(LineDecoder[Any]):
    """A line of JSON; a blank one is passed over.

    >>> codecs.json_decoder.decode(b'{"n": [1, 2]}')
    {'n': [1, 2]}
    """

    def decode(self, payload: bytes) -> Any:
        return json.loads(payload) if payload.strip() else None


class JSONLinesInto(LineDecoder[Out]):
    """A line of JSON, an object, as an instance of a dataclass.

    The types of its fields say what is made of their values; names that it
    does not have are passed over.
    """

    def __init__(self, cls: type[Out]) -> None:
        self.cls = cls
        check_dataclass("json_lines", cls)
        self.make = _into.json_maker(cls)

    def __reduce__(self) -> Any:
        return (type(self), (self.cls,))

    def decode(self, payload: bytes) -> Optional[Out]:
        if not payload.strip():
            return None
        made: Out = self.make(json.loads(payload))
        return made


class JSONLinesEncoder(OctetEncoder[Any]):
    """The message, also a dataclass, as a line of JSON.

    >>> codecs.json_encoder.encode({"n": [1, 2]})
    b'{"n":[1,2]}\\n'
    """

    def name(self) -> str:
        return type(self).__name__

    def encode(self, data: Any) -> bytes:
        return json.dumps(
            data, separators=(",", ":"), default=_into.plain
        ).encode() + b"\n"


class CSVDecoder(LineDecoder[Any]):
    """A line of comma-separated values as a list of str.

    With `fields` as a dict by these names; a record with another number of
    values is an error.  A quoted value cannot go over an end of line.

    >>> codecs.csv_decoder.decode(b'apple,"1,5"')
    ['apple', '1,5']
    >>> codecs.CSVDecoder(["article", "price"]).decode(b"apple,15")
    {'article': 'apple', 'price': '15'}
    """

    def __init__(
        self, fields: Optional[Sequence[str]] = None, delimiter: str = ","
    ) -> None:
        self.fields = None if fields is None else list(fields)
        self.delimiter = delimiter

    def decode(self, payload: bytes) -> Union[list[str], dict[str, str], None]:
        line = payload.decode("utf-8")
        rows = list(csv.reader([line], delimiter=self.delimiter, strict=True))
        if not rows or not rows[0]:
            return None
        if self.fields is None:
            return rows[0]
        if len(rows[0]) != len(self.fields):
            raise ValueError(
                "%d values instead of %d" % (len(rows[0]), len(self.fields))
            )
        return dict(zip(self.fields, rows[0]))


class CSVInto(LineDecoder[Out]):
    """A line of comma-separated values as an instance of a dataclass.

    The values are those of its fields, in their order; an empty one is None
    where None is allowed.
    """

    def __init__(self, cls: type[Out], delimiter: str = ",") -> None:
        self.cls = cls
        self.delimiter = delimiter
        check_dataclass("csv_lines", cls)
        self.make = _into.csv_maker(cls)

    def __reduce__(self) -> Any:
        return (type(self), (self.cls, self.delimiter))

    def decode(self, payload: bytes) -> Optional[Out]:
        line = payload.decode("utf-8")
        rows = list(csv.reader([line], delimiter=self.delimiter, strict=True))
        if not rows or not rows[0]:
            return None
        made: Out = self.make(rows[0])
        return made


class CSVEncoder(OctetEncoder[Any]):
    """A sequence, a dataclass, or with `fields` a mapping, as a line of CSV.

    >>> codecs.csv_encoder.encode(["apple", "1,5"])
    b'apple,"1,5"\\n'
    >>> codecs.CSVEncoder(["b", "a"]).encode({"a": 1, "b": 2})
    b'2,1\\n'
    """

    def __init__(
        self, fields: Optional[Sequence[str]] = None, delimiter: str = ","
    ) -> None:
        self.fields = None if fields is None else list(fields)
        self.delimiter = delimiter

    def name(self) -> str:
        return type(self).__name__

    def encode(self, data: Any) -> bytes:
        if isinstance(data, Mapping):
            row = [data[field] for field in self.fields or list(data)]
        elif dataclasses.is_dataclass(data):
            row = [
                getattr(data, field.name)
                for field in dataclasses.fields(data)
            ]
        else:
            row = list(data)
        out = io.StringIO()
        csv.writer(
            out, delimiter=self.delimiter, lineterminator="\n"
        ).writerow(row)
        return out.getvalue().encode("utf-8")


class FramedDecoder(OctetDecoder[Any]):
    """A payload after its length, as bytes.

    length_fmt is the length as a format of the module struct.
    """

    def __init__(self, length_fmt: str = ">I") -> None:
        self._length_fmt = length_fmt

    def name(self) -> str:
        return type(self).__name__

    def header_length(self) -> int:
        return struct.calcsize(self._length_fmt)

    def payload_length(self, header: bytes) -> int:
        length: int = struct.unpack(self._length_fmt, header)[0]
        return length

    def decode(self, payload: bytes) -> Any:
        return payload


class FramedEncoder(OctetEncoder[Any]):
    """Bytes, or a str's UTF-8, after their length.

    >>> codecs.framed_encoder.encode("abc")
    b'\\x00\\x00\\x00\\x03abc'
    """

    def __init__(self, length_fmt: str = ">I") -> None:
        self._length_fmt = length_fmt

    def name(self) -> str:
        return type(self).__name__

    def payload(self, data: Any) -> bytes:
        """The message without the length."""
        if isinstance(data, str):
            return data.encode("utf-8")
        return bytes(memoryview(data))

    def encode(self, data: Any) -> bytes:
        payload = self.payload(data)
        return struct.pack(self._length_fmt, len(payload)) + payload


class MsgpackDecoder(FramedDecoder):
    """A MessagePack value after its length."""

    def decode(self, payload: bytes) -> Any:
        return _msgpack.unpack(payload)


class MsgpackEncoder(FramedEncoder):
    """Plain data as MessagePack after its length."""

    def payload(self, data: Any) -> bytes:
        return _msgpack.pack(data)


def msgpack_pack(value: Any) -> bytes:
    """Plain data as MessagePack."""
    return _msgpack.pack(value)


def msgpack_unpack(data: Bytes) -> Any:
    """The one value that data holds; ValueError if it isn't exactly one."""
    return _msgpack.unpack(data)


def check_dataclass(what: str, cls: Any) -> None:
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        api_error(
            "codecs.%s() takes a dataclass, not %r: write @dataclass above "
            "its class." % (what, cls))


def json_lines(cls: type[Out]) -> JSONLinesInto[Out]:
    """A decoder of lines of JSON, objects, into a dataclass.

    The types of its fields say what is made of their values: numbers, texts,
    dates and times, enumerations, Optional, lists, dicts, and other
    dataclasses.  Names that it does not have are passed over.  A type that
    cannot be made is refused here; a value that does not fit is an error that
    names the field.

    >>> import dataclasses, datetime
    >>> @dataclasses.dataclass
    ... class Order:
    ...     article: str
    ...     day: datetime.date
    ...     number: int = 1
    >>> codecs.json_lines(Order).decode(
    ...     b'{"article": "pear", "day": "2026-03-02"}')
    Order(article='pear', day=datetime.date(2026, 3, 2), number=1)
    >>> codecs.json_lines(Order).decode(b'{"article": "pear"}')
    Traceback (most recent call last):
    wallaroo._into.WrongData: ...
    """
    return JSONLinesInto(cls)


def csv_lines(cls: type[Out], delimiter: str = ",") -> CSVInto[Out]:
    """A decoder of lines of CSV into a dataclass.

    The values are those of its fields, in their order; an empty one is None
    where None is allowed.  Lists and other dataclasses are not possible.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Reading:
    ...     room: str
    ...     degrees: float
    >>> codecs.csv_lines(Reading, delimiter=";").decode(b"roof;3.5")
    Reading(room='roof', degrees=3.5)
    """
    return CSVInto(cls, delimiter)


lines_decoder = LinesDecoder()
lines_encoder = LinesEncoder()
json_decoder = JSONLinesDecoder()
json_encoder = JSONLinesEncoder()
csv_decoder = CSVDecoder()
csv_encoder = CSVEncoder()
framed_decoder = FramedDecoder()
framed_encoder = FramedEncoder()
msgpack_decoder = MsgpackDecoder()
msgpack_encoder = MsgpackEncoder()
