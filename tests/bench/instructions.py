#!/usr/bin/python3
"""How many instructions of its own does a worker execute for an event?

    instructions.py --build DIR [--events 20000] [--functions] [--update]

Runs each workload in real workers under callgrind, which counts what is
executed between the beginning and the end of automaton_run: all that is done
for one event after the other, and nothing of the program's start, of waiting
or of what is done once for a whole batch.  Ours is what the worker's own
file has of it; Python and the other libraries are apart.

Prints one row per workload, separated by tabs: workload, instructions of our
own per event, of libpython, of everything else, calls of user functions.
--functions says where they are executed; --update writes the first two
columns to tests/bench/INSTRUCTIONS, with which tests/system/
test_instructions.py compares.
"""

import argparse
import collections
import concurrent.futures
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SYSTEM = os.path.join(os.path.dirname(HERE), "system")
TREE = os.path.dirname(os.path.dirname(HERE))
PYTHON = "python"
KEPT = os.path.join(HERE, "INSTRUCTIONS")
sys.path.insert(0, SYSTEM)

EVENTS = 20000
KEYS = 100
LIMIT = 300
INSIDE = "automaton_run"

# What the worker is replaced by.  The first one only describes the
# application: it needs no counting.
WORKER = """#!/bin/sh
if mkdir %(out)s/described 2>/dev/null; then exec %(worker)s; fi
export TMPDIR=%(out)s
exec %(valgrind)s --tool=callgrind --vgdb=no --toggle-collect=%(inside)s \\
    --callgrind-out-file=%(out)s/counts.%%p --log-file=%(out)s/log.%%p \\
    %(worker)s
"""

HEADER = """\
# Instructions of a worker's own code per event, without those of Python and
# of other libraries.  Written by tests/bench/instructions.py --update, which
# says what is counted; a check fails when one of them grows by more than 2 %.
"""


def words(events):
    return ["word%d" % (i * 7 % KEYS) for i in range(events)]


def readings(events):
    return ["sensor%d place%d %d" % (i * 7 % KEYS, i * 11 % KEYS, i % 100)
            for i in range(events)]


# name: application, its last argument, input, workers, calls of user code
WORKLOADS = {
    "word count": ("word_count_app.py", [], words, 1, 5),
    "keyed counter": ("instructions_app.py", ["counter"], readings, 1, 4),
    "two exchanges": ("instructions_app.py", ["exchanges"], readings, 2, 6),
}


class Counts:
    """Instructions by (object, function), and calls of our functions.

    The object of a function that is in the worker's file, but in no source
    file of ours, is PYTHON: Debian's archive of it says no source files.
    """

    def __init__(self):
        self.own = collections.Counter()
        self.calls = collections.Counter()

    def add(self, path):
        """The file that callgrind wrote about one process."""
        names = {"ob": {}, "fn": {}, "fl": {}}
        obj = called_obj = function = called = None
        source = called_source = None

        def name(kind, text):
            number, _, rest = text.partition(" ")
            if not number.startswith("("):
                return text
            if rest:
                names[kind][number] = rest
            return names[kind][number]

        with open(path) as file:
            skip = False
            for line in file:
                line = line.rstrip("\n")
                key, equals, value = line.partition("=")
                if not equals:
                    fields = line.split()
                    if len(fields) == 2 and re.match(r"[-+*\d]", line):
                        if not skip:
                            self.own[part(obj, source), function] += int(
                                fields[1])
                        skip = False
                elif key == "ob":
                    obj = called_obj = name("ob", value)
                elif key == "cob":
                    called_obj = name("ob", value)
                elif key == "fl":
                    source = called_source = name("fl", value)
                elif key in ("fi", "fe"):
                    name("fl", value)
                elif key in ("cfi", "cfl"):
                    called_source = name("fl", value)
                elif key == "fn":
                    function = name("fn", value)
                    called_obj, called_source = obj, source
                elif key == "cfn":
                    called = name("fn", value)
                elif key == "calls":
                    self.calls[part(called_obj, called_source), called] += int(
                        value.split()[0])
                    called_obj, called_source = obj, source
                    skip = True		# what follows is the callee's

    def total(self, wanted):
        return sum(count for (obj, _), count in self.own.items()
                   if wanted(obj))


@functools.lru_cache(maxsize=None)
def part(obj, source):
    """The object that a function of this source file counts for.  What is
    inlined from a header of the system is ours."""
    if is_ours(obj) and not source.startswith("/usr/include/") and \
            not os.path.exists(os.path.join(TREE, *source.split("/")[-2:])):
        return PYTHON
    return obj


def is_ours(obj):
    return os.path.basename(obj).startswith("wallaroo-worker")


def is_python(obj):
    return "python" in os.path.basename(obj)


