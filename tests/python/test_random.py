"""Random input for every parser of the package: from fixed seeds, so that
what fails once fails again.

Half of an input is made as it should be and half is then damaged; what comes
of it is a value, which must survive being written and read again, or one of
the exceptions that callers know of.
"""

import csv
import os
import random
import subprocess

import pytest

from wallaroo import codecs
from wallaroo._framing import Cutter, FramingError
from wallaroo.experimental import connector_wire_messages as wire
from wallaroo.tools import machida3
from wallaroo.tools._external import split_address

SEEDS = range(20)
ROUNDS = 150
LETTERS = ['"', "\\", "$", "{", "}", "#", "//", "/*", "'", "\n", "\r", "\t",
           "\x01", "\x1b", "\x7f", "\x85", "\udc80", "\udcff", "é", "€",
           "\U0001f600", "a", "7", "x41", "%s", " ", ",", "=", "-", "--", ":",
           "[", "]", "${HOME}"]


def damaged(rng, data):
    """Some bytes of it changed, cut, repeated or put in."""
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at:at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:at + rng.randrange(1, 9)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randrange(9))
        elif kind == 3:
            data[at:at] = data[at:at + rng.randrange(9)]
        else:
            data[at:at + 1] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
    return bytes(data)


def text(rng, most=8):
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(most)))


def plain(rng):
    """Without what UTF-8 cannot say."""
    return text(rng).encode("utf-8", "replace").decode()


