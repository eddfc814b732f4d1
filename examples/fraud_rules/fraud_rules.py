"""Rules against fraud with cards: what happens too soon, and what doesn't.

Events are lines of CSV "time,card,kind,cents"; the kinds are "charge" and
"confirm", with which the holder of a card confirms a large charge.

    probed       a charge of less than a Euro and, within a minute, one of more
                 than 500: somebody tried whether a stolen card works
    unconfirmed  a charge of more than 500 Euros that its holder did not confirm
                 within ten minutes

Each gives a line with the time at which it was known.  The second rule is about
something that does not happen, so no event is there that could give the line:
a timer does.  The first one forgets a small charge by a timer, too.

Times are those of the events.  A timer fires when all events up to its time
have been seen, so the lines do not depend on speed; a timer that is set when
everything is killed fires after the next start, once.

    python3 -m wallaroo run fraud_rules.py --workers 2 events.csv
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, Optional

import wallaroo
from wallaroo import codecs

SMALL = 100
LARGE = 50000
PROBE = wallaroo.minutes(1)
CONFIRM = wallaroo.minutes(10)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass
class Event:
    time: datetime
    card: str
    kind: Literal["charge", "confirm"]
    cents: int


@dataclass
class Card:
    """What is known of one."""

    was_probed: bool = False
    unconfirmed: int = 0


def time_of(event: Event) -> datetime:
    return event.time


@wallaroo.key_extractor
def card(event: Event) -> str:
    return event.card


def line(what: str, cents: int, timers: wallaroo.Timers) -> str:
    now = EPOCH + timedelta(microseconds=timers.now // 1000)
    return "%s %s %s %d" % (
        now.strftime("%H:%M:%S"), timers.key, what, cents)


def on_timer(
    name: str, card: Card, timers: wallaroo.Timers
) -> Optional[str]:
    if name == "forget":
        card.was_probed = False
        return None
    return line("unconfirmed", card.unconfirmed, timers)


@wallaroo.state_computation(state=Card, on_timer=on_timer)
def check(
    event: Event, card: Card, timers: wallaroo.Timers
) -> Optional[str]:
    if event.kind == "confirm":
        timers.cancel("confirm")
    elif event.cents < SMALL:
        card.was_probed = True
        timers.set("forget", PROBE)
    elif event.cents > LARGE:
        card.unconfirmed = event.cents
        timers.set("confirm", CONFIRM)
        if card.was_probed:
            return line("probed", event.cents, timers)
    return None


def application_setup(args: list[str]) -> tuple[Any, ...]:
    events = wallaroo.FileSourceConfig(
        "events", args[1], codecs.csv_lines(Event))
    alerts = (
        wallaroo.source("Events", events)
        .event_time(time_of, lateness=wallaroo.seconds(30))
        .key_by(card)
        .to(check)
        .to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder))
    )
    return wallaroo.build_application("Fraud rules", alerts)
