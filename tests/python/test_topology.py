"""Compiling an application to what the worker runs."""

import struct

import pytest

import stages
import wallaroo
from stages import (
    add, add_multi, application, double, last_digit, parity, pipeline,
    tcp_sink, tcp_source, twice,
)
from wallaroo import WallarooParameterError, _topology, experimental

NAME, KIND, NEXT, FN, EXCHANGE, MULTI, POLICY, VERSION = range(8)


def compiled(stages=lambda p: p, source=None):
    return _topology.compile_application(application(stages, source))


def shape(c):
    """(kind, name, next, exchange) of each stage."""
    return [(s[KIND], s[NAME], s[NEXT], s[EXCHANGE]) for s in c.topology[4]]


def test_wire_form():
    c = compiled(lambda p: p.to(double).key_by(last_digit).to(add_multi))
    magic, version, name, sources, wire, sinks = c.topology
    assert (magic, version, name) == ("wallaroo-topology", 1, "Test")
    fn = {f: i for i, f in enumerate(c.functions)}
    assert sources == [[
        "Numbers", "tcp", 0, fn[stages.decode._func], "header", 4, ">I",
        16384, "127.0.0.1", 7010, "", b"tcp-source-key", 10,
    ]]
    assert wire == [
        ["Double", "step", 1, fn[double._func], -1, False, "default", 0],
        ["last_digit", "key_by", 2, fn[last_digit._func], 0, False,
         "default", 0],
        ["Sum and data", "state", 3, fn[add_multi._func], -1, True,
         "default", 1],
        ["sinks", "sinks", -1, -1, -1, False, "default", 0],
    ]
    assert sinks == [
        ["127.0.0.1:7002", "tcp", fn[stages.encode._func], "127.0.0.1", 7002,
         "", -1, "default"],
        ["dead-letters", "dead-letter", -1, "", 0, "", 1, "fail"],
    ]
    assert c.state_factories[fn[add_multi._func]] is stages.Total
    assert sum(f is not None for f in c.state_factories) == 1
    assert c.frame_lengths == [None] * len(c.functions)


def test_implicit_exchange():
    assert shape(compiled(lambda p: p.to(double).to(add))) == [
        ("step", "Double", 1, -1),
        ("exchange", "to Sum", 2, 0),
        ("state", "Sum", 3, -1),
        ("sinks", "sinks", -1, -1),
    ]


def test_one_exchange_serves_following_states():
    assert shape(compiled(lambda p: p.to(add).to(double).to(add_multi))) == [
        ("exchange", "to Sum", 1, 0),
        ("state", "Sum", 2, -1),
        ("step", "Double", 3, -1),
        ("state", "Sum and data", 4, -1),
        ("sinks", "sinks", -1, -1),
    ]


def test_only_the_last_of_several_keyings_is_an_exchange():
    c = compiled(
        lambda p: p.key_by(parity).collect().key_by(last_digit).to(add)
        .key_by(parity))
    assert shape(c) == [
        ("key_by", "parity", 1, -1),
        ("collect", "collect-key-unused", 2, -1),
        ("key_by", "last_digit", 3, 0),
        ("state", "Sum", 4, -1),
        ("key_by", "parity", 5, 1),
        ("sinks", "sinks", -1, -1),
    ]


def test_keying_over_a_merge():
    a = pipeline().key_by(parity)
    b = pipeline().key_by(last_digit)
    app = wallaroo.build_application(
        "x", a.merge(b).collect().to(add).to_sink(tcp_sink()))
    assert shape(_topology.compile_application(app)) == [
        ("key_by", "parity", 2, -1),
        ("key_by", "last_digit", 2, -1),
        ("collect", "collect-key-Sum", 3, 0),
        ("state", "Sum", 4, -1),
        ("sinks", "sinks", -1, -1),
    ]