def value(rng, depth=3):
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice((1, -1)) * rng.getrandbits(rng.randrange(1, 64))
    if kind == 2:
        return rng.choice((0.0, -0.5, 1e300, float("inf"), rng.random()))
    if kind < 6:
        return plain(rng)
    if kind < 8:
        return [value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {plain(rng): value(rng, depth - 1) for _ in range(rng.randrange(5))}


def same(left, right):
    """Also of NaN."""
    return repr(left) == repr(right)


# -- codecs ------------------------------------------------------------------

CODECS = {
    "lines": (codecs.lines_decoder, codecs.lines_encoder,
              lambda rng: plain(rng).replace("\n", "")),
    "json": (codecs.json_decoder, codecs.json_encoder, value),
    "csv": (codecs.csv_decoder, codecs.csv_encoder, lambda rng: [
        plain(rng).replace("\n", "").replace("\r", "")
        for _ in range(rng.randrange(1, 6))]),
    "framed": (codecs.framed_decoder, codecs.framed_encoder,
               lambda rng: rng.randbytes(rng.randrange(20))),
    "msgpack": (codecs.msgpack_decoder, codecs.msgpack_encoder, value),
}


def payload(name, data):
    """What the runtime gives a decoder of what the encoder made."""
    return data[4:] if name in ("framed", "msgpack") else data[:-1]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("seed", SEEDS)
def test_codecs(name, seed):
    rng = random.Random("%s %d" % (name, seed))
    decoder, encoder, make = CODECS[name]
    accepted = 0
    for _ in range(ROUNDS):
        data = damaged(rng, payload(name, encoder.encode(make(rng))))
        try:
            got = decoder.decode(data)
        except (ValueError, csv.Error):
            continue
        accepted += 1
        if got is None and name != "msgpack":
            continue  # a line that is dropped
        if name == "csv" and any(set(cell) & {"\n", "\r"} for cell in got):
            continue  # only a line that was cut by hand has these
        again = decoder.decode(payload(name, encoder.encode(got)))
        assert same(got, again), data
    assert accepted > ROUNDS / 10


# -- framing -----------------------------------------------------------------

def cut(decoder, pieces, most):
    """The payloads, and whether the stream was one."""
    cutter, got = Cutter(decoder, most), []
    try:
        for piece in pieces:
            got.extend(cutter.feed(piece))
        got.extend(cutter.end())
    except FramingError:
        return got, False
    return got, True


@pytest.mark.parametrize("seed", SEEDS)
def test_framing_does_not_depend_on_pieces(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        decoder = rng.choice((codecs.lines_decoder, codecs.framed_decoder,
                              codecs.FramedDecoder("<H")))
        if decoder is codecs.lines_decoder:
            stream = b"".join(
                rng.randbytes(rng.randrange(6)) + rng.choice((
                    b"\n", b"\r\n", b"\r", b"")) for _ in range(5))
        else:
            encoder = codecs.FramedEncoder(decoder._length_fmt)
            stream = damaged(rng, b"".join(
                encoder.encode(rng.randbytes(rng.randrange(8)))
                for _ in range(4)))
        most, left, pieces = rng.randrange(1, 9), stream, []
        while left:
            n = rng.randrange(1, 6)
            pieces.append(left[:n])
            left = left[n:]
        assert cut(decoder, [stream], most) == cut(decoder, pieces, most)


# -- connectors --------------------------------------------------------------

def u64(rng):
    return rng.getrandbits(rng.choice((1, 8, 63, 64)))


def messages(rng):
    """One of each kind."""
    name = plain(rng)
    yield wire.Hello(name, plain(rng), plain(rng), plain(rng))
    yield wire.Ok(rng.getrandbits(32))
    yield wire.Error(name)
    yield wire.Notify(u64(rng), name.encode(), u64(rng))
    yield wire.NotifyAck(rng.random() < .5, u64(rng), u64(rng))
    yield wire.Message(u64(rng), u64(rng), rng.getrandbits(62),
                       rng.choice((None, b"key")),
                       rng.choice((None, rng.randbytes(5))))
    yield wire.Ack(rng.getrandbits(32), [(u64(rng), u64(rng))
                                         for _ in range(rng.randrange(4))])
    yield wire.Restart(rng.choice((None, "host:1")))
    yield wire.EosMessage(u64(rng))
    yield wire.WorkersLeft(u64(rng), [plain(rng)
                                      for _ in range(rng.randrange(4))])


def transactions(rng):
    yield wire.ListUncommitted(u64(rng))
    yield wire.ReplyUncommitted(u64(rng), [plain(rng)
                                           for _ in range(rng.randrange(4))])
    yield wire.TwoPCPhase1(plain(rng), [
        (u64(rng), u64(rng), u64(rng)) for _ in range(rng.randrange(4))])
    yield wire.TwoPCReply(plain(rng), rng.random() < .5)
    yield wire.TwoPCPhase2(plain(rng), rng.random() < .5)
    yield wire.WorkersLeft(u64(rng), [plain(rng)])


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_of_connectors(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS // 10):
        for kind, header, made in ((wire.Frame, 4, messages(rng)),
                                   (wire.TwoPCFrame, 0, transactions(rng))):
            for message in made:
                data = kind.encode(message)[header:]
                assert kind.decode(data) == message
                try:
                    got = kind.decode(damaged(rng, data))
                except wire.FrameError:
                    continue
                assert kind.decode(kind.encode(got)[header:]) == got


# -- command lines and addresses ---------------------------------------------

@pytest.mark.parametrize("seed", SEEDS)
def test_command_lines(seed):
    rng = random.Random(seed)
    words = ["--" + option.name for option in machida3.OPTIONS] \
        + ["-" + option.short for option in machida3.OPTIONS if option.short] \
        + ["--ponythreads", "--ponythreads=1", "--ponynoblock", "--", "-",
           "h:1", "1_0", "x", "", "-tw1", "-zt", "--in", "--name=x", "-n=x"]
    for _ in range(ROUNDS):
        argv = [rng.choice(words) if rng.random() < .9 else text(rng)
                for _ in range(rng.randrange(12))]
        try:
            line = machida3.parse("machida3", argv)
            machida3.plan(line)
        except machida3.Refused:
            continue
        left = iter(argv)
        assert all(word in left for word in line.whole[1:]), argv
        left = iter(line.whole)
        assert all(word in left for word in line.rest), argv
        if "--" not in argv:
            assert machida3.parse("machida3", line.whole[1:]).options \
                == line.options


@pytest.mark.parametrize("seed", SEEDS)
def test_addresses(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        try:
            host, port = split_address(
                text(rng, 4) + rng.choice((":", "", "]:", "::")) + text(rng, 3)
                + str(rng.randrange(100000)))
        except ValueError:
            continue
        assert 0 <= int(port) < 65536 and host is not None


def test_a_configuration_has_any_arguments(tmp_path):
    """What machida3 writes, the supervisor reads: the same words."""
    build = os.environ.get("WALLAROO_BUILD", "")
    program = os.path.join(build, "wallaroo-supervisord")
    if not os.path.exists(program):
        pytest.fail("there is no %s: WALLAROO_BUILD is where it was built"
                    % program)
    rng = random.Random(1)
    arguments = ["--"] + [text(rng, 12) for _ in range(2000)]
    planned = machida3.plan(machida3.parse(
        "machida3", ["--application-module", "app", "-t", *arguments]))
    path = machida3.write_configuration(planned, str(tmp_path))
    shown = subprocess.run([program, "-c", path, "-n"],
                           stdout=subprocess.PIPE, check=True).stdout
    wanted = machida3.quoted(arguments).encode(errors="surrogateescape")
    assert b"args = " + wanted + b"\n" in shown
