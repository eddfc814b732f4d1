"""The command "python -m wallaroo run": an application, run from a terminal.

In one plain process, with its real sources and sinks, for trying it before
anything is configured: the reference executor reads files, the standard
input, generators and TCP clients, and writes to files, the standard output
and TCP receivers; nothing is kept when it ends.  With --workers in processes
of the real runtime, see _cluster.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Optional

import wallaroo

from ._errors import POLICIES, WallarooParameterError, user_traceback
from ._framing import Cutter, FramingError
from ._reference import (
    DeadLetter,
    Executor,
    Source,
    UserFunctionError,
    generated,
)
from ._topology import compile_application

CHUNK = 65536
RETRY_S = 0.25

USAGE = """\
Run an application: %(prog)s app.py [options] [its arguments].
APPLICATION is a file or a module that has application_setup(args).  Without
--workers it runs in this one process, and nothing is kept; with it, in worker
processes under wallaroo-supervisord.  The options may stand before APPLICATION
or right behind it; what follows them, or --, is the application's."""


def main(argv: list[str]) -> int:
    """The command line; the exit status."""
    options = parse(argv)
    if options.watch:
        from ._watch import watch

        return watch(
            [sys.executable, "-m", "wallaroo", "run"]
            + without_watch(argv[1:], options), locate(options.application)[1])
    if options.workers is not None:
        return in_workers(
            options, *locate(options.application))
    return in_this_process(
        options.on_error,
        lambda: setup(options.application, options.arguments))


def main_of(
    module: dict[str, Any],
    application_setup: Optional[Callable[[list[str]], Any]],
    workers: Optional[int],
) -> int:
    """wallaroo.run() in the module that Python runs: the exit status."""
    path = os.path.abspath(module.get("__file__") or "")
    build: Any = module.get("application_setup")
    if build is None or application_setup not in (None, build):
        say("wallaroo.run: %s needs a function application_setup(args), "
            "which workers find by this name" % path)
        return 1
    options = parse(["run", path] + sys.argv[1:])
    if workers is not None and options.workers is None:
        options.workers = workers
        check(options, options_parser())
    if options.watch:
        from ._watch import watch

        return watch(
            [sys.executable, path] + without_watch(sys.argv[1:], options),
            os.path.dirname(path))
    if options.workers is not None:
        return in_workers(options, *locate(path))
    args = [sys.argv[0]] + options.arguments
    return in_this_process(
        options.on_error, lambda: built(build, args))


def in_workers(
    options: argparse.Namespace, module: str, directory: str
) -> int:
    from . import _cluster

    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [directory] + [os.path.abspath(path) for path in listed if path]
    try:
        return _cluster.run(_cluster.Request(
            module, paths, options.arguments, options.workers,
            options.state_directory, options.on_error, options.verbose))
    except (OSError, WallarooParameterError) as error:
        say(str(error))
        return 1


def in_this_process(on_error: str, build: Callable[[], Any]) -> int:
    try:
        application = build()
    except Exception as error:
        print(user_traceback(error), end="", file=sys.stderr)
        say("Something went wrong while building the application.")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        Runner(application, on_error).run()
    except KeyboardInterrupt:
        return 0
    except (UserFunctionError, FramingError) as error:
        print(user_traceback(error), end="", file=sys.stderr)
        return 1
    except (OSError, WallarooParameterError) as error:
        say(str(error))
        return _end(1)
    return _end(0)


