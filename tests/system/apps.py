"""Source texts of the applications under test.

They are ordinary applications: none of them knows about workers.
"""

# The functions of word count; an application adds its setup.
WORD_FUNCTIONS = '''
import wallaroo


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    return data.decode()


@wallaroo.computation_multi(name="Split")
def split(line):
    return line.split()


@wallaroo.key_extractor
def word(data):
    return data


@wallaroo.state_computation(name="Count", state=Total)
def count(data, state):
    state.count += 1
    return (data, state.count)


@wallaroo.encoder
def encode(data):
    return ("%s %d\\n" % data).encode()
'''

WORD_COUNT = WORD_FUNCTIONS + '''

def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("word count", (
        wallaroo.source("words", wallaroo.TCPSourceConfig(
            name, host, port, decode))
        .to(split)
        .key_by(word)
        .to(count)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''


def word_count_args(source_port, sink_port):
    return ["--in", "words@127.0.0.1:%d" % source_port,
            "--out", "127.0.0.1:%d" % sink_port]


# The same with a file at each end; order of words in the output is free.
FILE_COUNT = '''
import wallaroo
from wallaroo.codecs import lines_decoder


class Total:
    count = 0


@wallaroo.computation_multi(name="Split")
def split(line):
    return line.split()


@wallaroo.key_extractor
def word(data):
    return data


@wallaroo.state_computation(name="Count", state=Total)
def count(data, state):
    state.count += 1
    return (data, state.count)


@wallaroo.encoder
def encode(data):
    return "%s %d\\n" % data


