"""Decorators: instances, calls, class names, refusals."""

import functools

import pytest

import stages
import wallaroo
from wallaroo import WallarooParameterError


def test_computation():
    assert stages.double.name() == "Double"
    assert stages.double.compute(4) == 8
    assert type(stages.double).__doc__ == "Twice the data."
    assert stages.double.is_stateful is False
    assert stages.double.initial_state is None
    assert stages.double._is_multi is False
    assert not hasattr(stages.double, "compute_multi")


def test_computation_multi():
    assert stages.twice.compute_multi(4) == [4, None, 4]
    assert stages.twice._is_multi is True
    assert not hasattr(stages.twice, "compute")


def test_state_computation():
    state = stages.add.initial_state()
    assert isinstance(state, stages.Total)
    assert stages.add.compute(3, state) == 3
    assert stages.add.compute(4, state) == 7
    assert stages.add.is_stateful is True
    assert stages.add._is_multi is False
    assert stages.add.version == 1


def test_state_computation_multi():
    state = stages.add_multi.initial_state()
    assert stages.add_multi.compute_multi(3, state) == [3, 3]
    assert stages.add_multi.is_stateful and stages.add_multi._is_multi


def test_state_is_not_looked_at_when_decorating():
    @wallaroo.state_computation(name="hello", state="world")
    def f(data, state):
        return None

    assert f.name() == "hello"


def test_key_extractor():
    assert stages.last_digit.extract_key(17) == "7"
    assert stages.parity.extract_key(17) == chr(1)
    assert stages.last_digit.name() == "last_digit"

    @wallaroo.key_extractor
    def key(data):
        return data

    assert key.extract_key(True) == "\x01"
    assert key.extract_key(b"\xff") == b"\xff"
    for bad in (-1, 0x110000):
        with pytest.raises(ValueError):
            key.extract_key(bad)


def test_decoder():
    assert stages.decode.header_length() == 4
    assert stages.decode.payload_length(b"\0\0\1\2") == 258
    assert stages.decode.decode(b"12") == 12

    @wallaroo.decoder
    def bare(payload):
        return payload

    @wallaroo.decoder()
    def default(payload):
        return payload

    for d in (bare, default):
        assert d.header_length() == 4
        assert d.payload_length(b"\0\0\0\5") == 5
        assert d.decode(b"") == b""


def test_encoder():
    assert stages.encode.encode(3) == "3\n"


def test_called_with_arguments_runs_the_function():
    state = stages.Total()
    assert stages.double(4) == 8
    assert stages.double(data=4) == 8
    assert stages.add(4, state) == 4
    assert stages.add(data=4, total=state) == 8
    assert stages.twice(1) == [1, None, 1]
    assert stages.last_digit(17) == "7"
    assert stages.decode(b"12") == 12
    assert stages.encode(12) == "12\n"
    with pytest.raises(TypeError):
        stages.double(1, 2)
    with pytest.raises(TypeError):
        stages.add(1)


def test_called_without_arguments_returns_itself():
    for stage in (
        stages.double, stages.twice, stages.add, stages.add_multi,
        stages.last_digit, stages.decode, stages.encode,
    ):
        assert stage() is stage


def test_hand_written_instance_returns_itself():
    class Mine(wallaroo.Computation):
        def compute(self, data):
            return data

    mine = Mine()
    assert mine(3) is mine


def test_func_is_the_users_function():
    assert stages.double._func.__name__ == "double"
    assert stages.double._func(3) == 6
    assert stages.add._func(3, stages.Total()) == 3


def test_class_names():
    before = dict(wallaroo._C)

    def f(data):
        return data

    def g(data, state):
        return data

    made = [
        ("Computation", wallaroo.computation("x")(f)),
        ("Computation", wallaroo.computation(name="x")(f)),
        ("ComputationMulti", wallaroo.computation_multi("x")(f)),
        ("StateComputation", wallaroo.state_computation("x", int)(g)),
        ("StateComputationMulti",
         wallaroo.state_computation_multi("x", int)(g)),
        ("KeyExtractor", wallaroo.key_extractor(f)),
        ("OctetDecoder", wallaroo.decoder(4, ">I")(f)),
        ("OctetEncoder", wallaroo.encoder(f)),
    ]
    count = dict(before)
    for base, instance in made:
        count[base] = count.get(base, 0) + 1
        name = "%s_%d__%s" % (
            base, count[base], "g" if base.startswith("State") else "f")
        cls = type(instance)
        assert getattr(wallaroo, name) is cls
        assert cls.__qualname__ == name
        assert cls.__name__ == "C"
        assert cls.__module__ == "wallaroo"