def _end(status: int) -> int:
    """Flush here, since the interpreter would fail at it with status 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if status == 0:
            say(str(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return status


def options_parser() -> argparse.ArgumentParser:
    """The options that may stand on either side of APPLICATION."""
    # No defaults: what stands behind must not hide what stood before.
    options = argparse.ArgumentParser(
        prog="python -m wallaroo run", add_help=False, allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    options.add_argument(
        "--workers", type=int, metavar="N",
        help="run it in so many worker processes",
    )
    options.add_argument(
        "--state-directory", metavar="D",
        help="where workers keep their state; without it that goes away",
    )
    options.add_argument(
        "--on-error", choices=POLICIES,
        help="what an exception in a user function does (default: fail)",
    )
    options.add_argument(
        "--watch", action="store_true",
        help="start it again whenever one of its files changes",
    )
    options.add_argument(
        "--verbose", action="store_true",
        help="show the whole log of supervisor and workers",
    )
    return options


def parse(argv: list[str]) -> argparse.Namespace:
    options = options_parser()
    parser = argparse.ArgumentParser(prog="python -m wallaroo")
    commands = parser.add_subparsers(required=True, metavar="run")
    run = commands.add_parser(
        "run",
        help="run an application",
        usage="%(prog)s [option ...] APPLICATION [option ...] [argument ...]",
        description=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options],
    )
    run.add_argument("application", metavar="APPLICATION")
    run.set_defaults(
        workers=None, state_directory=None, on_error="fail", watch=False,
        verbose=False,
    )
    ours, arguments = leading(argv[1:])
    if arguments and arguments[0][:1] != "-":
        behind, rest = leading(arguments[1:])
        found = parser.parse_args(argv[:1] + ours + behind + arguments[:1])
        found.arguments = rest
    else:  # help, or a mistake
        found = parser.parse_args(argv)
        found.arguments = []
    check(found, run)
    if found.workers is None and "--" not in argv:
        for word in found.arguments:
            if word.partition("=")[0] == "--workers":
                say("%s stands behind an argument of the application, so it "
                    "is the application's, which runs without workers" % word)
    return found


def leading(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Options of ours at the beginning, and the application's arguments."""
    values = {
        "--workers": 1, "--state-directory": 1, "--on-error": 1,
        "--watch": 0, "--verbose": 0,
    }
    at = 0
    while at < len(arguments):
        name, equal, _ = arguments[at].partition("=")
        if arguments[at] == "--":
            return arguments[:at], arguments[at + 1:]
        if name not in values:
            break
        at += 1 if equal else 1 + values[name]
    return arguments[:at], arguments[at:]


