"""For authors of connectors: programs that feed sources or empty sinks.

A source is a subclass of Source, or a generator function with @source; a sink
is a subclass of Sink.  run_source() and run_sink() make a program of it:
options, connections, back-off, credits, acknowledgements and two-phase commit
are theirs.  Methods may be plain functions, which run in a thread of their
own, or coroutines.  The manual page is wallaroo-connectors(7).
"""

from __future__ import annotations

from ._options import Options, add_options, options_of
from ._sink import Position, Sink, Transaction, run_sink, serve_sink
from ._source import (
    EndOfStream,
    Record,
    Source,
    run_source,
    serve_source,
    source,
)
from ._wire import Refused, Violation

__all__ = [
    "EndOfStream",
    "Options",
    "Position",
    "Record",
    "Refused",
    "Sink",
    "Source",
    "Transaction",
    "Violation",
    "add_options",
    "options_of",
    "run_sink",
    "run_source",
    "serve_sink",
    "serve_source",
    "source",
]
