"""cluster_shrinker: ask which workers may leave, or make some leave."""

from __future__ import annotations

import json
import sys
from typing import Optional

from . import _external, _options

NAME = "cluster_shrinker"


def main(argv: Optional[list[str]] = None) -> int:
    parser = _options.parser(
        NAME, "Make workers of a running application leave it."
    )
    parser.add_argument(
        "-e", "--external", required=True, metavar="HOST:PORT",
        type=_options.address, help="its external channel",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-q", "--query", action="store_true", help="which could leave?"
    )
    what.add_argument(
        "-c", "--count", type=_options.natural, default=0, metavar="N",
        help="so many are to leave",
    )
    what.add_argument(
        "-w", "--workers", default="", metavar="NAME,...",
        help="these are to leave",
    )
    options = parser.parse_args(_options.without_pony(
        sys.argv[1:] if argv is None else argv))
    request = {
        "query": options.query,
        "node_names": [name for name in options.workers.split(",") if name],
        "node_count": options.count,
    }
    if not options.query and not options.count and not request["node_names"]:
        parser.error("--workers needs the names of some")
    try:
        with _external.Channel(options.external) as channel:
            answer = channel.ask(
                _external.SHRINK, json.dumps(request).encode()
            )
    except _external.ExternalError as error:
        _options.complain(NAME, error)
        return 1
    print(answer.text(), flush=True)
    return 1 if answer.id == _external.SHRINK_ERROR else 0
