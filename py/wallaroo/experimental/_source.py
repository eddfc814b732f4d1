"""The client side of a source connector, over TCP, at least once.

One thread of its own does all input and output and calls the methods that a
subclass overrides; write() and notify() may be called from any thread, they
only queue.  While the worker is gone it tries once a second to come back,
and then tells it of its streams again.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Optional

from . import connector_wire_messages as cwm
from ._errors import ConnectorError, ProtocolError, Stream

log = logging.getLogger("wallaroo.connector")

RETRY_S = 1.0
IDLE_S = 0.02  # between two looks at a source that has nothing
LONGEST_FRAME = 1 << 24
QUEUE_BYTES = 1 << 18  # more are not pulled from __next__

_WRITABLE = (cwm.Message, cwm.Notify, cwm.EosMessage, cwm.Error)


class AtLeastOnceSourceConnector(ABC):
    """Sends streams of messages to a worker.

    A subclass that has __next__ is asked for messages while there are
    credits and an open stream; None means none now, StopIteration the end.
    """

    def __init__(
        self,
        version: str,
        cookie: str,
        program_name: str,
        instance_name: str,
        host: str,
        port: Any,
        delay: float = 0,
    ) -> None:
        self._hello = cwm.Hello(version, cookie, program_name, instance_name)
        self._host = host
        self._port = int(port)
        self._delay = delay
        self._lock = threading.RLock()
        self._socket: Optional[socket.socket] = None
        self._wake_in, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._received = b""
        self._refused: list[cwm.Notify] = []
        self._streams: dict[int, Stream] = {}
        self._sent = 0
        self.credits = 0
        self.data: Optional[list[bytes]] = None
        self.error: Any = None
        self.stopped = threading.Event()
        self.handshake_complete = False
        self.in_handshake = True

    @property
    def delay(self) -> float:
        """The least number of seconds between two messages pulled."""
        return self._delay

    # -- what a subclass says

    @abstractmethod
    def stream_opened(self, stream: Stream) -> None:
        """It may send, from its point of reference on."""

    @abstractmethod
    def stream_closed(self, stream: Stream) -> None:
        """It may not, for now."""

    @abstractmethod
    def stream_acked(self, stream: Stream) -> None:
        """Everything up to its point of reference is safe."""

    def stream_added(self, stream: Stream) -> None:
        """It is known."""

    def stream_removed(self, stream: Stream) -> None:
        """It is no more."""

    # -- what users call

    def connect(self) -> None:
        """Connect and say hello; raises if the worker refuses."""
        try:
            self._open()
        except (OSError, ConnectorError) as error:
            self._stop(error)
            self._close_wakers()
            raise
        threading.Thread(target=self._run, daemon=True).start()

    def join(self, timeout: Optional[float] = None) -> Any:
        """Wait for the end; None if it was a clean one."""
        self.stopped.wait(timeout)
        return self.error

    def notify(
        self,
        stream_id: int,
        stream_name: Optional[bytes] = None,
        point_of_ref: Optional[int] = None,
    ) -> None:
        """Announce a stream, or one that is known again."""
        with self._lock:
            known = self._streams.get(stream_id)
            if known is None and stream_name is None:
                raise ConnectorError(
                    "stream %d is new and needs a name" % stream_id
                )
            if known is not None and point_of_ref is None:
                raise ConnectorError(
                    "stream %d is known and needs a point_of_ref" % stream_id
                )
            name = known.name if known is not None else stream_name or b""
            stream = Stream(stream_id, name, point_of_ref or 0, False)
            self._streams[stream_id] = stream
        if known is None:
            self.stream_added(stream)
        self.write(cwm.Notify(stream_id, name, stream.point_of_ref))

    def write(self, msg: Any) -> None:
        """Queue a message."""
        if not isinstance(msg, _WRITABLE):
            raise ProtocolError("a connector cannot send %s" % (msg,))
        with self._lock:
            if isinstance(msg, cwm.Message):
                stream = self._streams.get(msg.stream_id)
                if stream is None or not stream.is_open:
                    raise ProtocolError(
                        "stream %d is not open" % msg.stream_id
                    )
            if isinstance(msg, (cwm.Message, cwm.Notify)):
                self.credits -= 1
            self._put(cwm.Frame.encode(msg))
        self._awake()

    def end_of_stream(self, stream_id: int) -> None:
        """Nothing more comes of it."""
        self.write(cwm.EosMessage(stream_id))

    def shutdown(self, error: Any = None) -> None:
        """End; what is queued is sent before, unless there is an error."""
        with self._lock:
            if self.stopped.is_set():
                return
            sock = self._socket
            if isinstance(error, cwm.Error):
                self._queue = deque([cwm.Frame.encode(error)])
                self._queued = 0
            try:
                if sock is not None and (
                    error is None or isinstance(error, cwm.Error)
                ):
                    sock.setblocking(True)
                    sock.sendall(b"".join(self._queue))
            except OSError as lost:
                error = error or lost
            self._stop(error)

    def pending_sends(self) -> bool:
        """Whether something is queued."""
        return bool(self._queue)

    def writable(self) -> bool:
        """Whether the credits allow it."""
        return self.credits >= 0

    # -- what a subclass may handle in another way

    def handle_restart(self, msg: cwm.Restart) -> None:
        """The worker wants to be connected to again, maybe elsewhere."""
        self._close_streams()
        if msg.address:
            host, _, port = msg.address.rpartition(":")
            self._host, self._port = host, int(port)
        self._open_again(0)

    def handle_restarted(self, streams: list[Stream]) -> None:
        """Connected again: all streams are announced."""
        for stream in streams:
            self.notify(stream.id, stream.name, stream.point_of_ref)

    def handle_invalid_message(self, msg: Any) -> None:
        """The worker sent what only connectors send."""
        log.error("the worker sent %s", msg)
        self.shutdown(cwm.Error("Invalid message: %s" % msg))

    def handle_error(self) -> None:
        """A method of the subclass raised."""
        log.exception("connector failed")

    def handle_close(self) -> None:
        """The connection is lost."""
        self._close_streams()
        self._open_again(0.1)

    # -- the thread

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued += len(data)
        self._sent += 1
        if self.data is not None:
            self.data.append(data)

    def _awake(self) -> None:
        try:
            self._wake.send(b"x")
        except OSError:
            pass  # it is awake, or has ended

    def _stop(self, error: Any) -> None:
        if error is not None and self.error is None:
            self.error = error
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.stopped.set()
        self._awake()

    def _open(self) -> None:
        """Connect, say hello, wait for the answer."""
        self.in_handshake, self.handshake_complete = True, False
        sock = socket.create_connection((self._host, self._port))
        try:
            sock.sendall(cwm.Frame.encode(self._hello))
            answer = self._first_frame(sock)
        except (OSError, ConnectorError):
            sock.close()
            raise
        if not isinstance(answer, cwm.Ok):
            sock.close()
            text = getattr(answer, "message", str(answer))
            raise ConnectorError(text)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        with self._lock:
            self._socket = sock
            self._received = b""
            self.credits += answer.initial_credits
            self.in_handshake, self.handshake_complete = False, True

    def _first_frame(self, sock: socket.socket) -> Any:
        def exactly(n: int) -> bytes:
            data = b""
            while len(data) < n:
                piece = sock.recv(n - len(data))
                if not piece:
                    raise ConnectorError("the worker closed the connection")
                data += piece
            return data

        length = struct.unpack(">I", exactly(4))[0]
        if length > LONGEST_FRAME:
            raise ConnectorError("a frame of %d bytes" % length)
        try:
            return cwm.Frame.decode(exactly(length))
        except cwm.FrameError as error:
            raise ConnectorError(str(error)) from error

    def _open_again(self, wait: float) -> None:
        while not self.stopped.wait(wait):
            wait = RETRY_S
            try:
                self._open()
            except OSError:
                continue
            except ConnectorError as error:
                self._stop(error)
                return
            self.handle_restarted(list(self._streams.values()))
            return

    def _close_streams(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            self._queue.clear()
            self._queued = 0
            self._refused = []
            self.credits = 0
            streams = list(self._streams.values())
            for stream in streams:
                self._streams[stream.id] = stream._replace(is_open=False)
        for stream in streams:
            if stream.is_open:
                self.stream_closed(self._streams[stream.id])

    def _run(self) -> None:
        try:
            while not self.stopped.is_set():
                self._turn()
        except Exception as error:
            if not self.stopped.is_set():
                self.handle_error()
                self._stop(error)
        finally:
            self._close_wakers()

    def _close_wakers(self) -> None:
        self._wake.close()
        self._wake_in.close()

    def _may_pull(self) -> bool:
        return (
            hasattr(self, "__next__") and self.credits > 0
            and self._queued < QUEUE_BYTES
            and any(stream.is_open for stream in self._streams.values())
        )

    def _turn(self) -> None:
        """What has come, what can go, and at most one message pulled."""
        pulled = self._pull() if self._may_pull() else None
        wait: Optional[float] = None
        if pulled is not None:
            wait = self._delay if pulled else max(self._delay, IDLE_S)
        sock = self._socket
        if sock is None:
            return
        writers = [sock] if self._queue else []
        try:
            readable, writable, _ = select.select(
                [sock, self._wake_in], writers, [], wait)
            if self._wake_in in readable:
                self._wake_in.recv(4096)
            if writable:
                self._send(sock)
            lost = sock in readable and not self._receive(sock)
        except (OSError, ValueError) as error:
            if self.stopped.is_set():
                return
            log.info("connection lost: %s", error)
            lost = True
        if lost and not self.stopped.is_set():
            self.handle_close()

    def _pull(self) -> bool:
        """False: there was nothing."""
        try:
            msg = self.__next__()  # type: ignore[attr-defined]
        except StopIteration:
            self.shutdown()
            return False
        if msg is None:
            return False
        self.write(msg)
        return True

    def _send(self, sock: socket.socket) -> None:
        with self._lock:
            if not self._queue:
                return
            data = b"".join(self._queue)
            n = sock.send(data[:QUEUE_BYTES])
            self._queue.clear()
            if n < len(data):
                self._queue.append(data[n:])
            self._queued = len(data) - n

    def _receive(self, sock: socket.socket) -> bool:
        """False: the connection has ended."""
        data = sock.recv(1 << 16)
        if not data:
            return False
        self._received += data
        while len(self._received) >= 4 and self._socket is sock:
            length = cwm.Frame.read_header(self._received[:4])
            if length > LONGEST_FRAME:
                raise OSError("a frame of %d bytes" % length)
            if len(self._received) < 4 + length:
                break
            frame = self._received[4:4 + length]
            self._received = self._received[4 + length:]
            self._handle(cwm.Frame.decode(frame))
        return True

    def _handle(self, msg: Any) -> None:
        if isinstance(msg, cwm.NotifyAck):
            self._notify_acked(msg)
        elif isinstance(msg, cwm.Ack):
            self._acked(msg)
        elif isinstance(msg, cwm.Restart):
            self.handle_restart(msg)
        elif isinstance(msg, cwm.Error):
            self._stop(ConnectorError(msg.message))
        else:
            self.handle_invalid_message(msg)

    def _notify_acked(self, msg: cwm.NotifyAck) -> None:
        with self._lock:
            stream = self._streams.get(msg.stream_id)
            if stream is None:
                return
            stream = stream._replace(
                point_of_ref=msg.point_of_ref, is_open=msg.notify_success
            )
            self._streams[stream.id] = stream
            if not msg.notify_success:
                self._refused.append(cwm.Notify(
                    stream.id, stream.name, stream.point_of_ref
                ))
        self.stream_added(stream)
        if msg.notify_success:
            self.stream_opened(stream)

    def _acked(self, msg: cwm.Ack) -> None:
        acked = []
        with self._lock:
            self.credits += msg.credits
            for stream_id, point_of_ref in msg.acks:
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream = stream._replace(point_of_ref=point_of_ref)
                    self._streams[stream_id] = stream
                    acked.append(stream)
            again, self._refused = self._refused, []
        for stream in acked:
            self.stream_acked(stream)
        for notify in again:
            self.write(notify)
