"""A record that kills its process is set aside after two deaths; everything
else goes on exactly.  Whoever is killed from outside has done nothing."""

import collections
import json
import os
import pwd
import re
import signal
import time

import pytest

import apps
import harness
import oracle
from harness import EXIT_PERMANENT

more = pytest.mark.level("all")

# Deadly is called with the word and dies if it is "poison"; it notes each
# call in a file, so that a test can count them.
DEADLY = '''
import ctypes
import os
import signal

HOW = os.environ.get("HOW", "")
PLACE = os.environ.get("PLACE", "")
NOTES = os.environ.get("NOTES", "")


def die(depth=80 if HOW == "deep" else 0):
    if depth > 0:
        die(depth - 1)
    elif HOW in ("segmentation fault", "deep"):
        ctypes.string_at(0)
    elif HOW == "exit":
        os._exit(0)
    elif HOW == "hang":
        while True:
            pass
    elif HOW.startswith("signal "):
        os.kill(os.getpid(), int(HOW.split()[1]))
        signal.pause()
    elif HOW == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (1 << 20)))


def deadly(place, text):
    if place in PLACE.split() and "poison" in text:
        with open(NOTES, "a") as notes:
            notes.write("%d\\n" % os.getpid())
        die()

'''
SOURCE = DEADLY + apps.WORD_COUNT.replace(
    "    return data.decode()\n",
    "    deadly('decoder', data.decode())\n    return data.decode()\n"
).replace(
    "    return line.split()\n",
    "    deadly('computation', line)\n    return line.split()\n"
).replace(
    "    return data\n",
    "    deadly('key', data)\n    return data\n"
).replace(
    "    state.count += 1\n",
    "    state.count += 1\n    deadly('state', data)\n"
).replace(
    "    return (\"%s %d\\n\" % data).encode()\n",
    "    deadly('encoder', data[0])\n"
    "    return (\"%s %d\\n\" % data).encode()\n")


class Poisoned:
    def __init__(self, cluster, receiver, feeder, how="segmentation fault",
                 place="state", source=SOURCE, workers=2, privileged=False,
                 **settings):
        self.sink = receiver()
        self.port = harness.free_port()
        self.feeder = feeder
        self.app = cluster(source, workers=workers, settings=settings,
                           privileged=privileged, args=apps.word_count_args(
                               self.port, self.sink.port))
        self.app.environment.update(
            {"HOW": how, "PLACE": place, "NOTES": self.app.out("notes")})
        self.app.settings["dead-letter-file"] = self.app.out("dead")
        self.app.write_conf()
        self.words = []

    def send(self, client, *lines):
        """What is left of the words is expected to be counted."""
        client.send_frames([line.encode() for line in lines])
        whole = self.app.environment["PLACE"] in ("decoder", "computation")
        for line in lines:
            words = line.split()
            if "poison" in words and whole:
                continue
            self.words += [word for word in words if word != "poison"]

    def letters(self):
        return [json.loads(line) for line in
                harness.split_lines(self.app.read_out("dead"))]

    def wait_letters(self, count):
        harness.wait_for(lambda: len(self.letters()) >= count,
                         "%d dead letters" % count)

    def calls(self):
        """How often the deadly call was made, and by which processes."""
        return self.app.read_out("notes").split()

    def finish(self, letters):
        self.sink.wait_lines(len(self.words))
        self.wait_letters(letters)
        self.app.stop()
        self.sink.wait_ends()
        oracle.check_word_counts(self.sink.lines(), self.words)
        assert len(self.letters()) == letters
        assert len({letter["id"] for letter in self.letters()}) == letters


# Where Python can still say where it was.
WITHOUT_STACK = ["exit"]


def check_stack(app, letter, how):
    """Of the second death in the letter, of each in the log."""
    place = r'  File "\S+/app_under_test.py", line \d+ in count$'
    stacks = re.findall(place, app.log(), re.M)
    lines = letter["traceback"].split("\n")
    assert lines[-1] == letter["error"]
    if how in WITHOUT_STACK:
        assert len(lines) == 1 and not stacks
        return
    assert lines[0].startswith("Current thread 0x")
    assert any(re.match(place, line) for line in lines)
    assert any(line.endswith(" in die") for line in lines[1:4])
    assert len(stacks) == 2
    assert re.search(r"Python's stack of worker %d$" % letter["worker"],
                     app.log(), re.M)


