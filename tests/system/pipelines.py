"""Random pipelines from a seed, and the checks of what they put out.

A pipeline is made as the source text of an ordinary application.  Messages
carry their lineage (source, connection, position, and the name of each step
passed, with the number of the output where a step makes several), a value
that decides about filters, fan-out and keys and never depends on the order
of events, and a trace: each stateful step adds [step, key, n-th input of
that key, checksum of the state, lineage of the input].  So the order in
which each stateful step took its inputs can be read from the output.

Two kinds: "ordered" ones have one source and one exchange, and their per-key
outputs must equal the reference executor's.  All others are checked by
lineage; see check_lineage().
"""

import collections
import json
import random
import sys
import types

HEAD = '''
import json
import select
import zlib

import wallaroo
from wallaroo.codecs import LineDecoder
%(message)s

def mix(value, salt):
    return (value * 48271 + salt * 9973 + 11) %% 1000003


def pause(seconds):
    if seconds:
        select.select([], [], [], seconds)


class Lines(LineDecoder):
    def __init__(self, function):
        self.decode = function


def first(source, position, number):
    """A message as it enters."""
    return make("%%s:%%s" %% (source, position), mix(number, len(source)),
                [], [])


@wallaroo.encoder
def encode(m):
    lin, value, trace, keys = take(m)
    return json.dumps([lin, value, trace, keys]) + "\\n"

'''

# How a message is made and taken apart: each pipeline uses one of these.
MESSAGES = {
    "tuple": '''
def make(lin, value, trace, keys):
    return (lin, value, trace, keys)

def take(m):
    return m
''',
    "dict": '''
def make(lin, value, trace, keys):
    return {"lin": lin, "value": value, "trace": trace, "keys": keys}

def take(m):
    return m["lin"], m["value"], m["trace"], m["keys"]
''',
    "object": '''
class Message:
    def __init__(self, lin, value, trace, keys):
        self.lin = lin
        self.value = value
        self.trace = trace
        self.keys = keys

make = Message

def take(m):
    return m.lin, m.value, m.trace, m.keys
''',
    "slots": '''
class Message:
    __slots__ = ("lin", "value", "trace", "keys")
    def __init__(self, *values):
        self.lin, self.value, self.trace, self.keys = values

make = Message

def take(m):
    return m.lin, m.value, m.trace, m.keys
''',
    "dataclass": '''
import dataclasses

@dataclasses.dataclass
class Message:
    lin: str
    value: int
    trace: list
    keys: list

make = Message

def take(m):
    return m.lin, m.value, m.trace, m.keys
''',
}

STATES = {
    "plain": '''
class %(name)s_State:
    def __init__(self):
        self.n = 0
        self.sum = 0
''',
    "slots": '''
class %(name)s_State:
    __slots__ = ("n", "sum")
    def __init__(self):
        self.n = 0
        self.sum = 0
''',
    "class attributes": '''
class %(name)s_State:
    n = 0
    sum = 0
''',
    "history": '''
class %(name)s_State(dict):
    n = property(lambda self: self.get("n", 0),
                 lambda self, value: self.update(n=value))
    sum = property(lambda self: self.get("sum", 0),
                   lambda self, value: self.update(sum=value))
''',
}
STATE_SHOWN = '''
    def __repr__(self):
        return "n=%d sum=%d" % (self.n, self.sum)
'''
STATE_SINGLE = '''
@wallaroo.state_computation(name="%(name)s", state=%(name)s_State)
def %(name)s(m, state):
    lin, value, trace, keys = %(name)s_update(m, state)
    %(guard)s
    value = mix(value, %(salt)d)
    return make(lin + "/%(name)s", value, trace, %(name)s_tags(keys, value))

'''
STATE_MULTI = '''
@wallaroo.state_computation_multi(name="%(name)s", state=%(name)s_State)
def %(name)s(m, state):
    lin, value, trace, keys = %(name)s_update(m, state)
    %(guard)s
    result = []
    for number in range(1 + %(fan)s):
        new = mix(value, %(salt)d + number)
        result.append(make("%%s/%(name)s.%%d" %% (lin, number), new, trace,
                           %(name)s_tags(keys, new)))
    return result

'''


