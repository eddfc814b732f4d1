"""external_sender: one message to an application, and what it answers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Optional

from . import _external, _options

NAME = "external_sender"

# What a program that reads the status gets until there is one.
NO_STATUS = json.dumps({
    "worker_count": 0, "worker_names": [], "processing_messages": False,
})


def main(argv: Optional[list[str]] = None) -> int:
    parser = _options.parser(
        NAME, "Send a message to a running application, and print its answer."
    )
    parser.add_argument(
        "-e", "--external", required=True, metavar="HOST:PORT",
        type=_options.address, help="its external channel",
    )
    parser.add_argument(
        "-t", "--type", required=True, choices=sorted(_external.KINDS),
        metavar="TYPE", help=", ".join(sorted(_external.KINDS)),
    )
    parser.add_argument(
        "-m", "--message", metavar="TEXT",
        help="its text, where the type has one",
    )
    parser.add_argument(
        "-j", "--json", action="store_true",
        help="print only the JSON of the answer",
    )
    options = parser.parse_args(_options.without_pony(
        sys.argv[1:] if argv is None else argv))
    kind = _external.KINDS[options.type]
    try:
        with _external.Channel(options.external) as channel:
            channel.send(kind.id, text_of(options).encode())
            if not kind.answered:
                channel.finish()
                return 0
            answer = channel.receive()
    except _external.ExternalError as error:
        _options.complain(NAME, error)
        return 1
    text = answer.text()
    if answer.id == _external.NOT_INITIALIZED:
        text = NO_STATUS
        if not options.json:
            print("The application has not been initialized yet.")
    if not options.json:
        print("%s:" % options.type)
    print(text, flush=True)
    return 0


def text_of(options: argparse.Namespace) -> str:
    """The message's payload; a query has none."""
    if options.message is not None:
        return str(options.message)
    return ("boundary-count-status"
            if options.type == "boundary-count-status" else "")
