"""machida3: an application in one process, by the command line it has there.

Options are translated into a configuration, which wallaroo-supervisord runs
in this process's place.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
import urllib.parse
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Optional, Union

from . import PROGRAMS, _options
from ._external import split_address

SUPERVISOR = "wallaroo-supervisord"
INITIALIZER = "initializer"
CONF = "machida3.conf"

# Of the journal, in a tmpfs that is often small: a quarter of it is spare.
JOURNAL = "16M"
# There was no limit: the largest that this journal allows.
MESSAGE = "4M"
TMPFS_NEEDED = 64 << 20
STOP_TIMEOUT_S = 3

HELP = """\
usage: machida3 --application-module MODULE --cluster-initializer [option ...]

Runs a Wallaroo application in this one process.  Options that are not listed
go to the application's application_setup(args), in their order.

  --application-module MODULE  what has application_setup; it is looked for in
                               PYTHONPATH and in the current directory
  -t, --cluster-initializer    start the application: this is its only process
  -w, --worker-count N         number of processes, 1
  -n, --name NAME              name of a process that is not the initializer
  -c, --control HOST:PORT      taken, and not used by a single process
  -d, --data HOST:PORT         as --control
  -x, --my-control HOST:PORT   as --control
  -y, --my-data HOST:PORT      as --control
  -e, --external HOST:PORT     where to listen for the external channel
  --external-access any        also at other addresses than loopback ones
  -m, --metrics HOST:PORT      where metrics are sent to, if somebody listens
  -r, --resilience-dir DIR     where the state is kept, /tmp
  --run-with-resilience        keep state: go on after a crash or a stop
  --time-between-checkpoints NS
                               nanoseconds, 1000000000
  --accept-loss                start although input was lost, for example in
                               a restart of the machine
  -h, --help                   print this
  -j, --join; -u, --stop-pause; --log-rotation; -l, --event-log-file-size;
  --resilience-enable-io-journal; --resilience-no-local-file-io;
  --resilience-dos-server; --spike-drop; --spike-seed; --spike-prob;
  --spike-margin; -f, --file; --pony...
                               known, and without a meaning here
