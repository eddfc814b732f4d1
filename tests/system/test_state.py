"""State over stop and start: same and other numbers of workers, what is
saved for a hanging sink, what a lost tmpfs means."""

import collections
import json
import re
import shutil
import subprocess

import pytest

import apps
import harness
import oracle
from scenario import WordCount
from words import Zipf


def test_stop_and_start(cluster, receiver, feeder):
    run = WordCount(cluster, receiver, feeder)
    for seed in range(3):
        run.app.start()
        # Nothing is left to do, and the counters say so.
        harness.wait_for(lambda: all(
            w["journal_done"] == w["journal_tail"] >= (seed > 0)
            for w in run.app.workers().values()), "idle workers' counters")
        run.feed_and_wait(seed)
        run.app.stop()
    run.sink.wait_ends()
    run.check()


def test_kill_after_a_start(cluster, receiver, feeder):
    """Workers die after a clean start, before there was any output."""
    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1)
    run.app.stop()
    run.app.start()
    for worker in range(2):
        pid = run.app.kill9(worker)
        run.app.wait_replaced(worker, pid)
    run.feed_and_wait(2)
    run.app.stop()
    # And everything dies.
    run.app.start()
    run.app.kill_everything()
    run.app.start()
    run.feed_and_wait(3)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.parametrize("workers", [1, 2])
def test_checkpoint_interval(cluster, receiver, feeder, workers):
    """No checkpoint is taken before its time while there is room."""
    run = WordCount(cluster, receiver, feeder, workers=workers,
                    settings={"checkpoint-interval": 3600})
    run.app.start()
    run.feed_and_wait(1, 500)
    assert run.app.stat("checkpoints") == 0
    run.app.ctl("checkpoint")
    assert run.app.stat("checkpoints") == workers
    run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.level("all")
def test_kill_after_a_start_with_files(cluster):
    """The same in the middle of a file, and a file as sink."""
    app = cluster(apps.slow(apps.FILE_NUMBER, 0.0003), workers=2)
    lines = [word + " " + "x" * 2000
             for word in Zipf(6).lines(8000, per_line=1)]
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    for _ in range(4):
        size = len(app.read_out("output"))
        app.start()
        for worker in range(2):
            pid = app.kill9(worker)
            app.wait_replaced(worker, pid)
        harness.wait_for(lambda: len(app.read_out("output")) > size,
                         "more output")
        app.stop()
    app.start()
    expected = "".join("%d %s\n" % pair
                       for pair in enumerate(lines, 1)).encode()
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.stop()
    assert app.read_out("output") == expected


def test_other_number_of_workers(cluster, receiver, feeder):
    """Keys are spread anew before sources open."""
    run = WordCount(cluster, receiver, feeder, workers=2)
    for seed, workers in enumerate((2, 3, 1, 5)):
        run.app.write_conf(workers=workers)
        run.app.start()
        run.feed_and_wait(seed)
        if workers > 1:
            keys = [entry["keys"] for entry in run.app.workers().values()]
            assert all(keys), keys
        run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.level("all")
def test_other_number_after_a_kill(cluster, receiver, feeder):
    """After an unclean stop it first recovers with the old number."""
    run = WordCount(cluster, receiver, feeder, workers=3)
    run.app.start()
    for seed, workers in enumerate((2, 4, 1, 3)):
        run.feed_and_wait(seed)
        run.wait_settled()
        run.app.kill_everything()
        run.app.write_conf(workers=workers)
        run.app.start()
    run.feed_and_wait(99)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.level("all")
def test_file_goes_on_with_other_workers(cluster):
    """A file source and a file sink keep their positions."""
    app = cluster(apps.FILE_NUMBER, workers=1)
    count = 300000
    lines = Zipf(4).lines(count, per_line=1)
    source = app.write("input", "\n".join(lines) + "\n")
    app.write_conf(args=[source, app.out("output")])
    for workers in (2, 1, 3):
        app.start()
        harness.wait_for(lambda: app.read_out("output"), "some output")
        app.stop()
        app.write_conf(workers=workers)
    app.start()
    expected = "".join("%d %s\n" % pair for pair in
                       enumerate(lines, 1)).encode()
    harness.wait_for(lambda: len(app.read_out("output")) >= len(expected),
                     "the whole output")
    app.stop()
    assert app.read_out("output") == expected


