"""wallaroo.experimental: codecs, configurations and messages of connectors."""

import pickle
import struct
import subprocess
import sys
from datetime import datetime, timezone

import pytest

import wallaroo
from stages import application, decode, double, tcp_source
from wallaroo import _topology, experimental
from wallaroo.experimental import connector_wire_messages as cwm
from wallaroo.experimental import connectors
from wallaroo.testing import run


@experimental.stream_message_decoder
def text(payload):
    return payload.decode()


@experimental.stream_message_encoder
def as_bytes(data):
    return data.encode()


@experimental.octet_message_decoder
def plain(payload):
    return payload.decode()


@experimental.octet_message_encoder
def octets(data):
    return data.encode()


def test_it_needs_no_import_of_its_own(environment):
    code = (
        "import sys, wallaroo\n"
        "assert 'wallaroo.experimental' not in sys.modules\n"
        "assert wallaroo.experimental.Stream(1, b's', 2, True).id == 1\n"
        "assert not {'asyncore', 'asynchat'} & set(sys.modules)\n"
        "try:\n"
        "    wallaroo.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment,
        check=True, stdout=subprocess.PIPE, text=True,
    )
    assert out.stdout == "module 'wallaroo' has no attribute 'nothing'\n"


def test_names():
    for name in experimental.__all__:
        assert hasattr(experimental, name), name
    for name in """
        AtLeastOnceSourceConnector BaseConnector ConnectorError ProtocolError
        SinkConnector SinkConnectorConfig SourceConnector
        SourceConnectorConfig Stream UnexpectedSocketError
        connector_wire_messages octet_message_decoder octet_message_encoder
        parse_connector_args stream_message_decoder stream_message_encoder
    """.split():
        assert name in experimental.__all__
    for name in """
        BaseIter BaseSource FramedFileReader MultiSourceConnector
        ThrottledFileReader
    """.split():
        assert hasattr(connectors, name), name
    for error in (experimental.ConnectorError, experimental.ProtocolError,
                  experimental.UnexpectedSocketError):
        assert issubclass(error, Exception)
    assert experimental.Stream._fields == (
        "id", "name", "point_of_ref", "is_open")
    assert experimental.cwm is experimental.connector_wire_messages


def test_decoders():
    assert isinstance(text, wallaroo.ConnectorDecoder)
    assert text.header_length() == 4
    assert text.payload_length(b"\0\0\1\0") == 256
    assert text.decode(b"abc") == "abc"
    assert text.decoder()(b"x") == "x" and text.name() == "text"
    assert isinstance(plain, wallaroo.OctetDecoder)
    assert (plain.header_length(), plain.decode(b"x")) == (4, "x")
    assert plain.payload_length(b"\0\0\0\7") == 7


def test_encoders():
    assert isinstance(octets, wallaroo.OctetEncoder)
    assert octets.encode("x") == b"x"
    assert isinstance(as_bytes, wallaroo.ConnectorEncoder)
    framed = as_bytes.encode("data", 7, "k\u00e4y")
    assert framed == b"\0\0\0\x14" + struct.pack(">q", 7) \
        + b"\0\0\0\4k\xc3\xa4y" + b"data"
    assert struct.unpack(">I", framed[:4])[0] == len(framed) - 4
    assert as_bytes._encode(b"data", 7, "k\u00e4y") == framed
    assert as_bytes.encode("") == b"\0\0\0\x0c" + bytes(12)
    moment = datetime(2020, 1, 1, 0, 0, 1, 500000, tzinfo=timezone.utc)
    time = as_bytes.encode("", moment)[4:12]
    assert struct.unpack(">q", time)[0] == 1577836801500
    naive = datetime(2020, 1, 1)
    time = as_bytes.encode("", naive, b"k")[4:12]
    assert struct.unpack(">q", time)[0] == int(naive.timestamp() * 1000)


def test_pickling_and_names():
    for stage, name in ((text, "ConnectorDecoder_1__text"),
                        (as_bytes, "ConnectorEncoder_1__as_bytes")):
        assert type(stage).__qualname__.endswith(name.split("_1")[1])
        assert type(stage).__module__ == "wallaroo"
        assert type(pickle.loads(pickle.dumps(stage))) is type(stage)


def test_configurations():
    source = experimental.SourceConnectorConfig(
        "in", as_bytes, text, 7100, "cookie", 10, 5, host="h")
    assert source.to_tuple() == (
        "source_connector", "in", "h", "7100", as_bytes, text, "cookie", 10,
        5)
    older = experimental.SourceConnectorConfig("in", as_bytes, text, "7100")
    assert older.to_tuple()[2:] == (
        "127.0.0.1", "7100", as_bytes, text, "", 1000, 500)
    sink = experimental.SinkConnectorConfig(
        "out", as_bytes, text, 7200, "cookie", "h")
    assert sink.to_tuple() == (
        "sink_connector", "out", "h", "7200", as_bytes, text, "cookie")
    assert experimental.SinkConnectorConfig(
        "out", as_bytes, text, 1).to_tuple()[2:] == (
            "127.0.0.1", "1", as_bytes, text, "")


