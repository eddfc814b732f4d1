"""Applications as they are written for Wallaroo, run by machida3.

Each is the text of a module: generators, framed input, one source and two,
keys that are texts and bytes, lines and frames out.
"""

# A generator without an end of its own; a computation that filters.
ALERTS_STATELESS = '''
import argparse
import wallaroo


class Transactions:
    def __init__(self, count):
        self.count = count

    def initial_value(self):
        return 0

    def apply(self, last):
        if last + 1 == self.count:
            return None
        return last + 1


@wallaroo.computation(name="check transaction")
def check(number):
    amount = (number * 7919) % 2000 - 1000
    if amount > 900:
        return "deposit alert %d: %d" % (number, amount)
    if amount < -900:
        return "withdrawal alert %d: %d" % (number, amount)


@wallaroo.encoder
def encode(alert):
    return alert + "\\n"


def application_setup(args):
    parser = argparse.ArgumentParser("alerts")
    parser.add_argument("--count", type=int)
    count = parser.parse_known_args(args)[0].count
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    source = wallaroo.GenSourceConfig("alerts", Transactions(count))
    return wallaroo.build_application("Alerts (stateless)", (
        wallaroo.source("transactions", source)
        .to(check)
        .to_sink(wallaroo.TCPSinkConfig(host, port, encode))))
'''


def alerts_stateless(count):
    for number in range(count):
        amount = number * 7919 % 2000 - 1000
        if abs(amount) > 900:
            yield "%s alert %d: %d" % (
                "deposit" if amount > 0 else "withdrawal", number, amount)


# The generator keeps part of its state in itself, not in its values.
ALERTS_STATEFUL = '''
import argparse
import wallaroo

USERS = ["Fido", "Rex", "Dr. Whiskers", "Feathers", "Mirlo"]


class Transaction:
    def __init__(self, user, amount):
        self.user = user
        self.amount = amount


class Transactions:
    at = -1

    def __init__(self, count):
        self.count = count

    def initial_value(self):
        return self.apply(None)

    def apply(self, last):
        self.at += 1
        if self.at == self.count:
            return None
        return Transaction(USERS[self.at % 5], self.at % 11 - 4)


class Account:
    def __init__(self):
        self.total = 0
        self.count = 0


@wallaroo.key_extractor
def user(transaction):
    return transaction.user


@wallaroo.state_computation(name="check total", state=Account)
def check(transaction, account):
    account.total += transaction.amount
    account.count += 1
    return (transaction.user, account.count, account.total)


@wallaroo.encoder
def encode(alert):
    return ("%s #%d: %d\\n" % alert).encode()


def application_setup(args):
    parser = argparse.ArgumentParser("alerts")
    parser.add_argument("--count", type=int)
    count = parser.parse_known_args(args)[0].count
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    source = wallaroo.GenSourceConfig("alerts", Transactions(count))
    return wallaroo.build_application("Alerts (stateful)", (
        wallaroo.source("transactions", source)
        .key_by(user)
        .to(check)
        .to_sink(wallaroo.TCPSinkConfig(host, port, encode))))
'''


def alerts_stateful(count):
    users = ["Fido", "Rex", "Dr. Whiskers", "Feathers", "Mirlo"]
    totals = {user: [0, 0] for user in users}
    for at in range(count):
        user = users[at % 5]
        totals[user][0] += 1
        totals[user][1] += at % 11 - 4
        yield "%s #%d: %d" % (user, *totals[user])


# Frames of a float in, of a float out.
CELSIUS = '''
import struct
import wallaroo


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(bs):
    if len(bs) < 4:
        return 0.0
    return struct.unpack(">f", bs[:4])[0]


@wallaroo.computation(name="multiply by 1.8")
def multiply(data):
    return data * 1.8


@wallaroo.computation(name="add 32")
def add(data):
    return data + 32


@wallaroo.encoder
def encode(data):
    return struct.pack(">If", 4, data)


def application_setup(args):
    in_name, in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    source = wallaroo.TCPSourceConfig(in_name, in_host, in_port, decode)
    pipeline = wallaroo.source("Celsius Conversion", source)
    pipeline = pipeline.to(multiply)
    pipeline = pipeline.to(add)
    pipeline = pipeline.to_sink(
        wallaroo.TCPSinkConfig(out_host, out_port, encode))
    return wallaroo.build_application("Celsius to Fahrenheit", pipeline)
'''

