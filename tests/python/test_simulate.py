"""wallaroo.testing.simulate: what it finds, and that it finds nothing else."""

import datetime
import os
import pickle
import random
import re
import secrets
import threading
import time
import uuid
from datetime import datetime as Datetime
from random import randrange
from time import monotonic

import pytest

import wallaroo
import wallaroo.testing
from stages import (
    Numbers, add, add_multi, application, double, last_digit, parity,
    tcp_sink, tcp_source, twice,
)
from test_windows import Collect, Sum
from wallaroo import _simulate
from wallaroo.testing import At, SimulationFailure, run, simulate

INPUTS = {"Numbers": [1, 2, 13, 4, 11, 2, 21]}


class Held:
    """A state that steps of these tests do things with."""

    def __init__(self):
        self.n = 0
        self.items = []


def stateful(function, state=Held, multi=False):
    """Numbers, by last digit, through a step made of the function."""
    decorate = (wallaroo.state_computation_multi if multi else
                wallaroo.state_computation)
    step = decorate("Step", state)(function)
    return application(lambda p: p.key_by(last_digit).to(step))


def report(app, inputs=INPUTS, **options):
    """The failure's text, and what both of its lines run again."""
    with pytest.raises(SimulationFailure) as raised:
        simulate(app, inputs, **options)
    return raised.value


# -- nothing is wrong with these

@pytest.mark.parametrize("chain", [
    lambda p: p,
    lambda p: p.to(double),
    lambda p: p.to(add),
    lambda p: p.key_by(last_digit).to(twice).to(add),
    lambda p: p.key_by(last_digit).key_by(parity).to(add_multi),
    lambda p: p.to(twice).key_by(parity).to(add).collect().to(add_multi),
    lambda p: p.key_by(last_digit).to(add_multi).key_by(parity).to(
        wallaroo.state_computation("Other", Held)(counted)),
])
def test_clean(chain):
    done = simulate(application(chain), INPUTS, schedules=150)
    assert done.schedules == 150
    assert done.kills > 100 and done.checkpoints > 50 and done.replayed > 50
    assert done.records >= 150 * len(INPUTS["Numbers"])


def counted(data, held):
    held.n += 1
    held.items.append(data)
    return (data, held.n, list(held.items))


def test_one_worker_without_faults_is_the_reference():
    for chain in (
        lambda p: p.to(twice).key_by(parity).to(add).collect().to(add_multi),
        lambda p: p.to(add).key_by(last_digit).to(twice),
    ):
        app = application(chain)
        results = []
        simulate(app, INPUTS, workers=1, faults=(), schedules=3,
                 check=results.append)
        expected = run(app, INPUTS)
        assert len(results) == 3
        for result in results:
            assert result.outputs == expected.outputs
            assert result.values == expected.values
            assert {
                step: {key: state.n for key, state in states.items()}
                for step, states in result.states.items()
            } == {
                step: {key: state.n for key, state in states.items()}
                for step, states in expected.states.items()
            }


def test_several_sources():
    a = wallaroo.source("A", tcp_source("a")).to(double)
    b = wallaroo.source("B", wallaroo.GenSourceConfig(Numbers()))
    app = wallaroo.build_application(
        "x", a.merge(b).key_by(parity).to(add).to_sink(tcp_sink()))
    simulate(app, {"a": [1, 2, b"3"], "B": 4}, schedules=200)
    simulate(app, [("a", 1), ("B", 2), ("a", b"3")], schedules=50)


def test_streams_are_cut():
    app = application(lambda p: p.to(double))
    results = []
    simulate(app, {"Numbers": b"\0\0\0\1" b"4" b"\0\0\0\2" b"15"},
             schedules=2, check=results.append)
    assert [sorted(r.values) for r in results] == [[8, 30]] * 2


def clocks(data, held):
    held.n += 1
    before = monotonic()
    time.sleep(3600)
    assert monotonic() - before >= 3600
    return (
        randrange(1 << 60), random.random(), time.time(), time.time_ns(),
        time.localtime(), Datetime.now(), datetime.datetime.utcnow(),
        datetime.date.today(), datetime.datetime.now(datetime.timezone.utc),
        uuid.uuid4(), os.urandom(9), secrets.token_hex(80),
        isinstance(Datetime(2000, 1, 1), datetime.datetime),
        Datetime.fromisoformat("2000-01-01"), held.n,
    )


def test_clocks_and_randomness_follow_the_record():
    state = random.getstate()
    app = stateful(clocks)
    results = []
    simulate(app, INPUTS, schedules=60, check=results.append)
    # the same in every schedule, another for each record
    seen = {tuple(sorted(map(repr, r.values))) for r in results}
    assert len(seen) == 1
    assert len({value[0] for value in results[0].values}) == 7
    assert random.getstate() == state
    assert abs(time.time() - os.stat("/proc/self").st_mtime) < 1e9
    assert datetime.datetime is Datetime
    assert "wallaroo" not in repr(Datetime) + repr(monotonic)