def check(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    if options.workers is not None and not 1 <= options.workers <= 256:
        parser.error("--workers must be from 1 to 256")
    if options.state_directory is not None and options.workers is None:
        parser.error(
            "--state-directory needs --workers: without them nothing is kept"
        )


def without_watch(
    argv: list[str], options: argparse.Namespace
) -> list[str]:
    """The same command line, for a process that runs it once."""
    own = len(argv) - len(options.arguments)
    return [
        word for word in argv[:own] if word != "--watch"
    ] + argv[own:]


def locate(application: str) -> tuple[str, str]:
    """The name of its module, and the directory that this is in."""
    if not application.endswith(".py") and os.sep not in application:
        return application, os.getcwd()
    path = os.path.abspath(application)
    directory, file = os.path.split(path)
    if not os.path.exists(path):
        raise FileNotFoundError("there is no %s" % application)
    return file[:-3] if file.endswith(".py") else file, directory


def setup(application: str, arguments: list[str]) -> Any:
    """Import the application and call its application_setup."""
    module, directory = locate(application)
    sys.path.insert(0, directory)
    args = [application] + arguments
    wallaroo._ARGS = tuple(args)
    sys.argv = list(args)
    imported = importlib.import_module(module)
    build = getattr(imported, "application_setup", None)
    if build is None:
        raise WallarooParameterError(
            "%s has no function application_setup(args), which makes the "
            "application" % (imported.__file__ or module))
    return built(build, args)


def built(build: Callable[[list[str]], Any], args: list[str]) -> Any:
    """The application; compiled too, so that what workers would refuse is
    refused here."""
    wallaroo._ARGS = tuple(args)
    sys.argv = list(args)
    result = build(list(args))
    compile_application(result)
    return result


def say(text: str) -> None:
    print("wallaroo: " + text, file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


class Runner:
    """Moves records from all sources until they have ended."""

    def __init__(self, application: Any, on_error: str) -> None:
        self.executor = Executor(application, on_error, self.write)
        self.sinks = [
            open_sink(config) for config in self.executor.sink_configs
        ]
        self.readers: dict[Any, Callable[[], bool]] = {}
        self.turns: list[Iterator[None]] = []

    def run(self) -> None:
        try:
            for source in self.executor.sources:
                self.open_source(source)
            while self.turns or self.readers:
                self.turn()
            # All is in: the windows need not wait for more.
            self.executor.finish()
            self.report_dead_letters()
        finally:
            for sink in self.sinks:
                sink.close()

    def turn(self) -> None:
        """A record of each source that has one at hand; what arrived."""
        self.executor.advance(time.time_ns())
        for turn in list(self.turns):
            if next(turn, self) is self:
                self.turns.remove(turn)
        ready: list[Any] = []
        if self.readers:
            wait = 0.0 if self.turns else self.patience()
            ready = select.select(list(self.readers), [], [], wait)[0]
            self.executor.advance(time.time_ns())
        for readable in ready:
            if not self.readers[readable]():
                del self.readers[readable]
                readable.close()
        self.executor.values.clear()
        self.report_dead_letters()

    def patience(self) -> Optional[float]:
        """Seconds until a timer rings."""
        timer = self.executor.next_timer()
        if timer is None:
            return None
        return max(0.0, (timer - time.time_ns()) / 10**9)

    def open_source(self, source: Source) -> None:
        config = source.config
        if config[0] == "gen":
            self.turns.append(self.generate(source))
        elif config[0] == "file":
            self.turns.append(self.read_file(source, opened(source)))
        elif config[0] == "stdin":
            self.open_stdin(source)
        elif config[5]:
            self.listen(source)

    def generate(self, source: Source) -> Iterator[None]:
        for value in generated(source.config[2]):
            self.executor.push(source, value)
            yield

    def read_file(self, source: Source, file: BinaryIO) -> Iterator[None]:
        cutter = Cutter(source.decoder, source.max_size)
        with file:
            data = file.read(CHUNK)
            while data:
                for payload in cutter.feed(data):
                    self.executor.push_payload(source, payload)
                    yield
                data = file.read(CHUNK)
        for payload in cutter.end():
            self.executor.push_payload(source, payload)

    def open_stdin(self, source: Source) -> None:
        file = os.fdopen(os.dup(0), "rb", buffering=0)
        if os.name != "posix":  # select() there takes only sockets
            self.turns.append(self.read_file(source, file))
            return
        cutter = Cutter(source.decoder, source.max_size)

        def read() -> bool:
            data = file.read(CHUNK)
            for payload in cutter.feed(data) if data else cutter.end():
                self.executor.push_payload(source, payload)
            return bool(data)

        self.readers[file] = read

    def listen(self, source: Source) -> None:
        host, port = source.config[2], source.config[3]
        try:
            listener = listening_socket(host, int(port))
        except OSError as error:
            raise OSError(
                "cannot listen on %s:%s: %s" % (host, port, error)
            ) from error
        say("%s is listening on %s:%s" % (source.name, host, port))

        def accept() -> bool:
            connection, address = listener.accept()
            self.readers[connection] = self.connection(
                source, connection, "%s:%s" % address[:2]
            )
            return True

        self.readers[listener] = accept

    def connection(
        self, source: Source, connection: socket.socket, client: str
    ) -> Callable[[], bool]:
        cutter = Cutter(source.decoder, source.max_size)

        def lost(error: Exception) -> bool:
            say("%s: client %s: %s" % (source.name, client, error))
            return False

        def read() -> bool:
            try:
                data = connection.recv(CHUNK)
            except OSError as error:
                return lost(error)
            try:
                for payload in cutter.feed(data) if data else cutter.end():
                    self.executor.push_payload(source, payload)
            except FramingError as error:
                return lost(error)
            return bool(data)

        return read

    def write(self, sink: int, data: bytes) -> None:
        self.sinks[sink].write(data)
        self.executor.outputs[sink].clear()

    def report_dead_letters(self) -> None:
        for letter in self.executor.dead_letters:
            print(dead_letter_line(letter), file=sys.stderr, flush=True)
        self.executor.dead_letters.clear()


def opened(source: Source) -> BinaryIO:
    path = source.config[2]
    try:
        return open(path, "rb")
    except OSError as error:
        raise OSError("source \"%s\": cannot open %s: %s" % (
            source.name, path, error.strerror)) from error


def dead_letter_line(letter: DeadLetter) -> str:
    return json.dumps({
        "step": letter.step, "key": letter.key, "error": letter.error,
        "input": repr(letter.value), "traceback": letter.traceback,
    })


def listening_socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen()
    return listener


class FileSink:
    """A file, written anew, or the standard output."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.file.flush()

    def close(self) -> None:
        self.file.flush()


class TCPSink:
    """A connection to a receiver, made again when it is lost."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.socket: Optional[socket.socket] = self.connect()

    def connect(self) -> socket.socket:
        said = False
        while True:
            try:
                return socket.create_connection((self.host, self.port))
            except OSError as error:
                if not said:
                    say(
                        "waiting for a receiver on %s:%s: %s"
                        % (self.host, self.port, error)
                    )
                    said = True
                time.sleep(RETRY_S)

    def write(self, data: bytes) -> None:
        while True:
            if self.socket is None:
                self.socket = self.connect()
            try:
                self.socket.sendall(data)
                return
            except OSError as error:
                say(
                    "lost the receiver on %s:%s: %s"
                    % (self.host, self.port, error)
                )
                self.socket.close()
                self.socket = None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


def open_sink(config: Any) -> Any:
    if config[0] == "tcp":
        return TCPSink(config[2], int(config[3]))
    if config[0] == "file":
        try:
            return FileSink(open(config[2], "wb"))
        except OSError as error:
            raise OSError("sink \"%s\": cannot open it: %s" % (
                config[2], error.strerror)) from error
    return FileSink(sys.stdout.buffer)
