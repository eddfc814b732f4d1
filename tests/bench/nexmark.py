"""Nexmark: persons, auctions and bids, a few of its queries, and the bare
loop of each.

    nexmark.py QUERY INPUT OUTPUT

is that loop: one Python process, prints the seconds that it took and those of
the processor.  Everybody's programs call the functions of this file.

Of its 22 queries these are those with a first program in Python: q0 passes
bids on, q1 converts their prices, q2 selects some, q3 joins persons of three
states with their auctions of a category, q5 is the auctions with the most
bids of the last ten seconds, each two, q7 the highest bid of each ten seconds,
q8 who became a person and opened auctions within the same ten seconds, q11
counts the bids of sessions, q12 of ten seconds of the clock.  q5 says each new
best of a window, as q0 to q3 say what they find at once; the others say what
is final.
"""

import collections
import random
import sys
import time

BASE = 1767225600000	# of event time: milliseconds, a multiple of windows
TICK = 1		# milliseconds between two events
WINDOW = 10000
SLIDE = 2000
PANES = WINDOW // SLIDE
GAP = 2000		# longer than that without a bid ends a session
CATEGORY = "10"
STATES = ("OR", "ID", "CA")
EACH = 123		# q2: auctions
QUERIES = ("q0", "q1", "q2", "q3", "q5", "q7", "q8", "q11", "q12")


def lines(count):
    """One person and three auctions, then 46 bids; ids are those of what is
    not long ago."""
    dice = random.Random(2024)
    persons = auctions = 0
    for number in range(count):
        slot, at = number % 50, BASE + number * TICK
        if slot == 0:
            persons += 1
            yield "P,%d,%d,name%d,city%d,%s" % (
                at, persons, persons, dice.randrange(100),
                dice.choice(STATES + ("NY", "TX", "WA")))
        elif slot < 4:
            auctions += 1
            yield "A,%d,%d,%d,%d" % (
                at, auctions, max(1, persons - dice.randrange(100)),
                10 + dice.randrange(5))
        else:
            yield "B,%d,%d,%d,%d" % (
                at, max(1, auctions - int(dice.random() ** 2 * 100)),
                max(1, persons - dice.randrange(1000)),
                100 + dice.randrange(100000))


def parse(data):
    """("P", time, id, name, city, state), ("A", time, id, seller, category)
    or ("B", time, auction, bidder, price)"""
    fields = data.decode().split(",")
    fields[1] = int(fields[1])
    if fields[0] == "B":
        fields[4] = int(fields[4])
    return tuple(fields)


def encode(fields):
    return (" ".join(map(str, fields)) + "\n").encode()


def time_of(event):
    return event[1]


# -- what the queries do with one event ---------------------------------------

def is_bid(event):
    return event[0] == "B"


def as_it_is(event):
    return event[2], event[3], event[4], event[1]


def in_euro(event):
    return event[2], event[3], event[4] * 908 // 1000, event[1]


def is_chosen(event):
    return event[0] == "B" and int(event[2]) % EACH == 0


def chosen(event):
    return event[2], event[4]


def is_of_join(event):
    return event[0] == "P" and event[5] in STATES or \
        event[0] == "A" and event[4] == CATEGORY


def is_no_bid(event):
    return event[0] != "B"


def auction_of(bid):
    return bid[2]


def bidder_of(bid):
    return bid[3]


def person_of(event):
    """The id of a person, or who sells an auction."""
    return event[2] if event[0] == "P" else event[3]


class Sides:
    def __init__(self):
        self.person = None
        self.auctions = []


def join(event, sides):
    """What is found because of an event."""
    if event[0] == "P":
        sides.person = event
        new = sides.auctions
    else:
        sides.auctions.append(event[2])
        new = sides.auctions[-1:]
    person = sides.person
    return [] if person is None else [
        (person[3], person[4], person[5], auction) for auction in new]


def pane_of(event):
    return event[1] // SLIDE


