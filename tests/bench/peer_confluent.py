"""The sums as a bare loop around confluent-kafka: no runtime, no guarantee.

    peer_confluent.py BROKERS SOURCE TARGET plain|transactions DIRECTORY

With transactions it is exactly once as far as Kafka is concerned, as one
would write it by hand: outputs and offsets are committed together every 100
milliseconds.  Its sums are gone when it ends, either way.
"""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, \
    TopicPartition

import sums

BATCH = 1000
CADENCE = 0.1
ROUND_TRIP = {"retry.backoff.ms": 10, "socket.nagle.disable": True}


class Transactions:
    """One after the other, each with the offsets that it has read."""

    def __init__(self, consumer, producer):
        self.consumer = consumer
        self.producer = producer
        self.begun = None
        producer.init_transactions()

    def begin(self):
        if self.begun is None:
            self.producer.begin_transaction()
            self.begun = time.monotonic()

    def due(self):
        return self.begun is not None and \
            time.monotonic() - self.begun >= CADENCE

    def commit(self):
        offsets = [place for place in self.consumer.position(
            self.consumer.assignment()) if place.offset >= 0]
        self.producer.send_offsets_to_transaction(
            offsets, self.consumer.consumer_group_metadata())
        self.producer.commit_transaction()
        self.begun = None


def produce(producer, target, key, value):
    while True:
        try:
            producer.produce(target, value, key)
            return
        except BufferError:
            producer.poll(0.01)


def main():
    brokers, source, target, way, _ = sys.argv[1:]
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": "bare-" + target,
        "enable.auto.commit": False,
        "isolation.level": "read_committed", **ROUND_TRIP})
    settings = {"bootstrap.servers": brokers, "enable.idempotence": True,
                "linger.ms": 5, **ROUND_TRIP}
    if way == "transactions":
        settings["transactional.id"] = "bare-" + target
    producer = Producer(settings)
    transactions = Transactions(consumer, producer) \
        if way == "transactions" else None
    consumer.assign([TopicPartition(source, number, OFFSET_BEGINNING)
                     for number in range(sums.PARTITIONS)])
    totals = {}
    while True:
        # As many as there are, and not waiting for more of them.
        message = consumer.poll(CADENCE / 4)
        messages = [] if message is None else [message] + consumer.consume(
            BATCH, 0)
        if messages and transactions:
            transactions.begin()
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            data = sums.decode(message.value())
            key = data["key"]
            total = totals[key] = totals.get(key, 0) + data["value"]
            produce(producer, target, key,
                    sums.encode(sums.result(data, total)))
        producer.poll(0)
        if transactions and transactions.due():
            transactions.commit()


main()
