"""Pipelines: immutable chains of stages that merge into a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Optional, TypeVar, Union, overload

from . import _event_time, _mistakes
from ._configs import SinkConfig, SourceConfig
from ._errors import api_error
from ._windows import (
    CountWindows,
    CountWindowsBuilder,
    RangeWindows,
    RangeWindowsBuilder,
    SessionWindows,
    SessionWindowsBuilder,
    stage_of,
)
from ._wrapped import Computation, KeyExtractor, StateComputation

T = TypeVar("T", covariant=True)
U = TypeVar("U")
Message = TypeVar("Message")
V = TypeVar("V")

_SINKS = ("to_sink", "to_sinks")
_KEYINGS = ("key_by", "collect")


class _PipelineTree:
    """Branches of stage tuples; a merge is a branch with two children."""

    def __init__(
        self,
        root_idx: int,
        vertices: list[list[tuple[Any, ...]]],
        edges: list[list[int]],
    ) -> None:
        self.root_idx = root_idx
        self.vertices = vertices
        self.edges = edges

    @classmethod
    def from_stage(cls, stage: tuple[Any, ...]) -> _PipelineTree:
        return cls(0, [[stage]], [[]])

    def clone(self) -> _PipelineTree:
        return _PipelineTree(
            self.root_idx,
            [list(stages) for stages in self.vertices],
            [list(children) for children in self.edges],
        )

    def add_stage(self, stage: tuple[Any, ...]) -> None:
        self.vertices[self.root_idx].append(stage)

    def merge(self, other: _PipelineTree) -> None:
        """Append a new root, then the other tree with shifted numbers."""
        shift = len(self.vertices) + 1
        self.vertices.append([])
        self.edges.append([self.root_idx, other.root_idx + shift])
        self.root_idx = shift - 1
        self.vertices += [list(stages) for stages in other.vertices]
        self.edges += [
            [child + shift for child in children] for children in other.edges
        ]

    def last_stage(self) -> tuple[Any, ...]:
        """The last stage before the root's end, on a merge's left side."""
        branch = self.root_idx
        while not self.vertices[branch]:
            branch = self.edges[branch][0]
        return self.vertices[branch][-1]


class Pipeline(Generic[T]):
    """A pipeline whose messages so far are of type T.

    wallaroo.source() begins one.  Every method returns a new pipeline and
    leaves this one as it is, so a beginning can be used for two pipelines.
    What cannot be built raises WallarooParameterError at once.
    """

    def __init__(self, pipeline_tree: _PipelineTree) -> None:
        self._pipeline_tree = pipeline_tree

    @classmethod
    def from_source(cls, name: str, source_config: Any) -> Pipeline[Any]:
        _mistakes.check_config("source()", "source", source_config)
        config = source_config.to_tuple()
        if config[1] is None:  # a configuration without a name of its own
            config = (config[0], name) + config[2:]
        return cls(_PipelineTree.from_stage(("source", name, config)))

    def clone(self) -> Pipeline[T]:
        """A copy of the structure, with the same stage objects."""
        return Pipeline(self._pipeline_tree.clone())

    @overload
    def to(self, computation: Computation[T, U]) -> Pipeline[U]: ...
    @overload
    def to(
        self,
        computation: RangeWindows[T, U] | CountWindows[T, U]
        | SessionWindows[T, U],
    ) -> Pipeline[U]: ...
    def to(self, computation: Any) -> Pipeline[Any]:
        """Add a computation, or windows (the result of .over()).

        Computations are what wallaroo.computation and the other decorators
        make, and the functions of wallaroo.helpers.
        """
        if isinstance(
            computation, (RangeWindows, CountWindows, SessionWindows)
        ):
            return self._with_tuple(stage_of(computation))
        if isinstance(computation, (
            RangeWindowsBuilder, CountWindowsBuilder, SessionWindowsBuilder,
        )):
            api_error(
                "Windows need an aggregation: call .over() before .to()."
            )
        _mistakes.check_step(computation)
        if isinstance(computation, StateComputation):
            return self._with_stage("to_state", computation)
        return self._with_stage("to", computation)

    def event_time(
        self,
        extract: Callable[[T], Union[int, float, datetime]],
        lateness: float = 0,
        idle_timeout: Optional[float] = None,
        *,
        name: Optional[str] = None,
        on_error: Optional[str] = None,
    ) -> Pipeline[T]:
        """Give the messages of a source times of their own.

        Either all sources of an application have them or none, and only
        stateless computations may be before this.

        extract
            a function of a message: nanoseconds since 1970, or a datetime
            with a time zone
        lateness
            how much older a message may be than the newest one before it
            from the same file, generator or connection; in nanoseconds, as
            wallaroo.seconds() and others give them
        idle_timeout
            what has not yielded anything for so many nanoseconds of the
            clock is not waited for; None: it always is
        name, on_error
            as of computation()
        """
        tree = self._pipeline_tree
        if self._is_closed():
            api_error("You can't add stages after to_sink/s.")
        _event_time.check_place(
            tree.vertices[tree.root_idx], not tree.edges[tree.root_idx])
        return self._with_tuple(_event_time.stage_of(
            extract, lateness, idle_timeout, name, on_error))

    def key_by(self, key_extractor: KeyExtractor[T]) -> Pipeline[T]:
        """Partition messages by a key from here on.

        All messages of a key go to one worker, where one after the other is
        worked on; those of one source stay in its order.
        """
        _mistakes.check_key_extractor(key_extractor)
        return self._with_stage("key_by", key_extractor)

    def collect(self) -> Pipeline[T]:
        """Bring all messages together under one key from here on.

        So they are on one worker; put it where few are left.
        """
        return self._with_stage("collect", "")

    def merge(self, other: Pipeline[V]) -> Pipeline[T | V]:
        """The messages of both pipelines.

        Each keeps its own order; how they interleave is free.  Neither may
        have a sink, and both end in key_by() or collect(), or none does.
        """
        if self._is_closed() or other._is_closed():
            api_error("You can't merge with a terminated pipeline!")
        if self._ends_keyed() != other._ends_keyed():
            api_error(
                "A pipeline ending with key_by can only be merged with "
                "another!"
            )
        result: Pipeline[Any] = self.clone()
        result._pipeline_tree.merge(other._pipeline_tree)
        return result

    def to_sink(self, sink_config: SinkConfig[T]) -> Pipeline[T]:
        """Send all outputs to a sink; nothing can follow."""
        _mistakes.check_config("to_sink()", "sink", sink_config)
        return self._with_stage("to_sink", sink_config.to_tuple())

    def to_sinks(
        self, sink_configs: Sequence[SinkConfig[T]]
    ) -> Pipeline[T]:
        """Send all outputs to each of several sinks; nothing can follow.

        SinkConfig.where() lets only some of them through to one.
        """
        _mistakes.check_configs(sink_configs)
        sinks = list(sink_configs)
        for sink in sinks:
            _mistakes.check_config("to_sinks()", "sink", sink)
        configs = [sink.to_tuple() for sink in sinks]
        if not configs:
            api_error(
                "You must specify at least one sink when using to_sinks()"
            )
        return self._with_stage("to_sinks", configs)

    def _with_stage(self, kind: str, what: Any) -> Pipeline[Any]:
        return self._with_tuple((kind, what))

    def _with_tuple(self, stage: tuple[Any, ...]) -> Pipeline[Any]:
        if self._is_closed():
            api_error("You can't add stages after to_sink/s.")
        result: Pipeline[Any] = self.clone()
        result._pipeline_tree.add_stage(stage)
        return result

    def _is_closed(self) -> bool:
        return self._pipeline_tree.last_stage()[0] in _SINKS

    def _ends_keyed(self) -> bool:
        return self._pipeline_tree.last_stage()[0] in _KEYINGS

    def _stages(self, kind: str) -> list[tuple[Any, ...]]:
        return [
            stage
            for branch in self._pipeline_tree.vertices
            for stage in branch
            if stage[0] == kind
        ]

    def _sources(self) -> list[tuple[Any, ...]]:
        return self._stages("source")

    def _sinks(self) -> list[tuple[Any, ...]]:
        return self._stages("to_sink")


@overload
def source(
    name: str, source_config: SourceConfig[Message]
) -> Pipeline[Message]: ...
@overload
def source(name: str, source_config: Any) -> Pipeline[Any]: ...
def source(name: str, source_config: Any) -> Pipeline[Any]:
    """Begin a pipeline with what a source yields.

    name
        the source's, in status, metrics and tests
    source_config
        what it is: TCPSourceConfig, FileSourceConfig, StdinSourceConfig or
        GenSourceConfig

    >>> from wallaroo import codecs
    >>> lines = wallaroo.source("Lines", wallaroo.FileSourceConfig(
    ...     "lines", "/etc/motd", codecs.lines_decoder))
    """
    return Pipeline.from_source(name, source_config)


class Application(tuple):  # type: ignore[type-arg]
    """What build_application makes: name, root, branches and their edges."""

    # Of the application, as its status and log show it; "" is none.
    version = ""


def build_application(
    app_name: str, pipeline: Pipeline[Any], version: str = ""
) -> tuple[Any, ...]:
    """What application_setup has to return.

    app_name
        the application's name, for people and connectors
    pipeline
        one that ends with to_sink() or to_sinks(); several sources and
        branches have been merged to one
    version
        any text of up to 64 printable characters, which status and logs show
    """
    if not isinstance(version, str) or len(version) > 64 \
            or not version.isprintable():
        api_error(
            "The version of an application is a text of at most 64 printable "
            "characters, not %r." % (version,))
    if not isinstance(pipeline, Pipeline):
        api_error(
            "build_application() takes a name and a pipeline, not %s."
            % _mistakes.shown(pipeline))
    if not pipeline._is_closed():
        api_error("An application must end with to_sink/s.")
    tree = pipeline.clone()._pipeline_tree
    _event_time.check(tree.vertices)
    made = Application(
        (app_name, tree.root_idx, tree.vertices, tree.edges))
    made.version = version
    return made
