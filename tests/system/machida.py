"""Run machida3 and the tools as scripts do: command lines, files, exits."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid

import harness
from harness import free_port, program, wait_for

from wallaroo.tools._external import (
    KINDS, NOT_INITIALIZED, Channel, ExternalError)


class Machida:
    """One application by the canonical command line, in a directory of its
    own; start() again is the identical command."""

    def __init__(self, source, args=(), resilient=True, out=True, inputs=(),
                 more=(), name="worker-name", module="app_under_test",
                 program_name="machida3"):
        """inputs: names of sources, which get ports."""
        self.mark = uuid.uuid4().hex
        self.dir = tempfile.mkdtemp(prefix="wallaroo-machida-")
        self.res = os.path.join(self.dir, "res")
        self.tmp = os.path.join(self.dir, "tmp")
        self.log_path = os.path.join(self.dir, "log")
        self.out_path = os.path.join(self.dir, "stdout")
        for path in (self.res, self.tmp):
            os.mkdir(path)
        with open(os.path.join(self.dir, module + ".py"), "w") as file:
            file.write(source)
        self.process = None
        self.tools = []
        self.external = "127.0.0.1:%d" % free_port()
        self.ports = {one: free_port() for one in inputs}
        self.sink = free_port()
        self.command = [program(program_name), "--application-module", module]
        if inputs:
            self.command += ["--in", ",".join(
                "%s@127.0.0.1:%d" % pair for pair in self.ports.items())]
        if out:
            self.command += ["--out", "127.0.0.1:%d" % self.sink]
        self.command += [
            "--metrics", "127.0.0.1:%d" % free_port(),
            "--control", "127.0.0.1:%d" % free_port(),
            "--data", "127.0.0.1:%d" % free_port(), "--name", name,
            "--external", self.external, "--cluster-initializer",
            "--resilience-dir", self.res, "--ponythreads=1",
            "--ponynoblock"]
        if resilient:
            self.command += ["--run-with-resilience",
                             "--time-between-checkpoints", "100_000_000"]
        self.command += list(more) + list(args)

    def env(self):
        environment = dict(
            os.environ, PYTHONPATH=self.dir, TMPDIR=self.tmp,
            WALLAROO_TEST_MARK=self.mark,
            WALLAROO_PYTHON_PACKAGE=harness.python_package_dir())
        environment.pop("VIRTUAL_ENV", None)
        environment["ASAN_OPTIONS"] = harness.sanitizer_options()
        return environment

    def launch(self, *more):
        self.launched_at = os.path.getsize(self.log_path) \
            if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log, \
                open(self.out_path, "ab") as out:
            self.process = subprocess.Popen(
                self.command + list(more), stdin=subprocess.DEVNULL,
                stdout=out, stderr=log, env=self.env(), cwd=self.dir,
                start_new_session=True)
        return self

    def start(self, *more):
        self.launch(*more)
        wait_for(self.is_processing, "the application to process messages")
        return self

    def is_processing(self):
        """What a harness polls."""
        if self.process.poll() is not None:
            raise harness.HarnessError(
                "machida3 ended with %s\n%s" % (self.process.returncode,
                                                self.log()[-4000:]))
        try:
            with Channel(self.external) as channel:
                answer = channel.ask(KINDS["cluster-status-query"].id)
        except ExternalError:
            return False
        return answer.id != NOT_INITIALIZED \
            and answer.json()["processing_messages"]

    def ask(self, kind):
        done = self.tool_run("external_sender", "-e", self.external, "-t",
                             kind, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def log(self):
        with open(self.log_path, errors="replace") as file:
            file.seek(self.launched_at)
            return file.read()

    def out(self):
        with open(self.out_path, errors="replace") as file:
            return file.read()

    def wait_exit(self, limit=None):
        try:
            return self.process.wait(limit or harness.LIMIT)
        except subprocess.TimeoutExpired:
            raise harness.HarnessError("machida3 does not end\n"
                                       + self.log()[-4000:])

    def end(self, number=signal.SIGTERM, code=0):
        self.process.send_signal(number)
        got = self.wait_exit()
        assert got == code, (got, self.log()[-4000:])
        self.wait_gone()

    def kill9(self):
        self.end(signal.SIGKILL, -signal.SIGKILL)

    def wait_gone(self):
        wait_for(lambda: not self.processes(),
                 "the end of machida3's processes")

    def processes(self):
        tools = {tool.pid for tool in self.tools}
        return [pid for pid in harness.processes_marked(self.mark)
                if pid not in tools]

    def worker_pid(self):
        def find():
            for pid in self.processes():
                try:
                    with open("/proc/%d/comm" % pid) as comm:
                        if comm.read().strip() == "wallaroo-worker":
                            return pid
                except OSError:
                    pass
            return None
        return wait_for(find, "the worker's process")

    # tools

    def tool_run(self, name, *args):
        return subprocess.run(
            [program(name)] + [str(arg) for arg in args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=self.env(), cwd=self.dir,
            timeout=harness.LIMIT)

    def receive(self, *options):
        """data_receiver, whose output is a file."""
        path = os.path.join(self.dir, "received")
        with open(path, "ab") as file:
            tool = subprocess.Popen(
                [program("data_receiver"), "--listen",
                 "127.0.0.1:%d" % self.sink, *options], stdout=file,
                stdin=subprocess.DEVNULL, env=self.env())
        self.tools.append(tool)
        wait_for(lambda: b"Listening on" in self.received(whole=True),
                 "data_receiver")
        return self

    def received(self, whole=False):
        with open(os.path.join(self.dir, "received"), "rb") as file:
            data = file.read()
        return data if whole else data.split(b"\n", 1)[1]

    def lines(self):
        return self.received().split(b"\n")[:-1]

    def wait_lines(self, count):
        """So many different ones; after a kill some may come twice."""
        try:
            wait_for(lambda: len(set(self.lines())) >= count,
                     "%d lines" % count, step=0.05)
        except harness.HarnessError as error:
            raise harness.HarnessError("%s: %d of %d different ones\n%s" % (
                error, len(set(self.lines())), len(self.lines()),
                self.log()[-4000:])) from None

    def send(self, source, content, *options):
        """sender, with a file of this content."""
        path = os.path.join(self.dir, "input-" + source)
        with open(path, "wb") as file:
            file.write(content)
        count = content.count(b"\n")
        done = self.tool_run(
            "sender", "--host", "127.0.0.1:%d" % self.ports[source],
            "--file", path, "--batch-size", "100", "--interval", "100_000",
            "--no-write", *(options or ("--messages", count)))
        assert done.returncode == 0 and not done.stderr, done.stderr

    def close(self, failed=False):
        for pid in harness.processes_marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.tools + [self.process]:
            if process is not None:
                process.wait()
        for where, _, names in os.walk(self.dir):
            for name in names:
                if name == "machida3.conf":
                    self.remove_runtime(os.path.join(where, name))
        shutil.rmtree(self.dir, ignore_errors=True)

    def remove_runtime(self, conf):
        with open(conf) as file:
            found = re.search(r'runtime-directory = "(/dev/shm/[^"]+)"',
                              file.read())
        if found:
            shutil.rmtree(found.group(1), ignore_errors=True)

    def reports(self):
        return []

