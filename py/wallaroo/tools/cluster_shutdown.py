"""cluster_shutdown: stop an application and remove its state."""

from __future__ import annotations

import sys
from typing import Optional

from . import _external, _options

NAME = "cluster_shutdown"


def main(argv: Optional[list[str]] = None) -> int:
    parser = _options.parser(
        NAME, "Stop an application, and remove its state."
    )
    parser.add_argument(
        "address", metavar="HOST:PORT", type=_options.address,
        help="its external channel",
    )
    options = parser.parse_args(_options.without_pony(
        sys.argv[1:] if argv is None else argv))
    try:
        with _external.Channel(options.address) as channel:
            channel.send(_external.SHUTDOWN, NAME.encode())
            channel.finish()
    except _external.ExternalError as error:
        _options.complain(NAME, error)
        return 1
    return 0
