"""Programs that do what programs do: what they print, import, keep in their
states and send, and in which form they say it, by machida3's command line."""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys

import pytest

import machida_apps as apps
from harness import SOURCE_TREE, wait_for
from harness import program as program_path
from machida import Machida

ALL = pytest.mark.level("all")

COMMON = '''
import wallaroo


class Numbers(object):
    def __init__(self, count):
        self.count = count

    def initial_value(self):
        return 0

    def apply(self, last):
        return last + 1 if last + 1 < self.count else None


@wallaroo.encoder
def as_line(data):
    return "%s\\n" % (data,)


def application_setup(args):
    [(host, port)] = wallaroo.tcp_parse_output_addrs(args)
    pipeline = wallaroo.source("numbers", wallaroo.GenSourceConfig(
        "numbers", Numbers(COUNT)))
    return wallaroo.build_application("Program", steps(pipeline).to_sink(
        wallaroo.TCPSinkConfig(host, port, as_line)))
'''


@pytest.fixture
def program(opened):
    def make(text, count=None, **options):
        if count is not None:
            text = COMMON.replace("COUNT", str(count)) + text
        return opened(Machida(text, **options))
    return make


# -- what they print, import and start ---------------------------------------

BUSY = '''
from __future__ import print_function
import atexit
import logging
import os
import signal
import subprocess
import sys
import sys
import threading
import time
from wallaroo import *
'''

BUSY_STEPS = '''
logging.basicConfig(level=logging.DEBUG)
log = logging.getLogger(__name__)
signal.signal(signal.SIGUSR1, lambda *_: None)
atexit.register(print, "the program has ended")
thread = threading.Thread(target=time.sleep, args=(0.01,))
thread.daemon = True
thread.start()


def named(number):
    def function(data):
        return data
    function.__name__ = "step_%d" % number
    return computation(name="the same name")(function)


@computation("busy")
def busy(data):
    if data == 1:
        log.debug("a debug line")
        logging.warning("a warning")
        sys.stderr.write("to stderr\\n")
        sys.stdout.write("a part of a line, ")
        sys.stdout.flush()
        print("and its rest", file=sys.stdout)
        sys.stdout.buffer.write(b"bytes\\n")
        print(subprocess.check_output(["echo", "of a child"]).decode())
    assert os.environ["WALLAROO_TEST_MARK"]
    assert abs(time.time() - float(os.path.getmtime("started"))) < 3600
    return data


@computation_multi("more")
def more(data):
    return [data, None, -data]


def steps(pipeline):
    open("started", "w").close()
    for number in range(40):
        pipeline = pipeline.to(named(number))
    return pipeline.to(busy).to(more).collect().to(busy)
'''


@ALL
def test_prints_logs_threads_children(program):
    m = program(BUSY + COMMON.replace("COUNT", "20") + BUSY_STEPS,
                resilient=False).receive().start()
    m.wait_lines(39)
    assert [int(line) for line in m.lines()] == [
        sign * n for n in range(20) for sign in (1, -1)]
    m.end()
    for line in ("a part of a line, and its rest", "bytes", "of a child",
                 "the program has ended"):
        assert re.search("^%s$" % line, m.out(), re.M), m.out()
    for line in ("DEBUG:app_under_test:a debug line",
                 "WARNING:root:a warning", "to stderr"):
        assert re.search("^%s$" % line, m.log(), re.M), m.log()


# -- what they keep and send -------------------------------------------------

SLOTS = '''
KEYS = ["", "\\0", "a\\0b", "\\u00e4\\u20ac", "k" * 70000, b"\\xff\\xfe",
        "a/b", "'; drop", '"q"', "\\n", b"\\x80", 955]


class Count(object):
    __slots__ = ("n", "seen")

    def __init__(self, n=0):
        self.n = n
        self.seen = set()


@wallaroo.key_extractor
def key_of(number):
    return KEYS[number % 12]


@wallaroo.state_computation(name="count", state=Count)
def count(number, state):
    state.n += 1
    state.seen.add(number)
    assert len(state.seen) == state.n == number // 12 + 1
    return number


def steps(pipeline):
    return pipeline.key_by(key_of).to(count).to(count).key_by(key_of).to(
        count)
'''


@ALL
def test_odd_keys_and_a_step_three_times(program):
    """Over a kill: each has states of its own, which are found again."""
    m = program(SLOTS, 6000).receive().start()
    m.wait_lines(2000)
    m.kill9()
    m.start()
    m.wait_lines(6000)
    assert set(m.lines()) == {b"%d" % n for n in range(6000)}
    stages = m.ask("state-entity-count-query")
    assert list(stages.values()) == [12] * 3
    m.end()


UNSAVED = '''
import threading


def make_class():
    class Inside:
        def __init__(self):
            self.lock = threading.Lock()
            self.n = 0
    return Inside


@wallaroo.computation(name="wrap")
def wrap(number):
    return lambda: number


@wallaroo.key_extractor
def key_of(message):
    return message() % 3


@wallaroo.state_computation(name="count", state=make_class())
def count(message, state):
    with state.lock:
        state.n += message()
    return "%d %s" % (state.n, "x" * 3000000)


def steps(pipeline):
    return pipeline.to(wrap).key_by(key_of).to(count)
'''


