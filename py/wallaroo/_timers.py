"""Timers of keys, and how long they live: for steps with state that have an
on_timer or a ttl.

The rules are here alone: the reference executor, simulate() and the worker's
host call the same class, and it looks to them as windows do.  A key's timers
are kept beside its state, and saved with it.

By event time, messages wait until the watermark has passed them, and are
applied in the order of their times, timers in between: so what a key gives
does not depend on speed or on the number of workers.  By processing time a
message is applied as it comes, and a timer fires when the journal says that
it is late enough.

A key whose last message or timer is ttl ago is as if it had never been.  A
message decides that by its own time; the worker is told, too, and forgets the
key.  While timers are set it lives.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime
from typing import Any, Optional, Union

from . import _event_time, _windows
from ._errors import api_error
from ._windows import ENDLESS, GONE, IDLE, OPEN, RESTS, Fired

EVENT, PROCESSING = "event", "processing"
KIND = "timed_state"

# Of one key; and characters of a name.
MOST_TIMERS = 1000
LONGEST_NAME = 256

# A message's time, its place among those of its time, how many came before
# it, and the message itself.
Row = tuple[int, _event_time.Order, int, Any]


class TimedState:
    """What there is of a key: its state, and what waits beside it."""

    def __init__(self, state: Any) -> None:
        self.state = state
        # By name: when they are due.
        self.timers: dict[str, int] = {}
        # Set when all sources had ended: they wait for the next message.
        self.asleep: dict[str, int] = {}
        # A heap of messages that the watermark has not passed.
        self.held: list[Row] = []
        self.count = 0
        # The key has had its on_end, or no message yet.
        self.ended = True
        # When it expires, if nothing comes; 0: it does not, or not yet.
        self.expires = 0
        # What the worker was told last.
        self.due = 0
        self.open = -1

    def __repr__(self) -> str:
        text = state_text(self.state)
        timers = {**self.timers, **self.asleep}
        if timers:
            text += " timers(%s)" % ", ".join(
                "%s=%d" % pair for pair in sorted(timers.items()))
        return text


def state_text(state: Any) -> str:
    """repr(), or the members of an object that has none of its own."""
    if getattr(type(state), "__repr__") is not object.__repr__:
        return repr(state)
    return "%s(%s)" % (type(state).__name__, ", ".join(
        "%s=%r" % pair for pair in getattr(state, "__dict__", {}).items()))


def state_of(state: Any) -> Any:
    """The user's object."""
    return state.state if type(state) is TimedState else state


class Timers:
    """The timers of the key at work; what functions get beside its state.

    key is the key, now the time in nanoseconds: that of the message, or that
    for which the timer was set.
    """

    def __init__(
        self, key: str, now: int, timers: dict[str, int],
        asleep: Optional[dict[str, int]] = None,
    ) -> None:
        self.key = key
        self.now = now
        self._timers = timers
        # Where new ones go.
        self._new = timers if asleep is None else asleep

    def set(
        self,
        name: str,
        after: Optional[float] = None,
        *,
        at: Union[int, datetime, None] = None,
    ) -> None:
        """Let the timer `name` fire so many nanoseconds after now, or at
        that time; one of that name is replaced."""
        if (after is None) == (at is None):
            raise TypeError("a timer takes either after= or at=")
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise TypeError(
                "a timer's name must be a text of at most %d characters, "
                "not %r" % (LONGEST_NAME, name))
        if at is not None:
            due = _event_time.nanoseconds_of(at)
        else:
            due = self.now + _after(after)
        if name not in self._new and len(self._new) >= MOST_TIMERS:
            raise ValueError(
                "key %r has %d timers: a key cannot have more"
                % (self.key, MOST_TIMERS))
        # Not now again: else it could fire for ever in one moment.
        due = min(max(due, self.now + 1), _event_time.LATEST)
        self.cancel(name)
        self._new[name] = due

    def cancel(self, name: str) -> bool:
        """Forget the timer; False: there was none of that name."""
        found = self._timers.pop(name, None)
        if self._new is not self._timers:
            found = self._new.pop(name, found)
        return found is not None

    def due(self, name: str) -> Optional[int]:
        """When it will fire; None: there is none of that name."""
        return self._new.get(name, self._timers.get(name))

    def names(self) -> list[str]:
        """Of all that are set, in order."""
        return sorted({**self._timers, **self._new})


def _after(after: Any) -> int:
    if isinstance(after, float):
        after = round(after)
    if not isinstance(after, int) or isinstance(after, bool) or after < 0:
        raise TypeError(
            "after= takes nanoseconds (as from wallaroo.seconds()), not %r"
            % (after,))
    return after


def is_timed(what: Any) -> bool:
    """Whether a step with state is one of these."""
    return (getattr(what, "on_timer", None) is not None
            or getattr(what, "ttl", None) is not None)


def is_by_event(what: Any, events: bool) -> bool:
    """events: whether the application's messages have event times."""
    return events and getattr(what, "time", None) != PROCESSING


def check_time(time: Any, timed: bool) -> None:
    """What a decorator was told."""
    if time not in (None, EVENT, PROCESSING):
        api_error(
            'time= is "event" or "processing", not %r.' % (time,))
    if time is not None and not timed:
        api_error("time= says by which time on_timer= is called, or ttl= is "
                  "over: without them it has no meaning.")


def check(vertices: list[Any], events: bool) -> None:
    """Refuse timers by a time that messages do not have."""
    for stages in vertices:
        for stage in stages:
            if stage[0] == "to_state" and not events and (
                getattr(stage[1], "time", None) == EVENT
            ):
                api_error(
                    'A step has time="event", but no source has '
                    "event_time().")


