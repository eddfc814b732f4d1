"""Workers as they behave, without processes: for wallaroo.testing.simulate.

Each worker has a journal that survives, states that don't, and a checkpoint
in which each state is pickled by itself.  A killed worker goes back to its
checkpoint, works on its journal again, and what that gives up to the last
record that was done must be what it gave before.

There is one clock for all, which arrivals and the schedule move.  What a
worker knows of windows, their timers and watermarks, is in its checkpoint;
that a timer rings is an entry of its journal.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from . import _names, _timers, _windows
from ._errors import api_error
from ._reference import (
    DeadLetter, Executor, Key, Moment, Windowing, as_key, listed, present,
    show_key,
)
from ._same import same_pickles, short
from ._virtual import Origin, Virtual, origin_of

MISSING = object()
EXPIRED = object()  # in place of a state, until that is saved
EMPTY_SET = b"\x8f"  # pickle's opcode
FROM_SOURCE = -1  # places of entries that are not from another worker
TIMER = -2
# What of a stage of windows is in a checkpoint.
REMEMBERED = ("due", "open", "resting", "heard", "watermark", "forwarded", "timer")

Dumps = Callable[[Any], bytes]
Loads = Callable[[bytes], Any]
StateKey = tuple[str, Key]


class Broken(Exception):
    """A promise that does not hold for this application."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Op(NamedTuple):
    """One place of a source's path."""

    kind: str
    what: Any
    name: str
    crosses: bool  # to the key's owner: after a keying, before a state
    key: Key  # of collect
    position: _names.Position
    via: Any  # of messages that have come here; None: as it was


class Input(NamedTuple):
    """A record as its journal has it."""

    data: Optional[bytes]  # None: only the clock goes on
    payload: bool  # for the decoder, not a pickled value
    shown: str
    time: Optional[int] = None  # None: whenever it comes
    watermark: Optional[int] = None  # that the source says; None: its newest


class Entry(NamedTuple):
    """A journal entry: a source's record, or one from another worker."""

    path: list[Op]
    place: int  # in the path; FROM_SOURCE, TIMER
    source: int
    key: Key
    when: Optional[Moment]
    data: bytes
    payload: bool
    origin: Origin
    shown: str
    now: int  # when it was journaled


class Hop(NamedTuple):
    """What a record gives another worker."""

    to: int
    entry: Entry


class Written(NamedTuple):
    """What a record gives a sink."""

    sink: int
    key: Key
    data: bytes


class Dead(NamedTuple):
    """A record set aside."""

    step: str
    key: str
    error: str


class Worker:
    """One worker; what a kill takes is made by start()."""

    def __init__(
        self, number: int, others: int,
        windowing: Callable[[], dict[_names.Position, Windowing]],
    ) -> None:
        self.number = number
        self.make_windowing = windowing
        self.journal: list[Entry] = []
        self.done = 0  # records whose outputs have left
        self.given: list[list[Any]] = []  # by record
        self.values: list[Any] = []  # that reached the sinks
        self.letters: list[DeadLetter] = []
        self.channels: list[list[Entry]] = [[] for _ in range(others)]
        self.saved: dict[StateKey, bytes] = {}
        self.saved_position = 0
        self.saved_memory = b""
        self.start()

    def start(self) -> None:
        self.position = self.saved_position
        self.states: dict[StateKey, Any] = {}
        self.dirty: set[StateKey] = set()
        self.watermarks: dict[int, int] = {}  # by source
        self.windowing = self.make_windowing()
        if self.saved_memory:
            self.watermarks, memories = pickle.loads(self.saved_memory)
            for stage, memory in zip(self.windowing.values(), memories):
                vars(stage).update(zip(REMEMBERED, memory))

    def memory(self) -> bytes:
        """What it knows of times, as its checkpoint has it."""
        if not self.windowing:
            return b""
        return pickle.dumps((self.watermarks, [
            [getattr(stage, name) for name in REMEMBERED]
            for stage in self.windowing.values()
        ]))

    def timer(self) -> Optional[int]:
        """When the first of its timers rings."""
        return min(
            (timer for stage in self.windowing.values()
             for timer in [rings_at(stage)] if timer is not None),
            default=None,
        )


