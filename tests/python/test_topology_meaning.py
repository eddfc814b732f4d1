"""The compiled form means what the reference executor does.

A little interpreter of the compiled form, with several pretended workers,
runs random pipelines; the reference executor runs the same, unaware of the
compiler.
"""

import random
import zlib

import pytest

import stages
import wallaroo
from wallaroo import _topology
from wallaroo.testing import run


class Worker:
    """The states that one pretended worker holds."""

    def __init__(self):
        self.states = {}


class Cluster:
    """Interprets a compiled application, one record at a time."""

    def __init__(self, compiled, workers):
        self.compiled = compiled
        _, _, _, self.sources, self.stages, self.sinks = compiled.topology
        self.workers = [Worker() for _ in range(workers)]
        self.outputs = [[] for _ in self.sinks]

    def owner(self, key):
        return zlib.crc32(key) % len(self.workers)

    def push(self, source, worker, value):
        self.flow(source[2], worker, value, source[11], -1)

    def flow(self, number, worker, value, key, last_exchange):
        name, kind, nxt, fn, exchange, multi, _, _ = self.stages[number]
        function = self.compiled.functions[fn] if fn != -1 else None
        outputs = [value]
        if kind == "sinks":
            self.write(worker, value)
            return
        if kind == "step":
            outputs = self.results(multi, function(value))
        elif kind == "state":
            # Only the owner of a key may touch its state.
            assert worker == self.owner(key)
            states = self.workers[worker].states.setdefault(name, {})
            if key not in states:
                states[key] = self.compiled.state_factories[fn]()
            outputs = self.results(multi, function(value, states[key]))
        elif kind == "key_by":
            key = self.key(function(value))
        elif kind == "collect":
            key = name.encode()
        if exchange != -1:
            assert exchange > last_exchange
            last_exchange, worker = exchange, self.owner(key)
        assert nxt > number
        for output in outputs:
            self.flow(nxt, worker, output, key, last_exchange)

    def results(self, multi, result):
        results = result if multi else [result]
        return [r for r in results or [] if r is not None]

    def key(self, key):
        key = chr(key) if isinstance(key, int) else key
        return key.encode() if isinstance(key, str) else key

    def write(self, worker, value):
        for number, sink in enumerate(self.sinks[:-1]):
            data = self.compiled.functions[sink[2]](value)
            self.outputs[number].append(data.encode())

    def states(self):
        merged = {}
        for worker in self.workers:
            for name, states in worker.states.items():
                for key, state in states.items():
                    assert key not in merged.setdefault(name, {})
                    merged[name][key.decode()] = state.n
        return merged


def random_stages(rng, p, names):
    for _ in range(rng.randrange(5)):
        kind = rng.randrange(8)
        if kind == 0:
            p = p.to(stages.double)
        elif kind == 1:
            p = p.to(stages.odd_only)
        elif kind == 2:
            p = p.to(stages.twice)
        elif kind in (3, 4):
            p = p.key_by(rng.choice([stages.parity, stages.last_digit]))
        elif kind == 5:
            p = p.collect()
        else:
            name = "State %d" % len(names)
            names.append(name)
            if kind == 6:
                p = p.to(wallaroo.state_computation(name, stages.Total)(
                    stages.add._func))
            else:
                p = p.to(wallaroo.state_computation_multi(
                    name, stages.Total)(stages.add_multi._func))
    return p


def random_application(rng):
    names = []

    def part(n):
        source = wallaroo.source("S%d" % n, stages.tcp_source("s%d" % n))
        return random_stages(rng, source, names)

    p = part(0)
    for n in range(1, rng.randrange(1, 5)):
        other = part(n)
        if p._ends_keyed() != other._ends_keyed():
            p, other = p.to(stages.double), other.to(stages.double)
        merged = p.merge(other) if rng.random() < 0.5 else other.merge(p)
        p = random_stages(rng, merged, names)
    sinks = [stages.tcp_sink(7000 + n) for n in range(rng.randrange(1, 3))]
    return wallaroo.build_application("Random", p.to_sinks(sinks))


@pytest.mark.parametrize("seed", range(150))
def test_random_pipeline(seed):
    rng = random.Random(seed)
    app = random_application(rng)
    compiled = _topology.compile_application(app)
    sources = {source[0]: source for source in compiled.topology[3]}
    inputs = [
        (rng.choice(list(sources)), rng.randrange(100)) for _ in range(60)
    ]
    expected = run(app, inputs)
    for workers in (1, 3):
        cluster = Cluster(compiled, workers)
        for name, value in inputs:
            cluster.push(sources[name], rng.randrange(workers), value)
        assert cluster.outputs[:-1] == list(expected.outputs.values())
        assert cluster.states() == {
            step: {key: state.n for key, state in states.items()}
            for step, states in expected.states.items() if states
        }


@pytest.mark.parametrize("seed", range(150))
def test_random_pipeline_is_well_formed(seed):
    topology = _topology.compile_application(
        random_application(random.Random(seed))).topology
    wire = topology[4]
    assert [s[1] for s in wire].count("sinks") == 1
    assert wire[-1][1] == "sinks"
    exchanges = [s[4] for s in wire if s[4] != -1]
    assert exchanges == list(range(len(exchanges)))
    assert topology[5][-1][6] == len(exchanges)
