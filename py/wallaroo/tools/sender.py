"""sender: messages from files, or counted ones, to TCP sources.

A batch of messages is sent each interval; of several hosts each gets a batch
in turn.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Optional

from . import _options
from ._external import split_address

NAME = "sender"
LOG = "sent.txt"
CONNECT_S = 10.0
RETRY_S = 0.1


class SenderError(Exception):
    """The input is not what the options say, or a host has gone."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = _options.parser(
        NAME, "Send messages to TCP sources.", add_help=False
    )
    add = parser.add_argument
    add("--help", action="help", help="show this and exit")
    add("-h", "--host", required=True, metavar="HOST:PORT[,...]",
        type=_options.addresses, help="where the sources listen")
    add("-m", "--messages", required=True, metavar="N",
        type=_options.whole, help="how many messages to send")
    add("-f", "--file", metavar="FILE[,...]", default="",
        help="files with the messages, one in a line; without any the "
        "messages are numbers")
    add("-s", "--batch-size", metavar="N", type=_options.natural, default=500,
        help="messages to send at once (default: 500)")
    add("-i", "--interval", metavar="NS", type=_options.whole,
        default=5_000_000,
        help="nanoseconds between batches (default: 5000000)")
    add("-r", "--repeat", action="store_true",
        help="begin again where the files end")
    add("-y", "--binary", action="store_true",
        help="the files hold messages with their lengths")
    add("-g", "--msg-size", metavar="N", type=_options.natural, default=0,
        help="binary messages have this size, length included")
    add("-z", "--variable-size", action="store_true",
        help="binary messages have the size that their first 4 bytes say")
    add("-u", "--u64", action="store_true",
        help="numbers are sent as 8 bytes")
    add("-v", "--start-from", metavar="N", type=_options.whole, default=0,
        help="the first number is the next one (default: 0)")
    add("-p", "--partition", metavar="TEXT", default="",
        help="what follows each 8-byte number")
    add("-j", "--vary-by", metavar="N", type=_options.natural, default=0,
        help="put the message's number modulo N behind the partition")
    add("-w", "--no-write", action="store_true",
        help="do not write what is sent to " + LOG)
    options = parser.parse_args(_options.without_pony(argv))
    options.files = [name for name in options.file.split(",") if name]
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: Any) -> None:
    if options.binary and not options.files:
        parser.error("--binary needs --file")
    if options.binary and bool(options.msg_size) == options.variable_size:
        parser.error("--binary needs one of --msg-size and --variable-size")
    if not options.binary and (options.msg_size or options.variable_size):
        parser.error("--msg-size and --variable-size are for --binary")
    if options.u64 and options.files:
        parser.error("--u64 is for numbers, not for --file")
    if (options.partition or options.vary_by) and not options.u64:
        parser.error("--partition and --vary-by are for --u64")


# Where messages come from: pairs of what is logged and what is sent.

Message = tuple[bytes, bytes]


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def numbers(options: Any) -> Iterator[Message]:
    number = options.start_from
    while True:
        number += 1
        text = b"%d" % number
        if not options.u64:
            yield text, framed(text)
            continue
        partition = options.partition.encode()
        if options.vary_by:
            partition += b"%d" % (number % options.vary_by)
        yield (
            text + b" " + partition if partition else text,
            framed(struct.pack(">Q", number) + partition),
        )


def lines(file: BinaryIO) -> Iterator[Message]:
    for line in file:
        line = line.rstrip(b"\r\n")
        if line:
            yield line, framed(line)


def pieces(file: BinaryIO, size: int) -> Iterator[Message]:
    while True:
        piece = file.read(size)
        if not piece:
            return
        if len(piece) < size:
            raise SenderError(
                "%s: the last message has %d bytes, not %d"
                % (file.name, len(piece), size)
            )
        yield piece, piece


def sized(file: BinaryIO) -> Iterator[Message]:
    while True:
        head = file.read(4)
        if not head:
            return
        size = int.from_bytes(head, "big")
        payload = file.read(size) if len(head) == 4 else b""
        if len(head) < 4 or len(payload) < size:
            raise SenderError(
                "%s: the last message is cut off" % file.name
            )
        yield payload, framed(payload)


def from_files(options: Any) -> Iterator[Message]:
    while True:
        any_message = False
        for name in options.files:
            with open(name, "rb") as file:
                if not options.binary:
                    source = lines(file)
                elif options.variable_size:
                    source = sized(file)
                else:
                    source = pieces(file, options.msg_size)
                for message in source:
                    any_message = True
                    yield message
        if not options.repeat or not any_message:
            return


def batches(options: Any) -> Iterator[list[Message]]:
    source = from_files(options) if options.files else numbers(options)
    left = options.messages
    while left > 0:
        batch = []
        for message in source:
            batch.append(message)
            if len(batch) == min(left, options.batch_size):
                break
        if not batch:
            return
        left -= len(batch)
        yield batch


def connect(address: str) -> socket.socket:
    """A source that is just being started is waited for."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            connection = socket.create_connection(split_address(address))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError as error:
            if time.monotonic() > deadline:
                raise SenderError(
                    "cannot connect to %s: %s" % (address, error)
                ) from error
        time.sleep(RETRY_S)


def send_all(options: Any, log: Optional[BinaryIO]) -> int:
    hosts = [connect(address) for address in options.host]
    due = time.monotonic()
    sent = 0
    for turn, batch in enumerate(batches(options)):
        now = time.monotonic()
        if now < due:
            time.sleep(due - now)
        due = max(now, due) + options.interval / 1e9
        host = turn % len(hosts)
        try:
            hosts[host].sendall(b"".join(wire for _, wire in batch))
        except OSError as error:
            raise SenderError(
                "%s: %s, after %d messages"
                % (options.host[host], error, sent)
            ) from error
        sent += len(batch)
        if log is not None:
            stamp = b"%d" % time.time_ns()
            log.writelines(
                stamp + b"," + text + b"\n" for text, _ in batch
            )
    for connection in hosts:
        connection.close()
    return sent


def main(argv: Optional[list[str]] = None) -> int:
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        if options.no_write:
            sent = send_all(options, None)
        else:
            with open(LOG, "wb") as log:
                sent = send_all(options, log)
    except (SenderError, OSError) as error:
        _options.complain(NAME, error)
        return 1
    except KeyboardInterrupt:
        return 130
    if sent < options.messages:
        _options.complain(NAME, "the files have %d messages, not %d" % (
            sent, options.messages))
    return 0
