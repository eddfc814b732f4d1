"""Windows on the runtime, under kills.

User code sees the time of its record, and in a timeout that of the tick, so
an output tells when its window was fired and by what.  With one worker that
is enough to have the model fire the same windows at the same moments: then
every output must be the model's.  With several workers it is only known that
nothing is lost, repeated or put into a window where it does not belong.
"""

import collections
import json
import os
import sys
import types

import pytest

import harness
import killer
import wallaroo.testing

sys.path.insert(0, os.path.join(harness.SOURCE_TREE, "tests", "python"))
import windows_model as model  # noqa: E402

MS = 10**6
READING = 1000		# each look at the clock moves it by so many ns

APPLICATION = '''
import json
import time

import wallaroo
from wallaroo import milliseconds


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    key, number = data.decode().split()
    return [key, int(number), time.time_ns() - READING]


@wallaroo.key_extractor
def by_key(data):
    return data[0]


@wallaroo.key_extractor
def by_first_letter(data):
    return data[0][0]


class Seen(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data[1:])

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return [key, accumulator, time.time_ns()]


class All(Seen):
    """Of what Seen has put out."""

    def update(self, data, accumulator):
        accumulator.extend(data[1])


@wallaroo.encoder
def encode(data):
    end = time.time_ns() - READING
    return json.dumps(data + [end]) + "\\n"


def source(name, host, port):
    return wallaroo.source(name, wallaroo.TCPSourceConfig(
        name, host, port, decode))


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("windows", (
        source(name, host, port)
        .key_by(by_key)
        .to(STAGES)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''

RANGE, SLIDE, DELAY = 300, 100, 100


class Windows:
    """A cluster with windows and what is known of its run."""

    def __init__(self, cluster, receiver, stages, workers,
                 text=None, **more):
        self.port = harness.free_port()
        self.sink = receiver()
        text = (text or APPLICATION).replace("READING", str(READING)).replace(
            "STAGES", stages)
        self.text = text
        self.args = ["--in", "in@127.0.0.1:%d" % self.port,
                     "--out", self.sink.address()]
        self.app = cluster(text, workers=workers, args=self.args, **more)
        self.moments = self.app.out("moments")
        self.app.write("app_under_test.py", text.replace(
            "MOMENTS_FILE", repr(self.moments)))
        self.app.start()
        self.sent = []		# (key, number)

    def send(self, client, keys):
        pairs = [(key, len(self.sent) + n) for n, key in enumerate(keys)]
        self.sent += pairs
        client.send_frames(
            ("%s %d" % pair).encode() for pair in pairs)

    def outputs(self):
        """Per connection: whole lines only."""
        return [[json.loads(line) for line in data.split(b"\n")[:-1]]
                for data in self.sink.data()]

    def numbers(self):
        return {number for lines in self.outputs()
                for _, items, *_ in lines for number, _ in items}

    def wait_all(self):
        """Every number has left in some window."""
        harness.wait_for(
            lambda: len(self.numbers()) == len(self.sent),
            "windows with all messages", step=0.1)


def feed(windows, client, rng, seconds, after=None):
    """Bursts with pauses; some keys only now and then."""
    keys = ["often%d" % n for n in range(3)] + ["seldom"]
    begin = os.times().elapsed
    while os.times().elapsed < begin + seconds:
        windows.send(client, [
            rng.choice(keys if rng.random() < 0.1 else keys[:3])
            for _ in range(rng.randrange(20))])
        if after is not None:
            after()
        wait(rng.random() * 0.05)


def wait(seconds):
    """Only to let time pass in which windows come to an end."""
    import threading

    threading.Event().wait(seconds)


def check_against_model(windows):
    """One worker: each output is the model's, at its moment."""
    [lines] = windows.outputs()
    times = {number: time for _, items, *_ in lines for number, time in items}
    actual = collections.defaultdict(collections.deque)
    for key, items, reading, end in lines:
        actual[key].append((items, reading - READING, end))
    fired = {"record": 0, "tick": 0, "silence": 0}
    models, last = {}, None

    def expect(key, outputs, moment):
        for n, (items, end) in enumerate(outputs):
            assert actual[key].popleft() == (
                items, moment + n * READING, end), (key, moment, n)

    def ticks(key, until):
        while actual[key] and actual[key][0][1] < until:
            moment = actual[key][0][1]
            live = moment - last <= 4 * (RANGE + DELAY) * MS
            outputs, _ = models[key].timeout(
                last if live else model.ENDLESS)
            assert outputs, (key, moment)
            fired["tick" if live else "silence"] += 1
            expect(key, outputs, moment)

    for key, number in windows.sent:
        time = times[number]
        if key not in models:
            models[key] = model.RangeModel(
                Collect(), RANGE * MS, SLIDE * MS, DELAY * MS,
                offset=offset_of(key), key=key)
        for other in models:
            if last is not None:
                ticks(other, time)
        assert last is None or time >= last
        last = time
        outputs, _ = models[key].message([number, time], time, time)
        fired["record"] += len(outputs) > 0
        expect(key, outputs, time)
    for key in models:
        ticks(key, 1 << 63)
    return fired


class Collect:
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return list(accumulator)


def offset_of(key, length=RANGE, slide=SLIDE, delay=DELAY):
    import wallaroo._windows as package

    return package.RangeArithmetic(package.RangeWindows(
        length * MS, slide * MS, delay * MS, Collect(), "drop")).offset(key)


SLIDING = ("wallaroo.range_windows(milliseconds(%d))"
           ".with_slide(milliseconds(%d)).with_delay(milliseconds(%d))"
           ".over(Seen)" % (RANGE, SLIDE, DELAY))


@pytest.mark.parametrize("kills", [0, pytest.param(
    8, marks=pytest.mark.level("all"))])
def test_sliding_windows_are_the_models(cluster, receiver, feeder, rng,
                                        report, kills):
    windows = Windows(cluster, receiver, SLIDING, workers=1)
    client = feeder(windows.port)
    killing = killer.Killer(windows.app, seed=rng.random())

    def kill():
        if killing.kills < kills and rng.random() < 0.5:
            killing.kill(0)

    feed(windows, client, rng, 1.5, kill)
    windows.wait_all()		# by silence
    while killing.kills < kills // 2:
        killing.kill(0)		# with windows that are all closed
    feed(windows, client, rng, 1.5, kill)
    while killing.kills < kills:
        killing.kill(0)		# with windows that wait for a timeout
    windows.wait_all()
    windows.app.wait_workers()
    windows.app.stop()
    windows.sink.wait_ends()
    fired = check_against_model(windows)
    # A machine that stands still may leave nothing to the messages.
    assert fired["silence"] > 0, fired
    report("fired by %(record)d messages, %(tick)d ticks, "
           "%(silence)d after silence" % fired)


TUMBLING = ("wallaroo.range_windows(milliseconds(200))"
            ".with_late_data_policy('place-in-oldest-window').over(Seen)")
COUNTING = ("wallaroo.count_windows(7).with_timeout(milliseconds(300))"
            ".over(Seen)")
CHAIN = (TUMBLING + ").key_by(by_first_letter).to("
         "wallaroo.range_windows(milliseconds(400))"
         ".with_late_data_policy('place-in-oldest-window').over(All)")


def once_each(windows):
    got = collections.Counter(
        number for lines in windows.outputs()
        for _, items, *_ in lines for number, _ in items)
    assert got == collections.Counter(
        number for _, number in windows.sent), [
            (number, count) for number, count in got.items() if count != 1]


@pytest.mark.level("all")
@pytest.mark.parametrize("kind,durability", [
    ("tumbling", "process"), ("counting", "process"), ("chain", "process"),
    ("chain", "machine")])
def test_each_message_is_in_one_window(cluster, receiver, feeder, rng, kind,
                                       durability):
    stages = {"tumbling": TUMBLING, "counting": COUNTING,
              "chain": CHAIN}[kind]
    settings = {"runtime-directory": None} if durability == "machine" else {}
    windows = Windows(cluster, receiver, stages, workers=3,
                      durability=durability, settings=settings)
    clients = [feeder(windows.port) for _ in range(3)]
    killing = killer.Killer(windows.app, seed=rng.random())
    for turn in range(6):
        for client in clients:
            feed(windows, client, rng, 0.2)
        killing.kill_random(3 if turn == 3 else 1)
    windows.wait_all()
    windows.app.wait_workers()
    windows.app.stop()
    windows.sink.wait_ends()
    once_each(windows)
    keys = dict((number, key) for key, number in windows.sent)
    for lines in windows.outputs():
        for key, items, _, end in lines:
            if kind == "chain":
                assert all(keys[n][0] == key for n, _ in items)
                continue
            assert all(keys[n] == key for n, _ in items)
            if kind == "counting":
                assert 0 < len(items) <= 7
            else:
                # A message that was late is older than its window.
                assert all(time <= end for _, time in items)


# -- late data ---------------------------------------------------------------

LATE = APPLICATION + '''

