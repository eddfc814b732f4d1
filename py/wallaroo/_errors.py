"""The one exception of pipeline building, and how it is reported."""

from __future__ import annotations

from typing import NoReturn

POLICIES = ("fail", "skip", "dead-letter")


class WallarooParameterError(Exception):
    """A pipeline, stage or configuration that cannot be built."""


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