def connected():
    source = experimental.SourceConnectorConfig("in", as_bytes, text, 1, "c")
    return wallaroo.build_application("Connected", wallaroo.source(
        "In", source).to_sinks([experimental.SinkConnectorConfig(
            "out", octets, text, 2, "c")]))


def test_can_be_tested():
    result = run(connected(), {"in": [b"a", b"b"]})
    assert result.outputs == {"out": [b"a", b"b"]}


def test_can_be_run():
    compiled = _topology.compile_application(connected())
    assert [source[1] for source in compiled.topology[3]] == ["connector"]
    assert [sink[1] for sink in compiled.topology[5]] == [
        "connector", "dead-letter"]


def test_connector_args():
    got = experimental.parse_connector_args(
        ["prog", "--application-module", "app", "--connector", "feed",
         "--feed-host", "h", "--other", "x"], ["host"], ["port"])
    assert (got.application, got.connector_name, got.host, got.port) == (
        "app", "feed", "h", None)
    with pytest.raises(SystemExit):
        experimental.parse_connector_args(["prog", "--connector", "feed"])
    with pytest.raises(SystemExit):
        experimental.parse_connector_args(
            ["--application-module", "app", "--connector", "feed"], ["host"])


# -- messages -----------------------------------------------------------------

NEVER = (1 << 64) - 1
FRAMES = [
    (cwm.Hello("0.0.1", "Dragons-Love-Tacos", "prog", "inst"),
     "00000028 00 0005 302e302e31 0012 447261676f6e732d4c6f76652d5461636f73"
     "0004 70726f67 0004 696e7374"),
    (cwm.Ok(10), "00000005 01 0000000a"),
    (cwm.Error("bad"), "00000006 02 0003 626164"),
    (cwm.Notify(1, b"s1", 0),
     "00000015 03 0000000000000001 0002 7331 0000000000000000"),
    (cwm.NotifyAck(True, 1, NEVER),
     "00000012 04 01 0000000000000001 ffffffffffffffff"),
    (cwm.Message(1, 8, 0, b"k", b"data"),
     "00000020 05 0000000000000001 0000000000000008 0000000000000000 0001 6b"
     "64617461"),
    (cwm.Ack(3, [(1, 8)]),
     "00000019 06 00000003 00000001 0000000000000001 0000000000000008"),
    (cwm.Restart("127.0.0.1:7100"),
     "00000013 07 0000000e 3132372e302e302e313a37313030"),
    (cwm.EosMessage(1), "00000009 08 0000000000000001"),
]
TWO_PHASE = [
    (cwm.ListUncommitted(77778), "c9 0000000000012fd2"),
    (cwm.ReplyUncommitted(77778, ["t:c_id=3"]),
     "ca 0000000000012fd2 00000001 0008 743a635f69643d33"),
    (cwm.TwoPCPhase1("t", [(1, 2, 3)]),
     "cb 0001 74 00000001 0000000000000001 0000000000000002"
     "0000000000000003"),
    (cwm.TwoPCReply("t:c_id=3", True), "cc 0008 743a635f69643d33 01"),
    (cwm.TwoPCPhase2("t", False), "cd 0001 74 00"),
    (cwm.WorkersLeft(7, ["w2"]),
     "ce 0000000000000007 00000001 0002 7732"),
]


@pytest.mark.parametrize("message,wire", FRAMES)
def test_frames(message, wire):
    raw = bytes.fromhex(wire)
    assert cwm.Frame.encode(message) == raw
    assert cwm.Frame.read_header(raw[:4]) == len(raw) - 4
    again = cwm.Frame.decode(raw[4:])
    assert again == message and type(again) is type(message)
    assert str(again).startswith(type(message).__name__ + "(")
    assert type(message).decode(message.encode()) == message
    for end in range(5, len(raw)):
        try:
            assert cwm.Frame.decode(raw[4:end]) != message
        except cwm.FrameError:
            pass


@pytest.mark.parametrize("message,wire", TWO_PHASE)
def test_two_phase_messages(message, wire):
    raw = bytes.fromhex(wire)
    assert cwm.TwoPCFrame.encode(message) == raw
    assert cwm.TwoPCFrame.decode(raw) == message