def test_merge_of_keyed_pipelines():
    a = pipeline().key_by(parity)
    b = pipeline().to(double).key_by(last_digit)
    app = wallaroo.build_application(
        "x", a.merge(b).to(add).to_sink(tcp_sink()))
    c = _topology.compile_application(app)
    assert shape(c) == [
        ("key_by", "parity", 3, 0),
        ("step", "Double", 2, -1),
        ("key_by", "last_digit", 3, 1),
        ("state", "Sum", 4, -1),
        ("sinks", "sinks", -1, -1),
    ]
    assert [s[2] for s in c.topology[3]] == [0, 1]


def test_merge_where_one_side_has_not_crossed():
    a = pipeline().key_by(parity).to(double)
    b = pipeline()
    app = wallaroo.build_application(
        "x", a.merge(b).to(add).to_sink(tcp_sink()))
    c = _topology.compile_application(app)
    assert shape(c) == [
        ("key_by", "parity", 1, 0),
        ("step", "Double", 2, -1),
        ("exchange", "to Sum", 3, 1),
        ("state", "Sum", 4, -1),
        ("sinks", "sinks", -1, -1),
    ]
    assert [s[2] for s in c.topology[3]] == [0, 2]


def test_source_straight_into_merge_and_sink():
    app = wallaroo.build_application(
        "x", pipeline().merge(pipeline()).merge(pipeline())
        .to_sink(tcp_sink()))
    c = _topology.compile_application(app)
    assert shape(c) == [("sinks", "sinks", -1, -1)]
    assert [s[0] for s in c.topology[3]] == [
        "Numbers", "Numbers (2)", "Numbers (3)"]


def test_sinks_are_numbered_after_all_other_exchanges():
    encode = stages.encode
    app = wallaroo.build_application("x", pipeline().to(add).to_sinks([
        wallaroo.FileSinkConfig("/out", encode),
        tcp_sink(),
        wallaroo.StdoutSinkConfig(encode),
        tcp_sink(),
    ]))
    c = _topology.compile_application(app)
    assert [(s[0], s[1], s[5], s[6]) for s in c.topology[5]] == [
        ("/out", "file", "/out", 1),
        ("127.0.0.1:7002", "tcp", "", -1),
        ("stdout", "stdout", "", 2),
        ("127.0.0.1:7002 (2)", "tcp", "", -1),
        ("dead-letters", "dead-letter", "", 3),
    ]


def test_collect_keys_are_stable_and_distinct():
    a = pipeline().collect().to(double)
    b = pipeline().collect().to(twice)
    app = wallaroo.build_application(
        "x", a.merge(b).to(add).collect().to_sink(tcp_sink()))
    names = [
        s[1] for s in shape(_topology.compile_application(app))
        if s[0] == "collect"
    ]
    assert names == ["collect-key-Sum", "collect-key-Sum-2", "collect-key"]


def test_options_of_stages():
    @wallaroo.state_computation(
        "S", list, on_error="dead-letter", version=7)
    def f(data, state):
        return data

    @wallaroo.key_extractor(on_error="skip")
    def k(data):
        return data

    @wallaroo.encoder(on_error="skip")
    def e(data):
        return ""

    app = wallaroo.build_application("x", pipeline().key_by(k).to(f).to_sink(
        wallaroo.TCPSinkConfig("h", "1", e)))
    topology = _topology.compile_application(app).topology
    assert [(s[POLICY], s[VERSION]) for s in topology[4]] == [
        ("skip", 0), ("dead-letter", 7), ("default", 0)]
    assert topology[5][0][7] == "skip"


def source_of(config):
    return compiled(source=config).topology[3][0]


def test_a_source_for_connectors():
    @experimental.stream_message_decoder
    def decode(message):
        return message
    config = experimental.SourceConnectorConfig(
        "feed", None, decode, "7100", "secret", 10, 9)
    c = compiled(source=config)
    assert c.topology[3] == [[
        "Numbers", "connector", 0, 0, "connector", 4, "", 1 << 20,
        "127.0.0.1", 7100, "", b"", 100, "secret", 10, 9,
    ]]
    assert c.functions[0] is decode._func
    for changed, text in [
        (("feed", None, decode, 0), "port"),
        (("feed", None, decode, 1, b"x"), "cookie of Numbers"),
        (("feed", None, decode, 1, "x\0"), "cookie of Numbers"),
        (("feed", None, decode, 1, "", 0, 0), "max_credits of Numbers"),
        (("feed", None, decode, 1, "", 5, 5), "refill_credits of Numbers"),
        (("feed", None, decode, 1, "", 5, -1), "refill_credits of Numbers"),
        (("feed", None, decode, 1, "", 5, 1, ""), "host of Numbers"),
        (("feed", None, None, 1), "decode"),
    ]:
        with pytest.raises(WallarooParameterError, match=text):
            compiled(source=experimental.SourceConnectorConfig(*changed))


