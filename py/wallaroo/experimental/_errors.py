"""Exceptions of connectors, and what is known of a stream."""

from __future__ import annotations

from typing import NamedTuple


class ConnectorError(Exception):
    """A connector that cannot go on."""


class ProtocolError(Exception):
    """Something that the connector protocol does not allow."""


class UnexpectedSocketError(Exception):
    """A socket that does what it should not."""


class Stream(NamedTuple):
    """A stream of a connector."""

    id: int
    name: bytes
    point_of_ref: int
    is_open: bool