def rings_at(stage: Windowing) -> Optional[int]:
    """When the first timer of a stage rings."""
    return stage.first() if stage.timed else stage.timer


class Machine(Executor):
    """The workers of one application."""

    def __init__(
        self, application: Any, on_error: str, dumps: Dumps, loads: Loads,
        virtual: Virtual,
    ) -> None:
        super().__init__(application, on_error)
        if self.by_event:
            api_error(
                "simulate() does not know event times: test this application "
                "with wallaroo.testing.run()."
            )
        self.dumps, self.loads = dumps, loads
        self.virtual = virtual
        self.paths = [self._ops(source.path) for source in self.sources]
        # Where a stage of windows is, on one of the ways to it.
        self.places = {
            op.position: (path, place)
            for path in self.paths for place, op in enumerate(path)
        }
        self.on_save: Optional[Callable[[Worker], None]] = None
        self.begin(1, [0] * len(self.sources), 0)

    def begin(self, workers: int, readers: list[int], salt: int) -> None:
        """New workers; readers[i] has source i, salt chooses keys' owners."""
        self.workers = [self.worker_like(i, workers) for i in range(workers)]
        self.clock = 0
        self.readers = readers
        self.salt = salt
        self.owners: dict[Key, int] = {}
        self.arrived = [0] * len(self.sources)
        self.replayed = 0
        self.waits = 0  # for timers, with nothing arriving any more

    def worker_like(self, number: int, others: int) -> Worker:
        return Worker(number, others, self._make_windowing)

    # -- what a schedule may do; each says whether there was anything to do

    def arrive(self, source: int, record: Optional[Input]) -> bool:
        """The next record of a source is journaled; None: passed over."""
        number = self.arrived[source]
        self.arrived[source] += 1
        self.waits = 0
        if record is None:
            return True
        if record.time is not None:
            self.clock = max(self.clock, record.time)
        if record.data is not None:
            time = self.clock if record.time is None else record.time
            watermark = -1 if record.watermark is None else record.watermark
            self.workers[self.readers[source]].journal.append(Entry(
                self.paths[source], FROM_SOURCE, source,
                _names.SOURCE_KEYS[self.sources[source].config[0]],
                Moment(time, watermark, "source"), record.data,
                record.payload, origin_of(source, number), record.shown,
                self.clock,
            ))
        return True

    def deliver(self, sender: int, receiver: int) -> bool:
        """The next message of a channel is journaled by its receiver."""
        channel = self.workers[sender].channels[receiver]
        if not channel:
            return False
        entry = channel.pop(0)._replace(now=self.clock)
        self.workers[receiver].journal.append(entry)
        return True

    def rings(self, number: int) -> bool:
        """Whether an idle worker's timer rings now."""
        worker = self.workers[number]
        timer = worker.timer()
        return timer is not None and timer <= self.clock and (
            worker.position == len(worker.journal)
        )

    def ring(self, number: int) -> bool:
        """That a worker's timer rings is journaled."""
        if not self.rings(number):
            return False
        journal = self.workers[number].journal
        origin = origin_of(len(self.sources) + number, len(journal))
        journal.append(Entry(
            [], TIMER, -1, b"", None, b"", False, origin, "", self.clock
        ))
        return True

    def next_timer(self) -> Optional[int]:
        """When the next timer of all workers rings."""
        timers = [worker.timer() for worker in self.workers]
        return min((t for t in timers if t is not None), default=None)

    def pass_time(self) -> bool:
        """The clock goes on until the next timer rings."""
        timer = self.next_timer()
        if timer is None or timer <= self.clock:
            return False
        self.clock = timer
        self.waits += 1
        return True

    def work(self, number: int) -> bool:
        """A worker works on the next record of its journal."""
        worker = self.workers[number]
        if worker.position >= len(worker.journal):
            return False
        at = worker.position
        given = self.process(worker, at, worker.journal[at])
        worker.position = at + 1
        if at < worker.done:
            self.replayed += 1
            if worker.given[at] != given:
                self.compare(worker, at, given)
            return True
        worker.given.append(given)
        worker.values += self.values
        worker.letters += self.dead_letters
        worker.done = at + 1
        for output in given:
            if type(output) is Hop:
                worker.channels[output.to].append(output.entry)
        return True

    def save(self, number: int) -> bool:
        """A checkpoint; none while a replay repeats what has left."""
        worker = self.workers[number]
        if worker.position < worker.done or (
            worker.position == worker.saved_position
        ):
            return False
        if self.on_save is not None:
            self.on_save(worker)
        saved = {
            key: self.saved_form(key, worker.states[key])
            for key in worker.dirty if worker.states[key] is not EXPIRED
        }
        for key in worker.dirty - set(saved):
            worker.saved.pop(key, None)
            del worker.states[key]
        worker.saved.update(saved)
        worker.saved_position = worker.position
        worker.saved_memory = worker.memory()
        worker.dirty.clear()
        return True

    def kill(self, number: int) -> bool:
        """Death between two records."""
        self.workers[number].start()
        return True

    def kill_in_step(self, number: int) -> bool:
        """Death with a record's functions run, and nothing of it done."""
        worker = self.workers[number]
        if worker.position >= len(worker.journal):
            return False
        at = worker.position
        self.process(worker, at, worker.journal[at])
        worker.start()
        return True

    # -- the states

    def saved_form(self, key: StateKey, state: Any) -> bytes:
        try:
            return self.dumps(state)
        except Exception as error:
            raise Broken("not saved", (
                "The state of step %r, key %r cannot be saved: %s: %s\n"
                "    %s" % (
                    key[0], show_key(key[1]), type(error).__name__, error,
                    short(state))
            )) from error

    def loaded(self, key: StateKey, data: bytes) -> Any:
        try:
            state = self.loads(data)
        except Exception as error:
            raise Broken("not loaded", (
                "The state of step %r, key %r was saved and cannot be loaded "
                "again: %s: %s" % (
                    key[0], show_key(key[1]), type(error).__name__, error)
            )) from error
        if EMPTY_SET in data:
            reorder_sets(state)
        return state

    def state(
        self, worker: Worker, key: StateKey,
        make: Callable[[], Any] = lambda: None,
    ) -> Any:
        """A key's state, made or loaded if it isn't there."""
        state = worker.states.get(key, MISSING)
        if state is EXPIRED or state is MISSING:
            data = worker.saved.get(key) if state is MISSING else None
            if data is not None:
                state = self.loaded(key, data)
            else:
                state = make()
            if state is not None:
                worker.states[key] = state
        return state

    def all_states(self) -> dict[StateKey, Any]:
        """Of all workers, as they are now; loads what isn't."""
        return {
            key: self.state(worker, key)
            for worker in self.workers
            for key in {**worker.saved, **worker.states}
            if worker.states.get(key) is not EXPIRED
        }

    def all_outputs(self) -> list[list[bytes]]:
        """By sink, one worker after the other."""
        result: list[list[bytes]] = [[] for _ in self.sink_configs]
        for worker in self.workers:
            for given in worker.given:
                for output in given:
                    if type(output) is Written:
                        result[output.sink].append(output.data)
        return result

    # -- one record

    def process(self, worker: Worker, at: int, entry: Entry) -> list[Any]:
        """What a record gives; at: its number in the journal."""
        self.worker, self.at, self.now = worker, at, entry.now
        self.given: list[Any] = []
        self.origin = entry.origin
        self.values.clear()
        self.dead_letters.clear()
        if entry.place >= 0:
            self.when = entry.when
            value = pickle.loads(entry.data)
            self.go(entry.path, entry.place, value, entry.key)
        elif entry.place == TIMER:
            self.ring_all(worker)
        else:
            value = self.decoded(entry)
            if value is not None:
                self.when = self.taken_in(entry)
                self.go(entry.path, 0, value, entry.key)
        for letter in self.dead_letters:
            self.given.append(Dead(letter.step, letter.key, letter.error))
        return self.given

    def decoded(self, entry: Entry) -> Any:
        if not entry.payload:
            return pickle.loads(entry.data)
        source = self.sources[entry.source]
        return self._call(
            source.name, source.decoder, entry.key, entry.data,
            source.decoder.decode, entry.data,
        )

    def taken_in(self, entry: Entry) -> Optional[Moment]:
        """A source's message, with the watermark that the source has."""
        when = entry.when
        if when is None or not self.windowing:
            return None
        known = self.worker.watermarks
        highest = max(known.get(entry.source, 0), when.time)
        known[entry.source] = highest
        if when.watermark >= 0:
            return when
        return when._replace(watermark=highest)

    def go(self, path: list[Op], place: int, value: Any, key: Key) -> None:
        """Send a message as far as it gets on this worker."""
        while True:
            op = path[place]
            kind = op.kind
            if op.via is not None and self.when is not None:
                self.when = self.when._replace(via=op.via)
            if kind == "state":
                if op.crosses and self.owner(key) != self.worker.number:
                    return self.send(path, place, value, key)
                outputs = self.stateful(op, key, value)
            elif kind == "step":
                outputs = self._step(op.what, key, value)
            elif kind == "timed":
                if op.crosses and self.owner(key) != self.worker.number:
                    return self.send(path, place, value, key)
                outputs = self.into_timed(op, key, value)
            elif kind == "windows":
                if op.crosses and self.owner(key) != self.worker.number:
                    return self.send(path, place, value, key)
                return self.into_windows(path, place, value, key)
            elif kind == "sinks":
                return self._write(value, key)
            else:
                new_key = op.key
                if kind == "key_by":
                    found = self._key_by(op.what, key, value)
                    if found is None:
                        return None
                    new_key = found
                key = new_key
                place += 1
                if op.crosses and self.owner(key) != self.worker.number:
                    return self.send(path, place, value, key)
                continue
            place += 1
            if len(outputs) != 1:
                return self.go_each(path, place, outputs, key)
            value = outputs[0]

    def go_each(
        self, path: list[Op], place: int, outputs: list[Any], key: Key
    ) -> None:
        origin, when = self.origin, self.when
        for number, output in enumerate(outputs):
            self.origin, self.when = origin.child(number), when
            self.go(path, place, output, key)
        self.origin = origin

    def stateful(self, op: Op, key: Key, value: Any) -> list[Any]:
        what, worker, name = op.what, self.worker, (op.name, key)

        def step() -> list[Any]:
            state = worker.states.get(name, MISSING)
            if state is MISSING:
                state = self.state(worker, name, what.initial_state)
            worker.dirty.add(name)
            if hasattr(what, "compute_multi"):
                return listed(what.compute_multi, value, state)
            return [what.compute(value, state)]

        return present(self._call(op.name, what, key, value, step))

    def into_windows(
        self, path: list[Op], place: int, value: Any, key: Key
    ) -> None:
        op, when = path[place], self.when
        assert when is not None
        stage = self.worker.windowing[op.position]
        watermark = stage.hear(self.now, when)
        fired = self.windows_of(
            op, stage, key, stage.arithmetic.apply, value, when.time,
            watermark,
        )
        self.out_of_windows(path, place, key, value, fired)

    def into_timed(self, op: Op, key: Key, value: Any) -> list[Any]:
        """As the executor's _to_timed."""
        stage, when = self.worker.windowing[op.position], self.when
        assert when is not None
        name, rules, time = (op.name, key), stage.arithmetic, when.time

        def step() -> _windows.Fired:
            state = self.state(self.worker, name, rules.state)
            self.worker.dirty.add(name)
            fired: Optional[_windows.Fired] = rules.call(
                state, show_key(key), value, time, 0)
            return fired or rules.result(state)

        fired = self._call(op.name, op.what, key, value, step)
        if fired is None:
            return []
        stage.note(key, fired, self.at)
        for error, of in fired.errors:
            self._failed(op.name, op.what, key, of, error)
        return [output for output, _ in fired.outputs]

    def ring_all(self, worker: Worker) -> None:
        """Timers that ring at the time of the entry."""
        while True:
            timer, position = min(
                ((timer, position)
                 for position, stage in worker.windowing.items()
                 for timer in [rings_at(stage)] if timer is not None),
                default=(None, (0, 0)),
            )
            if timer is None or timer > self.now:
                return
            stage = worker.windowing[position]
            if stage.timed:
                self.fire_timers(stage, position)
            else:
                self.time_out(stage, position)

    def fire_timers(
        self, stage: Windowing, position: _names.Position
    ) -> None:
        """Those of the first key that has one that is due."""
        path, place = self.places[position]
        key = stage.complete(self.now)
        assert key is not None
        fired = self.windows_of(
            path[place], stage, key, stage.arithmetic.call, None, self.now, 0
        )
        self.out_of_windows(path, place, key, None, fired)

    def _now(self) -> int:
        return self.now

    def time_out(
        self, stage: Windowing, position: _names.Position
    ) -> None:
        path, place = self.places[position]
        watermark = stage.effective(self.now)
        for key in stage.ripe(watermark):
            fired = self.windows_of(
                path[place], stage, key, stage.arithmetic.timeout, watermark
            )
            self.out_of_windows(path, place, key, None, fired)
        stage.timer = None
        if stage.waits(self.now):
            assert stage.arithmetic.interval is not None
            stage.timer = self.now + stage.arithmetic.interval

    def windows_of(
        self, op: Op, stage: Windowing, key: Key,
        function: Callable[..., _windows.Fired], *args: Any,
    ) -> _windows.Fired:
        """What a message or a timeout does to the windows of a key."""
        name = (op.name, key)
        state = self.state(self.worker, name, stage.arithmetic.state)
        self.worker.dirty.add(name)
        fired: _windows.Fired = self.virtual.call(
            self.origin, op.name, function, (state, show_key(key), *args)
        )
        return fired

    def out_of_windows(
        self, path: list[Op], place: int, key: Key, value: Any,
        fired: _windows.Fired,
    ) -> None:
        """As the executor's _from_windows."""
        op = path[place]
        stage = self.worker.windowing[op.position]
        stage.states[key] = None
        stage.note(key, fired, self.at)
        if fired.open == _windows.GONE:
            self.worker.states[op.name, key] = EXPIRED
        for error in fired.errors:
            self._failed(op.name, stage.aggregation, key, value, error)
        before = stage.forwarded
        stage.forwarded = max(before, fired.watermark)
        origin = self.origin
        for number, (output, time) in enumerate(fired.outputs, 1):
            last = number == len(fired.outputs)
            self.origin = origin.child(number)
            watermark = stage.forwarded if last else before
            if stage.timed:
                time = watermark = self.now
            self.when = Moment(time, watermark, op.position)
            self.go(path, place + 1, output, key)
        self.origin = origin

    def _write(self, value: Any, key: Key) -> None:
        super()._write(value, key)
        for sink, written in enumerate(self.outputs):
            if written:
                self.given.append(Written(sink, key, written.pop()))

    def send(
        self, path: list[Op], place: int, value: Any, key: Key
    ) -> None:
        op = path[place]

        def form() -> bytes:
            return pickle.dumps(value)

        data = self._call(op.name, op.what, key, value, form)
        if data is not None:
            self.given.append(Hop(self.owner(key), Entry(
                path, place, -1, key, self.when, data, False, self.origin,
                "", 0,
            )))

    def owner(self, key: Key) -> int:
        owner = self.owners.get(key)
        if owner is None:
            owner = zlib.crc32(key, self.salt) % len(self.workers)
            self.owners[key] = owner
        return owner

    def _call(
        self, step: str, what: Any, key: Key, value: Any,
        function: Callable[..., Any], *args: Any,
    ) -> Any:
        return super()._call(
            step, what, key, value,
            self.virtual.call, self.origin, step, function, args,
        )

    # -- a replay against what was before

    def compare(self, worker: Worker, at: int, given: list[Any]) -> None:
        """Raise if a record gives something else than the first time."""
        first = worker.given[at]
        for one, two in zip(first, given):
            if not same_output(one, two):
                raise self.broken(worker, at, one, two)
        if len(first) != len(given):
            least = min(len(first), len(given))
            raise self.broken(
                worker, at, (first[least:] + [None])[0],
                (given[least:] + [None])[0],
            )

    def broken(self, worker: Worker, at: int, one: Any, two: Any) -> Broken:
        return Broken("replay", (
            "Worker %d was killed, worked on record %d of its journal again, "
            "and that gave\nsomething else than the first time, which has "
            "left already.\n"
            "    first:  %s\n    replay: %s" % (
                worker.number, at, self.shown(one), self.shown(two))
        ))

    def shown(self, output: Any) -> str:
        """An output, for people."""
        if output is None:
            return "nothing"
        if type(output) is Written:
            return "to %s, key %r: %r" % (
                self.sink_names[output.sink], show_key(output.key),
                output.data,
            )
        if type(output) is Dead:
            return "a dead letter: step %r, key %r: %s" % output
        return "to step %r, key %r (worker %d): %s" % (
            output.entry.path[output.entry.place].name,
            show_key(output.entry.key), output.to,
            short(pickle.loads(output.entry.data)),
        )

    # -- the pipeline

    def _ops(self, positions: list[_names.Position]) -> list[Op]:
        stages = [self.vertices[b][place] for b, place in positions]
        ops = []
        crossed = False
        for i, (stage, position) in enumerate(zip(stages, positions)):
            kind, what, key, crosses = stage[0], stage[1], b"", False
            via: Any = None
            if kind in ("key_by", "collect"):
                crosses = stages[i + 1][0] not in ("key_by", "collect")
                crossed = crossed or crosses
                via = position
                if kind == "collect":
                    key = as_key(self.collect_keys[position])
            elif kind == "to_state" or kind in _windows.KINDS:
                crosses = not crossed
                crossed = True
                if position in self.entrances:
                    via = ("entrance of", position)
                if kind in _windows.KINDS:
                    what = _windows.aggregation_of(stage)
            elif kind in ("to_sink", "to_sinks"):
                kind, what = "sinks", None
            if kind == "to_state" and _timers.is_timed(what):
                kind = "timed"
            kind = {"to": "step", "to_state": "state"}.get(kind, kind)
            kind = "windows" if kind in _windows.KINDS else kind
            name = self.window_names.get(position) or (
                "sinks" if what is None else _names.part_name(what))
            ops.append(Op(kind, what, name, crosses, key, position, via))
        return ops


def same_output(one: Any, two: Any) -> bool:
    if one == two:
        return True
    if type(one) is not Hop or type(two) is not Hop or one.to != two.to:
        return False
    return bool(
        one.entry[:5] == two.entry[:5]
        and same_pickles(one.entry.data, two.entry.data)
    )


def reorder_sets(state: Any) -> None:
    """Give sets another order, as saving and loading them may do."""
    seen: set[int] = set()
    pending = [state]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) is set:
            reorder_set(value)
        elif isinstance(value, (list, tuple)):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
        pending += getattr(value, "__dict__", {}).values()


def reorder_set(members: set[Any]) -> None:
    kept = list(members)
    # What has been in a larger table stays there, in another order.
    numbers = range(-(1 << 40), -(1 << 40) + 8 * len(kept))
    members.clear()
    members.update(numbers)
    members.update(reversed(kept))
    members.difference_update([n for n in numbers if n not in kept])
