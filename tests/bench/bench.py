#!/usr/bin/python3
"""How fast is it, beside what?

    bench.py --build DIR [--quick] [--rows PATTERN] [--results FILE]

Prints one line per row, separated by tabs: row, ours, reference, ratio,
goal, whether it is met; then unit, spread of ours and of the ratio over the
runs, number of runs.  Ours, reference and ratio are medians; the ratio is
that of the figures of one run each time.  A row that there is not says why.

What has been run stays in the build directory until everything has been, so
that an interrupted run goes on where it was; --fresh begins anew.  NOTES
says how to read the table.
"""

import argparse
import datetime
import fnmatch
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

import sut
import experiments
import peers
import rows
from sut import NotRun, harness

HEAD = "row\tours\treference\tratio\tgoal\tmet\tunit\tspread\truns"


class Bench:
    """What an experiment needs to know."""

    def __init__(self, options):
        self.quick = options.quick
        self.minutes = options.minutes
        self.build = options.build
        self.keep = os.path.join(options.cache, "bench-inputs")
        self.peers = os.path.join(options.cache, "bench-peers")
        self.cache = {}
        self.dir = tempfile.mkdtemp(prefix="wallaroo-bench-")
        os.chmod(self.dir, 0o755)
        self.driver = self.compile("driver", "driver.c")
        self.probe = self.compile("probe.so", "probe.c", "-shared", "-fPIC")

    def compile(self, name, source, *options):
        path = self.path(name)
        compiler = os.environ.get("WALLAROO_CC") or "cc"
        subprocess.run(compiler.split() + [
            "-std=gnu11", "-O2", "-o", path, sut.here(source), *options],
            check=True)
        os.chmod(path, 0o755)
        return path

    def embedded(self):
        """The same Python that the worker has, as a program."""
        if "embedded" not in self.cache:
            self.cache["embedded"] = self.compile(
                "embedded", "embedded.c", *sut.python_library())
        return self.cache["embedded"]

    def path(self, name):
        return os.path.join(self.dir, name)

    def size(self, full, quick):
        return quick if self.quick else full

    def input(self, name):
        """(number of events, path) of a file, made when there is none."""
        full, quick, lines = experiments.INPUTS[name]
        count = self.size(full, quick)
        directory = self.dir if self.quick else self.keep
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "%s-%d" % (name, count))
        if not os.path.exists(path):
            sut.write_lines(path + ".new", lines(count))
            os.rename(path + ".new", path)
        return count, path

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


# -- what has been run ------------------------------------------------------

class State:
    """Each run of each experiment, a line of JSON each."""

    def __init__(self, path, key, fresh):
        self.path = path
        self.key = key
        self.runs = {}
        if path is None:
            return
        if fresh and os.path.exists(path):
            os.unlink(path)
        if os.path.exists(path):
            with open(path) as file:
                for line in file:
                    self.take(line)

    def take(self, line):
        try:
            entry = json.loads(line)
        except ValueError:
            return			# the last one of an interrupted run
        if entry.get("key") == self.key:
            self.runs.setdefault(entry["experiment"], []).append(entry)

    def done(self, name):
        return len(self.runs.get(name, ()))

    def add(self, name, figures, error, seconds):
        entry = {"key": self.key, "experiment": name, "figures": figures,
                 "error": error, "seconds": round(seconds, 2),
                 "load": os.getloadavg()[0]}
        self.runs.setdefault(name, []).append(entry)
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(json.dumps(entry) + "\n")

    def forget(self, names):
        """What has been printed."""
        if self.path is None:
            return
        with open(self.path + ".new", "w") as file:
            for name, runs in self.runs.items():
                if name not in names:
                    file.writelines(json.dumps(entry) + "\n"
                                    for entry in runs)
        os.replace(self.path + ".new", self.path)


def reason(error):
    kind = "not run" if isinstance(error, NotRun) else "failed"
    text = " ".join(str(error).split()) or type(error).__name__
    return "%s: %s" % (kind, text[:300])


