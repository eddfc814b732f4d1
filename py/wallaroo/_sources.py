"""Whether the files that modules were imported from are still the same.

A process that has imported the application may wait long until it is needed;
code that was changed meanwhile must not run.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Optional

# The kernel stamps files with a clock that may be so much behind.
COARSE_NS = 10_000_000

Stamp = tuple[int, int, int, int]

_noted: Optional[dict[str, Optional[Stamp]]] = None


def _stamp(path: str) -> Optional[Stamp]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size,
            status.st_mtime_ns)


def _in_archive(path: str) -> str:
    """The archive that has this file, or the path as it is."""
    above = path
    while not os.path.exists(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    return above if os.path.isfile(above) else path


def _files() -> list[str]:
    """Of all modules; of one in an archive, the archive."""
    found = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            found.add(_in_archive(path))
    return sorted(found)


def _recent(path: str, since_ns: int) -> bool:
    """Was it changed when imports had begun?  Then nobody knows which
    version was imported.  A clock that is ahead of ours says nothing."""
    try:
        changed = os.stat(path).st_ctime_ns
    except OSError:
        return False
    return since_ns - COARSE_NS <= changed <= time.time_ns()


def note(since_ns: int) -> Optional[str]:
    """Note what is imported; a file that was changed while it was."""
    global _noted
    _noted = {path: _stamp(path) for path in _files()}
    for path in _noted:
        if _recent(path, since_ns):
            return path
    return None


def changed(since_ns: int) -> Optional[str]:
    """A file that is not what it was when imports began at since_ns."""
    if _noted is None:
        return note(since_ns)
    for path, stamp in _noted.items():
        if _stamp(path) != stamp:
            return path
    return None
