"""Random pipelines under kills; see pipelines.py.

WALLAROO_SEED=n runs exactly pipeline n, WALLAROO_PIPELINES=n that many.
"""

import json
import os
import random
import threading
import time

import pytest

import harness
import pipelines
import wallaroo.testing
from harness import LEVEL

COUNT = int(os.environ.get("WALLAROO_PIPELINES", {
    "check": 5, "all": 40, "long": 200}[LEVEL]))
# Each showed an error once: a start refused because four workers and eleven
# exchanges need more than the default journal.
FOUND = [1908713886]
if "WALLAROO_SEED" in os.environ:
    SEEDS = [int(os.environ["WALLAROO_SEED"])]
elif LEVEL == "long":
    begin = random.randrange(1 << 31)
    SEEDS = FOUND + [begin + number for number in range(COUNT)]
else:
    # The same at each run, so that what fails comes from the change under
    # test; new ones are for check-long.
    SEEDS = FOUND + list(range(COUNT))


def inputs_of(pipeline):
    """What each source of the reference executor is given."""
    inputs = {}
    for source in pipeline.sources:
        if source.kind == "gen":
            inputs[source.name] = None
            continue
        inputs[source.name] = [
            pipeline.payload(source, connection, position)
            for connection in range(source.connections)
            for position in range(source.count)]
    return inputs


def reference(pipeline, where, module):
    """The reference executor's lines for each sink."""
    application = module.application_setup(["reference", json.dumps(where)])
    result = wallaroo.testing.run(application, inputs_of(pipeline))
    return [harness.split_lines(b"".join(outputs))
            for outputs in result.outputs.values()]


class Clients(threading.Thread):
    """Feeds all connections of all TCP sources, in random pieces."""

    def __init__(self, pipeline, ports, opened, seconds):
        super().__init__(daemon=True)
        self.rng = random.Random(pipeline.seed)
        self.pieces = []		# per connection
        self.clients = []
        self.failure = None
        for source in pipeline.sources:
            if source.kind != "tcp":
                continue
            for connection in range(source.connections):
                data = b"".join(
                    harness.frame(pipeline.payload(source, connection, n))
                    for n in range(source.count))
                cuts = sorted(self.rng.randrange(len(data) + 1)
                              for _ in range(40))
                self.pieces.append([data[a:b] for a, b in
                                    zip([0] + cuts, cuts + [len(data)])])
                self.clients.append(opened(harness.Feeder(
                    ports[source.name])))
        self.pause = seconds / 40

    def run(self):
        try:
            for turn in range(41):
                for client, pieces in zip(self.clients, self.pieces):
                    client.send(pieces[turn])
                time.sleep(self.rng.random() * 2 * self.pause)
            for client in self.clients:
                if self.rng.random() < 0.5:
                    client.half_close()
        except OSError as error:
            self.failure = error


@pytest.mark.parametrize("seed", SEEDS)
def test_random_pipeline(seed, opened, cluster):
    pipeline = pipelines.generate(seed)
    rng = random.Random(seed)
    print("WALLAROO_SEED=%d" % seed)
    print(pipeline.drawing)
    app = cluster(pipeline.text, workers=pipeline.workers,
                  settings=pipeline.settings)
    where, receivers = {}, {}
    for source in pipeline.sources:
        if source.kind == "tcp":
            where[source.name] = harness.free_port()
        elif source.kind == "file":
            where[source.name] = app.write(source.name, "".join(
                pipeline.payload(source, 0, n).decode() + "\n"
                for n in range(source.count)))
    for kind, number in pipeline.sinks:
        name = "out%d" % number
        if kind == "tcp":
            receivers[number] = opened(harness.Receiver())
            where[name] = receivers[number].port
        else:
            where[name] = app.out(name)
    app.write_conf(args=[json.dumps(where)])

    module = pipelines.load(pipeline)
    expected = reference(pipeline, where, module)

    app.start()
    clients = Clients(pipeline, where, opened, seconds=0.5)
    clients.start()
    for _ in range(rng.choice((0, 1, 2, 3))):
        time.sleep(rng.random() * 0.3)
        pids = app.pids()
        count = rng.choice((1, 1, 1, pipeline.workers))
        for worker in rng.sample(sorted(pids), count):
            if pids[worker]:
                try:
                    os.kill(pids[worker], 9)
                except ProcessLookupError:
                    pass
    clients.join()
    assert clients.failure is None

    def outputs(kind, number):
        return receivers[number].lines() if kind == "tcp" else [
            harness.split_lines(app.read_out("out%d" % number))]

    for (kind, number), lines in zip(pipeline.sinks, expected):
        if kind == "tcp":
            receivers[number].wait_lines(len(lines))
        else:
            harness.wait_for(
                lambda: app.read_out("out%d" % number).count(b"\n")
                >= len(lines), "%d lines of sink %d" % (len(lines), number))
    states = {}
    for (kind, number), lines in zip(pipeline.sinks, expected):
        if not pipeline.ordered:
            states = pipelines.check_lineage(outputs(kind, number), lines,
                                             module)
    # What the workers hold, of a few keys that can be named.
    named = sorted((step, key) for step, key in states if " " not in key)
    app.wait_workers()
    for step, key in rng.sample(named, min(len(named), 5)):
        held = json.dumps(app.ctl("state", "get", step, key))
        assert repr(states[step, key]) in held, (step, key, held)
    app.stop()
    for one in receivers.values():
        assert len(one.connections) == pipeline.workers
        one.wait_ends()
    # And nothing came after it.
    for (kind, number), lines in zip(pipeline.sinks, expected):
        got = outputs(kind, number)
        if pipeline.ordered:
            pipelines.check_ordered(got, lines)
        else:
            assert sum(map(len, got)) == len(lines)
