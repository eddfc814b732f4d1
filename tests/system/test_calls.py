"""Every call from the runtime to objects of the user, row by row: hand-written
objects that derive from nothing of ours, on the reference executor and on
the runtime, with what each returns and raises."""

import sys
import types

import pytest

import harness
import wallaroo
import wallaroo.testing
from wallaroo.testing import UserFunctionError

PARTS = '''
import struct

import wallaroo
from wallaroo.codecs import lines_decoder


class Text:
    """An encoder: a line."""

    def name(self):
        return b"as text"		# bytes are a name, too

    def encode(self, data):
        return "%s\\n" % (data,)


class First:
    """A key extractor without a name."""

    def extract_key(self, data):
        return data[0]


class Stage:
    def name(self):
        return "a stage"


class Count(Stage):
    def __init__(self):
        self.n = 0


SOURCE = wallaroo.FileSourceConfig("in", INPUT, lines_decoder)
ENCODER = Text()


def stages(pipeline):
    return pipeline

PART

def application_setup(args):
    return wallaroo.build_application("calls", stages(
        wallaroo.source("in", SOURCE)).to_sink(
            wallaroo.FileSinkConfig(OUTPUT, ENCODER)))
'''

# name: (part, input, output); an output of str is the text of an error
ROWS = {}


def row(name, data, expected, part):
    ROWS[name] = (part, data, expected)


def to(what):
    """A part with a class Step and a pipeline with an object of it."""
    return what + "\ndef stages(pipeline):\n    return pipeline.to(Step())\n"


def keyed(what):
    return what + ("\ndef stages(pipeline):\n"
                   "    return pipeline.key_by(First()).to(Step())\n")


STATE = "class Step(Stage, wallaroo.StateComputation):\n"

row("framed decoder", b"\x00\x03\x01abc\x00\x00\x02\x00\x04\x03drop"
    b"\x00\x01\x04x", b"b'\\x00\\x03\\x01' abc\nb'\\x00\\x00\\x02' \n"
    b"b'\\x00\\x01\\x04' x\n", '''
class Decoder:
    def header_length(self):
        return 3

    def payload_length(self, header):
        assert type(header) is bytes
        self.header = header
        return struct.unpack(">Hx", header)[0]

    def decode(self, payload):
        assert type(payload) is bytes
        if payload == b"drop":
            return None
        return "%r %s" % (self.header, payload.decode())

SOURCE = wallaroo.FileSourceConfig("in", INPUT, Decoder())
''')
row("decode raises", b"\0\0\0\1x", "ZeroDivisionError", '''
class Decoder:
    def header_length(self):
        return 4

    def payload_length(self, header):
        return header[3]

    def decode(self, payload):
        return 1 / 0

SOURCE = wallaroo.FileSourceConfig("in", INPUT, Decoder())
''')
row("generator", None, b"1\n2\n3\n", '''
class Generator:
    def initial_value(self):
        return 1

    def apply(self, previous):
        return previous + 1 if previous < 3 else None

SOURCE = wallaroo.GenSourceConfig("in", Generator())
''')
row("generator makes the next before the value goes on", None,
    b"[1]\n[2]\n", '''
class Generator:
    def initial_value(self):
        return [1]

    def apply(self, previous):
        return [previous[0] + 1] if previous[0] < 2 else None

class Step(Stage):
    def compute(self, data):
        seen = list(data)
        data[0] = 9
        return seen

SOURCE = wallaroo.GenSourceConfig("in", Generator())


def stages(pipeline):
    return pipeline.to(Step())
''')
row("generator without a value", None, b"", '''
class Generator:
    def initial_value(self):
        return None

    def apply(self, previous):
        raise RuntimeError("asked")

SOURCE = wallaroo.GenSourceConfig("in", Generator())
''')
row("generator raises", None, "no more", '''
class Generator:
    def initial_value(self):
        return 1

    def apply(self, previous):
        raise RuntimeError("no more")

SOURCE = wallaroo.GenSourceConfig("in", Generator())
''')
row("compute: None is filtered, a list is one output", b"a\nb\nc\n",
    b"a\n['b', 'b']\n", to('''
class Step(Stage):
    def compute(self, data):
        return {"a": "a", "b": ["b", "b"]}.get(data)
'''))
row("compute raises", b"a\n", "KeyError: 'a'", to('''
class Step(Stage):
    def compute(self, data):
        return {}[data]
'''))
row("compute_multi: None, elements of None, subclasses", b"3\n0\n-1\n7\n",
    b"0\n1\n2\nx\n", to('''
class Mine(list):
    pass


class Step(Stage):
    def compute_multi(self, data):
        n = int(data)
        if n == 7:
            return Mine(["x", None])
        return None if n < 0 else list(range(n)) + [None]
'''))
row("compute_multi gives a tuple", b"a\n", "must return a list", to('''
class Step(Stage):
    def compute_multi(self, data):
        return (1, 2)
'''))
row("state: made for the first message of a key, changed in place",
    b"a1\nb1\na2\n", b"a1 1 of 1\nb1 1 of 2\na2 2 of 1\n", keyed(STATE + '''
    made = 0

    def initial_state(self):
        Step.made += 1
        state = Count()
        state.born = Step.made
        return state

    def compute(self, data, state):
        state.n += 1
        return "%s %d of %d" % (data, state.n, state.born)
'''))
row("state multi", b"a1\na2\n", b"1\n2\n2\n", keyed(STATE + '''
    def initial_state(self):
        return Count()

    def compute_multi(self, data, state):
        state.n += 1
        return [state.n] * state.n
'''))
row("state computation filters", b"a1\na2\na3\n", b"2\n", keyed(STATE + '''
    def initial_state(self):
        return Count()

    def compute(self, data, state):
        state.n += 1
        return state.n if state.n == 2 else None
'''))
row("initial_state raises", b"a\n", "ValueError: not now", keyed(STATE + '''
    def initial_state(self):
        raise ValueError("not now")

    def compute(self, data, state):
        return data
'''))
WINDOWS = '''
class Step(Stage):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)
        return "ignored"

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        if accumulator[0] == "b1":
            return None
        if accumulator[0] == "c1":
            raise ValueError("in output")
        return "%s %s" % (key, accumulator)


def stages(pipeline):
    return pipeline.key_by(First()).to(
        wallaroo.count_windows(2).with_timeout(None).over(Step))
'''
row("aggregation", b"a1\nb1\na2\nb2\na3\na4\n",
    b"a ['a1', 'a2']\na ['a3', 'a4']\n", WINDOWS)
