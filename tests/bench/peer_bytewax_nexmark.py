"""Nexmark's queries in Bytewax, by its own operators, from a file to a file.

    peer_bytewax_nexmark.py QUERY INPUT OUTPUT
"""

import sys
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

import nexmark

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def when(event):
    return EPOCH + timedelta(milliseconds=event[1])


def clock():
    """Its watermark goes on with the machine's clock, too: what was held up
    for a moment would be late without some time to wait."""
    return win.EventClock(when, timedelta(seconds=10))


def tumbling(milliseconds=nexmark.WINDOW):
    return win.TumblingWindower(
        length=timedelta(milliseconds=milliseconds), align_to=EPOCH)


def keyed(name, stream, key):
    return op.key_on(name, stream, key)


def join(stream):
    def mapper(sides, event):
        if sides is None:
            sides = nexmark.Sides()
        return sides, nexmark.join(event, sides)
    wanted = op.filter("wanted", stream, nexmark.is_of_join)
    found = op.stateful_map("join", keyed("person", wanted,
                                          nexmark.person_of), mapper)
    return op.flat_map("each", found, lambda pair: pair[1])


def hottest(bids):
    def mapper(best, change):
        if best is None:
            best = nexmark.Best()
        return best, nexmark.hottest(change, best)
    counted = win.count_window("count", bids, clock(),
                               tumbling(nexmark.SLIDE), nexmark.auction_of)
    changes = op.flat_map("windows", counted.down, lambda pair:
                          nexmark.windows_of((pair[0], *pair[1])))
    best = op.stateful_map("hottest", keyed(
        "window", changes, lambda change: str(change[0])), mapper)
    return op.filter_map("new", best, lambda pair: pair[1])


def highest(bids):
    def mapper(pair):
        return nexmark.highest(pair[1][1])
    best = win.max_window(
        "highest", keyed("all", bids, lambda bid: "all"), clock(),
        tumbling(), by=lambda bid: (bid[4], -bid[1]))
    return op.map("row", best.down, mapper)


def sellers(stream):
    def folder(seller, event):
        if event[0] == "P":
            return event[3], seller[1]
        return seller[0], seller[1] + 1

    def row(pair):
        key, (window, (name, auctions)) = pair
        return (key, name, window, auctions) if name and auctions else None
    wanted = op.filter("wanted", stream, nexmark.is_no_bid)
    folded = win.fold_window(
        "sellers", keyed("person", wanted, nexmark.person_of), clock(),
        tumbling(), lambda: (None, 0), folder,
        lambda one, two: (one[0] or two[0], one[1] + two[1]))
    return op.filter_map("row", folded.down, row)


def counted(bids, clock_of, windower):
    counts = win.count_window("count", bids, clock_of, windower,
                              nexmark.bidder_of)
    return op.map("row", counts.down, lambda pair: (pair[0], pair[1][1]))


def query_of(name, stream):
    if name in ("q0", "q1", "q2"):
        wanted, change = {
            "q0": (nexmark.is_bid, nexmark.as_it_is),
            "q1": (nexmark.is_bid, nexmark.in_euro),
            "q2": (nexmark.is_chosen, nexmark.chosen)}[name]
        return op.map("change", op.filter("wanted", stream, wanted), change)
    if name == "q3":
        return join(stream)
    if name == "q8":
        return sellers(stream)
    bids = op.filter("bids", stream, nexmark.is_bid)
    if name == "q5":
        return hottest(bids)
    if name == "q7":
        return highest(bids)
    if name == "q11":
        return counted(bids, clock(), win.SessionWindower(
            gap=timedelta(milliseconds=nexmark.GAP)))
    return counted(bids, win.SystemClock(), tumbling())


def main():
    name, source, target = sys.argv[1:]
    flow = Dataflow(name)
    lines = op.input("lines", flow, FileSource(source, batch_size=1000))
    events = op.map("parse", lines, lambda line: nexmark.parse(
        line.encode()))
    rows = query_of(name, events)
    texts = op.map("encode", rows, lambda row: (
        "", nexmark.encode(row).decode().rstrip("\n")))
    op.output("output", texts, FileSink(target))
    begun, used = time.monotonic(), time.process_time()
    run_main(flow)
    print("%.6f %.6f" % (time.monotonic() - begun,
                         time.process_time() - used))


main()
