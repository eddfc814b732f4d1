"""Stage objects: the classes that decorators derive from user functions.

A decorated function becomes the only instance of a class made for it.  The
class is published in the package under a name that every process which
imports the same application finds again, so its instances can be pickled.
"""

from __future__ import annotations

import inspect
import struct
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Optional,
    TypeVar,
    Union,
    overload,
)

from ._errors import NotAFunctionError, api_error

# What takes a kind of message takes a special kind of it, too.
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
State = TypeVar("State")
Accumulator = TypeVar("Accumulator")

# How many classes were made of each base; part of their published names.
_C: Counter[str] = Counter()


class BaseWrapped:
    """What all stage objects have in common."""

    # The user's function; None in classes that are written by hand.
    _func: ClassVar[Optional[Callable[..., Any]]] = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function; without arguments return the stage object."""
        if self._func is None or not (args or kwargs):
            return self
        return self._func(*args, **kwargs)


class Computation(BaseWrapped, Generic[In, Out]):
    """A step that makes at most one output of an input."""

    is_stateful: ClassVar[bool] = False
    _is_multi: ClassVar[bool] = False
    # What a raised exception does; None is the application's setting.
    on_error: ClassVar[Optional[str]] = None
    initial_state: Any = None

    # What generated classes have; which of them there are decides what a
    # stage is, so the bases must not have any.
    if TYPE_CHECKING:
        def name(self) -> str: ...
        def compute(self, data: In) -> Optional[Out]: ...
        @overload
        def __call__(self) -> Computation[In, Out]: ...
        @overload
        def __call__(self, data: In) -> Optional[Out]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class ComputationMulti(Computation[In, Out]):
    """A step that makes a list of outputs of an input."""

    _is_multi = True

    if TYPE_CHECKING:
        def compute_multi(self, data: In) -> Optional[list[Out]]: ...
        @overload  # type: ignore[override]
        def __call__(self) -> ComputationMulti[In, Out]: ...
        @overload
        def __call__(self, data: In) -> Optional[list[Out]]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class StateComputation(Computation[In, Out], Generic[In, Out, State]):
    """A step with a state object for each key."""

    is_stateful = True
    # Version of the state's meaning, for later migration.
    version: ClassVar[int] = 1

    if TYPE_CHECKING:
        def initial_state(self) -> State: ...
        def compute(  # type: ignore[override]
            self, data: In, state: State
        ) -> Optional[Out]: ...
        @overload  # type: ignore[override]
        def __call__(self) -> StateComputation[In, Out, State]: ...
        @overload
        def __call__(self, data: In, state: State) -> Optional[Out]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class StateComputationMulti(
    StateComputation[In, Out, State], ComputationMulti[In, Out]
):
    """A step with a state for each key that makes a list of outputs."""

    if TYPE_CHECKING:
        def compute_multi(  # type: ignore[override]
            self, data: In, state: State
        ) -> Optional[list[Out]]: ...
        @overload  # type: ignore[override]
        def __call__(self) -> StateComputationMulti[In, Out, State]: ...
        @overload
        def __call__(self, data: In, state: State) -> Optional[list[Out]]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Aggregation(BaseWrapped, Generic[In, Accumulator, Out]):
    """What windows do with their messages; made to be derived from.

    initial_accumulator() gives what combine() leaves as it is,
    update(data, accumulator) changes the accumulator in place,
    combine(a, b) gives that of both without changing them, and
    output(key, accumulator) what leaves the window, None for nothing.

    For type checkers: Aggregation[Message, Accumulator, Output].
    """

    # What a raised exception does; None is the application's setting.
    on_error: ClassVar[Optional[str]] = None

    def name(self) -> str:
        return type(self).__name__

    if TYPE_CHECKING:
        def initial_accumulator(self) -> Accumulator: ...
        def update(self, data: In, accumulator: Accumulator) -> None: ...
        def combine(self, a: Accumulator, b: Accumulator) -> Accumulator: ...
        def output(
            self, key: str, accumulator: Accumulator
        ) -> Optional[Out]: ...


class KeyExtractor(BaseWrapped, Generic[In]):
    """Gives the key by which messages are partitioned."""

    on_error: ClassVar[Optional[str]] = None

    if TYPE_CHECKING:
        def name(self) -> str: ...
        def extract_key(self, data: In) -> Union[str, bytes]: ...


class Decoder(BaseWrapped, Generic[Out]):
    """Makes a message of a payload's bytes."""

    # "header": header_length() bytes announce the payload's length;
    # "lines": a payload is a line, without its end.
    framing: ClassVar[str] = "header"

    if TYPE_CHECKING:
        def name(self) -> str: ...
        def header_length(self) -> int: ...
        def payload_length(self, header: bytes) -> int: ...
        def decode(self, payload: bytes) -> Optional[Out]: ...


class OctetDecoder(Decoder[Out]):
    """A decoder for byte streams."""


class Encoder(BaseWrapped, Generic[In]):
    """Makes bytes of a message."""

    on_error: ClassVar[Optional[str]] = None

    if TYPE_CHECKING:
        def name(self) -> str: ...
        def encode(self, data: In) -> Union[bytes, str, None]: ...


class OctetEncoder(Encoder[In]):
    """An encoder whose bytes are written as they are."""


class ConnectorDecoder(Decoder[Out]):
    """A decoder for what connectors send."""

    if TYPE_CHECKING:
        def decoder(self) -> Callable[[bytes], Optional[Out]]: ...


