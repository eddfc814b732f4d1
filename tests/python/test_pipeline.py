"""Pipelines: immutability, the application tuple, refusals."""

import pytest

import stages
import wallaroo
from stages import add, double, last_digit, pipeline, tcp_sink, tcp_source
from wallaroo import WallarooParameterError


def tree(p):
    t = p._pipeline_tree
    return t.root_idx, t.vertices, t.edges


def source(name):
    return wallaroo.source(name, tcp_source(name.lower()))


def stage(name):
    return ("source", name, tcp_source(name.lower()).to_tuple())


def test_application_tuple():
    app = stages.application(
        lambda p: p.to(double).key_by(last_digit).to(add).collect())
    assert app == (
        "Test", 0,
        [[
            ("source", "Numbers", tcp_source().to_tuple()),
            ("to", double),
            ("key_by", last_digit),
            ("to_state", add),
            ("collect", ""),
            ("to_sink", tcp_sink().to_tuple()),
        ]],
        [[]],
    )


def test_to_sinks():
    p = pipeline().to_sinks([tcp_sink(1), tcp_sink(2)])
    _, _, vertices, _ = wallaroo.build_application("Test", p)
    assert vertices[0][-1] == (
        "to_sinks", [tcp_sink(1).to_tuple(), tcp_sink(2).to_tuple()])


def test_every_method_copies():
    p = pipeline()
    before = repr(tree(p))
    p.to(double)
    p.key_by(last_digit)
    p.collect()
    p.to_sink(tcp_sink())
    p.to_sinks([tcp_sink()])
    p.merge(pipeline()).to(double)
    p.clone().to(double)
    assert repr(tree(p)) == before


def test_parts_can_be_reused():
    p = pipeline().to(double)
    a = p.key_by(last_digit).to(add)
    b = p.to(stages.twice)
    assert [s[0] for s in tree(a)[1][0]] == [
        "source", "to", "key_by", "to_state"]
    assert tree(b)[1][0][-1] == ("to", stages.twice)


def test_merge_numbering():
    a, b, c = source("A"), source("B"), source("C")
    ab = a.merge(b)
    assert tree(ab) == (
        1, [[stage("A")], [], [stage("B")]], [[], [0, 2], []])
    assert tree(ab.to(double))[1] == [
        [stage("A")], [("to", double)], [stage("B")]]
    assert tree(ab.merge(c)) == (
        3,
        [[stage("A")], [], [stage("B")], [], [stage("C")]],
        [[], [0, 2], [], [1, 4], []],
    )
    # C.merge(A.merge(B)): the other tree's numbers are shifted.
    assert tree(c.merge(ab)) == (
        1,
        [[stage("C")], [], [stage("A")], [], [stage("B")]],
        [[], [0, 3], [], [2, 4], []],
    )


def test_merge_copies_both():
    a, b = source("A"), source("B")
    merged = a.merge(b)
    merged.to(double)
    assert tree(a) == (0, [[stage("A")]], [[]])
    assert tree(b) == (0, [[stage("B")]], [[]])


def test_sources_and_sinks():
    p = source("A").merge(source("B")).to_sink(tcp_sink())
    assert p._sources() == [stage("A"), stage("B")]
    assert p._sinks() == [("to_sink", tcp_sink().to_tuple())]
    assert source("A").to_sinks([tcp_sink()])._sinks() == []
    assert p._is_closed() and not source("A")._is_closed()


def test_from_source_and_constructor():
    p = wallaroo.Pipeline.from_source("A", tcp_source("a"))
    assert tree(p) == (0, [[stage("A")]], [[]])
    assert tree(wallaroo.Pipeline(p._pipeline_tree)) == tree(p)


def refused(capsys, text, call):
    capsys.readouterr()
    with pytest.raises(WallarooParameterError) as raised:
        call()
    assert str(raised.value) == text
    assert capsys.readouterr().out == "\nAPI_Error: %s\n" % text


