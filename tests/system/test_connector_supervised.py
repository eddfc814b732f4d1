"""Connectors that the supervisor starts, watches and starts again."""

import json
import os
import signal
import sqlite3
import sys

import pytest

import harness
from harness import process_alive, wait_for

APPLICATION = '''
import wallaroo
from wallaroo import experimental


class Sum:
    total = 0


@experimental.stream_message_decoder
def decode(data):
    return int(data)


@wallaroo.state_computation(name="Add up", state=Sum)
def add_up(number, state):
    state.total += number
    return state.total


@experimental.octet_message_encoder
def encode(total):
    return b"%d\\n" % total


def application_setup(args):
    return wallaroo.build_application("connectors", (
        wallaroo.source("Numbers", experimental.SourceConnectorConfig(
            "numbers", None, decode, int(args[1]), "mellon", 100, 50))
        .to(add_up)
        .to_sink(experimental.SinkConnectorConfig(
            "sums", encode, None, int(args[2]), "mellon"))))
'''

# It gives numbers until a file says how many there are at least.
NUMBERS = '''
import argparse
import os
import sys
import time
from wallaroo import connectors

@connectors.source("numbers")
def numbers(point):
    number = point or 0
    while not os.path.exists(sys.argv[1]) or \\
            number < int(open(sys.argv[1]).read()):
        number += 1
        time.sleep(0.001)
        yield number, b"%d" % number
    print("ended at", number, flush=True)

parser = argparse.ArgumentParser()
parser.add_argument("file")
connectors.add_options(parser)
connectors.run_source(
    numbers, options=connectors.options_of(parser.parse_args()))
'''

# What a connector is given, as JSON.
SHOW = '''
import json, os, resource, time
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
print("SHOW", json.dumps({
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "env": {k: v for k, v in os.environ.items() if "WALLAROO_CONN" in k},
    "home": os.environ.get("HOME"),
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "rights": [int(status[name], 16) for name in ("CapPrm", "CapEff",
                                                  "CapInh", "CapAmb")],
    "no_new": int(status["NoNewPrivs"]),
    "stdin": os.path.realpath("/proc/self/fd/0")}), flush=True)
time.sleep(3600)
'''

SINK = os.path.join(harness.SOURCE_TREE, "examples", "connectors", "python",
                    "sqlite_sink.py")


def of(one, name):
    return {entry["name"]: entry
            for entry in one.status()["connectors"]}[name]


def wait_state(one, name, state):
    return wait_for(lambda: [entry for entry in [of(one, name)]
                             if entry["state"] == state],
                    "connector %s to be %s" % (name, state))[0]


def wait_again(one, name, pid):
    """Another process than this one."""
    return wait_for(lambda: of(one, name)["pid"] not in (0, pid) and
                    of(one, name), "a new connector %s" % name)


@pytest.fixture
def app(cluster):
    def make(connectors, settings=None, **more):
        one = cluster(APPLICATION, env={
            "PYTHONPATH": harness.python_package_dir(),
            "PYTHONDONTWRITEBYTECODE": "1"}, settings={
                "checkpoint-interval": 0.1, **(settings or {}),
                **{'connector "%s"' % name: connector
                   for name, connector in connectors.items()}}, **more)
        one.write_conf(args=[harness.free_port(), harness.free_port()])
        return one
    return make


def sums(path):
    with sqlite3.connect("file:%s?mode=ro" % path, uri=True,
                         timeout=30) as db:
        try:
            return [int(body) for body, in db.execute(
                "SELECT body FROM output ORDER BY at")]
        except sqlite3.OperationalError:
            return []			# not there yet


def start_both(app):
    one = app({})
    path = one.out("sums.db")
    with open(SINK) as file:		# where every user may read it
        sink = one.write("sqlite_sink.py", file.read())
    one.write_conf(**{
        'connector "in"': {
            "command": ["-c", NUMBERS, one.out("count")],
            "source": "Numbers", "python": sys.executable},
        'connector "out"': {
            "command": [sys.executable, sink, path], "sink": "sums"}})
    one.start()
    wait_for(lambda: os.path.exists(path) and sums(path), "output")
    return one, path


