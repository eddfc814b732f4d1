"""The other end of a benchmark between two topics.

    kafka_driver.py BROKERS SOURCE TARGET RATE SECONDS [PID]

An open loop: each record carries when it was due, and its latency is the time
at which its output is seen, by a reader of what is committed, less that.  The
first second is warm-up.  With PID this process is killed with signal 9 in the
middle.  Prints the median and the 99th percentile of the latencies, the
longest time without an output of some partition (after the kill, if there was
one), and the 99th percentile of how late it was itself, all in milliseconds.
"""

import json
import os
import random
import signal
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, \
    TopicPartition

PARTITIONS = 4
KEYS = 2500		# of each partition
PATIENCE = 120		# seconds without an output
BEYOND = 10
WARMUP = 1


class Reader(threading.Thread):
    """Takes the outputs."""

    def __init__(self, brokers, target):
        super().__init__(daemon=True)
        self.consumer = Consumer({
            "bootstrap.servers": brokers, "group.id": "driver-" + target,
            "enable.auto.commit": False, "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed"})
        self.consumer.assign([TopicPartition(target, number,
                                             OFFSET_BEGINNING)
                              for number in range(PARTITIONS)])
        self.arrivals = []		# (when, due, partition of the input)
        self.progress = time.monotonic()

    def run(self):
        while True:
            for message in self.consumer.consume(1000, 0.005):
                if message.error():
                    continue
                data = json.loads(message.value())
                now = time.monotonic()
                self.arrivals.append((now, data["due"] / 1e9,
                                      int(data["key"][1])))
                self.progress = now

    def wait(self, count):
        while len(self.arrivals) < count:
            if time.monotonic() - self.progress > PATIENCE:
                sys.exit("%d of %d outputs" % (len(self.arrivals), count))
            time.sleep(0.01)


class Sender:
    def __init__(self, brokers, source):
        self.source = source
        self.late = []
        self.dice = random.Random(2024)
        self.producer = Producer({"bootstrap.servers": brokers,
                                  "linger.ms": 0, "acks": 1,
                                  "socket.nagle.disable": True})

    def send(self, number, due):
        partition = number % PARTITIONS
        key = "p%d-%d" % (partition, self.dice.randrange(KEYS))
        self.producer.produce(self.source, json.dumps(
            {"key": key, "value": 1, "due": int(due * 1e9)}), key,
            partition=partition)

    def loop(self, rate, seconds, pid):
        """When it began, and when the process was killed."""
        begun, killed = time.monotonic(), None
        for number in range(rate * seconds):
            due = begun + number / rate
            while time.monotonic() < due:
                self.producer.poll(max(due - time.monotonic(), 0))
            if pid and not killed and number >= rate * seconds // 2:
                killed = time.monotonic()
                os.kill(pid, signal.SIGKILL)
            self.late.append(time.monotonic() - due)
            self.send(number, due)
        self.producer.flush(PATIENCE)
        return begun, killed


def longest_gap(arrivals, since):
    """Of the partition that was silent for longest."""
    longest = 0
    for partition in range(PARTITIONS):
        times = [when for when, _, where in arrivals if where == partition]
        for one, two in zip(times, times[1:]):
            if two > since:
                longest = max(longest, two - max(one, since))
    return longest


def percentile(values, share):
    rank = int(len(values) * share)
    if len(values) - rank < BEYOND:
        sys.exit("too few samples beyond a percentile")
    return values[rank]


def main():
    brokers, source, target, rate, seconds, *pid = sys.argv[1:]
    rate, seconds = int(rate), int(seconds)
    reader, sender = Reader(brokers, target), Sender(brokers, source)
    reader.start()
    for number in range(PARTITIONS):	# that everybody is there
        sender.send(number, time.monotonic())
    sender.producer.flush(PATIENCE)
    reader.wait(PARTITIONS)
    begun, killed = sender.loop(rate, seconds, int(pid[0]) if pid else None)
    reader.wait(PARTITIONS + rate * seconds)
    since = killed or begun + WARMUP
    latencies = sorted(when - due for when, due, _ in reader.arrivals
                       if due >= begun + WARMUP)
    print("%.3f %.3f %.3f %.3f" % tuple(1000 * value for value in (
        percentile(latencies, 0.5), percentile(latencies, 0.99),
        longest_gap(reader.arrivals, since),
        percentile(sorted(sender.late), 0.99))))
    sys.stdout.flush()
    os._exit(0)			# the reader's thread is within its library


main()
