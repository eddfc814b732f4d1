"""Has a file changed since it was imported?"""

import importlib
import os
import sys
import time
import zipfile

import pytest

from wallaroo import _sources


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of its own that is imported, long after it was written."""
    path = tmp_path / "imported_for_sources.py"
    path.write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_sources, "_noted", None)
    importlib.import_module("imported_for_sources")
    yield path
    del sys.modules["imported_for_sources"]


def later():
    """When everything that is there had been written."""
    return time.time_ns() + 60_000_000_000


def test_nothing_changes(module):
    assert _sources.changed(later()) is None
    assert _sources.changed(later()) is None
    assert str(module) in _sources._noted
    assert os.__file__ in _sources._noted


@pytest.mark.parametrize("how", ["written", "replaced", "gone", "touched"])
def test_one_changes(module, how):
    assert _sources.changed(later()) is None
    if how == "written":
        module.write_text("value = 22\n")
    elif how == "replaced":
        new = module.with_name("new")
        new.write_text("value = 2\n")
        os.utime(new, ns=(module.stat().st_atime_ns,
                          module.stat().st_mtime_ns))
        os.replace(new, module)
    elif how == "gone":
        module.unlink()
    else:
        os.utime(module, (1, 1))
    assert _sources.changed(later()) == str(module)
    assert _sources.changed(later()) == str(module)


def test_while_it_was_imported(module):
    """Nobody knows which version it was."""
    began = time.time_ns()
    module.write_text("value = 3\n")
    assert _sources.changed(began) == str(module)


def test_a_clock_that_is_ahead_says_nothing(module, monkeypatch):
    began = time.time_ns()
    module.write_text("value = 3\n")
    monkeypatch.setattr(_sources.time, "time_ns", lambda: began - 10**12)
    assert _sources.changed(began - 10**12) is None


def test_archive(tmp_path, monkeypatch):
    """Of a module in an archive the archive is looked at."""
    path = tmp_path / "lib.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped_for_sources.py", "value = 1\n")
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.setattr(_sources, "_noted", None)
    importlib.import_module("zipped_for_sources")
    try:
        assert _sources.changed(later()) is None
        assert str(path) in _sources._noted
        os.utime(path, (1, 1))
        assert _sources.changed(later()) == str(path)
    finally:
        del sys.modules["zipped_for_sources"]


def test_a_file_that_never_was(module, monkeypatch):
    """A module may say of itself what it likes."""
    sys.modules["imported_for_sources"].__file__ = "/nowhere/at/all.py"
    assert _sources.changed(later()) is None
    sys.modules["imported_for_sources"].__file__ = 17
    monkeypatch.setattr(_sources, "_noted", None)
    assert _sources.changed(later()) is None
