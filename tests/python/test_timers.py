"""Timers of keys: what they mean, in the reference executor and simulate()."""

import pickle

import pytest

import wallaroo
from wallaroo import _timers, _topology, _windows
from wallaroo.codecs import lines_decoder
from wallaroo.testing import At, run, simulate

S = 10**9


@wallaroo.key_extractor
def key(data):
    return data[0]


@wallaroo.encoder
def encode(value):
    return repr(value)


class Seen:
    def __init__(self):
        self.items = []


def application(pipeline):
    return wallaroo.build_application("timers", pipeline.to_sink(
        wallaroo.TCPSinkConfig("localhost", "7002", encode)))


def plain(name="in"):
    return wallaroo.source(name, wallaroo.FileSourceConfig(
        name, "/" + name, lines_decoder))


def listening():
    return wallaroo.source("in", wallaroo.TCPSourceConfig(
        "in", "localhost", "7000", lines_decoder))


def timed(name="in", lateness=0):
    return plain(name).event_time(lambda data: data[1], lateness=lateness)


def put(data, state, timers):
    """(key, time, what to do ...)"""
    state.items.append(data[1])
    for what in data[2:]:
        if what == "raise":
            raise ValueError("on purpose")
        if what.startswith("-"):
            timers.cancel(what[1:])
        else:
            name, after = what.split("+")
            timers.set(name, int(after))


def fired(name, state, timers):
    state.items.append(name)
    if name == "again":
        timers.set("again", 10)
    if name == "raise":
        raise ValueError("of a timer")
    return (timers.key, name, timers.now, len(state.items))


def step(**more):
    return wallaroo.state_computation(
        "step", state=Seen, on_timer=fired, **more)(put)


def ran(pipeline, *items, **more):
    return run(application(pipeline), {"in": list(items)}, **more)


# -- by processing time -----------------------------------------------------

def test_fire_in_the_order_of_their_times_once():
    result = ran(listening().key_by(key).to(step()),
                 At(0, ("b", 1, "x+50", "y+20")), At(5, ("a", 2, "z+15")),
                 At(30, ("a", 3, "late+5")))
    assert result.values == [
        ("a", "z", 20, 2), ("b", "y", 20, 2), ("a", "late", 35, 4),
        ("b", "x", 50, 3)]
    assert result.states["step"]["a"].items == [2, "z", 3, "late"]


def test_replaced_and_cancelled():
    result = ran(listening().key_by(key).to(step()),
                 At(0, ("a", 1, "x+10", "y+10")), At(5, ("a", 2, "x+10")),
                 At(6, ("a", 3, "-y")))
    assert result.values == [("a", "x", 15, 4)]


def test_one_that_sets_itself_again():
    result = ran(listening().key_by(key).to(step()),
                 At(0, ("a", 1, "again+10")), until=45)
    assert [value[2] for value in result.values] == [10, 20, 30, 40]


def test_at_the_end_of_files_each_fires_once_more():
    result = ran(plain().key_by(key).to(step()),
                 ("a", 1, "again+10", "x+%d" % (3600 * S)))
    assert [value[1] for value in result.values] == ["again", "x"]


def test_end_of_a_key_is_behind_its_timers():
    ending = step(on_end=lambda name, state: (name, len(state.items)))
    result = ran(plain().key_by(key).to(ending), ("b", 1, "x+10"),
                 ("a", 1))
    assert result.values == [("b", "x", 10, 2), ("a", 1), ("b", 2)]


def test_multi():
    double = wallaroo.state_computation_multi(
        "step", state=Seen,
        on_timer=lambda name, state, timers: [fired(name, state, timers)] * 2,
    )(lambda data, state, timers: [
        put(data, state, timers), data[0], data[0]])
    assert ran(listening().key_by(key).to(double), ("a", 1, "x+5")).values \
        == ["a", "a"] + [("a", "x", 5, 2)] * 2
    wrong = wallaroo.state_computation_multi(
        "step", state=Seen, on_timer=fired)(put)
    result = ran(listening().key_by(key).to(wrong), ("a", 1, "x+5"),
                 on_error="dead-letter")
    assert "must return a list" in result.dead_letters[0].error


