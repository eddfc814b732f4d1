"""Outputs to Kafka, each exactly once, whoever dies."""

import os
import random
import signal
import time

import pytest

import harness
from kafka import Cluster, client
from killer import Killer

COUNT = 20000
KEYS = 50

APP = '''
import wallaroo
from wallaroo.codecs import lines_decoder


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.key_extractor
def first(line):
    return line.split()[0]


@wallaroo.state_computation(name="Number", state=Total)
def number(line, state):
    import select
    select.select([], [], [], PAUSE)
    state.count += 1
    return (line.split()[0], state.count, line)


@wallaroo.encoder
def encode(result):
    key, count, line = result
    return ("%s %d %s" % (key, count, line), key)


def application_setup(args):
    path, brokers, topic = args[1:4]
    return wallaroo.build_application("to kafka", (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", path, lines_decoder))
        .key_by(first)
        .to(number)
        .to_sink(wallaroo.KafkaSink(topic, brokers, encode SETTINGS))))
'''


FED = APP.replace(
    'wallaroo.FileSourceConfig(\n            "lines", path, lines_decoder)',
    'wallaroo.TCPSourceConfig(\n            "lines", "127.0.0.1", path, '
    'lines_decoder)')


def application(pause=0.0, settings=""):
    return APP.replace("PAUSE", repr(pause)).replace("SETTINGS", settings)


def lines(count=COUNT):
    return ["k%d line%d" % (i * 7919 % KEYS, i) for i in range(count)]


def expected(given):
    """Per key, in order."""
    result = {}
    for line in given:
        key = line.split()[0]
        of_key = result.setdefault(key, [])
        of_key.append("%s %d %s" % (key, len(of_key) + 1, line))
    return result


def got(messages):
    """The same of what a reader has: a key is in one partition."""
    result, partition = {}, {}
    for message in messages:
        key = message.key().decode()
        assert partition.setdefault(key, message.partition()) == \
            message.partition()
        result.setdefault(key, []).append(message.value().decode())
    return result


def begin(cluster, kafka, topic, given, workers=3, source=None, **more):
    kafka.create_topic(topic, 4)
    app = cluster(source or application(), workers=workers, **more)
    path = app.write("input", "\n".join(given) + "\n")
    app.write_conf(args=[path, kafka.brokers, topic])
    app.start()
    return app


def fed(cluster, kafka, topic, workers, create=True, **more):
    """The same with a source that is fed."""
    port = harness.free_port()
    if create:
        kafka.create_topic(topic, 4)
    app = cluster(FED.replace("PAUSE", "0").replace("SETTINGS", ""),
                  workers=workers, **more)
    app.write_conf(args=[str(port), kafka.brokers, topic])
    app.start()
    return app, port


def feed(app, kafka, topic, port, given, first, last):
    """These lines, until all up to the last are in the topic."""
    with harness.Feeder(port) as feeder:
        feeder.send(("\n".join(given[first:last]) + "\n").encode())
        feeder.half_close()
        wait_done(app, kafka, topic, last)


def wait_done(app, kafka, topic, count):
    """So many records are committed."""
    def enough():
        return len(kafka.read(topic)) >= count
    harness.wait_for(enough, "%d records in the topic" % count, limit=240,
                     step=0.5)


def group(topic, worker):
    return "wallaroo-to-kafka-kafka-%s-%d" % (topic, worker)


def test_every_output_once(cluster, broker):
    given = lines()
    # Transactions that end because they are full, too.
    app = begin(cluster, broker, "clean", given,
                settings={"outbox-mark": 64 << 10})
    wait_done(app, broker, "clean", len(given))
    app.stop()
    assert got(broker.read("clean")) == expected(given)
    # A position that is known to the byte after the stop.
    assert not app.log_contains("stopped before the brokers")
    assert broker.lag(group("clean", 0))


def test_workers_are_killed(cluster, broker):
    given = lines()
    app = begin(cluster, broker, "killed", given,
                source=application(pause=0.002))
    killer, rng = Killer(app, 1), random.Random(2)
    for _ in range(12):			# the work lasts some seconds
        killer.kill_random(rng.randrange(1, 4))
        time.sleep(rng.random() * 0.4)
    wait_done(app, broker, "killed", len(given))
    killer.check()
    app.stop()
    assert killer.kills >= 3
    assert got(broker.read("killed")) == expected(given)


