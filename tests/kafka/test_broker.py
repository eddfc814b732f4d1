"""The brokers that the other tests use do what those rely on."""

import pytest

from kafka import VERSIONS, Cluster, client

TOPIC = "words"
POSITION = "a-sink"		# a group that nobody is a member of


def read_all(kafka, topic):
    return [message.value() for message in kafka.read(topic)]


def transaction(kafka, producer, value, position):
    """One that has a value and says where its sender stands."""
    ck = client()
    group = ck.Consumer({"bootstrap.servers": kafka.brokers,
                         "group.id": POSITION})
    producer.begin_transaction()
    producer.produce(TOPIC, value, partition=0)
    producer.send_offsets_to_transaction(
        [ck.TopicPartition(TOPIC, 0, position)],
        group.consumer_group_metadata(), 60)
    group.close()


def position(kafka):
    ck = client()
    group = ck.Consumer({"bootstrap.servers": kafka.brokers,
                         "group.id": POSITION})
    found = group.committed([ck.TopicPartition(TOPIC, 0)], 60)[0].offset
    group.close()
    return found


def owner(kafka):
    producer = client().Producer({
        "bootstrap.servers": kafka.brokers, "transactional.id": "owner"})
    producer.init_transactions(60)
    return producer


@pytest.mark.parametrize("version", VERSIONS)
def test_a_position_is_committed_with_the_records(version):
    ck = client()
    with Cluster(version=version) as kafka:
        kafka.create_topic(TOPIC, 2)
        first = owner(kafka)
        transaction(kafka, first, b"one", 17)
        first.commit_transaction(60)
        assert position(kafka) == 17
        transaction(kafka, first, b"two", 23)
        # Another with its name: what it has begun is nothing any more.
        second = owner(kafka)
        with pytest.raises(ck.KafkaException) as fenced:
            first.commit_transaction(60)
        assert fenced.value.args[0].code() in (
            ck.KafkaError._FENCED, ck.KafkaError.INVALID_PRODUCER_EPOCH)
        assert position(kafka) == 17
        kafka.kill(1)
        kafka.start(1)
        assert position(kafka) == 17
        transaction(kafka, second, b"three", 29)
        second.commit_transaction(60)
        assert position(kafka) == 29
        assert read_all(kafka, TOPIC) == [b"one", b"three"]
        lag = kafka.lag(POSITION)
        assert [row["current_offset"] for row in lag] == [29]


def test_one_of_three_may_die():
    ck = client()
    with Cluster(nodes=3) as kafka:
        kafka.create_topic(TOPIC, 3)
        producer = ck.Producer({"bootstrap.servers": kafka.brokers,
                                "enable.idempotence": True})
        sent = []
        for number in (1, 2, 3):
            kafka.kill(number)
            for i in range(50):
                sent.append(b"%d-%d" % (number, i))
                producer.produce(TOPIC, sent[-1], partition=i % 3)
            assert producer.flush(120) == 0
            kafka.start(number)
        assert sorted(read_all(kafka, TOPIC)) == sorted(sent)
