"""Tests of applications: on the reference executor, or on real workers.

The fixture wallaroo_app starts an application and feeds it:

    import word_count

    def test_counts(wallaroo_app):
        app = wallaroo_app(word_count, ["--in", "lines@127.0.0.1:7010"])
        app.feed("lines", "a b", "a")
        app.kill()
        app.feed("lines", "b")
        assert sorted(app.values()) == ["a 1", "a 2", "b 1", "b 2"]
        assert app.state("Count", "a") == "Total(count=2)"
        assert app.dead_letters() == []

By itself it runs in this process, where a kill is all that a kill leaves: the
states, saved and loaded again.  With --wallaroo-cluster=3 the same tests run
on three worker processes under wallaroo-supervisord, where a kill is one.
Nothing that the application's sources and sinks name is touched.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
import reprlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Optional, Union

import pytest

from . import _cluster, _redirect
from ._reference import Executor, Source, as_key, generated, show_key
from ._runtime import serialization_hooks
from .testing import Decoded, _find, _push, _push_all

PATIENCE_S = 60.0  # for anything that has to happen
LOOK_S = 0.05
LONGEST_WAIT_S = 10.0  # for the time, on a cluster

NO_STATE = "there is no state for this key"  # as wallarooctl says it

Setup = Callable[[list[str]], Any]


class Letter(NamedTuple):
    """A record that was set aside because a user function raised."""

    step: str
    key: str
    error: str


class Application:
    """What the fixture gives, wherever the application runs."""

    def feed(self, source: str, *items: Any) -> None:
        """Inputs of a source, in order.

        Bytes are a payload for its decoder, and so is a str for a decoder of
        lines; anything else is a decoded message, and so is Decoded(item).
        For a generator: a number of its values.
        """
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        """Let time pass, which fires windows."""
        raise NotImplementedError

    def kill(self, worker: Optional[int] = None) -> None:
        """kill -9 of a worker, or of all; returns when they go on."""
        raise NotImplementedError

    def restart(self, workers: Optional[int] = None) -> None:
        """A clean stop and a start, also with another number of workers."""
        raise NotImplementedError

    def outputs(self, sink: int = 0) -> list[bytes]:
        """What was written to a sink, call by call, when all is processed.

        Sinks are counted in the pipeline's order, then come those of
        with_late_to().  On several workers only what a key gave is in order.
        """
        raise NotImplementedError

    def values(self, sink: int = 0) -> list[Any]:
        """The messages behind outputs(), not encoded."""
        raise NotImplementedError

    def state(self, step: str, key: Union[str, bytes]) -> Optional[str]:
        """The state of a key, as wallarooctl shows it: Total(count=2)."""
        raise NotImplementedError

    def dead_letters(self) -> list[Letter]:
        raise NotImplementedError

    def close(self) -> None:
        """The end of the test."""


def payload_of(source: Source, item: Any) -> Any:
    """The item, where a str stands for a line that is to be decoded."""
    framing = getattr(source.decoder, "framing", "header")
    if isinstance(item, str) and framing == "lines":
        return item.encode("utf-8", "surrogateescape")
    return item


# -- in this process ----------------------------------------------------------

class InProcess(Application):
    """On the reference executor."""

    def __init__(
        self, setup: Setup, arguments: list[str], on_error: str
    ) -> None:
        self.setup = setup
        self.written: list[tuple[int, bytes]] = []
        self.reached: list[tuple[int, Any]] = []
        self.executor = Executor(
            setup(list(arguments)), on_error, self._written)
        module = sys.modules[setup.__module__]
        save, load = serialization_hooks(module)
        self.save = save or pickle.dumps
        self.load = load or pickle.loads

    def _written(self, sink: int, data: bytes) -> None:
        self.reached.append((sink, self.executor.writing))
        self.written.append((sink, data))

    def feed(self, source: str, *items: Any) -> None:
        found = _find(self.executor, source)
        for item in items:
            if found.decoder is None and isinstance(item, int):
                _push_all(self.executor, found, item)
            else:
                _push(self.executor, found, payload_of(found, item))

    def advance(self, seconds: float) -> None:
        self.executor.advance(self.executor.clock + int(seconds * 10**9))

    def kill(self, worker: Optional[int] = None) -> None:
        for step, states in self.executor.states.items():
            for key, state in states.items():
                try:
                    states[key] = self.load(self.save(state))
                except Exception as error:
                    raise AssertionError(
                        "the state of step %r and key %r cannot be saved and "
                        "loaded, so it does not survive a kill: %s: %s" % (
                            step, show_key(key), type(error).__name__, error)
                    ) from error

    def restart(self, workers: Optional[int] = None) -> None:
        self.kill()

    def outputs(self, sink: int = 0) -> list[bytes]:
        return [data for number, data in self.written if number == sink]

    def values(self, sink: int = 0) -> list[Any]:
        return [value for number, value in self.reached if number == sink]

    def state(self, step: str, key: Union[str, bytes]) -> Optional[str]:
        found = self.executor.states[step].get(as_key(key))
        return None if found is None else shown(found)

    def dead_letters(self) -> list[Letter]:
        return [
            Letter(letter.step, letter.key, letter.error)
            for letter in self.executor.dead_letters
        ]


def shown(state: Any) -> str:
    """As workers show it."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 120
    short.maxlong = 60
    short.maxdict = short.maxlist = short.maxtuple = short.maxset = 12
    own: Any = type(state).__repr__
    if own is object.__repr__ and hasattr(state, "__dict__"):
        return "%s(%s)" % (type(state).__name__, ", ".join(
            "%s=%s" % (name, short.repr(value))
            for name, value in vars(state).items()))
    return short.repr(state)


