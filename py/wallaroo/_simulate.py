"""Crash schedules for an application: wallaroo.testing.simulate."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, NoReturn, Optional, Union

from ._errors import WallarooParameterError, check_policy
from ._framing import Cutter
from ._machine import EXPIRED, TIMER, Broken, Dead, Entry, Input, Machine, \
    StateKey, Worker, Written
from ._reference import Source, UserFunctionError, generated, show_key
from ._runtime import serialization_hooks
from ._same import difference, reached, same, short
from ._schedule import FAULTS, MOST_WORKERS, Runner, Schedule, parse, shrink
from ._virtual import Virtual

MOST_SHRINKING = 4000  # schedules tried
SIMPLER_SEEDS = 200  # looked through for a failure of one worker alone
MOST_LINES = 40  # of a story


class Decoded(NamedTuple):
    """An input that is not to be decoded though it is bytes."""

    value: Any


class At(NamedTuple):
    """An input and the time at which its source takes it in.

    Times are nanoseconds on a clock that begins at 0 and goes on to the
    time of each input; one that is older than the clock comes late.  An
    item of None only moves the clock.  The watermark, if given, is what the
    source then says of itself, instead of its newest time.
    """

    time: float
    item: Any
    watermark: Optional[int] = None


class Simulated(NamedTuple):
    """What a simulation has gone through without a failure."""

    schedules: int
    records: int  # worked on for the first time
    replayed: int  # worked on again
    kills: int
    checkpoints: int


class SimulationFailure(AssertionError):
    """A schedule that breaks a promise; its text is the whole report."""

    def __init__(self, text: str, seed: Optional[int], schedule: str) -> None:
        super().__init__(text)
        self.seed = seed
        self.schedule = schedule


class Outcome(NamedTuple):
    """What came out, in a form that doesn't depend on the schedule."""

    written: dict[tuple[int, bytes], list[bytes]]  # by sink and key
    dead: dict[str, list[Dead]]  # by key
    saved: dict[StateKey, bytes]


