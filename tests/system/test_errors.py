"""Every error has a defined result: a message, an exit code, and nothing
accepted is lost: a later start goes on exactly."""

import collections
import errno
import glob
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

import apps
import harness
import oracle
from harness import EXIT_PERMANENT, EXIT_TEMPORARY, frame
from scenario import WordCount
from words import Zipf

more = pytest.mark.level("all")


@pytest.fixture
def run(cluster, receiver, feeder):
    """Word count with 2 workers that has counted something and stopped."""
    def make(**settings):
        run = WordCount(cluster, receiver, feeder, settings=settings)
        run.app.start()
        run.feed_and_wait(1, 4000)
        run.app.stop()
        return run
    return make


def go_on(run, start=True):
    """The fault is gone: the application goes on where it was."""
    if start:
        run.app.start()
    run.feed_and_wait(2, 4000)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


def refused(run, code, *patterns):
    """A start that ends with this code and says all of this."""
    got, log = run.app.run_to_exit()
    assert got == code, (got, log)
    for pattern in patterns:
        assert re.search(pattern, log), (pattern, log)
    run.app.wait_gone()
    return log


# -- the configuration ------------------------------------------------------

GOOD = '''application "t" {
	module = "app_under_test"
	workers = 2
	state-directory = "%(state)s"
	args = {"a", "b"}
}
'''


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


CONFIGURATIONS = {
    "unknown setting": (changed("workers = 2", "wokers = 2"), 3, "wokers"),
    "repeated setting": (changed("workers = 2", "workers = 2\nworkers = 3"),
                         4, "workers"),
    "truncated": (GOOD[:GOOD.index('"a"')], 5, ""),
    "not closed": (GOOD.rstrip().rstrip("}"), None, ""),
    "no worker": (changed("workers = 2", "workers = 0"), 3, r"1\b.*\b256"),
    "too many workers": (changed("workers = 2", "workers = 1000"), 3,
                         r"1\b.*\b256"),
    "not a number": (changed("workers = 2", "workers = two"), 3, "workers"),
    "unknown durability": (changed("workers = 2", "durability = galaxy"), 3,
                           "none.*process.*machine"),
    "unknown policy": (changed("workers = 2", "on-error = ignore"), 3,
                       "fail.*skip.*dead-letter"),
    "odd partitions": (changed("workers = 2", "partitions = 100"), 3,
                       "(?i)power of two"),
    "negative time": (changed("workers = 2", "checkpoint-interval = -1"), 3,
                      "checkpoint-interval"),
    "small journal": (changed("workers = 2", 'journal-size = "1K"'), 3,
                      "journal-size"),
    "journal against message": (changed(
        "workers = 2", 'journal-size = "1M"\n\tmax-message = "64M"'),
        None, "max-message"),
    "no module": (changed('module = "app_under_test"', ""), None, "module"),
    "no state directory": (changed('state-directory = "%(state)s"', ""),
                           None, "state-directory"),
    "two applications": (GOOD + GOOD.replace('"t"', '"u"'), None,
                         "application"),
    "empty": ("", None, "application"),
    "other text": ("to whom it may concern\n", 1, ""),
    "binary": ("\x7fELF\x01\x02", 1, ""),
}


@pytest.mark.parametrize("name", [
    "unknown setting", "repeated setting", "truncated", "no worker"] + [
    pytest.param(name, marks=more) for name in CONFIGURATIONS
    if name not in ("unknown setting", "repeated setting", "truncated",
                    "no worker")])
def test_configuration(cluster, name):
    """file:line, and what is allowed; the same with -n."""
    text, line, said = CONFIGURATIONS[name]
    app = cluster(apps.WORD_COUNT)
    app.write_conf(text % {"state": app.state_dir} if "%(" in text else text)
    for options in ((), ("-n",)):
        code, log = app.run_to_exit(*options)
        assert code == EXIT_PERMANENT, (code, log)
        where = re.escape(app.conf_path)
        where += ":%d: " % line if line else ""
        assert re.search(where, log), log
        assert re.search(said, log), log
    assert os.listdir(app.state_dir) == []


def test_no_configuration(cluster):
    app = cluster(apps.WORD_COUNT)
    os.unlink(app.conf_path)
    code, log = app.run_to_exit()
    assert code == EXIT_PERMANENT and app.conf_path in log


def test_effective_configuration(cluster):
    """-n prints a complete file that is itself accepted."""
    app = cluster(apps.WORD_COUNT)
    app.write_conf(GOOD % {"state": app.state_dir})
    done = subprocess.run(
        [harness.program("wallaroo-supervisord"), "-n", "-c",
         app.conf_path], stdout=subprocess.PIPE, check=True, env=app.env())
    text = done.stdout.decode()
    for key in ("checkpoint-interval", "journal-size", "stop-timeout",
                "durability", "partitions", "on-error"):
        assert re.search(r"^\s*%s\s*=" % key, text, re.M), text
    app.write_conf(text)
    again = subprocess.run(
        [harness.program("wallaroo-supervisord"), "-n", "-c",
         app.conf_path], stdout=subprocess.PIPE, check=True, env=app.env())
    assert again.stdout.decode() == text