def test_errors_go_to_the_policy():
    result = ran(listening().key_by(key).to(step()), ("a", 1, "x+5", "raise"),
                 ("a", 2, "raise+7"), on_error="dead-letter")
    assert [(letter.step, letter.value) for letter in result.dead_letters] \
        == [("step", ("a", 1, "x+5", "raise")), ("step", None)]
    assert result.values == [("a", "x", 5, 3)]


# -- by event time ----------------------------------------------------------

def test_messages_and_timers_in_the_order_of_event_times():
    items = [("a", 10, "x+15", "y+20"), ("a", 40), ("a", 24), ("a", 25),
             ("b", 5), ("a", 90)]
    result = ran(timed(lateness=35).key_by(key).to(step()), *items)
    assert result.states["step"]["a"].items == [10, 24, "x", 25, "y", 40, 90]
    assert result.values == [("a", "x", 25, 3), ("a", "y", 30, 5)]


def test_what_is_late_has_the_time_of_the_watermark():
    result = ran(timed().key_by(key).to(step()), ("a", 10, "x+5"), ("a", 30),
                 ("a", 7, "y+2"), ("a", 50))
    assert result.states["step"]["a"].items == [10, "x", 30, 7, "y", 50]
    assert result.values[1] == ("a", "y", 32, 5)


def test_sources_at_different_speeds():
    class Collect(wallaroo.Aggregation):
        def initial_accumulator(self):
            return []

        def update(self, data, accumulator):
            accumulator.append(data)

        def combine(self, a, b):
            return a + b

        def output(self, name, accumulator):
            return tuple(accumulator)

    pipeline = timed("left").merge(timed("right")).key_by(key).to(
        step()).to(wallaroo.range_windows(20).over(Collect))
    left = [("a", n, "x+7") for n in range(1, 60, 10)]
    right = [("a", n, "y+3") for n in range(2, 60, 7)]
    mixed = [("left", item) for item in left] + [
        ("right", item) for item in right]
    first = run(application(pipeline), mixed)
    mixed.sort(key=lambda pair: pair[1][1])
    assert run(application(pipeline), mixed).values == first.values
    assert len(first.values) == 4


def test_by_processing_time_in_an_application_with_event_times():
    result = ran(timed().key_by(key).to(step(time="processing")),
                 At(0, ("a", 10, "x+15")), At(20, ("a", 4)))
    assert result.values == [("a", "x", 15, 2)]
    assert result.states["step"]["a"].items == [10, "x", 4]


# -- ttl --------------------------------------------------------------------

def add(data, state):
    state.items.append(data[1])
    return (data[0], tuple(state.items))


def short(ttl=10, **more):
    return wallaroo.state_computation("short", state=Seen, ttl=ttl, **more)(
        add)


def test_a_key_that_is_not_used_is_forgotten():
    items = [At(0, ("a", 1)), At(5, ("b", 2)), At(9, ("a", 3)),
             At(15, ("b", 4)), At(18, ("a", 5)), At(40, None)]
    result = ran(listening().key_by(key).to(short()), *items)
    assert result.values == [
        ("a", (1,)), ("b", (2,)), ("a", (1, 3)), ("b", (4,)), ("a", (1, 3, 5))]
    assert result.states["short"] == {}
    result = ran(listening().key_by(key).to(short()), *items[:-1], until=27)
    assert list(result.states["short"]) == ["a"]
    # At the end of a file time does not go on.
    result = ran(plain().key_by(key).to(short()), ("a", 1))
    assert list(result.states["short"]) == ["a"]


def test_by_event_time_each_message_decides_by_its_own():
    items = [("a", 100), ("b", 101), ("a", 109), ("a", 119), ("b", 112)]
    result = ran(timed(lateness=50).key_by(key).to(short()), *items)
    assert result.values == [
        ("a", (100,)), ("b", (101,)), ("a", (100, 109)), ("a", (119,)),
        ("b", (112,))]
    result = ran(timed().key_by(key).to(short()), *items[:3], ("c", 111))
    assert sorted(result.states["short"]) == ["a", "c"]
    result = ran(timed().key_by(key).to(short(time="processing")), *items)
    assert result.values[-1] == ("b", (101, 112))


