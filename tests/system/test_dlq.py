"""wallarooctl dlq: dead letters are listed, shown, and put back once."""

import json
import os
import random
import threading
import time

import pytest

import apps
import harness
import oracle
from test_poison import Poisoned

more = pytest.mark.level("all")

# What raises as long as PLACE says so; a repaired version does not.
FAILING = '''
import os

PLACE = os.environ.get("PLACE", "")


def check(place, text):
    if place == PLACE and "poison" in text:
        raise ValueError("\\x1b[2J\\x9b2J no %s in %s" % (text, place))

''' + apps.WORD_COUNT.replace(
    "    return data.decode()\n",
    "    check('decoder', data.decode())\n    return data.decode()\n"
).replace(
    "    return line.split()\n",
    "    check('computation', line)\n    return line.split()\n"
).replace(
    "    return data\n",
    "    check('key', data)\n    return data\n"
).replace(
    "    state.count += 1\n",
    "    check('state', data)\n    state.count += 1\n"
).replace(
    "    return (\"%s %d\\n\" % data).encode()\n",
    "    check('encoder', data[0])\n"
    "    return (\"%s %d\\n\" % data).encode()\n")


class Failing(Poisoned):
    def __init__(self, cluster, receiver, feeder, place="state", **more):
        super().__init__(cluster, receiver, feeder, place=place,
                         source=FAILING,
                         **{"on-error": harness.Raw("dead-letter"), **more})

    def repair(self, **changes):
        self.app.stop()
        self.sink.wait_ends()
        self.app.environment["PLACE"] = ""
        self.app.write_conf(**changes)
        self.app.start()

    def check(self):
        """Over several runs."""
        self.sink.wait_lines(len(self.words))
        self.app.stop()
        self.sink.wait_ends()
        counts = {}
        lines = [line for data in self.sink.data()
                 for line in data.split(b"\n")[:-1]]
        for word, number in oracle.count_lines(lines):
            assert number not in counts.setdefault(word, set())
            counts[word].add(number)
        assert counts == {word: set(range(1, self.words.count(word) + 1))
                          for word in self.words}


def test_list_show_replay(cluster, receiver, feeder):
    run = Poisoned(cluster, receiver, feeder)
    run.app.start()
    assert run.app.ctl("dlq", "list") == {
        "file": run.app.out("dead"), "letters": []}
    assert b"no dead letters" in run.app.ctl_raw("dlq", "list").stdout
    client = feeder(run.port)
    run.send(client, "one", "poison", "two poison")
    run.wait_letters(2)
    run.app.stop()
    run.sink.wait_ends()
    # Without a supervisor the file can still be read.
    listed = run.app.ctl("dlq", "list")["letters"]
    assert [letter["replayed"] for letter in listed] == ["unknown"] * 2
    done = run.app.ctl_raw("dlq", "replay", "1")
    assert done.returncode == 111 and b"application runs" in done.stderr
    run.app.environment["PLACE"] = ""
    run.app.start()
    listed = run.app.ctl("dlq", "list")["letters"]
    assert [(letter["n"], letter["step"], letter["key"], letter["replayed"])
            for letter in listed] == [(1, "Count", "poison", "no"),
                                      (2, "Count", "poison", "no")]
    assert listed[0]["id"] != listed[1]["id"]
    text = run.app.ctl_raw("dlq", "list").stdout.decode()
    assert listed[1]["id"] in text and "signal 11" in text
    shown = run.app.ctl("dlq", "show", "2")
    assert shown["letter"] == run.letters()[1] and shown["n"] == 2
    text = run.app.ctl_raw("dlq", "show", listed[1]["id"]).stdout.decode()
    assert "key: poison\n" in text and "signal 11" in text
    # By number or id, once.
    assert run.app.ctl("dlq", "replay", "2") == {
        "replayed": 1, "already": 0, "failed": 0}
    run.words.append("poison")
    run.sink.wait_lines(len(run.words))
    for which in ("2", listed[1]["id"]):
        again = run.app.ctl_raw("dlq", "replay", which)
        assert again.returncode == 1 and b"replayed already" in again.stderr
    assert run.app.ctl("dlq", "replay", "all") == {
        "replayed": 1, "already": 1, "failed": 0}
    run.words.append("poison")
    assert [letter["replayed"] for letter in
            run.app.ctl("dlq", "list")["letters"]] == ["yes", "yes"]
    none = run.app.ctl_raw("dlq", "show", "3")
    assert none.returncode == 1 and b"no letter 3" in none.stderr
    run.sink.wait_lines(len(run.words))
    run.app.stop()
    run.sink.wait_ends()
    lines = sorted(run.sink.all_lines())
    assert lines == sorted(oracle.counts_of(run.words))


@more
@pytest.mark.parametrize("place", ["decoder", "computation", "key", "state",
                                   "encoder"])
