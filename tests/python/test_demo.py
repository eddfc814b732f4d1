"""The word count demonstration, with stand-ins for the programs it runs."""

import os
import subprocess
import sys
import textwrap

import pytest

from conftest import EXAMPLES

DEMO = os.path.join(EXAMPLES, "word_count", "demo")

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/usr/share/common-licenses"),
    reason="there are no licence texts here",
)

# Runs the application in one plain process instead of in workers.
SUPERVISOR = """
    import os, re, sys
    conf = open(sys.argv[2]).read()
    here = os.path.dirname(sys.argv[2])
    assert os.geteuid() != 0 or 'user = "nobody"' in conf
    args = re.findall('"([^"]*)"', re.search("args = {(.*)}", conf).group(1))
    sys.path.insert(0, os.environ["WALLAROO_PYTHON_PACKAGE"])
    from wallaroo import _reference, _run
    listen = _run.Runner.listen

    def listen_and_tell(self, source):
        listen(self, source)
        with open(os.path.join(here, "pid.new"), "w") as file:
            file.write(str(os.getpid()))
        os.rename(os.path.join(here, "pid.new"), os.path.join(here, "pid"))

    _run.Runner.listen = listen_and_tell
    %s
    sys.exit(_run.main(["run", os.path.join(here, "word_count.py")] + args))
"""

CTL = """
    import os, signal, sys
    here = os.path.dirname(sys.argv[2])
    if sys.argv[3:] == ["--json", "status"]:
        if not os.path.exists(os.path.join(here, "pid")):
            sys.exit(111)
        print('{"application": "wc", "state": "running", "workers": []}')
    elif sys.argv[3:] == ["stop"]:
        os.kill(int(open(os.path.join(here, "pid")).read()), signal.SIGTERM)
    else:
        sys.exit(2)
"""


def demo(tmp_path, sabotage, environment):
    build = tmp_path / "build"
    build.mkdir()
    for name, text in (
        ("wallaroo-supervisord", SUPERVISOR % sabotage), ("wallarooctl", CTL)
    ):
        path = build / name
        path.write_text(
            "#!%s\n%s" % (sys.executable, textwrap.dedent(text)))
        path.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return subprocess.run(
        [sys.executable, DEMO, str(build)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, timeout=120,
        env=dict(environment, TMPDIR=str(tmp_path / "tmp")),
    )


def test_it_counts(tmp_path, environment):
    out = demo(tmp_path, "pass", environment)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert len(lines) == 22 and lines[-1] == "every count is right"
    assert lines[1].split()[1] == "the"
    counts = [int(line.split()[0]) for line in lines[1:21]]
    assert counts == sorted(counts, reverse=True)
    assert os.listdir(tmp_path / "tmp") == []


def test_a_wrong_count_is_seen(tmp_path, environment):
    wrong = """encoded = _reference.encoded
    _reference.encoded = lambda e, v: encoded(e, (v[0], v[1] + (v[1] > 500)))
    """
    out = demo(tmp_path, wrong, environment)
    assert out.returncode == 1
    assert "=> 500 came '" in out.stderr and "=> 502" in out.stderr
    assert len(os.listdir(tmp_path / "tmp")) == 1


def test_a_supervisor_that_ends_is_seen(tmp_path, environment):
    out = demo(tmp_path, "sys.exit('cannot do it')", environment)
    assert out.returncode == 1
    assert "ended with status 1" in out.stderr
    assert "cannot do it" in out.stderr


def test_usage(environment):
    for args in ([], ["/nowhere"]):
        out = subprocess.run(
            [sys.executable, DEMO, *args], stderr=subprocess.PIPE, text=True)
        assert out.returncode == 1 and "demo" in out.stderr
