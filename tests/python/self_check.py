"""Exercise the package in any interpreter, without pytest."""

import io
import pickle
import sys

import stages
import wallaroo
import wallaroo.testing
from wallaroo import _runtime, _topology, codecs


def check(value, expected):
    assert value == expected, (value, expected)


class Host:
    number = 1

    def log(self, *line):
        pass

    def serial(self):
        return self.number

    def seed(self):
        return 7


class Largest(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, data, accumulator):
        accumulator.append(data)

    def combine(self, a, b):
        return a + b

    def output(self, key, accumulator):
        return max(accumulator, default=None)


def main():
    app = stages.application(
        lambda p: p.to(stages.twice).key_by(stages.parity).to(stages.add))
    result = wallaroo.testing.run(app, {"Numbers": [1, b"2", 3]})
    check(result.values, [1, 2, 2, 4, 5, 8])
    check(result.outputs["127.0.0.1:7002"][-1], b"8\n")
    done = wallaroo.testing.simulate(
        app, {"Numbers": [1, b"2", 3]}, schedules=50)
    check((done.schedules, done.replayed > 0), (50, True))
    check([s[1] for s in _topology.compile_application(app).topology[4]],
          ["step", "key_by", "state", "sinks"])
    check(sorted(wallaroo.testing.run(
        stages.application(lambda p: p.key_by(stages.parity).to(
            wallaroo.range_windows(wallaroo.seconds(1)).with_slide(
                wallaroo.seconds(0.5)).over(Largest))),
        {"Numbers": [wallaroo.testing.At(n, n) for n in range(6)]},
    ).values), [4, 5])
    check(wallaroo.experimental.cwm.Frame.decode(b"\1\0\0\0\7"),
          wallaroo.experimental.cwm.Ok(7))
    from wallaroo.experimental import connectors
    check(connectors.MultiSourceConnector.get_id(b"celsius.msg"),
          12633152394524196402)
    again = pickle.loads(pickle.dumps(stages.add))
    check(again.compute(2, again.initial_state()), 2)
    value = {"a": [1, -1, 1.5, None, True, b"x", "ü"]}
    check(codecs.msgpack_unpack(codecs.msgpack_pack(value)), value)
    check(wallaroo.tcp_parse_input_addrs(["--in", "a@b:1"]),
          [("a", "b", "1")])
    check(codecs.csv_decoder.decode(b"a,b"), ["a", "b"])
    real, sys.stdout = sys.stdout, io.StringIO()
    try:
        wallaroo.computation("x")(lambda: None)
        raise AssertionError("not refused")
    except wallaroo.WallarooParameterError:
        pass
    finally:
        sys.stdout = real
    host = Host()
    a, b = _runtime.StepRandom(host), _runtime.StepRandom(host)
    check([a.gauss(0, 1), a.randrange(99)], [b.gauss(0, 1), b.randrange(99)])
    a.random()
    host.number = 2
    check(a.random(), _runtime.StepRandom(host).random())
    _runtime.install(host)
    import random
    from random import sample
    host.number = 3
    first = sample(range(99), 5), random.gauss(0, 1), random.random()
    host.number = 4
    check((sample(range(99), 5), random.gauss(0, 1), random.random()), first)
    sys.stdout = real
    print("ok")


main()
