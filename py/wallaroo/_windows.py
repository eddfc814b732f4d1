"""Windows over the messages of a key: their description and arithmetic.

The arithmetic is here alone: the reference executor and the worker's host
call the same classes.  All times are whole nanoseconds.

A range window with range R and slide S is made of panes of gcd(R, S).  Only
panes that hold something exist; the others are where the arithmetic says.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    Optional,
    TypeVar,
    Union,
    overload,
)

from . import _mistakes
from ._errors import api_error
from ._wrapped import Aggregation, _validate_aggregation

if TYPE_CHECKING:
    from ._configs import SinkConfig

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Builder = TypeVar("Builder", bound="_EventTimeBuilder")

# The watermark of a stage whose sources have all fallen silent.
ENDLESS = (1 << 64) - 1

DROP = "drop"
FIRE_PER_MESSAGE = "fire-per-message"
PLACE_IN_OLDEST_WINDOW = "place-in-oldest-window"
LATE_DATA_POLICIES = (DROP, FIRE_PER_MESSAGE, PLACE_IN_OLDEST_WINDOW)

# After so long a count window that is not full is put out as it is.
COUNT_TIMEOUT = 5 * 10**9

# A key cannot have more windows than this open from the beginning.
MOST_WINDOWS = 1_000_000
LONGEST = 1 << 62

Number = Union[int, float]


def nanoseconds(x: Number) -> Number:
    """Nanoseconds, the unit of all times."""
    return x


def microseconds(x: Number) -> Number:
    """Microseconds as nanoseconds."""
    return x * 1000


def milliseconds(x: Number) -> Number:
    """Milliseconds as nanoseconds."""
    return x * 1000000


def seconds(x: Number) -> Number:
    """Seconds as nanoseconds."""
    return x * 1000000000


def minutes(x: Number) -> Number:
    """Minutes as nanoseconds.

    >>> wallaroo.minutes(5)
    300000000000
    """
    return x * 60000000000


def hours(x: Number) -> Number:
    """Hours as nanoseconds."""
    return x * 3600000000000


class RangeWindows(Generic[In, Out]):
    """Windows of a length in time; what RangeWindowsBuilder.over() gives."""

    def __init__(
        self,
        range: int,
        slide: int,
        delay: int,
        aggregation: Any,
        late_data_policy: str,
        late_to: Optional[tuple[Any, ...]] = None,
        early: Optional[int] = None,
    ) -> None:
        self.range = range
        self.slide = slide
        self.delay = delay
        self.aggregation = aggregation
        self.late_data_policy = late_data_policy
        self.late_to = late_to
        self.early = early


class CountWindows(Generic[In, Out]):
    """Windows of a number of messages; CountWindowsBuilder.over()."""

    def __init__(
        self,
        count: int,
        aggregation: Any,
        timeout: Optional[int] = COUNT_TIMEOUT,
    ) -> None:
        self.count = count
        self.aggregation = aggregation
        self.timeout = timeout


class SessionWindows(Generic[In, Out]):
    """Windows that a silence ends; SessionWindowsBuilder.over()."""

    def __init__(
        self, gap: int, aggregation: Any, late_data_policy: str,
        late_to: Optional[tuple[Any, ...]] = None,
        early: Optional[int] = None,
    ) -> None:
        self.gap = gap
        self.aggregation = aggregation
        self.late_data_policy = late_data_policy
        self.late_to = late_to
        self.early = early


class _EventTimeBuilder:
    """What windows of event times have in common."""

    late_to: Optional[tuple[Any, ...]] = None
    early: Optional[int] = None

    def with_late_to(self: Builder, sink: SinkConfig[Any]) -> Builder:
        """Send messages that are too late for all their windows to a sink,
        which gets nothing else; only with event_time()."""
        _once("with_late_to", self.late_to is None)
        self.late_to = _late_sink(sink)
        return self

    def with_early_firings(self: Builder, every: Number) -> Builder:
        """Put out, too, what windows hold that are not complete yet: each
        time event time comes to a multiple of `every` nanoseconds, if
        something has come since the last time; only with event_time().

        An aggregation may have early_output(key, accumulator), which is then
        called instead of output().
        """
        _once("with_early_firings", self.early is None)
        self.early = _duration("with_early_firings", every, 1)
        return self


class RangeWindowsBuilder(_EventTimeBuilder):
    """Describes windows of a length in time, step by step."""

    def __init__(self, range: Number) -> None:
        self.range = _duration("range_windows", range, 1)
        self.slide: Optional[int] = None
        self.delay: Optional[int] = None
        self.default_slide = self.range
        self.default_delay = 0
        self.late_data_policy = ""

    def with_slide(self, slide: Number) -> RangeWindowsBuilder:
        """A window begins every `slide` nanoseconds, which is at most the
        length; without this call windows do not overlap."""
        _once("with_slide", self.slide is None)
        slide = _duration("with_slide", slide, 1)
        if slide > self.range:
            api_error(
                "A window's slide cannot be greater than its range. But "
                "found slide %d for range %d." % (slide, self.range)
            )
        self.slide = slide
        return self

    def with_delay(self, delay: Number) -> RangeWindowsBuilder:
        """For how many nanoseconds after its end a window waits for late
        messages.  With event_time() its lateness is that."""
        _once("with_delay", self.delay is None)
        self.delay = _duration("with_delay", delay, 0)
        return self

    def with_late_data_policy(self, policy: str) -> RangeWindowsBuilder:
        """What happens to a message whose windows are gone: "drop", as without
        this call, "fire-per-message", a window for it alone, or
        "place-in-oldest-window", not with event_time()."""
        _once("with_late_data_policy", not self.late_data_policy)
        if policy not in LATE_DATA_POLICIES:
            api_error(
                "Invalid value for late_data_policy: %r. It must be one of "
                "%s." % (policy, ", ".join(map(repr, LATE_DATA_POLICIES)))
            )
        self.late_data_policy = policy
        return self

    @overload
    def over(
        self, aggregation: Callable[[], Aggregation[In, Any, Out]]
    ) -> RangeWindows[In, Out]: ...
    @overload
    def over(
        self, aggregation: Aggregation[In, Any, Out]
    ) -> RangeWindows[In, Out]: ...
    def over(self, aggregation: Any) -> RangeWindows[Any, Any]:
        """Aggregate with this class; the result is for Pipeline.to()."""
        slide = self.default_slide if self.slide is None else self.slide
        delay = self.default_delay if self.delay is None else self.delay
        if self.range // slide + delay // slide > MOST_WINDOWS:
            api_error(
                "A key would have more than %d windows at once: range %d and "
                "delay %d are too long for slide %d."
                % (MOST_WINDOWS, self.range, delay, slide)
            )
        return RangeWindows(
            self.range, slide, delay, _aggregation(aggregation),
            _late_policy(self.late_data_policy, self.late_to), self.late_to,
            self.early,
        )


class CountWindowsBuilder:
    """Describes windows of a number of messages."""

    def __init__(self, count: int) -> None:
        if type(count) is not int or not 0 < count < 1 << 63:
            api_error(
                "count_windows() takes a whole number from 1 on, not %r."
                % (count,)
            )
        self.count = count
        self.timeout: Optional[int] = COUNT_TIMEOUT
        self._timeout_is_set = False

    def with_timeout(self, timeout: Optional[Number]) -> CountWindowsBuilder:
        """How often windows that are not full are put out as they are;
        None: only when all sources have ended.  Without this call: every 5
        seconds."""
        _once("with_timeout", not self._timeout_is_set)
        self._timeout_is_set = True
        self.timeout = (
            None if timeout is None
            else _duration("with_timeout", timeout, 1)
        )
        return self

    @overload
    def over(
        self, aggregation: Callable[[], Aggregation[In, Any, Out]]
    ) -> CountWindows[In, Out]: ...
    @overload
    def over(
        self, aggregation: Aggregation[In, Any, Out]
    ) -> CountWindows[In, Out]: ...
    def over(self, aggregation: Any) -> CountWindows[Any, Any]:
        """Aggregate with this class; the result is for Pipeline.to()."""
        return CountWindows(
            self.count, _aggregation(aggregation), self.timeout
        )


class SessionWindowsBuilder(_EventTimeBuilder):
    """Describes windows that a silence ends."""

    def __init__(self, gap: Number) -> None:
        self.gap = _duration("session_windows", gap, 1)
        self.late_data_policy = ""

    def with_late_data_policy(self, policy: str) -> SessionWindowsBuilder:
        """What happens to a message that comes too late even for a session of
        its own: "drop", as without this call, or "fire-per-message", a window
        for it alone."""
        _once("with_late_data_policy", not self.late_data_policy)
        if policy not in (DROP, FIRE_PER_MESSAGE):
            api_error(
                "Invalid value for late_data_policy: %r. Of sessions it must "
                "be %r or %r." % (policy, DROP, FIRE_PER_MESSAGE)
            )
        self.late_data_policy = policy
        return self

    @overload
    def over(
        self, aggregation: Callable[[], Aggregation[In, Any, Out]]
    ) -> SessionWindows[In, Out]: ...
    @overload
    def over(
        self, aggregation: Aggregation[In, Any, Out]
    ) -> SessionWindows[In, Out]: ...
    def over(self, aggregation: Any) -> SessionWindows[Any, Any]:
        """Aggregate with this class; the result is for Pipeline.to()."""
        return SessionWindows(
            self.gap, _aggregation(aggregation),
            _late_policy(self.late_data_policy, self.late_to), self.late_to,
            self.early,
        )


def range_windows(range: Number) -> RangeWindowsBuilder:
    """Begin to describe windows of a length in time.

    range is the length in nanoseconds, as wallaroo.minutes() and others give
    it.  Without with_slide() windows follow each other and do not overlap.

    >>> class Sum(wallaroo.Aggregation):
    ...     def initial_accumulator(self):
    ...         return [0]
    ...     def update(self, number, accumulator):
    ...         accumulator[0] += number
    ...     def combine(self, a, b):
    ...         return [a[0] + b[0]]
    ...     def output(self, key, accumulator):
    ...         return (key, accumulator[0])
    >>> windows = (wallaroo.range_windows(wallaroo.minutes(5))
    ...            .with_slide(wallaroo.minutes(1)).over(Sum))
    """
    return RangeWindowsBuilder(range)


def count_windows(count: int) -> CountWindowsBuilder:
    """Begin to describe windows of `count` messages of a key.

    They are put out when they are full; others every five seconds, or as
    with_timeout() says.
    """
    return CountWindowsBuilder(count)


def session_windows(gap: Number) -> SessionWindowsBuilder:
    """Begin to describe windows that a silence of `gap` nanoseconds ends.

    A key's messages whose event times are less than gap apart, one from the
    next, are one session.  All sources need event_time().
    """
    return SessionWindowsBuilder(gap)


def _once(method: str, first: bool) -> None:
    if not first:
        api_error(
            "Only call `%s()` once per window specification." % method
        )


def _late_sink(sink: Any) -> tuple[Any, ...]:
    _mistakes.check_config("with_late_to()", "sink", sink)
    config: tuple[Any, ...] = sink.to_tuple()
    return config


def _late_policy(policy: str, late_to: Any) -> str:
    if late_to is not None and policy not in ("", DROP):
        api_error(
            "What is late goes to a sink by with_late_to(), or "
            "with_late_data_policy(%r) keeps it: leave out one of the two."
            % policy
        )
    return policy or DROP


def _duration(method: str, value: Any, least: int) -> int:
    """A number of nanoseconds, whole."""
    if isinstance(value, float) and math.isfinite(value):
        value = round(value)
    if type(value) is not int or not least <= value <= LONGEST:
        api_error(
            "%s() takes nanoseconds (as from wallaroo.seconds()), at least "
            "%d, not %r." % (method, least, value)
        )
    result: int = value
    return result


def _aggregation(what: Any) -> Any:
    """An instance of what .over() was given; an instance is its own."""
    instance = what()
    _validate_aggregation(instance)
    return instance


# How a key waits, as worker/host.h has it: a timeout would find nothing, or
# something; the key only waits to expire; there is nothing of it any more.
IDLE, OPEN, RESTS, GONE = False, True, 2, 3


class Fired(NamedTuple):
    """What one message or timeout did to the windows of a key."""

    # (output, its event time), in order.
    outputs: list[tuple[Any, int]]
    # Event time of the newest window that fired; 0: none did.
    watermark: int
    # What user code raised, each for one window or message; or a pair of
    # that and the message.
    errors: list[Any]
    # The watermark at which the next window is complete.
    due: int
    # Whether a timeout would find something here: one of the above.
    open: int


class RangeState:
    """The range windows of one key."""

    def __init__(self) -> None:
        # Where the first window begins; None before the first message.
        self.first: Optional[int] = None
        # How many panes there are from there on, empty ones included.
        self.count = 0
        # The newest event time.
        self.high = 0
        # By its beginning: the accumulator of a pane that holds something.
        self.panes: dict[int, Any] = {}


class CountState:
    """The count window of one key."""

    def __init__(self) -> None:
        self.count = 0
        self.high = 0
        self.accumulator: Any = None


Offset = Callable[[str], int]


class RangeArithmetic:
    """The rules of range windows."""

    state = RangeState

    def __init__(
        self, windows: RangeWindows[Any, Any], offset: Optional[Offset] = None
    ) -> None:
        self.aggregation = windows.aggregation
        self.range = windows.range
        self.slide = windows.slide
        self.late_data_policy = windows.late_data_policy
        self.offset = offset or self.offset_of
        self.pane = math.gcd(self.range, self.slide)
        # The delay is rounded up to whole slides.
        self.delay = -(-windows.delay // self.slide) * self.slide
        # A window is complete so long after it has begun.
        self.reach = self.range + self.delay
        self.panes_per_slide = self.slide // self.pane
        self.panes_at_first = self.reach // self.pane
        # Timeouts of the stage, and how long a silent source holds it up.
        self.interval: Optional[int] = 2 * (windows.range + windows.delay)
        self.patience = 2 * self.interval

    def offset_of(self, key: str) -> int:
        """How far a key's windows are shifted: from 0 to 0.8 ranges.

        Windows of all keys that ended at the same moment would make load
        come in bursts.  The number is derived from the key, so that it is
        the same on every worker and in every run.
        """
        raw = key.encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        return int.from_bytes(digest, "big") * self.range * 4 // (5 << 64)

    def apply(
        self, s: RangeState, key: str, value: Any, time: int, watermark: int
    ) -> Fired:
        """A message, at the watermark that its stage has with it."""
        fired = Fired([], 0, [], 0, True)
        if s.first is None:
            begin = watermark - self.delay - self.offset(key)
            s.first = max(0, begin)
            s.count = self.panes_at_first
            s.high = watermark
        s.high = max(s.high, time)
        late = False
        early = time >= s.first + s.count * self.pane
        if not early:
            late = not self._put(s, value, time, fired)
        newest = self._fire(s, key, watermark, fired)
        if early:
            self._grow(s, time)
            late = not self._put(s, value, time, fired)
        if late:
            newest = max(newest, self._late(s, key, value, time, fired))
        return self._result(s, fired, newest)

    def quick(
        self, s: RangeState, value: Any, time: int, watermark: int
    ) -> bool:
        """The usual case: a message for a pane that there is, and nothing
        fires.  False: it is not; what update() raises is raised."""
        first = s.first
        if (
            first is None or watermark >= first + self.reach
            or not first <= time < first + s.count * self.pane
        ):
            return False
        start = time - (time - first) % self.pane
        if start not in s.panes:
            return False
        if time > s.high:
            s.high = time
        self.aggregation.update(value, s.panes[start])
        return True

    def timeout(self, s: RangeState, key: str, watermark: int) -> Fired:
        """Fire what is complete; at ENDLESS all that holds something."""
        fired = Fired([], 0, [], 0, True)
        newest = self._fire(s, key, watermark, fired)
        return self._result(s, fired, newest)

    def failed(self, s: RangeState, error: Exception) -> Fired:
        """What update() raised in quick()."""
        return self._result(s, Fired([], 0, [error], 0, True), 0)

    def _result(self, s: RangeState, fired: Fired, newest: int) -> Fired:
        first = s.first or 0
        return fired._replace(
            watermark=newest,
            due=first + self.reach,
            open=first <= s.high,
        )

    def _put(self, s: RangeState, value: Any, time: int, fired: Fired) -> bool:
        """False: it is late."""
        assert s.first is not None
        if time < s.first:
            return False
        start = s.first + (time - s.first) // self.pane * self.pane
        try:
            if start in s.panes:
                self.aggregation.update(value, s.panes[start])
            else:
                accumulator = self.aggregation.initial_accumulator()
                self.aggregation.update(value, accumulator)
                s.panes[start] = accumulator
        except Exception as error:
            fired.errors.append(error)
        return True

    def _grow(self, s: RangeState, time: int) -> None:
        """Append panes, by whole slides, so that one holds this time."""
        assert s.first is not None
        end = s.first + s.count * self.pane
        if time < end:
            return
        need = (time - end) // self.pane + 1
        per_slide = self.panes_per_slide
        s.count += need * per_slide // math.gcd(need, per_slide)

    def _fire(
        self, s: RangeState, key: str, watermark: int, fired: Fired
    ) -> int:
        """Fire complete windows; the end of the newest, 0 if there is none.

        A watermark that has leapt over all panes starts them anew behind
        itself: windows in between have never existed.
        """
        if s.first is None:
            return 0
        if watermark == ENDLESS:
            watermark = s.high + self.range + self.delay
        # Windows that begin up to here are complete.
        limit = watermark - self.delay - self.range
        if limit < s.first:
            return 0
        last = s.first + (s.count - 1) * self.pane
        begin = s.first
        if limit > last:
            n = -(-s.count // self.panes_per_slide)
            surplus = n * self.panes_per_slide - s.count
            first = limit + self.pane + surplus * self.pane
        else:
            n = (limit - s.first) // self.slide + 1
            first = s.first + n * self.slide
        for _ in range(n):
            # It is gone before user code runs: what raises is not repeated.
            panes = self._panes(s, begin)
            s.first = begin + self.slide
            for start in [p for p in s.panes if p < s.first]:
                del s.panes[start]
            self._output(
                key, panes, begin + self.range - 1, fired
            )
            begin += self.slide
        s.first = first
        return begin - self.slide + self.range - 1

    def _panes(self, s: RangeState, begin: int) -> list[Any]:
        """The accumulators of one window, in order of time."""
        if not s.panes:
            return []
        end = begin + self.range
        starts = sorted(p for p in s.panes if begin <= p < end)
        return [s.panes[start] for start in starts]

    def _output(
        self, key: str, panes: list[Any], time: int, fired: Fired
    ) -> None:
        try:
            whole = self.aggregation.initial_accumulator()
            for accumulator in panes:
                whole = self.aggregation.combine(whole, accumulator)
            output = self.aggregation.output(key, whole)
        except Exception as error:
            fired.errors.append(error)
            return
        if output is not None:
            fired.outputs.append((output, time))

    def _late(
        self, s: RangeState, key: str, value: Any, time: int, fired: Fired
    ) -> int:
        """The event time of what it fired, 0 if nothing."""
        if self.late_data_policy == PLACE_IN_OLDEST_WINDOW:
            assert s.first is not None
            # As if it were so young, or no timeout would find it there.
            s.high = max(s.high, s.first)
            self._put(s, value, s.first, fired)
        elif self.late_data_policy == FIRE_PER_MESSAGE:
            try:
                accumulator = self.aggregation.initial_accumulator()
                self.aggregation.update(value, accumulator)
                output = self.aggregation.output(key, accumulator)
            except Exception as error:
                fired.errors.append(error)
                return 0
            if output is not None:
                fired.outputs.append((output, time))
            return time
        return 0


class CountArithmetic:
    """The rules of count windows."""

    state = CountState
    patience = 0

    def __init__(self, windows: CountWindows[Any, Any]) -> None:
        self.aggregation = windows.aggregation
        self.count = windows.count
        self.interval = windows.timeout

    def apply(
        self, s: CountState, key: str, value: Any, time: int, watermark: int
    ) -> Fired:
        """A message; it may fill the window."""
        fired = Fired([], 0, [], 0, False)
        try:
            if s.count == 0:
                s.accumulator = self.aggregation.initial_accumulator()
            self.aggregation.update(value, s.accumulator)
            s.count += 1
            s.high = max(s.high, time)
        except Exception as error:
            fired.errors.append(error)
        return self._fire(s, key, s.count >= self.count, fired)

    def quick(
        self, s: CountState, value: Any, time: int, watermark: int
    ) -> bool:
        """As above: a window that is begun, and not full with this."""
        if not 0 < s.count < self.count - 1:
            return False
        self.aggregation.update(value, s.accumulator)
        s.count += 1
        if time > s.high:
            s.high = time
        return True

    def timeout(self, s: CountState, key: str, watermark: int) -> Fired:
        """What there is, though it is less than a window."""
        return self._fire(s, key, s.count > 0, Fired([], 0, [], 0, False))

    def failed(self, s: CountState, error: Exception) -> Fired:
        """What update() raised in quick()."""
        return Fired([], 0, [error], 0, s.count > 0)

    def _fire(
        self, s: CountState, key: str, full: bool, fired: Fired
    ) -> Fired:
        if not full:
            return fired._replace(open=s.count > 0)
        whole, s.accumulator, s.count = s.accumulator, None, 0
        try:
            output = self.aggregation.output(key, whole)
        except Exception as error:
            fired.errors.append(error)
            return fired
        if output is not None:
            fired.outputs.append((output, s.high))
        return fired._replace(watermark=s.high)


Arithmetic = Union[RangeArithmetic, CountArithmetic]

RANGE, COUNT, SESSION = (
    "to_range_windows", "to_count_windows", "to_session_windows")
KINDS = (RANGE, COUNT, SESSION)

Windows = Union[
    RangeWindows[Any, Any], CountWindows[Any, Any], SessionWindows[Any, Any]]


def stage_of(windows: Windows) -> tuple[Any, ...]:
    """The stage of an application tuple."""
    if isinstance(windows, SessionWindows):
        return (
            SESSION, windows.gap, windows.aggregation,
            windows.late_data_policy,
        ) + _more(windows)
    if isinstance(windows, RangeWindows):
        return (
            "to_range_windows", windows.range, windows.slide, windows.delay,
            windows.aggregation, windows.late_data_policy,
        ) + _more(windows)
    stage: tuple[Any, ...] = (
        "to_count_windows", windows.count, windows.aggregation,
    )
    if windows.timeout == COUNT_TIMEOUT:
        return stage
    return stage + (windows.timeout,)


def _more(
    windows: Union[RangeWindows[Any, Any], SessionWindows[Any, Any]]
) -> tuple[Any, ...]:
    """What only few windows have, at the end of their stage."""
    if windows.early is not None:
        return (windows.late_to, windows.early)
    return () if windows.late_to is None else (windows.late_to,)


# By kind: where its stage has the configuration of the sink for what is late.
_LATE_TO = {RANGE: 6, SESSION: 4}


def late_to(stage: tuple[Any, ...]) -> Optional[tuple[Any, ...]]:
    """The config tuple of the sink for what is late; None: there is none."""
    at = _LATE_TO.get(stage[0])
    if at is None or len(stage) <= at:
        return None
    config: Optional[tuple[Any, ...]] = stage[at]
    return config


def early(stage: tuple[Any, ...]) -> Optional[int]:
    """How often what is not complete is put out; None: it is not."""
    at = _LATE_TO.get(stage[0])
    if at is None or len(stage) <= at + 1:
        return None
    every: int = stage[at + 1]
    return every


def with_late_to(
    stage: tuple[Any, ...], config: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The same stage with another sink."""
    at = _LATE_TO[stage[0]]
    return stage[:at] + (config,) + stage[at + 1:]


