"""The programs around an application: machida3, sender and the others."""

from __future__ import annotations

# Directories with the programs in C; whoever starts a tool knows them.
PROGRAMS: list[str] = []
