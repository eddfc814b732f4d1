"""The abstract base class, by the name that Python 3's programs import."""

from __future__ import annotations

from abc import ABCMeta


class BaseMeta(metaclass=ABCMeta):
    """Derived classes can have abstract methods."""