def arithmetic_of(stage: tuple[Any, ...]) -> Arithmetic:
    """The rules of a stage of an application tuple."""
    if stage[0] == "to_range_windows":
        return RangeArithmetic(RangeWindows(*stage[1:]))
    return CountArithmetic(CountWindows(*stage[1:]))


def aggregation_of(stage: tuple[Any, ...]) -> Any:
    """The aggregation of a stage of an application tuple."""
    return stage[4] if stage[0] == "to_range_windows" else stage[2]


def caller(arithmetic: Arithmetic) -> Callable[..., Optional[Fired]]:
    """What the worker calls: without a value for a timeout.  None: nothing
    has fired, the key's windows are open, and when they are due is as it
    was."""
    quick: Callable[..., bool] = arithmetic.quick

    def call(
        state: Any, key: str, value: Any, time: int, watermark: int
    ) -> Optional[Fired]:
        if value is None:
            return arithmetic.timeout(state, key, watermark)
        try:
            if quick(state, value, time, watermark):
                return None
        except Exception as error:
            return arithmetic.failed(state, error)
        return arithmetic.apply(state, key, value, time, watermark)

    return call


def end_of(what: Any) -> Optional[Callable[[str, Any], list[Any]]]:
    """What a step with state gives for a key when nothing comes any more:
    a function of key and state; None: the step has none."""
    if getattr(what, "on_end", None) is None:
        return None
    on_end: Callable[[str, Any], Any] = what.on_end

    def outputs(key: str, state: Any) -> list[Any]:
        result = on_end(key, state)
        if not hasattr(what, "compute_multi"):
            return [] if result is None else [result]
        if result is not None and not isinstance(result, list):
            raise TypeError(
                "on_end of a step that makes lists must return a list, not "
                "%s" % type(result).__name__)
        return [output for output in result or [] if output is not None]

    return outputs


