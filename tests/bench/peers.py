"""The other stream processors, from the Python Package Index into a virtual
environment of the build directory."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid

import sut
import topics
from sut import NotRun

# program: what pip installs
PACKAGES = {"bytewax": "bytewax[kafka]==0.21.1",
            "pathway": "pathway==0.33.0", "quix": "quixstreams==3.28.1",
            "faust": "faust-streaming==0.15.3",
            "pyflink": "apache-flink==2.3.0"}
# program: work: ways of doing it
WAYS = {
    "bytewax": {kind: ("default", "tuned", "recovery", "two processes")
                for kind in ("words", "counter")},
    "pathway": {"words": ("native", "python"), "counter": ("python",)},
    "pyflink": {kind: ("process", "thread") for kind in ("words", "counter")},
}
PIP_LIMIT = 900


def install(directory, package):
    python = os.path.join(directory, "bin", "python")
    for command in ([sys.executable, "-m", "venv", directory],
                    [python, "-m", "pip", "install", "-q",
                     "--disable-pip-version-check", package]):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True,
                                  timeout=PIP_LIMIT)
        except subprocess.TimeoutExpired:
            raise NotRun("pip did not end in %d s" % PIP_LIMIT) from None
        if done.returncode != 0:
            lines = done.stdout.strip().splitlines() or ["?"]
            raise NotRun("not installed: %s" % lines[-1])


def python(bench, program):
    """The interpreter that has a peer, installed when there is none."""
    directory = os.path.join(bench.peers, program)
    done = os.path.join(directory, "installed")
    if not os.path.exists(done) or \
            sut.text_of(done).strip() != PACKAGES[program]:
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(bench.peers, exist_ok=True)
        try:
            install(directory, PACKAGES[program])
        except NotRun:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        with open(done, "w") as file:
            file.write(PACKAGES[program] + "\n")
    return os.path.join(directory, "bin", "python")


def set_up(bench):
    """(name, where it is or why it is not) of everything."""
    for program in PACKAGES:
        try:
            yield program, python(bench, program)
        except NotRun as error:
            yield program, error
    try:
        yield "kafka", topics.fetched().jars()
    except NotRun as error:
        yield "kafka", error
    if shutil.which("java") is None:
        yield "java", NotRun("there is no Java virtual machine")


def kafka_python(bench, program):
    """The interpreter of a program that speaks to a broker; the bare loop's
    is ours."""
    if program == "confluent":
        return sys.executable
    return python(bench, program.split("_")[0])


def versions():
    """Of what the rows are beside."""
    return ", ".join(sorted(PACKAGES.values()) + topics.versions())


def directory_for(bench):
    directory = bench.path("peer")
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory)
    return directory


def run(bench, python, program, kind, way, source):
    """(seconds, CPU seconds)"""
    directory = directory_for(bench)
    return sut.run_python(
        sut.here("peer_%s.py" % program), kind, way, source,
        os.path.join(directory, "output"), directory, python=python)


def watched(bench, python, kind, way, source):
    """(seconds, CPU seconds) of PyFlink, whose processes are several."""
    directory, mark = directory_for(bench), uuid.uuid4().hex
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print("
         "sysconfig.get_paths()['purelib'])"],
        stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    environment = dict(
        os.environ, PYTHONDONTWRITEBYTECODE="1", WALLAROO_TEST_MARK=mark,
        PYTHONPATH=":".join([sut.harness.python_package_dir(), sut.HERE,
                             packages]))

    def used():
        return sum(sut.used_by(pid, True)
                   for pid in sut.harness.processes_marked(mark))

    def line():
        text = process.stdout.readline()
        if not text:
            raise RuntimeError("PyFlink ended by itself")
        return text
    process = subprocess.Popen(
        [python, sut.here("peer_pyflink.py"), kind, way, source,
         os.path.join(directory, "output"), directory], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment, cwd=directory)
    timer = threading.Timer(sut.LIMIT, process.kill)
    timer.start()
    try:
        while line() != "begin\n":
            pass
        before = used()
        seconds = float(line())
        return seconds, used() - before
    finally:
        timer.cancel()
        process.stdin.close()
        for pid in sut.harness.processes_marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def run_flink(bench, python, kind, way, short, long):
    """What a long input takes more than a short one: without its start."""
    few = watched(bench, python, kind, way, short)
    many = watched(bench, python, kind, way, long)
    if many[0] <= few[0] or many[1] < few[1]:
        raise NotRun("its start takes longer than the work")
    return [two - one for one, two in zip(few, many)]