def windows_of(counted):
    """(window, auction, bids) of all windows with a pane; a window is called
    by its last one."""
    auction, pane, bids = counted
    return [(pane + number, auction, bids) for number in range(PANES)]


class Best:
    def __init__(self):
        self.bids = {}
        self.most = 0


def hottest(change, best):
    window, auction, bids = change
    bids += best.bids.get(auction, 0)
    best.bids[auction] = bids
    if bids <= best.most:
        return None
    best.most = bids
    return window, auction, bids


def higher(bid, other):
    """The first one of the highest."""
    return bid[4] > other[4] or bid[4] == other[4] and bid[1] < other[1]


def highest(bid):
    return bid[1] // WINDOW, bid[2], bid[3], bid[4]


class Session:
    def __init__(self):
        self.last = None
        self.bids = 0


def count_session(bid, session):
    """What has ended because of a bid."""
    ended = None
    if session.last is not None and bid[1] - session.last > GAP:
        ended = bid[3], session.bids
        session.bids = 0
    session.last = bid[1]
    session.bids += 1
    return ended


# -- the bare loops -----------------------------------------------------------

def simple(wanted, change):
    def step(event):
        return (change(event),) if wanted(event) else ()
    return step, tuple


def bare_join():
    states = {}

    def step(event):
        if not is_of_join(event):
            return ()
        key = person_of(event)
        sides = states.get(key)
        if sides is None:
            sides = states[key] = Sides()
        return join(event, sides)
    return step, tuple


def bare_windows(size, wanted, add, close):
    """add(event, the window's dict); close(number, dict): outputs."""
    held, number = {}, None

    def end():
        nonlocal held
        done, held = held, {}
        return close(number, done) if done else ()

    def step(event):
        nonlocal number
        out = ()
        if event[1] // size != number:
            out = end()
            number = event[1] // size
        if wanted(event):
            add(event, held)
        return out
    return step, end


def bare_hottest():
    bests = collections.defaultdict(Best)

    def add(event, counts):
        counts[event[2]] = counts.get(event[2], 0) + 1

    def close(pane, counts):
        for auction, bids in counts.items():
            for change in windows_of((auction, pane, bids)):
                best = hottest(change, bests[change[0]])
                if best is not None:
                    yield best
    return bare_windows(SLIDE, is_bid, add, close)


def bare_highest():
    def add(event, held):
        if "bid" not in held or higher(event, held["bid"]):
            held["bid"] = event
    return bare_windows(WINDOW, is_bid, add,
                        lambda _, held: (highest(held["bid"]),))


def bare_sellers():
    def add(event, held):
        person = held.setdefault(person_of(event), [None, 0])
        if event[0] == "P":
            person[0] = event[3]
        else:
            person[1] += 1

    def close(window, held):
        return [(key, name, window, auctions)
                for key, (name, auctions) in held.items()
                if name and auctions]
    return bare_windows(WINDOW, is_no_bid, add, close)


def bare_sessions():
    states = {}

    def step(event):
        if not is_bid(event):
            return ()
        session = states.get(event[3])
        if session is None:
            session = states[event[3]] = Session()
        ended = count_session(event, session)
        return () if ended is None else (ended,)
    return step, lambda: [(key, session.bids)
                          for key, session in states.items()]


def bare_clock():
    held, until = {}, time.time() + WINDOW / 1000

    def end():
        done = list(held.items())
        held.clear()
        return done

    def step(event):
        nonlocal until
        if not is_bid(event):
            return ()
        now, out = time.time(), ()
        if now >= until:
            out, until = end(), until + WINDOW / 1000
        held[event[3]] = held.get(event[3], 0) + 1
        return out
    return step, end


BARE = {"q0": lambda: simple(is_bid, as_it_is),
        "q1": lambda: simple(is_bid, in_euro),
        "q2": lambda: simple(is_chosen, chosen),
        "q3": bare_join, "q5": bare_hottest, "q7": bare_highest,
        "q8": bare_sellers, "q11": bare_sessions, "q12": bare_clock}