def test_durability_none_starts_empty(cluster, receiver, feeder):
    """And says so."""
    run = WordCount(cluster, receiver, feeder, durability="none")
    run.app.start()
    run.feed_and_wait(1)
    run.app.kill_everything()
    run.app.start()
    assert re.search(r"(?i)durability.*none|starts? empty|empty",
                     run.app.log()), run.app.log()
    first = len(run.words)
    run.words = []
    run.feed(1)
    run.sink.wait_lines(first * 2)
    run.app.stop()
    run.sink.wait_ends()
    half = len(run.sink.connections) // 2
    oracle.check_word_counts(run.sink.lines()[half:], run.words)


def hang_and_stop(run, **settings):
    """Feed while the sink does not read; stop.  Returns the exit code."""
    run.app.write_conf(stop_timeout=1, **settings)
    run.app.start()
    run.feed_and_wait(1)
    run.sink.pause()
    clients = [run.feed(seed, 60000) for seed in range(2, 6)]
    for client in clients:
        # It was taken over entirely: the worker closes after our FIN.
        client.wait_closed()
    run.app.stop()


def test_stop_while_a_sink_hangs_then_reboot(cluster, receiver, feeder):
    """What the sink has not taken is saved on disk with the checkpoint: the
    tmpfs may go."""
    run = WordCount(cluster, receiver, feeder)
    hang_and_stop(run)
    run.app.delete_runtime()
    run.sink.resume()
    run.sink.wait_ends()
    run.app.start()
    run.sink.wait_lines(len(run.words))
    run.feed_and_wait(9)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.level("all")
def test_stop_while_a_sink_hangs_then_other_workers(cluster, receiver,
                                                    feeder):
    """The same with another number of workers."""
    run = WordCount(cluster, receiver, feeder, workers=3)
    hang_and_stop(run)
    run.app.delete_runtime()
    run.sink.resume()
    run.sink.wait_ends()
    run.app.write_conf(workers=2)
    run.app.start()
    run.sink.wait_lines(len(run.words))
    run.feed_and_wait(9)
    run.app.stop()
    run.sink.wait_ends()
    run.check_set()


def test_loss_of_the_tmpfs_is_refused(cluster, receiver, feeder):
    """kill -9 of everything and a reboot: no consistent cut, so the start
    is refused with a line per worker; --accept-loss goes on and records."""
    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1)
    run.app.ctl("checkpoint")
    run.feed_and_wait(2)
    run.app.kill_everything()
    run.app.delete_runtime()

    code, log = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert "--accept-loss" in log
    for worker in range(2):
        assert re.search(r"worker[- ]?%d\b" % worker, log), log

    # Refused means: nothing was changed, the next try is refused, too.
    code, _ = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT

    run.app.start("--accept-loss")
    losses = run.app.status()["losses"]
    assert losses, "the loss is not in the status"
    assert re.search(r"(?i)loss|lost|repeat", json.dumps(losses)
                     + run.app.log())
    run.feed(3)
    run.sink.wait_lines(len(run.words))
    run.app.stop()
    # Only this start accepted a loss; later ones are ordinary.
    run.app.start()
    assert run.app.status()["losses"] == losses
    run.app.stop()


@pytest.mark.level("all")
def test_reboot_after_a_clean_stop(cluster, receiver, feeder):
    run = WordCount(cluster, receiver, feeder)
    for seed in range(2):
        run.app.start()
        run.feed_and_wait(seed)
        run.app.stop()
        run.app.delete_runtime()
    run.app.start()
    run.feed_and_wait(9)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


