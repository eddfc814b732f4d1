"""The fault matrix: every fault point that the program lists, with every
kind of fault that can act there, over and over, against an exact ledger.

The points come from the program, so a new one is tested as it is declared.
How a point is reached is found out by looking: each stage of a session
(traffic, recovery, a restart) is run once without a fault, and the page says
which points were passed.  A point that is not reached is a failure.
"""

import argparse
import ctypes
import json
import multiprocessing
import multiprocessing.managers
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

from stream import LIMIT, MemoryLimit, Session	# first: it finds harness
import harness
import specialbuild
from faults import ACTED, ANY, PLANS, Listed
from harness import process_alive, processes_marked, wait_for

WORKERS = (1, 3)
JOBS = 3 * (os.cpu_count() or 2)	# at a time: most of a play is waiting
CELLS_PER_SESSION = 25
# At any point of a worker; at any of the supervisor.
OF_WORKERS = ("segv", "exit1", "exit0", "oom", "hang", "parent", "both",
              "clock")
OF_SUPERVISOR = ("segv", "exit1", "oom", "hang", "clock")
# With durability = machine where others than it do not act: a few kills, and
# all that can happen to a disk.
DISK = ("enospc", "eio", "efsync")
MACHINE_KILLS = 3
# At these three a process is stopped for a while, too: a worker alone or with
# the supervisor, the supervisor alone; a minute in the kinds with a number.
STOPPED_AT = ("client_read_after", "release_before", "store_commit_before")
SUPERVISOR_STOPPED_AT = ("hand_over_before", "child_receive_after",
                         "catalog_write_before")
STOPPED = ("stop", "freeze", "stop60", "freeze60")
LONG_STOPS = 2				# seeds, at most
# At a proxy before clients or receivers, while a process stands at a point;
# or instead of that, while a worker is killed at one of these.
NETWORK = ("reset", "silent", "slow")
SIDES = ("clients", "receivers")
NETWORK_KILLS = ("client_read_after", "apply_after", "release_after",
                 "frame_put_after", "sink_send_after", "publish_before")
# A file that is put back to what it was; the start is refused.
OLDER = ("sqlite", "catalog", "journal", "outbox", "worker")
# What is not tried, and why; the table says it.
LEFT_OUT = {
    ("writer", "hang"): "a disk that does not answer is waited for",
    ("syncer", "hang"): "a disk that does not answer is waited for",
    ("supervisor", "exit0"): "it is how a stop ends, which nobody undoes",
    ("supervisor", "parent, both, freeze"): "it is the parent",
}
LEFT_OUT.update({
    ("tool", kind): "who describes or spreads and dies by its own doing is "
    "not started again: exit code 100" for kind in (
        "segv", "exit1", "exit0", "hang")})
# Stages of a session, and how often one is chosen where it will do: most are
# longer than the first.
STAGES = {"traffic": 8, "recovery": 4, "spare": 1, "operate": 2,
          "poison": 1, "succession": 1, "restart": 2, "rotate": 1, "resize": 0.2}
MACHINE_STAGES = {"sick": 2, "power": 2}
# Applications of their own that read a file, or standard input, to its end.
SOURCES = ("file", "stdin")
LAST = PLANS - 1			# the plan of the prelude
PRELUDE = "client_read_after"		# dies here so that others recover
SUCCESSION = "child_receive_after"	# so that a supervisor follows another
SICKNESS = "sync_file_before"		# fails, so that files are renewed


class Cell:
    """One fault, or a pair, from a seed."""

    def __init__(self, workers, kind, points, seed, machine=False):
        self.workers = workers
        self.machine = machine		# durability = machine
        self.kind = kind
        self.points = points
        self.seed = seed

    def id(self):
        return "%s w%d%s s%d %s" % (
            self.kind, self.workers, "m" if self.machine else "", self.seed,
            "+".join(self.points))

    def row(self):
        """Of the table."""
        name = self.points[0] if len(self.points) == 1 else "pairs"
        return name + " m" if self.machine else name


