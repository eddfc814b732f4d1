#!/usr/bin/env python3
"""A real Apache Kafka on this machine, for tests and benchmarks.

    import sys; sys.path.insert(0, ".../tests/kafka")
    from kafka import Cluster, client

    with Cluster() as kafka:                    # or nodes=3, version="4.1.0"
        kafka.create_topic("words", 8)
        kafka.brokers                           # "127.0.0.1:17001,..."
        kafka.kill(1)                           # kill -9 of node 1
        kafka.start(1)                          # again, same port, same data
        kafka.read("words")                     # what is committed, to the end
        kafka.lag("my-group")                   # [{"topic", "partition", ...}]
        kafka.tool("kafka.admin.ConfigCommand", "--help")   # any of its own
        ck = client()                           # the module confluent_kafka

Nodes are brokers and controllers in one (KRaft), numbered from 1, on free
ports of the loopback interface; their data and logs lie in a temporary
directory that close() removes, unless keep=True.  They end with the process
that started them, however that ends.  The limits that a broker has on time
are short, so that a dead one is noticed in 3 seconds.

As a command, for a look by hand:

    tests/kafka/kafka.py [--version V] [--nodes N] [--topic NAME:PARTITIONS]
        starts it, prints the brokers' addresses, and stops it on SIGINT
    tests/kafka/kafka.py --fetch
        only fetches everything

Jars come from Maven Central, by pom.xml and the command `mvn`; the client for
Python from PyPI, by pip.  They are kept in WALLAROO_KAFKA_CACHE, by default
the directory kafka-cache of the build directory (WALLAROO_BUILD), and are
fetched once.  Needs the Debian packages openjdk-17-jre-headless, maven and
python3-pip.
"""

import argparse
import ctypes
import fcntl
import glob
import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))

VERSIONS = ("3.9.1", "4.1.0")
DEFAULT = VERSIONS[0]
CLIENT = "confluent-kafka==2.16.1"
LIMIT = float(os.environ.get("WALLAROO_TEST_LIMIT", "120"))

PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


class KafkaError(AssertionError):
    """The brokers did not do what was waited for."""


def cache():
    """Where what was fetched is kept."""
    directory = os.environ.get("WALLAROO_KAFKA_CACHE")
    if not directory:
        build = os.environ.get("WALLAROO_BUILD") or os.getcwd()
        directory = os.path.join(build, "kafka-cache")
    os.makedirs(directory, exist_ok=True)
    return os.path.abspath(directory)


def need(command, package):
    path = shutil.which(command)
    if path is None:
        raise KafkaError("the command %s is missing: install the Debian "
                         "package %s" % (command, package))
    return path


