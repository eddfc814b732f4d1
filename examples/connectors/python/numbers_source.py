"""Feeds the numbers from 1 to 1000: a connector that is a generator.

    python -m numbers_source --address 127.0.0.1:7100 --cookie-file FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from wallaroo import connectors


@connectors.source("numbers")
def numbers(point: Optional[int]) -> Iterator[tuple[int, bytes]]:
    for number in range((point or 0) + 1, 1001):
        yield number, b"%d" % number


if __name__ == "__main__":
    connectors.run_source(numbers)