@ALL
def test_what_cannot_be_pickled_and_is_large(program):
    """In one process, which keeps nothing, nothing has to be."""
    m = program(UNSAVED, 9, resilient=False).receive().start()
    m.wait_lines(9)
    assert [int(line[:3].split()[0]) for line in m.lines()] == [
        0, 1, 2, 3, 5, 7, 9, 12, 15]
    assert {len(line.split(b" ")[1]) for line in m.lines()} == {3000000}
    m.end()


@ALL
def test_a_state_that_cannot_be_saved(program):
    m = program(UNSAVED.replace("return lambda: number", "return number")
                .replace("message()", "message"), 9).receive().launch()
    assert m.wait_exit() == 1
    assert "a state of type app_under_test." in m.log()
    assert "cannot be saved" in m.log()
    assert re.search("^Error: Serialization failed$", m.log(), re.M)


LOADS = '''
import os
import pickle


def serialize(o):
    return pickle.dumps(o)


def deserialize(bs):
    if os.path.exists("refuse"):
        raise ValueError("not these bytes")
    return pickle.loads(bs)

'''


@ALL
def test_a_state_that_cannot_be_loaded(program):
    """It is, when a message needs it."""
    m = program(apps.WORDS + LOADS, inputs=["Split and Count"])
    m.receive().start()
    m.send("Split and Count", b"a b a\n")
    m.wait_lines(3)
    m.end()
    with open(os.path.join(m.dir, "refuse"), "w"):
        pass
    m.start()
    m.send("Split and Count", b"a\n")
    assert m.wait_exit() == 1
    assert "ValueError: not these bytes" in m.log()
    assert re.search("^Error: Deserialization failed$", m.log(), re.M)


# -- headers, forms, sources and sinks ---------------------------------------

HEADERS = [(1, ">B"), (2, ">H"), (2, "<H"), (4, ">I"), (4, "<I"), (8, ">Q"),
           (8, "<Q"), (4, ">i"), (4, "!L"), (3, ">xH")]

FRAMES = '''
import wallaroo

HEADERS = %r


def decoder(length, form):
    def decode(payload):
        return "%%d %%s %%d" %% (length, form, len(payload))
    return wallaroo.decoder(header_length=length, length_fmt=form)(decode)


@wallaroo.encoder
def encode(data):
    return data.encode() + b"\\n"


def application_setup(args):
    pipeline = None
    addresses = wallaroo.tcp_parse_input_addrs(args)
    for (name, host, port), header in zip(addresses, HEADERS):
        source = wallaroo.source("From " + name, wallaroo.TCPSourceConfig(
            name=name, host=host, port=int(port), decoder=decoder(*header),
            max_size=100000))
        pipeline = pipeline.merge(source) if pipeline else source
    (host, port), = wallaroo.tcp_parse_output_addrs(args)
    return wallaroo.build_application("Frames", pipeline.to_sink(
        wallaroo.TCPSinkConfig(host, int(port), encode)))
''' % HEADERS


@ALL
def test_headers(program):
    """Ten sources, merged; each with another header."""
    names = ["%d of %s" % header for header in HEADERS]
    m = program(FRAMES, inputs=names, resilient=False).receive().start()
    wanted = []
    for name, (length, form) in zip(names, HEADERS):
        with socket.create_connection(
                ("127.0.0.1", m.ports[name])) as client:
            for size in (1, 0, 255, 70000):
                size = min(size, (1 << 8 * min(length, 2)) - 1
                           if length < 4 else size)
                client.sendall(struct.pack(form, size) + b"x" * size)
                wanted.append(("%d %s %d" % (length, form, size)).encode())
    wait_for(lambda: len(m.lines()) >= len(wanted), "the frames' lines")
    assert sorted(m.lines()) == sorted(wanted)
    for name in names:
        assert "From %s source is listening\n" % name in m.out()
    m.end()


OLDER = '''
import struct
import wallaroo
import wallaroo.experimental


class Lines(wallaroo.OctetDecoder):
    def header_length(self):
        return 4

    def payload_length(self, bs):
        return struct.unpack(">I", bs)[0]

    def decode(self, bs):
        return bs.decode("utf-8") if bs != b"drop" else None


class Reverse(wallaroo.Computation):
    def name(self):
        return "reverse"

    def compute(self, data):
        return data[::-1]


class Encoder(object):
    def encode(self, data):
        return data + "\\n" if data != "on" else None


def application_setup(args):
    in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("Reverse", (
        wallaroo.source("Reverse", wallaroo.TCPSourceConfig(
            in_host, in_port, Lines(), 3))
        .to(Reverse())
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, Encoder()))))
'''