def test_state_get(cluster, receiver, feeder):
    """wallarooctl state get STEP KEY finds the key on whatever worker."""
    run = WordCount(cluster, receiver, feeder, workers=3)
    run.app.start()
    run.feed_and_wait(1)

    for word, count in collections.Counter(run.words).most_common(5):
        answer = run.app.ctl("state", "get", "Count", word)
        assert str(count) in json.dumps(answer), answer
    missing = run.app.ctl_raw("state", "get", "Count", "nosuchword")
    assert missing.returncode == 1
    missing = run.app.ctl_raw("state", "get", "NoStep", "x")
    assert missing.returncode == 1
    run.app.stop()


def renamed(old, new):
    return apps.WORD_COUNT.replace('name="%s"' % old, 'name="%s"' % new)


@pytest.mark.level("all")
def test_changed_application(cluster, receiver, feeder):
    """New stages without state, changed code and changed sinks are taken;
    a renamed stateful step is refused until the operator says what it is."""
    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1)
    run.app.stop()

    # A new stateless stage and changed code.
    run.app.write("app_under_test.py", apps.WORD_COUNT.replace(
        "return line.split()", "return [w for w in line.split(' ') if w]")
        .replace("        .key_by(word)", "        .to(same)\n"
                 "        .key_by(word)").replace(
        "@wallaroo.key_extractor", '@wallaroo.computation(name="Same")\n'
        "def same(data):\n    return data\n\n\n@wallaroo.key_extractor"))
    run.app.start()
    run.feed_and_wait(2)
    run.app.stop()

    # Renamed: refused, both topologies shown, nothing changed.
    run.app.write("app_under_test.py", renamed("Count", "Total"))
    code, log = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert "Count" in log and "Total" in log
    assert "rename-state" in log and "drop-state" in log
    run.app.start("--rename-state", "Count=Total")
    run.feed_and_wait(3)
    run.app.stop()
    run.app.start()
    run.feed_and_wait(4)
    run.app.stop()
    run.sink.wait_ends()
    run.check()

    # Dropped: counts begin anew, here with another number of workers.
    run.app.write("app_under_test.py", renamed("Count", "Third"))
    run.app.write_conf(workers=3)
    code, log = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    before = len(run.sink.connections)
    run.app.start("--drop-state", "Total")
    done = run.words
    run.words = []
    run.feed(5)
    run.sink.wait_lines(len(done) + len(run.words))
    run.app.stop()
    run.sink.wait_ends()
    oracle.check_word_counts(run.sink.lines()[before:], run.words)


@pytest.mark.level("all")
def test_other_partitions_are_refused(cluster, receiver, feeder):
    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1)
    run.app.stop()
    run.app.write_conf(partitions=64)
    code, log = run.app.run_to_exit()
    assert code == harness.EXIT_PERMANENT
    assert "partitions" in log and "256" in log
    run.app.write_conf(partitions=256)
    run.app.start()
    run.feed_and_wait(2)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


@pytest.mark.level("all")
def test_copy_of_the_state_directory(cluster, receiver, feeder):
    """Back up after a stop, go on, restore: what the manual says."""

    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1)
    run.app.stop()
    backup = run.app.dir + "/backup"

    subprocess.run(["cp", "-a", run.app.state_dir, backup], check=True)
    saved = list(run.words)
    run.app.start()
    run.feed_and_wait(2)
    run.app.stop()
    shutil.rmtree(run.app.state_dir)
    subprocess.run(["cp", "-a", backup, run.app.state_dir], check=True)
    run.app.delete_runtime()
    before = len(run.sink.connections)
    total = len(run.words)
    run.app.start()
    run.feed(3)
    new = run.words[total:]
    run.sink.wait_lines(total + len(new))
    run.app.stop()
    run.sink.wait_ends()

    base = collections.Counter(saved)
    for lines in run.sink.lines()[before:]:
        for word, number in oracle.count_lines(lines):
            base[word] += 1
            assert number == base[word]
    assert base == collections.Counter(saved + new)
