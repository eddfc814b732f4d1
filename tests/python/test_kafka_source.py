"""wallaroo.KafkaSource and the original's configurations of sources."""

import pickle
import struct
from datetime import datetime, timezone

import pytest

import wallaroo
from stages import decode, double
from wallaroo import (
    FromEnv,
    FromFile,
    KafkaRecord,
    KafkaSource,
    WallarooParameterError,
    _kafka_source,
    _topology,
)
from wallaroo.testing import run


@wallaroo.encoder
def shown(data):
    return b"%r\n" % (data,)


@wallaroo.state_computation(name="Count", state=list)
def keep(data, state):
    state.append(data)
    return len(state)


def app(source, *steps):
    pipeline = wallaroo.source("in", source)
    for step in steps:
        pipeline = pipeline.to(step)
    return wallaroo.build_application("App", pipeline.to_sink(
        wallaroo.FileSinkConfig("/out", shown)))


def wired(source):
    return _topology.compile_application(app(source)).topology[3][0]


def test_topology():
    source = KafkaSource(
        ["orders", "^more-"], ["one:9092", ("two", 9093)], "billing", decode,
        start="latest", config={
            "sasl.password": FromFile("/secret"),
            "ssl.key.password": FromEnv("KEY"),
            "linger.ms": 5, "enable.ssl.certificate.verification": True})
    assert wired(source) == [
        "in", "kafka", 0, 0, "kafka", 4, "", 1 << 30, "", 0, "", b"", 1,
        "one:9092,two:9093",
        [["log_level", "value", "4"],
         ["sasl.password", "file", "/secret"],
         ["ssl.key.password", "env", "KEY"],
         ["linger.ms", "value", "5"],
         ["enable.ssl.certificate.verification", "value", "true"]],
        ["orders", "^more-"], "billing", "latest", False]
    # Without a group it gets one.
    source = KafkaSource("orders", "one:9092", record=lambda r: r)
    assert wired(source)[13:] == [
        "one:9092", [["log_level", "value", "4"]], ["orders"], "App-in",
        "earliest", True]


@pytest.mark.parametrize("start, text", [
    ("earliest", "earliest"), ("latest", "latest"), (7, "7"), (-7, "-7"),
    (datetime(2026, 1, 1, tzinfo=timezone.utc), "time:1767225600000")])
def test_start(start, text):
    assert wired(KafkaSource(
        "t", "h:1", value=bytes.decode, start=start))[17] == text


@pytest.mark.parametrize("arguments, text", [
    (dict(topic="", value=decode), "needs the name of a topic"),
    (dict(topic=[], value=decode), "needs the name of a topic"),
    (dict(topic="t"), "either value= or record="),
    (dict(topic="t", value=decode, record=decode), "either value= or"),
    (dict(topic="t", value=3), "a decoder, or a function"),
    (dict(topic="t", value=decode, start="now"), "start must be"),
    (dict(topic="t", value=decode, start=True), "start must be"),
    (dict(topic="t", value=decode, start=datetime(2026, 1, 1)),
     "time zone"),
    (dict(topic="t", value=decode, config={"a": None}), "setting a of"),
    (dict(topic="t", value=decode, config={1: "a"}), "names, not 1"),
    (dict(topic="t", value=decode, brokers=""), "needs brokers"),
])
def test_what_is_wrong(arguments, text):
    with pytest.raises(WallarooParameterError, match=text):
        KafkaSource(**{"brokers": "h:1", **arguments})


def test_secrets_are_not_shown():
    assert repr(FromFile("/x")) == "FromFile('/x')"
    assert repr(FromEnv("X")) == "FromEnv('X')"


def pack(record):
    """As the worker does."""
    headers = b"".join(
        struct.pack("=Ii", len(name), -1 if value is None else len(value))
        + name.encode() + (value or b"") for name, value in record.headers)
    return struct.pack(
        "=iqqIiiI", record.partition, record.offset, record.timestamp,
        len(record.topic), -1 if record.key is None else len(record.key),
        -1 if record.value is None else len(record.value), len(headers),
    ) + record.topic.encode() + (record.key or b"") + (
        record.value or b"") + headers


@pytest.mark.parametrize("record", [
    KafkaRecord("t", 3, 1 << 40, 1234, b"k", b"v", []),
    KafkaRecord("t", 0, 0, -1, None, None, []),
    KafkaRecord("t", 0, 0, -1, b"", b"", [
        ("a", b"1"), ("a", None), ("", b"")])])
def test_records_of_the_worker(record):
    assert _kafka_source.unpack_record(pack(record)) == record
    decoder = _kafka_source.RecordDecoder(lambda r: r.value)
    assert decoder.decode(pack(record)) == decoder.decode(record)
    assert pickle.loads(pickle.dumps(record)) == record


def test_in_the_reference_executor():
    """Values, and records with their keys."""
    records = [KafkaRecord("t", 0, n, n, key, b"%d" % n)
               for n, key in enumerate([b"a", b"b", b"a", None, None])]
    result = run(app(KafkaSource("t", "h:1", value=int), keep),
                 {"in": records})
    assert result.states["Count"] == {
        "a": [0, 2], "b": [1], "t-0-3": [3], "t-0-4": [4]}
    result = run(app(KafkaSource("t", "h:1", record=lambda r: r.offset),
                     keep), {"in": records})
    assert result.states["Count"]["a"] == [0, 2]
    result = run(app(KafkaSource("t", "h:1", value=int), double),
                 {"in": [b"1", b"2"]})
    assert result.values == [2, 4]


def test_the_configurations_of_the_original(monkeypatch):
    source = wallaroo.KafkaSourceConfig(
        "n", "t", [("a", "1"), ("b", "9092")], "Info", decode)
    assert wired(source)[13:] == [
        "a:1,b:9092", [["log_level", "value", "6"]], ["t"], "App-in",
        "earliest", False]
    monkeypatch.setattr(wallaroo, "_ARGS", (
        "prog", "--words_topic", "t", "--words_brokers", "a:1,b",
        "--words_log_level", "Fine", "--words_offset_default", "-5",
        "--words_min_fetch_bytes", "10", "--words_consumer_check_crc",
        "--words_fetch_interval", "100000000", "--else", "x"))
    default = wallaroo.DefaultKafkaSourceCLIParser(decode, name="words")
    assert wired(default)[13:] == [
        "a:1,b:9092",
        [["log_level", "value", "7"], ["fetch.min.bytes", "value", "10"],
         ["check.crcs", "value", "true"],
         ["fetch.wait.max.ms", "value", "100"]],
        ["t"], "App-in", "-5", False]
    monkeypatch.setattr(wallaroo, "_ARGS", (
        *wallaroo._ARGS, "--words_partitions", "1,2"))
    with pytest.raises(WallarooParameterError, match="all partitions"):
        wired(default)
    monkeypatch.setattr(wallaroo, "_ARGS", ("prog",))
    with pytest.raises(WallarooParameterError, match="needs --words_topic"):
        wired(default)
    loud = wallaroo.KafkaSourceConfig("n", "t", [("a", "1")], "Loud", decode)
    with pytest.raises(WallarooParameterError, match="log level"):
        wired(loud)
