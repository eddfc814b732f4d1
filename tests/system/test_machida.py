"""machida3 and the tools, by the command lines that scripts have."""

import json
import os
import re
import signal
import struct
import time

import pytest

import machida_apps as apps
from harness import wait_for
from machida import Machida

BOTH = pytest.mark.parametrize(
    "resilient", [True, pytest.param(False, marks=pytest.mark.level("all"))],
    ids=["resilient", "plain"])
ALL = pytest.mark.level("all")


@pytest.fixture
def machida(opened):
    def make(*args, **more):
        return opened(Machida(*args, **more))
    return make


# -- the kinds of applications -----------------------------------------------

@ALL
@BOTH
def test_alerts_stateless(machida, resilient):
    m = machida(apps.ALERTS_STATELESS, ["--count", "5000"],
                resilient=resilient).receive().start()
    wanted = [line.encode() for line in apps.alerts_stateless(5000)]
    m.wait_lines(len(wanted))
    assert m.lines() == wanted
    m.end()


@ALL
@BOTH
def test_alerts_stateful(machida, resilient):
    m = machida(apps.ALERTS_STATEFUL, ["--count", "3000"],
                resilient=resilient).receive().start()
    wanted = [line.encode() for line in apps.alerts_stateful(3000)]
    m.wait_lines(len(wanted))
    assert sorted(m.lines()) == sorted(wanted)
    assert sum(m.ask("state-entity-count-query").values()) == 5
    [keys] = m.ask("state-entity-query").values()
    assert sorted(keys) == ["Dr. Whiskers", "Feathers", "Fido", "Mirlo",
                            "Rex"]
    m.end()


@ALL
@BOTH
def test_celsius(machida, resilient):
    m = machida(apps.CELSIUS, inputs=["Celsius Conversion"],
                resilient=resilient).receive().start()
    content = b"".join(struct.pack(">If", 4, i) for i in range(2000))
    m.send("Celsius Conversion", content, "--binary", "--msg-size", "8",
           "--messages", "2000")
    wanted = b"".join(struct.pack(
        ">If", 4, struct.unpack(">f", struct.pack(">f", i))[0] * 1.8 + 32)
        for i in range(2000))
    wait_for(lambda: len(m.received()) >= len(wanted), "the output")
    assert m.received() == wanted
    m.end()


def word_counts(text):
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
        yield b"%s => %d" % (word.encode(), counts[word])


@BOTH
def test_word_count(machida, resilient):
    m = machida(apps.WORDS, inputs=["Split and Count"],
                resilient=resilient).receive().start()
    text = "".join("the quick %d brown fox %d\n" % (i % 17, i % 5)
                   for i in range(1000))
    m.send("Split and Count", text.encode())
    m.wait_lines(6000)
    assert sorted(m.lines()) == sorted(word_counts(text))
    m.end()


@ALL
@BOTH
def test_two_sources(machida, resilient):
    """Quotes first, then orders: which are rejected is known."""
    m = machida(apps.SPREAD, inputs=["Orders", "Market Data"],
                resilient=resilient).receive("--framed").start()
    symbols = [b"%4d" % i for i in range(50)]
    quotes = b"".join(struct.pack(
        ">IB4sdd", 21, 2, symbol, 100.0, 100.01 if i % 3 else 110.0)
        for i, symbol in enumerate(symbols))
    m.send("Market Data", quotes, "-y", "-z", "-m", len(symbols))
    wait_for(lambda: sum(m.ask("state-entity-count-query").values()) == 50,
             "all quotes to be processed")
    orders = b"".join(struct.pack(">IB4sd", 13, 1, symbols[i % 50], i)
                      for i in range(1000))
    m.send("Orders", orders, "-y", "-g", "17", "-m", 1000)
    wanted = [struct.pack(">4sd", symbols[i % 50], i)
              for i in range(1000) if not (i % 50) % 3]
    size = sum(len(body) + 1 for body in wanted)
    wait_for(lambda: len(m.received()) >= size, "the rejected orders")
    got = m.received()
    assert sorted(got[at:at + 12] for at in range(0, len(got), 13)) \
        == sorted(wanted)
    m.end()


CHAINS = [
    ["--key-by", "--to-state"],
    ["--to", "--to-multi", "--key-by", "--to-state", "--to",
     "--to-state-multi", "--key-by", "--to-state"],
    ["--key-by", "--key-by", "--to-state-multi", "--to-multi", "--to-multi",
     "--key-by", "--to-state"],
]


