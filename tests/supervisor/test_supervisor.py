"""What the supervisor does, whatever workers do."""

import os
import re
import signal
import socket
import sqlite3
import time

import pytest

from conftest import Client, alive, free_port, wait_for


# -- start and stop ----------------------------------------------------------

def test_start_status_stop(app):
    a = app(workers=3).start()
    status = a.status()
    assert status["application"] == "fake" and status["version"] == ""
    assert status["state"] == "running"
    assert status["pid"] == a.process.pid
    assert status["epoch"] == 1 and status["generation"] == 0
    assert [w["worker"] for w in status["workers"]] == [0, 1, 2]
    assert all(w["state"] == "running" and w["restarts"] == 0 and
               w["turns"] > 0 for w in status["workers"])
    for i in range(3):
        others = {"peer %d" % k for k in range(3)} - {"peer %d" % i}
        assert others == {n for n in a.diary(i) if n.startswith("peer")}
        for k in range(3):
            if k != i:
                a.wait_diary(i, "hello %d:" % k)
    pids = [w["pid"] for w in status["workers"]]
    a.stop()
    assert not any(map(alive, pids))
    assert "application has stopped" in a.log()
    assert all("finish" in a.diary(i) for i in range(3))


def test_stop_by_ctl_returns_when_stopped(app):
    a = app().start()
    assert a.ctl("stop") == {"state": "stopped"}
    a.wait_exit(0)
    assert "no supervisor answers" in a.ctl("status", code=111)


def test_epoch_counts_starts(app):
    a = app()
    for epoch in (1, 2, 3):
        a.start()
        assert a.status()["epoch"] == epoch
        a.stop()


def test_sigterm_while_importing(app):
    a = app()
    a.order("describe", "hang")
    a.launch()
    a.wait_log("is starting")
    time.sleep(0.1)
    a.stop()


def test_stop_while_workers_open(app):
    a = app()
    a.order("open-1", "hang")
    a.launch()
    a.wait_log("worker starts worker=1")
    a.process.send_signal(signal.SIGTERM)
    a.wait_log("is stopping")
    a.revoke("open-1")
    pid = int(re.search(r"worker=1 pid=(\d+)", a.log()).group(1))
    os.kill(pid, signal.SIGKILL)
    a.wait_exit(0)


def test_stop_waits_for_quiet_and_sinks(app):
    a = app(stop_timeout=30).start()
    a.order("busy-0")
    a.process.send_signal(signal.SIGTERM)
    a.wait_log("is stopping")
    time.sleep(0.3)
    assert a.process.poll() is None
    a.order("full-1")
    a.revoke("busy-0")
    time.sleep(0.3)
    assert a.process.poll() is None and "finish" not in a.diary(0)
    a.revoke("full-1")
    a.wait_exit(0)
    assert "not everything" not in a.log()


# -- the end of a finite run -------------------------------------------------

def test_ends_by_itself(app):
    """With at-end = stop, when workers say that all sources have ended."""
    a = app(at_end="stop", stop_timeout=0).start()
    a.wait_exit(0)
    assert "every source has ended" in a.log()
    assert "application has stopped" in a.log()
    assert all("settle" in a.diary(i) and "finish" in a.diary(i)
               for i in range(2))


def test_stays_by_default(app):
    a = app().start()
    time.sleep(0.3)
    assert a.status()["state"] == "running"
    assert all("settle" not in a.diary(i) for i in range(2))
    a.stop()


def test_end_waits_for_quiet_and_sinks(app):
    """However long: no stop-timeout cuts what a receiver still lacks."""
    a = app(at_end="stop", stop_timeout=0)
    a.order("busy-0")
    a.order("full-1")
    a.start()
    for order, worker in (("busy", 0), ("full", 1)):
        seen = len(a.diary(0))
        wait_for(lambda: a.diary(0)[seen:].count("settle") > 3,
                 "more rounds")
        assert "is stopping" not in a.log()
        a.revoke("%s-%d" % (order, worker))
    a.wait_exit(0)
    assert "not everything" not in a.log()


