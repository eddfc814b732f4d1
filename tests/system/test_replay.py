"""wallarooctl copy and replay: a worker's last second, again, in pdb."""

import os
import re
import subprocess

import pytest

import harness

pytestmark = pytest.mark.level("all")

APP = """
import random
import time

import wallaroo
from wallaroo.codecs import lines_decoder, lines_encoder


class Total:
    def __init__(self):
        self.n = 0
        self.drawn = []


@wallaroo.key_extractor
def word(line):
    return line.split()[0]


@wallaroo.state_computation("Count", Total)
def count(line, total):
    total.n += 1
    total.drawn = total.drawn[-3:] + [random.random(), time.time()]
    if line.endswith("boom"):
        raise ValueError("no " + line)
    return "%s %d %r" % (line, total.n, total.drawn)


def application_setup(args):
    return wallaroo.build_application(
        "Replayed",
        wallaroo.source("lines", wallaroo.TCPSourceConfig(
            "lines", "127.0.0.1", int(args[1]), lines_decoder))
        .key_by(word).to(count)
        .to_sink(wallaroo.FileSinkConfig(args[2], lines_encoder)))
"""


class Replayed:
    """An application, copies of its workers, and what replaying them says."""

    def __init__(self, cluster, workers=1, durability="process", **settings):
        self.port = harness.free_port()
        self.app = cluster(APP, workers=workers, durability=durability,
                           settings=dict({"checkpoint-interval": 3600},
                                         **settings))
        self.app.write_conf(args=[str(self.port), self.app.out("output")])
        self.app.start()
        self.copies = 0

    def send(self, lines):
        with harness.Feeder(self.port) as client:
            client.send("".join(line + "\n" for line in lines).encode())
            client.half_close()
            client.wait_acknowledged()

    def feed(self, lines):
        before = self.app.read_out("output").count(b"\n")
        self.send(lines)
        harness.wait_for(
            lambda: self.app.read_out("output").count(b"\n")
            >= before + len(lines), "%d outputs" % len(lines))

    def try_copy(self, worker=0, to=None):
        self.copies += 1
        to = to or os.path.join(self.app.dir, "copy-%d" % self.copies)
        return to, self.app.ctl_raw("copy", str(worker), to)

    def copy(self, worker=0):
        to, done = self.try_copy(worker)
        assert done.returncode == 0, done.stderr
        assert b"users' data" in done.stdout
        return to

    def replay(self, copy, *options, commands=""):
        """(exit code, all that it wrote)"""
        done = subprocess.run(
            [harness.program("wallarooctl"), "replay", copy, *options],
            input=commands, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.app.env(), text=True, timeout=harness.LIMIT)
        return done.returncode, done.stdout


@pytest.fixture
def replayed(cluster):
    return lambda **more: Replayed(cluster, **more)


LINES = ["a 1", "b 2", "a 3", "c 4", "a 5"]


def test_a_running_worker_is_copied_and_replayed(replayed):
    run = replayed()
    run.feed(LINES)
    copy = run.copy()
    code, out = run.replay(copy)
    assert code == 0, out
    assert "5 records from sources, 0 frames from workers, 0 errors of " \
        "user code, 0 entries that gave something else" in out
    assert "copy of production" in out
    # The copy stays what it was, and the worker did not notice.
    assert run.replay(copy)[1] == out
    run.feed(["a 6"])
    assert run.app.read_out("output").decode().splitlines()[-1].startswith(
        "a 6 4 ")
    run.app.stop()


def test_it_stops_where_it_is_told(replayed):
    run = replayed()
    run.feed(LINES[:2])
    run.app.ctl("checkpoint")	# behind these two
    run.feed(LINES[2:])
    written = run.app.read_out("output").decode().splitlines()
    copy = run.copy()
    run.app.stop()
    code, out = run.replay(copy, "--key", "a", commands="p line, total.n\n"
                           "b 24\nc\np total.drawn\nc\np line\nc\nc\n")
    # b: behind the random number, of which the clock was read too
    assert code == 0, out
    assert "('a 3', 1)" in out and "'a 5'" in out
    assert "'a 1'" not in out and "'b 2'" not in out
    positions = [int(n) for n in re.findall(
        r"position (\d+), key 'a': count", out)]
    assert len(positions) == 2 and positions[0] < positions[1]
    assert " 0 entries that gave something else" in out
    # The same numbers and times as then.
    drawn = re.search(r"\(Pdb\) (\[.*\])$", out, re.M).group(1)
    [first] = [line for line in written if line.startswith("a 3 ")]
    assert first.split(" ", 3)[3] == drawn
    # By position: the word's key, too, then what it is told.
    code, out = run.replay(copy, "--stop-at", str(positions[1]),
                           commands="p line\nc\n")
    assert code == 0 and "position %d, " % positions[1] in out, out
    assert "'a 5'" in out and "3 records from sources" in out
    # q ends it.
    code, out = run.replay(copy, "--key", "a", commands="q\n")
    assert code == 0 and "records from sources" not in out


def sessions():
    """Of wallaroo-replay(7): options, and what is typed and answered."""
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "man",
                           "wallaroo-replay.7")) as file:
        text = file.read().replace("\\&", "")
    for block in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text,
                            re.M | re.S):
        first = block.splitlines()[0].split()
        if first[:3] == ["$", "wallarooctl", "replay"]:
            options = [o for o in first[4:] if o != "--python-path"
                       and not o.startswith("~")]
            yield options, re.findall(r"^\(Pdb\) (.*)\n(.*)$", block, re.M)


