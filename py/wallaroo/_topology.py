"""The application tuple compiled to what the worker runs.

Stages become a list in which every stage has one successor with a higher
number; the last one sends to the sinks.  Functions get numbers, by which the
worker calls them.  The wire form is described in common/topo.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

from . import (
    _event_time, _kafka_record, _kafka_sink, _kafka_source, _names, _timers,
    _windows
)
from ._errors import api_error, check_policy
from ._mistakes import without
from .codecs import FramedDecoder

VERSION = 1
NONE = -1
LARGEST = 1 << 30  # of max_size and parallelism

# Kinds whose name in the application tuple differs from the wire's.
_STEPS = {"to": "step", "to_state": "state"}
_WINDOWS = {
    _windows.RANGE: "range_windows", _windows.COUNT: "count_windows",
    # The worker sees no difference.
    _windows.SESSION: "range_windows",
}
# What has a state for each key.
_STATEFUL = ("state", _timers.KIND, "range_windows", "count_windows")
_KEYINGS = ("key_by", "collect")
# Of a source's connectors: connections at a time, bytes of a frame.
_CONNECTORS = 100
_CONNECTOR_FRAME = 1 << 20


class Compiled(NamedTuple):
    """An application as the worker sees it."""

    topology: list[Any]
    functions: list[Any]
    state_factories: list[Optional[Callable[[], Any]]]
    frame_lengths: list[Optional[Callable[[bytes], int]]]


class _Stage:
    """A stage before it gets its number."""

    def __init__(self, kind: str, name: str, nxt: Optional[_Stage]) -> None:
        self.kind = kind
        self.name = name
        self.next = nxt
        self.number = NONE
        self.fn = NONE
        self.exchange = NONE
        self.multi = False
        self.policy = "default"
        self.version = 0
        # Windows: nanoseconds between timeouts, 0 for none, and until a
        # silent way to the stage is not waited for any more.  Event time:
        # its lateness, and until an idle source is not waited for.  A
        # state: the function for its end, if it has one; one with timers:
        # whether they are by event time.
        self.timing: list[int] = []

    def wire(self) -> list[Any]:
        nxt = NONE if self.next is None else self.next.number
        return [
            self.name, self.kind, nxt, self.fn, self.exchange, self.multi,
            self.policy, self.version,
        ] + self.timing


def compile_application(application: Any, numbered: bool = False) -> Compiled:
    """Compile what wallaroo.build_application returned.

    With `numbered`, stages with state may have equal names and get numbers;
    otherwise they are refused, since numbers change with the pipeline.
    """
    _names.check_application(application)
    return _Compiler(application, numbered).compile()


class _Compiler:
    def __init__(self, application: Any, numbered: bool) -> None:
        self.name, self.root, self.vertices, self.edges = application
        self.version: str = getattr(application, "version", "")
        self.numbered = numbered
        self.functions: list[Any] = []
        self.state_factories: list[Optional[Callable[[], Any]]] = []
        self.frame_lengths: list[Optional[Callable[[bytes], int]]] = []
        self.collect_keys = _names.collect_keys(self.vertices, self.edges)
        self.window_names = _names.window_names(self.vertices)
        self.by_event = _event_time.uses(self.vertices)
        _event_time.check(self.vertices)
        _timers.check(self.vertices, self.by_event)
        # Those of late messages are behind those of all outputs.
        self.sink_configs = _names.sinks_of(self.vertices[self.root][-1])
        self.sink_configs += _names.late_sinks(self.vertices)
        # Successors stand before their predecessors here.
        self.backwards: list[_Stage] = []
        self.sources: list[tuple[Any, _Stage]] = []

    def compile(self) -> Compiled:
        check_text("The name", self.name, "the application")
        self.add_branch(self.root, None)
        if self.numbered:
            self.number_state_names()
        self.add_exchanges()
        listening = [source for source in self.sources if is_used(source[0])]
        if not listening:
            api_error("An application needs a source that is used.")
        stages = list(reversed(self.backwards))
        check_state_names(stages)
        exchanges = 0
        for number, stage in enumerate(stages):
            stage.number = number
            if crosses(stage):
                stage.exchange = exchanges
                exchanges += 1
        names = _names.source_names(source for source, _ in listening)
        sources = [
            self.source(name, config, stage.number)
            for name, ((_, _, config), stage) in zip(names, listening)
        ]
        topology = [
            "wallaroo-topology", VERSION, self.name, sources,
            [stage.wire() for stage in stages], self.sinks(exchanges),
        ]
        if self.version:
            topology.append(self.version)
        return Compiled(
            topology, self.functions, self.state_factories,
            self.frame_lengths,
        )

    def add_function(
        self,
        function: Any,
        state_factory: Optional[Callable[[], Any]] = None,
        frame_length: Optional[Callable[[bytes], int]] = None,
    ) -> int:
        self.functions.append(function)
        self.state_factories.append(state_factory)
        self.frame_lengths.append(frame_length)
        return len(self.functions) - 1

    def add_branch(self, branch: int, nxt: Optional[_Stage]) -> None:
        """Add a branch and what flows into it, ends first."""
        for place in reversed(range(len(self.vertices[branch]))):
            stage = self.vertices[branch][place]
            if stage[0] == "source":
                assert nxt is not None
                self.sources.insert(0, (stage, nxt))
                return
            nxt = self.stage(stage, (branch, place), nxt)
            self.backwards.append(nxt)
        left, right = self.edges[branch]
        self.add_branch(right, nxt)
        self.add_branch(left, nxt)

    def stage(
        self, described: Any, position: _names.Position, nxt: Optional[_Stage]
    ) -> _Stage:
        kind, what = described[0], described[1]
        if kind in ("to_sink", "to_sinks"):
            return _Stage("sinks", "sinks", None)
        if kind == "collect":
            return _Stage(kind, self.collect_keys[position], nxt)
        if kind in _WINDOWS:
            return self.windows(described, position, nxt)
        if kind == _event_time.KIND:
            stage = _Stage(kind, what.name(), nxt)
            stage.policy = policy(what)
            stage.timing = [described[2], described[3]]
            stage.fn = self.add_function(what.packed)
            return stage
        if kind not in _STEPS and kind != "key_by":
            api_error("Unknown kind of stage: %r." % (kind,))
        stage = _Stage(_STEPS.get(kind, kind), _names.part_name(what), nxt)
        stage.policy = policy(what)
        if kind == "key_by":
            stage.fn = self.add_function(function(what, "extract_key"))
            return stage
        stage.multi = hasattr(what, "compute_multi")
        method = "compute_multi" if stage.multi else "compute"
        factory = None
        if kind == "to_state":
            factory = state_factory(what, stage.name)
            stage.version = state_version(what, stage.name)
            if _timers.is_timed(what):
                rules = _timers.TimedRules(
                    what, _timers.is_by_event(what, self.by_event))
                stage.kind, stage.multi = _timers.KIND, False
                stage.timing = [rules.by_event]
                stage.fn = self.add_function(rules.call, rules.state)
                return stage
            ending = _windows.end_of(what)
            if ending is not None:
                stage.timing = [
                    self.add_function(_windows.end_caller(ending))]
        stage.fn = self.add_function(function(what, method), factory)
        return stage

    def windows(
        self, described: Any, position: _names.Position, nxt: Optional[_Stage]
    ) -> _Stage:
        name = self.window_names[position]
        stage = _Stage(_WINDOWS[described[0]], name, nxt)
        stage.policy = policy(_windows.aggregation_of(described))
        stage.version = 1
        if _event_time.is_by_event(described, self.by_event):
            events = _event_time.rules_of(described)
            stage.version = 3 if described[0] == _windows.SESSION else 2
            stage.timing = [0, 0]
            late_to = _windows.late_to(described)
            if late_to is not None:
                stage.timing.append(self.sink_configs.index(late_to))
            stage.fn = self.add_function(events.call, events.state)
            return stage
        arithmetic = _windows.arithmetic_of(described)
        stage.timing = [arithmetic.interval or 0, arithmetic.patience]
        stage.fn = self.add_function(
            _windows.caller(arithmetic), arithmetic.state
        )
        return stage

    def number_state_names(self) -> None:
        """Tell stages with state apart: a name that comes again gets a
        number, one that windows do not have yet."""
        states = [s for s in reversed(self.backwards)
                  if s.kind in ("state", _timers.KIND)]
        names = _names.unique(
            (stage.name for stage in states), " (%d)",
            set(self.window_names.values()),
        )
        for stage, name in zip(states, names):
            stage.name = name

    def add_exchanges(self) -> None:
        """Give each stateful stage whose key's owner may not have it one.

        A message is at the owner of its key once it has crossed an exchange
        since the key was set; the constant keys of sources are set at once.
        """
        anywhere = {id(first) for _, first in self.sources}
        for stage in list(reversed(self.backwards)):
            reached = id(stage) in anywhere
            if stage.kind in _STATEFUL and reached:
                self.insert_exchange_before(stage)
                reached = False
            if reached and not crosses(stage) and stage.next is not None:
                anywhere.add(id(stage.next))

    def insert_exchange_before(self, stage: _Stage) -> None:
        exchange = _Stage("exchange", "to " + stage.name, stage)
        for other in self.backwards:
            if other.next is stage:
                other.next = exchange
        self.sources = [
            (source, exchange if first is stage else first)
            for source, first in self.sources
        ]
        self.backwards.insert(self.backwards.index(stage) + 1, exchange)

    def source(self, name: str, config: Any, first: int) -> list[Any]:
        kind = config[0]
        host, port, path, parallelism = "", 0, "", 0
        framing, header_length, header_format, max_size = "none", 0, "", 0
        key = _names.SOURCE_KEYS.get(kind)
        if kind == "source_connector":
            return self.connector_source(name, config, first)
        if kind in _names.KAFKA:
            return self.kafka_source(name, config, first)
        if key is None:
            api_error("Unknown kind of source: %r." % (kind,))
        if kind == "gen":
            check_generator(config[2], name)
            fn = self.add_function(config[2])
        else:
            if kind == "tcp":
                host, decoder = config[2], config[4]
                port = port_number(config[3], name)
                parallelism, max_size = config[6], config[7]
            elif kind == "file":
                path, decoder, max_size = config[2], config[3], config[4]
            else:
                decoder, max_size = config[2], config[3]
            check_size("max_size", max_size, name)
            framing, header_length, header_format = framing_of(decoder, name)
            fn = self.add_function(
                function(decoder, "decode"),
                None,
                decoder.payload_length if framing == "custom" else None,
            )
        if kind == "tcp":
            check_text("The host", host, name)
            check_size("parallelism", parallelism, name)
        elif kind == "file":
            check_text("The path", path, name)
        return [
            name, kind, first, fn, framing, header_length, header_format,
            max_size, host, port, path, key, parallelism,
        ]

    def connector_source(
        self, name: str, config: Any, first: int
    ) -> list[Any]:
        """Its decoder gets what is in a message, whatever its framing."""
        host, port = config[2], port_number(config[3], name)
        decoder, cookie, most, refill = config[5:9]
        check_text("The host", host, name)
        check_cookie(cookie, name)
        check_size("max_credits", most, name)
        if type(refill) is not int or not 0 <= refill < most:
            api_error(
                "refill_credits of %s must be from 0 to max_credits - 1, "
                "not %r." % (name, refill)
            )
        fn = self.add_function(function(decoder, "decode"))
        return [
            name, "connector", first, fn, "connector", 4, "",
            _CONNECTOR_FRAME, host, port, "",
            _names.SOURCE_KEYS["source_connector"], _CONNECTORS, cookie,
            most, refill,
        ]

    def kafka_source(self, name: str, config: Any, first: int) -> list[Any]:
        """Its decoder gets values, or what _kafka_source.py unpacks."""
        decoder, rest = _kafka_source.topology_of(
            self.name, name, config, wallaroo_args())
        fn = self.add_function(function(decoder, "decode"))
        return [
            name, "kafka", first, fn, "kafka", 4, "", LARGEST, "", 0, "", b"",
            1,
        ] + rest

    def connector_sink(self, name: str, config: Any) -> list[Any]:
        host, port, encoder, _, cookie = config[2:7]
        check_text("The host", host, name)
        check_cookie(cookie, name)
        fn = self.add_function(function(encoder, "encode"))
        return [
            name, "connector", fn, host, port_number(port, name), "", NONE,
            policy(encoder), cookie,
        ]

    def kafka_sink(self, name: str, config: Any) -> list[Any]:
        encoder = _names.encoder_of(config)
        fn = self.add_function(
            _kafka_record.packing(function(encoder, "encode")))
        return [
            name, "kafka", fn, "", 0, "", NONE, policy(encoder),
            *_kafka_sink.wire(name, config),
        ]

    def sinks(self, exchange: int) -> list[Any]:
        """All sinks; those with one writer get exchanges from here on."""
        result = []
        names = _names.sink_names(self.sink_configs)
        for name, config in zip(names, self.sink_configs):
            kind, encoder = config[0], _names.encoder_of(config)
            host, port, path, own = "", 0, "", NONE
            if kind == "tcp":
                host, port = config[2], port_number(config[3], name)
                check_text("The host", host, name)
            elif kind in ("file", "stdout"):
                path = config[2] if kind == "file" else ""
                own, exchange = exchange, exchange + 1
                if kind == "file":
                    check_text("The path", path, name)
            elif kind == "sink_connector":
                result.append(self.connector_sink(name, config))
                continue
            elif kind in _names.KAFKA:
                result.append(self.kafka_sink(name, config))
                continue
            else:
                api_error("Unknown kind of sink: %r." % (kind,))
            fn = self.add_function(function(encoder, "encode"))
            result.append(
                [name, kind, fn, host, port, path, own, policy(encoder)]
            )
        result.append([
            _names.DEAD_LETTERS, "dead-letter", NONE, "", 0, "", exchange,
            "fail",
        ])
        return result


def wallaroo_args() -> Sequence[str]:
    """All arguments of the program, where options of sources may be."""
    import wallaroo

    return wallaroo._ARGS


def check_cookie(cookie: Any, part: str) -> None:
    if not isinstance(cookie, str) or "\0" in cookie:
        api_error("The cookie of %s must be a text." % part)


def is_used(source: Any) -> bool:
    """Whether a source stage is to yield anything: valid=False isn't."""
    config = source[2]
    return config[0] != "tcp" or bool(config[5])


