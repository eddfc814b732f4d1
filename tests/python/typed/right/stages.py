"""Pipelines that are right, in all the ways that stages are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Union

import wallaroo
from wallaroo import codecs, helpers


@dataclass
class Event:
    user: str


@dataclass
class Click(Event):
    page: str


class Seen:
    def __init__(self) -> None:
        self.count = 0


@wallaroo.decoder
def decode(data: bytes) -> Optional[Click]:
    return Click(data.decode(), "/") if data else None


@wallaroo.computation
def anything(value: object) -> str:
    return str(value)


@wallaroo.computation
def user_of(event: Event) -> str:
    return event.user


@wallaroo.computation("Kept", on_error="skip")
def kept(click: Click) -> Optional[Click]:
    return click if click.page else None


@wallaroo.computation_multi
def both(event: Event) -> list[Union[Event, str]]:
    return [event, event.user]


@wallaroo.key_extractor
def user(event: Event) -> str:
    return event.user


@wallaroo.key_extractor(on_error="dead-letter")
def itself(text: str) -> bytes:
    return text.encode()


@wallaroo.state_computation(state=Seen)
def count(event: Event, seen: Seen) -> tuple[str, int]:
    seen.count += 1
    return event.user, seen.count


@wallaroo.state_computation_multi("Last", state=lambda: [""], version=2)
def last(text: str, before: list[str]) -> Optional[list[str]]:
    before[0], old = text, before[0]
    return [old] if old else None


@wallaroo.encoder
def encode(pair: tuple[str, int]) -> str:
    return "%s %d\n" % pair


def longer(total: int, text: str) -> int:
    return total + len(text)


class Users(wallaroo.Aggregation[Event, set[str], int]):
    def initial_accumulator(self) -> set[str]:
        return set()

    def update(self, data: Event, accumulator: set[str]) -> None:
        accumulator.add(data.user)

    def combine(self, a: set[str], b: set[str]) -> set[str]:
        return a | b

    def output(self, key: str, accumulator: set[str]) -> Optional[int]:
        return len(accumulator)


class Numbers:
    def __init__(self, count: int) -> None:
        self.count = count

    def initial_value(self) -> Optional[int]:
        return 0

    def apply(self, value: int) -> Optional[int]:
        return value + 1 if value < self.count else None


def application_setup(args: list[str]) -> tuple[Any, ...]:
    clicks = wallaroo.source("clicks", wallaroo.TCPSourceConfig(
        "clicks", "127.0.0.1", 7010, decode))
    texts = clicks.to(kept).to(user_of)
    lines = wallaroo.source("lines", wallaroo.StdinSourceConfig(
        "lines", codecs.lines_decoder))
    numbers = wallaroo.source("numbers", wallaroo.GenSourceConfig(Numbers(9)))
    merged = texts.merge(lines).merge(numbers)
    merged.to(anything).key_by(itself).to(last)
    clicks.to(both).to(anything)
    clicks.key_by(user).to(
        wallaroo.count_windows(10).with_timeout(None).over(Users)
    ).to_sink(wallaroo.StdoutSinkConfig(codecs.json_encoder))
    clicks.key_by(user).to(
        wallaroo.session_windows(wallaroo.minutes(30))
        .with_late_data_policy("fire-per-message")
        .with_early_firings(wallaroo.minutes(5)).over(Users)
    ).to_sink(wallaroo.StdoutSinkConfig(codecs.json_encoder))
    wallaroo.build_application("sliding", clicks.collect().to(
        wallaroo.range_windows(wallaroo.minutes(5))
        .with_slide(wallaroo.minutes(1)).over(Users)
    ).to_sink(wallaroo.FileSinkConfig("out", codecs.lines_encoder)))
    lines.key_by(itself).to(helpers.top_k(3)).to_sink(
        wallaroo.StdoutSinkConfig(codecs.json_encoder).where(bool))
    lines.key_by(itself).to(helpers.fold(int, longer)).to(
        helpers.rolling_mean(10)).to(helpers.peek(print))
    wallaroo.source("orders", wallaroo.StdinSourceConfig(
        "orders", codecs.json_lines(Click))).to(kept)
    return wallaroo.build_application("clicks", clicks.key_by(user).to(count)
        .to_sinks([
            wallaroo.FileSinkConfig("out", encode),
            wallaroo.TCPSinkConfig("127.0.0.1", "7002",
                                   codecs.lines_encoder),
        ]))


if __name__ == "__main__":
    click = Click("a", "/")
    text: str = anything(click) or ""
    pair = count(click, Seen())
    assert pair and text and last.initial_state() == [""]
    made: Optional[tuple[str, int]] = pair