"""


class Refused(Exception):
    """The command line is not one that can be run; the text says why."""


# -- the command line --------------------------------------------------------

def take_text(text: str) -> str:
    return text


def take_number(text: str) -> int:
    try:
        return _options.whole(text)
    except Exception:
        raise ValueError("%r is no number" % text) from None


def take_address(text: str) -> str:
    split_address(text)
    return text


def take_unused(text: str) -> str:
    """An address that nobody listens on here; port 0 is any."""
    host, _, port = text.rpartition(":")
    if port != "0":
        split_address(text)
    return text


Take = Callable[[str], Union[str, int]]


class Option(NamedTuple):
    name: str
    short: str = ""
    take: Optional[Take] = None  # None: a flag


OPTIONS = (
    Option("application-module", "", take_text),
    Option("cluster-initializer", "t"),
    Option("worker-count", "w", take_number),
    Option("name", "n", take_text),
    Option("control", "c", take_unused),
    Option("data", "d", take_unused),
    Option("my-control", "x", take_unused),
    Option("my-data", "y", take_unused),
    Option("external", "e", take_address),
    Option("external-access", "", take_text),
    Option("metrics", "m", take_address),
    Option("resilience-dir", "r", take_text),
    Option("run-with-resilience"),
    Option("time-between-checkpoints", "", take_number),
    Option("accept-loss"),
    Option("join", "j", take_address),
    Option("stop-pause", "u", take_number),
    Option("log-rotation"),
    Option("event-log-file-size", "l", take_number),
    Option("resilience-enable-io-journal"),
    Option("resilience-no-local-file-io"),
    Option("resilience-dos-server", "", take_text),
    Option("spike-drop"),
    Option("spike-seed", "", take_number),
    Option("spike-prob", "", take_text),
    Option("spike-margin", "", take_number),
    Option("file", "f", take_text),
    Option("help", "h"),
)
LONG = {option.name: option for option in OPTIONS}
SHORT = {option.short: option for option in OPTIONS if option.short}


class Line(NamedTuple):
    """A command line, taken apart."""

    options: dict[str, Any]
    rest: list[str]  # for the application
    whole: list[str]  # without --pony...
    threads: Optional[str]  # of --ponythreads


class _Parser:
    def __init__(self, program: str, argv: list[str]) -> None:
        self.program = program
        self.left = list(argv)
        self.options: dict[str, Any] = {}
        self.rest: list[str] = []
        self.whole = [program]
        self.threads: Optional[str] = None

    def parse(self) -> Line:
        while self.left:
            argument = self.left.pop(0)
            if argument.startswith("--pony"):
                self.pony(argument)
                continue
            self.whole.append(argument)
            if argument == "--":
                self.rest += [argument] + self.left
                self.whole += self.left
                break
            if argument.startswith("--"):
                self.long(argument)
            elif len(argument) > 1 and argument[0] == "-":
                self.short(argument)
            else:
                self.rest.append(argument)
        return Line(
            self.options, [self.program] + self.rest, self.whole,
            self.threads,
        )

    def pony(self, argument: str) -> None:
        name, equal, value = argument.partition("=")
        if not equal and name in _options.PONY_WITH_VALUE:
            value = self.left.pop(0) if self.left else ""
        if name == "--ponythreads":
            self.threads = value

    def long(self, argument: str) -> None:
        name, equal, value = argument[2:].partition("=")
        option = LONG.get(name)
        if option is None:
            self.rest.append(argument)
        elif option.take is None:
            if equal:
                raise Refused("--%s takes no value" % name)
            self.options[name] = True
        else:
            self.set(option, value if equal else self.value("--" + name))

    def short(self, argument: str) -> None:
        """-x VALUE, -xVALUE, or flags with one of these behind them."""
        for at, letter in enumerate(argument[1:], 2):
            option = SHORT.get(letter)
            if option is None:
                if at > 2:
                    raise Refused(
                        "%s: there is no option -%s" % (argument, letter)
                    )
                self.rest.append(argument)
                return
            if option.take is None:
                self.options[option.name] = True
                continue
            value = argument[at:]
            if value.startswith("="):
                value = value[1:]
            self.set(option, value or self.value("-" + letter))
            return

    def value(self, name: str) -> str:
        """A value that begins with a dash must be attached."""
        if not self.left or self.left[0].startswith("-"):
            raise Refused("%s needs a value" % name)
        value = self.left.pop(0)
        self.whole.append(value)
        return value

    def set(self, option: Option, value: str) -> None:
        assert option.take is not None
        try:
            self.options[option.name] = option.take(value)
        except ValueError as error:
            raise Refused("--%s: %s" % (option.name, error)) from None


def parse(program: str, argv: list[str]) -> Line:
    return _Parser(program, argv).parse()


# -- what is asked for -------------------------------------------------------

MANY = (
    "machida3 runs an application in one process, and does not join several "
    "of them into a cluster. To use several, run wallaroo-supervisord with "
    "workers = N in its configuration."
)


class Plan(NamedTuple):
    """What to run."""

    module: str
    name: str  # of the worker
    resilient: bool
    directory: str  # for state
    line: Line


def plan(line: Line) -> Plan:
    options = line.options
    module = options.get("application-module", "")
    if line.threads not in (None, "1"):
        raise Refused(
            "You must provide Machida with the '--ponythreads 1' argument: "
            "an application's functions run on one thread"
        )
    if not module:
        raise Refused("You must provide Machida with --application-module")
    check_cluster(options)
    if options.get("external-access", "loopback") not in ("loopback", "any"):
        raise Refused("--external-access must be loopback or any")
    resilient = "run-with-resilience" in options or os.path.basename(
        line.whole[0]) == "machida3-resilience"
    directory = options.get("resilience-dir", "/tmp")
    if resilient or "resilience-dir" in options:
        check_directory(directory)
    return Plan(module, INITIALIZER, resilient, directory, line)


def check_cluster(options: dict[str, Any]) -> None:
    """Is it one process?  All others are refused here."""
    initializer = "cluster-initializer" in options
    count = options.get("worker-count")
    if count == 0:
        raise Refused("--worker-count must not be 0")
    if initializer and "join" in options:
        raise Refused(
            "--join is for a worker that is not the --cluster-initializer"
        )
    if not initializer:
        if "name" not in options:
            raise Refused(
                "You must specify a worker name via --name/-n. (A single "
                "process is started with --cluster-initializer.)"
            )
        if "data" in options:
            raise Refused("--data is for the --cluster-initializer only")
        if count is not None and "join" not in options:
            raise Refused(
                "--worker-count is for the --cluster-initializer and for "
                "--join"
            )
        raise Refused(MANY)
    if count not in (None, 1):
        raise Refused(MANY)


def check_directory(directory: str) -> None:
    if directory.endswith("/"):
        raise Refused("--resilience-dir must not end in a slash")
    if not os.path.isdir(directory):
        raise Refused("--resilience-dir %s: no such directory" % directory)


# -- directories -------------------------------------------------------------

def private(path: str) -> str:
    """A directory of ours alone, made if it is not there."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise Refused("cannot make %s: %s" % (path, error)) from None
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Refused("%s is not a directory of this user" % path)
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    return path


