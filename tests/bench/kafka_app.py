"""The sums from a topic to a topic, exactly once.

    BROKERS SOURCE TARGET
"""

import wallaroo

import sums


class Total:
    def __init__(self):
        self.sum = 0


@wallaroo.key_extractor
def key(data):
    return data["key"]


@wallaroo.state_computation(name="Add", state=Total)
def add(data, state):
    state.sum += data["value"]
    return sums.result(data, state.sum)


@wallaroo.encoder
def encode(data):
    return sums.encode(data), data["key"]


def application_setup(args):
    brokers, source, target = args[1:4]
    if not (hasattr(wallaroo, "KafkaSource")
            and hasattr(wallaroo, "KafkaSink")):
        raise SystemExit("this version is without Kafka")
    return wallaroo.build_application("sums", (
        wallaroo.source("records", wallaroo.KafkaSource(
            source, brokers, "ours-" + target, value=sums.decode))
        .key_by(key)
        .to(add)
        .to_sink(wallaroo.KafkaSink(target, brokers, encode))))