def test_a_timer_keeps_a_key():
    for time, pipeline, items in (
        ("processing", listening(), [
            At(0, ("a", 1, "x+50")), At(1, ("b", 2)), At(30, ("a", 3)),
            At(59, ("c", 4))]),
        (None, timed(), [
            ("a", 0, "x+50"), ("b", 1), ("a", 30), ("c", 59)]),
    ):
        pipeline = pipeline.key_by(key).to(step(ttl=10, time=time))
        result = ran(pipeline, *items, until=59)
        assert result.values == [("a", "x", 50, 3)]
        assert sorted(result.states["step"]) == ["a", "c"]
        result = ran(pipeline, *items, At(60, ("c", 60)), until=60)
        assert sorted(result.states["step"]) == ["c"]


def test_what_expired_has_no_end():
    ending = short(on_end=lambda name, state: (name, "end"))
    items = [("a", 100), ("b", 120)]
    result = ran(timed().key_by(key).to(ending), *items)
    assert result.values == [("a", (100,)), ("b", (120,)), ("b", "end")]


def test_a_key_without_event_windows_is_forgotten():
    class Last(wallaroo.Aggregation):
        def initial_accumulator(self):
            return []

        def update(self, data, accumulator):
            accumulator.append(data[1])

        def combine(self, a, b):
            return a + b

        def output(self, name, accumulator):
            return (name, accumulator[-1])

    pipeline = timed().key_by(key).to(wallaroo.range_windows(10).over(Last))
    result = ran(pipeline, ("a", 1), ("b", 12), ("a", 3), ("c", 5))
    assert result.values == [("a", 1), ("b", 12)]
    assert [late.key for late in result.late] == ["a", "c"]
    assert result.states == {"Last": {}}


def test_ttl_is_a_duration():
    for wrong in (0, -1, "1", 1 << 80):
        with refused(r"ttl\(\) takes nanoseconds"):
            short(wrong)


def test_the_worker_is_told_of_a_life_when_it_asks():
    rules = _timers.TimedRules(short(), False)
    state = rules.state()
    fired = rules.call(state, "a", ("a", 1), 100, 0)
    assert (fired.due, fired.open) == (110, _windows.RESTS)
    fired = rules.call(state, "a", ("a", 2), 105, 0)
    assert (fired.due, fired.open) == (110, _windows.RESTS)
    copy = pickle.loads(pickle.dumps(state))
    fired = rules.call(state, "a", None, 110, 0)
    assert (fired.due, fired.open) == (115, _windows.RESTS)
    assert rules.call(state, "a", None, 115, 0).open == _windows.GONE
    # A message that comes late, too: it has the time at which it came in.
    assert rules.call(copy, "a", ("a", 3), 116, 0).outputs == [
        (("a", (3,)), 116)]
    silent = _timers.TimedRules(wallaroo.state_computation(
        "silent", state=Seen, ttl=10)(lambda data, state: None), False)
    state = silent.state()
    assert silent.call(state, "a", ("a", 1), 100, 0).due == 110
    assert silent.call(state, "a", ("a", 1), 109, 0) is None


def test_expiry_is_simulated():
    items = [At(n * 7, ("ab"[n % 2 or n > 3], n)) for n in range(8)]
    done = simulate(application(listening().key_by(key).to(short(15))),
                    {"in": items + [At(90, None)]}, schedules=150,
                    check=lambda result: None)
    assert done.replayed > 0

    def none(result):
        assert not result.states["short"]

    simulate(application(listening().key_by(key).to(short(15))),
             {"in": items}, schedules=30, check=none)


# -- what is refused --------------------------------------------------------

def refused(match):
    return pytest.raises(wallaroo.WallarooParameterError, match=match)


def test_refused():
    with refused("time= is"):
        step(time="tea")
    with refused("no source has"):
        application(listening().key_by(key).to(step(time="event")))
        ran(listening().key_by(key).to(step(time="event")))
    with refused("without"):
        wallaroo.state_computation("x", state=Seen, time="event")(
            lambda data, state: None)
    with refused("must have 3"):
        wallaroo.state_computation("x", state=Seen, on_timer=fired)(
            lambda data, state: None)
    with refused("on_timer of x must have 3"):
        wallaroo.state_computation(
            "x", state=Seen, on_timer=lambda state: None)(put)


