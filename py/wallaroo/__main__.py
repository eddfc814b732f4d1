"""python -m wallaroo run: an application, from a terminal."""

from __future__ import annotations

import sys

from ._run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