# Text in, words counted, lines out.
WORDS = '''
import string
import wallaroo


class WordTotal(object):
    count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_lines(bs):
    return bs.decode("utf-8")


@wallaroo.computation_multi(name="split into words")
def split(data):
    words = []
    for line in data.split("\\n"):
        clean = line.lower().strip(string.punctuation)
        for word in clean.split(" "):
            words.append(word.strip(string.punctuation))
    return words


@wallaroo.key_extractor
def extract_word(word):
    return word


@wallaroo.state_computation(name="count word", state=WordTotal)
def count_word(word, word_total):
    word_total.count = word_total.count + 1
    return (word, word_total.count)


@wallaroo.encoder
def encode_word_count(output):
    return ("%s => %d\\n" % output).encode("utf-8")


def application_setup(args):
    in_name, in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    lines = wallaroo.source("Split and Count", wallaroo.TCPSourceConfig(
        in_name, in_host, in_port, decode_lines))
    pipeline = (lines
                .to(split)
                .key_by(extract_word)
                .to(count_word)
                .to_sink(wallaroo.TCPSinkConfig(out_host, out_port,
                                                encode_word_count)))
    return wallaroo.build_application("Word Count Application", pipeline)
'''

# Two sources of binary records, merged; the key is bytes.
SPREAD = '''
import struct
import wallaroo


class MarketData:
    last_bid = 0.0
    last_offer = 0.0
    rejected = True


class Order:
    def __init__(self, symbol, price):
        self.symbol = symbol
        self.price = price


class Quote:
    def __init__(self, symbol, bid, offer):
        self.symbol = symbol
        self.bid = bid
        self.offer = offer


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_order(bs):
    kind, symbol, price = struct.unpack(">B4sd", bs)
    if kind != 1:
        raise Exception("not an order")
    return Order(symbol, price)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_quote(bs):
    kind, symbol, bid, offer = struct.unpack(">B4sdd", bs)
    if kind != 2:
        raise Exception("not a quote")
    return Quote(symbol, bid, offer)


@wallaroo.key_extractor
def extract_symbol(data):
    return data.symbol


@wallaroo.state_computation(name="Check Market Data", state=MarketData)
def check(data, state):
    if isinstance(data, Order):
        return data if state.rejected else None
    middle = (data.bid + data.offer) / 2
    spread = data.offer - data.bid
    state.last_bid = data.bid
    state.last_offer = data.offer
    state.rejected = spread >= 0.05 or spread / middle >= 0.05
    return None


@wallaroo.encoder
def encode(order):
    body = struct.pack(">4sd", order.symbol, order.price)
    return struct.pack(">I", len(body)) + body


def application_setup(args):
    addresses = {name: (host, port) for name, host, port
                 in wallaroo.tcp_parse_input_addrs(args)}
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    orders = wallaroo.source("Orders", wallaroo.TCPSourceConfig(
        "Orders", *addresses["Orders"], decode_order)).key_by(extract_symbol)
    quotes = wallaroo.source("Market Data", wallaroo.TCPSourceConfig(
        "Market Data", *addresses["Market Data"], decode_quote)
        ).key_by(extract_symbol)
    return wallaroo.build_application("Market Spread", (
        orders.merge(quotes)
        .to(check)
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode))))
'''

# A chain of stages that options say: each state checks that the numbers of
# a key come without a gap or a repetition, and says where it saw them.
CHAIN = '''
import argparse
import select
import wallaroo


class Seen:
    def __init__(self):
        self.last = 0


class Message:
    def __init__(self, key, number):
        self.key = key
        self.number = number
        self.trace = []


class Generator:
    def __init__(self, keys, count):
        self.keys = keys
        self.count = count

    def initial_value(self):
        return Message("key_0", 1)

    def apply(self, last):
        select.select([], [], [], 0.0001)	# so that kills find it at work
        at = (last.number - 1) * self.keys + int(last.key[4:]) + 1
        if at == self.keys * self.count:
            return None
        return Message("key_%d" % (at % self.keys), at // self.keys + 1)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(bs):
    number, key = int.from_bytes(bs[:8], "big"), bs[8:].decode()
    return Message(key, number)


@wallaroo.key_extractor
def key_of(message):
    return message.key


@wallaroo.encoder
def encode(message):
    return "%s %d %s\\n" % (message.key, message.number,
                           ",".join(message.trace))


def stage(kind, number):
    name = "%s-%d" % (kind, number)

    def stateless(message):
        message.trace.append(name)
        return message

    def multi(message):
        return [stateless(message)]

    def state(message, seen):
        if message.number != seen.last + 1:
            raise ValueError("%s: %s has %d after %d" % (
                name, message.key, message.number, seen.last))
        seen.last = message.number
        return stateless(message)

    def state_multi(message, seen):
        return [state(message, seen)]
    function = {"to": stateless, "to-multi": multi, "to-state": state,
                "to-state-multi": state_multi}[kind]
    function.__name__ = "f_%d" % number
    wrap = {
        "to": lambda: wallaroo.computation(name),
        "to-multi": lambda: wallaroo.computation_multi(name),
        "to-state": lambda: wallaroo.state_computation(name, Seen),
        "to-state-multi": lambda: wallaroo.state_computation_multi(
            name, Seen)}[kind]()
    return wrap(function)


def application_setup(args):
    parser = argparse.ArgumentParser("chain")
    for kind in ("to", "to-multi", "to-state", "to-state-multi", "key-by"):
        parser.add_argument("--" + kind, dest="chain", action="append_const",
                            const=kind)
    parser.add_argument("--gen-source", type=int, nargs=2)
    options = parser.parse_known_args(args)[0]
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    if options.gen_source:
        config = wallaroo.GenSourceConfig(
            "numbers", Generator(*options.gen_source))
    else:
        config = wallaroo.TCPSourceConfig(
            *wallaroo.tcp_parse_input_addrs(args)[0], decode)
    pipeline = wallaroo.source("Detector", config)
    for number, kind in enumerate(options.chain):
        if kind == "key-by":
            pipeline = pipeline.key_by(key_of)
        else:
            pipeline = pipeline.to(stage(kind, number))
    return wallaroo.build_application("Detector", pipeline.to_sink(
        wallaroo.TCPSinkConfig(host, port, encode)))
'''


