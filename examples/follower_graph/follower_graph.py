"""Who has most followers: a graph that is read once, a run that ends.

The file has a line "follower followed" for each edge, or "follower -followed"
where somebody has stopped to follow.  When it has been read to its end, each
person knows its followers, and says how many there are and how many of them
it follows in turn; the three with most followers come out, and the run ends
by itself, with exit code 0:

    dora 4 followers, 2 mutual

Nothing of that needs times or windows.  The edges of the graph are spread over
the workers by person; on_end is called for each person when all edges are
in, and for the one key of collect() when all persons have spoken.

    python3 -m wallaroo run follower_graph.py --workers 2 edges.txt
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import wallaroo
from wallaroo import codecs

TOP = 3


@dataclass
class End:
    """One end of an edge."""

    person: str
    other: str
    is_followed: bool
    is_there: bool


@dataclass
class Person:
    # Dictionaries, since the order of a set is not saved with it.
    followers: dict[str, None] = field(default_factory=dict)
    follows: dict[str, None] = field(default_factory=dict)


@dataclass
class Popularity:
    person: str
    followers: int
    mutual: int


@dataclass
class Best:
    """The persons with most followers so far, the first one first."""

    persons: list[Popularity] = field(default_factory=list)


@wallaroo.computation_multi(on_error="dead-letter")
def ends(line: str) -> list[End]:
    """Both persons of an edge need to know of it."""
    follower, followed = line.split()
    is_there = not followed.startswith("-")
    followed = followed.lstrip("-")
    return [End(follower, followed, False, is_there),
            End(followed, follower, True, is_there)]


@wallaroo.key_extractor
def person(end: End) -> str:
    return end.person


def popularity(key: str, person: Person) -> Optional[Popularity]:
    if not person.followers:
        return None
    mutual = sum(other in person.follows for other in person.followers)
    return Popularity(key, len(person.followers), mutual)


@wallaroo.state_computation(state=Person, on_end=popularity)
def connect(end: End, person: Person) -> Optional[Popularity]:
    others = person.followers if end.is_followed else person.follows
    if end.is_there:
        others[end.other] = None
    else:
        others.pop(end.other, None)
    return None


def podium(key: str, best: Best) -> str:
    return "\n".join(
        "%s %d followers, %d mutual" % (one.person, one.followers, one.mutual)
        for one in best.persons)


@wallaroo.state_computation(state=Best, on_end=podium)
def most(one: Popularity, best: Best) -> Optional[str]:
    best.persons.append(one)
    best.persons.sort(key=lambda one: (-one.followers, one.person))
    del best.persons[TOP:]
    return None


def application_setup(args: list[str]) -> tuple[Any, ...]:
    edges = wallaroo.FileSourceConfig("edges", args[1], codecs.lines_decoder)
    persons = (
        wallaroo.source("Edges", edges)
        .to(ends)
        .key_by(person)
        .to(connect)
        .collect()
        .to(most)
        .to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder))
    )
    return wallaroo.build_application("Follower graph", persons)