@pytest.mark.parametrize("options", [
    ("-z",), pytest.param(("-x", "nothing"), marks=more),
    pytest.param(("surplus",), marks=more)])
def test_usage(cluster, options):
    app = cluster(apps.WORD_COUNT)
    code, log = app.run_to_exit(*options)
    assert code in (EXIT_PERMANENT, 2) and "usage" in log.lower(), log


# -- the application --------------------------------------------------------

SETUP = "def application_setup(args):\n"
MODULES = {
    "syntax error": ("def broken(:\n", ["SyntaxError", "app_under_test"]),
    "import error": ("import no_such_module\n", ["no_such_module"]),
    "raises at import": ("raise RuntimeError('at import')\n",
                         ["RuntimeError: at import", "line 1"]),
    "exits at import": ("import sys\nsys.exit(3)\n", ["(?i)exit"]),
    "no application_setup": ("x = 1\n", ["application_setup"]),
    "setup raises": (SETUP + "    raise ValueError('set up')\n",
                     ["ValueError: set up", "application_setup"]),
    "setup exits": (SETUP + "    raise SystemExit(2)\n",
                    ["(?i)exit", r"\b2\b"]),
    "setup parses arguments": (
        "import argparse\n" + SETUP + "    argparse.ArgumentParser()"
        ".parse_args(args[1:])\n", ["(?i)unrecognized|usage"]),
    "setup returns nothing": (SETUP + "    pass\n",
                              ["build_application|application_setup"]),
    "setup returns garbage": (SETUP + "    return 17\n",
                              ["build_application|application_setup"]),
    "no sink": ("import wallaroo\n" + SETUP + "    return wallaroo."
                "build_application('x', wallaroo.source('s', wallaroo."
                "GenSourceConfig('s', object())))\n", ["to_sink"]),
    "same state twice": (apps.WORD_COUNT.replace(
        "        .to(count)\n", "        .to(count)\n        .to(count)\n"),
        ["Count"]),
}


@pytest.mark.parametrize("name", ["import error", "setup raises"] + [
    pytest.param(name, marks=more) for name in MODULES
    if name not in ("import error", "setup raises")])
def test_module(run, name):
    """The traceback, or what is wrong; the state is as it was."""
    run = run()
    text, patterns = MODULES[name]
    run.app.write("app_under_test.py", text)
    refused(run, EXIT_PERMANENT, *patterns)
    run.app.write("app_under_test.py", apps.WORD_COUNT)
    go_on(run)


@more
def test_no_such_module(run):
    """The path that was searched is shown."""
    run = run()
    run.app.write_conf(module="no_such_application")
    refused(run, EXIT_PERMANENT, "no_such_application",
            re.escape(run.app.app_dir))
    run.app.write_conf(module="app_under_test")
    go_on(run)


# -- the network ------------------------------------------------------------

def test_port_in_use(run):
    run = run()
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", run.port))
    other.listen()
    refused(run, EXIT_TEMPORARY, r"127\.0\.0\.1:%d" % run.port)
    other.close()
    go_on(run)


@more
def test_address_of_somebody_else(run):
    run = run()
    args = apps.word_count_args(run.port, run.sink.port)
    run.app.write_conf(args=[arg.replace("words@127.0.0.1",
                                         "words@192.0.2.1") for arg in args])
    refused(run, EXIT_TEMPORARY, r"192\.0\.2\.1:%d" % run.port)
    run.app.write_conf(args=args)
    go_on(run)


@more
def test_receiver_that_never_answers(run):
    """The name of the sink is in the log, the application starts, and what
    it took over is saved at the stop."""
    run = run(**{"stop-timeout": 1})
    run.sink.unlisten()
    run.app.start()
    run.feed(3, 4000).wait_closed()
    run.app.wait_log(r"127\.0\.0\.1:%d" % run.sink.port)
    run.app.stop()
    run.sink.listen()
    run.app.start()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


CLIENTS = {
    "half a frame": (frame(b"not everything")[:9], True,
                     r"ended inside a record"),
    "half a header": (b"\0\0", True, r"ended inside a record"),
    "an oversized frame": (b"\0\x10\0\0" + b"x" * 100, False, r"garbage"),
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", False, r"garbage"),
    "nothing": (b"", True, None),
}


@pytest.mark.parametrize("name", ["half a frame", "garbage"] + [
    pytest.param(name, marks=more) for name in CLIENTS
    if name not in ("half a frame", "garbage")])