def chain(options, keys, count):
    """The lines of the detector, in no order."""
    kinds = [option[2:] for option in options]
    trace = ",".join("%s-%d" % (kind, number)
                     for number, kind in enumerate(kinds)
                     if kind != "key-by")
    return ["key_%d %d %s" % (key, number, trace)
            for number in range(1, count + 1) for key in range(keys)]


# Keys partitioned twice: by user, then by what the first state made of it.
TWICE = '''
import wallaroo


class Seen:
    def __init__(self):
        self.count = 0


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode(bs):
    user, number = bs.decode().split(" ")
    return (user, int(number))


@wallaroo.key_extractor
def user_of(data):
    return data[0]


@wallaroo.key_extractor
def group_of(data):
    return data[2] % 7


@wallaroo.state_computation(name="per user", state=Seen)
def per_user(data, state):
    state.count += 1
    return (data[0], data[1], state.count)


@wallaroo.state_computation(name="per group", state=Seen)
def per_group(data, state):
    state.count += 1
    return data + (data[2] % 7, state.count)


@wallaroo.encoder
def encode(data):
    return "%s %d %d group %d %d\\n" % data


def application_setup(args):
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    return wallaroo.build_application("Twice", (
        wallaroo.source("Users", wallaroo.TCPSourceConfig(
            *wallaroo.tcp_parse_input_addrs(args)[0], decode))
        .key_by(user_of)
        .to(per_user)
        .key_by(group_of)
        .to(per_group)
        .to_sink(wallaroo.TCPSinkConfig(host, port, encode))))
'''

# Windows of each type over numbers that a generator gives to keys in turn.
WINDOWS = '''
import argparse
import select
import wallaroo

KEYS = ["Fido", "Rex", "Dr. Whiskers"]


class Numbers:
    def __init__(self, count):
        self.count = count

    def initial_value(self):
        return 0

    def apply(self, last):
        select.select([], [], [], 0.0005)
        return last + 1 if last + 1 < self.count else None


@wallaroo.key_extractor
def key_of(number):
    return KEYS[number % 3]


class Collect(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, number, numbers):
        numbers.append(number)

    def combine(self, one, other):
        return one + other

    def output(self, key, numbers):
        if numbers:
            return "%s: %s" % (key, " ".join(map(str, numbers)))


@wallaroo.encoder
def encode(text):
    return text + "\\n"


def application_setup(args):
    parser = argparse.ArgumentParser("windows")
    parser.add_argument("--window-type")
    parser.add_argument("--count", type=int)
    options = parser.parse_known_args(args)[0]
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    ms = wallaroo.milliseconds
    windows = {
        "tumbling": wallaroo.range_windows(ms(60)),
        "sliding": wallaroo.range_windows(ms(60)).with_slide(ms(20)),
        "counting": wallaroo.count_windows(7).with_timeout(None),
    }[options.window_type].over(Collect)
    return wallaroo.build_application("Alerts (windowed)", (
        wallaroo.source("transactions", wallaroo.GenSourceConfig(
            "transactions", Numbers(options.count)))
        .key_by(key_of)
        .to(windows)
        .to_sink(wallaroo.TCPSinkConfig(host, port, encode))))
'''


def windows(lines):
    """{key: [numbers of each window]} of different lines, in their order."""
    found = {}
    for line in dict.fromkeys(lines):
        key, numbers = line.decode().split(": ")
        found.setdefault(key, []).append([int(n) for n in numbers.split()])
    return found
