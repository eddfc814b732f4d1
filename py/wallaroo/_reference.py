"""The reference executor: what a pipeline means, in the plainest form.

One record after the other goes from its source to the sinks, each output of
a step as far as it gets before the next one (depth first), in one thread of
one process.  It reads the application tuple itself, without the worker's
compiler, so each is a check of the other.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional, Union

from . import _names
from ._errors import api_error, check_policy

Key = bytes


class UserFunctionError(Exception):
    """A user function raised under the policy "fail"."""

    def __init__(self, step: str, key: Key, error: BaseException) -> None:
        super().__init__(
            "user function failed step=%r key=%r: %s: %s"
            % (step, show_key(key), type(error).__name__, error)
        )
        self.step = step
        self.key = show_key(key)


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
        place = {"tcp": 4, "file": 3, "stdin": 2}.get(self.config[0])
        return None if place is None else self.config[place]

    @property
    def max_size(self) -> int:
        """The largest payload."""
        place = {"tcp": 7, "file": 4, "stdin": 3}[self.config[0]]
        size: int = self.config[place]
        return size


class Executor:
    """An application being run; push values in, see what comes out."""

    def __init__(
        self,
        application: Any,
        on_error: str = "fail",
        on_output: Optional[Callable[[int, bytes], None]] = None,
    ) -> None:
        _names.check_application(application)
        self.name, self.root, self.vertices, self.edges = application
        self.on_error = check_policy(on_error) or "fail"
        self.on_output = on_output
        self.collect_keys = _names.collect_keys(self.vertices, self.edges)
        self.sources = self._find_sources()
        self.sink_configs = _names.sinks_of(self.vertices[self.root][-1])
        self.sink_names = _names.sink_names(self.sink_configs)
        # By stateful step and key: the state.
        self.states: dict[str, dict[Key, Any]] = {}
        self._check_state_names()
        # By sink: what its encoder made; the messages that came to all.
        self.outputs: list[list[bytes]] = [[] for _ in self.sink_configs]
        self.values: list[Any] = []
        self.dead_letters: list[DeadLetter] = []

    def push(self, source: Source, value: Any) -> None:
        """One decoded message."""
        key = _names.SOURCE_KEYS[source.config[0]]
        self._flow(source.path, value, key)

    def push_payload(self, source: Source, payload: bytes) -> None:
        """One payload, through the source's decoder."""
        key = _names.SOURCE_KEYS[source.config[0]]
        decoder = source.decoder
        value = self._call(
            source.name, decoder, key, payload, decoder.decode, payload
        )
        if value is not None:
            self.push(source, value)

    def apply_state(self, step: str, key: Union[str, Key], value: Any) -> Any:
        """One input of one stateful step: the list of its outputs."""
        for branch in self.vertices:
            for kind, *rest in branch:
                if kind == "to_state" and _names.part_name(rest[0]) == step:
                    return self._step_state(rest[0], as_key(key), value)
        raise KeyError(step)

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

    def _flow(
        self, path: list[_names.Position], value: Any, key: Key
    ) -> None:
        """Send a message through the first place of path, then the rest."""
        branch, place = path[0]
        stage = self.vertices[branch][place]
        kind, what = stage[0], stage[1]
        if kind in ("to_sink", "to_sinks"):
            self._write(value, key)
        elif kind == "collect":
            self._flow(path[1:], value, as_key(self.collect_keys[path[0]]))
        elif kind == "key_by":
            new_key = self._key_by(what, key, value)
            if new_key is not None:
                self._flow(path[1:], value, new_key)
        elif kind in ("to", "to_state"):
            if kind == "to_state":
                outputs = self._step_state(what, key, value)
            else:
                outputs = self._step(what, key, value)
            for output in outputs:
                self._flow(path[1:], output, key)
        else:
            api_error("Unknown kind of stage: %r." % (kind,))

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

    def _key_by(self, what: Any, key: Key, value: Any) -> Optional[Key]:
        def extract() -> Key:
            return as_key(what.extract_key(value))

        name = _names.part_name(what)
        new_key: Optional[Key] = self._call(name, what, key, value, extract)
        return new_key

    def _write(self, value: Any, key: Key) -> None:
        self.values.append(value)
        for number, config in enumerate(self.sink_configs):
            encoder = config[-1]
            data = self._call(
                self.sink_names[number], encoder, key, value,
                encoded, encoder, value,
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
            policy = check_policy(getattr(what, "on_error", None))
            policy = policy or self.on_error
            if policy == "fail":
                raise UserFunctionError(step, key, error) from error
            if policy == "dead-letter":
                self.dead_letters.append(DeadLetter(
                    step, show_key(key),
                    "%s: %s" % (type(error).__name__, error),
                    traceback.format_exc(), value,
                ))
            return None


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
