"""The tools, each as a process, with every option."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

LIMIT = 60


def command(tool, *args):
    return [sys.executable, "-c",
            "import sys; from wallaroo.tools.%s import main; "
            "sys.exit(main())" % tool] + [str(arg) for arg in args]


@pytest.fixture
def run(environment, tmp_path):
    """Run a tool to its end: (exit code, output, errors)."""
    def start(tool, *args):
        done = subprocess.run(
            command(tool, *args), env=environment, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=LIMIT)
        return done.returncode, done.stdout, done.stderr
    return start


class Server:
    """Takes connections and keeps what came, each until its end."""

    def __init__(self, answer=None):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.answer = answer
        self.data = []
        self.threads = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.data.append(b"")
            thread = threading.Thread(
                target=self.read, args=(sock, len(self.data) - 1),
                daemon=True)
            self.threads.append(thread)
            thread.start()

    def read(self, sock, index):
        answered = False
        with sock:
            while True:
                data = sock.recv(65536)
                if not data:
                    return
                self.data[index] += data
                if self.answer and not answered \
                        and len(self.data[index]) >= 6:
                    answered = True
                    message, payload = self.answer
                    sock.sendall(struct.pack(
                        ">IH", len(payload) + 2, message) + payload)

    def received(self):
        """Of each connection, after all have ended."""
        for thread in list(self.threads):
            thread.join(LIMIT)
            assert not thread.is_alive()
        return self.data

    def messages(self):
        """(id, payload) of all connections."""
        found = []
        for data in self.received():
            while data:
                size, message = struct.unpack(">IH", data[:6])
                found.append((message, data[6:4 + size]))
                data = data[4 + size:]
        return found


@pytest.fixture
def server():
    servers = []

    def make(answer=None):
        servers.append(Server(answer))
        return servers[-1]
    yield make
    for each in servers:
        each.listener.close()


def unused():
    """An address that is bound, so that nobody else gets it, but where
    nobody listens; with SO_REUSEADDR a tool may."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    held.append(sock)
    return "127.0.0.1:%d" % sock.getsockname()[1]


held = []


def framed(*payloads):
    return b"".join(struct.pack(">I", len(p)) + p for p in payloads)


# -- sender ------------------------------------------------------------------

def send(run, server, *args, code=0):
    got, _, errors = run("sender", "--host", server.address, *args)
    assert got == code, errors
    return b"".join(server.received())


def test_sender_counts(run, server):
    assert send(run, server(), "-m", 12, "-w") == framed(
        *(b"%d" % i for i in range(1, 13)))


def test_sender_start_from_and_short_options(run, server):
    target = server()
    code, _, errors = run(
        "sender", "-h", target.address, "-m3", "-v", "1_000", "-s2",
        "-i", "1000", "--ponythreads=1", "--ponynoblock", "-w")
    assert code == 0, errors
    assert target.received() == [framed(b"1001", b"1002", b"1003")]


def test_sender_u64(run, server):
    data = send(run, server(), "-m", 3, "--u64", "--partition", "key", "-w")
    assert data == framed(
        *(struct.pack(">Q", i) + b"key" for i in (1, 2, 3)))


def test_sender_vary_by(run, server):
    data = send(run, server(), "-m", 3, "-u", "-p", "k", "-j", 2, "-w")
    assert data == framed(
        *(struct.pack(">Q", i) + b"k%d" % (i % 2) for i in (1, 2, 3)))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\n\ntwo words\r\n\xc3\xa4\nlast")
    return path


def test_sender_file(run, server, text):
    """Empty lines are neither sent nor counted."""
    assert send(run, server(), "-f", text, "-m", 4, "-w") == framed(
        b"one", b"two words", b"\xc3\xa4", b"last")


def test_sender_file_that_is_shorter(run, server, text):
    target = server()
    code, _, errors = run("sender", "-h", target.address, "-f", text,
                          "-m", 10, "-w")
    assert code == 0 and "4 messages, not 10" in errors


