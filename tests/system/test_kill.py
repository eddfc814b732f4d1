"""kill -9 of workers under load: exact output, and nobody else notices."""

import os
import random
import threading
import time

import pytest

import apps
import harness
import oracle
from harness import LEVEL
from killer import Killer
from words import Zipf

SECONDS = float(os.environ.get(
    "WALLAROO_TEST_SECONDS", {"check": 2, "all": 10, "long": 60}[LEVEL]))
WORKERS = 3


class Load:
    """One client connection per worker, each sending bursts of lines until
    told to stop; remembers every word that it sent."""

    def __init__(self, feeder, port, clients, seed, rate=4000):
        self.words = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.clients = []
        for index in range(clients):
            client = feeder(port)
            self.clients.append(client.start(
                self.chunks(Zipf(seed * 100 + index), random.Random(
                    seed * 100 + index), rate)))

    def chunks(self, zipf, rng, rate):
        while not self.ended.is_set():
            count = rng.choice((1, 10, 200, 1000))
            lines = zipf.lines(count)
            with self.lock:
                self.words += " ".join(lines).split()
            data = b"".join(harness.frame(line.encode()) for line in lines)
            # Cut frames at random places.
            cut = rng.randrange(len(data))
            yield data[:cut]
            time.sleep(rng.random() * 0.01)
            yield data[cut:]
            time.sleep(count / rate)

    def end(self):
        self.ended.set()
        for client in self.clients:
            client.join()
        return self.words


def start(cluster, receiver, feeder, seed, workers=WORKERS, **settings):
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=workers,
                  settings=dict({"spares": 1}, **settings),
                  args=apps.word_count_args(port, sink.port))
    app.start()
    load = Load(feeder, port, workers, seed)
    return app, sink, load


def finish(app, sink, load, killer, workers=WORKERS):
    words = load.end()
    sink.wait_lines(len(words))
    killer.check()
    for client in load.clients:
        assert client.state() == "open"
    assert sink.undisturbed(workers), [c.end for c in sink.connections]
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
    return words


def test_random_kills(cluster, receiver, feeder, rng, report):
    """A random worker every 300 ms; then two at once, all at once, and one
    again while it recovers."""
    seed = rng.randrange(1 << 16)
    app, sink, load = start(cluster, receiver, feeder, seed)
    killer = Killer(app, seed)
    killer.run(SECONDS)
    for _ in range(3):
        killer.kill_random(2)
        time.sleep(0.3)
    for _ in range(3):
        killer.kill(*range(WORKERS))
        time.sleep(0.3)
    for worker in range(WORKERS):
        killer.kill_while_recovering(worker)
    app.wait_workers()
    words = finish(app, sink, load, killer)
    report("%d kills, %d words, every one counted once"
           % (killer.kills, len(words)))


@pytest.mark.level("all")
@pytest.mark.parametrize("settings", [
    {"checkpoint-interval": 0.01},
    {"checkpoint-interval": 3600},
    {"journal-size": "4M", "max-message": "64K",
     "checkpoint-interval": 0.05},
    {"outbox-mark": "64K"},
], ids=lambda settings: "-".join(settings))
def test_kills_with_other_settings(cluster, receiver, feeder, rng, settings):
    """Checkpoints all the time, none at all, tiny journals, tiny marks."""
    seed = rng.randrange(1 << 16)
    app, sink, load = start(cluster, receiver, feeder, seed, **settings)
    killer = Killer(app, seed)
    killer.run(max(SECONDS / 3, 3))
    killer.kill(*range(WORKERS))
    app.wait_workers()
    finish(app, sink, load, killer)


@pytest.mark.level("all")
def test_kill_the_only_worker(cluster, receiver, feeder, rng):
    seed = rng.randrange(1 << 16)
    app, sink, load = start(cluster, receiver, feeder, seed, workers=1)
    killer = Killer(app, seed)
    killer.run(max(SECONDS / 3, 3), every=0.15)
    app.wait_workers()
    finish(app, sink, load, killer, workers=1)


@pytest.mark.level("all")
def test_kills_are_never_a_crash_loop(cluster, receiver, feeder):
    """kill -9 from outside, faster than any worker can start."""
    app, sink, load = start(cluster, receiver, feeder, 1,
                            **{"restart-limit": 2})
    killer = Killer(app)
    for _ in range(40):
        killer.kill(1)
    app.wait_workers()
    assert app.workers()[1]["restarts"] >= 40
    finish(app, sink, load, killer)