def test_worker_killed_before_the_end(app):
    """Its answer is forgotten, and its replacement is asked."""
    a = app(at_end="stop")
    a.order("busy-0")
    a.order("mute-1")
    a.start()
    a.wait_diary(0, "settle")
    a.revoke("busy-0")
    pid = a.pid(1)
    a.revoke("mute-1")
    os.kill(pid, signal.SIGKILL)
    a.wait_exit(0)
    replaced = re.findall(r"worker=1 pid=(\d+) life", a.log())[-1]
    assert int(replaced) != pid
    assert "settle" in a.diary(1, int(replaced))


def test_sigterm_while_a_finite_run_ends(app):
    a = app(at_end="stop")
    a.order("mute-0")
    a.start()
    a.wait_diary(1, "settle")
    a.stop()


def test_endless_source_with_at_end_stop(app):
    a = app(at_end="stop", args=["source=127.0.0.1:%d" % free_port()])
    a.start()
    a.wait_log("a source never ends")
    assert all("settle" not in a.diary(i) for i in range(2))
    a.stop()


def test_stop_timeout_for_sinks(app):
    a = app(stop_timeout=1).start()
    a.order("full-1")
    begun = time.monotonic()
    a.stop()
    assert 0.9 < time.monotonic() - begun < 5
    assert "sinks have not taken everything" in a.log()


def test_worker_killed_while_stopping(app):
    a = app().start()
    a.order("busy-0")
    a.order("stuck-1")
    pid = a.pid(1)
    a.process.send_signal(signal.SIGTERM)
    a.wait_log("is stopping")
    os.kill(pid, signal.SIGKILL)
    a.wait_log("worker=1 pid=\\d+ life=2")
    a.wait_diary(1, "start flags 20")		# START_DRAINING, _AGAIN
    a.revoke("busy-0")
    a.wait_diary(0, "finish")
    pids = re.findall(r"worker=1 pid=(\d+) life", a.log())
    os.kill(int(pids[-1]), signal.SIGKILL)
    a.revoke("stuck-1")
    a.wait_exit(0)


def test_rest_in_a_journal(app):
    """Not a clean stop, although nobody failed."""
    a = app().start()
    a.order("unclean-1")
    a.stop(code=111)
    a.configure(workers=3)
    a.revoke("unclean-1")
    a.start()
    assert "was not stopped cleanly" in a.log()
    assert len(a.status()["workers"]) == 3
    a.stop()


# -- replacing workers ----------------------------------------------------------

def test_killed_worker_is_replaced(app):
    a = app(workers=3).start()
    old = [a.pid(i) for i in range(3)]
    os.kill(old[1], signal.SIGKILL)
    a.wait_running(old[1])
    new = [a.pid(i) for i in range(3)]
    assert new[0] == old[0] and new[2] == old[2] and new[1] != old[1]
    a.wait_diary(0, "hello 1:%d" % new[1])
    a.wait_diary(2, "hello 1:%d" % new[1])
    a.wait_diary(1, "hello 0:", new[1])
    a.wait_diary(1, "hello 2:", new[1])
    assert a.worker(1)["restarts"] == 1
    a.stop()


def test_kill_is_never_a_crash_loop(app):
    a = app(restart_limit=2).start()
    for _ in range(12):
        pid = a.pid(0)
        os.kill(pid, signal.SIGKILL)
        a.wait_running(pid)
    a.stop()


