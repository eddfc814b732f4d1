"""Sources in Kafka."""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Optional, TypeVar, Union

from . import _names
from ._cli import _kafka_parse_broker
from ._configs import SourceConfig
from ._errors import api_error
from ._kafka_settings import Settings, wire_brokers, wire_settings

Out = TypeVar("Out", covariant=True)

# The contract's log levels as librdkafka has them.
LOG_LEVELS = {"Fine": "7", "Info": "6", "Warn": "4", "Error": "3"}

_HEAD = struct.Struct("=iqqIiiI")
_HEADER = struct.Struct("=Ii")


class KafkaRecord(NamedTuple):
    """All that Kafka has of one record."""

    topic: str
    partition: int
    offset: int
    # Milliseconds since 1970, -1 if it has none.
    timestamp: int
    key: Optional[bytes]
    value: Optional[bytes]
    headers: Sequence[tuple[str, Optional[bytes]]] = ()


def unpack_record(data: bytes) -> KafkaRecord:
    """From the worker's bytes."""
    partition, offset, time, topic, key, value, _ = _HEAD.unpack_from(data)
    at = _HEAD.size

    def take(n: int) -> Optional[bytes]:
        nonlocal at
        if n < 0:
            return None
        at += n
        return bytes(data[at - n:at])

    name, its_key, its_value = take(topic), take(key), take(value)
    headers = []
    while at < len(data):
        n, m = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        header = take(n)
        headers.append(((header or b"").decode("utf-8", "replace"), take(m)))
    return KafkaRecord(
        (name or b"").decode(), partition, offset, time, its_key, its_value,
        headers)


class ValueDecoder:
    """A function of a record's value."""

    def __init__(self, function: Callable[[bytes], Any]) -> None:
        self.function = function

    def decode(self, data: bytes) -> Any:
        return self.function(data)


class RecordDecoder:
    """A function of all of a record."""

    def __init__(self, function: Callable[[KafkaRecord], Any]) -> None:
        self.function = function

    def decode(self, data: Union[bytes, KafkaRecord]) -> Any:
        if not isinstance(data, KafkaRecord):
            data = unpack_record(data)
        return self.function(data)


def start_text(start: Any) -> str:
    """As the worker reads it."""
    if isinstance(start, datetime):
        if start.tzinfo is None:
            api_error("A start in time must have a time zone.")
        return "time:%d" % int(start.timestamp() * 1000)
    if type(start) is int:
        return str(start)
    if start in ("earliest", "latest"):
        return str(start)
    api_error(
        "start must be \"earliest\", \"latest\", an offset, a negative number "
        "of records before the end, or a datetime, not %r." % (start,))


class KafkaSource(SourceConfig[Out]):
    """Reads topics of Kafka, exactly once.

    topic is a name, or a list of them; one that begins with ^ is a regular
    expression.  brokers is "HOST:PORT,..." or a list.  value is a decoder, or
    a function, of a record's value (b"" if it has none); in its place record
    is a function of a KafkaRecord.

    group is told how far we are, so that Kafka's tools show it; without it
    its name is made of the application's and the source's.  start says where
    partitions are read from that are there at the first start: "earliest",
    "latest", an offset, a negative number of records before the end, or a
    datetime; others are read from their first record.  config: any settings of
    librdkafka; secrets are given as FromFile(path) or FromEnv(variable).
    """

    def __init__(
        self,
        topic: Union[str, Sequence[str]],
        brokers: Union[str, Sequence[str], Sequence[tuple[str, Any]]],
        group: Optional[str] = None,
        value: Any = None,
        *,
        record: Optional[Callable[[KafkaRecord], Out]] = None,
        start: Union[str, int, datetime] = "earliest",
        config: Optional[Settings] = None,
        name: str = "kafka",
    ) -> None:
        self.topics = [topic] if isinstance(topic, str) else list(topic)
        if not self.topics or not all(
            isinstance(t, str) and t for t in self.topics
        ):
            api_error("A source in Kafka needs the name of a topic.")
        if (value is None) == (record is None):
            api_error("A source in Kafka needs either value= or record=.")
        self.name = name
        self.brokers = wire_brokers(brokers, "A source in Kafka")
        self.decoder: Any
        if record is not None:
            self.decoder = RecordDecoder(record)
        elif callable(getattr(value, "decode", None)):
            self.decoder = value
        elif callable(value):
            self.decoder = ValueDecoder(value)
        else:
            api_error("value= must be a decoder, or a function of bytes.")
        self.options = {
            "group": group or "",
            "start": start_text(start),
            "settings": wire_settings(config or {}, "a source in Kafka"),
        }

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka", self.name, self.topics, self.brokers, "Warn",
            self.decoder, self.options,
        )