def test_clocks_of_other_threads_stay_real():
    found = []

    def step(data, held):
        thread = threading.Thread(target=lambda: found.append(time.time()))
        thread.start()
        thread.join()
        return data

    simulate(stateful(step), {"Numbers": [1]}, schedules=1)
    assert all(abs(t - time.time()) < 3600 for t in found)


def test_state_made_of_what_pickle_keeps():
    def step(data, held):
        held.items.append((data, float("nan"), {data: [held.n]}, b"x", "ä"))
        held.n = held.items[0]
        return len(held.items)

    simulate(stateful(step), INPUTS, schedules=200)


def test_policies():
    def step(data, held):
        held.n += 1
        if data == 13:
            raise ValueError("thirteen")
        return held.n

    app = stateful(step)
    with pytest.raises(wallaroo.testing.UserFunctionError):
        simulate(app, INPUTS)
    simulate(app, INPUTS, on_error="skip", schedules=100)
    results = []
    simulate(app, INPUTS, on_error="dead-letter", schedules=100,
             check=results.append)
    assert {len(r.dead_letters) for r in results} == {1}
    assert results[0].dead_letters[0].value == 13


# -- mistakes that users make

class Bad:
    seen = []


class Loses(Held):
    def __getstate__(self):
        return {"n": self.n, "items": self.items}


def test_state_that_pickle_does_not_keep():
    class Cache:
        def __init__(self):
            self.n = self.cached = 0

        def __reduce__(self):
            return (Held, (), {"n": self.n, "cached": 0})

    def step(data, state):
        state.n += 1
        state.cached += 1
        return state.cached

    failure = report(stateful(step, Cache))
    assert "the state of step 'Step', key '1' is changed by saving" in str(
        failure)
    assert "is killed" in str(failure)


def test_state_that_cannot_be_pickled():
    def step(data, held):
        held.f = lambda: data
        return data

    failure = report(stateful(step))
    assert "state of step 'Step', key" in str(failure)
    assert "cannot be saved" in str(failure)
    assert failure.schedule.split(":")[1].split() in (["a0", "z"], ["a0"])


def test_state_that_cannot_be_loaded():
    def step(data, held):
        held.n = Unloadable()
        return data

    assert "cannot be loaded again: ValueError: no" in str(
        report(stateful(step)))


class Unloadable:
    def __reduce__(self):
        return (refuse, ())


def refuse():
    raise ValueError("no")


def test_object_that_two_keys_share():
    @wallaroo.computation_multi("Both")
    def both(data):
        common = [data]
        return [("a", common), ("b", common)]

    @wallaroo.key_extractor
    def first(pair):
        return pair[0]

    @wallaroo.state_computation("Keep", Held)
    def keep(pair, held):
        held.items = held.items or pair[1]
        held.items.append(1)
        return len(held.items)

    app = application(lambda p: p.to(both).key_by(first).to(keep))
    failure = report(app, workers=1)
    assert re.search("states of step 'Keep', key '[ab]' and step 'Keep', "
                     "key '[ab]' share an object", str(failure))


def test_mutable_class_attribute():
    def step(data, state):
        state.seen.append(data)
        return len(state.seen)

    failure = report(stateful(step, Bad))
    assert "run twice in this process without any fault" in str(failure)
    assert "Bad.seen, of the state class of step 'Step'" in str(failure)


def test_variable_of_the_module():
    def step(data, held):
        calls.append(data)
        return len(calls) if data == 21 else 0

    calls = []
    failure = report(stateful(step))
    assert "look for what\n  is neither input nor state" in str(failure)


def test_variable_that_only_a_replay_shows():
    """What a plain run starts anew, but a killed worker doesn't."""
    def step(data, held):
        if data == 1:
            calls.clear()
        calls.append(data)
        return len(calls)

    calls = []
    failure = report(stateful(step), {"Numbers": [1, 2, 3]}, workers=1)
    assert "worked on record" in str(failure) or "not what one" in str(failure)
    assert "is neither input nor state" in str(failure)


def test_order_of_a_set():
    def step(data, held):
        held.seen = getattr(held, "seen", set())
        held.seen.add(data)
        return list(held.seen)

    inputs = {"Numbers": [3, 13, 23, 3, 33, 43, 53, 63]}
    failure = report(stateful(step), inputs, schedules=2000)
    assert "is killed" in str(failure)
    assert "state.seen of step 'Step' is a set" in str(failure)

    def careful(data, held):
        held.seen = getattr(held, "seen", set())
        held.seen.add(data)
        return sorted(held.seen)

    simulate(stateful(careful), inputs, schedules=200)


