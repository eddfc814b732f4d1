"""Does a connector, in whatever language, keep to the protocol?

    python -m wallaroo.connectors.check source -- COMMAND...
    python -m wallaroo.connectors.check sink -- COMMAND...

Starts the command for each case, plays the worker to it, and breaks what can
break.  {host}, {port}, {address} and {cookie-file} in the command's arguments
are replaced; the environment has what connectors get from a supervisor, too.
See wallaroo-connectors(7).
"""

from __future__ import annotations

import argparse
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from ..experimental import connector_wire_messages as cwm
from . import _options, mocks
from .mocks import NOTHING, Broken, Ended

COOKIE = "kit-cookie-%d"
ATTEMPTS_MOST = 20  # connections in ATTEMPTS_S after a refusal
ATTEMPTS_S = 2.0
QUIET_S = 0.5  # in which nothing may come
BUSY_S = 1.5
BUSY_MOST = 0.5  # of a processor, while there is nothing to do
TAIL = 10  # lines of a program that has failed


class LeftOut(Exception):
    """The case is not about this program."""


class Program:
    """The program under test, as one process with all that it starts."""

    def __init__(
        self, kit: Kit, port: int, cookie: Optional[str] = None
    ) -> None:
        self.log = tempfile.TemporaryFile("w+b")
        cookie = kit.cookie if cookie is None else cookie
        path = os.path.join(kit.directory, "cookie")
        with open(path, "w", encoding="utf-8") as file:
            file.write(cookie + "\n")
        where = "127.0.0.1:%d" % port
        parts = {"{host}": "127.0.0.1", "{port}": str(port),
                 "{address}": where, "{cookie-file}": path}
        command = list(kit.command)
        for name, value in parts.items():
            command = [part.replace(name, value) for part in command]
        env = {key: value for key, value in os.environ.items()
               if key != _options.COOKIE_FILE}
        env.update({_options.ADDRESS: where, _options.COOKIE: cookie,
                    _options.NAME: "kit"})
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.log.close()

    def wait(self, limit: float) -> int:
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Broken("it does not end within %g s" % limit) from None

    def tail(self) -> list[str]:
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log.tell() - 4096, 0))
        text = self.log.read().decode("utf-8", "replace")
        return text.splitlines()[-TAIL:]

    def seconds(self) -> float:
        """Time in which it had, or waited for, a processor: on a machine
        with other work a busy loop gets only a part of one."""
        total = 0.0
        for path in glob.glob("/proc/%d/task/*/schedstat"
                              % self.process.pid):
            try:
                with open(path) as file:
                    had, waited = file.read().split()[:2]
            except (OSError, ValueError):
                continue
            total += (int(had) + int(waited)) / 1e9
        return total

    def is_idle(self) -> None:
        """It waits without burning a processor."""
        before = self.seconds()
        if before == 0:
            raise LeftOut("/proc/PID/task/*/schedstat says nothing here")
        time.sleep(BUSY_S)
        share = (self.seconds() - before) / BUSY_S
        if share > BUSY_MOST:
            raise Broken("it wants %d%% of a processor while it waits"
                         % (share * 100))