def test_dynamic_function_name():
    def f(data):
        return data

    f.__name__ = "made_up"
    stage = wallaroo.computation("x")(f)
    assert type(stage).__qualname__.endswith("__made_up")


def test_name_defaults_to_the_functions():
    @wallaroo.computation
    def bare(data):
        return data + 1

    @wallaroo.computation()
    def empty(data):
        return data

    @wallaroo.computation_multi
    def multi(data):
        return [data]

    @wallaroo.state_computation(state=stages.Total)
    def state(data, state):
        return data

    assert bare.name() == "bare" and bare.compute(1) == 2
    assert empty.name() == "empty"
    assert multi.name() == "multi" and multi.compute_multi(1) == [1]
    assert state.name() == "state"


def test_on_error_and_version():
    @wallaroo.computation("x", on_error="skip")
    def f(data):
        return data

    @wallaroo.state_computation("y", list, on_error="dead-letter", version=3)
    def g(data, state):
        return data

    @wallaroo.key_extractor(on_error="fail")
    def k(data):
        return data

    @wallaroo.encoder(on_error="skip")
    def e(data):
        return data

    assert (f.on_error, g.on_error) == ("skip", "dead-letter")
    assert (k.on_error, e.on_error) == ("fail", "skip")
    assert g.version == 3
    assert stages.double.on_error is None


def refused(capsys, text, call):
    capsys.readouterr()
    with pytest.raises(WallarooParameterError) as raised:
        call()
    assert text in str(raised.value)
    out = capsys.readouterr().out
    assert out == "\nAPI_Error: %s\n" % raised.value


def test_bad_options(capsys):
    refused(capsys, "on_error must be one of 'fail', 'skip', 'dead-letter'",
            lambda: wallaroo.computation("x", on_error="retry"))
    refused(capsys, "on_error", lambda: wallaroo.encoder(on_error="no"))
    refused(capsys, "version must be",
            lambda: wallaroo.state_computation("x", int, version=-1))
    refused(capsys, "needs state=", lambda: wallaroo.state_computation("x"))


def test_arity(capsys):
    def none():
        pass

    def one(a):
        pass

    def two(a, b):
        pass

    def three(a, b, c):
        pass

    def one_or_two(a, b=1):
        pass

    def any_number(*args):
        pass

    stateless = [wallaroo.computation("S"), wallaroo.computation_multi("S")]
    stateful = [
        wallaroo.state_computation("S", int),
        wallaroo.state_computation_multi("S", int),
    ]
    for decorate in stateless:
        for bad in (none, two, three, any_number):
            refused(
                capsys,
                "Incompatible function arity, your function S must have 1 "
                "parameter.",
                lambda: decorate(bad),
            )
        decorate(one)
        decorate(one_or_two)
    for decorate in stateful:
        for bad in (none, one, three, any_number):
            refused(
                capsys,
                "Incompatible function arity, your function S must have 2 "
                "parameters.",
                lambda: decorate(bad),
            )
        decorate(two)
        decorate(one_or_two)
    for decorate in (
        wallaroo.key_extractor, wallaroo.encoder, wallaroo.decoder()
    ):
        refused(capsys, "must have 1 parameter", lambda: decorate(none))
        refused(capsys, "must have 1 parameter", lambda: decorate(two))
        decorate(any_number)


def test_not_a_function(capsys):
    refused(
        capsys, "Expected a callable object but got a 3 for S",
        lambda: wallaroo.computation("S")(3),
    )
    partial = functools.partial(max, 3)
    refused(capsys, "Expected a function", lambda: wallaroo.encoder(partial))
    for decorate in (
        wallaroo.encoder, wallaroo.key_extractor, wallaroo.decoder(4, ">I")
    ):
        refused(capsys, "Expected a function", lambda: decorate(3))
        with pytest.raises(AttributeError):
            decorate(3)


def test_builtin_function():
    assert wallaroo.computation("int")(int).compute("12") == 12
    assert wallaroo.computation("len")(len).compute([1]) == 1
    assert wallaroo.key_extractor(str).extract_key(7) == "7"


def test_one_function_decorated_repeatedly():
    def f(data):
        return data

    first = wallaroo.decoder(header_length=4, length_fmt=">I")(f)
    second = wallaroo.decoder(header_length=2, length_fmt=">H")(f)
    assert first.header_length() == 4 and second.header_length() == 2
    assert type(first) is not type(second)
