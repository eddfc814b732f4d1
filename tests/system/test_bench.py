"""The benchmark suite runs and prints a table, and its instruments are right;
what it measures on a machine that does other things at the same time is
nobody's business."""

import collections
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import harness

BENCH = os.path.join(harness.SOURCE_TREE, "tests", "bench")
sys.path.insert(0, BENCH)
import bench as runner		# noqa: E402
import nexmark		# noqa: E402
import sut		# noqa: E402

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


def test_what_decides_a_goal_is_run_first():
    order = runner.turns({"workers": 2, "kafka": 2, "counter": 3,
                          "half_load": 1})
    assert order == [
        (0, "workers"), (0, "kafka"), (0, "counter"), (0, "half_load"),
        (1, "counter"), (2, "counter"), (1, "kafka"), (1, "workers")]


def test_goes_on_where_it_was(tmp_path):
    """Runs that were made count, a torn line and another commit's do not."""
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


# -- the instruments ----------------------------------------------------------

HIST = """
#include <stdio.h>
#include "hist.h"
int
main(void)
{
	static struct hist	h;
	uint64_t		v;
	size_t			i;

	for (v = 1; v < UINT64_MAX / 16; v += v / 7 + 1) {
		i = hist_bin(v);
		if (v >= hist_edge(i) || (i > 0 && v < hist_edge(i - 1)))
			return (1);
	}
	for (v = 0; v < 100000; v++)
		hist_add(&h, v * 1000);
	printf("%llu %llu %llu\\n", (unsigned long long)hist_at(&h, 500000),
	    (unsigned long long)hist_at(&h, 999900),
	    (unsigned long long)hist_at(&h, 999910));
	for (i = 0; i < HIST_BINS; i++)
		printf("%llu ", (unsigned long long)hist_edge(i));
	return (0);
}
"""


def compiled(directory, source, *options):
    path = str(directory / "program")
    subprocess.run((os.environ.get("WALLAROO_CC") or "cc").split() + [
        "-std=gnu11", "-I", BENCH, "-o", path, source, *options], check=True)
    return path


def test_histogram(tmp_path):
    """A value is in its bin; what is read is at most 1/32 too large; there
    are ten samples beyond a percentile, or it is not said."""
    source = tmp_path / "hist.c"
    source.write_text(HIST)
    done = subprocess.run([compiled(tmp_path, str(source))],
                          stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    percentiles, edges = done.stdout.splitlines()
    middle, last, beyond = map(int, percentiles.split())
    assert 50000000 <= middle <= 50000000 * 33 / 32
    assert 99990000 <= last <= 99999000 and beyond == 0
    assert list(map(int, edges.split())) == [
        sut.edge(number) % (1 << 64) for number in range(sut.BINS)]


class Slow:
    """Counts like the application, but holds each line back for a while."""

    def __init__(self, sink, source, pause):
        self.listener = socket.create_server(("127.0.0.1", source))
        self.sink = socket.create_connection(("127.0.0.1", sink))
        self.pause = pause
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def close(self):
        self.thread.join(harness.LIMIT)
        self.sink.close()
        self.listener.close()

    def run(self):
        counts = collections.Counter()
        sock, _ = self.listener.accept()
        with sock, sock.makefile("rb") as lines:
            for line in lines:
                due = int(line.split()[1])
                left = due / 1e9 + self.pause - time.monotonic()
                if left > 0:
                    time.sleep(left)
                key = line.split()[0]
                counts[key] += 1
                self.sink.sendall(b"%s %d %d\n" % (key, counts[key], due))


@pytest.mark.level("all")
def test_driver_counts_from_when_it_was_due(tmp_path):
    """Never less than the line was held back, whatever the machine does."""
    program = compiled(tmp_path, os.path.join(BENCH, "driver.c"))
    sink, source = harness.free_port(), harness.free_port()
    driver = sut.Driver(program, sink, source)
    victim = subprocess.Popen(["sleep", "600"])
    slow = Slow(sink, source, 0.05)
    try:
        load = driver.do("load", 100)
        assert load["sent"] == load["received"] == 100
        answer = driver.do("run", 10, 200, 2, 1)
        assert answer["sent"] == answer["received"] == 600
        assert answer["p50"] >= 50e6 and answer["p90"] >= answer["p50"]
        assert answer["p99"] is None	# of 400 samples
        assert answer["max"] >= answer["p90"]
        answer = driver.do("kill", 10, 200, 1, victim.pid)
        assert victim.wait(harness.LIMIT) == -9
        assert answer["recovered"] >= 50e6
        assert answer["received"] == 200
    finally:
        victim.kill()
        victim.wait()
        driver.close()
        slow.close()


@pytest.mark.level("all")
def test_bare_loops_compute_the_same(tmp_path):
    """One process and two: the same counts of the same words."""
    source = sut.write_lines(str(tmp_path / "words"), sut.words(20000, 1))
    seen = []
    for processes in (1, 2):
        target = str(tmp_path / str(processes))
        seconds, cpu = sut.bare(processes, "words", source, target)
        assert seconds > 0 and cpu > 0
        text = b""
        for path in (target, target + ".2"):
            if os.path.exists(path):
                with open(path, "rb") as file:
                    text += file.read()
        seen.append(sorted(text.splitlines()))
    assert len(seen[0]) == 20000 and seen[0] == seen[1]


@pytest.mark.level("all")
def test_bare_exchanges_lose_nothing(tmp_path):
    source = sut.write_lines(str(tmp_path / "readings"),
                             sut.readings(20000, 100))
    for processes in (1, 2):
        target = str(tmp_path / str(processes))
        sut.bare(processes, "exchanges", source, target)
        last = collections.Counter()
        for path in (target, target + ".2"):
            if os.path.exists(path):
                with open(path, "rb") as file:
                    for line in file:
                        place, count, _ = line.split()
                        assert int(count) == last[place] + 1
                        last[place] += 1
        assert sum(last.values()) == 20000


@pytest.mark.level("all")
@pytest.mark.parametrize("query", nexmark.QUERIES)
def test_nexmark_is_right(query):
    """The bare loop and the pipeline find what plain Python says."""
    with tempfile.TemporaryDirectory(prefix="wallaroo-bench-") as directory:
        os.chmod(directory, 0o755)	# a worker has another user
        source = sut.write_lines(os.path.join(directory, "events"),
                                 nexmark.lines(15000))
        target = os.path.join(directory, "bare")
        nexmark.run(query, source, target)
        nexmark.check(query, source, target)
        sut.run_to_end(
            "nexmark_app.py", ([query, source], []), ["nexmark.py"],
            lambda output: nexmark.check(query, source, output))


def test_nexmark_check_finds_a_wrong_output(tmp_path):
    source = sut.write_lines(str(tmp_path / "events"), nexmark.lines(12000))
    target = str(tmp_path / "output")
    for query in nexmark.QUERIES:
        nexmark.run(query, source, target)
        with open(target, "rb") as file:
            rows = file.readlines()
        with open(target, "wb") as file:
            file.writelines(rows[:-1])
        with pytest.raises(AssertionError, match="wrong output"):
            nexmark.check(query, source, target)
