"""Names and constant keys of a pipeline's parts.

The worker and the reference executor must call things by the same names,
so both ask here; everything else about a pipeline they find out apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from . import _windows
from ._errors import api_error

# The current key of a message that no key_by or collect has seen yet.
SOURCE_KEYS = {
    "tcp": b"tcp-source-key",
    "gen": b"gen-source-key",
    "file": b"file-source-key",
    "stdin": b"stdin-source-key",
    # A message without a key.
    "source_connector": b"",
}

# Kinds of sources that end.
ENDING = ("gen", "file", "stdin")

DEAD_LETTERS = "dead-letters"

# A stage is found by its branch's number and its place in the branch.
Position = tuple[int, int]


def check_application(application: Any) -> None:
    """Refuse what wallaroo.build_application did not return."""
    ok = (
        isinstance(application, tuple)
        and len(application) == 4
        and isinstance(application[0], str)
        and isinstance(application[1], int)
        and isinstance(application[2], list)
        and isinstance(application[3], list)
        and len(application[2]) == len(application[3])
        and 0 <= application[1] < len(application[2])
    )
    if not ok:
        api_error(
            "application_setup must return what wallaroo.build_application "
            "returned, not %s" % (
                "None: there is no \"return\"." if application is None
                else "%r." % (application,))
        )


def part_name(part: Any) -> str:
    """The name of a stage object, encoder, decoder or key extractor."""
    name = getattr(part, "name", None)
    if callable(name):
        name = name()
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    return name if isinstance(name, str) else "undefined-name"


def parents(edges: list[list[int]]) -> dict[int, int]:
    """The branch that each branch flows into."""
    return {child: i for i, pair in enumerate(edges) for child in pair}


def rest_of_path(
    position: Position, vertices: list[Any], edges: list[list[int]]
) -> list[Position]:
    """Where a message goes after the given place, up to the sinks."""
    branch, place = position
    up = parents(edges)
    path = [(branch, i) for i in range(place + 1, len(vertices[branch]))]
    while branch in up:
        branch = up[branch]
        path += [(branch, i) for i in range(len(vertices[branch]))]
    return path


def branches(root: int, edges: list[list[int]]) -> list[int]:
    """All branches, each behind what flows into it, from left to right."""
    before = [
        branch for child in edges[root] for branch in branches(child, edges)
    ]
    return before + [root]


def window_names(vertices: list[Any]) -> dict[Position, str]:
    """The name of each stage of windows: its aggregation's.

    A repeated one is numbered, since nobody gives aggregations names to
    tell stages apart.
    """
    states = set()
    found: dict[Position, str] = {}
    for branch, stages in enumerate(vertices):
        for place, stage in enumerate(stages):
            if stage[0] == "to_state":
                states.add(part_name(stage[1]))
            elif stage[0] in _windows.KINDS:
                aggregation = _windows.aggregation_of(stage)
                found[branch, place] = part_name(aggregation)
    return dict(zip(found, unique(found.values(), " (%d)", states)))


def collect_keys(
    vertices: list[Any], edges: list[list[int]]
) -> dict[Position, str]:
    """The constant key of each collect().

    It is made of the name of the stage with state or windows that it
    serves, so that the state is found again when other stages come or go.
    """
    keys: dict[Position, str] = {}
    for branch, stages in enumerate(vertices):
        for place, stage in enumerate(stages):
            if stage[0] == "collect":
                position = (branch, place)
                keys[position] = _collect_key(position, vertices, edges)
    return dict(zip(keys, unique(keys.values(), "-%d")))


def _collect_key(
    position: Position, vertices: list[Any], edges: list[list[int]]
) -> str:
    for branch, place in rest_of_path(position, vertices, edges):
        stage = vertices[branch][place]
        if stage[0] in ("key_by", "collect"):
            return "collect-key-unused"
        if stage[0] == "to_state":
            return "collect-key-" + part_name(stage[1])
        if stage[0] in _windows.KINDS:
            name = window_names(vertices)[branch, place]
            return "collect-key-" + name
    return "collect-key"


def source_names(stages: Iterable[Any]) -> list[str]:
    """Unique names of ("source", pipeline name, config tuple) stages."""
    return unique((stage[1] for stage in stages), " (%d)")


# Of the configurations' tuples; else the last member.
ENCODER_AT = {"sink_connector": 4}
KAFKA = ("kafka", "kafka-internal", "kafka-sink")


def encoder_of(config: Any) -> Any:
    """The encoder of a sink's config tuple."""
    return config[ENCODER_AT.get(config[0], -1)]


def sink_names(configs: Iterable[Any]) -> list[str]:
    """Unique names of sinks: where they write to."""
    names = []
    for config in configs:
        if config[0] == "tcp":
            names.append("%s:%s" % (config[2], config[3]))
            continue
        if config[0] in ("kafka", "kafka-sink"):
            names.append("kafka:%s" % (config[2],))
            continue
        if config[0] in ("kafka-internal", "sink_connector"):
            names.append(str(config[1]))
            continue
        name = str(config[2]) if config[0] == "file" else str(config[0])
        if name in names:
            api_error("Two sinks cannot both write to %s." % name)
        names.append(name)
    return unique(names, " (%d)", {DEAD_LETTERS})


def unique(
    names: Iterable[str], form: str, taken: Optional[set[str]] = None
) -> list[str]:
    """The names, repeated ones numbered from 2."""
    seen = set(taken or ())
    result = []
    for name in names:
        candidate, n = name, 1
        while candidate in seen:
            n += 1
            candidate = name + form % n
        seen.add(candidate)
        result.append(candidate)
    return result


def late_sinks(vertices: list[Any]) -> list[Any]:
    """The config tuples of sinks that only get what is late, each once."""
    found: list[Any] = []
    for stages in vertices:
        for stage in stages:
            config = _windows.late_to(stage)
            if config is not None and config not in found:
                found.append(config)
    return found


def sinks_of(stage: Any) -> list[Any]:
    """The config tuples of a "to_sink" or "to_sinks" stage."""
    return [stage[1]] if stage[0] == "to_sink" else list(stage[1])
