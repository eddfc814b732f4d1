"""The simulation, as much of it as the level says: thousands of clusters in
one process, each from a seed."""

import os
import re
import subprocess

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))


def run(sim, *arguments, limit=3000):
    done = subprocess.run([sim] + list(arguments), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace",
                          timeout=limit)
    return done.returncode, done.stdout


def clean(sim, *arguments, **more):
    code, out = run(sim, *arguments, **more)
    print(out)
    assert code == 0, out
    return out


def test_a_thousand_seeds(sim):
    """Every cell of the table of coverage is looked at, too."""
    clean(sim, "--seeds=1000", "--jobs=2")


def kept_seeds():
    """number: what it has found"""
    with open(os.path.join(HERE, "seeds")) as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                yield line.split()[0]


@pytest.mark.parametrize("seed", sorted(set(kept_seeds()), key=int))
def test_kept_seed(sim, seed):
    clean(sim, "--seed=" + seed)


def test_one_seed_is_one_run(sim):
    """Whatever ran before it in the same process."""
    for seed in range(100, 160):
        alone = clean(sim, "--seed=%d" % seed)
        later = clean(sim, "--seed=%d" % seed, "--after=3")
        assert alone == later
    traced = clean(sim, "--seed=%d" % seed, "--trace")
    assert alone == traced.splitlines()[-1] + "\n"


def test_a_failing_seed_tells_how_to_see_it(sim):
    code, out = run(sim, "--seeds=200", "--plant=RULE3")
    assert code != 0
    command = re.search(r"replay: (.+)", out).group(1)
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE,
                          text=True, timeout=600)
    assert done.returncode != 0
    assert "FAILED: " in done.stdout and "dies: " in done.stdout


@pytest.mark.level("all")
def test_more_seeds(sim):
    clean(sim, "--seeds=8000", "--first=1000000", "--jobs=2")


@pytest.mark.level("long")
def test_a_million_seeds(sim):
    clean(sim, "--seeds=1000000", "--first=2000000", "--jobs=0",
          limit=24 * 3600)