def check_chain(m, options, keys, count, once=True):
    """Every number of every key, in order; after a kill of the whole the
    receiver may see some of them again, and then the same."""
    wanted = [line.encode() for line in apps.chain(options, keys, count)]
    m.wait_lines(len(wanted))
    got = m.lines()
    if once:
        assert len(got) == len(wanted)
    assert set(got) == set(wanted)
    last = {}
    for line in got:
        key, number, _ = line.split(b" ")
        before = last.get(key, 0)
        assert int(number) == before + 1 or (
            not once and int(number) <= before)
        last[key] = max(before, int(number))


@ALL
@pytest.mark.parametrize("options", CHAINS, ids=["1", "8", "7"])
def test_chain(machida, options):
    m = machida(apps.CHAIN, options, inputs=["Detector"],
                resilient=False).receive().start()
    # eight keys, each with its own sender's connection
    for key in range(8):
        m.tool_run("sender", "-h", "127.0.0.1:%d" % m.ports["Detector"],
                   "-m", "200", "-u", "-p", "key_%d" % key, "-w", "-i", "0")
    check_chain(m, options, 8, 200)
    m.end()


@pytest.mark.parametrize("options", [
    CHAINS[0], pytest.param(CHAINS[1], marks=ALL),
    pytest.param(CHAINS[2], marks=ALL)], ids=["1", "8", "7"])
def test_chain_killed(machida, rng, options):
    """kill -9 of machida3, and the identical command again."""
    m = machida(apps.CHAIN, options + ["--gen-source", "6", "1500"],
                ).receive().start()
    for part in (1, 3, 5):
        m.wait_lines(1000 * part)
        time.sleep(rng.uniform(0, 0.1))
        m.kill9()
        m.start()
    check_chain(m, options, 6, 1500, once=False)
    m.end()


@ALL
def test_chain_worker_killed(machida, rng):
    """kill -9 of the process with the user's code: nobody notices."""
    options = CHAINS[1]
    m = machida(apps.CHAIN, options + ["--gen-source", "6", "1000"],
                ).receive().start()
    for part in (1, 3, 5):
        m.wait_lines(700 * part)
        time.sleep(rng.uniform(0, 0.1))
        pid = m.worker_pid()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: m.worker_pid() != pid, "another worker")
    check_chain(m, options, 6, 1000)
    m.end()


@ALL
@pytest.mark.parametrize("kills", [0, 2], ids=["whole", "killed"])
@pytest.mark.parametrize("kind", ["tumbling", "sliding", "counting"])
def test_windows(machida, rng, kind, kills):
    """Each number in one window, or in as many as slide over it; also over
    kills of machida3, after which some outputs may come twice."""
    count = 903			# 43 times 7 for each key
    m = machida(apps.WINDOWS, ["--window-type", kind, "--count", str(count)],
                resilient=kills > 0).receive().start()

    def seen():
        return {number for of in apps.windows(m.lines()).values()
                for window in of for number in window}
    for kill in range(kills):
        wait_for(lambda: len(seen()) >= 250 * (kill + 1), "some windows")
        time.sleep(rng.uniform(0, 0.1))
        m.kill9()
        m.start()
    wait_for(lambda: len(seen()) == count, "every number in a window")
    m.end()
    if not kills and kind != "sliding":
        assert len(set(m.lines())) == len(m.lines())
    for index, key in enumerate(["Fido", "Rex", "Dr. Whiskers"]):
        of = apps.windows(m.lines())[key]
        mine = list(range(index, count, 3))
        times = {number: 0 for number in mine}
        for window in of:
            # what lies between its ends, all of it
            at = mine.index(window[0])
            assert window == mine[at:at + len(window)]
            for number in window:
                times[number] += 1
        most = 3 if kind == "sliding" else 1
        assert set(times.values()) <= set(range(1, most + 1))
        if kind == "counting":
            assert [len(window) for window in of] == [7] * 43


@ALL
def test_partitioned_twice(machida):
    """Also over a kill between two inputs."""
    m = machida(apps.TWICE, inputs=["Users"]).receive().start()
    users = ["user%d" % (i % 13) for i in range(2000)]
    texts = ["%s %d\n" % pair for pair in zip(users, range(2000))]
    m.send("Users", "".join(texts[:1000]).encode())
    m.wait_lines(1000)
    m.kill9()
    m.start()
    m.send("Users", "".join(texts[1000:]).encode())
    m.wait_lines(2000)
    seen, groups = {}, {}
    wanted = []
    for number, user in enumerate(users):
        seen[user] = seen.get(user, 0) + 1
        group = seen[user] % 7
        groups[group] = groups.get(group, 0) + 1
        wanted.append(b"%s %d %d group %d %d" % (
            user.encode(), number, seen[user], group, groups[group]))
    assert sorted(set(m.lines())) == sorted(wanted)
    keys = m.ask("state-entity-query").values()
    assert sorted(map(len, keys)) == [7, 13]
    m.end()


