"""The work without a runtime, of functions that an application has.

One process, states in a dict, output joined and written per 1,000 lines, as
in floor.py; and two processes that exchange pickled batches of 1,000.
"""

import importlib
import multiprocessing
import os
import pickle
import sys
import time

BATCH = 1000
HERE = os.path.dirname(os.path.abspath(__file__))


def load(name):
    """The module of an application beside this file; its objects can be
    pickled."""
    sys.path.insert(0, HERE)
    return importlib.import_module(name[:-len(".py")])


def function(stage):
    """The user's own one, not the stage object made of it."""
    return stage._func


class Step:
    """A state computation by key: function, key, state, output."""

    def __init__(self, key, compute, new):
        self.key = function(key)
        self.compute = function(compute)
        self.new = new


class Work:
    """decode; then steps; then encode.  split: None or a multi."""

    def __init__(self, decode, steps, encode, split=None):
        self.decode = decode
        self.steps = steps
        self.encode = function(encode)
        self.split = function(split) if split else None


def words():
    app = load("word_count_app.py")
    return Work(app.decode, [Step(app.word, app.count, app.Total)],
                app.encode, app.split)


def counter():
    app = load("instructions_app.py")
    return Work(app.Readings().decode,
                [Step(app.sensor, app.count, app.Total)], app.encode)


def exchanges():
    app = load("instructions_app.py")
    return Work(app.Readings().decode,
                [Step(app.sensor, app.count, app.Total),
                 Step(app.place, app.add, app.Total)], app.encode)


def busy(rounds):
    app = load("bench_app.py")
    app.rounds = int(rounds)
    return Work(app.Whole().decode, [Step(app.whole, app.busy, app.Count)],
                app.encode_pair)


def hop():
    app = load("bench_app.py")
    return Work(app.Whole().decode, [Step(app.whole, app.hop, app.Count)],
                app.encode_pair)


WORKS = {"words": words, "counter": counter, "exchanges": exchanges,
         "busy": busy, "hop": hop}


def one_step(work, source, output):
    decode, encode = work.decode, work.encode
    step, = work.steps
    key, compute, new = step.key, step.compute, step.new
    states = {}
    out = []
    for line in source:
        data = decode(line.rstrip(b"\n"))
        name = key(data)
        state = states.get(name)
        if state is None:
            state = states[name] = new()
        result = compute(data, state)
        if result is not None:
            encoded = encode(result)
            out.append(encoded if type(encoded) is bytes
                       else encoded.encode())
        if len(out) == BATCH:
            output.write(b"".join(out))
            out.clear()
    output.write(b"".join(out))


def two_steps(work, source, output):
    decode, encode = work.decode, work.encode
    one, two = work.steps
    key1, compute1, new1 = one.key, one.compute, one.new
    key2, compute2, new2 = two.key, two.compute, two.new
    states1, states2 = {}, {}
    out = []
    for line in source:
        data = decode(line.rstrip(b"\n"))
        name = key1(data)
        state = states1.get(name)
        if state is None:
            state = states1[name] = new1()
        data = compute1(data, state)
        name = key2(data)
        state = states2.get(name)
        if state is None:
            state = states2[name] = new2()
        out.append(encode(compute2(data, state)).encode())
        if len(out) == BATCH:
            output.write(b"".join(out))
            out.clear()
    output.write(b"".join(out))


class Half:
    """One of the two processes: half of the keys of each step."""

    def __init__(self, work, index, output):
        self.work = work
        self.index = index
        self.output = output
        self.states = [{} for _ in work.steps]
        self.out = []

    def split(self, number, items):
        """(those for this process, those for the other), with their keys"""
        key = self.work.steps[number].key
        mine, theirs = [], []
        index = self.index
        for data in items:
            name = key(data)
            if sum(name[-2:] if type(name) is bytes
                   else name[-2:].encode()) & 1 == index:
                mine.append((name, data))
            else:
                theirs.append((name, data))
        return mine, theirs

    def compute(self, number, pairs):
        step = self.work.steps[number]
        states, compute, new = self.states[number], step.compute, step.new
        results = []
        for name, data in pairs:
            state = states.get(name)
            if state is None:
                state = states[name] = new()
            result = compute(data, state)
            if result is not None:
                results.append(result)
        return results

    def finish(self, results):
        encode = self.work.encode
        for result in results:
            encoded = encode(result)
            self.out.append(encoded if type(encoded) is bytes
                            else encoded.encode())
        if len(self.out) >= BATCH:
            self.flush()

    def flush(self):
        self.output.write(b"".join(self.out))
        self.out.clear()

    def second(self, results):
        """Results of the first step: finish them, or half of them; what the
        other has to do."""
        if len(self.work.steps) == 1:
            self.finish(results)
            return []
        mine, theirs = self.split(1, results)
        self.finish(self.compute(1, mine))
        return theirs


def dump(connection, *lists):
    connection.send_bytes(pickle.dumps(lists, pickle.HIGHEST_PROTOCOL))


def take(connection):
    return pickle.loads(connection.recv_bytes())


def other_half(work, connection, target):
    """Answers each batch of first steps with second steps."""
    with open(target, "wb") as output:
        half = Half(work, 1, output)
        while True:
            given = take(connection)
            if not given:
                break
            first, second = given
            if len(work.steps) > 1:
                half.finish(half.compute(1, second))
            dump(connection, half.second(half.compute(0, first)))
        half.flush()
    times = os.times()
    dump(connection, times.user + times.system)


def decoded(work, source):
    """Batches of decoded lines."""
    items = []
    for line in source:
        data = work.decode(line.rstrip(b"\n"))
        if work.split:
            items.extend(work.split(data))
        else:
            items.append(data)
        if len(items) >= BATCH:
            yield items
            items = []
    yield items


def pair(work, source, target):
    """CPU seconds of the other process."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=other_half,
                              args=(work, there, target + ".2"))
    process.start()
    with open(target, "wb") as output:
        half = Half(work, 0, output)
        second, waiting = [], 0

        def answer():
            results, = take(here)
            if len(work.steps) > 1:
                half.finish(half.compute(1, results))

        for items in decoded(work, source):
            mine, theirs = half.split(0, items)
            dump(here, theirs, second)
            waiting += 1
            second = half.second(half.compute(0, mine))
            if waiting == 2:		# the other one works meanwhile
                answer()
                waiting -= 1
        dump(here, [], second)
        for _ in range(waiting + 1):
            answer()
        dump(here)
        used, = take(here)
        half.flush()
    process.join()
    return used


def measure(processes, kind, source, target, *args):
    """(seconds, CPU seconds)"""
    work = WORKS[kind](*args)
    begun, used = time.monotonic(), time.process_time()
    with open(source, "rb") as file:
        if processes == "2":
            used -= pair(work, file, target)
        else:
            with open(target, "wb") as output:
                (one_step if len(work.steps) == 1 else two_steps)(
                    work, file, output)
    return time.monotonic() - begun, time.process_time() - used


if __name__ == "__main__":
    print("%.6f %.6f" % measure(*sys.argv[1:]))
