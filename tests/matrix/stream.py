"""One application under faults: clients send words over TCP, a TCP receiver
and a file get each word's count.

A session goes on over many faults.  What drives it is an init system that
starts the supervisor again and keeps its descriptors (fdstore.py), a few
clients that stay and one after the other that comes and goes.
"""

import os
import random
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))

import apps				# noqa: E402
import harness				# noqa: E402
from faults import Faults		# noqa: E402
from fdstore import Systemd		# noqa: E402
from harness import HarnessError, wait_for	# noqa: E402
from ledger import Ledger, Lines, Wrong	# noqa: E402
from proxy import Proxy		# noqa: E402

LIMIT = harness.LIMIT
APPLICATION = apps.WORD_FUNCTIONS + '''
from wallaroo.codecs import lines_decoder


def application_setup(args):
    kind, source, port, to_port, path = args[1:]
    if kind == "stream":
        config = wallaroo.TCPSourceConfig("words", "127.0.0.1", port, decode)
    else:
        config = wallaroo.FileSourceConfig("words", source, lines_decoder)
    return wallaroo.build_application("matrix", (
        wallaroo.source("words", config)
        .to(split)
        .key_by(word)
        .to(count)
        .to_sinks([wallaroo.TCPSinkConfig("127.0.0.1", to_port, encode),
                   wallaroo.FileSinkConfig(path, encode)])))
'''

# Small, so that a start is short; often, so that checkpoints are met.
SETTINGS = {"journal-size": "4M", "max-message": "64K",
            "outbox-size": "16M", "checkpoint-interval": 0.05,
            "restart-limit": 100}


class Client:
    """A connection and the words that went into it."""

    def __init__(self, number, port, rng, excused):
        self.number = number
        self.rng = rng
        self.words = []
        self.dead = False		# the other side ended it
        self.why = ""			# as we saw it
        self.ended = False		# we did
        self.done = False		# and the other side, too
        self.excused = excused		# it may be dead
        self.forgiven = False		# it was
        self.feeder = harness.Feeder(port)

    def frames(self, count):
        words = ["%d.k%d" % (self.number, self.rng.randrange(12))
                 for _ in range(count)]
        data, at = b"", 0
        while at < count:
            some = self.rng.choice((1, 2, 5))
            data += harness.frame(" ".join(words[at:at + some]).encode())
            at += some
        return words, data

    def send(self, count):
        """Some words, cut at a place where no message ends."""
        words, data = self.frames(count)
        self.words += words
        cut = self.rng.randrange(len(data))
        try:
            self.feeder.send(data[:cut])
            self.feeder.send(data[cut:])
        except OSError as error:
            self.why = "send: %s" % error
            self.dead = True

    def look(self):
        """Has the other side done with it?"""
        if not self.ended:
            state = self.feeder.state()
            if state != "open":
                self.why = state
                self.dead = True
            return self.dead
        try:
            self.feeder.sock.setblocking(False)
            return self.feeder.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError as error:
            self.why = "recv: %s" % error
            self.dead = True
            return True

    def end(self):
        """No more words: as `nc -N` does."""
        self.ended = True
        try:
            self.feeder.half_close()
        except OSError as error:
            self.why = "half close: %s" % error
            self.dead = True

    def close(self):
        self.feeder.close()


class Reader:
    """The source that reads the file, as if it were client 0."""

    number = 0
    dead = ended = done = excused = forgiven = False

    def __init__(self, text):
        self.words = text.split()

    def look(self):
        return False

    def end(self):
        pass

    def close(self):
        pass


