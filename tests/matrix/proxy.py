"""A TCP proxy that makes a network bad: slow, silent, or cut by a reset."""

import fcntl
import select
import socket
import struct
import termios
import threading
import time


class Proxy:
    """Listens for one port of 127.0.0.1."""

    def __init__(self, to):
        self.to = to
        self.delay = 0.0		# seconds before bytes are passed on
        self.silent = threading.Event()	# set: half-open, nothing passes
        self.closed = False
        self.passing = 0		# reads that are not yet written
        self.pairs = []
        self.lock = threading.Lock()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket()
            try:
                far.connect(("127.0.0.1", self.to))
            except OSError:
                far.close()
                near.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(one, other),
                                 daemon=True).start()

    def _pass(self, one, other):
        try:
            while not self.closed:
                if self.silent.is_set() or not select.select(
                        [one], [], [], 0.05)[0]:
                    if self.silent.is_set():
                        time.sleep(0.01)
                    continue
                with self.lock:
                    self.passing += 1
                try:
                    data = one.recv(1 << 16)
                    if self.delay:
                        time.sleep(self.delay)
                    if not data:
                        other.shutdown(socket.SHUT_WR)
                        return
                    other.sendall(data)
                finally:
                    with self.lock:
                        self.passing -= 1
        except (OSError, ValueError):
            pass			# reset, or closed by us

    def holds(self):
        """Is there anything that came and was not passed on?"""
        with self.lock:
            if self.passing > 0:
                return True
            for sock in [sock for pair in self.pairs for sock in pair]:
                try:
                    if fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4) \
                            != b"\0" * 4:
                        return True
                except (OSError, ValueError):
                    pass		# closed
        return False

    def reset(self):
        """Both sides of every connection see a reset."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for sock in pair:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                    struct.pack("ii", 1, 0))
                    # To be closed for good nobody may sit in select.
                    sock.shutdown(socket.SHUT_RD)
                except OSError:
                    pass
        time.sleep(0.1)
        for pair in pairs:
            for sock in pair:
                sock.close()

    def close(self):
        self.closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        with self.lock:
            for pair in self.pairs:
                for sock in pair:
                    sock.close()
            self.pairs = []
