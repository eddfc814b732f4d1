"""The fault matrix: every fault point that the program lists, with every
kind of fault that can act there, over and over, against an exact ledger.

The points come from the program, so a new one is tested as it is declared.
How a point is reached is found out by looking: each stage of a session
(traffic, recovery, a restart) is run once without a fault, and the page says
which points were passed.  A point that is not reached is a failure.
"""

import argparse
import json
import multiprocessing
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
CELLS_PER_SESSION = 25
# Any point of a worker; of the supervisor, which runs no user code, less.
OF_WORKERS = ("segv", "exit1", "exit0", "oom", "hang", "parent", "both",
              "clock")
OF_SUPERVISOR = ("segv",)
# At these three a process is stopped for a while, too.
STOPPED_AT = ("client_read_after", "release_before", "store_commit_before")
STOPPED = ("stop", "freeze")
# At a proxy before clients or receivers, instead of a point, and with a
# worker that is killed at one of these meanwhile.
NETWORK = ("reset", "silent", "slow")
SIDES = ("clients", "receivers")
NETWORK_KILLS = ("client_read_after", "apply_after", "release_after",
                 "frame_put_after", "sink_send_after", "publish_before")
# What is not tried, and why; the table says it.
LEFT_OUT = {
    ("writer", "hang"): "a disk that does not answer is waited for",
}
STAGES = ("traffic", "recovery", "restart")
LAST = PLANS - 1			# the plan of the prelude
PRELUDE = "client_read_after"		# dies here so that others recover


class Cell:
    """One fault, or a pair, from a seed."""

    def __init__(self, workers, kind, points, seed):
        self.workers = workers
        self.kind = kind
        self.points = points
        self.seed = seed

    def id(self):
        return "%s w%d s%d %s" % (self.kind, self.workers, self.seed,
                                  "+".join(self.points))


def kinds_of(point):
    """Besides kill."""
    if point.process == "supervisor":
        kinds = list(OF_SUPERVISOR)
    else:
        kinds = [kind for kind in OF_WORKERS
                 if (point.process, kind) not in LEFT_OUT]
    if point.name in STOPPED_AT:
        kinds += STOPPED
    return kinds + point.kinds


def needs_peers(name):
    return name.startswith(("peer_", "wire_"))


def pairs_of(listed, rng, workers):
    """Two points; not those that only an application passes that reads a
    file, because the other may need clients."""
    return rng.sample([name for name in sorted(listed.points)
                       if not name.startswith("file_read_") and (
                           workers > 1 or not needs_peers(name))], 2)


def all_cells(listed, seeds=20, other_seeds=3, pairs=200):
    """The whole matrix, in an order that mixes everything."""
    cells = []
    for name, point in listed.points.items():
        for workers in WORKERS:
            if workers == 1 and needs_peers(name):
                continue
            cells += [Cell(workers, "kill", [name], seed)
                      for seed in range(seeds)]
            cells += [Cell(workers, kind, [name], seed)
                      for kind in kinds_of(point)
                      for seed in range(other_seeds)]
    cells += [Cell(workers, kind, [side], seed) for workers in WORKERS
              for kind in NETWORK for side in SIDES
              for seed in range(other_seeds)]
    rng = random.Random(4)
    for seed in range(pairs):
        workers = rng.choice(WORKERS)
        cells.append(Cell(workers, "kill", pairs_of(listed, rng, workers),
                          seed))
    return cells


def sample_cells(listed, seed):
    """Each point once with SIGKILL, and a few of everything else."""
    rng = random.Random(seed)
    cells = []
    others = {}
    for name, point in listed.points.items():
        workers = 3 if needs_peers(name) else rng.choice(WORKERS)
        cells.append(Cell(workers, "kill", [name], seed))
        for kind in kinds_of(point):
            others.setdefault(kind, []).append(name)
    for kind, names in sorted(others.items()):
        if kind in STOPPED:
            continue
        for name in rng.sample(names, min(2, len(names))):
            cells.append(Cell(3, kind, [name], seed))
    cells += [Cell(3, kind, [side], seed) for kind in NETWORK
              for side in SIDES]
    cells += [Cell(3, "kill", pairs_of(listed, rng, 3), seed + number)
              for number in range(4)]
    return cells


# -- playing ----------------------------------------------------------------

FILE_WORDS = 40000


class Failed(AssertionError):
    """A cell that is not clean."""


