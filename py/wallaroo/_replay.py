"""An application in a worker that replays a copy, under Python's debugger.

The worker calls the functions in the same order, with the same values, clock
and randomness as it did in production.  Here each is wrapped, to stop where
the command line says.
"""

from __future__ import annotations

import functools
import importlib
import os
import pdb
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, Optional

from ._runtime import Loaded
from ._runtime import load as load_application


def load(
    module: str, args: list[str], command_line: Optional[list[str]] = None
) -> Loaded:
    """As _runtime.load, with functions that stop."""
    host = importlib.import_module("_wallaroo_host")
    loaded = load_application(module, args, command_line)
    stopper = Stopper(host, *host.replay())
    return loaded._replace(functions=[
        stopper.wrap(function) if callable(function) else function
        for function in loaded.functions
    ])


class Debugger(pdb.Pdb):
    """The debugger, whose own use of the clock moves no function's."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.quit = False
        host.pause(True)
        super().__init__()
        host.pause(False)

    def set_quit(self) -> None:
        self.quit = True
        super().set_quit()

    def interaction(self, frame: Any, *what: Any) -> None:
        self.host.pause(True)
        try:
            super().interaction(frame, *what)
        finally:
            self.host.pause(False)


class Stopper:
    """Knows where to stop: at a position, a key, or what is raised."""

    def __init__(
        self, host: Any, position: Optional[int], key: Optional[bytes],
        exception: bool,
    ) -> None:
        self.host = host
        self.position = position
        self.key = key
        self.exception = exception

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            position, key = self.host.where()
            if not is_ours(function) and self.wants(position, key):
                return self.step_into(function, args, position, key)
            try:
                return function(*args)
            except Exception as error:
                if self.exception:
                    self.look_at(error, position, key)
                raise

        return call

    def wants(self, position: int, key: bytes) -> bool:
        if self.key is not None:
            return key == self.key
        if self.position is None or position < self.position:
            return False
        self.position = None  # the debugger says how it goes on
        return True

    def step_into(
        self, function: Callable[..., Any], args: tuple[Any, ...],
        position: int, key: bytes,
    ) -> Any:
        self.host.pause(True)
        tell(position, key, name_of(function))
        self.host.pause(False)
        debugger = Debugger(self.host)
        result = debugger.runcall(function, *args)
        if debugger.quit:
            quit_now()
        return result

    def look_at(self, error: Exception, position: int, key: bytes) -> None:
        tell(position, key, "".join(
            traceback.format_exception_only(type(error), error)).strip())
        frames = error.__traceback__
        if frames is not None and frames.tb_next is not None:
            frames = frames.tb_next  # without ours
        debugger = Debugger(self.host)
        debugger.reset()
        debugger.interaction(None, frames)
        if debugger.quit:
            quit_now()


def is_ours(function: Callable[..., Any]) -> bool:
    """A codec of the package: nothing to debug there."""
    module = str(getattr(function, "__module__", ""))
    return module.partition(".")[0] == __name__.partition(".")[0]


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def tell(position: int, key: bytes, what: str) -> None:
    print("position %d, key %r: %s" % (
        position, key.decode("utf-8", "surrogateescape"), what), flush=True)


def quit_now() -> NoReturn:
    """q in the debugger ends the program: no state outlives it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
