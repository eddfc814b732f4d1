"""tests/coverage: a file of which too little is executed is a failure."""

import importlib.machinery
import importlib.util
import os

import pytest

PATH = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), "coverage")


@pytest.fixture
def coverage():
    loader = importlib.machinery.SourceFileLoader("coverage_of_ours", PATH)
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def gcov(monkeypatch, coverage, tmp_path, **texts):
    """Stand-ins for a build and for gcov: what it prints of a library's
    copy of worker/x.c."""
    for library in texts:
        path = tmp_path / "worker" / ("lib%s_a-x.gcda" % library)
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    class Done:
        def __init__(self, command):
            library = os.path.basename(command[-1])[3:].split("_a-")[0]
            self.stdout = texts[library]
    monkeypatch.setattr(coverage.subprocess, "run",
                        lambda command, **more: Done(command))
    monkeypatch.setattr(coverage, "FILES", ["worker/x"])


def text(*counts):
    lines = ["        -:    0:Source:../common/other.h", "    #####:    1:no",
             "        -:    0:Source:/some/where/worker/x.c",
             "        -:    0:Graph:x.gcno"]
    return "\n".join(lines + ["%9s:%5d:text" % (count, number)
                              for number, count in enumerate(counts, 1)])


def test_lines_of_either_count(monkeypatch, capsys, coverage, tmp_path):
    gcov(monkeypatch, coverage, tmp_path,
         worker=text("-", "5", "#####", "3*", "#####", "-"),
         simworker=text("-", "#####", "2", "#####", "#####", "#####"))
    assert coverage.covered(str(tmp_path), "worker/x") == (3, [5])
    assert coverage.report(str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "75.0 % of    4 lines, wanted are 95 %" in out
    assert "not executed: 5" in out


@pytest.mark.parametrize("missed, bad", [(0, 0), (5, 0), (6, 1)])
def test_the_limit(monkeypatch, coverage, tmp_path, missed, bad):
    gcov(monkeypatch, coverage, tmp_path, worker=text(
        *["1"] * (100 - missed) + ["#####"] * missed))
    assert coverage.report(str(tmp_path)) == bad


def test_a_file_that_nobody_has_built(monkeypatch, coverage, tmp_path):
    gcov(monkeypatch, coverage, tmp_path)
    assert coverage.report(str(tmp_path)) == 1