# -- on workers ---------------------------------------------------------------

class OnWorkers(Application):
    """Under wallaroo-supervisord, with real processes."""

    def __init__(
        self, setup: Setup, arguments: list[str], on_error: str, workers: int
    ) -> None:
        self.program = _cluster.find_supervisor()
        # Only for names and decoders.
        self.executor = Executor(setup(list(arguments)), on_error)
        self.directory = tempfile.mkdtemp(prefix="wallaroo-test-")
        self.log = os.path.join(self.directory, "log")
        path = inspect.getfile(setup)
        count = len(self.executor.sink_configs)
        self.plan = _redirect.Plan(
            os.path.splitext(os.path.basename(path))[0], setup.__name__,
            [os.path.dirname(os.path.abspath(path))], arguments,
            [free_port() for _ in self.executor.sources],
            [os.path.join(self.directory, "sink-%d" % n)
             for n in range(count)])
        self.request = _cluster.Request(
            _redirect.__name__, self.plan.directories,
            [json.dumps(self.plan._asdict())], workers,
            os.path.join(self.directory, "state"), on_error, False)
        self.directories: Optional[_cluster.Places] = None
        self.sockets: list[socket.socket] = []
        self.process: Optional[subprocess.Popen[bytes]] = None

    # Processes.

    def start(self) -> None:
        if self.directories is None:
            self.directories = _cluster.make_places(self.request)
            runtime = os.path.join(self.directory, "run")
            if _cluster.has_room(self.request.workers):
                runtime = tempfile.mkdtemp(
                    prefix="wallaroo-test-", dir=_cluster.SHM)
            self.directories = self.directories._replace(runtime=runtime)
        conf = os.path.join(self.directories.state, "cluster.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(_cluster.configuration(self.request, self.directories))
        environment = dict(os.environ)
        environment.setdefault(
            "WALLAROO_PYTHON_PACKAGE",
            os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-c", conf], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=environment,
                preexec_fn=_cluster.die_with_parent)
        self.wait(self.runs, "the application to run")
        self.sockets = [
            socket.create_connection((_redirect.HOST, port))
            for port in self.plan.ports
        ]

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        for one in self.sockets:
            one.close()
        if code != 0:
            self.failed("the application did not stop cleanly: %s" % code)

    def failed(self, text: str) -> None:
        with open(self.log, "rb") as log:
            end = log.read().decode("utf-8", "backslashreplace")
        raise AssertionError(
            "%s\n%s" % (text, "\n".join(end.splitlines()[-30:])))

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        assert self.process is not None
        until = time.monotonic() + PATIENCE_S
        while True:
            found = condition()
            if found:
                return found
            if self.process.poll() is not None:
                self.failed("the application ended with exit code %d"
                            % self.process.returncode)
            if time.monotonic() > until:
                self.failed("waited in vain for " + what)
            time.sleep(LOOK_S)

    def status(self) -> Optional[dict[str, Any]]:
        assert self.directories is not None
        try:
            return _cluster.status(self.directories.state)
        except _cluster.Unreachable:
            return None

    def runs(self) -> Optional[dict[str, Any]]:
        found = self.status()
        if found is None or found["state"] != "running" or any(
                one["state"] != "running" for one in found["workers"]):
            return None
        return found

    def settle(self) -> None:
        """Wait until everything that was fed has come out."""
        before: list[Any] = [None]

        def quiet() -> bool:
            found = self.runs() if self.all_read() else None
            now = found and [
                (w["pid"], w["records_in"], w["frames_in"], w["journal_tail"])
                for w in found["workers"]
            ]
            same = now is not None and now == before[0]
            before[0] = now
            return same and found is not None and all(
                w["journal_tail"] == w["journal_done"]
                and w["outbox_bytes"] == 0 for w in found["workers"])

        self.wait(quiet, "everything to be processed")

    def all_read(self) -> bool:
        """Whether nothing is left in the kernel of what was sent."""
        ours = {one.getsockname()[1]: port for one, port in
                zip(self.sockets, self.plan.ports)}
        with open("/proc/net/tcp") as file:
            for line in list(file)[1:]:
                words = line.split()
                here, there = (
                    int(words[n].split(":")[1], 16) for n in (1, 2))
                sending, reading = (
                    int(part, 16) for part in words[4].split(":"))
                if ours.get(here) == there and sending:
                    return False
                if ours.get(there) == here and reading:
                    return False
        return True

    # What a test calls.

    def feed(self, source: str, *items: Any) -> None:
        found = _find(self.executor, source)
        number = self.executor.sources.index(found)
        for item in items:
            if found.decoder is None and isinstance(item, int):
                values = list(generated_values(found, item))
            else:
                values = [payload_of(found, item)]
            for value in values:
                self.sockets[number].sendall(
                    _redirect.fed(as_sent(found, value)))

    def advance(self, seconds: float) -> None:
        if seconds > LONGEST_WAIT_S:
            pytest.skip(
                "%g seconds are too long on a cluster, where they pass as "
                "they do" % seconds)
        self.settle()
        time.sleep(seconds)

    def kill(self, worker: Optional[int] = None) -> None:
        found = self.wait(self.runs, "all workers to run")
        pids = {one["worker"]: one["pid"] for one in found["workers"]}
        killed = pids if worker is None else {
            worker % len(pids): pids[worker % len(pids)]}
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)

        def replaced() -> bool:
            now = self.runs()
            return now is not None and all(
                one["pid"] != killed.get(one["worker"])
                for one in now["workers"])

        self.wait(replaced, "new workers")

    def restart(self, workers: Optional[int] = None) -> None:
        self.settle()
        self.stop()
        if workers is not None:
            self.request = self.request._replace(workers=workers)
        self.start()

    def observed(self, sink: int) -> list[tuple[bytes, Any]]:
        self.settle()
        try:
            with open(self.plan.outputs[sink], "rb") as file:
                return list(_redirect.observed(file.read()))
        except FileNotFoundError:
            return []

    def outputs(self, sink: int = 0) -> list[bytes]:
        return [data for data, _ in self.observed(sink)]

    def values(self, sink: int = 0) -> list[Any]:
        return [value for _, value in self.observed(sink)]

    def state(self, step: str, key: Union[str, bytes]) -> Optional[str]:
        assert self.directories is not None
        self.settle()
        try:
            found = _cluster.ask(
                self.directories.state, "state-get", step,
                show_key(as_key(key)))
        except _cluster.Unreachable as error:
            if str(error) == NO_STATE:
                return None
            raise
        value: str = found["value"]
        return value

    def dead_letters(self) -> list[Letter]:
        assert self.directories is not None
        self.settle()
        path = os.path.join(self.directories.state, "dead-letters.jsonl")
        try:
            with open(path, encoding="utf-8") as file:
                letters = [json.loads(line) for line in file]
        except FileNotFoundError:
            return []
        return [
            Letter(one["step"], one["key"], one["error"]) for one in letters]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for one in self.sockets:
            one.close()
        wait_for_workers(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directories is not None and self.directories.runtime:
            shutil.rmtree(self.directories.runtime, ignore_errors=True)


def wait_for_workers(directory: str) -> None:
    """Without their supervisor they end within a second; their files are
    removed after that."""
    path = os.path.join(directory, "state", "workers.pids")
    until = time.monotonic() + PATIENCE_S
    try:
        with open(path) as file:
            pids = [line.split()[0] for line in file if line.strip()]
    except OSError:
        return
    while time.monotonic() < until and any(
            runs_from(directory, pid) for pid in pids):
        time.sleep(LOOK_S)


def runs_from(directory: str, pid: str) -> bool:
    """Whether this process is a worker that has our files open."""
    try:
        return any(
            os.readlink(entry.path).startswith(directory)
            for entry in os.scandir("/proc/%s/fd" % pid))
    except OSError:
        return False


def generated_values(source: Source, count: int) -> Iterator[Any]:
    for value, _ in zip(generated(source.config[2]), range(count)):
        yield Decoded(value)


def as_sent(source: Source, item: Any) -> bytes:
    if isinstance(item, (bytes, bytearray)) and source.decoder is not None:
        return _redirect.PAYLOAD + bytes(item)
    if isinstance(item, Decoded):
        item = item.value
    return _redirect.VALUE + pickle.dumps(item)


def free_port() -> int:
    with socket.create_server((_redirect.HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# -- pytest -------------------------------------------------------------------

def pytest_addoption(parser: Any) -> None:
    parser.getgroup("wallaroo").addoption(
        "--wallaroo-cluster", type=int, metavar="N", default=0,
        help="run applications under test on N worker processes",
    )


@pytest.fixture
def wallaroo_app(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Application]]:
    """Starts applications: wallaroo_app(module or application_setup,
    arguments, on_error="fail")."""
    workers: Any = request.config.getoption("--wallaroo-cluster")
    made: list[Application] = []

    def start(
        application: Union[ModuleType, str, Setup],
        arguments: Optional[list[str]] = None,
        on_error: str = "fail",
    ) -> Application:
        if isinstance(application, str):
            application = importlib.import_module(application)
        setup: Setup = (
            application.application_setup
            if isinstance(application, ModuleType) else application)
        args = [setup.__module__] + list(arguments or [])
        if not workers:
            made.append(InProcess(setup, args, on_error))
            return made[-1]
        cluster = OnWorkers(setup, args, on_error, workers)
        made.append(cluster)  # to be closed also if it does not start
        cluster.start()
        return cluster

    yield start
    for one in made:
        one.close()
