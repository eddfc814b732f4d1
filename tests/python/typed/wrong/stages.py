"""Stages that are fed what they do not take; a type checker must see each.

An expected error is on the line of its comment "wrong", or on the next one
of the same expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import wallaroo
from wallaroo import codecs, helpers


@dataclass
class Order:
    symbol: str
    amount: int


@wallaroo.computation
def length(text: str) -> int:
    return len(text)


@wallaroo.computation
def half(number: int) -> Optional[float]:
    return number / 2 if number else None


@wallaroo.computation_multi
def words(text: str) -> list[str]:
    return text.split()


@wallaroo.key_extractor
def symbol(order: Order) -> str:
    return order.symbol


@wallaroo.state_computation(state=dict[str, int])
def seen(text: str, state: dict[str, int]) -> int:
    state[text] = state.get(text, 0) + 1
    return state[text]


@wallaroo.encoder
def encode_order(order: Order) -> bytes:
    return order.symbol.encode()


class Sum(wallaroo.Aggregation[int, list[int], int]):
    def initial_accumulator(self) -> list[int]:
        return [0]

    def update(self, data: int, accumulator: list[int]) -> None:
        accumulator[0] += data

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return [a[0] + b[0]]

    def output(self, key: str, accumulator: list[int]) -> Optional[int]:
        return accumulator[0]


class Numbers:
    def initial_value(self) -> Optional[int]:
        return 0

    def apply(self, value: int) -> Optional[int]:
        return value + 1


lines = wallaroo.source("lines", wallaroo.FileSourceConfig(
    "lines", "in", codecs.lines_decoder))
numbers = wallaroo.source("numbers", wallaroo.GenSourceConfig(Numbers()))
orders = wallaroo.source("orders", wallaroo.StdinSourceConfig(
    "orders", codecs.csv_lines(Order)))
text_file = wallaroo.FileSinkConfig("out", codecs.lines_encoder)
order_file = wallaroo.FileSinkConfig("out", encode_order)
windows = wallaroo.range_windows(wallaroo.seconds(1)).over(Sum)
sessions = wallaroo.session_windows(wallaroo.seconds(1)).over(Sum)

lines.to(half)  # wrong
lines.to(helpers.count()).to(length)  # wrong
orders.to(words)  # wrong
orders.to(helpers.rolling_mean(3, length))  # wrong
numbers.to(length)  # wrong
lines.to(length).to(words)  # wrong
lines.to(words).to(half)  # wrong
lines.to(seen).to(length)  # wrong
lines.key_by(symbol)  # wrong
numbers.to(half).key_by(symbol)  # wrong
lines.to(windows)  # wrong
lines.to(sessions)  # wrong
numbers.to(windows).to(length)  # wrong
lines.to_sink(order_file)  # wrong
lines.to_sinks([text_file, order_file])  # wrong
lines.merge(numbers).to(length)  # wrong
lines.to(Sum)  # wrong
lines.to(print)  # wrong
lines.to_sink(codecs.lines_encoder)  # wrong
wallaroo.source("lines", wallaroo.FileSourceConfig(
    "lines", "in", codecs.lines_encoder))  # wrong
wallaroo.build_application("app", lines.to)  # wrong
