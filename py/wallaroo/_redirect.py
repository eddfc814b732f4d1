"""An application under test: fed and observed by the test, run by workers.

This is the module that a cluster of wallaroo.pytest_plugin runs.  It imports
the application, puts a TCP source of the test's in place of each source, and
a file that the test reads in place of each sink.
"""

from __future__ import annotations

import importlib
import json
import pickle
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import wallaroo

from . import _names, _windows
from ._pipeline import Application
from ._reference import encoded, encoded_for_kafka
from ._wrapped import OctetDecoder, OctetEncoder

HOST = "127.0.0.1"
MOST = 1 << 20  # bytes of one input
PAYLOAD, VALUE = b"p", b"v"  # for the decoder; decoded and pickled


class Plan(NamedTuple):
    """What to import, and where inputs come from and outputs go to."""

    module: str
    function: str
    directories: list[str]
    arguments: list[str]
    ports: list[int]  # by source
    outputs: list[str]  # by sink


class Fed(OctetDecoder[Any]):
    """What the test sends: a payload for the real decoder, or a message."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def name(self) -> str:
        return _names.part_name(self.decoder)

    def header_length(self) -> int:
        return 4

    def payload_length(self, header: bytes) -> int:
        length: int = struct.unpack(">I", header)[0]
        return length

    def decode(self, payload: bytes) -> Any:
        if payload[:1] == VALUE:
            return pickle.loads(payload[1:])
        return self.decoder.decode(payload[1:])


class Observed(OctetEncoder[Any]):
    """Writes what the real encoder makes, and the message."""

    def __init__(self, encoder: Any, is_kafka: bool) -> None:
        self.encoder = encoder
        self.encoded = encoded_for_kafka if is_kafka else encoded
        vars(self)["on_error"] = getattr(encoder, "on_error", None)

    def name(self) -> str:
        return _names.part_name(self.encoder)

    def encode(self, data: Any) -> Optional[bytes]:
        made = self.encoded(self.encoder, data)
        if made is None:
            return None
        try:
            record = pickle.dumps((made, data))
        except Exception:  # a message that only the encoder can move
            record = pickle.dumps((made, None))
        return struct.pack(">I", len(record)) + record


def fed(item: bytes) -> bytes:
    """An input as it is sent."""
    return struct.pack(">I", len(item)) + item


def observed(data: bytes) -> Iterator[tuple[bytes, Any]]:
    """What a sink's file holds, without a piece that is being written."""
    at = 0
    while at + 4 <= len(data):
        size = struct.unpack(">I", data[at:at + 4])[0]
        if at + 4 + size > len(data):
            return
        yield pickle.loads(data[at + 4:at + 4 + size])
        at += 4 + size


def decoder_of(config: Any) -> Any:
    place = {
        "tcp": 4, "file": 3, "stdin": 2, "kafka": 5, "kafka-internal": 2,
        "source_connector": 5,
    }.get(config[0])
    return None if place is None else config[place]


def redirected(application: Any, plan: Plan) -> Any:
    name, root, vertices, edges = application
    version = getattr(application, "version", "")
    ports = iter(plan.ports)
    configs = _names.sinks_of(vertices[root][-1])
    live = len(configs)
    configs += _names.late_sinks(vertices)
    sinks = [
        ("file", "", path, Observed(
            _names.encoder_of(config), config[0] in _names.KAFKA))
        for config, path in zip(configs, plan.outputs)
    ]

    def stage(one: Any) -> Any:
        if one[0] == "source":
            return ("source", one[1], (
                "tcp", one[2][1], HOST, next(ports), Fed(decoder_of(one[2])),
                True, 10, MOST, 50))
        if one[0] == "to_sink":
            return ("to_sink", sinks[0])
        if one[0] == "to_sinks":
            return ("to_sinks", sinks[:live])
        late_to = _windows.late_to(one)
        if late_to is not None:
            late_sink = sinks[live + configs[live:].index(late_to)]
            return _windows.with_late_to(one, late_sink)
        return one

    made = Application((
        name, root, [[stage(one) for one in branch] for branch in vertices],
        edges))
    made.version = version
    return made


def application_setup(args: list[str]) -> Any:
    plan = Plan(**json.loads(args[1]))
    sys.path[:0] = plan.directories
    wallaroo._ARGS = tuple(plan.arguments)
    sys.argv = list(plan.arguments)
    module = importlib.import_module(plan.module)
    for hook in "serialize", "deserialize":
        if hasattr(module, hook):
            globals()[hook] = getattr(module, hook)
    build = getattr(module, plan.function)
    return redirected(build(list(plan.arguments)), plan)
