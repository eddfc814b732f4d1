"""Topics of Kafka as sinks: what an application says, and what it gives."""

import struct
import sys

import pytest

import wallaroo
from stages import double, pipeline
from wallaroo import WallarooParameterError, _topology
from wallaroo._kafka_record import packing
from wallaroo.testing import run


@wallaroo.encoder
def record(data):
    return (str(data), b"key%d" % data)


def application(sink):
    return wallaroo.build_application(
        "Kafka", pipeline().to(double).to_sink(sink))


def row(sink):
    return _topology.compile_application(application(sink)).topology[5][0]


def test_wire_form():
    sink = wallaroo.KafkaSink(
        "totals", "a:1,b", record, commit_interval=0.05,
        config={"linger.ms": 3, "enable.gapless.guarantee": False,
                "sasl.password": wallaroo.FromFile("/etc/secret"),
                "ssl.key.password": wallaroo.FromEnv("KEY")})
    assert row(sink)[:2] == ["kafka:totals", "kafka"]
    assert row(sink)[3:] == [
        "", 0, "", -1, "default", "a:1,b:9092", [
            ["linger.ms", "value", "3"],
            ["enable.gapless.guarantee", "value", "false"],
            ["sasl.password", "file", "/etc/secret"],
            ["ssl.key.password", "env", "KEY"]],
        "totals", True, 50]
    once = wallaroo.KafkaSink("t", [("a", 1), "b:2"], record,
                              exactly_once=False)
    assert row(once)[8:] == ["a:1,b:2", [], "t", False, 100]


def test_the_contracts_sinks(monkeypatch):
    sink = wallaroo.KafkaSinkConfig("t", [("a", "1")], "Warn", 5, 2000, record)
    settings = [["partitioner", "value", "consistent_random"],
                ["linger.ms", "value", "5"],
                ["message.max.bytes", "value", "2000"]]
    assert row(sink)[8:] == ["a:1", settings, "t", True, 100]
    monkeypatch.setattr(sys, "argv", [
        "prog", "--out_topic", "t", "--out_brokers", "a:1,b",
        "--out_max_message_size", "2000", "--out_max_produce_buffer_ms", "5",
        "--out_producer_compression", "lz4"])
    sink = wallaroo.DefaultKafkaSinkCLIParser(record, name="out")
    assert row(sink)[8:] == ["a:1,b:9092", settings + [
        ["compression.codec", "value", "lz4"]], "t", True, 100]
    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(WallarooParameterError, match="needs a topic"):
        row(sink)


@pytest.mark.parametrize("made, partition, key, value", [
    (b"v", -1, None, b"v"), ("v", -1, None, b"v"),
    (("v", "k"), -1, b"k", b"v"), ((b"v", None, 3), 3, None, b"v"),
    ((None, b"k"), -1, b"k", None), ((b"", b"", None), -1, b"", b"")])
def test_records(made, partition, key, value):
    assert packing(lambda _: made)(0) == struct.pack(
        "=iii", partition, -1 if key is None else len(key),
        -1 if value is None else len(value)) + (key or b"") + (value or b"")


@pytest.mark.parametrize("made", [
    7, (b"v",), (b"v", b"k", 0, 0), (b"v", 7), (b"v", b"k", -1),
    (b"v", b"k", True), (b"v", b"k", "0"), (7, b"k")])
def test_what_is_no_record(made):
    with pytest.raises(TypeError, match="Kafka"):
        packing(lambda _: made)(0)


def test_nothing_is_no_record():
    assert packing(lambda _: None)(0) is None


def test_the_reference_gives_values():
    sink = wallaroo.KafkaSink("t", "a", record)
    result = run(application(sink), {"Numbers": [1, 2]})
    assert list(result.outputs.values()) == [[b"2", b"4"]]


@pytest.mark.parametrize("arguments, why", [
    (dict(topic=""), "topic"), (dict(brokers=""), "brokers"),
    (dict(brokers=[]), "brokers"), (dict(brokers="a:b"), "brokers"),
    (dict(commit_interval=0), "commit_interval"),
    (dict(config={"a": None}), "setting a"),
    (dict(config={1: "a"}), "names"),
    (dict(config={"a": "b\0"}), "setting a")])
def test_refused(arguments, why):
    given = dict(topic="t", brokers="a", value=record)
    given.update(arguments)
    with pytest.raises(WallarooParameterError, match=why):
        wallaroo.KafkaSink(**given)
