"""Under systemd, or what stands in for it: no connection closes when the
supervisor is killed; the watchdog is fed; the unit passes its checks."""

import os
import subprocess
import time

import pytest

import apps
import harness
import oracle
from fdstore import Systemd
from harness import LEVEL, SOURCE_TREE
from killer import Killer
from test_kill import Load


@pytest.fixture
def service(cluster, receiver, opened):
    def make(workers=2, **more):
        sink = receiver()
        port = harness.free_port()
        app = cluster(apps.WORD_COUNT, workers=workers,
                      args=apps.word_count_args(port, sink.port))
        return app, opened(Systemd(app, **more)), port, sink
    return make


def test_supervisor_killed_under_load(service, feeder, rng, report):
    """20 times; clients and receivers notice nothing."""
    kills = 4 if LEVEL == "check" else 20
    app, systemd, port, sink = service(workers=2)
    systemd.start()
    load = Load(feeder, port, 3, rng.randrange(1 << 16), rate=2000)
    for number in range(kills):
        time.sleep(rng.uniform(0, 0.5))
        if number % 3 == 2:
            app.wait_running()
            Killer(app).kill_random()
        systemd.kill()
        systemd.start(wait=rng.random() < 0.7)
    systemd.wait_ready()
    app.wait_running()
    words = load.end()
    sink.wait_lines(len(words))
    assert all(client.state() == "open" for client in load.clients)
    assert sink.undisturbed(2)
    assert not systemd.refused, systemd.refused[:3]
    names = systemd.names()
    assert sum(name.startswith("conn.") for name in names) == 3, names
    assert sum(name.startswith("sink.") for name in names) == 2, names
    systemd.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
    report("%d kills of the supervisor, %d words" % (kills, len(words)))


@pytest.mark.level("all")
def test_client_that_ended_meanwhile(service, feeder):
    """A half-closed and a reset client, whose bytes were not yet read when
    the supervisor died: the store keeps them, nothing is lost."""
    import signal
    app, systemd, port, sink = service(workers=1)
    systemd.start()
    clients = [feeder(port) for _ in range(2)]
    for client in clients:
        client.send_frames([b"first words"])
    sink.wait_lines(4)
    pid = app.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    for client in clients:
        client.send_frames([b"last words"])
        client.wait_acknowledged()
    clients[0].half_close()
    clients[1].reset()
    systemd.kill()
    systemd.start()
    sink.wait_lines(8)
    systemd.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(),
                             "first words first words last words last words"
                             .split())


def test_store_follows_connections(service, feeder):
    """Closed connections leave the store."""
    app, systemd, port, sink = service()
    systemd.start()
    clients = [feeder(port) for _ in range(4)]
    for client in clients:
        client.send_frames([b"word"])
    sink.wait_lines(4)
    harness.wait_for(lambda: sum(
        name.startswith("conn.") for name in systemd.names()) == 4,
        "4 connections in the store")
    for client in clients[:3]:
        client.half_close()
        client.wait_closed()
    harness.wait_for(lambda: sum(
        name.startswith("conn.") for name in systemd.names()) == 1,
        "1 connection in the store")
    systemd.stop()


def test_watchdog_is_fed(service):
    app, systemd, port, sink = service(watchdog=0.6)
    systemd.start()
    pid = app.process.pid
    harness.wait_for(lambda: len(systemd.gaps(pid)) >= 5,
                     "messages for the watchdog")
    assert max(systemd.gaps(pid)) < 0.6, systemd.gaps(pid)
    systemd.stop()
    with systemd.lock:
        said = [fields for _, _, fields in systemd.messages]
    assert any(fields.get("STOPPING") == "1" for fields in said)


# -- the unit files ---------------------------------------------------------

UNITS = ("wallaroo.service", "wallaroo@.service")


def unit_path(name):
    """The unit as built, whatever subdirectory it was made in."""
    for directory in (os.environ.get("WALLAROO_BUILD", ""),
                      harness.build_dir(), SOURCE_TREE):
        for below in ("supervisor", "packaging", "."):
            path = os.path.join(directory, below, name)
            if os.path.exists(path):
                return path
    raise harness.HarnessError("%s has not been built" % name)


@pytest.mark.parametrize("name", UNITS)
def test_unit_says_what_recovery_needs(name):
    with open(unit_path(name)) as file:
        lines = [line.strip() for line in file]
    for wanted in ("Type=notify", "Restart=on-failure",
                   "RestartPreventExitStatus=100", "KillMode=mixed"):
        assert wanted in lines, wanted
    for key in ("WatchdogSec", "FileDescriptorStoreMax",
                "RuntimeDirectoryPreserve", "StateDirectory",
                "RuntimeDirectory", "LimitNOFILE", "User"):
        assert any(line.startswith(key + "=") for line in lines), key
    assert not any("@" in line and "@" + "SBINDIR" in line.upper()
                   for line in lines)


def need_analyze():
    if harness.have("systemd-analyze"):
        return
    text = "systemd-analyze is missing: apt-get install systemd"
    if LEVEL == "check":
        pytest.skip(text)
    pytest.fail(text)


def installed(tmp_path, name):
    """A copy that systemd-analyze can check here: the program's path is
    that of the build."""
    with open(unit_path(name)) as file:
        text = file.read()
    lines = []
    for line in text.splitlines():
        if line.startswith(("ExecStart=", "ExecReload=", "ExecStop=")):
            key, command = line.split("=", 1)
            words = command.split()
            words[0] = os.path.join(harness.build_dir(),
                                    os.path.basename(words[0]))
            line = key + "=" + " ".join(words)
        if not line.startswith("Documentation="):
            lines.append(line)
    path = tmp_path / name.replace("@", "@one" if False else "@")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_verifies_the_unit(tmp_path, name):
    need_analyze()
    done = subprocess.run(["systemd-analyze", "verify", "--man=no",
                           installed(tmp_path, name)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    complaints = [line for line in done.stdout.decode().splitlines()
                  if "wallaroo" in line]
    assert not complaints, complaints


@pytest.mark.parametrize("name", UNITS)
def test_exposure_is_below_4(tmp_path, name):
    need_analyze()
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes",
                           "--threshold=40", installed(tmp_path, name)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()[-2000:]
