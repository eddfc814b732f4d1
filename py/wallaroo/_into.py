"""Plain data into dataclasses, by the types of their fields.

The functions that do it are made once, when a decoder is: so a type that
cannot be made is an error there, and not at the first record.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Optional, Union, cast

from ._errors import api_error

Make = Callable[[Any], Any]

# Of X | Y, from Python 3.10 on.
_UNIONS = (Union, getattr(types, "UnionType", Union))


class WrongData(ValueError):
    """Data that is not what a dataclass wants; the text says where."""


def json_maker(cls: type) -> Make:
    """Of what json.loads gives."""
    return _Makers(False).of(cls, cls.__name__)


def csv_maker(cls: type) -> Callable[[list[str]], Any]:
    """Of the values of a line, in the order of the fields."""
    makers = _Makers(True)
    names, made, _ = makers.fields(cls)
    title = cls.__name__

    def make(row: list[str]) -> Any:
        if len(row) != len(names):
            raise WrongData(
                "%s: %d values instead of %d" % (title, len(row), len(names)))
        return cls(*[one(value) for one, value in zip(made, row)])

    return make


class _Makers:
    """Makes functions that make values; text: of text, as in CSV."""

    def __init__(self, text: bool) -> None:
        self.text = text
        self.known: dict[type, Make] = {}

    def of(self, kind: Any, where: str) -> Make:
        if kind is Any or kind is object:
            return lambda value: value
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self.dataclass(kind, where)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in _UNIONS:
            return self.union(arguments, where)
        if origin is Literal:
            return self.literal(arguments, where)
        if origin is not None and not self.text:
            return self.container(origin, arguments, kind, where)
        if isinstance(kind, type):
            if issubclass(kind, enum.Enum):
                return self.enumeration(kind, where)
            if kind in (list, dict) and not self.text:
                return _exactly(kind, where)
            if kind in _PLAIN:
                return self.plain(kind, where)
        return api_error(
            "%s: a value of the type %s cannot be made of %s. There can be "
            "str, int, float, bool, Decimal, date, datetime, enumerations, "
            "Literal, Optional%s." % (
                where, getattr(kind, "__name__", kind),
                "text" if self.text else "JSON",
                "" if self.text else ", lists, tuples, dicts with keys of "
                "str, and dataclasses of these"))

    def fields(
        self, cls: type
    ) -> tuple[list[str], list[Make], set[str]]:
        """Their names, what makes them, and which have to be there."""
        try:
            hints = typing.get_type_hints(cls)
        except NameError as error:
            api_error(
                "%s: %s: types of fields must be found in its module."
                % (cls.__name__, error))
        used = [field for field in dataclasses.fields(cast(Any, cls))
                if field.init]
        made = [
            self.of(hints[field.name], "%s.%s" % (cls.__name__, field.name))
            for field in used
        ]
        needed = {
            field.name for field in used
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        }
        return [field.name for field in used], made, needed

    def dataclass(self, cls: type, where: str) -> Make:
        if self.text:
            api_error("%s: a dataclass is no value of a line." % where)
        if cls in self.known:
            return lambda value: self.known[cls](value)  # it holds itself
        self.known[cls] = lambda value: value
        names, made, needed = self.fields(cls)
        makers = dict(zip(names, made))

        def make(value: Any) -> Any:
            if type(value) is not dict:
                raise _wrong(where, value, "an object")
            given = {
                name: one(value[name]) for name, one in makers.items()
                if name in value
            }
            if len(given) < len(makers) and not needed <= given.keys():
                raise WrongData("%s: %s is missing" % (
                    where, ", ".join(sorted(needed - given.keys()))))
            return cls(**given)

        self.known[cls] = make
        return make

    def union(self, kinds: tuple[Any, ...], where: str) -> Make:
        """The first that fits; Optional is the usual one."""
        others = [kind for kind in kinds if kind is not type(None)]
        made = [self.of(kind, where) for kind in others]
        nullable = len(others) < len(kinds)
        text = self.text

        def make(value: Any) -> Any:
            if nullable and (value is None or (text and value == "")):
                return None
            wrong: Optional[WrongData] = None
            for one in made:
                try:
                    return one(value)
                except WrongData as error:
                    wrong = wrong or error
            assert wrong is not None
            raise wrong

        return make

    def literal(self, values: tuple[Any, ...], where: str) -> Make:
        by = {str(one) if self.text else (type(one), one): one
              for one in values}

        def make(value: Any) -> Any:
            key = value if self.text else (type(value), value)
            try:
                return by[key]
            except (KeyError, TypeError):
                raise _wrong(where, value, "one of %s" % ", ".join(
                    map(repr, values))) from None

        return make

    def enumeration(self, kind: type[enum.Enum], where: str) -> Make:
        by = {str(one.value) if self.text else one.value: one
              for one in kind}

        def make(value: Any) -> Any:
            try:
                return by[value]
            except (KeyError, TypeError):
                raise _wrong(where, value, "a value of %s" % (
                    kind.__name__)) from None

        return make

    def container(
        self, origin: Any, kinds: tuple[Any, ...], kind: Any, where: str
    ) -> Make:
        if origin is dict and kinds[0] is str:
            inner = self.of(kinds[1], where + "[...]")

            def make_dict(value: Any) -> Any:
                if type(value) is not dict:
                    raise _wrong(where, value, "an object")
                return {name: inner(one) for name, one in value.items()}

            return make_dict
        if origin is tuple and (len(kinds) != 2 or kinds[1] is not ...):
            return self.tuple(kinds, where)
        if origin in (list, tuple, set, frozenset):
            inner = self.of(kinds[0], where + "[...]")

            def make(value: Any) -> Any:
                if type(value) is not list:
                    raise _wrong(where, value, "a list")
                return origin([inner(one) for one in value])

            return make
        return api_error(
            "%s: a value of the type %s cannot be made of JSON."
            % (where, kind))

    def tuple(self, kinds: tuple[Any, ...], where: str) -> Make:
        made = [
            self.of(kind, "%s[%d]" % (where, n))
            for n, kind in enumerate(kinds)
        ]

        def make(value: Any) -> Any:
            if type(value) is not list or len(value) != len(made):
                raise _wrong(where, value, "a list of %d" % len(made))
            return tuple([one(part) for one, part in zip(made, value)])

        return make

    def plain(self, kind: type, where: str) -> Make:
        by_text, accepted, what = _PLAIN[kind]
        if not self.text and kind in accepted:
            if kind is float:
                return _number(where)
            return _exactly(kind, where)

        def make(value: Any) -> Any:
            if type(value) not in accepted:
                raise _wrong(where, value, what)
            try:
                return by_text(value)
            except (ValueError, decimal.InvalidOperation):
                raise _wrong(where, value, what) from None

        return make


def _exactly(kind: type, where: str) -> Make:
    what = _PLAIN[kind][2] if kind in _PLAIN else "a %s" % kind.__name__

    def make(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(where, value, what)
        return value

    return make


def _number(where: str) -> Make:
    def make(value: Any) -> Any:
        if type(value) is float:
            return value
        if type(value) is not int:
            raise _wrong(where, value, "a number")
        return float(value)

    return make


def _wrong(where: str, value: Any, what: str) -> WrongData:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return WrongData("%s: %s is not %s" % (where, shown, what))


def _truth(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[
            text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _moment(text: str) -> datetime.datetime:
    """ISO 8601; the Z of UTC is known from Python 3.11 on only."""
    if text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"
    return datetime.datetime.fromisoformat(text)


# By type: what makes it of text, of which types of values it is made where
# these are not only text, and what it is called.
_PLAIN: dict[type, tuple[Make, tuple[type, ...], str]] = {
    str: (str, (str,), "a text"),
    int: (int, (int, str), "a whole number"),
    float: (float, (float, int, str), "a number"),
    bool: (_truth, (bool, str), "true or false"),
    decimal.Decimal: (decimal.Decimal, (str, int), "a decimal number"),
    datetime.date: (datetime.date.fromisoformat, (str,), "a date"),
    datetime.datetime: (_moment, (str,), "a date and time"),
}


def plain(value: Any) -> Any:
    """What json.dumps does not know: the reverse, for its `default`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(
        "an object of type %s cannot be written as JSON: give its plain data"
        % type(value).__name__)
