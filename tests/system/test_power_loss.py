"""durability = machine: the power goes, on real files."""

import collections
import errno
import os
import platform
import re
import shutil
import signal
import subprocess
import time

import pytest

import apps
import harness
import oracle
from harness import LEVEL
from powerloss import Power
from words import Zipf

# Two streams meet: which line gets which number is decided by the order in
# the journal, and by nothing else.
MEET = '''
import time
import wallaroo
from wallaroo.codecs import lines_decoder


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.state_computation(name="Number", state=Total)
def number(data, state):
    state.count += 1
    time.sleep(0.0003)
    return "%d %s" % (state.count, data)


@wallaroo.encoder
def encode(data):
    return data + "\\n"


def application_setup(args):
    sinks = [wallaroo.FileSinkConfig(args[3], encode)]
    if len(args) > 4:
        sinks.append(wallaroo.TCPSinkConfig("127.0.0.1", args[4], encode))
    left = wallaroo.source("left", wallaroo.FileSourceConfig(
        "left", args[1], lines_decoder))
    right = wallaroo.source("right", wallaroo.FileSourceConfig(
        "right", args[2], lines_decoder))
    return wallaroo.build_application("meet", (
        left.merge(right)
        .collect()
        .to(number)
        .to_sinks(sinks)))
'''

# The same with live streams: what comes in is worked on, and leaves, before the
# next disk has it.
LIVE = MEET.replace("""class Total:
""", """class Lines:
    def __init__(self, name, count):
        self.name = name
        self.count = count

    def initial_value(self):
        return 0

    def apply(self, last):
        time.sleep(0.001)
        return last + 1 if last + 1 < self.count else None


class Total:
""").replace("    time.sleep(0.0003)\n", "")
LIVE = LIVE[:LIVE.index("def application_setup")] + '''
def application_setup(args):
    def lines(name):
        @wallaroo.computation(name="Line " + name)
        def line(number):
            return "%s %d _" % (name, number)
        return wallaroo.source(name, wallaroo.GenSourceConfig(
            name, Lines(name, int(args[1])))).to(line)
    return wallaroo.build_application("live", (
        lines("left").merge(lines("middle")).merge(lines("right"))
        .collect()
        .to(number)
        .to_sinks([wallaroo.FileSinkConfig(args[2], encode),
                   wallaroo.TCPSinkConfig("127.0.0.1", args[3], encode)])))
'''

SETTINGS = {"journal-size": harness.Raw("2M"), "max-message": harness.Raw(
    "16K"), "outbox-size": harness.Raw("1M"), "outbox-mark": harness.Raw(
    "64K"), "checkpoint-interval": 0.05, "restart-limit": 5}


@pytest.fixture
def machine(cluster):
    def make(source, **more):
        settings = dict(SETTINGS)
        settings["runtime-directory"] = None
        settings.update(more.pop("settings", {}))
        return cluster(source, durability="machine", settings=settings,
                       **more)
    return make


def long_words(seed, count):
    """A worker reads ahead by bytes: long words are a short backlog."""
    return [word.ljust(60, "_") for word in Zipf(seed).take(count)]


def file_count(machine, workers, words, **more):
    app = machine(apps.slow(apps.FILE_COUNT, 0.0002), workers=workers, **more)
    source = app.write("input", "\n".join(words) + "\n")
    app.write_conf(args=[source, app.out("output")])
    return app


def complete(app, count):
    return app.read_out("output").count(b"\n") >= count


def wait_whole(app, done):
    """The whole output, and no standstill before."""
    def size():
        return os.path.exists(app.out("output")) and os.path.getsize(
            app.out("output"))
    while not done():
        before = size()
        harness.wait_for(lambda: done() or size() != before,
                         "more output")


def run_with_losses(app, power, rng, done, losses):
    """Lose power again and again, also while recovering."""
    deadline = time.monotonic() + 20 * harness.LIMIT
    while power.losses < losses and not done():
        assert time.monotonic() < deadline
        app.launch()
        if rng.random() < 0.75:
            app.wait_running()
            time.sleep(rng.random() * 0.6)
        else:
            time.sleep(rng.random() * 0.5)
        if app.process.poll() is not None:
            raise harness.HarnessError("it ended\n" + app.log_tail())
        power.lose()
    app.start()
    wait_whole(app, done)
    app.stop()