def test_client_sends(run, name):
    """It costs its own connection and nothing else; also when the worker
    dies afterwards, and what came before it counts."""
    run = run()
    data, close, said = CLIENTS[name]
    run.app.start()
    good = run.feeder(run.port)
    bad = run.feeder(run.port)
    good.send_frames([b"before it"])
    bad.send(frame(b"whole one") + data)
    run.words += "before it whole one".split()
    if close:
        bad.half_close()
    assert bad.wait_closed() in ("eof", "reset")
    if said:
        run.app.wait_log(said)
    run.sink.wait_lines(len(run.words))
    for worker in range(2):
        pid = run.app.kill9(worker)
        run.app.wait_replaced(worker, pid)
    assert good.state() == "open"
    good.send_frames([b"after it"])
    run.words += "after it".split()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


@more
def test_more_connections_than_allowed(run):
    """The ones beyond the limit wait, un-accepted, and come later."""
    run = run(connections=2)
    run.app.start()
    clients = [run.feeder(run.port) for _ in range(5)]
    for client in clients:
        client.send_frames([b"word"])
        run.words.append("word")
    harness.wait_for(lambda: run.app.status()["sources"][0]["connections"]
                     == 2, "2 connections")
    time.sleep(0.3)
    assert run.app.status()["sources"][0]["connections"] == 2
    for client in clients:
        client.half_close()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


# -- exceptions in user functions -------------------------------------------

FAILING = '''
import os

import wallaroo

bad = set(os.environ.get("FAIL_AT", "").split(","))


class Total:
    def __init__(self):
        self.count = 0


def factory():
    if "factory" in bad:
        raise ValueError("bad factory")
    return Total()


def check(place, data):
    if place in bad and "poison" in data:
        raise ValueError("bad " + place)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(data):
    data = data.decode()
    check("decoder", data)
    return data


@wallaroo.computation(name="Pass"%(step)s)
def single(data):
    check("computation", data)
    return data


@wallaroo.computation_multi(name="Split"%(step)s)
def split(data):
    check("multi", data)
    if "list" in bad:
        return tuple(data.split())
    return data.split()


@wallaroo.key_extractor
def word(data):
    check("key", data)
    if "type" in bad and data == "poison":
        return 1.5
    return data


@wallaroo.state_computation(name="Count", state=factory%(step)s)
def count(data, state):
    check("state", data)
    state.count += 1
    return (data, state.count)


@wallaroo.encoder
def encode(data):
    check("encoder", data[0])
    return "%%s %%d\\n" %% data


def application_setup(args):
    name, host, port = wallaroo.tcp_parse_input_addrs(args)[0]
    to_host, to_port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("failing", (
        wallaroo.source("words", wallaroo.TCPSourceConfig(
            name, host, port, decode))
        .to(single)
        .to(split)
        .key_by(word)
        .to(count)
        .to_sink(wallaroo.TCPSinkConfig(to_host, to_port, encode))))
'''

# place: (name of the step in the log, key in the log, words that are lost
# with the record "one poison two", or None when only "poison" is)
PLACES = {
    "decoder": ("words", None, "one poison two"),
    "computation": ("Pass", None, "one poison two"),
    "multi": ("Split", None, "one poison two"),
    "list": ("Split", None, None),
    "key": ("word", None, "poison"),
    "type": ("word", None, "poison"),
    "factory": ("Count", None, None),
    "state": ("Count", "poison", "poison"),
    "encoder": (None, "poison", "poison"),
}
ERRORS = {"list": "TypeError", "type": "TypeError"}


class Failing:
    def __init__(self, cluster, receiver, feeder, place, on_error=None,
                 step="", workers=2, **settings):
        self.place = place
        self.sink = receiver()
        self.port = harness.free_port()
        self.feeder = feeder
        if on_error:
            settings["on-error"] = harness.Raw(on_error)
        self.app = cluster(FAILING % {"step": step}, workers=workers,
                           settings=settings, env={"FAIL_AT": place},
                           args=apps.word_count_args(self.port,
                                                     self.sink.port))
        self.app.settings["dead-letter-file"] = self.app.out("dead")
        self.app.write_conf()

    def dead_letters(self):
        return [json.loads(line) for line in
                harness.split_lines(self.app.read_out("dead"))]


@pytest.mark.parametrize("place", ["computation", "state"] + [
    pytest.param(place, marks=more) for place in PLACES
    if place not in ("computation", "state")])
