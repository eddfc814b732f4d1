"""A build of the programs with options that only tests use: imported, or
called with a directory to make it in."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

from harness import SOURCE_TREE

OPTIONS = ["--enable-planted-bugs", "--enable-fault-points"]
PROGRAMS = ["wallaroo-supervisord", "wallaroo-worker", "wallarooctl"]


def make(directory, options=OPTIONS, targets=PROGRAMS):
    """Into this directory; returns where the programs are.  What is there
    already is only brought up to date."""
    os.chmod(directory, 0o755)		# they run as nobody
    source = os.path.join(directory, "source")
    build = os.path.join(directory, "build")
    if not os.path.exists(os.path.join(build, "config.status")):
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(build, ignore_errors=True)
        copy(source)
        if not os.path.exists(os.path.join(source, "configure")):
            subprocess.run(["./autogen.sh"], cwd=source, check=True)
        os.mkdir(build)
        run(build, ["../source/configure", *options])
    else:
        copy(source)
    run(build, ["make", "-j2", *targets])
    return build


@contextlib.contextmanager
def given_or_made():
    """That of WALLAROO_SPECIAL_BUILD, or one that is gone afterwards."""
    given = os.environ.get("WALLAROO_SPECIAL_BUILD")
    if given:
        yield given
        return
    directory = tempfile.mkdtemp(prefix="wallaroo-special-")
    try:
        yield make(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copy(source):
    """Of the tree, because it may itself be configured; what did not change
    keeps its time."""
    ignored = shutil.ignore_patterns(
        ".git", "*.o", "*.a", "config.status", "config.h", "stamp-h1",
        "__pycache__", "test-results", "matrix-build", "coverage-build",
        "bench-peers", "bench-inputs", "kafka-cache", "_build")

    def ignore(where, names):
        # other builds within the tree
        return ignored(where, names) | {
            name for name in names if os.path.exists(
                os.path.join(where, name, "config.status"))}
    shutil.copytree(SOURCE_TREE, source, symlinks=True, ignore=ignore,
                    dirs_exist_ok=True)


def run(build, command):
    done = subprocess.run(command, cwd=build, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()[-4000:]


if __name__ == "__main__":
    make(sys.argv[1])
