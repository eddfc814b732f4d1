"""The reference executor and wallaroo.testing."""

import pytest

import stages
import wallaroo
from stages import (
    Numbers, add, add_multi, application, double, last_digit, odd_only,
    parity, pipeline, tcp_sink, tcp_source, twice,
)
from wallaroo.testing import Decoded, UserFunctionError, run


def values(chain, inputs, **options):
    return run(application(chain), {"Numbers": inputs}, **options).values


def test_stateless():
    assert values(lambda p: p, [1, 2]) == [1, 2]
    assert values(lambda p: p.to(double), [1, 2]) == [2, 4]
    assert values(lambda p: p.to(odd_only), [1, 2, 3]) == [1, 3]
    assert values(lambda p: p.to(twice).to(double), [1, 2]) == [2, 2, 4, 4]


def test_state_without_key_is_one_object():
    result = run(application(lambda p: p.to(add)), {"Numbers": [1, 2, 3]})
    assert result.values == [1, 3, 6]
    assert list(result.states) == ["Sum"]
    assert list(result.states["Sum"]) == ["tcp-source-key"]
    assert result.states["Sum"]["tcp-source-key"].n == 6


def test_state_per_key():
    result = run(
        application(lambda p: p.key_by(parity).to(add)),
        {"Numbers": [1, 2, 3, 4]},
    )
    assert result.values == [1, 2, 4, 6]
    assert {k: s.n for k, s in result.states["Sum"].items()} == {
        "\0": 6, "\1": 4}


def test_outputs_inherit_the_key():
    result = run(
        application(lambda p: p.key_by(last_digit).to(twice).to(add)),
        {"Numbers": [3, 4, 13]},
    )
    assert result.values == [3, 6, 4, 8, 19, 32]


def test_depth_first():
    order = []

    @wallaroo.computation_multi("Three")
    def three(data):
        return [1, 2, 3]

    @wallaroo.computation("A")
    def a(data):
        order.append("a%d" % data)
        return data

    @wallaroo.computation("B")
    def b(data):
        order.append("b%d" % data)

    values(lambda p: p.to(three).to(a).to(b), [0])
    assert order == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_collect():
    result = run(
        application(
            lambda p: p.key_by(last_digit).to(add).collect().to(add_multi)),
        {"Numbers": [1, 2]},
    )
    assert result.values == [1, 1, 3, 2]
    assert list(result.states["Sum and data"]) == [
        "collect-key-Sum and data"]


def test_merge():
    a = wallaroo.source("A", tcp_source("a")).to(double)
    b = wallaroo.source("B", tcp_source("b"))
    app = wallaroo.build_application(
        "x", a.merge(b).collect().to(add).to_sink(tcp_sink()))
    assert run(app, {"A": [1, 2], "B": [10]}).values == [2, 6, 16]
    assert run(app, {"b": [10], "a": [1, 2]}).values == [10, 12, 16]
    assert run(app, [("A", 1), ("B", 10), ("A", 2)]).values == [2, 12, 16]
    with pytest.raises(wallaroo.WallarooParameterError) as raised:
        run(app, {"C": [1]})
    assert "'C'; the sources are 'A', 'B'" in str(raised.value)


def test_merge_keeps_constant_keys_of_sources_apart():
    a = wallaroo.source("A", tcp_source("a"))
    b = wallaroo.source("B", wallaroo.GenSourceConfig(Numbers(3)))
    app = wallaroo.build_application(
        "x", a.merge(b).to(add).to_sink(tcp_sink()))
    result = run(app, {"A": [5, 5], "B": None})
    assert {k: s.n for k, s in result.states["Sum"].items()} == {
        "tcp-source-key": 10, "gen-source-key": 3}


def test_several_sinks():
    @wallaroo.encoder
    def odd_bytes(data):
        return b"%d." % data if data % 2 else None

    app = wallaroo.build_application("x", pipeline().to_sinks([
        tcp_sink(), wallaroo.FileSinkConfig("/out", odd_bytes),
        wallaroo.StdoutSinkConfig(wallaroo.codecs.json_encoder),
    ]))
    result = run(app, {"Numbers": [1, 2]})
    assert result.outputs == {
        "127.0.0.1:7002": [b"1\n", b"2\n"],
        "/out": [b"1."],
        "stdout": [b"1\n", b"2\n"],
    }
    assert result.values == [1, 2]