def test_sender_repeat_and_several_files(run, server, text, tmp_path):
    more = tmp_path / "more"
    more.write_text("five\n")
    data = send(run, server(), "--file", "%s,%s" % (text, more), "--repeat",
                "--messages", 7, "--no-write")
    assert data == framed(b"one", b"two words", b"\xc3\xa4", b"last",
                          b"five", b"one", b"two words")


def test_sender_repeats_nothing(run, server, tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    assert send(run, server(), "-f", "empty", "-r", "-m", 5, "-w") == b""


def test_sender_binary_fixed(run, server, tmp_path):
    content = framed(b"abcd", b"efgh", b"ijkl")
    (tmp_path / "b").write_bytes(content)
    data = send(run, server(), "-f", "b", "--binary", "--msg-size", 8,
                "-m", 2, "-w")
    assert data == content[:16]


def test_sender_binary_fixed_cut_off(run, server, tmp_path):
    (tmp_path / "b").write_bytes(framed(b"abcd") + b"xxx")
    target = server()
    code, _, errors = run("sender", "-h", target.address, "-f", "b", "-y",
                          "-g", 8, "-m", 2, "-w", "-s", 1)
    assert code == 1 and "has 3 bytes, not 8" in errors


def test_sender_binary_variable(run, server, tmp_path):
    content = framed(b"a", b"", b"x" * 100000)
    (tmp_path / "b").write_bytes(content)
    assert send(run, server(), "-f", "b", "-y", "-z", "-m", 3, "-w") \
        == content
    (tmp_path / "b").write_bytes(content[:-1])
    target = server()
    code, _, errors = run("sender", "-h", target.address, "-f", "b", "-y",
                          "-z", "-m", 3, "-w")
    assert code == 1 and "cut off" in errors


def test_sender_hosts_take_turns(run, server):
    one, two = server(), server()
    code, _, errors = run(
        "sender", "-h", "%s,%s" % (one.address, two.address), "-m", 5,
        "--batch-size", 2, "--interval", 0, "-w")
    assert code == 0, errors
    assert one.received() == [framed(b"1", b"2", b"5")]
    assert two.received() == [framed(b"3", b"4")]


def test_sender_log(run, server, tmp_path):
    send(run, server(), "-m", 3)
    lines = (tmp_path / "sent.txt").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["1", "2", "3"]
    assert all(int(line.split(",")[0]) > 0 for line in lines)


def test_sender_waits_for_the_source(environment, tmp_path):
    address = unused()
    process = subprocess.Popen(
        command("sender", "-h", address, "-m", 1, "-w"), env=environment,
        cwd=tmp_path)
    try:
        time.sleep(0.3)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(address.split(":")[1])))
        listener.listen()
        listener.settimeout(LIMIT)
        sock, _ = listener.accept()
        assert process.wait(LIMIT) == 0
        assert sock.recv(100) == framed(b"1")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("args,says", [
    (["-m", "1"], "--host"),
    (["-h", "127.0.0.1:1"], "--messages"),
    (["-h", "nowhere", "-m", "1"], "is no address"),
    (["-h", "127.0.0.1:1", "-m", "x"], "is no number"),
    (["-h", "127.0.0.1:1", "-m", "1", "-s", "0"], "less than 1"),
    (["-h", "127.0.0.1:1", "-m", "1", "-y"], "needs --file"),
    (["-h", "127.0.0.1:1", "-m", "1", "-y", "-f", "x"], "needs one of"),
    (["-h", "127.0.0.1:1", "-m", "1", "-g", "8"], "are for --binary"),
    (["-h", "127.0.0.1:1", "-m", "1", "-u", "-f", "x"], "not for --file"),
    (["-h", "127.0.0.1:1", "-m", "1", "-p", "x"], "are for --u64"),
])
def test_sender_usage(run, args, says):
    code, _, errors = run("sender", *args)
    assert code == 2 and says in errors


def test_sender_without_file(run, server):
    code, _, errors = run("sender", "-h", server().address, "-m", 1,
                          "-f", "none", "-w")
    assert code == 1 and "none" in errors