def test_policy_fail(cluster, receiver, feeder, place):
    """Stops and says where; with repaired code it goes on exactly, the
    failed record included."""
    run = Failing(cluster, receiver, feeder, place)
    run.app.start()
    client = run.feeder(run.port)
    words = []
    if place not in ("list", "factory"):
        client.send_frames([b"one two", b"two three"])
        words = "one two two three".split()
        run.sink.wait_lines(len(words))
    client.send_frames([b"one poison two", b"three"])
    words += "one poison two three".split()
    client.half_close()
    assert run.app.wait_exit() == EXIT_PERMANENT
    log = run.app.log()
    step, key, _ = PLACES[place]
    assert "Traceback" in log or place in ERRORS
    assert ERRORS.get(place, "ValueError") in log
    match = re.search(r"worker-\d: user function failed step=\"([^\"]*)\" "
                      r"key=\"([^\"]*)\" policy=fail", log)
    assert match, log
    if step:
        assert match.group(1) == step
    if key:
        assert match.group(2) == key
    run.app.wait_gone()
    # Not repaired: the same again, and still nothing is lost.
    code, log = run.app.run_to_exit()
    assert code == EXIT_PERMANENT and "policy=fail" in log
    run.app.environment["FAIL_AT"] = ""
    run.app.start()
    # What was still in the client's socket died with the supervisor.
    harness.wait_for(lambda: dict(oracle.count_lines(
        run.sink.all_lines())).get("poison") == 1, "the repaired record")
    run.app.stop()
    run.sink.wait_ends()
    lines = [line for lines in run.sink.lines() for line in lines]
    whole = b"three %d" % words.count("three") in lines
    last = words if whole else words[:-1]
    assert collections.Counter(lines) == collections.Counter(
        oracle.counts_of(last))


@pytest.mark.parametrize("place", ["state"] + [
    pytest.param(place, marks=more) for place in PLACES
    if place not in ("state", "list", "factory")])
@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
def test_policy_skip_and_dead_letter(cluster, receiver, feeder, place,
                                     policy):
    """The record is given up, or set aside with all that is needed to
    understand it; everything else is counted, also over a kill."""
    run = Failing(cluster, receiver, feeder, place, on_error=policy)
    run.app.start()
    client = run.feeder(run.port)
    given_up = PLACES[place][2].split()
    words = []
    for number in range(20):
        client.send_frames([b"one two", b"one poison two", b"three"])
        words += "one two three".split()
        words += [word for word in "one poison two".split()
                  if word not in given_up]
        if number in (7, 14):
            for worker, pid in run.app.pids().items():
                os.kill(pid, signal.SIGKILL)
                run.app.wait_replaced(worker, pid)
    run.sink.wait_lines(len(words))
    # Counters may count a replayed record again, never fewer.
    harness.wait_for(lambda: run.app.stat(
        "skipped" if policy == "skip" else "dead_letters") >= 0, "counters")
    assert run.app.log_contains(r"policy=%s" % policy)
    app = run.app
    if policy == "dead-letter":
        harness.wait_for(lambda: len(run.dead_letters()) >= 20,
                         "20 dead letters")
    app.stop()
    run.sink.wait_ends()
    oracle.check_word_counts(run.sink.lines(), words)
    letters = run.dead_letters()
    assert len(letters) == (20 if policy == "dead-letter" else 0)
    for letter in letters:
        assert ERRORS.get(place, "ValueError") in letter["error"]
        assert letter["error"] in letter["traceback"]
        assert "Traceback" in letter["traceback"] or place in ERRORS
        assert "poison" in letter["input"]
        step, key, _ = PLACES[place]
        assert step is None or letter["step"] == step
        assert key is None or letter["key"] == key


def test_policy_of_a_step(cluster, receiver, feeder):
    """on_error of a decorator overrides the application's setting."""
    run = Failing(cluster, receiver, feeder, "state", on_error="fail",
                  step=', on_error="skip"')
    run.app.start()
    client = run.feeder(run.port)
    client.send_frames([b"one poison two"])
    run.sink.wait_lines(2)
    run.app.stop()
    run.sink.wait_ends()
    oracle.check_word_counts(run.sink.lines(), ["one", "two"])