def test_all_killed_at_once(app):
    a = app(workers=4).start()
    pids = [a.pid(i) for i in range(4)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    a.wait_running(*pids)
    for i in range(4):
        for k in range(4):
            if i != k:
                a.wait_diary(i, "hello %d:%d" % (k, a.pid(k)), a.pid(i))
    a.stop()


def test_restart_by_ctl(app):
    a = app().start()
    pid = a.pid(1)
    assert a.ctl("restart", "1") == {"worker": 1, "pid": pid}
    a.wait_running(pid)
    assert "no such worker" in a.ctl("restart", "7", code=1)
    a.stop()


@pytest.mark.parametrize("how", ["segv", "abort", "exit 0", "exit 3",
                                 "fatal 111 out of luck"])
def test_crash_loop_ends_the_application(app, how):
    port = free_port()
    a = app(workers=1, restart_limit=3,
            args=["source=127.0.0.1:%d" % port]).start()
    a.order("open-0", how)
    Client(port).send("!" + how)
    a.wait_exit(111 if "111" in how else 100)
    assert "restart-limit" in a.log()
    assert len(re.findall("worker died", a.log())) == 3
    assert "delay_ms=100" in a.log() and "delay_ms=200" in a.log()
    if "luck" in how:
        assert "the last time: out of luck" in a.log()
    # The state is kept, and a better version runs.
    a.revoke("open-0")
    a.start()
    a.stop()


def test_progress_resets_the_count(app):
    port = free_port()
    a = app(workers=1, restart_limit=3,
            args=["source=127.0.0.1:%d" % port]).start()
    client = Client(port)
    for _ in range(6):
        pid = a.pid(0)
        assert client.ask("!progress 10") == "done"
        client.send("!segv")
        a.wait_running(pid)
    assert client.is_open()
    a.stop()


def test_fatal_100_stops_at_once(app):
    port = free_port()
    a = app(args=["source=127.0.0.1:%d" % port]).start()
    Client(port).send("!fatal 100 user function failed")
    a.wait_exit(100)
    assert re.search(r"worker \d: user function failed", a.log())


def test_last_words_with_something_unread(app):
    """Who dies without having read all leaves an error on the channel, before
    what it has said."""
    port = free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port]).start()
    Client(port).send("!unread fatal 100 user function failed")
    a.wait_diary(0, "unread")
    asked = a.ctl_start("checkpoint")
    a.wait_exit(100)
    asked.wait()
    assert re.search(r"worker 0: user function failed", a.log())


def test_hanging_worker_is_replaced(app):
    port = free_port()
    a = app(workers=1, hang_timeout=2,
            args=["source=127.0.0.1:%d" % port]).start()
    pid = a.pid(0)
    Client(port).send("!hang")
    a.wait_log("has not turned its loop for 2 seconds")
    a.wait_running(pid)
    a.stop()


def test_stopped_supervisor_accuses_nobody(app):
    a = app(workers=1, hang_timeout=1).start()
    pid = a.pid(0)
    a.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    a.process.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    assert a.pid(0) == pid
    a.stop()


@pytest.mark.parametrize("how", ["nonsense", "channel"])
def test_worker_that_breaks_the_protocol(app, how):
    port = free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port]).start()
    pid = a.pid(0)
    client = Client(port)
    client.send("!" + how)
    a.wait_running(pid)
    assert client.ask("hello") in ("hello", "done")
    a.stop()


@pytest.mark.parametrize("how", ["orphan", "child"])
def test_descendants_die_before_the_replacement(app, how):
    port = free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port]).start()
    pid = a.pid(0)
    client = Client(port)
    assert client.ask("!" + how) == "done"
    if how == "orphan":
        other = int(a.wait_diary(0, r"orphan (\d+)").group(1))
    else:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            other = int(file.read().split()[0])
    assert alive(other)
    os.kill(pid, signal.SIGKILL)
    a.wait_diary(0, "start", None)
    a.wait_running(pid)
    assert not alive(other)
    a.stop()


# -- connections ------------------------------------------------------------------