def test_message_changed_after_it_was_passed_on():
    """The next step keeps the list that the first one goes on changing."""
    @wallaroo.state_computation("First", Held)
    def first(data, held):
        held.items.append(data)
        return held.items

    @wallaroo.state_computation("Second", Held)
    def second(data, held):
        held.items = held.items or data
        return list(held.items)

    app = application(lambda p: p.key_by(last_digit).to(first).to(second))
    failure = report(app)
    assert "step 'First', key '1' and step 'Second', key '1' share" in str(
        failure)


def test_address_of_an_object():
    def step(data, held):
        held.items.append(object())
        return max(held.n, len({id(i) for i in held.items}) and
                   id(held.items[-1]))

    assert isinstance(report(stateful(step)), AssertionError)


def test_check():
    """What must hold whatever the order: here it doesn't."""
    def total(result):
        assert sum(s.n for s in result.states["Sum"].values()) <= 20, "much"

    app = application(lambda p: p.key_by(last_digit).to(add))
    failure = report(app, check=total)
    assert "check() failed: much" in str(failure)
    simulate(app, {"Numbers": [1, 2, 3]}, check=total, schedules=50)


def test_own_serialization():
    class Module:
        """Loses what is odd."""

        @staticmethod
        def serialize(o):
            return b"%d" % (o.n & ~1)

        @staticmethod
        def deserialize(data):
            held = Held()
            held.n = int(data)
            return held

    app = stateful(lambda data, held: counted(data, held)[1])
    simulate(app, INPUTS, schedules=100)
    assert "n: 1, then 0" in str(report(app, module=Module))


# -- the report

def broken_by_kills():
    def step(data, held):
        held.lost = getattr(held, "lost", 0) + 1
        return held.lost

    return stateful(step, Loses)


def test_failure_is_small_and_can_be_run_again():
    app = broken_by_kills()
    failure = report(app)
    assert failure.seed is not None
    assert "seed=%d)" % failure.seed in str(failure)
    assert "schedule=%r)" % failure.schedule in str(failure)
    actions = failure.schedule.split(":")[1].split()
    assert sorted(a[0] for a in actions if a != "z" and a[0] != "s") == [
        "a", "a", "c", "k", "w"]
    again = report(app, seed=failure.seed)
    assert str(again) == str(failure)
    by_schedule = report(app, schedule=failure.schedule)
    assert by_schedule.schedule == failure.schedule
    assert by_schedule.seed is None
    # and where nothing is wrong, nothing is found
    good = application(lambda p: p.key_by(last_digit).to(add))
    simulate(good, INPUTS, seed=failure.seed)
    simulate(good, INPUTS, schedule=failure.schedule)


def test_faults_can_be_chosen():
    app = broken_by_kills()
    simulate(app, INPUTS, faults=(), schedules=200)
    for fault in wallaroo.testing.FAULTS:
        assert "is killed" in str(report(app, faults=[fault]))
    assert "is killed" in str(report(app, faults="kill-in-step"))


def test_seeds_are_the_same_everywhere():
    app = application(lambda p: p.key_by(last_digit).to(add))
    assert simulate(app, INPUTS, schedules=50) == simulate(
        app, INPUTS, schedules=50)


@pytest.mark.parametrize("options, text", [
    ({"workers": 0}, "workers=0"),
    ({"workers": ()}, "workers=()"),
    ({"workers": (1, 65)}, "from 1 to 64"),
    ({"faults": ["flood"]}, "there is no 'flood'"),
    ({"schedule": "nonsense"}, "none that a failure printed"),
    ({"schedule": "1 workers, readers 0, salt 1: w3"}, "does not fit"),
    ({"schedule": "1 workers, readers 0,0, salt 1: w0"}, "does not fit"),
    ({"schedule": "1 workers, readers 0, salt 1: q0"}, "does not fit"),
])
def test_wrong_arguments(options, text):
    with pytest.raises(wallaroo.WallarooParameterError) as raised:
        simulate(application(), INPUTS, **options)
    assert text in str(raised.value)


def test_wrong_inputs():
    for inputs, text in (
        ({"Other": [1]}, "no one source called 'Other'"),
        ({"Numbers": 3}, "is no generator"),
        ({"Numbers": [lambda: 1]}, "cannot be pickled"),
    ):
        with pytest.raises(wallaroo.WallarooParameterError, match=text):
            simulate(application(), inputs)
    endless = application(source=wallaroo.GenSourceConfig(Numbers()))
    with pytest.raises(wallaroo.WallarooParameterError, match="how many"):
        simulate(endless, {"Numbers": None})


