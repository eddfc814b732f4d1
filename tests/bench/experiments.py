"""What is run for the rows: each function once per run, ours and what it is
compared with one after the other, so that a machine that becomes slower
makes both slower.  Each returns figures by name; an exception in place of a
figure says why there is none.
"""

import os
import shutil
import time

import harness
import nexmark
import peers
import sut
import topics
from sut import NotRun

KEYS = 10000
MILLION = 1000000
RATES = (1000, 10000)		# at which peers are measured
POWERS = (4, 5, 6, 7)		# of ten: events
ALL = {}

# name: events, so many in bench-quick, lines
INPUTS = {
    "words1": (2000000, 100000, lambda count: sut.words(count, 1)),
    "words10": (MILLION, 100000, lambda count: sut.words(count, 10)),
    "readings": (MILLION, 100000, lambda count: sut.readings(count, KEYS)),
    "busy": (10000, 2000, lambda count: sut.fifty_bytes(count, 1000)),
    "hop": (2000000, 100000, lambda count: sut.fifty_bytes(count, 100)),
    "peer-words": (300000, 50000, lambda count: sut.words(count, 1)),
    "peer-counter": (300000, 50000,
                     lambda count: sut.readings(count, KEYS)),
    "few-words": (2000, 2000, lambda count: sut.words(count, 1)),
    "few-counter": (2000, 2000, lambda count: sut.readings(count, KEYS)),
    "some-words": (12000, 5000, lambda count: sut.words(count, 1)),
    "some-counter": (12000, 5000, lambda count: sut.readings(count, KEYS)),
    "nexmark": (200000, 20000, nexmark.lines),
    **{"growing%d" % power: (10 ** power, 10 ** min(power, 4),
                             lambda count: sut.words(count, 1))
       for power in POWERS},
}


def experiment(runs=5, quick=False, later=0):
    """runs: of `make bench`; quick: also a part of bench-quick, once.  later:
    its second run comes after the last one of all with a smaller number; 2:
    no goal needs it."""
    def declare(function):
        function.runs = runs
        function.quick = quick
        function.later = later
        ALL[function.__name__] = function
        return function
    return declare


def put(figures, name, events, run, *arguments, **more):
    """Rates of one case, whose run gives seconds and CPU seconds.  It may
    fail, the others are run all the same."""
    try:
        seconds, cpu, *_ = run(*arguments, **more)
    except Exception as error:
        figures[name + " rate"] = figures[name + " per CPU"] = error
        return
    figures[name + " rate"] = events / seconds
    # A tenth of a second is ten ticks of the kernel's account.
    figures[name + " per CPU"] = events / cpu if cpu >= 0.1 else NotRun(
        "too short to be seen by the kernel's account")


def put_bare(bench, figures, kind, count, source, *arguments):
    """The bare loop, in Python's program and in the worker's library."""
    target = bench.path("bare.out")
    put(figures, "bare", count, sut.bare, 1, kind, source, target,
        *arguments)
    put(figures, "embedded", count, lambda: sut.bare(
        1, kind, source, target, *arguments, python=bench.embedded()))


def put_pair(bench, figures, kind, count, source, *arguments):
    """Two plain processes."""
    put(figures, "pair", count, sut.bare, 2, kind, source,
        bench.path("pair.out"), *arguments)


# -- rates from a file to a file --------------------------------------------

def count_words(bench, per_line):
    def exact(app):
        sut.check_counts(app.out("output"), bench.path("bare.out"))
    count, source = bench.input("words%d" % per_line)
    figures = {}
    put_bare(bench, figures, "words", count, source)
    if not bench.quick:
        put_pair(bench, figures, "words", count, source)
    for workers, durability in ((1, "none"), (1, "process"), (1, "machine"),
                                (2, "process")):
        if bench.quick and durability == "machine":
            continue
        put(figures, "%s %d" % (durability, workers), count, sut.run_files,
            "word_count_app.py", ([source], []), count, workers, durability,
            look=exact if bench.quick else None)
    return figures