def test_connections_outlive_workers(app, receiver):
    port = free_port()
    a = app(workers=2, args=[
        "source=127.0.0.1:%d" % port,
        "sink=127.0.0.1:%d" % receiver.getsockname()[1]]).start()
    sinks = [receiver.accept()[0].makefile("rb") for _ in range(2)]
    clients = [Client(port) for _ in range(4)]
    wait_for(lambda: a.status()["sources"][0]["connections"] == 4,
             "connections")
    wait_for(lambda: a.status()["sinks"][0]["connected"] == 2, "sinks")
    for i in range(2):
        assert len([n for n in a.diary(i) if n.startswith("conn ")]) == 2
    ids = [sorted(n for n in a.diary(i) if n.startswith("conn "))
           for i in range(2)]
    sink_ids = [[n for n in a.diary(i) if n.startswith("sinkconn ")]
                for i in range(2)]
    for round_ in range(3):
        for i in range(2):
            pid = a.pid(i)
            os.kill(pid, signal.SIGKILL)
            a.wait_running(pid)
            new = a.pid(i)
            # The same connections under the same names, before `run`.
            notes = a.diary(i, new)
            assert sorted(n for n in notes if n.startswith("conn ")) == ids[i]
            assert [n for n in notes
                    if n.startswith("sinkconn ")] == sink_ids[i]
            assert notes.index("run 2") > notes.index(ids[i][0])
    for client in clients:
        client.send("text")
    got = []
    for sink in sinks:
        got.append(sink.readline())
    assert got == [b"text\n"] * 2
    assert all(client.is_open() for client in clients)
    a.stop()


def test_closed_connections_are_dropped(app):
    port = free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port]).start()
    clients = [Client(port) for _ in range(3)]
    assert clients[0].ask("hello") == "hello"
    clients[0].sock.shutdown(socket.SHUT_WR)
    assert clients[0].line() == ""
    a.wait_diary(0, "dropped")
    assert a.status()["sources"][0]["connections"] == 2
    a.stop()


def test_limit_of_connections(app):
    port = free_port()
    a = app(workers=1, connections=2,
            args=["source=127.0.0.1:%d" % port]).start()
    clients = [Client(port) for _ in range(3)]
    assert clients[0].ask("a") == "a" and clients[1].ask("b") == "b"
    clients[2].send("c")
    time.sleep(0.3)
    assert a.status()["sources"][0]["connections"] == 2
    clients[0].close()
    assert clients[2].line() == "c"
    a.stop()


def test_sink_is_tried_until_it_answers(app):
    port, sink_port = free_port(), free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port,
                             "sink=127.0.0.1:%d" % sink_port]).start()
    a.wait_log("cannot connect, trying again")
    time.sleep(0.6)
    assert len(re.findall("cannot connect", a.log())) == 1
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", sink_port))
    listener.listen()
    first = listener.accept()[0]
    a.wait_log("connected sink=")
    # It is lost: another one comes, the old one ends.
    client = Client(port)
    client.send("!lost")
    second = listener.accept()[0]
    assert first.recv(100) == b""
    wait_for(lambda: len([n for n in a.diary(0)
                          if n.startswith("sinkconn")]) == 2, "sinkconn")
    client.send("text")
    assert second.recv(100) in (b"done\ntext\n", b"text\n")
    a.stop()


def test_sink_with_a_name(app, receiver):
    """Where nobody knows the name, as on a system without /etc/hosts, that
    is said and the application goes on."""
    a = app(workers=2, args=["sink=localhost:%d" %
                             receiver.getsockname()[1]]).start()
    try:
        socket.getaddrinfo("localhost", 1)
    except socket.gaierror:
        a.wait_log("cannot connect.* address=localhost:")
        assert a.status()["sinks"][0]["connected"] == 0
    else:
        receiver.accept(), receiver.accept()
        wait_for(lambda: a.status()["sinks"][0]["connected"] == 2, "sinks")
    a.stop()


def test_stdin_and_stdout(app, tmp_path):
    read, write = os.pipe()
    os.write(write, b"given")
    out = open(str(tmp_path / "out"), "w+b")
    a = app(workers=2, args=["stdin", "stdout"])
    a.start(stdin=read, stdout=out)
    a.wait_diary(0, "stdio source 0 given")
    a.wait_diary(0, "stdio sink 0")
    a.stop()
    out.seek(0)
    assert out.read() == b"to stdout\n"


def test_port_in_use(app):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        a = app(args=["source=127.0.0.1:%d" % port])
        a.fails(111, "127.0.0.1:%d" % port, "in use")
    a.start()
    a.stop()


# -- what cannot start ---------------------------------------------------------------