def check_output(app, words):
    oracle.check_word_counts([app.read_out("output").splitlines()], words)


@pytest.mark.parametrize("workers", [
    pytest.param(1, marks=pytest.mark.level("all")), 3])
def test_file_to_file_without_a_loss(machine, workers):
    words = long_words(1, 3000)
    app = file_count(machine, workers, words)
    app.start()
    harness.wait_for(lambda: complete(app, len(words)), "the output")
    app.stop()
    check_output(app, words)


@pytest.mark.parametrize("workers,outputs", [
    pytest.param(1, "at-once", marks=pytest.mark.level("all")),
    (3, "at-once"),
    pytest.param(2, "after-checkpoint", marks=pytest.mark.level("all"))])
def test_file_to_file(machine, rng, report, workers, outputs):
    losses = {"check": 2, "all": 6, "long": 35}[LEVEL]
    words = long_words(rng.random(), 4000 * losses)
    app = file_count(machine, workers, words, settings={
        "outputs": harness.Raw(outputs)})
    power = Power(app, rng)
    run_with_losses(app, power, rng, lambda: complete(app, len(words)),
                    losses)
    check_output(app, words)
    report("%d power losses" % power.losses)


def meet(machine, count, *more_args, **more):
    """Two files of lines that no other line is like."""
    app = machine(MEET, workers=3, **more)
    files = [app.write(name, "".join("%s %d %s\n" % (
        name, number, "_" * 500) for number in range(count)))
        for name in ("left", "right")]
    app.write_conf(args=files + [app.out("output")] + [
        str(arg) for arg in more_args])
    return app


def check_met(lines, count, names=(b"left", b"right")):
    """Numbered from 1; each source's lines in their order."""
    seen = collections.Counter()
    for number, line in enumerate(lines, 1):
        head, name, index, _ = line.split(b" ")
        assert int(head) == number, line
        assert int(index) == seen[name], line
        seen[name] += 1
    assert seen == dict.fromkeys(names, count)


def check_seen(app, sink, output):
    """A receiver gets a line under a number; after any power loss, and in the
    file at last, that number still means that line."""
    sink.wait_ends()
    for data in sink.data():
        # the beginning of a record may be the end of a connection
        for line in data.split(b"\n")[:-1]:
            assert output[int(line.split(b" ")[0]) - 1] == line
    whole = {line for data in sink.data() for line in data.split(b"\n")[:-1]}
    assert whole == set(output)


def test_nothing_seen_is_contradicted(machine, receiver, rng, report):
    """With a backlog: it is synced long before anything of it leaves."""
    losses = {"check": 2, "all": 6, "long": 70}[LEVEL]
    count = 1000 * losses
    sink = receiver()
    app = meet(machine, count, sink.port)
    power = Power(app, rng)
    run_with_losses(app, power, rng, lambda: complete(app, 2 * count) and
                    sink.newlines() >= 2 * count, losses)
    output = app.read_out("output").splitlines()
    check_met(output, count)
    check_seen(app, sink, output)
    report("%d power losses, %d connections" % (power.losses,
                                                len(sink.data())))


@pytest.mark.level("all")
def test_live_streams(machine, receiver, rng, report):
    """Without one: only the disks are waited for, that of the sender, too.
    Each start makes all values again, at their pace: not too many losses."""
    losses = int(os.environ.get("WALLAROO_TEST_LOSSES") or
                 {"all": 6, "long": 30}[LEVEL])
    count = 300 * losses
    sink = receiver()
    app = machine(LIVE, workers=3)
    app.write_conf(args=[str(count), app.out("output"), str(sink.port)])
    power = Power(app, rng, lags=range(3))
    run_with_losses(app, power, rng, lambda: complete(app, 3 * count) and
                    sink.newlines() >= 3 * count, losses)
    output = app.read_out("output").splitlines()
    check_met(output, count, (b"left", b"middle", b"right"))
    check_seen(app, sink, output)
    report("%d power losses, %d connections" % (power.losses,
                                                len(sink.data())))