@more
def test_many_failing_records(cluster, receiver, feeder):
    """At most 10 reports a second, then a count."""
    run = Failing(cluster, receiver, feeder, "state", on_error="skip",
                  workers=1)
    run.app.start()
    client = run.feeder(run.port)
    begun = time.monotonic()
    count = 5000
    for _ in range(50):
        client.send_frames([b"poison"] * (count // 50))
        time.sleep(0.05)
    client.send_frames([b"last"])
    run.sink.wait_lines(1)
    seconds = time.monotonic() - begun
    assert run.app.stat("skipped") == count
    reports = len(re.findall("user function failed", run.app.log()))
    assert 0 < reports <= 10 * (seconds + 2), (reports, seconds)
    run.app.stop()
    # The rest is counted: all the numbers together are the whole.
    log = run.app.log()
    numbers = [int(n) for n in re.findall(
        r"(?:suppressed|more|not shown)[^\n]*?[= ](\d+)|(?<!\d)(\d+) more",
        log) for n in n if n]
    assert sum(numbers) + reports >= count - 10, (numbers, reports, log)


@more
def test_print_and_logging(cluster, receiver, feeder):
    """Line by line in the log, with worker and step."""
    source = apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    state.count += 1\n    print('printed', data)\n"
        "    import logging\n"
        "    logging.getLogger('mine').warning('logged %s', data)\n")
    sink, port = receiver(), harness.free_port()
    app = cluster(source, workers=2,
                  args=apps.word_count_args(port, sink.port))
    app.start()
    feeder(port).send_frames([b"one two"])
    sink.wait_lines(2)
    for word in ("one", "two"):
        app.wait_log(r'<6>worker-\d: printed %s stream=stdout step="Count"'
                     % word)
        app.wait_log(r'<4>worker-\d: .*logged %s.*step="Count"' % word)
    app.stop()


@more
def test_text_of_an_exception(cluster, receiver, feeder):
    """Whatever characters it has, it is logged and written to the letter."""
    source = apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    if data == 'poison':\n"
        "        raise ValueError('\\u20ac \\udc80 before\\0behind')\n"
        "    state.count += 1\n")
    sink, port = receiver(), harness.free_port()
    app = cluster(source, args=apps.word_count_args(port, sink.port),
                  settings={"on-error": harness.Raw("dead-letter")})
    app.settings["dead-letter-file"] = app.out("dead")
    app.write_conf()
    app.start()
    feeder(port).send_frames([b"poison one"])
    sink.wait_lines(1)
    app.wait_log(r"ValueError: \S+ \\udc80 before\?behind")
    app.stop()
    letter = json.loads(app.read_out("dead"))
    assert letter["error"].endswith("before?behind"), letter


# -- what cannot be serialized ----------------------------------------------

@more
@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_output_that_cannot_be_serialized(cluster, receiver, feeder, policy):
    """A message that must go to another worker, and can't."""
    source = apps.WORD_COUNT.replace(
        "    return line.split()\n",
        "    if 'poison' in line:\n        return [lambda: 1]\n"
        "    return line.split()\n").replace(
        "def word(data):\n    return data\n",
        "def word(data):\n    return data if isinstance(data, str) "
        "else 'other'\n").replace(
        "    state.count += 1\n",
        "    data = data if isinstance(data, str) else 'other'\n"
        "    state.count += 1\n")
    sink, port = receiver(), harness.free_port()
    app = cluster(source, workers=2, settings={
        "on-error": harness.Raw(policy)},
        args=apps.word_count_args(port, sink.port))
    app.start()
    # On the worker that owns the key nothing is serialized: try both.
    clients = [feeder(port), feeder(port)]
    clients[0].send_frames([b"one two"])
    sink.wait_lines(2)
    for client in clients:
        try:
            client.send_frames([b"poison"])
        except OSError:
            pass
    if policy == "fail":
        assert app.wait_exit() == EXIT_PERMANENT
    app.wait_log(r"user function failed step=\"[^\"]+\"", limit=5) \
        if policy == "skip" else None
    assert re.search(r"(?i)pickle|serializ", app.log()), app.log()
    if policy == "skip":
        clients[1].send_frames([b"one two"])
        sink.wait_lines(5)
        app.stop()


@more
def test_state_that_cannot_be_saved(cluster, receiver, feeder):
    """Named at the first checkpoint: step and key."""
    source = apps.WORD_COUNT.replace(
        "        self.count = 0\n",
        "        self.count = 0\n        self.lock = None\n").replace(
        "    state.count += 1\n",
        "    state.count += 1\n    if data == 'poison':\n"
        "        import threading\n"
        "        state.lock = threading.Lock()\n")
    run = WordCount(cluster, receiver, feeder)
    run.app.start()
    run.feed_and_wait(1, 4000)
    run.app.stop()
    run.app.write("app_under_test.py", source)
    run.app.start()
    client = run.feeder(run.port)
    client.send_frames([b"poison"])
    run.words.append("poison")
    assert run.app.wait_exit() == EXIT_PERMANENT
    assert re.search(r"Count", run.app.log())
    assert re.search(r"poison", run.app.log())
    assert re.search(r"(?i)pickle", run.app.log())
    # Repaired code: the record is replayed into a state that can be saved.
    run.app.write("app_under_test.py", apps.WORD_COUNT)
    run.app.start()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


# -- a worker that ends by its own doing ------------------------------------

DEATHS = {
    "abort": "import os; os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "exit": "import os; os._exit(3)",
    "sys.exit": "import sys; sys.exit(4)",
    "kill by itself": "import os, signal; os.kill(os.getpid(), "
                      "signal.SIGSEGV)",
}