@experiment(quick=True)
def one_word(bench):
    """Word count, one word per event."""
    return count_words(bench, 1)


@experiment()
def ten_words(bench):
    """Word count, one line of ten words per event."""
    return count_words(bench, 10)


def object_figures(bench, kind, workers):
    count, source = bench.input("readings")
    figures = {}
    put_bare(bench, figures, kind, count, source)
    if workers == 2:
        put_pair(bench, figures, kind, count, source)
    put(figures, "process", count, sut.run_files, "instructions_app.py",
        ([source], [kind]), count, workers)
    return figures


@experiment(quick=True)
def counter(bench):
    """A counter per key that is a small object: 1 M events, 10 k keys."""
    return object_figures(bench, "counter", 1)


@experiment(quick=True)
def exchanges(bench):
    """Two exchanges, two workers; beside one and two plain processes."""
    return object_figures(bench, "exchanges", 2)


def rounds_of(bench):
    """So many rounds of spin() take 200 microseconds."""
    if "rounds" not in bench.cache:
        import bare
        spin = bare.load("bench_app.py").spin
        tries = []
        for _ in range(20):
            begun = time.process_time()
            spin(100000)
            tries.append(time.process_time() - begun)
        bench.cache["rounds"] = str(int(0.0002 * 100000 / min(tries)))
    return bench.cache["rounds"]


@experiment(quick=True)
def busy(bench):
    """A stage of 200 microseconds of Python."""
    count, source = bench.input("busy")
    rounds = rounds_of(bench)
    figures = {}
    put_bare(bench, figures, "busy", count, source, rounds)
    put_pair(bench, figures, "busy", count, source, rounds)
    for workers in (1, 2):
        put(figures, "process %d" % workers, count, sut.run_files,
            "bench_app.py", (["busy", source], [rounds]), count, workers)
    return figures


@experiment()
def hop(bench):
    """An exchange and little else: what two workers use more than one, for
    each value of 50 bytes that goes from one to the other."""
    keys = 100
    count, source = bench.input("hop")
    target = bench.path("bare.out")
    outputs = count // 1000

    def crossing(app):
        """Of all values, by their keys: those that are not where the file
        is read."""
        entries = app.workers().values()
        return sum(entry["keys"] for entry in entries
                   if not entry["records_in"]) / keys
    one = sut.run_files("bench_app.py", (["hop", source], []), outputs, 1)
    two = sut.run_files("bench_app.py", (["hop", source], []), outputs, 2,
                        look=crossing)
    bare = sut.bare(1, "hop", source, target)
    pair = sut.bare(2, "hop", source, target)
    figures = {}
    for name, more, share in (("process", two[1] - one[1], two[2]),
                              ("pair", pair[1] - bare[1], 0.5)):
        figures[name + " hops per CPU"] = count * share / more \
            if more > 0.05 else NotRun("it costs too little to be seen")
    put(figures, "process 1", count, lambda: one)
    put(figures, "process 2", count, lambda: two)
    return figures


@experiment(runs=1)
def instructions(bench):
    """The worker's own instructions for an event, which valgrind counts."""
    import instructions as counting
    if shutil.which("valgrind") is None:
        raise NotRun("valgrind is not installed")
    return {name: counting.per_event(counts, counting.EVENTS)[0]
            for name, counts in counting.count_all().items()}


# -- how it grows -----------------------------------------------------------

@experiment(runs=3, later=2)
def events(bench):
    """Word count of ten thousand to ten million events."""
    figures = {}
    for power in POWERS:
        count, source = bench.input("growing%d" % power)
        put(figures, "10^%d" % power, count, sut.run_files,
            "word_count_app.py", ([source], []), count)
    return figures


@experiment(later=2)
def workers(bench):
    """Word count with one to eight workers on this machine's processors."""
    count, source = bench.input("growing6")
    figures = {}
    for number in (1, 2, 4, 8):
        put(figures, "%d" % number, count, sut.run_files,
            "word_count_app.py", ([source], []), count, number)
    return figures


# -- latency ----------------------------------------------------------------

