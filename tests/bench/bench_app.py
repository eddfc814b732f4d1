"""What bench.py runs besides the word count: a stage that only computes, an
exchange and nothing else, and a counter per key between two TCP ends.

    busy INPUT OUTPUT ROUNDS | hop INPUT OUTPUT | tcp PORT PORT [PROBE FILE]

PROBE is probe.c as a shared object, FILE what it writes into.
"""

import wallaroo
from wallaroo.codecs import LineDecoder

EACH = 1000		# one output of the hop for so many inputs of a key
rounds = 0
probe = None


class Count:
    def __init__(self):
        self.value = 0


class Whole(LineDecoder):
    def decode(self, data):
        return data


class Words(LineDecoder):
    def decode(self, data):
        if probe is not None:
            probe.probe_begin()
        return data.split(b" ")


@wallaroo.key_extractor
def whole(data):
    return data[:4]


@wallaroo.key_extractor
def first(words):
    return words[0]


def spin(times):
    """Python that does nothing, for as long as was measured before."""
    number = 0
    for _ in range(times):
        number = number * 3 % 65537 + 1
    return number


@wallaroo.state_computation(name="Busy", state=Count)
def busy(data, state):
    spin(rounds)
    state.value += 1
    return (data, state.value)


@wallaroo.state_computation(name="Hop", state=Count)
def hop(data, state):
    state.value += 1
    return (data, state.value) if state.value % EACH == 0 else None


@wallaroo.state_computation(name="Count", state=Count)
def count(words, state):
    if probe is not None:
        probe.probe_tick()
    state.value += 1
    return (words[0], state.value, words[1])


@wallaroo.encoder
def encode_pair(pair):
    return b"%s %d\n" % pair


@wallaroo.encoder
def encode(triple):
    data = b"%s %d %s\n" % triple
    if probe is not None:
        probe.probe_end()
    return data


def open_probe(library, path):
    global probe
    import ctypes
    opened = ctypes.CDLL(library)
    if opened.probe_open(path.encode()) != 0:
        raise OSError("cannot open the probe's file %s" % path)
    probe = opened


def application_setup(args):
    global rounds
    kind, source, target = args[1:4]
    if kind == "tcp":
        if args[4:]:
            open_probe(*args[4:])
        return wallaroo.build_application("tcp", (
            wallaroo.source("lines", wallaroo.TCPSourceConfig(
                "lines", "127.0.0.1", source, Words()))
            .key_by(first)
            .to(count)
            .to_sink(wallaroo.TCPSinkConfig("127.0.0.1", target, encode))))
    if kind == "busy":
        rounds = int(args[4])
    return wallaroo.build_application(kind, (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", source, Whole()))
        .key_by(whole)
        .to(busy if kind == "busy" else hop)
        .to_sink(wallaroo.FileSinkConfig(target, encode_pair))))