@pytest.mark.parametrize("order, code, text", [
    ("fatal 100 No module named fake", 100, "No module named fake"),
    ("fatal 111 no memory", 111, "no memory"),
    ("exit 0", 100, "exit code 0"), ("exit 7", 100, "exit code 7"),
    ("segv", 100, "signal 11")])
def test_describe_fails(app, order, code, text):
    a = app()
    a.order("describe", order)
    a.fails(code, text)
    a.revoke("describe")
    a.start()
    a.stop()


def test_killed_while_describing_is_tried_again(app):
    a = app()
    a.order("describe", "hang")
    a.launch()

    def tool():
        path = "/proc/%d/task/%d/children" % (a.process.pid, a.process.pid)
        with open(path) as file:
            return [int(pid) for pid in file.read().split()]
    pid = wait_for(tool, "a process")[0]
    a.revoke("describe")
    os.kill(pid, signal.SIGKILL)
    a.wait_log("application is running")
    a.stop()


def test_refused_start_and_accept_loss(app):
    a = app(workers=3)
    a.order("open-0", "refuse journal is gone\nchannel from worker 1\n")
    a.order("open-2", "refuse journal is gone, too\n")
    a.fails(100, "worker 0: journal is gone", "worker 0: channel from",
            "worker 2: journal is gone, too", "--accept-loss")
    a.fails(100)
    a.start("--accept-loss")
    losses = a.status()["losses"]
    assert [l["worker"] for l in losses] == [0, 2]
    assert "channel from worker 1" in losses[0]["text"]
    assert re.match(r"\d{4}-\d\d-\d\dT", losses[0]["time"])
    # Only for the start: the next life has to do without.
    a.revoke("open-0"), a.revoke("open-2")
    pid = a.pid(0)
    os.kill(pid, signal.SIGKILL)
    a.wait_running(pid)
    assert "start flags 16 generation 0" in a.diary(0, a.pid(0))	# AGAIN
    a.stop()
    a.start()
    assert a.status()["losses"] == losses
    a.stop()


def test_worker_dies_during_a_cut(app):
    """What it had answered does not count for its successor, which is asked
    anew, and about its own lineage."""
    a = app()
    a.order("lost-0", "100")
    a.order("lost-1", "200")
    a.order("mute-0")
    a.launch()
    a.wait_diary(1, "cutoff")
    a.wait_diary(0, "cut last 0 lineage 7000 position 100")
    old = a.pid(1)
    a.order("closed-1")
    os.kill(old, signal.SIGKILL)
    a.wait_log(r"worker died worker=1 ")
    a.revoke("mute-0")
    a.wait_diary(0, "cutoff")		# the last answer of that round
    a.status()
    a.revoke("closed-1")
    a.wait_running()
    new = a.pid(1)
    for number, pid in ((0, a.pid(0)), (1, new)):
        cuts = [line for line in a.diary(number, pid)
                if line.startswith("cut ")]
        assert all("lineage %d " % (7000 + number) in line for line in cuts)
        assert [line for line in cuts if "last 1" in line][-1:] == cuts[-1:]
    a.stop()


def test_second_supervisor(app):
    a = app().start()
    import subprocess
    from conftest import find
    done = subprocess.run([find("wallaroo-supervisord"), "-c", a.conf],
                          stderr=subprocess.PIPE, preexec_fn=lambda:
                          a.user and os.setuid(a.user.pw_uid))
    assert done.returncode == 100
    assert b"in use by another supervisor pid=%d" % a.process.pid \
        in done.stderr
    assert a.status()["state"] == "running"
    a.stop()


