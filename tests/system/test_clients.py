"""Clients and receivers of every temper, while workers are killed.

The table of guarantees says what each may expect: a client that ends its
stream, in whatever way, loses nothing that the worker's kernel had accepted;
a receiver that resets gets each record whole, what its kernel had
acknowledged counts as delivered, and at most what the log counts is sent
twice.
"""

import collections
import os
import re
import signal
import subprocess
import threading
import time

import pytest

import apps
import harness
import oracle
from harness import frame
from killer import Killer
from words import Zipf


@pytest.fixture
def running(cluster, receiver):
    """Word count under load by a killer: running(workers=2)."""
    def make(workers=2, **settings):
        sink = receiver()
        port = harness.free_port()
        app = cluster(apps.WORD_COUNT, workers=workers, settings=settings,
                      args=apps.word_count_args(port, sink.port))
        app.start()
        return app, port, sink
    return make


def finish(app, sink, words, killer=None):
    sink.wait_lines(len(words))
    if killer:
        killer.check()
    app.wait_workers()
    assert sink.undisturbed(len(app.pids()))
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)


def test_half_close(running, feeder, rng):
    """`nc -N`: the client's FIN arrives while its bytes are unread, and
    workers die before and after."""
    app, port, sink = running()
    killer = Killer(app, rng.random())
    words = []
    for number in range(10):
        lines = Zipf(number).lines(20000)
        words += " ".join(lines).split()
        client = feeder(port)
        client.send(b"".join(frame(line.encode()) for line in lines))
        client.half_close()
        time.sleep(rng.random() * 0.05)
        killer.kill_random(rng.choice((1, 1, 2)))
        # The end of its stream is answered by the end of ours.
        assert client.wait_closed() in ("eof", "reset")
    finish(app, sink, words, killer)


