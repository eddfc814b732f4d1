"""Processes that wait to take a worker's place: with real imports, and what
comes out is what would have come out without them."""

import os
import pwd
import signal

import pytest

import apps
import harness
import oracle
from words import Zipf

# Fails the third time it is imported: as a spare.
THIRD = '''
import os
with open(%r, "a") as file:
    file.write("x")
if os.path.getsize(%r) == 3:
    raise ImportError("not now")
print("imported by", os.getpid())
'''


def wait_spares(app, number=1):
    harness.wait_for(lambda: app.status()["spares"] == number,
                     "%d spares" % number)


def start(cluster, receiver, feeder, source=apps.WORD_COUNT, **settings):
    sink = receiver()
    port = harness.free_port()
    # None: as many as there are where nothing is said.
    app = cluster(source, settings=dict({"spares": None}, **settings),
                  args=apps.word_count_args(port, sink.port))
    app.start()
    return app, sink, feeder(port)


def send(client, words):
    lines = [" ".join(words[i:i + 50]) for i in range(0, len(words), 50)]
    client.send_frames(line.encode() for line in lines)


def finish(app, sink, client, words):
    sink.wait_lines(len(words))
    client.close()
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)


def kill(app, worker=0):
    old = app.kill9(worker)
    app.wait_replaced(worker, old)
    return app.pids()[worker]


def taken_over(app):
    return app.log().count(" spare=1")


def test_kills_with_many_keys(cluster, receiver, feeder, rng):
    """Each replacement was a spare, and most keys are still in the file when
    the next words come."""
    app, sink, client = start(cluster, receiver, feeder)
    words = ["key%06d" % key for key in range(30000)]
    send(client, words)
    sink.wait_lines(len(words))
    app.ctl("checkpoint")
    for turn in range(3):
        wait_spares(app)
        more = [rng.choice(words) for _ in range(2000)]
        send(client, more[:1000])
        kill(app)
        send(client, more[1000:])
        words += more
    assert taken_over(app) == 3
    finish(app, sink, client, words)


@pytest.mark.level("all")
def test_kills_of_workers_and_spares(cluster, receiver, feeder, rng):
    app, sink, client = start(cluster, receiver, feeder, spares=2, workers=2)
    zipf = Zipf(rng.randrange(1 << 16))
    words = []
    for turn in range(6):
        wait_spares(app, 2)
        more = " ".join(zipf.lines(300)).split()
        words += more
        send(client, more)
        spares = [int(line.split("pid=")[1].split()[0])
                  for line in app.log().splitlines()
                  if "a spare is prepared" in line][-2:]
        if turn % 2:
            os.kill(spares[0], signal.SIGKILL)
        kill(app, turn % 2)
        app.wait_workers()
    assert taken_over(app) >= 3
    finish(app, sink, client, words)


def test_code_that_was_changed(cluster, receiver, feeder):
    """A spare that imported the old code does not run it."""
    app, sink, client = start(cluster, receiver, feeder)
    send(client, ["a", "b"])
    sink.wait_lines(2)
    app.ctl("checkpoint")
    wait_spares(app)
    app.write("app_under_test.py",
              apps.WORD_COUNT.replace('"%s %d\\n" %', '"new %s %d\\n" %'))
    kill(app)
    send(client, ["a", "c"])
    sink.wait_lines(4)
    assert sink.all_lines()[2:] == [b"new a 2", b"new c 1"]
    assert app.log_contains("was changed since, it ends file=")
    assert taken_over(app) <= 1
    # With the new code there is one again.
    wait_spares(app)
    size = app.log_size()
    kill(app)
    app.wait_log("worker starts worker=0 .* spare=1", since=size)
    send(client, ["c"])
    sink.wait_lines(5)
    assert sink.all_lines()[4] == b"new c 2"
    client.close()
    app.stop()


@pytest.mark.level("all")
def test_restart_imports_anew(cluster, receiver, feeder):
    app, sink, client = start(cluster, receiver, feeder)
    wait_spares(app)
    old = app.pids()[0]
    app.ctl("restart", "0")
    app.wait_replaced(0, old)
    assert taken_over(app) == 0
    client.close()
    app.stop()