def test_too_few_descriptors(app):
    a = app(connections=60000, args=["source=127.0.0.1:%d" % free_port()])
    a.launch(wrapper=["prlimit", "--nofile=1000:1000"])
    a.wait_exit(100)
    assert "too few file descriptors" in a.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_needs_a_user(app):
    a = app()
    a.user = None
    a.fails(100, "\"user\" is required")
    a.configure(user="nosuchuser")
    a.fails(100, "nosuchuser.* does not exist")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_dropped(app):
    """Then the environment chooses no other program either."""
    a = app(user="nobody", state_directory=None)
    a.configure(state_directory=a.dir + "/new/state")
    os.chmod(a.dir, 0o755)
    a.user = None
    a.launch()
    code = a.wait_exit()
    assert code in (100, 111)
    stat = os.stat(a.dir + "/new/state")
    assert stat.st_uid != 0 and stat.st_mode & 0o777 == 0o700
    assert not os.path.exists(os.path.join(a.fake, "diary-0"))


def test_damaged_catalog(app):
    a = app().start()
    a.stop()
    path = a.state + "/catalog.sqlite"
    with open(path, "rb") as file:
        good = file.read()
    for bad in (b"x" * len(good), good[:100] + b"\xff" * (len(good) - 100),
                good[:2000]):
        with open(path, "wb") as file:
            file.write(bad)
        a.fails(100, "catalog.sqlite is damaged", "backup")
    with open(path, "wb") as file:
        file.write(good)
    a.start()
    a.stop()


def test_catalog_that_cannot_be_written(app):
    a = app().start()
    a.stop()
    os.chmod(a.state + "/catalog.sqlite", 0o400)
    a.fails(111, "catalog.sqlite cannot be written")
    os.chmod(a.state + "/catalog.sqlite", 0o600)
    a.start()
    a.stop()


def test_directories_that_are_none(app):
    a = app()
    a.configure(state_directory=a.conf)
    a.fails(100, "is not a directory")
    a.configure(state_directory="/proc/nothing/here")
    a.fails(100, "cannot make directory /proc/nothing")
    a.configure(state_directory=a.state, runtime_directory="/dev/shm")
    if os.geteuid() == 0:
        a.fails(100, "runtime-directory /dev/shm must be a directory that "
                "belongs to")
    os.chmod(a.state, 0o500)
    a.configure(runtime_directory=a.run)
    a.fails(100, "state-directory .* cannot be used")
    os.chmod(a.state, 0o700)
    a.start()
    a.stop()


def test_newer_catalog(app):
    a = app().start()
    a.stop()
    with sqlite3.connect(a.state + "/catalog.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    a.fails(100, "schema version 99")


@pytest.mark.parametrize("change", [
    "workers = workers + 1", "generation = 7", "clean = 0", "epoch = 99",
    "partitions = 2 * partitions", "run_dir = '/run'", "opened = 0",
    "topology = x'93'", "sum = sum + 1", "sum = NULL"])
def test_changed_catalog(app, change):
    """A number that nobody wrote is not believed."""
    a = app().start()
    a.stop()
    with sqlite3.connect(a.state + "/catalog.sqlite") as db:
        db.execute("UPDATE meta SET " + change)
    a.fails(100, "catalog.sqlite is damaged .its row is not what was "
                 "written.: restore the state-directory from a backup")


def test_directory_of_another_application(app):
    a = app().start()
    a.stop()
    with open(a.conf) as file:
        text = file.read()
    with open(a.conf, "w") as file:
        file.write(text.replace('"fake" {', '"other" {'))
    a.fails(100, "belongs to application \"fake\"")


# -- another version, another size -------------------------------------------------------

def worker_files(a, names, generation=0):
    """Files as workers would have left them."""
    for i in range(2):
        path = "%s/worker-%d.g%d.sqlite" % (a.state, i, generation)
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY,"
                       " name TEXT UNIQUE NOT NULL, sum INTEGER)")
            db.execute("CREATE TABLE state (step, key, value)")
            for k, name in enumerate(names):
                db.execute("INSERT INTO steps VALUES (?, ?, NULL)",
                           (k + 1, name))
                db.execute("INSERT INTO state VALUES (?, 'k', ?)",
                           (k + 1, name))
        db.close()


def states(a, worker=0):
    db = sqlite3.connect("%s/worker-%d.g0.sqlite" % (a.state, worker))
    found = dict(db.execute("SELECT name, value FROM steps JOIN state "
                            "ON steps.id = state.step"))
    db.close()
    return found


