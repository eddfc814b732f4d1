"""The examples, run by the reference executor and checked otherwise."""

import importlib
import os
import random
import re
import struct
import subprocess
import sys
from collections import Counter

import pytest

import wallaroo.testing
from conftest import EXAMPLES
from wallaroo import _topology

TCP = ["--in", "words@127.0.0.1:7010", "--out", "127.0.0.1:7002"]


def load(name, args, monkeypatch):
    monkeypatch.syspath_prepend(os.path.join(EXAMPLES, name))
    return importlib.import_module(name).application_setup([name] + args)


def kinds(app):
    """Of sources and sinks, as the worker gets them."""
    topology = _topology.compile_application(app).topology
    return [s[1] for s in topology[3]], [s[1] for s in topology[5][:-1]]


def test_word_count(monkeypatch):
    rng = random.Random(1)
    words = [rng.choice("the The of a x1 grün".split()) for _ in range(500)]
    lines = [" ".join(words[i:i + 7]) for i in range(0, 500, 7)]
    app = load("word_count", TCP, monkeypatch)
    assert kinds(app) == (["tcp"], ["tcp"])
    text = "\n".join(lines).encode()
    result = wallaroo.testing.run(app, {"words": text})
    seen = Counter()
    for output in result.outputs["127.0.0.1:7002"]:
        word, count = re.fullmatch("(.*) => (.*)\n", output.decode()).groups()
        seen[word] += 1
        assert int(count) == seen[word]
    assert seen == Counter(word.lower() for word in words)
    assert {w: s.n for w, s in result.states["Count"].items()} == seen


def test_word_count_from_file_to_file(tmp_path, environment):
    (tmp_path / "in").write_text("A cat,\nthe cat.")
    app = os.path.join(EXAMPLES, "word_count", "word_count.py")
    command = [sys.executable, "-m", "wallaroo", "run", app]
    files = ["--in-file", "in", "--out-file", "out"]
    expected = "a => 1\ncat => 1\nthe => 1\ncat => 2\n"
    subprocess.run(command + files, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out").read_text() == expected
    out = subprocess.run(
        command + files[:2], cwd=tmp_path, env=environment, check=True,
        stdout=subprocess.PIPE, text=True)
    assert out.stdout == expected


def test_alphabet(monkeypatch):
    app = load("alphabet", TCP, monkeypatch)
    assert kinds(app) == (["tcp"], ["tcp"])
    votes = [("a", 1), ("b", 2), ("a", 1 << 31), ("a", 1 << 31)]
    stream = b"".join(
        struct.pack(">I1sI", 5, letter.encode(), n) for letter, n in votes)
    result = wallaroo.testing.run(app, {"Alphabet": stream})
    assert result.values == [
        ("a", 1), ("b", 2), ("a", 1 + (1 << 31)), ("a", 1 + (1 << 32))]
    assert result.outputs["127.0.0.1:7002"][-1] == struct.pack(
        ">I1sQ", 9, b"a", 1 + (1 << 32))


def test_primes(monkeypatch):
    app = load("primes", ["--limit", "30"], monkeypatch)
    assert kinds(app) == (["gen"], ["stdout"])
    result = wallaroo.testing.run(app, {"Numbers": None})
    assert [n for _, _, n in result.values] == [
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert result.outputs["stdout"][-1] == b"9 2 29\n"


def test_stock(monkeypatch):
    app = load("stock", [
        "--in", "deliveries@h:1,orders@h:2", "--out", "h:3"], monkeypatch)
    assert kinds(app) == (["tcp", "tcp"], ["tcp"])
    result = wallaroo.testing.run(app, [
        ("Deliveries", b"apple,3"),
        ("Orders", b'{"article": "apple", "number": 2, "customer": "c"}'),
        ("Orders", b'{"article": "apple", "number": 2, "customer": "d"}'),
        ("Deliveries", b"apple,many"),
        ("Deliveries", b"apple,1"),
        ("Orders", b'{"article": "apple", "number": 2, "customer": "d"}'),
    ])
    assert [v["accepted"] for v in result.values] == [True, False, True]
    assert result.states["Stock"]["apple"].number == 0
    assert [letter.step for letter in result.dead_letters] == ["Delivery"]


def test_connectors(monkeypatch):
    app = load("connectors", [], monkeypatch)
    assert kinds(app) == (["connector"], ["connector"])
    result = wallaroo.testing.run(app, {"Numbers": [b"1", b"2", b"40"]})
    assert list(result.values) == [1, 3, 43]


def test_the_examples_own_tests(environment):
    """As their head says."""
    directory = os.path.join(EXAMPLES, "stock")
    out = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "test_stock.py"],
        cwd=directory, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120)
    assert out.returncode == 0 and "2 passed" in out.stdout, out.stdout


@pytest.mark.parametrize("name", sorted(os.listdir(EXAMPLES)))
def test_cluster_conf(name):
    """Each example has a configuration for its own module."""
    directory = os.path.join(EXAMPLES, name)
    with open(os.path.join(directory, "cluster.conf")) as file:
        conf = file.read()
    module = re.search('module = "(.*)"', conf).group(1)
    assert os.path.exists(os.path.join(directory, module + ".py"))