def crosses(stage: _Stage) -> bool:
    """Whether messages go to the owner of their key after this stage.

    Of several keyings in a row only the last one's key matters.
    """
    if stage.kind in _KEYINGS:
        assert stage.next is not None
        return stage.next.kind not in _KEYINGS
    return stage.kind == "exchange"


def check_state_names(stages: list[_Stage]) -> None:
    seen = set()
    for stage in stages:
        if stage.kind in _STATEFUL:
            if stage.name in seen:
                api_error(
                    "Two state computations have the name %r, by which "
                    "state is found again: rename one." % stage.name
                )
            seen.add(stage.name)


def function(part: Any, method: str) -> Any:
    """What the worker calls: the user's function, without our wrapper."""
    call = getattr(part, method, None)
    if not callable(call):
        api_error(without(part, method))
    if "_func" in vars(type(part)):
        return part._func
    return call


def state_factory(part: Any, name: str) -> Callable[[], Any]:
    """What makes a new state."""
    members = vars(type(part))
    factory = (
        part._state_factory
        if "_state_factory" in members
        else getattr(part, "initial_state", None)
    )
    if not callable(factory):
        api_error(
            "The state= of %s must be callable without arguments, not %r."
            % (name, factory)
        )
    result: Callable[[], Any] = factory
    return result


