"""Users' own Python: modules and packages beside the application, virtual
environments, child processes."""

import os
import signal
import subprocess
import sys

import pytest

import apps
import harness
import oracle

pytestmark = pytest.mark.level("all")


def using(statement, expression):
    """Word count whose Split gives the words through user code."""
    return apps.WORD_COUNT.replace(
        "import wallaroo\n", "import wallaroo\n" + statement + "\n", 1
    ).replace("return line.split()", "return " + expression)


@pytest.fixture
def counts(receiver, feeder):
    """Run a cluster over a line; what comes out."""
    def run(app, line="b a b"):
        sink = receiver()
        port = harness.free_port()
        app.write_conf(args=apps.word_count_args(port, sink.port))
        app.start()
        feeder(port).send_frames([line.encode()])
        sink.wait_lines(len(line.split()))
        app.stop()
        sink.wait_ends()
        return sink.lines()
    return run


def test_own_modules(cluster, counts):
    """Beside the configuration file; a package with parts of its own, whose
    classes travel between workers and are kept as state."""
    app = cluster(using("from tools.text import words",
                        "[w.text for w in words(line)]"), workers=2, files={
        "tools/__init__.py": "",
        "tools/text.py": "from .word import Word\n\n\ndef words(line):\n"
                         "    return [Word(w) for w in line.split()]\n",
        "tools/word.py": "class Word:\n    def __init__(self, text):\n"
                         "        self.text = text\n"})
    oracle.check_word_counts(counts(app), "b a b".split())


def test_standard_library(cluster, counts):
    """That of the interpreter, its extension modules and what they call in
    Python included; each word says what is wrong."""
    import sysconfig
    paths = [sys.base_prefix, sysconfig.get_path("stdlib")]
    app = cluster(using(
        "import ctypes, decimal, ssl, sqlite3, sys, sysconfig\n"
        "ctypes.pythonapi.Py_GetVersion.restype = ctypes.c_char_p\n"
        "FOUND = [sys.base_prefix, sysconfig.get_path('stdlib')]\n"
        "VERSION = ctypes.pythonapi.Py_GetVersion().decode()\n",
        "line.split() if FOUND == %r and VERSION == sys.version else "
        "[repr(FOUND), VERSION]" % paths), workers=1)
    oracle.check_word_counts(counts(app), "b a b".split())


def test_python_path(cluster, counts):
    """Directories of python-path come in their order."""
    app = cluster(using("import elsewhere", "elsewhere.split(line)"),
                  workers=2, files={
        "lib/one/elsewhere.py": "def split(line):\n    return line.split()\n",
        "lib/two/elsewhere.py": "raise RuntimeError('the second one')\n",
        "dir/app_two.py": using("import elsewhere",
                                "elsewhere.split(line)")})
    app.settings["module"] = "app_two"
    app.settings["python-path"] = ["dir", "lib/one", "lib/two"]
    oracle.check_word_counts(counts(app), "b a b".split())


def virtual_environment(app):
    path = os.path.join(app.app_dir, "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path],
                   check=True)
    for directory, _, names in os.walk(path):
        os.chmod(directory, 0o755)
        assert names is not None
    return path


@pytest.mark.parametrize("form", ["directory", "interpreter"])
def test_virtual_environment(cluster, counts, form):
    """Its packages are found, named by directory or interpreter."""
    app = cluster(using("import only_in_venv", "only_in_venv.split(line)"),
                  workers=2)
    path = virtual_environment(app)
    packages = os.path.join(path, "lib", "python%d.%d"
                            % sys.version_info[:2], "site-packages")
    with open(os.path.join(packages, "only_in_venv.py"), "w") as file:
        file.write("import sys\nassert sys.prefix.endswith('venv')\n\n\n"
                   "def split(line):\n    return line.split()\n")
    app.settings["python"] = path if form == "directory" else \
        os.path.join(path, "bin", "python")
    oracle.check_word_counts(counts(app), "b a b".split())


def test_environment_of_another_version(cluster):
    """Refused, with both versions in the text."""
    app = cluster(apps.WORD_COUNT, args=apps.word_count_args(1, 2))
    path = virtual_environment(app)
    config = os.path.join(path, "pyvenv.cfg")
    with open(config) as file:
        text = file.read()
    with open(config, "w") as file:
        file.write("\n".join(
            "version = 3.9.1" if line.startswith("version") else line
            for line in text.splitlines()) + "\n")
    os.rename(os.path.join(path, "lib", "python%d.%d"
                           % sys.version_info[:2]),
              os.path.join(path, "lib", "python3.9"))
    app.write_conf(python=path)
    code, log = app.run_to_exit()
    assert code == harness.EXIT_PERMANENT, log
    assert "3.9" in log and "%d.%d" % sys.version_info[:2] in log


def test_no_such_environment(cluster):
    app = cluster(apps.WORD_COUNT, args=apps.word_count_args(1, 2))
    app.write_conf(python="nowhere")
    code, log = app.run_to_exit()
    assert code == harness.EXIT_PERMANENT and "nowhere" in log


CHILDREN = apps.WORD_COUNT.replace(
    "    state.count += 1\n", """    state.count += 1
    if data == "spawn":
        import subprocess
        subprocess.Popen(["sleep", "1000"])
    if data == "fork":
        import os, time
        if os.fork() == 0:
            while True:
                time.sleep(100)
""")


def kept_files(pid):
    """What a process has open of a worker's connections and files."""
    names = []
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            names.append(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
        except FileNotFoundError:
            pass  # closed since the listing
    return [name for name in names
            if any(part in name
                   for part in ("socket", "journal", "outbox", "sqlite"))]


@pytest.mark.parametrize("kind", ["spawn", "fork"])
def test_children_go_with_their_worker(cluster, receiver, feeder, kind):
    """A replacement starts when the children are gone, too; a child holds
    no connection and no file of the worker."""
    sink = receiver()
    port = harness.free_port()
    app = cluster(CHILDREN, workers=1,
                  args=apps.word_count_args(port, sink.port))
    app.start()
    client = feeder(port)
    words = []
    for number in range(3):
        client.send_frames([kind.encode()])
        words.append(kind)
        sink.wait_lines(len(words))
        children = set(harness.processes_marked(app.mark)) - {
            app.process.pid, app.pids()[0]}
        assert children
        harness.wait_for(
            lambda: not any(kept_files(child) for child in children),
            "children without files of their worker")
        pid = app.kill9(0)
        app.wait_replaced(0, pid)
        assert not any(harness.process_alive(child) for child in children)
    client.half_close()
    client.wait_closed()
    os.kill(app.process.pid, signal.SIGTERM)
    assert app.wait_exit() == harness.EXIT_CLEAN
    app.wait_gone()
    sink.wait_ends()
    oracle.check_word_counts(sink.lines(), words)