def test_the_session_of_the_manual(replayed):
    run = replayed()
    run.feed(LINES)
    run.send(["a boom"])
    assert run.app.wait_exit() == harness.EXIT_PERMANENT
    assert run.app.log_contains('user function failed step="Count" key="a" ')
    copy = run.copy()		# nobody runs any more
    found = list(sessions())
    assert [options for options, _ in found] == [
        ["--exception"], ["--key", "a"]]
    for options, typed in found:
        code, out = run.replay(copy, *options, commands="".join(
            command + "\n" for command, _ in typed))
        assert code == 0, out
        assert typed[-1][0] == "q"
        for command, answer in typed[:-1]:
            assert answer in out, (command, answer, out)
        if options == ["--exception"]:
            assert ", key 'a': ValueError: no a boom\n" in out
    code, out = run.replay(copy)
    assert code == 1
    assert "stopped at position" in out and "ValueError: no a boom" in out


def test_from_a_disk(replayed):
    """durability = machine; the copy as on a machine with another boot."""
    run = replayed(durability="machine", **{"runtime-directory": None})

    def copied_with_records():
        copy = run.copy()
        code, out = run.replay(copy)
        assert code == 0 and " 0 entries that gave something else" in out, out
        return None if " 0 records from sources" in out else (copy, out)

    with harness.Feeder(run.port) as client:
        client.start((b"a %d\n" % n * 20 for n in range(100000)), pause=0.001)
        copy, out = harness.wait_for(copied_with_records, "records in a copy")
        run.app.kill_everything()
    with open(os.path.join(copy, "journal"), "r+b") as file:
        head = file.read(4096)
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            boot = bytes.fromhex(boot_id.read().strip().replace("-", ""))
        at = head.find(boot)
        assert at > 0
        file.seek(at)
        file.write(bytes(16))
    code, again = run.replay(copy)
    assert code == 0 and " 0 entries that gave something else" in again
    assert " 0 records from sources" not in again


def test_one_of_two_workers(replayed):
    run = replayed(workers=2)
    run.feed(["%s %d" % (key, n) for n in range(20) for key in "abcdefgh"])
    done = [run.replay(run.copy(worker)) for worker in (0, 1)]
    assert [code for code, _ in done] == [0, 0], done
    for _, out in done:
        assert "0 entries that gave something else" in out
    assert any(" 0 frames" not in out for _, out in done)
    run.app.stop()


def test_while_it_works_and_takes_checkpoints(replayed):
    run = replayed(**{"checkpoint-interval": 0.05})
    with harness.Feeder(run.port) as client:
        client.start((b"a %d\n" % n * 50 for n in range(2000)))
        for _ in range(3):
            code, out = run.replay(run.copy())
            assert code == 0, out
            assert "0 entries that gave something else" in out
        client.join()
        client.half_close()
    run.app.stop()


def test_another_application_is_refused(replayed):
    run = replayed()
    run.feed(LINES)
    copy = run.copy()
    run.app.stop()
    run.app.write("app_under_test.py", APP + "\n# changed\n")
    code, out = run.replay(copy)
    assert code == harness.EXIT_PERMANENT
    assert "is not the one that was copied from" in out
    assert "5 records" in run.replay(copy, "--force")[1]
    # Elsewhere, as on another machine.
    os.makedirs(os.path.join(run.app.dir, "elsewhere"))
    with open(os.path.join(run.app.dir, "elsewhere", "app_under_test.py"),
              "w") as file:
        file.write(APP)
    code, out = run.replay(copy, "--python-path",
                           os.path.join(run.app.dir, "elsewhere"))
    assert code == 0 and "5 records" in out, out
    # Another pipeline needs the same twice.
    run.app.write("app_under_test.py", APP.replace(
        ".key_by(word)", ".key_by(word).key_by(word)"))
    code, out = run.replay(copy)
    assert code == harness.EXIT_PERMANENT


def test_what_cannot_be_copied(replayed):
    run = replayed()
    run.feed(LINES)
    copy = run.copy()
    for worker, to, text in (
            (0, copy, b"File exists"),
            (7, None, b"no worker 7, only 0 to 0"),
            ("x", None, b"no worker x")):
        done = run.try_copy(worker, to)[1]
        assert done.returncode == harness.EXIT_PERMANENT, done
        assert text in done.stderr
    run.app.stop()
    done = run.try_copy()[1]
    assert done.returncode == harness.EXIT_PERMANENT
    assert b"stopped cleanly" in done.stderr


def test_what_cannot_be_replayed(replayed, tmp_path):
    run = replayed()
    run.feed(LINES)
    copy = run.copy()
    run.app.stop()
    for options in ((), ("--key", "a", "--exception"), ("--stop-at", "x")):
        where = [copy] if options else [str(tmp_path)]
        code, out = run.replay(where[0], *options)
        assert code == harness.EXIT_PERMANENT, out
    with open(os.path.join(copy, "journal"), "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200)
    code, out = run.replay(copy)
    assert code == harness.EXIT_PERMANENT and "no valid entry" in out, out
    os.unlink(os.path.join(copy, "replay"))
    assert "not a copy of a worker" in run.replay(copy)[1]
