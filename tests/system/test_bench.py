"""The benchmark suite runs and prints a table; what it measures on a machine
that does other things at the same time is nobody's business."""

import os
import subprocess
import sys

import pytest

import harness

BENCH = os.path.join(harness.SOURCE_TREE, "tests", "bench")
PROGRAM = os.path.join(BENCH, "bench.py")
FIELDS = 9


def bench(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-B", PROGRAM, "--build", harness.build_dir(),
         *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, timeout=1200)
    assert done.returncode == code, done.stderr
    return done


def rows_of(text):
    """Fields of each row, by its name."""
    lines = [line.split("\t") for line in text.splitlines()
             if line and not line.startswith("#")]
    assert lines[0][:6] == ["row", "ours", "reference", "ratio", "goal",
                            "met"]
    assert all(len(line) == FIELDS for line in lines), text
    rows = {line[0]: line for line in lines[1:]}
    assert len(rows) == len(lines) - 1, "a name comes twice"
    return rows


def number(field):
    return None if field == "-" else float(field)


def check(row):
    """A figure, or why there is none; never that it failed."""
    name, ours, reference, ratio, goal, met, _, spread, runs = row
    if ours.startswith("not run: "):
        assert met == "-" and runs == "0", row
        return False
    assert number(ours) is not None and runs == "1", row
    number(reference)
    number(ratio)
    assert (met in ("yes", "no")) == (goal != "-"), row
    assert ".." in spread, row
    return True


@pytest.mark.level("all")
def test_quick_rows_are_well_formed(tmp_path):
    results = tmp_path / "results"
    done = bench("--quick", "--results", str(results))
    rows = rows_of(done.stdout)
    print(done.stderr)
    figures = [name for name, row in rows.items() if check(row)]
    for part in ("word count, process / bare loop", "keyed counter, ",
                 "two exchanges, ", "stage of 200 us, ", "TCP to TCP at 1 k",
                 "inside a worker", "kill -9 to the next output, 10 k"):
        assert any(name.startswith(part) for name in figures), part
    assert results.read_text().strip() == done.stdout.strip()
    for what in ("machine: ", "load average: ", "Python 3", "settings: "):
        assert "# " + what in done.stdout


def test_list_names_each_row_once():
    listed = [line.split("\t") for line in bench("--list").stdout.splitlines()]
    names = [fields[0] for fields in listed]
    assert len(names) == len(set(names)) > 50
    assert all(len(fields) == 3 and all(fields) for fields in listed)


def test_unknown_row():
    done = bench("--rows", "no such row", code=1)
    assert "no row is called" in done.stderr


def test_goes_on_where_it_was(tmp_path):
    """Runs that were made count, a torn line and another commit's do not."""
    sys.path.insert(0, BENCH)
    import bench as runner
    path, key = str(tmp_path / "state"), {"commit": "a", "minutes": 3}
    state = runner.State(path, key, False)
    state.add("counter", {"x": 1.0}, None, 2.0)
    state.add("counter", {"x": 3.0}, None, 2.0)
    state.add("hop", {}, "failed: for a reason", 2.0)
    with open(path, "a") as file:
        file.write('{"key": ')
    again = runner.State(path, key, False)
    assert (again.done("counter"), again.done("hop")) == (2, 1)
    row = runner.rows.Row("x", "counter", "x", None, "/s",
                          runner.rows.Goal("ours >= 2"))
    other = row._replace(name="y", experiment="hop", reference="z")
    lines = list(runner.table([row, other], again))[1:]
    assert lines[0].split("\t") == [
        "x", "2", "-", "-", "ours >= 2", "yes", "/s", "1..3 -", "2"]
    assert lines[1].split("\t")[1] == "failed: for a reason"
    again.forget({"counter"})
    assert runner.State(path, key, False).done("counter") == 0
    assert runner.State(path, key, False).done("hop") == 1
    assert runner.State(path, dict(key, commit="b"), False).done("hop") == 0
