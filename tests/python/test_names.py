"""The public names, and what is-a what among the stage classes."""

import subprocess
import sys

import pytest

import stages
import wallaroo


def test_all_names_exist():
    for name in wallaroo.__all__:
        assert hasattr(wallaroo, name)


def test_names_of_the_contract():
    for name in """
        source build_application Pipeline WallarooParameterError
        computation computation_multi state_computation
        state_computation_multi key_extractor decoder encoder
        TCPSourceConfig TCPSinkConfig GenSourceConfig FileSourceConfig
        StdinSourceConfig FileSinkConfig StdoutSinkConfig
        tcp_parse_input_addrs tcp_parse_output_addrs
        kafka_parse_source_options kafka_parse_sink_options
        _kafka_parse_broker Unbuffered dt_to_timestamp serialize deserialize
        BaseWrapped Computation ComputationMulti StateComputation
        StateComputationMulti KeyExtractor Encoder Decoder OctetDecoder
        OctetEncoder attach_to_module _wallaroo_wrap
        _validate_arity_compatability _PipelineTree _C _ARGS
        _validate_aggregation Aggregation ConnectorDecoder ConnectorEncoder
        range_windows count_windows RangeWindowsBuilder RangeWindows
        CountWindowsBuilder CountWindows nanoseconds microseconds
        milliseconds seconds minutes hours KafkaSourceConfig KafkaSinkConfig
        DefaultKafkaSourceCLIParser DefaultKafkaSinkCLIParser
        CustomKafkaSourceCLIParser CustomKafkaSinkCLIParser experimental
    """.split():
        assert hasattr(wallaroo, name), name


def test_hierarchy():
    w = wallaroo
    for child, parents in {
        w.ComputationMulti: [w.Computation],
        w.StateComputation: [w.Computation],
        w.StateComputationMulti: [w.StateComputation, w.ComputationMulti],
        w.OctetDecoder: [w.Decoder],
        w.OctetEncoder: [w.Encoder],
        w.KeyExtractor: [w.BaseWrapped],
        w.Aggregation: [w.BaseWrapped],
        w.ConnectorDecoder: [w.Decoder],
        w.ConnectorEncoder: [w.Encoder],
        w.Computation: [w.BaseWrapped],
        w.Encoder: [w.BaseWrapped],
        w.Decoder: [w.BaseWrapped],
    }.items():
        for parent in parents:
            assert issubclass(child, parent)


def test_instances():
    w = wallaroo
    assert isinstance(stages.double, w.Computation)
    assert not isinstance(stages.double, w.StateComputation)
    assert isinstance(stages.twice, w.ComputationMulti)
    assert isinstance(stages.add, w.StateComputation)
    assert not isinstance(stages.add, w.ComputationMulti)
    assert isinstance(stages.add_multi, w.StateComputationMulti)
    assert isinstance(stages.decode, w.OctetDecoder)
    assert isinstance(stages.encode, w.OctetEncoder)
    assert isinstance(stages.parity, w.KeyExtractor)


@pytest.mark.skipif(
    not hasattr(sys, "stdlib_module_names"), reason="since Python 3.10")
def test_no_dependency(environment):
    code = (
        "import sys; before = set(sys.modules); import wallaroo; "
        "print(sorted(m for m in set(sys.modules) - before"
        " if m.split('.')[0] not in sys.stdlib_module_names"
        " and m.split('.')[0] != 'wallaroo'))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True,
        stdout=subprocess.PIPE, check=True,
    )
    assert out.stdout == "[]\n"


def test_prints_appear_at_once(environment):
    code = "import wallaroo, os; print('seen'); os._exit(0)"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True,
        stdout=subprocess.PIPE, check=True,
    )
    assert out.stdout == "seen\n"


def test_unbuffered():
    class Stream:
        def __init__(self):
            self.calls = []
            self.attribute = 5

        def __getattr__(self, name):
            return lambda *args: self.calls.append((name, *args))

    stream = Stream()
    unbuffered = wallaroo.Unbuffered(stream)
    unbuffered.write("x")
    unbuffered.writelines(["y"])
    assert stream.calls == [
        ("write", "x"), ("flush",), ("writelines", ["y"]), ("flush",),
    ]
    assert unbuffered.attribute == 5


def test_serialize_and_dt_to_timestamp():
    from datetime import datetime, timezone

    data = {"a": [1, (2, b"3")]}
    assert wallaroo.deserialize(wallaroo.serialize(data)) == data
    dt = datetime(1970, 1, 2, microsecond=500000, tzinfo=timezone.utc)
    assert wallaroo.dt_to_timestamp(dt) == 86400.5