def test_timers_check_what_they_are_given():
    timers = wallaroo.Timers("k", 100, {})
    for wrong in ({}, {"after": 1, "at": 200}, {"after": "1"}, {"after": -1},
                  {"after": True}, {"at": -5}):
        with pytest.raises((TypeError, ValueError)):
            timers.set("x", **wrong)
    with pytest.raises(TypeError, match="name"):
        timers.set(7, 1)
    assert timers.names() == [] and timers.due("x") is None
    timers.set("x", at=50)		# in the past: as soon as possible
    timers.set("y", 2.4)
    assert (timers.due("x"), timers.due("y")) == (101, 102)
    assert timers.names() == ["x", "y"]
    assert timers.cancel("x") and not timers.cancel("x")
    with pytest.raises(ValueError, match="1000 timers"):
        for n in range(1001):
            timers.set(str(n), 1)


# -- what the worker has of it ----------------------------------------------

def test_the_stage_in_the_topology():
    for time, pipeline, by_event in (
        (None, timed(), True), ("processing", timed(), False),
        (None, plain(), False),
    ):
        compiled = _topology.compile_application(application(
            pipeline.key_by(key).to(step(time=time))))
        [stage] = [s for s in compiled.topology[4] if s[1] == "timed_state"]
        assert stage[8:] == [by_event] and stage[5] is False
        assert isinstance(
            compiled.state_factories[stage[3]](), _timers.TimedState)


def filled():
    rules = _timers.TimedRules(step(), True)
    state = rules.state()
    rules.call(state, "a", ("a", 5, "x+9"), 5, 0, (0, 0, 1, 0))
    rules.call(state, "a", None, 6, 0)
    rules.call(state, "a", ("a", 7), 7, 0, (0, 0, 2, 0))
    return rules, state


def test_state_is_saved_with_its_timers():
    rules, state = filled()
    save, load = _windows.hooks(lambda o: b"own" + pickle.dumps(o),
                                lambda bs: pickle.loads(bs[3:]))
    assert save(state).count(b"own") == 2
    for copy in (load(save(state)), pickle.loads(pickle.dumps(state))):
        assert copy.state.items == [5] and copy.timers == {"x": 14}
        assert rules.call(copy, "a", None, 8, 0).due == 14
        assert rules.call(copy, "a", None, 14, 0).outputs == [
            (("a", "x", 14, 3), 14)]
    assert repr(state) == "Seen(items=[5]) timers(x=14)"


def test_what_the_worker_is_told():
    rules, state = filled()
    assert (rules.result(state).due, rules.result(state).open) == (8, True)
    # Nothing has changed; what is there waits longer than it did.
    assert rules.call(state, "a", ("a", 9), 9, 0, (0, 0, 3, 0)) is None
    assert rules.call(state, "a", None, 8, 0).due == 10
    fired = rules.call(state, "a", None, 10, 0)
    assert (fired.due, fired.open) == (14, False)
    ending = rules.call(state, "a", None, 14, _windows.ENDLESS)
    assert (ending.due, ending.open) == (_windows.ENDLESS, False)


def test_timers_set_at_the_end_wait_for_the_next_message():
    rules = _timers.TimedRules(step(), False)
    state = rules.state()
    assert rules.call(state, "a", ("a", 1, "again+5"), 10, 0).due == 15
    assert rules.call(state, "a", None, 15, _windows.ENDLESS).due == \
        _windows.ENDLESS
    assert state.asleep == {"again": 25}
    assert rules.call(state, "a", ("a", 2), 90, 0).due == 25


# -- schedules with crashes -------------------------------------------------

def test_simulated():
    items = [At(n * 10, ("ab"[n % 2], n, "x+%d" % (n % 4 * 9), "y+15"))
             for n in range(6)]
    done = simulate(application(listening().key_by(key).to(step())),
                    {"in": items}, schedules=150)
    assert done.replayed > 0
    done = simulate(application(listening().key_by(key).to(step())),
                    {"in": [("a", 1, "again+5"), ("b", 1, "x+7")]},
                    schedules=20)
    assert done.schedules == 20


def test_simulation_finds_what_is_in_no_checkpoint():
    class Mine:
        def __init__(self):
            self.last = 0

        def __getstate__(self):
            return {}

        def __setstate__(self, members):
            self.last = 0

    globals()["Mine"] = Mine
    Mine.__qualname__ = "Mine"

    def count(data, state, timers):
        state.last += 1
        timers.set("x", 5)

    forgetful = wallaroo.state_computation(
        "step", state=Mine, on_timer=lambda name, state, timers: state.last)(
        count)
    with pytest.raises(AssertionError, match="changed by saving"):
        simulate(application(listening().key_by(key).to(forgetful)),
                 {"in": [("a", n) for n in range(4)]}, schedules=300)
