"""A stand-in for systemd: what `Type=notify` with a descriptor store does.

It listens on NOTIFY_SOCKET, keeps the descriptors that the service stores,
drops those without FDPOLL=0 when they hang up, hands the rest over as
LISTEN_FDS when it starts the service again, and watches the watchdog.  As
with KillMode=mixed, what is left of the service when its main process has
died is killed before the next start.
"""

import array
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

import harness

# Puts the stored descriptors at 3, 4, ... and says so in the environment.
LAUNCHER = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = 3 + len(fds) + max(fds + [0])
moved = []
for fd in fds:
    high += 1
    os.dup2(fd, high)
    moved.append(high)
for number, fd in enumerate(moved):
    os.dup2(fd, 3 + number)
os.closerange(3 + len(fds), high + 1)
if fds:
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(fds))
    os.environ["LISTEN_FDNAMES"] = sys.argv[2]
if "WATCHDOG_USEC" in os.environ:
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


class Systemd:
    """Runs one cluster as a service."""

    MAX = 4096				# FileDescriptorStoreMax

    def __init__(self, cluster, watchdog=2.0):
        self.cluster = cluster
        self.watchdog = watchdog
        self.path = os.path.join(cluster.dir, "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.sock.bind(self.path)
        os.chmod(self.path, 0o777)
        self.stored = []		# [name, fd, poll]
        self.messages = []		# (time, pid, {key: value})
        self.refused = []
        self.lock = threading.Lock()
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    # the notification socket

    def _serve(self):
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        while not self.stopping:
            if poller.poll(50):
                self._receive()
            with self.lock:
                self._drop_hung_up()

    def _drain(self):
        while select.select([self.sock], [], [], 0)[0]:
            self._receive()

    def _receive(self):
        try:
            data, ancillary, _, _ = self.sock.recvmsg(
                65536, socket.CMSG_SPACE(4 * 253) + socket.CMSG_SPACE(12),
                socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        fds, pid = array.array("i"), 0
        for level, kind, payload in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[:len(payload) // 4 * 4])
            elif kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("iII", payload)[0]
        fields = dict(line.split("=", 1) for line in
                      data.decode().splitlines() if "=" in line)
        with self.lock:
            self.messages.append((time.monotonic(), pid, fields))
            process = self.cluster.process
            main = process.pid if process else 0
            if pid != main:
                # NotifyAccess=main
                self.refused.append((pid, fields))
                for fd in fds:
                    os.close(fd)
                return
            self._store(fields, list(fds))

    def _store(self, fields, fds):
        if fields.get("FDSTOREREMOVE") == "1":
            name = fields["FDNAME"]
            for entry in [e for e in self.stored if e[0] == name]:
                self.stored.remove(entry)
                os.close(entry[1])
        if fields.get("FDSTORE") == "1":
            name = fields.get("FDNAME", "stored")
            assert len(name) <= 255 and ":" not in name \
                and name.isprintable(), name
            for fd in fds:
                if len(self.stored) >= self.MAX:
                    self.refused.append((name, "store is full"))
                    os.close(fd)
                    continue
                self.stored.append((name, fd,
                                    fields.get("FDPOLL") != "0"))
            return
        for fd in fds:
            os.close(fd)

    def _drop_hung_up(self):
        """systemd drops what hangs up, unless FDPOLL=0."""
        polled = [e for e in self.stored if e[2]]
        if not polled:
            return
        poller = select.poll()
        for entry in polled:
            poller.register(entry[1], 0)
        gone = {fd for fd, events in poller.poll(0)
                if events & (select.POLLHUP | select.POLLERR)}
        for entry in polled:
            if entry[1] in gone:
                self.stored.remove(entry)
                os.close(entry[1])

    # the service

    def start(self, wait=True, stdin=None):
        self._drain()
        with self.lock:
            names = ":".join(entry[0] for entry in self.stored)
            fds = [entry[1] for entry in self.stored]
            before = len(self.messages)
        env = {"NOTIFY_SOCKET": self.path}
        if self.watchdog:
            env["WATCHDOG_USEC"] = str(int(self.watchdog * 1e6))
        self.cluster.wrapper = [sys.executable, "-c", LAUNCHER,
                                ",".join(map(str, fds)), names]
        self.cluster.launch(pass_fds=fds, env=env, **(
            {} if stdin is None else {"stdin": stdin}))
        self.cluster.wrapper = []
        if wait:
            self.wait_ready(before)

    def wait_ready(self, since=0):
        def ready():
            if self.cluster.process.poll() is not None:
                raise harness.HarnessError(
                    "the service ended with %s before it was ready\n%s" % (
                        self.cluster.process.returncode,
                        self.cluster.log_tail()))
            with self.lock:
                return any(fields.get("READY") == "1"
                           for _, _, fields in self.messages[since:])
        harness.wait_for(ready, "READY=1")

    def kill(self):
        """SIGKILL to the main process; then what KillMode=mixed does."""
        process = self.cluster.process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for pid in harness.processes_marked(self.cluster.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.cluster.wait_gone()
        self._drain()

    def stop(self):
        """systemctl stop: SIGTERM to the main process; the store is
        dropped when it has ended."""
        code = self.cluster.stop()
        self._drain()
        return code

    def names(self):
        with self.lock:
            return sorted(entry[0] for entry in self.stored)

    def gaps(self, pid):
        """Seconds between the watchdog messages of one main process."""
        with self.lock:
            times = [when for when, sender, fields in self.messages
                     if sender == pid and fields.get("WATCHDOG") == "1"]
        return [late - early for early, late in zip(times, times[1:])]

    def close(self):
        self.stopping = True
        self.thread.join()
        with self.lock:
            for entry in self.stored:
                os.close(entry[1])
            self.stored = []
        self.sock.close()
