"""Where a connector connects to or listens, and what it proves itself by.

From the command line or the environment; a cookie is never an argument, which
every user of the machine can read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

ADDRESS = "WALLAROO_CONNECTOR_ADDRESS"
COOKIE = "WALLAROO_CONNECTOR_COOKIE"
COOKIE_FILE = "WALLAROO_CONNECTOR_COOKIE_FILE"
NAME = "WALLAROO_CONNECTOR_NAME"


class Options(NamedTuple):
    """What the connection needs; name is for people who read logs."""

    host: str
    port: int
    cookie: str = ""
    name: str = "connector"


def address(text: str) -> tuple[str, int]:
    """The parts of "host:port" or "[host]:port"."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isdecimal() \
            or not 0 < int(port) < 65536:
        raise ValueError("%r is no host:port" % text)
    return host, int(port)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ours to a program's own; options_of() reads them."""
    parser.add_argument(
        "--address", metavar="HOST:PORT",
        help="of the source, or where a sink listens; default: $" + ADDRESS)
    parser.add_argument(
        "--cookie-file", metavar="FILE",
        help="its first line is the cookie; default: $%s, or $%s itself"
        % (COOKIE_FILE, COOKIE))
    parser.add_argument(
        "--name", metavar="NAME",
        help="of this connector in logs; default: $" + NAME)


def options_of(
    parsed: argparse.Namespace, env: Optional[Mapping[str, str]] = None
) -> Options:
    """What add_options() has led to; ValueError says what is missing."""
    env = os.environ if env is None else env
    where = parsed.address or env.get(ADDRESS)
    if not where:
        raise ValueError("no --address, and no $%s" % ADDRESS)
    host, port = address(where)
    path = parsed.cookie_file or env.get(COOKIE_FILE)
    cookie = env.get(COOKIE, "")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                cookie = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                "cannot read the cookie from %s: %s" % (path, error)
            ) from error
    return Options(
        host, port, cookie, parsed.name or env.get(NAME) or "connector"
    )


def from_arguments(args: Optional[Sequence[str]], text: str) -> Options:
    """For a program that has no other options; ends it if they are wrong."""
    parser = argparse.ArgumentParser(description=text)
    add_options(parser)
    parsed = parser.parse_args(args)
    try:
        return options_of(parsed)
    except ValueError as error:
        parser.error(str(error))