def test_a_connector_as_sink():
    @experimental.octet_message_encoder
    def encode(data):
        return data

    def sinks(*config):
        return _topology.compile_application(wallaroo.build_application(
            "x", pipeline().to_sinks([
                experimental.SinkConnectorConfig(*config)]))).topology[5]
    wire = sinks("out", encode, None, "7200", "secret", "::1")
    assert wire[0][:2] == ["out", "connector"]
    assert wire[0][3:] == ["::1", 7200, "", -1, "default", "secret"]
    assert wire[1][6] == 0
    for config, text in [
        (("out", encode, None, 0), "port"),
        (("out", encode, None, 1, None), "cookie of out"),
        (("out", encode, None, 1, "", ""), "host of out"),
        (("out", None, None, 1), "encode"),
    ]:
        with pytest.raises(WallarooParameterError, match=text):
            sinks(*config)


def test_sources():
    lines = wallaroo.codecs.lines_decoder
    _, kind, _, _, framing, *rest = source_of(
        wallaroo.FileSourceConfig("f", "/in", lines))
    assert (kind, framing) == ("file", "lines")
    assert rest == [0, "", 1 << 20, "", 0, "/in", b"file-source-key", 0]
    _, kind, _, _, framing, *rest = source_of(
        wallaroo.StdinSourceConfig("s", lines))
    assert (kind, framing) == ("stdin", "lines")
    assert rest == [0, "", 1 << 20, "", 0, "", b"stdin-source-key", 0]
    numbers = stages.Numbers(3)
    c = compiled(source=wallaroo.GenSourceConfig(numbers))
    _, kind, _, fn, framing, *rest = c.topology[3][0]
    assert (kind, framing) == ("gen", "none")
    assert rest == [0, "", 0, "", 0, "", b"gen-source-key", 0]
    assert c.functions[fn] is numbers


@pytest.mark.parametrize("length_fmt,form", [
    (">I", ">I"), ("!I", ">I"), ("<I", "<I"), (">H", ">H"),
    (">B", ">B"), ("<q", "<q"), (">l", ">i"), ("!L", ">I"), (">b", ">b"),
])
def test_header_formats(length_fmt, form):
    d = wallaroo.decoder(struct.calcsize(length_fmt), length_fmt)(
        lambda payload: payload)
    _, _, _, _, framing, length, wire, *_ = source_of(
        wallaroo.TCPSourceConfig("n", "h", 1, d))
    assert (framing, length) == ("header", struct.calcsize(length_fmt))
    # What the worker reads is what Python reads, both ways round.
    for raw in (b"\0\0\0\0\0\0\1\2"[-length:], b"\2\1\0\0\0\0\0\0"[:length],
                b"\xff" * length):
        assert struct.unpack(wire, raw) == struct.unpack(length_fmt, raw)
    assert wire == form


def test_native_formats():
    for length_fmt in ("I", "@I", "=I", "L", "@q", "h"):
        size = struct.calcsize(length_fmt)
        d = wallaroo.decoder(size, length_fmt)(lambda payload: payload)
        wire = source_of(wallaroo.TCPSourceConfig("n", "h", 1, d))[6]
        raw = bytes(range(1, size + 1))
        assert struct.unpack(wire, raw) == struct.unpack(length_fmt, raw)
        assert wire[0] in "<>"


@pytest.mark.parametrize("length_fmt", [">xxH", ">HH", ">4s", ">f", ">e2x"])
def test_custom_formats(length_fmt):
    d = wallaroo.decoder(4, length_fmt)(lambda payload: payload)
    c = compiled(source=wallaroo.TCPSourceConfig("n", "h", 1, d))
    fn = c.topology[3][0][3]
    assert c.topology[3][0][4:7] == ["custom", 4, ""]
    assert c.frame_lengths[fn] == d.payload_length


