"""Settings of librdkafka, as an application gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Union

from ._errors import api_error


class FromFile:
    """The value of a setting is the content of a file, which is read where
    the workers run: for passwords and keys."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __repr__(self) -> str:
        return "FromFile(%r)" % (self.path,)


class FromEnv:
    """The value of a setting is that of a variable of the supervisor's
    environment: for passwords."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def __repr__(self) -> str:
        return "FromEnv(%r)" % (self.variable,)


Setting = Union[str, int, float, bool, FromFile, FromEnv]
Settings = Mapping[str, Setting]


def wire_settings(settings: Settings, part: str) -> list[list[str]]:
    """[name, from, text] of each, as a topology has them."""
    result = []
    for name, value in settings.items():
        if not isinstance(name, str):
            api_error("Settings of %s have names, not %r." % (part, name))
        if isinstance(value, FromFile):
            one = [name, "file", value.path]
        elif isinstance(value, FromEnv):
            one = [name, "env", value.variable]
        elif isinstance(value, bool):
            one = [name, "value", "true" if value else "false"]
        elif isinstance(value, (str, int, float)):
            one = [name, "value", str(value)]
        else:
            api_error(
                "The setting %s of %s must be a text, a number, a bool, "
                "FromFile or FromEnv, not %r." % (name, part, value))
        if not isinstance(one[2], str) or "\0" in name + one[2]:
            api_error("The setting %s of %s is no text." % (name, part))
        result.append(one)
    return result


def wire_brokers(brokers: Any, part: str) -> str:
    """HOST:PORT,... of a text like that, of such texts, or of pairs."""
    if isinstance(brokers, str):
        given: Iterable[Any] = brokers.split(",")
    else:
        given = brokers
    result = []
    for broker in given:
        text = broker if isinstance(broker, str) else "%s:%s" % tuple(broker)
        host, _, port = text.strip().rpartition(":")
        if not host:
            host, port = port, "9092"
        if not host or not port.isdigit() or "\0" in host:
            api_error("%s needs brokers as HOST:PORT, not %r." % (
                part, brokers))
        result.append("%s:%s" % (host, port))
    if not result:
        api_error("%s needs brokers as HOST:PORT." % part)
    return ",".join(result)
