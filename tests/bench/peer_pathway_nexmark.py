"""Nexmark's queries in Pathway, by its own operators, from a file to a file.

    peer_pathway_nexmark.py QUERY INPUT OUTPUT

Lines are taken apart by a Python function; everything else is its own, in
Rust.  It has no windows of the machine's clock, so there is no q12.  Its
output says what is true at the end, one line for each row: of q5 the best of a
window once, not each new best.
"""

import csv
import os
import sys
import time

import pathway as pw

import nexmark


@pw.udf
def parse(line: str) -> tuple[str, int, int, int, int, str]:
    """kind, time, id or auction, seller or bidder, category or price, text"""
    kind, at, one, *rest = line.split(",")
    if kind == "P":
        return kind, int(at), int(one), 0, 0, " ".join(rest)
    return kind, int(at), int(one), int(rest[0]), int(rest[1]), ""


def events_of(source):
    lines = pw.io.plaintext.read(source, mode="static")
    split = lines.select(parts=parse(lines.data))
    return split.select(**{name: split.parts[number] for number, name in
                           enumerate(("kind", "at", "a", "b", "c", "text"))})


def tumbling(table, key=None):
    window = pw.temporal.tumbling(duration=nexmark.WINDOW, origin=0)
    return table.windowby(table.at, window=window, instance=key)


def join(events):
    persons = events.filter(events.kind == "P")
    persons = persons.filter(pw.apply_with_type(
        lambda text: text.endswith(nexmark.STATES), bool, persons.text))
    auctions = events.filter((events.kind == "A") & (
        events.c == int(nexmark.CATEGORY)))
    return persons.join(auctions, persons.a == auctions.b).select(
        persons.text, auction=auctions.a)


def hottest(bids):
    counts = bids.windowby(
        bids.at, instance=bids.a, window=pw.temporal.sliding(
            hop=nexmark.SLIDE, duration=nexmark.WINDOW, origin=0)).reduce(
        end=pw.this._pw_window_end, auction=pw.this._pw_instance,
        bids=pw.reducers.count())
    best = counts.groupby(counts.end).reduce(
        counts.end, at=pw.reducers.argmax(counts.bids),
        bids=pw.reducers.max(counts.bids))
    return best.select(last=best.end // nexmark.SLIDE - 1,
                       auction=counts.ix(best.at).auction, bids=best.bids)


def highest(bids):
    ordered = bids.with_columns(order=pw.make_tuple(bids.c, -bids.at))
    best = tumbling(ordered).reduce(
        start=pw.this._pw_window_start,
        at=pw.reducers.argmax(pw.this.order))
    found = ordered.ix(best.at)
    return best.select(window=best.start // nexmark.WINDOW, auction=found.a,
                       bidder=found.b, price=found.c)


def sellers(events):
    persons = events.filter(events.kind == "P").with_columns(
        window=pw.this.at // nexmark.WINDOW)
    auctions = events.filter(events.kind == "A").with_columns(
        window=pw.this.at // nexmark.WINDOW)
    counts = auctions.groupby(auctions.b, auctions.window).reduce(
        auctions.b, auctions.window, count=pw.reducers.count())
    return persons.join(counts, persons.a == counts.b,
                        persons.window == counts.window).select(
        person=persons.a, name=pw.apply_with_type(
            lambda text: text.split()[0], str, persons.text),
        window=persons.window, auctions=counts.count)


def sessions(bids):
    # within the gap, ours included
    return bids.windowby(
        bids.at, instance=bids.b,
        window=pw.temporal.session(max_gap=nexmark.GAP + 1)).reduce(
        bidder=pw.this._pw_instance, bids=pw.reducers.count())


def query_of(name, events):
    bids = events.filter(events.kind == "B")
    if name == "q0":
        return bids.select(bids.a, bids.b, bids.c, bids.at)
    if name == "q1":
        return bids.select(bids.a, bids.b, euro=bids.c * 908 // 1000,
                           at=bids.at)
    if name == "q2":
        some = bids.filter(bids.a % nexmark.EACH == 0)
        return some.select(some.a, some.c)
    if name in ("q3", "q8"):
        return {"q3": join, "q8": sellers}[name](events)
    return {"q5": hottest, "q7": highest, "q11": sessions}[name](bids)


def as_ours(source, target):
    """Rows without the columns that Pathway adds."""
    with open(source, newline="") as file, open(target, "wb") as output:
        rows = csv.reader(file)
        next(rows)
        output.writelines(nexmark.encode(row[:-2]) for row in rows)


def main():
    name, source, target = sys.argv[1:]
    raw = target + ".csv"
    pw.io.csv.write(query_of(name, events_of(source)), raw)
    begun, used = time.monotonic(), time.process_time()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    seconds, used = time.monotonic() - begun, time.process_time() - used
    as_ours(raw, target)
    os.unlink(raw)
    print("%.6f %.6f" % (seconds, used))


if __name__ == "__main__":
    main()
