"""Programs beside an application that feed a source or empty a sink.

They import the application to learn addresses and codecs of it.  Both speak
the connector protocol; a sink also takes what a plain TCP sink writes.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import logging
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Optional, Union

from . import connector_wire_messages as cwm
from ._errors import ConnectorError, ProtocolError, Stream
from ._source import AtLeastOnceSourceConnector
from .connectors import MultiSourceConnector

log = logging.getLogger("wallaroo.connector")

RETRY_S = 1.0
FLUSH_S = 10.0  # what is queued gets so long when the program ends
CREDITS = 500
LARGEST = 1 << 24  # a frame
KEPT_BYTES = 64 << 20  # of messages that are not acknowledged
SOURCE_VERSION = "0.0.1"
SINK_VERSION = "v0.0.1"

Key = Union[str, bytes, None]
Time = Union[int, datetime]


def parse_connector_args(
    args: Sequence[str],
    required_params: Sequence[str] = (),
    optional_params: Sequence[str] = (),
) -> argparse.Namespace:
    """--application-module and --connector of a helper program, and its own
    --CONNECTOR-PARAMETER options; others are ignored."""
    parser = argparse.ArgumentParser(prog="wallaroo")
    parser.add_argument(
        "--application-module", dest="application", required=True
    )
    parser.add_argument("--connector", dest="connector_name", required=True)
    known = parser.parse_known_args(list(args))[0]
    for params, required in (
        (required_params, True), (optional_params, False),
    ):
        for param in params:
            option = "--%s-%s" % (known.connector_name, param)
            parser.add_argument(option, dest=param, required=required)
    return parser.parse_known_args(list(args))[0]


class BaseConnector:
    """What an application says of one of its connectors.

    args is the program's command line; the application gets it, too.
    """

    _KIND = "source"

    def __init__(
        self,
        args: Optional[Sequence[str]] = None,
        required_params: Sequence[str] = (),
        optional_params: Sequence[str] = (),
    ) -> None:
        args = list(sys.argv if args is None else args)
        self.params = parse_connector_args(
            args, required_params, optional_params
        )
        module = importlib.import_module(self.params.application)
        application = module.application_setup(args)
        self._name: str = self.params.connector_name
        self._take(self._find(application))

    def _find(self, application: Any) -> tuple[Any, ...]:
        """The config tuple of the connector with our name."""
        wanted = self._KIND + "_connector"
        for branch in application[2]:
            for stage in branch:
                for config in self._configs(stage):
                    if config[:2] == (wanted, self._name):
                        found: tuple[Any, ...] = config
                        return found
        raise RuntimeError(
            "Unable to find a %s connector with the name %s"
            % (self._KIND, self._name)
        )

    def _configs(self, stage: Any) -> Sequence[Any]:
        return [stage[2]] if stage[0] == "source" else []

    def _take(self, config: tuple[Any, ...]) -> None:
        (
            self._host, self._port, self._encoder, self._decoder,
            self._cookie, self._max_credits, self._refill_credits,
        ) = config[2:]


class _Sender(AtLeastOnceSourceConnector):
    """One stream, whose messages are kept until they are acknowledged."""

    def __init__(self, name: str, cookie: str, host: str, port: Any) -> None:
        super().__init__(
            SOURCE_VERSION, cookie, "SourceConnector", name, host, port
        )
        # The same whenever the name is.
        self.stream = MultiSourceConnector.get_id(name.encode())
        self.state = threading.Condition(self._lock)
        self.opened = False
        self.next_id: Optional[int] = None
        self.kept: deque[cwm.Message] = deque()
        self.kept_bytes = 0
        self.unsent = 0  # of those that are kept, at the end

    def stream_opened(self, stream: Stream) -> None:
        """Go on after what the worker has, which says where it is."""
        with self.state:
            last = 0 if stream.point_of_ref == cwm.U64_MAX \
                else stream.point_of_ref
            if self.next_id is None:
                self.next_id = last + 1
            self.forget(last)
            self.opened = True
            self.unsent = len(self.kept)
            self.pump()

    def stream_closed(self, stream: Stream) -> None:
        with self.state:
            self.opened = False

    def stream_acked(self, stream: Stream) -> None:
        if stream.point_of_ref != cwm.U64_MAX:
            self.forget(stream.point_of_ref)

    def _acked(self, msg: cwm.Ack) -> None:
        super()._acked(msg)
        self.pump()

    def pump(self) -> None:
        """Send what the credits allow."""
        with self.state:
            while self.opened and self.unsent and self.credits > 0:
                self.write(self.kept[-self.unsent])
                self.unsent -= 1
            self.state.notify_all()

    def forget(self, last: int) -> None:
        with self.state:
            while self.kept and self.kept[0].message_id <= last:
                self.drop_oldest()

    def drop_oldest(self) -> None:
        self.kept_bytes -= len(self.kept.popleft().message or b"")
        self.unsent = min(self.unsent, len(self.kept))

    def wait(self, condition: Any) -> None:
        """Until it holds; raises when the connection has ended."""
        with self.state:
            while not self.stopped.is_set():
                if condition():
                    return
                self.state.wait(0.1)
        raise ConnectorError("the connector has ended: %s" % (self.error,))

    def put(self, key: Optional[bytes], time: int, body: bytes) -> None:
        with self.state:
            self.wait(lambda: (
                self.opened and not self.unsent and self.credits > 0
            ))
            assert self.next_id is not None
            message = cwm.Message(self.stream, self.next_id, time, key, body)
            self.next_id += 1
            self.kept.append(message)
            self.kept_bytes += len(body)
            # A worker without checkpoints acknowledges nothing.
            while self.kept_bytes > KEPT_BYTES and len(self.kept) > 1:
                self.drop_oldest()
            self.unsent = 1
            self.pump()

    def finish(self) -> None:
        """At the program's end: what is queued is sent."""
        end = time.monotonic() + FLUSH_S
        while self.pending_sends() and not self.stopped.is_set() \
                and time.monotonic() < end:
            time.sleep(0.01)
        self.shutdown()


