"""Functions that are not what their decorator is for."""

from __future__ import annotations

from typing import Optional

import wallaroo
from wallaroo import codecs


class Total:
    count = 0


def two(a: int, b: int) -> int:
    return a + b


def one(a: int) -> int:
    return a


def key(a: int) -> list[int]:
    return [a]


def add(a: int, total: Total) -> Optional[int]:
    total.count += a
    return total.count


wallaroo.computation(two)  # wrong
wallaroo.computation("two")(two)  # wrong
wallaroo.computation_multi(one)  # wrong
wallaroo.key_extractor(key)  # wrong
wallaroo.encoder(key)  # wrong
wallaroo.state_computation(state=Total)(one)  # wrong
wallaroo.state_computation(state=dict)(add)  # wrong
wallaroo.computation(on_error=3)  # wrong
wallaroo.state_computation(state=Total, version="2")  # wrong
wallaroo.count_windows("10")  # wrong
wallaroo.range_windows(wallaroo.seconds("1"))  # wrong
wallaroo.TCPSinkConfig("host", None, codecs.lines_encoder)  # wrong
wallaroo.FileSourceConfig("name", "path")  # wrong
wallaroo.run(workers="3")  # wrong
wallaroo.computation(one)("text")  # wrong
