"""One seed in a thousand is checked by the reference executor in Python; and
that this can fail, whatever is wrong."""

import copy
import re

import pytest

import reference
from test_sim import kept_seeds, run

FIXED = sorted({int(seed) for seed in kept_seeds()} | set(range(0, 500, 25)))


def test_fixed_seeds(sim):
    assert reference.check_seeds(sim, FIXED) == 0


def test_all_kinds_of_seeds_are_among_them(sim, tmp_path):
    """Else what is not there is not checked."""
    heads, sources, ends = [], set(), set()
    for seed in FIXED:
        dump, _ = reference.dump_of(sim, seed, str(tmp_path / "dump"))
        heads.append(dump.head)
        sources |= set(dump.sources())
        ends.add(dump.end)
    for kind in ("single", "tcp_sink", "file_sink", "nonces", "timed"):
        assert {head[kind] for head in heads} == {0, 1}, kind
    assert sources == {"clients", "file", "generator"}
    assert "stopped" in ends and "failed" not in ends


@pytest.mark.level("all")
def test_one_in_a_thousand(sim):
    """Of those that test_more_seeds runs, and as many others."""
    assert reference.check_seeds(sim, range(1000000, 1100000, 1000)) == 0


@pytest.mark.level("long")
def test_one_in_a_thousand_of_a_million(sim):
    assert reference.check_seeds(sim, range(2000000, 3000000, 1000)) == 0


# -- it can fail ---------------------------------------------------------------

@pytest.fixture(scope="module", params=[True, False],
                ids=["one order", "any order"])
def good(request, sim, tmp_path_factory):
    """A seed with both sinks, whose order is determined, or is not; with
    inputs that give several outputs."""
    path = str(tmp_path_factory.mktemp("dump") / "dump")
    for seed in range(200):
        dump, _ = reference.dump_of(sim, seed, path)
        if dump.head["single"] == request.param and dump.end == "stopped" \
                and len(dump.sinks()) == 2 and not repeats(dump) \
                and not dump.head["nonces"] and not dump.head["timed"] \
                and any(
                    given["fan"] > 1 for given in dump.inputs.values()):
            reference.check(dump)
            return dump
    raise AssertionError("no such seed")


def repeats(dump):
    return any(None in records or len(set(records)) != len(records)
               for records in dump.records.values())


def wrong(dump, match, bank=reference.Bank):
    with pytest.raises(reference.Wrong, match=match):
        reference.check(dump, bank)


@pytest.mark.parametrize("sink", ["tcp", "file"])
def test_outputs_that_are_not_right(good, sink):
    def changed():
        dump = copy.deepcopy(good)
        return dump, dump.records[sink]

    dump, records = changed()
    missing = records.pop(len(records) // 2)
    wrong(dump, "%s sink" % sink)
    records.append(missing)			# not lost but late
    if good.head["single"]:
        record = reference.parse(missing[0])
        later = [r for r, _ in records[len(records) // 2:-1]
                 if reference.parse(r).key2 == record.key2]
        if later:
            wrong(dump, "%s sink" % sink)
    dump, records = changed()
    records.append((records[0][0], 0))
    wrong(dump, "%s sink: input .* came again$" % sink)
    dump, records = changed()
    for byte in (0, 9, 30, 45, 60, 79, 95, len(records[0][0]) - 1):
        record, again = records[0]
        bad = bytearray(record)
        bad[byte] ^= 1
        dump.records[sink][0] = (bytes(bad), again)
        wrong(dump, "%s sink" % sink)
        dump.records[sink][0] = (record, again)
    record, _ = records[0]
    records.append((record[:-1] + b"\xff", 1))	# again, as something else
    wrong(dump, "something else|that was never")


def test_outputs_again_where_that_is_allowed(good):
    dump = copy.deepcopy(good)
    dump.records["tcp"].append((dump.records["tcp"][0][0], 1))
    reference.check(dump)


@pytest.mark.parametrize("step", ["first", "second"])
def test_states_that_are_not_right(good, step):
    for part in range(3):
        dump = copy.deepcopy(good)
        key = sorted(dump.states[step])[0]
        state = list(dump.states[step][key])
        state[part] += 1
        dump.states[step][key] = tuple(state)
        wrong(dump, "saved states of the %s step: %s" % (step, key))
    del dump.states[step][key]
    wrong(dump, "saved states of the %s step: %s is None" % (step, key))
    dump.states[step]["b999"] = (1, 1, 1)
    wrong(dump, "saved states of the %s step" % step)


def test_an_end_that_is_none(good):
    dump = copy.deepcopy(good)
    dump.end = "failed"
    wrong(dump, "it did not come to its end")
    with pytest.raises(reference.Wrong, match="cut off"):
        reference.Dump(iter(['{"seed": 1}']))


class PaysMore(reference.Bank):
    def pay(self, message, state):
        state.balance -= 1
        return super().pay(message, state)


class ForgetsAPart(reference.Bank):
    def pay(self, message, state):
        return super().pay(message, state)[:1]


class OtherShares(reference.Bank):
    def share(self, message):
        return self.inputs[message.seq]["amount"]


class OtherHistory(reference.Bank):
    def receive(self, message, state):
        return super().receive(message._replace(d1=message.d1 ^ 1), state)


class DropsNothing(reference.Bank):
    def decode(self, payload):
        value = super().decode(payload)
        return reference.Message(0) if value is None else value


@pytest.mark.parametrize("bank", [
    PaysMore, ForgetsAPart, OtherShares, OtherHistory, DropsNothing])
def test_functions_that_are_not_the_same(good, bank):
    wrong(copy.deepcopy(good), "sink|step", bank)


@pytest.mark.parametrize("plant", [
    "RULE1", "RULE3", "RULE3B", "RULE5B", "RULE8C"])
def test_planted_bug_is_found(sim, plant, tmp_path):
    """By what came out of it alone: what the simulation itself says of the
    seed is not looked at."""
    said = []
    for first in range(0, 10000, 1000):
        _, out = run(sim, "--seeds=1000", "--first=%d" % first, "--jobs=2",
                     "--plant=" + plant, "--until-found")
        for seed in re.findall(r"^seed (\d+): ", out, re.M):
            dump, minds = reference.dump_of(
                sim, int(seed), str(tmp_path / "dump"), "--plant=" + plant)
            assert minds
            try:
                reference.check(dump)
            except reference.Wrong as problem:
                said.append(str(problem))
        if any(re.search("came again|the reference says", text)
               for text in said):
            return
    raise AssertionError(said)
