"""Event time and the end of sources on the runtime, under kills.

What comes out must be what the reference executor gives, with any number of
workers, at any speed, whoever dies.
"""

import time

import pytest

import harness
import killer

# Windows that no message fills and no time ends, one behind the other.
FINITE = '''
import time

import wallaroo
from wallaroo.codecs import lines_decoder


@wallaroo.key_extractor
def by_word(line):
    return line


@wallaroo.key_extractor
def by_letter(pair):
    return pair[0][0]


class Count(wallaroo.Aggregation):
    def initial_accumulator(self):
        return [0]

    def update(self, line, accumulator):
        time.sleep(SLEEP)
        accumulator[0] += 1

    def combine(self, a, b):
        return [a[0] + b[0]]

    def output(self, key, accumulator):
        return (key, accumulator[0]) if accumulator[0] else None


class Total(Count):
    def update(self, pair, accumulator):
        accumulator[0] += pair[1]


@wallaroo.encoder
def encode(pair):
    return "%s %d\\n" % pair


def application_setup(args):
    return wallaroo.build_application("finite", (
        wallaroo.source("lines", wallaroo.FileSourceConfig(
            "lines", args[1], lines_decoder))
        .key_by(by_word)
        .to(wallaroo.count_windows(1 << 40).with_timeout(None).over(Count))
        .key_by(by_letter)
        .to(wallaroo.range_windows(wallaroo.hours(5)).over(Total))
        .to_sink(wallaroo.FileSinkConfig(args[2], encode))))
'''


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all")),
    pytest.param(3, marks=pytest.mark.level("all"))])
def test_windows_close_when_the_source_has_ended(cluster, rng, workers):
    app = cluster(FINITE.replace("SLEEP", "0.0005"), workers=workers)
    words = [rng.choice("ab") + str(rng.randrange(30)) for _ in range(1500)]
    source = app.write("input", "\n".join(words) + "\n")
    app.write_conf(args=[source, app.out("output")])
    expected = sorted(reference_lines(words))
    app.start()
    killing = killer.Killer(app, rng.random())
    for _ in range(4):
        time.sleep(rng.random() * 0.3)
        killing.kill_random(rng.randrange(1, workers + 1))
    harness.wait_for(lambda: app.read_out("output").count(b"\n") >=
                     len(expected), "the whole output")
    app.wait_workers()
    app.stop()
    assert sorted(app.read_out("output").splitlines()) == expected


def reference_lines(words):
    return {("%s %d" % (letter, sum(word[0] == letter for word in words)))
            .encode() for letter in "ab"}
