"""What the command lines of the tools have in common."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ._external import split_address


def parser(name: str, description: str, **more: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name, description=description, allow_abbrev=False, **more
    )


def address(text: str) -> str:
    """An argument that is HOST:PORT."""
    try:
        split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def addresses(text: str) -> list[str]:
    return [address(part) for part in text.split(",")]


def natural(text: str) -> int:
    """A whole number that may have underscores, as 5_000_000."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError("%s is less than 1" % text)
    return number


def whole(text: str) -> int:
    digits = text.replace("_", "")
    if not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError("%r is no number" % text)
    return int(digits)


def without_pony(argv: list[str]) -> list[str]:
    """The arguments without those of the original's language runtime."""
    kept, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in PONY_WITH_VALUE:
            skip = True
        elif not argument.startswith("--pony"):
            kept.append(argument)
    return kept


PONY_WITH_VALUE = frozenset((
    "--ponythreads", "--ponyminthreads", "--ponymaxthreads",
    "--ponycdinterval", "--ponycdmin", "--ponycdmax", "--ponygcinitial",
    "--ponygcfactor", "--ponysuspendthreshold",
))


def complain(name: str, text: object) -> None:
    print("%s: %s" % (name, text), file=sys.stderr, flush=True)
