"""Every example passes every case of the kit; the kit finds what is broken."""

import os
import sys

import pytest

from conftest import EXAMPLES
from wallaroo.connectors import check

PYTHON = os.path.join(EXAMPLES, "python")

# Prints what is valid in an output of the sinks in Go and in Rust.
READ_FILE = """
import sys
path, count = sys.argv[1], 0
try:
    count = int(open(path + ".state").readline())
except FileNotFoundError:
    pass
sys.stdout.buffer.write(open(path, "rb").read(count))
"""
READ_TABLE = """
import sqlite3, sys
for body, in sqlite3.connect(sys.argv[1]).execute(
        "SELECT body FROM output WHERE stream = ?", sys.argv[2:]):
    sys.stdout.buffer.write(body)
"""


def passes(results):
    assert results
    assert [result for result in results if result.verdict == "failed"] == []


def source(command, **more):
    return check.check("source", command, messages=1100, **more)


def script(path, text):
    path.write_text(text)
    return "%s %s" % (sys.executable, path)


@pytest.mark.parametrize("language", ["go", "rust"])
def test_source(built, language):
    results = source([built(language, "source")])
    passes(results)
    assert {result.verdict for result in results} == {"ok"}


@pytest.mark.parametrize("language", ["go", "rust"])
def test_sink(built, language, tmp_path):
    directory = tmp_path / "out"
    passes(check.check(
        "sink", [built(language, "sink"), str(directory)],
        before="rm -rf %s && mkdir %s" % (directory, directory),
        read="%s %s/'{stream}'" % (
            script(tmp_path / "read.py", READ_FILE), directory)))


def test_generator():
    passes(source([sys.executable, os.path.join(
        PYTHON, "numbers_source.py")]))


def test_several_streams(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("".join(
            "%s %d\n" % (name, n) for n in range(300)))
    (tmp_path / "empty").write_text("")
    passes(source(
        [sys.executable, os.path.join(PYTHON, "file_source.py"),
         "--address", "{host}:{port}", "--cookie-file", "{cookie-file}",
         *(str(tmp_path / name) for name in ("a", "b", "c", "empty"))]))


def test_database(tmp_path):
    path = tmp_path / "data.db"
    passes(check.check(
        "sink", [sys.executable, os.path.join(PYTHON, "sqlite_sink.py"),
                 "--address", "{address}", "--cookie-file", "{cookie-file}",
                 str(path)],
        before="rm -f %s" % path,
        read="%s %s '{stream}'" % (
            script(tmp_path / "read.py", READ_TABLE), path)))


# -- what the kit finds -------------------------------------------------------

SOURCE = """
import os, random, threading
from wallaroo import connectors
from wallaroo.connectors import _source
from wallaroo.experimental import connector_wire_messages as cwm

salt = ""

@connectors.source("planted")
async def planted(point):
    for n in range((point or 0) + 1, 1001):
        yield n, b"%%d%%s" %% (n, salt.encode())

%s
connectors.run_source(planted)
"""

SOURCES = {
    "clean": """
os.environ["WALLAROO_CONNECTOR_COOKIE"] = "another one"
""",
    "cookie": """
async def greet(self):
    self.writer.write(_source.encode(cwm.Hello(
        "0.0.1", self.client.options.cookie, "p", "i")))
    got = await self.more()
    if not isinstance(got[0], cwm.Error):
        self.credits.add(got[0].initial_credits)
    else:
        self.credits.add(10)
_source._Session.greet = greet
""",
    "credits": """
async def take(self):
    self.n -= 1
_source._Credits.take = take
""",
    "idle": """
def busy():
    while True:
        pass
threading.Thread(target=busy, daemon=True).start()
""",
    "beginning": """
seek = _source._GeneratedAsync.seek
def changed(self, point):
    global salt
    salt += "x"
    seek(self, point)
_source._GeneratedAsync.seek = changed
""",
    "kill": """
init = _source._Stream.__init__
def changed(self, source):
    init(self, source)
    self.id = os.getpid()
_source._Stream.__init__ = changed
""",
    "end": """
opened = _source._Session.open
async def changed(self, stream):
    point = await opened(self, stream)
    stream.done.set()
    return point
_source._Session.open = changed
""",
}

SINK = """
import hmac
from wallaroo import connectors
from wallaroo.connectors import _sink

class Sink(connectors.Sink):
    committed, prepared = 0, None

    def open(self):
        return connectors.Position(self.committed, self.prepared)

    async def write(self, offset, message):
        pass

    def prepare(self, transaction):
        self.prepared = transaction

    def commit(self, transaction):
        self.committed, self.prepared = transaction.end, None

    def abort(self, transaction):
        self.prepared = None

%s
connectors.run_sink(Sink)
"""

SINKS = {
    "cookie": """
hmac.compare_digest = lambda a, b: True
""",
    "version": """
class Any(str):
    __ne__ = lambda self, other: False
_sink.VERSION = Any()
""",
    "gap": """
def take(self, offset, body):
    self.length = offset + len(body)
_sink._Output.take = take
""",
    "wrong-range": """
_sink._Output.objection = lambda self, where: None
""",
    "kill-commit": "",			# it has nothing on a disk
    "lost-commit": """
Sink.open = lambda self: connectors.Position(self.committed)
""",
    "clean": """
def prepare(self, transaction):
    return transaction.start < transaction.end
Sink.prepare = prepare
""",
    "idle": """
import threading
def busy():
    while True:
        pass
threading.Thread(target=busy, daemon=True).start()
""",
}


def finds(side, text, case, **more):
    results = check.check(
        side, [sys.executable, "-c", text], only=[case], limit=20, **more)
    verdicts = {result.name: result for result in results}
    assert verdicts[case].verdict == "failed"
    assert verdicts[case].why
    assert case == "clean" or verdicts["clean"].verdict == "ok", results


@pytest.mark.parametrize("case", SOURCES)
def test_broken_source(case):
    finds("source", SOURCE % SOURCES[case], case, messages=1100)


@pytest.mark.parametrize("case", SINKS)
def test_broken_sink(case):
    finds("sink", SINK % SINKS[case], case)


def test_sound_ones():
    """Without the fault these cases pass: it was that."""
    for side, text, names in (("source", SOURCE, SOURCES),
                              ("sink", SINK, SINKS)):
        passes(check.check(
            side, [sys.executable, "-c", text % ""], messages=1100,
            only=[name for name in names if name != "kill-commit"]))


def test_command_line(capsys):
    """It says what it does, and its exit code tells how it went."""
    command = ["--", sys.executable, "-c", SINK % ""]
    assert check.main(["sink", "--only", "gap", *command]) == 0
    out = capsys.readouterr().out
    assert "ok        gap " in out
    assert out.endswith("2 passed, 0 failed, 0 left out\n")
    assert check.main(["sink", "--only", "kill-commit", *command]) == 1
    out = capsys.readouterr().out
    assert "failed    kill-commit" in out and "in doubt" in out
    assert "cannot be tested" in check.main(
        ["sink", "--", "/nonexistent"])
    assert check.main(["source", "--list"]) == 0
    assert "credits" in capsys.readouterr().out
    for wrong in (["sink"], ["sink", "--only", "nothing", *command],
                  ["source", "--messages", "1", *command]):
        with pytest.raises(SystemExit):
            check.main(wrong)
