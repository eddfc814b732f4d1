"""The sums from a topic to a topic, exactly once.

    BROKERS SOURCE TARGET
"""

import wallaroo

import sums


class Total:
    def __init__(self):
        self.sum = 0


@wallaroo.decoder()
def decode(data):
    return sums.decode(data)


@wallaroo.key_extractor
def key(data):
    return data["key"]


@wallaroo.state_computation(name="Add", state=Total)
def add(data, state):
    state.sum += data["value"]
    return sums.result(data, state.sum)


@wallaroo.encoder
def encode(data):
    return sums.encode(data), data["key"], None


def application_setup(args):
    brokers, source, target = args[1:4]
    addresses = [tuple(address.split(":")) for address in brokers.split(",")]
    return wallaroo.build_application("sums", (
        wallaroo.source("records", wallaroo.KafkaSourceConfig(
            "records", source, addresses, "Warn", decode))
        .key_by(key)
        .to(add)
        .to_sink(wallaroo.KafkaSinkConfig(
            target, addresses, "Warn", 0, 1000000, encode))))
