"""What python -m wallaroo run --workers makes of its options and counters."""

import io
import os

import pytest

from wallaroo import _cluster, _run, _watch
from wallaroo._cluster import Progress, clock, part_done, short


def request_(**changes):
    return _cluster.Request("app", ["/here"], ["--in", "x$y"], 3, None,
                            "skip", False)._replace(**changes)


# -- the command line ---------------------------------------------------------

@pytest.mark.parametrize("before, behind, rest", [
    ([], [], []),
    (["--workers", "3"], [], ["--in", "a"]),
    ([], ["--workers", "3"], ["--in", "a"]),
    ([], ["--workers=3", "--watch"], ["a", "--workers", "4"]),
    (["--workers=3"], ["--"], ["--watch"]),
])
def test_options_on_either_side(before, behind, rest):
    found = _run.parse(["run"] + before + ["app.py"] + behind + rest)
    assert found.arguments == rest
    assert found.workers == (3 if "3" in "".join(before + behind) else None)
    assert found.watch == ("--watch" in behind)
    assert found.on_error == "fail" and found.state_directory is None


def test_both_sides_count():
    found = _run.parse(["run", "--workers", "3", "app.py", "--on-error=skip",
                        "--state-directory", "d", "x"])
    assert (found.workers, found.on_error, found.state_directory) == (
        3, "skip", "d")


@pytest.mark.parametrize("options", [
    ["--workers", "0"], ["--workers", "257"], ["--workers", "x"],
    ["--state-directory", "d"], ["--on-error", "ignore"]])
def test_refused(options, capsys):
    for words in (options + ["app.py"], ["app.py"] + options):
        with pytest.raises(SystemExit) as error:
            _run.parse(["run"] + words)
        assert error.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("line, once", [
    (["--watch", "app.py", "--watch"], ["app.py"]),
    (["app.py", "--watch", "--workers", "2", "x", "--watch"],
     ["app.py", "--workers", "2", "x", "--watch"]),
    (["app.py", "--watch", "--", "--watch"], ["app.py", "--", "--watch"]),
])
def test_without_watch(line, once):
    options = _run.parse(["run"] + line)
    assert _run.without_watch(line, options) == once


# -- the configuration --------------------------------------------------------

def test_configuration():
    text = _cluster.configuration(
        request_(), _cluster.Places("/state", "/run", []))
    assert text.startswith('application "app" {\n')
    for line in ('module = "app"', 'args = {"--in", "x\\$y"}',
                 'workers = 3', 'state-directory = "/state"',
                 'runtime-directory = "/run"', 'at-end = stop',
                 'on-error = skip', 'python-path = {"/here"}'):
        assert "\t%s\n" % line in text
    text = _cluster.configuration(
        request_(module="a b/c"), _cluster.Places("/state", None, []))
    assert text.startswith('application "a_b_c"')
    assert "runtime-directory" not in text


@pytest.mark.parametrize("room", [True, False])
def test_directories(tmp_path, monkeypatch, room):
    monkeypatch.setattr(_cluster, "has_room", lambda workers: room)
    monkeypatch.setattr(_cluster, "SHM", str(tmp_path))
    monkeypatch.setattr(_cluster.tempfile, "tempdir", str(tmp_path))
    made = _cluster.make_places(request_())
    assert set(made.remove) == {
        str(path) for path in tmp_path.iterdir()}
    assert made.runtime == (made.remove[1] if room else made.state + "/run")
    state = tmp_path / "kept"
    kept = _cluster.make_places(request_(state_directory=str(state)))
    assert kept.remove == [] and kept.state == str(state)
    assert kept.runtime == (None if room else str(state / "run"))
    (state / "catalog.sqlite").write_text("")  # it is remembered there
    assert _cluster.make_places(
        request_(state_directory=str(state))).runtime is None


