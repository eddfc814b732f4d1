"""A generator as source: how many primes end with each digit.

    --limit N        the last number to look at; default 10000
    --out-file FILE  where the lines "digit count prime" go; default: the
                     standard output
"""

from __future__ import annotations

import argparse
from typing import Any, Optional

import wallaroo


class Numbers:
    """2, 3, ... limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def initial_value(self) -> int:
        return 2

    def apply(self, previous: int) -> Optional[int]:
        return previous + 1 if previous < self.limit else None


class Ending:
    def __init__(self) -> None:
        self.count = 0


def application_setup(args: list[str]) -> tuple[Any, ...]:
    parser = argparse.ArgumentParser(prog="primes")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--out-file")
    given = parser.parse_known_args(args)[0]
    sink: wallaroo.SinkConfig[tuple[int, int, int]] = (
        wallaroo.FileSinkConfig(given.out_file, encode)
        if given.out_file else wallaroo.StdoutSinkConfig(encode)
    )
    primes = (
        wallaroo.source(
            "Numbers",
            wallaroo.GenSourceConfig("numbers", Numbers(given.limit)),
        )
        .to(only_primes)
        .key_by(last_digit)
        .to(count_endings)
        .to_sink(sink)
    )
    return wallaroo.build_application("Primes", primes)


@wallaroo.computation(name="Only primes")
def only_primes(n: int) -> Optional[int]:
    """None drops a number."""
    if all(n % divisor for divisor in range(2, int(n**0.5) + 1)):
        return n
    return None


@wallaroo.key_extractor
def last_digit(n: int) -> str:
    return str(n % 10)


@wallaroo.state_computation(name="Count endings", state=Ending)
def count_endings(n: int, ending: Ending) -> tuple[int, int, int]:
    ending.count += 1
    return (n % 10, ending.count, n)


@wallaroo.encoder
def encode(counted: tuple[int, int, int]) -> str:
    return "%d %d %d\n" % counted