class SourceConnector(BaseConnector):
    """Feeds a source, from a program that has its messages elsewhere.

    The last 64 MiB that the worker has not acknowledged are kept and sent
    again when it has lost them; a program that is started anew begins with
    new messages.
    """

    def __init__(
        self,
        args: Optional[Sequence[str]] = None,
        required_params: Sequence[str] = ("host", "port"),
        optional_params: Sequence[str] = (),
    ) -> None:
        super().__init__(args, required_params, optional_params)
        self.count = 0
        self._sender: Optional[_Sender] = None

    def connect(
        self, host: Optional[str] = None, port: Any = None
    ) -> None:
        """To the worker, which is waited for; where, the application says."""
        if self._sender is not None:
            self.close()
        while True:
            sender = _Sender(
                self._name, self._cookie, host or self._host,
                port or self._port,
            )
            try:
                sender.connect()
                break
            except ConnectionRefusedError:
                time.sleep(RETRY_S)
        sender.notify(sender.stream, self._name.encode())
        sender.wait(lambda: sender.opened)
        atexit.register(sender.finish)
        self._sender = sender

    def write(
        self, message: Any, event_time: Time = 0, key: Key = None
    ) -> None:
        """Encode a message and send it; waits while there are no credits."""
        if self._sender is None:
            raise RuntimeError("Please call connect before writing")
        if isinstance(event_time, datetime):
            event_time = int(event_time.timestamp() * 1000)
        if isinstance(key, str):
            key = key.encode("utf-8")
        self._sender.put(key or None, event_time, self._encoded(message))
        self.count += 1

    def _encoded(self, message: Any) -> bytes:
        """The message alone: the protocol itself has key and time."""
        func = getattr(self._encoder, "_func", None)
        encoded = (func or self._encoder.encode)(message)
        if isinstance(encoded, str):
            encoded = encoded.encode("utf-8")
        return bytes(encoded)

    def close(self) -> None:
        """Send what is queued, and end."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.finish()
            atexit.unregister(sender.finish)


class _Taken:
    """How far the output of a worker has been taken."""

    def __init__(self) -> None:
        self.offset: Optional[int] = None


class _Connection:
    """A worker that writes to us, and what has come of its next frame."""

    def __init__(self, sink: SinkConnector, sock: socket.socket) -> None:
        self.sink = sink
        self.socket = sock
        self.rest = bytearray()
        # None until the first bytes tell: protocol or plain frames.
        self.protocol: Optional[bool] = None
        self.taken: Optional[_Taken] = None

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads for the decoder; raises on what is no frame."""
        self.rest += data
        if self.protocol is None:
            self.protocol = begins_hello(bytes(self.rest[:13]))
        if self.protocol is None:
            return []
        if not self.protocol:
            return self.plain()
        payloads = []
        for frame in self.frames(4, cwm.Frame.read_header):
            payload = self.message(cwm.Frame.decode(frame))
            if payload is not None:
                payloads.append(payload)
        return payloads

    def plain(self) -> list[bytes]:
        decoder = self.sink._decoder
        return self.frames(decoder.header_length(), decoder.payload_length)

    def frames(self, header: int, length_of: Any) -> list[bytes]:
        found, at = [], 0
        while len(self.rest) - at >= header:
            size = length_of(bytes(self.rest[at:at + header]))
            if not 0 <= size <= LARGEST:
                raise ProtocolError("a frame of %d bytes" % size)
            end = at + header + size
            if len(self.rest) < end:
                break
            found.append(bytes(self.rest[at + header:end]))
            at = end
        del self.rest[:at]
        return found

    def message(self, msg: Any) -> Optional[bytes]:
        """Answer it; the payload if it is one."""
        if self.taken is None:
            self.hello(msg)
        elif isinstance(msg, cwm.Notify):
            self.send(cwm.NotifyAck(True, msg.stream_id, msg.point_of_ref))
        elif isinstance(msg, cwm.Error):
            raise ProtocolError("the worker says: %s" % msg.message)
        elif not isinstance(msg, cwm.Message):
            raise ProtocolError("a worker does not send %s" % msg)
        elif msg.stream_id == 0:
            self.two_phases(cwm.TwoPCFrame.decode(msg.message or b""))
        else:
            return self.output(msg)
        return None

    def hello(self, msg: Any) -> None:
        if not isinstance(msg, cwm.Hello) or msg.version != SINK_VERSION:
            raise ProtocolError("no hello of version " + SINK_VERSION)
        if msg.cookie != self.sink._cookie:
            raise ProtocolError("the cookie is another one")
        self.taken = self.sink._taken.setdefault(msg.instance_name, _Taken())
        self.send(cwm.Ok(CREDITS))

    def two_phases(self, msg: Any) -> None:
        """What is read is gone: every transaction is agreed to."""
        if isinstance(msg, cwm.ListUncommitted):
            self.reply(cwm.ReplyUncommitted(msg.rtag, []))
        elif isinstance(msg, cwm.TwoPCPhase1):
            self.reply(cwm.TwoPCReply(msg.txn_id, True))

    def reply(self, msg: Any) -> None:
        body = cwm.TwoPCFrame.encode(msg)
        self.send(cwm.Message(0, 0, 0, None, body))

    def output(self, msg: cwm.Message) -> Optional[bytes]:
        """None: it came before; a worker that recovered repeats itself."""
        assert self.taken is not None
        body = msg.message or b""
        expected = self.taken.offset
        if expected is not None and msg.message_id < expected:
            return None
        if expected is not None and msg.message_id > expected:
            log.warning("output %d to %d is missing", expected,
                        msg.message_id)
        self.taken.offset = msg.message_id + len(body)
        return body

    def send(self, msg: Any) -> None:
        self.socket.sendall(cwm.Frame.encode(msg))


