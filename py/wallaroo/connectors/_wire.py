"""What sources and sinks have in common: frames, calls, a program's end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import random
import signal
import struct
import sys
import threading
from collections.abc import Awaitable
from concurrent.futures import Executor, Future
from typing import Any, Callable, Optional

from ..experimental import connector_wire_messages as cwm

log = logging.getLogger("wallaroo.connectors")

LONGEST_FRAME = 1 << 20  # to a worker: length of tag and body
LONGEST_ANSWER = 1 << 24
CHUNK = 1 << 16
GREETING_S = 30.0
CLOSE_S = 5.0
BACKOFF_S = 0.1  # before the first attempt that is repeated
BACKOFF_MOST_S = 5.0
EXIT_PERMANENT = 100  # starting it again is of no use


class Refused(Exception):
    """The other side does not take us: cookie or version."""


class Violation(Exception):
    """The other side breaks the protocol."""


class Failed(Exception):
    """A method of the author's has raised: no fault of the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Frames:
    """Messages from a stream of bytes, as many as have come."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= 4:
            size = struct.unpack_from(">I", self._rest, at)[0]
            if not 1 <= size <= LONGEST_ANSWER:
                raise Violation("a frame of %d bytes" % size)
            if len(self._rest) - at - 4 < size:
                break
            try:
                found.append(cwm.Frame.decode(
                    bytes(self._rest[at + 4:at + 4 + size])
                ))
            except ValueError as error:
                raise Violation(str(error)) from error
            at += 4 + size
        del self._rest[:at]
        return found


def encode(msg: Any) -> bytes:
    """Its frame; ValueError if no worker would take it."""
    data: bytes = cwm.Frame.encode(msg)
    if len(data) - 4 > LONGEST_FRAME:
        raise ValueError(
            "a message of %d bytes is too long, %d is the limit"
            % (len(data), LONGEST_FRAME)
        )
    return data


class Backoff:
    """How long to wait before the next attempt."""

    def __init__(self) -> None:
        self.next = BACKOFF_S

    def reset(self) -> None:
        self.next = BACKOFF_S

    async def wait(self) -> None:
        # Not all connectors at once after a worker has come back.
        await asyncio.sleep(self.next * random.uniform(0.5, 1.0))
        self.next = min(self.next * 2, BACKOFF_MOST_S)


class Thread(Executor):
    """One thread for a user's methods.  The program's end does not wait for
    one that does not return."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            future, func, args = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = func(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Any], *args: Any
    ) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, fn, args))
        return future

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        self._jobs.put(None)


async def call(
    executor: Executor, func: Callable[..., Any], *args: Any
) -> Any:
    """A user's method: a coroutine here, anything else in its thread."""
    try:
        if inspect.iscoroutinefunction(func):
            return await func(*args)
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(executor, func, *args)
        if inspect.isawaitable(result):
            result = await result
        return result
    except Exception as error:
        raise Failed(error) from error


async def close(thread: Thread, func: Callable[[], Any]) -> None:
    """The last call, if the one before it returns in time."""
    try:
        await asyncio.wait_for(call(thread, func), CLOSE_S)
    except asyncio.TimeoutError:
        log.warning("%s() was not called, another call has not returned",
                    getattr(func, "__name__", "close"))
    finally:
        thread.shutdown()


async def end_of(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until_signal(work: Awaitable[None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("told to end")


def program(work: Callable[[], Awaitable[None]]) -> None:
    """Do it; end the process with an exit code that says how it went."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO,
        format="%(levelname)s %(name)s %(message)s",
    )
    code: Optional[int] = 0
    try:
        asyncio.run(_until_signal(work()))
    except Refused as error:
        log.error("refused: %s", error)
        code = EXIT_PERMANENT
    except Exception:
        log.exception("the connector has failed")
        code = 1
    sys.exit(code)