def test_states_are_found_by_name(app):
    a = app(args=["state=A", "state=B"]).start()
    worker_files(a, ["A", "B"])
    a.stop()
    a.configure(args=["state=B", "state=New", "state=A"])
    a.start()
    a.stop()
    a.configure(args=["state=A", "state=C", "state=New"])
    a.fails(100, 'state of step "B"', "--rename-state", "--drop-state",
            "(?s)written by:.*\"B\".*this version is:.*\"C\"")
    a.fails(100, 'no step with state named "X"',
            options=["--rename-state", "B=X"])
    a.fails(100, 'no state "Q"', options=["--drop-state", "Q"])
    a.fails(100, 'is a state "New" already',
            options=["--rename-state", "B=New"])
    a.fails(100, "OLD=NEW", options=["--rename-state", "B"])
    assert states(a) == {"A": "A", "B": "B"}
    a.start("--rename-state", "B=C")
    a.stop()
    for i in range(2):
        assert states(a, i) == {"A": "A", "C": "B"}
    a.configure(args=["state=A"])
    a.start("--drop-state", "C", "--drop-state", "New")
    a.stop()
    assert states(a) == {"A": "A"}


def test_states_change_places(app):
    a = app(args=["state=A", "state=B"]).start()
    worker_files(a, ["A", "B"])
    a.stop()
    a.start("--rename-state", "A=B", "--rename-state", "B=A")
    a.stop()
    assert states(a) == {"A": "B", "B": "A"}


def test_interrupted_rename_is_completed(app):
    a = app(args=["state=A"]).start()
    worker_files(a, ["A"])
    a.stop()
    # One file cannot be opened: the first is renamed, the second is not.
    hidden = a.state + "/worker-1.g0.sqlite"
    os.rename(hidden, hidden + ".away")
    a.configure(args=["state=B"])
    a.launch("--rename-state", "A=B")
    assert a.wait_exit() in (100, 111)
    assert states(a, 0) == {"B": "A"}
    os.rename(hidden + ".away", hidden)
    a.start()
    assert states(a, 0) == states(a, 1) == {"B": "A"}
    a.stop()


def test_rename_needs_a_clean_stop(app):
    a = app(args=["state=A"]).start()
    a.kill()
    a.configure(args=["state=B"])
    a.fails(100, "need a clean stop", options=["--rename-state", "A=B"])
    a.fails(100, 'state of step "A"')


def test_partitions_are_fixed(app):
    a = app().start()
    a.stop()
    a.configure(partitions=64)
    a.fails(100, "partitions = 64", "256")
    a.configure(partitions=256)
    a.start()
    a.stop()


def test_other_number_after_a_clean_stop(app):
    a = app(workers=2).start()
    worker_files(a, ["A"])
    a.stop()
    a.configure(workers=3)
    a.start()
    assert "respread old=2 new=3 generation=0" in a.diary(2)
    assert a.status()["generation"] == 1
    assert len(a.status()["workers"]) == 3
    assert "start flags 0 generation 1" in a.diary(2)
    assert not any(".g0." in name for name in os.listdir(a.state))
    a.stop()
    a.configure(workers=1)
    a.order("respread", "fatal 100 worker 1 was not stopped cleanly")
    a.fails(100, "not stopped cleanly")
    a.revoke("respread")
    a.start()
    assert a.status()["generation"] == 2
    a.stop()


def test_other_number_after_a_kill(app):
    a = app(workers=2).start()
    a.kill()
    a.configure(workers=4)
    a.start()
    log = a.log()
    assert "recovering with its number of workers first" in log
    assert len(re.findall("application is running", log)) == 1
    assert a.status()["generation"] == 1
    assert len(a.status()["workers"]) == 4
    assert "finish" in a.diary(0) and "finish" in a.diary(1)
    a.stop()


def test_durability_none_needs_no_state(app):
    a = app(workers=2, durability="none", args=["state=A"]).start()
    a.kill()
    a.configure(workers=3, args=["state=B"])
    a.start()
    assert len(a.status()["workers"]) == 3
    a.stop()


