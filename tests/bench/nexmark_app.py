"""Nexmark's queries as pipelines.

    QUERY INPUT OUTPUT
"""

import wallaroo
from wallaroo.codecs import LineDecoder

import nexmark


class Events(LineDecoder):
    decode = staticmethod(nexmark.parse)


def only(wanted):
    return wallaroo.computation(name=wanted.__name__)(
        lambda event: event if wanted(event) else None)


def changed(wanted, change):
    return wallaroo.computation(name=change.__name__)(
        lambda event: change(event) if wanted(event) else None)


def nanoseconds(event):
    return nexmark.time_of(event) * 1000000


class Panes(wallaroo.Aggregation):
    """Bids of an auction."""

    def initial_accumulator(self):
        return [0, 0]

    def update(self, bid, counted):
        counted[0] = nexmark.pane_of(bid)
        counted[1] += 1

    def combine(self, one, two):
        return [max(one[0], two[0]), one[1] + two[1]]

    def output(self, auction, counted):
        return auction, counted[0], counted[1]


class Highest(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, bid, best):
        if not best or nexmark.higher(bid, best[0]):
            best[:] = [bid]

    def combine(self, one, two):
        if not one or two and nexmark.higher(two[0], one[0]):
            return list(two)
        return list(one)

    def output(self, key, best):
        return nexmark.highest(best[0]) if best else None


class Sellers(wallaroo.Aggregation):
    """[name, window, auctions] of a new person."""

    def initial_accumulator(self):
        return [None, 0, 0]

    def update(self, event, seller):
        if event[0] == "P":
            seller[0] = event[3]
        else:
            seller[2] += 1
        seller[1] = event[1] // nexmark.WINDOW

    def combine(self, one, two):
        return [one[0] or two[0], max(one[1], two[1]), one[2] + two[2]]

    def output(self, key, seller):
        name, window, auctions = seller
        return (key, name, window, auctions) if name and auctions else None


class Bids(wallaroo.Aggregation):
    def initial_accumulator(self):
        return [0]

    def update(self, bid, counted):
        counted[0] += 1

    def combine(self, one, two):
        return [one[0] + two[0]]

    def output(self, bidder, counted):
        return (bidder, counted[0]) if counted[0] else None


auction_of = wallaroo.key_extractor(nexmark.auction_of)
bidder_of = wallaroo.key_extractor(nexmark.bidder_of)
person_of = wallaroo.key_extractor(nexmark.person_of)
join = wallaroo.state_computation_multi(
    name="join", state=nexmark.Sides)(nexmark.join)
windows_of = wallaroo.computation_multi(name="windows")(nexmark.windows_of)
hottest = wallaroo.state_computation(
    name="hottest", state=nexmark.Best)(nexmark.hottest)
encode = wallaroo.encoder(nexmark.encode)


@wallaroo.key_extractor
def window_of(change):
    return str(change[0])


def last_session(bidder, session):
    return bidder, session.bids


sessions = wallaroo.state_computation(
    name="sessions", state=nexmark.Session, on_end=last_session)(
        nexmark.count_session)


def tumbling(aggregation, size=nexmark.WINDOW):
    return wallaroo.range_windows(wallaroo.milliseconds(size)).over(
        aggregation)


def query_of(name, events):
    if name in ("q0", "q1"):
        return events.to(changed(nexmark.is_bid, {
            "q0": nexmark.as_it_is, "q1": nexmark.in_euro}[name]))
    if name == "q2":
        return events.to(changed(nexmark.is_chosen, nexmark.chosen))
    if name == "q3":
        return events.to(only(nexmark.is_of_join)).key_by(person_of).to(join)
    bids = only(nexmark.is_bid)
    if name == "q11":
        return events.to(bids).key_by(bidder_of).to(sessions)
    if name == "q12":
        return events.to(bids).key_by(bidder_of).to(tumbling(Bids))
    events = events.event_time(nanoseconds)
    if name == "q5":
        return events.to(bids).key_by(auction_of).to(
            tumbling(Panes, nexmark.SLIDE)).to(windows_of).key_by(
                window_of).to(hottest)
    if name == "q7":
        return events.to(bids).collect().to(tumbling(Highest))
    return events.to(only(nexmark.is_no_bid)).key_by(person_of).to(
        tumbling(Sellers))


def application_setup(args):
    name, source, target = args[1:]
    events = wallaroo.source("events", wallaroo.FileSourceConfig(
        "events", source, Events()))
    return wallaroo.build_application(name, query_of(name, events).to_sink(
        wallaroo.FileSinkConfig(target, encode)))
