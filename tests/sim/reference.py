#!/usr/bin/env python3
"""Was it right?  The same pipeline in another language.

    tests/sim/reference.py --sim tests/sim/sim --seeds N [--first M] [--every K]

Runs every K-th of these seeds once more, lets the simulation write down what
it was given and what it gave (dump.c), and asks the reference executor of the
Python package what that should have been: each byte of each output, and the
states in the end.  The application below is written from what its messages
mean, and shares no code with hostsim.c and oracle.c.

The order in which inputs from several sources come to a key of the second
step is the schedule's; it is read from the outputs.  Where it is determined,
the whole pipeline is run in one piece as well.
"""

import argparse
import collections
import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)),
                                "py"))

import wallaroo				# noqa: E402
import wallaroo.testing			# noqa: E402

ALL = (1 << 64) - 1

# An output's head, in the machine's order: length, magic, input, number of
# the output, keys, then what either step said, and a sum over all of it.
RECORD = struct.Struct("=IIIIIIQQQqQQQqQ")
MAGIC = 0x77616C6C
# Outputs of one input's first step; what timers give has higher numbers.
MOST = 3
Record = collections.namedtuple(
    "Record", "length magic seq sub key1 key2 v1 d1 nonce1 balance1 v2 d2 "
    "nonce2 balance2 sum pad")
Message = collections.namedtuple(
    "Message", "seq sub v1 d1 nonce1 balance1 v2 d2 nonce2 balance2",
    defaults=(0,) * 9)


def mix(a, b):
    x = (a * 0x9FB21C651E98DF25 ^ b) + 0x9E3779B97F4A7C15 & ALL
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & ALL
    return x ^ x >> 31


def padding(seq, size):
    return bytes((seq * 31 + i * 7 + 1) % 256 for i in range(size))


class Bank:
    """The application of one seed: what is paid goes from one to another.

    Where outputs wait for their checkpoint the steps draw random numbers,
    which only their outputs tell: nonces, by input and by output."""

    def __init__(self, inputs, nonces=None):
        self.inputs = inputs
        self.nonces = nonces or {}

    def decode(self, payload):
        seq, size = struct.unpack_from("=II", payload)
        if payload[8:] != padding(seq, size):
            raise ValueError("nobody has sent that")
        return None if self.inputs[seq]["dropped"] else Message(seq)

    def pay(self, message, state):
        given = self.inputs[message.seq]
        nonce = self.nonces.get(message.seq, 0)
        state.step(message.seq * 1000 + given["amount"] ^ nonce,
                   -given["amount"])
        return [message._replace(
            sub=sub, v1=state.version, d1=state.digest, nonce1=nonce,
            balance1=state.balance) for sub in range(given["fan"])]

    def receive(self, message, state):
        nonce = self.nonces.get((message.seq, message.sub), 0)
        state.step(mix(message.d1, message.seq * 16 + message.sub) ^ nonce,
                   self.share(message))
        return message._replace(v2=state.version, d2=state.digest,
                                nonce2=nonce, balance2=state.balance)

    def share(self, message):
        """Of an amount that is paid in several parts."""
        given = self.inputs[message.seq]
        part = given["amount"] // given["fan"]
        if message.sub > 0:
            return part
        return given["amount"] - part * (given["fan"] - 1)

    def payer(self, message):
        return "a%d" % self.inputs[message.seq]["key1"]

    def receiver(self, message):
        return "b%d" % self.inputs[message.seq]["key2"]

    def encode(self, m):
        given = self.inputs[m.seq]
        pad = padding(m.seq, len(given["frame"]) - 12)
        length = RECORD.size + len(pad)
        total = length
        for word in (m.seq << 32 | m.sub,
                     given["key1"] << 32 | given["key2"], m.v1 ^ m.d1,
                     m.nonce1 ^ m.nonce2 << 1, m.balance1, m.v2 ^ m.d2, m.balance2):
            total = mix(total, word & ALL)
        return RECORD.pack(
            length, MAGIC, m.seq, m.sub, given["key1"], given["key2"], m.v1,
            m.d1, m.nonce1, m.balance1, m.v2, m.d2, m.nonce2, m.balance2,
            total) + pad

    def values(self, seqs):
        """What the generator gives."""
        class Values:
            def __init__(self):
                self.rest = iter(seqs)

            def initial_value(self):
                return self.apply(None)

            def apply(self, last):
                seq = next(self.rest, None)
                return None if seq is None else Message(seq)
        return Values()


class State:
    def __init__(self):
        self.version = 0
        self.digest = 0
        self.balance = 0

    def step(self, what, amount):
        self.version += 1
        self.digest = mix(self.digest, what)
        self.balance += amount


SINK = "127.0.0.1:7001"


