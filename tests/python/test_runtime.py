"""What the worker calls: loading an application, the interpreter's setup."""

import logging
import random
import subprocess
import sys
import textwrap

import pytest

import wallaroo
from wallaroo import _runtime, _windows


class FakeHost:
    def __init__(self):
        self.lines = []
        self.number = 0

    def log(self, priority, stream, text):
        self.lines.append((priority, stream, text))

    def serial(self):
        return self.number

    def seed(self):
        return 1000 + self.number


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module of the given text and return its name."""
    count = [0]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(wallaroo, "_ARGS", ())

    def make(text):
        count[0] += 1
        name = "app_%s_%d" % (tmp_path.name.replace("-", "_"), count[0])
        (tmp_path / (name + ".py")).write_text(textwrap.dedent(text))
        return name

    return make


SETUP = """
    import sys
    import stages, wallaroo

    def application_setup(args):
        global seen
        seen = (args, wallaroo._ARGS, sys.argv)
        return stages.application(lambda p: p.to(stages.add))
"""


def test_load(module):
    name = module(SETUP)
    loaded = _runtime.load(name, [name, "--in", "x", "--out", "y"])
    args, _args, argv = sys.modules[name].seen
    assert args == argv == [name, "--in", "x", "--out", "y"]
    assert _args == tuple(args) == wallaroo._ARGS
    assert loaded.topology[2] == "Test"
    assert len(loaded.functions) == len(loaded.state_factories)
    assert len(loaded.functions) == len(loaded.frame_lengths)
    assert loaded.serialize is None and loaded.deserialize is None


SETUP_TWICE = """
    import wallaroo

    class Generator:
        def initial_value(self):
            return None

        def apply(self, value):
            return None

    @wallaroo.state_computation("count", list)
    def count(data, state):
        state.append(data)
        return data

    @wallaroo.encoder
    def encode(data):
        return data

    def application_setup(args):
        source = wallaroo.GenSourceConfig("numbers", Generator())
        return wallaroo.build_application("twice", (
            wallaroo.source("numbers", source).to(count).to(count)
            .to_sink(wallaroo.TCPSinkConfig("127.0.0.1", 7002, encode))))
    """


def test_arguments_are_there_at_import(module):
    name = module("import sys, wallaroo\nat_import = wallaroo._ARGS, sys.argv"
                  + textwrap.dedent(SETUP))
    _runtime.load(name, [name, "a"])
    assert sys.modules[name].at_import == ((name, "a"), [name, "a"])


def test_hooks(module):
    name = module(SETUP + """
    import pickle
    calls = []

    def serialize(o):
        calls.append(o)
        return pickle.dumps(o)

    def deserialize(bs):
        return pickle.loads(bs)
    """)
    loaded = _runtime.load(name, [name])
    calls = sys.modules[name].calls
    for value in (1, "text", {"a": [None]}):
        saved = loaded.serialize(value)
        assert calls == [value] and type(saved) is bytes	# once
        assert loaded.deserialize(saved) == value
        calls.clear()
    # Of windows they see the accumulators, and nothing of ours.
    windows = _windows.RangeState()
    windows.first, windows.count, windows.high = 5, 3, 7
    windows.panes = {5: ["x"], 7: ["y"]}
    again = loaded.deserialize(loaded.serialize(windows))
    assert type(again) is _windows.RangeState
    assert vars(again) == vars(windows) and calls == [["x"], ["y"]]
    calls.clear()
    window = _windows.CountState()
    again = loaded.deserialize(loaded.serialize(window))
    assert vars(again) == vars(window) and calls == []
    window.count, window.accumulator = 2, ["z"]
    again = loaded.deserialize(loaded.serialize(window))
    assert type(again) is _windows.CountState
    assert vars(again) == vars(window) and calls == [["z"]]


def test_no_hooks(module):
    for more in (
        "\n    def serialize(o):\n        pass\n",
        "\n    serialize = deserialize = 3\n",
        "\n    from wallaroo import serialize, deserialize\n",
    ):
        name = module(SETUP + more)
        loaded = _runtime.load(name, [name])
        assert loaded.serialize is None and loaded.deserialize is None


def test_a_step_with_state_twice(module):
    """What machida3 runs may do that."""
    name = module(SETUP_TWICE)
    loaded = _runtime.load(name, [name], ["machida3", name])
    assert [s[0] for s in loaded.topology[4] if s[1] == "state"] == [
        "count", "count (2)"]
    name = module(SETUP_TWICE)
    with pytest.raises(wallaroo.WallarooParameterError, match="'count'"):
        _runtime.load(name, [name])


@pytest.mark.parametrize("text,error", [
    ("import does_not_exist_anywhere", ModuleNotFoundError),
    ("1 / 0", ZeroDivisionError),
    ("def application_setup(args): 1 / 0", ZeroDivisionError),
    ("def application_setup(args): raise SystemExit(2)", SystemExit),
    ("def application_setup(args): return None",
     wallaroo.WallarooParameterError),
    ("x = 1", wallaroo.WallarooParameterError),
    ("application_setup = 3", wallaroo.WallarooParameterError),
])
def test_errors_come_through(module, text, error):
    name = module(text)
    with pytest.raises(error):
        _runtime.load(name, [name])


def test_no_module():
    with pytest.raises(ModuleNotFoundError):
        _runtime.load("there_is_no_such_module", ["x"])


def writer():
    host = FakeHost()
    return host, _runtime.LineWriter(host, 6, "stdout", 1)


def test_prints_go_to_the_log_by_line():
    host, out = writer()
    print("one", file=out)
    print("two\nthree", 4, end="", file=out, flush=True)
    assert host.lines == [(6, "stdout", "one"), (6, "stdout", "two")]
    print(file=out)
    out.writelines(["a\n", "b\r\n", "c"])
    out.close()
    out.close()
    assert [line for _, _, line in host.lines[2:]] == [
        "three 4", "a", "b", "c"]


def test_odd_prints():
    host, out = writer()
    print("\udcff", file=out)
    print("x" * 40000, file=out)
    out.buffer.write(b"bytes\n")
    assert host.lines[0][2] == "\\udcff"
    assert "".join(t for _, _, t in host.lines[1:-1]) == "x" * 40000
    assert max(len(t) for _, _, t in host.lines) <= _runtime.LONGEST_LINE
    assert host.lines[-1] == (6, "stdout", "bytes")
    assert out.fileno() == 1 and not out.isatty() and out.writable()
    out.reconfigure(line_buffering=True)
    with pytest.raises(TypeError):
        out.write(b"x")


def test_logging_goes_to_the_log():
    host = FakeHost()
    logger = logging.Logger("mine")
    logger.addHandler(_runtime.LogHandler(host))
    logger.debug("d")
    logger.info("i %d", 5)
    logger.warning("w1\nw2")
    logger.error("e")
    logger.critical("c")
    assert host.lines == [
        (7, "logging", "mine: d"), (6, "logging", "mine: i 5"),
        (4, "logging", "mine: w1"), (4, "logging", "w2"),
        (3, "logging", "mine: e"), (3, "logging", "mine: c"),
    ]
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("failed")
    assert host.lines[6] == (3, "logging", "mine: failed")
    assert host.lines[-1][2] == "ZeroDivisionError: division by zero"


DRAWS = [
    lambda r: r.random(), lambda r: r.randint(0, 10**30),
    lambda r: r.gauss(0, 1), lambda r: r.normalvariate(0, 1),
    lambda r: r.choice(range(1000)), lambda r: r.sample(range(1000), 5),
    lambda r: r.randbytes(8), lambda r: r.getrandbits(100),
    lambda r: r.uniform(1, 2), lambda r: r.getstate(),
    lambda r: r.choices("abcdef", k=9), lambda r: r.betavariate(1, 2),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_random_follows_the_record(draw):
    host = FakeHost()
    step_random = _runtime.StepRandom(host)

    def at(serial):
        host.number = serial
        return [draw(step_random), draw(step_random)]

    first, second = at(1), at(2)
    step_random.gauss(0, 1)  # leaves a value behind
    assert at(1) == first and at(2) == second
    assert first != second
    assert at(1) == [draw(r) for r in [random.Random(1001)] for _ in "12"]


def test_random_outside_of_steps():
    host = FakeHost()
    a, b = _runtime.StepRandom(host), _runtime.StepRandom(host)
    assert [a.random() for _ in "123"] == [b.random() for _ in "123"]
    host.number = 1
    inside = a.random()
    host.number = 0
    assert a.random() != inside


def test_a_step_can_seed():
    host = FakeHost()
    step_random = _runtime.StepRandom(host)
    host.number = 1
    step_random.seed(42)
    assert step_random.random() == random.Random(42).random()
    host.number = 2
    assert step_random.random() == random.Random(1002).random()
    host.number = 3
    step_random.setstate(random.Random(5).getstate())
    assert step_random.random() == random.Random(5).random()


INSTALLED = """
import sys
from random import random as early

