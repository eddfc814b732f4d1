"""The side of a connector that brings data: streams, points, credits."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Iterator,
    Sequence,
)
from typing import Any, Callable, NamedTuple, Optional, Union

from ..experimental import connector_wire_messages as cwm
from ._options import Options, address, from_arguments
from ._wire import (
    CHUNK,
    GREETING_S,
    Backoff,
    Failed,
    Frames,
    Refused,
    Thread,
    Violation,
    call,
    close,
    encode,
    end_of,
    log,
    program,
)

VERSION = "0.0.1"
ASK_AGAIN_S = 1.0  # for a stream that is still open elsewhere
PULLED = 256  # records of a plain read() in one go
PULLED_BYTES = 1 << 18


class EndOfStream(Exception):
    """read() has nothing more, and never will."""


class Record(NamedTuple):
    """A message and its point: a number greater than those before it."""

    point: int
    message: bytes
    key: Optional[bytes] = None


Item = Union[Record, tuple[int, bytes], tuple[int, bytes, Optional[bytes]]]
Read = Optional[Item]


class Source(ABC):
    """One stream of messages.

    Each message has a point, the same one whenever it is read.  Plain methods
    are called by one thread, one after the other; read() may wait, but
    nothing else of this source is called meanwhile.
    """

    #: Its number is made of it: no other stream of this source of the
    #: application may have it.
    name = "stream"
    #: Seconds until read() is called again after it has returned None.
    idle: float = 0.05

    @abstractmethod
    def seek(self, point: Optional[int]) -> Union[None, Awaitable[None]]:
        """Go on behind this point; None: at the beginning.

        Comes before the first read(), and after each lost connection.
        """

    @abstractmethod
    def read(self) -> Union[Read, Awaitable[Read]]:
        """The next message; None: none now; EndOfStream: none any more."""

    def ack(self, point: int) -> Union[None, Awaitable[None]]:
        """Everything up to here is safe, and may be forgotten.

        The same point may come more than once.
        """

    def close(self) -> Union[None, Awaitable[None]]:
        """The program ends, or the stream has."""


Made = Union[Iterator[Read], AsyncIterator[Read]]


class _Generated(Source):
    """A generator function, which gets the point to go on behind."""

    def __init__(
        self, func: Callable[[Optional[int]], Any], name: str
    ) -> None:
        self.name = name
        self._func = func
        self._made: Any = None

    def seek(self, point: Optional[int]) -> None:
        self._made = self._func(point)

    def read(self) -> Union[Read, Awaitable[Read]]:
        for item in self._made:
            found: Read = item
            return found
        raise EndOfStream


class _GeneratedAsync(_Generated):
    """The same with an asynchronous one."""

    async def read(self) -> Read:
        async for item in self._made:
            found: Read = item
            return found
        raise EndOfStream


def source(
    name: str,
) -> Callable[[Callable[[Optional[int]], Made]], Source]:
    """Decorate a generator function f(point): it yields (point, message) or
    (point, message, key), behind the given point; None: nothing now."""

    def decorate(func: Callable[[Optional[int]], Made]) -> Source:
        if inspect.isasyncgenfunction(func):
            return _GeneratedAsync(func, name)
        return _Generated(func, name)

    return decorate


class _Stream:
    """What is known of one source over all connections."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name.encode("utf-8")
        self.id = int(hashlib.sha256(self.name).hexdigest()[:16], 16)
        self.thread = Thread("wallaroo-" + source.name)
        self.point = cwm.U64_MAX  # of the last message, sent or told
        self.acked = cwm.U64_MAX  # for ack(), not called yet
        self.news = asyncio.Event()
        self.opened: Optional[asyncio.Future[cwm.NotifyAck]] = None
        self.ended = False  # EOS is under way
        self.done = asyncio.Event()

    async def call(self, func: Callable[..., Any], *args: Any) -> Any:
        return await call(self.thread, func, *args)

    def record(self, item: Any) -> Record:
        """Checked: what it says must be right now, not at a recovery."""
        found = item if isinstance(item, Record) else Record(*item)
        if not 0 <= found.point < cwm.U64_MAX or (
            self.point != cwm.U64_MAX and found.point <= self.point
        ):
            raise ValueError(
                "source %s: the point %d does not come after %d"
                % (self.source.name, found.point, self.point)
            )
        self.point = found.point
        return found

    def pull(self) -> tuple[list[Any], bool]:
        """In its thread: what there is, up to some; and is it the end?"""
        found: list[Any] = []
        size = 0
        try:
            while len(found) < PULLED and size < PULLED_BYTES:
                item: Any = self.source.read()
                if item is None:
                    break
                found.append(item)
                if inspect.isawaitable(item):
                    break
                size += len(item[1])
        except (EndOfStream, StopIteration):
            return found, True
        return found, False

    async def read(self) -> tuple[list[Any], bool]:
        if not inspect.iscoroutinefunction(self.source.read):
            found, end = await self.call(self.pull)
            if not found or not inspect.isawaitable(found[0]):
                return found, end
            waiting: Awaitable[Any] = found[0]
        else:
            waiting = self.source.read()
        try:
            item = await waiting
        except (EndOfStream, StopAsyncIteration):
            return [], True
        except Exception as error:
            raise Failed(error) from error
        return ([] if item is None else [item]), False

    def take_ack(self, point: int) -> None:
        if point != cwm.U64_MAX:
            self.acked = point
            self.news.set()
        if self.ended and point == self.point:
            self.done.set()

    async def acks(self) -> None:
        """Tell it what is safe, the latest only."""
        while True:
            await self.news.wait()
            self.news.clear()
            await self.call(self.source.ack, self.acked)

    async def close(self) -> None:
        await close(self.thread, self.source.close)