HOWS = {
    "segmentation fault": r"signal 11 \(",
    "signal %d" % signal.SIGBUS: r"signal 7 \(",
    "signal %d" % signal.SIGABRT: r"signal 6 \(",
    "signal %d" % signal.SIGFPE: r"signal 8 \(",
    "signal %d" % signal.SIGILL: r"signal 4 \(",
    "exit": r"exit code 0",
    "hang": r"hang-timeout",
}


@pytest.mark.parametrize("how", ["segmentation fault"] + [
    pytest.param(how, marks=more) for how in HOWS
    if how != "segmentation fault"])
def test_set_aside(cluster, receiver, feeder, report, how):
    """After two deaths; the other worker's keys go on meanwhile."""
    run = Poisoned(cluster, receiver, feeder, how, **{
        "hang-timeout": 1, "restart-limit": 1})
    run.app.start()
    pids = run.app.pids()
    client = feeder(run.port)
    times = collections.defaultdict(list)
    run.send(client, "one two three", "four poison five", "six")
    begun = time.monotonic()
    count = 0
    while not run.letters():
        # A line a turn, so that both workers have something to do.
        run.send(client, "one two three four five six seven eight")
        count += 1
        assert time.monotonic() - begun < harness.LIMIT
        time.sleep(0.02)
    taken = time.monotonic() - begun
    run.finish(1)
    changed = [w for w, pid in pids.items() if str(pid).encode()
               in run.calls()]
    assert len(changed) == 1 and len(set(run.calls())) == 2
    assert len(run.calls()) == 2
    letter, = run.letters()
    assert letter["step"] == "Count" and letter["key"] == "poison"
    assert letter["worker"] == changed[0] and letter["position"] > 0
    assert "poison" in letter["input"]
    assert re.search(HOWS[how], letter["error"]), letter
    check_stack(run.app, letter, how)
    # The longest time that the receiver waited for the other worker.
    gaps = []
    for connection in run.sink.connections:
        at = [begun] + [when for when, _ in connection.chunks
                        if begun < when < begun + taken] + [begun + taken]
        gaps.append(max(b - a for a, b in zip(at, at[1:])))
    report("%s: set aside in %.0f ms, the other keys waited %.0f ms" % (
        how, taken * 1000, min(gaps) * 1000))
    assert min(gaps) < 5


@more
def test_deep_stack(cluster, receiver, feeder):
    """The log has all of it, the letter the innermost calls, and how."""
    run = Poisoned(cluster, receiver, feeder, "deep", workers=1)
    run.app.start()
    run.send(feeder(run.port), "one two three", "four poison five", "six")
    run.finish(1)
    letter, = run.letters()
    lines = letter["traceback"].split("\n")
    assert lines[0].startswith("Current thread 0x")
    calls = [line for line in lines if line.endswith(" in die")]
    assert 3 < len(calls) < 80 and len(calls) > len(lines) - 4
    assert lines[-1] == letter["error"] and "twice" in lines[-1]
    assert len(re.findall(" in die$", run.app.log(), re.M)) == 2 * 81


@pytest.mark.level("all")
def test_set_aside_on_a_disk(cluster, receiver, feeder):
    """durability = machine: nothing goes on before the decision is safe."""
    run = Poisoned(cluster, receiver, feeder, **{
        "durability": harness.Raw("machine"), "runtime-directory": None})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two three", "four poison five", "six")
    run.send(client, *["seven eight nine ten"] * 50)
    run.wait_letters(1)
    run.finish(1)


def test_stop(cluster, receiver, feeder):
    """poison = stop: the application stops and names the record; with
    repaired code it goes on exactly, the record included."""
    run = Poisoned(cluster, receiver, feeder, poison=harness.Raw("stop"))
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two poison three")
    client.half_close()
    assert run.app.wait_exit() == EXIT_PERMANENT
    assert re.search(r"poison = stop: step=\"Count\" position=\d+ "
                     r"how=\"signal 11", run.app.log())
    run.app.wait_gone()
    assert len(run.calls()) == 2 and run.letters() == []
    run.app.environment["PLACE"] = ""
    run.app.start()
    run.words.append("poison")
    run.finish(0)


