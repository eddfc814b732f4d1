"""Event time: where messages have their times from, and windows over these.

A source's messages get their times by a function of the user.  By the times
that it has seen, each ordered stream of a source knows up to where it is
complete, and whether a message comes too late; the worker's runtime brings
that knowledge to the windows.  The arithmetic of windows is here alone, as
that of arrival times is in _windows: a window applies what it holds when the
watermark has passed its end, in the order of times, sources and positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, Optional, Union

from . import _names, _windows
from ._errors import api_error, check_policy
from ._windows import Fired

KIND = "event_time"
LATEST = 1 << 62
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# Before the first window that any key has.
LONG_AGO = -LATEST

# Where a message stands among those of its time: source, connection, offset
# in it, number among those made of one record.
Order = tuple[int, int, int, int]

# What a window holds: a message with its time, place, and the watermark with
# which it came.
Row = tuple[int, Order, int, Any]


class EventTime:
    """Where the times of messages come from: a stage of a pipeline."""

    def __init__(
        self,
        extract: Callable[[Any], Any],
        name: Optional[str],
        on_error: Optional[str],
    ) -> None:
        self._extract = extract
        self._name = str(name or getattr(extract, "__name__", "event_time"))
        self.on_error = check_policy(on_error)

    def name(self) -> str:
        return self._name

    def time_of(self, data: Any) -> int:
        """A message's time in whole nanoseconds."""
        return nanoseconds_of(self._extract(data))

    def packed(self, data: Any) -> bytes:
        """The same for the worker."""
        return self.time_of(data).to_bytes(8, "big")


