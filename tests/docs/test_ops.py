"""Every command of wallaroo-ops(7), from top to bottom.

A directory plays the root of the machine: absolute paths of the page are
changed to lie in it, the software is built and installed there, and what
belongs to the system (services, other machines) is played by standin.py.
The counts that come out show that state was kept.
"""

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
SOURCE = os.path.dirname(os.path.dirname(HERE))
LEVEL = os.environ.get("WALLAROO_LEVEL", "check")
STANDINS = ("systemctl", "journalctl", "ssh", "scp", "useradd", "mount")
NOT_COPIED = (".git", "*.o", "*.a", "__pycache__", "Makefile", "stamp-h1",
              "config.status", "config.log", "config.h", ".deps",
              "autom4te.cache", "test-results")
PATIENCE_S = 60

needs_level = pytest.mark.skipif(
    LEVEL == "check" or not os.environ.get("WALLAROO_BUILD"),
    reason="builds and installs: WALLAROO_LEVEL=all, with WALLAROO_BUILD")


def sections():
    """(title, [block of commands, ...]) of the page."""
    with open(os.path.join(SOURCE, "man", "wallaroo-ops.7")) as file:
        parts = re.split(r"^\.Sh (.*)\n", file.read(), flags=re.M)[1:]
    for title, text in zip(parts[::2], parts[1::2]):
        blocks = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", text,
                            re.M | re.S)
        yield title, [block.replace("\\e", "\\").replace("\\&", "")
                      for block in blocks]


def script(block):
    """The commands of a block without their prompts."""
    return "".join(line[2:] + "\n" for line in block.splitlines())