def test_the_broker_is_killed_twice(cluster):
    given = lines()
    with Cluster() as kafka:
        app = begin(cluster, kafka, "away", given,
                    source=application(pause=0.0005))
        for part in (1, 2):
            wait_done(app, kafka, "away", len(given) * part // 4)
            kafka.kill(1)
            app.kill9(part)
            kafka.start(1)
        wait_done(app, kafka, "away", len(given))
        app.stop()
        assert got(kafka.read("away")) == expected(given)


def test_it_goes_on_after_a_stop(cluster, broker):
    given = lines(2000)
    app, port = fed(cluster, broker, "again", workers=2)
    feed(app, broker, "again", port, given, 0, 1200)
    app.stop()
    app.start()
    feed(app, broker, "again", port, given, 1200, 2000)
    app.stop()
    assert got(broker.read("again")) == expected(given)


def test_another_producer_commits_nothing(cluster, broker):
    """With our name: it ends our transaction, we end its."""
    ck = client()
    given = lines(2000)
    app, port = fed(cluster, broker, "fenced", workers=1)
    feed(app, broker, "fenced", port, given, 0, 1200)
    other = ck.Producer({
        "bootstrap.servers": broker.brokers,
        "transactional.id": group("fenced", 0)})
    since = app.log_size()
    other.init_transactions(60)
    other.begin_transaction()
    other.produce("fenced", "not ours", key="k1")
    feed(app, broker, "fenced", port, given, 1200, 2000)
    app.wait_log("topic is ready", since=since)
    with pytest.raises(ck.KafkaException):
        other.commit_transaction(60)
    app.stop()
    assert got(broker.read("fenced")) == expected(given)


def test_a_zombie_commits_nothing(cluster, broker):
    """An application is silent while another of its name, with files of its
    own, takes its place."""
    given = lines(2000)
    old, old_port = fed(cluster, broker, "zombie", workers=1)
    feed(old, broker, "zombie", old_port, given, 0, 1200)
    stopped = [old.supervisor_pid(), old.pids()[0]]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    new, new_port = fed(cluster, broker, "zombie", workers=1, create=False)
    with harness.Feeder(new_port) as feeder:
        feeder.send(("\n".join(given[:500]) + "\n").encode())
        wait_done(new, broker, "zombie", 1700)
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        with harness.Feeder(old_port) as late:
            late.send(("\n".join(given[1200:]) + "\n").encode())
            old.wait_log("another owner writes")
            assert old.wait_exit() == harness.EXIT_PERMANENT
        feeder.send(("\n".join(given[500:700]) + "\n").encode())
        wait_done(new, broker, "zombie", 1900)
    new.stop()
    values = [m.value().decode() for m in broker.read("zombie")]
    once = {v for of_key in expected(given[:1200]).values() for v in of_key}
    twice = {v for of_key in expected(given[:700]).values() for v in of_key}
    assert sorted(values) == sorted([*once, *twice])


def test_a_position_that_is_gone(cluster, broker):
    given = lines(2000)
    app, port = fed(cluster, broker, "gone", workers=1)
    feed(app, broker, "gone", port, given, 0, 1200)
    app.stop()
    before = got(broker.read("gone"))
    broker.delete_group(group("gone", 0))
    app.launch()
    assert app.wait_exit() == harness.EXIT_PERMANENT
    assert app.log_contains("Kafka has forgotten how far")
    assert got(broker.read("gone")) == before
    # What the text names; after a clean stop nothing comes twice.
    app.start("--accept-loss")
    feed(app, broker, "gone", port, given, 1200, 2000)
    app.stop()
    assert got(broker.read("gone")) == expected(given)


def test_at_least_once(cluster, broker):
    given = lines(3000)
    app = begin(cluster, broker, "often", given, workers=2,
                source=application(settings=", exactly_once=False"))
    wait_done(app, broker, "often", len(given))
    app.stop()
    assert got(broker.read("often")) == expected(given)