@more
def test_killed_from_outside(cluster, receiver, feeder):
    """A step that takes longer than the time between two kill -9: nothing
    is set aside, the output is exact."""
    source = apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    if data == 'slow':\n        import time\n"
        "        time.sleep(2)\n    state.count += 1\n")
    run = Poisoned(cluster, receiver, feeder, source=source)
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two", "three slow four", "five")
    until = time.monotonic() + 30
    signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
    kills = 0
    while time.monotonic() < until:
        for pid in run.app.pids().values():
            if pid:
                os.kill(pid, signals[kills % len(signals)])
                kills += 1
        time.sleep(0.3)
    run.app.wait_workers()
    run.finish(0)
    assert not run.app.log_contains("died while it worked on a record")


@more
def test_stopped_from_outside(cluster, receiver, feeder):
    """Nor has a process hung that was stopped by a signal."""
    source = apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    if data == 'slow':\n        import os, time\n"
        "        open(os.environ['NOTES'], 'a').write('x\\n')\n"
        "        time.sleep(3)\n    state.count += 1\n")
    run = Poisoned(cluster, receiver, feeder, source=source, workers=1,
                   **{"hang-timeout": 4})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one", "slow", "two")
    for times in range(2):
        harness.wait_for(lambda: len(run.calls()) > times, "the slow call")
        pid = run.app.signal_worker(0, signal.SIGSTOP)
        run.app.wait_replaced(0, pid)
    run.finish(0)
    assert not run.app.log_contains("died while it worked on a record")


def memory_cgroup():
    """A fresh cgroup whose children can limit memory, or None and why."""
    root = "/sys/fs/cgroup"
    for base in (root, root + "/memory"):
        path = os.path.join(base, "wallaroo-test-%d" % os.getpid())
        try:
            with open(os.path.join(base, "cgroup.controllers")) as file:
                if "memory" not in file.read().split():
                    continue
            with open(os.path.join(base, "cgroup.subtree_control"),
                      "w") as file:
                file.write("+memory")
        except FileNotFoundError:
            if base == root:
                continue		# version 1
        except OSError:
            continue
        try:
            os.mkdir(path)
            if base == root:
                with open(os.path.join(path, "cgroup.subtree_control"),
                          "w") as file:
                    file.write("+memory")
            return path
        except OSError:
            if os.path.isdir(path):
                os.rmdir(path)
    return None


@pytest.fixture
def limited():
    path = memory_cgroup()
    yield path
    if path:
        for entry in os.listdir(path):
            if os.path.isdir(os.path.join(path, entry)):
                os.rmdir(os.path.join(path, entry))
        os.rmdir(path)


# What the kernel writes, to be read where it makes no cgroups for us.
STAND_INS = {
    1: ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n"
        "oom_kill %d\n"),
    2: ("memory.events", "low 0\nhigh 0\nmax 71\noom 9\noom_kill %d\n"
        "oom_group_kill 0\n"),
}


class StandIn:
    """A directory like those of cgroups of one version."""

    def __init__(self, run, version):
        self.run = run
        self.name, self.text = STAND_INS[version]
        self.path = run.app.out("cgroup")
        for worker in range(2):
            os.makedirs("%s/t-worker-%d" % (self.path, worker))
            self.write(worker, "cgroup.procs", "")
            self.count(worker, 3)

    def write(self, worker, name, text):
        """At once, as a reader of the kernel's file sees it."""
        path = "%s/t-worker-%d/%s" % (self.path, worker, name)
        with open(path + "~", "w") as file:
            file.write(text)
        os.rename(path + "~", path)

    def count(self, worker, kills):
        self.write(worker, self.name, self.text % kills)

    def kill(self, times):
        """As the kernel does for want of memory."""
        harness.wait_for(lambda: len(self.run.calls()) > times, "the call")
        pid = int(self.run.calls()[-1])
        worker, = [w for w, p in self.run.app.pids().items() if p == pid]
        self.count(worker, 4 + times)
        os.kill(pid, signal.SIGKILL)