@pytest.mark.level("all")
def test_sigterm_to_a_worker(cluster, receiver, feeder):
    """An operator who ends a worker: restarted, exact, not a crash."""
    app, sink, load = start(cluster, receiver, feeder, 2,
                            **{"restart-limit": 2})
    killer = Killer(app)
    for _ in range(6):
        pid = app.signal_worker(2, 15)
        app.wait_replaced(2, pid)
        killer.check(killed=[2])
    finish(app, sink, load, killer)


@pytest.mark.level("all")
def test_ctl_restart(cluster, receiver, feeder):
    """wallarooctl restart WORKER under load."""
    app, sink, load = start(cluster, receiver, feeder, 3)
    killer = Killer(app)
    for worker in range(WORKERS):
        pid = app.pids()[worker]
        app.ctl("restart", str(worker))
        app.wait_replaced(worker, pid)
        killer.check(killed=[worker])
    finish(app, sink, load, killer)


# -- the living do not wait for the dead ------------------------------------

def owner_of_connection(connection, pids):
    """Which worker holds the other end of a receiver's connection."""
    local = "%04X" % connection.peer[1]
    inode = None
    with open("/proc/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[1].endswith(":" + local) and fields[2].endswith(
                    ":%04X" % connection.sock.getsockname()[1]):
                inode = fields[9]
    for worker, pid in pids.items():
        for fd in os.listdir("/proc/%d/fd" % pid):
            try:
                target = os.readlink("/proc/%d/fd/%s" % (pid, fd))
            except OSError:
                continue
            if target == "socket:[%s]" % inode:
                return worker
    raise harness.HarnessError("nobody holds connection %d"
                               % connection.index)


def test_living_workers_go_on(cluster, receiver, feeder, report, level):
    """With one connection per worker: what arrives at living workers for
    keys of living workers comes out without a gap."""
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=WORKERS,
                  args=apps.word_count_args(port, sink.port))
    app.start()

    # Which client is at which worker?
    clients = {}
    before = {w: 0 for w in range(WORKERS)}
    for number in range(WORKERS):
        client = feeder(port)

        def where():
            now = {w: entry["connections"]
                   for w, entry in app.workers().items()}
            more = [w for w in now if now[w] > before[w]]
            return (now, more) if more else None
        before, more = harness.wait_for(where, "a connection at a worker")
        assert len(more) == 1
        clients[more[0]] = client
    assert sorted(clients) == list(range(WORKERS))

    # Which key belongs to which worker?
    probes = ["probe%d" % number for number in range(30 * WORKERS)]
    clients[0].send_frames(word.encode() for word in probes)
    sink.wait_lines(len(probes))
    keys = {}
    for connection in sink.connections:
        worker = owner_of_connection(connection, app.pids())
        keys[worker] = [line.split()[0].decode() for line in
                        harness.split_lines(connection.data())]
    assert sorted(keys) == list(range(WORKERS)), keys

    dead = 1
    living = [w for w in range(WORKERS) if w != dead]
    ending = threading.Event()
    sent = {}

    # One thread per client sends to all living keys in turn.
    threads = []
    for source in living:
        def both(source=source):
            counts = {}
            while not ending.is_set():
                for target in living:
                    key = keys[target][source]
                    clients[source].sock.sendall(
                        harness.frame(key.encode()))
                    counts[key] = counts.get(key, 0) + 1
                time.sleep(0.004)
            sent.update(counts)
        threads.append(threading.Thread(target=both, daemon=True))
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    killer = Killer(app)
    rounds = 3 if level == "check" else 8
    for _ in range(rounds):
        killer.kill(dead)
        pid = killer.known[dead]
        harness.wait_for(lambda: app.workers()[dead]["state"] == "running"
                         and app.pids()[dead] == pid, "recovery")
        time.sleep(0.1)
    ending.set()
    for thread in threads:
        thread.join()

    # 1 from the warm-up for each key.
    words = list(probes)
    for key, count in sent.items():
        words += [key] * count
    sink.wait_lines(len(words))
    worst = 0
    for connection in sink.connections:
        arrivals = {}
        rest = b""
        for when, chunk in connection.chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                arrivals.setdefault(line.split()[0].decode(),
                                    []).append(when)
        for key in sent:
            times = arrivals.get(key, [])[1:]
            for early, late in zip(times, times[1:]):
                worst = max(worst, late - early)
    report("largest gap at living workers while one is killed: %.0f ms"
           % (worst * 1000))
    assert worst <= (0.2 if level == "long" else 2.0)
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
