"""Spares, with workers that import nothing: who takes whose place, and that
nothing a spare does is a worker's fault."""

import os
import signal

import pytest

from conftest import alive, wait_for

SPARE = 99		# its diary's number


def wait_spares(app, number=1):
    wait_for(lambda: app.status()["spares"] == number,
             "%d spares\n%s" % (number, app.log()))


def prepared(app):
    """Processes that were a spare, in the order in which they were ready."""
    with open(os.path.join(app.fake, "diary-%d" % SPARE)) as file:
        return [int(line.split()[0]) for line in file
                if line.split()[1] == "prepared"]


def kill(app, worker):
    pid = app.pid(worker)
    os.kill(pid, signal.SIGKILL)
    app.wait_running(pid)
    return app.pid(worker)


def test_takes_a_workers_place(app):
    sup = app(spares=1).start()
    wait_spares(sup)
    spare, = prepared(sup)
    assert spare not in (sup.pid(0), sup.pid(1))
    assert kill(sup, 1) == spare
    assert "adopted" in sup.diary(1, spare)
    assert sup.worker(1)["restarts"] == 1
    sup.wait_log(r"worker starts worker=1 pid=%d life=2 spare=1" % spare)
    wait_spares(sup)			# the next one
    assert kill(sup, 0) == prepared(sup)[1] != spare
    wait_spares(sup)
    sup.stop()
    assert not sup.processes()


def test_more_of_them(app):
    sup = app(spares=3).start()
    wait_spares(sup, 3)
    spares = set(prepared(sup))
    old = {sup.pid(0), sup.pid(1)}
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    sup.wait_running(*old)
    assert {sup.pid(0), sup.pid(1)} < spares
    wait_spares(sup, 3)
    sup.stop()


def test_none(app):
    sup = app(spares=0).start()
    kill(sup, 0)
    assert sup.status()["spares"] == 0
    sup.stop()
    assert sup.diary(SPARE) == []


def test_one_that_dies_is_replaced(app):
    sup = app(spares=1).start()
    wait_spares(sup)
    first, = prepared(sup)
    os.kill(first, signal.SIGKILL)
    sup.wait_log(r"a spare died pid=%d how=\"signal 9" % first)
    sup.wait_log("there is no spare, another one is tried in 1 seconds")
    wait_for(lambda: len(prepared(sup)) == 2, "the next spare")
    wait_spares(sup)
    assert [w["restarts"] for w in sup.status()["workers"]] == [0, 0]
    sup.stop()


@pytest.mark.parametrize("end, said", [
    ("segv", ""), ("fatal 100 ImportError: no", ": ImportErr"),
], ids=["signal", "error"])
def test_one_that_cannot_be_prepared(app, end, said):
    """Later and later; meanwhile workers are started from the beginning."""
    sup = app(spares=1)
    sup.order("spare", end)
    sup.start()
    sup.wait_log("another one is tried in 1 seconds" + said)
    sup.wait_log("another one is tried in 2 seconds" + said)
    new = kill(sup, 0)
    assert "adopted" not in sup.diary(0, new)
    assert sup.worker(0)["restarts"] == 1
    sup.revoke("spare")
    wait_spares(sup)
    spare = prepared(sup)[-1]
    assert kill(sup, 0) == spare
    sup.stop()


@pytest.mark.parametrize("end", ["exit 111", "segv"])
def test_one_that_dies_as_it_takes_over(app, end):
    """It counts for nothing, and the next process is a new one."""
    sup = app(spares=1, restart_limit=1)
    sup.order("adopted", end)
    sup.start()
    wait_spares(sup)
    spare, = prepared(sup)
    new = kill(sup, 0)
    assert new != spare and not alive(spare)
    assert sup.worker(0)["restarts"] == 2
    wait_spares(sup)
    sup.stop()


def test_restart_takes_none(app):
    sup = app(spares=1).start()
    wait_spares(sup)
    spare, = prepared(sup)
    old = sup.pid(0)
    sup.ctl("restart", "0")
    sup.wait_running(old)
    assert sup.pid(0) != spare
    wait_spares(sup)
    assert prepared(sup) == [spare]
    assert kill(sup, 0) == spare
    sup.stop()


def test_the_supervisor_dies(app):
    sup = app(spares=1).start()
    wait_spares(sup)
    spare, = prepared(sup)
    sup.kill()
    sup.start()
    assert not alive(spare)
    wait_spares(sup)
    sup.stop()


def test_failure_of_the_application(app):
    """No spare is left behind."""
    sup = app(spares=2)
    sup.start()
    wait_spares(sup, 2)
    sup.order("open-0", "fatal 100 it is over")
    os.kill(sup.pid(0), signal.SIGKILL)
    sup.wait_exit(100)
    wait_for(lambda: not sup.processes(), "the end of all processes")