def check_memory(run):
    """The letter says so, and the record can be put back."""
    run.wait_letters(1)
    assert len(run.calls()) == 2
    assert "want of memory" in run.letters()[0]["error"]
    listed, = run.app.ctl("dlq", "list")["letters"]
    assert (listed["step"], listed["replayed"]) == ("Count", "no")
    shown = run.app.ctl_raw("dlq", "show", "1").stdout.decode()
    assert "want of memory" in shown and "key: poison\n" in shown
    run.sink.wait_lines(len(run.words))
    run.app.stop()
    run.sink.wait_ends()
    oracle.check_word_counts(run.sink.lines(), run.words)
    run.app.environment["PLACE"] = ""
    run.app.start()
    assert run.app.ctl("dlq", "replay", "1") == {
        "replayed": 1, "already": 0, "failed": 0}
    run.words.append("poison")
    run.sink.wait_lines(len(run.words))
    run.app.stop()
    run.sink.wait_ends()
    assert b"poison 1" in run.sink.all_lines()


@more
def test_memory(cluster, receiver, feeder, limited):
    """A record that eats all memory."""
    if limited is None:
        pytest.skip("no cgroup with a limit of memory can be made here; "
                    "test_memory_counted reads what a kernel would write")
    run = Poisoned(cluster, receiver, feeder, "memory", privileged=True,
                   **{"restart-limit": 1, "hang-timeout": 600})
    run.app.write_conf(user=pwd.getpwuid(os.geteuid()).pw_name,
                       cgroup=limited, worker_memory="256M")
    run.app.start()
    assert not run.app.log_contains("counts no kills")
    run.send(feeder(run.port), "one two three", "four poison five", "six")
    check_memory(run)


@more
@pytest.mark.parametrize("version", sorted(STAND_INS))
def test_memory_counted(cluster, receiver, feeder, version):
    """The counter of either version confirms it."""
    run = Poisoned(cluster, receiver, feeder, "hang", privileged=True,
                   **{"restart-limit": 1, "hang-timeout": 600})
    kernel = StandIn(run, version)
    run.app.write_conf(user=pwd.getpwuid(os.geteuid()).pw_name,
                       cgroup=kernel.path)
    run.app.start()
    assert not run.app.log_contains("counts no kills")
    run.send(feeder(run.port), "one two three", "four poison five", "six")
    kernel.kill(0)
    kernel.kill(1)
    check_memory(run)


@more
def test_no_counter(cluster, receiver, feeder):
    """A place for cgroups without memory is named at the start."""
    run = Poisoned(cluster, receiver, feeder, "hang", privileged=True)
    kernel = StandIn(run, 2)
    for worker in range(2):
        os.unlink("%s/t-worker-%d/memory.events" % (kernel.path, worker))
    run.app.write_conf(user=pwd.getpwuid(os.geteuid()).pw_name,
                       cgroup=kernel.path)
    run.app.start()
    assert run.app.log_contains("cgroup counts no kills for want of memory "
                                r"cgroup=\S+/t-worker-0: ")
    run.app.stop()


@more
def test_memory_without_a_cgroup(cluster, receiver, feeder):
    """What looks like any kill -9 counts as any kill -9."""
    run = Poisoned(cluster, receiver, feeder, "hang",
                   **{"restart-limit": 1, "hang-timeout": 600})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two three", "four poison five", "six")
    for times in range(4):
        harness.wait_for(lambda: len(run.calls()) > times, "the call")
        os.kill(int(run.calls()[-1]), signal.SIGKILL)
    assert not run.app.log_contains("died while it worked on a record")
    harness.wait_for(lambda: len(run.calls()) == 5, "the fifth call")
    run.app.kill_everything()
    run.app.environment["PLACE"] = ""
    run.app.start()
    run.words.append("poison")
    run.sink.wait_lines(len(run.words))
    run.app.stop()
    assert run.letters() == []


