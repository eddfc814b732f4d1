"""Mistakes that newcomers make, found where they are made.

What is refused here could not be run, and would be refused when the
application is compiled: without the line, and without what to write instead.
"""

from __future__ import annotations

import reprlib
from typing import Any

from ._errors import api_error


def check_step(step: Any) -> None:
    """What Pipeline.to() takes, but for windows."""
    if not isinstance(step, type) and any(
        has(step, method) for method in ("compute", "compute_multi")
    ):
        return
    if has(step, "initial_accumulator"):
        cls = step if isinstance(step, type) else type(step)
        api_error(
            "to() takes a computation; an aggregation belongs into windows: "
            "to(wallaroo.range_windows(...).over(%s))." % cls.__name__)
    api_error(
        "to() takes a computation, not %s: %s." % (
            shown(step), remedy(step, "computation", "computation_multi",
                                "state_computation")))


def check_key_extractor(extractor: Any) -> None:
    if isinstance(extractor, type) or not has(extractor, "extract_key"):
        api_error(
            "key_by() takes a key extractor, not %s: %s." % (
                shown(extractor), remedy(extractor, "key_extractor")))


def without(part: Any, method: str) -> str:
    """Why a part of an application that lacks a method cannot be used."""
    text = "%s has no method %s, so it cannot be used here" % (
        shown(part), method)
    decorator = {"decode": "decoder", "encode": "encoder"}.get(method)
    if decorator is None or not is_function(part):
        return text + "."
    return "%s: %s, or take one of wallaroo.codecs." % (
        text, remedy(part, decorator))


def check_config(where: str, what: str, config: Any) -> None:
    """A configuration of a source or sink."""
    if isinstance(config, type) or not has(config, "to_tuple"):
        api_error(
            "%s takes the configuration of a %s, for example "
            "wallaroo.%sConfig(...), not %s." % (
                where, what, "StdinSource" if what == "source"
                else "StdoutSink", shown(config)))


def check_configs(configs: Any) -> None:
    if has(configs, "to_tuple") or not has(configs, "__iter__"):
        api_error(
            "to_sinks() takes a list of configurations of sinks, not %s; for "
            "a single one there is to_sink()." % shown(configs))


def has(thing: Any, method: str) -> bool:
    return callable(getattr(thing, method, None))


def is_function(thing: Any) -> bool:
    return callable(thing) and not isinstance(thing, type) and isinstance(
        getattr(thing, "__name__", None), str)


def shown(thing: Any) -> str:
    if isinstance(thing, type):
        return "the class %r" % thing.__name__
    if is_function(thing):
        return "the function %r" % thing.__name__
    if has(thing, "name"):
        return "%r (%s)" % (thing.name(), kind(thing))
    return reprlib.repr(thing)


def kind(thing: Any) -> str:
    """Its class; of one made by a decorator the base."""
    cls = type(thing)
    return (cls.__base__ if "_func" in vars(cls) else cls).__name__


def remedy(thing: Any, *decorators: str) -> str:
    if isinstance(thing, type):
        return "make an instance of it, if it is one"
    if not is_function(thing):
        return "one is made by %s" % " or ".join(
            "@wallaroo." + name for name in decorators)
    return "write @wallaroo.%s above it" % ", or ".join(decorators)