# -- windows

SECOND = wallaroo.seconds(1)
TIMED = [
    At(0, 1), At(SECOND // 2, 12), At(2 * SECOND, 3), At(SECOND, 22),
    At(3 * SECOND, 11), At(9 * SECOND, 4), At(4 * SECOND, 31),
    At(20 * SECOND, None), At(20 * SECOND, 2),
]


def windowed(*stages, collect=False):
    """Numbers, by last digit, through these windows."""
    def chain(p):
        p = p.key_by(last_digit)
        for stage in stages:
            p = p.to(stage)
        return p.collect().to(add_multi) if collect else p
    return application(chain)


def ranges(policy="drop", aggregation=Sum, slide=SECOND, delay=SECOND):
    return (wallaroo.range_windows(2 * SECOND).with_slide(slide)
            .with_delay(delay).with_late_data_policy(policy)
            .over(aggregation))


WINDOWED = [
    windowed(ranges()), windowed(ranges("fire-per-message", Collect)),
    windowed(ranges("place-in-oldest-window", delay=0)),
    windowed(wallaroo.count_windows(2).over(Sum)),
    windowed(wallaroo.count_windows(3).with_timeout(SECOND).over(Collect)),
    windowed(ranges(), wallaroo.count_windows(2).over(Sum), collect=True),
    windowed(ranges("fire-per-message"), ranges(aggregation=Collect)),
    application(lambda p: p.to(ranges()).key_by(parity).to(ranges())),
]


@pytest.mark.parametrize("app", WINDOWED)
def test_windows(app):
    """Nothing is wrong with these."""
    done = simulate(app, {"Numbers": TIMED}, schedules=300)
    assert done.kills > 300 and done.replayed > 300


@pytest.mark.parametrize("app", WINDOWED)
def test_one_worker_is_the_reference_executor(app):
    """Timers, watermarks and outputs, without a fault."""
    seen = []
    simulate(app, {"Numbers": TIMED}, workers=1, faults=(), schedules=1,
             check=seen.append)
    machine = _simulate.Machine(app, "fail", pickle.dumps, pickle.loads,
                                _simulate.Virtual())
    runner = _simulate.Runner(machine, _simulate.records_of(
        machine, {"Numbers": TIMED}, wallaroo.testing._find))
    runner.run(_simulate.Schedule(1, [0], 0, []))
    expected = run(app, {"Numbers": TIMED})
    assert machine.all_outputs() == list(expected.outputs.values())
    assert machine.workers[0].values == expected.values
    assert seen[0].states.keys() == expected.states.keys()


class Forgetful(Collect):
    """Keeps what it aggregates beside its accumulators."""

    def __init__(self):
        self.seen = []

    def update(self, data, accumulator):
        self.seen.append(data)
        accumulator.append(len(self.seen))


class OneForAll(Collect):
    """Has one accumulator."""

    def __init__(self):
        self.only = []

    def initial_accumulator(self):
        return self.only


@pytest.mark.parametrize("aggregation, attribute", [
    (Forgetful, "seen"), (OneForAll, "only")])
def test_aggregation_with_values_of_its_own(aggregation, attribute):
    failure = report(windowed(ranges(aggregation=aggregation)),
                     {"Numbers": TIMED})
    assert "%s.%s, of the aggregation of" % (
        aggregation.__name__, attribute) in str(failure)
    assert "keep everything in the accumulator" in str(failure)


class Loses:
    """An accumulator that is saved without what it holds."""

    def __init__(self):
        self.values = []

    def __getstate__(self):
        return {"values": []}


class LosesAll(Collect):
    def initial_accumulator(self):
        return Loses()

    def update(self, data, accumulator):
        accumulator.values.append(data)

    def combine(self, a, b):
        a.values += b.values
        return a

    def output(self, key, accumulator):
        return list(accumulator.values)


@pytest.mark.parametrize("stage", [
    ranges(aggregation=LosesAll),
    wallaroo.count_windows(9).with_timeout(SECOND).over(LosesAll)])
def test_story_of_timers(stage):
    """Only a timer puts out what was lost, and the report says so."""
    failure = report(windowed(stage), {"Numbers": [At(0, 1)]}, workers=1,
                     faults=("kill",))
    text = str(failure)
    assert "is changed by saving and loading" in text
    assert "the clock goes on to" in text and "rings" in text
    assert "the timer at" in text
    again = report(windowed(stage), {"Numbers": [At(0, 1)]},
                   schedule=failure.schedule)
    assert again.schedule == failure.schedule


def test_times_without_windows():
    """They only say in which order inputs come."""
    simulate(application(lambda p: p.to(add)),
             {"Numbers": [At(5, 1), At(9, None), At(7, 2)]}, schedules=100)
