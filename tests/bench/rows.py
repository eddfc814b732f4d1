"""Every row of the table, declared once.

A row is a figure of ours beside a figure of something else, from the same
run of one experiment (experiments.py), and perhaps a goal.
"""

import collections

import nexmark

Row = collections.namedtuple(
    "Row", "name experiment ours reference unit goal")


class Goal:
    """Of the ratio or of ours alone: at least or at most so much."""

    def __init__(self, text):
        self.text = text
        what, self.sign, number = text.split()[:3]
        self.of_ratio = what == "ratio"
        self.number = float(number)

    def met(self, ours, ratio):
        value = ratio if self.of_ratio else ours
        if value is None:
            return None
        return value >= self.number if self.sign == ">=" \
            else value <= self.number


ROWS = []


def row(name, experiment, ours, reference=None, unit="/s", goal=None):
    """ours, reference: names of the experiment's figures."""
    ROWS.append(Row(name, experiment, ours, reference, unit,
                    Goal(goal) if goal else None))


def both(name, experiment, ours, reference, goal=None):
    """A rate, and the rate per second of processor time."""
    row(name, experiment, ours + " rate", reference + " rate", "/s", goal)
    row(name + ", per CPU-second", experiment, ours + " per CPU",
        reference + " per CPU", "/CPU-s", goal)


for shape, title in (("one_word", "word count"),
                     ("ten_words", "word count of lines")):
    both(title + ", process / bare loop", shape, "process 1", "bare",
         "ratio >= 0.8")
    both(title + ", process / bare loop in libpython", shape, "process 1",
         "embedded")
    both(title + ", process / none", shape, "process 1", "none 1",
         "ratio >= 0.95")
    both(title + ", machine / none", shape, "machine 1", "none 1",
         "ratio >= 0.8")
    both(title + ", two workers / one", shape, "process 2", "process 1")
    row(title + ", two workers not slower", shape, "process 2 rate",
        "process 1 rate", "/s", "ratio >= 1")
    both(title + ", two workers / two plain processes", shape, "process 2",
         "pair")
both("keyed counter, process / bare loop", "counter", "process", "bare",
     "ratio >= 0.8")
both("keyed counter, process / bare loop in libpython", "counter", "process",
     "embedded")
both("two exchanges, two workers / bare loop", "exchanges", "process",
     "bare")
both("two exchanges, two workers / two plain processes", "exchanges",
     "process", "pair")
both("stage of 200 us, process / bare loop", "busy", "process 1", "bare")
both("stage of 200 us, process / bare loop in libpython", "busy",
     "process 1", "embedded")
row("stage of 200 us, two workers / one", "busy", "process 2 rate",
    "process 1 rate", "/s", "ratio >= 1.8")
both("stage of 200 us, two workers / two plain processes", "busy",
     "process 2", "pair")
row("exchange hop of 50 bytes / pickled batches", "hop",
    "process hops per CPU", "pair hops per CPU", "/CPU-s",
    "ours >= 1000000")
both("exchange of 50 bytes, two workers / one", "hop", "process 2",
     "process 1")

for name in ("word count", "keyed counter", "two exchanges"):
    row(name + ", own instructions per event", "instructions", name, None,
        "instr.", "ours <= 600")

for power in (4, 5, 7):
    row("word count of 10^%d events / of 10^6" % power, "events",
        "10^%d rate" % power, "10^6 rate")
for number in (2, 4, 8):
    both("word count, %d workers / one" % number, "workers",
         str(number), "1")

for name, rate in (("latency_1k", "1 k/s"), ("latency_10k", "10 k/s"),
                   ("latency_100k", "100 k/s")):
    # A thousand a second are too few for a percentile beyond p99.
    for key in ("p50", "p99", "p999")[:2 if name == "latency_1k" else 3]:
        row("TCP to TCP at %s, %s / asyncio" % (rate, key), name,
            "ours " + key, "loop " + key, "ms",
            "ratio <= 1.3" if key != "p999" else None)
    row("TCP to TCP at %s, how late the driver is, p99" % rate, name,
        "driver p99", None, "ms")
row("inside a worker at 10 k/s, p50 / bare", "inside", "ours p50",
    "bare p50", "us", "ratio <= 2")
row("inside a worker at 10 k/s, p99.99 / bare", "inside", "ours p9999",
    "bare p9999", "ms", "ours <= 1")
row("sustainable TCP to TCP, p99 <= 100 ms / asyncio", "sustained", "ours",
    "loop")
row("half load for minutes, p99.9 / p50", "half_load", "ours p999",
    "ours p50", "ms", "ratio <= 10")
