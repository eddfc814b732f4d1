"""Running sums of numbers, between two connectors.

Programs of their own bring the numbers and take the sums, both exactly once:
start one of each, in whatever language, and the application.

    export WALLAROO_CONNECTOR_COOKIE=$(cat cookie)
    python3 python/numbers_source.py --address 127.0.0.1:7100
    python3 python/sqlite_sink.py --address 127.0.0.1:7200 sums.db

Those in go/ and rust/ find the address in WALLAROO_CONNECTOR_ADDRESS.
"""

from __future__ import annotations

import os
from typing import Any

import wallaroo
from wallaroo import experimental

HERE = os.path.dirname(os.path.realpath(__file__))


class Sum:
    def __init__(self) -> None:
        self.total = 0


def application_setup(args: list[str]) -> tuple[Any, ...]:
    with open(os.path.join(HERE, "cookie")) as file:
        cookie = file.readline().strip()
    sums = (
        wallaroo.source("Numbers", experimental.SourceConnectorConfig(
            "numbers", None, decode_number, 7100, cookie))
        .to(add_up)
        .to_sink(experimental.SinkConnectorConfig(
            "sums", encode_sum, None, 7200, cookie))
    )
    return wallaroo.build_application("Connectors", sums)


@experimental.stream_message_decoder
def decode_number(message: bytes) -> int:
    return int(message)


@wallaroo.state_computation(name="Add up", state=Sum)
def add_up(number: int, sum: Sum) -> int:
    sum.total += number
    return sum.total


@experimental.octet_message_encoder
def encode_sum(total: int) -> bytes:
    return b"%d\n" % total
