"""What the worker's embedded interpreter calls.

install() makes the interpreter a worker's: prints and log records go to its
log, random numbers follow the record in work.  load() imports an
application, builds its pipeline and compiles it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Optional, Protocol, TextIO, cast

import wallaroo

from . import _topology, _windows
from ._errors import WallarooParameterError

# Priorities of the log, as in syslog(3).
ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7

# A printed line is cut after so many characters.
LONGEST_LINE = 16384


class Host(Protocol):
    """The builtin module _wallaroo_host."""

    def log(self, priority: int, stream: str, text: str) -> None: ...
    def serial(self) -> int: ...
    def seed(self) -> int: ...


class Loaded(NamedTuple):
    """An application as the worker's host needs it.

    The lists are indexed by the numbers of functions in the topology.
    """

    topology: list[Any]
    functions: list[Any]
    state_factories: list[Optional[Callable[[], Any]]]
    frame_lengths: list[Optional[Callable[[bytes], int]]]
    serialize: Optional[Callable[[Any], bytes]]
    deserialize: Optional[Callable[[bytes], Any]]


def load(
    module: str, args: list[str], command_line: Optional[list[str]] = None
) -> Loaded:
    """Import `module` and build its application.

    args is what application_setup gets; args[0] is the program's name.  The
    whole command line is given where it is another one, under machida3.
    """
    whole = args if command_line is None else command_line
    wallaroo._ARGS = tuple(whole)
    sys.argv = list(whole)
    with explained(command_line, "Could not load module '%s'" % module):
        application_module = importlib.import_module(module)
    with explained(
        command_line, "Something went wrong while building the application"
    ):
        compiled = build(
            application_module, module, args, command_line is not None
        )
    serialize, deserialize = serialization_hooks(application_module)
    return Loaded(*compiled, serialize, deserialize)


def build(
    application_module: Any, module: str, args: list[str], numbered: bool
) -> _topology.Compiled:
    setup = getattr(application_module, "application_setup", None)
    if not callable(setup):
        raise WallarooParameterError(
            "module %r has no function application_setup(args)" % module
        )
    # Programs that machida3 runs may use a step with state more than once.
    return _topology.compile_application(setup(list(args)), numbered)


@contextlib.contextmanager
def explained(
    command_line: Optional[list[str]], text: str
) -> Iterator[None]:
    """Under machida3 say what has failed in the words that scripts know."""
    try:
        yield
    except Exception:
        if command_line is not None:
            print(text, file=sys.stderr, flush=True)
        raise


def serialization_hooks(
    application_module: Any,
) -> tuple[Optional[Callable[[Any], bytes]], Optional[Callable[[bytes], Any]]]:
    """The module's own serialize and deserialize, if it has both."""
    serialize = getattr(application_module, "serialize", None)
    deserialize = getattr(application_module, "deserialize", None)
    if not callable(serialize) or not callable(deserialize):
        return None, None
    if serialize is wallaroo.serialize and deserialize is wallaroo.deserialize:
        return None, None  # by "from wallaroo import *"
    return _windows.hooks(
        cast(_windows.Serialize, serialize),
        cast(_windows.Deserialize, deserialize))


def install(host: Host) -> None:
    """Make this interpreter a worker's; call before load()."""
    sys.stdout = cast(TextIO, LineWriter(host, INFO, "stdout", 1))
    sys.stderr = cast(TextIO, LineWriter(host, NOTICE, "stderr", 2))
    atexit.register(sys.stdout.close)
    atexit.register(sys.stderr.close)
    root = logging.getLogger()
    root.addHandler(LogHandler(host))
    root.setLevel(logging.INFO)
    install_random(StepRandom(host))


def install_plain(host: Host) -> None:
    """As install, but what is printed goes where it went before."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding="utf-8", errors="backslashreplace",
                line_buffering=True, write_through=True,
            )
    install_random(StepRandom(host))


class _Bytes(io.BufferedIOBase):
    """The .buffer of a LineWriter, for those who write bytes."""

    def __init__(self, text: LineWriter) -> None:
        self.text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self.text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)


class LineWriter(io.TextIOBase):
    """A text stream whose lines go to the worker's log."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(
        self, host: Host, priority: int, stream: str, descriptor: int
    ) -> None:
        self.host = host
        self.priority = priority
        self.name = stream
        self.mode = "w"
        self.descriptor = descriptor
        self.lock = threading.RLock()
        self.rest = ""
        self.buffer = _Bytes(self)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return False

    def reconfigure(self, **options: Any) -> None:
        """Lines go to the log whatever is asked for."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(
                "write() argument must be str, not %s" % type(text).__name__
            )
        with self.lock:
            *lines, self.rest = (self.rest + text).split("\n")
            while len(self.rest) >= LONGEST_LINE:
                lines.append(self.rest[:LONGEST_LINE])
                self.rest = self.rest[LONGEST_LINE:]
            for line in lines:
                self.put(line)
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        with self.lock:
            rest, self.rest = self.rest, ""
            if rest:
                self.put(rest)

    def put(self, line: str) -> None:
        line = line[:LONGEST_LINE].rstrip("\r")
        self.host.log(self.priority, self.name, printable(line))


class LogHandler(logging.Handler):
    """Sends records of the logging module to the worker's log."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            priority = log_priority(record.levelno)
            for line in self.format(record).split("\n"):
                self.host.log(priority, "logging", printable(line))
        except Exception:
            self.handleError(record)


def log_priority(level: int) -> int:
    """The log's priority for a level of the logging module."""
    if level >= logging.ERROR:
        return ERROR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


def printable(line: str) -> str:
    """The line as text that has a UTF-8 form."""
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


class StepRandom(random.Random):
    """Random numbers that depend only on the record in work.

    For each call of a user function the host has another serial number and
    a seed that is the same whenever the record is worked on again.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._serial = 0
        super().__init__(host.seed())

    def _follow(self) -> None:
        serial = self._host.serial()
        if serial != self._serial:
            self._serial = serial
            if serial != 0:
                super().seed(self._host.seed())

    def seed(self, *args: Any, **kwargs: Any) -> None:
        # What a step seeds itself holds until the step's end.
        self._serial = self._host.serial()
        super().seed(*args, **kwargs)

    def random(self) -> float:
        self._follow()
        return super().random()

    def getrandbits(self, k: int) -> int:
        self._follow()
        return super().getrandbits(k)

    def gauss(self, *args: Any, **kwargs: Any) -> float:
        self._follow()  # it keeps a second value from call to call
        return super().gauss(*args, **kwargs)

    def getstate(self) -> Any:
        self._follow()
        return super().getstate()

    def setstate(self, state: Any) -> None:
        self._serial = self._host.serial()
        super().setstate(state)


def install_random(instance: random.Random) -> None:
    """Rebind the functions of the random module to another instance."""
    old = random._inst
    random._inst = instance
    for name, value in list(vars(random).items()):
        if getattr(value, "__self__", None) is old:
            setattr(random, name, getattr(instance, name))