@pytest.mark.level("all")
def test_kills_and_losses(machine, rng):
    """kill -9 of workers between the power losses."""
    count = 6000
    app = meet(machine, count)
    power = Power(app, rng)
    for _ in range(3):
        app.start()
        for _ in range(4):
            time.sleep(rng.random() * 0.2)
            app.kill9(rng.randrange(3))
            app.wait_workers()
        power.lose()
    app.start()
    harness.wait_for(lambda: complete(app, 2 * count), "the whole output",
                     4 * harness.LIMIT)
    app.stop()
    check_met(app.read_out("output").splitlines(), count)


@pytest.mark.level("all")
def test_stop_after_a_loss(machine, rng):
    """A clean stop is clean, and the next start goes on from it."""
    count = 1500
    app = meet(machine, count)
    power = Power(app, rng)
    app.start()
    harness.wait_for(lambda: complete(app, 100), "some output")
    power.lose()
    app.start()
    app.stop()
    power.lose()
    app.start()
    assert not app.log_contains("power was lost")
    harness.wait_for(lambda: complete(app, 2 * count), "the whole output")
    app.stop()
    check_met(app.read_out("output").splitlines(), count)


def test_tmpfs_is_refused(machine, cluster):
    if harness.tmpfs_base() is None:
        pytest.skip("there is no tmpfs on this system")
    app = cluster(apps.FILE_NUMBER, durability="machine")
    app.write_conf(args=[app.write("input", "a\n"), app.out("output")])
    code, log = app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert "is on a tmpfs" in log


# -- disks that fail --------------------------------------------------------

