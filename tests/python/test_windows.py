"""Windows: descriptions, arithmetic against the model, reference executor."""

import pickle
import random

import pytest

import wallaroo
import windows_model as model
from stages import application
from wallaroo import _topology, _windows
from wallaroo.testing import At, UserFunctionError, run
from windows_model import ENDLESS, MS, SECOND


class Sum(wallaroo.Aggregation):
    def initial_accumulator(self):
        return [0]

    def update(self, data, accumulator):
        accumulator[0] += data

    def combine(self, a, b):
        return [a[0] + b[0]]

    def output(self, key, accumulator):
        return accumulator[0]


class NonZero(Sum):
    def output(self, key, accumulator):
        return accumulator[0] or None


class Collect(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return list(accumulator)


class KeyAndSum(Sum):
    def output(self, key, accumulator):
        return (key, accumulator[0]) if accumulator[0] else None


class Broken(wallaroo.Aggregation):
    """Raises in one method for values and sums that say so."""

    on_error = "dead-letter"

    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        if data == "update":
            raise ValueError("in update")
        accumulator.append(data)

    def combine(self, a, b):
        if "combine" in b:
            raise ValueError("in combine")
        return a + b

    def output(self, key, accumulator):
        if "output" in accumulator:
            raise ValueError("in output")
        return accumulator or None


class Package:
    """The package's arithmetic with the model's calls."""

    def __init__(self, aggregation, length, slide=None, delay=0,
                 policy="drop", offset=0):
        self.arithmetic = _windows.RangeArithmetic(
            _windows.RangeWindows(length, slide or length, delay,
                                  aggregation, policy),
            lambda key: offset)
        self.state = _windows.RangeState()

    def message(self, value, time, watermark):
        return self.done(self.arithmetic.apply(
            self.state, "key", value, time, watermark))

    def timeout(self, watermark):
        return self.done(
            self.arithmetic.timeout(self.state, "key", watermark))

    def done(self, fired):
        assert not fired.errors
        # What the worker knows between calls must be right: nothing fires
        # below `due`, and something does at it.
        copy = pickle.loads(pickle.dumps(self.state))
        before = self.arithmetic.timeout(copy, "key", fired.due - 1)
        assert not before.outputs and copy.first == self.state.first
        self.arithmetic.timeout(copy, "key", fired.due)
        assert copy.first > self.state.first
        copy = pickle.loads(pickle.dumps(self.state))
        self.arithmetic.timeout(copy, "key", ENDLESS)
        assert fired.open == (copy.first != self.state.first)
        return fired.outputs, fired.watermark


BOTH = pytest.mark.parametrize("kind", [model.RangeModel, Package])


def values(result):
    return [output for output, _ in result[0]]


@BOTH
@pytest.mark.parametrize("name", model.PUBLISHED)
def test_published_numbers(kind, name):
    length, slide, delay, rows = model.PUBLISHED[name]
    windows = kind(Sum(), length * SECOND, slide and slide * SECOND,
                   delay * SECOND)
    for value, time, watermark, expected in rows:
        got = windows.message(value, time * SECOND, watermark * SECOND)
        assert values(got) == expected, (value, time, watermark)


@BOTH
def test_tumbling(kind):
    w = kind(NonZero(), SECOND)
    w.message(111, 111 * SECOND, 111 * SECOND)
    outputs, watermark = w.timeout(ENDLESS)
    assert outputs == [(111, 112 * SECOND - 1)]
    assert watermark == 112 * SECOND - 1
    w = kind(NonZero(), 3 * SECOND)
    w.message(1, 111 * SECOND, 111 * SECOND)
    w.message(2, 112 * SECOND, 112 * SECOND)
    end = 114 * SECOND - 1
    assert w.message(3, 114 * SECOND, 114 * SECOND) == ([(3, end)], end)
    w = kind(NonZero(), 50 * MS)
    w.message(1, 5000 * MS, 5000 * MS)
    w.message(2, 5025 * MS, 5025 * MS)
    assert values(w.message(10, 5055 * MS, 5055 * MS)) == [3]
    w = kind(NonZero(), 50 * MS)
    w.message(1, 5000 * MS, 5000 * MS)
    assert w.message(3, 5100 * MS, 5100 * MS) == (
        [(1, 5050 * MS - 1)], 5050 * MS - 1)


@BOTH
def test_times_of_outputs(kind):
    w = kind(Sum(), 10 * SECOND, 5 * SECOND, 10 * SECOND)
    w.message(1, 111 * SECOND, 111 * SECOND)
    w.message(2, 121 * SECOND, 121 * SECOND)
    outputs, _ = w.message(3, 141 * SECOND, 141 * SECOND)
    assert outputs == [(n, end * SECOND - 1) for n, end in (
        (1, 116), (1, 121), (2, 126), (2, 131))]


@BOTH
def test_timeout_of_many_windows(kind):
    w = kind(Sum(), 10 * SECOND, 2 * SECOND, 1000 * SECOND)
    for value, time in ((1, 10000), (3, 10001), (5, 10002)):
        assert w.message(value, time * SECOND, time * SECOND)[0] == []
    got = values(w.timeout(ENDLESS))
    assert got == [0] * 496 + [4, 9, 9, 9, 9, 5]
    w = kind(Collect(), 10 * SECOND, 2 * SECOND, 1000 * SECOND)
    for n in range(6):
        w.message(n + 1, (10000 + n) * SECOND, (10000 + n) * SECOND)
    got = values(w.timeout(ENDLESS))
    assert len(got) == 503
    assert [sum(one) for one in got[496:]] == [3, 10, 21, 21, 21, 18, 11]


@BOTH
def test_late_data(kind):
    for policy, expected in (("drop", [1, 3]),
                             ("place-in-oldest-window", [1, 2, 3])):
        w = kind(Collect(), 10 * SECOND, policy=policy)
        w.message(1, 100 * SECOND, 100 * SECOND)
        w.message(2, 50 * SECOND, 100 * SECOND)
        got = w.message(3, 101 * SECOND, 111 * SECOND)
        assert values(got) == [expected]
    w = kind(Collect(), 10 * SECOND, policy="fire-per-message")
    w.message(1, 100 * SECOND, 100 * SECOND)
    assert w.message(2, 50 * SECOND, 100 * SECOND) == (
        [([2], 50 * SECOND)], 50 * SECOND)
    assert values(w.message(3, 101 * SECOND, 111 * SECOND)) == [[1, 3]]
    w = kind(Sum(), 10 * SECOND, policy="fire-per-message")
    w.message(1, 100 * SECOND, 100 * SECOND)
    assert w.message(2, 101 * SECOND, 111 * SECOND) == (
        [(3, 110 * SECOND - 1)], 110 * SECOND - 1)
    assert w.message(3, 50 * SECOND, 112 * SECOND) == (
        [(3, 50 * SECOND)], 50 * SECOND)
    w = kind(Collect(), 10 * SECOND, policy="place-in-oldest-window")
    w.message(1, 100 * SECOND, 100 * SECOND)
    w.message(2, 111 * SECOND, 100 * SECOND)
    w.message(3, 50 * SECOND, 100 * SECOND)
    got = w.message(4, 112 * SECOND, 121 * SECOND)
    assert values(got) == [[1, 3], [2, 4]]


@BOTH
def test_late_data_waits_for_no_other(kind):
    """Placed into a window that would else be open only when more comes."""
    w = kind(Collect(), 10, policy="place-in-oldest-window")
    w.message(1, 100, 100)
    assert values(w.timeout(ENDLESS)) == [[1]]
    assert values(w.message(2, 50, 100)) == []
    assert values(w.timeout(ENDLESS)) == [[2]]


@BOTH
def test_smallest_windows(kind):
    w = kind(Sum(), 1)
    w.message(1, 0, 0)
    assert values(w.message(2, 1, 1)) == [1]
    w = kind(Sum(), SECOND, None, SECOND)
    w.message(1, 999 * MS, 999 * MS)
    got = w.message(2, 2 * SECOND + 1, 2 * SECOND + 1)
    assert values(got) == [1]


@BOTH
def test_any_offset(kind):
    rng = random.Random(1)
    for _ in range(200):
        offset = int(rng.random() * 0.8 * SECOND)
        w = kind(Sum(), SECOND, None, 2 * SECOND, offset=offset)
        w.message(1, 10 * SECOND, 10 * SECOND)
        got = w.message(99, 14 * SECOND, 14 * SECOND)
        assert values(got) == [0, 0, 1]


@BOTH
def test_collected_values_stay_in_order(kind):
    w = kind(Collect(), 50 * SECOND, 25 * SECOND, 3000 * SECOND)
    watermark = 4863
    w.message(0, 4864 * SECOND, watermark * SECOND)
    for n in range(31):
        watermark += 25 if n < 28 else 10
        w.message(n, watermark * SECOND, watermark * SECOND)
    seen = 0
    for n, time in enumerate((
            10901, 10907, 10912, 10918, 10924, 10929, 10935, 10940, 10945,
            10951, 10957, 10964, 10968, 10973, 10979)):
        for got in values(w.message(20 + n, time * SECOND, time * SECOND)):
            assert all(b <= a + 1 for a, b in zip(got, got[1:])), got
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("event,panes", model.GROWTH)
def test_growth(event, panes):
    pane = 2 * SECOND
    assert model.panes_needed(event * MS, 100 * SECOND, pane, 1) == panes
    w = Package(Sum(), 10 * SECOND, 2 * SECOND, SECOND)
    assert w.arithmetic.panes_at_first == 6
    w.state.first = 88 * SECOND
    w.state.count = 6
    w.arithmetic._grow(w.state, event * MS)
    assert w.state.count == 6 + panes


def test_model_and_package_agree():
    for seed in range(60):
        rng = random.Random(seed)
        length = rng.choice((1, 3, 7, 10, 12, 50))
        settings = (length, rng.randint(1, length),
                    rng.choice((0, 0, 1, 5, 10, 33, 100)),
                    rng.choice(_windows.LATE_DATA_POLICIES),
                    rng.randrange(length))
        ours, other = (kind(Collect(), *settings)
                       for kind in (Package, model.RangeModel))
        watermark = rng.choice((0, 5, 1000))
        for n in range(40):
            if n and rng.random() < 0.15:
                at = rng.choice((ENDLESS, watermark))
                assert ours.timeout(at) == other.timeout(at), (seed, n)
                continue
            time = max(0, watermark + rng.choice(
                (0, 0, 0, 1, -1, 3, -5, -20, 40, 200)))
            if rng.random() < 0.02:
                time += 5000
            watermark = max(watermark, rng.choice((time, watermark)))
            assert ours.message(n, time, watermark) == other.message(
                n, time, watermark), (seed, n)
            assert (ours.state.first, ours.state.count) == (
                other.panes[0][0], len(other.panes)), (seed, n)


def test_count_windows_arithmetic():
    data = (2, 3, 4, 5, 1, 2, 3, 4, 10, 20, 30, 40)
    a = _windows.CountArithmetic(_windows.CountWindows(4, Sum()))
    s = _windows.CountState()
    m = model.CountModel(Sum(), 4)
    for n, value in enumerate(data, 1):
        fired = a.apply(s, "key", value, n, n)
        assert [output for output, _ in fired.outputs] == m.message(value)
        assert fired.open == (n % 4 != 0)
        if n % 4 == 0:
            assert fired.outputs == [({4: 14, 8: 10, 12: 100}[n], n)]
            assert fired.watermark == n
    assert a.timeout(s, "key", ENDLESS).outputs == []
    a.apply(s, "key", 7, 20, 20)
    assert a.timeout(s, "key", ENDLESS).outputs == [(7, 20)]


@pytest.mark.parametrize("windows", [
    _windows.RangeWindows(50, 10, 20, Collect(), "drop"),
    _windows.RangeWindows(20, 20, 0, Collect(), "fire-per-message"),
    _windows.CountWindows(5, Collect())])
def test_the_workers_short_cut(windows):
    """The same states as without it, and when it says nothing the key is
    open and due as before."""
    quick = 0
    for seed in range(100):
        rng = random.Random(seed)
        arithmetic = (
            _windows.CountArithmetic(windows)
            if isinstance(windows, _windows.CountWindows)
            else _windows.RangeArithmetic(windows))
        call = _windows.caller(arithmetic)
        one, two = arithmetic.state(), arithmetic.state()
        watermark, last = 1000, None
        for n in range(60):
            time = max(0, watermark + rng.randrange(-30, 10))
            watermark += rng.choice((0, 1, 3, 3, 60))
            if rng.random() < 0.1:
                ours = call(one, "key", None, 0, watermark)
                assert ours == arithmetic.timeout(two, "key", watermark)
                last = ours
                continue
            ours = call(one, "key", n, time, watermark)
            plain = arithmetic.apply(two, "key", n, time, watermark)
            assert vars(one) == vars(two)
            if ours is None:
                quick += 1
                assert last is not None and plain.due == last.due
                assert plain.open and not plain.outputs
                assert plain.watermark == 0
            else:
                assert ours == plain
                last = ours
    assert quick > 500


def test_update_raises_in_the_short_cut():
    class Picky(Collect):
        def update(self, data, accumulator):
            if data == "bad":
                raise ValueError(data)
            accumulator.append(data)

    for arithmetic in (
        _windows.RangeArithmetic(
            _windows.RangeWindows(50, 50, 0, Picky(), "drop"),
            lambda key: 0),
        _windows.CountArithmetic(_windows.CountWindows(5, Picky())),
    ):
        call = _windows.caller(arithmetic)
        state = arithmetic.state()
        first = call(state, "key", "a", 100, 100)
        fired = call(state, "key", "bad", 101, 101)
        assert [str(error) for error in fired.errors] == ["bad"]
        assert (fired.outputs, fired.open) == ([], True)
        assert fired.due == first.due
        assert call(state, "key", "b", 102, 102) is None
        assert [output for output, _ in arithmetic.timeout(
            state, "key", ENDLESS).outputs] == [["a", "b"]]


def test_offset_is_the_keys():
    a = _windows.RangeArithmetic(
        _windows.RangeWindows(1000, 1000, 0, Sum(), "drop"))
    offsets = [a.offset("key %d" % n) for n in range(2000)]
    assert offsets == [a.offset("key %d" % n) for n in range(2000)]
    assert 0 <= min(offsets) < 20 and 780 < max(offsets) < 800
    assert 380 < sum(offsets) / len(offsets) < 420
    assert a.offset(b"\xff".decode("utf-8", "surrogateescape")) >= 0


# -- descriptions -----------------------------------------------------------

def test_units():
    assert wallaroo.nanoseconds(3) == 3
    assert wallaroo.microseconds(3) == 3000
    assert wallaroo.milliseconds(3) == 3 * MS
    assert wallaroo.seconds(3) == 3 * SECOND
    assert wallaroo.minutes(2) == 120 * SECOND
    assert wallaroo.hours(2) == 7200 * SECOND
    assert wallaroo.seconds(0.5) == 0.5 * SECOND
    assert isinstance(wallaroo.seconds(0.5), float)


def test_range_builder():
    builder = wallaroo.range_windows(wallaroo.seconds(0.1) * 3)
    assert isinstance(builder, wallaroo.RangeWindowsBuilder)
    assert (builder.range, builder.slide, builder.delay) == (
        300 * MS, None, None)
    assert (builder.default_slide, builder.default_delay) == (300 * MS, 0)
    assert builder.late_data_policy == ""
    assert builder.with_slide(100 * MS) is builder
    assert builder.with_delay(50 * MS) is builder
    assert builder.with_late_data_policy("fire-per-message") is builder
    windows = builder.over(Sum)
    assert isinstance(windows, wallaroo.RangeWindows)
    assert (windows.range, windows.slide, windows.delay) == (
        300 * MS, 100 * MS, 50 * MS)
    assert isinstance(windows.aggregation, Sum)
    assert windows.late_data_policy == "fire-per-message"
    plain = wallaroo.range_windows(7).over(Sum)
    assert (plain.range, plain.slide, plain.delay) == (7, 7, 0)
    assert plain.late_data_policy == "drop"


def test_count_builder():
    builder = wallaroo.count_windows(4)
    assert isinstance(builder, wallaroo.CountWindowsBuilder)
    assert builder.count == 4
    windows = builder.over(Sum)
    assert isinstance(windows, wallaroo.CountWindows)
    assert windows.count == 4 and isinstance(windows.aggregation, Sum)
    assert windows.timeout == 5 * SECOND
    builder = wallaroo.count_windows(4).with_timeout(None)
    assert builder.over(Sum).timeout is None
    assert wallaroo.count_windows(2).with_timeout(
        wallaroo.seconds(2)).over(Sum).timeout == 2 * SECOND


def test_an_instance_may_be_given():
    instance = Sum()
    assert wallaroo.range_windows(7).over(instance).aggregation is instance
    assert Sum().name() == "Sum"


@pytest.mark.parametrize("wrong,text", [
    (lambda: wallaroo.range_windows(0), "range_windows"),
    (lambda: wallaroo.range_windows("1"), "range_windows"),
    (lambda: wallaroo.range_windows(float("nan")), "range_windows"),
    (lambda: wallaroo.range_windows(True), "range_windows"),
    (lambda: wallaroo.range_windows(5).with_slide(0), "with_slide"),
    (lambda: wallaroo.range_windows(5).with_slide(6),
     "A window's slide cannot be greater than its range"),
    (lambda: wallaroo.range_windows(5).with_delay(-1), "with_delay"),
    (lambda: wallaroo.range_windows(5).with_slide(1).with_slide(1),
     "Only call `with_slide()` once per window specification."),
    (lambda: wallaroo.range_windows(5).with_delay(1).with_delay(1),
     "Only call `with_delay()` once per window specification."),
    (lambda: wallaroo.range_windows(5).with_late_data_policy(
        "drop").with_late_data_policy("drop"),
     "Only call `with_late_data_policy()` once per window specification."),
    (lambda: wallaroo.range_windows(5).with_late_data_policy("keep"),
     "Invalid value for late_data_policy: 'keep'"),
    (lambda: wallaroo.range_windows(wallaroo.hours(1)).with_slide(1).over(
        Sum), "more than 1000000 windows"),
    (lambda: wallaroo.count_windows(0), "count_windows"),
    (lambda: wallaroo.count_windows(2.0), "count_windows"),
    (lambda: wallaroo.count_windows(2).with_timeout(0), "with_timeout"),
    (lambda: wallaroo.count_windows(2).with_timeout(None).with_timeout(
        None), "Only call `with_timeout()` once"),
])
def test_mistakes(capsys, wrong, text):
    with pytest.raises(wallaroo.WallarooParameterError) as caught:
        wrong()
    assert text in str(caught.value)
    assert capsys.readouterr().out == "\nAPI_Error: %s\n" % caught.value


@pytest.mark.parametrize("method", [
    "initial_accumulator", "update", "combine", "output"])
def test_aggregation_lacks_a_method(method, capsys):
    members = {name: None if name == method else getattr(Sum, name)
               for name in ("initial_accumulator", "update", "combine",
                            "output")}
    cls = type("Lacking", (wallaroo.Aggregation,), members)
    for builder in (wallaroo.range_windows(5), wallaroo.count_windows(5)):
        with pytest.raises(wallaroo.WallarooParameterError):
            builder.over(cls)
        assert "\nAPI_Error: Aggregation must have method '%s'.\n" % method \
            in capsys.readouterr().out


def test_aggregation_needs_a_name():
    members = {name: getattr(Sum, name) for name in (
        "initial_accumulator", "update", "combine", "output")}
    with pytest.raises(wallaroo.WallarooParameterError, match="'name'"):
        wallaroo.count_windows(5).over(type("Bare", (), members))


def test_over_is_forgotten(capsys):
    for builder in (wallaroo.range_windows(5), wallaroo.count_windows(5)):
        with pytest.raises(wallaroo.WallarooParameterError,
                           match=r"call \.over\(\)"):
            application(lambda p: p.to(builder))


def test_stages_of_the_application_tuple():
    instance = Sum()
    app = application(
        lambda p: p.to(wallaroo.range_windows(9).with_slide(3)
                       .with_delay(2).over(instance))
        .to(wallaroo.count_windows(4).over(instance))
        .to(wallaroo.count_windows(5).with_timeout(None).over(instance)))
    assert app[2][0][1:-1] == [
        ("to_range_windows", 9, 3, 2, instance, "drop"),
        ("to_count_windows", 4, instance),
        ("to_count_windows", 5, instance, None)]


# -- the reference executor -------------------------------------------------

@wallaroo.key_extractor
def first(data):
    return data[0]


class Second(Sum):
    """Sums of (key, number)."""

    def update(self, data, accumulator):
        accumulator[0] += data[1]

    def output(self, key, accumulator):
        return (key, accumulator[0]) if accumulator[0] else None


@wallaroo.encoder
def as_text(data):
    return repr(data) + "\n"


def ran(chain, items, **options):
    source = wallaroo.TCPSourceConfig("Numbers", "h", 1, wallaroo.decoder()(
        lambda_decoder))
    app = wallaroo.build_application("Windows", chain(
        wallaroo.source("Numbers", source)).to_sink(
            wallaroo.TCPSinkConfig("h", 2, as_text)))
    _topology.compile_application(app)
    return run(app, {"Numbers": items}, **options)


def lambda_decoder(data):
    return eval(data)


def no_offset(monkeypatch):
    monkeypatch.setattr(_windows.RangeArithmetic, "offset_of",
                        lambda self, key: 0)


@pytest.mark.parametrize("name", model.PUBLISHED)
def test_published_numbers_on_the_reference(monkeypatch, name):
    """With the clock standing still and the watermark as given."""
    from wallaroo._reference import Executor

    no_offset(monkeypatch)
    length, slide, delay, rows = model.PUBLISHED[name]
    builder = wallaroo.range_windows(length * SECOND).with_delay(
        delay * SECOND)
    if slide:
        builder.with_slide(slide * SECOND)
    executor = Executor(application(
        lambda p: p.collect().to(builder.over(Sum))))
    for value, time, watermark, expected in rows:
        executor.push(executor.sources[0], value, time * SECOND,
                      watermark * SECOND)
        assert executor.values == expected, (value, time, watermark)
        executor.values.clear()


def test_windows_of_keys(monkeypatch):
    no_offset(monkeypatch)
    windows = wallaroo.range_windows(10).over(Second)
    result = ran(
        lambda p: p.key_by(first).to(windows),
        [At(0, ("a", 1)), At(3, ("b", 2)), At(4, ("a", 4)),
         At(11, ("a", 8)), At(12, ("b", 16)), At(25, ("b", 32))])
    # Key b's windows begin at 3.
    assert result.values == [("a", 5), ("b", 18), ("a", 8), ("b", 32)]
    assert sorted(result.states["Second"]) == ["a", "b"]


def test_open_windows_close_in_the_end(monkeypatch):
    no_offset(monkeypatch)
    windows = wallaroo.range_windows(10).with_delay(5).over(Second)
    items = [At(100, ("a", 1)), At(101, ("b", 2))]
    result = ran(lambda p: p.key_by(first).to(windows), items)
    assert result.values == [("a", 1), ("b", 2)]
    # The source is silent for 60 before the third timeout.
    result = ran(lambda p: p.key_by(first).to(windows), items, until=189)
    assert result.values == []
    result = ran(lambda p: p.key_by(first).to(windows), items, until=190)
    assert result.values == [("a", 1), ("b", 2)]


def test_a_timeout_fires_what_the_watermark_allows(monkeypatch):
    """Key b speaks; windows of key a fire though a is silent."""
    no_offset(monkeypatch)
    windows = wallaroo.range_windows(10).over(Second)
    result = ran(lambda p: p.key_by(first).to(windows),
                 [At(0, ("a", 1)), At(19, ("b", 2)), At(21, None)],
                 until=21)
    assert result.values == [("a", 1)]


def test_outputs_have_the_time_of_their_window(monkeypatch):
    """A second stage of windows groups them by it."""
    no_offset(monkeypatch)
    result = ran(
        lambda p: p.key_by(first)
        .to(wallaroo.range_windows(10).over(Second))
        .to(wallaroo.range_windows(30).over(Second)),
        [At(0, ("a", 1)), At(10, ("a", 2)), At(20, ("a", 4)),
         At(30, ("a", 8)), At(40, ("a", 16)), At(70, ("a", 32))])
    # The second stage begins at the end of the first window, 9.
    assert result.values == [("a", 7), ("a", 24), ("a", 32)]
    assert list(result.states) == ["Second", "Second (2)"]


def test_slow_way_holds_windows_back(monkeypatch):
    no_offset(monkeypatch)

    def app():
        def side(name):
            return wallaroo.source(name, wallaroo.TCPSourceConfig(
                name, "h", 1, wallaroo.decoder()(lambda_decoder))
            ).key_by(first)

        windows = wallaroo.range_windows(10).over(Second)
        return wallaroo.build_application("Two", side("A").merge(
            side("B")).to(windows).to_sink(
                wallaroo.TCPSinkConfig("h", 2, as_text)))

    def outputs(*items, **options):
        return run(app(), items, **options).values

    begin = [("A", At(0, ("a", 1))), ("B", At(1, ("a", 2)))]
    assert outputs(*begin, ("A", At(15, ("a", 4))), until=15) == []
    assert outputs(*begin, ("A", At(15, ("a", 4))),
                   ("B", At(16, ("a", 8))), until=16) == [("a", 3)]
    # B has been silent for more than 40.
    assert outputs(*begin, ("A", At(15, ("a", 4))), ("A", At(45, ("a", 8))),
                   until=45) == [("a", 3), ("a", 4)]


def test_count_windows(monkeypatch):
    windows = wallaroo.count_windows(2).over(Second)
    items = [At(0, ("a", 1)), At(1, ("b", 2)), At(2, ("a", 4)),
             At(3, ("a", 8))]
    result = ran(lambda p: p.key_by(first).to(windows), items, until=3)
    assert result.values == [("a", 5)]
    # What is left is put out five seconds later, the older first.
    result = ran(lambda p: p.key_by(first).to(windows), items)
    assert result.values == [("a", 5), ("b", 2), ("a", 8)]
    windows = wallaroo.count_windows(2).with_timeout(None).over(Second)
    result = ran(lambda p: p.key_by(first).to(windows), items)
    assert result.values == [("a", 5)]


def test_windows_without_a_key_have_one():
    result = ran(lambda p: p.to(wallaroo.count_windows(2).over(Second)),
                 [("a", 1), ("b", 2)])
    assert result.values == [("tcp-source-key", 3)]


def test_collect_serves_windows():
    result = ran(
        lambda p: p.collect().to(wallaroo.count_windows(2).over(Second)),
        [("a", 1), ("b", 2)])
    assert result.values == [("collect-key-Second", 3)]


def test_bytes_keys_come_back_as_text():
    result = ran(
        lambda p: p.key_by(first).to(wallaroo.count_windows(1).over(Second)),
        [(b"\xc3\xa4", 1), (b"\xff", 2)])
    assert result.values == [("\u00e4", 1), ("\udcff", 2)]


@pytest.mark.parametrize("windows", [
    wallaroo.range_windows(10), wallaroo.count_windows(3)])
def test_what_user_code_raises(windows, monkeypatch):
    no_offset(monkeypatch)
    windows = windows.over(Broken)
    result = ran(lambda p: p.collect().to(windows),
                 [At(0, "a"), At(1, "update"), At(2, "b"), At(3, "c"),
                  At(12, "d"), At(13, "output"), At(25, "e"), At(26, "f")])
    assert [(letter.step, letter.error, letter.value)
            for letter in result.dead_letters[:1]] == [
                ("Broken", "ValueError: in update", "update")]
    assert "in update" in result.dead_letters[0].traceback
    assert result.values[0] == ["a", "b", "c"]
    assert [letter.error for letter in result.dead_letters[1:]] == [
        "ValueError: in output"]
    # What was in that window is gone; work goes on.
    assert result.values[-1][-1] == "f"


def test_one_window_that_fails_costs_no_other(monkeypatch):
    no_offset(monkeypatch)
    windows = wallaroo.range_windows(10).with_delay(10).over(Broken)
    result = ran(lambda p: p.collect().to(windows),
                 [At(10, "a"), At(20, "combine"), At(29, "b")])
    assert result.values == [["a"]]
    assert [letter.error for letter in result.dead_letters] == [
        "ValueError: in combine"]
    result = ran(lambda p: p.collect().to(windows),
                 [At(10, "a"), At(20, "combine"), At(30, "b"), At(55, "c")])
    assert result.values == [["a"], ["b"], ["c"]]


def test_windows_close_when_all_sources_have_ended():
    def ended(source, *stages):
        pipeline = wallaroo.source("in", source).key_by(first)
        for stage in stages:
            pipeline = pipeline.to(stage)
        app = wallaroo.build_application("ends", pipeline.to_sink(
            wallaroo.FileSinkConfig("/none", as_text)))
        return wallaroo.testing.run(
            app, {"in": [("a", 1), ("b", 5), ("a", 2), ("a", 3)]}).values

    pairs = wallaroo.count_windows(2).with_timeout(None).over(Second)
    file = wallaroo.FileSourceConfig("in", "/none", lambda_decoder)
    tcp = wallaroo.TCPSourceConfig("in", "localhost", "7000", lambda_decoder)
    assert ended(tcp, pairs) == [("a", 3)]
    # In the order in which they began.
    assert ended(file, pairs) == [("a", 3), ("b", 5), ("a", 3)]
    # What comes out of the first windows goes into the second ones first.
    assert ended(file, pairs, wallaroo.count_windows(3).with_timeout(
        None).over(Second)) == [("a", 6), ("b", 5)]


def test_policy_fail(monkeypatch):
    class Strict(Broken):
        on_error = None

    with pytest.raises(UserFunctionError, match="in update"):
        ran(lambda p: p.collect().to(
            wallaroo.range_windows(10).over(Strict)), ["update"])
    result = ran(lambda p: p.collect().to(
        wallaroo.range_windows(10).over(Strict)), ["update"],
        on_error="skip")
    assert result.values == [] and result.dead_letters == []


def test_other_stages_before_and_after(monkeypatch):
    from stages import double

    result = run(
        application(lambda p: p.to(double).collect()
                    .to(wallaroo.count_windows(2).over(Sum)).to(double)),
        {"Numbers": [1, b"2", 3, 4]})
    assert result.values == [12, 28]
    assert result.outputs["127.0.0.1:7002"] == [b"12\n", b"28\n"]
