"""Helpers that take addresses and options from an application's arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Optional


def _parse(args: Sequence[str], *flags: str, **options: Any) -> str:
    parser = argparse.ArgumentParser(prog="wallaroo")
    parser.add_argument(*flags, dest="value", required=True, **options)
    value: str = parser.parse_known_args(list(args))[0].value
    return value


def tcp_parse_input_addrs(args: Sequence[str]) -> list[tuple[str, ...]]:
    """--in NAME@HOST:PORT,...: a tuple of texts for each address.

    (name, host, port); (host, port) when the address has no name.

    >>> wallaroo.tcp_parse_input_addrs(["app", "--in", "a@localhost:7010"])
    [('a', 'localhost', '7010')]
    """
    value = _parse(
        args, "-i", "--in", metavar="NAME@HOST:PORT,...",
        help="addresses that sources listen on",
    )
    return [
        _parts(address.replace("@", ":")) for address in value.split(",")
    ]


def tcp_parse_output_addrs(args: Sequence[str]) -> list[tuple[str, ...]]:
    """--out HOST:PORT,...: (host, port) as texts for each address.

    >>> wallaroo.tcp_parse_output_addrs(["app", "--out", "[::1]:7002"])
    [('::1', '7002')]
    """
    value = _parse(
        args, "-o", "--out", metavar="HOST:PORT,...",
        help="addresses that sinks connect to",
    )
    return [_parts(address) for address in value.split(",")]


def _parts(address: str) -> tuple[str, ...]:
    """What is between colons; [::1] is one part, without its brackets."""
    found = re.findall(r"(?:^|:)(?:\[([^]]*)\](?=:|$)|([^:]*))", address)
    return tuple(bracketed or plain for bracketed, plain in found)


def _kafka_parse_broker(broker: str) -> tuple[str, str]:
    """"host[:port]" as (host, port); Kafka's port is 9092."""
    host, _, port = broker.partition(":")
    return (host, port or "9092")


def kafka_parse_source_options(
    args: Sequence[str],
) -> tuple[Optional[str], str, list[tuple[str, str]], str]:
    """--kafka_source_name, _topic, _brokers and _log_level."""
    parser = argparse.ArgumentParser(prog="wallaroo")
    parser.add_argument("--kafka_source_name", dest="name", default=None)
    parser.add_argument("--kafka_source_topic", dest="topic", default="")
    parser.add_argument("--kafka_source_brokers", dest="brokers", default="")
    parser.add_argument(
        "--kafka_source_log_level", dest="log_level", default="Warn"
    )
    given = parser.parse_known_args(list(args))[0]
    brokers = [_kafka_parse_broker(b) for b in given.brokers.split(",")]
    return (given.name, given.topic, brokers, given.log_level)


def kafka_parse_sink_options(
    args: Sequence[str],
) -> tuple[str, str, list[tuple[str, str]], str, int, int]:
    """--kafka_sink_topic, _brokers, _log_level and the two limits."""
    parser = argparse.ArgumentParser(prog="wallaroo")
    parser.add_argument("--kafka_sink_topic", dest="topic", default="")
    parser.add_argument("--kafka_sink_brokers", dest="brokers", default="")
    parser.add_argument(
        "--kafka_sink_log_level", dest="log_level", default="Warn"
    )
    parser.add_argument(
        "--kafka_sink_max_produce_buffer_ms",
        dest="buffer_ms", type=int, default=0,
    )
    parser.add_argument(
        "--kafka_sink_max_message_size",
        dest="message_size", type=int, default=100000,
    )
    given = parser.parse_known_args(list(args))[0]
    brokers = [_kafka_parse_broker(b) for b in given.brokers.split(",")]
    return (
        "", given.topic, brokers, given.log_level,
        given.buffer_ms, given.message_size,
    )