@more
def test_deaths_are_remembered(cluster, receiver, feeder):
    """The first death counts also after the supervisor was killed, and
    after a stop that could not process the record."""
    run = Poisoned(cluster, receiver, feeder, "hang",
                   **{"hang-timeout": 2, "stop-timeout": 0})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two", "three poison four", "five")
    client.half_close()
    run.app.wait_log("position=.* deaths=1")
    harness.wait_for(lambda: len(run.calls()) == 2, "the second life")
    run.app.kill_everything()
    run.app.start()
    run.app.wait_log("position=.* deaths=2")
    run.finish(1)
    assert len(run.calls()) == 3


@more
def test_letter_that_kills(cluster, receiver, feeder):
    """repr() of the message kills as well: four deaths, a bare letter."""
    source = SOURCE.replace("class Total:", """class Word(str):
    def __repr__(self):
        deadly("repr", "poison")


class Total:""", 1).replace(
        "    return line.split()\n",
        "    return [Word(w) if w == 'poison' else w for w in line.split()]"
        "\n")
    run = Poisoned(cluster, receiver, feeder, source=source,
                   place="state repr", **{"restart-limit": 1})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two", "three poison four", "five")
    run.finish(1)
    assert len(run.calls()) == 4
    letter, = run.letters()
    assert "not shown" in letter["input"] and "record" not in letter


@more
def test_many_in_a_row(cluster, receiver, feeder):
    """Each is set aside; each has its two deaths."""
    run = Poisoned(cluster, receiver, feeder, "exit",
                   **{"restart-limit": 1})
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two", *["poison"] * 12, "three")
    run.finish(12)
    assert len(run.calls()) == 24


@more
def test_all_kill(cluster, receiver, feeder):
    """A step that kills with every record: the application stops, and goes
    on exactly with repaired code."""
    run = Poisoned(cluster, receiver, feeder, "exit", workers=1,
                   **{"restart-limit": 1})
    run.app.start()
    client = feeder(run.port)
    run.send(client, *["poison"] * 100)
    client.half_close()
    assert run.app.wait_exit(300) == EXIT_PERMANENT
    assert run.app.log_contains("this is no single record, repair the code")
    run.app.wait_gone()
    assert run.letters() == []
    run.app.environment["PLACE"] = ""
    run.words += ["poison"] * 36
    run.app.start()
    run.finish(64)


@pytest.mark.parametrize("place", [
    pytest.param(place, marks=more)
    for place in ("decoder", "computation", "key", "encoder")])
def test_places(cluster, receiver, feeder, place):
    """Wherever the record kills, the step is named, nothing else is lost,
    and kills from outside meanwhile change nothing."""
    run = Poisoned(cluster, receiver, feeder, place=place)
    run.app.start()
    client = feeder(run.port)
    run.send(client, "one two", "three poison four", "five")
    run.wait_letters(1)
    for worker in range(2):
        pid = run.app.kill9(worker)
        run.app.wait_replaced(worker, pid)
    run.send(client, "six poison seven", "eight")
    run.finish(2)
    assert len(run.calls()) == 4
    names = {"decoder": "words", "computation": "Split", "key": "word"}
    for letter in run.letters():
        assert "poison" in letter["input"]
        if place in names:
            assert letter["step"] == names[place]


# -- code that is not deterministic -------------------------------------------

@more
@pytest.mark.parametrize("good", [False, True])
def test_nondeterministic(cluster, receiver, feeder, good):
    """A replay that computes something else is counted and named; one of
    deterministic code never is."""
    source = apps.WORD_COUNT if good else apps.WORD_COUNT.replace(
        "    return (data, state.count)\n",
        "    import os\n    return ('%s-%d' % (data, os.getpid()), "
        "state.count)\n")
    run = Poisoned(cluster, receiver, feeder, source=source, workers=1,
                   **{"checkpoint-interval": 3600})
    run.app.start()
    client = feeder(run.port)
    client.send_frames([b"one two"])
    run.sink.wait_lines(2)
    pid = run.app.kill9(0)
    run.app.wait_replaced(0, pid)
    client.send_frames([b"three"])
    run.sink.wait_lines(3)
    assert (run.app.stat("nondeterministic") > 0) == (not good)
    found = run.app.log_contains(
        r"the code is not deterministic from=\"words\" "
        r"steps=\"Split, Count\" keys=\"one, two\"")
    assert bool(found) == (not good)
    run.app.stop()
