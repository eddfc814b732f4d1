"""From topic to topic: each output once, in order, whoever dies."""

import collections
import random
import time

import harness
from kafka import Cluster, client
from killer import Killer

COUNT = {"long": 200000}.get(harness.LEVEL, 20000)
PARTITIONS = 8
KEYS = 40		# of each partition; the second exchange joins them
KILLS = {"long": 60}.get(harness.LEVEL, 6)

APP = '''
import wallaroo


class Total:
    n = 0


@wallaroo.key_extractor
def own(item):
    return "%s:%s" % item[:2]


@wallaroo.key_extractor
def common(item):
    return item[1]


@wallaroo.state_computation(name="Number", state=Total)
def number(item, state):
    state.n += 1
    return item + (str(state.n),)


@wallaroo.state_computation(name="Join", state=Total)
def join(item, state):
    state.n += 1
    return item + (str(state.n),)


@wallaroo.encoder
def encode(item):
    return (" ".join(item), item[1])


def application_setup(args):
    brokers, source, others, target = args[1:5]
    return wallaroo.build_application("both", (
        wallaroo.source("in", wallaroo.KafkaSource(
            source, brokers, "both-" + source,
            record=lambda r: (str(r.partition), r.key.decode(),
                              r.value.decode().strip())))
        .key_by(own)
        .to(number)
        .key_by(common)
        .to(join)
        .to_sink(wallaroo.KafkaSink(target, others, encode))))
'''