def plain(text: str) -> str:
    """A text as part of a file name, different for different texts."""
    return urllib.parse.quote(text, safe="")


def label(planned: Plan) -> str:
    module = plain(planned.module).replace("-", "%2D")
    return "%s-%s" % (module, plain(planned.name))


def kept_state(planned: Plan) -> str:
    """The directory that the identical command finds again."""
    return private(os.path.join(
        os.path.abspath(planned.directory), label(planned) + ".wallaroo"))


def no_state(planned: Plan) -> str:
    """A directory that nobody else has.

    It is locked as long as this process lives, also as the supervisor; what
    was killed leaves an unlocked one, which a later start takes away.
    """
    base = private(os.path.join(
        tempfile.gettempdir(), "machida3-%d" % os.geteuid()))
    sweep(base)
    while True:
        path = tempfile.mkdtemp(prefix=label(planned) + "-", dir=base)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                os.set_inheritable(lock, True)
                return path
        except FileNotFoundError:
            pass
        os.close(lock)  # swept before it was locked


def sweep(base: str) -> None:
    for name in os.listdir(base):
        path = os.path.join(base, name)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY
                           | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # it is in use
        finally:
            os.close(lock)


def tmpfs_place(state: str) -> Optional[str]:
    """Where journals go the first time; the supervisor remembers it."""
    if os.path.exists(os.path.join(state, "catalog.sqlite")):
        return None
    shm = "/dev/shm"
    try:
        room = os.statvfs(shm)
        if not is_tmpfs(shm) or room.f_bavail * room.f_frsize < TMPFS_NEEDED:
            return os.path.join(state, "run")
        base = private(os.path.join(shm, "wallaroo-%d" % os.geteuid()))
    except (OSError, Refused):
        return os.path.join(state, "run")
    return os.path.join(base, "machida3-%08x" % zlib.crc32(os.fsencode(state)))


def is_tmpfs(path: str) -> bool:
    try:
        with open("/proc/mounts") as mounts:
            return any(
                line.split()[1:3] == [path, "tmpfs"] for line in mounts
            )
    except OSError:
        return False


# -- the configuration -------------------------------------------------------

class Word(str):
    """A value that stands without quotes."""


def quoted(value: Any) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, list):
        return "{%s}" % ", ".join(quoted(item) for item in value)
    return '"%s"' % "".join(escaped(letter) for letter in value)


def escaped(letter: str) -> str:
    if letter in '"\\$':
        return "\\" + letter
    if ord(letter) < 0x20 or letter == "\x7f":
        return "\\x%02x" % ord(letter)
    return letter


