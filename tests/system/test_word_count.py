"""Word count over plain TCP with several numbers of workers."""

import os
import subprocess
import sys

import pytest

import apps
import harness
import oracle
from words import Zipf

CLIENT = os.path.join(os.path.dirname(__file__), "client.py")


@pytest.mark.parametrize("workers", [
    1, 3, pytest.param(2, marks=pytest.mark.level("all")),
    pytest.param(5, marks=pytest.mark.level("all"))])
@pytest.mark.parametrize("durability", [
    "process", pytest.param("none", marks=pytest.mark.level("all"))])
def test_word_count(cluster, receiver, workers, durability):
    """The same file each time; only cluster.conf differs."""
    lines = Zipf(7).lines(40000)
    words = " ".join(lines).split()
    sink = receiver()
    app = cluster(apps.WORD_COUNT, workers=workers, durability=durability)
    port = harness.free_port()
    app.write_conf(args=apps.word_count_args(port, sink.port))
    app.start()
    done = subprocess.run([sys.executable, CLIENT, str(port)],
                          input="\n".join(lines).encode() + b"\n",
                          timeout=harness.LIMIT)
    assert done.returncode == 0
    sink.wait_lines(len(words))
    assert sink.undisturbed(workers)
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
    # Keys are spread: with few workers each has some.
    if workers <= 3:
        assert all(sink.lines())


def test_many_clients(cluster, receiver, feeder):
    """Several connections at once, spread evenly over the workers."""
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=3,
                  args=apps.word_count_args(port, sink.port))
    app.start()
    clients = [feeder(port) for _ in range(9)]
    everything = []
    for index, client in enumerate(clients):
        lines = Zipf(index).lines(8000)
        everything += " ".join(lines).split()
        client.start([harness.frame(line.encode()) for line in lines])
    for client in clients:
        client.join()
    sink.wait_lines(len(everything))
    spread = [entry["connections"] for entry in app.workers().values()]
    assert spread == [3, 3, 3], spread
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), everything)


def test_journal_as_large_as_needed(cluster, receiver, feeder):
    """Three workers and an exchange need more than four times the largest
    message: the journals are larger than what is set, and stay so."""
    lines = Zipf(11).lines(8000)
    words = " ".join(lines).split()
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=3,
                  settings={"journal-size": "4M", "max-message": "1M"},
                  args=apps.word_count_args(port, sink.port))
    app.start()
    app.wait_log(r"the journal is larger than journal-size: 3 workers, 2 "
                 r"exchanges and max-message = 1048576 need it size=9M")
    client = feeder(port)
    client.start([harness.frame(line.encode()) for line in lines])
    for worker, pid in app.pids().items():
        app.kill9(worker)
        app.wait_replaced(worker, pid)
    client.join()
    sink.wait_lines(len(words))
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