def test_programs(tmp_path, monkeypatch):
    program = tmp_path / "sbin" / _cluster.SUPERVISOR
    program.parent.mkdir()
    program.write_text("")
    monkeypatch.setattr(_cluster, "places", lambda: [str(program.parent)])
    with pytest.raises(_cluster.WallarooParameterError, match="PREFIX"):
        _cluster.find_supervisor()  # not to be executed
    program.chmod(0o755)
    assert _cluster.find_supervisor() == str(program)
    monkeypatch.undo()
    monkeypatch.setenv("WALLAROO_PREFIX", str(tmp_path))
    assert _cluster.find_supervisor() == str(program)


# -- what is shown ------------------------------------------------------------

@pytest.mark.parametrize("number, text", [
    (0, "0"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (56789, "56.8k"),
    (2.5e6, "2.5M"), (1e9, "1G"), (4e15, "4e+03T")])
def test_short(number, text):
    assert short(number) == text


def test_clock():
    assert [clock(n) for n in (0, 61.9, 3600, 36061)] == [
        "0:00", "1:01", "1:00:00", "10:01:01"]


def test_part_done(tmp_path):
    (tmp_path / "in").write_text("x" * 200)
    file = {"kind": "file", "address": str(tmp_path / "in")}
    assert part_done([file], 50) == 0.25
    assert part_done([file, file], 500) == 1.0
    assert part_done([file, {"kind": "tcp", "address": ""}], 50) is None
    assert part_done([dict(file, address="/nothing")], 50) is None
    assert part_done([], 0) is None


def test_progress(tmp_path):
    (tmp_path / "in").write_text("x" * 200)
    worker = {"records_in": 0, "records_out": 0, "journal_tail": 10,
              "journal_done": 10, "outbox_bytes": 0, "errors": 0,
              "restarts": 0, "set_aside": 0, "bytes_in": 0}
    found = {"state": "running", "workers": [worker, dict(worker)],
             "sources": [{"kind": "tcp", "address": "a:1"}]}
    progress = Progress()
    begun = progress.begun
    assert progress.text(found, begun) == (
        "0:00  2 workers  0 in (0/s)  0 out (0/s)  lag 0B")
    worker.update(records_in=3000, records_out=100, journal_tail=1510,
                  outbox_bytes=500, restarts=1, errors=2, bytes_in=50)
    found["sources"] = [{"kind": "file", "address": str(tmp_path / "in")}]
    assert progress.text(found, begun + 2) == (
        "0:02  2 workers  3k in (1.5k/s)  100 out (50/s)  lag 2kB  "
        "2 errors  1 restarts  25 %  0:06 left")
    found["state"] = "draining"
    assert "  draining  " in progress.text(found, begun + 4)


def test_log_lines(capsys):
    log = io.BytesIO(b"".join(line + b"\n" for line in (
        b"<6>supervisor: application is starting",
        b'<6>worker-0: hello stream=stdout step="Count"',
        b"<5>worker-0: oh stream=stderr",
        b'<4>worker-1: careful at="x"',
        b"no priority \xff")))
    _cluster.show_log(log, _cluster.Screen(False), False)
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert err == ("oh\nwallaroo: worker-1: careful at=\"x\"\n"
                   "no priority \\xff\n")
    log.seek(0)
    _cluster.show_log(log, _cluster.Screen(False), True)
    assert "application is starting" in capsys.readouterr().err


# -- watching -----------------------------------------------------------------

def test_changed_files(tmp_path):
    for name in ("a.py", "b.txt", ".git/c.py", "env/d.py", "sub/e.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    before = _watch.files(str(tmp_path))
    assert sorted(before) == [
        str(tmp_path / "a.py"), str(tmp_path / "sub/e.py")]
    os.unlink(tmp_path / "a.py")
    (tmp_path / "sub/e.py").write_text("more")
    (tmp_path / "f.py").write_text("")
    assert [os.path.basename(path) for path in _watch.changed(
        before, _watch.files(str(tmp_path)))] == ["a.py", "f.py", "e.py"]