class Kit:
    """What cases are done with."""

    def __init__(
        self, command: Sequence[str], directory: str, limit: float = 20.0,
        messages: int = 100, text: str = "message %d",
        before: Optional[str] = None, read: Optional[str] = None,
    ) -> None:
        self.command = command
        self.directory = directory
        self.limit = limit
        self.messages = messages
        self.text = text
        self.before = before
        self.read = read
        self.cookie = COOKIE % os.getpid()
        self.programs: list[Program] = []
        self.open: list[Any] = []
        self.reference: dict[int, list[mocks.Message]] = {}
        self.names: dict[int, bytes] = {}
        self.ends = False  # all of its streams do
        self.case = ""
        self.port = 0

    # -- for both sides

    def begin(self, case: str) -> None:
        self.case = case
        if self.before is not None:
            subprocess.run(self.before, shell=True, check=True)

    def end(self) -> list[str]:
        """Of the case; what the last program has written."""
        tail: list[str] = []
        for program in self.programs:
            tail = program.tail()
            program.close()
        for thing in self.open:
            thing.close()
        self.programs.clear()
        self.open.clear()
        return tail

    def start(self, port: int, cookie: Optional[str] = None) -> Program:
        program = Program(self, port, cookie)
        self.programs.append(program)
        return program

    # -- sources

    def source(self) -> tuple[mocks.ForSource, Program]:
        worker = mocks.ForSource(self.limit)
        self.open.append(worker)
        return worker, self.start(worker.port)

    def fed(
        self, credits: int = 100
    ) -> tuple[mocks.ForSource, Program, mocks.FromSource]:
        """A program that has sent half of what is looked at."""
        worker, program = self.source()
        one = worker.accept()
        one.greet(credits)
        one.feed(self.messages // 2)
        return worker, program, one

    @staticmethod
    def middle(one: mocks.FromSource) -> dict[int, int]:
        """Points that are not the last ones."""
        return {stream: got[(len(got) - 1) // 2].point
                for stream, got in one.got.items() if len(got) > 1}

    def again(
        self, worker: mocks.ForSource, points: dict[int, int]
    ) -> mocks.FromSource:
        """It comes back; each stream goes on behind its point."""
        one = worker.accept()
        one.points = points
        one.greet(100)
        one.feed(self.messages)
        self.compare(one)
        return one

    def compare(self, one: mocks.FromSource) -> None:
        """What came is what always comes behind these points."""
        for stream, got in one.got.items():
            if stream not in self.reference:
                raise Broken("stream %d (%s) was not there before" % (
                    stream, one.names[stream].decode("utf-8", "replace")))
            point = one.points.get(stream, NOTHING)
            want = [m for m in self.reference[stream]
                    if point == NOTHING or m.point > point]
            for was, now in zip(want, got):
                if was != now:
                    raise Broken(
                        "behind point %s of stream %d comes %s, before it "
                        "was %s" % ("nothing" if point == NOTHING else point,
                                    stream, now, was))

    # -- sinks

    def sink(self) -> tuple[mocks.ForSink, Program]:
        self.port = mocks.free_port()
        workers = mocks.ForSink(self.port, self.cookie, self.limit)
        return workers, self.start(self.port)

    def bodies(self, first: int, count: int) -> list[bytes]:
        return [(self.text.replace("%d", str(n)) + "\n").encode()
                for n in range(first, first + count)]

    def committed(self, one: mocks.ToSink, bodies: Sequence[bytes]) -> None:
        """Wait until the target has exactly this of a worker's stream.

        An answer to a question shows that the commit before it is done.
        """
        if self.read is None:
            return
        command = self.read.replace("{worker}", one.worker)
        command = command.replace("{stream}", one.stream)
        got = subprocess.run(
            command, shell=True, check=True, stdout=subprocess.PIPE
        ).stdout
        if got != b"".join(bodies):
            raise Broken("the target has %r, %r was committed"
                         % (got[-200:], b"".join(bodies)[-200:]))


# -- cases of sources ---------------------------------------------------------


def source_clean(kit: Kit) -> None:
    """clean run: HELLO, NOTIFY, messages with growing points"""
    worker, _ = kit.source()
    one = worker.accept()
    hello = one.hello()
    if hello.version != "0.0.1":
        raise Broken("its version is %r, not '0.0.1'" % hello.version)
    if hello.cookie != kit.cookie:
        raise Broken("its cookie is not the one that it was given")
    if one.read_within(QUIET_S) is not None:
        raise Broken("it does not wait for OK")
    one.ok(100)
    one.feed(kit.messages)
    kit.reference = one.got
    kit.names = one.names
    kit.ends = one.all_ended()


def _refused_source(kit: Kit, text: str) -> None:
    worker, program = kit.source()
    until, count = time.monotonic() + kit.limit, 0
    one = worker.accept()
    until = time.monotonic() + ATTEMPTS_S
    while True:
        count += 1
        one.hello()
        one.send(cwm.Error(text))
        one.socket.shutdown(1)
        try:
            msg = one.read()
        except Ended:
            msg = None
        one.close()
        if msg is not None:
            raise Broken("it sends %s after it was refused" % msg)
        wait = until - time.monotonic()
        if wait <= 0 or program.process.poll() is not None:
            break
        found = worker.accept_within(wait)
        if found is None:
            break
        one = found
    if count > ATTEMPTS_MOST:
        raise Broken("it comes %d times in %g s after it was refused"
                     % (count, ATTEMPTS_S))


def source_cookie(kit: Kit) -> None:
    """wrong cookie: refused by ERROR, it gives up or waits"""
    _refused_source(kit, "Bad cookie")


def source_version(kit: Kit) -> None:
    """wrong version: refused by ERROR, it gives up or waits"""
    _refused_source(kit, "Unknown protocol version: 0.0.1")


def source_credits(kit: Kit) -> None:
    """credits exhausted: it waits, and goes on with new ones"""
    worker, _ = kit.source()
    one = worker.accept()
    one.greet(3)
    while one.take(QUIET_S) is not None:
        pass
    if one.credits > 0 and not one.all_ended():
        raise Broken("%d credits are left, and it sends nothing"
                     % one.credits)
    for _ in range(3):
        if one.all_ended():
            return
        one.grant(2)
        if one.take() is None:
            raise Broken("it does not go on with new credits")
        while one.take(QUIET_S) is not None:
            pass
    kit.compare(one)


def source_idle(kit: Kit) -> None:
    """no credits: it takes no time of the processor"""
    worker, program = kit.source()
    one = worker.accept()
    one.greet(2)
    while one.take(QUIET_S) is not None:
        pass
    program.is_idle()


def source_reconnect(kit: Kit) -> None:
    """connection lost: it continues behind the point that it is told"""
    worker, _, one = kit.fed()
    points = kit.middle(one)
    one.close()
    kit.again(worker, points)


def source_beginning(kit: Kit) -> None:
    """connection lost, nothing was safe: everything comes again"""
    worker, _, one = kit.fed()
    one.close()
    again = kit.again(worker, {})
    if again.count == 0 and one.count > 0:
        raise Broken("nothing comes again")


def source_acked(kit: Kit) -> None:
    """acknowledged, then connection lost: it continues behind that"""
    worker, _, one = kit.fed()
    points = kit.middle(one)
    one.grant(0, list(points.items()))
    one.close()
    kit.again(worker, points)


def source_kill(kit: Kit) -> None:
    """killed and started again: same streams, same messages"""
    worker, program, one = kit.fed()
    points = kit.middle(one)
    program.kill()
    one.close()
    kit.start(worker.port)
    kit.again(worker, points)


def source_notify(kit: Kit) -> None:
    """stream refused: no message of it, it asks again"""
    worker, _ = kit.source()
    one = worker.accept()
    one.refused = set(kit.reference)
    one.greet(100)
    while not one.notified:
        if one.take() is None:
            raise Broken("no NOTIFY")
    while one.take(QUIET_S) is not None:
        pass
    one.grant(one.max_credits - one.credits)
    one.refused = set()
    one.feed(kit.messages)
    kit.compare(one)


def source_restart(kit: Kit) -> None:
    """RESTART without an address: it comes again"""
    worker, _, one = kit.fed()
    points = dict(one.last_points())
    one.send(cwm.Restart())
    kit.again(worker, points)


def source_elsewhere(kit: Kit) -> None:
    """RESTART with an address: it comes there"""
    _, _, one = kit.fed()
    points = dict(one.last_points())
    other = mocks.ForSource(kit.limit)
    kit.open.append(other)
    one.send(cwm.Restart(other.address))
    kit.again(other, points)


def source_error(kit: Kit) -> None:
    """ERROR in a session: it comes again"""
    worker, _, one = kit.fed()
    points = dict(one.last_points())
    one.send(cwm.Error("the kit says so"))
    one.socket.shutdown(1)
    kit.again(worker, points)


def source_pieces(kit: Kit) -> None:
    """answers byte by byte: they are put together"""
    worker, _ = kit.source()
    one = worker.accept()
    one.bytes_at_once = 1
    one.greet(20)
    one.feed(kit.messages // 2)
    kit.compare(one)


def source_slow(kit: Kit) -> None:
    """a worker that does not read for a while: nothing is lost"""
    worker, _ = kit.source()
    one = worker.accept()
    one.greet(100000)
    time.sleep(QUIET_S)
    one.feed(kit.messages)
    kit.compare(one)


def source_end(kit: Kit) -> None:
    """end of all streams: done when the last points are acknowledged"""
    if not kit.ends:
        raise LeftOut("its streams do not end within %d messages"
                      % kit.messages)
    worker, program = kit.source()
    one = worker.accept()
    one.greet(100)
    one.feed(kit.messages + 1)
    try:
        if one.read_within(2 * QUIET_S) is not None:
            raise Broken("it goes on behind the end of its streams")
    except Ended:
        raise Broken("it ends before its last points are safe") from None
    one.grant(one.max_credits - one.credits, list(one.ended.items()))
    code = program.wait(kit.limit)
    if code != 0:
        raise Broken("it ends with exit code %d" % code)


# -- cases of sinks -----------------------------------------------------------


def _round(
    kit: Kit, one: mocks.ToSink, number: int, start: int,
    bodies: Sequence[bytes],
) -> int:
    """Data and a transaction that is committed; where it ends."""
    end = one.write(start, *bodies)
    if not one.ask(number, start, end):
        raise Broken("it refuses transaction %d, %d to %d"
                     % (number, start, end))
    one.decide(number, True)
    return end


def _settle(one: mocks.ToSink, number: int, at: int) -> None:
    """What was decided is done, since this comes behind it."""
    if not one.ask(number, at, at):
        raise Broken("it refuses an empty transaction at %d" % at)
    one.decide(number, True)


def sink_clean(kit: Kit) -> None:
    """clean run: greeting, data, transactions, an empty one"""
    workers, _ = kit.sink()
    one = workers.ready("clean")
    at, all_of_it = 0, []
    for n in range(1, 6):
        bodies = kit.bodies(n * 100, 20)
        at = _round(kit, one, n, at, bodies)
        all_of_it += bodies
    _settle(one, 6, at)
    kit.committed(one, all_of_it)


def _refused_sink(kit: Kit, cookie: str, version: str) -> None:
    workers, _ = kit.sink()
    one = workers.connect("refused")
    try:
        one.greet(cookie, version)
    except (Broken, Ended):
        pass
    else:
        raise Broken("it takes the worker")
    one.close()
    workers.ready("refused")


def sink_cookie(kit: Kit) -> None:
    """wrong cookie: refused, others are not"""
    _refused_sink(kit, "not-" + kit.cookie, "v0.0.1")


def sink_version(kit: Kit) -> None:
    """wrong version: refused, others are not"""
    _refused_sink(kit, kit.cookie, "v9.9.9")


def sink_second_hello(kit: Kit) -> None:
    """second HELLO: the connection ends, a new one is taken"""
    workers, _ = kit.sink()
    one = workers.ready("hello")
    one.send(cwm.Hello("v0.0.1", kit.cookie, "kit", "hello"))
    one.ends()
    workers.ready("hello")


def sink_early_data(kit: Kit) -> None:
    """data before the greeting: the connection ends"""
    workers, _ = kit.sink()
    one = workers.connect("early")
    one.send(cwm.Hello("v0.0.1", kit.cookie, "kit", "early"))
    one.write(0, b"too early\n")
    one.ends()
    one = workers.ready("early")
    bodies = kit.bodies(0, 3)
    at = _round(kit, one, 1, 0, bodies)
    _settle(one, 2, at)
    kit.committed(one, bodies)


def sink_twice(kit: Kit) -> None:
    """a worker that comes twice: one of the connections ends"""
    workers, _ = kit.sink()
    one = workers.ready("twice")
    two = workers.connect("twice")
    try:
        two.greet(kit.cookie)
        one.ends()
        left = two
    except (Broken, Ended):
        two.close()
        left = one
    bodies = kit.bodies(0, 3)
    at = _round(kit, left, 1, 0, bodies)
    _settle(left, 2, at)
    kit.committed(left, bodies)


def sink_abort(kit: Kit) -> None:
    """abort: what was written is given up, and comes again"""
    workers, _ = kit.sink()
    one = workers.ready("abort")
    first, second = kit.bodies(0, 5), kit.bodies(5, 5)
    at = _round(kit, one, 1, 0, first)
    for number in (2, 3):
        end = one.write(at, *second)
        if not one.ask(number, at, end):
            raise Broken("it refuses transaction %d" % number)
        one.decide(number, False)
    end = _round(kit, one, 4, at, second)
    _settle(one, 5, end)
    kit.committed(one, first + second)


def _between(kit: Kit, kill: bool, commit: bool) -> None:
    """Lost between the phases: by a kill of it, or of the connection."""
    workers, program = kit.sink()
    one = workers.ready("between")
    first, second = kit.bodies(0, 5), kit.bodies(5, 5)
    at = _round(kit, one, 1, 0, first)
    end = one.write(at, *second)
    if not one.ask(2, at, end):
        raise Broken("it refuses transaction 2")
    if kill:
        program.kill()
        kit.start(kit.port)
    one.close()
    one = workers.ready("between", must=one.id(2))
    one.decide(2, commit)
    if not commit:
        end = _round(kit, one, 3, at, second)
    third = kit.bodies(10, 5)
    end = _round(kit, one, 4, end, third)
    _settle(one, 5, end)
    kit.committed(one, first + second + third)


def sink_kill_commit(kit: Kit) -> None:
    """killed between the phases: it knows, and commits"""
    _between(kit, True, True)


def sink_kill_abort(kit: Kit) -> None:
    """killed between the phases: it knows, and aborts"""
    _between(kit, True, False)


def sink_lost_commit(kit: Kit) -> None:
    """connection lost between the phases: it knows, and commits"""
    _between(kit, False, True)


def sink_lost_abort(kit: Kit) -> None:
    """connection lost between the phases: it knows, and aborts"""
    _between(kit, False, False)


def sink_kill_before(kit: Kit) -> None:
    """killed before the first phase: nothing of it is left"""
    workers, program = kit.sink()
    one = workers.ready("before")
    first, second = kit.bodies(0, 5), kit.bodies(5, 5)
    at = _round(kit, one, 1, 0, first)
    _settle(one, 2, at)
    one.write(at, *second)
    program.kill()
    one.close()
    kit.start(kit.port)
    one = workers.ready("before", may=one.id(2))
    end = _round(kit, one, 3, at, second)
    _settle(one, 4, end)
    kit.committed(one, first + second)


def sink_worker_lost(kit: Kit) -> None:
    """worker lost before the first phase: it gives up what it has"""
    workers, _ = kit.sink()
    one = workers.ready("worker")
    first, second = kit.bodies(0, 5), kit.bodies(5, 5)
    at = _round(kit, one, 1, 0, first)
    one.write(at, *second)
    one.close()
    one = workers.ready("worker", may=one.id(1))
    one.ask(2, at, at)  # as a worker does that cannot know
    one.decide(2, False)
    end = _round(kit, one, 3, at, second)
    _settle(one, 4, end)
    kit.committed(one, first + second)


def sink_gap(kit: Kit) -> None:
    """a gap: the transaction is refused, then it comes whole"""
    workers, _ = kit.sink()
    one = workers.ready("gap")
    bodies = kit.bodies(0, 6)
    at = one.write(0, *bodies[:2])
    end = one.write(at + len(bodies[2]), *bodies[3:])
    if one.ask(1, 0, end):
        raise Broken("it agrees to a transaction with a gap")
    one.decide(1, False)
    end = _round(kit, one, 2, 0, bodies)
    _settle(one, 3, end)
    kit.committed(one, bodies)


def sink_duplicate(kit: Kit) -> None:
    """an offset that is there already: never taken twice"""
    workers, _ = kit.sink()
    one = workers.ready("duplicate")
    first, second = kit.bodies(0, 4), kit.bodies(4, 4)
    at = _round(kit, one, 1, 0, first)
    _settle(one, 2, at)
    try:
        one.write(0, *first)
        end = one.write(at, *second)
        if one.ask(3, at, end):
            one.decide(3, True)
            _settle(one, 4, end)
        else:
            one.decide(3, False)
            end = _round(kit, one, 4, at, second)
            _settle(one, 5, end)
    except (Broken, Ended):  # it does not take that at all
        one.close()
        one = workers.ready("duplicate", may=one.id(2))
        one.ask(6, at, at)
        one.decide(6, False)
        end = _round(kit, one, 7, at, second)
        _settle(one, 8, end)
    kit.committed(one, first + second)


def sink_wrong_range(kit: Kit) -> None:
    """a transaction of another range: refused"""
    workers, _ = kit.sink()
    for case, (before, behind) in {"front": (1, 0), "back": (0, 9)}.items():
        one = workers.ready(case)
        end = one.write(0, *kit.bodies(0, 3))
        try:
            if one.ask(1, before, end + behind):
                raise Broken("it agrees to %d to %d, where 0 to %d is there"
                             % (before, end + behind, end))
        except Ended:
            pass
        one.close()


def sink_unknown(kit: Kit) -> None:
    """the commit of an unknown transaction: it commits nothing"""
    workers, _ = kit.sink()
    one = workers.ready("unknown")
    bodies = kit.bodies(0, 3)
    one.write(0, *bodies)
    one.decide(7, True)
    one.close()
    one = workers.ready("unknown")
    one.ask(8, 0, 0)
    one.decide(8, False)
    end = _round(kit, one, 9, 0, bodies)
    _settle(one, 10, end)
    kit.committed(one, bodies)


def sink_pieces(kit: Kit) -> None:
    """frames byte by byte: they are put together"""
    workers, _ = kit.sink()
    one = workers.connect("pieces")
    one.bytes_at_once = 1
    one.greet(kit.cookie)
    bodies = kit.bodies(0, 5)
    end = _round(kit, one, 1, 0, bodies)
    _settle(one, 2, end)
    kit.committed(one, bodies)


def sink_large(kit: Kit) -> None:
    """a message of a million bytes"""
    workers, _ = kit.sink()
    one = workers.ready("large")
    bodies = kit.bodies(0, 1)
    bodies.append(bodies[0][:-1] * (1000000 // len(bodies[0])) + b"\n")
    end = _round(kit, one, 1, 0, bodies)
    _settle(one, 2, end)
    kit.committed(one, bodies)


def sink_nonsense(kit: Kit) -> None:
    """bytes that are no frame: that connection ends, others live"""
    workers, _ = kit.sink()
    good = workers.ready("good")
    for data in (b"\xff" * 64, b"\0\0\0\0", b"\0\0\0\1\x63",
                 b"GET / HTTP/1.1\r\n\r\n"):
        bad = workers.connect("bad")
        bad.send_bytes(data)
        bad.ends()
        bad.close()
    end = _round(kit, good, 1, 0, kit.bodies(0, 3))
    _settle(good, 2, end)


def sink_workers(kit: Kit) -> None:
    """several workers: each has its own output; some leave"""
    workers, _ = kit.sink()
    names = ["initializer", "worker1", "worker2"]
    ones = [workers.ready(name) for name in names]
    ends = [0, 0, 0]
    for number in range(1, 4):
        for i, one in enumerate(ones):
            ends[i] = _round(kit, one, number, ends[i],
                             kit.bodies(number * 10, i + 1))
    ones[0].workers_left(names[1:])
    for one in ones[1:]:
        one.close()
    ends[0] = _round(kit, ones[0], 4, ends[0], kit.bodies(40, 1))
    _settle(ones[0], 5, ends[0])
    kit.committed(ones[0], [kit.bodies(n * 10, 1)[0] for n in range(1, 5)])


def sink_idle(kit: Kit) -> None:
    """nothing to do: it takes no time of the processor"""
    workers, program = kit.sink()
    workers.ready("idle")
    program.is_idle()


CASES: dict[str, list[Callable[[Kit], None]]] = {
    "source": [
        source_clean, source_cookie, source_version, source_credits,
        source_idle, source_reconnect, source_beginning, source_acked,
        source_kill, source_notify, source_restart, source_elsewhere,
        source_error, source_pieces, source_slow, source_end,
    ],
    "sink": [
        sink_clean, sink_cookie, sink_version, sink_second_hello,
        sink_early_data, sink_twice, sink_abort, sink_kill_commit,
        sink_kill_abort, sink_lost_commit, sink_lost_abort,
        sink_kill_before, sink_worker_lost, sink_gap, sink_duplicate,
        sink_wrong_range, sink_unknown, sink_pieces, sink_large,
        sink_nonsense, sink_workers, sink_idle,
    ],
}


class Result(NamedTuple):
    """Of a case: verdict is "ok", "failed" or "left out"."""

    name: str
    verdict: str
    why: str = ""
    log: Sequence[str] = ()


def name_of(case: Callable[[Kit], None]) -> str:
    return case.__name__.split("_", 1)[1].replace("_", "-")


def run_case(kit: Kit, case: Callable[[Kit], None]) -> Result:
    """One case from beginning to end."""
    verdict, why = "ok", ""
    kit.begin(name_of(case))
    try:
        case(kit)
    except LeftOut as error:
        verdict, why = "left out", str(error)
    except Broken as error:
        verdict, why = "failed", str(error)
    except Ended as error:
        verdict, why = "failed", "the connection has ended: %s" % error
    finally:
        log = kit.end()
    return Result(name_of(case), verdict, why,
                  log if verdict == "failed" else ())


def check(
    side: str, command: Sequence[str], only: Sequence[str] = (),
    report: Callable[[Result], None] = lambda result: None, **options: Any,
) -> list[Result]:
    """All cases, or these, for a program; options are those of Kit."""
    results = []
    with tempfile.TemporaryDirectory(prefix="wallaroo-check-") as directory:
        kit = Kit(command, directory, **options)
        for case in CASES[side]:
            # What a source sends without faults is what others refer to.
            if only and name_of(case) not in only and name_of(case) != \
                    "clean":
                continue
            results.append(run_case(kit, case))
            report(results[-1])
            if side == "source" and not kit.reference:
                break
    return results


def _say(result: Result) -> None:
    text = next(case.__doc__ or "" for side in CASES.values()
                for case in side if name_of(case) == result.name)
    print("%-9s %-13s %s" % (
        result.verdict, result.name, text.splitlines()[0].split(": ", 1)[-1]
    ), flush=True)
    if result.why:
        print("          " + result.why)
    for line in result.log:
        print("          | " + line)


def _options_of(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m wallaroo.connectors.check",
        usage="%(prog)s source|sink [OPTION...] -- COMMAND...",
        description="Test whether a connector keeps to the protocol.",
        epilog="{host}, {port}, {address} and {cookie-file} in COMMAND are "
        "replaced; $%s and $%s are set." % (
            _options.ADDRESS, _options.COOKIE))
    parser.add_argument("side", choices=list(CASES),
                        help="what the command is")
    parser.add_argument("--only", action="append", default=[],
                        metavar="CASE", help="of --list; may be repeated")
    parser.add_argument("--list", action="store_true",
                        help="say what is tested, and end")
    parser.add_argument("--limit", type=float, default=20.0,
                        metavar="SECONDS", help="to wait for anything")
    parser.add_argument("--messages", type=int, default=100, metavar="N",
                        help="of a source that are looked at")
    parser.add_argument("--text", default="message %d", metavar="TEXT",
                        help="of each line for a sink; %%d is a number")
    parser.add_argument("--before", metavar="COMMAND",
                        help="for the shell, before each case")
    parser.add_argument("--read", metavar="COMMAND",
                        help="for the shell, prints what a sink has "
                        "committed of {stream} or {worker}")
    given = list(sys.argv[1:] if argv is None else argv)
    at = given.index("--") if "--" in given else len(given)
    found = parser.parse_args(given[:at])
    found.command = given[at + 1:]
    if not found.command and not found.list:
        parser.error("no command to test")
    if found.messages < 4:
        parser.error("--messages must be 4 or more")
    known = [name_of(case) for case in CASES[found.side]]
    for name in found.only:
        if name not in known:
            parser.error("no case %r, there are %s"
                         % (name, ", ".join(known)))
    return found


def main(argv: Optional[Sequence[str]] = None) -> Union[int, str]:
    """Exit code 0: nothing has failed."""
    found = _options_of(argv)
    if found.list:
        for case in CASES[found.side]:
            print("%-13s %s" % (name_of(case), case.__doc__))
        return 0
    try:
        results = check(
            found.side, found.command, found.only, _say, limit=found.limit,
            messages=found.messages, text=found.text, before=found.before,
            read=found.read,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return "cannot be tested: %s" % error
    failed = sum(result.verdict == "failed" for result in results)
    print("%d passed, %d failed, %d left out" % (
        sum(result.verdict == "ok" for result in results), failed,
        sum(result.verdict == "left out" for result in results)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
