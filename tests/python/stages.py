"""Stages of all kinds that tests share; importable in other processes."""

import wallaroo


class Total:
    def __init__(self):
        self.n = 0


class Numbers:
    """0, 1, ... up to but without `limit`; no limit if None."""

    def __init__(self, limit=None):
        self.limit = limit

    def initial_value(self):
        return self.apply(-1)

    def apply(self, previous):
        return None if previous + 1 == self.limit else previous + 1


@wallaroo.computation(name="Double")
def double(data):
    """Twice the data."""
    return data * 2


@wallaroo.computation(name="Odd only")
def odd_only(data):
    return data if data % 2 else None


@wallaroo.computation_multi(name="Twice")
def twice(data):
    return [data, None, data]


@wallaroo.state_computation(name="Sum", state=Total)
def add(data, total):
    total.n += data
    return total.n


@wallaroo.state_computation_multi(name="Sum and data", state=Total)
def add_multi(data, total):
    total.n += data
    return [total.n, data]


@wallaroo.key_extractor
def last_digit(data):
    return str(data % 10)


@wallaroo.key_extractor
def parity(data):
    return data % 2


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(payload):
    return int(payload)


@wallaroo.encoder
def encode(data):
    return "%s\n" % (data,)


def tcp_source(name="numbers", port=7010, **options):
    return wallaroo.TCPSourceConfig(name, "127.0.0.1", port, decode, **options)


def tcp_sink(port=7002):
    return wallaroo.TCPSinkConfig("127.0.0.1", port, encode)


def pipeline():
    return wallaroo.source("Numbers", tcp_source())


def application(stages=lambda p: p, source=None):
    p = pipeline() if source is None else wallaroo.source("Numbers", source)
    return wallaroo.build_application(
        "Test", stages(p).to_sink(tcp_sink())
    )