def end_caller(
    outputs: Callable[[str, Any], list[Any]]
) -> Callable[..., Fired]:
    """What the worker calls for a key at the end, as it does windows."""

    def call(
        state: Any, key: str, value: Any, time: int, watermark: int
    ) -> Fired:
        try:
            made = outputs(key, state)
        except Exception as error:
            return Fired([], 0, [error], 0, False)
        return Fired([(output, time) for output in made], 0, [], 0, False)

    return call


# What the bytes of an application's own serialize() begin with.
_OTHER, _RANGE, _COUNT, _EVENT, _TIMED = b"o", b"r", b"c", b"e", b"t"
_SESSION = b"s"

Serialize = Callable[[Any], bytes]
Deserialize = Callable[[bytes], Any]


def hooks(
    serialize: Serialize, deserialize: Deserialize
) -> tuple[Serialize, Deserialize]:
    """An application's own, which see accumulators and not our states."""
    from ._event_time import EventState, SessionState
    from ._timers import TimedState

    def save(o: Any) -> bytes:
        if type(o) is TimedState:
            members = dict(
                vars(o), state=serialize(o.state),
                held=[row[:3] + (serialize(row[3]),) for row in o.held])
            return _TIMED + pickle.dumps(members)
        if type(o) is EventState:
            rows = [
                (pane, row[:3], serialize(row[3]))
                for pane, rows in o.held.items() for row in rows
            ]
            return _EVENT + pickle.dumps((o.low, o.next, rows, o.early))
        if type(o) is SessionState:
            held = [(row[:3], serialize(row[3])) for row in o.held]
            return _SESSION + pickle.dumps((o.due, held, o.early))
        if type(o) is RangeState:
            panes = {start: serialize(a) for start, a in o.panes.items()}
            return _RANGE + pickle.dumps((o.first, o.count, o.high, panes))
        if type(o) is CountState:
            inside = serialize(o.accumulator) if o.count else None
            return _COUNT + pickle.dumps((o.count, o.high, inside))
        saved = serialize(o)
        # What is not bytes is refused by who called.
        return _OTHER + saved if isinstance(saved, bytes) else saved

    def load(bs: bytes) -> Any:
        kind, rest = bs[:1], bs[1:]
        if kind == _OTHER:
            return deserialize(rest)
        members = pickle.loads(rest)
        if kind == _TIMED:
            timed = TimedState(deserialize(members.pop("state")))
            vars(timed).update(members, held=[
                row[:3] + (deserialize(row[3]),) for row in members["held"]])
            return timed
        if kind == _EVENT:
            state = EventState()
            state.low, state.next, rows = members[:3]
            state.early = members[3] if len(members) > 3 else ENDLESS
            for pane, (time, order, watermark), value in rows:
                state.held.setdefault(pane, []).append(
                    (time, order, watermark, deserialize(value)))
            return state
        if kind == _SESSION:
            session = SessionState()
            session.due, held, session.early = members
            session.held = [
                row + (deserialize(value),) for row, value in held]
            return session
        if kind == _RANGE:
            windows = RangeState()
            windows.first, windows.count, windows.high, panes = members
            windows.panes = {
                start: deserialize(a) for start, a in panes.items()
            }
            return windows
        window = CountState()
        window.count, window.high, inside = members
        if inside is not None:
            window.accumulator = deserialize(inside)
        return window

    return save, load
