"""The supervisor itself is killed and started again by a loop."""

import time

import pytest

import apps
import harness
import oracle
from harness import LEVEL
from words import Zipf

# Slow enough that the work lasts over several kills.
PAUSE = 0.0001
COUNT = 8000 if LEVEL == "check" else 25000
SETTINGS = {"checkpoint-interval": 0.1}


class Restarting:
    """What an init system does, without its descriptor store: start the
    supervisor again whenever it was killed."""

    def __init__(self, app, rng, pauses):
        self.app = app
        self.rng = rng
        self.pauses = pauses
        self.kills = 0

    def run(self, finished, most, limit=None):
        """Kill at random moments until finished() or `most` kills; then
        let it run to the end."""
        deadline = time.monotonic() + (limit or harness.LIMIT)
        self.app.launch()
        while self.kills < most and not finished():
            if time.monotonic() > deadline:
                raise harness.HarnessError("no end of the work in sight\n"
                                           + self.app.log_tail())
            time.sleep(self.rng.uniform(*self.pauses))
            if self.app.process.poll() is not None:
                raise harness.HarnessError("the supervisor ended by itself\n"
                                           + self.app.log_tail())
            self.app.kill_supervisor(wait=False)
            self.kills += 1
            self.app.launch()
        harness.wait_for(finished, "the whole output", limit)
        assert self.kills >= 2, "the work was over too soon"


@pytest.mark.parametrize("workers", [
    2, pytest.param(1, marks=pytest.mark.level("all")),
    pytest.param(4, marks=pytest.mark.level("all"))])
def test_file_to_file(cluster, rng, report, workers):
    """One key: the output's bytes are exactly known."""
    count = COUNT
    app = cluster(apps.slow(apps.FILE_NUMBER, PAUSE), workers=workers,
                  settings=SETTINGS)
    lines = Zipf(1).lines(count, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    expected = "".join("%d %s\n" % pair for pair in
                       enumerate(lines, 1)).encode()
    loop = Restarting(app, rng, (0.3, 1.2))
    loop.run(lambda: len(app.read_out("output")) >= len(expected),
             3 if LEVEL == "check" else 8)
    app.wait_running()
    app.stop()
    assert app.read_out("output") == expected
    report("%d kills of the supervisor" % loop.kills)


@pytest.mark.level("all")
def test_words_file_to_file(cluster, rng, report):
    """Many keys over an exchange."""
    app = cluster(apps.slow(apps.FILE_COUNT, PAUSE), workers=3,
                  settings=SETTINGS)
    lines = Zipf(2).lines(60000)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    words = " ".join(lines).split()
    size = sum(len(line) + 1 for line in oracle.counts_of(words))
    loop = Restarting(app, rng, (0.2, 1.5))
    loop.run(lambda: len(app.read_out("output")) >= size, 10)
    app.wait_running()
    app.stop()
    oracle.check_word_counts(
        [harness.split_lines(app.read_out("output"))], words)
    report("%d kills of the supervisor" % loop.kills)


@pytest.mark.level("all")
@pytest.mark.parametrize("kind", [
    "numbers", "hidden"])
def test_generator_to_file(cluster, rng, report, kind):
    """Also a generator that keeps state of its own: it is run forward."""
    count = COUNT
    app = cluster(apps.slow(apps.GENERATE, PAUSE), workers=2,
                  settings=SETTINGS)
    app.write_conf(args=[kind, str(count), app.out("output")])
    expected = "".join("%d %d\n" % (n, n * (n + 1) // 2)
                       for n in range(1, count + 1)).encode()
    loop = Restarting(app, rng, (0.3, 1.2))
    loop.run(lambda: len(app.read_out("output")) >= len(expected),
             3 if LEVEL == "check" else 8)
    app.wait_running()
    app.stop()
    assert app.read_out("output") == expected
    report("%d kills of the supervisor" % loop.kills)


@pytest.mark.level("all")
def test_with_killed_workers(cluster, rng, report):
    """Supervisor and workers, each and together."""
    count = COUNT
    app = cluster(apps.slow(apps.FILE_NUMBER, PAUSE), workers=3,
                  settings=SETTINGS)
    lines = Zipf(3).lines(count, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    expected = "".join("%d %s\n" % pair for pair in
                       enumerate(lines, 1)).encode()
    app.launch()
    for _ in range(8):
        time.sleep(rng.uniform(0.3, 1))
        which = rng.randrange(3)
        if which == 0:
            app.wait_running()
            app.kill9(rng.randrange(3))
        elif which == 1:
            app.kill_everything()
            app.launch()
        else:
            app.wait_running()
            app.kill9(rng.randrange(3))
            app.kill_supervisor(wait=False)
            app.launch()
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.wait_running()
    app.stop()
    assert app.read_out("output") == expected


@pytest.mark.level("all")
def test_workers_end_with_their_supervisor(cluster):
    """Never two owners: within a second no worker is left."""
    app = cluster(apps.GENERATE, workers=3,
                  args=["numbers", "10", "/dev/null"])
    app.write_conf(args=["numbers", "10", app.out("output")])
    app.start()
    pids = app.pids()
    app.kill_supervisor(wait=False)
    begun = time.monotonic()
    harness.wait_for(lambda: not any(map(harness.process_alive,
                                         pids.values())),
                     "the end of the workers", limit=5)
    assert time.monotonic() - begun < 1
