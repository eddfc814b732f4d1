"""Sources and sinks that are programs of their own: connectors.

The codecs and configurations for applications, the messages that connectors
and workers exchange (connector_wire_messages), the client side of a connector
that feeds a source, and bases for programs that feed a source or empty a
sink.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

from .._configs import SinkConfig, SourceConfig
from .._wrapped import (
    ConnectorDecoder,
    ConnectorEncoder,
    OctetDecoder,
    OctetEncoder,
    _validate_takes_one,
    _wallaroo_wrap,
)
from . import connector_wire_messages
from ._errors import (
    ConnectorError,
    ProtocolError,
    Stream,
    UnexpectedSocketError,
)
from ._programs import (
    BaseConnector,
    SinkConnector,
    SourceConnector,
    parse_connector_args,
)
from ._source import AtLeastOnceSourceConnector

__all__ = [
    "AtLeastOnceSourceConnector",
    "BaseConnector",
    "ConnectorError",
    "ProtocolError",
    "SinkConnector",
    "SinkConnectorConfig",
    "SourceConnector",
    "SourceConnectorConfig",
    "Stream",
    "UnexpectedSocketError",
    "connector_wire_messages",
    "octet_message_decoder",
    "octet_message_encoder",
    "parse_connector_args",
    "stream_message_decoder",
    "stream_message_encoder",
]

cwm = connector_wire_messages

Port = Union[str, int]


def stream_message_decoder(
    func: Callable[[bytes], Any]
) -> ConnectorDecoder[Any]:
    """Decorate f(payload) -> message, for a source connector."""
    stage: ConnectorDecoder[Any] = _wrap(func, ConnectorDecoder)
    return stage


def stream_message_encoder(
    func: Callable[[Any], bytes]
) -> ConnectorEncoder[Any]:
    """Decorate f(data) -> bytes; encode() puts time and key in front."""
    stage: ConnectorEncoder[Any] = _wrap(func, ConnectorEncoder)
    return stage


def octet_message_decoder(func: Callable[[bytes], Any]) -> OctetDecoder[Any]:
    """Decorate f(payload) -> message."""
    stage: OctetDecoder[Any] = _wrap(func, OctetDecoder)
    return stage


def octet_message_encoder(func: Callable[[Any], Any]) -> OctetEncoder[Any]:
    """Decorate f(data) -> bytes, written as they are."""
    stage: OctetEncoder[Any] = _wrap(func, OctetEncoder)
    return stage


def _wrap(func: Any, base_cls: Any) -> Any:
    _validate_takes_one(func)
    return _wallaroo_wrap(func.__name__, func, base_cls)


class SourceConnectorConfig(SourceConfig[Any]):
    """A source that a connector feeds; it connects to host:port.

    The encoder is for helper programs, the decoder for the runtime.  A
    connector may have max_credits messages under way, and gets new credits
    when it has no more than refill_credits.
    """

    def __init__(
        self,
        name: str,
        encoder: Any,
        decoder: Any,
        port: Port,
        cookie: str = "",
        max_credits: int = 1000,
        refill_credits: int = 500,
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.decoder = decoder
        self.port = port
        self.cookie = cookie
        self.max_credits = max_credits
        self.refill_credits = refill_credits
        self.host = host

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "source_connector", self.name, self.host, str(self.port),
            self.encoder, self.decoder, self.cookie, self.max_credits,
            self.refill_credits,
        )


class SinkConnectorConfig(SinkConfig[Any]):
    """A sink that a connector takes from; workers connect to host:port."""

    def __init__(
        self,
        name: str,
        encoder: Any,
        decoder: Any,
        port: Port,
        cookie: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.decoder = decoder
        self.port = port
        self.cookie = cookie
        self.host = host

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "sink_connector", self.name, self.host, str(self.port),
            self.encoder, self.decoder, self.cookie,
        )