def put_latency(figures, name, answer):
    few = NotRun("too few samples beyond it")
    for key in ("p50", "p99", "p999"):
        figures["%s %s" % (name, key)] = few if answer[key] is None \
            else answer[key] / 1e6


def latency(bench, rate):
    seconds = bench.size(5, 2)
    figures = {}
    with sut.tcp_cluster(bench) as (_, driver):
        answer = driver.do("run", KEYS, rate, seconds, 1)
        put_latency(figures, "ours", answer)
    with sut.tcp_loop(bench) as (_, driver):
        put_latency(figures, "loop", driver.do("run", KEYS, rate, seconds,
                                               1))
    if answer["own"] is not None:
        figures["driver p99"] = answer["own"] / 1e6
    return figures


@experiment(quick=True)
def latency_1k(bench):
    """TCP to TCP at 1,000 events a second, beside an asyncio loop."""
    return latency(bench, 1000)


@experiment()
def latency_10k(bench):
    """The same at 10,000."""
    return latency(bench, 10000)


@experiment()
def latency_100k(bench):
    """The same at 100,000."""
    return latency(bench, 100000)


def percentile(hist, share, unit):
    value = hist.at(share)
    return NotRun("too few samples beyond it") if value is None \
        else value / unit


@experiment(quick=True)
def inside(bench):
    """From the begin of decode() to the end of encode(), inside a worker
    with checkpoints each second, and in the asyncio loop."""
    rate, seconds = 10000, bench.size(11, 1)
    figures = {}
    for name, run in (("ours", sut.tcp_cluster), ("bare", sut.tcp_loop)):
        probe = sut.Probe(bench.probe, bench.path("probe"))
        with run(bench, probe=probe.arguments) as (_, driver):
            driver.do("run", KEYS, rate, 1, 0)
            probe.clear()
            driver.do("run", KEYS, rate, seconds, 0)
        hist = probe.read()[0]
        figures[name + " p50"] = percentile(hist, 0.5, 1e3)
        figures[name + " p9999"] = percentile(hist, 0.9999, 1e6)
    return figures


def keeps_up(driver, rate, seconds):
    """p99 is at most 100 ms, and the lag does not grow: in the second of two
    tries, because a machine can be busy for a moment."""
    for _ in range(2):
        answer = driver.do("run", KEYS, rate, seconds, 1)
        if answer["p99"] <= 100e6 and \
                answer["late"] <= 2 * answer["early"] + 10e6:
            return True
    return False


def sustainable(driver, guess=None, seconds=3, lowest=2000, highest=512000,
                precision=1.1):
    """The highest rate that it keeps up with, by bisection; from a guess,
    which is that of the run before, it is found sooner."""
    driver.do("run", KEYS, lowest, 1, 0)
    good, bad = lowest, highest
    step = precision ** 2
    rate = guess and int(guess / precision)
    while rate and good < rate < bad:	# around the guess, wider each time
        if keeps_up(driver, rate, seconds):
            good, rate = rate, int(rate * step)
        else:
            bad, rate = rate, int(rate / step)
        step *= step
    if good == lowest and not keeps_up(driver, lowest, seconds):
        raise NotRun("does not keep up with %d events a second" % lowest)
    while bad / good > precision:
        rate = int((good * bad) ** 0.5)
        if keeps_up(driver, rate, seconds):
            good = rate
        else:
            bad = rate
    return good


@experiment(later=2)
def sustained(bench):
    """The highest rate TCP to TCP with p99 at most 100 ms and no growing
    lag, by bisection."""
    figures, guesses = {}, bench.cache.setdefault("sustainable", {})
    for name, run in (("ours", sut.tcp_cluster), ("loop", sut.tcp_loop)):
        with run(bench) as (_, driver):
            figures[name] = sustainable(driver, guesses.get(name))
        guesses[name] = figures[name]
    return figures