def kinds_of(point):
    """Besides kill."""
    all_kinds = OF_SUPERVISOR if point.process == "supervisor" \
        else OF_WORKERS
    kinds = [kind for kind in all_kinds
             if (point.process, kind) not in LEFT_OUT]
    if point.name in STOPPED_AT:
        kinds += STOPPED
    elif point.name in SUPERVISOR_STOPPED_AT:
        kinds.append("stop")
    return kinds + point.kinds


def kinds_of_machine(point):
    """The same with durability = machine."""
    return kinds_of(point) if point.machine else [
        kind for kind in point.kinds if kind in DISK]


def fits(point, workers, machine):
    return (workers > 1 or not point.peers) and (machine or not point.machine)


def pairs_of(listed, rng, workers, machine):
    """Two points; not those that only an application passes that reads
    something else, because the other may need clients."""
    return rng.sample([point.name for point in sorted(
        listed.here(), key=lambda point: point.name)
        if fits(point, workers, machine) and not point.name.startswith(
            ("file_read_", "stdin_take_", "dir_make_"))], 2)


def cells_of(point, workers, seeds, other_seeds):
    """All of one point."""
    cells = []
    if not point.machine:
        cells += [Cell(workers, "kill", [point.name], seed)
                  for seed in range(seeds)]
        cells += [Cell(workers, kind, [point.name], seed)
                  for kind in kinds_of(point) for seed in range(
                      min(other_seeds, LONG_STOPS) if kind.endswith("60")
                      else other_seeds)]
    cells += [Cell(workers, "kill", [point.name], seed, True)
              for seed in range(seeds if point.machine
                                else min(seeds, MACHINE_KILLS))]
    cells += [Cell(workers, kind, [point.name], seed, True)
              for kind in kinds_of_machine(point)
              for seed in range(other_seeds)]
    return cells


def all_cells(listed, seeds=20, other_seeds=3, pairs=200):
    """The whole matrix, in an order that mixes everything."""
    cells = []
    for point in listed.here():
        for workers in WORKERS:
            if fits(point, workers, True):
                cells += cells_of(point, workers, seeds, other_seeds)
    cells += [Cell(workers, kind, [side], seed) for workers in WORKERS
              for kind in NETWORK for side in SIDES
              for seed in range(other_seeds)]
    cells += [Cell(workers, "older", [what], seed, machine)
              for workers in WORKERS for what in OLDER
              for machine in (False, True) for seed in range(other_seeds)]
    rng = random.Random(4)
    for seed in range(pairs):
        workers, machine = rng.choice(WORKERS), seed % 4 == 3
        cells.append(Cell(workers, "kill", pairs_of(
            listed, rng, workers, machine), seed, machine))
    return cells


def sample_cells(listed, seed):
    """Each point once with SIGKILL, before or after, and a few of everything
    else."""
    rng = random.Random(seed)
    cells = []
    others = {}
    points = listed.here()
    for pair in zip(points[::2], points[1::2]):
        point = rng.choice(pair)
        cells.append(Cell(3, "kill", [point.name], seed, point.machine))
        for point in pair:
            for kind in kinds_of(point):
                others.setdefault(kind, []).append(point)
    for kind, points in sorted(others.items()):
        if kind in STOPPED:
            continue
        for point in rng.sample(points, min(2, len(points))):
            cells.append(Cell(3, kind, [point.name], seed, point.machine))
    cells += [Cell(3, kind, [side], seed) for kind in NETWORK
              for side in SIDES]
    cells += [Cell(3, "older", [rng.choice(OLDER)], seed, machine)
              for machine in (False, True)]
    cells += [Cell(3, "kill", pairs_of(listed, rng, 3, False), seed + number)
              for number in range(4)]
    return cells


# -- playing ----------------------------------------------------------------

SOURCE_WORDS = 40000


