"""Pacing of advertising budgets: spend a day's money over the whole day.

Events are lines of JSON in the order of their times.  One sets the budget
of a campaign for a day, the other asks whether to bid on a place:

    {"campaign": "shoes", "time": "2026-03-02T00:00:00Z", "budget": 16000}
    {"campaign": "shoes", "time": "2026-03-02T09:00:00Z", "place": "p1",
     "price": 120}

Money is in cents.  A bid is made if after it no more is spent than the part
of the budget that belongs to the hours of the day that have passed, and one
more: so a campaign that nobody wanted to see in the morning is not spent all
at once at noon, and one that everybody sees is not empty at noon.  Unspent
money stays with the campaign till midnight UTC.  Each bid is a line of JSON;
when the events have ended, one more for each campaign sums up its last day.

All events of a campaign are worked on by one worker, one after the other, so
two places can never be paid with the same cents; a bid is never made twice
or forgotten, whatever is killed meanwhile.

    python3 -m wallaroo run ad_pacing.py --workers 2 events.json
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, Optional

import wallaroo
from wallaroo import codecs

HOURS_A_DAY = 24


@dataclass
class Event:
    campaign: str
    time: datetime
    budget: Optional[int] = None
    place: str = ""
    price: int = 0


@dataclass
class Campaign:
    """What is known of one."""

    day: Optional[date] = None
    budget: int = 0
    spent: int = 0
    bids: int = 0
    passed: int = 0


@dataclass
class Bid:
    campaign: str
    place: str
    price: int
    spent: int


@dataclass
class Day:
    campaign: str
    budget: int
    spent: int
    bids: int
    passed: int


@wallaroo.key_extractor
def campaign(event: Event) -> str:
    return event.campaign


def sum_up(key: str, of: Campaign) -> Day:
    return Day(key, of.budget, of.spent, of.bids, of.passed)


@wallaroo.state_computation(state=Campaign, on_end=sum_up)
def pace(event: Event, of: Campaign) -> Optional[Bid]:
    time = event.time.astimezone(timezone.utc)
    if of.day != time.date():
        of.day = time.date()
        of.spent = of.bids = of.passed = 0
    if event.budget is not None:
        of.budget = event.budget
        return None
    if of.spent + event.price > of.budget * (time.hour + 1) // HOURS_A_DAY:
        of.passed += 1
        return None
    of.spent += event.price
    of.bids += 1
    return Bid(event.campaign, event.place, event.price, of.spent)


def application_setup(args: list[str]) -> tuple[Any, ...]:
    events = wallaroo.FileSourceConfig(
        "events", args[1], codecs.json_lines(Event))
    bids = (
        wallaroo.source("Events", events)
        .key_by(campaign)
        .to(pace)
        .to_sink(wallaroo.StdoutSinkConfig(codecs.json_encoder))
    )
    return wallaroo.build_application("Ad pacing", bids)
