"""The side of a connector that takes data: offsets and two-phase commit."""

from __future__ import annotations

import asyncio
import hmac
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from ..experimental import connector_wire_messages as cwm
from ._options import Options, from_arguments
from ._wire import (
    CHUNK,
    GREETING_S,
    Failed,
    Frames,
    Thread,
    Violation,
    call,
    close,
    encode,
    log,
    program,
)

VERSION = "v0.0.1"
CREDITS = 500  # they mean nothing to a worker
DATA = 1  # the stream that has it


class Transaction(NamedTuple):
    """The messages of a worker's output from one offset to another."""

    id: str
    start: int
    end: int


class Position(NamedTuple):
    """What a sink holds for good."""

    committed: int = 0
    prepared: Optional[Transaction] = None


class Sink(ABC):
    """The output of one worker; there is one for each.

    Plain methods of all sinks of a program are called by one thread, one
    after the other.  One that raises ends the program, which is then to be
    started again.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream

    @abstractmethod
    def open(self) -> Union[Position, Awaitable[Position]]:
        """Give up all that is neither committed nor prepared; what is left?

        Comes with each new connection of the worker.
        """

    @abstractmethod
    def write(
        self, offset: int, message: bytes
    ) -> Union[None, Awaitable[None]]:
        """The next message, which begins at this offset of the output."""

    @abstractmethod
    def prepare(
        self, transaction: Transaction
    ) -> Union[Optional[bool], Awaitable[Optional[bool]]]:
        """Make it possible to commit what was written, whatever happens from
        here on, and to abort it.  False: refused, it will come again."""

    @abstractmethod
    def commit(
        self, transaction: Transaction
    ) -> Union[None, Awaitable[None]]:
        """What was prepared is valid."""

    @abstractmethod
    def abort(
        self, transaction: Transaction
    ) -> Union[None, Awaitable[None]]:
        """Give up all from its start on, prepared or not."""

    def workers_left(
        self, names: list[str]
    ) -> Union[None, Awaitable[None]]:
        """These workers are no more: nothing is added to their output until
        there are as many again."""

    def close(self) -> Union[None, Awaitable[None]]:
        """The program ends."""


class _Output:
    """What is known of a worker's output in this process."""

    def __init__(self, sink: Sink, thread: Thread) -> None:
        self.sink = sink
        self.thread = thread
        self.lock = asyncio.Lock()
        self.committed = 0
        self.length = 0
        self.prepared: Optional[Transaction] = None
        self.refused: Optional[str] = None  # why the next one is
        self.batch: list[tuple[int, bytes]] = []
        self.live: Optional[asyncio.Task[Any]] = None

    async def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """One of the sink's methods; a connection that ends meanwhile does
        not end it."""
        return await asyncio.shield(self._call(func, *args))

    async def _call(self, func: Callable[..., Any], *args: Any) -> Any:
        async with self.lock:
            return await call(self.thread, func, *args)

    async def write(self) -> None:
        """What was gathered goes to the sink."""
        batch, self.batch = self.batch, []
        waiting = await self.call(self._write, batch) if batch else None
        while waiting:
            waiting = await self.call(self._write, waiting)

    def _write(self, batch: list[tuple[int, bytes]]) -> Any:
        """All of it; where a method is a coroutine the first one, and what
        is left."""
        for n, (offset, message) in enumerate(batch):
            waiting = self.sink.write(offset, message)
            if waiting is not None:
                return self._rest(waiting, batch[n + 1:])
        return None

    @staticmethod
    async def _rest(
        waiting: Awaitable[None], batch: list[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        await waiting
        return batch

    def begin(self, position: Position) -> None:
        self.committed, self.prepared = position
        self.length = self.committed
        if self.prepared is not None:
            self.length = self.prepared.end
        self.refused = None
        self.batch = []

    def take(self, offset: int, body: bytes) -> None:
        """A message; those that are in order are gathered in a batch."""
        if self.prepared is not None:
            raise Violation("data inside a transaction")
        if self.refused is not None:
            return
        if offset > self.length:
            self.refused = "a gap: %d comes after %d" % (offset, self.length)
        elif offset < self.length:
            raise Violation(
                "offset %d comes again, %d is here" % (offset, self.length)
            )
        else:
            self.batch.append((offset, body))
            self.length += len(body)

    def objection(self, where: list[tuple[int, int, int]]) -> Optional[str]:
        """Why a transaction cannot be prepared."""
        if self.prepared is not None:
            raise Violation("a transaction inside another one")
        if self.refused is not None:
            return self.refused
        if len(where) != 1 or where[0][0] != DATA:
            return "it is not about stream %d alone" % DATA
        start, end = where[0][1:]
        if start != self.committed:
            return "it begins at %d, %d is committed" % (
                start, self.committed)
        if not start <= end <= self.length:
            return "it ends at %d, there is data up to %d" % (
                end, self.length)
        return None


class _Connection:
    """A worker that is connected."""

    def __init__(
        self, server: _Server, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.frames = Frames()
        self.worker: Optional[str] = None
        self.output: Optional[_Output] = None
        self.ready = False

    async def run(self) -> None:
        try:
            await asyncio.wait_for(self.greeting(), GREETING_S)
            while await self.turn():
                pass
        except Violation as error:
            log.error("worker %s: %s", self.worker, error)
            self.send(cwm.Error(str(error)))
        except asyncio.TimeoutError:
            log.warning("a connection has not said what it is")
        except OSError as error:
            log.info("worker %s is lost: %s", self.worker, error)
        finally:
            self.writer.close()

    async def greeting(self) -> None:
        while not self.ready and await self.turn():
            pass

    async def turn(self) -> bool:
        data = await self.reader.read(CHUNK)
        for msg in self.frames.feed(data):
            await self.take(msg)
        await self.flush()
        await self.writer.drain()
        return bool(data)

    def send(self, msg: Any) -> None:
        self.writer.write(encode(msg))

    def reply(self, msg: Any) -> None:
        self.send(cwm.Message(0, 0, 0, None, cwm.TwoPCFrame.encode(msg)))

    async def take(self, msg: Any) -> None:
        if isinstance(msg, cwm.Error):
            raise Violation("it says: %s" % msg.message)
        if self.worker is None:
            self.hello(msg)
        elif self.output is None:
            await self.notify(msg)
        elif not isinstance(msg, cwm.Message):
            raise Violation("a worker does not send %s now" % msg)
        elif msg.stream_id == 0:
            await self.flush()
            await self.control(msg.message or b"")
        elif msg.stream_id != DATA or not self.ready:
            raise Violation("data of stream %d before it is open"
                            % msg.stream_id)
        else:
            self.output.take(msg.message_id, msg.message or b"")

    def hello(self, msg: Any) -> None:
        if not isinstance(msg, cwm.Hello):
            raise Violation("HELLO must come first")
        if msg.version != VERSION:
            raise Violation("Unknown protocol version: " + msg.version)
        cookie = self.server.options.cookie
        if not hmac.compare_digest(msg.cookie.encode(), cookie.encode()):
            raise Violation("Bad cookie")
        self.worker = msg.instance_name
        self.send(cwm.Ok(CREDITS))

    async def notify(self, msg: Any) -> None:
        if not isinstance(msg, cwm.Notify) or msg.stream_id != DATA:
            raise Violation("NOTIFY of stream %d must follow" % DATA)
        name = msg.stream_name
        if isinstance(name, bytes):
            name = name.decode("utf-8", "replace")
        self.output = await self.server.open(name)
        log.info("worker %s is here, %d bytes are committed", self.worker,
                 self.output.committed)
        self.send(cwm.NotifyAck(True, DATA, self.output.length))

    async def flush(self) -> None:
        if self.output is not None:
            await self.output.write()

    async def control(self, body: bytes) -> None:
        assert self.output is not None
        try:
            msg = cwm.TwoPCFrame.decode(body)
        except ValueError as error:
            raise Violation(str(error)) from error
        sink, prepared = self.output.sink, self.output.prepared
        if isinstance(msg, cwm.ListUncommitted):
            ids = [] if prepared is None else [prepared.id]
            self.reply(cwm.ReplyUncommitted(msg.rtag, ids))
            self.ready = True
        elif not self.ready:
            raise Violation("ListUncommitted must come first")
        elif isinstance(msg, cwm.TwoPCPhase1):
            await self.phase1(msg)
        elif isinstance(msg, cwm.TwoPCPhase2):
            await self.phase2(msg)
        elif isinstance(msg, cwm.WorkersLeft):
            names = [
                name.decode("utf-8", "replace")
                if isinstance(name, bytes) else name
                for name in msg.leaving_workers
            ]
            await self.output.call(sink.workers_left, names)
        else:
            raise Violation("a worker does not send %s" % msg)

    async def phase1(self, msg: Any) -> None:
        output = self.output
        assert output is not None
        why = output.objection(msg.where_list)
        if why is None:
            found = Transaction(msg.txn_id, *msg.where_list[0][1:])
            if await output.call(output.sink.prepare, found) is False:
                why = "the sink has refused it"
            else:
                output.prepared = found
        if why is not None:
            output.refused = why
            log.warning("transaction %s is refused: %s", msg.txn_id, why)
        self.reply(cwm.TwoPCReply(msg.txn_id, why is None))

    async def phase2(self, msg: Any) -> None:
        output = self.output
        assert output is not None
        found = output.prepared
        if found is not None and found.id != msg.txn_id:
            raise Violation("%s is decided, %s is prepared"
                            % (msg.txn_id, found.id))
        if msg.commit:
            if found is None:
                raise Violation("%s was not prepared" % msg.txn_id)
            await output.call(output.sink.commit, found)
            output.committed = found.end
        else:
            await output.call(output.sink.abort, found or Transaction(
                msg.txn_id, output.committed, output.length
            ))
            output.length = output.committed
            output.refused = None
        output.prepared = None


class _Server:
    """Takes all workers."""

    def __init__(
        self, make: Callable[[str], Sink], options: Options
    ) -> None:
        self.make = make
        self.options = options
        self.thread = Thread("wallaroo-sink")
        self.outputs: dict[str, _Output] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = \
            asyncio.get_running_loop().create_future()

    async def open(self, stream: str) -> _Output:
        """A worker that comes again takes the place of the one before."""
        output = self.outputs.get(stream)
        if output is None:
            sink = await call(self.thread, self.make, stream)
            output = self.outputs.setdefault(
                stream, _Output(sink, self.thread)
            )
        before, output.live = output.live, asyncio.current_task()
        if before is not None and not before.done():
            log.info("%s comes again", stream)
            before.cancel()
            await asyncio.wait({before})
        # What that one has begun is done before: there is a lock.
        output.begin(await output.call(output.sink.open))
        return output

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await _Connection(self, reader, writer).run()
        except asyncio.CancelledError:
            pass  # another one has taken its place, or this is the end
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(
                    error.error if isinstance(error, Failed) else error
                )
        finally:
            self.tasks.discard(task)

    async def close(self) -> None:
        for output in self.outputs.values():
            await output.call(output.sink.close)

    async def run(self) -> None:
        server = await asyncio.start_server(
            self.accept, self.options.host, self.options.port, limit=CHUNK
        )
        log.info("listening on %s:%d", self.options.host, self.options.port)
        try:
            await self.failed
        finally:
            server.close()
            for task in list(self.tasks):
                task.cancel()
            if self.tasks:
                await asyncio.wait(set(self.tasks))
            await close(self.thread, self.close)


async def serve_sink(
    make: Callable[[str], Sink], *, options: Options
) -> None:
    """Listen for workers; make(stream) gives the sink of each."""
    await _Server(make, options).run()


def run_sink(
    make: Callable[[str], Sink],
    *,
    options: Optional[Options] = None,
    args: Optional[Sequence[str]] = None,
) -> None:
    """A program that listens for workers; options come from its command line
    and its environment.  Ends the process: 0 by SIGTERM, 1 when a sink has
    failed."""
    chosen = options or from_arguments(args, "take a sink of Wallaroo")
    program(lambda: serve_sink(make, options=chosen))
