"""An application run by worker processes on this machine, from a terminal.

Writes a configuration, runs wallaroo-supervisord with it, shows how far it
is, and takes away what was only for this run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Optional

from . import _msgpack, tools
from ._errors import WallarooParameterError
from .tools.machida3 import Word, is_tmpfs, quoted, virtual_environment

SUPERVISOR = "wallaroo-supervisord"
LOOK_S = 0.5  # between two looks at the status
ANSWER_S = 5.0  # that one may take
JOURNAL = "16M"
TMPFS_PER_WORKER = 64 << 20
SHM = "/dev/shm"
WARNING = 4
CTL, CTL_REPLY = 60, 61  # codes of messages

MISSING = """\
%s is not installed, or not where it was looked for: beside this package, in
$WALLAROO_PREFIX, in its bin and sbin, and in PATH.  Build and install it ("make
install", see README), or set WALLAROO_PREFIX to the directory it is in.
Without --workers the application runs in this one process, which needs only
the Python package."""


class Request(NamedTuple):
    """What is to be run, and how."""

    module: str
    directories: list[str]  # to look for it in
    arguments: list[str]
    workers: int
    state_directory: Optional[str]  # None: one that goes away
    on_error: str
    verbose: bool


def find_supervisor() -> str:
    for directory in places():
        path = os.path.join(directory, SUPERVISOR)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise WallarooParameterError(MISSING % SUPERVISOR)


def places() -> Iterator[str]:
    """Where the programs may be, the likeliest first."""
    prefix = os.environ.get("WALLAROO_PREFIX")
    if prefix:
        for below in ("", "sbin", "bin"):
            yield os.path.join(prefix, below)
    yield from tools.PROGRAMS
    package = os.path.dirname(os.path.realpath(__file__))
    # In PREFIX/share/wallaroo/python/wallaroo, or in the source's py/wallaroo.
    yield os.path.join(package, "..", "..", "..", "..", "sbin")
    yield os.path.join(package, "..", "..")
    yield from filter(None, os.environ.get("PATH", "").split(os.pathsep))
    yield from ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin")


# -- the configuration --------------------------------------------------------

class Places(NamedTuple):
    """Directories of a run."""

    state: str
    runtime: Optional[str]  # None: where the supervisor puts it
    remove: list[str]


def make_places(request: Request) -> Places:
    room = has_room(request.workers)
    if request.state_directory is not None:
        state = os.path.abspath(request.state_directory)
        os.makedirs(state, 0o700, exist_ok=True)
        known = os.path.exists(os.path.join(state, "catalog.sqlite"))
        return Places(
            state, None if room or known else os.path.join(state, "run"), [])
    state = tempfile.mkdtemp(prefix="wallaroo-")
    if not room:
        return Places(state, os.path.join(state, "run"), [state])
    runtime = tempfile.mkdtemp(prefix="wallaroo-run-", dir=SHM)
    return Places(state, runtime, [state, runtime])


def has_room(workers: int) -> bool:
    """Whether the journals of so many fit into the tmpfs."""
    try:
        room = os.statvfs(SHM)
        return is_tmpfs(SHM) and os.access(SHM, os.W_OK) and (
            room.f_bavail * room.f_frsize >= workers * TMPFS_PER_WORKER)
    except OSError:
        return False


def configuration(request: Request, directories: Places) -> str:
    settings: dict[str, Any] = {
        "module": request.module,
        "args": request.arguments,
        "workers": Word(request.workers),
        "state-directory": directories.state,
        "durability": Word("process"),
        "journal-size": Word(JOURNAL),
        "at-end": Word("stop"),
        "on-error": Word(request.on_error),
        "python-path": request.directories,
    }
    if directories.runtime is not None:
        settings["runtime-directory"] = directories.runtime
    if os.geteuid() == 0:
        settings["user"] = "root"  # as whoever starts it
    python = virtual_environment()
    if python is None and sys.prefix != sys.base_prefix:
        python = sys.prefix
    if python is not None:
        settings["python"] = python
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", request.module).lstrip(".-")[:64]
    return 'application "%s" {\n%s}\n' % (name or "app", "".join(
        "\t%s = %s\n" % (key, quoted(value))
        for key, value in settings.items()
    ))


# -- what the supervisor says -------------------------------------------------

class Unreachable(Exception):
    """There is no supervisor, or it does not answer."""


def status(directory: str) -> dict[str, Any]:
    """What "wallarooctl --json status" prints."""
    return ask(directory, "status")


def ask(
    directory: str, verb: str, first: str = "", second: str = ""
) -> dict[str, Any]:
    """The supervisor's answer to the operator."""
    frame = _msgpack.pack([CTL, verb, first, second, ""])
    # A socket's path is short; that of a directory may be long.
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect("/proc/self/fd/%d/control.sock" % place)
            connection.sendall(struct.pack(">I", len(frame)) + frame)
            with connection.makefile("rb") as file:
                size = struct.unpack(">I", exactly(file, 4))[0]
                code, failed, text = _msgpack.unpack(exactly(file, size))
    except (OSError, ValueError) as error:
        raise Unreachable(str(error)) from error
    finally:
        os.close(place)
    if code != CTL_REPLY or failed:
        raise Unreachable(text)
    found: dict[str, Any] = json.loads(text)
    return found


def exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the answer ends too early")
    return data


LINE = re.compile(
    r"^<(?P<priority>\d)>(?P<role>[^ ]+): (?P<text>.*?)"
    r"(?: stream=(?P<stream>stdout|stderr)(?: step=\".*\")?)?$"
)


class Screen:
    """The terminal: lines, and below them one that says how far it is."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.shown = ""
        self.lock = threading.Lock()

    def line(self, text: str, file: Any) -> None:
        with self.lock:
            self._erase()
            print(text, file=file, flush=True)
            self._draw(self.shown)

    def progress(self, text: str) -> None:
        with self.lock:
            if self.terminal and text != self.shown:
                self._erase()
                self._draw(text)
                self.shown = text

    def _erase(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")

    def _draw(self, text: str) -> None:
        if text:
            columns = shutil.get_terminal_size().columns
            sys.stderr.write(text[:max(columns - 1, 10)])
            sys.stderr.flush()


def show_log(log: BinaryIO, screen: Screen, verbose: bool) -> None:
    """What user code prints as it is; of the rest what is worth reading."""
    for raw in log:
        line = raw.decode("utf-8", "backslashreplace").rstrip("\n")
        match = LINE.match(line)
        if match is None:
            screen.line(line, sys.stderr)
        elif match["stream"] == "stdout":
            screen.line(match["text"], sys.stdout)
        elif match["stream"] == "stderr":
            screen.line(match["text"], sys.stderr)
        elif verbose or int(match["priority"]) <= WARNING:
            screen.line(
                "wallaroo: %s: %s" % (match["role"], match["text"]),
                sys.stderr)


class Progress:
    """One line about a run, from its counters."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.last: Optional[tuple[float, int, int]] = None
        self.rates = (0.0, 0.0)

    def text(self, found: dict[str, Any], now: float) -> str:
        workers = found["workers"]

        def total(*names: str) -> int:
            return sum(w[name] for w in workers for name in names)

        taken, given = total("records_in"), total("records_out")
        self.rate(now, taken, given)
        lag = sum(max(w["journal_tail"] - w["journal_done"], 0)
                  for w in workers) + total("outbox_bytes")
        parts = [
            clock(now - self.begun),
            found["state"] if found["state"] != "running" else
            "%d worker%s" % (len(workers), "s" * (len(workers) != 1)),
            "%s in (%s/s)" % (short(taken), short(self.rates[0])),
            "%s out (%s/s)" % (short(given), short(self.rates[1])),
            "lag %sB" % short(lag),
        ]
        for what, names in (
            ("errors", ("errors",)), ("restarts", ("restarts",)),
            ("set aside", ("set_aside",)),
        ):
            if total(*names):
                parts.append("%d %s" % (total(*names), what))
        done = part_done(found["sources"], total("bytes_in"))
        if done is not None:
            parts.append("%d %%" % (done * 100))
            if 0.01 < done < 1:
                left = (now - self.begun) * (1 - done) / done
                parts.append("%s left" % clock(left))
        return "  ".join(parts)

    def rate(self, now: float, taken: int, given: int) -> None:
        if self.last is not None and now > self.last[0]:
            past = now - self.last[0]
            self.rates = (
                max(taken - self.last[1], 0) / past,
                max(given - self.last[2], 0) / past,
            )
        self.last = (now, taken, given)


def part_done(sources: list[dict[str, Any]], taken: int) -> Optional[float]:
    """How much of the input was read, where it is known how much it is."""
    size = 0
    for source in sources:
        if source["kind"] != "file":
            return None
        try:
            size += os.path.getsize(source["address"])
        except OSError:
            return None
    return min(taken / size, 1.0) if size else None


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "%d:%02d:%02d" % (hours, minutes, rest) if hours \
        else "%d:%02d" % (minutes, rest)


def short(number: float) -> str:
    """With three digits and a letter, where it is large."""
    for letter in ("", "k", "M", "G", "T"):
        if number < 1000 or letter == "T":
            break
        number /= 1000
    return "%.3g%s" % (number, letter) if letter else "%d" % number


# -- running it ---------------------------------------------------------------

class Run:
    """wallaroo-supervisord, until it ends; a signal tells it to."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.program = find_supervisor()
        self.screen = Screen(sys.stderr.isatty())
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.told = 0

    def run(self) -> int:
        handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        before = [signal.signal(number, self.on_signal) for number in handled]
        directories = make_places(self.request)
        try:
            return self.supervise(directories)
        finally:
            for path in directories.remove:
                shutil.rmtree(path, ignore_errors=True)
            for number, handler in zip(handled, before):
                signal.signal(number, handler)

    def on_signal(self, number: int, frame: Any) -> None:
        """The first one stops it cleanly, another one at once.

        A terminal's goes to the supervisor, too, where it does no harm to
        come twice.
        """
        self.told += 1
        if self.process is not None and self.process.returncode is None:
            if self.told == 1:
                self.process.terminate()
            else:
                self.process.kill()

    def supervise(self, directories: Places) -> int:
        conf = os.path.join(directories.state, "cluster.conf")
        with open(conf, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(configuration(self.request, directories))
        environment = dict(os.environ)
        environment.setdefault(
            "WALLAROO_PYTHON_PACKAGE",
            os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
        sys.stdout.flush()
        self.process = subprocess.Popen(
            [self.program, "-c", conf], stderr=subprocess.PIPE,
            env=environment, preexec_fn=die_with_parent)
        if self.told:
            self.process.terminate()
        log = threading.Thread(
            target=show_log, daemon=True,
            args=(self.process.stderr, self.screen, self.request.verbose))
        log.start()
        if self.screen.terminal and not directories.remove:
            self.screen.line(
                "wallaroo: look at it with: wallarooctl -c %s status" % conf,
                sys.stderr)
        self.watch(directories.state)
        log.join(ANSWER_S)
        self.screen.progress("")
        code = self.process.returncode
        if code < 0:
            self.screen.line("wallaroo: %s was killed by signal %d" % (
                SUPERVISOR, -code), sys.stderr)
            return 128 - code
        return int(code)

    def watch(self, state: str) -> None:
        """Wait for the end; on a terminal say how far it is."""
        assert self.process is not None
        progress = Progress()
        while True:
            try:
                self.process.wait(LOOK_S if self.screen.terminal else None)
                return
            except subprocess.TimeoutExpired:
                pass
            try:
                self.screen.progress(
                    progress.text(status(state), time.monotonic()))
            except (Unreachable, KeyError):
                pass  # it begins, or has just ended


def die_with_parent() -> None:
    """In the supervisor's process, before it is one: when whoever started it
    is killed, it gets a SIGTERM and stops cleanly."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def run(request: Request) -> int:
    if os.name != "posix" or not sys.platform.startswith("linux"):
        raise WallarooParameterError(
            "--workers needs Linux; without it the application runs in this "
            "one process")
    return Run(request).run()