class Service:
    """systemd as far as it concerns us: starts the supervisor again
    whenever it ended otherwise than it was asked to."""

    def __init__(self, app):
        self.app = app
        self.systemd = Systemd(app, watchdog=None)
        self.wanted = False
        self.refused = None		# exit code 100, and why
        self.restarts = 0
        self.sweeps = True		# as KillMode=mixed
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while not self.ending.wait(0.01):
            with self.lock:
                if self.wanted and self.app.process.poll() is not None:
                    self._again()

    def _again(self):
        if self.app.process.returncode == harness.EXIT_PERMANENT:
            self.refused = self.app.log_tail(8)
            self.wanted = False
            return
        self._sweep()
        self.systemd.start(wait=False)
        self.restarts += 1

    def _sweep(self):
        """KillMode=mixed: what the main process left is killed."""
        if not self.sweeps:
            self.systemd._drain()
            return
        for pid in harness.processes_marked(self.app.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.app.wait_gone(limit=LIMIT)
        self.systemd._drain()

    def start(self):
        with self.lock:
            self.systemd.start(wait=False)
            self.wanted = True

    def stop(self):
        """Until it has stopped cleanly: as an operator would, who is told
        by the exit code that not everything is done."""
        for _ in range(8):
            with self.lock:
                self.wanted = False
                process = self.app.process
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            code = self.app.wait_exit(LIMIT)
            self._sweep()
            if code == harness.EXIT_CLEAN:
                self._forget()
                return
            if code == harness.EXIT_PERMANENT:
                self.refused = self.app.log_tail(8)
                raise HarnessError("the stop was refused\n" + self.refused)
            self.restarts += 1
            self.start()
            wait_for(self.running, "the application to run", LIMIT)
        raise HarnessError("the supervisor does not stop cleanly")

    def _forget(self):
        with self.systemd.lock:
            for entry in self.systemd.stored:
                os.close(entry[1])
            self.systemd.stored = []

    def running(self):
        if self.refused:
            raise HarnessError("the start was refused\n" + self.refused)
        with self.lock:
            return self.app.process.poll() is None and bool(
                self.app.log_contains("application is running"))

    def close(self):
        self.ending.set()
        self.thread.join()
        self.wanted = False
        self.systemd.close()


class MemoryLimit:
    """A memory cgroup of version 1 or 2, where one can be made; else the
    fault is a SIGKILL after it has taken a little."""

    TAKE, LIMIT = 4096, 512 << 20

    def __init__(self):
        self.dir = None
        for base, limit in (("/sys/fs/cgroup/memory",
                             "memory.limit_in_bytes"),
                            ("/sys/fs/cgroup", "memory.max")):
            path = os.path.join(base, "wallaroo-matrix-%d-%d" % (
                os.getpid(), threading.get_ident()))
            try:
                os.mkdir(path)
                self.dir = path
                with open(os.path.join(path, limit), "w") as file:
                    file.write(str(self.LIMIT))
                return
            except OSError:
                self.close()

    def add(self, pids):
        for pid in pids:
            try:
                with open(os.path.join(self.dir, "cgroup.procs"),
                          "w") as file:
                    file.write(str(pid))
            except ProcessLookupError:
                pass

    def mib(self):
        return self.TAKE if self.dir else 64

    def close(self):
        if self.dir is None:
            return
        deadline = time.monotonic() + 10
        while os.path.isdir(self.dir) and time.monotonic() < deadline:
            try:
                os.rmdir(self.dir)
            except OSError:
                time.sleep(0.02)
        self.dir = None


class Session:
    """An application and its surroundings, over many faults."""

    def __init__(self, listed, workers, seed, settings=None, source=None,
                 proxied=False):
        """source: text of a file that is read instead of clients."""
        self.rng = random.Random(seed)
        self.listed = listed
        self.workers = workers
        self.clients = []		# all, for the ledgers
        self.active = []		# whose words are waited for
        self.main = []			# that stay
        self.armed = False		# a fault may come at any time
        self.receiver = harness.Receiver()
        self.sinks = [Ledger("TCP"), Ledger("file")]
        self.streams = {}
        self.chunks = {}
        self.file_at = 0
        self.file_lines = Lines()
        self.source = source
        self.port = listening = harness.free_port()
        self.proxies = []		# of the clients, of the receiver
        if proxied:
            self.proxies = [Proxy(self.port), Proxy(self.receiver.port)]
            self.port = self.proxies[0].port
        self.app = harness.Cluster(
            APPLICATION, workers=workers, prefix="wallaroo-matrix-",
            settings=dict(SETTINGS, **(settings or {})))
        self.app.write("words", source or "")
        self.app.write_conf(args=[
            "file" if source else "stream",
            os.path.join(self.app.app_dir, "words"), str(listening),
            str(self.proxies[1].port if proxied else self.receiver.port),
            self.app.out("out")])
        self.faults = Faults(os.path.join(self.app.dir, "faults"), listed)
        self.app.environment["WALLAROO_FAULTS"] = self.faults.path
        self.service = Service(self.app)
        self.memory = None
        self.known = None		# open connections to the receiver
        self.limit = LIMIT

    # what a client or an operator does

    def start(self):
        self.known = None
        self.service.start()
        wait_for(self.service.running, "the application to run", LIMIT)
        if self.source is None:
            self.main = [self.connect() for _ in range(self.workers)]
        elif not self.clients:
            reader = Reader(self.source)
            self.clients = [reader]
            self.active = [reader]

    def connect(self):
        client = Client(len(self.clients), self.port, self.rng, self.armed)
        self.clients.append(client)
        self.active.append(client)
        return client

    def traffic(self, words=20):
        """Every client sends; one comes, sends, and goes."""
        for index, client in enumerate(self.main):
            if client.dead:
                client = self.main[index] = self.connect()
            client.send(words)
        self.visit()

    def visit(self):
        guest = self.connect()
        guest.send(6)
        guest.end()

    def stop(self):
        self.settle()
        for client in self.main:
            client.end()
        self.main = []
        self.settle()
        self.service.stop()
        self.receiver.wait_ends(LIMIT)
        self.collect()

    def restart(self):
        self.stop()
        self.start()

    # what came out

    def collect(self):
        with self.receiver.changed:
            connections = list(self.receiver.connections)
        for connection in connections:
            begin = self.chunks.get(connection, 0)
            with self.receiver.changed:
                new = connection.chunks[begin:]
            self.chunks[connection] = begin + len(new)
            stream = self.streams.setdefault(connection, Lines())
            for _, data in new:
                self.sinks[0].take(stream.add(data), "connection %d"
                                   % connection.index)
        try:
            with open(self.app.out("out"), "rb") as file:
                file.seek(self.file_at)
                data = file.read()
        except FileNotFoundError:
            data = b""
        self.file_at += len(data)
        self.sinks[1].take(self.file_lines.add(data), "the file")

    def settled(self):
        if self.service.refused:
            raise HarnessError("the start was refused\n"
                               + self.service.refused)
        self.collect()
        for client in self.active:
            if client.look() and client.ended:
                client.done = True
        return not any(sink.lacks(self.active) for sink in self.sinks)

    def settle(self):
        """Until both sinks have every word."""
        try:
            wait_for(self.settled, "every word", self.limit, step=0.005)
        except HarnessError as error:
            raise HarnessError("%s: %s" % (error, "; ".join(
                "%s lacks %d" % (sink.name, sink.lacks(self.active))
                for sink in self.sinks))) from None
        for sink in self.sinks:
            sink.check(client for client in self.active if not client.dead)
        for client in self.active:
            if client.done or client.dead:
                client.close()
        self.active = [client for client in self.active
                       if not client.done and not client.dead]

    def check_undisturbed(self, restarts):
        """No connection has ended that was there before the fault; of those
        made since then only where the supervisor died."""
        for client in self.clients:
            if client.dead and not (client.excused and restarts
                                    or client.forgiven):
                raise Wrong("the connection of client %d did not survive, "
                            "%d of its %d words are counted: %s" % (
                                client.number, self.sinks[0].seen[
                                    client.number], len(client.words),
                                client.why))
            client.forgiven = client.dead
            client.excused = False
        if restarts:
            # One that was not yet held is gone, and has a successor.
            wait_for(lambda: len(self.receivers()) == self.workers,
                     "a connection to the receiver for each worker", LIMIT)
            self.known = self.receivers()
        elif self.known is None:
            wait_for(lambda: len(self.receivers()) >= self.workers,
                     "a connection to the receiver for each worker", LIMIT)
            self.known = self.receivers()
        elif self.receivers() != self.known:
            raise Wrong("the connections to the receiver were %s and are %s"
                        % (self.known, self.receivers()))

    def receivers(self):
        """Numbers of the connections to the receiver that are open."""
        with self.receiver.changed:
            return [c.index for c in self.receiver.connections
                    if c.end is None]

    def end(self):
        """A clean stop, and everything is checked once more."""
        self.armed = False
        self.stop()
        for sink in self.sinks:
            sink.check(self.clients)

    def log(self):
        return self.app.log_tail(40)

    def close(self, failed):
        for client in self.clients:
            client.close()
        try:
            self.service.close()
        finally:
            self.app.close(failed=failed)
            self.receiver.close()
            for proxy in self.proxies:
                proxy.close()
            self.faults.close()
            if self.memory:
                self.memory.close()
