"""The reference executor: what a pipeline means, in the plainest form.

One record after the other goes from its source to the sinks, each output of
a step as far as it gets before the next one (depth first), in one thread of
one process.  It reads the application tuple itself, without the worker's
compiler, so each is a check of the other.  Its clock stands still until
somebody moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional, Union

from . import _event_time, _kafka_record, _names, _timers, _windows
from ._errors import api_error, check_policy, user_traceback
from ._kafka_source import KafkaRecord, RecordDecoder, kafka_key

Key = bytes

# Characters of an input in an error.
SHOWN_INPUT = 200


class UserFunctionError(Exception):
    """A user function raised under the policy "fail"."""

    __module__ = "wallaroo.testing"  # where programs find it

    def __init__(
        self, step: str, key: Key, error: BaseException, value: Any = None
    ) -> None:
        text = "user function failed step=%r key=%r: %s: %s" % (
            step, show_key(key), type(error).__name__, error)
        if value is not None:
            text += " (input %s)" % shown_input(value)
        super().__init__(text)
        self.step = step
        self.key = show_key(key)


def shown_input(value: Any) -> str:
    """Enough of it to find it again."""
    try:
        text = repr(value)
    except Exception:  # of the user's __repr__
        text = "of type " + type(value).__name__
    return text if len(text) <= SHOWN_INPUT else (
        text[:SHOWN_INPUT - 3] + "...")


class DeadLetter(NamedTuple):
    """A record that was set aside because a user function raised."""

    step: str
    key: str
    error: str
    traceback: str
    value: Any


class Source(NamedTuple):
    """A source and where its messages go."""

    name: str
    other_name: str
    config: Any
    path: list[_names.Position]

    @property
    def decoder(self) -> Any:
        """None for a generator."""
        place = {
            "tcp": 4, "file": 3, "stdin": 2, "kafka": 5, "kafka-internal": 2,
            "source_connector": 5,
        }.get(self.config[0])
        return None if place is None else self.config[place]

    @property
    def max_size(self) -> int:
        """The largest payload."""
        place = {"tcp": 7, "file": 4, "stdin": 3}.get(self.config[0])
        if place is None:
            return 1 << 20
        size: int = self.config[place]
        return size


class Late(NamedTuple):
    """A record that came too late for its windows and was dropped."""

    step: str
    key: str
    value: Any


class Event(NamedTuple):
    """What a message has where event time is used."""

    time: int
    seen: int  # the watermark for which it is late
    # Its place among those of its time: see _event_time.Order; what is made
    # of it has a place of its own up to sub + width - 1.
    source: int
    part: int
    seq: int
    sub: int
    width: int

    @property
    def order(self) -> _event_time.Order:
        return self.source, self.part, self.seq, self.sub

    def child(self, i: int, n: int) -> Event:
        width = self.width // n
        return self._replace(sub=self.sub + i * width, width=width)


class Moment(NamedTuple):
    """What time it is for a message; all in nanoseconds."""

    # When its source took it in; of a window's output: the window's end.
    time: int
    # Nothing older is expected to follow it on the way that it came.
    watermark: int
    # That way: where its key was set last, or the windows it comes out of.
    via: Any
    event: Optional[Event] = None


class Windowing:
    """A stage of windows at work, or one of timers."""

    def __init__(
        self, name: str, stage: Any, states: dict[Key, Any],
        events: bool = False,
    ) -> None:
        self.name = name
        self.timed = stage[0] == "to_state"
        self.by_event = _event_time.is_by_event(stage, events)
        self.arithmetic: Any
        if self.timed:
            self.by_event = _timers.is_by_event(stage[1], events)
            self.arithmetic = _timers.TimedRules(stage[1], self.by_event)
        elif self.by_event:
            self.arithmetic = _event_time.rules_of(stage)
        else:
            self.arithmetic = _windows.arithmetic_of(stage)
        self.aggregation = (
            stage[1] if self.timed else _windows.aggregation_of(stage))
        self.states = states
        # By key: when its next window is complete, or for count windows
        # the number of the record that began it.
        self.due: dict[Key, int] = {}
        self.open: set[Key] = set()
        self.resting: set[Key] = set()  # they only wait to expire
        # By way: the last watermark, and when it came.
        self.heard: dict[Any, tuple[int, int]] = {}
        self.watermark = 0
        self.forwarded = 0
        self.timer: Optional[int] = None
        self.reach = 0  # the watermark of event times before it

    @property
    def by_count(self) -> bool:
        return isinstance(self.arithmetic, _windows.CountArithmetic)

    def hear(self, now: int, when: Moment) -> int:
        """The stage's watermark with this message."""
        last = self.heard.get(when.via, (0, 0))[0]
        self.heard[when.via] = (max(last, when.watermark), now)
        if self.timer is None and self.arithmetic.interval is not None:
            self.timer = now + self.arithmetic.interval
        return self.effective(now)

    def effective(self, now: int) -> int:
        """The lowest watermark of those that are not silent for long."""
        live = [
            watermark for watermark, heard in self.heard.values()
            if now - heard <= self.arithmetic.patience
        ]
        if not live:
            return _windows.ENDLESS
        self.watermark = max(self.watermark, min(live))
        return self.watermark

    def ripe(self, watermark: int) -> list[Key]:
        """Keys that a timeout fires, in order."""
        if self.by_count or watermark == _windows.ENDLESS:
            keys = self.open
        else:
            keys = {key for key in self.due if self.due[key] <= watermark}
        return sorted(keys, key=lambda key: (self.due[key], key))

    def complete(self, reach: int, ending: bool = False) -> Optional[Key]:
        """The next key with a complete window of event times, or to which
        something is to happen."""
        if self.timed:
            keys = [key for key, due in self.due.items()
                    if due <= reach and due != _windows.ENDLESS
                    and not (ending and key in self.resting)]
        else:
            keys = [key for key in self.open if self.due[key] <= reach]
        if not keys:
            return None
        return min(keys, key=lambda key: (self.due[key], key))

    def waits(self, now: int) -> bool:
        """Whether a later timeout may have something to do."""
        if self.open or self.by_count:
            return bool(self.open)
        if self.effective(now) == _windows.ENDLESS:
            return False
        highest = max(watermark for watermark, _ in self.heard.values())
        return any(due <= highest for due in self.due.values())

    def first(self) -> Optional[int]:
        """When the first timer by processing time is due."""
        if self.by_event:
            return None
        return min((due for due in self.due.values()
                    if due < _windows.ENDLESS - 1), default=None)

    def note(self, key: Key, fired: _windows.Fired, record: int) -> None:
        """What is known of the key's windows now."""
        if fired.open == _windows.GONE:
            del self.states[key]
            self.due.pop(key, None)
            self.open.discard(key)
            self.resting.discard(key)
            return
        if self.timed and fired.open == _windows.RESTS:
            self.resting.add(key)
        else:
            self.resting.discard(key)
        if self.by_count and key not in self.open:
            self.due[key] = record
        elif not self.by_count:
            self.due[key] = fired.due
        if fired.open:
            self.open.add(key)
        else:
            self.open.discard(key)