class Simulator:
    """One application with its inputs."""

    def __init__(
        self,
        machine: Machine,
        unbroken: Machine,
        inputs: list[list[Input]],
        check: Callable[[Machine], None],
    ) -> None:
        self.name = machine.name
        self.machine = machine
        self.runner = Runner(machine, inputs)
        # One worker that never dies.
        self.unbroken = unbroken
        self.unbroken_runner = Runner(unbroken, inputs)
        self.inputs = inputs
        self.check = check
        self.determined = is_determined(machine, inputs)
        # With windows it also matters when timers ring.
        self.one_is_enough = not machine.windowing
        self.one_source = sum(map(bool, inputs)) <= 1
        # What one worker gives that never dies, of all inputs.
        self.expected: Optional[Outcome] = None
        self.kills = self.checkpoints = self.records = self.replayed = 0

    def run_twice(self) -> None:
        """Without any fault; what fails then fails as in testing.run."""
        plain = Schedule(1, [0] * len(self.inputs), 0, [])
        try:
            self.reference(plain)
        except Broken as error:
            self.fail(plain, None, error)
        self.runner.run(plain)
        try:
            self.judge_by_reference(plain)
        except Broken as error:
            raise SimulationFailure(
                "wallaroo.testing.simulate: %r, run twice in this process "
                "without any fault, doesn't\ngive the same twice.\n\n%s\n\n%s"
                % (self.name, error, "\n".join(self.hints(plain, error))),
                None, plain.text(),
            ) from error

    def explore(
        self, seed: int, workers: Sequence[int], faults: Sequence[str]
    ) -> None:
        """The seed's schedule; raises SimulationFailure."""
        try:
            schedule = self.runner.explore(seed, workers, faults)
            self.judge(schedule)
        except (Broken, UserFunctionError) as error:
            self.fail(self.runner.schedule, seed, error)
        for action in schedule.actions:
            self.kills += action[0] in "kd"
            self.checkpoints += action[0] == "c"
        self.records += sum(w.done for w in self.machine.workers)
        self.replayed += self.machine.replayed

    def try_schedule(self, schedule: Schedule) -> Optional[Exception]:
        """What is wrong with it."""
        try:
            self.runner.run(schedule)
            self.judge(schedule)
        except (Broken, UserFunctionError) as error:
            return error
        return None

    # -- what must hold when all has been worked on

    def judge(self, schedule: Schedule) -> None:
        one = len(self.machine.workers) == 1
        if self.determined or one and self.one_is_enough:
            self.judge_by_reference(schedule)
        else:
            self.judge_by_journals()
        try:
            self.check(self.machine)
        except AssertionError as error:
            raise Broken("check", "check() failed: %s" % error) from error

    def outcome(self, machine: Machine) -> Outcome:
        written: dict[tuple[int, bytes], list[bytes]] = {}
        dead: dict[str, list[Dead]] = {}
        saved: dict[StateKey, bytes] = {}
        for worker in machine.workers:
            for given in worker.given:
                for output in given:
                    if type(output) is Written:
                        at = (output.sink, output.key)
                        written.setdefault(at, []).append(output.data)
                    elif type(output) is Dead:
                        dead.setdefault(output.key, []).append(output)
            saved.update(worker.saved)
            for key in worker.dirty:
                saved.pop(key, None)
                if worker.states[key] is not EXPIRED:
                    saved[key] = machine.saved_form(key, worker.states[key])
        return Outcome(written, dead, saved)

    def reference(self, schedule: Schedule) -> Outcome:
        """Of one worker that never dies, with the same inputs."""
        actions = [a for a in schedule.actions if a[0] in "asz"]
        # Of several sources the order matters too.
        whole = self.one_source and all(a[0] == "a" for a in actions)
        if whole and self.expected is not None:
            return self.expected
        readers = [0] * len(self.inputs)
        self.unbroken_runner.run(Schedule(1, readers, 0, actions))
        outcome = self.outcome(self.unbroken)
        if whole:
            self.expected = outcome
        return outcome

    def judge_by_reference(self, schedule: Schedule) -> None:
        got = self.outcome(self.machine)
        expected = self.reference(schedule)
        if got.written != expected.written:
            differ(got.written, expected.written, self.written_name)
        if got.dead != expected.dead:
            differ(got.dead, expected.dead,
                   lambda key: "Dead letters of key %r" % key)
        if got.saved != expected.saved:
            self.judge_states(
                lambda key: self.machine.loads(got.saved[key])
                if key in got.saved else None,
                {k: self.machine.loads(v) for k, v in expected.saved.items()},
                "of one worker that never dies",
            )

    def judge_by_journals(self) -> None:
        """Each worker's journal once more, from its beginning."""
        machine = self.machine
        workers = machine.workers
        for worker in workers:
            again = machine.worker_like(worker.number, len(workers))
            for at, entry in enumerate(worker.journal):
                given = machine.process(again, at, entry)
                if given != worker.given[at]:
                    machine.compare(worker, at, given)
            self.judge_states(
                lambda key: machine.state(worker, key),
                {key: None if state is EXPIRED else state
                 for key, state in again.states.items()},
                "of the same journal without a kill",
            )

    def judge_states(
        self, got: Callable[[StateKey], Any], expected: dict[StateKey, Any],
        what: str,
    ) -> None:
        for key, state in expected.items():
            mine = got(key)
            if not same(mine, state):
                raise Broken("state", (
                    "In the end the state of step %r, key %r is not that "
                    "%s.\n    %s" % (
                        key[0], show_key(key[1]), what,
                        difference(state, mine))
                ))

    def written_name(self, key: Any) -> str:
        return "Outputs to %s with key %r" % (
            self.machine.sink_names[key[0]], show_key(key[1])
        )

    # -- a failure

    def fail(
        self, schedule: Schedule, seed: Optional[int], first: Exception
    ) -> NoReturn:
        """Shrink it and raise the report."""
        error = self.try_schedule(schedule)
        if error is None:
            raise SimulationFailure(
                "wallaroo.testing.simulate: a schedule of %r failed once, "
                "and not again:\na function depends on something that is "
                "neither its input nor its state.\n\n%s\n\n%s"
                % (self.name, first, self.how_to_run(seed, schedule)),
                seed, schedule.text(),
            ) from first
        kind, tried = kind_of(error), 0

        def fails(less: Schedule) -> bool:
            nonlocal tried
            tried += 1
            if tried > MOST_SHRINKING:
                return False
            found = self.try_schedule(less)
            return found is not None and kind_of(found) == kind

        simple = self.simpler(schedule, kind)
        if kind != "check":  # which need not hold for fewer inputs
            simple = self.runner.completed(simple)
        least = shrink(simple, fails, kind != "check")
        error = self.try_schedule(least) or error
        text = "\n".join([
            "wallaroo.testing.simulate: a schedule of %r breaks a promise."
            % self.name,
            "", str(error), "",
            "What happened (%d steps, shrunk from %d):" % (
                len(least.actions), len(schedule.actions)),
            *self.story(least), "",
            *self.hints(least, error),
            self.how_to_run(seed, least),
        ])
        raise SimulationFailure(text, seed, least.text()) from error

    def simpler(self, schedule: Schedule, kind: str) -> Schedule:
        """One with the same failure on one worker, if there is one."""
        for seed in range(SIMPLER_SEEDS if schedule.workers > 1 else 0):
            try:
                self.judge(self.runner.explore(seed, (1,), ("kill",)))
            except (Broken, UserFunctionError) as error:
                found = self.try_schedule(self.runner.schedule)
                if kind_of(error) == kind == kind_of(found):
                    return self.runner.schedule
        return schedule

    def how_to_run(self, seed: Optional[int], schedule: Schedule) -> str:
        lines = ["To run it again, with the same application and inputs:"]
        if seed is not None:
            lines.append("    wallaroo.testing.simulate(application, inputs, "
                         "seed=%d)" % seed)
        lines.append("    wallaroo.testing.simulate(application, inputs, "
                     "schedule=%r)" % schedule.text())
        return "\n".join(lines)

    def story(self, schedule: Schedule) -> list[str]:
        """The actions, one line each."""
        runner, lines = self.runner, []
        runner.begin(schedule)
        if schedule.workers > 1:
            lines.append("    %d workers" % schedule.workers)
        actions = list(schedule.actions)
        while actions:
            lines.append("    " + self.told(actions[0]))
            try:
                runner.do(actions.pop(0))
            except (Broken, UserFunctionError):
                break
            actions = actions or runner.possible()[:1]
        if len(lines) > MOST_LINES:
            lines[MOST_LINES // 2:-MOST_LINES // 2] = ["    ..."]
        return lines

    def told(self, action: str) -> str:
        machine = self.machine
        kind = action[0]
        if kind == "z":
            return "no more records arrive"
        if kind == "p":
            return "the clock goes on to %s" % clock_text(
                machine.next_timer() or 0)
        if kind == "f":
            one, two = map(int, action[1:].split("."))
            channel = machine.workers[one].channels[two]
            return "worker %d receives from worker %d: %s" % (
                two, one, entry_text(channel[0]) if channel else "nothing")
        number = int(action[1:])
        if kind in "as":
            at = machine.arrived[number]
            records = self.inputs[number]
            shown = records[at].shown if at < len(records) else "nothing"
            return "%s: %s %s" % (
                machine.sources[number].name, shown,
                "is left out" if kind == "s" else
                "arrives at worker %d" % machine.readers[number])
        worker = machine.workers[number]
        if kind == "c":
            return "worker %d saves a checkpoint" % number
        if kind == "k":
            return "worker %d is killed" % number
        if kind == "t":
            return "a timer of worker %d rings" % number
        at = worker.position
        what = "worker %d works on record %d%s" % (
            number, at, " again" if at < worker.done else "")
        if at < len(worker.journal):
            what += ": " + entry_text(worker.journal[at])
        return what + (", and is killed while it does" if kind == "d" else "")

    def hints(self, schedule: Schedule, error: Exception) -> list[str]:
        """What is likely to be the reason, found by looking closer."""
        found: list[str] = []
        changed: set[str] = set()

        def look(worker: Worker) -> None:
            for key in sorted(worker.dirty):
                if worker.states[key] is EXPIRED:
                    continue
                hint = changed_by_saving(self.machine, key, worker.states[key])
                if hint and key[0] not in changed:
                    changed.add(key[0])
                    found.append(hint)
            for hint in shared(worker.states) + careless(worker.states):
                if hint not in found:
                    found.append(hint)

        self.machine.on_save = look
        found += aggregations_with_values(self.machine)
        try:
            self.try_schedule(schedule)
            for worker in self.machine.workers:
                worker.dirty.update(worker.states)
                look(worker)
        except Exception:  # the hunt for a reason must not hide the failure
            pass
        finally:
            self.machine.on_save = None
        if not found and kind_of(error) in ("replay", "outputs", "state"):
            found.append(
                "States are saved and loaded as they were, and keys share "
                "nothing: look for what\n  is neither input nor state: a "
                "variable of the module or class, id() or hash() of\n  an "
                "object, the order of a set, a file, the network."
            )
        return ["Likely reason: " + hint for hint in found[:5]] + (
            [""] if found else [])


def changed_by_saving(
    machine: Machine, key: StateKey, state: Any
) -> Optional[str]:
    again = machine.loads(machine.dumps(state))
    if same(state, again, True):
        return None
    return (
        "the state of step %r, key %r is changed by saving and loading:\n  %s"
        % (key[0], show_key(key[1]), difference(state, again, True))
    )


def shared(states: dict[StateKey, Any]) -> list[str]:
    """Objects that two states have, of which each is saved by itself."""
    owners: dict[int, tuple[StateKey, str]] = {}
    for key, state in states.items():
        for path, part in reached(state):
            other, other_path = owners.setdefault(id(part), (key, path))
            if other != key:
                return [
                    "the states of step %r, key %r and step %r, key %r share "
                    "an object\n  (state%s of the one, state%s of the other), "
                    "which is two after they were loaded: %s" % (
                        other[0], show_key(other[1]), key[0],
                        show_key(key[1]), other_path, path, short(part, 60))
                ]
    return []


def careless(states: dict[StateKey, Any]) -> list[str]:
    """Mutable attributes of state classes; sets."""
    found = []
    for (step, _), state in states.items():
        for name, value in vars(type(state)).items():
            if isinstance(value, (list, dict, set, bytearray)) \
                    and not name.startswith("__"):
                found.append(
                    "%s.%s, of the state class of step %r, is one object for "
                    "all keys\n  and in no checkpoint: make it in __init__"
                    % (type(state).__name__, name, step))
        for path, part in reached(state):
            if isinstance(part, set):
                found.append(
                    "state%s of step %r is a set, whose order may change when "
                    "it is saved and\n  loaded: iterate over sorted(...)"
                    % (path, step))
    return found


def aggregations_with_values(machine: Machine) -> list[str]:
    """Of all keys and windows together, and in no checkpoint."""
    return [
        "%s.%s, of the aggregation of %r, is one object for all keys and in "
        "no\n  checkpoint: keep everything in the accumulator"
        % (type(stage.aggregation).__name__, name,
           stage.name)
        for stage in machine.windowing.values() if not stage.timed
        for name, value in vars(stage.aggregation).items()
        if isinstance(value, (list, dict, set, bytearray))
    ]


def differ(
    got: dict[Any, Any], expected: dict[Any, Any], name: Callable[[Any], str]
) -> NoReturn:
    key = min(
        key for key in {**got, **expected} if got.get(key) != expected.get(key)
    )
    raise Broken("outputs", (
        "%s: not what one worker gives that never dies.\n"
        "    expected: %s\n    got:      %s" % (
            name(key), short(expected.get(key, []), 400),
            short(got.get(key, []), 400))
    ))


def kind_of(error: Optional[Exception]) -> str:
    if error is None:
        return "none"
    if isinstance(error, Broken):
        return error.kind
    return "raised " + type(error.__cause__).__name__


def clock_text(time: int) -> str:
    return "%g seconds" % (time / 1e9)


def entry_text(entry: Entry) -> str:
    if entry.place == TIMER:
        return "the timer at %s" % clock_text(entry.now)
    if entry.place < 0:
        return entry.shown
    return "%s for step %r, key %r" % (
        short(pickle.loads(entry.data), 80), entry.path[entry.place].name,
        show_key(entry.key),
    )


def is_determined(machine: Machine, inputs: list[list[Input]]) -> bool:
    """Whether every key sees its inputs in one order, on any workers.

    It does where one source's records cross to other workers at most once,
    and there are no windows, which see watermarks of what else crosses.
    """
    if machine.windowing:
        return False
    used = [path for path, records in zip(machine.paths, inputs) if records]
    return len(used) <= 1 and all(
        sum(op.crosses for op in path) <= 1 for path in used
    )


# -- inputs


def records_of(machine: Machine, inputs: Any, find: Any) -> list[list[Input]]:
    """By source: the records that its journal gets."""
    result: list[list[Input]] = [[] for _ in machine.sources]
    pairs = inputs.items() if hasattr(inputs, "items") else (
        (name, [item]) for name, item in inputs
    )
    for name, given in pairs:
        source = find(machine, name)
        result[machine.sources.index(source)] += source_records(source, given)
    return result


def source_records(source: Source, given: Any) -> list[Input]:
    if given is None or isinstance(given, int):
        if source.decoder is not None:
            raise WallarooParameterError(
                "%r is no generator: give its inputs." % source.name
            )
        if given is None:
            raise WallarooParameterError(
                "%r: say how many values of the generator." % source.name
            )
        return [
            pickled(source, value)
            for value in islice(generated(source.config[2]), given)
        ]
    if isinstance(given, (bytes, bytearray)):
        cutter = Cutter(source.decoder, source.max_size)
        payloads = list(cutter.feed(bytes(given))) + list(cutter.end())
        return [Input(p, True, short(p, 80)) for p in payloads]
    return [
        one_record(source, item) for item in given if item is not None
    ]


def one_record(source: Source, item: Any) -> Input:
    if isinstance(item, At):
        time = int(item.time)
        if item.item is None:
            return Input(None, False, "the time %s" % clock_text(time), time)
        return one_record(source, item.item)._replace(
            time=time, watermark=item.watermark
        )
    if isinstance(item, Decoded):
        return pickled(source, item.value)
    if isinstance(item, (bytes, bytearray)) and source.decoder is not None:
        return Input(bytes(item), True, short(bytes(item), 80))
    return pickled(source, item)


def pickled(source: Source, value: Any) -> Input:
    try:
        return Input(pickle.dumps(value), False, short(value, 80))
    except Exception as error:
        raise WallarooParameterError(
            "An input of %r cannot be pickled, so that it could be given "
            "again: %s: %s" % (source.name, type(error).__name__, error)
        ) from error


# -- the call


def functions_of(machine: Machine) -> list[Any]:
    """The user's functions and classes."""
    found: list[Any] = []
    for branch in machine.vertices:
        for stage in branch:
            found += stage[1:2] if stage[0] != "source" else stage[2]
            if stage[0] == "to_sinks":
                found += stage[1]
    for config in machine.sink_configs:
        found += config
    more = [getattr(part, "_func", None) for part in found]
    more += [type(part) for part in found]
    more += [
        vars(type(part)).get("_state_factory")
        for part in found if part is not None
    ]
    return [part for part in found + more if hasattr(part, "__module__")]


def simulate(
    application: Any,
    inputs: Any,
    find: Any,
    seed: Optional[int],
    schedule: Optional[str],
    schedules: int,
    faults: Sequence[str],
    workers: Union[int, Sequence[int]],
    on_error: str,
    check: Callable[[Machine], None],
    module: Any,
) -> Simulated:
    counts = [workers] if isinstance(workers, int) else list(workers)
    if not counts or not all(
        isinstance(n, int) and 0 < n <= MOST_WORKERS for n in counts
    ):
        raise WallarooParameterError(
            "workers=%r: give numbers from 1 to %d." % (workers, MOST_WORKERS)
        )
    faults = [faults] if isinstance(faults, str) else list(faults)
    for fault in faults:
        if fault not in FAULTS:
            raise WallarooParameterError(
                "faults: there is no %r, only %s."
                % (fault, ", ".join(map(repr, FAULTS)))
            )
    check_policy(on_error)
    dumps: Callable[[Any], bytes] = pickle.dumps
    loads: Callable[[bytes], Any] = pickle.loads
    if module is not None:
        own_dumps, own_loads = serialization_hooks(module)
        dumps, loads = own_dumps or dumps, own_loads or loads
    virtual = Virtual()
    machine = Machine(application, on_error, dumps, loads, virtual)
    unbroken = Machine(application, on_error, dumps, loads, virtual)
    virtual.reach(functions_of(machine))
    simulator = Simulator(
        machine, unbroken, records_of(machine, inputs, find), check
    )
    with virtual:
        simulator.run_twice()
        if schedule is not None:
            chosen = parse(schedule, len(machine.sources))
            error = simulator.try_schedule(chosen)
            if error is not None:
                simulator.fail(chosen, None, error)
            return Simulated(1, 0, 0, 0, 0)
        for number in range(schedules) if seed is None else (seed,):
            simulator.explore(number, counts, faults)
    return Simulated(
        schedules if seed is None else 1, simulator.records,
        simulator.replayed, simulator.kills, simulator.checkpoints,
    )
