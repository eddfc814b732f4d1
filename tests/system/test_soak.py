"""Hours of work in minutes: half load, a kill every five seconds, and every
second it is checked that the output is exact so far and that nothing grows.
One worker is never killed: in its memory a leak would show."""

import collections
import itertools
import os
import threading
import time

import pytest

import apps
import harness
from killer import Killer
from words import Zipf

MINUTES = float(os.environ.get("WALLAROO_SOAK_MINUTES", "30"))
KILL_EVERY = 5
ALL_AT_ONCE = 10		# every tenth time all but that one die
MEASURE = 10			# seconds at full load before
BLOCK = 400			# words that are sent at once

MB = 1 << 20
WORKERS = 3
SURVIVOR = 2
SETTINGS = {"journal-size": harness.Raw("32M"),
            "outbox-size": harness.Raw("16M"), "checkpoint-interval": 1}


class Ledger:
    """Of all words: how often sent, how often counted.  It needs no memory
    for what went through."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rest = {}			# of a connection: unfinished line
        self.counted = {}
        self.total = 0
        self.wrong = []

    def on_data(self, connection, _when, data):
        lines = (self.rest.get(connection.index, b"") + data).split(b"\n")
        self.rest[connection.index] = lines.pop()
        with self.lock:
            for line in lines:
                word, _, number = line.rpartition(b" ")
                last = self.counted.get(word, 0)
                if int(number) != last + 1:
                    self.wrong.append("%r after %d on connection %d" % (
                        line, last, connection.index))
                self.counted[word] = int(number)
            self.total += len(lines)

    def check(self):
        with self.lock:
            assert not self.wrong, self.wrong[:10]


class Load:
    """Blocks of words, as fast as they are taken or at a given rate."""

    def __init__(self, feeder):
        self.feeder = feeder
        self.blocks = []
        for seed in range(50):
            lines = Zipf(seed).lines(BLOCK)
            self.blocks.append((
                b"".join(harness.frame(line.encode()) for line in lines),
                collections.Counter(" ".join(lines).split())))
        self.sent = [0] * len(self.blocks)
        self.rate = None		# words a second; None: no limit
        self.stopping = False
        self.failure = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self):
        self.feeder.sock.settimeout(None)
        self.thread.start()
        return self

    def run(self):
        try:
            due = time.monotonic()
            rate = None
            for index in itertools.cycle(range(len(self.blocks))):
                if self.stopping:
                    return
                self.feeder.send(self.blocks[index][0])
                self.sent[index] += 1
                if self.rate != rate:
                    rate, due = self.rate, time.monotonic()
                if rate:
                    due += BLOCK / rate
                    time.sleep(max(0, due - time.monotonic()))
        except OSError as error:
            self.failure = error

    def total(self):
        return sum(self.sent) * BLOCK

    def stop(self):
        self.stopping = True
        self.thread.join(harness.LIMIT)
        assert not self.thread.is_alive() and not self.failure, self.failure

    def expected(self):
        counts = collections.Counter()
        for times, (_, words) in zip(self.sent, self.blocks):
            for word, number in words.items():
                counts[word.encode()] += times * number
        return dict(counts)


def directory_bytes(path):
    """What it takes on its disk, and how many files are there."""
    size = files = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                size += os.stat(os.path.join(root, name)).st_blocks * 512
                files += 1
            except FileNotFoundError:
                pass
    return size, files


class Watch:
    """Once a second what must not grow."""

    def __init__(self, app):
        self.app = app
        self.samples = []

    def look(self):
        pids = self.app.pids()
        supervisor = self.app.supervisor_pid()
        state, state_files = directory_bytes(self.app.state_dir)
        run, run_files = directory_bytes(self.app.run_dir)
        self.samples.append({
            "memory of the supervisor": harness.resident_bytes(supervisor),
            "memory of a worker": harness.resident_bytes(pids[SURVIVOR]),
            "descriptors of the supervisor": len(os.listdir(
                "/proc/%d/fd" % supervisor)),
            "state directory": state,
            "runtime directory": run,
            "files": state_files + run_files})

    # What the last third may have above the highest of the first: these
    # things grow and shrink in pieces.  A state file holds 16 MB of changes
    # before it merges them, which takes memory, and a log of as much; a
    # worker has its journal and its outboxes mapped, which keep their size.
    SPARE = {"memory of the supervisor": 2 * MB,
             "memory of a worker": 64 * MB,
             "descriptors of the supervisor": 10,
             "state directory": WORKERS * 48 * MB,
             "runtime directory": WORKERS * 32 * MB,
             "files": 6}

    def check(self):
        third = len(self.samples) // 3
        for name, spare in self.SPARE.items():
            first = max(s[name] for s in self.samples[:third])
            after = max(s[name] for s in self.samples[-third:])
            assert after <= first * 1.1 + spare, "%s: %d, then %d" % (
                name, first, after)

    def text(self):
        last = self.samples[-len(self.samples) // 3:]
        return ", ".join("%s %.1f MB" % (
            name, max(s[name] for s in last) / MB)
            for name in ("memory of the supervisor", "memory of a worker",
                         "state directory", "runtime directory"))


def half_load(ledger, load):
    """Words a second that go through with nothing in the way, halved."""
    load.start()
    harness.wait_for(lambda: ledger.total > 0, "the first output")
    begin, before = time.monotonic(), ledger.total
    harness.wait_for(lambda: time.monotonic() - begin > MEASURE,
                     "the end of the measurement", 2 * MEASURE)
    rate = (ledger.total - before) / (time.monotonic() - begin)
    load.rate = rate / 2
    return rate


@pytest.mark.level("long")
def test_soak(cluster, feeder, receiver, rng, report):
    ledger = Ledger()
    sink = receiver(keep=False, on_data=ledger.on_data)
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=WORKERS, settings=SETTINGS,
                  args=apps.word_count_args(port, sink.port))
    app.start()
    load = Load(feeder(port))
    rate = half_load(ledger, load)
    killer, watch = Killer(app, rng.random()), Watch(app)
    begin = kill_at = time.monotonic()
    behind = collections.deque()	# (when, words sent until then)
    longest = turn = 0
    while time.monotonic() - begin < 60 * MINUTES:
        if time.monotonic() >= kill_at:
            turn += 1
            killer.kill(*([rng.randrange(SURVIVOR)] if turn % ALL_AT_ONCE
                          else range(SURVIVOR)))
            kill_at += KILL_EVERY
        watch.look()
        ledger.check()
        assert load.failure is None, load.failure
        # What was sent a while ago has been counted.
        now = time.monotonic()
        behind.append((now, load.total()))
        while behind and behind[0][1] <= ledger.total:
            behind.popleft()
        if behind:
            longest = max(longest, now - behind[0][0])
        assert longest < harness.LIMIT, "no output for what was sent then"
        time.sleep(max(0, now + 1 - time.monotonic()))
    load.stop()
    sink.wait(lambda: ledger.total >= load.total(), "the whole output")
    ledger.check()
    assert ledger.counted == load.expected()
    watch.check()
    assert sink.undisturbed(WORKERS)
    app.stop()
    report("%.0f minutes: %d words at %.0f a second (%.0f at full load), "
           "%d kills, at most %.1f s behind; %s" % (
               MINUTES, load.total(), rate / 2, rate, killer.kills, longest,
               watch.text()))
