"""Pressure reaches the sources, memory is bounded, the supervisor is not in
the data path."""

import os
import signal
import threading
import time

import pytest

import apps
import harness
import oracle
from harness import LEVEL, frame
from killer import Killer

BYTES = {"check": 16 << 20, "all": 64 << 20, "long": 2 << 30}[LEVEL]
SECONDS = {"check": 2, "all": 5, "long": 60}[LEVEL]
MESSAGE = 1000
KEYS = 50


class Numbers:
    """Checks the output of the PASS application while it comes in: each
    key's numbers and positions go up by one.  Nothing is kept."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rest = {}
        self.last = {}
        self.count = 0
        self.error = None
        self.times = []

    def __call__(self, connection, now, data):
        *lines, rest = (self.rest.get(connection.index, b"")
                        + data).split(b"\n")
        self.rest[connection.index] = rest
        for line in lines:
            number, key, position = line.split(b" ", 3)[:3]
            if int(number) != int(position) or int(number) \
                    != self.last.get(key, 0) + 1 or len(line) < MESSAGE:
                self.error = self.error or (line[:80],
                                            self.last.get(key))
            self.last[key] = int(number)
        with self.lock:
            self.count += len(lines)
            self.times.append(now)


def messages(total):
    """total bytes in frames: "key position xxxx"."""
    padding = b"x" * MESSAGE
    count = 0
    for start in range(0, total // MESSAGE, 200):
        batch = []
        for number in range(start, start + 200):
            text = b"key%d %d %s" % (number % KEYS, number // KEYS + 1,
                                     padding)
            batch.append(frame(text))
            count += 1
        yield b"".join(batch)


def memory(app):
    return sum(harness.resident_bytes(pid)
               for pid in harness.processes_marked(app.mark))


def test_receiver_that_does_not_read(cluster, feeder, opened, report):
    """The client blocks, memory stays under the bound that the settings
    give, and then everything arrives."""
    workers = 2
    journal, outbox, mark = 8 << 20, 32 << 20, 4 << 20
    numbers = Numbers()
    sink = opened(harness.Receiver(keep=False, on_data=numbers))
    port = harness.free_port()
    app = cluster(apps.PASS, workers=workers, settings={
        "journal-size": journal, "outbox-size": outbox,
        "outbox-mark": mark},
        args=apps.word_count_args(port, sink.port))
    app.start()
    sink.wait_connections(workers)
    sink.pause()
    idle = memory(app)
    # A journal; an outbox to each peer and each sink; Python's own.
    bound = idle + workers * (journal + outbox * workers + (16 << 20))

    client = feeder(port)
    total = sum(map(len, messages(BYTES)))
    client.start(messages(BYTES))
    most = 0
    stuck_since, last = None, -1
    begun = time.monotonic()
    while time.monotonic() < begun + SECONDS:
        most = max(most, memory(app))
        if client.sent != last:
            last, stuck_since = client.sent, time.monotonic()
        time.sleep(0.1)
    assert client.busy(), "the client was not stopped: it sent everything"
    blocked_at = client.sent
    assert time.monotonic() - stuck_since > SECONDS / 4, \
        "the client was still sending"
    sink.resume()
    while client.busy():
        most = max(most, memory(app))
        time.sleep(0.1)
    client.join()
    count = len(range(0, BYTES // MESSAGE, 200)) * 200
    sink.wait(lambda: numbers.count >= count, "all messages")
    most = max(most, memory(app))
    app.stop()
    sink.wait_ends()
    assert numbers.error is None, numbers.error
    assert numbers.count == count
    assert most <= bound, "%d MB, the bound is %d MB" % (
        most >> 20, bound >> 20)
    report("client stopped after %d of %d MB; memory %d MB idle, %d MB at "
           "most, bound %d MB" % (blocked_at >> 20, total >> 20, idle >> 20,
                                  most >> 20, bound >> 20))


@pytest.mark.level("all")
def test_slow_receiver_and_kills(cluster, feeder, opened, rng):
    """Pressure all the time, while workers die."""
    numbers = Numbers()
    sink = opened(harness.Receiver(keep=False, on_data=numbers,
                                   rate=2 << 20, rcvbuf=65536))
    port = harness.free_port()
    app = cluster(apps.PASS, workers=3, settings={
        "journal-size": 4 << 20, "max-message": 64 << 10,
        "outbox-mark": 1 << 20,
        "outbox-size": 16 << 20},
        args=apps.word_count_args(port, sink.port))
    app.start()
    size = 24 << 20
    client = feeder(port)
    client.start(messages(size))
    killer = Killer(app, rng.random())
    killer.run(6, every=0.4)
    count = len(range(0, size // MESSAGE, 200)) * 200
    sink.rate = None
    client.join()
    sink.wait(lambda: numbers.count >= count, "all messages")
    killer.check()
    assert sink.undisturbed(3)
    app.wait_workers()
    app.stop()
    sink.wait_ends()
    assert numbers.error is None, numbers.error
    assert numbers.count == count


@pytest.mark.level("all")
@pytest.mark.parametrize("kills", [False, True])
def test_pressure_between_workers(cluster, receiver, feeder, rng, kills):
    """Two exchanges, small journals, tiny marks, each message makes 80:
    every worker presses on every other and nothing comes to a stop."""
    workers, count = 3, 2000
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.AMPLIFY, workers=workers, settings={
        "journal-size": "4M", "max-message": "64K", "outbox-mark": "64K",
        "outbox-size": "64M"},
        args=apps.word_count_args(port, sink.port))
    app.start()
    clients = [feeder(port) for _ in range(workers)]
    for index, client in enumerate(clients):
        client.start([frame(b"%d:%d" % (index, number))
                      for number in range(count)])
    if kills:
        Killer(app, rng.random()).run(3, every=0.5)
    sink.wait_lines(workers * count * 80)
    for client in clients:
        client.join()
    app.wait_workers()
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), [
        str(number) for number in range(8)] * (workers * count * 10))


def test_supervisor_stopped(cluster, feeder, opened, report):
    """SIGSTOP of the supervisor: data flows on; afterwards nobody has been
    replaced."""
    seconds = 5 if LEVEL != "check" else 2
    numbers = Numbers()
    sink = opened(harness.Receiver(keep=False, on_data=numbers))
    port = harness.free_port()
    app = cluster(apps.PASS, workers=2, settings={"hang-timeout": 1},
                  args=apps.word_count_args(port, sink.port))
    app.start()
    pids = app.pids()
    client = feeder(port)
    ending = threading.Event()

    def steady():
        for batch in messages(1 << 34):
            for start in range(0, len(batch), 10 * (len(batch) // 200)):
                if ending.is_set() and start == 0:
                    return
                yield batch[start:start + 10 * (len(batch) // 200)]
    sent = [0]

    def counted():
        for piece in steady():
            yield piece
            sent[0] += len(piece)
    client.start(counted(), pause=0.002)
    sink.wait(lambda: numbers.count > 200, "the first messages")
    os.kill(app.supervisor_pid(), signal.SIGSTOP)
    begun = time.monotonic()
    time.sleep(seconds)
    ended = time.monotonic()
    during = [when for when in list(numbers.times) if begun < when < ended]
    os.kill(app.supervisor_pid(), signal.SIGCONT)
    gaps = [b - a for a, b in zip([begun] + during, during + [ended])]
    report("largest gap while the supervisor was stopped for %d s: %.0f ms"
           % (seconds, max(gaps) * 1000))
    assert max(gaps) < 1, max(gaps)
    time.sleep(1.5)
    assert app.pids() == pids
    ending.set()
    client.join()
    app.stop()
    sink.wait_ends()
    assert numbers.error is None, numbers.error
