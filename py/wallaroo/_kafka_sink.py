"""Topics of Kafka as sinks."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Optional, TypeVar

from ._configs import SinkConfig
from ._errors import api_error
from ._kafka_settings import Settings, wire_brokers, wire_settings

In = TypeVar("In", contravariant=True)


class KafkaSink(SinkConfig[In]):
    """Writes records to a topic; exactly once, by transactions.

    value is an encoder: it makes the record's value (bytes or str), or
    (value, key), or (value, key, partition).  Without a partition the key
    says which, as it does with Java's clients.

    commit_interval: seconds between commits; what is written is seen by
    readers with isolation.level=read_committed when it is committed.
    exactly_once=False: no transactions; what leaves is seen at once, and may
    be repeated after a crash.  config: more settings of librdkafka, such as
    {"security.protocol": "ssl", "ssl.ca.location": "/etc/ca.pem"}; passwords
    are given as FromFile(path) or FromEnv(variable).
    """

    def __init__(
        self,
        topic: str,
        brokers: Any,
        value: Any,
        *,
        exactly_once: bool = True,
        commit_interval: float = 0.1,
        config: Optional[Settings] = None,
    ) -> None:
        if not isinstance(topic, str) or not topic or "\0" in topic:
            api_error("A topic has a name, not %r." % (topic,))
        if not 0.001 <= commit_interval <= 3600:
            api_error(
                "commit_interval must be from 0.001 to 3600 seconds, not "
                "%r." % (commit_interval,))
        self.topic = topic
        self.brokers = wire_brokers(brokers, "The sink %s" % topic)
        self.value = value
        self.exactly_once = bool(exactly_once)
        self.commit_interval = commit_interval
        self.config = dict(config or {})
        wire_settings(self.config, "the sink %s" % topic)

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka-sink", "", self.topic, self.brokers, self.config,
            self.exactly_once, round(self.commit_interval * 1000),
            self.value,
        )


# Of the contract's options; librdkafka's names.
_COMPRESSION = ("none", "gzip", "snappy", "lz4")


def _options(name: str) -> Any:
    """--NAME_topic and the others, of the command line."""
    parser = argparse.ArgumentParser(prog="wallaroo")
    for option, default in (
        ("topic", ""), ("brokers", ""), ("log_level", "Warn"),
        ("partitions", None),
    ):
        parser.add_argument("--%s_%s" % (name, option), dest=option,
                            default=default)
    for option, number in (
        ("produce_timeout_ms", 100), ("max_produce_buffer_ms", 0),
        ("max_inflight_requests", 1000000), ("produce_acks", -1),
    ):
        parser.add_argument("--%s_%s" % (name, option), dest=option,
                            type=int, default=number)
    parser.add_argument(
        "--%s_max_produce_message_size" % name,
        "--%s_max_message_size" % name, dest="max_message_size", type=int,
        default=1000000)
    parser.add_argument("--%s_producer_compression" % name,
                        dest="compression", choices=_COMPRESSION,
                        default="none")
    return parser.parse_known_args(sys.argv)[0]


def wire(name: str, config: Any) -> list[Any]:
    """Brokers, settings, topic, exactly_once and commit_ms of a sink's
    tuple."""
    part = "The sink %s" % name
    if config[0] == "kafka-sink":
        _, _, topic, brokers, settings, exactly, commit_ms, _ = config
        return [brokers, wire_settings(settings, part), topic, exactly,
                commit_ms]
    more: dict[str, Any] = {}
    if config[0] == "kafka-internal":
        given = _options(config[1])
        topic, brokers = given.topic, given.brokers
        linger, most = given.max_produce_buffer_ms, given.max_message_size
        if given.compression != "none":
            more["compression.codec"] = given.compression
    else:
        topic, brokers, _, linger, most = config[2:7]
    if not topic:
        api_error("%s needs a topic." % part)
    # A key chooses the partition by its CRC32.
    settings = {"partitioner": "consistent_random", "linger.ms": linger,
                "message.max.bytes": max(most, 1000), **more}
    return [wire_brokers(brokers, part), wire_settings(settings, part), topic,
            True, 100]