@pytest.mark.skipif(not harness.have("nc"), reason="no nc")
@pytest.mark.level("all")
def test_nc(running, rng):
    """The real program."""
    app, port, sink = running()
    killer = Killer(app, rng.random())
    words = []
    for number in range(6):
        lines = Zipf(number).lines(20000)
        words += " ".join(lines).split()
        client = subprocess.Popen(
            ["nc", "-N", "127.0.0.1", str(port)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL)
        client.stdin.write(b"".join(frame(line.encode()) for line in lines))
        client.stdin.close()
        killer.kill_random()
        assert client.wait(harness.LIMIT) == 0
    finish(app, sink, words, killer)


def test_half_close_of_a_stopped_worker(running, feeder):
    """The FIN arrives while the worker can't read; then it is killed: the
    position must not count the FIN as a byte."""
    app, port, sink = running(workers=1)
    pid = app.pids()[0]
    words = []
    for number in range(5):
        client = feeder(port)
        lines = Zipf(number).lines(4000)
        half = b"".join(frame(line.encode()) for line in lines)
        client.send(half[:len(half) // 2])
        words += " ".join(lines).split()
        time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        client.send(half[len(half) // 2:])
        client.half_close()
        client.wait_acknowledged()
        os.kill(pid, signal.SIGKILL)
        pid = app.wait_replaced(0, pid)["pid"]
        assert client.wait_closed() in ("eof", "reset")
    finish(app, sink, words)


def test_client_resets(running, feeder, rng):
    """What the worker's kernel had got before the RST is counted."""
    app, port, sink = running()
    killer = Killer(app, rng.random())
    words = []
    for number in range(10):
        lines = Zipf(number).lines(4000)
        words += " ".join(lines).split()
        client = feeder(port)
        client.send(b"".join(frame(line.encode()) for line in lines))
        client.wait_acknowledged()
        if number % 2:
            killer.kill_random()
        client.reset()
        if not number % 2:
            killer.kill_random()
    finish(app, sink, words, killer)


@pytest.mark.level("all")
def test_half_close_then_reset(running, feeder, rng):
    """FIN, then RST: the worst hidden state of a TCP socket."""
    app, port, sink = running(workers=1)
    words = []
    pid = app.pids()[0]
    for number in range(6):
        lines = Zipf(number).lines(4000)
        words += " ".join(lines).split()
        client = feeder(port)
        data = b"".join(frame(line.encode()) for line in lines)
        client.send(data[:1000])
        time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        client.send(data[1000:])
        client.half_close()
        client.wait_acknowledged()
        client.reset()
        time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        pid = app.wait_replaced(0, pid)["pid"]
    finish(app, sink, words)


def test_urgent_byte(running, feeder, rng):
    """Urgent data stays in the stream and does not move the position."""
    app, port, sink = running()
    killer = Killer(app, rng.random())
    words = []
    client = feeder(port)
    for number in range(12):
        lines = Zipf(number).lines(400)
        words += " ".join(lines).split()
        data = b"".join(frame(line.encode()) for line in lines)
        place = rng.randrange(1, len(data) - 1)
        client.send(data[:place])
        client.urgent(data[place:place + 1])
        if number % 3 == 1:
            killer.kill_random()
        client.send(data[place + 1:])
        if number % 3 == 2:
            killer.kill_random()
    finish(app, sink, words, killer)


def test_dribble(running, feeder, rng, level):
    """One byte at a time, workers dying between the bytes of a frame."""
    app, port, sink = running()
    killer = Killer(app, rng.random())
    clients = [feeder(port) for _ in range(2)]
    words = []
    threads = []
    pause = 1 if level == "long" else 0.02
    for number, client in enumerate(clients):
        text = "dribble%d and once more dribble%d" % (number, number)
        count = 2 if level == "long" else 3
        words += text.split() * count
        threads.append(threading.Thread(target=client.dribble, args=(
            frame(text.encode()) * count, pause), daemon=True))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        killer.kill_random()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    finish(app, sink, words, killer)


@pytest.mark.level("all")
def test_silent_clients(running, feeder, rng):
    """Connections that send nothing cost nothing and survive."""
    app, port, sink = running()
    silent = [feeder(port) for _ in range(14)]
    killer = Killer(app, rng.random())
    lines = Zipf(1).lines(20000)
    client = feeder(port)
    client.send_frames(line.encode() for line in lines)
    killer.kill(0, 1)
    words = " ".join(lines).split()
    sink.wait_lines(len(words))
    assert all(one.state() == "open" for one in silent)
    # And they may speak at last.
    for one in silent:
        one.send_frames([b"at last"])
        words += ["at", "last"]
    finish(app, sink, words, killer)


@pytest.mark.level("all")
def test_connection_churn(running, feeder, rng):
    """Connections come and go while workers die."""
    app, port, sink = running(workers=3)
    killer = Killer(app, rng.random()).start(6, every=0.3)
    words = []
    number = 0
    while killer.thread.is_alive():
        text = Zipf(number, size=50).lines(40)
        words += " ".join(text).split()
        client = feeder(port)
        client.send_frames(line.encode() for line in text)
        client.half_close()
        if number % 5 == 0:
            client.wait_closed()
        number += 1
        time.sleep(0.005)
    killer.join()
    finish(app, sink, words, killer)


# -- receivers --------------------------------------------------------------

def whole_records(connections):
    """The lines of each connection, without a last torn one; the first
    must be whole because sending starts again at a record."""
    for connection in connections:
        lines = connection.data().split(b"\n")
        for line in lines[:-1]:
            assert re.fullmatch(rb"[a-z]+[0-9]* [0-9]+", line), line
            yield connection, line
        # The torn end has been cut somewhere inside a record.


def repeats_said(app):
    """How many records the log says may have been sent twice."""
    return sum(int(number) for number in
               re.findall(r"may_be_repeated=([0-9]+)", app.log(whole=True)))


@pytest.mark.parametrize("kills", [
    True, pytest.param(False, marks=pytest.mark.level("all"))])
def test_receiver_resets(running, feeder, rng, kills):
    """Nothing is lost but what the receiver's kernel had acknowledged;
    repeated is at most what the log says."""
    app, port, sink = running()
    lines = Zipf(5).lines(120000)
    words = " ".join(lines).split()
    client = feeder(port)
    client.start([b"".join(frame(line.encode())
                           for line in lines[start:start + 50])
                  for start in range(0, len(lines), 50)], pause=0.002)
    killer = Killer(app, rng.random())
    size = sum(len(line) + 1 for line in oracle.counts_of(words))
    for number in range(6):
        count = len(sink.connections)
        sink.wait_bytes(size * (number + 1) // 8)
        open_ones = [c for c in sink.connections if c.end is None]
        sink.reset(rng.choice(open_ones))
        if kills:
            killer.kill_random()
        sink.wait_connections(count + 1)
    client.join()
    # Once more each: what a reset lost was not a word's last count.
    again = sorted(set(words))
    client.send_frames(word.encode() for word in again)
    words += again

    last = collections.Counter(words)

    def complete():
        seen = dict(oracle.count_lines(
            line for _, line in whole_records(sink.connections)))
        return seen == last
    harness.wait_for(complete, "the last count of every word", step=0.2)
    app.stop()
    sink.wait_ends()
    seen = collections.Counter(
        line for _, line in whole_records(sink.connections))
    expected = set(oracle.counts_of(words))
    assert set(seen) <= expected
    lost = expected - set(seen)
    repeated = sum(seen.values()) - len(seen)
    # What was in flight at a reset: no more than two socket buffers each.
    assert len(lost) <= 6 * 400000
    assert repeated <= repeats_said(app), (repeated, repeats_said(app))
    # In order within each connection, per word.
    for connection in sink.connections:
        highest = {}
        for word, number in oracle.count_lines(
                connection.data().split(b"\n")[:-1]):
            assert number > highest.get(word, 0)
            highest[word] = number


def test_receiver_closes_politely(running, feeder):
    """A receiver that has read everything and closes: nothing is lost and
    nothing repeated when nothing is in flight."""
    app, port, sink = running(workers=1)
    client = feeder(port)
    words = []
    for number in range(4):
        client.send_frames([b"polite word"] * 100)
        words += ["polite", "word"] * 100
        sink.wait_lines(len(words))
        sink.reset(sink.connections[-1])
        sink.wait_connections(number + 2)
    app.stop()
    sink.wait_ends()
    lines = [line for lines in sink.lines() for line in lines]
    assert sorted(lines) == sorted(oracle.counts_of(words))


def test_receiver_is_away(cluster, receiver, feeder):
    """A sink that refuses: the application starts, says so, holds what is
    to be sent, and delivers when the receiver comes."""
    sink = receiver()
    sink.unlisten()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=2,
                  args=apps.word_count_args(port, sink.port))
    app.launch()
    app.wait_log(r"127\.0\.0\.1:%d" % sink.port)
    sink.listen()
    app.wait_running()
    client = feeder(port)
    words = "one two three two one two".split()
    client.send_frames([" ".join(words).encode()])
    sink.wait_lines(len(words))
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