def test_bytes_are_decoded():
    assert values(lambda p: p.to(double), [b"4", 5, b"6"]) == [8, 10, 12]
    stream = b"\0\0\0\1" b"4" b"\0\0\0\2" b"15"
    assert values(lambda p: p.to(double), stream) == [8, 30]
    assert values(lambda p: p, [Decoded(b"4")]) == [b"4"]


def test_lines_are_cut():
    app = application(source=wallaroo.FileSourceConfig(
        "f", "/in", wallaroo.codecs.lines_decoder, max_size=5))
    result = run(app, {"f": b"one\r\n\ntwo\nlast"})
    assert result.values == ["one", "", "two", "last"]
    assert run(app, {"f": b"one\n"}).values == ["one"]
    assert run(app, {"f": [b"a line", "text"]}).values == ["a line", "text"]
    with pytest.raises(Exception, match="longer than 5"):
        run(app, {"f": b"123456\n"})


def test_frames_are_checked():
    with pytest.raises(Exception, match="5 bytes of a frame"):
        values(lambda p: p, b"\0\0\0\2" b"4")
    with pytest.raises(Exception, match="payload of 65536 bytes"):
        values(lambda p: p, b"\0\1\0\0")


def test_framing_by_pieces():
    from wallaroo._framing import Cutter

    lines, frames = wallaroo.codecs.lines_decoder, stages.decode
    for decoder, stream, whole in (
        (lines, b"one..\r\n\n\rtwo\nthree",
         [b"one..", b"", b"\rtwo", b"three"]),
        (frames, b"\0\0\0\1a\0\0\0\0\0\0\0\2bc",
         [b"a", b"", b"bc"]),
    ):
        for size in range(1, len(stream) + 1):
            cutter, got = Cutter(decoder, 5), []
            for at in range(0, len(stream), size):
                got += cutter.feed(stream[at:at + size])
            assert got + list(cutter.end()) == whole


def test_payload_length_that_raises():
    class Bad(wallaroo.codecs.FramedDecoder):
        def payload_length(self, header):
            raise ValueError(header)

    app = application(source=wallaroo.TCPSourceConfig("n", "h", 1, Bad()))
    with pytest.raises(Exception, match="no length in"):
        run(app, {"n": b"1234"})


def test_large_stream_is_cut_fast():
    app = application(source=wallaroo.FileSourceConfig(
        "f", "/in", wallaroo.codecs.lines_decoder))
    assert len(run(app, {"f": b"a line\n" * 100000}).values) == 100000


def test_empty_payload_is_decoded():
    app = application(source=wallaroo.TCPSourceConfig(
        "n", "h", 1, wallaroo.codecs.framed_decoder))
    assert run(app, {"n": b"\0\0\0\0" b"\0\0\0\1x"}).values == [b"", b"x"]


def test_decoder_drops_none():
    app = application(source=wallaroo.FileSourceConfig(
        "f", "/in", wallaroo.codecs.json_decoder))
    assert run(app, {"f": b"1\n\nnull\n2\n"}).values == [1, 2]


def test_generators():
    app = application(source=wallaroo.GenSourceConfig(Numbers(5)))
    assert run(app, {"Numbers": None}).values == [0, 1, 2, 3, 4]
    assert run(app, {"Numbers": 2}).values == [0, 1]
    assert run(app, {"Numbers": [7, b"8"]}).values == [7, b"8"]
    endless = application(source=wallaroo.GenSourceConfig(Numbers()))
    assert run(endless, {"Numbers": 3}).values == [0, 1, 2]
    nothing = application(source=wallaroo.GenSourceConfig(Numbers(0)))
    assert run(nothing, {"Numbers": None}).values == []
    with pytest.raises(wallaroo.WallarooParameterError):
        run(application(), {"Numbers": 3})


def test_keys():
    def states(keys):
        @wallaroo.key_extractor
        def key(data):
            return data

        @wallaroo.state_computation("N", list)
        def n(data, state):
            state.append(data)

        result = run(
            application(lambda p: p.key_by(key).to(n)),
            {"Numbers": [Decoded(k) for k in keys]},
        )
        return result.states["N"]

    # str and its UTF-8 are one key; ints are characters.
    assert list(states(["ä", "ä".encode(), 0xE4])) == ["ä"]
    assert list(states([b"\xff\0", "", True])) == ["\udcff\0", "", "\x01"]
    assert len(states([0xD800, 0xDBFF])) == 2
    for bad in (1.5, -1, 0x110000, ("a",)):
        with pytest.raises(UserFunctionError):
            states([bad])


def failing(on_error=None):
    @wallaroo.computation("Fails on 2", on_error=on_error)
    def fails(data):
        if data == 2:
            raise ValueError("it is two")
        return data

    return lambda p: p.key_by(last_digit).to(fails)