def say_count(one, count):
    """The source may end; how many there are."""
    with open(one.out("new"), "w") as file:
        file.write(str(count))
    os.chmod(one.out("new"), 0o644)
    os.rename(one.out("new"), one.out("count"))
    wait_state(one, "in", "ended")
    return int(one.log_contains(r"connector in: ended at (\d+)$").group(1))


def exact(count):
    total, result = 0, []
    for number in range(1, count + 1):
        total += number
        result.append(total)
    return result


@pytest.mark.level("all")
def test_kills(app):
    """Both are killed again and again: each number counts once.  The source
    ends by itself, the sink with the application."""
    one, path = start_both(app)
    for kill in range(6):
        name = ("in", "out")[kill % 2]
        before = wait_state(one, name, "running")
        many = len(sums(path))
        os.kill(before["pid"], signal.SIGKILL)
        after = wait_again(one, name, before["pid"])
        assert after["restarts"] == kill // 2 + 1
        wait_for(lambda: len(sums(path)) > many, "more output")
    before = wait_state(one, "out", "running")
    answer = one.ctl("restart", "out")
    assert answer == {"connector": "out", "pid": before["pid"]}
    after = wait_again(one, "out", before["pid"])
    assert not process_alive(before["pid"])
    count = say_count(one, len(sums(path)) + 500)
    ended = of(one, "in")
    assert ended["pid"] == 0 and ended["text"] == ""
    wait_for(lambda: len(sums(path)) >= count, "all output")
    assert sums(path) == exact(count)
    text = one.ctl_raw("status").stdout.decode()
    assert "CONNECTOR" in text and "ended" in text
    assert one.ctl_raw("restart", "in").stdout.decode() == \
        "connector in is started again\n"
    wait_again(one, "in", 0)
    assert "mellon" not in one.log()
    one.stop()
    assert sums(path) == exact(count)


@pytest.mark.level("all")
def test_supervisor_killed(app):
    """They die with the supervisor, and the next one goes on exactly."""
    one, path = start_both(app)
    one.kill_supervisor()
    one.start()
    count = say_count(one, len(sums(path)) + 500)
    wait_for(lambda: len(sums(path)) >= count, "all output")
    assert sums(path) == exact(count)
    one.stop()


def test_crash_loop(app):
    """Bounded; the application and the others go on, the operator starts it
    again.  What it writes is in the log, but not all of a flood."""
    one = app({
        "bad": {"command": ["/bin/sh", "-c", "echo bad luck >&2; exit 3"],
                "source": "Numbers"},
        "never": {"command": ["/bin/sh", "-c", "exit 100"],
                  "source": "Numbers"},
        "none": {"command": ["/nonexistent/program"], "sink": "sums"},
        "loud": {"command": ["/bin/sh", "-c", "seq 100000; sleep 3600"],
                 "sink": "sums"}}, {"restart-limit": 3})
    one.start()
    bad = wait_state(one, "bad", "failed")
    assert bad["pid"] == 0 and bad["restarts"] == 2
    assert bad["text"] == "died 3 times in a row (restart-limit), the last " \
        "time by exit code 3; what it wrote last: bad luck"
    assert wait_state(one, "never", "failed")["restarts"] == 0
    none = wait_state(one, "none", "failed")
    assert "/nonexistent/program cannot be executed" in none["text"]
    loud = wait_state(one, "loud", "running")
    one.wait_log("connector loud writes more than 200 lines a second")
    assert one.log_contains(r"connector bad: bad luck$")
    assert one.status()["state"] == "running"
    one.ctl("restart", "bad")
    assert wait_for(lambda: [entry for entry in [of(one, "bad")]
                             if entry["restarts"] >= 3], "new attempts")
    assert wait_state(one, "bad", "failed")["restarts"] == 5
    assert of(one, "loud")["pid"] == loud["pid"]
    refused = one.ctl_raw("restart", "nobody")
    assert refused.returncode == 1
    assert b"no such worker or connector" in refused.stderr
    one.stop()


@pytest.mark.level("all")
def test_deaf(app):
    """One that does not end is killed at the stop, with all it started."""
    one = app({"deaf": {
        "command": ["/bin/sh", "-c", "trap '' TERM; sleep 3600 & "
                    "echo ready; while :; do sleep 1; done"],
        "source": "Numbers", "stop-timeout": 0.2}})
    one.start()
    one.wait_log("connector deaf: ready")
    one.stop()
    assert one.log_contains("has not ended in time")