class Source:
    def __init__(self, name, kind, number, count, connections):
        self.name = name
        self.kind = kind		# tcp, file, gen
        self.number = number
        self.count = count		# messages (per connection)
        self.connections = connections

    def label(self):
        """Stands for the constant key of messages that no key_by has
        passed: all sources of a kind have the same."""
        return "key of a %s source" % self.kind


class Pipeline:
    """What generate() made."""

    def __init__(self, seed):
        self.seed = seed
        self.sources = []
        self.sinks = []			# (kind, number)
        self.text = ""
        self.ordered = False
        self.workers = 1
        self.exchanges = 0
        self.states = []		# names of stateful steps
        self.drawing = ""
        self.settings = {}

    def payload(self, source, connection, position):
        """What a client sends for one message."""
        return ("%d:%d" % (connection, position)).encode()

    def lineage(self, source, connection, position):
        if source.kind == "tcp":
            return "%s.%d:%d" % (source.name, connection, position)
        return "%s:%d" % (source.name, position)


class Generator:
    def __init__(self, seed, ordered=None):
        self.rng = random.Random(seed)
        self.p = Pipeline(seed)
        self.p.ordered = self.rng.random() < 0.4 if ordered is None \
            else ordered
        self.code = []
        self.count = 0
        self.multis = 0
        self.budget = 6			# stages with functions

    def name(self, letter):
        self.count += 1
        return "%s%d" % (letter, self.count)

    def emit(self, text):
        self.code.append(text)

    # The tree is first drawn as lists of stages, then written as text: a
    # function must know which key_by or collect comes next, because it puts
    # the keys into the message.

    def draw(self):
        rng = self.rng
        if self.p.ordered:
            stages = self.stateless(rng.randrange(3), True)
            stages += [self.exchange()]
            stages += self.after_exchange(True)
            return {"source": self.source(), "stages": stages}
        tree = self.subtree(rng.choice((1, 1, 2, 2, 3)))
        tree["stages"] += self.tail()
        return tree

    def source(self):
        rng = self.rng
        kind = rng.choice(("tcp", "tcp", "tcp", "file", "gen"))
        connections = 1
        if kind == "tcp" and not self.p.ordered:
            connections = rng.choice((1, 2, 3))
        source = Source("in%d" % len(self.p.sources), kind,
                        len(self.p.sources), rng.randrange(150, 500)
                        // connections, connections)
        self.p.sources.append(source)
        return source

    def stateless(self, count, filters):
        result = []
        for _ in range(count):
            kind = self.rng.choice(("step", "step", "multi"))
            if kind == "multi":
                if self.multis >= 2:
                    kind = "step"
                else:
                    self.multis += 1
            letter = {"step": "f", "multi": "m"}[kind]
            result.append({"kind": kind, "name": self.name(letter),
                           "filter": filters and self.rng.random() < 0.4,
                           "salt": self.rng.randrange(100)})
        return result

    def exchange(self):
        self.p.exchanges += 1
        if self.rng.random() < 0.2:
            return {"kind": "collect", "name": self.name("c")}
        return {"kind": "key_by", "name": self.name("k"),
                "keys": self.rng.choice((1, 3, 10, 40)),
                "type": self.rng.choice(("str", "str", "bytes", "int"))}

    def state(self, filters=False):
        name = self.name("s")
        self.p.states.append(name)
        return {"kind": "state", "name": name, "filter": filters,
                "multi": self.rng.random() < 0.3,
                "class": self.rng.choice(sorted(STATES)),
                "salt": self.rng.randrange(100)}

    def after_exchange(self, filters):
        result = []
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            if self.rng.random() < 0.6:
                result.append(self.state(filters and
                                         self.rng.random() < 0.3))
            else:
                result += self.stateless(1, filters)
        return result

    def subtree(self, leaves):
        """One source, or two subtrees merged; then some stages."""
        rng = self.rng
        if leaves == 1:
            tree = {"source": self.source(), "stages": []}
            tree["stages"] += self.stateless(rng.randrange(3), True)
        else:
            left = rng.randrange(1, leaves)
            tree = {"left": self.subtree(left),
                    "right": self.subtree(leaves - left), "stages": []}
            # Both sides of a merge end in key_by or neither.
            sides = tree["left"], tree["right"]
            if rng.random() < 0.4 or any(map(self.ends_keyed, sides)):
                for side in sides:
                    if not self.ends_keyed(side):
                        side["stages"].append(self.exchange())
            tree["stages"] += self.stateless(rng.randrange(2), False)
        if rng.random() < 0.4:
            tree["stages"].append(self.exchange())
            tree["stages"] += self.after_exchange(False)
        elif rng.random() < 0.15:
            # State under the constant key of the source.
            self.p.exchanges += 1
            tree["stages"].append(self.state())
        return tree

    def ends_keyed(self, tree):
        if tree["stages"]:
            return tree["stages"][-1]["kind"] in ("key_by", "collect")
        return "left" in tree and self.ends_keyed(tree["left"])

    def tail(self):
        stages = []
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            stages.append(self.exchange())
            if self.rng.random() < 0.15:
                # Two in a row: the later one counts.
                stages.append(self.exchange())
            stages += self.after_exchange(False)
        if not self.p.states:
            stages.append(self.exchange())
            stages.append(self.state())
        return stages

    # text

    def tags(self, following):
        """Code that adds the keys for the exchanges up to the next
        function."""
        lines = []
        for stage in following:
            if stage["kind"] == "key_by":
                label = {
                    "str": '"k%%d" %% (value %% %d)',
                    "bytes": '"b%%d" %% (value %% %d)',
                    "int": "chr(65 + value %% %d)",
                }[stage["type"]] % stage["keys"]
                lines.append('    keys = keys + [["%s", %s]]'
                             % (stage["name"], label))
            elif stage["kind"] == "collect":
                lines.append('    keys = keys + [["%s", "%s"]]'
                             % (stage["name"], "all of " + stage["name"]))
            else:
                break
        return "\n".join(lines)

    def write_tags(self, name, following):
        """name_tags(keys, value): the keys that come next."""
        self.emit('''
def %s_tags(keys, value):
%s
    return keys

''' % (name, self.tags(following)))

    def write_source(self, source, following):
        name = source.name
        self.write_tags(name, following)
        values = {"name": name, "pause": self.pause(source),
                  "count": source.count, "label": source.label()}
        if source.kind == "gen":
            self.emit('''
def %(name)s_value(number):
    pause(%(pause)s)
    lin, value, trace, keys = take(first("%(name)s", number, number))
    keys = %(name)s_tags([["source", "%(label)s"]], value)
    return make(lin, value, trace, keys)


class %(name)s_Generator:
    def initial_value(self):
        return %(name)s_value(0)

    def apply(self, last):
        number = int(take(last)[0].split(":")[1]) + 1
        if number == %(count)d:
            return None
        return %(name)s_value(number)

''' % values)
            return
        if source.kind == "tcp":
            values["decorator"] = \
                'wallaroo.decoder(header_length=4, length_fmt=">I")'
            values["label"] = source.label()
            values["where"] = '"%s." + connection' % name
        else:
            values["decorator"] = "Lines"
            values["where"] = '"%s"' % name
        self.emit('''
@%(decorator)s
def %(name)s_decode(data):
    pause(%(pause)s)
    connection, position = data.decode().split(":")
    number = int(position) * 7 + int(connection)
    lin, value, trace, keys = take(first(%(where)s, position, number))
    keys = %(name)s_tags([["source", "%(label)s"]], value)
    return make(lin, value, trace, keys)

''' % values)

    def pause(self, source):
        """Files and generators are slowed down, so that kills meet them."""
        return 0 if source.kind == "tcp" else 0.3 / source.count

    def write_stage(self, stage, following):
        name, kind = stage["name"], stage["kind"]
        if kind == "collect":
            return
        if kind == "key_by":
            result = {"str": "key", "bytes": "key.encode()",
                      "int": "ord(key)"}[stage["type"]]
            self.emit('''
@wallaroo.key_extractor
def %s(m):
    key = dict(take(m)[3])["%s"]
    return %s

''' % (name, name, result))
            return
        self.write_tags(name, following)
        values = dict(stage, least=0 if stage["filter"] else 1,
                      guard="if value % 4 == 0:\n        return None"
                      if stage["filter"] else "# every message goes on")
        if kind == "step":
            self.emit('''
@wallaroo.computation(name="%(name)s")
def %(name)s(m):
    lin, value, trace, keys = take(m)
    %(guard)s
    value = mix(value, %(salt)d)
    return make(lin + "/%(name)s", value, trace, %(name)s_tags(keys, value))

''' % values)
        elif kind == "multi":
            self.emit('''
@wallaroo.computation_multi(name="%(name)s")
def %(name)s(m):
    lin, value, trace, keys = take(m)
    result = []
    for number in range(%(least)d + value %% 3):
        new = mix(value, %(salt)d + number)
        result.append(make("%%s/%(name)s.%%d" %% (lin, number), new, trace,
                           %(name)s_tags(keys, new)))
    return result

''' % values)
        elif kind == "state":
            self.emit(STATES[stage["class"]] % stage + STATE_SHOWN)
            self.emit('''

def %(name)s_update(m, state):
    lin, value, trace, keys = take(m)
    state.n += 1
    state.sum = zlib.crc32(lin.encode(), state.sum)
    entry = ["%(name)s", keys[-1][1], state.n, state.sum, lin, len(keys)]
    return lin, value, trace + [entry], keys

''' % stage)
            self.emit((STATE_MULTI if stage["multi"] else STATE_SINGLE)
                      % dict(values, fan=self.fan(stage)))

    def fan(self, stage):
        """More outputs than one: where order is the reference's they may
        depend on the state, else on the message only."""
        if self.multis >= 2:
            return "0"
        self.multis += 1
        return "state.n % 2" if self.p.ordered else "value % 2"

    def write(self, tree, following):
        """The functions of a subtree, and the expression that builds it."""
        stages = tree["stages"]
        for index, stage in enumerate(stages):
            self.write_stage(stage, stages[index + 1:] + following)
        after = stages + following
        if "source" in tree:
            source = tree["source"]
            self.write_source(source, after)
            expression = "wallaroo.source(%r, %s)" % (
                source.name, SOURCE_CONFIGS[source.kind] % {
                    "name": source.name})
        else:
            left = self.write(tree["left"], after)
            right = self.write(tree["right"], after)
            expression = "%s\n    .merge(%s)" % (
                left, right.replace("\n", "\n    "))
        for stage in stages:
            call = {"key_by": "key_by(%(name)s)",
                    "collect": "collect()"}.get(stage["kind"], "to(%(name)s)")
            expression += "\n    ." + call % stage
        return expression

    def generate(self):
        rng = self.rng
        tree = self.draw()
        message = rng.choice(sorted(MESSAGES))
        self.emit(HEAD % {"message": MESSAGES[message]})
        expression = self.write(tree, [])
        for number in range(rng.choice((1, 1, 2, 3))):
            self.p.sinks.append((rng.choice(("tcp", "tcp", "file")), number))
        configs = [SINK_CONFIGS[kind] % {"number": number}
                   for kind, number in self.p.sinks]
        closing = ".to_sink(%s)" % configs[0] if len(configs) == 1 \
            else ".to_sinks([%s])" % ", ".join(configs)
        self.emit('''
def application_setup(args):
    where = json.loads(args[1])
    pipeline = (%s
    %s)
    return wallaroo.build_application("random", pipeline)
''' % (expression, closing))
        self.p.drawing = expression + "\n    " + closing
        self.p.text = "".join(self.code)
        self.p.workers = rng.choice((1, 2, 2, 3, 4))
        self.p.settings = {
            "checkpoint-interval": rng.choice((0.01, 0.05, 0.3, 1)),
            "partitions": rng.choice((16, 256)),
        }
        return self.p


SOURCE_CONFIGS = {
    "tcp": 'wallaroo.TCPSourceConfig("%(name)s", "127.0.0.1", '
           'where["%(name)s"], %(name)s_decode)',
    "file": 'wallaroo.FileSourceConfig("%(name)s", where["%(name)s"], '
            '%(name)s_decode)',
    "gen": 'wallaroo.GenSourceConfig("%(name)s", %(name)s_Generator())',
}
SINK_CONFIGS = {
    "tcp": 'wallaroo.TCPSinkConfig("127.0.0.1", where["out%(number)d"], '
           'encode)',
    "file": 'wallaroo.FileSinkConfig(where["out%(number)d"], encode)',
}


def generate(seed, ordered=None):
    return Generator(seed, ordered).generate()


def load(pipeline):
    """The application's module, in this process."""
    module = types.ModuleType("random_pipeline_%d" % pipeline.seed)
    sys.modules[module.__name__] = module
    exec(compile(pipeline.text, module.__name__, "exec"), module.__dict__)
    module.pause = lambda seconds: None
    # What the reference executor gives to each stateful step.
    module.inputs = {}
    for step in pipeline.states:
        setattr(module, step + "_update", recording(
            module, step, getattr(module, step + "_update")))
    return module


def recording(module, step, update):
    def recorded(message, state):
        lin, value, _, keys = module.take(message)
        module.inputs.setdefault((step, lin), (value, keys))
        return update(message, state)
    return recorded


# -- checks -----------------------------------------------------------------

class Output:
    """One line of a sink."""

    def __init__(self, line, place):
        self.lin, self.value, self.trace, self.keys = json.loads(line)
        self.key = self.keys[-1][1]
        self.place = place		# which connection

    def identity(self):
        return (self.lin, self.value, tuple(map(tuple, self.keys)))


def parse(connections):
    """connections: lines of each -> outputs in order of each."""
    return [[Output(line, place) for line in lines]
            for place, lines in enumerate(connections)]


def check_ordered(connections, expected):
    """expected: lines of the reference executor, in its order.  Each key's
    outputs are on one connection and in exactly that order."""
    want = collections.defaultdict(list)
    for line in expected:
        want[Output(line, None).key].append(line)
    got = collections.defaultdict(list)
    places = {}
    for place, lines in enumerate(connections):
        for line in lines:
            key = Output(line, place).key
            assert places.setdefault(key, place) == place, (
                "key %r came on two connections" % key)
            got[key].append(line)
    assert set(got) == set(want), (
        "keys that are missing: %s; surplus: %s" % (
            sorted(set(want) - set(got))[:5],
            sorted(set(got) - set(want))[:5]))
    for key in want:
        if got[key] != want[key]:
            for index, (one, other) in enumerate(zip(got[key], want[key])):
                assert one == other, (
                    "key %r, output %d of %d: got %s, the reference says %s"
                    % (key, index, len(want[key]), one, other))
            assert len(got[key]) == len(want[key]), (
                "key %r: %d outputs, the reference has %d" % (
                    key, len(got[key]), len(want[key])))


def route(lin):
    """(source with connection, names of the steps passed), and the position
    with the numbers of the outputs, which sorts as the order of entry."""
    head, *steps = lin.split("/")
    source, position = head.split(":")
    names = tuple(step.split(".")[0] for step in steps)
    numbers = tuple(int(step.split(".")[1]) for step in steps
                    if "." in step)
    return (source, names), (int(position),) + numbers


def check_lineage(connections, expected, module):
    """expected: what should come out, in any order (the reference's lines).

    1. each output appears exactly once; 2. each stateful step has, per key,
    inputs numbered 1 to n, and its own function, fed these inputs in that
    order, gives the same states and outputs; 3. inputs that came over one path and keys
    are in order; 4. the outputs of a step for a key leave in that order.
    Returns the states by step and key.
    """
    outputs = [output for lines in parse(connections) for output in lines]
    want = collections.Counter(Output(line, None).identity()
                               for line in expected)
    got = collections.Counter(output.identity() for output in outputs)
    missing, surplus = want - got, got - want
    assert not missing and not surplus, (
        "%d missing, first %s; %d surplus, first %s" % (
            sum(missing.values()), next(iter(missing), None),
            sum(surplus.values()), next(iter(surplus), None)))

    inputs = collections.defaultdict(dict)
    finals = {output.lin: output for output in outputs}
    for output in outputs:
        for depth, entry in enumerate(output.trace):
            step, key, n, checksum, lin, _ = entry
            this = (lin, checksum, output.trace[:depth])
            known = inputs[step, key].setdefault(n, this)
            assert known == this, (
                "input %d of %s, key %r is both %s and %s" % (
                    n, step, key, known, this))
    # The keys that a message had when it came to a step.
    keys_at = {}
    for output in outputs:
        labels = [key for _, key in output.keys]
        for step, _, _, _, lin, count in output.trace:
            keys_at[step, lin] = tuple(labels[:count])

    states = {}
    for (step, key), numbered in inputs.items():
        count = len(numbered)
        assert sorted(numbered) == list(range(1, count + 1)), (
            "%s, key %r: inputs %s of %d" % (
                step, key, sorted(set(range(1, max(numbered) + 1))
                                  - set(numbered))[:5], max(numbered)))
        lineages = [numbered[n][0] for n in range(1, count + 1)]
        assert len(set(lineages)) == count, (
            "%s, key %r took an input twice" % (step, key))
        states[step, key] = replay(module, step, key, numbered, finals)
        streams = collections.defaultdict(list)
        for lin in lineages:
            path, position = route(lin)
            streams[path, keys_at[step, lin]].append(position)
        for (path, _), positions in streams.items():
            assert positions == sorted(positions), (
                "%s, key %r: %s out of order" % (step, key, path))

    last = {}
    for output in outputs:
        if not output.trace:
            continue
        step, key, n, _, _, count = output.trace[-1]
        if count != len(output.keys):
            continue		# went on to other workers
        assert n >= last.get((step, key, output.place), 0), (
            "outputs of %s, key %r left out of order" % (step, key))
        last[step, key, output.place] = n
    return states


def replay(module, step, key, numbered, finals):
    """The step's own function on its inputs in the order of the journal;
    what it puts out must be what came out.  Returns the state."""
    computation = getattr(module, step)
    multi = hasattr(computation, "compute_multi")
    call = computation.compute_multi if multi else computation.compute
    state = getattr(module, step + "_State")()
    for n in range(1, len(numbered) + 1):
        lin, checksum, trace = numbered[n]
        value, keys = module.inputs[step, lin]
        result = call(module.make(lin, value, trace, keys), state)
        assert (state.n, state.sum) == (n, checksum), (
            "%s, key %r, input %d: state %s, the reference says %s" % (
                step, key, n, checksum, state.sum))
        for message in result if multi else [result]:
            lin, value, trace, keys = module.take(message)
            final = finals.get(lin)
            if final is None:
                continue		# other steps follow
            assert (final.value, final.trace, final.keys) == (
                value, trace, keys), (lin, final.trace, trace)
    return state
