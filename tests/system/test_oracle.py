"""The checks themselves: each must object to what it is there for."""

import json
import random

import pytest

import harness
import oracle
import pipelines
from harness import LEVEL
from test_random_pipelines import reference


def lines_of(seed, ordered):
    pipeline = pipelines.generate(seed, ordered)
    where = {source.name: "/nowhere" if source.kind == "file" else 1
             for source in pipeline.sources}
    where.update({"out%d" % number: 1 if kind == "tcp" else "/out%d" % number
                  for kind, number in pipeline.sinks})
    module = pipelines.load(pipeline)
    return pipeline, module, reference(pipeline, where, module)


SEEDS = range(6 if LEVEL == "check" else 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_satisfies_the_checks(seed):
    for ordered in (True, False):
        pipeline, module, expected = lines_of(seed, ordered)
        for lines in expected:
            if ordered:
                pipelines.check_ordered([lines], lines)
            else:
                pipelines.check_lineage([lines], lines, module)


def lose(lines, rng):
    del lines[rng.randrange(len(lines))]


def repeat(lines, rng):
    place = rng.randrange(len(lines))
    lines.insert(rng.randrange(place, len(lines)), lines[place])


def swap_in_key(lines, rng):
    """Two neighbours of one key change places."""
    keys = [pipelines.Output(line, 0).key for line in lines]
    pairs = [(a, b) for a in range(len(lines)) for b in [next(
        (i for i in range(a + 1, len(lines)) if keys[i] == keys[a]), None)]
        if b is not None and lines[a] != lines[b]]
    a, b = rng.choice(pairs)
    lines[a], lines[b] = lines[b], lines[a]


def miscount(lines, rng):
    """A stateful step counts an input twice (as after a wrong replay)."""
    picks = [i for i, line in enumerate(lines) if json.loads(line)[2]]
    place = rng.choice(picks)
    lin, value, trace, keys = json.loads(lines[place])
    trace[-1][2] += 1
    lines[place] = json.dumps([lin, value, trace, keys]).encode()


def wrong_state(lines, rng):
    picks = [i for i, line in enumerate(lines) if json.loads(line)[2]]
    place = rng.choice(picks)
    lin, value, trace, keys = json.loads(lines[place])
    trace[-1][3] ^= 1
    lines[place] = json.dumps([lin, value, trace, keys]).encode()


@pytest.mark.parametrize("damage", [lose, repeat, swap_in_key, miscount,
                                    wrong_state])
@pytest.mark.parametrize("ordered", [True, False])
def test_damage_is_seen(ordered, damage):
    rng = random.Random(1)
    seen = 0
    for seed in SEEDS:
        pipeline, module, expected = lines_of(seed, ordered)
        lines = list(expected[0])
        try:
            damage(lines, rng)
        except IndexError:
            continue		# nothing there to damage
        with pytest.raises(AssertionError):
            if ordered:
                pipelines.check_ordered([lines], expected[0])
            else:
                if damage is swap_in_key and not in_order_matters(
                        pipeline, lines):
                    raise AssertionError
                pipelines.check_lineage([lines], expected[0], module)
        seen += 1
    assert seen >= 3


def in_order_matters(pipeline, lines):
    """Of some pipelines the outputs of a key may leave in any order: those
    that go to other workers after their last stateful step."""
    return all(json.loads(line)[2] and json.loads(line)[2][-1][1]
               == json.loads(line)[3][-1][1] for line in lines) \
        and not any("/m" in json.loads(line)[0].rpartition("/s")[2]
                    or ".1" in json.loads(line)[0] for line in lines)


WORDS = "a b a c a b".split()
GOOD = [[b"a 1", b"a 2", b"c 1", b"a 3"], [b"b 1", b"b 2"]]


def test_good_counts():
    oracle.check_word_counts(GOOD, WORDS)


@pytest.mark.parametrize("bad", [
    [[b"a 1", b"a 2", b"c 1"], [b"b 1", b"b 2"]],
    [[b"a 1", b"a 2", b"a 2", b"c 1", b"a 3"], [b"b 1", b"b 2"]],
    [[b"a 1", b"a 3", b"c 1", b"a 2"], [b"b 1", b"b 2"]],
    [[b"a 1", b"a 2", b"c 1", b"a 3", b"a 4"], [b"b 1", b"b 2"]],
    [[b"a 1", b"a 2", b"c 1"], [b"a 3", b"b 1", b"b 2"]],
    [[b"a 1", b"a 2", b"a 3"], [b"b 1", b"b 2"]],
], ids=["lost", "repeated", "swapped", "surplus", "two places", "no word"])
def test_bad_counts(bad):
    with pytest.raises(AssertionError):
        oracle.check_word_counts(bad, WORDS)


# -- the harness ------------------------------------------------------------

def test_receiver_and_feeder():
    with harness.Receiver() as sink:
        client = harness.Feeder(sink.port)
        client.send(b"one\ntwo\n")
        sink.wait_lines(2)
        assert sink.undisturbed(1) and client.state() == "open"
        client.half_close()
        assert client.wait_closed() in ("eof", "reset")
        second = harness.Feeder(sink.port)
        second.send(b"three\n")
        sink.wait_lines(3)
        sink.reset(sink.connections[1])
        assert second.wait_closed() == "reset"
        third = harness.Feeder(sink.port)
        third.send(b"x\n")
        sink.wait_lines(4)
        third.reset()
        sink.wait(lambda: sink.connections[2].end, "the reset")
        assert sink.connections[2].end == "reset"
        assert sink.all_lines() == [b"one", b"two", b"three", b"x"]


def test_receiver_pauses():
    with harness.Receiver(rcvbuf=65536) as sink:
        client = harness.Feeder(sink.port)
        sink.wait_connections(1)
        sink.pause()
        client.start([b"x" * (1 << 20)] * 64)
        harness.wait_for(lambda: client.sent, "a first piece")
        before = client.sent
        sink.resume()
        client.join()
        sink.wait_bytes(64 << 20)
        assert before < 64 << 20


def test_ports_stay_reserved():
    import socket
    port = harness.free_port()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    client = socket.create_connection(("127.0.0.1", port))
    client.close()
    listener.close()


def test_configuration_text():
    text = harness.conf_text("x", {
        "module": "m", "workers": 3, "args": ["a", 'b"c'],
        "durability": harness.Raw("none"), "user": None})
    assert text == ('application "x" {\n\tmodule = "m"\n\tworkers = 3\n'
                    '\targs = {"a", "b\\"c"}\n\tdurability = none\n}\n')
