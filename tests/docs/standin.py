#!/usr/bin/env python3
"""Stand-ins for the system's commands that wallaroo-ops(7) uses, by the name
under which this file is called: services without systemd, and another machine
that is a directory.

WALLAROO_ROOT is the directory that plays the machine's root; the other
machine's is beside it, with ".new" at the end.
"""

import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = os.environ["WALLAROO_ROOT"]
USER = os.environ["WALLAROO_USER"]	# who plays the user wallaroo
PATIENCE_S = 60


def fail(text):
    sys.exit("%s: %s" % (os.path.basename(sys.argv[0]), text))


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            fail("waited in vain for " + what)
        time.sleep(0.05)


class Service:
    def __init__(self, unit):
        match = re.fullmatch(r"wallaroo@(\w+)(?:\.service)?", unit)
        if not match:
            fail("unknown unit " + unit)
        self.name = match.group(1)
        self.log = os.path.join(ROOT, self.name + ".log")
        self.pid_file = os.path.join(ROOT, self.name + ".pid")
        self.code_file = os.path.join(ROOT, self.name + ".code")

    def setting(self, name):
        """Of the installed unit."""
        first = ROOT.split(".new")[0]
        with open(os.path.join(
                first, "usr/local/lib/systemd/system/wallaroo@.service")) as f:
            text = f.read()
        value = re.search(r"^%s=(.*)$" % name, text, re.M).group(1)
        return value.replace("%i", self.name).replace(
            os.path.join(first, "etc/"), os.path.join(ROOT, "etc/"))

    def directory(self, base, setting):
        """What systemd makes for the service, and gives to its user."""
        path = os.path.join(ROOT, base, self.setting(setting))
        os.makedirs(path, exist_ok=True)
        os.chmod(path, int(self.setting(setting + "Mode"), 8))
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(path, user.pw_uid, user.pw_gid)
        return path

    def running(self):
        try:
            with open(self.pid_file) as file:
                os.kill(int(file.read()), 0)
        except (OSError, ValueError):
            return False
        return not os.path.exists(self.code_file)

    def start(self):
        if self.running():
            return
        for path in (self.pid_file, self.code_file):
            if os.path.exists(path):
                os.unlink(path)
        begin = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        self.directory("var/lib", "StateDirectory")
        runtime = self.directory("run", "RuntimeDirectory")
        if os.fork() == 0:
            self.watch(dict(os.environ, RUNTIME_DIRECTORY=runtime))
        wait_for(lambda: os.path.exists(self.code_file)
                 or self.says("application is running", begin),
                 "the start of " + self.name)
        if os.path.exists(self.code_file):
            with open(self.log) as log:
                log.seek(begin)
                fail("%s does not start:\n%s" % (self.name, log.read()))

    def watch(self, environment):
        """In a process of its own: run the program, note how it ends."""
        os.setsid()
        with open(self.log, "ab") as log:
            null = open(os.devnull, "r+b")
            for number, file in ((0, null), (1, log), (2, log)):
                os.dup2(file.fileno(), number)
            user = {}
            if os.geteuid() == 0:
                user = {"user": USER, "extra_groups": [],
                        "group": pwd.getpwnam(USER).pw_gid}
            process = subprocess.Popen(
                shlex.split(self.setting("ExecStart")), cwd="/",
                env=environment, **user)
        with open(self.pid_file, "w") as file:
            file.write("%d\n" % process.pid)
        code = process.wait()
        with open(self.code_file + ".tmp", "w") as file:
            file.write("%d\n" % code)
        os.rename(self.code_file + ".tmp", self.code_file)
        os._exit(0)

    def says(self, text, begin):
        try:
            with open(self.log, errors="replace") as log:
                log.seek(begin)
                return text in log.read()
        except OSError:
            return False

    def stop(self):
        if self.running():
            with open(self.pid_file) as file:
                os.kill(int(file.read()), signal.SIGTERM)
        wait_for(lambda: not self.running(), "the end of " + self.name)
        with open(self.code_file) as file:
            code = int(file.read())
        if code != 0:
            fail("%s ended with %d" % (self.name, code))


def systemctl(args):
    if args[0] in ("enable", "disable", "daemon-reload"):
        return
    service = Service(args[1])
    if args[0] not in ("start", "stop"):
        fail("no " + args[0])
    getattr(service, args[0])()


def journalctl(args):
    unit, priority, count, pattern = None, 7, None, ""
    names = ["emerg", "alert", "crit", "err", "warning", "notice", "info",
             "debug"]
    args = list(args)
    while args:
        option = args.pop(0)
        if option == "-u":
            unit = args.pop(0)
        elif option == "-p":
            priority = names.index(args.pop(0))
        elif option == "-n":
            count = int(args.pop(0))
        elif option == "-g":
            pattern = args.pop(0)
        elif option != "--no-pager":
            fail("no " + option)
    with open(Service(unit).log, errors="replace") as log:
        lines = log.read().splitlines()
    for line in lines:
        if not re.match(r"<[0-7]>(supervisor|worker(-\d+)?): ", line):
            fail("a line without priority or speaker: " + line)
    lines = [line for line in lines
             if int(line[1]) <= priority and re.search(pattern, line)]
    if pattern and not lines:
        fail("nothing found")
    print("\n".join(lines[-count:] if count else lines))


def ssh(args):
    """Another machine: this one's root becomes that one's."""
    if args[0] != "new":
        fail("no machine " + args[0])
    other = ROOT + ".new"
    command = " ".join(args[1:]).replace(ROOT + "/", other + "/")
    environment = dict(os.environ, WALLAROO_ROOT=other)
    code = subprocess.run(["sh", "-c", command], env=environment).returncode
    # Its files name their places on that machine.
    path = os.path.join(other, "etc/wallaroo/wc/cluster.conf")
    if os.path.exists(path):
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(text.replace(ROOT + "/", other + "/"))
    sys.exit(code)


def scp(args):
    *sources, target = args
    other = target.split(":", 1)[1].replace(ROOT + "/", ROOT + ".new/")
    subprocess.run(["cp", *sources, other], check=True)


def nothing(args):
    pass


if __name__ == "__main__":
    {"systemctl": systemctl, "journalctl": journalctl, "ssh": ssh,
     "scp": scp, "useradd": nothing, "mount": nothing}[
        os.path.basename(sys.argv[0])](sys.argv[1:])
