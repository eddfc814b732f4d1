"""Configurations of sources and sinks, both generations of arguments."""

import pathlib

import pytest

import wallaroo
from stages import Numbers, decode, encode


def test_tcp_source():
    config = wallaroo.TCPSourceConfig("n", "h", "7010", decode)
    assert config.to_tuple() == (
        "tcp", "n", "h", "7010", decode, True, 10, 16384, 50)
    config = wallaroo.TCPSourceConfig(
        "n", "h", 7010, decode, False, 3, 100, 5)
    assert config.to_tuple() == (
        "tcp", "n", "h", 7010, decode, False, 3, 100, 5)
    config = wallaroo.TCPSourceConfig(
        name="n", host="h", port=1, decoder=decode, max_size=7)
    assert config.to_tuple()[7] == 7
    assert (config.name, config.host, config.port) == ("n", "h", 1)


@pytest.mark.parametrize("config", [
    wallaroo.TCPSourceConfig("h", "7010", decode),
    wallaroo.TCPSourceConfig("h", "7010", decoder=decode),
    wallaroo.TCPSourceConfig("h", port="7010", decoder=decode),
    wallaroo.TCPSourceConfig(host="h", port="7010", decoder=decode),
])
def test_tcp_source_without_name(config):
    assert config.to_tuple() == (
        "tcp", None, "h", "7010", decode, True, 10, 16384, 50)
    source = wallaroo.source("Pipeline", config)._sources()[0]
    assert source[2][:3] == ("tcp", "Pipeline", "h")


def test_tcp_source_without_name_parallelism():
    for config in (
        wallaroo.TCPSourceConfig("h", 1, decode, 4),
        wallaroo.TCPSourceConfig("h", 1, decode, parallelism=4),
    ):
        assert config.to_tuple()[6] == 4


@pytest.mark.parametrize("args,kwargs", [
    (("n", "h", 1), {}),
    (("n", "h"), {"port": 1}),
    (("n", "h", 1, decode), {"name": "m"}),
    (("n", "h", 1, decode), {"colour": "red"}),
    (("n", "h", 1, decode, True, 1, 2, 3, 4), {}),
    ((), {}),
])
def test_tcp_source_bad_arguments(args, kwargs):
    with pytest.raises(TypeError):
        wallaroo.TCPSourceConfig(*args, **kwargs)


def test_gen_source():
    numbers = Numbers()
    for config in (
        wallaroo.GenSourceConfig("g", numbers),
        wallaroo.GenSourceConfig(name="g", gen_instance=numbers),
    ):
        assert config.to_tuple() == ("gen", "g", numbers)
    for config in (
        wallaroo.GenSourceConfig(numbers),
        wallaroo.GenSourceConfig(gen_instance=numbers),
    ):
        assert config.to_tuple() == ("gen", None, numbers)
        source = wallaroo.source("Pipeline", config)._sources()[0]
        assert source == ("source", "Pipeline", ("gen", "Pipeline", numbers))
    with pytest.raises(TypeError):
        wallaroo.GenSourceConfig()
    with pytest.raises(TypeError):
        wallaroo.GenSourceConfig(name="g")


def test_file_and_stdin_sources():
    path = pathlib.Path("/a/b")
    lines = wallaroo.codecs.lines_decoder
    assert wallaroo.FileSourceConfig("f", path, lines).to_tuple() == (
        "file", "f", "/a/b", lines, 1 << 20)
    assert wallaroo.StdinSourceConfig("s", lines, 5).to_tuple() == (
        "stdin", "s", lines, 5)


def test_sinks():
    assert wallaroo.TCPSinkConfig("h", "1", encode).to_tuple() == (
        "tcp", "", "h", "1", encode)
    assert wallaroo.FileSinkConfig("/a", encode).to_tuple() == (
        "file", "", "/a", encode)
    assert wallaroo.StdoutSinkConfig(encode).to_tuple() == (
        "stdout", "", encode)