def test_messages_in_detail():
    assert cwm.Error("x").message == "x"
    assert cwm.Error(msg="x") == cwm.Error("x")
    assert cwm.Notify(1, b"s").point_of_ref == 0
    empty = cwm.Message.decode(cwm.Message(1, 2, -3).encode())
    assert (empty.key, empty.message, empty.event_time) == (None, None, -3)
    with pytest.raises(TypeError):
        cwm.Message(1, 2, 3, "text")
    with pytest.raises(TypeError):
        cwm.Message(1, 2, 3, None, "text")
    assert cwm.Restart.decode(b"").address is None
    assert cwm.Restart().encode() == bytes(4)
    assert cwm.EosMessage.decode(bytes(16)).stream_id == 0
    assert cwm.TwoPCPhase2(b"t", True).encode() \
        == cwm.TwoPCPhase2("t", True).encode()
    assert cwm.decode_phase2r(cwm.encode_phase2r(b"t", True)) == ("t", True)
    assert cwm.Ok(1) != cwm.EosMessage(1) and cwm.Ok(1) != cwm.Ok(2)
    assert len({cwm.Ok(1), cwm.Ok(1), cwm.Ok(2)}) == 2


@pytest.mark.parametrize("raw", [
    b"", b"\x63", b"\x02\x00\x05ab", b"\x00\x00\x01\xff" + bytes(6)])
def test_garbage(raw):
    with pytest.raises(cwm.FrameError):
        cwm.Frame.decode(raw)


def test_no_message():
    with pytest.raises(TypeError):
        cwm.Frame.encode("hello")
    with pytest.raises(TypeError):
        cwm.TwoPCFrame.encode(cwm.Ok(1))
    with pytest.raises(cwm.FrameError):
        cwm.Error("x" * 70000).encode()


# -- Kafka --------------------------------------------------------------------

@wallaroo.encoder
def record(data):
    return ("%d" % data, b"key", None)


SOURCE_OPTIONS = [
    "prog", "--kafka_source_topic", "t", "--kafka_source_brokers",
    "a:1,b", "--kafka_source_log_level", "Info"]
SINK_OPTIONS = [
    "prog", "--kafka_sink_topic", "t", "--kafka_sink_brokers", "a",
    "--kafka_sink_max_produce_buffer_ms", "5"]


def test_kafka_configurations():
    brokers = [("a", "1"), ("b", "9092")]
    source = wallaroo.KafkaSourceConfig("n", "t", brokers, "Warn", decode)
    assert source.to_tuple() == ("kafka", "n", "t", brokers, "Warn", decode)
    sink = wallaroo.KafkaSinkConfig("t", brokers, "Warn", 0, 1000, record)
    assert sink.to_tuple() == (
        "kafka", "", "t", brokers, "Warn", 0, 1000, record)
    assert wallaroo.DefaultKafkaSourceCLIParser(decode).to_tuple() == (
        "kafka-internal", "kafka_source", decode)
    assert wallaroo.DefaultKafkaSinkCLIParser(
        record, name="x").to_tuple() == ("kafka-internal", "x", record)
    custom = wallaroo.CustomKafkaSourceCLIParser(SOURCE_OPTIONS, decode)
    assert (custom._name, custom.topic, custom.brokers, custom.log_level,
            custom.decoder) == (None, "t", brokers, "Info", decode)
    assert custom.to_tuple() == (
        "kafka", None, "t", brokers, "Info", decode)
    custom = wallaroo.CustomKafkaSinkCLIParser(SINK_OPTIONS, record)
    assert custom.to_tuple() == (
        "kafka", "", "t", [("a", "9092")], "Warn", 5, 100000, record)
    assert (custom._name, custom.encoder) == ("", record)
    assert custom.max_message_size == 100000
    assert custom.max_produce_buffer_ms == 5


@pytest.mark.parametrize("source", [
    wallaroo.DefaultKafkaSourceCLIParser(decode, name="Numbers"),
    wallaroo.CustomKafkaSourceCLIParser(SOURCE_OPTIONS, decode)])
@pytest.mark.parametrize("sink", [
    wallaroo.DefaultKafkaSinkCLIParser(record),
    wallaroo.CustomKafkaSinkCLIParser(SINK_OPTIONS, record)])
def test_kafka_can_be_tested(source, sink):
    app = wallaroo.build_application("Kafka", wallaroo.source(
        "Numbers", source).to(double).to_sink(sink))
    result = run(app, {"Numbers": [b"1", 2]})
    assert list(result.outputs.values()) == [[b"2", b"4"]]


def test_what_encoders_give_for_kafka():
    from wallaroo._reference import encoded_for_kafka

    class Encoder:
        def __init__(self, result):
            self.result = result

        def encode(self, data):
            return self.result

    for result, data in ((("v", None, 1), b"v"), ((b"v", "k", None), b"v"),
                         (("v", "k"), b"v"), (b"v", b"v"), (None, None)):
        assert encoded_for_kafka(Encoder(result), 0) == data
    for result in (7, ("v",), (1, None, None), ("v", 1, None),
                   ("v", None, "p")):
        with pytest.raises(TypeError):
            encoded_for_kafka(Encoder(result), 0)
