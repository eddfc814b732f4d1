"""The abstract base class, by the name that Python 2's programs import."""

from __future__ import annotations

from .base_meta3 import BaseMeta

__all__ = ["BaseMeta"]
