"""Whether two objects mean the same, and what in them differs.

Objects of user classes rarely have an __eq__, and a pickle's bytes depend on
which strings happen to be one object.  So objects are compared by what pickle
would write of them; sets without their order.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from collections.abc import Iterator
from typing import Any

ATOMS = (type(None), bool, int, str, bytes)
# Compared by identity; pickle writes their names.
NAMED = (
    type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType,
)
MOST_OBJECTS = 100_000


class TooLarge(Exception):
    """More objects than are worth comparing."""


def same(one: Any, two: Any, inside: bool = False) -> bool:
    """inside: also in attributes that the objects' pickles leave out."""
    try:
        return bool(_Plain(inside).of(one) == _Plain(inside).of(two))
    except TooLarge:
        return pickle.dumps(one) == pickle.dumps(two)


def same_pickles(one: bytes, two: bytes) -> bool:
    return one == two or same(pickle.loads(one), pickle.loads(two))


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container or object holds, and how it is reached."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield "[%s]" % short(key, 30), item
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield "[%d]" % number, item
    if hasattr(value, "__dict__") and not isinstance(value, NAMED):
        for name, item in vars(value).items():
            yield "." + name, item
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        if hasattr(value, name):
            yield "." + name, getattr(value, name)


def is_mutable(value: Any) -> bool:
    return not isinstance(value, ATOMS + NAMED + (float, tuple, frozenset))


def reached(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every mutable object inside, and how it is reached."""
    seen: set[int] = set()
    pending = [(path, value)]
    while pending and len(seen) < MOST_OBJECTS:
        path, value = pending.pop()
        if id(value) in seen or isinstance(value, ATOMS):
            continue
        seen.add(id(value))
        if is_mutable(value):
            yield path, value
        pending += [(path + more, part) for more, part in parts(value)]


def difference(one: Any, two: Any, inside: bool = False) -> str:
    """Where two objects differ first: "path: this, then that"."""
    path = ""
    while True:
        left, right = dict(parts(one)), dict(parts(two))
        if type(one) is not type(two) or left.keys() != right.keys():
            break
        for more, item in left.items():
            if not same(item, right[more], inside):
                one, two, path = item, right[more], path + more
                break
        else:
            break
    where = path.lstrip(".") + ": " if path else ""
    return "%s%s, then %s" % (where, short(one), short(two))


def short(value: Any, most: int = 120) -> str:
    """A repr of bounded length; of plain objects their attributes."""
    try:
        plain: Any = object.__repr__
        if type(value).__repr__ is plain:
            inside = ", ".join(
                "%s=%s" % (more[1:], short(part, 40))
                for more, part in parts(value)
            )
            text = "%s(%s)" % (type(value).__name__, inside)
        else:
            text = repr(value)
    except Exception as error:
        text = "<%s whose repr failed: %s>" % (type(value).__name__, error)
    return text if len(text) <= most else text[: most - 3] + "..."


class _Plain:
    def __init__(self, inside: bool) -> None:
        self.inside = inside
        self.numbers: dict[int, int] = {}
        self.keep: list[Any] = []

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return (kind.__name__, value)
        if kind is float:
            return ("float", repr(value))
        if isinstance(value, NAMED):
            return ("named", id(value))
        if id(value) in self.numbers and is_mutable(value):
            return ("again", self.numbers[id(value)])
        if len(self.keep) >= MOST_OBJECTS:
            raise TooLarge
        self.numbers[id(value)] = len(self.keep)
        self.keep.append(value)
        if kind is list or kind is tuple:
            return (kind.__name__, tuple([self.of(v) for v in value]))
        if kind is dict:
            items = [(self.of(k), self.of(v)) for k, v in value.items()]
            return ("dict", tuple(items))
        if kind is set or kind is frozenset:
            members = [repr(_Plain(self.inside).of(v)) for v in value]
            return (kind.__name__, tuple(sorted(members)))
        attributes = list(parts(value)) if self.inside else []
        return ("object", kind.__module__, kind.__qualname__, tuple([
            (name, self.of(part)) for name, part in attributes
        ]) if attributes else self.reduced(value))

    def reduced(self, value: Any) -> Any:
        reducer = copyreg.dispatch_table.get(type(value))
        try:
            form = reducer(value) if reducer else value.__reduce_ex__(2)
        except Exception:
            return ("unknown", id(value))
        if isinstance(form, str):
            return ("global", form)
        padded: tuple[Any, ...] = (tuple(form) + (None,) * 5)[:5]
        _, arguments, state, items, pairs = padded
        held: list[Any] = [self.of(arguments), self.of(state)]
        for iterator in (items, pairs):
            held.append(tuple(map(self.of, iterator or ())))
        return tuple(held)