class ConnectorEncoder(Encoder[In]):
    """An encoder for connectors: event time and key are in front."""

    if TYPE_CHECKING:
        def encode(
            self, data: In, event_time: Any = 0,
            key: Union[bytes, str, None] = None,
        ) -> bytes: ...


def _function_name(func: Any) -> str:
    name = getattr(func, "__name__", None)
    if not callable(func) or not isinstance(name, str):
        api_error(
            "Expected a function (with a __name__) but got %r." % (func,),
            NotAFunctionError,
        )
    return name


def _validate_arity_compatability(name: Any, obj: Any, arity: int) -> None:
    """Refuse what cannot be called with `arity` positional arguments.

    The parameters are counted as they are written: `self` of a method and
    of a callable object's __call__ counts, *args does not.
    """
    if not callable(obj):
        api_error(
            "Expected a callable object but got a %s for %s" % (obj, name)
        )
    try:
        spec = inspect.getfullargspec(obj)
    except TypeError:
        return  # a builtin that doesn't tell its parameters
    most = len(spec.args)
    least = most - len(spec.defaults or ())
    if not least <= arity <= most:
        api_error(
            "Incompatible function arity, your function %s must have %d %s."
            % (name, arity, "parameter" if arity == 1 else "parameters")
        )


def _validate_takes_one(func: Any) -> None:
    """Refuse a codec or key function that cannot take one argument."""
    name = _function_name(func)
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return  # a builtin that doesn't tell its parameters
    try:
        signature.bind(None)
    except TypeError:
        api_error(
            "Incompatible function arity, your function %s must have 1 "
            "parameter." % name
        )


def _validate_aggregation(obj: Any) -> None:
    """Refuse what lacks a method that windows call."""
    for method in (
        "name", "initial_accumulator", "update", "combine", "output"
    ):
        if not callable(getattr(obj, method, None)):
            api_error("Aggregation must have method '%s'." % method)


def attach_to_module(
    cls: type, cls_name: str, func: Any, idx: int | None = None
) -> type:
    """Publish a generated class in the package, where pickle finds it."""
    function_name = _function_name(func)
    if idx is None:
        _C[cls_name] += 1
        idx = _C[cls_name]
    name = "%s_%d__%s" % (cls_name, idx, function_name)
    package = sys.modules[__name__.rpartition(".")[0]]
    cls.__module__ = package.__name__
    cls.__qualname__ = name
    setattr(package, name, cls)
    return cls


def _wallaroo_wrap(
    name: Any, func: Any, base_cls: type[BaseWrapped], **kwargs: Any
) -> Any:
    """Make, publish and instantiate the class of one decorated function."""
    _function_name(func)
    members: dict[str, Any] = {
        "__doc__": func.__doc__,
        "_func": staticmethod(func),
        "name": lambda self: name,
    }
    if issubclass(base_cls, Computation):
        members.update(_computation_members(func, base_cls, kwargs))
    elif issubclass(base_cls, KeyExtractor):
        members.update(_key_members(func))
    elif issubclass(base_cls, Decoder):
        members.update(_decoder_members(func, kwargs))
        if issubclass(base_cls, ConnectorDecoder):
            members["decoder"] = lambda self: func
    elif issubclass(base_cls, ConnectorEncoder):
        members.update(_connector_encoder_members(func))
    elif issubclass(base_cls, Encoder):
        members["encode"] = lambda self, data: func(data)
    for option in ("on_error", "version", "ttl", "time"):
        if kwargs.get(option) is not None:
            members[option] = kwargs[option]
    for option in ("on_end", "on_timer"):
        if kwargs.get(option) is not None:
            members[option] = staticmethod(kwargs[option])
    cls = type("C", (base_cls,), members)
    return attach_to_module(cls, base_cls.__name__, func)()


def _computation_members(
    func: Any, base_cls: type[Computation[Any, Any]], kwargs: dict[str, Any]
) -> dict[str, Any]:
    method = "compute_multi" if base_cls._is_multi else "compute"
    if not base_cls.is_stateful:
        return {method: lambda self, data: func(data)}
    factory = kwargs["state"]
    return {
        method: lambda self, data, *state: func(data, *state),
        "initial_state": lambda self: factory(),
        # For the runtime, which calls the factory itself.
        "_state_factory": staticmethod(factory),
    }


def _key_members(func: Any) -> dict[str, Any]:
    def extract_key(self: Any, data: Any) -> Any:
        key = func(data)
        return chr(key) if isinstance(key, int) else key

    return {"extract_key": extract_key}


def _decoder_members(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    header_length = kwargs.get("header_length", 4)
    length_fmt = kwargs.get("length_fmt", ">I")
    return {
        "header_length": lambda self: header_length,
        "payload_length": lambda self, bs: struct.unpack(length_fmt, bs)[0],
        "decode": lambda self, bs: func(bs),
        # For the runtime, which reads plain headers itself.
        "_length_fmt": length_fmt,
    }


def _connector_encoder_members(func: Any) -> dict[str, Any]:
    def put_in_front(
        self: Any, encoded: bytes, event_time: Any = 0, key: Any = None
    ) -> bytes:
        if isinstance(event_time, datetime):
            event_time = int(event_time.timestamp() * 1000)
        if isinstance(key, str):
            key = key.encode("utf-8")
        key = key or b""
        head: bytes = struct.pack(">qI", event_time, len(key)) + key
        return struct.pack(">I", len(head) + len(encoded)) + head + encoded

    def encode(
        self: Any, data: Any, event_time: Any = 0, key: Any = None
    ) -> bytes:
        return put_in_front(self, func(data), event_time, key)

    return {"encode": encode, "_encode": put_in_front}