class Failed(AssertionError):
    """A cell that is not clean."""


class Player:
    """Plays cells of one group, many on one session; a session that failed
    is not used again."""

    def __init__(self, listed, profiles, workers, machine, impatient,
                 proxied, seconds):
        self.listed = listed
        self.profiles = profiles	# of all players, by group
        self.workers = workers
        self.machine = machine
        self.settings = {"hang-timeout": 1} if impatient else {}
        self.proxied = proxied
        self.seconds = seconds		# that a process is stopped
        self.session = None
        self.stages = dict(STAGES, **(MACHINE_STAGES if machine else {}))
        self.profile = profiles.get((workers, machine))
        self.played = 0

    def new_session(self, seed, source=None, piped=False):
        return Session(self.listed, self.workers, seed, self.settings,
                       source=source, piped=piped, proxied=self.proxied,
                       machine=self.machine)

    def open(self, seed):
        self.session = self.new_session(seed)
        self.played = 0
        self.session.start()
        # Now its connections are surely there.
        self.session.traffic(3)
        self.session.settle()
        if self.profile is None:
            self.measure()

    def close(self):
        """The end of a session is a check, too."""
        session, self.session = self.session, None
        if session is None:
            return
        failed = True
        try:
            session.end()
            failed = False
        finally:
            session.close(failed)

    def abandon(self, failed=True):
        session, self.session = self.session, None
        if session is not None:
            session.close(failed)

    def measure(self):
        """Which stage passes which points, and how often."""
        self.profile = {}
        for stage in self.stages:
            before = self.session.faults.passed()
            self.stage(stage, [])
            after = self.session.faults.passed()
            self.profile[stage] = {name: after[name] - before[name]
                                   for name in after}
        self.session.check_undisturbed(1)
        for source in SOURCES:
            session = self.source_session(source, 0)
            failed = True
            try:
                session.start()
                session.settle()
                self.profile[source] = session.faults.passed()
                session.end()
                failed = False
            finally:
                session.close(failed)
        self.profiles[self.workers, self.machine] = self.profile

    def source_session(self, source, seed):
        rng = random.Random(seed)
        text = "".join("0.k%d%s" % (rng.randrange(300), rng.choice("  \n"))
                       for _ in range(SOURCE_WORDS))
        return self.new_session(seed, text + "\n", source == "stdin")

    # the stages: each does without a fault what it does with one

    def stage(self, name, plans):
        getattr(self, "do_" + name)(plans)

    def fired(self, plans):
        return all(self.session.faults.state(plan) == ACTED
                   for plan in plans)

    def wait_fired(self, plans, seconds):
        deadline = time.monotonic() + seconds
        while not self.fired(plans) and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.fired(plans)

    def do_traffic(self, plans):
        for _ in range(3):
            self.session.traffic()
            if plans and self.wait_fired(plans, 0.1):
                return
            self.session.settle()
            if plans and self.wait_fired(plans, 0.15):
                return

    def do_recovery(self, plans):
        """A worker dies with bytes that it had not published."""
        self.session.faults.arm(LAST, PRELUDE, "kill")
        self.session.traffic()
        wait_for(lambda: self.fired([LAST]), "a kill at " + PRELUDE, LIMIT)
        self.session.settle()
        self.session.faults.disarm([LAST])

    def do_spare(self, plans):
        """A worker dies when another process waits to take its place."""
        self.session.wait_spare(lambda: plans and self.fired(plans))
        self.do_recovery(plans)

    def do_succession(self, plans):
        """A supervisor dies, the next one gets its descriptors."""
        self.session.faults.arm(LAST, SUCCESSION, "kill")
        self.session.traffic()
        self.session.settle()
        wait_for(lambda: self.fired([LAST]), "a kill at " + SUCCESSION,
                 LIMIT)
        self.session.traffic(5)
        self.session.settle()
        self.session.faults.disarm([LAST])

    def do_operate(self, plans):
        self.session.operate()

    def do_poison(self, plans):
        self.session.poison()

    def do_rotate(self, plans):
        self.session.rotate()

    def do_resize(self, plans):
        self.session.resize()

    def do_sick(self, plans):
        """A sync fails; the next life goes on with copies."""
        self.session.faults.arm(LAST, SICKNESS, "efsync")
        self.session.traffic()
        wait_for(lambda: self.fired([LAST]), "a failure of fsync", LIMIT)
        self.session.settle()
        self.session.faults.disarm([LAST])

    def do_power(self, plans):
        self.session.lose_power()

    def do_restart(self, plans):
        self.session.restart()
        self.session.traffic()
        self.session.settle()

    # one cell

    def play(self, cell):
        rng = random.Random(cell.id())
        if cell.points[0] in SIDES:
            self.play_network(cell, rng)
            return
        if self.profile is None:
            self.profile = self.profiles.get((self.workers, self.machine))
        if self.profile is None:
            self.open(cell.seed)
        stages = [] if cell.kind == "older" else self.stages_of(cell, rng)
        sources = [source for source in SOURCES
                   if self.profile[source].get(cell.points[0])]
        if not stages and sources:
            self.play_source(cell, rng, rng.choice(sources))
            return
        if self.session is None:
            self.open(cell.seed)
        self.played += 1
        session = self.session
        session.limit = LIMIT + self.stop_seconds(cell)
        session.armed = True
        restarts = session.service.restarts
        if cell.kind == "older":
            session.older(cell.points[0])
        else:
            self.do(cell, rng, stages)
        session.settle()
        session.armed = False
        # That it works again is to be seen, too.
        session.traffic(3)
        session.settle()
        session.check_undisturbed(session.service.restarts - restarts +
                                  (cell.kind == "reset"))
        session.faults.disarm()
        if self.played >= CELLS_PER_SESSION:
            self.close()

    def stop_seconds(self, cell):
        return 0 if cell.kind not in STOPPED else \
            60 if cell.kind.endswith("60") else self.seconds

    def stages_of(self, cell, rng):
        """Those that pass it, in random order; where a tool does its work
        only if it is to be killed, see LEFT_OUT."""
        name = cell.points[0]
        stages = {stage: rng.random() ** (1 / weight)
                  for stage, weight in self.stages.items()
                  if self.profile[stage][name]}
        if len(stages) > 1 and ("tool", cell.kind) in LEFT_OUT:
            stages.pop("resize", None)
        return sorted(stages, key=stages.get, reverse=True)

    def do(self, cell, rng, stages):
        plans = list(range(len(cell.points)))
        self.arm(cell, rng, stages)
        warden = Warden(self, cell).start()
        self.reach(cell, plans, stages)
        warden.join()
        self.session.heal()

    def arm(self, cell, rng, stages):
        for plan, name in reversed(list(enumerate(cell.points))):
            some = self.profile[stages[0]][name] if plan == 0 and stages \
                else 1
            self.session.faults.arm(
                plan, name, cell.kind.replace("60", ""),
                count=rng.randint(1, max(1, min(some, 40))),
                after=plan - 1 if plan else ANY, arg=self.arg(cell, rng))

    def arg(self, cell, rng):
        if cell.kind == "clock":
            return rng.choice((-86400, -3600, -1, 1, 3600, 86400))
        if cell.kind != "oom":
            return 0
        if self.session.memory is None:
            self.session.memory = MemoryLimit()
        memory = self.session.memory
        if memory.dir:
            memory.add([self.session.app.process.pid] + processes_marked(
                self.session.app.mark))
        return memory.mib()

    def reach(self, cell, plans, stages):
        """Stage after stage until all plans have fired."""
        more = stages if len(plans) == 1 else list(self.stages)
        for stage in stages[:1] + 3 * more:
            self.stage(stage, plans)
            if self.fired(plans):
                return
        raise Failed("not reached: %s" % ", ".join(
            cell.points[plan] for plan in plans
            if not self.fired([plan])))

    def play_source(self, cell, rng, source):
        """How often a point is passed depends on what is read at once; the
        first time comes always."""
        if self.read_source(cell, rng, source, False):
            left = self.read_source(cell, rng, source, True)
            if left:
                raise Failed("not reached: %s" % ", ".join(left))

    def read_source(self, cell, rng, source, first):
        """An application of its own that reads something to its end; which
        points it did not come to."""
        session = self.source_session(source, cell.seed)
        kept, self.session = self.session, session
        failed = True
        try:
            session.armed = True
            for plan, name in reversed(list(enumerate(cell.points))):
                most = 1 if first else self.profile[source][name] - 1
                session.faults.arm(
                    plan, name, cell.kind, count=rng.randint(1, max(1, most)),
                    after=plan - 1 if plan else ANY,
                    arg=self.arg(cell, rng) if cell.kind != "oom" else 64)
            warden = Warden(self, cell).start()
            session.start()
            session.settle()
            left = [cell.points[plan] for plan in range(len(cell.points))
                    if session.faults.state(plan) != ACTED]
            warden.over = bool(left)
            warden.join()
            session.end()
            failed = False
            return left
        finally:
            self.session = kept
            session.close(failed)

    def play_network(self, cell, rng):
        """The network is bad on one side while a worker is killed."""
        session = self.new_session(cell.seed)
        kept, self.session = self.session, session
        failed = True
        try:
            session.start()
            session.traffic()
            session.settle()
            session.check_undisturbed(0)
            if cell.kind == "reset" and cell.points[0] == "clients":
                # What it had sent and nobody had read is lost with it: any
                # part of its words, from the first on, may be counted.
                for client in session.main:
                    client.send(200)
            session.harm(cell.kind, cell.points[0], rng)
            session.faults.arm(0, rng.choice(NETWORK_KILLS), "kill",
                               count=rng.randint(1, 4))
            for _ in range(20):
                session.traffic()
                if self.wait_fired([0], 0.2):
                    break
            for proxy in session.proxies:
                proxy.silent.clear()
            wait_for(lambda: self.fired([0]), "the kill", LIMIT)
            session.settle()
            session.armed = False
            session.check_undisturbed(cell.kind == "reset")
            session.end()
            failed = False
        finally:
            self.session = kept
            session.close(failed)


