"""Clocks and randomness that follow the record, without the worker.

A worker answers the C library's calls itself.  Here the functions of the
standard library are replaced, by value, in the modules that an application
is made of; what hides elsewhere (an extension module's own clock, a function
kept in a container) stays real.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import sys
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Optional

START_NS = 1_700_000_000 * 10**9  # of the first record
RECORD_NS = 10**6  # between two records of one source
READING_NS = 1000  # by which a function's clock moves when it is read

MOST_MODULES = 2000

_real_ident = threading.get_ident


class Origin(NamedTuple):
    """Where a record came in; the same whichever worker has it."""

    seed: int
    time_ns: int

    def child(self, number: int) -> Origin:
        """Of output `number` of a function with several."""
        seed = (self.seed * 6364136223846793005 + number + 1) & (1 << 64) - 1
        return Origin(seed, self.time_ns)


def origin_of(source: int, number: int) -> Origin:
    """Of record `number` of a source."""
    return Origin(
        source << 48 | number, START_NS + source + number * RECORD_NS
    )


class Virtual:
    """While it is entered, user functions see its time and randomness."""

    def __init__(self) -> None:
        self.modules: list[Any] = []
        self.reseed = False
        self.origin: Optional[Origin] = None
        self.step = ""
        self.now_ns = 0
        self.drawn = 0
        self.thread = 0
        self.undo: list[tuple[Any, str, Any]] = []

    def reach(self, functions: Iterable[Any]) -> None:
        """Of the modules of these."""
        self.modules = reached_modules(functions)
        self.reseed = any(
            uses_random(value)
            for module in self.modules
            for value in vars(module).values()
        )

    def call(
        self, origin: Origin, step: str, function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> Any:
        """The function's result, seeing what belongs to origin and step."""
        self.origin, self.step = origin, step
        self.now_ns, self.drawn = origin.time_ns, 0
        if self.reseed:
            random.seed(zlib.crc32(text_bytes(step)) << 64 | origin.seed)
        try:
            return function(*args)
        finally:
            self.origin = None

    def __enter__(self) -> Virtual:
        self.thread = _real_ident()
        self.random_state = random.getstate()
        fakes = self.fakes()
        for module in self.modules + standard_modules():
            for name, value in list(vars(module).items()):
                found = fakes.get(id(value))
                if found is not None and found[0] is value:
                    self.undo.append((module, name, value))
                    setattr(module, name, found[1])
        return self

    def __exit__(self, *exception: Any) -> None:
        for module, name, value in self.undo:
            setattr(module, name, value)
        self.undo.clear()
        random.setstate(self.random_state)

    def active(self) -> bool:
        return self.origin is not None and _real_ident() == self.thread

    def read_clock(self) -> int:
        self.now_ns += READING_NS
        return self.now_ns

    def draw(self, n: int) -> bytes:
        assert self.origin is not None
        text = b"%d %s" % (self.origin.seed, text_bytes(self.step))
        out = b""
        while len(out) < n:
            self.drawn += 1
            salt = self.drawn.to_bytes(8, "big")
            out += hashlib.blake2b(text, salt=salt).digest()
        return out[:n]

    def fakes(self) -> dict[int, tuple[Any, Any]]:
        """By the address of what is replaced: itself, and by what."""
        replaced: list[tuple[Any, Any]] = []
        for name in ("time", "monotonic", "perf_counter"):
            replaced.append((
                getattr(time, name),
                self.clock(getattr(time, name), lambda ns: ns / 1e9),
            ))
            name += "_ns"
            replaced.append((
                getattr(time, name),
                self.clock(getattr(time, name), lambda ns: ns),
            ))
        for name in ("localtime", "gmtime", "ctime"):
            replaced.append((
                getattr(time, name), self.broken_down(getattr(time, name))
            ))
        # Not in the module itself, where pickle looks for the classes.
        proxy = types.ModuleType("datetime")
        vars(proxy).update(vars(datetime))
        vars(proxy).update(
            datetime=self.datetime_class(datetime.datetime),
            date=self.date_class(datetime.date),
        )
        replaced += [
            (time.sleep, self.sleep(time.sleep)),
            (os.urandom, self.urandom(os.urandom)),
            (datetime, proxy),
            (datetime.datetime, vars(proxy)["datetime"]),
            (datetime.date, vars(proxy)["date"]),
        ]
        return {id(old): (old, new) for old, new in replaced}

    def clock(
        self, real: Callable[[], Any], form: Callable[[int], Any]
    ) -> Callable[[], Any]:
        def read() -> Any:
            return form(self.read_clock()) if self.active() else real()

        return read

    def broken_down(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def read(seconds: Optional[float] = None) -> Any:
            if seconds is None and self.active():
                seconds = self.read_clock() / 1e9
            return real(seconds)

        return read

    def sleep(self, real: Callable[[float], None]) -> Callable[[float], None]:
        def sleep(seconds: float) -> None:
            if not self.active():
                return real(seconds)
            if seconds < 0:
                raise ValueError("sleep length must be non-negative")
            self.now_ns += int(seconds * 1e9)
            return None

        return sleep

    def urandom(self, real: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def urandom(size: int) -> bytes:
            return self.draw(size) if self.active() else real(size)

        return urandom

    def datetime_class(self, real: Any) -> Any:
        virtual = self

        class Datetime(real, metaclass=_StandsFor):  # type: ignore[misc]
            stands_for = real

            def __new__(cls, *args: Any, **kwargs: Any) -> Any:
                return real(*args, **kwargs)

            @classmethod
            def now(cls, tz: Any = None) -> Any:
                if not virtual.active():
                    return real.now(tz)
                return real.fromtimestamp(virtual.read_clock() / 1e9, tz)

            @classmethod
            def utcnow(cls) -> Any:
                now = cls.now(datetime.timezone.utc)
                return now.replace(tzinfo=None)

            @classmethod
            def today(cls) -> Any:
                return cls.now()

        return Datetime

    def date_class(self, real: Any) -> Any:
        virtual = self

        class Date(real, metaclass=_StandsFor):  # type: ignore[misc]
            stands_for = real

            def __new__(cls, *args: Any, **kwargs: Any) -> Any:
                return real(*args, **kwargs)

            @classmethod
            def today(cls) -> Any:
                if not virtual.active():
                    return real.today()
                return real.fromtimestamp(virtual.read_clock() / 1e9)

        return Date


class _StandsFor(type):
    """Objects and classes of the real class are its own."""

    stands_for: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.stands_for)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.stands_for)

    def __getattribute__(cls, name: str) -> Any:
        # Constructors such as fromisoformat make objects of the real class.
        if name.startswith("__") or name in (
            "stands_for", "now", "utcnow", "today"
        ):
            return super().__getattribute__(name)
        return getattr(super().__getattribute__("stands_for"), name)


