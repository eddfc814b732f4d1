"""Run what is measured, and count its seconds: clusters, bare loops, peers."""

import contextlib
import json
import mmap
import os
import random
import re
import resource
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))
import harness		# noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
LIMIT = 300		# seconds until something is said not to end
VOCABULARY = 50000


class NotRun(Exception):
    """A figure that there is not, and why."""


def here(name):
    return os.path.join(HERE, name)


def text_of(name):
    with open(here(name)) as file:
        return file.read()


# -- processor time ---------------------------------------------------------

def used_by(pid, children=False):
    """CPU seconds of a process; children: and of those it has waited for."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in
               fields[11:15 if children else 13]) / TICKS


def used_by_cluster(app):
    """All of its processes, dead ones included."""
    supervisor = app.supervisor_pid()
    return used_by(supervisor, True) + sum(
        used_by(pid) for pid in harness.processes_marked(app.mark)
        if pid != supervisor)


def anonymous_bytes(pid):
    """Memory that is the process's own, without journal and outboxes; also
    what is swapped out."""
    with open("/proc/%d/smaps_rollup" % pid) as rollup:
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB", rollup.read(), re.M))
    if "Pss_Anon" not in sizes:
        raise NotRun("this kernel does not say what memory is anonymous")
    return 1024 * (int(sizes["Pss_Anon"]) + int(sizes.get("SwapPss", 0)))


# -- inputs, the same ones each time ----------------------------------------

def write_lines(path, lines):
    with open(path, "w") as file:
        some = []
        for line in lines:
            some.append(line)
            if len(some) == 10000:
                file.write("\n".join(some) + "\n")
                some.clear()
        if some:
            file.write("\n".join(some) + "\n")
    os.chmod(path, 0o644)
    return path


def words(count, per_line):
    """Zipf-distributed words."""
    from words import Zipf
    zipf = Zipf(2024, VOCABULARY)
    while count > 0:
        some = min(count, 100000)
        yield from zipf.lines(some, per_line)
        count -= some


def readings(count, keys):
    """A sensor, a place, a value."""
    dice = random.Random(2024)
    for _ in range(count):
        yield "sensor%d place%d %d" % (
            dice.randrange(keys), dice.randrange(keys), dice.randrange(100))


def fifty_bytes(count, keys):
    """Lines of 50 bytes, each key equally often; the key are 4 of them."""
    for number in range(count):
        yield "%04d%046d" % (number % keys, number)


# -- clusters that read and write files -------------------------------------

class Output:
    """Counts the lines of a file that grows."""

    def __init__(self, path):
        self.path = path
        self.lines = 0
        self.at = 0

    def look(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                while True:
                    data = file.read(1 << 20)
                    if not data:
                        break
                    self.at += len(data)
                    self.lines += data.count(b"\n")
        except FileNotFoundError:
            pass
        return self.lines

    def wait(self, lines, app):
        since = time.monotonic()
        last = 0
        while self.look() < lines:
            if self.lines != last:
                last, since = self.lines, time.monotonic()
            if time.monotonic() - since > LIMIT:
                raise harness.HarnessError("no output for %d s\n%s" % (
                    LIMIT, app.log_tail()))
            time.sleep(0.005)


def cluster(source, workers=1, durability="process", settings=None,
            files=()):
    """files: others of this directory that the application imports."""
    return harness.Cluster(text_of(source), workers=workers,
                           durability=durability, settings=settings,
                           files={name: text_of(name) for name in files})


def wait_begin(app):
    """When the application began to run: when that was written into the log,
    because a short input is done before one has read it."""
    match = app.wait_log(r"application is running.*", limit=LIMIT)
    written = os.stat(app.log_path).st_mtime
    last = app.log().endswith(match.group() + "\n")
    return written if last else time.time()


def run_files(source, arguments, lines, workers=1, durability="process",
              settings=None, look=None):
    """(seconds, CPU seconds, what look said) of an application from a file
    to a file.  arguments: those before and after the path of the output.
    look: called with the running cluster at the end."""
    before, after = arguments
    if durability == "machine":		# a journal on the disk
        settings = {"runtime-directory": None, **(settings or {})}
    with cluster(source, workers, durability, settings) as app:
        output = app.out("output")
        app.write_conf(args=[*before, output, *after])
        app.launch()
        begun, used = wait_begin(app), used_by_cluster(app)
        Output(output).wait(lines, app)
        seconds = os.stat(output).st_mtime - begun
        used = used_by_cluster(app) - used
        seen = look(app) if look is not None else None
        app.stop(limit=LIMIT)
        return seconds, used, seen


def run_to_end(source, arguments, files=(), look=None):
    """(seconds, CPU seconds) of an application that ends when its input has
    ended, from a file to a file.  Its exit is in the CPU seconds.  look:
    called with the path of the output."""
    before, after = arguments
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    with cluster(source, settings={"at-end": harness.Raw("stop")},
                 files=files) as app:
        output = app.out("output")
        app.write_conf(args=[*before, output, *after])
        app.launch()
        begun, used = wait_begin(app), used_by_cluster(app)
        if app.wait_exit(LIMIT) != harness.EXIT_CLEAN:
            raise RuntimeError("it did not end well\n" + app.log_tail())
        all_spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = sum(getattr(all_spent, name) - getattr(spent, name)
                   for name in ("ru_utime", "ru_stime")) - used
        seconds = os.stat(output).st_mtime - begun
        if look is not None:
            look(output)
        return seconds, used


def check_counts(output, reference):
    """Per word the same counts in the same order."""
    import collections
    seen = collections.Counter()
    with open(output, "rb") as file:
        for line in file:
            word, number = line.split()
            seen[word] += 1
            if int(number) != seen[word]:
                raise AssertionError("wrong output: %r" % line)
    expected = collections.Counter()
    with open(reference, "rb") as file:
        for line in file:
            expected[line.split()[0]] += 1
    if seen != expected:
        raise AssertionError("wrong counts")


def run_python(*command, python=None, env=None, limit=LIMIT, cwd=None):
    """What the last line of a program's output says, as numbers."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1",
                       PYTHONPATH=harness.python_package_dir())
    environment.update(env or {})
    done = subprocess.run([python or sys.executable, *command],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment, timeout=limit, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError("%s: exit code %d: %s" % (
            os.path.basename(command[0]), done.returncode,
            done.stderr.decode(errors="replace").strip()[-500:]))
    return [float(word) for word in done.stdout.split(b"\n")[-2].split()]


def python_library():
    """The linker's options for the same Python that the worker has."""
    directory = os.path.dirname(harness.program("wallaroo-worker"))
    try:
        with open(os.path.join(directory, "Makefile")) as file:
            match = re.search(r"^WORKER_PYTHON_LIBS = (.*)$", file.read(),
                              re.MULTILINE)
    except OSError:
        match = None
    if match is None:
        raise NotRun("no Makefile beside the worker says which Python it has")
    return ["-rdynamic"] + match.group(1).split()


def bare(processes, kind, source, target, *arguments, python=None):
    """(seconds, CPU seconds) of the work without a runtime."""
    if kind == "words" and processes == 1:
        return run_python(here("floor.py"), here("word_count_app.py"),
                          source, target, python=python)
    return run_python(here("bare.py"), str(processes), kind, source, target,
                      *arguments, python=python)


# -- clusters between two TCP ends ------------------------------------------

class Driver:
    """driver.c, connected to both ends."""

    def __init__(self, program, sink_port, source_port):
        self.process = subprocess.Popen(
            [program, str(sink_port), str(source_port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.answer(10)

    def answer(self, limit):
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise RuntimeError("driver: %s" % (
                self.process.stderr.read().strip() or
                "no answer for %d s" % limit))
        return line

    def do(self, *command, limit=2 * LIMIT):
        self.process.stdin.write(" ".join(map(str, command)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.answer(limit))

    def close(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@contextlib.contextmanager
def tcp_cluster(bench, workers=1, durability="process", settings=None,
                probe=None):
    """(cluster, driver) of the counter between two TCP ends."""
    source, sink = harness.free_port(), harness.free_port()
    driver = Driver(bench.driver, sink, source)
    try:
        with cluster("bench_app.py", workers, durability, settings) as app:
            app.write_conf(args=["tcp", source, sink] + list(probe or ()))
            app.start(limit=LIMIT)
            yield app, driver
            app.stop(limit=LIMIT)
    finally:
        driver.close()


@contextlib.contextmanager
def tcp_program(bench, program, arguments=(), python=None):
    """(process, driver) of something else that listens on one port and
    connects to another."""
    source, sink = harness.free_port(), harness.free_port()
    driver = Driver(bench.driver, sink, source)
    process = subprocess.Popen(
        [python or sys.executable, here(program), str(source), str(sink),
         *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1",
                 PYTHONPATH=harness.python_package_dir()))
    try:
        if process.stdout.readline() != b"listening\n":
            raise RuntimeError("%s does not start" % program)
        yield process, driver
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        driver.close()


def tcp_loop(bench, probe=()):
    return tcp_program(bench, "tcp_loop.py", probe)


# -- what probe.c has seen --------------------------------------------------

SUB = 32
BINS = 60 * SUB
SPANS = 1024
BEYOND = 10		# samples that a percentile needs beyond it
HIST = struct.Struct("=QQ%dQ" % BINS)
SEEN = 2 * HIST.size + 2 * 8 * SPANS


def edge(number):
    """The first nanosecond beyond a bin, as hist.h has it."""
    if number < SUB:
        return number + 1
    return (number % SUB + SUB + 1) << (number // SUB - 1)


class Hist:
    def __init__(self, data):
        self.count, self.max, *self.bins = HIST.unpack(data)

    def at(self, share):
        """A percentile; None when too few samples are beyond it."""
        rank = int(self.count * share)
        if self.count - rank < BEYOND:
            return None
        total = 0
        for number, count in enumerate(self.bins):
            total += count
            if total > rank:
                return min(edge(number), self.max)
        return self.max


class Probe:
    """The file that a probe writes into."""

    def __init__(self, library, path):
        self.arguments = [library, path]
        with open(path, "wb") as file:
            file.truncate(SEEN)
        os.chmod(path, 0o666)
        self.path = path

    def clear(self):
        """What is seen from now on is all."""
        with open(self.path, "r+b") as file, \
                mmap.mmap(file.fileno(), SEEN) as page:
            page[:] = bytes(SEEN)

    def read(self):
        """(latencies, gaps, longest gap of each second, and longest one
        less the time that the thread waited for a processor).  The first
        second is left out: its longest gap began before."""
        with open(self.path, "rb") as file:
            data = file.read()
        size = HIST.size
        spans = struct.unpack("=%dQ" % (2 * SPANS), data[2 * size:])
        return (Hist(data[:size]), Hist(data[size:2 * size]),
                [gap for gap in spans[:SPANS] if gap][1:],
                [gap for gap in spans[SPANS:] if gap][1:])


# -- the machine ------------------------------------------------------------

def first_match(path, pattern):
    try:
        with open(path) as file:
            match = re.search(pattern, file.read(), re.M)
            return match.group(1).strip() if match else "unknown"
    except OSError:
        return "unknown"


def machine():
    memory = first_match("/proc/meminfo", r"MemTotal:\s+(\d+)")
    return "%s, %s processors, %s MiB, Linux %s" % (
        first_match("/proc/cpuinfo", r"model name\s*:\s*(.*)"),
        len(os.sched_getaffinity(0)),
        int(memory) // 1024 if memory.isdigit() else memory,
        os.uname().release)