# -- data_receiver -----------------------------------------------------------

class DataReceiver:
    def __init__(self, environment, path, *args):
        self.address = unused()
        self.path = path
        self.file = open(path, "wb")
        self.errors = open(str(path) + ".err", "wb")
        self.process = subprocess.Popen(
            command("data_receiver", "--listen", self.address, *args),
            env=environment, stdout=self.file, stderr=self.errors)
        self.wait(b"Listening on %s\n" % self.address.encode())

    def wait(self, wanted):
        deadline = time.monotonic() + LIMIT
        while True:
            with open(self.path, "rb") as file:
                data = file.read()
            if data == wanted:
                return
            assert self.process.poll() is None
            assert time.monotonic() < deadline, data
            time.sleep(0.02)

    def head(self):
        return b"Listening on %s\n" % self.address.encode()

    def connect(self):
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), LIMIT)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self.file.close()
        self.errors.close()
        return code


@pytest.fixture
def data_receiver(environment, tmp_path):
    made = []

    def make(*args):
        made.append(DataReceiver(environment, tmp_path / "out", *args))
        return made[-1]
    yield make
    for receiver in made:
        if receiver.process.poll() is None:
            receiver.end(signal.SIGKILL)


def test_data_receiver(data_receiver):
    """Bytes as they are, of any number of connections."""
    r = data_receiver()
    with r.connect() as one, r.connect() as two:
        one.sendall(b"a\0b")
        r.wait(r.head() + b"a\0b")
        two.sendall(b"\xff\n")
        r.wait(r.head() + b"a\0b\xff\n")
        one.sendall(b"c")
        r.wait(r.head() + b"a\0b\xff\nc")
    with r.connect() as three:
        three.sendall(b"x" * 1000000)
        r.wait(r.head() + b"a\0b\xff\nc" + b"x" * 1000000)
    assert r.end(signal.SIGINT) == 0


def test_data_receiver_framed(data_receiver):
    r = data_receiver("--framed", "--buffer-size", "3", "--ponythreads", "1")
    with r.connect() as sock:
        sock.sendall(framed(b"one", b"", b"a longer one") + b"\0\0\0\5ab")
        r.wait(r.head() + b"one\n\na longer one\n")
        sock.sendall(b"cde")
        r.wait(r.head() + b"one\n\na longer one\nabcde\n")
    with r.connect() as sock:		# costs its own connection
        sock.sendall(b"\xff\xff\xff\xff")
        assert sock.recv(1) == b""
    with r.connect() as sock:
        sock.sendall(framed(b"end"))
        r.wait(r.head() + b"one\n\na longer one\nabcde\nend\n")


def test_data_receiver_no_write(data_receiver):
    r = data_receiver("-n", "-b", "1_000")
    with r.connect() as sock:
        sock.sendall(b"x" * 100000)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    r.wait(r.head())


def test_data_receiver_address_in_use(run, server):
    code, out, errors = run("data_receiver", "-l", server().address)
    assert code == 1 and out == "" and "cannot listen" in errors


def test_data_receiver_usage(run):
    assert run("data_receiver")[0] == 2
    code, out, _ = run("data_receiver", "-h")
    assert code == 0 and "--framed" in out


# -- the external channel ----------------------------------------------------

def test_cluster_shutdown(run, server):
    target = server()
    assert run("cluster_shutdown", target.address)[0] == 0
    [(message, _)] = target.messages()
    assert message == 3


@pytest.mark.parametrize("tool,args", [
    ("cluster_shutdown", ["{}"]),
    ("cluster_shrinker", ["-e", "{}", "-q"]),
    ("external_sender", ["-e", "{}", "-t", "print"]),
])
def test_nobody_there(run, tool, args):
    address = unused()
    code, _, errors = run(tool, *(arg.format(address) for arg in args))
    assert code == 1 and "cannot connect to " + address in errors


