"""Word count from a file to a file; the functions are also the bare loop's."""

import wallaroo
from wallaroo.codecs import LineDecoder


class Total:
    def __init__(self):
        self.count = 0


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
    return b"%s %d\n" % (data[0].encode(), data[1])


class Lines(LineDecoder):
    decode = staticmethod(decode)


def application_setup(args):
    return wallaroo.build_application("word count", (
        wallaroo.source("words", wallaroo.FileSourceConfig(
            "words", args[1], Lines()))
        .to(split)
        .key_by(word)
        .to(count)
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
