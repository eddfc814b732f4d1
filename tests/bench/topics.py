"""Run the sums from a topic to a topic, by whomever, and count its seconds.

The broker is a real one (tests/kafka), on this machine's processors, too.
What is measured is what it says: the times at which it has appended the
outputs, from a tenth of them to the last.  Neither the start of a program nor
what warms it up is in it, and nobody has to look while it runs.
"""

import bisect
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

import sums
import sut
from sut import NotRun, harness

KAFKA = os.path.join(os.path.dirname(sut.HERE), "kafka")
PATIENCE = 120		# seconds for all records
READ_FOR = 60		# seconds without a record that must be there


def module():
    """tests/kafka/kafka.py."""
    if KAFKA not in sys.path:
        sys.path.insert(0, KAFKA)
    import kafka
    return kafka


def versions():
    kafka = module()
    return ["Kafka " + kafka.DEFAULT, kafka.CLIENT]


def fetched():
    """The same module, with all that it needs."""
    kafka = module()
    try:
        kafka.jars()
        kafka.client()
    except (kafka.KafkaError, OSError, subprocess.TimeoutExpired) as error:
        raise NotRun("no broker: %s" % error) from None
    return kafka


def client_path():
    """Where the client for Python is."""
    return os.path.dirname(os.path.dirname(fetched().client().__file__))


@contextlib.contextmanager
def broker():
    with fetched().Cluster(heap="1g") as cluster:
        yield cluster


def fill(cluster, topic, count):
    """A topic with so many records; their sums by key."""
    from confluent_kafka import Producer
    cluster.create_topic(topic, sums.PARTITIONS)
    producer = Producer({"bootstrap.servers": cluster.brokers,
                         "linger.ms": 20, "batch.num.messages": 10000,
                         "queue.buffering.max.messages": count + 1,
                         "partitioner": "murmur2_random"})
    expected = {}
    for number in range(count):
        key, text = sums.record(number)
        expected[key] = expected.get(key, 0) + sums.decode(text)["value"]
        producer.produce(topic, text, key)
    if producer.flush(sut.LIMIT) != 0:
        raise RuntimeError("the broker does not take the records")
    return expected


class Samples:
    """How much processor time was used at which times."""

    def __init__(self, used):
        self.used = used
        self.times, self.values = [], []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while True:
            self.times.append(time.time())
            self.values.append(self.used())
            if self.ended.wait(0.1):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def at(self, when):
        """Between two samples, as if it had been used evenly."""
        after = min(max(bisect.bisect(self.times, when), 1),
                    len(self.times) - 1)
        (one, two), (low, high) = (self.times[after - 1:after + 1],
                                   self.values[after - 1:after + 1])
        share = min(max((when - one) / (two - one), 0), 1)
        return low + (high - low) * share