# -- what is kept ------------------------------------------------------------

def count_again(machida, end, resilient=True, keeps=True):
    """Count words, end it in this way, start it again, count again."""
    m = machida(apps.WORDS, inputs=["Split and Count"],
                resilient=resilient).receive().start()
    m.send("Split and Count", b"a b a\n")
    m.wait_lines(3)
    end(m)
    m.start()
    m.send("Split and Count", b"a\n")
    wait_for(lambda: len(m.lines()) >= 4, "a fourth line")
    assert m.lines()[-1] == (b"a => 3" if keeps else b"a => 1")
    m.end()
    return m


@ALL
@pytest.mark.parametrize("number", [
    signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_keep_the_state(machida, number):
    code = -number if number == signal.SIGKILL else 0
    m = count_again(machida, lambda m: m.end(number, code))
    out = m.out()
    for line in ("Recovering from recovery files!",
                 "Attempting to recover...", "|~~ - Recovery COMPLETE - ~~|",
                 "~~~Resuming message processing.~~~"):
        assert out.count(line + "\n") == 1
    for line in ("Split and Count source is listening",
                 "Application has successfully initialized.",
                 "|~~ INIT PHASE III: Application is ready to work! ~~|"):
        assert out.count(line + "\n") == 2


@ALL
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_without_resilience_it_begins_anew(machida, number):
    code = -number if number == signal.SIGKILL else 0
    m = count_again(machida, lambda m: m.end(number, code), False, False)
    assert os.listdir(m.res) == []
    [base] = os.listdir(m.tmp)
    assert os.listdir(os.path.join(m.tmp, base)) == []
    assert "Recover" not in m.out()


def shut_down(m):
    assert m.tool_run("cluster_shutdown", m.external).returncode == 0
    assert m.wait_exit() == 0
    m.wait_gone()
    assert os.listdir(m.res) == []


def test_cluster_shutdown_removes_the_state(machida):
    count_again(machida, shut_down, keeps=False)


@ALL
def test_shutdown_by_external_sender(machida):
    def end(m):
        m.tool_run("external_sender", "-e", m.external, "-t",
                   "clean-shutdown", "-m", "enough")
        assert m.wait_exit() == 0
        m.wait_gone()
        assert os.listdir(m.res) == []
        assert "enough" in m.log()
    count_again(machida, end, keeps=False)


@ALL
def test_machida3_resilience_is_resilient(machida):
    m = machida(apps.WORDS, inputs=["Split and Count"], resilient=False,
                program_name="machida3-resilience").receive().start()
    m.send("Split and Count", b"a\n")
    m.wait_lines(1)
    m.kill9()
    m.start()
    m.send("Split and Count", b"a\n")
    m.wait_lines(2)
    assert m.lines() == [b"a => 1", b"a => 2"]
    m.end()


@ALL
def test_two_of_one_module(machida):
    """Without resilience any number may run; what was killed is removed."""
    one = machida(apps.WORDS, inputs=["Split and Count"], resilient=False)
    two = machida(apps.WORDS, inputs=["Split and Count"], resilient=False)
    two.tmp = one.tmp
    for m in (one, two):
        m.receive().start()
    [base] = os.listdir(one.tmp)
    base = os.path.join(one.tmp, base)
    assert len(os.listdir(base)) == 2
    one.kill9()
    assert len(os.listdir(base)) == 2
    one.start()
    assert len(os.listdir(base)) == 2
    for m in (one, two):
        m.send("Split and Count", b"a\n")
        m.wait_lines(1)
        m.end()
    assert os.listdir(base) == []


@ALL
def test_two_with_one_state(machida):
    """The second one is refused, the first one goes on."""
    m = machida(apps.WORDS, inputs=["Split and Count"]).receive().start()
    done = m.tool_run("machida3", *m.command[1:])
    assert done.returncode == 1
    assert "in use by another supervisor" in done.stderr
    m.send("Split and Count", b"a\n")
    m.wait_lines(1)
    m.end()


# -- what the application sees -----------------------------------------------

SEES = '''
import json, os, sys
import wallaroo
print("imported", flush=True)


class Once:
    def initial_value(self):
        return "x"

    def apply(self, last):
        return None


@wallaroo.computation(name="Say")
def say(data):
    print("printed by a step")
    print("to stderr", file=sys.stderr)
    return data


@wallaroo.encoder
def encode(data):
    return "%s\\n" % data


def application_setup(args):
    with open("seen", "w") as file:
        json.dump([args, list(wallaroo._ARGS), type(args).__name__,
                   type(wallaroo._ARGS).__name__, sys.argv, os.getcwd()],
                  file)
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("Sees", (
        wallaroo.source("Once", wallaroo.GenSourceConfig("Once", Once()))
        .to(say)
        .to_sink(wallaroo.TCPSinkConfig(host, port, encode))))
'''

ODD = ["--delay_ms", "5", "--text=a \"b\" \\c $HOME ${HOME} \u00e4", "-q",
       "-i5", "", "line\nbreak\ttab", "--", "--name", "other", "-t"]


@BOTH
def test_arguments_and_prints(machida, resilient):
    m = machida(SEES, ODD, resilient=resilient).receive().start()
    m.wait_lines(1)
    with open(os.path.join(m.dir, "seen")) as file:
        args, whole, kind, whole_kind, argv, cwd = json.load(file)
    assert (kind, whole_kind) == ("list", "tuple")
    assert args == [m.command[0], "--out", "127.0.0.1:%d" % m.sink] + ODD
    assert whole == argv == [argument for argument in m.command
                             if not argument.startswith("--pony")]
    assert cwd == os.path.realpath(m.dir)
    m.end()
    assert "printed by a step\n" in m.out()
    assert "\nimported\n" in "\n" + m.out()
    assert re.search("^to stderr$", m.log(), re.M)


def fails(machida, source, code=1, *args):
    m = machida(source, list(args))
    m.launch()
    assert m.wait_exit() == code, m.log()
    m.wait_gone()
    return m.log()


@ALL
def test_no_such_module(machida):
    m = machida(apps.WORDS)
    m.command[m.command.index("app_under_test")] = "no_such_module"
    m.launch()
    assert m.wait_exit() == 1
    log = m.log()
    assert "Could not load module 'no_such_module'" in log
    assert m.dir in log		# where it was looked for


@ALL
def test_import_fails(machida):
    log = fails(machida, "x = 1 / 0\n")
    assert "Could not load module 'app_under_test'" in log
    assert "ZeroDivisionError" in log


@ALL
def test_setup_fails(machida):
    log = fails(machida, "def application_setup(args):\n"
                "    raise ValueError('so it is')\n")
    assert "Something went wrong while building the application" in log
    assert "ValueError: so it is" in log


@ALL
def test_usage_of_the_application(machida):
    """argparse's exit code, and its text."""
    log = fails(machida, apps.WORDS, 2)
    assert "--in" in log and "usage: wallaroo" in log


@ALL
@pytest.mark.parametrize("status,code", [("3", 3), ("0", 0), ("None", 0),
                                         ("'text'", 1)])
def test_setup_exits(machida, status, code):
    fails(machida, "import sys\ndef application_setup(args):\n"
          "    sys.exit(%s)\n" % status, code)


@ALL
def test_step_raises(machida):
    """One bad record ends it; the traceback says where."""
    m = machida(apps.WORDS.replace(
        "word_total.count = word_total.count + 1",
        "word_total.count += 1\n    assert word != 'bad'"),
        inputs=["Split and Count"], resilient=False).receive().start()
    m.send("Split and Count", b"good bad\n")
    assert m.wait_exit() == 1
    log = m.log()
    assert "AssertionError" in log
    assert re.search(r"^This should never happen: failure in \S+ at line "
                     r"\d+$", log, re.M)


# -- readiness ---------------------------------------------------------------

@ALL
def test_status(machida):
    """Asked from the first moment; the initializer's name is that."""
    m = machida(apps.WORDS, inputs=["Split and Count"], name="whatever")
    m.receive().start()
    assert m.ask("cluster-status-query") == {
        "worker_count": 1, "worker_names": ["initializer"],
        "processing_messages": True}
    done = m.tool_run("cluster_shrinker", "-e", m.external, "--query")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"node_names": [], "node_count": 0}
    done = m.tool_run("cluster_shrinker", "-e", m.external, "-w", "worker1")
    assert done.returncode == 1 and "no worker can leave" in done.stdout
    m.end()


@ALL
def test_virtual_environment_of_another_version(machida):
    """It is not for the built-in Python, and left alone."""
    m = machida(apps.WORDS, inputs=["Split and Count"], resilient=False)
    environment = os.path.join(m.dir, "venv")
    os.makedirs(os.path.join(environment, "lib", "python3.4"))
    env = m.env
    m.env = lambda: dict(env(), VIRTUAL_ENV=environment)
    m.receive().start()
    m.end()


@ALL
def test_help(machida):
    done = machida(apps.WORDS).tool_run("machida3", "--help")
    assert done.returncode == 0
    assert "--application-module" in done.stdout
