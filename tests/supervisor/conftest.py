"""The real supervisor with fake workers: see tests/fake/fake_worker.c."""

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE_TREE = os.path.dirname(os.path.dirname(HERE))
LIMIT = float(os.environ.get("WALLAROO_TEST_LIMIT", "30"))


def find(*names):
    """A built program."""
    for base in (os.environ.get("WALLAROO_PROGRAMS"),
                 os.environ.get("WALLAROO_BUILD"), os.getcwd(), SOURCE_TREE):
        for name in names:
            path = os.path.join(base or "/nonexistent", name)
            if os.access(path, os.X_OK):
                return path
    raise AssertionError("%s is not built: set WALLAROO_BUILD" % names[0])


def wait_for(condition, what, limit=LIMIT):
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "waited in vain for " + what
        time.sleep(0.005)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def free_port():
    """Bound but not listening: nobody else gets it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _held.append(sock)
    return sock.getsockname()[1]


_held = []


class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), LIMIT)
        self.file = self.sock.makefile("rb")

    def send(self, text):
        self.sock.sendall(text.encode() + b"\n")

    def ask(self, text):
        self.send(text)
        return self.line()

    def line(self):
        return self.file.readline().decode().rstrip("\n")

    def is_open(self):
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(LIMIT)

    def close(self):
        self.file.close()
        self.sock.close()


class App:
    """One supervisor with fake workers, run without privileges: a process
    that has dropped them does not believe WALLAROO_WORKER."""

    def __init__(self, **settings):
        self.user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.dir = tempfile.mkdtemp(prefix="wallaroo-sup-")
        self.fake = os.path.join(self.dir, "fake")
        self.state = os.path.join(self.dir, "state")
        self.run = os.path.join(self.dir, "run")
        self.conf = os.path.join(self.dir, "cluster.conf")
        self.log_path = os.path.join(self.dir, "log")
        for path in (self.fake, self.state, self.run):
            os.mkdir(path, 0o700)
        open(self.log_path, "w").close()
        self.settings = {"module": "fake", "workers": 2,
                         "state-directory": self.state,
                         "runtime-directory": self.run, "args": []}
        self.process = None
        self.env = {}
        self.log_from = 0
        self.configure(**settings)

    def own(self):
        if self.user:
            for base, dirs, files in os.walk(self.dir):
                for name in dirs + files + ["."]:
                    os.chown(os.path.join(base, name), self.user.pw_uid,
                             self.user.pw_gid)

    def configure(self, **settings):
        for key, value in settings.items():
            self.settings[key.replace("_", "-")] = value

        def text(value):
            if isinstance(value, list):
                return "{%s}" % ", ".join('"%s"' % v for v in value)
            return str(value) if isinstance(value, (int, float)) \
                else '"%s"' % value
        with open(self.conf, "w") as file:
            file.write('application "fake" {\n%s}\n' % "".join(
                "\t%s = %s\n" % (k, text(v))
                for k, v in self.settings.items() if v is not None))

    def order(self, name, text=""):
        with open(os.path.join(self.fake, name), "w") as file:
            file.write(text)
        os.chmod(os.path.join(self.fake, name), 0o644)

    def revoke(self, name):
        os.unlink(os.path.join(self.fake, name))

    def launch(self, *options, env=None, pass_fds=(), stdin=None,
               stdout=None, wrapper=()):
        self.own()
        self.log_from = os.path.getsize(self.log_path)
        environ = dict(os.environ, FAKE_DIR=self.fake,
                       WALLAROO_WORKER=find("fake_worker",
                                            "tests/fake/fake_worker"))
        environ.pop("NOTIFY_SOCKET", None)
        environ.update(self.env)
        environ.update(env or {})
        who = {"user": self.user.pw_uid, "group": self.user.pw_gid,
               "extra_groups": []} if self.user else {}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, find("wallaroo-supervisord"), "-c", self.conf,
                 *options], env=environ, stderr=log, cwd="/",
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=log if stdout is None else stdout,
                pass_fds=pass_fds, **who)
        return self

    def start(self, *options, **more):
        self.launch(*options, **more)
        self.wait_log("application is running")
        return self

    def log(self):
        with open(self.log_path, errors="replace") as file:
            file.seek(self.log_from)
            return file.read()

    def wait_log(self, pattern, limit=LIMIT):
        def found():
            match = re.search(pattern, self.log())
            assert match or self.process.poll() is None or \
                re.search(pattern, self.log()), "ended\n" + self.log()
            return match
        try:
            return wait_for(found, "log line " + pattern, limit)
        except AssertionError as error:
            raise AssertionError("%s\n%s" % (error, self.log())) from None

    def wait_exit(self, code=None, limit=LIMIT):
        got = self.process.wait(limit)
        assert code is None or got == code, "exit %d\n%s" % (got, self.log())
        return got

    def fails(self, code, *patterns, options=()):
        """Start; it must end with this code and say these things."""
        self.launch(*options)
        self.wait_exit(code)
        for pattern in patterns:
            assert re.search(pattern, self.log()), self.log()

    def stop(self, code=0):
        self.process.send_signal(signal.SIGTERM)
        self.wait_exit(code)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ctl(self, *args, code=0):
        done = subprocess.run([find("wallarooctl"), "-c", self.conf,
                               "--json", *args], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=LIMIT)
        assert done.returncode == code, done
        return json.loads(done.stdout) if code == 0 else \
            done.stderr.decode()

    def ctl_start(self, *args):
        """The same, not waited for."""
        return subprocess.Popen([find("wallarooctl"), "-c", self.conf, *args],
                                stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)

    def status(self):
        return self.ctl("status")

    def worker(self, number):
        return self.status()["workers"][number]

    def pid(self, number):
        return self.worker(number)["pid"]

    def wait_running(self, *not_pids):
        def running():
            status = self.status()
            return status["state"] == "running" and all(
                w["state"] == "running" and w["pid"] not in not_pids
                for w in status["workers"])
        wait_for(running, "workers to run")

    def diary(self, number, pid=None):
        try:
            with open(os.path.join(self.fake, "diary-%d" % number)) as file:
                lines = [line.rstrip("\n").split(" ", 1) for line in file]
        except FileNotFoundError:
            return []
        return [text for who, text in lines if pid in (None, int(who))]

    def wait_diary(self, number, pattern, pid=None):
        def found():
            for line in self.diary(number, pid):
                match = re.search(pattern, line)
                if match:
                    return match
        return wait_for(found, "diary of %d: %s" % (number, pattern))

    def processes(self):
        """Whatever has our directory in its environment."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                with open("/proc/%s/environ" % entry, "rb") as file:
                    if b"FAKE_DIR=" + self.fake.encode() in \
                            file.read().split(b"\0"):
                        found.append(int(entry))
            except (OSError, ValueError):
                pass
        return [pid for pid in found if alive(pid)]

    def close(self, failed):
        if self.process and self.process.poll() is None:
            self.kill()
            time.sleep(0.05)
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if failed:
            print(self.dir)
            print(self.log())
        else:
            shutil.rmtree(self.dir)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed


@pytest.fixture
def app(request):
    made = []

    def make(**settings):
        made.append(App(**settings))
        return made[-1]
    yield make
    for one in made:
        one.close(getattr(request.node, "failed", True))


@pytest.fixture
def receiver():
    """A listening socket whose connections are kept."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(LIMIT)
    yield sock
    sock.close()
