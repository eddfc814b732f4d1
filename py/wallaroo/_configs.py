"""Configurations of sources and sinks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, Optional, Protocol, TypeVar, Union, overload

from . import _names
from ._errors import api_error
from ._wrapped import Decoder, Encoder

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Value = TypeVar("Value")

Port = Union[str, int]
Path = Union[str, "os.PathLike[str]"]


class SourceConfig(Generic[Out]):
    """Base of the configurations of sources, whose messages are of type Out.

    to_tuple() is what they are for.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        raise NotImplementedError


class SinkConfig(Generic[In]):
    """Base of the configurations of sinks, which take messages of type In."""

    def to_tuple(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def where(self, predicate: Callable[[In], bool]) -> SinkConfig[In]:
        """The same sink, which gets only messages that this is true of.

        Of several sinks each may have its own.  What the predicate raises is
        treated as if the encoder had.
        """
        if not callable(predicate):
            api_error(
                "where() takes a function of a message, not %r."
                % (predicate,))
        return _FilteredSink(self, predicate)


class _FilteredSink(SinkConfig[In]):
    def __init__(
        self, sink: SinkConfig[In], predicate: Callable[[In], bool]
    ) -> None:
        self.sink = sink
        self.predicate = predicate

    def to_tuple(self) -> tuple[Any, ...]:
        config = self.sink.to_tuple()
        encoder = _names.encoder_of(config)
        return tuple(
            _FilteringEncoder(encoder, self.predicate)
            if part is encoder else part for part in config)


class _FilteringEncoder(Encoder[Any]):
    """An encoder that makes nothing of what a predicate refuses."""

    def __init__(self, encoder: Any, predicate: Callable[[Any], bool]) -> None:
        self.encoder = encoder
        self.predicate = predicate
        vars(self)["on_error"] = getattr(encoder, "on_error", None)

    def name(self) -> str:
        name: str = self.encoder.name()
        return name

    def encode(self, data: Any, *others: Any) -> Any:
        if self.predicate(data):
            return self.encoder.encode(data, *others)
        return None


class Generator(Protocol[Value]):
    """What GenSourceConfig takes: any object with these two methods."""

    def initial_value(self) -> Optional[Value]: ...
    def apply(self, value: Value, /) -> Optional[Value]: ...


class TCPSourceConfig(SourceConfig[Out]):
    """Listens on host:port; clients send payloads that decoder decodes.

    name
        the source's; the form without it takes the pipeline's
    host, port
        where to listen; a name, or an address of IPv4 or IPv6
    decoder
        makes messages of payloads
    valid
        False: do not listen
    parallelism
        how many connections a worker serves at once; others wait
    max_size
        bytes of the largest payload; a client that sends a larger one is
        disconnected
    max_received_count
        accepted, and not used
    """

    _NEW: tuple[str, ...] = (
        "name", "host", "port", "decoder", "valid", "parallelism",
        "max_size", "max_received_count",
    )
    _OLD: tuple[str, ...] = (
        "host", "port", "decoder", "parallelism", "valid",
        "max_size", "max_received_count",
    )

    @overload
    def __init__(
        self,
        name: str,
        host: str,
        port: Port,
        decoder: Decoder[Out],
        valid: bool = True,
        parallelism: int = 10,
        max_size: int = 16384,
        max_received_count: int = 50,
    ) -> None: ...
    @overload
    def __init__(
        self,
        host: str,
        port: Port,
        decoder: Decoder[Out],
        parallelism: int = 10,
    ) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names, required = self._NEW, 4
        if self._is_old_form(args, kwargs):
            names, required = self._OLD, 3
        given = _bind(type(self).__name__, names, required, args, kwargs)
        self.name: str | None = given.get("name")
        self.host: str = given["host"]
        self.port: Port = given["port"]
        self.decoder = given["decoder"]
        self.valid: bool = given.get("valid", True)
        self.parallelism: int = given.get("parallelism", 10)
        self.max_size: int = given.get("max_size", 16384)
        self.max_received_count: int = given.get("max_received_count", 50)

    @classmethod
    def _is_old_form(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether the arguments leave out the name."""
        if len(args) > 2:
            return hasattr(args[2], "decode")
        given = set(kwargs)
        new_is_whole = set(cls._NEW[len(args):4]) <= given
        old_is_whole = set(cls._OLD[len(args):3]) <= given
        return old_is_whole and not new_is_whole

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "tcp", self.name, self.host, self.port, self.decoder, self.valid,
            self.parallelism, self.max_size, self.max_received_count,
        )


class GenSourceConfig(SourceConfig[Out]):
    """Yields gen_instance.initial_value(), then .apply(previous value).

    None ends it.  After a crash a fresh copy is run forward to where the old
    one was, so it must yield the same values again.  The form without a name
    takes the pipeline's.

    >>> class Down:
    ...     def initial_value(self):
    ...         return 3
    ...     def apply(self, value):
    ...         return value - 1 if value > 0 else None
    >>> config = wallaroo.GenSourceConfig("down", Down())
    """

    @overload
    def __init__(
        self, name: str, gen_instance: Generator[Out]
    ) -> None: ...
    @overload
    def __init__(self, gen_instance: Generator[Out]) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names: tuple[str, ...] = ("name", "gen_instance")
        if len(args) + len(kwargs) == 1:
            names = ("gen_instance",)
        given = _bind(type(self).__name__, names, len(names), args, kwargs)
        self.name: str | None = given.get("name")
        self.gen = given["gen_instance"]

    def to_tuple(self) -> tuple[Any, ...]:
        return ("gen", self.name, self.gen)


class FileSourceConfig(SourceConfig[Out]):
    """Reads a file from its beginning to its end, once.

    One of the workers reads it.  An application that is started again with
    its state goes on behind what it has read; the file must be the same one
    then, and not shorter.

    name
        the source's
    path
        of the file
    decoder
        makes messages of payloads, lines for example
    max_size
        bytes of the largest payload; a larger one is an error
    """

    def __init__(
        self,
        name: str,
        path: Path,
        decoder: Decoder[Out],
        max_size: int = 1 << 20,
    ) -> None:
        self.name = name
        self.path = os.fspath(path)
        self.decoder = decoder
        self.max_size = max_size

    def to_tuple(self) -> tuple[Any, ...]:
        return ("file", self.name, self.path, self.decoder, self.max_size)


class StdinSourceConfig(SourceConfig[Out]):
    """Reads the standard input to its end; one of the workers does."""

    def __init__(
        self, name: str, decoder: Decoder[Out], max_size: int = 1 << 20
    ) -> None:
        self.name = name
        self.decoder = decoder
        self.max_size = max_size

    def to_tuple(self) -> tuple[Any, ...]:
        return ("stdin", self.name, self.decoder, self.max_size)


class TCPSinkConfig(SinkConfig[In]):
    """Connects to host:port and writes what encoder makes.

    Each worker has a connection.  A receiver that is away is tried again;
    meanwhile outputs wait, then sources do.
    """

    def __init__(
        self, host: str, port: Port, encoder: Encoder[In]
    ) -> None:
        self.host = host
        self.port = port
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return ("tcp", "", self.host, self.port, self.encoder)


class FileSinkConfig(SinkConfig[In]):
    """Writes what encoder makes to a file.

    Workers go on behind its last byte after a crash or a start; in one plain
    process it is written anew.
    """

    def __init__(self, path: Path, encoder: Encoder[In]) -> None:
        self.path = os.fspath(path)
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return ("file", "", self.path, self.encoder)


class StdoutSinkConfig(SinkConfig[In]):
    """Writes what encoder makes to the standard output."""

    def __init__(self, encoder: Encoder[In]) -> None:
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return ("stdout", "", self.encoder)


def _bind(
    what: str,
    names: tuple[str, ...],
    required: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Arguments by name, with the errors that Python itself would raise."""
    if len(args) > len(names):
        raise TypeError(
            "%s() takes at most %d arguments (%d given)"
            % (what, len(names), len(args))
        )
    given = dict(zip(names, args))
    for name, value in kwargs.items():
        if name not in names:
            raise TypeError(
                "%s() got an unexpected keyword argument %r" % (what, name)
            )
        if name in given:
            raise TypeError(
                "%s() got multiple values for argument %r" % (what, name)
            )
        given[name] = value
    missing = [name for name in names[:required] if name not in given]
    if missing:
        raise TypeError(
            "%s() misses arguments: %s" % (what, ", ".join(missing))
        )
    return given