class Executor:
    """An application being run; push values in, see what comes out."""

    def __init__(
        self,
        application: Any,
        on_error: str = "fail",
        on_output: Optional[Callable[[int, bytes], None]] = None,
    ) -> None:
        _names.check_application(application)
        _event_time.check(application[2])
        _timers.check(application[2], _event_time.uses(application[2]))
        self.name, self.root, self.vertices, self.edges = application
        self.on_error = check_policy(on_error) or "fail"
        self.on_output = on_output
        self.collect_keys = _names.collect_keys(self.vertices, self.edges)
        self.window_names = _names.window_names(self.vertices)
        self.clock = 0
        self.records = 0
        self.watermarks: dict[str, int] = {}
        self.sources = self._find_sources()
        self.by_event = _event_time.uses(self.vertices)
        self.late: list[Late] = []
        # Stages to which nothing comes any more.
        self.ended: set[_names.Position] = set()
        # By source: its watermark.
        self.reached = [0] * len(self.sources)
        # Those of late messages are behind those of all outputs.
        self.sink_configs = _names.sinks_of(self.vertices[self.root][-1])
        self.live_sinks = len(self.sink_configs)
        self.sink_configs += _names.late_sinks(self.vertices)
        self.sink_names = _names.sink_names(self.sink_configs)
        # By stateful step and key: the state.
        self.states: dict[str, dict[Key, Any]] = {}
        self._check_state_names()
        self.windowing = self._make_windowing()
        self.feeders = self._find_feeders()
        # By place: what a step with state gives for a key at the end.
        self.endings = {
            (branch, place): ending
            for branch, stages in enumerate(self.vertices)
            for place, stage in enumerate(stages) if stage[0] == "to_state"
            for ending in [_windows.end_of(stage[1])] if ending is not None
            and not _timers.is_timed(stage[1])
        }
        self.entrances = self._find_entrances()
        # By sink: what its encoder made; the messages that came to all.
        self.outputs: list[list[bytes]] = [[] for _ in self.sink_configs]
        self.values: list[Any] = []
        self.writing: Any = None  # a sink's encoder has this
        self.dead_letters: list[DeadLetter] = []

    def push(
        self,
        source: Source,
        value: Any,
        time: Optional[int] = None,
        watermark: Optional[int] = None,
        key: Optional[Key] = None,
    ) -> None:
        """One decoded message, taken in now unless a time is given.

        The clock does not go on by itself.
        """
        when = self._moment(source, time, watermark)
        if key is None:
            key = self._source_key(source)
        self._flow(source.path, value, key, when)
        if self.by_event:
            self._look()

    def push_payload(
        self,
        source: Source,
        payload: Any,
        time: Optional[int] = None,
        watermark: Optional[int] = None,
        key: Optional[Key] = None,
    ) -> None:
        """One payload, through the source's decoder."""
        shown = self._source_key(source) if key is None else key
        decoder = source.decoder
        value = self._call(
            source.name, decoder, shown, payload, decoder.decode, payload
        )
        if value is not None:
            self.push(source, value, time, watermark, key)

    def push_record(
        self,
        source: Source,
        record: KafkaRecord,
        time: Optional[int] = None,
        watermark: Optional[int] = None,
    ) -> None:
        """One record of Kafka: its value, or all of it, and its key."""
        whole = isinstance(source.decoder, RecordDecoder)
        self.push_payload(
            source, record if whole else record.value or b"", time,
            watermark, kafka_key(record))

    def advance(self, to: int) -> None:
        """Let the clock go on; timers ring on the way."""
        while True:
            timer, position = min(
                ((timer, position)
                 for position, windowing in self.windowing.items()
                 for timer in [
                     windowing.first() if windowing.timed
                     else windowing.timer]
                 if timer is not None),
                default=(None, (0, 0)),
            )
            if timer is None or timer > to:
                break
            self.clock = max(self.clock, timer)
            if self.windowing[position].timed:
                self._fire_timers(position, self.clock)
            else:
                self._timeout(position)
        self.clock = max(self.clock, to)

    def next_timer(self) -> Optional[int]:
        """When the next timer rings, if one is set."""
        return min(
            (windowing.timer for windowing in self.windowing.values()
             if windowing.timer is not None),
            default=None,
        )

    def finish(self) -> None:
        """Let the clock go on until no timer is left; then the sources that
        can end have ended, and windows that wait for these alone close.
        With event time all sources have ended.  Timers of keys that are set
        now have fired then."""
        for position, windowing in self.windowing.items():
            if windowing.timed and not self._ends(position):
                self.advance(max(
                    (due for state in windowing.states.values()
                     for due in state.timers.values()), default=self.clock))
        while True:
            timer = self.next_timer()
            while timer is not None and not self.by_event:
                self.advance(timer)
                timer = self.next_timer()
            if not self._close_next():
                return

    def _close_next(self) -> bool:
        """Come to the end with the first stage on the way to the sinks to
        which nothing comes any more; False: with all."""
        stages = set(self.windowing) | set(self.endings)
        for position in sorted(
            stages - self.ended, key=lambda position: -len(
                _names.rest_of_path(position, self.vertices, self.edges)),
        ):
            if self._ends(position):
                self.ended.add(position)
                self._close(position)
                return True
        return False

    def _ends(self, position: _names.Position) -> bool:
        """Whether nothing comes to a stage in the end."""
        return self.by_event or all(
            source.config[0] in _names.ENDING for source in self.sources
            if position in source.path
        )

    def _close(self, position: _names.Position) -> None:
        if position in self.endings:
            self._end_keys(position)
        elif self.windowing[position].timed:
            self._fire_timers(position, _windows.ENDLESS - 1, True)
        elif self.windowing[position].by_event:
            self._fire_complete(
                position, self.windowing[position], _windows.ENDLESS)
        else:
            self._fire_ripe(position, _windows.ENDLESS)

    def _end_keys(self, position: _names.Position) -> None:
        """The end of each key of a step with state, in order."""
        branch, place = position
        what = self.vertices[branch][place][1]
        name = _names.part_name(what)
        rest = _names.rest_of_path(position, self.vertices, self.edges)
        self.records += 1
        for key in sorted(self.states[name]):
            outputs = self._call(
                name, what, key, None, self.endings[position], show_key(key),
                self.states[name][key],
            )
            for n, output in enumerate(outputs or []):
                event = Event(
                    _event_time.LATEST - 1, 0, len(self.sources),
                    _event_time.key_order(key), _event_time.LATEST - 1, n, 1,
                )
                self._flow(rest, output, key, Moment(
                    self.clock, self.clock, position, event))

    def apply_state(self, step: str, key: Union[str, Key], value: Any) -> Any:
        """One input of one stateful step: the list of its outputs."""
        for branch in self.vertices:
            for kind, *rest in branch:
                if kind == "to_state" and _names.part_name(rest[0]) == step:
                    if _timers.is_timed(rest[0]):
                        api_error(
                            "Step %r has timers, which apply_state() does "
                            "not know." % step)
                    return self._step_state(rest[0], as_key(key), value)
        raise KeyError(step)

    def _source_key(self, source: Source) -> Key:
        """Of a message whose source gives it no key of its own."""
        if source.config[0] in _names.KAFKA:
            return b"kafka-source-key-%d" % self.records
        return _names.SOURCE_KEYS.get(source.config[0], b"")

    def _moment(
        self, source: Source, time: Optional[int], watermark: Optional[int]
    ) -> Moment:
        self.records += 1
        if time is None:
            time = self.clock
        highest = max(self.watermarks.get(source.name, 0), time)
        self.watermarks[source.name] = highest
        event = Event(
            0, 0, self.sources.index(source), 0, self.records, 0,
            _windows.ENDLESS,
        )
        return Moment(
            time, highest if watermark is None else watermark, "source", event
        )

    def _find_sources(self) -> list[Source]:
        found = [
            (stage, (branch, 0))
            for branch, stages in enumerate(self.vertices)
            for stage in stages
            if stage[0] == "source"
        ]
        names = _names.source_names(stage for stage, _ in found)
        return [
            Source(
                name,
                stage[2][1],
                stage[2],
                _names.rest_of_path(position, self.vertices, self.edges),
            )
            for name, (stage, position) in zip(names, found)
        ]

    def _check_state_names(self) -> None:
        for branch in self.vertices:
            for kind, *rest in branch:
                if kind == "to_state":
                    name = _names.part_name(rest[0])
                    if name in self.states:
                        api_error(
                            "Two state computations have the name %r: "
                            "rename one." % name
                        )
                    self.states[name] = {}

    def _make_windowing(self) -> dict[_names.Position, Windowing]:
        result = {}
        for (branch, place), name in self.window_names.items():
            self.states[name] = {}
            result[branch, place] = Windowing(
                name, self.vertices[branch][place], self.states[name],
                self.by_event,
            )
        for branch, stages in enumerate(self.vertices):
            for place, stage in enumerate(stages):
                if stage[0] == "to_state" and _timers.is_timed(stage[1]):
                    name = _names.part_name(stage[1])
                    result[branch, place] = Windowing(
                        name, stage, self.states[name], self.by_event)
        return result

    def _find_feeders(
        self
    ) -> dict[_names.Position, list[Union[int, _names.Position]]]:
        """What comes to each stage of windows, by the sources' numbers and
        the windows before it; the first of them on the way come first."""
        order = _names.branches(self.root, self.edges)
        found: dict[_names.Position, list[Union[int, _names.Position]]] = {
            position: [] for position in sorted(
                self.windowing, key=lambda p: (order.index(p[0]), p[1]))
        }

        def feed(
            what: Union[int, _names.Position], path: list[_names.Position]
        ) -> None:
            for position in path:
                if position in found:
                    return found[position].append(what)

        for number, source in enumerate(self.sources):
            feed(number, source.path)
        for position in found:
            feed(position, _names.rest_of_path(
                position, self.vertices, self.edges))
        return found

    def _look(self) -> None:
        """Fire what is complete by the times of events."""
        out: dict[Any, int] = dict(enumerate(self.reached))
        for position, feeders in self.feeders.items():
            windowing = self.windowing[position]
            reach = min(out[feeder] for feeder in feeders)
            out[position] = reach
            if not windowing.by_event:
                if reach == _windows.ENDLESS and not windowing.timed:
                    self._fire_ripe(position, reach)
                else:
                    windowing.reach = reach
                continue
            if reach != _windows.ENDLESS:
                windowing.watermark = max(windowing.watermark, reach)
            if windowing.timed:
                self._fire_timers(position, reach)
            else:
                self._fire_complete(position, windowing, reach)

    def _fire_timers(
        self, position: _names.Position, reach: int, ending: bool = False
    ) -> None:
        """What is due up to here happens, key by key, in order."""
        windowing = self.windowing[position]
        rest = _names.rest_of_path(position, self.vertices, self.edges)
        key = windowing.complete(reach, ending)
        while key is not None:
            due = windowing.due[key]
            fired = windowing.arithmetic.call(
                windowing.states[key], show_key(key), None,
                due if ending or windowing.by_event else reach,
                _windows.ENDLESS if ending else due,
            )
            self._from_windows([position] + rest, key, None, fired)
            key = windowing.complete(reach, ending)

    def _fire_complete(
        self, position: _names.Position, windowing: Windowing, reach: int
    ) -> None:
        rest = _names.rest_of_path(position, self.vertices, self.edges)
        key = windowing.complete(reach)
        while key is not None:
            fired = windowing.arithmetic.timeout(
                windowing.states[key], show_key(key), windowing.due[key]
            )
            self._from_windows([position] + rest, key, None, fired)
            key = windowing.complete(reach)

    def _find_entrances(self) -> set[_names.Position]:
        """Stages with state that messages reach from a source with no
        key_by or collect in between: there they are brought together."""
        found = set()
        for source in self.sources:
            for branch, place in source.path:
                kind = self.vertices[branch][place][0]
                if kind in ("key_by", "collect"):
                    break
                if kind == "to_state" or kind in _windows.KINDS:
                    found.add((branch, place))
                    break
        return found

    def _flow(
        self,
        path: list[_names.Position],
        value: Any,
        key: Key,
        when: Moment,
    ) -> None:
        """Send a message through the first place of path, then the rest."""
        branch, place = path[0]
        stage = self.vertices[branch][place]
        kind, what = stage[0], stage[1]
        if kind in ("key_by", "collect"):
            when = when._replace(via=path[0])
        elif path[0] in self.entrances:
            when = when._replace(via=("entrance of", path[0]))
        if kind in ("to_sink", "to_sinks"):
            self._write(value, key)
        elif kind == "collect":
            constant = as_key(self.collect_keys[path[0]])
            self._flow(path[1:], value, constant, when)
        elif kind == "key_by":
            new_key = self._key_by(what, key, value)
            if new_key is not None:
                self._flow(path[1:], value, new_key, when)
        elif kind in _windows.KINDS:
            self._to_windows(path, value, key, when)
        elif path[0] in self.windowing:
            self._to_timed(path, value, key, when)
        elif kind == _event_time.KIND:
            timed = self._timed(stage, key, value, when)
            if timed is not None:
                self._flow(path[1:], value, key, timed)
        elif kind in ("to", "to_state"):
            if kind == "to_state":
                outputs = self._step_state(what, key, value)
            else:
                outputs = self._step(what, key, value)
            multi = hasattr(what, "compute_multi")
            for n, output in enumerate(outputs):
                if multi and when.event is not None:
                    event = when.event.child(n, len(outputs))
                    self._flow(
                        path[1:], output, key, when._replace(event=event))
                else:
                    self._flow(path[1:], output, key, when)
        else:
            api_error("Unknown kind of stage: %r." % (kind,))

    def _timed(
        self, stage: Any, key: Key, value: Any, when: Moment
    ) -> Optional[Moment]:
        """A message gets its time, and its source a watermark."""
        what, event = stage[1], when.event
        assert event is not None
        time: Optional[int] = self._call(
            what.name(), what, key, value, what.time_of, value)
        if time is None:
            return None
        seen = self.reached[event.source]
        self.reached[event.source] = max(seen, time - stage[2])
        return when._replace(event=event._replace(time=time, seen=seen))

    def _step(self, what: Any, key: Key, value: Any) -> list[Any]:
        name = _names.part_name(what)
        if hasattr(what, "compute_multi"):
            outputs = self._call(
                name, what, key, value, listed, what.compute_multi, value
            )
            return present(outputs)
        return present(
            [self._call(name, what, key, value, what.compute, value)]
        )

    def _step_state(self, what: Any, key: Key, value: Any) -> list[Any]:
        name = _names.part_name(what)

        def step() -> list[Any]:
            states = self.states[name]
            if key not in states:
                states[key] = what.initial_state()
            if hasattr(what, "compute_multi"):
                return listed(what.compute_multi, value, states[key])
            return [what.compute(value, states[key])]

        return present(self._call(name, what, key, value, step))

    def _to_windows(
        self,
        path: list[_names.Position],
        value: Any,
        key: Key,
        when: Moment,
    ) -> None:
        windowing = self.windowing[path[0]]
        if windowing.by_event:
            return self._to_event_windows(path, value, key, when)
        watermark = windowing.hear(self.clock, when)
        if key not in windowing.states:
            windowing.states[key] = windowing.arithmetic.state()
        fired = windowing.arithmetic.apply(
            windowing.states[key], show_key(key), value,
            when.event.time if self.by_event and when.event else when.time,
            watermark,
        )
        self._from_windows(path, key, value, fired)

    def _to_timed(
        self, path: list[_names.Position], value: Any, key: Key, when: Moment
    ) -> None:
        """A message comes to a step with timers."""
        windowing, event = self.windowing[path[0]], when.event
        assert event is not None
        rules, what = windowing.arithmetic, windowing.aggregation
        if key not in windowing.states:
            state = self._call(windowing.name, what, key, value, rules.state)
            if state is None:
                return
            windowing.states[key] = state
        fired = rules.call(
            windowing.states[key], show_key(key), value,
            event.time if windowing.by_event else when.time,
            max(event.seen, windowing.watermark), event.order,
        )
        if fired is None:
            return
        windowing.note(key, fired, self.records)
        for error, of in fired.errors:
            self._failed(windowing.name, what, key, of, error)
        n = len(fired.outputs)
        for i, (output, _) in enumerate(fired.outputs):
            self._flow(path[1:], output, key, when if not rules.multi else
                       when._replace(event=event.child(i, n)))

    def _to_event_windows(
        self, path: list[_names.Position], value: Any, key: Key, when: Moment
    ) -> None:
        windowing, event = self.windowing[path[0]], when.event
        assert event is not None
        if key not in windowing.states:
            windowing.states[key] = windowing.arithmetic.state()
        fired = windowing.arithmetic.call(
            windowing.states[key], show_key(key), value, event.time,
            max(event.seen, windowing.watermark), event.order,
        )
        if fired is False:
            self.late.append(
                Late(self.window_names[path[0]], show_key(key), value))
            if key not in windowing.due:  # its state was made for this
                del windowing.states[key]
            branch, place = path[0]
            config = _windows.late_to(self.vertices[branch][place])
            if config is not None:
                self._write_to(self.sink_configs.index(config), value, key)
        elif fired is not None:
            self._from_windows(path, key, value, fired, event)

    def _timeout(self, position: _names.Position) -> None:
        """The timer of a stage of windows rings."""
        windowing = self.windowing[position]
        self._fire_ripe(position, windowing.effective(self.clock))
        windowing.timer = None
        if windowing.waits(self.clock):
            assert windowing.arithmetic.interval is not None
            windowing.timer = self.clock + windowing.arithmetic.interval

    def _fire_ripe(self, position: _names.Position, watermark: int) -> None:
        windowing = self.windowing[position]
        rest = _names.rest_of_path(position, self.vertices, self.edges)
        self.records += 1
        for key in windowing.ripe(watermark):
            fired = windowing.arithmetic.timeout(
                windowing.states[key], show_key(key), watermark
            )
            self._from_windows([position] + rest, key, None, fired)

    def _from_windows(
        self,
        path: list[_names.Position],
        key: Key,
        value: Any,
        fired: _windows.Fired,
        late: Optional[Event] = None,
    ) -> None:
        """Of several outputs only the last one carries the new watermark:
        no output comes late because of another one."""
        windowing = self.windowing[path[0]]
        windowing.note(key, fired, self.records)
        name = windowing.name
        for error in fired.errors:
            of = value
            if isinstance(error, tuple):
                error, of = error
            self._failed(name, windowing.aggregation, key, of, error)
        before = windowing.forwarded
        windowing.forwarded = max(before, fired.watermark)
        for n, (output, time) in enumerate(fired.outputs, 1):
            last = n == len(fired.outputs)
            watermark = windowing.forwarded if last else before
            if windowing.timed and not windowing.by_event:
                time = watermark = self._now()
            event = None
            if self.by_event:
                if windowing.timed and not windowing.by_event:
                    time = (_event_time.LATEST - 1
                            if path[0] in self.ended else 0)
                event = late or self._event_of_window(path[0], key, n, time)
            self._flow(
                path[1:], output, key, Moment(time, watermark, path[0], event)
            )

    def _now(self) -> int:
        """The time that what a timer gives has."""
        return self.clock

    def _event_of_window(
        self, position: _names.Position, key: Key, n: int, time: int
    ) -> Event:
        windowing = self.windowing[position]
        if not windowing.by_event:
            time = max(time, windowing.reach)
        rank = list(self.feeders).index(position)
        return Event(
            time, 0, len(self.sources) + rank, _event_time.key_order(key),
            time, n - 1, 1,
        )

    def _key_by(self, what: Any, key: Key, value: Any) -> Optional[Key]:
        def extract() -> Key:
            return as_key(what.extract_key(value))

        name = _names.part_name(what)
        new_key: Optional[Key] = self._call(name, what, key, value, extract)
        return new_key

    def _write(self, value: Any, key: Key) -> None:
        self.values.append(value)
        for number in range(self.live_sinks):
            self._write_to(number, value, key)

    def _write_to(self, number: int, value: Any, key: Key) -> None:
        config = self.sink_configs[number]
        self.writing = value
        encoder = _names.encoder_of(config)
        data = self._call(
            self.sink_names[number], encoder, key, value,
            encoded_for_kafka if config[0] in _names.KAFKA else encoded,
            encoder, value,
        )
        if data is not None:
            self.outputs[number].append(data)
            if self.on_output is not None:
                self.on_output(number, data)

    def _call(
        self,
        step: str,
        what: Any,
        key: Key,
        value: Any,
        function: Callable[..., Any],
        *args: Any,
    ) -> Any:
        """The function's result, or None when the record is given up."""
        try:
            return function(*args)
        except Exception as error:
            self._failed(step, what, key, value, error)
            return None

    def _failed(
        self, step: str, what: Any, key: Key, value: Any, error: Exception
    ) -> None:
        """A user function raised: what the policy says."""
        policy = check_policy(getattr(what, "on_error", None))
        policy = policy or self.on_error
        if policy == "fail":
            raise UserFunctionError(step, key, error, value) from error
        if policy == "dead-letter":
            self.dead_letters.append(DeadLetter(
                step, show_key(key),
                "%s: %s" % (type(error).__name__, error),
                user_traceback(error),
                value,
            ))


