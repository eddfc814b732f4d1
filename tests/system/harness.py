"""Run the real programs under test: a cluster, its clients, its receivers.

Everything here speaks only the outside contract: cluster.conf, the two
commands, log lines, exit codes and plain TCP.  Nothing waits for a fixed
time: each wait is for an event and has a limit that only a failure reaches.
"""

import json
import os
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE_TREE = os.path.dirname(os.path.dirname(HERE))

# Waits are generous: a loaded machine must not fail a test.
LIMIT = float(os.environ.get("WALLAROO_TEST_LIMIT", "60"))

# How much is run; conftest.py says more.
LEVELS = ("check", "all", "long")
LEVEL = os.environ.get("WALLAROO_LEVEL", "check")

EXIT_CLEAN = 0
EXIT_PERMANENT = 100
EXIT_TEMPORARY = 111


class HarnessError(AssertionError):
    """The programs did not do what the test waited for."""


# -- finding the programs ---------------------------------------------------

def build_dir():
    """The directory that the programs were built in."""
    candidates = [os.environ.get("WALLAROO_PROGRAMS"),
                  os.environ.get("WALLAROO_BUILD"), os.getcwd(), SOURCE_TREE,
                  os.path.join(SOURCE_TREE, "build")]
    for directory in candidates:
        if directory and os.access(os.path.join(directory,
                "wallaroo-supervisord"), os.X_OK):
            return os.path.abspath(directory)
    raise HarnessError("no built programs found: set WALLAROO_BUILD to the "
                       "build directory (looked in %s)" % ", ".join(
                           str(c) for c in candidates if c))


def program(name):
    return os.path.join(build_dir(), name)


def python_package_dir():
    return os.environ.get("WALLAROO_PYTHON_PACKAGE",
                          os.path.join(SOURCE_TREE, "py"))


def sanitizer_options():
    """ASAN_OPTIONS of the programs under test.

    A worker ends without taking its interpreter down, whose objects would
    all be called leaks; the unit tests look for leaks.  Some tests die of
    signals, and by these, not by a sanitizer's exit.
    """
    return ":".join(filter(None, [
        os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"] + [
            "handle_%s=0" % signal for signal in (
                "segv", "sigbus", "abort", "sigfpe", "sigill")]))


def unprivileged_user():
    """Whom the programs run as when the tests run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def is_tmpfs(path):
    best = ("", "")
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, point, kind = line.split()[:3]
            inside = path == point or path.startswith(
                point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1] in ("tmpfs", "ramfs")


def tmpfs_base():
    """A writable tmpfs, or None on a system that has none."""
    for path in ("/dev/shm", "/run/user/%d" % os.geteuid()):
        if os.path.isdir(path) and os.access(path, os.W_OK) \
                and is_tmpfs(path):
            return path
    return None


# The tests' own interpreter uses the package, too: the reference executor.
sys.path.insert(0, python_package_dir())


# -- ports ------------------------------------------------------------------

_reserved = []


def free_port():
    """A port of 127.0.0.1 that stays ours until the test process ends.

    The socket stays bound but never listens: with SO_REUSEADDR on both
    sides another process may listen on the port, and the kernel doesn't
    give it to an outgoing connection meanwhile.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _reserved.append(holder)
    return holder.getsockname()[1]


# -- waiting ----------------------------------------------------------------

def wait_for(condition, what, limit=None, step=0.01):
    """Return the first true value of condition()."""
    limit = LIMIT if limit is None else limit
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise HarnessError("waited %.0f s in vain for %s" % (limit, what))
        time.sleep(step)


def process_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def processes_marked(mark):
    """Every process whose environment carries the mark of one cluster."""
    wanted = b"WALLAROO_TEST_MARK=" + mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % entry, "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            pass
    return [pid for pid in found if process_alive(pid)]


def resident_bytes(pid):
    """Memory of a process that nobody else would have to pay for."""
    try:
        with open("/proc/%d/smaps_rollup" % pid) as rollup:
            for line in rollup:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


# -- cluster.conf -----------------------------------------------------------

class Raw(str):
    """A value that goes into cluster.conf as it stands."""