class _Credits:
    """Frames that may still be sent."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.more = asyncio.Event()
        self.acks = asyncio.Event()  # one has come

    def add(self, n: int) -> None:
        self.n += n
        self.more.set()
        self.acks.set()

    async def take(self) -> None:
        while self.n <= 0:
            self.more.clear()
            await self.more.wait()
        self.n -= 1


class _Lost(Exception):
    """Connect again; where to if it was said."""

    def __init__(
        self, why: str, where: Optional[tuple[str, int]] = None
    ) -> None:
        super().__init__(why)
        self.where = where


class _Session:
    """One connection to a worker."""

    def __init__(
        self, client: _Client, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.client = client
        self.reader = reader
        self.writer = writer
        self.frames = Frames()
        self.credits = _Credits(0)

    async def more(self) -> list[Any]:
        data = await self.reader.read(CHUNK)
        if not data:
            raise _Lost("the worker has closed the connection")
        return self.frames.feed(data)

    async def greet(self) -> None:
        options = self.client.options
        self.writer.write(encode(cwm.Hello(
            VERSION, options.cookie, "wallaroo.connectors", options.name
        )))
        got: list[Any] = []
        while not got:
            got = await self.more()
        if isinstance(got[0], cwm.Error):
            raise Refused(got[0].message)
        if not isinstance(got[0], cwm.Ok):
            raise Violation("the answer to HELLO is %s" % got[0])
        self.credits.add(got[0].initial_credits)
        for msg in got[1:]:
            self.take(msg)

    async def receive(self) -> None:
        while True:
            for msg in await self.more():
                self.take(msg)

    def take(self, msg: Any) -> None:
        if isinstance(msg, cwm.Ack):
            for stream_id, point in msg.acks:
                stream = self.client.streams.get(stream_id)
                if stream is not None:
                    stream.take_ack(point)
            self.credits.add(msg.credits)
        elif isinstance(msg, cwm.NotifyAck):
            stream = self.client.streams.get(msg.stream_id)
            if stream is None or stream.opened is None \
                    or stream.opened.done():
                raise Violation("an answer to no NOTIFY: %s" % msg)
            stream.opened.set_result(msg)
        elif isinstance(msg, cwm.Restart):
            try:
                where = address(msg.address) if msg.address else None
            except ValueError as error:
                raise Violation("RESTART: %s" % error) from error
            raise _Lost("the worker says RESTART", where)
        elif isinstance(msg, cwm.Error):
            raise _Lost("the worker says: %s" % msg.message)
        else:
            raise Violation("a worker does not send %s" % msg)

    async def open(self, stream: _Stream) -> Optional[int]:
        """Announce it until it is ours; the point to go on behind."""
        while True:
            await self.credits.take()
            stream.opened = asyncio.get_running_loop().create_future()
            self.credits.acks.clear()
            self.writer.write(encode(
                cwm.Notify(stream.id, stream.name, stream.point)
            ))
            answer = await stream.opened
            if answer.notify_success:
                stream.point = answer.point_of_ref
                return None if stream.point == cwm.U64_MAX else stream.point
            try:
                await asyncio.wait_for(self.credits.acks.wait(), ASK_AGAIN_S)
            except asyncio.TimeoutError:
                pass

    async def feed(self, stream: _Stream) -> None:
        """All of a stream, from where the worker wants it."""
        stream.ended = False
        point = await self.open(stream)
        self.client.backoff.reset()
        log.info("stream %s is open, behind %s", stream.source.name,
                 "nothing" if point is None else point)
        await stream.call(stream.source.seek, point)
        end = False
        while not end:
            items, end = await stream.read()
            for item in items:
                record = stream.record(item)
                data = encode(cwm.Message(
                    stream.id, record.point, 0, record.key, record.message
                ))
                await self.credits.take()
                self.writer.write(data)
                await self.writer.drain()
            if not items and not end:
                await asyncio.sleep(stream.source.idle)
        await self.credits.take()
        stream.ended = True
        self.writer.write(encode(cwm.EosMessage(stream.id)))
        await stream.done.wait()
        log.info("stream %s has ended", stream.source.name)

    async def work(self) -> None:
        """Until all streams have ended, or the connection is lost."""
        streams = [
            stream for stream in self.client.streams.values()
            if not stream.done.is_set()
        ]
        receiver = asyncio.ensure_future(self.receive())
        feeders = [asyncio.ensure_future(self.feed(s)) for s in streams]
        ackers = [asyncio.ensure_future(s.acks()) for s in streams]
        waiting = set(feeders)
        try:
            while waiting:
                done, _ = await asyncio.wait(
                    {receiver, *waiting, *ackers},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting -= done
                for task in done if waiting else done - {receiver}:
                    task.result()
            for stream in streams:  # the last one may not have been called
                if stream.acked != cwm.U64_MAX:
                    await stream.call(stream.source.ack, stream.acked)
        finally:
            await end_of(receiver, *feeders, *ackers)


class _Client:
    """Sources of one program, and the worker they go to."""

    def __init__(self, sources: Sequence[Source], options: Options) -> None:
        self.options = options
        self.where = (options.host, options.port)
        self.backoff = Backoff()
        self.streams: dict[int, _Stream] = {}
        for one in sources:
            stream = _Stream(one)
            if stream.id in self.streams:
                raise ValueError("two sources are named %s" % one.name)
            self.streams[stream.id] = stream

    async def connect(self) -> None:
        """One connection, as long as it lasts."""
        reader, writer = await asyncio.open_connection(
            *self.where, limit=CHUNK
        )
        session = _Session(self, reader, writer)
        try:
            await asyncio.wait_for(session.greet(), GREETING_S)
            await session.work()
        except (OSError, _Lost, Refused, asyncio.TimeoutError):
            raise
        except Exception as error:
            cause = error.error if isinstance(error, Failed) else error
            # Not its text, which may hold data.
            writer.write(encode(cwm.Error(
                str(error) if isinstance(error, Violation)
                else "the connector has failed: %s" % type(cause).__name__
            )))
            raise
        finally:
            writer.close()

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self.connect()
                    return
                except (OSError, Violation, asyncio.TimeoutError) as error:
                    log.warning(
                        "%s:%d: %s, trying again", *self.where,
                        str(error) or type(error).__name__,
                    )
                    where = None
                except _Lost as error:
                    log.info("%s, connecting again", error)
                    where = error.where
                except Failed as error:
                    raise error.error from None
                # A worker that is said to be elsewhere may die, too: then
                # the one that is known from the beginning says where.
                self.where = where or (
                    self.options.host, self.options.port
                )
                await self.backoff.wait()
        finally:
            for stream in self.streams.values():
                await stream.close()


async def serve_source(*sources: Source, options: Options) -> None:
    """Feed them to a worker until all have ended."""
    await _Client(sources, options).run()


def run_source(
    *sources: Source,
    options: Optional[Options] = None,
    args: Optional[Sequence[str]] = None,
) -> None:
    """A program that feeds them; options come from its command line and its
    environment.  Ends the process: 0 when all have ended or by SIGTERM, 100
    when the worker refuses it, 1 when it has failed."""
    chosen = options or from_arguments(args, "feed a source of Wallaroo")
    program(lambda: serve_source(*sources, options=chosen))
