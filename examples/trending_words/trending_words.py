"""The words that are written most, for every ten minutes.

Posts are lines of JSON {"time": ..., "text": ...}.  For each ten minutes a
line has the three most frequent words, those of equal frequency in the order
of the alphabet; words of less than four letters do not count:

    09:10 ferry 3, storm 3, harbour 2

Counting is spread over the workers: each counts its own words, and only one
count per word and ten minutes goes on to where they are compared, in a window
over the same ten minutes.  Both windows follow the times in the posts, so the
result is the same on any number of workers and at any speed.

    python3 -m wallaroo run trending_words.py --workers 2 posts.json
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

import wallaroo
from wallaroo import codecs

RANGE = wallaroo.minutes(10)
SECONDS = 600
TOP = 3


@dataclass
class Post:
    time: datetime
    text: str


@dataclass
class Word:
    word: str
    second: int


@dataclass
class Count:
    word: str
    number: int
    # The second at which its ten minutes end.
    end: int


@dataclass
class Best:
    """The most frequent words so far, the best first."""

    words: list[Count]


def time_of(post: Post) -> datetime:
    return post.time


@wallaroo.computation_multi
def words(post: Post) -> list[Word]:
    second = int(post.time.timestamp())
    return [Word(word, second)
            for word in re.findall(r"\w{4,}", post.text.lower())]


@wallaroo.key_extractor
def itself(word: Word) -> str:
    return word.word


class Counted(wallaroo.Aggregation[Word, list[int], Count]):
    """How often a word came in a window, and when."""

    def initial_accumulator(self) -> list[int]:
        return [0, 0]

    def update(self, word: Word, window: list[int]) -> None:
        window[0] += 1
        window[1] = word.second

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return [a[0] + b[0], max(a[1], b[1])]

    def output(self, key: str, window: list[int]) -> Optional[Count]:
        number, second = window
        end = (second // SECONDS + 1) * SECONDS
        return Count(key, number, end) if number else None


class Most(wallaroo.Aggregation[Count, Best, str]):
    """The words with the highest counts."""

    def initial_accumulator(self) -> Best:
        return Best([])

    def update(self, count: Count, best: Best) -> None:
        best.words = self.first(best.words + [count])

    def combine(self, a: Best, b: Best) -> Best:
        return Best(self.first(a.words + b.words))

    def first(self, counts: list[Count]) -> list[Count]:
        return sorted(counts, key=lambda c: (-c.number, c.word))[:TOP]

    def output(self, key: str, best: Best) -> Optional[str]:
        if not best.words:
            return None
        end = datetime.fromtimestamp(best.words[0].end, timezone.utc)
        return end.strftime("%H:%M ") + ", ".join(
            "%s %d" % (count.word, count.number) for count in best.words)


def application_setup(args: list[str]) -> tuple[Any, ...]:
    posts = wallaroo.FileSourceConfig(
        "posts", args[1], codecs.json_lines(Post))
    trends = (
        wallaroo.source("Posts", posts)
        .event_time(time_of, lateness=wallaroo.minutes(1))
        .to(words)
        .key_by(itself)
        .to(wallaroo.range_windows(RANGE).over(Counted))
        .collect()
        .to(wallaroo.range_windows(RANGE).over(Most))
        .to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder))
    )
    return wallaroo.build_application("Trending words", trends)