def nanoseconds_of(time: Any) -> int:
    """What an extracting function returned, in whole nanoseconds."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(
                "an event time needs a time zone, %r has none" % (time,))
        time = (time - EPOCH) // timedelta(microseconds=1) * 1000
    elif isinstance(time, float) and math.isfinite(time):
        time = round(time)
    if not isinstance(time, int) or isinstance(time, bool):
        raise TypeError(
            "an event time must be nanoseconds since 1970 or a datetime, not "
            "%r" % (time,))
    if not 0 <= time < LATEST:
        raise ValueError(
            "an event time is nanoseconds since 1970, not %d" % time)
    return time


def stage_of(
    extract: Callable[[Any], Any],
    lateness: Any,
    idle_timeout: Any,
    name: Optional[str],
    on_error: Optional[str],
) -> tuple[Any, ...]:
    """The stage of an application tuple."""
    if not callable(extract):
        api_error(
            "event_time() takes a function that gives a message's time, not "
            "%r." % (extract,))
    idle = 0
    if idle_timeout is not None:
        idle = _windows._duration("event_time(idle_timeout=)", idle_timeout, 1)
    return (
        KIND, EventTime(extract, name, on_error),
        _windows._duration("event_time(lateness=)", lateness, 0), idle,
    )


def check_place(stages: list[tuple[Any, ...]], of_source: bool) -> None:
    """Refuse event_time() where the order of a source is lost."""
    kinds = [stage[0] for stage in stages]
    if KIND in kinds:
        api_error("A source has event_time() once.")
    if not of_source or any(kind not in ("source", "to") for kind in kinds):
        api_error(
            "event_time() belongs to a source: only stateless computations "
            "may be before it."
        )


def uses(vertices: list[Any]) -> bool:
    """Whether messages have times of their own."""
    return any(stage[0] == KIND for stages in vertices for stage in stages)


def check(vertices: list[Any]) -> None:
    """Refuse pipelines in which only some messages have such times."""
    if not uses(vertices):
        if any(stage[0] == _windows.SESSION
               for stages in vertices for stage in stages):
            api_error(
                "session_windows() are made by event times: say where "
                "messages have theirs from, with event_time() of each source."
            )
        if any(_windows.late_to(stage) is not None
               for stages in vertices for stage in stages):
            api_error(
                "with_late_to() needs event times: without event_time() of "
                "each source it is not known what is late."
            )
        if any(_windows.early(stage) is not None
               for stages in vertices for stage in stages):
            api_error(
                "with_early_firings() needs event times, from event_time() of "
                "each source."
            )
        return
    sinks = [
        config for stages in vertices for stage in stages
        if stage[0] in ("to_sink", "to_sinks")
        for config in _names.sinks_of(stage)
    ]
    for stages in vertices:
        if stages and stages[0][0] == "source" and not any(
            stage[0] == KIND for stage in stages
        ):
            api_error(
                "Source %r has no event_time(), but another one has: either "
                "all sources have it or none." % (stages[0][1],))
        for stage in stages:
            if stage[0] == _windows.RANGE:
                check_windows(stage)
            late_to = _windows.late_to(stage)
            if late_to is not None and late_to in sinks:
                api_error(
                    "The sink of with_late_to() gets all outputs, too: it "
                    "must be one of its own."
                )


def check_windows(stage: tuple[Any, ...]) -> None:
    _, _, _, delay, _, policy = stage[:6]
    if delay:
        api_error(
            "With event_time(), how long windows wait is its lateness=: "
            "leave out with_delay().")
    if policy == _windows.PLACE_IN_OLDEST_WINDOW:
        api_error(
            "With event_time(), no window is the oldest for all workers: "
            "%r is not possible." % policy)


class EventState:
    """The windows of one key."""

    # The first point at which something new is put out early.
    early = _windows.ENDLESS

    def __init__(self) -> None:
        # By pane.
        self.held: dict[int, list[Row]] = {}
        # The first of them.
        self.low = LATEST
        # Windows that begin before here have been fired.
        self.next = LONG_AGO


class SessionState:
    """The sessions of one key."""

    early = _windows.ENDLESS  # as of EventState

    def __init__(self) -> None:
        self.held: list[Row] = []
        # The first session does not end before this.
        self.due = _windows.ENDLESS


class EventWindows:
    """What the rules of all windows of event times have in common.

    Early firings are at points, the multiples of a time.  At a point a window
    shows the messages from before it that came when their own source was not
    there yet, since a watermark at the point knows all of these.
    """

    interval: Optional[int] = None
    patience = 0

    def __init__(
        self,
        windows: Union[
            _windows.RangeWindows[Any, Any],
            _windows.SessionWindows[Any, Any]],
    ) -> None:
        self.aggregation = windows.aggregation
        self.late_data_policy = windows.late_data_policy
        self.every = windows.early

    def _result(self, s: Any, fired: Fired) -> Fired:
        # Of a key that holds nothing there is nothing to know.
        if not s.held:
            return fired._replace(due=0, open=_windows.GONE)
        due = min(self._due(s), s.early)
        return fired._replace(due=max(0, due), open=_windows.OPEN)

    def _point(self, row: Row) -> int:
        """The first point at which a message is shown."""
        assert self.every is not None
        return (max(row[0], row[2]) // self.every + 1) * self.every

    def _is_sooner(self, s: Any, row: Row) -> bool:
        """A message has come: whether there is something to do for it before
        what was known."""
        point = self._point(row)
        if point >= s.early:
            return False
        s.early = point
        return True

    def _fire_early(self, s: Any, key: str, fired: Fired) -> None:
        """Put out what is new at the first point."""
        if self.every is None:  # a version before this had early firings
            s.early = _windows.ENDLESS
            return
        point = s.early
        points = map(self._point, self._all(s))
        s.early = min(
            (p for p in points if p > point), default=_windows.ENDLESS)
        for rows in self._shown(s, point):
            self._output(key, rows, point - 1, fired, True)

    def _all(self, s: Any) -> list[Row]:
        raise NotImplementedError

    def _shown(self, s: Any, point: int) -> Iterator[list[Row]]:
        """Of each window with something new what it shows at a point."""
        raise NotImplementedError

    def _due(self, s: Any) -> int:
        """The watermark at which there may be something to fire."""
        raise NotImplementedError

    def late(
        self, s: Any, key: str, value: Any, time: int
    ) -> Union[Fired, bool]:
        if self.late_data_policy != _windows.FIRE_PER_MESSAGE:
            return False
        fired = Fired([], 0, [], 0, True)
        row = (time, (0, 0, 0, 0), 0, value)
        self._output(key, [row], time, fired)
        return self._result(s, fired)

    def _output(
        self, key: str, rows: list[Row], time: int, fired: Fired,
        early: bool = False,
    ) -> None:
        # What update() raises is told once, when the window is complete.
        errors: list[Any] = [] if early else fired.errors
        try:
            accumulator = self.aggregation.initial_accumulator()
        except Exception as error:
            errors.append(error)
            return
        counted = False
        for row in rows:
            try:
                self.aggregation.update(row[3], accumulator)
                counted = True
            except Exception as error:
                errors.append((error, row[3]))
        if not counted:
            return
        output_of = self.aggregation.output
        if early:
            output_of = getattr(self.aggregation, "early_output", output_of)
        try:
            output = output_of(key, accumulator)
        except Exception as error:
            fired.errors.append(error)
            return
        if output is not None:
            fired.outputs.append((output, time))


class EventRange(EventWindows):
    """The rules of range windows of event times.

    They begin at multiples of the slide.  A message is in each of its windows
    that was not complete for its own source when it came; since that was
    decided there, all of them hold the same on every number of workers.
    """

    state = EventState

    def __init__(self, windows: _windows.RangeWindows[Any, Any]) -> None:
        super().__init__(windows)
        self.range = windows.range
        self.slide = windows.slide
        self.pane = math.gcd(self.range, self.slide)

    def call(
        self, s: EventState, key: str, value: Any, time: int, watermark: int,
        order: Optional[Order] = None,
    ) -> Union[Fired, bool, None]:
        """What the worker calls: a message, at the watermark for which it is
        late, or None, at the one that fires.  Returns False for one that is
        late and not wanted, None where nothing has changed."""
        if value is None:
            return self.timeout(s, key, watermark)
        assert order is not None
        if time // self.slide * self.slide + self.range <= watermark:
            return self.late(s, key, value, time)
        pane = time // self.pane * self.pane
        row = (time, order, watermark, value)
        sooner = self.every is not None and self._is_sooner(s, row)
        s.held.setdefault(pane, []).append(row)
        if pane >= s.low and not sooner:
            return None
        s.low = min(s.low, pane)
        return self._result(s, Fired([], 0, [], 0, True))

    def timeout(self, s: EventState, key: str, watermark: int) -> Fired:
        """Fire what is complete, each window once."""
        fired = Fired([], 0, [], 0, True)
        while s.held and min(self._due(s), s.early) <= watermark:
            end = self._due(s)
            if s.early < end:
                self._fire_early(s, key, fired)
                continue
            s.next = end - self.range + self.slide
            rows = self._rows(s, end)
            # They are gone before user code runs.
            for pane in [pane for pane in s.held if pane < s.next]:
                del s.held[pane]
            s.low = min(s.held, default=LATEST)
            if rows:
                self._output(key, rows, end - 1, fired)
        return self._result(s, fired)

    def _rows(self, s: EventState, end: int) -> list[Row]:
        """What the window with this end holds, in order."""
        rows = [
            row
            for pane in range(end - self.range, end, self.pane)
            for row in s.held.get(pane, ())
            if row[2] < end
        ]
        rows.sort(key=_place)
        return rows

    def _point(self, row: Row) -> int:
        point = super()._point(row)
        # At the end of its last window it has come out.
        last = row[0] // self.slide * self.slide + self.range
        return point if point < last else _windows.ENDLESS

    def _all(self, s: EventState) -> list[Row]:
        return [row for rows in s.held.values() for row in rows]

    def _shown(self, s: EventState, point: int) -> Iterator[list[Row]]:
        ends = {
            end for row in self._all(s) if self._point(row) == point
            for end in self._ends(s, row[0]) if end > point
        }
        for end in sorted(ends):
            yield [row for row in self._rows(s, end)
                   if row[0] < point and row[2] < point]

    def _ends(self, s: EventState, time: int) -> range:
        """Of the windows of a time that have not been fired."""
        last = time // self.slide * self.slide + self.range
        return range(last, max(time, s.next + self.range - 1), -self.slide)

    def _due(self, s: EventState) -> int:
        """The end of the first window that may hold something."""
        begin = -((self.range - self.pane - s.low) // self.slide) * self.slide
        return max(begin, s.next) + self.range


class EventSessions(EventWindows):
    """The rules of sessions.

    A message would by itself be a session from its time to gap after it; it is
    too late if that was complete for its own source when it came.  A session
    begins with the first message there is.  The next one joins it if it is
    less than gap behind the last, and came when the session, as long as it
    gets, was not complete for its own source.  A watermark at the end of a
    session therefore knows all that it will ever hold.
    """

    state = SessionState

    def __init__(self, windows: _windows.SessionWindows[Any, Any]) -> None:
        super().__init__(windows)
        self.gap = windows.gap

    def call(
        self, s: SessionState, key: str, value: Any, time: int,
        watermark: int, order: Optional[Order] = None,
    ) -> Union[Fired, bool, None]:
        """As of EventRange."""
        if value is None:
            return self.timeout(s, key, watermark)
        assert order is not None
        end = time + self.gap
        if end <= watermark:
            return self.late(s, key, value, time)
        row = (time, order, watermark, value)
        s.held.append(row)
        sooner = self.every is not None and self._is_sooner(s, row)
        if end >= s.due and not sooner:
            return None
        s.due = min(s.due, end)
        return self._result(s, Fired([], 0, [], 0, True))

    def timeout(self, s: SessionState, key: str, watermark: int) -> Fired:
        """Fire what has ended, each session once.  One that has become longer
        since it was looked at only says when it ends now."""
        fired = Fired([], 0, [], 0, True)
        s.held.sort(key=_place)
        while s.held and min(s.due, s.early) <= watermark:
            if s.early < s.due:
                self._fire_early(s, key, fired)
                continue
            rows, others, s.due = self._first(s.held)
            if s.due > min(watermark, s.early):
                continue
            # They are gone before user code runs.
            end, s.held = s.due, others
            s.due = (
                others[0][0] + self.gap if others else _windows.ENDLESS)
            self._output(key, rows, end - 1, fired)
        return self._result(s, fired)

    def _first(self, held: list[Row]) -> tuple[list[Row], list[Row], int]:
        """The first session of what is held, in order; what is not in it; its
        end."""
        end = held[0][0] + self.gap
        n = 0
        for row in held:
            if row[0] >= end:
                break
            n += 1
            if row[2] < end:
                end = row[0] + self.gap
        rows = [row for row in held[:n] if row[2] < end]
        others = [row for row in held[:n] if row[2] >= end]
        return rows, others + held[n:], end

    def _all(self, s: SessionState) -> list[Row]:
        return s.held

    def _shown(self, s: SessionState, point: int) -> Iterator[list[Row]]:
        left = [
            row for row in s.held if row[0] < point and row[2] < point]
        while left:
            rows, left, _ = self._first(left)
            if any(self._point(row) == point for row in rows):
                yield rows

    def _due(self, s: SessionState) -> int:
        return s.due


def rules_of(stage: tuple[Any, ...]) -> Union[EventRange, EventSessions]:
    """The rules of a stage of an application tuple."""
    if stage[0] == _windows.SESSION:
        return EventSessions(_windows.SessionWindows(*stage[1:]))
    return EventRange(_windows.RangeWindows(*stage[1:]))


def is_by_event(stage: tuple[Any, ...], events: bool) -> bool:
    """Whether a stage of windows goes by event times."""
    return events and stage[0] in (_windows.RANGE, _windows.SESSION)


def _place(row: Row) -> tuple[int, Order]:
    return row[:2]


def key_order(key: bytes) -> int:
    """Among equal times, the order of what windows of several keys put out:
    FNV-1a, as in the worker."""
    h = 0xCBF29CE484222325
    for byte in key:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h