def faulty(app, error, path):
    library = os.path.join(app.dir, "faultfs.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", library,
                    os.path.join(os.path.dirname(__file__), "faultfs.c")],
                   check=True)
    os.chmod(library, 0o755)
    switch = app.out("switch")
    app.environment.update({
        "LD_PRELOAD": library, "FAULT_PATH": path, "FAULT_SWITCH": switch,
        "FAULT_SYNC_ONLY": "1",
        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"})

    def on():
        with open(switch + "~", "w") as file:
            file.write(str(error))
        os.chmod(switch + "~", 0o644)
        os.rename(switch + "~", switch)
    return on, lambda: os.unlink(switch)


@pytest.mark.level("all")
@pytest.mark.parametrize("path", ["worker-1.journal", "/output"])
def test_sync_fails(machine, path):
    """The worker ends, says why, and its successor does not go on with the
    file as if nothing had happened."""
    count = 3000
    app = meet(machine, count, settings={"restart-limit": 1000})
    on, off = faulty(app, errno.EIO, path)
    app.start()
    harness.wait_for(lambda: complete(app, 100), "some output")
    on()
    app.wait_log("cannot sync .*%s.*not known what reached the disk" % path)
    off()
    harness.wait_for(lambda: complete(app, 2 * count), "the whole output",
                     4 * harness.LIMIT)
    app.stop()
    check_met(app.read_out("output").splitlines(), count)


def test_page_of_the_journal_is_gone(cluster, feeder):
    """SIGBUS: a storage failure, and no fault of a record."""
    port = harness.free_port()
    app = cluster(apps.PASS, args=["--in", "in@127.0.0.1:%d" % port, "--out",
                                   "127.0.0.1:%d" % harness.free_port()])
    app.start()
    os.truncate(os.path.join(app.run_dir, "worker-0.journal"), 4096)
    feeder(port).send_frames([b"1 2"])
    app.wait_log("storage failure: a page of (a mapped file|.*journal) "
                 "cannot be (read or )?written")
    assert app.wait_exit() == harness.EXIT_PERMANENT	# it is damaged now
    assert app.log_contains("worker-0.journal has 4096 bytes")


# -- older copies -----------------------------------------------------------

def worker_files(app, worker):
    found = [name for name in os.listdir(app.state_dir)
             if name.startswith("worker-%d." % worker)
             and not name.endswith((".lock", "-shm"))]
    run = os.path.join(app.state_dir, "run")
    return found + ["run/" + name for name in os.listdir(run)
                    if name.startswith("worker-%d." % worker)]


def run_for_a_while(app, lines):
    app.start()
    harness.wait_for(lambda: complete(app, lines), "%d lines" % lines)
    app.kill_everything()


@pytest.mark.parametrize("what", ["journal"] + [
    pytest.param(what, marks=pytest.mark.level("all"))
    for what in ("sqlite", "outbox", "worker", "catalog")])
def test_older_copy(machine, what):
    """Exit code 100, naming both generations; with the newer file back the
    output is exact."""
    count = 4000
    app = meet(machine, count)
    run_for_a_while(app, 50)
    files = worker_files(app, 1)
    names = {"sqlite": [name for name in files if ".sqlite" in name],
             "journal": ["run/worker-1.journal"],
             "outbox": ["run/worker-1.x0.p0.outbox"],
             "worker": files, "catalog": ["catalog.sqlite"]}[what]
    older = app.copies(names)
    run_for_a_while(app, 300)
    run_for_a_while(app, 600)
    newer = app.copies([name for name in worker_files(app, 1)
                         if name in names or ".sqlite" in name] +
                   names if what != "catalog" else names)
    for name in names:
        if name.endswith(".sqlite"):
            for more in ("-wal", "-shm"):
                path = os.path.join(app.state_dir, name + more)
                if os.path.exists(path):
                    os.unlink(path)
    older()
    for _ in range(3):		# it does not become newer by being tried
        code, log = app.run_to_exit()
        assert code == harness.EXIT_PERMANENT, log
        assert re.search(r"is an older copy: .*\d+, .*\d+", log), log
    newer()
    app.start()
    harness.wait_for(lambda: complete(app, 2 * count), "the whole output",
                     4 * harness.LIMIT)
    app.stop()
    check_met(app.read_out("output").splitlines(), count)


def copies_of_a_moment(app, worker):
    """One worker's files while nobody writes: put back later, they are older
    than what the others know, and nothing in them says so."""
    stopped = [pid for pid in app.pids() if pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        return app.copies(worker_files(app, worker))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def lines_of(app, word=b""):
    return app.read_out("output").count(b" %s" % word)


@pytest.mark.level("all")
@pytest.mark.parametrize("what", ["directory", "worker"])
def test_loss_is_refused_then_accepted(machine, rng, what):
    """The runtime directory is gone, or a worker's files are an older copy and
    the power was lost.  Refused, twice; --accept-loss goes on, says what is
    lost, and the next start needs it no more."""
    app = meet(machine, 20000)
    power = Power(app, rng)
    app.start()
    harness.wait_for(lambda: complete(app, 50), "50 lines")
    older = copies_of_a_moment(app, 1)
    # More of its source than it reads ahead.
    before = lines_of(app, b"right")
    harness.wait_for(lambda: lines_of(app, b"right") > before + 1500,
                     "more lines", 4 * harness.LIMIT)
    app.kill_everything()
    if what == "directory":
        shutil.rmtree(os.path.join(app.state_dir, "run"))
    else:
        older()
        power.new_boot()
    for _ in range(2):
        code, log = app.run_to_exit()
        assert code == harness.EXIT_PERMANENT, log
        assert "--accept-loss" in log, log
        assert what == "directory" or re.search(
            r"made (up to|at) position \d+, and its journal ends at \d+",
            log), log
    app.start("--accept-loss")
    losses = app.status()["losses"]
    assert losses
    assert what == "worker" or len(losses) == 3
    before = lines_of(app)
    harness.wait_for(lambda: lines_of(app) > before + 300, "new lines")
    app.stop()
    before = lines_of(app)
    app.start()
    assert app.status()["losses"] == losses
    harness.wait_for(lambda: lines_of(app) > before + 300, "new lines")
    app.stop()


@pytest.mark.level("all")
def test_whole_backup_is_restored(machine):
    count = 1500
    app = meet(machine, count)
    app.start()
    harness.wait_for(lambda: complete(app, 100), "some output")
    app.stop()
    backup = app.state_dir + ".backup"
    shutil.copytree(app.state_dir, backup)
    done = app.read_out("output")
    run_for_a_while(app, 2 * count // 2)
    shutil.rmtree(app.state_dir)
    shutil.copytree(backup, app.state_dir)
    for root, names, files in os.walk(app.state_dir):
        for name in names + files + ["."]:
            app._own(os.path.join(root, name))
    with open(app.out("output"), "r+b") as file:
        file.truncate(len(done))
    app.start()
    harness.wait_for(lambda: complete(app, 2 * count), "the whole output")
    app.stop()
    check_met(app.read_out("output").splitlines(), count)


# -- outputs after the checkpoint -------------------------------------------

@pytest.mark.level("all")
def test_code_that_is_not_deterministic(cluster, rng):
    """Outputs form one chain: each names the one before it, by a number that
    no second run gives again."""
    source = '''
import ctypes
import time
import wallaroo
from wallaroo.codecs import lines_decoder

libc = ctypes.CDLL(None, use_errno=True)


def number():
    """Really random: the system call, not the interposed function."""
    buffer = ctypes.create_string_buffer(8)
    libc.syscall(318, buffer, 8, 0)
    return buffer.raw.hex()


class Chain:
    def __init__(self):
        self.last = "begin"


@wallaroo.computation(name="Tag")
def tag(line):
    return line + "," + number()


@wallaroo.state_computation(name="Link", state=Chain)
def link(data, state):
    now = number()
    time.sleep(0.001)
    line = "%s %s %s\\n" % (state.last, now, data)
    state.last = now
    return line


@wallaroo.encoder
def encode(data):
    return data


def application_setup(args):
    return wallaroo.build_application("chain", (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", args[1], lines_decoder))
        .to(tag)
        .collect()
        .to(link)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''
    if platform.machine() != "x86_64":
        pytest.skip("the number of the system call is another one here")
    count = 2500
    app = cluster(source, workers=2, settings={
        "outputs": harness.Raw("after-checkpoint"),
        "checkpoint-interval": 0.05})
    path = app.write("input", "".join("%d %s\n" % (i, "_" * 100)
                                      for i in range(count)))
    app.write_conf(args=[path, app.out("output")])
    app.start()
    kills = 0
    while not complete(app, count) and kills < 15:
        time.sleep(rng.random() * 0.3)
        pid = app.pids()[rng.randrange(2)]	# also while it recovers
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills += 1
    harness.wait_for(lambda: complete(app, count), "the whole output")
    app.stop()
    last = b"begin"
    lines = app.read_out("output").splitlines()
    assert len(lines) == count
    for index, line in enumerate(lines):
        before, now, data, _ = line.split(b" ", 3)
        assert before == last, index
        assert int(data) == index
        last = now
    assert kills >= 3


# -- how long it takes ------------------------------------------------------

# Reading 1.1 million lines again may take a busy machine this long; a
# recovery that grows with the number of syncs, or of keys squared, longer.
RECOVERY_MOST = 60


@pytest.mark.level("long")
def test_recovery_time(machine, rng, report):
    """From the start after a power loss to the application running, and to
    the first new output, with a million keys."""
    keys = 1000000
    app = machine(apps.FILE_COUNT, workers=2, settings={
        "journal-size": None, "max-message": None, "outbox-size": None,
        "outbox-mark": None, "checkpoint-interval": 1})
    source = app.write("input", "".join("key%d\n" % (n % keys)
                                        for n in range(keys + keys // 2)))
    app.write_conf(args=[source, app.out("output")])
    power = Power(app, rng, lags=[-1])
    app.start()
    harness.wait_for(lambda: app.stat("keys") >= keys, "a million keys",
                     10 * harness.LIMIT)
    power.lose()
    size = os.path.getsize(app.out("output"))
    begin = time.monotonic()
    app.start(limit=10 * harness.LIMIT)
    running = time.monotonic() - begin
    harness.wait_for(lambda: os.path.getsize(app.out("output")) > size,
                     "more output than before", 10 * harness.LIMIT)
    flowing = time.monotonic() - begin
    assert app.log_contains("power was lost")
    wait_whole(app, lambda: complete(app, keys + keys // 2))
    app.stop()
    check_output(app, ["key%d" % (n % keys) for n in range(
        keys + keys // 2)])
    report("%d keys: running again after %.2f s, more output than before "
           "after %.2f s" % (keys, running, flowing))
    assert running < RECOVERY_MOST