def application_setup(args):
    return wallaroo.build_application("file count", (
        wallaroo.source("words", wallaroo.FileSourceConfig(
            "words", args[1], lines_decoder))
        .to(split)
        .key_by(word)
        .to(count)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''

# One key: the bytes of the output are known exactly.
FILE_NUMBER = '''
import wallaroo
from wallaroo.codecs import lines_decoder


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.state_computation(name="Number", state=Total)
def number(data, state):
    state.count += 1
    return "%d %s" % (state.count, data)


@wallaroo.encoder
def encode(data):
    return data + "\\n"


def application_setup(args):
    return wallaroo.build_application("file number", (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", args[1], lines_decoder))
        .collect()
        .to(number)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''

GENERATE = '''
import wallaroo


class Total:
    def __init__(self):
        self.sum = 0


class Numbers:
    def __init__(self, count):
        self.count = count

    def initial_value(self):
        return 1

    def apply(self, last):
        return last + 1 if last < self.count else None


class Hidden:
    """State of its own, besides the last value."""

    def __init__(self, count):
        self.count = count
        self.made = 0

    def initial_value(self):
        self.made = 1
        return 1

    def apply(self, last):
        self.made += 1
        return self.made if self.made <= self.count else None


@wallaroo.state_computation(name="Sum", state=Total)
def add(data, state):
    state.sum += data
    return (data, state.sum)


@wallaroo.encoder
def encode(data):
    return "%d %d\\n" % data


def application_setup(args):
    kind = {"numbers": Numbers, "hidden": Hidden}[args[1]]
    return wallaroo.build_application("generate", (
        wallaroo.source("numbers", wallaroo.GenSourceConfig(
            "numbers", kind(int(args[2]))))
        .collect()
        .to(add)
        .to_sink(wallaroo.FileSinkConfig(args[3], encode))))
'''


# Everything that must be the same again in a replay.
DETERMINISM = '''
import datetime
import hashlib
import os
import random
import secrets
import time
import uuid
from datetime import datetime as imported_datetime
from os import urandom
from random import choice, randrange, shuffle
from time import monotonic, perf_counter, time_ns
from uuid import uuid1, uuid4

import wallaroo

at_import = time.time()


class Seen:
    def __init__(self):
        self.values = []
        self.born = time.time_ns()


def observe():
    # Keeps a counter and a random number of its own for the whole process;
    # and it waits until the clock has moved on.
    for _ in range(20):
        uuid1()
    deck = list(range(20))
    shuffle(deck)
    return [
        time.time(), time_ns(), time.monotonic(), monotonic(),
        perf_counter(), time.gmtime().tm_year,
        str(datetime.datetime.now()), str(imported_datetime.utcnow()),
        str(datetime.date.today()),
        random.random(), randrange(1 << 40), choice(range(1000)), deck,
        random.Random().random(), random.SystemRandom().random(),
        str(uuid.uuid4()), str(uuid4()),
        os.urandom(8).hex(), urandom(8).hex(), os.getrandom(4).hex(),
        secrets.token_hex(8), secrets.randbelow(1 << 40),
        hash("text"), list({"a", "b", "c", "d", "e", "f"}),
        hashlib.sha256(random.randbytes(8)).hexdigest(),
    ]


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    return [data.decode(), observe() if data != b"tell" else []]


@wallaroo.computation(name="Stateless")
def stateless(data):
    if data[0] != "tell":
        data.append(observe())
    return data


@wallaroo.key_extractor
def constant(data):
    return "one"


@wallaroo.state_computation(name="Remember", state=Seen)
def remember(data, state):
    if data[0] == "tell":
        return ["told", state.born, state.values]
    state.values.append([data, observe()])
    return ["seen", state.born, state.values[-1:]]


@wallaroo.encoder
def encode(data):
    import json
    return json.dumps(data) + "\\n"


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("determinism", (
        wallaroo.source("in", wallaroo.TCPSourceConfig(
            name, host, port, decode))
        .to(stateless)
        .key_by(constant)
        .to(remember)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''

# Passes everything on, numbered per key.
PASS = '''
import wallaroo


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    return data


@wallaroo.key_extractor
def key(data):
    return data[:data.index(b" ")]


@wallaroo.state_computation(name="Number", state=Total)
def number(data, state):
    state.count += 1
    return b"%d %s\\n" % (state.count, data)


@wallaroo.encoder
def encode(data):
    return data


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("pass", (
        wallaroo.source("in", wallaroo.TCPSourceConfig(
            name, host, port, decode, max_size=1 << 20))
        .key_by(key)
        .to(number)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''

STDIO = FILE_NUMBER.replace("""wallaroo.FileSourceConfig(
            "lines", args[1], lines_decoder)""", """wallaroo.StdinSourceConfig(
            "lines", lines_decoder)""").replace(
    "wallaroo.FileSinkConfig(args[2], encode)",
    "wallaroo.StdoutSinkConfig(encode)")


def slow(source, seconds):
    """The same application, whose first step takes its time."""
    return source.replace(
        "    state.count += 1\n",
        "    import select\n    select.select([], [], [], %r)\n"
        "    state.count += 1\n" % seconds).replace(
        "    state.sum += data\n",
        "    import select\n    select.select([], [], [], %r)\n"
        "    state.sum += data\n" % seconds)

# Two exchanges with more and more messages: pressure between workers.
AMPLIFY = '''
import wallaroo


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    return data.decode()


@wallaroo.computation_multi(name="First")
def first(line):
    return ["%s.%d%s" % (line, number, "x" * 200) for number in range(10)]


@wallaroo.key_extractor
def whole(data):
    return data


@wallaroo.state_computation_multi(name="Second", state=Total)
def second(data, state):
    state.count += 1
    return ["%s-%d%s" % (data.rstrip("x"), number, "y" * 500)
            for number in range(8)]


@wallaroo.key_extractor
def number(data):
    return data.rstrip("y").rpartition("-")[2]


@wallaroo.state_computation(name="Third", state=Total)
def third(data, state):
    state.count += 1
    return "%s %s\\n" % (number(data), state.count)


@wallaroo.encoder
def encode(data):
    return data


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("amplify", (
        wallaroo.source("in", wallaroo.TCPSourceConfig(
            name, host, port, decode))
        .to(first)
        .key_by(whole)
        .to(second)
        .key_by(number)
        .to(third)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''
