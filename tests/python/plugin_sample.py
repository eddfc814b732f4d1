"""An application and its tests, as a user writes them.

test_plugin.py runs them on the reference executor, tests/system on workers.
"""

from __future__ import annotations

import pytest

import wallaroo
from wallaroo import codecs


class Total:
    def __init__(self):
        self.count = 0


@wallaroo.computation_multi
def split(line):
    if "!" in line:
        raise ValueError("no ! here")
    return line.split()


@wallaroo.key_extractor
def itself(word):
    return word


@wallaroo.state_computation(name="Count", state=Total)
def count(word, total):
    total.count += 1
    return (word, total.count)


@wallaroo.encoder
def encode(pair):
    return "%s=%d;" % pair


@wallaroo.computation
def as_text(number):
    return "n%d" % (number % 2)


class Numbers:
    def initial_value(self):
        return 0

    def apply(self, value):
        return value + 1


def application_setup(args):
    assert args[0] == __name__
    lines = wallaroo.source("lines", wallaroo.TCPSourceConfig(
        "in", "nowhere.invalid", 1, codecs.lines_decoder))
    numbers = wallaroo.source(
        "numbers", wallaroo.GenSourceConfig(Numbers()))
    return wallaroo.build_application("sample", lines.to(split).merge(
        numbers.to(as_text)).key_by(itself).to(count).to_sinks([
            wallaroo.TCPSinkConfig("nowhere.invalid", 1, encode),
            wallaroo.FileSinkConfig(args[1], codecs.json_encoder).where(
                lambda pair: pair[0] != "c")]))


def only_letters(args):
    return wallaroo.build_application("letters", wallaroo.source(
        "lines", wallaroo.FileSourceConfig(
            "lines", "/no/such/file", codecs.lines_decoder)
    ).to(split).to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder)))


@pytest.fixture
def app(wallaroo_app, tmp_path):
    import plugin_sample

    yield wallaroo_app(plugin_sample, [str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_everything_is_counted(app):
    app.feed("lines", "a b", b"a", wallaroo.testing.Decoded("c c"))
    assert sorted(app.values()) == [
        ("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2)]
    assert sorted(app.outputs()) == [
        b"a=1;", b"a=2;", b"b=1;", b"c=1;", b"c=2;"]
    assert sorted(app.outputs(1)) == [
        b'["a",1]\n', b'["a",2]\n', b'["b",1]\n']
    assert app.state("Count", "a") == "Total(count=2)"
    assert app.state("Count", "z") is None


def test_a_generator(app):
    app.feed("numbers", 5)
    assert sorted(app.values())[-1] == ("n1", 2)
    assert len(app.values()) == 5


def test_kills_do_not_show(app):
    for n in range(3):
        app.feed("lines", "a b c")
        app.kill(n)
        app.feed("lines", "a")
    app.kill()
    assert app.state("Count", "a") == "Total(count=6)"
    assert sorted(app.values()) == sorted(
        [("a", n) for n in range(1, 7)]
        + [(word, n) for word in "bc" for n in range(1, 4)])


def test_restart(app):
    app.feed("lines", "a b")
    app.restart()
    app.feed("lines", "a")
    app.restart(workers=2)
    app.feed("lines", "a")
    assert app.state("Count", "a") == "Total(count=3)"
    assert len(app.outputs()) == 4


def test_dead_letters(wallaroo_app):
    app = wallaroo_app(only_letters, on_error="dead-letter")
    app.feed("lines", "a", "b!", "c")
    assert app.values() == ["a", "c"]
    (letter,) = app.dead_letters()
    assert letter.step == "split" and letter.error == "ValueError: no ! here"


def test_an_unknown_source(app):
    with pytest.raises(wallaroo.WallarooParameterError, match="'lines'"):
        app.feed("nothing", "a")