def steps(bank):
    """Its functions as the API wants them."""
    @wallaroo.decoder(header_length=4, length_fmt=">I")
    def decode(payload):
        return bank.decode(payload)

    @wallaroo.key_extractor
    def payer(message):
        return bank.payer(message)

    @wallaroo.state_computation_multi(name="first", state=State)
    def first(message, state):
        return bank.pay(message, state)

    @wallaroo.key_extractor
    def receiver(message):
        return bank.receiver(message)

    @wallaroo.state_computation(name="second", state=State)
    def second(message, state):
        return bank.receive(message, state)

    @wallaroo.encoder
    def encode(message):
        return bank.encode(message)
    return decode, payer, first, receiver, second, encode


def application(bank, sources, first=True, second=True):
    """The pipeline, or one of its steps alone."""
    decode, payer, pay, receiver, receive, encode = steps(bank)
    whole = None
    for name, generated in sources:
        if generated is not None:
            config = wallaroo.GenSourceConfig(name, bank.values(generated))
        else:
            config = wallaroo.TCPSourceConfig(
                name, "127.0.0.1", "7000", decode)
        one = wallaroo.source(name, config)
        whole = one if whole is None else whole.merge(one)
    if first:
        whole = whole.key_by(payer).to(pay)
    if second:
        whole = whole.key_by(receiver).to(receive)
    host, port = SINK.split(":")
    return wallaroo.build_application("Bank", whole.to_sink(
        wallaroo.TCPSinkConfig(host, port, encode)))


class Wrong(Exception):
    """The reference says something else."""


class Dump:
    """What dump.c has written."""

    def __init__(self, lines):
        self.inputs = {}
        self.order = collections.defaultdict(list)	# by where they come
        self.records = collections.defaultdict(list)	# by sink
        self.states = {"first": {}, "second": {}}
        self.end = None
        self.head = json.loads(next(lines))
        for line in lines:
            self.take(json.loads(line))
        if self.end is None:
            raise Wrong("the dump is cut off")

    def take(self, line):
        if "input" in line:
            line["frame"] = bytes.fromhex(line["frame"])
            self.inputs[line["input"]] = line
            self.order[line["from"]].append(line["input"])
        elif "record" in line:
            self.records[line["sink"]].append(
                (bytes.fromhex(line["record"]), line["again"]))
        elif "restart" in line:
            self.records[line["restart"]].append(None)
        elif "step" in line:
            states = self.states[line["step"]]
            if line["key"] in states:
                raise Wrong("key %s of step %s was saved twice" % (
                    line["key"], line["step"]))
            states[line["key"]] = (line["version"], line["digest"],
                                   line["balance"])
        else:
            self.end = line["end"]

    def sinks(self):
        return [sink for sink in ("tcp", "file")
                if self.head[sink + "_sink"]]

    def sources(self):
        """name: the numbers of a generator, or a stream of bytes"""
        clients = self.head["clients"]
        streams = {"clients": range(clients), "file": [clients]}
        found = {
            name: b"".join(self.inputs[seq]["frame"] for place in places
                           for seq in self.order[place])
            for name, places in streams.items()}
        found["generator"] = [
            seq for seq in self.order[clients + 1]
            if not self.inputs[seq]["dropped"]]
        return {name: what for name, what in found.items() if what}


def parse(data):
    if len(data) < RECORD.size:
        raise Wrong("a record of %d bytes" % len(data))
    return Record(*RECORD.unpack_from(data), data[RECORD.size:])


def new_records(dump, sink):
    """Without those that came again, which is allowed where a receiver may
    have lost them, and only as they were.  None: a power loss has taken some
    of the file, and it is read again from its beginning."""
    ever, seen = {}, {}
    for item in dump.records[sink]:
        if item is None:
            seen = {}
            continue
        data, again = item
        record = parse(data)
        name = (record.seq, record.sub)
        if ever.setdefault(name, data) != data:
            raise Wrong("%s sink: input %d.%d came again with something "
                        "else" % ((sink,) + name))
        if name in seen and not again:
            raise Wrong("%s sink: input %d.%d came again" % ((sink,) + name))
        seen.setdefault(name, data)
    return list(seen.values())


def nonces_of(dump):
    """By input, and by (input, number of the output)."""
    found = {}
    for sink in dump.sinks():
        for record in map(parse, new_records(dump, sink)):
            for name, nonce in ((record.seq, record.nonce1),
                                ((record.seq, record.sub), record.nonce2)):
                if nonce != 0 and not dump.head["nonces"]:
                    raise Wrong("%s sink: input %d.%d: nobody has drawn a "
                                "number" % (sink, record.seq, record.sub))
                if found.setdefault(name, nonce) != nonce:
                    raise Wrong("%s sink: input %d.%d: two numbers were "
                                "drawn" % (sink, record.seq, record.sub))
    return found


def run(app, inputs):
    return wallaroo.testing.run(app, inputs)


def run_whole(bank, sources, **parts):
    app = application(
        bank, [(name, what if isinstance(what, list) else None)
               for name, what in sources.items()], **parts)
    return run(app, {name: None if isinstance(what, list) else what
                     for name, what in sources.items()})


def states_of(result, step):
    return {key: (s.version, s.digest, s.balance)
            for key, s in result.states[step].items()}


