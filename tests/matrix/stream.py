"""One application under faults: clients send words over TCP, a TCP receiver
and a file get each word's count.

A session goes on over many faults.  What drives it is an init system that
starts the supervisor again and keeps its descriptors (fdstore.py), a few
clients that stay and one after the other that comes and goes.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))

import apps				# noqa: E402
import harness				# noqa: E402
from faults import PLANS, Faults	# noqa: E402
from fdstore import Systemd		# noqa: E402
from harness import HarnessError, wait_for	# noqa: E402
from ledger import Ledger, Letters, Lines, Wrong	# noqa: E402
from proxy import Proxy		# noqa: E402

from wallaroo.tools._external import Channel, ExternalError, KINDS	# noqa: E402

LIMIT = harness.LIMIT
SPARE_LIMIT = 10		# for a spare that faults may keep from coming
# "k!" opens the key k, "k?" raises until that was done, "k*" kills.
APPLICATION = apps.WORD_FUNCTIONS.replace(
    "self.count = 0", "self.count = 0\n        self.open = False").replace(
    "    return data\n", "    return data.rstrip('!?*')\n").replace(
    "    state.count += 1\n    return (data, ", '''\
    if data.endswith("*"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith("?") and not state.open:
        raise ValueError("not open")
    state.open |= data.endswith("!")
    state.count += 1
    return (data.rstrip("!?*"), ''') + '''
import os
import signal

from wallaroo.codecs import lines_decoder


def application_setup(args):
    kind, source, port, to_port, path = args[1:]
    if kind == "stream":
        config = wallaroo.TCPSourceConfig("words", "127.0.0.1", port, decode)
    elif kind == "stdin":
        config = wallaroo.StdinSourceConfig("words", lines_decoder)
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
            "restart-limit": 100, "spares": 1,
            "on-error": harness.Raw("dead-letter")}


WRITTEN = "file_settle_before"		# a file just got bytes


class Tail:
    """A file that grows, also while its name becomes another's."""

    def __init__(self, path):
        self.path = path
        self.file = None
        self.begin()

    def begin(self):
        self.data = b""
        self.parts = Lines()

    def replaced(self):
        """Has the path come to mean another file?"""
        try:
            return self.file is not None and os.stat(self.path).st_ino != \
                os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def lines(self):
        if self.file is None:
            try:
                self.file = open(self.path, "rb")
            except FileNotFoundError:
                return []
        self.file.seek(len(self.data))
        new = self.file.read()
        self.data += new
        return self.parts.add(new)

    def compare(self):
        """What was read must still be there."""
        if self.file is None:
            return
        self.file.seek(0)
        if self.file.read(len(self.data)) != self.data:
            raise Wrong("%s is another than before" % self.path)

    def close(self):
        if self.file is not None:
            self.file.close()


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
        self.specials = 0
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

    def special(self, mark):
        """A key of its own, with what is done to it."""
        self.specials += 1
        key = "%d.x%d" % (self.number, self.specials)
        self.mark(key, mark)
        return key

    def mark(self, key, mark):
        try:
            self.feeder.send(harness.frame((key + mark).encode()))
        except OSError as error:
            self.why = "send: %s" % error
            self.dead = True

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
        self.stdin = None		# a pipe that every supervisor gets
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
        self.systemd.start(wait=False, stdin=self.stdin)
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
            self.systemd.start(wait=False, stdin=self.stdin)
            self.wanted = True

    def let_die(self):
        """It is not started again."""
        with self.lock:
            self.wanted = False

    def kill(self):
        """All processes, at once and for good."""
        with self.lock:
            self.wanted = False
            if self.app.process.poll() is None:
                self.app.process.kill()
            for pid in harness.processes_marked(self.app.mark):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.app.process.wait()
            self.app.wait_gone(limit=LIMIT)
            self.systemd._drain()

    def lose_power(self):
        """Nothing is left but files."""
        self.kill()
        self._forget()

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

    TAKE, LIMIT = 4096, 256 << 20

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
                 proxied=False, machine=False, piped=False):
        """source: text of a file that is read instead of clients, or comes
        on standard input.  machine: the durability."""
        self.rng = random.Random(seed)
        self.listed = listed
        self.workers = workers
        self.clients = []		# all, for the ledgers
        self.active = []		# whose words are waited for
        self.main = []			# that stay
        self.armed = False		# a fault may come at any time
        self.receiver = harness.Receiver()
        self.sinks = [Ledger("TCP"), Ledger("file")]
        self.letters = Letters()
        self.streams = {}
        self.chunks = {}
        self.files = []			# the output and what it was before
        self.letter_file = Tail(None)
        self.machine = machine
        self.source = source
        self.writer = None		# into standard input
        self.port = listening = harness.free_port()
        self.proxied = proxied
        self.proxies = []		# of the clients, of the receiver
        if proxied:
            self.proxies = [Proxy(self.port), Proxy(self.receiver.port)]
            self.port = self.proxies[0].port
        self.external = harness.free_port()
        self.app = harness.Cluster(
            APPLICATION, workers=workers, prefix="wallaroo-matrix-",
            durability="machine" if machine else "process",
            settings=dict(SETTINGS, **(settings or {})))
        if machine:			# on the disk
            self.app.settings["runtime-directory"] = None
        if source is not None:		# which the first start makes
            self.app.settings["state-directory"] = os.path.join(
                self.app.state_dir, "new")
        self.app.settings["dead-letter-file"] = self.app.out("dead")
        self.app.settings["external-address"] = "127.0.0.1:%d" \
            % self.external
        self.app.write("words", source or "")
        self.app.write_conf(args=[
            "stdin" if piped else "file" if source else "stream",
            os.path.join(self.app.app_dir, "words"), str(listening),
            str(self.proxies[1].port if proxied else self.receiver.port),
            self.app.out("out")])
        self.faults = Faults(os.path.join(self.app.dir, "faults"), listed)
        self.app.environment["WALLAROO_FAULTS"] = self.faults.path
        self.service = Service(self.app)
        if piped:
            self.pipe(source.encode())
        self.memory = None
        self.known = None		# open connections to the receiver
        self.limit = LIMIT

    def pipe(self, data):
        """Whoever reads, of all lives, reads on."""
        self.service.stdin, writer = os.pipe()

        def run():
            with open(writer, "wb") as file:
                file.write(data)
        self.writer = threading.Thread(target=run, daemon=True)
        self.writer.start()

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

    def wait_spare(self, enough):
        """Until one waits, if nothing keeps it from that."""
        deadline = time.monotonic() + SPARE_LIMIT
        while time.monotonic() < deadline and not enough():
            try:
                if self.app.status()["spares"] > 0:
                    return
            except (HarnessError, OSError, subprocess.SubprocessError):
                pass			# a fault, which may be the one
            time.sleep(0.02)

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

    def living(self):
        """A client that stays, if there is one."""
        return next((client for client in self.main if not client.dead),
                    None)

    def insist(self, ask, what):
        """An operator tries until it is done."""
        def done():
            if self.service.refused:
                raise HarnessError("the start was refused\n"
                                   + self.service.refused)
            try:
                return ask()
            except (HarnessError, ExternalError, OSError, ValueError,
                    subprocess.TimeoutExpired):
                return False
        wait_for(done, what, self.limit, step=0.02)

    def put_back(self, key):
        done = self.app.ctl_raw("dlq", "replay", self.letters.ids[key])
        return done.returncode == 0 or b"already" in done.stderr

    def ask_keys(self):
        with Channel("127.0.0.1:%d" % self.external, LIMIT) as channel:
            channel.ask(KINDS["cluster-state-entity-count-query"].id).json()
            return channel.ask(KINDS["state-entity-query"].id).json()

    def operate(self):
        """A letter, which is repaired and put back; questions; a checkpoint
        by hand."""
        self.traffic(5)
        client = self.living()
        key = client.special("?")
        self.letters.wanted[key] = client
        self.settle()
        if not client.dead:
            client.mark(key, "!")
            client.words.append(key)
            self.settle()
        if not client.dead:
            self.insist(lambda: self.put_back(key), "a letter to be put back")
            client.words.append(key)
        self.insist(self.ask_keys, "an answer on the external channel")
        self.insist(lambda: self.app.ctl_raw("checkpoint").returncode == 0,
                    "a checkpoint")
        self.settle()

    def poison(self):
        """A record that kills is set aside."""
        self.traffic(5)
        client = self.living()
        self.letters.wanted[client.special("*")] = client
        self.settle()

    def rotate(self):
        self.traffic(5)
        self.settle()
        path = self.app.out("out")
        os.rename(path, "%s.%d" % (path, len(self.files)))
        # A failed sync cuts the old file, which was read to its end.
        self.sinks[1].repeats_allowed = True
        while not os.path.exists(path):
            self.traffic(5)
            self.settle()
        self.reread()

    def reread(self):
        """All files from their beginning: what they are now counts."""
        self.sinks[1] = Ledger("file")
        for tail in self.files:
            tail.begin()
        self.settle()
        self.sinks[1].check(self.clients)

    def resize(self):
        """With one more worker, or one less, and back."""
        workers = self.workers
        for self.workers in (2 if workers != 2 else 1, workers):
            self.stop()
            self.app.write_conf(workers=self.workers)
            self.start()
            self.traffic(5)
            self.settle()

    def lose_power(self):
        """Clients and receivers see it; nothing else may.  It comes when a
        file has got bytes of which no checkpoint knows."""
        self.service.let_die()
        self.faults.arm(PLANS - 1, WRITTEN, "both")
        self.traffic()
        try:
            wait_for(lambda: self.app.process.poll() is not None,
                     "the death of the supervisor", 20)
        except HarnessError:
            pass			# something else is wrong with it
        self.service.lose_power()
        self.faults.disarm([PLANS - 1])
        for client in self.active:
            client.dead = client.excused = True
            client.why = "the power was lost"
        self.sinks[0].repeats_allowed = True
        self.faults.boot()
        self.service.restarts += 1
        self.start()
        self.traffic(5)
        self.settle()
        self.sinks[0].repeats_allowed = False
        for tail in self.files + [self.letter_file]:
            tail.compare()

    def older(self, what):
        """One file is put back to what it was some checkpoints ago."""
        self.traffic()
        self.settle()
        self.checkpoints(2)
        self.service.kill()
        older = self.app.copies(self.files_of(what))
        self.start_again()
        self.checkpoints(4)
        self.service.kill()
        newer = self.app.copies(self.files_of(what))
        self.remove_logs(what)
        older()
        self.start_refused()
        self.remove_logs(what)
        newer()
        for client in self.active:	# they were told
            client.excused = True
        self.start_again()

    def signal_all(self, number):
        for pid in harness.processes_marked(self.app.mark) + [
                self.app.process.pid]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def harm(self, kind, side, rng):
        """To the network on one side, while the programs stand still."""
        proxy = self.proxies[side == "receivers"]
        if kind == "slow":
            proxy.delay = rng.choice((0.01, 0.05, 0.2))
        elif kind == "silent":
            proxy.silent.set()
        else:
            if side == "clients":	# also one that only waits for its end
                for client in self.active:
                    client.excused = True
            else:			# what it has it must pass on
                wait_for(lambda: not proxy.holds(), "a proxy", LIMIT)
            proxy.reset()

    def heal(self):
        for proxy in self.proxies:
            proxy.delay = 0.0
            proxy.silent.clear()

    def checkpoints(self, count):
        for _ in range(count):
            self.traffic(5)
            self.settle()
            self.insist(lambda: self.app.ctl_raw(
                "checkpoint").returncode == 0, "a checkpoint")

    def files_of(self, what):
        """Below the state directory, or absolute."""
        if what == "catalog":
            return ["catalog.sqlite"]
        names = [name for name in os.listdir(self.app.state_dir)
                 if name.startswith("worker-0.") and ".sqlite" in name
                 and not name.endswith("-shm")]
        run = os.path.join(self.app.state_dir, "run") if self.machine \
            else self.app.run_dir
        mapped = [os.path.join(run, name) for name in sorted(os.listdir(run))
                  if name.startswith("worker-0.")]
        return {"sqlite": names,
                "journal": [name for name in mapped if "journal" in name],
                "outbox": [name for name in mapped if "outbox" in name][:1],
                "worker": names + mapped}[what]

    def remove_logs(self, what):
        """SQLite's, of another time than the file that comes."""
        if what not in ("sqlite", "worker"):
            return
        for name in os.listdir(self.app.state_dir):
            if name.startswith("worker-0.") and name.endswith(
                    ("-wal", "-shm")):
                os.unlink(os.path.join(self.app.state_dir, name))

    def start_again(self):
        self.service.restarts += 1
        self.service.start()
        wait_for(self.service.running, "the application to run", LIMIT)

    def start_refused(self):
        self.service.start()
        wait_for(lambda: self.service.refused, "the start to be refused",
                 LIMIT)
        text, self.service.refused = self.app.log(), None
        if not re.search(r"is an older copy: .*\d+, .*\d+", text):
            raise Wrong("the refusal does not name both generations: %s"
                        % text)

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
        if not self.files or self.files[-1].replaced():
            self.files.append(Tail(self.app.out("out")))
        self.sinks[1].take([line for tail in self.files
                            for line in tail.lines()], "the file")
        if self.letter_file.path is None:
            self.letter_file = Tail(self.app.out("dead"))
        self.letters.take(self.letter_file.lines(), "the letters")

    def settled(self):
        if self.service.refused:
            raise HarnessError("the start was refused\n"
                               + self.service.refused)
        self.collect()
        for client in self.active:
            if client.look() and client.ended:
                client.done = True
        return self.letters.lacks() == 0 and not any(
            sink.lacks(self.active) for sink in self.sinks)

    def settle(self):
        """Until both sinks have every word."""
        try:
            wait_for(self.settled, "every word", self.limit, step=0.005)
        except HarnessError as error:
            raise HarnessError("%s: %s" % (error, "; ".join(
                "%s lacks %d" % (sink.name, sink.lacks(self.active))
                for sink in self.sinks) + "; the letters lack %d"
                % self.letters.lacks())) from None
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
            for tail in self.files + [self.letter_file]:
                tail.close()
            if self.service.stdin is not None:
                os.close(self.service.stdin)
            for proxy in self.proxies:
                proxy.close()
            self.faults.close()
            if self.memory:
                self.memory.close()