def test_stage_after_sink(capsys):
    closed = pipeline().to_sink(tcp_sink())
    for more in (
        lambda: closed.to(double),
        lambda: closed.key_by(last_digit),
        lambda: closed.collect(),
        lambda: closed.to_sink(tcp_sink()),
        lambda: closed.to_sinks([tcp_sink()]),
        lambda: pipeline().to_sinks([tcp_sink()]).to(double),
    ):
        refused(capsys, "You can't add stages after to_sink/s.", more)


def test_not_closed(capsys):
    refused(
        capsys, "An application must end with to_sink/s.",
        lambda: wallaroo.build_application("x", pipeline()),
    )
    refused(
        capsys, "An application must end with to_sink/s.",
        lambda: wallaroo.build_application(
            "x", pipeline().merge(pipeline())),
    )


def test_no_sinks(capsys):
    refused(
        capsys, "You must specify at least one sink when using to_sinks()",
        lambda: pipeline().to_sinks([]),
    )


def test_merge_of_closed(capsys):
    closed = pipeline().to_sink(tcp_sink())
    text = "You can't merge with a terminated pipeline!"
    refused(capsys, text, lambda: pipeline().merge(closed))
    refused(capsys, text, lambda: closed.merge(pipeline()))


def test_merge_of_keyed_with_unkeyed(capsys):
    text = "A pipeline ending with key_by can only be merged with another!"
    keyed, plain = pipeline().key_by(last_digit), pipeline()
    collected = pipeline().collect()
    refused(capsys, text, lambda: keyed.merge(plain))
    refused(capsys, text, lambda: plain.merge(keyed))
    refused(capsys, text, lambda: plain.merge(collected))
    both = keyed.merge(collected)
    refused(capsys, text, lambda: both.merge(plain))
    both.merge(keyed).to(add)
    keyed.to(add).merge(plain)


def test_built_application_is_not_changed_later():
    p = pipeline().to_sink(tcp_sink())
    app = wallaroo.build_application("x", p)
    app[2][0].append("more")
    assert len(wallaroo.build_application("x", p)[2][0]) == 2


class Most(wallaroo.Aggregation):
    """An aggregation, if it were whole."""

    def initial_accumulator(self):
        return []


WRITE = "write @wallaroo."


@pytest.mark.parametrize("text, build", [
    ("to() takes a computation, not the function 'len': " + WRITE
     + "computation, or computation_multi, or state_computation above it.",
     lambda p: p.to(len)),
    ("to(wallaroo.range_windows(...).over(Most)).", lambda p: p.to(Most)),
    ("to(wallaroo.range_windows(...).over(Most)).", lambda p: p.to(Most())),
    ("not the class 'Computation': make an instance",
     lambda p: p.to(wallaroo.Computation)),
    ("not 3: one is made by @wallaroo.computation or", lambda p: p.to(3)),
    ("not the function 'len': " + WRITE + "key_extractor above it.",
     lambda p: p.key_by(len)),
    ("key_by() takes a key extractor, not 'Double' (Computation): one is "
     "made by @wallaroo.key_extractor.", lambda p: p.key_by(double)),
    ("to_sink() takes the configuration of a sink, for example "
     "wallaroo.StdoutSinkConfig(...), not 'LinesEncoder' (LinesEncoder).",
     lambda p: p.to_sink(wallaroo.codecs.lines_encoder)),
    ("to_sinks() takes a list", lambda p: p.to_sinks(tcp_sink())),
    ("to_sinks() takes a list", lambda p: p.to_sinks(None)),
    ("to_sinks() takes the configuration of a sink",
     lambda p: p.to_sinks([tcp_sink(), 1])),
    ("source() takes the configuration of a source, for example "
     "wallaroo.StdinSourceConfig(...), not",
     lambda p: wallaroo.source("x", wallaroo.StdinSourceConfig)),
    ("build_application() takes a name and a pipeline, not 'LinesEncoder'",
     lambda p: wallaroo.build_application("x", wallaroo.codecs.lines_encoder)),
])
def test_mistakes_of_newcomers(capsys, text, build):
    """They are refused where they are made, with what to write instead."""
    with pytest.raises(WallarooParameterError) as error:
        build(pipeline())
    assert text in str(error.value)
    assert text in capsys.readouterr().out
