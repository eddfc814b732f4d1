"""Ready-made stages, by themselves and under crashes; sinks with filters."""

from __future__ import annotations

import collections
import random

import pytest

import wallaroo
import wallaroo.testing
from wallaroo import WallarooParameterError, codecs, helpers


@wallaroo.key_extractor
def first(text):
    return text[0]


def application(*stages, sinks=None):
    pipeline = wallaroo.source("in", wallaroo.StdinSourceConfig(
        "in", codecs.lines_decoder)).key_by(first)
    for stage in stages:
        pipeline = pipeline.to(stage)
    return wallaroo.build_application("helpers", pipeline.to_sinks(
        sinks or [wallaroo.StdoutSinkConfig(codecs.json_encoder)]))


def run(stage, *inputs):
    return wallaroo.testing.run(
        application(stage), {"in": [item.encode() for item in inputs]})


def number(text):
    return int(text[1:])


def test_count():
    result = run(helpers.count(), "a1", "b1", "a1")
    assert result.values == [1, 1, 2]
    assert result.states["count"]["a"].count == 2


def test_reduce():
    assert run(helpers.reduce(max), "a3", "a7", "b1", "a5").values == [
        "a3", "a7", "b1", "a7"]


def test_fold():
    stage = helpers.fold(list, lambda seen, text: seen + [text], "texts")
    result = run(stage, "a1", "b1", "a2")
    assert result.values == [["a1"], ["b1"], ["a1", "a2"]]
    assert result.states["texts"]["a"].value == ["a1", "a2"]


def test_dedup():
    assert run(helpers.dedup(), "a1", "b1", "a1", "a2").values == [
        "a1", "b1", "a2"]
    assert run(helpers.dedup(lambda text: number(text) % 2), "a1", "a3",
               "a2", "b3").values == ["a1", "a2", "b3"]


def test_dedup_forgets_the_oldest():
    values = run(helpers.dedup(remember=2), "a1", "a2", "a1", "a3", "a2",
                 "a1").values
    assert values == ["a1", "a2", "a3", "a1"]


def test_rolling_mean():
    assert run(helpers.rolling_mean(2, number), "a2", "a4", "b9",
               "a0").values == [2.0, 3.0, 9.0, 2.0]


def test_top_k():
    values = run(helpers.top_k(2), "a1", "a2", "a2", "a3", "a3", "a3").values
    assert values == [
        [("a1", 1)], [("a1", 1), ("a2", 1)], [("a2", 2), ("a1", 1)],
        [("a2", 2), ("a3", 2)], [("a3", 3), ("a2", 2)]]


@pytest.mark.parametrize("seed", range(5))
def test_top_k_is_that_of_the_counts(seed):
    rng = random.Random(seed)
    stage = helpers.top_k(3, most=1000)
    state, counts = stage.initial_state(), collections.Counter()
    for _ in range(2000):
        item = "a%d" % min(rng.randrange(60), rng.randrange(60))
        counts[item] += 1
        top = stage.compute(item, state)
        assert top is None or top == state.top
        assert [n for _, n in state.top] == sorted(
            counts.values(), reverse=True)[:3]
        assert all(counts[one] == n for one, n in state.top)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_is_bounded(k):
    """With more items than are counted no count is too low."""
    rng = random.Random(k)
    stage = helpers.top_k(k, most=10)
    state, counts = stage.initial_state(), collections.Counter()
    for _ in range(3000):
        item = "a%d" % rng.randrange(rng.choice((5, 40)))
        counts[item] += 1
        stage.compute(item, state)
        assert len(state.counts) <= 10 and len(state.top) <= k
        assert all(n == state.counts[one] for one, n in state.top)
        assert all(state.counts[one] >= counts[one] for one in state.counts)
        least = state.top[-1][1]
        assert len(state.top) == min(k, len(state.counts))
        assert all(n <= least for one, n in state.counts.items()
                   if one not in dict(state.top))


def test_peek(capsys):
    seen = []
    assert run(helpers.peek(seen.append), "a1", "b2").values == ["a1", "b2"]
    assert seen == ["a1", "b2"]
    run(helpers.peek(name="looked"), "a1")
    assert capsys.readouterr().out == "looked: 'a1'\n"


@pytest.mark.parametrize("stage", [
    helpers.count("s"), helpers.reduce(min, "s"), helpers.dedup(name="s"),
    helpers.fold(int, lambda total, text: total + number(text), "s"),
    helpers.top_k(2, number, name="s"),
    helpers.rolling_mean(3, number, name="s")],
    ids=["count", "reduce", "dedup", "fold", "top_k", "rolling_mean"])
def test_crashes_do_not_show(stage):
    inputs = [b"a1", b"b2", b"a2", b"a1", b"b5", b"a3", b"b2", b"a1"]
    wallaroo.testing.simulate(
        application(stage), {"in": inputs}, schedules=100)


@pytest.mark.parametrize("wrong", [
    lambda: helpers.reduce(3), lambda: helpers.fold(0, max),
    lambda: helpers.fold(int, None), lambda: helpers.dedup(3),
    lambda: helpers.dedup(remember=0), lambda: helpers.top_k(0),
    lambda: helpers.top_k(3, most=2), lambda: helpers.top_k(3, of=1),
    lambda: helpers.rolling_mean(2.5), lambda: helpers.rolling_mean(2, 3),
    lambda: helpers.peek(1),
    lambda: wallaroo.StdoutSinkConfig(codecs.lines_encoder).where(True)])
def test_mistakes(wrong, capsys):
    with pytest.raises(WallarooParameterError):
        wrong()


# -- sinks that get only a part ------------------------------------------------

def test_where():
    result = wallaroo.testing.run(application(sinks=[
        wallaroo.FileSinkConfig("odd", codecs.lines_encoder).where(
            lambda text: number(text) % 2 == 1),
        wallaroo.FileSinkConfig("all", codecs.lines_encoder),
        wallaroo.TCPSinkConfig("h", 1, codecs.lines_encoder).where(
            lambda text: text > "b").where(lambda text: text < "c")]),
        {"in": [b"a1", b"b2", b"c3"]})
    assert result.outputs == {
        "odd": [b"a1\n", b"c3\n"], "all": [b"a1\n", b"b2\n", b"c3\n"],
        "h:1": [b"b2\n"]}


def test_where_has_the_encoders_policy():
    @wallaroo.encoder(on_error="dead-letter")
    def encode(text):
        return text

    result = wallaroo.testing.run(application(sinks=[
        wallaroo.StdoutSinkConfig(encode).where(
            lambda text: number(text) > 1)]),
        {"in": [b"a1", b"ax", b"a2"]})
    assert result.outputs["stdout"] == [b"a2"]
    (letter,) = result.dead_letters
    assert letter.step == "stdout" and "invalid literal" in letter.error