@ALL
def test_older_forms(program):
    """Addresses without names, sources that take their pipeline's, classes
    written by hand."""
    m = program(OLDER, inputs=["x"])
    host = "localhost"
    try:
        socket.getaddrinfo(host, 1)
    except socket.gaierror:		# a system without /etc/hosts
        host = "127.0.0.1"
    for option in ("--in", "--out"):
        at = m.command.index(option) + 1
        m.command[at] = m.command[at].replace("x@", "").replace(
            "127.0.0.1", host)
    m.receive().start()
    m.send("x", b"abc\ndrop\nno\ndef\n")
    m.wait_lines(2)
    assert m.lines() == [b"cba", b"fed"]
    m.end()


SEVERAL = '''
import pickle
import wallaroo


class Letters:
    def __init__(self, letter, count):
        self.letter = letter
        self.count = count

    def initial_value(self):
        return (self.letter, 0)

    def apply(self, last):
        letter, number = last
        return (letter, number + 1) if number + 1 < self.count else None


@wallaroo.encoder
def upper(data):
    return ("%s%d\\n" % data).upper().encode()


@wallaroo.encoder
def lower(data):
    return "%s%d\\n" % data


@wallaroo.computation_multi("odd")
def odd(data):
    return [data] if data[1] % 2 else []


def serialize(o):
    return b"mine" + pickle.dumps(o)


def deserialize(bs):
    assert bs[:4] == b"mine"
    return pickle.loads(bs[4:])


def application_setup(args):
    assert "--cluster-initializer" in wallaroo._ARGS
    outs = wallaroo.tcp_parse_output_addrs(args)
    a, b, c = [wallaroo.source(letter, config) for letter, config in [
        ("a", wallaroo.GenSourceConfig("a", Letters("a", 500))),
        ("b", wallaroo.GenSourceConfig(Letters("b", 400))),
        ("c", wallaroo.GenSourceConfig("c", gen_instance=Letters("c", 300))),
    ]]
    both = a.merge(b.to(odd))
    everything = both.merge(c)
    both.to(odd)		# is another pipeline, and forgotten
    return wallaroo.build_application("S\\u00e9/veral", everything.to_sinks([
        wallaroo.TCPSinkConfig(host, port, encoder)
        for (host, port), encoder in zip(outs, [upper, lower])]))
'''


@ALL
def test_several_sources_and_sinks(program):
    m = program(SEVERAL)
    at = m.command.index("--out") + 1
    m.command[at] += "," + m.command[at]
    m.receive().start()
    wanted = {"%s%d" % pair for letter in "aA" for pair in zip(
        letter * 500, range(500))}
    wanted |= {"%s%d" % (letter, n) for letter in "bB"
               for n in range(1, 400, 2)}
    wanted |= {"%s%d" % (letter, n) for letter in "cC" for n in range(300)}
    m.wait_lines(len(wanted))
    wait_for(lambda: m.out().count(
        "GenSource produced a None. Stopping GenSource.\n") == 3,
        "three ends")
    m.kill9()
    m.start()
    m.end()
    assert {line.decode() for line in m.lines()} == wanted


@ALL
def test_nobody_takes_the_outputs_yet(program):
    """It is ready when its sinks are connected, and not before."""
    m = program(UNSAVED, 9, resilient=False)
    m.launch()
    wait_for(lambda: "cannot connect" in m.log(), "an attempt to connect")
    wait_for(lambda: "application is running" in m.log(), "the workers")
    assert not m.is_processing()
    assert "ready to work" not in m.out()
    m.receive()
    wait_for(m.is_processing, "the application to process messages")
    m.wait_lines(9)
    assert "|~~ INIT PHASE III: Application is ready to work! ~~|\n" \
        "Application has successfully initialized.\n" in m.out()
    m.end()


@ALL
def test_installed_by_pip(program, tmp_path):
    """The program of pip's finds the supervisor in PATH."""
    python = [sys.executable, "-m", "pip", "install", "--quiet",
              "--no-deps", "--no-index", "--no-build-isolation", "--target",
              str(tmp_path / "site")]
    needed = ("import setuptools as s, pip\n"
              "if int(s.__version__.split('.')[0]) < 71: import wheel")
    if subprocess.run([sys.executable, "-c", needed],
                      stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("needs pip, setuptools and wheel")
    shutil.copytree(os.path.join(SOURCE_TREE, "py"), tmp_path / "py",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for place, _, _ in os.walk(tmp_path / "py"):
        os.chmod(place, 0o755)		# of a source that is read-only
    subprocess.run(python + [str(tmp_path / "py")], check=True)
    m = program(UNSAVED, 9, resilient=False)
    m.command[0] = str(tmp_path / "site" / "bin" / "machida3")
    env = m.env

    def environment():
        e = dict(env(), PATH=os.pathsep.join([
            os.path.dirname(program_path("wallaroo-supervisord")),
            os.environ["PATH"]]))
        e["PYTHONPATH"] += os.pathsep + str(tmp_path / "site")
        return e
    m.receive()
    m.env = environment
    m.start()
    m.wait_lines(9)
    m.end()