def test_what_it_is_given(app):
    """Address, cookie and name; no descriptor, no right, no core; its own
    session and, when we are root, its own user."""
    user = "daemon" if os.geteuid() == 0 else None
    one = app({"show": {"command": ["-c", SHOW], "sink": "sums",
                        "python": sys.executable, "user": user}})
    one.start(env={"WALLAROO_CONNECTOR_COOKIE_FILE": "/etc/passwd",
                   "WALLAROO_CONNECTOR_NAME": "other"})
    given = json.loads(one.wait_log(r"connector show: SHOW (.*)$").group(1))
    assert given["env"] == {
        "WALLAROO_CONNECTOR_NAME": "show",
        "WALLAROO_CONNECTOR_ADDRESS": "127.0.0.1:%s" %
            one.settings["args"][1],
        "WALLAROO_CONNECTOR_COOKIE": "mellon"}
    # One of them is that of the list itself.
    assert given["fds"] in ([0, 1, 2], [0, 1, 2, 3])
    assert given["stdin"] == "/dev/null"
    assert given["leader"] and given["no_new"] == 1
    assert given["core"] == [0, 0] and given["rights"] == [0, 0, 0, 0]
    entry = harness.pwd.getpwnam(user) if user else None
    if entry:
        assert given["uids"] == [entry.pw_uid] * 3
        assert given["gids"] == [entry.pw_gid] * 3
        assert given["home"] == entry.pw_dir
        assert 0 not in given["groups"]
    pid = of(one, "show")["pid"]
    with open("/proc/%d/status" % one.pids()[0]) as status:
        assert "CapPrm:\t0000000000000000" in status.read()
    one.ctl("restart", "show")		# whoever it runs as
    again = wait_again(one, "show", pid)
    one.kill_supervisor(wait=False)
    wait_for(lambda: not process_alive(again["pid"]), "its death")


@pytest.mark.level("all")
def test_memory(app):
    """The limit is set, it joins its cgroup, and a kill for want of memory
    is its own doing; files stand in for those of a kernel."""
    one = app({"hungry": {"command": ["sleep", "3600"], "sink": "sums",
                          "memory-limit": harness.Raw("64M")}},
              {"restart-limit": 2})
    place = one.out("cgroup")
    group = os.path.join(place, "t-connector-hungry")

    def write(name, text, directory=group):
        path = os.path.join(directory, name)
        with open(path + "~", "w") as file:
            file.write(text)
        os.chmod(path + "~", 0o666)
        os.rename(path + "~", path)

    def read(name):
        with open(os.path.join(group, name)) as file:
            return file.read()
    for directory in (group, os.path.join(place, "t-worker-0")):
        os.makedirs(directory)
        write("cgroup.procs", "", directory)
        write("memory.max", "max\n", directory)
        write("memory.events", "oom_kill 7\n", directory)
    one.write_conf(cgroup=place)
    one.start()
    first = wait_state(one, "hungry", "running")
    assert read("memory.max").startswith(str(64 << 20))
    wait_for(lambda: read("cgroup.procs") == "0", "it to join")
    write("memory.events", "oom_kill 8\n")
    os.kill(first["pid"], signal.SIGKILL)
    second = wait_again(one, "hungry", first["pid"])
    write("memory.events", "oom_kill 9\n")
    os.kill(second["pid"], signal.SIGKILL)
    failed = wait_state(one, "hungry", "failed")
    assert failed["text"] == "died 2 times in a row (restart-limit), the " \
        "last time by signal 9 (Killed) for want of memory"
    one.stop()


@pytest.mark.parametrize("connector, text", [
    ({"source": "number"}, 'has no source "number" for connectors; it has: '
     '"Numbers"'),
    ({"sink": "numbers"}, 'has no sink "numbers"'),
    ({"sink": "sums", "user": "no-such-user"}, "does not exist"),
    ({"sink": "sums", "memory-limit": "1M"}, "memory-limit needs cgroup"),
])
@pytest.mark.level("all")
def test_refused(app, connector, text):
    one = app({"x": {"command": ["true"], **connector}})
    code, log = one.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert text in log
