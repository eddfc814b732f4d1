"""Stages that many applications need, ready made.

Each function here makes a stage for Pipeline.to(); those with state keep it
for each key, so put key_by() before them::

    from wallaroo import helpers

    orders.key_by(customer).to(helpers.dedup(order_id))
        .to(helpers.rolling_mean(10, amount))

Names are those by which state is found again, also after a change of the
code: give your own where a helper comes twice.  Whatever grows is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Optional, TypeVar

from ._decorators import computation, state_computation
from ._errors import api_error
from ._wrapped import Computation, StateComputation

__all__ = [
    "count", "dedup", "fold", "peek", "reduce", "rolling_mean", "top_k",
]

T = TypeVar("T")
Result = TypeVar("Result")
Item = TypeVar("Item", bound=Hashable)


class Count:
    """How many messages there were."""

    def __init__(self) -> None:
        self.count = 0


class Latest:
    """What reduce() and fold() have made so far."""

    def __init__(self, value: Any = None, begun: bool = False) -> None:
        self.value = value
        self.begun = begun


class Seen:
    """What dedup() remembers, the oldest first."""

    def __init__(self) -> None:
        self.seen: dict[Any, None] = {}


class Tally:
    """The counts of top_k(), and what it has passed on last."""

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}
        self.top: list[Any] = []


class Rolling:
    """The last values of rolling_mean()."""

    def __init__(self) -> None:
        self.values: list[float] = []


def count(name: str = "count") -> StateComputation[Any, int, Count]:
    """How many messages of its key there have been, with each message.

    >>> stage = helpers.count()
    >>> state = stage.initial_state()
    >>> [stage(message, state) for message in "aba"]
    [1, 2, 3]
    """

    @state_computation(name, state=Count)
    def counted(data: Any, state: Count) -> int:
        state.count += 1
        return state.count

    return counted


def reduce(
    function: Callable[[T, T], T], name: str = "reduce"
) -> StateComputation[T, T, Latest]:
    """function(result so far, message), with each message of a key.

    The first one is its own result.

    >>> stage = helpers.reduce(max)
    >>> state = stage.initial_state()
    >>> [stage(number, state) for number in (3, 1, 4)]
    [3, 3, 4]
    """
    check_callable("reduce", function)

    @state_computation(name, state=Latest)
    def reduced(data: T, state: Latest) -> T:
        state.value = function(state.value, data) if state.begun else data
        state.begun = True
        value: T = state.value
        return value

    return reduced


def fold(
    initial: Callable[[], Result],
    function: Callable[[Result, T], Result],
    name: str = "fold",
) -> StateComputation[T, Result, Latest]:
    """function(result so far, message), from initial() on.

    The result so far may be of another type than messages.

    >>> stage = helpers.fold(str, lambda text, number: text + str(number))
    >>> state = stage.initial_state()
    >>> [stage(number, state) for number in (3, 1, 4)]
    ['3', '31', '314']
    """
    check_callable("fold", initial)
    check_callable("fold", function)

    def begin() -> Latest:
        return Latest(initial(), True)

    @state_computation(name, state=begin)
    def folded(data: T, state: Latest) -> Result:
        state.value = function(state.value, data)
        value: Result = state.value
        return value

    return folded


def dedup(
    by: Optional[Callable[[T], Hashable]] = None,
    remember: int = 10000,
    name: str = "dedup",
) -> StateComputation[T, T, Seen]:
    """Pass a message on if nothing equal, or with an equal by(message), has
    come for its key before.

    by
        what makes a message another one: a function of it; None: all of it
    remember
        so many are remembered for each key; the oldest are forgotten
    name
        of the step

    >>> stage = helpers.dedup(lambda payment: payment["id"])
    >>> state = stage.initial_state()
    >>> stage({"id": 1, "cents": 5}, state)
    {'id': 1, 'cents': 5}
    >>> stage({"id": 1, "cents": 5}, state) is None
    True
    """
    check_number("dedup", "remember", remember)
    if by is not None:
        check_callable("dedup", by)

    @state_computation(name, state=Seen)
    def fresh(data: T, state: Seen) -> Optional[T]:
        mark = data if by is None else by(data)
        if mark in state.seen:
            return None
        state.seen[mark] = None
        if len(state.seen) > remember:
            del state.seen[next(iter(state.seen))]
        return data

    return fresh


def top_k(
    k: int,
    of: Optional[Callable[[T], Hashable]] = None,
    most: int = 10000,
    name: str = "top_k",
) -> StateComputation[T, list[tuple[Any, int]], Tally]:
    """The k most frequent messages, or of(message), of a key: pairs
    (item, count), passed on whenever they change.

    At most `most` items are counted; where there are more, the rarest make
    room, and what comes then begins with the count of the rarest one: no item
    is counted too low.

    >>> stage = helpers.top_k(2)
    >>> state = stage.initial_state()
    >>> [stage(letter, state) for letter in "abb"]
    [[('a', 1)], [('a', 1), ('b', 1)], [('b', 2), ('a', 1)]]
    """
    check_number("top_k", "k", k)
    check_number("top_k", "most", most)
    if most < k:
        api_error("helpers.top_k(): most=%d is less than k=%d." % (most, k))
    if of is not None:
        check_callable("top_k", of)

    @state_computation(name, state=Tally)
    def frequent(data: T, state: Tally) -> Optional[list[tuple[Any, int]]]:
        item = data if of is None else of(data)
        counts, top = state.counts, state.top
        if item not in counts and len(counts) >= most:
            kept = {one for one, _ in top} if most > k else ()
            rarest = min(
                (one for one in counts if one not in kept),
                key=counts.__getitem__)
            counts[item] = counts.pop(rarest)
        counts[item] = number = counts.get(item, 0) + 1
        if len(top) == k and number <= top[-1][1]:
            return None  # what is at the top has more than it had
        top = [pair for pair in top if pair[0] != item and pair[0] in counts]
        # Of equal counts the one that came first stays in front.
        place = sum(1 for _, least in top if least >= number)
        top.insert(place, (item, number))
        state.top = top[:k]
        return list(state.top)

    return frequent


def rolling_mean(
    size: int,
    of: Optional[Callable[[T], float]] = None,
    name: str = "rolling_mean",
) -> StateComputation[T, float, Rolling]:
    """The mean of the last `size` messages, or of(message), of a key.

    >>> stage = helpers.rolling_mean(2)
    >>> state = stage.initial_state()
    >>> [stage(number, state) for number in (1, 3, 8)]
    [1.0, 2.0, 5.5]
    """
    check_number("rolling_mean", "size", size)
    if of is not None:
        check_callable("rolling_mean", of)

    @state_computation(name, state=Rolling)
    def mean(data: T, state: Rolling) -> float:
        value: Any = data if of is None else of(data)
        state.values.append(value)
        if len(state.values) > size:
            del state.values[0]
        # Of all of them, so that no error of rounding adds up.
        return sum(state.values) / len(state.values)

    return mean


def peek(
    look: Optional[Callable[[T], Any]] = None, name: str = "peek"
) -> Computation[T, T]:
    """Pass everything on as it is, after look(message); without look it is
    printed, which goes to the log."""
    if look is not None:
        check_callable("peek", look)

    @computation(name)
    def looked_at(data: T) -> T:
        if look is None:
            print("%s: %r" % (name, data))
        else:
            look(data)
        return data

    return looked_at


def check_callable(helper: str, function: Any) -> None:
    if not callable(function):
        api_error("helpers.%s() takes a function, not %r."
                  % (helper, function))


def check_number(helper: str, what: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        api_error("helpers.%s(): %s must be a whole number from 1 on, not %r."
                  % (helper, what, value))