def play(bench, state, name, verbose):
    """One run of an experiment."""
    begun = time.monotonic()
    figures, error = {}, None
    try:
        figures = experiments.ALL[name](bench)
    except Exception as caught:
        error = reason(caught)
        if not isinstance(caught, NotRun):
            traceback.print_exc()
    figures = {key: reason(value) if isinstance(value, Exception) else value
               for key, value in figures.items()}
    seconds = time.monotonic() - begun
    state.add(name, figures, error, seconds)
    if verbose:
        print("%s: %.1f s%s" % (name, seconds, ", " + error if error else
                                ""), file=sys.stderr, flush=True)


# -- the table --------------------------------------------------------------

def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return "%.0f" % value
    return "%.4g" % value


def spread(values):
    return "%s..%s" % (number(min(values)), number(max(values)))


def line_of(row, runs):
    """The fields of a row; runs: what the state has of its experiment."""
    goal = row.goal.text if row.goal else "-"
    ours, references, ratios, why = [], [], [], None
    for run in runs:
        mine = run["figures"].get(row.ours, run["error"])
        other = run["figures"].get(row.reference, run["error"])
        if isinstance(mine, str) or isinstance(other, str):
            why = mine if isinstance(mine, str) else other
        if other is not None and not isinstance(other, str):
            references.append(other)
        if isinstance(mine, str) or isinstance(other, str):
            continue
        ours.append(mine)
        if other:
            ratios.append(mine / other)
    if not ours:
        return [row.name, why or "not run", number(
            statistics.median(references) if references else None), "-",
            goal, "-", row.unit, "-", "0"]
    middle = statistics.median(ours)
    ratio = statistics.median(ratios) if ratios else None
    met = row.goal.met(middle, ratio) if row.goal else None
    return [row.name, number(middle),
            number(statistics.median(references) if references else None),
            "-" if ratio is None else "%.3g" % ratio, goal,
            {None: "-", True: "yes", False: "no"}[met], row.unit,
            "%s %s" % (spread(ours), spread(ratios) if ratios else "-"),
            "%d%s" % (len(ours), " of %d, %s" % (len(runs), why)
                      if why else "")]


def has(run, row):
    """A quick run leaves some figures out."""
    return run["error"] or row.ours in run["figures"] and (
        row.reference is None or row.reference in run["figures"])


def table(chosen, state):
    yield HEAD
    for row in chosen:
        runs = [run for run in state.runs.get(row.experiment, ())
                if has(run, row)]
        if runs:
            yield "\t".join(line_of(row, runs))


# -- where and with what ----------------------------------------------------

