"""Event time on the reference executor, against a model that knows all."""

import collections
import datetime
import pickle
import random

import pytest

import wallaroo
import wallaroo.testing
from wallaroo import _event_time, _redirect, _topology, _windows
from wallaroo.codecs import lines_decoder
from wallaroo.testing import Late


class Collect(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        if data[2] == "raise":
            raise ValueError(data)
        accumulator.append(data[2])

    def combine(self, a, b):
        raise AssertionError("never called")

    def output(self, key, accumulator):
        return (key, tuple(accumulator))


class Outer(Collect):
    """Of what Collect has put out."""

    def update(self, data, accumulator):
        accumulator.append(data)


@wallaroo.key_extractor
def key(data):
    return data[0]


@wallaroo.key_extractor
def first_letter(data):
    return data[0][0]


@wallaroo.encoder
def encode(data):
    return repr(data)


def time_of(data):
    return data[1]


def source(name, lateness=0, **more):
    return wallaroo.source(name, wallaroo.FileSourceConfig(
        name, "/none", lines_decoder)).event_time(time_of, lateness, **more)


def application(pipeline):
    return wallaroo.build_application("app", pipeline.to_sink(
        wallaroo.FileSinkConfig("/none", encode)))


def ran(pipeline, inputs, **options):
    return wallaroo.testing.run(application(pipeline), inputs, **options)


def tumbling(length, **more):
    return wallaroo.range_windows(length).over(Collect)


def sessions(gap):
    return wallaroo.session_windows(gap).over(Collect)


@wallaroo.encoder
def encode_late(data):
    if data[2] == "raise":
        raise ValueError(data)
    return None if data[2] == "none" else "%s %d" % data[:2]


def late_file(path="/late"):
    return wallaroo.FileSinkConfig(
        path, encode if path == "/none" else encode_late)


# -- times ------------------------------------------------------------------

UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize("given,expected", [
    (0, 0), (17, 17), (2.6, 3), (float(1 << 61), 1 << 61),
    (datetime.datetime(1970, 1, 1, 0, 0, 1, 5, UTC), 1_000_005_000),
    (datetime.datetime(2026, 1, 1, 1, tzinfo=EAST), 1767225600 * 10**9)])
def test_times(given, expected):
    assert _event_time.nanoseconds_of(given) == expected


@pytest.mark.parametrize("given,error,text", [
    (-1, ValueError, "since 1970"), (1 << 62, ValueError, "since 1970"),
    (True, TypeError, "not True"), (None, TypeError, "not None"),
    (float("nan"), TypeError, "not nan"), ("1", TypeError, "not '1'"),
    (datetime.datetime(2026, 1, 1), ValueError, "time zone")])
def test_no_times(given, error, text):
    with pytest.raises(error, match=text):
        _event_time.nanoseconds_of(given)


# -- mistakes ---------------------------------------------------------------

@wallaroo.computation("same")
def same(data):
    return data


def plain(name):
    return wallaroo.source(name, wallaroo.FileSourceConfig(
        name, "/none", lines_decoder))


@pytest.mark.parametrize("wrong,text", [
    (lambda: source("a").event_time(time_of), "once"),
    (lambda: plain("a").key_by(key).event_time(time_of), "stateless"),
    (lambda: source("a").merge(source("b")).event_time(time_of),
     "belongs to a source"),
    (lambda: plain("a").event_time(3), "takes a function"),
    (lambda: plain("a").event_time(time_of, lateness=-1), "lateness"),
    (lambda: plain("a").event_time(time_of, idle_timeout=0), "idle_timeout"),
    (lambda: application(source("a").merge(plain("b"))), "'b' has no event"),
    (lambda: application(source("a").key_by(key).to(
        wallaroo.range_windows(9).with_delay(1).over(Collect))),
     "leave out with_delay"),
    (lambda: wallaroo.testing.simulate(application(source("a")), {"a": []}),
     "does not know event times"),
    (lambda: application(source("a").key_by(key).to(
        wallaroo.range_windows(9).with_late_data_policy(
            "place-in-oldest-window").over(Collect))), "not possible"),
    (lambda: application(plain("a").key_by(key).to(sessions(9))),
     "are made by event times"),
    (lambda: wallaroo.session_windows(0), "session_windows"),
    (lambda: wallaroo.session_windows(9).with_late_data_policy(
        "place-in-oldest-window"), "Of sessions it must"),
    (lambda: wallaroo.session_windows(9).with_late_data_policy(
        "drop").with_late_data_policy("drop"), "once"),
    (lambda: source("a").key_by(key).to(wallaroo.session_windows(9)),
     "call .over"),
    (lambda: wallaroo.range_windows(9).with_late_to("file"),
     "with_late_to.. takes the configuration of a sink"),
    (lambda: wallaroo.range_windows(9).with_late_to(late_file())
     .with_late_to(late_file()), "once"),
    (lambda: wallaroo.session_windows(9).with_late_to(late_file())
     .with_late_to(late_file()), "once"),
    (lambda: wallaroo.range_windows(9).with_late_to(late_file())
     .with_late_data_policy("fire-per-message").over(Collect), "leave out"),
    (lambda: wallaroo.session_windows(9).with_late_to(late_file())
     .with_late_data_policy("fire-per-message").over(Collect), "leave out"),
    (lambda: application(plain("a").key_by(key).to(
        wallaroo.range_windows(9).with_late_to(late_file()).over(Collect))),
     "needs event times"),
    (lambda: application(source("a").key_by(key).to(
        wallaroo.range_windows(9).with_late_to(
            late_file("/none")).over(Collect))), "one of its own"),
    (lambda: wallaroo.range_windows(9).with_early_firings(0),
     "with_early_firings"),
    (lambda: wallaroo.session_windows(9).with_early_firings(1)
     .with_early_firings(1), "once"),
    (lambda: application(plain("a").key_by(key).to(
        wallaroo.range_windows(9).with_early_firings(3).over(Collect))),
     "needs event times"),
])
def test_mistakes(wrong, text):
    with pytest.raises(wallaroo.WallarooParameterError, match=text):
        wrong()


def test_topology():
    pipeline = (
        plain("a").to(same).event_time(
            time_of, lateness=5, idle_timeout=7, on_error="skip")
        .key_by(key).to(tumbling(10)))
    stages = _topology.compile_application(application(pipeline)).topology[4]
    assert [stage[:2] for stage in stages[:2]] == [
        ["same", "step"], ["time_of", "event_time"]]
    assert stages[1][6] == "skip" and stages[1][8:] == [5, 7]
    assert stages[3][1] == "range_windows" and stages[3][8:] == [0, 0]


def test_what_the_worker_calls_gives_eight_bytes():
    given = _event_time.EventTime(time_of, None, None)
    assert given.packed(("a", 258)) == b"\0\0\0\0\0\0\1\2"
    assert given.name() == "time_of"


# -- windows ----------------------------------------------------------------

def test_windows_in_order_of_event_times():
    result = ran(source("in", 5).key_by(key).to(tumbling(10)), {"in": [
        ("a", 3, 1), ("a", 1, 2), ("b", 12, 3), ("a", 8, 4), ("a", 17, 5),
        ("a", 5, 6), ("a", 13, 7), ("a", 40, 8), ("a", 1, 9)]})
    assert result.values == [
        ("a", (2, 1, 4)), ("a", (7, 5)), ("b", (3,)), ("a", (8,))]
    assert result.late == [
        Late("Collect", "a", ("a", 5, 6)), Late("Collect", "a", ("a", 1, 9))]


def test_a_watermark_fires_what_is_complete():
    pipeline = source("in").key_by(key).to(tumbling(10))
    result = ran(pipeline, {"in": [
        ("a", 3, 1), ("b", 9, 2), ("a", 10, 3)]}, until=0)
    assert result.values == [("a", (1,)), ("b", (2,))]


def test_late_ones_fire_alone():
    windows = wallaroo.range_windows(10).with_late_data_policy(
        "fire-per-message").over(Collect)
    result = ran(source("in").key_by(key).to(windows), {"in": [
        ("a", 30, 1), ("a", 3, 2), ("a", 21, 3), ("a", 22, 4)]})
    assert result.values == [
        ("a", (2,)), ("a", (3,)), ("a", (4,)), ("a", (1,))]
    assert not result.late


def test_what_user_code_raises():
    items = [("a", 1, 1), ("a", 2, "raise"), ("a", 3, 3), ("b", 4, "raise")]
    result = ran(source("in").key_by(key).to(tumbling(10)), {"in": items},
                 on_error="dead-letter")
    assert result.values == [("a", (1, 3))]
    assert [(letter.key, letter.value) for letter in result.dead_letters] == [
        ("a", items[1]), ("b", items[3])]
    result = ran(source("in").key_by(key).to(tumbling(10)), {
        "in": [("a", None, 1), ("a", 2, 2)]}, on_error="dead-letter")
    assert result.values == [("a", (2,))]
    assert result.dead_letters[0].step == "time_of"


def model(inputs, length, slide, lateness):
    """By key, in order: what windows give that know everything.  inputs:
    for each source its items."""
    rows = collections.defaultdict(list)
    for number, items in enumerate(inputs):
        newest = 0
        for position, item in enumerate(items):
            rows[item[0]].append(
                (item[1], number, position, newest - lateness, item[2]))
            newest = max(newest, item[1])
    found = {}
    for name, held in sorted(rows.items()):
        held.sort()
        newest = held[-1][0]
        for end in range(length - length // slide * slide,
                         newest + length + 1, slide):
            inside = tuple(
                what for at, _, _, seen, what in held
                if end - length <= at < end and end > seen)
            if inside and end > 0:
                found.setdefault(name, []).append((name, inside))
    return found


def by_key(values):
    found = {}
    for value in values:
        found.setdefault(value[0], []).append(value)
    return found


def random_items(rng, count, spread, tag):
    return [(rng.choice("abc"), max(0, 3 * n - rng.randrange(spread)),
             "%s%d" % (tag, n)) for n in range(count)]


def interleaved(rng, names, inputs):
    left = {name: collections.deque(items)
            for name, items in zip(names, inputs)}
    while any(left.values()):
        name = rng.choice([name for name in left if left[name]])
        yield name, left[name].popleft()


@pytest.mark.parametrize("length,slide,lateness", [
    (10, 10, 0), (10, 10, 12), (20, 5, 7), (12, 8, 20), (7, 3, 3)])
def test_windows_are_the_models_however_sources_come(
        length, slide, lateness):
    for seed in range(20):
        rng = random.Random(seed)
        inputs = [random_items(rng, 40, spread, tag)
                  for spread, tag in ((30, "x"), (9, "y"))]
        windows = wallaroo.range_windows(length).with_slide(slide).over(
            Collect)
        pipeline = source("x", lateness).merge(source("y", lateness)) \
            .key_by(key).to(windows)
        expected = model(inputs, length, slide, lateness)
        for _ in range(3):
            result = ran(pipeline, interleaved(rng, "xy", inputs))
            assert by_key(result.values) == expected, seed


def test_windows_behind_windows_however_sources_come():
    for seed in range(20):
        rng = random.Random(seed)
        inputs = [[(rng.choice("pq") + item[0],) + item[1:]
                   for item in random_items(rng, 40, 20, tag)]
                  for tag in "xy"]
        pipeline = (
            source("x", 5).merge(source("y", 15)).key_by(key)
            .to(tumbling(10)).key_by(first_letter)
            .to(wallaroo.range_windows(40).with_slide(20).over(Outer)))
        found = [by_key(ran(pipeline, interleaved(
            rng, "xy", inputs)).values) for _ in range(4)]
        assert found[0] and found.count(found[0]) == 4, seed


# -- what is late -----------------------------------------------------------

@pytest.mark.parametrize("windows", [
    wallaroo.range_windows(10), wallaroo.session_windows(1)])
def test_late_to_a_sink(windows):
    items = [("a", 30, 1), ("a", 3, 2), ("b", 4, "none"), ("b", 5, "raise"),
             ("b", 6, 6), ("a", 40, 7)]
    result = ran(
        source("in").key_by(key).to(
            windows.with_late_to(late_file()).over(Collect)),
        {"in": items}, on_error="dead-letter")
    assert result.outputs == {
        "/none": [b"('a', (1,))", b"('a', (7,))"], "/late": [b"a 3", b"b 6"]}
    assert result.values == [("a", (1,)), ("a", (7,))]
    assert [late.value for late in result.late] == items[1:5]
    assert [letter[:2] for letter in result.dead_letters] == [("/late", "b")]


def test_several_windows_have_one_sink_for_what_is_late():
    def part(name, windows):
        return source(name).key_by(key).to(windows.over(Collect))

    pipeline = part("x", wallaroo.range_windows(9).with_late_to(
        late_file())).merge(part("y", wallaroo.session_windows(9).with_late_to(
            late_file())).merge(part("z", wallaroo.range_windows(
                9).with_late_to(late_file("/other")))))
    built = wallaroo.build_application("app", pipeline.to_sinks([
        wallaroo.FileSinkConfig("/a", encode),
        wallaroo.FileSinkConfig("/b", encode)]))
    topology = _topology.compile_application(built).topology
    assert [sink[0] for sink in topology[5]] == [
        "/a", "/b", "/late", "/other", "dead-letters"]
    assert [sink[6] for sink in topology[5]] == [3, 4, 5, 6, 7]
    windows = [s for s in topology[4] if s[1] == "range_windows"]
    assert sorted(stage[8:] for stage in windows) == [
        [0, 0, 2], [0, 0, 2], [0, 0, 3]]
    plan = _redirect.Plan("", "", [], [], [1, 2, 3], list("ABCD"))
    again = _topology.compile_application(
        _redirect.redirected(built, plan)).topology
    assert [sink[0] for sink in again[5][:4]] == ["A", "B", "C", "D"]
    assert [stage[8:] for stage in again[4]] == [
        stage[8:] for stage in topology[4]]
    result = wallaroo.testing.run(built, {
        "x": [("a", 50, 1), ("a", 1, 2)], "y": [("a", 50, 1), ("a", 3, 2)],
        "z": [("a", 50, 1), ("a", 4, 2)]})
    assert result.outputs["/late"] == [b"a 1", b"a 3"]
    assert result.outputs["/other"] == [b"a 4"]
    assert len(result.outputs["/a"]) == len(result.outputs["/b"]) == 3


# -- early firings ----------------------------------------------------------

class Marked(Collect):
    def early_output(self, key, accumulator):
        return (key, "early", tuple(accumulator))


def visible(held, point):
    return [row for row in held if row[0] < point and row[3] < point]


def chains(held, gap):
    """Sessions of these rows, in order: (end, rows)."""
    left = list(held)
    while left:
        inside = [min(left)]
        while True:
            end = max(inside)[0] + gap
            more = [row for row in left if row not in inside
                    and row[0] < end and row[3] < end]
            if not more:
                break
            inside.append(min(more))
        left = [row for row in left if row not in inside]
        yield end, sorted(inside)


def ranges_of(held, length, slide):
    newest = max(held)[0] if held else 0
    for end in range(length - length // slide * slide, newest + length + 1,
                     slide):
        inside = [row for row in sorted(held)
                  if end - length <= row[0] < end and row[3] < end]
        if inside and end > 0:
            yield end, inside


def model_of_early(inputs, lateness, every, length, windows):
    """By key, in order; windows() gives all windows of some rows, length is
    what a message needs not to be late."""
    rows = collections.defaultdict(list)
    for number, items in enumerate(inputs):
        newest = 0
        for position, item in enumerate(items):
            seen = max(0, newest - lateness)
            if item[1] + length(item[1]) > seen:
                rows[item[0]].append(
                    (item[1], number, position, seen, item[2]))
            newest = max(newest, item[1])
    found = {}
    for name, held in rows.items():
        made = [(end, 0, end, (name, values(inside)))
                for end, inside in windows(held)]
        for point in range(every, max(end for end, *_ in made), every):
            before = [inside for _, inside in windows(
                visible(held, point - every))]
            now = windows(visible(held, point))
            for end, inside in now:
                if end > point and not any(
                        set(inside) <= set(old) for old in before):
                    made.append((point, 1, end if length.fixed else inside[0],
                                 (name, "early", values(inside))))
        made.sort(key=lambda row: (row[:2], str(type(row[2])), row[2]))
        found[name] = [what for *_, what in made]
    return found


def values(rows):
    return tuple(row[4] for row in rows)


@pytest.mark.parametrize("length,slide,lateness,every", [
    (10, 10, 0, 3), (20, 20, 12, 5), (20, 5, 7, 4), (12, 8, 20, 6),
    (7, 3, 3, 100)])
def test_early_firings_of_range_windows(length, slide, lateness, every):
    def left(time):
        return time // slide * slide + length - time

    left.fixed = True
    for seed in range(12):
        rng = random.Random(seed)
        inputs = [random_items(rng, 40, spread, tag)
                  for spread, tag in ((30, "x"), (9, "y"))]
        windows = wallaroo.range_windows(length).with_slide(slide) \
            .with_early_firings(every).over(Marked)
        pipeline = source("x", lateness).merge(source("y", lateness)) \
            .key_by(key).to(windows)
        expected = model_of_early(
            inputs, lateness, every, left,
            lambda held: ranges_of(held, length, slide))
        for _ in range(3):
            result = ran(pipeline, interleaved(rng, "xy", inputs))
            assert by_key(result.values) == expected, seed


@pytest.mark.parametrize("gap,lateness,every", [
    (5, 0, 3), (9, 3, 5), (20, 0, 7), (14, 25, 6), (60, 10, 30)])
def test_early_firings_of_sessions(gap, lateness, every):
    def left(time):
        return gap

    left.fixed = False
    for seed in range(12):
        rng = random.Random(seed)
        inputs = [random_items(rng, 40, spread, tag)
                  for spread, tag in ((30, "x"), (9, "y"))]
        windows = wallaroo.session_windows(gap).with_early_firings(
            every).over(Marked)
        pipeline = source("x", lateness).merge(source("y", lateness)) \
            .key_by(key).to(windows)
        expected = model_of_early(
            inputs, lateness, every, left, lambda held: chains(held, gap))
        for _ in range(3):
            result = ran(pipeline, interleaved(rng, "xy", inputs))
            assert by_key(result.values) == expected, seed


@pytest.mark.parametrize("windows", [
    wallaroo.range_windows(100), wallaroo.session_windows(50)])
def test_early_firings_give_errors_once(windows):
    class Picky(Marked):
        def early_output(self, key, accumulator):
            if len(accumulator) == 2:
                raise KeyError(key)
            return super().early_output(key, accumulator)

    items = [("a", 1, 1), ("a", 2, "raise"), ("a", 13, 3), ("a", 24, 4),
             ("b", 39, 5), ("b", 40, 6)]
    result = ran(source("in").key_by(key).to(
        windows.with_early_firings(10).over(Picky)), {"in": items},
        on_error="dead-letter")
    assert by_key(result.values) == {
        "a": [("a", "early", (1,)), ("a", "early", (1, 3, 4)),
              ("a", (1, 3, 4))],
        "b": [("b", "early", (5,)), ("b", (5, 6))]}
    assert [letter.error for letter in result.dead_letters] == [
        "KeyError: 'a'", "KeyError: 'b'",
        "ValueError: ('a', 2, 'raise')"]


def test_early_firings_use_output_if_there_is_no_other():
    result = ran(source("in").key_by(key).to(
        wallaroo.range_windows(10).with_late_to(late_file())
        .with_early_firings(5).over(Collect)),
        {"in": [("a", 1, 1), ("a", 6, 2), ("a", 20, 3), ("a", 2, 4)]})
    assert result.values == [
        ("a", (1,)), ("a", (1, 2)), ("a", (3,)), ("a", (3,))]
    assert result.outputs["/late"] == [b"a 2"]


@pytest.mark.parametrize("windows", [
    wallaroo.range_windows(20), wallaroo.session_windows(20)])
def test_points_of_early_firings_are_saved(windows):
    rules = _event_time.rules_of(_windows.stage_of(
        windows.with_early_firings(4).over(Marked)))
    state = rules.state()
    rules.call(state, "k", ("k", 5, "m"), 5, 0, (0, 0, 1, 0))
    rules.call(state, "k", ("k", 6, "n"), 6, 9, (0, 0, 2, 0))
    save, load = _windows.hooks(pickle.dumps, pickle.loads)
    for copy in (load(save(state)), pickle.loads(pickle.dumps(state))):
        fired = rules.timeout(copy, "k", 8)
        assert fired.outputs == [(("k", "early", ("m",)), 7)]
        assert (fired.due, fired.open) == (12, _windows.OPEN)
        fired = rules.timeout(copy, "k", 12)
        assert fired.outputs == [(("k", "early", ("m", "n")), 11)]
        assert fired.due >= 20
    # A new version of the application may have none.
    rules = _event_time.rules_of(_windows.stage_of(
        type(windows)(20).over(Marked)))
    fired = rules.timeout(state, "k", 8)
    assert not fired.outputs and fired.due >= 20


# -- sessions ---------------------------------------------------------------

def test_a_silence_ends_a_session():
    result = ran(source("in", 50).key_by(key).to(sessions(10)), {"in": [
        ("a", 21, 1), ("a", 3, 2), ("b", 9, 3), ("a", 40, 4), ("a", 12, 5),
        ("a", 50, 6), ("a", 33, 7), ("a", 999, 8)]})
    # A message 10 behind another one is of the next session.
    assert result.values == [
        ("b", (3,)), ("a", (2, 5, 1)), ("a", (7, 4)), ("a", (6,)),
        ("a", (8,))]
    assert not result.late


def test_late_for_sessions():
    items = [("a", 30, 1), ("a", 21, 2), ("a", 20, 3), ("a", 45, 4),
             ("a", 36, 5), ("a", 35, 6)]
    pipeline = source("in").key_by(key)
    result = ran(pipeline.clone().to(sessions(10)), {"in": items})
    # 36 would join 30 and 45, were the session of 30 not over at 45.
    assert result.values == [("a", (2, 1)), ("a", (5, 4))]
    assert result.late == [
        Late("Collect", "a", items[2]), Late("Collect", "a", items[5])]
    alone = wallaroo.session_windows(10).with_late_data_policy(
        "fire-per-message").over(Collect)
    result = ran(pipeline.to(alone), {"in": items})
    assert result.values == [
        ("a", (3,)), ("a", (2, 1)), ("a", (6,)), ("a", (5, 4))]
    assert not result.late


def test_a_watermark_fires_sessions_that_are_complete():
    result = ran(source("in").key_by(key).to(sessions(10)), {"in": [
        ("a", 3, 1), ("b", 9, 2), ("a", 8, 3), ("a", 18, 4), ("b", 27, 5)]},
        until=0)
    assert result.values == [("a", (1, 3)), ("b", (2,))]


def test_sessions_give_what_user_code_raises():
    items = [("a", 1, 1), ("a", 2, "raise"), ("a", 3, 3), ("b", 4, "raise")]
    result = ran(source("in").key_by(key).to(sessions(10)), {"in": items},
                 on_error="dead-letter")
    assert result.values == [("a", (1, 3))]
    assert [(letter.key, letter.value) for letter in result.dead_letters] == [
        ("a", items[1]), ("b", items[3])]


def model_of_sessions(inputs, gap, lateness):
    """By key, in order: sessions that know everything."""
    rows = collections.defaultdict(list)
    for number, items in enumerate(inputs):
        newest = 0
        for position, item in enumerate(items):
            seen = newest - lateness
            if item[1] + gap > seen:
                rows[item[0]].append(
                    (item[1], number, position, seen, item[2]))
            newest = max(newest, item[1])
    found = {}
    for name, left in rows.items():
        while left:
            inside = [min(left)]
            while True:
                end = max(inside)[0] + gap
                more = [row for row in left if row not in inside
                        and row[0] < end and row[3] < end]
                if not more:
                    break
                inside.append(min(more))
            left = [row for row in left if row not in inside]
            found.setdefault(name, []).append(
                (name, tuple(row[4] for row in sorted(inside))))
    return found


@pytest.mark.parametrize("gap,lateness", [
    (1, 0), (5, 0), (9, 3), (20, 0), (14, 25), (60, 10)])
def test_sessions_are_the_models_however_sources_come(gap, lateness):
    for seed in range(20):
        rng = random.Random(seed)
        inputs = [random_items(rng, 40, spread, tag)
                  for spread, tag in ((30, "x"), (9, "y"))]
        pipeline = source("x", lateness).merge(source("y", lateness)) \
            .key_by(key).to(sessions(gap))
        expected = model_of_sessions(inputs, gap, lateness)
        for _ in range(4):
            result = ran(pipeline, interleaved(rng, "xy", inputs))
            assert by_key(result.values) == expected, seed


def test_sessions_behind_sessions_however_sources_come():
    for seed in range(20):
        rng = random.Random(seed)
        inputs = [[(rng.choice("pq") + item[0],) + item[1:]
                   for item in random_items(rng, 40, 20, tag)]
                  for tag in "xy"]
        pipeline = (
            source("x", 5).merge(source("y", 15)).key_by(key)
            .to(sessions(7)).key_by(first_letter)
            .to(wallaroo.session_windows(9).over(Outer)))
        found = [by_key(ran(pipeline, interleaved(
            rng, "xy", inputs)).values) for _ in range(4)]
        assert found[0] and found.count(found[0]) == 4, seed


def test_what_the_worker_calls_for_sessions():
    compiled = _topology.compile_application(application(
        source("in").key_by(key).to(sessions(1 << 62))))
    [stage] = [s for s in compiled.topology[4] if s[0] == "Collect"]
    assert stage[1] == "range_windows" and stage[8:] == [0, 0]
    rules = _event_time.EventSessions(
        _windows.SessionWindows(1 << 62, Collect(), "drop"))
    state = rules.state()
    last = (1 << 62) - 1
    fired = rules.call(state, "k", ("k", last, "m"), last, 0, (0, 0, 1, 0))
    assert (fired.due, fired.open) == (last + (1 << 62), _windows.OPEN)
    fired = rules.timeout(state, "k", fired.due)
    assert fired.outputs == [(("k", ("m",)), last + (1 << 62) - 1)]
    assert (fired.due, fired.open) == (0, _windows.GONE)


def test_sessions_are_saved_by_the_applications_own_functions():
    rules = _event_time.EventSessions(
        _windows.SessionWindows(10, Collect(), "drop"))
    state = rules.state()
    for n, at in enumerate((5, 14, 40)):
        rules.call(state, "k", ("k", at, n), at, 0, (0, 0, n, 0))
    assert rules.call(state, "k", ("k", 1, 9), 1, 25, (0, 0, 2, 0)) is False
    save, load = _windows.hooks(lambda o: b"own" + pickle.dumps(o),
                                lambda bs: pickle.loads(bs[3:]))
    for copy in (load(save(state)), pickle.loads(pickle.dumps(state))):
        fired = rules.timeout(copy, "k", 15)	# it has become longer
        assert (fired.outputs, fired.due) == ([], 24)
        fired = rules.timeout(copy, "k", 24)
        assert fired.outputs == [(("k", (0, 1)), 23)]
        assert (fired.due, fired.open) == (50, _windows.OPEN)
        fired = rules.timeout(copy, "k", 50)
        assert fired.outputs == [(("k", (2,)), 49)]
        assert (fired.due, fired.open) == (0, _windows.GONE)
    assert len(state.held) == 3 and b"own" in save(state)


@wallaroo.computation_multi("several")
def several(data):
    return [(data[0], data[1], "%s.%d" % (data[2], n)) for n in range(3)]


def test_outputs_of_a_record_stay_in_order():
    pipeline = source("in").to(several).to(several).key_by(key).to(
        tumbling(10))
    [(_, found)] = ran(pipeline, {"in": [("a", 1, "x"), ("a", 1, "y")]}).values
    assert list(found) == sorted(found) and len(found) == 18


def test_count_windows_between():
    """Their outputs have the newest time in them."""
    pipeline = (
        source("in").key_by(key)
        .to(wallaroo.count_windows(2).with_timeout(None).over(Collect))
        .to(wallaroo.range_windows(10).over(Outer)))
    result = ran(pipeline, {"in": [
        ("a", 3, 1), ("a", 8, 2), ("a", 9, 3), ("a", 14, 4), ("a", 15, 5)]})
    assert result.values == [
        ("a", (("a", (1, 2)),)), ("a", (("a", (3, 4)), ("a", (5,))))]


# -- the end ----------------------------------------------------------------

class Total:
    def __init__(self):
        self.items = []


def put(data, state):
    state.items.append(data[2])


def whole(name, state):
    if "raise" in state.items:
        raise ValueError(name)
    return None if "none" in state.items else (name, 7, tuple(state.items))


total = wallaroo.state_computation("total", state=Total, on_end=whole)(put)
totals = wallaroo.state_computation_multi(
    "totals", state=Total,
    on_end=lambda name, state: [(name, item) for item in state.items])(put)
wrong = wallaroo.state_computation_multi(
    "wrong", state=Total, on_end=whole)(put)
ITEMS = [("b", 1, 1), ("a", 2, 2), ("c", 3, "raise"), ("d", 4, "none"),
         ("b", 5, 3)]


def test_each_key_has_an_end():
    assert ran(plain("in").key_by(key).to(total), {"in": ITEMS},
               on_error="skip").values == [("a", 7, (2,)), ("b", 7, (1, 3))]
    assert ran(plain("in").key_by(key).to(totals), {"in": ITEMS[:2]}
               ).values == [("a", 2), ("b", 1)]
    result = ran(plain("in").key_by(key).to(wrong), {"in": ITEMS[:1]},
                 on_error="dead-letter")
    assert "must return a list" in result.dead_letters[0].error
    # In one place for all keys.
    assert ran(plain("in").collect().to(totals), {"in": ITEMS[:2]}).values \
        == [("collect-key-totals", 1), ("collect-key-totals", 2)]


def test_no_end_without_one():
    tcp = wallaroo.source("in", wallaroo.TCPSourceConfig(
        "in", "localhost", "7000", lines_decoder))
    assert not ran(tcp.key_by(key).to(total), {"in": ITEMS}).values
    assert not ran(plain("in").key_by(key).to(total), {"in": ITEMS},
                   until=10).values


def test_windows_behind_an_end():
    count = wallaroo.count_windows(3).with_timeout(None).over(Collect)
    for first, windows in ((plain("in"), count), (source("in"), count),
                           (source("in"), tumbling(10))):
        result = ran(first.key_by(key).to(total).to(windows),
                     {"in": ITEMS[:2]})
        assert result.values == [("a", ((2,),)), ("b", ((1,),))]


def test_classes_of_ones_own_have_ends():
    class Own(wallaroo.StateComputation):
        def name(self):
            return "own"

        def initial_state(self):
            return Total()

        def compute(self, data, state):
            put(data, state)

        def on_end(self, name, state):
            return len(state.items)

    assert ran(plain("in").key_by(key).to(Own()), {"in": ITEMS}).values == [
        1, 2, 1, 1]


def test_what_the_worker_calls_for_an_end():
    compiled = _topology.compile_application(application(
        plain("in").key_by(key).to(total)))
    [stage] = [s for s in compiled.topology[4] if s[1] == "state"]
    state = Total()
    put(("a", 1, 5), state)
    call = compiled.functions[stage[8]]
    assert call(state, "a", None, 99, 0) == (
        [(("a", 7, (5,)), 99)], 0, [], 0, False)
    put(("a", 1, "raise"), state)
    assert [str(e) for e in call(state, "a", None, 99, 0).errors] == ["a"]


def test_a_function_for_the_end_takes_key_and_state():
    with pytest.raises(wallaroo.WallarooParameterError, match="on_end of x"):
        wallaroo.state_computation("x", state=Total, on_end=lambda a: a)(put)


# -- the state --------------------------------------------------------------

def filled():
    rules = _event_time.EventRange(_windows.RangeWindows(
        20, 10, 0, Collect(), "drop"))
    state = rules.state()
    assert rules.call(state, "k", ("k", 5, "m"), 5, 0, (0, 0, 1, 0)).due == 10
    assert rules.call(state, "k", ("k", 7, "n"), 7, 0, (0, 0, 2, 0)) is None
    assert rules.call(state, "k", ("k", 1, "o"), 1, 25, (0, 0, 2, 0)) is False
    return rules, state


def test_state_is_saved_by_the_applications_own_functions():
    rules, state = filled()
    save, load = _windows.hooks(lambda o: b"own" + pickle.dumps(o),
                                lambda bs: pickle.loads(bs[3:]))
    for copy in (load(save(state)), pickle.loads(pickle.dumps(state))):
        fired = rules.timeout(copy, "k", 10)
        assert fired.outputs == [(("k", ("m", "n")), 9)]
        assert (fired.due, fired.open) == (20, True)
        fired = rules.timeout(copy, "k", 20)
        assert fired.outputs == [(("k", ("m", "n")), 19)]
        assert (fired.due, fired.open) == (0, _windows.GONE)
    assert state.held and b"own" in save(state)
