"""The one exception of pipeline building, and how it is reported."""

from __future__ import annotations

import os
import traceback
from typing import NoReturn, Optional

POLICIES = ("fail", "skip", "dead-letter")


class WallarooParameterError(Exception):
    """A pipeline, stage or configuration that cannot be built."""

    __module__ = "wallaroo"  # where programs find it


class NotAFunctionError(WallarooParameterError, AttributeError):
    """Something without a function's name was given to a decorator."""


def api_error(
    text: str, kind: type[WallarooParameterError] = WallarooParameterError
) -> NoReturn:
    """Print the text for people and raise it for programs."""
    print("\nAPI_Error: " + text)
    raise kind(text)


def check_policy(on_error: str | None) -> str | None:
    """Return on_error if it names a policy (None: the application's)."""
    if on_error is not None and on_error not in POLICIES:
        api_error(
            "on_error must be one of %s, not %r."
            % (", ".join(repr(policy) for policy in POLICIES), on_error)
        )
    return on_error


PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def user_traceback(error: BaseException) -> str:
    """The traceback of an error of user code, without our own frames."""
    lines = traceback.TracebackException.from_exception(error)
    shown: Optional[traceback.TracebackException] = lines
    seen: set[int] = set()
    while shown is not None and id(shown) not in seen:
        seen.add(id(shown))
        users = [frame for frame in shown.stack if not is_ours(frame.filename)]
        shown.stack = traceback.StackSummary.from_list(users)
        shown = shown.__cause__ or shown.__context__
    return "".join(lines.format())


def is_ours(path: str) -> bool:
    return os.path.abspath(path).startswith(PACKAGE) or path.startswith(
        "<frozen importlib")
