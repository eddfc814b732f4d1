"""The pytest plugin, on the reference executor: a pytest inside of pytest."""

import os
import subprocess
import sys

from conftest import HERE


def run(environment, base, *args, directory=HERE):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "wallaroo.pytest_plugin",
         "-p", "no:cacheprovider", "-q", "-c", os.devnull,
         "--rootdir", str(directory), "--basetemp", str(base / "base"),
         *args],
        cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)


def test_sample(environment, tmp_path):
    out = run(environment, tmp_path, "plugin_sample.py")
    assert out.returncode == 0, out.stdout
    assert "6 passed" in out.stdout


STATE = '''
import threading
import wallaroo
from wallaroo import codecs

class Bad:
    def __init__(self):
        self.lock = threading.Lock()

@wallaroo.state_computation(state=Bad)
def keep(data, state):
    return data

class Count(wallaroo.Aggregation):
    def initial_accumulator(self):
        return [0]
    def update(self, data, accumulator):
        accumulator[0] += 1
    def combine(self, a, b):
        return [a[0] + b[0]]
    def output(self, key, accumulator):
        return accumulator[0] or None

def application_setup(args):
    step = wallaroo.range_windows(wallaroo.seconds(1)).over(Count) \\
        if args[1:] else keep
    return wallaroo.build_application("bad", wallaroo.source(
        "in", wallaroo.StdinSourceConfig("in", codecs.lines_decoder))
        .to(step).to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder)))

def test_kill(wallaroo_app):
    app = wallaroo_app("test_bad")
    app.feed("in", "a")
    app.kill()

def test_windows(wallaroo_app):
    app = wallaroo_app("test_bad", ["windows"])
    app.feed("in", "a", "b")
    app.kill()
    assert app.values() == []
    app.advance(10)
    assert app.values() == [2]
'''


def test_state_that_cannot_be_saved(environment, tmp_path):
    (tmp_path / "test_bad.py").write_text(STATE)
    out = run(environment, tmp_path, "test_bad.py", directory=tmp_path)
    assert "1 failed, 1 passed" in out.stdout, out.stdout
    assert "state of step 'keep'" in out.stdout
    assert "does not survive a kill" in out.stdout


def test_without_the_programs(environment, tmp_path):
    environment["WALLAROO_PREFIX"] = str(tmp_path)
    environment["PATH"] = str(tmp_path)
    (tmp_path / "conftest.py").write_text(
        "import wallaroo._cluster as c\nc.places = lambda: []\n")
    (tmp_path / "test_bad.py").write_text(STATE)
    out = run(environment, tmp_path, "--wallaroo-cluster=2", "test_bad.py",
              directory=tmp_path)
    assert "2 failed" in out.stdout
    assert "wallaroo-supervisord is not installed" in out.stdout
