"""Configurations of sources and sinks in Kafka.

An application that has one can be built, looked at and tested; to run it
needs the part of the runtime that talks to Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._cli import kafka_parse_sink_options, kafka_parse_source_options
from ._configs import SinkConfig, SourceConfig

Brokers = Sequence[tuple[str, str]]


class KafkaSourceConfig(SourceConfig[Any]):
    """Reads the values of a topic; decoder gets each as a whole."""

    def __init__(
        self,
        name: str,
        topic: str,
        brokers: Brokers,
        log_level: str,
        decoder: Any,
    ) -> None:
        self.name = name
        self.topic = topic
        self.brokers = brokers
        self.log_level = log_level
        self.decoder = decoder

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka", self.name, self.topic, self.brokers, self.log_level,
            self.decoder,
        )


class KafkaSinkConfig(SinkConfig[Any]):
    """Writes to a topic; encoder makes (value, key, partition)."""

    def __init__(
        self,
        topic: str,
        brokers: Brokers,
        log_level: str,
        max_produce_buffer_ms: int,
        max_message_size: int,
        encoder: Any,
    ) -> None:
        self._name = ""
        self.topic = topic
        self.brokers = brokers
        self.log_level = log_level
        self.max_produce_buffer_ms = max_produce_buffer_ms
        self.max_message_size = max_message_size
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka", self._name, self.topic, self.brokers, self.log_level,
            self.max_produce_buffer_ms, self.max_message_size, self.encoder,
        )


class DefaultKafkaSourceCLIParser(SourceConfig[Any]):
    """A source whose options --NAME_topic, --NAME_brokers and so on the
    runtime takes from the command line."""

    def __init__(self, decoder: Any, name: str = "kafka_source") -> None:
        self.name = name
        self.decoder = decoder

    def to_tuple(self) -> tuple[Any, ...]:
        return ("kafka-internal", self.name, self.decoder)


class DefaultKafkaSinkCLIParser(SinkConfig[Any]):
    """A sink whose options --NAME_topic, --NAME_brokers and so on the
    runtime takes from the command line."""

    def __init__(self, encoder: Any, name: str = "kafka_sink") -> None:
        self.name = name
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return ("kafka-internal", self.name, self.encoder)


class CustomKafkaSourceCLIParser(SourceConfig[Any]):
    """A source as kafka_parse_source_options() reads it from args."""

    def __init__(self, args: Sequence[str], decoder: Any) -> None:
        self._name, self.topic, self.brokers, self.log_level = (
            kafka_parse_source_options(args)
        )
        self.decoder = decoder

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka", self._name, self.topic, self.brokers, self.log_level,
            self.decoder,
        )


class CustomKafkaSinkCLIParser(SinkConfig[Any]):
    """A sink as kafka_parse_sink_options() reads it from args."""

    def __init__(self, args: Sequence[str], encoder: Any) -> None:
        (
            self._name, self.topic, self.brokers, self.log_level,
            self.max_produce_buffer_ms, self.max_message_size,
        ) = kafka_parse_sink_options(args)
        self.encoder = encoder

    def to_tuple(self) -> tuple[Any, ...]:
        return (
            "kafka", self._name, self.topic, self.brokers, self.log_level,
            self.max_produce_buffer_ms, self.max_message_size, self.encoder,
        )