def is_commands(block):
    return all(line.startswith(("# ", "$ ", "> "))
               for line in block.splitlines())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Machine:
    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="wallaroo-ops-")
        self.other = self.root + ".new"
        self.now = self.root		# where the application lives
        self.port = free_port()
        self.user = ("nobody" if os.geteuid() == 0
                     else pwd.getpwuid(os.geteuid()).pw_name)
        os.chmod(self.root, 0o755)
        for directory in ("tmp", "var/backups", "etc", "stand-ins",
                          "usr/local"):
            os.makedirs(os.path.join(self.root, directory))
        for directory in ("tmp", "etc/wallaroo", "srv", "var/lib"):
            os.makedirs(os.path.join(self.other, directory))
        os.chmod(self.other, 0o755)
        self.tmpfs = []
        for root in (self.root, self.other):
            self.make_run(os.path.join(root, "run"))
        for name in STANDINS:
            path = os.path.join(self.root, "stand-ins", name)
            shutil.copy(os.path.join(HERE, "standin.py"), path)
            os.chmod(path, 0o755)
        self.source = os.path.join(self.root, "source")
        shutil.copytree(SOURCE, self.source, symlinks=True,
                        ignore=shutil.ignore_patterns(*NOT_COPIED))
        for directory, _, files in os.walk(self.source):
            for name in [""] + files:
                path = os.path.join(directory, name)
                if not os.path.islink(path):
                    os.chmod(path, os.stat(path).st_mode | 0o200)
        if not os.path.exists(os.path.join(self.source, "configure")):
            self.shell("./autogen.sh")
        self.pids = []

    def make_run(self, path):
        """/run, on a tmpfs where there is one."""
        if os.access("/dev/shm", os.W_OK):
            target = tempfile.mkdtemp(prefix="wallaroo-ops-", dir="/dev/shm")
            os.chmod(target, 0o755)
            self.tmpfs.append(target)
            os.symlink(target, path)
        else:
            os.mkdir(path)

    def localize(self, text):
        """The page's commands, for this machine."""
        text = re.sub(r"(?<![\w/.$-])/(etc|srv|var|run|tmp|usr/local)\b",
                      self.root + r"/\1", text)
        text = text.replace(" -C / ", " -C %s/ " % self.root)
        text = text.replace("7010", str(self.port))
        text = re.sub(r'(-o |user = ")wallaroo\b', r"\1" + self.user, text)
        outside = [
            path for path in re.findall(r"(?<![\w/.$-])(/\w[\w/.-]*)", text)
            if not path.startswith(self.root)
            and os.path.exists("/" + path.split("/")[1])]
        assert not outside
        return text

    def shell(self, text):
        environment = dict(os.environ, WALLAROO_ROOT=self.root,
                           WALLAROO_USER=self.user)
        environment["PATH"] = os.pathsep.join(
            [os.path.join(self.root, "stand-ins"),
             os.path.join(self.root, "usr/local/sbin"),
             os.path.join(self.root, "usr/local/bin"),
             environment["PATH"]])
        for name in ("WALLAROO_PYTHON_PACKAGE", "MAKEFLAGS", "MAKELEVEL",
                     "NOTIFY_SOCKET", "CFLAGS"):
            environment.pop(name, None)
        with tempfile.TemporaryFile("w+") as out:
            code = subprocess.run(
                ["sh", "-ec", text], cwd=self.source, env=environment,
                stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT).returncode
            out.seek(0)
            output = out.read()
        assert code == 0, "%s\nexit code %d\n%s\n%s" % (
            text, code, output[-4000:], self.log()[-4000:])
        return output

    def log(self):
        try:
            with open(os.path.join(self.now, "wc.log"),
                      errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def counted(self):
        """The last count of each word in the output file."""
        counts = {}
        try:
            with open(os.path.join(
                    self.now, "var/lib/wallaroo/wc/counts.txt")) as file:
                for line in file:
                    word, _, count = line.rstrip("\n").partition(" => ")
                    counts[word] = int(count)
        except FileNotFoundError:
            pass
        return counts

    def feed(self, text, expected):
        """Send a line; the counts must become as expected."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as client:
            client.sendall(text.encode() + b"\n")
            client.shutdown(socket.SHUT_WR)
            until = time.monotonic() + PATIENCE_S
            while True:
                counts = self.counted()
                if all(counts.get(word) == n for word, n in expected.items()):
                    return
                assert time.monotonic() < until, (counts, expected,
                                                  self.log()[-4000:])
                time.sleep(0.05)

    def close(self):
        for root in (self.root, self.other):
            path = os.path.join(root, "wc.pid")
            if os.path.exists(path) and not os.path.exists(
                    os.path.join(root, "wc.code")):
                with open(path) as file:
                    try:
                        os.kill(int(file.read()), signal.SIGKILL)
                    except (OSError, ValueError):
                        pass
        if not os.environ.get("WALLAROO_TEST_KEEP"):
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.other, ignore_errors=True)
            for path in self.tmpfs:
                shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def machine():
    machine = Machine()
    yield machine
    machine.close()


# What is sent after a section's commands, and the counts that must come then.
AFTER = {
    "START": ("the cat the dog", {"the": 2, "cat": 1}),
    "DEPLOY A NEW VERSION OF AN APPLICATION": ("the the", {"the": 4}),
    "CHANGE THE NUMBER OF WORKERS": ("cat the", {"the": 5, "cat": 2}),
    "BACK UP": ("the bird", {"the": 6, "bird": 1}),
    # back where the backup was
    "RESTORE": ("bird the the cat", {"the": 7, "bird": 1, "cat": 3}),
    "UPGRADE THE SOFTWARE": ("the", {"the": 9}),
}


def test_uniform():
    """A display is commands, or a configuration or loop; nothing mixed."""
    titles = []
    for title, blocks in sections():
        titles.append(title)
        for block in blocks:
            first = block[:2]
            if first in ("# ", "$ "):
                assert is_commands(block), block
                assert subprocess.run(
                    ["sh", "-n", "-c", script(block)]).returncode == 0
            else:
                assert not re.search(r"^[#$>] ", block, re.M), block
                assert subprocess.run(
                    ["sh", "-n", "-c", block]).returncode == 0
    for title in ("INSTALL", "START", "STOP", "BACK UP", "RESTORE",
                  "MOVE TO ANOTHER MACHINE", "UPGRADE THE SOFTWARE",
                  "READ THE LOG", "SIZE MEMORY AND TMPFS",
                  "DEPLOY A NEW VERSION OF AN APPLICATION"):
        assert title in titles


@needs_level
def test_every_command(machine):
    for title, blocks in sections():
        print("== " + title)
        for block in blocks:
            if not is_commands(block):
                continue
            text = machine.localize(script(block))
            print(text)
            print(machine.shell(text))
        if title == "STOP":
            # The page's next section starts from a running application.
            machine.shell("systemctl start wallaroo@wc")
        if title == "MOVE TO ANOTHER MACHINE":
            machine.now = machine.other
            machine.feed("the", {"the": 8})
            machine.shell("ssh new systemctl stop wallaroo@wc")
            # The old machine goes on with the new one's state and output.
            machine.now = machine.root
            machine.shell(
                "cd $WALLAROO_ROOT.new/var/lib/wallaroo/wc; "
                "cp -p state/*.sqlite $WALLAROO_ROOT/var/lib/wallaroo/wc/"
                "state/; cp -p counts.txt $WALLAROO_ROOT/var/lib/wallaroo/wc/;"
                "cd /; "
                "systemctl start wallaroo@wc")
        if title in AFTER:
            machine.feed(*AFTER[title])
    machine.shell("systemctl stop wallaroo@wc")