def run(query, source, target):
    step, end = BARE[query]()
    out = []
    with open(source, "rb") as file, open(target, "wb") as output:
        for line in file:
            for fields in step(parse(line.rstrip(b"\n"))):
                out.append(encode(fields))
            if len(out) >= 1000:
                output.write(b"".join(out))
                out.clear()
        out += [encode(fields) for fields in end()]
        output.write(b"".join(out))


# -- what is right ------------------------------------------------------------

def sliding(bids):
    """The most bids that an auction has in each window."""
    counts = collections.Counter()
    for bid in bids:
        for number in range(PANES):
            counts[bid[1] // SLIDE + number, bid[2]] += 1
    most = {}
    for (window, _), number in counts.items():
        most[window] = max(most.get(window, 0), number)
    return most


def expected(query, events):
    """The outputs, in any order; of q5 the most of each window, of q12 the
    bids of each bidder."""
    bids = [event for event in events if is_bid(event)]
    if query == "q5":
        return sliding(bids)
    if query == "q12":
        return dict(collections.Counter(bid[3] for bid in bids))
    if query in ("q0", "q1", "q2"):
        change = {"q0": as_it_is, "q1": in_euro, "q2": chosen}[query]
        rows = [change(bid) for bid in bids
                if query != "q2" or is_chosen(bid)]
    elif query == "q3":
        persons = {event[2]: event for event in events
                   if event[0] == "P" and is_of_join(event)}
        rows = [persons[event[3]][3:] + (event[2],) for event in events
                if event[0] == "A" and is_of_join(event)
                and event[3] in persons]
    elif query == "q7":
        windows = collections.defaultdict(list)
        for bid in bids:
            windows[bid[1] // WINDOW].append(bid)
        rows = [highest(max(window, key=lambda bid: (bid[4], -bid[1])))
                for window in windows.values()]
    elif query == "q8":
        auctions = collections.Counter(
            (event[1] // WINDOW, event[3]) for event in events
            if event[0] == "A")
        rows = [(event[2], event[3], event[1] // WINDOW,
                 auctions[event[1] // WINDOW, event[2]])
                for event in events if event[0] == "P"
                and auctions[event[1] // WINDOW, event[2]]]
    else:
        times = collections.defaultdict(list)
        for bid in bids:
            times[bid[3]].append(bid[1])
        rows = []
        for bidder, at in times.items():
            cuts = [number for number in range(1, len(at))
                    if at[number] - at[number - 1] > GAP]
            rows += [(bidder, two - one) for one, two in zip(
                [0] + cuts, cuts + [len(at)])]
    return collections.Counter(encode(row) for row in rows)


def summary(query, output):
    """Of a file of outputs, to be compared with what is expected."""
    with open(output, "rb") as file:
        rows = file.readlines()
    if query == "q5":
        most = {}
        for row in rows:
            window, _, bids = row.split()
            most[int(window)] = max(most.get(int(window), 0), int(bids))
        return most
    if query == "q12":
        sums = collections.Counter()
        for row in rows:
            bidder, bids = row.decode().split()
            sums[bidder] += int(bids)
        return dict(sums)
    return collections.Counter(rows)


def check(query, source, output):
    with open(source, "rb") as file:
        events = [parse(line.rstrip(b"\n")) for line in file]
    wanted, seen = expected(query, events), summary(query, output)
    if seen != wanted:
        odd = [key for key in {**wanted, **seen}
               if wanted.get(key) != seen.get(key)]
        raise AssertionError("wrong output of %s: %d are not right, as %r" % (
            query, len(odd), odd[0]))


def main():
    query, source, target = sys.argv[1:]
    begun, used = time.monotonic(), time.process_time()
    run(query, source, target)
    print("%.6f %.6f" % (time.monotonic() - begun,
                         time.process_time() - used))


if __name__ == "__main__":
    main()