def begins_hello(data: bytes) -> Optional[bool]:
    """Whether a connection begins with the protocol's hello, None if too
    little has come."""
    version = SINK_VERSION.encode()
    want = b"\0" + len(version).to_bytes(2, "big") + version
    if data[4:] != want[:max(len(data) - 4, 0)]:
        return False
    return True if len(data) >= 4 + len(want) else None


class SinkConnector(BaseConnector):
    """Takes what workers send to a sink, for a program to do with it what
    it wants; read() gives one message after the other.

    A message that read() has given is never given again, unless this program
    is started anew.
    """

    _KIND = "sink"

    def __init__(
        self,
        args: Optional[Sequence[str]] = None,
        required_params: Sequence[str] = (),
        optional_params: Sequence[str] = (),
    ) -> None:
        super().__init__(args, required_params, optional_params)
        self._taken: dict[str, _Taken] = {}
        self._payloads: deque[bytes] = deque()
        self._selector: Optional[selectors.BaseSelector] = None

    def _configs(self, stage: Any) -> Sequence[Any]:
        if stage[0] == "to_sinks":
            return list(stage[1])
        return [stage[1]] if stage[0] == "to_sink" else []

    def _take(self, config: tuple[Any, ...]) -> None:
        (
            self._host, self._port, self._encoder, self._decoder,
            self._cookie,
        ) = config[2:]

    def listen(
        self, host: Optional[str] = None, port: Any = None, backlog: int = 0
    ) -> None:
        """For workers; where, the application says."""
        listener = socket.create_server(
            (host or self._host, int(port or self._port)),
            backlog=backlog or 128,
        )
        listener.setblocking(False)
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def read(self, timeout: Optional[float] = None) -> Any:
        """The next message, decoded; TimeoutError after so many seconds."""
        if self._selector is None:
            raise RuntimeError("Please call listen before reading")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._payloads:
            wait = None if end is None else end - time.monotonic()
            if wait is not None and wait <= 0:
                raise TimeoutError("no message within %s s" % timeout)
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._accept(key.fileobj)
                else:
                    self._receive(key.data)
        return self._decoder.decode(self._payloads.popleft())

    def _accept(self, listener: Any) -> None:
        assert self._selector is not None
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it went away
        sock.setblocking(True)
        self._selector.register(
            sock, selectors.EVENT_READ, _Connection(self, sock)
        )

    def _receive(self, connection: _Connection) -> None:
        data = b""
        try:
            data = connection.socket.recv(1 << 16)
            self._payloads += connection.feed(data)
        except (ProtocolError, ValueError) as error:
            log.error("a connection is closed: %s", error)
            self._refuse(connection, error)
            data = b""
        except OSError as error:
            log.info("a connection is lost: %s", error)
            data = b""
        if not data:
            assert self._selector is not None
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _refuse(self, connection: _Connection, error: Exception) -> None:
        if connection.protocol:
            try:
                connection.send(cwm.Error(str(error)))
            except OSError:
                pass  # it has gone