@pytest.mark.parametrize("name", ["abort"] + [
    pytest.param(name, marks=more) for name in DEATHS if name != "abort"])
def test_crash_loop(cluster, receiver, feeder, name):
    """After restart-limit deaths that no record explains, without progress,
    the application stops, state kept; repaired code goes on exactly."""
    source = apps.WORD_COUNT.replace(
        "        self.count = 0\n",
        "        self.count = 0\n\n    def __getstate__(self):\n"
        "        if self.__dict__.get('bad'):\n            %s\n"
        "        return self.__dict__\n" % DEATHS[name]).replace(
        "    state.count += 1\n",
        "    state.count += 1\n    if data == 'poison':\n"
        "        state.bad = True\n")
    run = WordCount(cluster, receiver, feeder,
                    settings={"restart-limit": 3})
    run.app.start()
    run.feed_and_wait(1, 4000)
    run.app.stop()
    run.app.write("app_under_test.py", source)
    run.app.start()
    begun = time.monotonic()
    client = run.feeder(run.port)
    client.send_frames([b"poison"])
    run.words.append("poison")
    assert run.app.wait_exit() == EXIT_PERMANENT
    if name != "sys.exit":		# which is an exception
        assert time.monotonic() - begun > 0.1		# back-off
    assert re.search(r"worker-?\s?\d", run.app.log())
    run.app.wait_gone()
    run.app.write("app_under_test.py", apps.WORD_COUNT)
    run.app.start()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


@more
def test_hang(cluster, receiver, feeder):
    """The stack of the function that hangs is in the log; the worker is
    replaced; nothing is lost."""
    sink, port = receiver(), harness.free_port()
    app = cluster(apps.WORD_COUNT, workers=2, settings={"hang-timeout": 1},
                  args=apps.word_count_args(port, sink.port))
    marker = app.out("hang")
    app.write("app_under_test.py", apps.WORD_COUNT.replace(
        "    state.count += 1\n",
        "    state.count += 1\n    import os\n"
        "    if data == 'poison' and not os.path.exists(%r):\n"
        "        open(%r, 'w').close()\n"
        "        hang_here()\n" % (marker, marker))
        + "\n\ndef hang_here():\n    while True:\n        pass\n")
    app.start()
    pids = app.pids()
    client = feeder(port)
    client.send_frames([b"one poison two"])
    sink.wait_lines(3)
    assert app.log_contains("hang_here")
    changed = [w for w, pid in app.pids().items() if pid != pids[w]]
    assert len(changed) == 1
    assert sink.undisturbed(2)
    assert client.state() == "open"
    app.stop()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), "one poison two".split())


# -- disks ------------------------------------------------------------------

# Whoever is no root has become one in there, and becomes himself again.
AS_OURSELVES = 'exec "$@"' if os.geteuid() == 0 else \
    'exec unshare -U --map-user=%d --map-group=%d "$@"' % (
        os.geteuid(), os.getegid())


def in_namespace(app, *commands):
    """Run the supervisor with mounts of its own."""
    prefix = harness.mount_namespace()
    if prefix is None:
        pytest.skip("no mount namespaces here")
    app.wrapper = prefix + ["sh", "-ec", "\n".join(
        commands + (AS_OURSELVES,)), "sh"]


def small_tmpfs(app, size):
    """The runtime directory is a tmpfs of its own."""
    owner = app.user.pw_uid if app.user else 0
    in_namespace(app, "mount -t tmpfs -o size=%s,mode=700,uid=%d tmpfs %s"
                 % (size, owner, app.run_dir))


def test_full_tmpfs(run):
    """Found at the start, before anything is taken over."""
    run = run()
    small_tmpfs(run.app, "6m")
    code, log = run.app.run_to_exit()
    assert code in (EXIT_PERMANENT, EXIT_TEMPORARY), (code, log)
    assert re.search(r"(?i)no space left", log), log
    assert run.app.run_dir in log
    run.app.wrapper = []
    go_on(run)


@more
def test_tmpfs_that_fills_up(cluster, receiver, feeder):
    """Outboxes cannot grow: sources stop, nothing is lost, and it goes on
    when there is space."""
    run = WordCount(cluster, receiver, feeder, settings={
        "journal-size": "8M", "outbox-mark": "256M",
        "outbox-size": "512M"})
    small_tmpfs(run.app, "48m")
    run.app.start()
    run.sink.wait_connections(2)
    run.sink.pause()
    client = run.feeder(run.port)
    lines = Zipf(1).lines(3000000)
    run.words = " ".join(lines).split()
    client.start([b"".join(frame(line.encode()) for line in
                           lines[start:start + 500])
                  for start in range(0, len(lines), 500)])
    run.app.wait_log(r"(?i)no space left")
    run.sink.resume()
    client.join()
    run.sink.wait_lines(len(run.words))
    run.app.wait_log("there is space again")
    run.feed_and_wait(2, 4000)
    run.app.stop()
    run.sink.wait_ends()
    run.check()