def state_version(part: Any, name: str) -> int:
    version = getattr(part, "version", 1)
    if type(version) is not int or not 0 <= version < 1 << 32:
        api_error("The version of %s must be a whole number." % name)
    return version


def policy(part: Any) -> str:
    return check_policy(getattr(part, "on_error", None)) or "default"


def framing_of(decoder: Any, source: str) -> tuple[str, int, str]:
    """How payloads are cut: framing, header's length and form.

    A header that is one plain number is left to the worker to read.
    """
    if getattr(decoder, "framing", "header") == "lines":
        return ("lines", 0, "")
    for method in ("header_length", "payload_length"):
        if not callable(getattr(decoder, method, None)):
            api_error(
                "The decoder of %s has no method %s: %s."
                % (source, method, describe(decoder))
            )
    length = decoder.header_length()
    if type(length) is not int or not 1 <= length <= 8:
        api_error(
            "The decoder of %s must have a header_length from 1 to 8, not %r."
            % (source, length)
        )
    length_fmt = length_fmt_of(decoder)
    if length_fmt is None:
        return ("custom", length, "")
    check_length_fmt(length_fmt, length, source)
    form = plain_number(length_fmt)
    return ("custom", length, "") if form is None else ("header", length, form)


def length_fmt_of(decoder: Any) -> Optional[str]:
    """The struct format of the header, None if only a method knows it."""
    cls = type(decoder)
    if getattr(cls, "payload_length", None) is FramedDecoder.payload_length:
        length_fmt: Optional[str] = decoder._length_fmt
        return length_fmt
    generated: Optional[str] = vars(cls).get("_length_fmt")
    return generated


