"""The helpers that take addresses and options from arguments."""

import pytest

import wallaroo

IN = wallaroo.tcp_parse_input_addrs
OUT = wallaroo.tcp_parse_output_addrs


@pytest.mark.parametrize("value,parsed", [
    ("words@127.0.0.1:7010", [("words", "127.0.0.1", "7010")]),
    ("127.0.0.1:7010", [("127.0.0.1", "7010")]),
    ("a@h:1,b c@i:2", [("a", "h", "1"), ("b c", "i", "2")]),
    ("a@h:1:5", [("a", "h", "1", "5")]),
    ("a@[::1]:7010", [("a", "::1", "7010")]),
    ("[fe80::1%eth0]:1,b@:2", [("fe80::1%eth0", "1"), ("b", "", "2")]),
])
def test_input(value, parsed):
    assert IN(["app", "--in", value]) == parsed
    assert IN(["--in=" + value]) == parsed
    assert IN(["-i", value, "--out", "x:1"]) == parsed
    assert IN(("--unknown", "--in", value, "-z", "1")) == parsed


@pytest.mark.parametrize("value,parsed", [
    ("127.0.0.1:7002", [("127.0.0.1", "7002")]),
    ("h:1,i:2", [("h", "1"), ("i", "2")]),
    ("[::1]:7002,h:1", [("::1", "7002"), ("h", "1")]),
])
def test_output(value, parsed):
    assert OUT(["app", "--out", value]) == parsed
    assert OUT(["-o", value]) == parsed
    assert OUT(["--ou", value]) == parsed


@pytest.mark.parametrize("parse,option", [(IN, "--in"), (OUT, "--out")])
def test_missing(parse, option, capsys):
    with pytest.raises(SystemExit) as raised:
        parse(["app"])
    assert raised.value.code == 2
    text = capsys.readouterr().err
    assert "usage: wallaroo" in text and option in text


def test_kafka_options():
    parse = wallaroo.kafka_parse_source_options
    assert parse([]) == (None, "", [("", "9092")], "Warn")
    assert parse([
        "--kafka_source_name", "n", "--kafka_source_topic", "t",
        "--kafka_source_brokers", "a:1,b", "--kafka_source_log_level",
        "Info",
    ]) == ("n", "t", [("a", "1"), ("b", "9092")], "Info")
    parse = wallaroo.kafka_parse_sink_options
    assert parse([]) == ("", "", [("", "9092")], "Warn", 0, 100000)
    assert parse([
        "--kafka_sink_topic", "t", "--kafka_sink_brokers", "a",
        "--kafka_sink_max_produce_buffer_ms", "3",
        "--kafka_sink_max_message_size", "4",
    ]) == ("", "t", [("a", "9092")], "Warn", 3, 4)
    assert wallaroo._kafka_parse_broker("h:1") == ("h", "1")
    assert wallaroo._kafka_parse_broker("h") == ("h", "9092")
