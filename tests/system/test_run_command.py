"""python -m wallaroo run --workers, and wallaroo.run(), on real workers."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import harness
from words import Zipf

ALL = pytest.mark.level("all")

APP = '''
import sys

import wallaroo
from wallaroo import codecs


class Total:
    count = 0


@wallaroo.computation_multi
def split(line):
    return line.split()


@wallaroo.key_extractor
def itself(word):
    return word


@wallaroo.state_computation(state=Total)
def count(word, total):
    total.count += 1
    if word == "!bad":
        raise ValueError("a bad word")
    if word == "say":
        print("printed by user code")
    return "%s %d" % (word, total.count)


def application_setup(args):
    kind, where = args[1], args[2]
    if kind == "file":
        source = wallaroo.FileSourceConfig("in", where,
                                           codecs.lines_decoder)
    elif kind == "tcp":
        source = wallaroo.TCPSourceConfig("in", "127.0.0.1", where,
                                          codecs.lines_decoder)
    else:
        source = wallaroo.StdinSourceConfig("in", codecs.lines_decoder)
    sink = wallaroo.StdoutSinkConfig(codecs.lines_encoder)
    if len(args) > 3:
        sink = wallaroo.FileSinkConfig(args[3], codecs.lines_encoder)
    return wallaroo.build_application("run", wallaroo.source("in", source)
        .to(split).key_by(itself).to(count).to_sink(sink), version="7.1")


wallaroo.run()
'''


class Command:
    """A directory with the application, and what is run in it."""

    def __init__(self, path):
        self.path = path
        self.temporary = os.path.join(path, "tmp")
        os.mkdir(self.temporary)
        self.write("app.py", APP)
        self.env = dict(
            os.environ, PYTHONPATH=harness.python_package_dir(),
            PYTHONDONTWRITEBYTECODE="1", TMPDIR=self.temporary,
            WALLAROO_PREFIX=harness.build_dir(),
            ASAN_OPTIONS=harness.sanitizer_options())
        self.env.pop("WALLAROO_PYTHON_PACKAGE", None)

    def write(self, name, text):
        path = os.path.join(self.path, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self, *args, script=False, **more):
        command = [sys.executable] + (
            list(args) if script else ["-m", "wallaroo", "run", *args])
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE}
        options.update(more)
        return subprocess.Popen(command, cwd=self.path, env=self.env,
                                **options)

    def run(self, *args, status=0, given=None, **more):
        if given is not None:
            more["stdin"] = subprocess.PIPE
        process = self.start(*args, **more)
        out, err = process.communicate(given, timeout=harness.LIMIT)
        assert process.returncode == status, (out, err)
        return out.decode(), err.decode()

    def check_nothing_left(self):
        assert os.listdir(self.temporary) == []


@pytest.fixture
def command(tmp_path):
    os.chmod(tmp_path, 0o755)
    return Command(str(tmp_path))


def counted(lines):
    seen = {}
    for line in lines:
        for word in line.split():
            seen[word] = seen.get(word, 0) + 1
    return sorted("%s %d" % (word, n) for word in seen
                  for n in range(1, seen[word] + 1))


@pytest.mark.parametrize("how", [
    ["app.py", "--workers=2"],
    pytest.param(["--workers", "2", "app.py"], marks=ALL),
    pytest.param(["app", "--workers", "2", "--"], marks=ALL)])
def test_file_to_stdout(command, how):
    """The same as in one process; quiet, since it is no terminal."""
    lines = Zipf(7).lines(300, per_line=3)
    command.write("in", "\n".join(lines) + "\n")
    out, err = command.run(*how, "file", "in")
    assert sorted(out.splitlines()) == counted(lines)
    assert err == "" or "not on a tmpfs" in err
    alone, _ = command.run("app.py", "file", "in")
    assert sorted(alone.splitlines()) == sorted(out.splitlines())
    command.check_nothing_left()


@ALL
def test_python_app(command):
    """python app.py, with and without workers; a filter of a pipe."""
    for options in [], ["--workers", "2"]:
        out, _ = command.run("app.py", *options, "stdin", "", script=True,
                             given=b"b a\nb\n")
        assert sorted(out.splitlines()) == ["a 1", "b 1", "b 2"]
    command.check_nothing_left()


@ALL
def test_prints_of_user_code_are_seen(command):
    command.write("in", "say\n")
    out, _ = command.run("app.py", "--workers", "1", "file", "in", "out")
    assert out == "printed by user code\n"
    _, err = command.run("app.py", "--workers", "1", "--verbose", "file",
                         "in", "out")
    assert 'version="7.1"' in err


def test_an_error_of_user_code(command):
    """Its text and traceback are shown, its exit code is passed on."""
    command.write("in", "good\n!bad\n")
    out, err = command.run("app.py", "--workers", "2", "file", "in",
                           status=harness.EXIT_PERMANENT)
    assert "ValueError: a bad word" in err
    assert re.search(r'app\.py", line \d+, in count', err)
    command.check_nothing_left()
    out, err = command.run("app.py", "--workers", "2", "--on-error=skip",
                           "file", "in")
    assert out == "good 1\n"


@ALL
def test_an_error_while_building(command):
    command.write("app.py", "import wallaroo\nnothing.at.all\n")
    _, err = command.run("app.py", "--workers", "2",
                         status=harness.EXIT_PERMANENT)
    assert "NameError" in err and 'app.py", line 2' in err
    command.check_nothing_left()


@ALL
def test_state_directory(command):
    """What is kept there is gone on with, by another number of workers."""
    state = os.path.join(command.path, "state")
    for workers, words, expected in ((1, "a b\n", ["a 1", "b 1"]),
                                     (3, "a\n", ["a 2"])):
        out, _ = command.run(
            "app.py", "--workers", str(workers), "--state-directory", state,
            "stdin", "", given=words.encode())
        assert sorted(out.splitlines()) == expected
    assert os.path.exists(os.path.join(state, "cluster.conf"))
    command.check_nothing_left()


def ready(port):
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


@pytest.mark.parametrize("number", [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=ALL)])
def test_a_signal_is_a_clean_stop(command, number):
    port = harness.free_port()
    process = command.start("app.py", "--workers", "2", "tcp", str(port))
    harness.wait_for(lambda: ready(port), "the source to listen")
    process.send_signal(number)
    out, err = process.communicate(timeout=harness.LIMIT)
    assert process.returncode == 0, (out, err)
    command.check_nothing_left()


@ALL
def test_a_killed_command_takes_its_workers_along(command):
    port = harness.free_port()
    state = os.path.join(command.path, "state")
    process = command.start("app.py", "--workers", "2",
                            "--state-directory", state, "tcp", str(port))
    harness.wait_for(lambda: ready(port), "the source to listen")
    process.kill()
    process.communicate(timeout=harness.LIMIT)
    harness.wait_for(lambda: not ready(port), "the end of the workers")


@ALL
def test_programs_that_are_missing(command, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    os.symlink(os.path.join(harness.python_package_dir(), "wallaroo"),
               bare / "wallaroo")
    command.env["WALLAROO_PREFIX"] = str(bare)
    command.env["PATH"] = str(bare)
    code = ("import sys, wallaroo._cluster as c; c.places = lambda: [];"
            "from wallaroo._run import main; sys.exit(main(sys.argv[1:]))")
    _, err = command.run("-c", code, "run", "app.py", "--workers", "2",
                         "stdin", "", script=True, status=1)
    assert "wallaroo-supervisord is not installed" in err
    assert "WALLAROO_PREFIX" in err
    command.check_nothing_left()


class Terminal:
    """The other end of one."""

    def __init__(self):
        try:
            self.end, self.other = pty.openpty()
        except OSError as error:
            pytest.skip("no terminals here (/dev/pts): %s" % error)
        self.seen = ""

    def wait(self, pattern, limit=harness.LIMIT):
        deadline = time.monotonic() + limit
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.end, 65536).decode()
                except OSError:		# nobody has it open any more
                    assert re.search(pattern, self.seen), self.seen


def test_progress_on_a_terminal(command):
    """Rates and how much is done; Ctrl-C stops it."""
    terminal = Terminal()
    fifo = os.path.join(command.path, "pipe")
    os.mkfifo(fifo)
    holder = os.open(fifo, os.O_RDWR)
    process = command.start(
        "app.py", "--workers", "2", "stdin", "", stdin=holder,
        stderr=terminal.other, start_new_session=True)
    os.write(holder, b"a b\nc\n")
    terminal.wait(r"2 workers  2 in \(\d+/s\)  3 out \(\d+/s\)  lag 0B")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=harness.LIMIT)
    assert process.returncode == 0
    assert sorted(out.decode().split("\n")) == ["", "a 1", "b 1", "c 1"]
    os.close(holder)
    command.check_nothing_left()


@ALL
def test_watch(command):
    """A change of a file is a new start, an error waits for a change."""
    command.write("in", "a\n")
    process = command.start("--watch", "app.py", "--workers", "1", "file",
                            "in", stderr=subprocess.STDOUT)
    lines = []

    def line(pattern):
        while not (lines and re.search(pattern, lines[-1])):
            assert select.select([process.stdout], [], [], harness.LIMIT)[0]
            text = process.stdout.readline().decode()
            assert text, lines
            lines.append(text)

    line(r"^a 1$")
    line("exit status 0, waiting")
    command.write("app.py", APP.replace('"%s %d"', '"%s: %d"'))
    line(r"app.py changed")
    line(r"^a: 1$")
    line("exit status 0, waiting")
    command.write("app.py", "nonsense")
    line("NameError")
    line("exit status 100, waiting")
    process.terminate()
    process.communicate(timeout=harness.LIMIT)
    assert process.returncode == 0
    command.check_nothing_left()
