#!/usr/bin/python3
"""How long is a keyed counter silent when its worker is killed?

    recovery.py --build DIR [--keys 10000,100000,1000000] [--kills 5]
                [--spares 0,1]

Fills a state, has a checkpoint taken, sends a thousand events a second with
keys at random, and kills the worker with SIGKILL.  One row per number of keys
and setting, separated by tabs: keys, spares, then the median, the best and the
worst time from the kill to the next output in milliseconds.  Nothing is
asserted.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))

LIMIT = 300
PAUSE = 0.001		# between events
SETTLE = 0.005		# what comes so soon was under way


class Arrivals:
    """When output came."""

    def __init__(self):
        self.times = []

    def note(self, connection, now, data):
        self.times.append(now)

    def after(self, since):
        """The first output of the next life, if it has come."""
        return min((t for t in self.times if t > since + SETTLE),
                   default=None)


def fill(feeder, sink, keys):
    import harness
    for first in range(0, keys, 100):
        feeder.send(harness.frame(" ".join(
            "key%07d" % key for key in range(first, min(first + 100, keys))
        ).encode()))
    sink.wait_bytes(keys * 13, LIMIT)


def trickle(feeder, keys, ended):
    import harness
    rng = random.Random(1)
    while not ended.is_set():
        feeder.send(harness.frame(b"key%07d" % rng.randrange(keys)))
        time.sleep(PAUSE)


def settled(app, spares, harness):
    """Everything is in memory, and a spare waits."""
    app.wait_workers(LIMIT)
    harness.wait_for(lambda: app.status().get("spares", spares) >= spares,
                     "a spare", LIMIT)


def kill(app, arrivals, harness):
    size = app.log_size()
    pid = app.pids()[0]
    since = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    harness.wait_for(lambda: arrivals.after(since), "the next output", LIMIT)
    app.wait_log("worker is running", LIMIT, since=size)
    return arrivals.after(since) - since


def measure(keys, spares, kills):
    import apps
    import harness
    arrivals, ended, times = Arrivals(), threading.Event(), []
    with harness.Receiver(keep=False, on_data=arrivals.note) as sink:
        port = harness.free_port()
        settings = {"checkpoint-interval": 5}
        if spares is not None:
            settings["spares"] = spares
        with harness.Cluster(apps.WORD_COUNT, settings=settings,
                             args=apps.word_count_args(port, sink.port)
                             ) as app:
            app.start()
            feeder = harness.Feeder(port, LIMIT)
            fill(feeder, sink, keys)
            app.ctl("checkpoint", limit=LIMIT)
            thread = threading.Thread(target=trickle, args=(
                feeder, keys, ended), daemon=True)
            thread.start()
            for _ in range(kills):
                settled(app, spares or 0, harness)
                time.sleep(3)
                times.append(kill(app, arrivals, harness))
            ended.set()
            thread.join()
            feeder.close()
            app.stop(LIMIT)
    return times


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.getcwd())
    parser.add_argument("--keys", type=numbers,
                        default=[10000, 100000, 1000000])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--spares", type=numbers, default=[0, 1])
    options = parser.parse_args()
    os.environ["WALLAROO_BUILD"] = os.path.abspath(options.build)
    print("keys\tspares\tmedian ms\tbest\tworst")
    for keys in options.keys:
        for spares in options.spares:
            times = measure(keys, None if spares < 0 else spares,
                            options.kills)
            print("%d\t%d\t%.0f\t%.0f\t%.0f" % (
                keys, spares, statistics.median(times) * 1000,
                min(times) * 1000, max(times) * 1000), flush=True)


if __name__ == "__main__":
    main()