def settings(planned: Plan, state: str) -> dict[str, Any]:
    options = planned.line.options
    found: dict[str, Any] = {
        "module": planned.module,
        "args": planned.line.rest[1:],
        "command-line": planned.line.whole,
        "machida": planned.name,
        "workers": Word("1"),
        "state-directory": state,
        "stop-timeout": Word(str(STOP_TIMEOUT_S)),
        "journal-size": Word(JOURNAL),
        "max-message": Word(MESSAGE),
        "python-path": search_path(),
    }
    if planned.resilient:
        found["durability"] = Word("process")
        place = tmpfs_place(state)
    else:
        found["durability"] = Word("none")
        place = os.path.join(state, "run")
    if place is not None:
        found["runtime-directory"] = place
    found["dead-letter-file"] = os.path.join(
        os.path.abspath(planned.directory),
        label(planned) + ".dead-letters.jsonl")
    if "external" in options:
        found["external-address"] = options["external"]
        found["external-access"] = Word(
            options.get("external-access", "loopback"))
    if "metrics" in options:
        found["metrics-address"] = options["metrics"]
    if "time-between-checkpoints" in options:
        found["checkpoint-interval"] = Word(
            seconds(options["time-between-checkpoints"]))
    if os.geteuid() == 0:
        found["user"] = "root"  # as whoever starts it
    python = virtual_environment()
    if python is not None:
        found["python"] = python
    return found


def search_path() -> list[str]:
    """PYTHONPATH and, as activated environments had it, where we are."""
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found: list[str] = []
    for directory in listed + ["."]:
        path = os.path.abspath(directory)
        if directory and path not in found:
            found.append(path)
    return found


def seconds(nanoseconds: int) -> str:
    """What a setting of seconds allows, which is milliseconds from 10 on."""
    milliseconds = min(max(nanoseconds // 1000000, 10), 3600000)
    return "%d.%03d" % divmod(milliseconds, 1000)


def virtual_environment() -> Optional[str]:
    path = os.environ.get("VIRTUAL_ENV", "")
    library = "lib/python%d.%d" % sys.version_info[:2]
    return path if os.path.isdir(os.path.join(path, library)) and path \
        else None


def configuration(planned: Plan, state: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", planned.module).lstrip(".-")[:64]
    return 'application "%s" {\n%s}\n' % (name or "app", "".join(
        "\t%s = %s\n" % (key, quoted(value))
        for key, value in settings(planned, state).items()
    ))


def write_configuration(planned: Plan, state: str) -> str:
    path = os.path.join(state, CONF)
    new = "%s.%d" % (path, os.getpid())
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(configuration(planned, state))
    os.replace(new, path)
    return path


# -- running it --------------------------------------------------------------

def supervisor() -> str:
    """The program, beside this one, where it was installed, or in PATH."""
    directories = PROGRAMS + os.environ.get("PATH", "").split(os.pathsep) \
        + ["/usr/local/sbin", "/usr/sbin"]
    for directory in directories:
        path = os.path.join(directory, SUPERVISOR)
        if directory and os.access(path, os.X_OK):
            return path
    raise Refused(
        "%s is not installed: machida3 needs it" % SUPERVISOR
    )


def run(planned: Plan) -> NoReturn:
    program = supervisor()
    state = kept_state(planned) if planned.resilient else no_state(planned)
    command = [SUPERVISOR, "-c", write_configuration(planned, state)]
    if "accept-loss" in planned.line.options:
        command.append("--accept-loss")
    sys.stdout.flush()
    os.execv(program, command)


def main(argv: Optional[list[str]] = None) -> int:
    try:
        line = parse(sys.argv[0], sys.argv[1:] if argv is None else argv)
        if "help" in line.options:
            print(HELP, end="", flush=True)
            return 0
        run(plan(line))
    except (Refused, OSError) as error:
        print("Error: %s" % error, file=sys.stderr, flush=True)
        return 1
