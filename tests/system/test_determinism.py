"""A step that reads clocks and randomness gets the same values when its
entry is replayed after a kill."""

import json
import time

import pytest

import apps
import harness


@pytest.fixture
def running(cluster, receiver, feeder):
    def make(workers, **settings):
        sink = receiver()
        port = harness.free_port()
        app = cluster(apps.DETERMINISM, workers=workers, settings=settings,
                      args=apps.word_count_args(port, sink.port))
        app.start()
        return app, sink, feeder(port)
    return make


def told(sink):
    lines = [json.loads(line) for line in sink.all_lines()]
    return [line for line in lines if line[0] == "told"]


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all"))])
def test_same_values_in_a_replay(running, workers):
    """No checkpoint after the inputs: after the kill everything is
    computed again, and the state must hold what was put out before."""
    app, sink, client = running(workers, **{"checkpoint-interval": 3600})
    count = 50
    for number in range(count):
        client.send_frames([b"message %d" % number])
    sink.wait_lines(count)
    seen = [json.loads(line) for line in sink.all_lines()]
    first = {values[0][0][0]: (born, values[0])
             for _, born, values in seen}
    assert len(first) == count

    for pids in range(2):
        before = app.pids()
        for worker in before:
            app.kill9(worker)
        for worker, pid in before.items():
            app.wait_replaced(worker, pid)
        client.send_frames([b"tell"])
        harness.wait_for(lambda: len(told(sink)) == pids + 1, "an answer")
        _, born, values = told(sink)[-1]
        assert len(values) == count
        for value in values:
            was_born, was = first[value[0][0]]
            assert born == was_born
            assert value[0][1] == was[0][1]		# of the decoder
            assert value[0][2] == was[0][2]		# of the stateless step
            assert value[1] == was[1]			# of the stateful step
    assert app.stat("nondeterministic") == 0


def test_values_are_sensible(running):
    """Near the real time, never going back, random ones all different."""
    app, sink, client = running(1)
    begun = time.time()
    for number in range(30):
        client.send_frames([b"message %d" % number])
        time.sleep(0.01)
    sink.wait_lines(30)
    ended = time.time()
    rows = [json.loads(line)[2][0] for line in sink.all_lines()]
    observed = [[row[0][1], row[0][2], row[1]] for row in rows]
    for decoded, stateless, stateful in observed:
        for values in (decoded, stateless, stateful):
            assert begun - 1 < values[0] < ended + 1
            assert abs(values[1] / 1e9 - values[0]) < 1
    for one, other in zip(observed, observed[1:]):
        assert one[0][0] <= other[0][0] and one[0][2] <= other[0][2]
    # Nothing random comes twice: not in two messages, not in two steps.
    for place in (9, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21, 24):
        every = [values[place] for row in observed for values in row]
        assert len(set(every)) == len(every), place


def test_sleep_in_a_step(cluster, receiver, feeder):
    """The clock that a step sees stands still, but sleeping ends."""
    source = apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    import time\n    time.sleep(0.05)\n    state.count += 1\n")
    sink = receiver()
    port = harness.free_port()
    app = cluster(source, workers=1,
                  args=apps.word_count_args(port, sink.port))
    app.start()
    client = feeder(port)
    client.send_frames([b"one two three"])
    sink.wait_lines(3, limit=20)
    app.stop()


SLOW_VALUES = '''
import select
import time
import wallaroo


class Slow:
    def initial_value(self):
        return 1

    def apply(self, last):
        select.select([], [], [], 0.005)
        return last + 1 if last < 40 else None


@wallaroo.computation(name="When")
def when(value):
    return "%d %d" % (value, time.time_ns() // 100000)


@wallaroo.encoder
def encode(text):
    return text + "\\n"


def application_setup(args):
    return wallaroo.build_application("slow values", (
        wallaroo.source("slow", wallaroo.GenSourceConfig("slow", Slow()))
        .to(when)
        .to_sink(wallaroo.FileSinkConfig(args[1], encode))))
'''


def test_values_of_a_slow_generator_have_their_own_time(cluster):
    """Not the one of the moment when many were asked for."""
    app = cluster(SLOW_VALUES)
    app.write_conf(args=[app.out("output")])
    app.start()
    harness.wait_for(lambda: app.read_out("output").count(b"\n") == 40,
                     "all values")
    app.stop()
    times = [int(line.split()[1])
             for line in app.read_out("output").splitlines()]
    assert times == sorted(times) and len(set(times)) == 40