def standard_modules() -> list[Any]:
    """Modules that hold what is replaced, for themselves and for others."""
    names = ("time", "os", "random", "uuid", "secrets")
    return [sys.modules[name] for name in names if name in sys.modules]


def text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def uses_random(value: Any) -> bool:
    return value is random or getattr(value, "__self__", None) is random._inst


def reached_modules(functions: Iterable[Any]) -> list[Any]:
    """The modules of the functions, and of what these have imported.

    Those of the standard library, of installed packages and of this one are
    left out: they keep their clocks.
    """
    pending = [getattr(function, "__module__", None) for function in functions]
    found: dict[str, Any] = {}
    while pending and len(found) < MOST_MODULES:
        name = pending.pop()
        module = sys.modules.get(name) if isinstance(name, str) else None
        if name in found or module is None or not is_application(module):
            continue
        found[str(name)] = module
        for value in list(vars(module).values()):
            if isinstance(value, types.ModuleType):
                pending.append(value.__name__)
            elif isinstance(value, (type, types.FunctionType)):
                pending.append(value.__module__)
            elif hasattr(type(value), "_func"):  # a decorated function
                pending.append(getattr(value._func, "__module__", None))
    return list(found.values())


def is_application(module: Any) -> bool:
    package = module.__name__.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return False
    path = getattr(module, "__file__", None)
    if path is None:
        return bool(module.__name__ == "__main__")
    if "site-packages" in path or "dist-packages" in path:
        return False
    library = os.path.dirname(os.path.realpath(os.__file__))
    return not os.path.realpath(path).startswith(library + os.sep)