class Player:
    """Plays cells of one group, many on one session; a session that failed
    is not used again."""

    def __init__(self, listed, workers, impatient, seconds):
        self.listed = listed
        self.workers = workers
        self.settings = {"hang-timeout": 1} if impatient else {}
        self.seconds = seconds		# that a process is stopped
        self.session = None
        self.profile = None
        self.played = 0
        self.seed = 0

    def open(self, seed):
        self.session = Session(self.listed, self.workers, seed,
                               self.settings)
        self.session.limit += self.seconds
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

    def abandon(self):
        session, self.session = self.session, None
        if session is not None:
            session.close(True)

    def measure(self):
        """Which stage passes which points, and how often."""
        self.profile = {}
        for stage in STAGES:
            before = self.session.faults.passed()
            self.stage(stage, [])
            after = self.session.faults.passed()
            self.profile[stage] = {name: after[name] - before[name]
                                   for name in after}
        session = file_session(self.listed, self.workers, 0, self.settings)
        failed = True
        try:
            session.start()
            session.settle()
            self.profile["file"] = session.faults.passed()
            session.end()
            failed = False
        finally:
            session.close(failed)

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

    def do_restart(self, plans):
        self.session.restart()
        self.session.traffic()
        self.session.settle()

    # one cell

    def play(self, cell):
        rng = random.Random(cell.id())
        if cell.kind in NETWORK:
            self.play_network(cell, rng)
            return
        if self.profile is None:
            self.open(cell.seed)
        stages = self.stages_of(cell.points[0], rng)
        if not stages and self.profile["file"][cell.points[0]]:
            self.play_file(cell, rng)
            return
        if self.session is None:
            self.open(cell.seed)
        self.played += 1
        session = self.session
        session.armed = True
        restarts = session.service.restarts
        self.do(cell, rng, stages)
        session.settle()
        session.armed = False
        # That it works again is to be seen, too.
        session.traffic(3)
        session.settle()
        session.check_undisturbed(session.service.restarts - restarts)
        session.faults.disarm()
        if self.played >= CELLS_PER_SESSION:
            self.close()

    def stages_of(self, name, rng):
        """Those that pass it, in random order."""
        stages = [stage for stage in STAGES if self.profile[stage][name]]
        rng.shuffle(stages)
        return stages

    def do(self, cell, rng, stages):
        plans = list(range(len(cell.points)))
        self.arm(cell, rng, stages)
        warden = Warden(self, cell).start()
        self.reach(cell, plans, stages)
        warden.join()

    def arm(self, cell, rng, stages):
        for plan, name in reversed(list(enumerate(cell.points))):
            some = self.profile[stages[0]][name] if plan == 0 and stages \
                else 1
            self.session.faults.arm(
                plan, name, cell.kind,
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
        for stage in (stages or list(STAGES))[:1] + 2 * list(STAGES):
            self.stage(stage, plans)
            if self.fired(plans):
                return
        raise Failed("not reached: %s" % ", ".join(
            cell.points[plan] for plan in plans
            if not self.fired([plan])))

    def play_file(self, cell, rng):
        """An application of its own that reads a file to its end."""
        session = file_session(self.listed, self.workers, cell.seed,
                               self.settings)
        kept, self.session = self.session, session
        failed = True
        try:
            session.start_begin = time.monotonic()
            session.armed = True
            for plan, name in reversed(list(enumerate(cell.points))):
                session.faults.arm(
                    plan, name, cell.kind, count=rng.randint(
                        1, max(1, self.profile["file"][name] - 1)),
                    after=plan - 1 if plan else ANY,
                    arg=self.arg(cell, rng) if cell.kind != "oom" else 64)
            session.start()
            session.settle()
            for plan in range(len(cell.points)):
                if session.faults.state(plan) != ACTED:
                    raise Failed("not reached: " + cell.points[plan])
            session.end()
            failed = False
        finally:
            self.session = kept
            session.close(failed)


    def play_network(self, cell, rng):
        """The network is bad on one side while a worker is killed."""
        session = Session(self.listed, self.workers, cell.seed,
                          self.settings, proxied=True)
        side = session.proxies[cell.points[0] == "receivers"]
        kept, self.session = self.session, session
        failed = True
        try:
            session.start()
            session.traffic()
            session.settle()
            session.check_undisturbed(0)
            self.harm(cell, side, rng)
            session.faults.arm(0, rng.choice(NETWORK_KILLS), "kill",
                               count=rng.randint(1, 4))
            for _ in range(20):
                session.traffic()
                if self.wait_fired([0], 0.2):
                    break
            side.silent.clear()
            wait_for(lambda: self.fired([0]), "the kill", LIMIT)
            session.settle()
            session.armed = False
            session.check_undisturbed(cell.kind == "reset")
            session.end()
            failed = False
        finally:
            self.session = kept
            session.close(failed)

    def harm(self, cell, side, rng):
        session = self.session
        if cell.kind == "slow":
            side.delay = rng.choice((0.01, 0.05, 0.2))
        elif cell.kind == "silent":
            side.silent.set()
        elif cell.points[0] == "clients":
            # What it had sent and nobody had read is lost with it: any
            # part of its words, from the first on, may be counted.
            for client in session.main:
                client.send(200)
                client.excused = True
            side.reset()
        else:
            side.reset()


def file_session(listed, workers, seed, settings):
    rng = random.Random(seed)
    text = "".join("0.k%d%s" % (rng.randrange(300), rng.choice("  \n"))
                   for _ in range(FILE_WORDS))
    return Session(listed, workers, seed, settings, source=text + "\n")


class Warden:
    """Lets what was stopped go on, after it was seen that nobody takes its
    place meanwhile."""

    def __init__(self, player, cell):
        self.player = player
        self.session = player.session
        self.cell = cell
        self.thread = None
        self.failure = None

    def start(self):
        if self.cell.kind in STOPPED:
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()
        return self

    def run(self):
        try:
            wait_for(lambda: self.player.fired([0]), "the stop", LIMIT * 3)
            until = time.monotonic() + self.player.seconds
            if self.cell.kind == "freeze":
                self.freeze()
            while time.monotonic() < until:
                time.sleep(0.05)
            for pid in processes_marked(self.session.app.mark) + [
                    self.session.app.process.pid]:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        except Exception as error:	# shown by join()
            self.failure = error

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
    return cell.workers, cell.kind == "hang" or (
        cell.kind == "stop" and cell.seed % 2 == 1)


def work(number, program, tasks, results, seconds):
    """A process of the runner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listed = Listed(program)
    players = {}
    while True:
        task = tasks.get()
        if task is None:
            return
        group, cells = task
        if group not in players:
            players[group] = Player(listed, *group, seconds)
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
    def __init__(self, cells, jobs=2, state=None, revision="", seconds=10,
                 say=print):
        self.cells = cells
        self.jobs = jobs
        self.state = state
        self.revision = revision
        self.seconds = seconds
        self.say = say
        self.done = {}			# id -> None or why it failed
        self.took = 0.0
        self.program = harness.program("wallaroo-worker")

    def load(self):
        """What an interrupted run of this revision has done."""
        try:
            with open(self.state) as file:
                rows = [json.loads(line) for line in file]
        except (OSError, ValueError, TypeError):
            rows = []
        if not rows or rows[0].get("revision") != self.revision:
            if self.state:
                with open(self.state, "w") as file:
                    file.write(json.dumps({"revision": self.revision}) + "\n")
            return
        for row in rows[1:]:
            if row["why"] is None:
                self.done[row["id"]] = None
                self.took += row["seconds"]

    def save(self, cell, why, seconds):
        if self.state:
            with open(self.state, "a") as file:
                file.write(json.dumps({"id": cell.id(), "why": why,
                                       "seconds": round(seconds, 2)}) + "\n")

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
        workers = [multiprocessing.Process(target=work, args=(
            number, self.program, queue, results, self.seconds))
            for number in range(self.jobs)]
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
                worker.kill()

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
            row = cell.points[0] if len(cell.points) == 1 else "pairs"
            clean, tried = counts.get((row, cell.kind), (0, 0))
            counts[row, cell.kind] = (
                clean + (self.done[cell.id()] is None), tried + 1)
        kinds = [kind for kind in list(listed.kinds) + list(NETWORK)
                 if any(key[1] == kind for key in counts)]
        lines = ["%-24s%s" % ("", " ".join("%7s" % kind for kind in kinds))]
        for row in list(listed.points) + ["pairs", *SIDES]:
            shown = ["%d/%d" % counts[row, kind] if (row, kind) in counts
                     else "-" for kind in kinds]
            if any(text != "-" for text in shown):
                lines.append("%-24s%s" % (row, " ".join(
                    "%7s" % text for text in shown)))
        for (process, kind), why in sorted(LEFT_OUT.items()):
            lines.append("not tried: %s in a %s: %s" % (kind, process, why))
        return lines


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
    return Cell(int(workers[1:]), kind, points.split("+"), int(seed[1:]))


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
    add("--jobs", type=int, default=2, help="sessions at a time")
    add("--minutes", type=float, help="begin no more after these")
    add("--stop-seconds", type=float, help="how long processes are stopped "
        "[10; a sample 2]")
    add("--state", help="a file: what it says was played is not again")
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
    if options.build:
        os.makedirs(options.build, exist_ok=True)
        os.environ.pop("WALLAROO_PROGRAMS", None)
        os.environ["WALLAROO_BUILD"] = specialbuild.make(options.build)
    listed = Listed(harness.program("wallaroo-worker"))
    cells = chosen(options, listed)
    if not cells:
        sys.exit("no cell matches %r" % options.only)
    seconds = options.stop_seconds or (2 if options.sample else 10)
    runner = Runner(cells, options.jobs, options.state, revision(), seconds)
    began = time.monotonic()
    runner.run(options.minutes and options.minutes * 60)
    bad = runner.failures()
    lines = runner.table() + [
        "failed: %s: %s" % (name, why.splitlines()[0])
        for name, why in sorted(bad.items())]
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