@pytest.mark.level("all")
def test_import_that_fails(cluster, receiver, feeder, tmp_path):
    """Told, tried again, and no worker minds; what modules print when they
    are imported is the spare's."""
    app, sink, client = start(cluster, receiver, feeder, spares=0)
    app.stop()
    count = os.path.join(app.out_dir, "count")
    with open(count, "w"):
        pass
    os.chmod(count, 0o666)
    app.write("app_under_test.py", apps.WORD_COUNT + THIRD % (count, count))
    app.write_conf(spares=1)
    app.start()
    app.wait_log("ImportError: not now")
    app.wait_log("there is no spare, another one is tried in 1 seconds")
    assert app.status()["state"] == "running"
    wait_spares(app)
    assert app.log_contains(r"^<6>spare: .*imported by")
    assert app.workers()[0]["restarts"] == 0
    kill(app)
    assert taken_over(app) == 1
    client.close()
    app.stop()


@pytest.mark.level("all")
def test_user_threads_and_random_numbers(cluster, receiver, feeder):
    """A thread that was started at import goes on in the spare and in the
    worker that it becomes; numbers are those of any worker."""
    source = apps.WORD_FUNCTIONS.replace(
        "import wallaroo\n",
        "import random, threading, time, wallaroo\n"
        "AT_IMPORT = (random.random(), hash('x'), time.time())\n"
        "ticks = []\n"
        "def tick():\n"
        "    while True:\n"
        "        ticks.append(1)\n"
        "        time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start()\n").replace(
        '("%s %d\\n" % data).encode()',
        '("%s %d %s %s\\n" % (data + (AT_IMPORT, len(ticks) > 0))).encode()'
        ) + apps.WORD_COUNT[len(apps.WORD_FUNCTIONS):]
    app, sink, client = start(cluster, receiver, feeder, source)
    send(client, ["a"])
    sink.wait_lines(1)
    wait_spares(app)
    kill(app)
    assert taken_over(app) == 1
    send(client, ["b"])
    sink.wait_lines(2)
    first, second = (line.split(b" ", 2)[2] for line in sink.all_lines())
    assert first == second and first.endswith(b"True")
    client.close()
    app.stop()


@pytest.mark.level("all")
def test_import_that_hangs(cluster, receiver, feeder):
    """The spare is killed as a worker would be; its stack is shown."""
    app, sink, client = start(cluster, receiver, feeder, spares=0)
    app.stop()
    count = os.path.join(app.out_dir, "count")
    with open(count, "w"):
        pass
    os.chmod(count, 0o666)
    app.write("app_under_test.py", apps.WORD_COUNT + (THIRD % (
        count, count)).replace('raise ImportError("not now")',
                               "__import__('time').sleep(3600)"))
    app.write_conf(spares=1, hang_timeout=1)
    app.start()
    app.wait_log("spare 0 has not turned its loop", 60)
    app.wait_log("Python's stack of spare 0")
    app.wait_log("a spare died .* killed_by=supervisor")
    wait_spares(app)
    assert app.workers()[0]["restarts"] == 0
    client.close()
    app.stop()


@pytest.mark.level("all")
def test_joins_its_workers_cgroup(cluster, receiver, feeder):
    """Here a directory that looks like one: the kernel's would take the
    number out of the file."""
    sink = receiver()
    port = harness.free_port()
    app = cluster(apps.WORD_COUNT, privileged=True,
                  args=apps.word_count_args(port, sink.port))
    group = os.path.join(app.out("cgroup"), "t-worker-0")
    os.makedirs(group)
    for name, text in (("cgroup.procs", ""), ("memory.events", "oom_kill 0")):
        with open(os.path.join(group, name), "w") as file:
            file.write(text)
    app.write_conf(spares=1, user=pwd.getpwuid(os.geteuid()).pw_name,
                   cgroup=app.out("cgroup"))
    app.start()
    wait_spares(app)
    with open(os.path.join(group, "cgroup.procs")) as file:
        assert file.read() == "0"	# whoever writes it
    new = kill(app)
    assert taken_over(app) == 1
    with open(os.path.join(group, "cgroup.procs")) as file:
        assert file.read() == str(new)
    # Where it cannot join it is of no use.
    wait_spares(app)
    os.rename(os.path.join(group, "cgroup.procs"),
              os.path.join(group, "away"))
    pid = app.kill9(0)
    app.wait_log("is no place for cgroups")
    os.rename(os.path.join(group, "away"),
              os.path.join(group, "cgroup.procs"))
    app.wait_replaced(0, pid)
    assert taken_over(app) == 1
    app.stop()