class Warden:
    """Lets what was stopped go on, after it was seen that nobody takes its
    place meanwhile."""

    def __init__(self, player, cell):
        self.player = player
        self.session = player.session
        self.cell = cell
        self.hangs = cell.kind == "hang" and player.listed.points[
            cell.points[0]].process == "supervisor"
        self.thread = None
        self.failure = None
        self.over = False

    def start(self):
        if self.cell.kind in STOPPED + NETWORK or self.hangs:
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()
        return self

    def run(self):
        try:
            wait_for(lambda: self.over or self.player.fired([0]), "the stop",
                     LIMIT * 3)
            if self.over:
                return
            if self.hangs:
                self.watchdog()
                return
            if self.cell.kind in NETWORK:
                self.harm()
                return
            until = time.monotonic() + self.player.stop_seconds(self.cell)
            if self.cell.kind.startswith("freeze"):
                self.freeze()
            while time.monotonic() < until:
                time.sleep(0.05)
            self.session.signal_all(signal.SIGCONT)
        except Exception as error:	# shown by join()
            self.failure = error

    def harm(self):
        """All stand still, so that nobody sends into what is reset."""
        session, cell = self.session, self.cell
        session.signal_all(signal.SIGSTOP)
        session.harm(cell.kind, SIDES[cell.seed % 2],
                     random.Random(cell.id()))
        session.signal_all(signal.SIGCONT)
        if cell.kind == "silent":
            time.sleep(0.3)
            session.heal()

    def watchdog(self):
        """What systemd does when it does not hear from the supervisor."""
        time.sleep(0.5)
        os.kill(self.session.faults.pid(0), signal.SIGABRT)

    def freeze(self):
        if self.cell.seed % 2:
            self.replace_frozen()
        else:
            self.refuse_second()

    def refuse_second(self):
        """A second supervisor over the frozen one's state."""
        app = self.session.app
        env = app.env()
        env.pop("WALLAROO_FAULTS")
        done = subprocess.run(
            [harness.program("wallaroo-supervisord"), "-c", app.conf_path],
            env=env, cwd="/", timeout=LIMIT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != harness.EXIT_PERMANENT \
                or b"in use by another supervisor" not in done.stdout:
            raise Failed("a second supervisor was not refused: %d %s" % (
                done.returncode, done.stdout.decode()[-1000:]))

    def replace_frozen(self):
        """The frozen supervisor is killed and started again, and nobody
        but its own care ends the frozen worker."""
        service = self.session.service
        frozen = self.session.faults.pid(0)
        service.sweeps = False
        try:
            before = service.restarts
            os.kill(self.session.app.process.pid, signal.SIGKILL)
            wait_for(lambda: service.restarts > before and
                     service.running(), "the next supervisor", LIMIT)
            if process_alive(frozen):
                raise Failed("two owners: the frozen worker %d is still "
                             "there" % frozen)
        finally:
            service.sweeps = True

    def join(self):
        if self.thread is not None:
            self.thread.join()
            if self.failure:
                raise self.failure


# -- running many -----------------------------------------------------------

def group_of(cell):
    """Cells of one group can share a session."""
    return cell.workers, cell.machine, cell.kind == "hang" or (
        cell.kind in ("stop", "stop60") and cell.seed % 2 == 1), \
        cell.kind in NETWORK


def end_by(number, frame):
    raise SystemExit(128 + number)


def end_with_runner():
    """Whoever interrupts the runner ends the programs that are under test,
    too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_by)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)	# PR_SET_PDEATHSIG


def work(program, tasks, results, profiles, seconds):
    """A process of the runner."""
    end_with_runner()
    listed = Listed(program)
    players = {}
    try:
        work_on(listed, players, tasks, results, profiles, seconds)
    except SystemExit:
        for player in players.values():
            player.abandon(False)


def work_on(listed, players, tasks, results, profiles, seconds):
    while True:
        task = tasks.get()
        if task is None:
            return
        group, cells = task
        if group not in players:
            players[group] = Player(listed, profiles, *group, seconds)
        player = players[group]
        for cell in cells:
            began = time.monotonic()
            why = None
            try:
                player.play(cell)
            except Exception as error:
                why = "%s: %s" % (type(error).__name__, error)
                if not isinstance(error, AssertionError):
                    why += "\n" + traceback.format_exc()
                player.abandon()
            results.put((cell, why, time.monotonic() - began))
        try:
            player.close()
        except Exception as error:
            player.abandon()
            results.put((cells[-1], "at the end of the session: %s" % error,
                         0))


class Runner:
    def __init__(self, cells, jobs=JOBS, state=None, revision="",
                 any_revision=False, seconds=10, say=print):
        self.cells = cells
        self.jobs = jobs
        self.state = state
        self.revision = revision
        self.any_revision = any_revision
        self.others = 0			# played at another revision
        self.seconds = seconds
        self.say = say
        self.done = {}			# id -> None or why it failed
        self.took = 0.0
        self.program = harness.program("wallaroo-worker")

    def load(self):
        """What an interrupted run of this revision has done.  A line that is
        torn was being written when that run ended."""
        wanted = {cell.id() for cell in self.cells}
        for row in read_rows(self.state):
            same = row["revision"] == self.revision
            if row["id"] not in wanted or not (same or self.any_revision):
                continue
            self.took += row["seconds"]
            if row["why"] is None:
                self.others += not same and row["id"] not in self.done
                self.done[row["id"]] = None
            else:
                self.done.pop(row["id"], None)	# is played again
        if self.state:			# behind a torn line
            with open(self.state, "a") as file:
                file.write("\n")

    def save(self, cell, why, seconds):
        if self.state:
            with open(self.state, "a") as file:
                file.write(json.dumps({
                    "id": cell.id(), "why": why, "seconds": round(seconds, 2),
                    "revision": self.revision}) + "\n")

    def tasks(self):
        """Groups cut into what one session takes, in mixed order."""
        groups = {}
        for cell in self.cells:
            if cell.id() not in self.done:
                groups.setdefault(group_of(cell), []).append(cell)
        rng = random.Random(1)
        tasks = []
        for group, cells in groups.items():
            rng.shuffle(cells)
            tasks += [(group, cells[at:at + CELLS_PER_SESSION])
                      for at in range(0, len(cells), CELLS_PER_SESSION)]
        rng.shuffle(tasks)
        return tasks

    def run(self, limit=None):
        """limit: seconds after which no more is begun."""
        self.load()
        tasks = self.tasks()
        left = sum(len(cells) for _, cells in tasks)
        queue, results = multiprocessing.Queue(), multiprocessing.Queue()
        manager = multiprocessing.managers.SyncManager()
        manager.start(end_with_runner)
        profiles = manager.dict()
        workers = [multiprocessing.Process(target=work, args=(
            self.program, queue, results, profiles, self.seconds))
            for _ in range(self.jobs)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + limit if limit else None
        given = 0
        for _ in range(min(2 * self.jobs, len(tasks))):
            given += len(tasks[0][1])
            queue.put(tasks.pop(0))
        try:
            while given > 0:
                given -= self.take(results)
                left -= 1
                if given < CELLS_PER_SESSION * self.jobs and tasks and (
                        deadline is None or time.monotonic() < deadline):
                    given += len(tasks[0][1])
                    queue.put(tasks.pop(0))
            for _ in workers:
                queue.put(None)
            for worker in workers:
                worker.join()
            while not results.empty():
                self.take(results)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(LIMIT)
            manager.shutdown()

    def take(self, results):
        """1 for a cell; what a session says at its end is none."""
        cell, why, seconds = results.get()
        extra = cell.id() in self.done and why is not None
        if why is not None:
            self.say("FAILED %s: %s" % (cell.id(), why))
            self.done[cell.id()] = why
        else:
            self.done.setdefault(cell.id(), None)
        self.took += seconds
        self.save(cell, why, seconds)
        return 0 if extra else 1

    def failures(self):
        return {name: why for name, why in self.done.items()
                if why is not None}

    def table(self):
        """Points by kinds: how many were clean, of how many."""
        listed = Listed(self.program)
        counts = {}
        for cell in self.cells:
            if cell.id() not in self.done:
                continue
            clean, tried = counts.get((cell.row(), cell.kind), (0, 0))
            counts[cell.row(), cell.kind] = (
                clean + (self.done[cell.id()] is None), tried + 1)
        kinds = [kind for kind in [*listed.kinds, "stop60", "freeze60",
                                   "older"]
                 if any(key[1] == kind for key in counts)]
        wide = [max(len(kind), 5) for kind in kinds]
        lines = ["%-26s%s" % ("", " ".join(
            kind.rjust(width) for kind, width in zip(kinds, wide)))]
        points = [point.name for point in listed.here()]
        for name in [*points, "pairs", *SIDES, *OLDER]:
            for row in (name, name + " m"):
                shown = ["%d/%d" % counts[row, kind] if (row, kind) in counts
                         else "-" for kind in kinds]
                if any(text != "-" for text in shown):
                    lines.append("%-26s%s" % (row, " ".join(
                        text.rjust(width)
                        for text, width in zip(shown, wide))))
        lines.append("m: with durability = machine")
        for (process, kind), why in sorted(LEFT_OUT.items()):
            lines.append("not tried: %s in a %s: %s" % (kind, process, why))
        return lines


def read_rows(path):
    """Whole lines of a state."""
    try:
        with open(path) as file:
            lines = file.readlines()
    except (OSError, TypeError):
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"id", "why", "seconds",
                                      "revision"} <= set(row):
            yield row


def revision():
    try:
        done = subprocess.run(
            ["git", "-C", harness.SOURCE_TREE, "describe", "--always",
             "--dirty", "--abbrev=12"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return "unknown"  # a bare system has no git
    return done.stdout.decode().strip() or "unknown"


def cell_of(text):
    """The cell that has this id."""
    kind, workers, seed, points = text.split()
    return Cell(int(workers[1:].rstrip("m")), kind, points.split("+"),
                int(seed[1:]), workers.endswith("m"))


def options_of(arguments):
    parser = argparse.ArgumentParser(
        description="Play faults at the fault points of the programs.")
    add = parser.add_argument
    add("--sample", action="store_true",
        help="each point once, and a few other faults")
    add("--seed", type=int, default=0, help="of the sample")
    add("--cell", action="append", help="only this one, as a failure "
        "names it: \"kill w3 s7 publish_after\"")
    add("--only", default="", help="those with this in their name")
    add("--seeds", type=int, default=20, help="of a kill")
    add("--other-seeds", type=int, default=3, help="of another fault")
    add("--pairs", type=int, default=200)
    add("--jobs", type=int, default=JOBS, help="sessions at a time")
    add("--minutes", type=float, help="begin no more after these")
    add("--stop-seconds", type=float, help="how long processes are stopped "
        "[10; a sample 2]")
    add("--state", help="a file: what it says was played is not again")
    add("--any-revision", action="store_true",
        help="nor what was played at another revision")
    add("--build", help="a directory to build the programs in")
    add("--results", help="append the table to this file")
    return parser.parse_args(arguments)


def chosen(options, listed):
    if options.cell:
        return [cell_of(text) for text in options.cell]
    if options.sample:
        cells = sample_cells(listed, options.seed)
    else:
        cells = all_cells(listed, options.seeds, options.other_seeds,
                          options.pairs)
    return [cell for cell in cells if options.only in cell.id()]


def main(arguments):
    options = options_of(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_by)
    if options.build:
        os.makedirs(options.build, exist_ok=True)
        os.environ.pop("WALLAROO_PROGRAMS", None)
        os.environ["WALLAROO_BUILD"] = specialbuild.make(options.build)
    listed = Listed(harness.program("wallaroo-worker"))
    cells = chosen(options, listed)
    if not cells:
        sys.exit("no cell matches %r" % options.only)
    seconds = options.stop_seconds or (2 if options.sample else 10)
    runner = Runner(cells, options.jobs, options.state, revision(),
                    options.any_revision, seconds)
    began = time.monotonic()
    runner.run(options.minutes and options.minutes * 60)
    bad = runner.failures()
    lines = runner.table() + [
        "failed: %s: %s" % (name, why.splitlines()[0])
        for name, why in sorted(bad.items())] + [
            "%d of them at another revision" % runner.others
        ] * (runner.others > 0)
    last = "%d of %d faults played, %d failed, %.0f seconds of play" % (
        len(runner.done), len(cells), len(bad), runner.took)
    if not options.cell:
        print("\n".join(lines))
    print("%s (%.0f here)%s" % (last, time.monotonic() - began, "; seed %d"
                                % options.seed if options.sample else ""))
    if options.results and not (options.cell or options.only
                                or options.sample):
        with open(options.results, "a") as file:
            file.write("%s  matrix  %s  %s\n" % (
                time.strftime("%Y-%m-%d"), runner.revision, last))
            file.writelines("    %s\n" % line for line in lines)
    sys.exit(1 if bad or len(runner.done) < len(cells) else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
