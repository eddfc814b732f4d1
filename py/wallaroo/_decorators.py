"""The decorators that turn functions into stages of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, TypeVar, Union, overload

from . import _timers, _windows
from ._errors import api_error, check_policy
from ._timers import Timers
from ._wrapped import (
    Computation,
    ComputationMulti,
    KeyExtractor,
    OctetDecoder,
    OctetEncoder,
    StateComputation,
    StateComputationMulti,
    _validate_arity_compatability,
    _validate_takes_one,
    _wallaroo_wrap,
)

In = TypeVar("In")
Out = TypeVar("Out")
State = TypeVar("State")

Key = Union[str, bytes, int]
Encoded = Union[bytes, str, None]


def _name_of(name: Optional[str], func: Any) -> Any:
    """The stage's name: as given, else the function's."""
    return getattr(func, "__name__", None) if name is None else name


@overload
def computation(
    name: Callable[[In], Optional[Out]],
) -> Computation[In, Out]: ...
@overload
def computation(
    name: Optional[str] = None, *, on_error: Optional[str] = None
) -> Callable[[Callable[[In], Optional[Out]]], Computation[In, Out]]: ...
def computation(name: Any = None, *, on_error: Optional[str] = None) -> Any:
    """Decorate f(data) -> output, or None for no output.

    Without arguments no parentheses are needed.

    name
        the step's, in logs, dead letters and metrics: by default that of the
        function
    on_error
        what an exception does to the record: "fail", "skip" or "dead-letter";
        without it the application's setting holds

    The function can still be called:

    >>> @wallaroo.computation
    ... def positive(number):
    ...     return number if number > 0 else None
    >>> positive(3)
    3
    >>> positive.name()
    'positive'

    A function that takes another number of arguments is refused with a
    WallarooParameterError.
    """
    return _stateless(Computation, name, on_error)


@overload
def computation_multi(
    name: Callable[[In], Optional[list[Out]]],
) -> ComputationMulti[In, Out]: ...
@overload
def computation_multi(
    name: Optional[str] = None, *, on_error: Optional[str] = None
) -> Callable[
    [Callable[[In], Optional[list[Out]]]], ComputationMulti[In, Out]
]: ...
def computation_multi(
    name: Any = None, *, on_error: Optional[str] = None
) -> Any:
    """Decorate f(data) -> list of outputs, or None for no output.

    The outputs go on one by one, in the order of the list; those that are
    None are left out.  Anything else than a list, a tuple for example, is an
    error.  The arguments are those of computation().

    >>> @wallaroo.computation_multi
    ... def words(line):
    ...     return line.split()
    >>> words("to be or not")
    ['to', 'be', 'or', 'not']
    """
    return _stateless(ComputationMulti, name, on_error)


def _stateless(base_cls: Any, name: Any, on_error: Optional[str]) -> Any:
    check_policy(on_error)

    def wrap(func: Any, name: Any = name) -> Any:
        stage = _name_of(name, func)
        _validate_arity_compatability(stage, func, 1)
        return _wallaroo_wrap(stage, func, base_cls, on_error=on_error)

    if callable(name):  # used without parentheses
        return wrap(name, None)
    return wrap


@overload
def state_computation(
    name: Optional[str] = None,
    state: Optional[Callable[[], State]] = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Optional[Callable[[str, State], Any]] = None,
    on_timer: None = None,
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Callable[
    [Callable[[In, State], Optional[Out]]], StateComputation[In, Out, State]
]: ...
@overload
def state_computation(
    name: Optional[str] = None,
    state: Optional[Callable[[], State]] = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Optional[Callable[[str, State], Any]] = None,
    on_timer: Callable[[str, State, Timers], Any],
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Callable[
    [Callable[[In, State, Timers], Optional[Out]]],
    StateComputation[In, Out, State],
]: ...
def state_computation(
    name: Optional[str] = None,
    state: Any = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Any = None,
    on_timer: Any = None,
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Any:
    """Decorate f(data, state) -> output, or None for no output.

    state() makes the state of a key that is seen for the first time; the
    function changes it in place.  The name identifies the stored state.

    With on_timer it is f(data, state, timers), and on_timer(name, state,
    timers) gives an output, or None, for a timer that was set.  With ttl the
    state of a key that was not used for so many nanoseconds is forgotten.
    time says by which time: "event" or "processing".
    """
    return _stateful(
        StateComputation, name, state, on_error, version, on_end, on_timer,
        ttl, time)


@overload
def state_computation_multi(
    name: Optional[str] = None,
    state: Optional[Callable[[], State]] = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Optional[Callable[[str, State], Any]] = None,
    on_timer: None = None,
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Callable[
    [Callable[[In, State], Optional[list[Out]]]],
    StateComputationMulti[In, Out, State],
]: ...
@overload
def state_computation_multi(
    name: Optional[str] = None,
    state: Optional[Callable[[], State]] = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Optional[Callable[[str, State], Any]] = None,
    on_timer: Callable[[str, State, Timers], Any],
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Callable[
    [Callable[[In, State, Timers], Optional[list[Out]]]],
    StateComputationMulti[In, Out, State],
]: ...
def state_computation_multi(
    name: Optional[str] = None,
    state: Any = None,
    *,
    on_error: Optional[str] = None,
    version: int = 1,
    on_end: Any = None,
    on_timer: Any = None,
    ttl: Optional[float] = None,
    time: Optional[str] = None,
) -> Any:
    """Decorate f(data, state) -> list of outputs, or None; with on_timer
    f(data, state, timers)."""
    return _stateful(
        StateComputationMulti, name, state, on_error, version, on_end,
        on_timer, ttl, time)


def _stateful(
    base_cls: Any, name: Any, state: Any, on_error: Optional[str],
    version: int, on_end: Any, on_timer: Any, ttl: Any, time: Optional[str],
) -> Any:
    check_policy(on_error)
    timed = on_timer is not None
    _timers.check_time(time, timed or ttl is not None)
    if ttl is not None:
        ttl = _windows._duration("ttl", ttl, 1)
    if state is None:
        api_error("A state computation needs state=, what makes its state.")
    if type(version) is not int or not 0 <= version < 1 << 32:
        api_error("version must be a whole number, not %r." % (version,))

    def wrap(func: Any) -> Any:
        stage = _name_of(name, func)
        _validate_arity_compatability(stage, func, 3 if timed else 2)
        if on_end is not None:
            _validate_arity_compatability("on_end of %s" % stage, on_end, 2)
        if timed:
            _validate_arity_compatability(
                "on_timer of %s" % stage, on_timer, 3)
        return _wallaroo_wrap(
            stage, func, base_cls,
            state=state, on_error=on_error, version=version, on_end=on_end,
            on_timer=on_timer, ttl=ttl, time=time,
        )

    return wrap


@overload
def key_extractor(func: Callable[[In], Key]) -> KeyExtractor[In]: ...
@overload
def key_extractor(
    func: None = None, *, on_error: Optional[str] = None
) -> Callable[[Callable[[In], Key]], KeyExtractor[In]]: ...
def key_extractor(func: Any = None, *, on_error: Optional[str] = None) -> Any:
    """Decorate f(data) -> key: str, bytes, or an int for chr(int).

    A text and its UTF-8 bytes are the same key.  Equal data must give equal
    keys in every process, so don't make keys of addresses or of the order of
    a set.  on_error is that of computation().

    >>> @wallaroo.key_extractor
    ... def customer(order):
    ...     return order["customer"]
    >>> customer({"customer": "anna"})
    'anna'
    """
    return _one_argument(KeyExtractor, func, on_error)


@overload
def encoder(func: Callable[[In], Encoded]) -> OctetEncoder[In]: ...
@overload
def encoder(
    func: None = None, *, on_error: Optional[str] = None
) -> Callable[[Callable[[In], Encoded]], OctetEncoder[In]]: ...
def encoder(func: Any = None, *, on_error: Optional[str] = None) -> Any:
    """Decorate f(data) -> bytes or str to write, or None for nothing.

    A str is written as UTF-8.  Nothing is added: a line needs its own end.
    on_error is that of computation().

    >>> @wallaroo.encoder
    ... def line(order):
    ...     return "%s %d\\n" % order
    >>> line(("anna", 3))
    'anna 3\\n'
    """
    return _one_argument(OctetEncoder, func, on_error)


def _one_argument(base_cls: Any, func: Any, on_error: Optional[str]) -> Any:
    check_policy(on_error)

    def wrap(func: Any) -> Any:
        _validate_takes_one(func)
        return _wallaroo_wrap(
            func.__name__, func, base_cls, on_error=on_error
        )

    return wrap if func is None else wrap(func)


@overload
def decoder(
    header_length: Callable[[bytes], Optional[Out]],
) -> OctetDecoder[Out]: ...
@overload
def decoder(
    header_length: int = 4, length_fmt: str = ">I"
) -> Callable[[Callable[[bytes], Optional[Out]]], OctetDecoder[Out]]: ...
def decoder(header_length: Any = 4, length_fmt: str = ">I") -> Any:
    """Decorate f(payload) -> message, or None for no message.

    A payload is bytes; it follows a header that says how many they are.

    header_length
        bytes of the header, from 1 to 8
    length_fmt
        the header as a format of the module struct: by default four bytes,
        the highest first

    >>> @wallaroo.decoder(header_length=2, length_fmt=">H")
    ... def text(payload):
    ...     return payload.decode()
    >>> text(b"abc")
    'abc'

    For lines and other usual forms see wallaroo.codecs.
    """
    if callable(header_length):  # used without parentheses
        return decoder()(header_length)

    def wrap(func: Any) -> Any:
        _validate_takes_one(func)
        return _wallaroo_wrap(
            func.__name__, func, OctetDecoder,
            header_length=header_length, length_fmt=length_fmt,
        )

    return wrap