def programs(directory, valgrind):
    """A directory with all programs, where the worker is counted."""
    import harness
    os.mkdir(directory)
    for name in ("wallaroo-supervisord", "wallarooctl"):
        shutil.copy2(harness.program(name), directory)
    worker = os.path.join(directory, "wallaroo-worker")
    with open(worker, "w") as file:
        file.write(WORKER % {
            "out": os.path.dirname(directory), "inside": INSIDE,
            "valgrind": valgrind, "worker": harness.program(
                "wallaroo-worker")})
    os.chmod(worker, 0o755)
    os.chmod(directory, 0o755)


def count(name, events, valgrind, directory):
    """Run one workload; its Counts."""
    import harness
    source, last, lines, workers, _ = WORKLOADS[name]
    os.chmod(directory, 0o777)
    programs(os.path.join(directory, "programs"), valgrind)
    given = os.path.join(directory, "input")
    with open(given, "w") as file:
        file.write("\n".join(lines(events)) + "\n")
    with open(os.path.join(HERE, source)) as file:
        text = file.read()
    with harness.Cluster(text, workers=workers, settings={
            "hang-timeout": 3600, "checkpoint-interval": 3600},
            programs=os.path.join(directory, "programs")) as app:
        app.write_conf(args=[given, app.out("output")] + last)
        app.launch()
        app.wait_running(limit=LIMIT)
        harness.wait_for(lambda: len(app.read_out("output").splitlines()) ==
                         events, "all outputs", limit=LIMIT)
        app.stop(limit=LIMIT)
    counts = Counts()
    files = [entry for entry in os.listdir(directory)
             if entry.startswith("counts.")]
    assert len(files) == workers, files
    for entry in files:
        counts.add(os.path.join(directory, entry))
    return counts


def count_all(events=EVENTS, valgrind="valgrind"):
    """{name: Counts}, as many at a time as there are processors."""
    with tempfile.TemporaryDirectory(prefix="wallaroo-count-") as top, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        os.chmod(top, 0o755)
        jobs = {}
        for number, name in enumerate(WORKLOADS):
            directory = os.path.join(top, str(number))
            os.mkdir(directory)
            jobs[name] = pool.submit(count, name, events, valgrind,
                                     directory)
        return {name: job.result() for name, job in jobs.items()}


def per_event(counts, events):
    """(ours, libpython's, other) of each event."""
    ours = counts.total(is_ours)
    python = counts.total(is_python)
    return (ours / events, python / events,
            (counts.total(lambda obj: True) - ours - python) / events)


def built_by(program):
    """Compiler and options, which the figures depend on."""
    out = subprocess.run(["readelf", "--debug-dump=info", "--dwarf-depth=1",
                          program], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True, check=True)
    found = collections.Counter(re.findall(
        r"DW_AT_producer.*?: (GNU C.*|clang.*)", out.stdout))
    built = found.most_common(1)[0][0].strip() if found else "unknown"
    with open(program, "rb") as file:
        code = file.read()
    for mark, name in ((b"WALLAROO_FAULTS", "fault points"),
                       (b"RULE7", "planted bugs"),
                       (b"_PyEval_EvalFrameDefault", "Python in it")):
        if mark in code:
            built += ", with " + name
    return built


def read_kept():
    """(built by, {workload: instructions}) of the file."""
    built, kept = "", {}
    with open(KEPT) as file:
        for line in file:
            if not line.startswith("#"):
                name, _, value = line.rstrip("\n").partition("\t")
                if name == "built by":
                    built = value
                else:
                    kept[name] = float(value)
    return built, kept


def write_kept(built, figures):
    with open(KEPT, "w") as file:
        file.write(HEADER)
        file.write("built by\t%s\n" % built)
        for name, value in figures.items():
            file.write("%s\t%.1f\n" % (name, value))


def print_functions(name, counts, events):
    print("\n%s, a function of ours per row: instructions of itself and "
          "calls, per event" % name)
    for (obj, function), number in counts.own.most_common():
        if is_ours(obj) and number >= events / 2:
            print("%.1f\t%.2f\t%s" % (
                number / events, counts.calls[obj, function] / events,
                function))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.getcwd())
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--functions", action="store_true")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    os.environ["WALLAROO_BUILD"] = os.path.abspath(options.build)
    import harness
    counted = count_all(options.events)
    print("workload\tours\tlibpython\tother\tcalls")
    for name, counts in counted.items():
        print("%s\t%.1f\t%.1f\t%.1f\t%d" % (
            (name,) + per_event(counts, options.events)
            + (WORKLOADS[name][4],)))
    if options.functions:
        for name, counts in counted.items():
            print_functions(name, counts, options.events)
    if options.update:
        write_kept(built_by(harness.program("wallaroo-worker")), {
            name: per_event(counts, options.events)[0]
            for name, counts in counted.items()})


if __name__ == "__main__":
    main()
