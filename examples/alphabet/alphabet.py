"""Add up votes for letters: frames of a letter and a number in and out.

A message is a 4-byte big-endian length, then a letter and a 4-byte
big-endian number; an output is the same with the letter's sum in 8 bytes.

    --in NAME@HOST:PORT --out HOST:PORT
"""

from __future__ import annotations

import struct
from typing import Any

import wallaroo


class Votes:
    def __init__(self) -> None:
        self.total = 0


def application_setup(args: list[str]) -> tuple[Any, ...]:
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    votes = (
        wallaroo.source(
            "Alphabet",
            wallaroo.TCPSourceConfig(name, host, port, decode_vote),
        )
        .key_by(letter)
        .to(add_votes)
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode_votes))
    )
    return wallaroo.build_application("Alphabet", votes)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_vote(payload: bytes) -> tuple[str, int]:
    letter, votes = struct.unpack(">1sI", payload)
    return (letter.decode("ascii"), votes)


@wallaroo.key_extractor
def letter(vote: tuple[str, int]) -> str:
    return vote[0]


@wallaroo.state_computation(name="Add votes", state=Votes)
def add_votes(vote: tuple[str, int], votes: Votes) -> tuple[str, int]:
    letter, n = vote
    votes.total += n
    return (letter, votes.total)


@wallaroo.encoder
def encode_votes(total: tuple[str, int]) -> bytes:
    letter, n = total
    return struct.pack(">I1sQ", 9, letter.encode("ascii"), n)
