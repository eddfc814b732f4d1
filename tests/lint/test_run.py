"""tests/run: what a suite leaves behind is seen, and what passed in a long
run is not run again."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(source, *arguments, **more):
    """tests/run with the tests of a tree of its own."""
    build = source.parent / "build"
    build.mkdir(exist_ok=True)
    env = dict(os.environ, WALLAROO_SOURCE=str(source),
               WALLAROO_BUILD=str(build), WALLAROO_UNIT="", **more)
    done = subprocess.run(
        [sys.executable, "-B", os.path.join(str(source), "tests", "run"),
         *arguments], env=env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.splitlines()


def ran(source):
    return (source / "tests" / "system" / "ran").read_text()


def tree(tmp_path, **suites):
    tests = tmp_path / "source" / "tests"
    tests.mkdir(parents=True)
    for name in ("run", "summary", "pytest.ini"):
        (tests / name).symlink_to(os.path.join(TESTS, name))
    for name, text in suites.items():
        (tests / name).mkdir()
        (tests / name / ("test_%s.py" % name)).write_text(text)
    return tmp_path / "source"


def test_passes_and_fails(tmp_path):
    source = tree(tmp_path, lint="def test_a():\n    pass\n")
    code, out = run(source, "lint")
    assert (code, out[-1]) == (0, "1 passed, 0 failed")
    assert run(source, "nothing")[0] != 0
    assert run(source, "lint", "nothing")[0] != 0


def test_fails(tmp_path):
    source = tree(tmp_path, lint="def test_a():\n    assert False\n")
    code, out = run(source, "lint")
    assert (code, out[-1]) == (1, "0 passed, 1 failed")


def test_syntax_error(tmp_path):
    source = tree(tmp_path, lint="def test_a(:\n")
    code, out = run(source, "lint")
    assert (code, out[-1]) == (1, "0 passed, 1 failed")


def test_later_suites_run(tmp_path):
    good = "def test_a():\n    pass\n"
    source = tree(tmp_path, lint="assert False\n", python=good, docs=good)
    code, out = run(source, "check", "lint", "python", "docs")
    assert (code, out[-1]) == (1, "2 passed, 1 failed")


def test_file_left(tmp_path):
    source = tree(tmp_path, lint="import tempfile\ndef test_a():\n"
                  "    tempfile.mkstemp(prefix='mine')\n")
    code, out = run(source, "lint")
    assert (code, out[-1]) == (1, "1 passed, 1 failed")
    assert any("left: file mine" in line for line in out)


def test_process_left(tmp_path):
    source = tree(tmp_path, lint="import subprocess\ndef test_a():\n"
                  "    subprocess.Popen(['sleep', '1000'],\n"
                  "        start_new_session=True)\n")
    code, out = run(source, "lint")
    assert (code, out[-1]) == (1, "1 passed, 1 failed")
    assert any("left: process sleep" in line for line in out)


LONG = """
import os, pytest
HERE = os.path.dirname(__file__)
@pytest.mark.parametrize("name", ["a", "b"])
def test(name):
    with open(os.path.join(HERE, "ran"), "a") as file:
        file.write(name)
    assert name != "b" or os.path.exists(os.path.join(HERE, "fixed"))
"""


def test_long_goes_on(tmp_path):
    source = tree(tmp_path, system=LONG)
    system = source / "tests" / "system"
    code, out = run(source, "long")
    assert (code, out[-1]) == (1, "1 passed, 1 failed")
    (system / "fixed").write_text("")
    code, out = run(source, "long")
    assert (code, out[-1]) == (0, "2 passed, 0 failed")
    assert (system / "ran").read_text() == "abb"
    results = (source / "tests" / "RESULTS").read_text().splitlines()
    assert "1 passed, 1 failed" in results[0]
    assert "test_system.py::test[b]" in results[1]
    assert "2 passed, 0 failed" in results[2]
    # another revision begins anew
    state = tmp_path / "build" / "test-long.json"
    old = json.loads(state.read_text())
    state.write_text(json.dumps(dict(old, revision="other")))
    run(source, "long")
    assert (system / "ran").read_text() == "abbab"


# The second of three tests: tests/run dies, the test is interrupted and
# cleans up.
INTERRUPTED = """
import os, time, pytest
HERE = os.path.dirname(__file__)
def note(text):
    with open(os.path.join(HERE, "ran"), "a") as file:
        file.write(text)
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test(name, record_property):
    note(name)
    record_property("measured", "%s took long" % name)
    if name == "b" and not os.path.exists(os.path.join(HERE, "fixed")):
        try:
            os.kill(os.getppid(), int(os.environ["SIGNAL"]))
            time.sleep(100)
        finally:
            note("!")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_long_is_interrupted(tmp_path, number):
    source = tree(tmp_path, system=INTERRUPTED)
    scratch = tmp_path / "scratch"	# one that was killed leaves it
    scratch.mkdir()
    code, _ = run(source, "long", SIGNAL=str(int(number)),
                  TMPDIR=str(scratch))
    assert code != 0 and ran(source) == "ab!"
    assert not (source / "tests" / "RESULTS").exists()
    (source / "tests" / "system" / "fixed").write_text("")
    code, out = run(source, "long")
    assert (code, out[-1]) == (0, "3 passed, 0 failed")
    assert ran(source) == "ab!bc"
    results = (source / "tests" / "RESULTS").read_text().splitlines()
    assert "3 passed, 0 failed" in results[0]
    assert [line.split(": ")[1] for line in results[1:]] == [
        "%s took long" % name for name in "abc"]


def test_long_same_names(tmp_path):
    """Two directories have a file of one name; one cannot be read."""
    good = "def test_a():\n    pass\n"
    source = tree(tmp_path, system=good, sim=good)
    tests = source / "tests"
    for name in ("system", "sim"):
        (tests / name / "test_same.py").write_text(good)
    assert run(source, "long")[1][-1] == "4 passed, 0 failed"
    (tests / "sim" / "test_same.py").write_text("assert False\n")
    code, out = run(source, "long")
    assert (code, out[-1]) == (1, "0 passed, 1 failed")


def test_long_chosen(tmp_path):
    source = tree(tmp_path, system=LONG)
    code, out = run(source, "long", WALLAROO_LONG="not b")
    assert (code, out[-1]) == (0, "1 passed, 0 failed")
    results = (source / "tests" / "RESULTS").read_text()
    assert "only not b: 1 passed, 0 failed" in results


def test_revision(tmp_path):
    """Writing the results down changes nothing, changing a test does."""
    if shutil.which("git") is None:
        pytest.skip("there is no git on this system")
    source = tree(tmp_path, system=LONG)
    (source / "tests" / "system" / "fixed").write_text("")
    (source / "tests" / "RESULTS").write_text("")
    for command in (["init", "-q"], ["add", "-A"],
                    ["-c", "user.name=t", "-c", "user.email=t@localhost",
                     "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(source), *command], check=True)
    for _ in range(2):
        assert run(source, "long")[0] == 0
        assert ran(source) == "ab"
    with open(source / "tests" / "system" / "test_system.py", "a") as file:
        file.write("# changed\n")
    assert run(source, "long")[0] == 0
    assert ran(source) == "abab"
    results = (source / "tests" / "RESULTS").read_text().splitlines()
    assert ["-dirty" in line for line in results] == [False, False, True]
