"""Files, generators, standard input and output, while workers are killed."""

import os
import subprocess
import threading
import time

import pytest

import apps
import harness
from harness import LEVEL
from killer import Killer
from words import Zipf

COUNT = 5000 if LEVEL == "check" else 15000


def numbered(lines):
    return "".join("%d %s\n" % pair for pair in
                   enumerate(lines, 1)).encode()


@pytest.mark.parametrize("workers", [
    2, pytest.param(3, marks=pytest.mark.level("all"))])
def test_file_under_kills(cluster, rng, workers):
    """The owner of the source, of the state and of the sink, in turn and
    together."""
    app = cluster(apps.slow(apps.FILE_NUMBER, 0.0001), workers=workers)
    lines = Zipf(1).lines(COUNT, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    expected = numbered(lines)
    app.start()
    killer = Killer(app, rng.random())
    while len(app.read_out("output")) < len(expected) and killer.kills < 40:
        killer.kill_random(rng.randrange(1, workers + 1))
        time.sleep(rng.random() * 0.3)
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    killer.check()
    app.wait_workers()
    app.stop()
    assert app.read_out("output") == expected
    assert killer.kills >= 2


@pytest.mark.parametrize("kind", [
    pytest.param("hidden", marks=pytest.mark.level("all")),
    pytest.param("numbers", marks=pytest.mark.level("all"))])
def test_generator_under_kills(cluster, rng, kind):
    app = cluster(apps.slow(apps.GENERATE, 0.0001), workers=2)
    count = COUNT
    app.write_conf(args=[kind, str(count), app.out("output")])
    expected = "".join("%d %d\n" % (n, n * (n + 1) // 2)
                       for n in range(1, count + 1)).encode()
    app.start()
    killer = Killer(app, rng.random())
    while len(app.read_out("output")) < len(expected) and killer.kills < 40:
        killer.kill_random(rng.randrange(1, 3))
        time.sleep(rng.random() * 0.3)
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.wait_workers()
    app.stop()
    assert app.read_out("output") == expected


def test_last_line_without_an_end(cluster):
    """It is a record when the file ends."""
    app = cluster(apps.FILE_NUMBER, workers=1)
    source = app.write("input", "one\ntwo\r\n\nthree")
    app.write_conf(args=[source, app.out("output")])
    app.start()
    harness.wait_for(lambda: app.read_out("output").count(b"\n") >= 4,
                     "four lines")
    app.stop()
    assert app.read_out("output") == b"1 one\n2 two\n3 \n4 three\n"


class Pipe:
    """Reads what the application writes to its standard output."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        self.data = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            data = os.read(self.reader, 65536)
            if not data:
                return
            self.data += data


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all"))])
def test_stdin_to_stdout_file(cluster, rng, workers):
    """A pipe as standard input is exact, a file as standard output, too."""
    app = cluster(apps.STDIO, workers=workers)
    app.write_conf(args=[])
    lines = Zipf(2).lines(30000, per_line=1)
    reader, writer = os.pipe()
    with open(app.out("output"), "ab") as output:
        app.launch(stdin=reader, stdout=output)
    os.close(reader)
    app.wait_running()
    killer = Killer(app, rng.random())
    data = ("\n".join(lines) + "\n").encode()

    def feed():
        at = 0
        while at < len(data):
            step = rng.choice((1, 100, 5000, 20000))
            os.write(writer, data[at:at + step])
            at += step
            time.sleep(0.01)
        os.close(writer)
    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    while thread.is_alive():
        killer.kill_random()
        time.sleep(rng.random() * 0.3)
    expected = numbered(lines)
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.wait_workers()
    app.stop()
    assert app.read_out("output") == expected


@pytest.mark.level("all")
def test_stdin_to_stdout_pipe(cluster):
    """In a pipeline of a shell, without kills: exact, and it ends when the
    supervisor is stopped."""
    app = cluster(apps.STDIO, workers=2)
    app.write_conf(args=[])
    lines = Zipf(3).lines(20000, per_line=1)
    reader, writer = os.pipe()
    pipe = Pipe()
    app.launch(stdin=reader, stdout=pipe.writer)
    os.close(reader)
    os.close(pipe.writer)
    with open(writer, "wb") as file:
        file.write(("\n".join(lines) + "\n").encode())
    expected = numbered(lines)
    harness.wait_for(lambda: len(pipe.data) >= len(expected), "the output")
    app.stop()
    pipe.thread.join(harness.LIMIT)
    assert pipe.data == expected


@pytest.mark.level("all")
def test_rotated_output(cluster):
    """A renamed file is reopened under its name; what was written stays,
    and no other file is ever cut."""
    app = cluster(apps.slow(apps.FILE_NUMBER, 0.0005), workers=2)
    lines = Zipf(4).lines(8000, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    output, old = app.out("output"), app.out("output.1")
    with open(old, "w") as file:
        file.write("not yours\n")
    app.write_conf(args=[source, output])
    app.start()
    harness.wait_for(lambda: len(app.read_out("output")) > 1000, "output")
    os.rename(output, app.out("output.2"))
    harness.wait_for(lambda: os.path.exists(output), "a new file")
    for worker, pid in app.pids().items():
        app.kill9(worker)
        app.wait_replaced(worker, pid)
    expected = numbered(lines)
    harness.wait_for(
        lambda: len(app.read_out("output.2") + app.read_out("output"))
        >= len(expected), "the whole output")
    app.stop()
    assert app.read_out("output.2") + app.read_out("output") == expected
    assert app.read_out("output.1") == b"not yours\n"


@pytest.mark.level("all")
@pytest.mark.parametrize("durability", ["process", "machine"])
def test_renamed_while_it_was_down(cluster, durability):
    """What was written before the death is not written again, though it is
    in a file of another name now."""
    app = cluster(apps.slow(apps.FILE_NUMBER, 0.0003), durability=durability)
    if durability == "machine":
        app.settings["runtime-directory"] = None
    lines = Zipf(6).lines(6000, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    output = app.out("output")
    app.write_conf(args=[source, output])
    expected, parts = numbered(lines), []
    for number in range(6):
        done = sum(map(len, parts))
        app.start()
        harness.wait_for(lambda: len(app.read_out("output")) > 1000 or
                         done + len(app.read_out("output")) == len(expected),
                         "output")
        app.kill_everything()
        parts.append(app.read_out("output"))
        os.rename(output, app.out("output.%d" % number))
        assert expected.startswith(b"".join(parts))
    app.start()
    harness.wait_for(lambda: len(b"".join(parts) + app.read_out("output"))
                     >= len(expected), "the whole output")
    app.stop()
    assert b"".join(parts) + app.read_out("output") == expected


@pytest.mark.level("all")
def test_other_input_file(cluster):
    """In the middle of a file: another one at the path is refused, not read
    from the middle; one that has become shorter, too."""
    app = cluster(apps.slow(apps.FILE_NUMBER, 0.0003), workers=1)
    lines = ["%d %s" % (number, "x" * 2000) for number in range(3000)]
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    app.start()
    harness.wait_for(lambda: app.read_out("output"), "some output")
    app.stop()
    os.rename(source, source + ".old")
    for other in (b"another\n" * 1000000, b"short\n"):
        app.write("input", other)
        code, log = app.run_to_exit()
        assert code == harness.EXIT_PERMANENT
        assert source in log
    os.rename(source + ".old", source)
    app.start()
    expected = numbered(lines)
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.stop()
    assert app.read_out("output") == expected


@pytest.mark.level("all")
def test_no_input_file(cluster):
    app = cluster(apps.FILE_NUMBER, workers=2)
    app.write_conf(args=[app.out("missing"), app.out("output")])
    code, log = app.run_to_exit()
    assert code == harness.EXIT_PERMANENT and app.out("missing") in log


@pytest.mark.level("all")
def test_output_that_cannot_be_opened(cluster):
    app = cluster(apps.FILE_NUMBER, workers=2)
    source = app.write("input", "one\n")
    path = os.path.join(app.dir, "no", "such", "directory")
    app.write_conf(args=[source, path])
    code, log = app.run_to_exit()
    assert code in (harness.EXIT_PERMANENT, harness.EXIT_TEMPORARY)
    assert path in log
    app.write_conf(args=[source, app.out("output")])
    app.start()
    harness.wait_for(lambda: app.read_out("output") == b"1 one\n",
                     "the line")
    app.stop()


@pytest.mark.level("all")
def test_python_run_gives_the_same(cluster):
    """`python -m wallaroo run` of the same application."""
    app = cluster(apps.FILE_NUMBER, workers=1)
    lines = Zipf(5).lines(500, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "wallaroo", "run",
         os.path.join(app.app_dir, "app_under_test.py"), source,
         app.out("plain")],
        env=dict(os.environ, PYTHONPATH=harness.python_package_dir()),
        cwd=app.app_dir, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    app.write_conf(args=[source, app.out("output")])
    app.start()
    harness.wait_for(lambda: app.read_out("output").count(b"\n") == 500,
                     "the output")
    app.stop()
    assert app.read_out("output") == app.read_out("plain") == numbered(lines)


@pytest.mark.level("all")
@pytest.mark.parametrize("what", ["source", "sink"])
def test_named_pipe(cluster, what):
    """Nobody can go back in one: refused by name, and without waiting for
    somebody at its other end."""
    app = cluster(apps.FILE_NUMBER)
    paths = {"source": app.write("input", "a\n"), "sink": app.out("output")}
    paths[what] += ".pipe"
    os.mkfifo(paths[what], 0o666)
    os.chmod(paths[what], 0o666)
    app.write_conf(args=[paths["source"], paths["sink"]])
    code, log = app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert {"source": paths[what] + " is not a regular file",
            "sink": paths[what] + " is a named pipe"}[what] in log