class TimedRules:
    """What becomes of messages and timers of one step."""

    def __init__(self, what: Any, by_event: bool) -> None:
        self.aggregation = what  # for the policy
        self.by_event = by_event
        self.multi = hasattr(what, "compute_multi")
        self.compute: Callable[..., Any] = (
            what._func if "_func" in vars(type(what))
            else what.compute_multi if self.multi else what.compute)
        self.on_timer: Optional[Callable[..., Any]] = getattr(
            what, "on_timer", None)
        self.holds = by_event and self.on_timer is not None
        self.ttl: Optional[int] = None
        if getattr(what, "ttl", None) is not None:
            self.ttl = _windows._duration("ttl", what.ttl, 1)
        self.end = _windows.end_of(what)
        self.initial_state: Callable[[], Any] = what.initial_state

    def state(self) -> TimedState:
        return TimedState(self.initial_state())

    def call(
        self, s: TimedState, key: str, value: Any, time: int, watermark: int,
        order: Optional[_event_time.Order] = None,
    ) -> Optional[Fired]:
        """What the worker calls: a message with its time, and the watermark
        for which it is late; or None, at a time up to which all is to
        happen, ENDLESS as the watermark when all sources have ended.
        Returns None where nothing has happened and what is due is as it
        was."""
        if value is None:
            return self.timeout(s, key, time, watermark == ENDLESS)
        before = s.due, s.open
        fired = Fired([], 0, [], 0, IDLE)
        if self.by_event:
            time = max(time, watermark)
        if self.holds:
            assert order is not None
            s.count += 1
            heapq.heappush(s.held, (time, order, s.count, value))
        else:
            self._apply(s, key, value, time, fired)
        fired = self.result(s, fired)
        if not fired.outputs and not fired.errors and (
            before == (s.due, s.open)
        ):
            return None
        return fired

    def timeout(
        self, s: TimedState, key: str, time: int, ending: bool
    ) -> Fired:
        """All that is due, of what is there now; what is set meanwhile is
        for the next call."""
        fired = Fired([], 0, [], 0, IDLE)
        left = len(s.held) + len(s.timers)
        nothing = True
        while left > 0 and self._due(s) <= time:
            left -= 1
            nothing = False
            if s.held and s.held[0][0] + 1 == self._due(s):
                at, _, _, value = heapq.heappop(s.held)
                self._apply(s, key, value, at, fired)
            else:
                self._fire(s, key, ending, fired)
        if nothing and not ending and self.ttl is not None and not (
            s.held or s.timers or s.asleep or s.expires > time
        ):
            return fired._replace(open=GONE)
        if nothing and ending and self.end is not None and not s.ended:
            s.ended = True
            self._add(fired, min(time, _event_time.LATEST - 1), None,
                      self.end, key, s.state)
        s.open = -1
        return self.result(s, fired)

    def _apply(
        self, s: TimedState, key: str, value: Any, time: int, fired: Fired
    ) -> None:
        s.ended = False
        if s.asleep:
            s.timers.update(s.asleep)
            s.asleep.clear()
        over = 0 < s.expires <= time and not s.timers
        self._live(s, time)
        self._add(fired, time, value, self._step, s, key, value, time, over)

    def _step(
        self, s: TimedState, key: str, value: Any, time: int, over: bool
    ) -> list[Any]:
        if over:
            s.state = self.initial_state()
        if self.on_timer is None:
            return self._listed(self.compute, value, s.state)
        return self._listed(
            self.compute, value, s.state, Timers(key, time, s.timers))

    def _live(self, s: TimedState, time: int) -> None:
        if self.ttl is not None:
            s.expires = max(
                s.expires, min(time + self.ttl, _event_time.LATEST))

    def _fire(
        self, s: TimedState, key: str, ending: bool, fired: Fired
    ) -> None:
        due, name = min((due, name) for name, due in s.timers.items())
        # It is gone before user code runs: what raises is not repeated.
        del s.timers[name]
        self._live(s, due)
        timers = Timers(key, due, s.timers, s.asleep if ending else None)
        assert self.on_timer is not None
        self._add(fired, due, None, self._listed, self.on_timer, name,
                  s.state, timers)

    def _listed(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        result = function(*args)
        if not self.multi:
            return [] if result is None else [result]
        if result is not None and not isinstance(result, list):
            raise TypeError(
                "compute_multi and on_timer must return a list, not %s"
                % type(result).__name__)
        return [output for output in result or [] if output is not None]

    def _add(
        self, fired: Fired, time: int, value: Any,
        function: Callable[..., list[Any]], *args: Any,
    ) -> None:
        """What a function of the user gives, or raises."""
        try:
            outputs = function(*args)
        except Exception as error:
            fired.errors.append(error if value is None else (error, value))
            return
        fired.outputs.extend((output, time) for output in outputs)

    def _due(self, s: TimedState) -> int:
        """When something is to happen next."""
        due = min(s.timers.values()) if s.timers else ENDLESS
        if s.held:
            due = min(due, s.held[0][0] + 1)
        return due

    def _waits(self, s: TimedState) -> tuple[int, int]:
        """Until when, and for what."""
        due = self._due(s)
        if due != ENDLESS:
            return due, OPEN if s.held else IDLE
        ends = self.end is not None and not s.ended
        if s.expires:
            due = s.expires
            # It is not told again whenever the key is used, but when it is
            # asked: that is not later.
            if s.open == (IDLE if ends else RESTS) and s.due <= due:
                due = s.due
            return due, IDLE if ends else RESTS
        return (ENDLESS - 1 if ends else ENDLESS), IDLE

    def result(
        self, s: TimedState, fired: Fired = Fired([], 0, [], 0, IDLE)
    ) -> Fired:
        """What fired, with how the key waits now."""
        s.due, s.open = self._waits(s)
        return fired._replace(due=s.due, open=s.open)