row("output raises", b"c1\nc2\n", "ValueError: in output", WINDOWS)
for method in ("initial_accumulator", "update"):
    row(method + " raises", b"a1\na2\n", "ValueError: in " + method,
        WINDOWS.replace("def %s(" % method,
                        "def %s(self, *_):\n        raise ValueError("
                        "'in %s')\n\n    def other(" % (method, method)))
RANGE = '''
class Step(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)

    def combine(self, a, b):
        %s
        return a + b

    def output(self, key, accumulator):
        return "%%s %%s" %% (key, accumulator) if accumulator else None


def stages(pipeline):
    return pipeline.key_by(First()).to(
        wallaroo.range_windows(wallaroo.milliseconds(500)).over(Step))
'''
row("range windows", b"a1\na2\n", b"a ['a1', 'a2']\n", RANGE % "")
row("combine raises", b"a1\n", "ValueError: in combine",
    RANGE % "raise ValueError('in combine')")
KEYS = '''
class Key:
    def extract_key(self, data):
        return %s


class Step(Stage, wallaroo.StateComputation):
    def initial_state(self):
        return Count()

    def compute(self, data, state):
        state.n += 1
        return state.n


def stages(pipeline):
    return pipeline.key_by(Key()).to(Step())
'''
row("keys: bytes and their text are one", "1\u00e4\n2\u00e4\n".encode(),
    b"1\n2\n", KEYS % "data[1] if data[0] == '1' else data[1].encode()")
row("keys: an int is a character", b"65\nA\n", b"1\n2\n",
    KEYS % "int(data) if data.isdigit() else data")
row("keys of another type", b"a\n", "a key", KEYS % "(data,)")
row("extract_key raises", b"a\n", "ZeroDivisionError", KEYS % "1 / 0")
row("encoder: bytes, text, nothing", b"1\n2\n3\n4\n", b"one\n\xc3\xa4\n4",
    '''
class Encoder:
    def encode(self, data):
        return {"1": b"one\\n", "2": "\\u00e4\\n", "3": None}.get(data, data)

ENCODER = Encoder()
''')
row("encoder of another type", b"a\n",
    "must return bytes, str or None", '''
class Encoder:
    def name(self):
        return "encode it"

    def encode(self, data):
        return 7

ENCODER = Encoder()
''')
row("encode raises", b"a\n", "ZeroDivisionError", '''
class Encoder:
    def encode(self, data):
        return 1 / 0

ENCODER = Encoder()
''')


def text_of(part, source, sink):
    return PARTS.replace("PART\n", part).replace(
        "INPUT", repr(source)).replace("OUTPUT", repr(sink))


def module_of(text):
    module = types.ModuleType("calls_under_test")
    sys.modules[module.__name__] = module	# state classes live there
    exec(compile(text, "calls", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", ROWS)
def test_on_the_reference(name):
    part, data, expected = ROWS[name]
    module = module_of(text_of(part, "in", "out"))
    application = module.application_setup(["calls"])

    def run():
        return wallaroo.testing.run(application, {"in": data})
    if isinstance(expected, str):
        with pytest.raises((UserFunctionError, RuntimeError),
                           match=expected.replace("(", "[(]")):
            run()
    else:
        assert b"".join(run().outputs["out"]) == expected


@pytest.mark.level("all")
@pytest.mark.parametrize("name", ROWS)
def test_on_the_runtime(name, cluster):
    part, data, expected = ROWS[name]
    app = cluster("import wallaroo\n")
    source = app.write("input", data or b"")
    app.write("app_under_test.py", text_of(part, source, app.out("out")))
    app.write_conf()
    if isinstance(expected, str):
        code, log = app.run_to_exit()
        assert code != harness.EXIT_CLEAN
        assert expected in log
        assert "Traceback" in log or "must" in log, log
    else:
        app.start()
        harness.wait_for(lambda: app.read_out("out") == expected,
                         "the output %r, not %r" % (
                             expected, app.read_out("out")))
        app.stop()
        assert app.read_out("out") == expected