def output_of(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip()
    except OSError:
        return ""


def commit():
    """Results of runs do not make another one."""
    source = harness.SOURCE_TREE
    at = output_of("git", "-C", source, "describe", "--always",
                   "--abbrev=12")
    if at and output_of("git", "-C", source, "status", "--porcelain",
                        "--untracked-files=no", "--", ".",
                        ":!tests/RESULTS", ":!tests/bench/RESULTS"):
        at += "-dirty"
    return at or "unknown"


def flags():
    """How the programs were built."""
    import instructions
    try:
        return instructions.built_by(harness.program("wallaroo-worker"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def heading(options, state):
    runs = [run for entries in state.runs.values() for run in entries]
    loads = [run["load"] for run in runs] or [os.getloadavg()[0]]
    yield "%s  %s  commit %s" % (
        datetime.date.today().isoformat(),
        "bench-quick" if options.quick else "bench", state.key["commit"])
    yield "machine: " + sut.machine()
    yield "load average: %.2f to %.2f, median %.2f, of %d processors" % (
        min(loads), max(loads), statistics.median(loads),
        len(os.sched_getaffinity(0)))
    yield "Python %s; %s" % (sys.version.split()[0], flags())
    yield "beside: " + peers.versions()
    yield ("settings: those of cluster.conf(5) by default, durability and "
           "workers as the rows say; %g minutes at half load" %
           options.minutes)


# -- the program ------------------------------------------------------------

def chosen_rows(options):
    patterns = options.rows.split("|") if options.rows else []
    for row in rows.ROWS:
        if options.quick and not experiments.ALL[row.experiment].quick:
            continue
        if not patterns or any(
                pattern in row.name or pattern == row.experiment
                or fnmatch.fnmatch(row.name, pattern)
                for pattern in patterns):
            yield row


def runs_of(options, name):
    usual = experiments.ALL[name].runs
    if options.quick or usual == 1:
        return 1
    return options.runs or usual


def turns(runs):
    """(turn, experiment) in the order in which they are run, by how often
    each is.  One run of everything, then the next one, so that what makes the
    machine slow for a while does not meet all runs of a row."""
    def rank(run):
        turn, name = run
        return experiments.ALL[name].later if turn else 0, turn
    return sorted(((turn, name) for name, number in runs.items()
                   for turn in range(number)), key=rank)


def run_all(bench, options, state, chosen):
    """False: the time was over before all was run."""
    begun = time.monotonic()
    for turn, name in turns({row.experiment: runs_of(options, row.experiment)
                             for row in chosen}):
        if state.done(name) > turn:
            continue
        if options.limit and \
                time.monotonic() - begun > options.limit * 60:
            return False
        play(bench, state, name, not options.silent)
    return True


def write_results(path, lines):
    with open(path, "a") as file:
        file.write("\n".join(lines) + "\n\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.getcwd())
    parser.add_argument("--cache", metavar="DIR",
                        default=os.environ.get("BENCH_CACHE"),
                        help="for inputs and the others' programs, instead "
                        "of the build directory")
    parser.add_argument("--setup", action="store_true",
                        help="only make the inputs and install the others, "
                        "which needs a network and no silence")
    parser.add_argument("--quick", action="store_true",
                        help="under a minute, one run, few rows")
    parser.add_argument("--rows", default="", metavar="PATTERN",
                        help="only rows whose name contains or matches "
                        "this, or of this experiment; several with |")
    parser.add_argument("--runs", type=int, default=0,
                        help="instead of five; what is run once, is still")
    parser.add_argument("--minutes", type=float, default=3,
                        help="of the run at half load")
    parser.add_argument("--limit", type=float, default=57,
                        help="minutes after which no other run begins; "
                        "0: none")
    parser.add_argument("--results", metavar="FILE",
                        help="append the table to this file")
    parser.add_argument("--fresh", action="store_true",
                        help="do not go on where it was interrupted")
    parser.add_argument("--silent", action="store_true",
                        help="do not say what is being run")
    parser.add_argument("--list", action="store_true",
                        help="only the names of the rows and what is run")
    return parser.parse_args()


def print_list(chosen):
    for row in chosen:
        print("%s\t%s\t%s" % (row.name, row.experiment, " ".join(
            experiments.ALL[row.experiment].__doc__.split())))


def set_up(options):
    """All that takes long and is no measurement: inputs, the others and what
    they need.  Returns whether all is there."""
    bench = Bench(options)
    try:
        for name in experiments.INPUTS:
            print("input %s\t%s" % (name, bench.input(name)[1]), flush=True)
        whole = True
        for name, answer in peers.set_up(bench):
            print("%s\t%s" % (name, answer), flush=True)
            whole = whole and not isinstance(answer, Exception)
        return whole
    finally:
        bench.close()


def main():
    options = parse()
    options.build = os.path.abspath(options.build)
    options.cache = os.path.abspath(options.cache or options.build)
    os.environ["WALLAROO_BUILD"] = options.build
    os.environ.setdefault("WALLAROO_KAFKA_CACHE", os.path.join(
        options.cache, "bench-peers", "kafka"))
    if options.setup:
        sys.exit(0 if set_up(options) else 1)
    os.environ.setdefault("WALLAROO_TEST_DISCARD", "1")
    chosen = list(chosen_rows(options))
    if not chosen:
        sys.exit("bench.py: no row is called %r" % options.rows)
    if options.list:
        print_list(chosen)
        return
    state = State(
        None if options.quick else os.path.join(
            options.build, "bench-state.jsonl"),
        {"commit": commit(), "minutes": options.minutes}, options.fresh)
    bench = Bench(options)
    try:
        whole = run_all(bench, options, state, chosen)
    except KeyboardInterrupt:
        sys.exit("bench.py: interrupted; the same command goes on")
    finally:
        bench.close()
    lines = ["# " + line for line in heading(options, state)]
    if not whole:
        lines.append("# after %g minutes there are not all runs yet: the "
                     "same command goes on" % options.limit)
    lines += table(chosen, state)
    print("\n".join(lines))
    if options.results:
        write_results(options.results, lines)
    if whole:
        state.forget({row.experiment for row in chosen})


if __name__ == "__main__":
    main()