def check_length_fmt(length_fmt: str, length: int, source: str) -> None:
    try:
        size = struct.calcsize(length_fmt)
    except struct.error as error:
        api_error(
            "The decoder of %s has length_fmt %r: %s."
            % (source, length_fmt, error)
        )
    if size != length:
        api_error(
            "The decoder of %s has header_length %d, but length_fmt %r takes "
            "%d bytes." % (source, length, length_fmt, size)
        )


def plain_number(length_fmt: str) -> Optional[str]:
    """length_fmt as byte order and standard letter, None if it is more."""
    order, letter = length_fmt[:-1], length_fmt[-1:]
    if order not in ("", "@", "=", "<", ">", "!") or not letter:
        return None
    if letter not in "bBhHiIlLqQ":
        return None
    big = struct.pack(order + "H", 1) == b"\0\1"
    signed = letter.islower()
    size = struct.calcsize(length_fmt)
    standard = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    return (">" if big else "<") + (standard if signed else standard.upper())


def check_generator(generator: Any, source: str) -> None:
    for method in ("initial_value", "apply"):
        if not callable(getattr(generator, method, None)):
            api_error(
                "The generator of %s has no method %s: %s."
                % (source, method, describe(generator))
            )


def port_number(port: Any, part: str) -> int:
    try:
        number = int(port)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 65536:
        api_error("%s has a port that is none: %r." % (part, port))
    return number


def check_size(what: str, value: Any, source: str) -> None:
    if type(value) is not int or not 0 < value <= LARGEST:
        api_error(
            "%s of %s must be from 1 to %d, not %r."
            % (what, source, LARGEST, value)
        )


def check_text(what: str, value: Any, part: str) -> None:
    if not isinstance(value, str) or not value or "\0" in value:
        api_error("%s of %s must be a text, not %r." % (what, part, value))


def describe(part: Any) -> str:
    name = _names.part_name(part)
    if name == "undefined-name":
        return repr(part)
    return "%s (%s)" % (name, type(part).__name__)