@experiment(runs=1)
def half_load(bench):
    """Minutes at half of the sustainable rate, with checkpoints."""
    guess = bench.cache.get("sustainable", {}).get("ours")
    with sut.tcp_cluster(bench) as (_, driver):
        rate = sustainable(driver, guess, precision=1.3) // 2
        answer = driver.do("run", KEYS, rate, int(bench.minutes * 60), 2,
                           limit=bench.minutes * 60 + sut.LIMIT)
    figures = {"rate": rate, "gap": answer["gap"] / 1e6}
    put_latency(figures, "ours", answer)
    return figures


# -- state ------------------------------------------------------------------

def settle(app):
    """A checkpoint has all that was done."""
    def saved():
        return all(entry["checkpoint_position"] == entry["journal_done"]
                   == entry["journal_tail"]
                   for entry in app.workers().values())
    harness.wait_for(saved, "a checkpoint of everything", sut.LIMIT, 0.1)


@experiment()
def state(bench):
    """A million keys: their memory, and the pauses of checkpoints while all
    of them change under saturating load."""
    keys, seconds = MILLION, 15
    probe = sut.Probe(bench.probe, bench.path("probe"))
    with sut.tcp_cluster(bench, probe=probe.arguments) as (app, driver):
        driver.do("load", 1)
        before = sut.anonymous_bytes(app.pids()[0])
        driver.do("load", keys)
        settle(app)
        after = sut.anonymous_bytes(app.pids()[0])
        probe.clear()
        checkpoints = app.stat("checkpoints")
        ours = driver.do("flood", keys, seconds)
        checkpoints = app.stat("checkpoints") - checkpoints
    _, gaps, longest, own = probe.read()
    with sut.tcp_loop(bench, probe.arguments) as (_, driver):
        driver.do("load", keys)
        loop = driver.do("flood", keys, seconds // 3)
    python, = sut.run_python(sut.here("keys.py"), str(keys))
    longest.sort()
    own.sort()
    if checkpoints == 0 or not longest:
        raise NotRun("no checkpoint in %d s" % seconds)
    return {"bytes per key": (after - before - python) / keys,
            "python": python / keys,
            "checkpoints": checkpoints,
            "ours rate": ours["received"] / ours["seconds"],
            "loop rate": loop["received"] / loop["seconds"],
            "pause median": longest[len(longest) // 2] / 1e6,
            "pause longest": longest[-1] / 1e6,
            "own median": own[len(own) // 2] / 1e6,
            "own longest": own[-1] / 1e6,
            "gap p999": percentile(gaps, 0.999, 1e6)}


def silence(bench, keys):
    """Milliseconds from a kill -9 to the first output of an input that was
    due after it."""
    with sut.tcp_cluster(bench, settings={"spares": 1}) as (app, driver):
        driver.do("load", keys)
        settle(app)
        harness.wait_for(lambda: app.status()["spares"] == 1, "a spare",
                         sut.LIMIT, 0.1)
        answer = driver.do("kill", keys, 1000, 4, app.pids()[0])
    if not answer["recovered"]:
        raise NotRun("no input was due after the kill")
    return answer["recovered"] / 1e6


@experiment(quick=True)
def recovery(bench):
    """kill -9 of the only worker to its next output, by number of keys."""
    figures = {}
    for keys in bench.size((10000, 100000, MILLION), (10000,)):
        figures["%d" % keys] = silence(bench, keys)
    return figures


@experiment(later=2)
def pressure(bench):
    """Memory of the worker when the receiver does not read and the sender
    never waits, less what it had before."""
    source, sink = harness.free_port(), harness.Receiver(keep=False)
    with sink, sut.cluster("bench_app.py") as app:
        app.write_conf(args=["tcp", source, sink.port])
        app.start(limit=sut.LIMIT)
        pid = app.pids()[0]
        before = harness.resident_bytes(pid)
        sink.wait_connections(1)
        sink.pause()
        lines = b"".join(b"k%d %d\n" % (i % KEYS, i)
                         for i in range(100000))
        feeder = harness.Feeder(source).start(lines for _ in range(200))
        most, last, since = 0, -1, time.monotonic()
        while feeder.busy() and time.monotonic() - since < 3:
            most = max(most, harness.resident_bytes(pid))
            if feeder.sent != last:
                last, since = feeder.sent, time.monotonic()
            time.sleep(0.05)
        stopped = feeder.busy()
        feeder.close()
        sink.resume()
        app.stop(limit=sut.LIMIT, code=None)
    if not stopped:
        raise RuntimeError("the sender was never held back")
    return {"growth": (most - before) / (1 << 20)}


# -- Nexmark -----------------------------------------------------------------

def nexmark_program(bench, program, query, source, python=None):
    """Seconds and CPU seconds of the bare loop or of a peer's program, whose
    output is checked, too."""
    output = bench.path("nexmark.out")
    if os.path.exists(output):
        os.unlink(output)
    found = sut.run_python(sut.here(program), query, source, output,
                           python=python)
    nexmark.check(query, source, output)
    return found


# What Pathway is not asked for, and why.
NOT_PATHWAY = {"q11": "its session windows take minutes for these events",
               "q12": "it has no windows of the machine's clock"}


def pathway_nexmark(bench, query, source):
    if query in NOT_PATHWAY:
        raise NotRun(NOT_PATHWAY[query])
    return nexmark_program(bench, "peer_pathway_nexmark.py", query, source,
                           peers.python(bench, "pathway"))


@experiment(runs=3, later=2)
def nexmark_queries(bench):
    """Nexmark's queries from a file to a file, ours, as a bare loop, in
    Bytewax and in Pathway, each with a checked output."""
    figures = {}
    count, source = bench.input("nexmark")
    for query in nexmark.QUERIES:
        put(figures, query + " ours", count, sut.run_to_end,
            "nexmark_app.py", ([query, source], []), ["nexmark.py"],
            lambda output: nexmark.check(query, source, output))
        put(figures, query + " bare", count, nexmark_program, bench,
            "nexmark.py", query, source)
        put(figures, query + " Bytewax", count,
            lambda: nexmark_program(
                bench, "peer_bytewax_nexmark.py", query, source,
                peers.python(bench, "bytewax")))
        put(figures, query + " Pathway", count,
            lambda: pathway_nexmark(bench, query, source))
    return figures


# -- the others -------------------------------------------------------------

OURS = {"words": ("word_count_app.py", []),
        "counter": ("instructions_app.py", ["counter"])}


def put_ours(bench, figures, kind):
    app, more = OURS[kind]
    count, source = bench.input("peer-" + kind)
    put(figures, kind + " ours", count, sut.run_files, app,
        ([source], more), count)


def peer(bench, program):
    """Word count and counter by a peer's program, in each of the ways that
    it names, and by ours from the same file."""
    python = peers.python(bench, program)
    figures = {}
    for kind in OURS:
        count, source = bench.input("peer-" + kind)
        for way in peers.WAYS[program][kind]:
            put(figures, "%s %s" % (kind, way), count, peers.run, bench,
                python, program, kind, way, source)
        put_ours(bench, figures, kind)
    return figures


@experiment()
def bytewax(bench):
    """Bytewax from a file to a file with the same functions."""
    return peer(bench, "bytewax")


@experiment(later=2)
def pathway(bench):
    """Pathway from a file to a file, which counts by itself."""
    return peer(bench, "pathway")


def peer_latency(bench, program, command):
    """A peer's counter between two TCP ends, and ours."""
    python = peers.python(bench, program)
    figures = {}
    with sut.tcp_program(bench, "peer_%s_tcp.py" % program,
                         python=python) as (_, driver):
        driver.do(command, KEYS, 1000, 1, 0)
        for rate in RATES:
            put_latency(figures, "peer %d" % rate, driver.do(
                command, KEYS, rate, 5, 1))
    with sut.tcp_cluster(bench) as (_, driver):
        driver.do("run", KEYS, 1000, 1, 0)
        for rate in RATES:
            put_latency(figures, "ours %d" % rate, driver.do(
                "run", KEYS, rate, 5, 1))
    return figures


@experiment(later=2)
def bytewax_latency(bench):
    """Bytewax TCP to TCP, without recovery."""
    return peer_latency(bench, "bytewax", "run")


@experiment(later=2)
def pathway_latency(bench):
    """Pathway TCP to TCP, committing each millisecond."""
    return peer_latency(bench, "pathway", "merged")


def kafka_system(bench, program, way):
    """What topics.run() calls: one of the programs; None: ours."""
    if program is None:
        return lambda *topics_of: topics.Ours(bench, *topics_of)
    python = peers.kafka_python(bench, program)
    return lambda *topics_of: topics.Program(
        bench, python, "peer_%s.py" % program, *topics_of, way)


def kafka_rates(bench, count, cases):
    """cases: (name, program, way)"""
    figures = {}
    with topics.broker() as cluster:
        expected = topics.fill(cluster, "in", count)
        for name, program, way in cases:
            try:
                events, *both = topics.run(
                    cluster, "in", count, expected,
                    kafka_system(bench, program, way))
            except Exception as error:
                figures[name + " rate"] = figures[name + " per CPU"] = error
            else:
                put(figures, name, events, lambda both=both: both)
    return figures


@experiment(runs=3, later=1)
def kafka(bench):
    """JSON from a topic to a topic, a sum per key, with a real broker: ours
    exactly once, a bare loop without any guarantee and one with transactions,
    Bytewax, Quix Streams."""
    return kafka_rates(bench, 300000, [
        ("bare", "confluent", "plain"),
        ("ours", None, None),
        ("transactions", "confluent", "transactions"),
        ("Bytewax default", "bytewax_kafka", "default"),
        ("Bytewax recovery", "bytewax_kafka", "recovery"),
        ("Bytewax two", "bytewax_kafka", "two processes"),
        ("Quix at least once", "quix", "at-least-once"),
        ("Quix exactly once", "quix", "exactly-once")])


@experiment(runs=1)
def kafka_faust(bench):
    """The same in Faust, and ours: fewer records, it is slow."""
    return kafka_rates(bench, 10000, [
        ("ours", None, None),
        ("Faust at least once", "faust", "at_least_once"),
        ("Faust exactly once", "faust", "exactly_once")])


@experiment(runs=3, later=1)
def kafka_latency(bench):
    """Topic to topic at 1,000 records a second, read when committed: ours,
    and the bare loop with transactions at the same cadence and without."""
    figures, seconds = {}, 6
    with topics.broker() as cluster:
        for name, program, way in (
                ("ours", None, None),
                ("transactions", "confluent", "transactions"),
                ("plain", "confluent", "plain")):
            try:
                found = topics.drive(bench, cluster, 1000, seconds,
                                     kafka_system(bench, program, way))
            except Exception as error:
                found = [error] * 4
            figures.update(zip([name + " " + key for key in (
                "p50", "p99", "gap", "driver")], found))
    return figures


@experiment(runs=3, later=1)
def kafka_silence(bench):
    """kill -9 of one of two workers at 1,000 records a second: the longest
    time without an output of some partition."""
    with topics.broker() as cluster:
        found = topics.drive(
            bench, cluster, 1000, 10,
            lambda *topics_of: topics.Ours(bench, *topics_of, workers=2,
                                           settings={"spares": 1}),
            kill=lambda ours: ours.app.pids()[0])
    return {"silence": found[2]}


@experiment(runs=1)
def pyflink(bench):
    """PyFlink from a file to a file with the same functions, its state in
    the heap: what 12,000 events take more than 2,000, so without the start of
    its cluster."""
    if shutil.which("java") is None:
        raise NotRun("there is no Java virtual machine")
    python = peers.python(bench, "pyflink")
    figures = {}
    for kind in OURS:
        few, short = bench.input("few-" + kind)
        many, long = bench.input("some-" + kind)
        for way in peers.WAYS["pyflink"][kind]:
            put(figures, "%s %s" % (kind, way), many - few, peers.run_flink,
                bench, python, kind, way, short, long)
        put_ours(bench, figures, kind)
    return figures
