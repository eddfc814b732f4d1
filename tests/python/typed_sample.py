"""A typed application; test_typing.py shows it to a type checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import wallaroo
import wallaroo.testing


@dataclass
class Vote:
    letter: str
    n: int


@dataclass
class Votes:
    total: int = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(payload: bytes) -> Vote:
    return Vote(payload[:1].decode(), payload[1])


@wallaroo.computation(name="Valid")
def valid(vote: Vote) -> Optional[Vote]:
    return vote if vote.n else None


@wallaroo.computation
def bare(vote: Vote) -> Vote:
    return vote


@wallaroo.computation_multi(name="Both")
def both(vote: Vote) -> list[Vote]:
    return [vote, vote]


@wallaroo.key_extractor
def letter(vote: Vote) -> str:
    return vote.letter


@wallaroo.state_computation(name="Add", state=Votes)
def add(vote: Vote, votes: Votes) -> int:
    votes.total += vote.n
    return votes.total


@wallaroo.encoder
def encode(total: int) -> bytes:
    return b"%d\n" % total


def application_setup(args: list[str]) -> tuple[object, ...]:
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    pipeline = (
        wallaroo.source(
            "Votes", wallaroo.TCPSourceConfig(name, host, port, decode))
        .merge(wallaroo.source(
            "Old", wallaroo.TCPSourceConfig(host, port, decode)))
        .to(valid).to(bare).to(both)
        .key_by(letter)
        .to(add)
        .to_sinks([
            wallaroo.TCPSinkConfig(host, port, encode),
            wallaroo.FileSinkConfig("/out", wallaroo.codecs.json_encoder),
        ])
    )
    return wallaroo.build_application("Votes", pipeline)


def check() -> None:
    result = wallaroo.testing.run(
        application_setup(["--in", "a@b:1"]), {"Votes": [Vote("a", 1)]})
    votes = add.initial_state()
    sums: Optional[int] = add.compute(Vote("a", 1), votes)
    vote: Optional[Vote] = valid(Vote("a", votes.total))
    again: Optional[Vote] = valid.compute(decode.decode(b"a1") or Vote("", 0))
    assert sums and vote and again and valid() is valid
    first: bytes = result.outputs["b:1"][0]
    print(first, result.states["Add"]["a"], result.dead_letters)