def generated(generator: Any) -> Iterator[Any]:
    """What a generator source yields."""
    value = generator.initial_value()
    while value is not None:
        following = generator.apply(value)
        yield value
        value = following


def listed(function: Callable[..., Any], *args: Any) -> list[Any]:
    """The outputs of a function that has to return a list or None."""
    result = function(*args)
    if result is None:
        return []
    if not isinstance(result, list):
        raise TypeError(
            "compute_multi must return a list, not %s" % type(result).__name__
        )
    return result


def present(outputs: Optional[list[Any]]) -> list[Any]:
    """The outputs without None, which stands for no output."""
    return [output for output in outputs or [] if output is not None]


def encoded(encoder: Any, value: Any) -> Optional[bytes]:
    """What an encoder wants written; None for nothing."""
    data = encoder.encode(value)
    if isinstance(data, str):
        return data.encode("utf-8")
    if data is None or isinstance(data, bytes):
        return data
    raise TypeError(
        "encode must return bytes, str or None, not %s" % type(data).__name__
    )


def encoded_for_kafka(encoder: Any, value: Any) -> Optional[bytes]:
    """The value of a record (value, key, partition); None for none."""
    record = encoder.encode(value)
    if record is None:
        return None
    return _kafka_record.parts(record)[0] or b""


def as_key(key: Any) -> Key:
    """A key's bytes: str and its UTF-8 are the same key."""
    if isinstance(key, int):
        key = chr(key)
    if isinstance(key, str):
        try:
            return key.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a surrogate that never was a byte
            return key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return key
    raise TypeError(
        "a key must be str, bytes or int, not %s" % type(key).__name__
    )


def show_key(key: Key) -> str:
    """A key as users see it."""
    return key.decode("utf-8", "surrogateescape")
