"""Sources in Kafka: every record once, whoever dies; positions are refused
rather than guessed."""

import collections
import json
import random
import re
import time

import pytest

from harness import EXIT_PERMANENT, wait_for
from kafka import Cluster, client

APP = '''
import json
import wallaroo


class Seen:
    n = 0


@wallaroo.state_computation(name="Count", state=Seen)
def count(record, state):
    state.n += 1
    return [record.topic, record.partition, record.offset,
            record.key.decode(), state.n, record.value.decode(),
            record.timestamp, dict(record.headers).get("h", b"").decode()]


@wallaroo.encoder
def encode(message):
    return json.dumps(message).encode() + b"\\n"


def application_setup(args):
    options = json.loads(args[3])
    topic = options.pop("topic")
    return wallaroo.build_application("kafka in", (
        wallaroo.source("in", wallaroo.KafkaSource(
            topic, args[1], "tests-" + topic,
            record=lambda record: record,
            **options))
        .to(count)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''

Row = collections.namedtuple(
    "Row", "topic partition offset key count value time header")
KEYS = 50
BASE = int(time.time()) * 1000	# older records are not kept
numbers = iter(range(1, 1000))


@pytest.fixture
def topic(broker):
    """Make a topic of its own."""
    def make(partitions, **settings):
        name = "in-%d" % next(numbers)
        broker.create_topic(name, partitions, settings)
        return name
    return make


def produce(broker, topic, values, partitions):
    """Each value by the key that it has modulo KEYS, in its partition."""
    producer = client().Producer({
        "bootstrap.servers": broker.brokers, "linger.ms": 5})
    for value in values:
        while True:
            try:
                producer.produce(
                    topic, b"v%d" % value, b"k%d" % (value % KEYS),
                    value % KEYS % partitions, timestamp=BASE + value,
                    headers=[("h", b"%d" % value)])
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0


@pytest.fixture
def reading(broker, cluster):
    def make(topic, workers=3, settings=None, **options):
        app = cluster(APP, workers=workers,
                      settings={"kafka-look": 0.2, **(settings or {})})
        app.options = dict(options, topic=topic)
        set_args(broker, app)
        return app
    return make


def set_args(broker, app):
    app.write_conf(args=[broker.brokers, app.out("output"),
                         json.dumps(app.options)])


def rows(app):
    return [Row(*json.loads(line))
            for line in app.read_out("output").splitlines()]


def check(found, values):
    """Each once; per key in the order in which they were produced."""
    assert sorted(int(row.value[1:]) for row in found) == sorted(values)
    at = collections.defaultdict(list)
    for row in found:
        value = int(row.value[1:])
        assert (row.key, row.time, row.header) == (
            "k%d" % (value % KEYS), BASE + value, str(value))
        at[row.key].append(row)
    for key, mine in at.items():
        assert [row.count for row in mine] == list(range(1, len(mine) + 1))
        for place in {row[:2] for row in mine}:
            offsets = [r.offset for r in mine if r[:2] == place]
            assert offsets == sorted(set(offsets))


def wait_rows(app, n):
    wait_for(lambda: app.read_out("output").count(b"\n") >= n,
             "%d records" % n, limit=60)


def test_each_record_once_under_kills(broker, topic, reading):
    """A finite run: it ends when all that was there is read."""
    name, values, rng = topic(8), range(20000), random.Random(3)
    produce(broker, name, values, 8)
    app = reading(name, settings={"at-end": "stop", "stop-timeout": 0})
    app.start()
    for part in range(1, 7):
        wait_for(lambda: app.read_out("output").count(b"\n") >=
                 part * len(values) // 8 or app.process.poll() is not None,
                 "a part of the records", limit=60)
        if app.process.poll() is None:
            app.kill9(rng.randrange(3))
    assert app.wait_exit(120) == 0, app.log_tail()
    check(rows(app), values)


def test_one_finite_run_after_the_other(broker, topic, reading):
    name = topic(4)
    app = reading(name, 2, {"at-end": "stop"})
    for run in range(3):
        produce(broker, name, range(run * 500, run * 500 + 500), 4)
        assert app.run_to_exit(limit=60)[0] == 0, app.log_tail()
        check(rows(app), range(run * 500 + 500))
    assert app.run_to_exit(limit=60)[0] == 0, app.log_tail()
    check(rows(app), range(1500))


def test_on_and_on(broker, topic, reading):
    """Records that come later, another number of workers, new partitions,
    and what Kafka's own tools see."""
    name = topic(3)
    produce(broker, name, range(0, 900), 3)
    app = reading(name)
    app.start()
    wait_rows(app, 900)
    wait_for(lambda: sorted((r["partition"], r["lag"])
                            for r in broker.lag("tests-" + name)) ==
             [(0, 0), (1, 0), (2, 0)], "a lag of nothing", limit=90)
    wait_for(lambda: app.stat("kafka_lag") == 0, "a lag of nothing")
    produce(broker, name, range(900, 1200), 3)
    wait_rows(app, 1200)
    app.stop()
    # Who stops leaves nothing untold.
    assert [r["lag"] for r in broker.lag("tests-" + name)] == [0, 0, 0]
    produce(broker, name, range(1200, 1800), 3)
    app.write_conf(workers=2)
    app.start()
    wait_rows(app, 1800)
    broker.add_partitions(name, 5)
    produce(broker, name, range(1800, 2700), 5)
    wait_rows(app, 2700)
    app.stop()
    check(rows(app), range(2700))
    assert {row.partition for row in rows(app)} == set(range(5))


def test_pattern_finds_topics(broker, topic, reading):
    produce(broker, topic(2), range(0, 100), 2)
    app = reading("^in-pattern-[0-9]+$", start="latest")
    app.start()
    # What comes into being later is read from its first record.
    broker.create_topic("in-pattern-1", 2)
    produce(broker, "in-pattern-1", range(100, 200), 2)
    wait_rows(app, 100)
    app.kill9(0)
    broker.create_topic("in-pattern-22", 1)
    produce(broker, "in-pattern-22", range(200, 300), 1)
    wait_rows(app, 200)
    app.stop()
    check(rows(app), range(100, 300))


def test_a_start_is_chosen_once(broker, topic, reading):
    """Killed before the first checkpoint, it begins where it did."""
    name = topic(3)
    produce(broker, name, range(0, 300), 3)
    app = reading(name, start="latest",
                  settings={"checkpoint-interval": 3600})
    app.start()
    wait_for(lambda: app.log().count("found a partition") == 3,
             "three partitions", limit=60)
    old = app.pids()
    for worker in range(3):
        app.kill9(worker)
    produce(broker, name, range(300, 600), 3)
    for worker in range(3):
        app.wait_replaced(worker, old[worker], limit=60)
    wait_rows(app, 300)
    app.stop()
    check(rows(app), range(300, 600))


@pytest.mark.parametrize("start, first", [(-10, 90), (30, 30)])
def test_start_at(broker, topic, reading, start, first):
    name = topic(1)
    produce(broker, name, range(0, 100), 1)
    app = reading(name, 1, {"at-end": "stop"}, start=start)
    assert app.run_to_exit(limit=60)[0] == 0, app.log_tail()
    check(rows(app), range(first, 100))


def refused(app, text):
    code, log = app.run_to_exit(limit=120)
    assert code == EXIT_PERMANENT, log
    assert re.search(text, log), log


def test_what_is_refused(broker, topic, reading):
    name = topic(1)
    produce(broker, name, range(0, 100), 1)
    app = reading(name, 1)
    app.start()
    wait_rows(app, 100)
    app.stop()
    before = rows(app)

    # Records that were not read are removed.
    produce(broker, name, range(100, 200), 1)
    ck = client()
    broker.admin().delete_records(
        [ck.TopicPartition(name, 0, 150)])[
            ck.TopicPartition(name, 0, 150)].result(60)
    refused(app, "read up to offset 100, but begins at 150: .*50 offsets")

    # The topic is another one.
    broker.delete_topic(name)
    refused(app, "create the topic by kafka-topics --create")
    broker.create_topic(name, 1)
    produce(broker, name, range(0, 10), 1)
    refused(app, "read up to offset 100, but ends at 10: ")
    assert rows(app) == before


def test_removed_while_it_runs(broker, topic, reading):
    """Neither is another beginning chosen when a fetch says so."""
    name = topic(1)
    produce(broker, name, range(0, 100), 1)
    app = reading(name, 1)
    app.start()
    wait_rows(app, 100)
    broker.delete_topic(name)
    broker.create_topic(name, 1)
    produce(broker, name, range(0, 10), 1)
    assert app.wait_exit(180) == EXIT_PERMANENT, app.log_tail()
    assert len(rows(app)) == 100


def test_a_start_that_is_not_there(broker, topic, reading):
    name = topic(1)
    refused(reading(name, 1, start=5),
            "has the offsets from 0 to 0, so it cannot be read from 5")
    refused(reading(name, 1, config={"fetch.min.bytes": "many"}),
            "source \"in\" in Kafka: setting fetch.min.bytes")


def test_only_what_is_committed(broker, topic, reading):
    """An aborted transaction's records are not read; the lag is nothing
    though a marker stands at the end."""
    name = topic(1)
    producer = client().Producer({
        "bootstrap.servers": broker.brokers, "transactional.id": name})
    producer.init_transactions(60)
    for values, end in ((range(0, 10), producer.commit_transaction),
                        (range(10, 20), producer.abort_transaction),
                        (range(20, 30), producer.commit_transaction)):
        producer.begin_transaction()
        for value in values:
            producer.produce(name, b"v%d" % value, b"k%d" % (value % KEYS),
                             0, timestamp=BASE + value,
                             headers=[("h", b"%d" % value)])
        producer.flush(60)
        end(60)
    app = reading(name, 1, {"at-end": "stop"})
    assert app.run_to_exit(limit=60)[0] == 0, app.log_tail()
    check(rows(app), [*range(0, 10), *range(20, 30)])


def test_pressure(broker, topic, reading):
    """More than fits into the journal between two checkpoints."""
    name, size = topic(4), 4000
    producer = client().Producer({
        "bootstrap.servers": broker.brokers, "linger.ms": 20})
    for n in range(4000):
        producer.produce(name, b"x" * size, b"k%d" % n, n % 4)
        producer.poll(0)
    assert producer.flush(60) == 0
    app = reading(name, 2, {
        "at-end": "stop", "journal-size": 1 << 20, "max-message": 1 << 16},
        config={"queued.max.messages.kbytes": 512})
    assert app.run_to_exit(limit=120)[0] == 0, app.log_tail()
    found = rows(app)
    assert len({(row.partition, row.offset) for row in found}) == 4000
    assert len(found) == 4000


def test_broker_killed(cluster):
    """Reading goes on when it is there again; nobody dies of it."""
    with Cluster() as kafka:
        kafka.create_topic("in", 2)
        produce(kafka, "in", range(0, 1000), 2)
        app = cluster(APP, workers=2, settings={"kafka-look": 0.2})
        app.options = {"topic": "in"}
        set_args(kafka, app)
        app.start()
        wait_rows(app, 1000)
        pids = app.pids()
        for n in range(1, 3):
            kafka.kill(1)
            if n == 2:			# a worker that finds nobody
                app.kill9(0)
                app.wait_replaced(0, pids[0], limit=60)
            kafka.start(1)
            produce(kafka, "in", range(n * 1000, n * 1000 + 1000), 2)
            wait_rows(app, n * 1000 + 1000)
        assert app.pids()[1] == pids[1]
        app.stop()
        check(rows(app), range(3000))
