"""What instructions.py counts: a counter per key with a small object, and a
pipeline that goes through two exchanges.

    INPUT OUTPUT counter|exchanges
"""

import wallaroo
from wallaroo.codecs import LineDecoder


class Reading:
    def __init__(self, sensor, place, value):
        self.sensor = sensor
        self.place = place
        self.value = value


class Total:
    def __init__(self):
        self.count = 0
        self.sum = 0


class Readings(LineDecoder):
    def decode(self, data):
        sensor, place, value = data.decode().split()
        return Reading(sensor, place, int(value))


@wallaroo.key_extractor
def sensor(reading):
    return reading.sensor


@wallaroo.key_extractor
def place(change):
    return change[0]


@wallaroo.state_computation(name="Count", state=Total)
def count(reading, state):
    state.count += 1
    state.sum += reading.value
    return (reading.place, state.count, state.sum)


@wallaroo.state_computation(name="Add", state=Total)
def add(change, state):
    state.count += 1
    state.sum += change[2]
    return (change[0], state.count, state.sum)


@wallaroo.encoder
def encode(total):
    return "%s %d %d\n" % total


def application_setup(args):
    source, target, which = args[1:]
    pipeline = wallaroo.source("readings", wallaroo.FileSourceConfig(
        "readings", source, Readings())).key_by(sensor).to(count)
    if which == "exchanges":
        pipeline = pipeline.key_by(place).to(add)
    return wallaroo.build_application(which, pipeline.to_sink(
        wallaroo.FileSinkConfig(target, encode)))