def test_hand_written_parts():
    class Framer:
        def header_length(self):
            return 3

        def payload_length(self, header):
            return 5

        def decode(self, payload):
            return payload

    class Step:
        def name(self):
            return b"bytes name"

        def compute_multi(self, data):
            return [data]

    class State(wallaroo.StateComputation):
        def name(self):
            return "state"

        def initial_state(self):
            return []

        def compute(self, data, state):
            return data

    class Key:
        def extract_key(self, data):
            return b""

    class Encoder:
        def encode(self, data):
            return data

    framer, step, state, key, enc = Framer(), Step(), State(), Key(), Encoder()
    app = wallaroo.build_application("x", wallaroo.source(
        "s", wallaroo.TCPSourceConfig("n", "h", 1, framer)
    ).to(step).key_by(key).to(state).to_sink(
        wallaroo.TCPSinkConfig("h", 1, enc)))
    c = _topology.compile_application(app)
    source = c.topology[3][0]
    assert source[4:7] == ["custom", 3, ""]
    assert c.functions[source[3]] == framer.decode
    assert c.frame_lengths[source[3]] == framer.payload_length
    names = [s[NAME] for s in c.topology[4]]
    assert names == ["bytes name", "undefined-name", "state", "sinks"]
    assert c.topology[4][0][MULTI] is True
    fns = [c.functions[s[FN]] for s in c.topology[4][:3]]
    assert fns == [step.compute_multi, key.extract_key, state.compute]
    assert c.state_factories[c.topology[4][2][FN]] == state.initial_state
    assert c.topology[4][2][VERSION] == 1


def test_framed_codec_has_a_plain_header():
    d = wallaroo.codecs.FramedDecoder("<H")
    assert source_of(wallaroo.TCPSourceConfig("n", "h", 1, d))[4:7] == [
        "header", 2, "<H"]

    class Odd(wallaroo.codecs.FramedDecoder):
        def payload_length(self, header):
            return 2 * super().payload_length(header)

    assert source_of(wallaroo.TCPSourceConfig("n", "h", 1, Odd()))[4] == (
        "custom")


def test_unused_source():
    unused = wallaroo.source("Off", tcp_source("off", valid=False))
    app = wallaroo.build_application(
        "x", pipeline().merge(unused.to(add)).to_sink(tcp_sink()))
    c = _topology.compile_application(app)
    assert [s[0] for s in c.topology[3]] == ["Numbers"]
    # The stages stay, so that their state is found again.
    assert [s[0] for s in shape(c)] == ["exchange", "state", "sinks"]


def refused(text, build):
    with pytest.raises(WallarooParameterError) as raised:
        _topology.compile_application(build())
    assert text in str(raised.value)


def test_duplicate_state_names():
    refused("the name 'Sum', by which state is found again: rename one",
            lambda: application(lambda p: p.to(add).to(double).to(add)))
    # Names of other stages may repeat.
    compiled(lambda p: p.to(double).to(double))


def test_duplicate_state_names_of_machida3():
    """Any stage may have any name there; numbers tell them apart."""
    class Sum(wallaroo.Aggregation):
        initial_accumulator = update = combine = output = add.compute

    other = wallaroo.source("Others", tcp_source("others")).to(add)
    app = wallaroo.build_application("x", (
        wallaroo.source("Numbers", tcp_source()).to(add).merge(other)
        .to(add).to(wallaroo.count_windows(3).over(Sum))
        .to_sink(tcp_sink())))
    c = _topology.compile_application(app, numbered=True)
    assert sorted(s[0] for s in c.topology[4] if s[1] == "state") == [
        "Sum", "Sum (3)", "Sum (4)"]
    assert [s[0] for s in c.topology[4] if s[1] == "count_windows"] == [
        "Sum (2)"]
    assert c.topology == _topology.compile_application(
        app, numbered=True).topology


