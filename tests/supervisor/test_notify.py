"""Readiness, the watchdog and the descriptor store."""

import array
import os
import socket
import sys

import pytest

from conftest import Client, free_port, wait_for

LAUNCHER = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
moved = [os.dup2(fd, 200 + n) for n, fd in enumerate(fds)]
for n, fd in enumerate(moved):
    os.dup2(fd, 3 + n)
    os.close(fd)
os.closerange(3 + len(fds), 300)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(fds))
os.environ["LISTEN_FDNAMES"] = sys.argv[2]
os.execv(sys.argv[3], sys.argv[3:])
"""


# One that any user may execute.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") \
    else sys.executable


class Systemd:
    def __init__(self, a):
        self.a = a
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(a.dir + "/notify")
        os.chmod(a.dir + "/notify", 0o777)
        os.chmod(a.dir, 0o755)
        self.said = []
        self.store = {}

    def read(self):
        while True:
            try:
                data, anc, _, _ = self.sock.recvmsg(
                    65536, socket.CMSG_SPACE(64), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            fds = array.array("i")
            for _, _, payload in anc:
                fds.frombytes(payload)
            fields = dict(line.split("=", 1)
                          for line in data.decode().splitlines())
            self.said.append(fields)
            if "FDSTORE" in fields:
                assert fields["FDPOLL"] == "0"
                assert fields["FDNAME"] not in self.store, fields
                self.store[fields["FDNAME"]] = fds[0]
            elif "FDSTOREREMOVE" in fields:
                os.close(self.store.pop(fields["FDNAME"]))

    def names(self, kind):
        self.read()
        return sorted(n for n in self.store if n.startswith(kind + "."))

    def start(self, **env):
        env["NOTIFY_SOCKET"] = self.a.dir + "/notify"
        names, fds = list(self.store), list(self.store.values())
        self.a.launch(env=env, pass_fds=fds, wrapper=[
            PYTHON, "-c", LAUNCHER, ",".join(map(str, fds)),
            ":".join(names)])
        self.a.wait_log("application is running")
        return self

    def heard(self, key):
        self.read()
        return [fields[key] for fields in self.said if key in fields]


def test_ready_watchdog_stopping(app):
    a = app()
    s = Systemd(a).start(WATCHDOG_USEC="400000")
    wait_for(lambda: s.heard("READY") == ["1"], "READY=1")
    wait_for(lambda: len(s.heard("WATCHDOG")) >= 4, "WATCHDOG=1")
    assert s.heard("STOPPING") == []
    a.stop()
    assert s.heard("STOPPING") == ["1"]


def test_connections_survive_the_supervisor(app, receiver):
    port = free_port()
    a = app(workers=2, args=[
        "source=127.0.0.1:%d" % port,
        "sink=127.0.0.1:%d" % receiver.getsockname()[1]])
    s = Systemd(a).start()
    sinks = [receiver.accept()[0].makefile("rb") for _ in range(2)]
    clients = [Client(port) for _ in range(4)]
    wait_for(lambda: len(s.names("conn")) == 4, "4 stored")
    wait_for(lambda: len(s.names("sink")) == 2, "2 stored")
    assert s.names("listen") == ["listen.0"]
    before = s.names("conn") + s.names("sink")
    for _ in range(4):
        a.kill()
        s.start()
        assert s.names("conn") + s.names("sink") == before
        assert s.names("listen") == ["listen.0"]
        assert a.status()["sources"][0]["connections"] == 4
        assert a.status()["sinks"][0]["connected"] == 2
    for client in clients:
        client.send("text")
    assert sum(len(k.readline()) for k in sinks for _ in range(2)) == 20
    # A new one gets a name of its own.
    clients.append(Client(port))
    wait_for(lambda: len(s.names("conn")) == 5, "5 stored")
    clients[0].close()
    wait_for(lambda: len(s.names("conn")) == 4, "4 stored")
    a.stop()
    assert s.names("conn") == [] and s.names("sink") == []


def test_connections_that_fit_no_more(app):
    port = free_port()
    a = app(workers=2, args=["source=127.0.0.1:%d" % port])
    s = Systemd(a).start()
    clients = [Client(port) for _ in range(2)]
    wait_for(lambda: len(s.names("conn")) == 2, "2 stored")
    a.kill()
    other = free_port()
    a.configure(args=["source=127.0.0.1:%d" % other])
    s.store["conn.77.9.0"] = os.dup(clients[0].sock.fileno())
    s.store["nonsense"] = os.open("/dev/null", os.O_RDONLY)
    s.start()
    assert "conn.77.9.0" not in s.names("conn")
    assert s.names("listen") == ["listen.0"]
    assert Client(other).ask("hello") == "hello"
    with pytest.raises(OSError):
        Client(port)
    a.stop()


def test_listening_socket_from_outside(app):
    """Socket activation: the socket is used, not stored."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        a = app(args=["source=127.0.0.1:%d" % port])
        s = Systemd(a)
        s.store["words"] = os.dup(sock.fileno())
        s.start()
        assert s.names("listen") == []
        assert Client(port).ask("hello") == "hello"
        a.stop()