def conf_value(value):
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "{%s}" % ", ".join(conf_value(item) for item in value)
    return '"%s"' % str(value).replace("\\", "\\\\").replace('"', '\\"')


def conf_lines(settings, indent):
    """A dict is a section: 'connector "name"': {...}."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += [indent + key + " {",
                      *conf_lines(value, indent + "\t"), indent + "}"]
        elif value is not None:
            lines.append("%s%s = %s" % (indent, key, conf_value(value)))
    return lines


def conf_text(name, settings):
    lines = ['application "%s" {' % name, *conf_lines(settings, "\t")]
    lines.append("}")
    return "\n".join(lines) + "\n"


# -- the cluster ------------------------------------------------------------

class Cluster:
    """One application under a real supervisor, in a directory of its own."""

    def __init__(self, source, workers=1, durability="process", args=(),
                 settings=None, name="t", env=None, files=None,
                 prefix=None, wrapper=(), privileged=False, programs=None):
        """source: text of the module.  settings: more lines of
        cluster.conf (None takes one out).  files: more files of the
        application directory.  wrapper: a command that runs the supervisor
        (its last argument is followed by the supervisor's own).  programs:
        the directory of the programs, if they are not those under test."""
        self.mark = uuid.uuid4().hex
        self.name = name
        self.user = None if privileged else unprivileged_user()
        self.wrapper = list(wrapper)
        self.programs = programs
        self.environment = dict(env or {})
        self.process = None
        self.launched = 0		# how often the supervisor was started
        self.keep = False
        self.launched_at = 0		# offset in the log
        self.dir = tempfile.mkdtemp(prefix=prefix or "wallaroo-test-")
        os.chmod(self.dir, 0o755)
        self.app_dir = self._mkdir("app")
        self.state_dir = self._mkdir("state", 0o700)
        self.out_dir = self._mkdir("out")
        base = tmpfs_base()
        if base:
            self.run_dir = tempfile.mkdtemp(prefix="wallaroo-test-",
                                            dir=base)
            self._own(self.run_dir)
        else:
            self.run_dir = self._mkdir("run", 0o700)
        self.log_path = os.path.join(self.dir, "log")
        self.conf_path = os.path.join(self.app_dir, "cluster.conf")
        self.settings = {
            "module": "app_under_test",
            "workers": workers,
            "args": list(args),
            "state-directory": self.state_dir,
            "durability": Raw(durability),
            "runtime-directory": self.run_dir,
            # Most tests look at processes, memory or times; those that are
            # about the death of workers say otherwise.
            "spares": 0,
        }
        if self.user:
            self.settings["user"] = self.user.pw_name
        self.settings.update(settings or {})
        self.write("app_under_test.py", source)
        for path, text in (files or {}).items():
            self.write(path, text)
        self.write_conf()
        self.write_log("")

    # directories and files

    def _own(self, path):
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def copies(self, names):
        """What these files of the state directory hold now: a function that
        puts them back."""
        kept = {}
        for name in names:
            path = os.path.join(self.state_dir, name)
            with open(path, "rb") as file:
                kept[path] = file.read()

        def put_back():
            for path, data in kept.items():
                with open(path, "wb") as file:
                    file.write(data)
                self._own(path)
        return put_back

    def _mkdir(self, name, mode=0o755):
        path = os.path.join(self.dir, name)
        os.mkdir(path, mode)
        self._own(path)
        return path

    def write(self, path, text):
        path = os.path.join(self.app_dir, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        self._own(path)
        return path

    def write_conf(self, text=None, **changes):
        """Write cluster.conf anew, with changed settings (workers=3,
        stop_timeout=2, ...) or exactly as given."""
        for key, value in changes.items():
            self.settings[key.replace("_", "-")] = value
        if text is None:
            text = conf_text(self.name, self.settings)
        with open(self.conf_path, "w") as file:
            file.write(text)

    def write_log(self, text):
        with open(self.log_path, "a") as file:
            file.write(text)

    def out(self, name):
        """Path of an output file."""
        return os.path.join(self.out_dir, name)

    def read_out(self, name):
        try:
            with open(self.out(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def delete_runtime(self):
        """What a reboot does to a tmpfs."""
        for entry in os.listdir(self.run_dir):
            path = os.path.join(self.run_dir, entry)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    # processes

    def program(self, name):
        return os.path.join(self.programs, name) if self.programs \
            else program(name)

    def env(self):
        environment = dict(os.environ)
        environment.pop("NOTIFY_SOCKET", None)
        environment["WALLAROO_TEST_MARK"] = self.mark
        environment["WALLAROO_PYTHON_PACKAGE"] = python_package_dir()
        environment["ASAN_OPTIONS"] = sanitizer_options()
        environment.update(self.environment)
        return environment

    def launch(self, *options, stdin=subprocess.DEVNULL, stdout=None,
               pass_fds=(), limits=(), env=None):
        """Start the supervisor and return at once.  limits: pairs for
        setrlimit, applied in the child."""
        assert self.process is None or self.process.poll() is not None
        self.launched_at = os.path.getsize(self.log_path)
        command = self.wrapper + [self.program("wallaroo-supervisord"),
                                  "-c", self.conf_path, *options]
        if limits:
            command = [sys.executable, "-c", _LIMITED,
                       json.dumps(list(limits))] + command
        environment = self.env()
        environment.update(env or {})
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=log if stdout is None
                else stdout, stderr=log, env=environment, cwd="/",
                start_new_session=True, pass_fds=pass_fds)
        self.launched += 1
        return self.process

    def start(self, *options, limit=None, **more):
        """Start the supervisor and wait until the application runs."""
        self.launch(*options, **more)
        self.wait_running(limit=limit)
        return self

    def wait_running(self, limit=None):
        self.wait_log(r"application is running", limit=limit)

    def wait_exit(self, limit=None):
        """The supervisor's exit code (negative: killed by that signal)."""
        try:
            return self.process.wait(LIMIT if limit is None else limit)
        except subprocess.TimeoutExpired:
            raise HarnessError("the supervisor does not end\n"
                               + self.log_tail())

    def run_to_exit(self, *options, limit=None, **more):
        """Start, wait for the end, return (exit code, log of this run)."""
        self.launch(*options, **more)
        code = self.wait_exit(limit)
        return code, self.log()

    def stop(self, limit=None, code=EXIT_CLEAN):
        """SIGTERM; the exit code must be the given one."""
        self.process.send_signal(signal.SIGTERM)
        got = self.wait_exit(limit)
        if code is not None and got != code:
            raise HarnessError("stop: exit code %s, not %s\n%s" % (
                got, code, self.log_tail()))
        self.wait_gone()
        return got

    def supervisor_pid(self):
        """Of the supervisor itself, also under a wrapper."""
        if not self.wrapper:
            return self.process.pid
        for pid in processes_marked(self.mark):
            try:
                with open("/proc/%d/comm" % pid) as comm:
                    if comm.read().strip() == "wallaroo-superv":
                        return pid
            except OSError:
                pass
        return self.process.pid

    def kill_supervisor(self, wait=True):
        """kill -9; returns when it is dead, or also its workers are."""
        os.kill(self.supervisor_pid(), signal.SIGKILL)
        self.process.wait()
        if wait:
            self.wait_gone()

    def kill_everything(self):
        """kill -9 of supervisor and workers, as near to at once as can be"""
        for pid in [self.supervisor_pid()] + processes_marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.wait_gone()

    def wait_gone(self, limit=5):
        """No process of this cluster is left."""
        wait_for(lambda: not processes_marked(self.mark),
                 "the end of all processes of the cluster", limit)

    def signal_worker(self, worker, number):
        pid = self.pids()[worker]
        os.kill(pid, number)
        return pid

    def kill9(self, worker):
        """kill -9 of one worker; returns the pid that died."""
        return self.signal_worker(worker, signal.SIGKILL)

    # what the operator sees

    def ctl_raw(self, *args, limit=None):
        return subprocess.run(
            [self.program("wallarooctl"), "-c", self.conf_path, *args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=self.env(),
            timeout=LIMIT if limit is None else limit)

    def ctl(self, *args, limit=None):
        """wallarooctl --json; the parsed reply."""
        done = self.ctl_raw("--json", *args, limit=limit)
        if done.returncode != 0:
            raise HarnessError("wallarooctl %s: exit code %d: %s" % (
                " ".join(args), done.returncode, done.stderr.decode()))
        return json.loads(done.stdout)

    def status(self):
        return self.ctl("status")

    def workers(self):
        return {entry["worker"]: entry for entry in self.status()["workers"]}

    def pids(self):
        return {number: entry["pid"]
                for number, entry in self.workers().items()}

    def stat(self, name):
        """Sum of one counter over the workers."""
        return sum(entry[name] for entry in self.workers().values())

    def wait_workers(self, limit=None):
        """All workers of the application are running."""
        def all_run():
            status = self.status()
            return status["state"] == "running" and all(
                entry["state"] == "running" for entry in status["workers"])
        wait_for(all_run, "all workers to run", limit)

    def wait_replaced(self, worker, old_pid, limit=None):
        """Another process is this worker, and it has recovered."""
        def replaced():
            entry = self.workers()[worker]
            return entry["pid"] not in (0, old_pid) \
                and entry["state"] == "running" and entry
        return wait_for(replaced, "a new worker %d" % worker, limit)

    # log

    def log(self, whole=False):
        """The log since the last launch."""
        with open(self.log_path, "rb") as file:
            if not whole:
                file.seek(self.launched_at)
            return file.read().decode(errors="replace")

    def log_size(self):
        return len(self.log())

    def log_tail(self, lines=60):
        return "\n".join(self.log(whole=True).splitlines()[-lines:])

    def log_contains(self, pattern, since=0):
        return re.search(pattern, self.log()[since:], re.M)

    def wait_log(self, pattern, limit=None, since=0):
        """The match of pattern in the log of this launch."""
        def found():
            match = self.log_contains(pattern, since)
            if match is None and self.process.poll() is not None:
                match = self.log_contains(pattern, since)
                if match is None:
                    raise HarnessError(
                        "the supervisor ended (%s) before its log said %r\n%s"
                        % (self.process.returncode, pattern,
                           self.log_tail()))
            return match
        try:
            return wait_for(found, "the log line %r" % pattern, limit)
        except HarnessError as error:
            raise HarnessError("%s\n%s" % (error, self.log_tail())) from None

    def reports(self):
        """What the sanitizers of a build with them have said."""
        if not os.path.exists(self.log_path):
            return []			# closed already
        return [line for line in self.log(whole=True).splitlines()
                if re.search(r"(Address|Leak|Thread)Sanitizer|"
                             r"runtime error:", line)]

    # end

    def end_processes(self):
        """All of this cluster, by pid."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = processes_marked(self.mark)
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait()

    def close(self, failed=False):
        """End all processes; keep the directory when the test failed, unless
        it is one that has to fail."""
        if not os.path.exists(self.dir):
            return
        self.end_processes()
        if os.environ.get("WALLAROO_TEST_KEEP") or (
                (failed or self.keep)
                and not os.environ.get("WALLAROO_TEST_DISCARD")):
            print("kept: %s and %s" % (self.dir, self.run_dir))
            print(self.log_tail())
            return
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close(failed=kind is not None)


_LIMITED = """
import json, os, resource, sys
for name, value in json.loads(sys.argv[1]):
    resource.setrlimit(getattr(resource, name), (value, value))
os.execv(sys.argv[2], sys.argv[2:])
"""


# -- receivers --------------------------------------------------------------

class Incoming:
    """One connection that a Receiver accepted."""

    def __init__(self, index, sock, peer):
        self.index = index
        self.sock = sock
        self.peer = peer		# (address, port) of the sender
        self.chunks = []		# (time, bytes)
        self.received = 0
        self.thread = None
        self.end = None			# None, "eof", "reset", "closed by us"
        self.opened_at = time.monotonic()

    def data(self):
        return b"".join(chunk for _, chunk in self.chunks)


class Receiver:
    """A plain TCP server that records what arrives on each connection."""

    def __init__(self, port=None, rcvbuf=None, keep=True, on_data=None,
                 rate=None):
        """keep False: count bytes only.  on_data(connection, time, bytes)
        is called in the connection's thread.  rate: bytes a second."""
        self.port = port or free_port()
        self.keep = keep
        self.on_data = on_data
        self.rate = rate
        self.connections = []
        self.changed = threading.Condition()
        self.reading = threading.Event()
        self.reading.set()
        self.closed = False
        self.rcvbuf = rcvbuf
        self.listener = None
        self.listen()

    def listen(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rcvbuf:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                                     self.rcvbuf)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,),
                         daemon=True).start()

    def unlisten(self):
        """Refuse new connections; the ones that exist stay."""
        listener, self.listener = self.listener, None
        if listener is not None:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()

    def address(self):
        return "127.0.0.1:%d" % self.port

    def _accept(self, listener):
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            with self.changed:
                if self.closed:
                    sock.close()
                    return
                connection = Incoming(len(self.connections), sock, peer)
                connection.thread = threading.Thread(
                    target=self._read, args=(connection,), daemon=True)
                connection.thread.start()
                self.connections.append(connection)
                self.changed.notify_all()

    def _read(self, connection):
        end = "eof"
        try:
            while True:
                while not self.reading.wait(0.2):
                    if connection.end:
                        return
                data = connection.sock.recv(1 << 18 if self.rate is None
                                            else max(1, self.rate // 50))
                if not data:
                    break
                now = time.monotonic()
                if self.on_data:
                    self.on_data(connection, now, data)
                with self.changed:
                    connection.received += len(data)
                    if self.keep:
                        connection.chunks.append((now, data))
                    self.changed.notify_all()
                if self.rate:
                    time.sleep(len(data) / self.rate)
        except ConnectionResetError:
            end = "reset"
        except OSError:
            end = "closed by us"
        with self.changed:
            if connection.end is None:
                connection.end = end
            self.changed.notify_all()
        # An application that sees the end closes its side, too.
        if connection.end == "eof":
            connection.sock.close()

    def pause(self):
        """Stop reading: the senders' pressure builds up."""
        self.reading.clear()

    def resume(self):
        self.reading.set()

    def reset(self, connection):
        """RST to the sender."""
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                   struct.pack("ii", 1, 0))
        with self.changed:
            connection.end = "closed by us"
        # close() sends the RST only when no thread is left in recv.
        try:
            connection.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass
        connection.thread.join(LIMIT)
        connection.sock.close()

    def data(self):
        """Bytes of each connection."""
        with self.changed:
            return [connection.data() for connection in self.connections]

    def total(self):
        with self.changed:
            return sum(connection.received
                       for connection in self.connections)

    def lines(self):
        """Lines of each connection, an unfinished last one included."""
        return [split_lines(data) for data in self.data()]

    def all_lines(self):
        return [line for lines in self.lines() for line in lines]

    def newlines(self):
        with self.changed:
            return sum(chunk.count(b"\n")
                       for connection in self.connections
                       for _, chunk in connection.chunks)

    def wait(self, condition, what, limit=None):
        limit = LIMIT if limit is None else limit
        deadline = time.monotonic() + limit
        with self.changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HarnessError(
                        "receiver waited %.0f s in vain for %s; has %d bytes "
                        "on %d connections" % (limit, what, sum(
                            c.received for c in self.connections),
                            len(self.connections)))
                self.changed.wait(min(left, 1))

    def wait_lines(self, count, limit=None):
        """At least count lines have come in over all connections."""
        seen = [0, 0]

        def enough():
            # count only what is new since the last look
            total = 0
            for connection in self.connections:
                done, lines = getattr(connection, "counted", (0, 0))
                for _, chunk in connection.chunks[done:]:
                    lines += chunk.count(b"\n")
                connection.counted = (len(connection.chunks), lines)
                total += lines
            seen[0] = total
            return total >= count
        try:
            self.wait(enough, "%d lines" % count, limit)
        except HarnessError as error:
            raise HarnessError("%s: %d lines" % (error, seen[0])) from None

    def wait_bytes(self, count, limit=None):
        self.wait(lambda: sum(c.received for c in self.connections)
                  >= count, "%d bytes" % count, limit)

    def wait_connections(self, count, limit=None):
        self.wait(lambda: len(self.connections) >= count,
                  "%d connections" % count, limit)

    def wait_ends(self, limit=None):
        self.wait(lambda: all(c.end for c in self.connections),
                  "the end of all connections", limit)

    def undisturbed(self, count):
        """Exactly count connections came and none has ended."""
        with self.changed:
            return len(self.connections) == count and all(
                c.end is None for c in self.connections)

    def close(self):
        with self.changed:
            self.closed = True
        self.unlisten()
        self.reading.set()
        for connection in self.connections:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def split_lines(data):
    lines = data.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


# -- clients ----------------------------------------------------------------

def frame(payload):
    """As the framed applications expect: 4 bytes of length, then it."""
    return struct.pack(">I", len(payload)) + payload


class Feeder:
    """A TCP client."""

    def __init__(self, port, limit=None, sndbuf=None):
        self.port = port
        self.sent = 0
        self.thread = None
        self.failure = None
        self.stopping = False
        limit = LIMIT if limit is None else limit
        deadline = time.monotonic() + limit
        while True:
            self.sock = socket.socket()
            if sndbuf:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF,
                                     sndbuf)
            try:
                self.sock.settimeout(limit)
                self.sock.connect(("127.0.0.1", port))
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > deadline:
                    raise HarnessError("no connection to port %d" % port)
                time.sleep(0.02)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        """All of it; blocks as long as the other side presses back."""
        view = memoryview(data)
        while view:
            count = self.sock.send(view[:1 << 16])
            self.sent += count
            view = view[count:]

    def send_frames(self, payloads):
        self.send(b"".join(frame(payload) for payload in payloads))

    def start(self, chunks, pause=0, half_close=False):
        """Send an iterable of byte strings from a thread."""
        def run():
            try:
                self.sock.settimeout(None)
                for chunk in chunks:
                    if self.stopping:
                        return
                    self.send(chunk)
                    if pause:
                        time.sleep(pause)
                if half_close:
                    self.half_close()
            except OSError as error:
                self.failure = error
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        return self

    def join(self, limit=None):
        self.thread.join(LIMIT if limit is None else limit)
        if self.thread.is_alive():
            raise HarnessError("client still sending, %d bytes so far"
                               % self.sent)
        if self.failure:
            raise HarnessError("client: %s after %d bytes"
                               % (self.failure, self.sent))

    def busy(self):
        return self.thread is not None and self.thread.is_alive()

    def dribble(self, data, pause):
        """Byte by byte."""
        for index in range(len(data)):
            self.send(data[index:index + 1])
            time.sleep(pause)

    def urgent(self, byte):
        """One byte with the URG flag; it stays in the stream when the
        other side reads urgent data in line."""
        self.sock.send(byte, socket.MSG_OOB)
        self.sent += len(byte)

    def half_close(self):
        """What `nc -N` does after its last byte."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
        self.sock.close()

    def unacknowledged(self):
        """Bytes in our send queue that the other kernel has not got."""
        import fcntl
        return struct.unpack("i", fcntl.ioctl(
            self.sock.fileno(), 0x5411, b"\0" * 4))[0]

    def wait_acknowledged(self, limit=None):
        wait_for(lambda: self.unacknowledged() == 0,
                 "the other kernel to have all bytes", limit)

    def state(self):
        """"open", or how the other side ended the connection."""
        poller = select.poll()
        poller.register(self.sock, select.POLLIN | select.POLLRDHUP)
        events = dict(poller.poll(0)).get(self.sock.fileno(), 0)
        if events & (select.POLLERR | select.POLLHUP):
            return "reset"
        if events & select.POLLRDHUP:
            return "eof"
        return "open"

    def wait_closed(self, limit=None):
        """How the other side ended it."""
        wait_for(lambda: self.state() != "open",
                 "the end of a client connection", limit)
        return self.state()

    def close(self):
        self.stopping = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- tools ------------------------------------------------------------------

def have(tool):
    return shutil.which(tool) is not None


def mount_namespace():
    """A command prefix that gives a program its own mounts, or None."""
    for prefix in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            done = subprocess.run(prefix + ["true"], capture_output=True)
        except OSError:
            return None
        if done.returncode == 0:
            return prefix
    return None


def raise_file_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
