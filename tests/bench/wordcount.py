#!/usr/bin/python3
"""How fast is word count, beside a bare loop that does the same?

    wordcount.py --build DIR [--words 5000000] [--repeat 3]

Prints one row per case, separated by tabs: what, words a second, words a
second of the reference in the same run, ratio.  All in one run on one
machine, the reference before and after, because only ratios travel.  The
time of a cluster is from the supervisor's "running" line to the last byte of
output, so that starting Python isn't part of it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SYSTEM = os.path.join(os.path.dirname(HERE), "system")
sys.path.insert(0, SYSTEM)

VOCABULARY = 50000


def write_words(path, count):
    """Zipf-distributed words, the same ones each time, 10 to a line."""
    from words import Zipf
    zipf = Zipf(2024, VOCABULARY)
    with open(path, "w") as file:
        left = count
        while left:
            some = min(left, 100000)
            file.write("\n".join(zipf.lines(some, 10)) + "\n")
            left -= some


def floor(source, directory):
    """(seconds, bytes of output) of the bare loop."""
    target = os.path.join(directory, "floor.out")
    import harness
    env = dict(os.environ, PYTHONPATH=harness.python_package_dir())
    done = subprocess.run(
        [sys.executable, os.path.join(HERE, "floor.py"),
         os.path.join(HERE, "word_count_app.py"), source, target],
        stdout=subprocess.PIPE, env=env, check=True)
    return float(done.stdout), os.path.getsize(target)


def cluster(source, size, workers, durability, exact):
    """Seconds that a cluster takes."""
    import harness
    with open(os.path.join(HERE, "word_count_app.py")) as file:
        text = file.read()
    with harness.Cluster(text, workers=workers, durability=durability) as app:
        output = app.out("output")
        app.write_conf(args=[source, output])
        app.launch()
        app.wait_running()
        begun = time.monotonic()
        last, since = -1, begun
        while True:
            now = os.path.getsize(output) if os.path.exists(output) else 0
            if now >= size:
                break
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > 60:
                raise SystemExit("no output for 60 s\n" + app.log_tail())
            time.sleep(0.005)
        seconds = time.monotonic() - begun
        app.stop()
        assert os.path.getsize(output) == size
        if exact:
            check(output, exact)
        return seconds


def check(output, reference):
    """Per word the same counts in the same order."""
    import collections
    seen = collections.Counter()
    with open(output, "rb") as file:
        for line in file:
            word, number = line.split()
            seen[word] += 1
            assert int(number) == seen[word], line
    expected = collections.Counter()
    with open(reference, "rb") as file:
        for line in file:
            expected[line.split()[0]] += 1
    assert seen == expected


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.getcwd())
    parser.add_argument("--words", type=int, default=5000000)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    os.environ["WALLAROO_BUILD"] = os.path.abspath(options.build)

    with tempfile.TemporaryDirectory(prefix="wallaroo-bench-") as directory:
        os.chmod(directory, 0o755)
        source = os.path.join(directory, "words")
        write_words(source, options.words)
        cases = [(workers, durability) for durability in ("none", "process")
                 for workers in (1, 2)]
        floors, times = [], {case: [] for case in cases}
        size = None
        for turn in range(options.repeat):
            seconds, size = floor(source, directory)
            floors.append(seconds)
            for case in cases:
                times[case].append(cluster(
                    source, size, *case, exact=os.path.join(
                        directory, "floor.out") if turn == 0 else None))
        floors.append(floor(source, directory)[0])

    rate = {case: options.words / statistics.median(times[case])
            for case in cases}
    bare = options.words / statistics.median(floors)
    rows = [("bare loop, slowest against fastest run",
             options.words / max(floors), options.words / min(floors))]
    for workers, durability in cases:
        rows.append(("%d worker%s, %s, against the bare loop" % (
            workers, "s" * (workers > 1), durability),
            rate[workers, durability], bare))
    for workers in (1, 2):
        rows.append(("%d worker%s, process against none" % (
            workers, "s" * (workers > 1)),
            rate[workers, "process"], rate[workers, "none"]))
    for durability in ("none", "process"):
        rows.append(("%s, 2 workers against 1" % durability,
                     rate[2, durability], rate[1, durability]))
    print("row\tours\treference\tratio")
    for name, ours, reference in rows:
        print("%s\t%.0f\t%.0f\t%.2f" % (name, ours, reference,
                                        ours / reference))


if __name__ == "__main__":
    main()