class Program:
    """A program of somebody's, and all the processes it has made."""

    def __init__(self, bench, python, program, *arguments):
        self.mark = uuid.uuid4().hex
        self.name = program
        directory = bench.path("peer")
        shutil.rmtree(directory, ignore_errors=True)
        os.mkdir(directory)
        self.errors = bench.path("peer.errors")
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [python, sut.here(program), *arguments, directory],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                cwd=directory, env=dict(
                    os.environ, PYTHONDONTWRITEBYTECODE="1",
                    PYTHONPATH=client_path() if python == sys.executable
                    else "", WALLAROO_TEST_MARK=self.mark))

    def used(self):
        return sum(sut.used_by(pid, True)
                   for pid in harness.processes_marked(self.mark))

    def check(self):
        if self.process.poll() is None:
            return
        with open(self.errors, errors="replace") as errors:
            raise RuntimeError("%s ended (%d): %s" % (
                self.name, self.process.returncode, errors.read()[-500:]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in harness.processes_marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Ours:
    """The application in a cluster."""

    def __init__(self, bench, *arguments, workers=1, settings=None):
        self.app = sut.cluster("kafka_app.py", workers, settings=settings,
                               files=["sums.py"])
        self.arguments = list(arguments)

    def used(self):
        return sut.used_by_cluster(self.app)

    def check(self):
        if not harness.process_alive(self.app.supervisor_pid()):
            raise RuntimeError("the supervisor ended\n" +
                               self.app.log_tail())

    def __enter__(self):
        self.app.__enter__()
        try:
            self.app.write_conf(args=self.arguments)
            self.app.start(limit=sut.LIMIT)
        except BaseException:
            cannot = self.app.log_contains("without Kafka|without librdkafka")
            self.app.__exit__(*([None] * 3 if cannot else sys.exc_info()))
            if cannot:
                raise NotRun("these programs have no Kafka") from None
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.app.stop(limit=sut.LIMIT)
        self.app.__exit__(kind, value, trace)


def reader(cluster, topic):
    """Of what is committed, from the first record."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
    consumer = Consumer({
        "bootstrap.servers": cluster.brokers, "group.id": uuid.uuid4().hex,
        "enable.auto.commit": False, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING)
                     for number in range(sums.PARTITIONS)])
    return consumer


def wait_written(consumer, topic, count, check):
    """As many records as that; marks of transactions are among them."""
    from confluent_kafka import KafkaException, TopicPartition
    deadline = time.monotonic() + PATIENCE
    places = [TopicPartition(topic, number)
              for number in range(sums.PARTITIONS)]
    written = 0
    while True:
        # A topic's leader may not be known yet.
        with contextlib.suppress(KafkaException):
            written = sum(consumer.get_watermark_offsets(place, timeout=30)[1]
                          for place in places)
        if written >= count:
            return
        check()
        if time.monotonic() > deadline:
            raise RuntimeError("%d of %d records after %d s" % (
                written, count, PATIENCE))
        time.sleep(0.2)


def read(consumer, count):
    """(times, sums by key) of so many records, and of what follows within a
    second."""
    times, totals = [], {}
    since = time.monotonic()
    while time.monotonic() - since < (READ_FOR if len(times) < count else 1):
        for message in consumer.consume(10000, 0.2):
            if message.error():
                raise RuntimeError(str(message.error()))
            data = sums.decode(message.value())
            times.append(message.timestamp()[1] / 1000)
            totals[data["key"]] = max(totals.get(data["key"], 0),
                                      data["sum"])
            since = time.monotonic()
    times.sort()
    return times, totals


def run(cluster, source, count, expected, system):
    """(events, seconds, CPU seconds) of nine tenths of the records.  system:
    called with the two topics, gives a Program or Ours."""
    target = "out-" + uuid.uuid4().hex
    cluster.create_topic(target, sums.PARTITIONS, {
        "message.timestamp.type": "LogAppendTime"})
    consumer = reader(cluster, target)
    try:
        with system(cluster.brokers, source, target) as program:
            with Samples(program.used) as samples:
                wait_written(consumer, target, count, program.check)
            times, totals = read(consumer, count)
    finally:
        consumer.close()
    if len(times) != count or totals != expected:
        raise AssertionError("wrong output: %d records of %d, sums %s" % (
            len(times), count, "wrong" if totals != expected else "right"))
    begun, ended = times[count // 10], times[-1]
    if ended - begun < 0.1:
        raise NotRun("too short to be measured")
    return (count - count // 10, ended - begun,
            samples.at(ended) - samples.at(begun))


def drive(bench, cluster, rate, seconds, system, kill=None):
    """What kafka_driver.py says of an open loop.  kill: gives the process to
    be killed in the middle."""
    source, target = ("%s-%s" % (name, uuid.uuid4().hex)
                      for name in ("in", "out"))
    for topic in (source, target):
        cluster.create_topic(topic, sums.PARTITIONS)
    with system(cluster.brokers, source, target) as program:
        arguments = [str(kill(program))] if kill else []
        return sut.run_python(
            sut.here("kafka_driver.py"), cluster.brokers, source, target,
            str(rate), str(seconds), *arguments,
            env={"PYTHONPATH": client_path()})