def kafka_key(item: KafkaRecord) -> bytes:
    """A record's key, or one that no other has."""
    if item.key is not None:
        return item.key
    return b"%s-%d-%d" % (item.topic.encode(), item.partition, item.offset)


def from_arguments(
    name: str, decoder: Any, args: Sequence[str]
) -> tuple[Any, ...]:
    """The source that options --NAME_topic and so on describe."""
    parser = argparse.ArgumentParser(
        prog="wallaroo", add_help=False, allow_abbrev=False)
    for option, default in (
        ("topic", ""), ("brokers", ""), ("log_level", "Warn"),
        ("fetch_interval", ""), ("min_fetch_bytes", ""),
        ("max_fetch_bytes", ""), ("partition_fetch_max_bytes", ""),
        ("offset_default", "START"), ("partitions", ""),
    ):
        parser.add_argument(
            "--%s_%s" % (name, option), dest=option, default=default)
    parser.add_argument(
        "--%s_consumer_check_crc" % name, dest="check_crc",
        action="store_true")
    given = parser.parse_known_args(list(args))[0]
    if not given.topic or not given.brokers:
        api_error("The source %s needs --%s_topic and --%s_brokers."
                  % (name, name, name))
    if given.partitions:
        api_error("--%s_partitions: all partitions are read, each by one "
                  "worker; leave it out." % name)
    start = {"START": "earliest", "END": "latest"}.get(
        given.offset_default, given.offset_default)
    settings = [
        [setting, "value", text] for setting, text in (
            ("fetch.min.bytes", given.min_fetch_bytes),
            ("fetch.max.bytes", given.max_fetch_bytes),
            ("fetch.message.max.bytes", given.partition_fetch_max_bytes),
            ("check.crcs", "true" if given.check_crc else ""),
        ) if text
    ]
    if given.fetch_interval:
        settings.append(["fetch.wait.max.ms", "value", str(
            int(given.fetch_interval) // 1000000)])
    return (
        "kafka", name, given.topic,
        [_kafka_parse_broker(b) for b in given.brokers.split(",")],
        given.log_level, decoder,
        {"group": "", "start": start, "settings": settings},
    )


def topology_of(
    application: str, name: str, config: tuple[Any, ...], args: Sequence[str]
) -> tuple[Any, list[Any]]:
    """The decoder, and what a topology has of a source in Kafka alone."""
    if config[0] == _names.KAFKA[1]:
        config = from_arguments(config[1], config[2], args)
    topics, brokers, level, decoder = config[2:6]
    options = config[6] if len(config) > 6 else {
        "group": "", "start": "earliest", "settings": []}
    whose = "The source %s" % name
    topics = [topics] if isinstance(topics, str) else list(topics)
    if not topics or not all(topics):
        api_error("%s needs a topic." % whose)
    if level not in LOG_LEVELS:
        api_error("The log level of %s must be one of %s, not %r."
                  % (name, ", ".join(LOG_LEVELS), level))
    return decoder, [
        wire_brokers(brokers, whose),
        [["log_level", "value", LOG_LEVELS[level]]] + options["settings"],
        topics,
        options["group"] or "%s-%s" % (application, name),
        options["start"],
        isinstance(decoder, RecordDecoder),
    ]