import os

MOMENTS = os.open(MOMENTS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


@wallaroo.computation(name="tell")
def tell(data):
    end = time.time_ns() - READING
    os.write(MOMENTS, (json.dumps(data + [end]) + "\\n").encode())
    return data


class Ends(Seen):
    """Which windows of which keys there were."""

    def update(self, data, accumulator):
        accumulator.append([data[0], data[1]])
'''

FIRST, SECOND = 100, 20

BEHIND = ("wallaroo.range_windows(milliseconds(%d)).over(Seen))"
          ".to(tell).collect().to(wallaroo.range_windows(milliseconds(%d))"
          ".with_late_data_policy('POLICY').over(Ends)" % (FIRST, SECOND))


def calls_of(path):
    """What the first windows have sent to the second ones: the moment of
    each call, and (key, items, end) of its outputs."""
    calls, told = [], set()
    with open(path) as file:
        for text in file:
            if not text.endswith("\n") or text in told:
                continue	# it was told again after a kill
            told.add(text)
            key, items, reading, end = json.loads(text)
            moment = reading - READING
            if calls:
                before, outputs = calls[-1]
                if outputs[0][0] == key and \
                        before + len(outputs) * READING == moment:
                    outputs.append((key, items, end))
                    continue
            calls.append((moment, [(key, items, end)]))
    return calls


def any_late(calls):
    newest = 0
    for _, outputs in calls:
        if min(end for *_, end in outputs) <= newest - SECOND * MS:
            return True
        newest = max(newest, outputs[-1][2])
    return False


class SecondStage:
    """Checks what it has put out against what it was given."""

    def __init__(self, outputs, policy):
        self.actual = collections.deque(outputs)
        self.policy = policy
        self.model = None
        self.watermark = self.heard = self.late = 0

    def holds_something(self):
        return self.model is not None and self.model.panes \
            and self.model.newest >= self.model.panes[0][0]

    def expect(self, outputs, moment):
        for n, (items, end) in enumerate(outputs):
            if not self.actual:
                raise EOFError
            _, got, reading, got_end = self.actual.popleft()
            assert (got, got_end, reading - READING) == (
                items, end, moment + n * READING)

    def silence(self, until):
        """A tick puts out everything, long after the last call."""
        if not self.actual or not self.holds_something():
            return
        moment = self.actual[0][2] - READING
        if moment < until and moment not in self.ends:
            assert moment > self.heard + 4 * SECOND * MS
            self.expect(self.model.timeout(model.ENDLESS)[0], moment)

    def take(self, key, items, end, moment, watermark):
        if self.model is None:
            if not self.actual:
                raise EOFError
            name = self.actual[0][0]
            self.model = model.RangeModel(
                Collect(), SECOND * MS, None, 0, self.policy,
                offset_of(name, SECOND, SECOND, 0), name)
        self.silence(moment)
        self.watermark = max(self.watermark, watermark)
        panes = self.model.panes
        self.late += bool(panes) and end < panes[0][0]
        outputs, _ = self.model.message([key, items], end, self.watermark)
        self.expect(outputs, end)

    def check(self, calls):
        """Whether everything has come out."""
        # What a call puts out has the time of what was given.
        self.ends = {end for _, of in calls for _, _, end in of}
        try:
            for moment, outputs in calls:
                for key, items, end in outputs:
                    # only the last of a call has its watermark
                    self.take(key, items, end, moment, end if
                              end == outputs[-1][2] else self.watermark)
                self.heard = moment
            self.silence(1 << 63)
        except EOFError:
            return False
        return not self.holds_something()


@pytest.mark.level("all")
@pytest.mark.parametrize("policy", [
    "drop", "fire-per-message", "place-in-oldest-window"])
def test_late_data(cluster, receiver, feeder, rng, report, policy):
    """Windows of windows: those of a key that comes only once end late, by
    ticks, when the second ones have gone on with other keys."""
    windows = Windows(cluster, receiver, BEHIND.replace("POLICY", policy),
                      workers=1, text=LATE)
    client = feeder(windows.port)
    killing = killer.Killer(windows.app, seed=rng.random())

    def once_and_kill():
        windows.send(client, ["once%d" % len(windows.sent)])
        if killing.kills < 5 and rng.random() < 0.2:
            killing.kill(0)

    feed(windows, client, rng, 2, once_and_kill)
    harness.wait_for(lambda: any_late(calls_of(windows.moments)) or feed(
        windows, client, rng, 0.2, once_and_kill), "late data")

    def numbers():
        return {number for _, outputs in calls_of(windows.moments)
                for _, items, _ in outputs for number, _ in items}
    harness.wait_for(lambda: len(numbers()) == len(windows.sent),
                     "the first windows", step=0.1)

    def second():
        [lines] = windows.outputs()
        stage = SecondStage(lines, policy)
        return stage if stage.check(calls_of(windows.moments)) else None
    stage = harness.wait_for(second, "the second windows", step=0.1)
    windows.app.wait_workers()
    windows.app.stop()
    assert not stage.actual and stage.late > 0
    report("%d windows were late" % stage.late)


@pytest.mark.level("all")
def test_count_windows_are_the_references(cluster, receiver, feeder, rng):
    """Without a timeout nothing depends on time: from one source each key
    has the windows of the reference executor, on any number of workers."""
    stages = "wallaroo.count_windows(4).with_timeout(None).over(Seen)"
    windows = Windows(cluster, receiver, stages, workers=3)
    client = feeder(windows.port)
    killing = killer.Killer(windows.app, seed=rng.random())
    for turn in range(5):
        windows.send(client, ["k%d" % rng.randrange(40)
                              for _ in range(300)])
        killing.kill_random(3 if turn == 2 else 1)
    module = types.ModuleType("windows_under_test")
    exec(windows.text, module.__dict__)
    expected = collections.defaultdict(list)
    for key, items, _ in wallaroo.testing.run(
            module.application_setup(["windows"] + windows.args),
            {"in": [("%s %d" % pair).encode()
                    for pair in windows.sent]}).values:
        expected[key].append([number for number, _ in items])
    harness.wait_for(
        lambda: sum(map(len, windows.outputs()))
        >= sum(map(len, expected.values())), "all windows", step=0.1)
    windows.app.wait_workers()
    windows.app.stop()
    windows.sink.wait_ends()
    got = collections.defaultdict(list)
    for lines in windows.outputs():
        for key, items, *_ in lines:
            got[key].append([number for number, _ in items])
    assert got == expected


@pytest.mark.level("all")
def test_windows_outlive_a_stop(cluster, receiver, feeder):
    """Open windows are saved, and close after the next start, also with
    another number of workers."""
    stages = "wallaroo.count_windows(100).with_timeout(" \
        "wallaroo.seconds(2)).over(Seen)"
    windows = Windows(cluster, receiver, stages, workers=2)
    client = feeder(windows.port)
    # What a timeout has put out already does no harm.
    windows.send(client, ["k%d" % (n % 5) for n in range(25)])
    harness.wait_for(lambda: windows.app.stat("records_in") == 25,
                     "25 records")
    windows.app.stop()
    windows.app.write_conf(workers=3)
    windows.app.start()
    windows.wait_all()
    client = feeder(windows.port)
    windows.send(client, ["k%d" % (n % 5) for n in range(25)])
    windows.wait_all()
    windows.app.stop()
    once_each(windows)


@pytest.mark.level("all")
def test_state_of_windows_can_be_asked_for(cluster, receiver, feeder):
    windows = Windows(cluster, receiver,
                      "wallaroo.count_windows(100).with_timeout(None)"
                      ".over(Seen)", workers=1)
    client = feeder(windows.port)
    windows.send(client, ["a", "a", "a"])
    harness.wait_for(lambda: windows.app.stat("records_in") == 3,
                     "3 records")
    reply = json.dumps(windows.app.ctl("state", "get", "Seen", "a"))
    assert "count=3" in reply
    pid = windows.app.kill9(0)
    windows.app.wait_replaced(0, pid)
    assert json.dumps(windows.app.ctl("state", "get", "Seen", "a")) == reply
    windows.app.stop()


HOOKS = '''

def serialize(o):
    if type(o) is not list or any(type(i) is not list for i in o) and len(
            o) != 3:
        raise TypeError("unknown: %r" % (o,))
    return json.dumps(o).encode()


def deserialize(bs):
    return json.loads(bs)


def application_setup'''


@pytest.mark.level("all")
def test_own_serialization(cluster, receiver, feeder, monkeypatch):
    """It is asked for accumulators and messages, of plain lists here."""
    monkeypatch.setitem(
        globals(), "APPLICATION",
        APPLICATION.replace("\ndef application_setup", HOOKS))
    windows = Windows(cluster, receiver, COUNTING, workers=2)
    client = feeder(windows.port)
    for _ in range(3):
        windows.send(client, ["k%d" % (n % 5) for n in range(19)])
        harness.wait_for(lambda: windows.app.stat("records_in")
                         == len(windows.sent), "all records")
        windows.app.ctl("checkpoint")
        pid = windows.app.kill9(0)
        windows.app.wait_replaced(0, pid)
    windows.wait_all()
    windows.app.stop()
    windows.sink.wait_ends()
    once_each(windows)


FAILING = '''

class Seen(Seen):
    on_error = "dead-letter"

    def update(self, data, accumulator):
        if data[1] % 10 == 3:
            raise ValueError("not in this window")
        accumulator.append(data[1:])


def application_setup'''


@pytest.mark.level("all")
def test_errors_are_dead_letters(cluster, receiver, feeder, monkeypatch):
    monkeypatch.setitem(
        globals(), "APPLICATION",
        APPLICATION.replace("\ndef application_setup", FAILING))
    windows = Windows(cluster, receiver, TUMBLING, workers=2)
    client = feeder(windows.port)
    windows.send(client, ["k%d" % (n % 3) for n in range(50)])
    harness.wait_for(lambda: len(windows.numbers()) == 45,
                     "windows with the rest")
    pid = windows.app.kill9(0)
    windows.app.wait_replaced(0, pid)
    path = os.path.join(windows.app.state_dir, "dead-letters.jsonl")

    def letters():
        with open(path) as file:
            return [json.loads(line) for line in file]
    harness.wait_for(lambda: os.path.exists(path) and len(letters()) >= 5,
                     "5 dead letters")
    windows.app.stop()
    assert len(letters()) == 5
    for letter in letters():
        assert letter["step"] == "Seen"
        assert letter["error"] == "ValueError: not in this window"
        assert "in update" in letter["traceback"]
    assert sorted(json.loads(letter["input"].replace("'", '"'))[1]
                  for letter in letters()) == [3, 13, 23, 33, 43]