@pytest.mark.parametrize("workers", [1, 3])
def test_places(cluster, receiver, feeder, place, workers):
    """The record goes on where it failed, also in a run with another number
    of workers."""
    run = Failing(cluster, receiver, feeder, place)
    run.app.start()
    client = feeder(run.port)
    for _ in range(5):
        run.send(client, "one poison two", "three")
    run.wait_letters(5)
    text = run.app.ctl_raw("dlq", "list").stdout
    assert b"\x1b" not in text and b"\xc2" not in text
    assert b"ValueError" in text
    text = run.app.ctl_raw("dlq", "show", "1").stdout
    assert b"\x1b" not in text and b"\xc2" not in text
    assert b"Traceback" in text
    run.repair(workers=workers)
    if place in ("decoder", "computation"):
        run.words += ["one", "poison", "two"] * 5
    else:
        run.words += ["poison"] * 5
    assert run.app.ctl("dlq", "replay", "all")["replayed"] == 5
    run.check()


@more
def test_not_repaired(cluster, receiver, feeder):
    """A record that fails again has a letter of its own, which may be
    replayed, too."""
    run = Failing(cluster, receiver, feeder)
    run.app.start()
    run.send(feeder(run.port), "one poison")
    for count in range(1, 4):
        run.wait_letters(count)
        assert run.app.ctl("dlq", "replay", str(count))["replayed"] == 1
    run.wait_letters(4)
    run.repair()
    assert run.app.ctl("dlq", "replay", "all") == {
        "replayed": 1, "already": 3, "failed": 0}
    run.words.append("poison")
    run.check()


@more
def test_step_that_is_no_more(cluster, receiver, feeder):
    run = Failing(cluster, receiver, feeder, "computation")
    run.app.start()
    run.send(feeder(run.port), "one poison", "two")
    run.wait_letters(1)
    run.app.write("app_under_test.py", FAILING.replace('"Split"', '"Cut"'))
    run.repair()
    done = run.app.ctl_raw("dlq", "replay", "1")
    assert done.returncode == 1
    assert b'no step "Split" any more' in done.stderr
    run.app.stop()
    run.app.write("app_under_test.py", FAILING)
    run.app.start()
    assert run.app.ctl("dlq", "replay", "1")["replayed"] == 1
    run.words += ["one", "poison"]
    run.check()


KILLS = 40


@more
@pytest.mark.parametrize("kind", ["workers", "everything"])
def test_replay_under_kills(cluster, receiver, feeder, report, kind):
    """Workers, or all processes, are killed while letters are put back, by
    an operator who tries until it is done: each once."""
    letters = 300
    run = Failing(cluster, receiver, feeder)
    run.app.start()
    client = feeder(run.port)
    for _ in range(letters // 10):
        run.send(client, *["one poison"] * 10)
    client.half_close()
    run.wait_letters(letters)
    run.sink.wait_lines(len(run.words))
    run.repair()
    random.seed(4)
    kills = [0]
    stopped = threading.Event()

    # A busy machine may not get a worker started between two kills: at some
    # time they end.
    def kill():
        while kills[0] < KILLS and not stopped.wait(
                random.uniform(0.02, 0.3)):
            try:
                for pid in run.app.pids().values():
                    if pid and random.random() < 0.7:
                        os.kill(pid, 9)
                        kills[0] += 1
            except (harness.HarnessError, ProcessLookupError):
                if run.app.process.poll() is not None:
                    return		# the test has failed

    if kind == "workers":
        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
    deadline = time.monotonic() + 3 * harness.LIMIT
    already = 0
    while True:
        if kind == "everything" and kills[0] < 6:
            timer = threading.Timer(random.uniform(0.01, 0.2),
                                    run.app.kill_everything)
            timer.start()
            run.app.ctl_raw("dlq", "replay", "all")
            timer.join()
            kills[0] += 1
            run.app.start()
            continue
        done = run.app.ctl_raw("--json", "dlq", "replay", "all")
        if done.returncode == 0:
            counts = json.loads(done.stdout)
            already = counts["already"]
            break
        assert time.monotonic() < deadline, done.stderr
    stopped.set()
    if kind == "workers":
        thread.join()
    run.app.wait_workers()
    assert {letter["replayed"] for letter in
            run.app.ctl("dlq", "list")["letters"]} == {"yes"}
    report("%d letters put back, %d before the last try, %d kills" % (
        letters, already, kills[0]))
    run.words += ["poison"] * letters
    harness.wait_for(lambda: run.app.ctl("state", "get", "Count", "poison")
                     ["value"].find("%d" % letters) >= 0, "the count")
    run.app.stop()
    run.sink.wait_ends()
    numbers = [number for word, number in oracle.count_lines(
        [line for data in run.sink.data()
         for line in data.split(b"\n")[:-1]]) if word == "poison"]
    # What dies with its supervisor may be sent again, never with a gap.
    assert set(numbers) == set(range(1, letters + 1))
    if kind == "workers":
        assert len(numbers) == letters