@pytest.mark.parametrize("args,wanted", [
    (["--query"], {"query": True, "node_names": [], "node_count": 0}),
    (["--count", "2"], {"query": False, "node_names": [], "node_count": 2}),
    (["-w", "a,b"], {"query": False, "node_names": ["a", "b"],
                     "node_count": 0}),
], ids=["query", "count", "workers"])
def test_cluster_shrinker(run, server, args, wanted):
    target = server((5, b'{"node_names":[],"node_count":0}'))
    code, out, _ = run("cluster_shrinker", "--external", target.address,
                       *args)
    assert code == 0
    assert json.loads(out) == {"node_names": [], "node_count": 0}
    [(message, payload)] = target.messages()
    assert message == 4 and json.loads(payload) == wanted


def test_cluster_shrinker_refused(run, server):
    target = server((6, b"no, because"))
    code, out, _ = run("cluster_shrinker", "-e", target.address, "-c", "1")
    assert code == 1 and out == "no, because\n"


@pytest.mark.parametrize("args", [
    [], ["-q", "-c", "1"], ["-c", "0"], ["-w", ","], ["-w", ""]])
def test_cluster_shrinker_usage(run, args):
    assert run("cluster_shrinker", "-e", "127.0.0.1:1", *args)[0] == 2


@pytest.mark.parametrize("kind,message", [
    ("partition-query", 7), ("cluster-status-query", 9),
    ("partition-count-query", 12), ("source-ids-query", 14),
    ("state-entity-query", 17), ("stateless-partition-query", 19),
    ("state-entity-count-query", 21),
    ("stateless-partition-count-query", 23),
    ("cluster-state-entity-count-query", 25)])
def test_external_sender_queries(run, server, kind, message):
    target = server((message + 1, b'{"x": 1}'))
    code, out, _ = run("external_sender", "--external", target.address,
                       "--type", kind, "--json")
    assert code == 0 and json.loads(out) == {"x": 1}
    assert target.messages() == [(message, b"")]
    target = server((message + 1, b'{"x": 1}'))
    code, out, _ = run("external_sender", "-e", target.address, "-t", kind)
    assert code == 0 and out == '%s:\n{"x": 1}\n' % kind


@pytest.mark.parametrize("kind,text,wanted", [
    ("print", "hi", (1, b"hi")), ("rotate-log", "w1", (2, b"w1")),
    ("clean-shutdown", None, (3, b"")),
    ("boundary-count-status", None, (16, b"boundary-count-status"))])
def test_external_sender_texts(run, server, kind, text, wanted):
    target = server()
    more = [] if text is None else ["--message", text]
    code, out, _ = run("external_sender", "-e", target.address, "-t", kind,
                       *more)
    assert code == 0 and out == ""
    assert target.messages() == [wanted]


def test_external_sender_before_it_runs(run, server):
    target = server((11, b""))
    code, out, _ = run("external_sender", "-e", target.address, "-t",
                       "cluster-status-query", "-j")
    assert code == 0 and json.loads(out)["processing_messages"] is False


def test_external_sender_no_such_type(run):
    code, _, errors = run("external_sender", "-e", "127.0.0.1:1", "-t",
                          "no-such-type")
    assert code == 2 and "cluster-status-query" in errors


def test_external_sender_connection_lost(run):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def refuse():
        sock, _ = listener.accept()
        sock.recv(100)
        sock.close()
    threading.Thread(target=refuse, daemon=True).start()
    code, _, errors = run(
        "external_sender", "-e", "127.0.0.1:%d" % listener.getsockname()[1],
        "-t", "cluster-status-query")
    assert code == 1 and "closed" in errors
    listener.close()


def test_keeps_stdout_of_a_closed_pipe(environment):
    """data_receiver ends when nobody reads its output any more."""
    address = unused()
    process = subprocess.Popen(
        command("data_receiver", "-l", address), env=environment,
        stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"Listening on %s\n" \
            % address.encode()
        process.stdout.close()
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), LIMIT) as sock:
            sock.sendall(b"x")
            assert process.wait(LIMIT) == 1
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