row("half load for minutes, longest silence", "half_load", "gap", None,
    "ms", "ours <= 250")
row("half load for minutes, the load", "half_load", "rate")

row("1 M keys, memory of a key over Python's", "state", "bytes per key",
    "python", "bytes", "ours <= 150")
row("1 M dirty keys, longest pause of a run", "state", "pause longest",
    None, "ms", "ours <= 5")
row("1 M dirty keys, longest pause of the median second", "state",
    "pause median", None, "ms", "ours <= 5")
row("1 M dirty keys, longest pause of a run, others' time taken off", "state",
    "own longest", None, "ms", "ours <= 5")
row("1 M dirty keys, longest of the median second, others' time taken off",
    "state", "own median", None, "ms", "ours <= 5")
row("1 M dirty keys, p99.9 between two events", "state", "gap p999", None,
    "ms", "ours <= 5")
row("1 M dirty keys, checkpoints in 15 s", "state", "checkpoints", None,
    "")
for keys, title in (("10000", "10 k"), ("100000", "100 k"),
                    ("1000000", "1 M")):
    row("kill -9 to the next output, %s keys" % title, "recovery", keys,
        None, "ms", "ours <= 250")
row("kill -9 to the next output, 1 M keys / 10 k", "recovery", "1000000",
    "10000", "ms", "ratio <= 1.5")
row("1 M keys, saturating TCP load, all change / asyncio", "state",
    "ours rate", "loop rate")
row("growth of a worker whose receiver stands still", "pressure", "growth",
    None, "MiB")

for kind, title in (("words", "word count"), ("counter", "keyed counter")):
    for way, goal in (("default", "ratio >= 3"), ("tuned", "ratio >= 3"),
                      ("recovery", "ratio >= 5"), ("two processes", None)):
        both("%s / Bytewax, %s" % (title, way), "bytewax", kind + " ours",
             "%s %s" % (kind, way), goal if kind == "words" else None)
for kind, way, title in (
        ("words", "native", "word count / Pathway, native"),
        ("words", "python", "word count / Pathway, same functions"),
        ("counter", "python", "keyed counter / Pathway, same functions")):
    both(title, "pathway", kind + " ours", "%s %s" % (kind, way))
for name, title in (("bytewax_latency", "Bytewax"),
                    ("pathway_latency", "Pathway")):
    for rate in (1000, 10000):
        for key in ("p50", "p99"):
            row("TCP to TCP at %d k/s, %s / %s" % (rate // 1000, key, title),
                name, "ours %d %s" % (rate, key),
                "peer %d %s" % (rate, key), "ms")
for query in nexmark.QUERIES:
    for reference, title in (
            ("bare", "bare loop"), ("Bytewax", "Bytewax"),
            ("Pathway", "Pathway")):
        both("Nexmark %s / %s" % (query, title), "nexmark_queries",
             query + " ours", "%s %s" % (query, reference))
both("Kafka to Kafka exactly once / bare loop", "kafka", "ours", "bare",
     "ratio >= 0.7")
for way, title, goal in (
        ("transactions", "bare loop with transactions", None),
        ("Bytewax default", "Bytewax, default", None),
        ("Bytewax recovery", "Bytewax, recovery", "ratio >= 2"),
        ("Bytewax two", "Bytewax, recovery, two processes", "ratio >= 2"),
        ("Quix at least once", "Quix Streams, at least once", None),
        ("Quix exactly once", "Quix Streams, exactly once", "ratio >= 2")):
    both("Kafka to Kafka exactly once / " + title, "kafka", "ours", way,
         goal)
for way, goal in (("at least once", None), ("exactly once", "ratio >= 2")):
    both("Kafka to Kafka exactly once / Faust, " + way, "kafka_faust",
         "ours", "Faust " + way, goal)
for key in ("p50", "p99"):
    row("Kafka to Kafka at 1 k/s, %s / bare loop with transactions" % key,
        "kafka_latency", "ours " + key, "transactions " + key, "ms")
    row("Kafka to Kafka at 1 k/s, %s / bare loop" % key, "kafka_latency",
        "ours " + key, "plain " + key, "ms")
row("Kafka to Kafka, kill -9 of a worker, silence of a partition",
    "kafka_silence", "silence", None, "ms", "ours <= 1000")
for kind, title in (("words", "word count"), ("counter", "keyed counter")):
    for way in ("process", "thread"):
        both("%s / PyFlink, %s" % (title, way), "pyflink", kind + " ours",
             "%s %s" % (kind, way))
