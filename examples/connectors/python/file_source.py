"""Feeds the lines of files; a line's point is the offset behind it.

    python file_source.py --address 127.0.0.1:7100 --cookie-file FILE PATH...

Each file is a stream, which ends where the file does.
"""

from __future__ import annotations

import argparse
from typing import Optional

from wallaroo import connectors


class Lines(connectors.Source):
    def __init__(self, path: str) -> None:
        self.name = path
        self.file = open(path, "rb")

    def seek(self, point: Optional[int]) -> None:
        self.file.seek(point or 0)

    def read(self) -> tuple[int, bytes]:
        line = self.file.readline()
        if not line:
            raise connectors.EndOfStream
        return self.file.tell(), line.rstrip(b"\n")

    def close(self) -> None:
        self.file.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="+")
    connectors.add_options(parser)
    args = parser.parse_args()
    connectors.run_source(*map(Lines, args.path),
                          options=connectors.options_of(args))