def same(what, found, expected):
    if found == expected:
        return
    if isinstance(found, dict):
        wrong = [key for key in sorted(set(found) | set(expected))
                 if found.get(key) != expected.get(key)]
        raise Wrong("%s: %s is %s, the reference says %s" % (
            what, wrong[0], found.get(wrong[0]), expected.get(wrong[0])))
    for place, (a, b) in enumerate(zip(found, expected)):
        if a != b:
            raise Wrong("%s: number %d is %s, the reference says %s" % (
                what, place, parse(a), parse(b)))
    raise Wrong("%s: %d outputs, the reference has %d" % (
        what, len(found), len(expected)))


def by_key(records):
    """By the key of the second step, in their order."""
    found = collections.defaultdict(list)
    for data in records:
        found[parse(data).key2].append(data)
    return dict(found)


def check_sink(dump, bank, sink, messages, whole):
    """messages: what the first step gives, by (input, number of the
    output)."""
    records = new_records(dump, sink)
    came = [(record.seq, record.sub) for record in map(parse, records)]
    unknown = [key for key in came if key not in messages]
    if unknown:
        raise Wrong("%s sink: an output of input %d.%d, there is none" % (
            (sink,) + unknown[0]))
    if dump.end == "stopped" and len(came) != len(messages):
        missing = sorted(set(messages) - set(came))[0]
        raise Wrong("%s sink: the output of input %d.%d is missing" % (
            (sink,) + missing))
    result = run(
        application(bank, [("messages", None)], first=False),
        {"messages": [wallaroo.testing.Decoded(messages[key])
                      for key in came]})
    same("%s sink" % sink, records, result.outputs[SINK])
    if dump.end == "stopped":
        same("saved states of the second step", dump.states["second"],
             states_of(result, "second"))
        if whole is not None:
            expected = by_key(whole.outputs[SINK])
            for key, found in by_key(records).items():
                same("%s sink, key b%d" % (sink, key), found, expected[key])


def check_first(dump, sink, messages):
    """The second step has timers and a ttl, which the simulation checks by
    itself: what came to it."""
    came = {}
    for record in map(parse, new_records(dump, sink)):
        message = messages.get((record.seq, record.sub % MOST))
        if message is None or (record.v1, record.d1, record.balance1) != (
                message.v1, message.d1, message.balance1):
            raise Wrong("%s sink: an output of input %d.%d, the reference "
                        "has another one or none" % (
                            sink, record.seq, record.sub))
        came.setdefault((record.seq, record.sub), record)
    missing = sorted(set(messages) - set(came))
    if dump.end == "stopped" and missing:
        raise Wrong("%s sink: the output of input %d.%d is missing" % (
            (sink,) + missing[0]))


def check(dump, kind=Bank):
    """Wrong is raised if the seed did not do what the reference does."""
    bank = kind(dump.inputs, nonces_of(dump))
    if dump.end == "dark" and dump.head["nonces"]:
        return			# numbers were drawn that never came out
    sources = dump.sources()
    first = run_whole(bank, sources, second=False)
    messages = {(m.seq, m.sub): m for m in first.values}
    whole = run_whole(bank, sources) if dump.head["single"] else None
    for sink in dump.sinks():
        if dump.head["timed"]:
            check_first(dump, sink, messages)
        else:
            check_sink(dump, bank, sink, messages, whole)
    if dump.end == "dark":
        return
    if dump.end != "stopped":
        raise Wrong("it did not come to its end")
    same("saved states of the first step", dump.states["first"],
         states_of(first, "first"))
    total = sum(balance for states in dump.states.values()
                for _, _, balance in states.values())
    if total != 0 and not dump.head["timed"]:
        raise Wrong("the bank's sum is %d, it was 0" % total)


def dump_of(sim, seed, path, *more):
    """(what the seed was given and gave, whether the simulation minds)"""
    command = [sim, "--seed=%d" % seed, "--dump=" + path, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace")
    if not os.path.exists(path):
        raise Wrong("%s\n%s" % (shlex.join(command), done.stdout))
    with open(path) as file:
        dump = Dump(file)
    os.unlink(path)
    return dump, done.stdout if done.returncode != 0 else ""


def check_seed(sim, seed, path):
    dump, minds = dump_of(sim, seed, path)
    check(dump)
    if minds:
        raise Wrong("the reference does not mind, but " + minds)
    return dump


def check_seeds(sim, seeds):
    """How many are wrong."""
    bad = outputs = 0
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "dump")
        for seed in seeds:
            try:
                dump = check_seed(sim, seed, path)
                outputs += sum(len(r) for r in dump.records.values())
            except Wrong as wrong:
                bad += 1
                print("seed %d: %s\n  replay: %s --seed=%d --trace" % (
                    seed, wrong, sim, seed))
    print("the Python reference has checked %d seeds with %d outputs, %d "
          "are wrong" % (len(seeds), outputs, bad))
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sim", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--every", type=int, default=1000)
    args = parser.parse_args()
    sys.exit(1 if check_seeds(args.sim, range(
        args.first, args.first + args.seeds, args.every)) else 0)


if __name__ == "__main__":
    main()
