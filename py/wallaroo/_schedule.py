"""Schedules of what workers do and when they die: random ones, their text,
and the shortest one that still shows a failure.

A schedule is a list of actions; one that finds nothing to do is passed over,
so whatever is left of a schedule is a schedule too.

    aS    the next record of source S arrives in the journal of its worker
    sS    the next record of source S is left out
    wN    worker N works on the next record of its journal
    fN.M  the next message from worker N arrives in the journal of worker M
    cN    worker N saves a checkpoint
    kN    worker N is killed between two records
    dN    worker N is killed while it works on a record
    tN    that a timer of worker N rings arrives in its journal
    p     the clock goes on until the next timer rings
    z     no more records arrive
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ._errors import WallarooParameterError
from ._machine import Input, Machine

FAULTS = ("kill", "kill-in-step", "kill-all")
ACTION = re.compile(r"[zp]|[aswckdt]\d+|f\d+\.\d+")
HEAD = re.compile(r"(\d+) workers, readers ([\d,]+), salt (\d+):(.*)")
MOST_WAITS = 100  # for timers of keys after the last record
MOST_WORKERS = 64


class Schedule(NamedTuple):
    """How many workers there are, and what happens to them."""

    workers: int
    readers: list[int]
    salt: int
    actions: list[str]

    def text(self) -> str:
        return "%d workers, readers %s, salt %d: %s" % (
            self.workers, ",".join(map(str, self.readers)), self.salt,
            " ".join(self.actions),
        )


def parse(text: str, sources: int) -> Schedule:
    match = HEAD.fullmatch(text.strip())
    if match is None:
        raise WallarooParameterError(
            "schedule=%r is none that a failure printed." % text
        )
    actions = match.group(4).split()
    readers = [int(n) for n in match.group(2).split(",")]
    schedule = Schedule(
        int(match.group(1)), readers, int(match.group(3)), actions
    )
    numbers = [int(n) for a in actions if a[0] not in "aszp"
               for n in a[1:].split(".")]
    fits = (
        0 < schedule.workers <= MOST_WORKERS
        and all(ACTION.fullmatch(action) for action in actions)
        and len(readers) == sources
        and all(n < schedule.workers for n in readers + numbers)
        and all(int(a[1:]) < sources for a in actions if a[0] in "as")
    )
    if not fits:
        raise WallarooParameterError(
            "schedule=%r does not fit this application, which has %d sources."
            % (text, sources)
        )
    return schedule


class Runner:
    """Lets schedules happen to a machine."""

    def __init__(self, machine: Machine, inputs: list[list[Input]]) -> None:
        self.machine = machine
        self.inputs = inputs
        self.ended = False
        self.schedule = Schedule(1, [], 0, [])

    def do(self, action: str) -> bool:
        """Whether there was anything to do."""
        kind, machine = action[0], self.machine
        if kind == "f":
            sender, _, receiver = action[1:].partition(".")
            return machine.deliver(int(sender), int(receiver))
        if kind == "z":
            self.ended = True
            return True
        if kind == "p":
            return machine.pass_time()
        number = int(action[1:])
        if kind == "w":
            return machine.work(number)
        if kind == "a" or kind == "s":
            arrived = machine.arrived[number]
            if self.ended or arrived >= len(self.inputs[number]):
                return False
            record = self.inputs[number][arrived]
            return machine.arrive(number, record if kind == "a" else None)
        if kind == "c":
            return machine.save(number)
        if kind == "k":
            return machine.kill(number)
        if kind == "t":
            return machine.ring(number)
        return machine.kill_in_step(number)

    def possible(self) -> list[str]:
        """Actions, other than faults, that there is something to do for."""
        machine = self.machine
        found = []
        if not self.ended:
            for source, records in enumerate(self.inputs):
                if machine.arrived[source] < len(records):
                    found.append("a%d" % source)
        for worker in machine.workers:
            if worker.position < len(worker.journal):
                found.append("w%d" % worker.number)
            for receiver, channel in enumerate(worker.channels):
                if channel:
                    found.append("f%d.%d" % (worker.number, receiver))
        if machine.windowing:
            return self.timers(all(a[0] == "a" for a in found)) + found
        return found

    def timers(self, idle: bool) -> list[str]:
        """What timers may do; idle: there are only arrivals beside them."""
        machine = self.machine
        ringing = [
            "t%d" % worker.number for worker in machine.workers
            if machine.rings(worker.number)
        ]
        timer = machine.next_timer()
        if ringing or not idle or timer is None:
            return ringing
        # A timer may set itself again for ever.
        if self.ended_all() and machine.waits > MOST_WAITS and any(
            stage.timed for stage in machine.windowing.values()
        ):
            return []
        # Not past what is still to come.
        for records, arrived in zip(self.inputs, machine.arrived):
            if not self.ended and arrived < len(records):
                time = records[arrived].time
                if time is None or time <= timer:
                    return []
        return ["p"]

    def ended_all(self) -> bool:
        """Whether nothing arrives any more."""
        return self.ended or all(
            arrived >= len(records) for records, arrived
            in zip(self.inputs, self.machine.arrived))

    def begin(self, schedule: Schedule) -> None:
        self.ended = False
        self.machine.begin(
            schedule.workers, schedule.readers, schedule.salt
        )

    def drain(self) -> None:
        """Do all that is left, without faults: work, then timers that are
        due, then what arrives."""
        possible = self.possible()
        while possible:
            work = [action for action in possible if action[0] in "wf"]
            for action in work or possible[:1]:
                self.do(action)
            possible = self.possible()

    def run(self, schedule: Schedule) -> None:
        self.begin(schedule)
        for action in schedule.actions:
            self.do(action)
        self.drain()

    def completed(self, schedule: Schedule) -> Schedule:
        """With what was left in the end, and with nothing more to arrive."""
        actions = schedule.actions
        if "z" in actions:
            return schedule
        self.begin(schedule)
        try:
            for action in actions:
                self.do(action)
            for source, records in enumerate(self.inputs):
                left = len(records) - self.machine.arrived[source]
                actions = actions + ["a%d" % source] * left
        except Exception:  # that is what the schedule is about
            pass
        return schedule._replace(actions=actions + ["z"])

    def explore(
        self, seed: int, workers: Sequence[int], faults: Sequence[str]
    ) -> Schedule:
        """Make a random schedule while it happens.

        When something raises, self.schedule is what happened so far.
        """
        rng = random.Random(seed)
        n = rng.choice(workers)
        readers = [rng.randrange(n) for _ in self.inputs]
        schedule = Schedule(n, readers, rng.getrandbits(16), [])
        self.begin(schedule)
        self.schedule = schedule
        self.happen(rng, schedule, faults)
        return schedule

    def happen(
        self, rng: random.Random, schedule: Schedule, faults: Sequence[str]
    ) -> None:
        records = sum(map(len, self.inputs))
        left = rng.randint(1, 5) if faults else 0
        # Together well below 1, or nothing else would happen.
        fault_rate = min(
            0.4, rng.choice((1.0, 2.0, 4.0)) * left / (4.0 * records + 9)
        )
        save_rate = fault_rate + rng.choice((0.02, 0.1, 0.3))
        n, actions = schedule.workers, schedule.actions
        draw = rng.random
        while True:
            possible = self.possible()
            drawn = draw()
            if left > 0 and (drawn < fault_rate or not possible):
                left -= 1
                if not possible and drawn < 0.5:
                    left = 0
                for action in self.fault(rng, n, rng.choice(faults)):
                    self.do_and_note(action, actions)
            elif not possible:
                return
            elif drawn < save_rate:
                self.do_and_note("c%d" % int(draw() * n), actions)
            else:
                chosen = possible[int(draw() * len(possible))]
                self.do_and_note(chosen, actions)

    def do_and_note(self, action: str, actions: list[str]) -> None:
        actions.append(action)
        if not self.do(action):
            actions.pop()

    def fault(self, rng: random.Random, n: int, kind: str) -> list[str]:
        if kind == "kill-all":
            return ["k%d" % number for number in range(n)]
        number = int(rng.random() * n)
        return ["%s%d" % ("d" if kind == "kill-in-step" else "k", number)]


def shrink(
    schedule: Schedule, fails: Callable[[Schedule], bool], inputs: bool
) -> Schedule:
    """A schedule of which nothing can be left out; inputs: of those too."""
    for n in range(1, schedule.workers):
        fewer = on_fewer(schedule, n)
        if fails(fewer):
            schedule = fewer
            break
    before = None
    while before != schedule:
        before = schedule
        schedule = shrink_actions(schedule, fails)
        schedule = simplify_kills(schedule, fails)
        if inputs:
            schedule = shrink_inputs(schedule, fails)
    return schedule


def on_fewer(schedule: Schedule, n: int) -> Schedule:
    actions = []
    for action in schedule.actions:
        if action[0] in "wckdt":
            action = "%s%d" % (action[0], int(action[1:]) % n)
        elif action[0] == "f":
            one, two = (int(w) % n for w in action[1:].split("."))
            action = "f%d.%d" % (one, two)
        actions.append(action)
    return Schedule(
        n, [reader % n for reader in schedule.readers], schedule.salt, actions
    )


def shrink_actions(
    schedule: Schedule, fails: Callable[[Schedule], bool]
) -> Schedule:
    """Leave out halves, quarters, and so on down to single actions."""
    size = max(1, len(schedule.actions) // 2)
    while True:
        at, shorter = 0, False
        while at < len(schedule.actions):
            actions = schedule.actions
            # The end of the inputs stays, or all of them come back.
            less = schedule._replace(
                actions=actions[:at]
                + [a for a in actions[at:at + size] if a == "z"]
                + actions[at + size:]
            )
            if len(less.actions) < len(actions) and fails(less):
                schedule, shorter = less, True
            else:
                at += size
        if size == 1 and not shorter:
            return schedule
        size = max(1, size // 2)


def simplify_kills(
    schedule: Schedule, fails: Callable[[Schedule], bool]
) -> Schedule:
    """A death between two records is easier to think about."""
    for at, action in enumerate(schedule.actions):
        if action[0] == "d":
            actions = list(schedule.actions)
            actions[at] = "k" + action[1:]
            less = schedule._replace(actions=actions)
            if fails(less):
                schedule = less
    return schedule


def shrink_inputs(
    schedule: Schedule, fails: Callable[[Schedule], bool]
) -> Schedule:
    for at, action in enumerate(schedule.actions):
        if action[0] == "a":
            actions = list(schedule.actions)
            actions[at] = "s" + action[1:]
            less = schedule._replace(actions=actions)
            if fails(less):
                schedule = less
    return schedule