# -- the supervisor dies -------------------------------------------------------------------

def test_supervisor_killed(app):
    port = free_port()
    a = app(args=["source=127.0.0.1:%d" % port]).start()
    pids = [a.pid(0), a.pid(1)]
    for _ in range(3):
        a.kill()
        a.start()
        assert not any(map(alive, pids))
        pids = [a.pid(0), a.pid(1)]
    a.stop()


def test_leftovers_are_killed(app):
    """A worker that cannot notice, and an orphan of one."""
    port = free_port()
    a = app(workers=1, args=["source=127.0.0.1:%d" % port]).start()
    pid = a.pid(0)
    assert Client(port).ask("!orphan") == "done"
    orphan = int(a.wait_diary(0, r"orphan (\d+)").group(1))
    os.kill(pid, signal.SIGSTOP)
    a.kill()
    assert alive(pid) and alive(orphan)
    a.start()
    assert not alive(pid) and not alive(orphan)
    assert "earlier supervisor" in a.log()
    a.stop()


def test_recorded_pid_of_somebody_else_is_spared(app):
    import subprocess
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    a = app().start()
    a.kill()
    with open(a.run + "/workers.pids", "w") as file:
        file.write("%d 12345\n" % other.pid)
    a.start()
    assert other.poll() is None
    other.kill()
    other.wait()
    a.stop()


# -- the operator -------------------------------------------------------------------------------

def test_checkpoint(app):
    a = app(workers=3).start()
    assert a.ctl("checkpoint") == {"workers": 3}
    for i in range(3):
        a.wait_diary(i, "checkpoint 1")
    assert a.ctl("checkpoint") == {"workers": 3}
    a.stop()


def test_checkpoint_over_a_death(app):
    a = app(workers=2).start()
    pid = a.pid(1)
    os.kill(pid, signal.SIGSTOP)
    import threading
    answer = []
    thread = threading.Thread(target=lambda: answer.append(
        a.ctl("checkpoint")))
    thread.start()
    a.wait_diary(0, "checkpoint")
    os.kill(pid, signal.SIGKILL)
    thread.join(30)
    assert answer == [{"workers": 2}]
    a.stop()


def test_state_get(app):
    a = app(workers=3).start()
    assert a.ctl("state", "get", "Count", "word")["value"] == "42"
    owners = {a.ctl("state", "get", "Count", "%04d" % i)["worker"]
              for i in range(30)}
    assert owners == {0, 1, 2}
    assert "no state" in a.ctl("state", "get", "Count", "other", code=1)
    assert "no such step" in a.ctl("state", "get", "No", "word", code=1)
    a.stop()


def test_usage_of_ctl(app):
    a = app().start()
    for wrong in (["nothing"], ["state"], ["state", "get", "x"],
                  ["status", "x"], []):
        assert "usage" in a.ctl(*wrong, code=2)
    assert a.ctl("version")["protocol"] == 1
    import subprocess
    from conftest import find
    plain = subprocess.run([find("wallarooctl"), "-c", a.conf, "status"],
                           stdout=subprocess.PIPE).stdout.decode()
    assert "fake is running" in plain and "WORKER" in plain
    a.stop()


def test_control_socket_survives_garbage(app):
    a = app().start()
    for data in (b"\0\0\0\5hello", b"\xff" * 100, b"\0\0\0", b""):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(a.state + "/control.sock")
            sock.sendall(data)
    socks = []
    for _ in range(40):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(a.state + "/control.sock")
        socks.append(sock)
    assert a.status()["state"] == "running"
    for sock in socks:
        sock.close()
    a.stop()


def test_control_socket_at_a_long_path(app):
    a = app()
    deep = os.path.join(a.dir, "d" * 100, "e" * 60)
    os.makedirs(deep)
    a.configure(state_directory=deep)
    a.start()
    assert os.path.exists(deep + "/control.sock")
    assert a.status()["state"] == "running"
    a.stop()