def faulty(run, error, cluster_file=".sqlite"):
    """Preload the library that makes writes fail; returns on(), off()."""
    build = os.path.join(run.app.dir, "faultfs.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", build,
                    os.path.join(os.path.dirname(__file__), "faultfs.c")],
                   check=True)
    os.chmod(build, 0o755)
    switch = run.app.out("switch")
    run.app.environment.update({
        "LD_PRELOAD": build, "FAULT_PATH": cluster_file,
        "FAULT_SWITCH": switch,
        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"})

    def on():
        with open(switch + "~", "w") as file:
            file.write(str(error))
        os.chmod(switch + "~", 0o644)
        os.rename(switch + "~", switch)

    def off():
        os.unlink(switch)
    return on, off


@pytest.mark.parametrize("error", ["EIO"] + [
    pytest.param(name, marks=more) for name in ("ENOSPC", "EROFS")])
def test_disk_fails(run, error):
    """Checkpoints fail: said once, tried again, nothing lost, also when
    workers die meanwhile."""
    run = run(**{"checkpoint-interval": 0.1})
    on, off = faulty(run, getattr(errno, error), "/worker-")
    run.app.start()
    run.feed_and_wait(3, 4000)
    on()
    run.app.wait_log(r"checkpoint failed")
    run.feed_and_wait(4, 4000)
    since = run.app.log_size()
    off()
    run.app.wait_log(r"checkpoints succeed again", since=since)
    on()
    run.feed_and_wait(5, 4000)
    for worker in range(2):
        run.app.kill9(worker)
    off()
    run.app.wait_workers()
    run.sink.wait_lines(len(run.words))
    go_on(run, start=False)


@more
def test_full_disk(run):
    """The state directory's file system is really full."""
    run = run(**{"checkpoint-interval": 0.1})
    disk = os.path.join(run.app.dir, "image")
    if not harness.have("mkfs.ext4"):
        pytest.skip("no mkfs.ext4")
    subprocess.run(["truncate", "-s", "12M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", disk,
                              run.app.state_dir], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a loop device: %s"
                    % mounted.stderr.decode().strip())
    try:
        os.chmod(run.app.state_dir, 0o700)
        run.app._own(run.app.state_dir)
        run.words = []
        before = len(run.sink.connections)
        run.app.delete_runtime()
        run.app.start()
        run.feed(3, 4000)
        run.sink.wait(lambda: run.sink.newlines() >= 4000 + 4000, "words")
        with open(os.path.join(run.app.state_dir, "filler"), "wb") as file:
            try:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
            except OSError:
                pass
        # New keys need new pages in the database.
        new = ["fresh%d" % number for number in range(20000)]
        client = run.feeder(run.port)
        client.send_frames(word.encode() for word in new)
        client.half_close()
        run.words += new
        run.sink.wait(lambda: run.sink.newlines() >= 8000 + len(new),
                      "new words")
        run.app.wait_log(r"(?i)checkpoint failed.*full|disk is full")
        os.unlink(os.path.join(run.app.state_dir, "filler"))
        run.app.wait_log(r"checkpoints succeed again")
        run.app.stop()
        run.app.start()
        run.app.stop()
        run.sink.wait_ends()
        oracle.check_word_counts(run.sink.lines()[before:], run.words)
    finally:
        run.app.end_processes()
        subprocess.run(["umount", run.app.state_dir])


@more
def test_read_only_disk(run):
    """Refused at the start."""
    run = run()
    where = run.app.state_dir
    in_namespace(run.app, "mount --bind %s %s" % (where, where),
                 "mount -o remount,ro,bind %s" % where)
    code, log = run.app.run_to_exit()
    assert code in (EXIT_PERMANENT, EXIT_TEMPORARY), (code, log)
    assert re.search(r"(?i)read-only", log), log
    run.app.wrapper = []
    go_on(run)


def databases(app):
    found = sorted(glob.glob(app.state_dir + "/worker-*.sqlite"))
    assert found, os.listdir(app.state_dir)
    return found


@pytest.mark.parametrize("which", ["worker"] + [
    pytest.param("catalog", marks=more)])
@pytest.mark.parametrize("damage", ["garbage"] + [
    pytest.param(name, marks=more) for name in
    ("other database", "truncated", "page")])
def test_corrupt_database(run, which, damage):
    """Refused, named, left alone; with the good file back it goes on."""
    run = run()
    path = databases(run.app)[0] if which == "worker" else \
        os.path.join(run.app.state_dir, "catalog.sqlite")
    with open(path, "rb") as file:
        good = file.read()
    if damage == "garbage":
        bad = b"garbage " * 4096
    elif damage == "truncated":
        bad = good[:len(good) // 2 // 512 * 512 + 100]
    elif damage == "page":
        bad = good[:100] + os.urandom(len(good) - 100)
    else:
        other = os.path.join(run.app.dir, "other.sqlite")
        database = sqlite3.connect(other)
        database.execute("create table t (x)")
        database.execute("pragma user_version = 999")
        database.commit()
        database.close()
        with open(other, "rb") as file:
            bad = file.read()
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(bad)
    log = refused(run, EXIT_PERMANENT, re.escape(os.path.basename(path)))
    assert "Traceback" not in log
    with open(path, "r+b") as file:
        assert damage != "garbage" or file.read() == bad
        file.seek(0)
        file.truncate(0)
        file.write(good)
    go_on(run)


CHANGES = {
    "a state": "update state set value = zeroblob(length(value)) "
               "where key = (select min(key) from state)",
    "a key": "update state set key = key || x'41' "
             "where key = (select min(key) from state)",
    "a row": "delete from state where key = (select min(key) from state)",
    "a position": "update meta set position = position + 8",
    "the checkpoint": "update meta set automaton = substr(automaton, 1, 40)"
                      " || zeroblob(length(automaton) - 40)",
    "the name of a step": "update steps set name = 'Cuont'",
}


@more
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("what", sorted(CHANGES))
def test_changed_database(run, what, workers):
    """What SQLite still likes, but nobody of us has written, is refused,
    also when the keys are to be spread over other workers."""
    run = run()
    path = databases(run.app)[0]
    with open(path, "rb") as file:
        good = file.read()
    database = sqlite3.connect(path)
    changed = database.execute(CHANGES[what])
    assert changed.rowcount == 1
    database.commit()
    database.close()
    run.app.write_conf(workers=workers)
    log = refused(run, EXIT_PERMANENT, re.escape(os.path.basename(path))
                  + r" is damaged \(.*\): restore the whole")
    assert "Traceback" not in log
    for end in ("-wal", "-shm"):
        if os.path.exists(path + end):
            os.unlink(path + end)
    with open(path, "wb") as file:
        file.write(good)
    run.app.write_conf(workers=2)
    go_on(run)


@more
def test_corrupt_journal(run):
    """A damaged journal after a kill is refused, not guessed at."""
    run = run()
    run.app.start()
    run.feed_and_wait(3, 4000)
    run.wait_settled()
    run.app.kill_everything()
    path = sorted(glob.glob(run.app.run_dir + "/**/worker-0.journal",
                            recursive=True))[0]
    with open(path, "rb") as file:
        good = file.read(4096)
    with open(path, "r+b") as file:
        file.write(b"\xff" * 4096)
    refused(run, EXIT_PERMANENT, r"worker-0")
    with open(path, "r+b") as file:
        file.write(good)
    go_on(run)


# -- limits and owners ------------------------------------------------------

def test_too_few_descriptors(run):
    """Said at the start, not at the thousandth client."""
    run = run()
    code, log = None, None
    run.app.launch(limits=[("RLIMIT_NOFILE", 24)])
    code, log = run.app.wait_exit(), run.app.log()
    assert code in (EXIT_PERMANENT, EXIT_TEMPORARY), (code, log)
    assert re.search(r"(?i)descriptors|open files|RLIMIT_NOFILE", log), log
    go_on(run)


def test_second_supervisor(run):
    """The holder is named; the first one goes on."""
    run = run()
    run.app.start()
    first = run.app.process
    second = subprocess.run(
        [harness.program("wallaroo-supervisord"), "-c", run.app.conf_path],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=run.app.env(), timeout=harness.LIMIT)
    assert second.returncode == EXIT_PERMANENT, second.stdout
    assert str(first.pid).encode() in second.stdout
    go_on(run, start=False)


@more
def test_ctl_without_a_supervisor(run):
    run = run()
    done = run.app.ctl_raw("status")
    assert done.returncode == EXIT_TEMPORARY
    assert done.stderr
    assert run.app.ctl_raw("no-such-verb").returncode == 2
    go_on(run)


@more
def test_state_directory_of_another_application(run):
    run = run()
    name, run.app.name = run.app.name, "other"
    run.app.write_conf()
    refused(run, EXIT_PERMANENT, "other")
    run.app.name = name
    run.app.write_conf()
    go_on(run)


@more
def test_unknown_user(run):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    run = run()
    run.app.write_conf(user="no-such-user")
    refused(run, EXIT_PERMANENT, "no-such-user")
    run.app.write_conf(user=run.app.user.pw_name)
    go_on(run)