class Inputs:
    """Records by their numbers: which partition, which key."""

    def __init__(self, kafka, topic, partitions=PARTITIONS):
        self.kafka = kafka
        self.topic = topic
        self.values = []
        self.open(partitions)

    def open(self, partitions):
        """A producer; one that runs is slow to see that there are more."""
        self.partitions = partitions
        self.producer = client().Producer({
            "bootstrap.servers": self.kafka.brokers, "linger.ms": 5,
            "enable.idempotence": True})

    def produce(self, n, wait=True, size=0):
        for value in range(len(self.values), len(self.values) + n):
            place = value % self.partitions
            key = "k%d" % (value // 8 * 7919 % KEYS)
            self.values.append((place, key))
            while True:
                try:
                    self.producer.produce(
                        self.topic, str(value).ljust(size), key, place)
                    break
                except BufferError:
                    self.producer.poll(0.1)
            self.producer.poll(0)
        if wait:
            self.flush()

    def flush(self):
        assert self.producer.flush(240) == 0


def begin(cluster, kafka, name, workers=3, partitions=PARTITIONS,
          target=None, settings=None, **more):
    target = target or kafka
    kafka.create_topic("in-" + name, partitions)
    target.create_topic("out-" + name, PARTITIONS)
    app = cluster(APP, workers=workers,
                  settings={"kafka-look": 0.5, **(settings or {})}, **more)
    app.write_conf(args=[kafka.brokers, "in-" + name, target.brokers,
                         "out-" + name])
    app.start()
    return app, Inputs(kafka, "in-" + name, partitions)


def wait_done(kafka, name, count):
    harness.wait_for(lambda: len(kafka.read("out-" + name)) >= count,
                     "%d outputs" % count, limit=120, step=0.5)


def check(kafka, name, inputs):
    """Each once; what the steps have counted is the order in the topic."""
    outputs = kafka.read("out-" + name)
    seen, joined = collections.Counter(), collections.Counter()
    last, places = {}, {}
    found = []
    for message in outputs:
        place, key, value, own, common = message.value().decode().split()
        assert message.key().decode() == key
        assert places.setdefault(key, message.partition()) == \
            message.partition()
        found.append(int(value))
        assert inputs.values[int(value)] == (int(place), key)
        seen[place, key] += 1
        joined[key] += 1
        assert (int(own), int(common)) == (seen[place, key], joined[key])
        assert last.get((place, key), -1) < int(value)
        last[place, key] = int(value)
    assert sorted(found) == list(range(len(inputs.values)))


def nothing_in_doubt(app, kafka):
    """The application knows, and so do the brokers."""
    assert not app.log_contains("stopped before the brokers")
    listed = kafka.tool("org.apache.kafka.tools.TransactionsCommand",
                        "--bootstrap-server", kafka.brokers, "list")
    states = {line.split()[0]: line.split()[3]
              for line in listed.splitlines()
              if line.startswith("wallaroo-both-")}
    assert len(states) == 3
    assert set(states.values()) <= {"Empty", "CompleteCommit",
                                    "CompleteAbort"}, listed


def lags(kafka, name):
    return sorted((row["partition"], row["lag"])
                  for row in kafka.lag("both-in-" + name))


def test_each_once_and_in_order(cluster):
    """A worker is killed each second, the broker twice."""
    rng, name = random.Random(7), "killed"
    with Cluster() as kafka:
        app, inputs = begin(cluster, kafka, name)
        killer = Killer(app, 5)
        for kill in range(KILLS):
            inputs.produce(COUNT // KILLS // 2, wait=False)
            if kill in (KILLS // 3, KILLS * 2 // 3):
                kafka.kill(1)
                killer.kill_random()
                kafka.start(1)
            else:
                killer.kill_random()
            inputs.produce(COUNT // KILLS // 2, wait=False)
            time.sleep(0.5 + rng.random())
        inputs.produce(COUNT - len(inputs.values))
        wait_done(kafka, name, COUNT)
        killer.check()
        check(kafka, name, inputs)
        app.stop()
        nothing_in_doubt(app, kafka)
        # What is there while nobody reads is what Kafka's tool shows.
        assert lags(kafka, name) == [(p, 0) for p in range(PARTITIONS)]
        inputs.produce(PARTITIONS * 5)
        assert lags(kafka, name) == [(p, 5) for p in range(PARTITIONS)]
        app.start()
        wait_done(kafka, name, COUNT + PARTITIONS * 5)
        app.stop()
        check(kafka, name, inputs)
        nothing_in_doubt(app, kafka)
        assert lags(kafka, name) == [(p, 0) for p in range(PARTITIONS)]


def partitions(app):
    return {row["partition"]: row for row in app.status()["partitions"]}


def waits(app):
    sink, = [s for s in app.status()["sinks"] if s["kind"] == "kafka"]
    return sink["waits"]


def test_a_sink_that_is_away(cluster, broker):
    """Pressure reaches the source, status says which sink waits, what for,
    and how much has to be read; nothing is lost."""
    name = "away"
    with Cluster() as target:
        app, inputs = begin(
            cluster, broker, name, workers=2, target=target,
            settings={"outbox-mark": 64 << 10, "journal-size": 1 << 20,
                      "max-message": 1 << 16})
        inputs.produce(PARTITIONS)
        wait_done(target, name, PARTITIONS)
        assert waits(app) == ""
        target.kill(1)
        inputs.produce(12000, size=1000)	# more than fits inside
        app.wait_log("outputs wait.*kafka:out-away")
        assert "kafka:out-away" in harness.wait_for(
            lambda: waits(app), "a sink that waits")

        def all_told():
            rows = partitions(app)
            return len(rows) == PARTITIONS and sum(
                row["lag"] for row in rows.values()) > 0 and rows
        rows = harness.wait_for(all_told, "all partitions, and a lag")
        assert {(p, row["worker"]) for p, row in rows.items()} == \
            {(p, p % 2) for p in range(PARTITIONS)}
        assert {(row["source"], row["topic"]) for row in rows.values()} == \
            {("in", "in-away")}
        text = app.ctl_raw("status").stdout.decode()
        assert "in-away" in text and "LAG" in text and "WAITS" in text
        target.start(1)
        wait_done(target, name, len(inputs.values))
        harness.wait_for(lambda: not any(
            row["lag"] for row in partitions(app).values()), "no lag")
        harness.wait_for(lambda: waits(app) == "",
                         "a sink that does not wait")
        app.stop()
        check(target, name, inputs)


def test_a_broker_of_three_and_more_partitions(cluster):
    """One broker at a time dies, also the one that coordinates the
    transactions; partitions come."""
    name = "three"
    with Cluster(nodes=3, heap="384m") as kafka:
        app, inputs = begin(cluster, kafka, name, partitions=3)
        for number in (1, 2, 3):
            inputs.produce(1000, wait=False)
            kafka.kill(number)
            app.kill9(number % 3)
            inputs.produce(1000)
            if number == 2:
                kafka.add_partitions("in-" + name, PARTITIONS)
                inputs.open(PARTITIONS)
            # The outputs come with two of three.
            wait_done(kafka, name, len(inputs.values))
            kafka.start(number)
        app.stop()
        check(kafka, name, inputs)
        nothing_in_doubt(app, kafka)
