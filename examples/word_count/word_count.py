"""Count words: lines of text in, "word => count" out for each word.

    --in NAME@HOST:PORT or --in-file FILE      where the lines come from
    --out HOST:PORT or --out-file FILE         where the counts go;
                                               neither: standard output
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Optional

import wallaroo


class Count:
    n = 0


def application_setup(args: list[str]) -> tuple[Any, ...]:
    counts = (
        wallaroo.source("Words", text_source(args))
        .to(split)
        .key_by(word)
        .to(count)
        .to_sink(count_sink(args))
    )
    return wallaroo.build_application("Word count", counts)


@wallaroo.computation_multi(name="Split")
def split(line: str) -> list[str]:
    return re.findall(r"\w+", line.lower())


@wallaroo.key_extractor
def word(word: str) -> str:
    return word


@wallaroo.state_computation(name="Count", state=Count)
def count(word: str, count: Count) -> tuple[str, int]:
    count.n += 1
    return (word, count.n)


@wallaroo.encoder
def encode(word_and_count: tuple[str, int]) -> str:
    return "%s => %d\n" % word_and_count


def text_source(args: list[str]) -> wallaroo.SourceConfig[str]:
    path = option(args, "--in-file")
    lines = wallaroo.codecs.lines_decoder
    if path:
        return wallaroo.FileSourceConfig("words", path, lines)
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    return wallaroo.TCPSourceConfig(name, host, port, lines)


def count_sink(args: list[str]) -> wallaroo.SinkConfig[tuple[str, int]]:
    path = option(args, "--out-file")
    if path:
        return wallaroo.FileSinkConfig(path, encode)
    if not option(args, "--out"):
        return wallaroo.StdoutSinkConfig(encode)
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.TCPSinkConfig(host, port, encode)


def option(args: list[str], name: str) -> Optional[str]:
    parser = argparse.ArgumentParser(prog="word_count", allow_abbrev=False)
    parser.add_argument(name, dest="value")
    value: Optional[str] = parser.parse_known_args(args)[0].value
    return value