def test_policy_fail():
    for options in ({}, {"on_error": "fail"}):
        with pytest.raises(UserFunctionError) as raised:
            values(failing(), [1, 2, 3], **options)
        assert str(raised.value) == (
            "user function failed step='Fails on 2' key='2': "
            "ValueError: it is two (input 2)")
        assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(UserFunctionError):
        values(failing("fail"), [2], on_error="skip")


def test_policy_skip():
    assert values(failing(), [1, 2, 3], on_error="skip") == [1, 3]
    assert values(failing("skip"), [1, 2, 3]) == [1, 3]


def test_policy_dead_letter():
    result = run(application(failing("dead-letter")), {"Numbers": [1, 2, 3]})
    assert result.values == [1, 3]
    [letter] = result.dead_letters
    assert (letter.step, letter.key, letter.value) == ("Fails on 2", "2", 2)
    assert letter.error == "ValueError: it is two"
    assert "raise ValueError" in letter.traceback


@pytest.mark.parametrize("part", ["decode", "key", "multi", "state", "encode"])
def test_each_kind_of_function_can_fail(part):
    def bad(kind, result=None):
        if kind == part:
            raise RuntimeError(kind)
        return result

    d = wallaroo.decoder()(lambda data: bad("decode", data))
    k = wallaroo.key_extractor(lambda data: bad("key", "k"))
    m = wallaroo.computation_multi("M")(lambda data: bad("multi", [data]))
    s = wallaroo.state_computation("S", lambda: bad("state"))(
        lambda data, state: data)
    e = wallaroo.encoder(lambda data: bad("encode", "x"))
    app = wallaroo.build_application("x", wallaroo.source(
        "s", wallaroo.TCPSourceConfig("n", "h", 1, d)
    ).key_by(k).to(m).to(s).to_sink(wallaroo.TCPSinkConfig("h", 1, e)))
    with pytest.raises(UserFunctionError, match=part):
        run(app, {"n": [b"1"]})
    assert run(app, {"n": [b"1"]}, on_error="skip").outputs == {"h:1": []}
    dead = run(app, {"n": [b"1"]}, on_error="dead-letter").dead_letters
    assert [letter.error for letter in dead] == ["RuntimeError: " + part]


def test_results_of_a_wrong_type():
    m = wallaroo.computation_multi("M")(lambda data: (data,))
    with pytest.raises(UserFunctionError, match="must return a list"):
        values(lambda p: p.to(m), [1])
    e = wallaroo.encoder(lambda data: 5)
    app = wallaroo.build_application(
        "x", pipeline().to_sink(wallaroo.TCPSinkConfig("h", 1, e)))
    with pytest.raises(UserFunctionError, match="must return bytes, str"):
        run(app, {"numbers": [1]})


def test_list_subclass_is_a_list_and_a_list_is_one_output():
    class Mine(list):
        pass

    m = wallaroo.computation_multi("M")(lambda data: Mine([data, data]))
    c = wallaroo.computation("C")(lambda data: [data])
    assert values(lambda p: p.to(m), [1]) == [1, 1]
    assert values(lambda p: p.to(c), [1]) == [[1]]


def test_exceptions_beyond_exception_are_not_caught():
    def stop(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(lambda p: p.to(wallaroo.computation("S")(stop)), [1],
               on_error="skip")


def test_duplicate_state_names():
    with pytest.raises(wallaroo.WallarooParameterError, match="rename"):
        values(lambda p: p.to(add).to(add), [1])


def test_apply_state():
    from wallaroo._reference import Executor

    executor = Executor(application(lambda p: p.key_by(parity).to(add_multi)))
    assert executor.apply_state("Sum and data", "a", 3) == [3, 3]
    assert executor.apply_state("Sum and data", b"a", 4) == [7, 4]
    assert executor.apply_state("Sum and data", "b", 1) == [1, 1]
    with pytest.raises(KeyError):
        executor.apply_state("Other", "a", 1)


class Unshown:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize("value, shown", [
    (b"a,b", "(input b'a,b')"), (None, "no"), (Unshown(), "of type Unshown)"),
    ("x" * 1000, "xxx...)")])
def test_an_error_shows_the_input(value, shown):
    error = UserFunctionError("Step", b"key", ValueError("no"), value)
    assert str(error).startswith(
        "user function failed step='Step' key='key': ValueError: no")
    assert str(error).endswith(shown) and len(str(error)) < 300