@pytest.mark.parametrize("text,build", [
    ("must return what wallaroo.build_application", pipeline),
    ('there is no "return"', lambda: None),
    ("function 'len' has no method encode, so it cannot be used here: write "
     "@wallaroo.encoder above it", lambda: wallaroo.build_application(
         "x", pipeline().to_sink(wallaroo.TCPSinkConfig("h", 1, len)))),
    ("has no method encode", lambda: wallaroo.build_application(
        "x", pipeline().to_sink(wallaroo.TCPSinkConfig("h", 1, double)))),
    ("has no method header_length", lambda: application(
        source=wallaroo.TCPSourceConfig("n", "h", 1, decoder=double))),
    ("has no method initial_value", lambda: application(
        source=wallaroo.GenSourceConfig(double))),
    ("port that is none: 'x'", lambda: application(
        source=tcp_source(port="x"))),
    ("port that is none: 0", lambda: application(source=tcp_source(port=0))),
    ("port that is none: 65536", lambda: wallaroo.build_application(
        "x", pipeline().to_sink(tcp_sink(65536)))),
    ("max_size of Numbers", lambda: application(
        source=tcp_source(max_size=0))),
    ("parallelism of Numbers", lambda: application(
        source=tcp_source(parallelism=0))),
    ("header_length from 1 to 8, not 9", lambda: application(
        source=wallaroo.TCPSourceConfig(
            "n", "h", 1, wallaroo.decoder(9, ">9s")(len)))),
    ("header_length from 1 to 8, not 0", lambda: application(
        source=wallaroo.TCPSourceConfig(
            "n", "h", 1, wallaroo.decoder(0, ">0s")(len)))),
    ("has header_length 4, but length_fmt '>H' takes 2", lambda: application(
        source=wallaroo.TCPSourceConfig(
            "n", "h", 1, wallaroo.decoder(4, ">H")(len)))),
    ("has length_fmt 'nonsense'", lambda: application(
        source=wallaroo.TCPSourceConfig(
            "n", "h", 1, wallaroo.decoder(4, "nonsense")(len)))),
    ("state= of S must be callable", lambda: application(
        lambda p: p.to(wallaroo.state_computation("S", "world")(
            lambda data, state: None)))),
    ("source that is used", lambda: application(
        source=tcp_source(valid=False))),
    ("Two sinks cannot both write to /out", lambda: (
        wallaroo.build_application("x", pipeline().to_sinks(
            [wallaroo.FileSinkConfig("/out", stages.encode)] * 2)))),
    ("Two sinks cannot both write to stdout", lambda: (
        wallaroo.build_application("x", pipeline().to_sinks(
            [wallaroo.StdoutSinkConfig(stages.encode)] * 2)))),
    ("The name of the application", lambda: wallaroo.build_application(
        "", pipeline().to_sink(tcp_sink()))),
    ("The host of Numbers", lambda: application(
        source=wallaroo.TCPSourceConfig("n", "", 1, stages.decode))),
    ("The path of Numbers", lambda: application(
        source=wallaroo.FileSourceConfig(
            "n", "", wallaroo.codecs.lines_decoder))),
    ("Unknown kind of stage", lambda: (
        "x", 0, [[pipeline()._sources()[0], ("to_moon", ""),
                  ("to_sink", tcp_sink().to_tuple())]], [[]])),
])
def test_refusals(text, build):
    refused(text, build)


def test_version_of_the_application(capsys):
    pipeline = wallaroo.source("Numbers", wallaroo.GenSourceConfig(
        stages.Numbers(3))).to_sink(wallaroo.StdoutSinkConfig(
            wallaroo.codecs.lines_encoder))
    plain = wallaroo.build_application("Test", pipeline)
    assert len(_topology.compile_application(plain).topology) == 6
    built = wallaroo.build_application("Test", pipeline, version="1.2 beta")
    assert built == plain and built.version == "1.2 beta"
    assert _topology.compile_application(built).topology[6:] == ["1.2 beta"]
    for wrong in (12, "a\nb", "x" * 65, None):
        with pytest.raises(WallarooParameterError):
            wallaroo.build_application("Test", pipeline, version=wrong)