class Host:
    number = 0
    lines = []
    def log(self, *line): self.lines.append(line)
    def serial(self): return self.number
    def seed(self): return self.number

host = Host()
real = sys.stdout
from wallaroo import _runtime
_runtime.install(host)
import logging, random
from random import gauss, randint, shuffle

def draw(n):
    host.number = n
    items = list(range(9))
    shuffle(items)
    return random.random(), randint(0, 10**9), gauss(0, 1), items

first, second = draw(1), draw(2)
assert first != second and draw(1) == first and draw(2) == second
assert random.Random(5).random() == random.Random(5).random()
for name in dir(random):
    owner = getattr(getattr(random, name), "__self__", None)
    assert not isinstance(owner, random.Random) or owner is random._inst, name
assert type(random._inst) is _runtime.StepRandom
print("printed")
print("to stderr", file=sys.stderr)
logging.info("logged")
logging.debug("not logged")
assert host.lines == [
    (6, "stdout", "printed"), (5, "stderr", "to stderr"),
    (6, "logging", "root: logged"),
], host.lines
host.log = lambda *line: real.write("left over: %s\\n" % line[2])
print("no newline", end="")
"""


def test_install(environment):
    out = subprocess.run(
        [sys.executable, "-c", INSTALLED], env=environment, text=True,
        stdout=subprocess.PIPE, check=True,
    )
    assert out.stdout == "left over: no newline\n"
