"""The external channel: every message, before, while and after the
application runs, and clients that send anything else."""

import os
import socket
import struct
import threading
import time

import pytest

import apps
import harness

from wallaroo.tools import _external
from wallaroo.tools._external import Channel, KINDS

QUERIES = sorted(name for name, kind in KINDS.items() if kind.answered)

TWO_STATES = '''
import wallaroo


class Total:
    count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    return data


@wallaroo.computation(name="Same Name")
def same(data):
    return data


@wallaroo.computation(name="Same Name")
def again(data):
    return data


@wallaroo.key_extractor
def whole(data):
    return data


@wallaroo.key_extractor
def first(data):
    return data[:1]


@wallaroo.state_computation(name="Whole", state=Total)
def count_whole(data, state):
    state.count += 1
    return data


@wallaroo.state_computation(name="First", state=Total)
def count_first(data, state):
    state.count += 1
    return b"%s %d\\n" % (data[:1], state.count)


@wallaroo.encoder
def encode(data):
    return data


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("two states", (
        wallaroo.source("in", wallaroo.TCPSourceConfig(
            name, host, port, decode))
        .to(same)
        .to(again)
        .key_by(whole)
        .to(count_whole)
        .key_by(first)
        .to(count_first)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''


class Asked:
    """An application with an external channel, a source and a sink."""

    def __init__(self, cluster, receiver, workers=1, source=TWO_STATES,
                 **more):
        self.port = harness.free_port()
        self.source = harness.free_port()
        self.sink = receiver()
        self.app = cluster(
            source, workers=workers,
            args=apps.word_count_args(self.source, self.sink.port),
            settings={"external-address": self.address()}, **more)

    def address(self):
        return "127.0.0.1:%d" % self.port

    def channel(self):
        """As soon as somebody listens."""
        def connect():
            try:
                return Channel(self.address(), harness.LIMIT)
            except _external.ExternalError:
                if self.app.process.poll() is not None:
                    raise harness.HarnessError(self.app.log_tail())
                return None
        return harness.wait_for(connect, "the external channel")

    def ask(self, name):
        with self.channel() as channel:
            answer = channel.ask(KINDS[name].id)
        assert answer.id == KINDS[name].id + 1
        return answer.json()

    def raw(self, data):
        sock = socket.create_connection(("127.0.0.1", self.port),
                                        harness.LIMIT)
        sock.sendall(data)
        return sock


@pytest.fixture
def asked(cluster, receiver):
    def make(**more):
        return Asked(cluster, receiver, **more)
    return make


def feed(run, feeder, payloads):
    with feeder(run.source) as client:
        client.send_frames(payloads)
        run.sink.wait_lines(len(payloads))


# -- every message -----------------------------------------------------------

def test_queries(asked, feeder):
    run = asked()
    run.app.start()
    status = run.ask("cluster-status-query")
    assert status == {"worker_count": 1, "worker_names": ["initializer"],
                      "processing_messages": True}
    sources = run.ask("source-ids-query")["source_ids"]
    assert len(sources) == 1 and sources[0].isdigit()
    keys = run.ask("state-entity-query")
    assert list(keys.values()) == [[], []]
    assert all(stage.isdigit() for stage in keys)
    feed(run, feeder, [b"apple", b"avocado", b"banana", b"apple"])
    keys = run.ask("state-entity-query")
    assert sorted(map(sorted, keys.values())) == [
        ["a", "b"], ["apple", "avocado", "banana"]]
    counts = run.ask("state-entity-count-query")
    assert counts == {stage: len(of) for stage, of in keys.items()}
    assert run.ask("cluster-state-entity-count-query") == {
        "initializer": counts}
    parts = run.ask("partition-query")
    assert set(parts["state_partitions"]) == set(keys)
    for by_worker in parts["state_partitions"].values():
        assert by_worker == {"initializer": [str(i) for i in range(256)]}
    # two stages of one name have two ids
    stateless = run.ask("stateless-partition-query")
    assert len(stateless) == 2
    assert all(len(of["initializer"]) == 1 for of in stateless.values())
    assert parts["stateless_partitions"] == stateless
    assert run.ask("stateless-partition-count-query") == {
        stage: {"initializer": 1} for stage in stateless}
    number = run.ask("partition-count-query")
    assert number["state_partitions"] == {
        stage: {"initializer": 256} for stage in keys}
    run.app.stop()


@pytest.mark.level("all")
def test_many_workers(asked, feeder):
    """Keys of all workers, stage ids as with one and after a restart."""
    run = asked(workers=3)
    run.app.start()
    payloads = [b"%d-%d" % (i % 10, i) for i in range(300)]
    feed(run, feeder, payloads)
    status = run.ask("cluster-status-query")
    assert status["worker_names"] == ["initializer", "worker1", "worker2"]
    keys = run.ask("state-entity-query")
    assert sorted(map(sorted, keys.values())) == sorted([
        sorted("%d" % i for i in range(10)),
        sorted(payload.decode() for payload in payloads)])
    by_worker = run.ask("cluster-state-entity-count-query")
    assert set(by_worker) == set(status["worker_names"])
    for stage, of in keys.items():
        assert sum(counts[stage] for counts in by_worker.values()) == len(of)
    parts = run.ask("partition-query")["state_partitions"]
    for stage in keys:
        assert sorted(sum(parts[stage].values(), []), key=int) == [
            str(i) for i in range(256)]
    pid = run.app.kill9(1)
    again = run.ask("state-entity-query")	# waits for the replacement
    assert {s: set(k) for s, k in again.items()} == {
        s: set(k) for s, k in keys.items()}
    run.app.wait_replaced(1, pid)
    run.app.stop()
    run.app.write_conf(workers=1)
    run.app.start()
    last = run.ask("state-entity-query")
    assert {s: set(k) for s, k in last.items()} == {
        s: set(k) for s, k in keys.items()}
    run.app.stop()


@pytest.mark.level("all")
def test_texts_go_to_the_log(asked):
    run = asked()
    run.app.start()
    with run.channel() as channel:
        channel.send(_external.PRINT, b"good \x1b[31m morning")
        channel.send(_external.ROTATE_LOG, b"initializer")
        channel.send(KINDS["boundary-count-status"].id,
                     b"boundary-count-status")
        # answered in order: all of them have been taken
        assert channel.ask(KINDS["cluster-status-query"].id).id == 10
    log = run.app.log()
    assert "print: good ?[31m morning" in log
    assert "nothing to rotate" in log
    assert "boundary report worker=0" in log
    run.app.stop()


@pytest.mark.level("all")
@pytest.mark.parametrize("text,id,part", [
    (b'{"query": true, "node_names": [], "node_count": 0}', 5,
     '"node_names":[]'),
    (b'{"query":false,"node_names":["worker1"],"node_count":1}', 6,
     "no worker can leave"),
    (b'{"node_count": 1}', 6, "no worker can leave"),
    (b"shrink, please", 6, "a shrink wants"),
    (b"", 6, "a shrink wants"),
], ids=["query", "names", "count", "text", "empty"])
def test_shrink(asked, text, id, part):
    run = asked()
    run.app.start()
    with run.channel() as channel:
        answer = channel.ask(_external.SHRINK, text)
        assert answer.id == id and part in answer.text()
        assert channel.ask(KINDS["cluster-status-query"].id).id == 10
    run.app.stop()


@pytest.mark.parametrize("durability", [
    "process", pytest.param("none", marks=pytest.mark.level("all"))])
def test_shutdown_removes_the_state(asked, feeder, durability):
    run = asked(workers=2, durability=durability)
    run.app.start()
    feed(run, feeder, [b"apple"])
    with run.channel() as channel:
        channel.send(_external.SHUTDOWN, b"that's all")
        channel.finish()
    assert run.app.wait_exit() == 0
    run.app.wait_gone()
    assert run.app.log_contains("that's all")
    left = os.listdir(run.app.state_dir) + os.listdir(run.app.run_dir)
    assert [name for name in left if name.startswith("worker-")] == []
    run.sink.wait_ends()
    run.app.start()
    assert set(run.ask("state-entity-count-query").values()) == {0}
    with feeder(run.source) as client:
        client.send_frames([b"apple"])
        run.sink.wait_lines(2)
    assert run.sink.all_lines() == [b"a 1", b"a 1"]
    run.app.stop()


@pytest.mark.level("all")
def test_a_stop_keeps_it(asked, feeder):
    run = asked()
    run.app.start()
    feed(run, feeder, [b"apple"])
    run.app.stop()
    run.app.start()
    assert set(run.ask("state-entity-count-query").values()) == {1}
    run.app.stop()


@pytest.mark.level("all")
def test_long_list(asked, feeder):
    """More keys than fit into one message, asked by two at once."""
    run = asked(workers=2)
    run.app.start()
    payloads = [b"%d-%s" % (i, b"x" * 100) for i in range(5000)]
    feed(run, feeder, payloads)
    wanted = {payload.decode() for payload in payloads}
    with run.channel() as one, run.channel() as two:
        for channel in (one, two):
            channel.send(KINDS["state-entity-query"].id)
        for channel in (one, two):
            lists = channel.receive().json().values()
            assert wanted in [set(keys) for keys in lists]
            assert sum(map(len, lists)) == 5000 + 10
    run.app.stop()


# -- before and after --------------------------------------------------------

def test_before_it_runs(asked):
    """The module hangs in its import: everything is answered."""
    run = asked()
    gate = run.app.out("go")
    run.app.write("app_under_test.py", (
        "import select, os\n"
        "while not os.path.exists(%r):\n"
        "    select.select([], [], [], 0.02)\n" % gate) + TWO_STATES)
    run.app.launch()
    with run.channel() as channel:
        assert channel.ask(KINDS["cluster-status-query"].id) == \
            (_external.NOT_INITIALIZED, b"")
        for name in QUERIES:
            answer = channel.ask(KINDS[name].id)
            if name != "cluster-status-query":
                assert isinstance(answer.json(), dict), name
        assert channel.ask(_external.SHRINK, b'{"query": true}').id == 5
        open(gate, "w").close()
        harness.wait_for(lambda: channel.ask(
            KINDS["cluster-status-query"].id).id == 10, "the status")
        assert channel.ask(9).json()["processing_messages"] is True
    run.app.stop()


@pytest.mark.level("all")
def test_shutdown_before_it_runs(asked):
    run = asked(source="import select\n"
                "while True: select.select([], [], [], 1)\n")
    run.app.launch()
    with run.channel() as channel:
        channel.send(_external.SHUTDOWN)
        channel.finish()
    assert run.app.wait_exit() == 0


def test_storm(asked, feeder):
    """Queries from the first millisecond, by many clients."""
    run = asked(workers=2)
    run.app.launch()
    stop = threading.Event()
    failures, answers = [], [0]

    def storm(names):
        while not stop.is_set():
            try:
                with run.channel() as channel:
                    for name in names:
                        channel.send(KINDS[name].id)
                    for name in names:
                        answer = channel.receive()
                        if answer.payload:
                            answer.json()
                        answers[0] += 1
            except Exception as error:
                if not stop.is_set():
                    failures.append(error)
                    return
            time.sleep(0.01)
    threads = [threading.Thread(target=storm, args=(QUERIES,))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        run.app.wait_running()
        feed(run, feeder, [b"%d" % i for i in range(500)])
        pid = run.app.kill9(1)
        run.app.wait_replaced(1, pid)
    finally:
        stop.set()
        for thread in threads:
            thread.join(harness.LIMIT)
    assert not failures and answers[0] > 0
    restarts = [w["restarts"] for w in run.app.workers().values()]
    assert restarts == [0, 1]
    run.app.stop()


# -- garbage -----------------------------------------------------------------

def closed(sock):
    sock.settimeout(harness.LIMIT)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    sock.close()
    return True


@pytest.mark.level("all")
@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">I", 0) + b"xx",
    struct.pack(">I", 1) + b"xx",
    struct.pack(">I", 65537) + b"xx",
    struct.pack(">I", 0xffffffff) + b"xx",
    _external.encode(0), _external.encode(8), _external.encode(26),
    _external.encode(27), _external.encode(65535, b"x" * 1000),
], ids=["http", "empty", "short", "long", "longest", "zero", "answer",
        "last", "next", "unknown"])
def test_garbage(asked, data):
    """It costs its own connection only."""
    run = asked()
    run.app.start()
    with run.channel() as other:
        assert closed(run.raw(data))
        assert other.ask(9).id == 10
    run.app.stop()


@pytest.mark.level("all")
def test_random_bytes(asked, rng):
    run = asked()
    run.app.start()
    for _ in range(300):
        data = bytearray(_external.encode(
            rng.choice([k.id for k in KINDS.values()
                        if k.id != _external.SHUTDOWN]),
            rng.randbytes(rng.randrange(40))))
        if rng.random() < 0.7:
            data[rng.randrange(4)] = rng.randrange(256)
        sock = run.raw(bytes(data))
        sock.shutdown(socket.SHUT_WR)
        closed(sock)
    assert run.ask("cluster-status-query")["processing_messages"]
    run.app.stop()


def resident_kb(pid):
    with open("/proc/%d/status" % pid) as status:
        return int(status.read().split("VmRSS:")[1].split()[0])


@pytest.mark.level("all")
def test_slow_clients(asked, feeder):
    """Byte by byte, half closed, never reading."""
    run = asked()
    run.app.start()
    feed(run, feeder, [b"k%d" % i + b"x" * 200 for i in range(2000)])
    before = resident_kb(run.app.supervisor_pid())
    lazy = run.raw(b"")
    lazy.settimeout(1)
    try:
        for _ in range(20000):		# 12 MB of answers for each 32 KB
            lazy.send(_external.encode(17) * 10)
    except (socket.timeout, OSError):
        pass
    sock = run.raw(b"")
    for byte in _external.encode(9):
        sock.send(bytes([byte]))
        time.sleep(0.01)
    sock.shutdown(socket.SHUT_WR)
    data = b""
    while True:
        part = sock.recv(4096)
        if not part:
            break
        data += part
    assert struct.unpack(">IH", data[:6]) == (len(data) - 4, 10)
    sock.close()
    # the answers that were asked for would take gigabytes
    assert resident_kb(run.app.supervisor_pid()) < before + 300000
    lazy.close()
    run.app.stop()


@pytest.mark.level("all")
def test_idle_ones_make_room(asked):
    run = asked()
    run.app.start()
    idle = [run.raw(b"") for _ in range(100)]
    for _ in range(20):
        assert run.ask("cluster-status-query")["worker_count"] == 1
    for sock in idle:
        sock.close()
    run.app.stop()


# -- where it listens --------------------------------------------------------

@pytest.mark.level("all")
@pytest.mark.parametrize("address,text", [
    ("0.0.0.0:%d", "external-access = any"),
    (":%d", "external-access = any"),
    ("127.0.0.1", "is no address"),
    ("127.0.0.1:http", "is no address"),
    ("127.0.0.1:0", "is no address"),
    ("127.0.0.1:65536", "is no address"),
], ids=["any", "empty", "no-port", "name", "zero", "large"])
def test_wrong_addresses(asked, address, text):
    run = asked()
    if "%d" in address:
        address %= harness.free_port()
    run.app.write_conf(external_address=address)
    code, log = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT and text in log
    run.app.wait_gone()


@pytest.mark.level("all")
def test_any_address_when_it_is_wanted(asked):
    run = asked()
    run.app.write_conf(external_address="0.0.0.0:%d" % run.port,
                       external_access=harness.Raw("any"))
    run.app.start()
    assert run.ask("cluster-status-query")["worker_count"] == 1
    run.app.stop()


@pytest.mark.level("all")
def test_address_in_use(asked):
    run = asked()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", run.port))
        other.listen()
        code, log = run.app.run_to_exit()
    assert code == harness.EXIT_TEMPORARY
    assert "external channel: cannot listen on 127.0.0.1:" in log