def fetched(name, command):
    """The directory of this name in the cache; command(directory) fills it.

    Several processes may want it at once: one of them fetches.
    """
    done = os.path.join(cache(), name)
    with open(done + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(done):
            return done
        part = done + ".part"
        shutil.rmtree(part, ignore_errors=True)
        for attempt in range(3):	# a registry may be away for a moment
            run = subprocess.run(command(part), stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True,
                                 timeout=900)
            if run.returncode == 0:
                break
            time.sleep(2 << attempt)
        else:
            raise KafkaError("cannot fetch %s: %s" % (name,
                                                      run.stdout[-2000:]))
        os.rename(part, done)
        return done


def jars(version=DEFAULT):
    """The directory that has the jars of this version of Kafka."""
    return fetched("kafka-" + version, lambda directory: [
        need("mvn", "maven"), "-q", "-B", "-f",
        os.path.join(HERE, "pom.xml"), "-Dkafka.version=" + version,
        "-DincludeScope=runtime", "-DoutputDirectory=" + directory,
        "dependency:copy-dependencies"])


def client():
    """The module confluent_kafka."""
    name = "client-%s-py%d%d" % ((CLIENT.split("==")[1],) +
                                 sys.version_info[:2])
    directory = fetched(name, lambda directory: [
        sys.executable, "-m", "pip", "install", "-q", "--no-deps",
        "--only-binary", ":all:", "--target", directory, CLIENT])
    if directory not in sys.path:
        sys.path.append(directory)
    return importlib.import_module("confluent_kafka")


_given = set()


def free_port():
    """A port that no outgoing connection is given: a broker that is down for
    a while must find its own again."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low = int(file.read().split()[0])
    for _ in range(1000):
        port = random.randrange(10000, max(low, 11000))
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise KafkaError("no free port between 10000 and %d" % low)


def _ends_with_us():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Node:
    """One broker and controller."""

    def __init__(self, number, directory):
        self.number = number
        self.directory = directory
        self.port = free_port()
        self.control = free_port()
        self.config = os.path.join(directory, "server.properties")
        self.log = os.path.join(directory, "server.log")
        self.process = None

    def alive(self):
        return self.process is not None and self.process.poll() is None


class Cluster:
    """Brokers that are ready when the constructor returns."""

    def __init__(self, nodes=1, version=DEFAULT, settings=None, heap="512m",
                 java=(), keep=False):
        """settings: of the brokers, by their names in server.properties;
        java: more options of the virtual machine."""
        self.version = version
        self.keep = keep
        self.heap = heap
        self.java = list(java)
        self.settings = dict(settings or {})
        self.classes = os.path.join(jars(version), "*")
        self.command = need("java", "openjdk-17-jre-headless")
        self.directory = tempfile.mkdtemp(prefix="wallaroo-kafka-")
        self.nodes = []
        self._admin = None
        try:
            for number in range(1, nodes + 1):
                directory = os.path.join(self.directory, str(number))
                os.mkdir(directory)
                self.nodes.append(Node(number, directory))
            for node in self.nodes:
                self._configure(node)
            self._format()
            for node in self.nodes:
                self._spawn(node)
            for node in self.nodes:
                self.wait_ready(node.number)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def brokers(self):
        return ",".join("127.0.0.1:%d" % n.port for n in self.nodes)

    def node(self, number):
        return self.nodes[number - 1]

    # -- one node ---------------------------------------------------------

    def _configure(self, node):
        copies = min(3, len(self.nodes))
        values = {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": ",".join(
                "%d@127.0.0.1:%d" % (n.number, n.control)
                for n in self.nodes),
            "listeners": "PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d"
                         % (node.port, node.control),
            "advertised.listeners": "PLAINTEXT://127.0.0.1:%d" % node.port,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map":
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": os.path.join(node.directory, "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": (copies + 1) // 2,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 6,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": (copies + 1) // 2,
            "transaction.state.log.num.partitions": 6,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms":
                1000,
            "group.initial.rebalance.delay.ms": 0,
            # A killed node's registration must end before it comes back.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 8 << 20,
        }
        values.update(self.settings)
        with open(node.config, "w") as file:
            for name, value in values.items():
                file.write("%s=%s\n" % (name, value))

    def _java(self, heap, *arguments, log="info"):
        return [self.command, "-Xmx" + heap, "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
                "-Djava.awt.headless=true",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=" + log,
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                "-cp", self.classes] + list(arguments)

    def _format(self):
        """Every node's data directory belongs to this cluster."""
        started = []
        for node in self.nodes:
            started.append(subprocess.Popen(
                self._java("128m", "kafka.tools.StorageTool", "format", "-t",
                           "d2FsbGFyb28tdGVzdHMtMQ", "-c", node.config),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        for process in started:
            output = process.communicate(timeout=LIMIT)[0]
            if process.returncode != 0:
                raise KafkaError("cannot format: " + output[-2000:])

    def _spawn(self, node):
        # One file for each life: readiness is read from it.
        if os.path.exists(node.log):
            os.rename(node.log, "%s.%d" % (node.log, time.time_ns()))
        with open(node.log, "wb") as log:
            node.process = subprocess.Popen(
                [self.command] + self.java + self._java(
                    self.heap, "kafka.Kafka", node.config)[1:],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=node.directory, start_new_session=True,
                preexec_fn=_ends_with_us)

    def wait_ready(self, number):
        node = self.node(number)
        deadline = time.monotonic() + LIMIT
        while True:
            with open(node.log, errors="replace") as file:
                text = file.read()
            if "Kafka Server started" in text:
                break
            if not node.alive():
                raise KafkaError("node %d ended: %s" % (number,
                                                        text[-3000:]))
            if time.monotonic() > deadline:
                raise KafkaError("node %d is not ready after %g s: %s" % (
                    number, LIMIT, text[-3000:]))
            time.sleep(0.05)

    def start(self, number, wait=True):
        """Start a node that was killed or stopped."""
        if self.node(number).alive():
            raise KafkaError("node %d is running" % number)
        self._spawn(self.node(number))
        if wait:
            self.wait_ready(number)

    def kill(self, number):
        """kill -9"""
        self._end(number, signal.SIGKILL)

    def stop(self, number):
        """An orderly stop: leadership moves away first."""
        self._end(number, signal.SIGTERM)

    def _end(self, number, how):
        process = self.node(number).process
        process.send_signal(how)
        process.wait(timeout=LIMIT)

    def pause(self, number):
        """SIGSTOP: the node is silent, its connections stay open."""
        self.node(number).process.send_signal(signal.SIGSTOP)

    def resume(self, number):
        self.node(number).process.send_signal(signal.SIGCONT)

    # -- all of them ------------------------------------------------------

    def admin(self):
        """confluent_kafka's AdminClient; one for the cluster's life."""
        if self._admin is None:
            client()
            self._admin = self._of_admin("AdminClient")(
                {"bootstrap.servers": self.brokers})
        return self._admin

    def _of_admin(self, name):
        module = importlib.import_module(client().__name__ + ".admin")
        return getattr(module, name)

    def _insist(self, ask, done=None):
        """Ask again while the connection comes and goes; done: the error
        that says that an answer was lost."""
        ck, tries = client(), 0
        again = [ck.KafkaError._TRANSPORT, ck.KafkaError._TIMED_OUT,
                 ck.KafkaError._ALL_BROKERS_DOWN, -137]	# _DESTROY_BROKER
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                ask().result(LIMIT)
                return
            except ck.KafkaException as error:
                code = error.args[0].code()
                if tries > 0 and code == done:
                    return
                if code not in again or time.monotonic() > deadline:
                    raise
            tries += 1
            time.sleep(0.2)

    def create_topic(self, name, partitions=1, settings=None):
        topic = self._of_admin("NewTopic")(
            name, partitions, min(3, len(self.nodes)), config=settings or {})
        self._insist(lambda: self.admin().create_topics(
            [topic], operation_timeout=60)[name],
            client().KafkaError.TOPIC_ALREADY_EXISTS)

    def add_partitions(self, name, total):
        more = self._of_admin("NewPartitions")(name, total)
        self._insist(lambda: self.admin().create_partitions(
            [more], operation_timeout=60)[name],
            client().KafkaError.INVALID_PARTITIONS)

    def delete_topic(self, name):
        self._insist(lambda: self.admin().delete_topics(
            [name], operation_timeout=60)[name],
            client().KafkaError.UNKNOWN_TOPIC_OR_PART)

    def delete_group(self, name):
        self._insist(
            lambda: self.admin().delete_consumer_groups([name])[name],
            client().KafkaError.GROUP_ID_NOT_FOUND)

    def read(self, topic, isolation="read_committed"):
        """All messages of a topic that such a reader sees, to the end, each
        partition's in its order."""
        ck = client()
        consumer = ck.Consumer({
            "bootstrap.servers": self.brokers, "group.id": "reader",
            "enable.auto.commit": False, "enable.partition.eof": True,
            "isolation.level": isolation})
        known = consumer.list_topics(topic, LIMIT).topics[topic].partitions
        consumer.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING)
                         for p in known])
        messages, ended = [], set()
        while len(ended) < len(known):
            message = consumer.poll(LIMIT)
            if message is None:
                raise KafkaError("nothing comes from " + topic)
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == ck.KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        consumer.close()
        return messages

    def tool(self, name, *arguments):
        """What one of Kafka's own command classes prints."""
        run = subprocess.run(
            self._java("128m", name, *arguments, log="error"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT)
        if run.returncode != 0:
            raise KafkaError("%s: %s" % (name, run.stdout[-2000:]))
        return run.stdout

    def lag(self, group):
        """What kafka-consumer-groups.sh --describe shows of a group."""
        text = self.tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            "--bootstrap-server", self.brokers, "--describe", "--offsets",
            "--timeout", str(int(LIMIT * 1000)), "--group", group)
        rows, names = [], None
        for line in text.splitlines():
            words = line.split()
            if words[:2] == ["GROUP", "TOPIC"]:
                names = [w.lower().replace("-", "_") for w in words]
            elif names and words and words[0] == group:
                row = dict(zip(names, words))
                for name in ("partition", "current_offset", "log_end_offset",
                             "lag"):
                    row[name] = None if row[name] == "-" else int(row[name])
                rows.append(row)
        if names is None and "does not exist" in text:
            return []			# nobody has committed anything yet
        if names is None:
            raise KafkaError("no offsets of %s: %s" % (group, text))
        return rows

    def logs(self):
        """The end of every node's log, for a failure's text."""
        text = ""
        for path in sorted(glob.glob(self.directory + "/*/server.log*")):
            with open(path, errors="replace") as file:
                text += "--- %s\n%s\n" % (path, file.read()[-3000:])
        return text

    def close(self):
        for node in self.nodes:
            if node.alive():
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
        for node in self.nodes:
            if node.process is not None:
                node.process.wait()
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--version", default=DEFAULT)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--topic", action="append", default=[],
                        metavar="NAME:PARTITIONS")
    parser.add_argument("--keep", action="store_true",
                        help="leave data and logs")
    parser.add_argument("--fetch", action="store_true",
                        help="only fetch jars and client")
    options = parser.parse_args()
    if options.fetch:
        for version in VERSIONS:
            print(jars(version))
        print(os.path.dirname(client().__file__))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(options.nodes, options.version, keep=options.keep) as kafka:
        for topic in options.topic:
            name, _, partitions = topic.partition(":")
            kafka.create_topic(name, int(partitions or 1))
        print(kafka.brokers, flush=True)
        print("data and logs: " + kafka.directory, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
