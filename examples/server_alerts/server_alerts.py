"""Alerts on the load of servers: the mean of five minutes, every minute.

Readings are lines of CSV "time,host,load", a time of ISO 8601 and the load in
per cent.  When the mean load of a host over the last five minutes has risen
above 80, a line says so, and another one when it has fallen below 60 again:

    2026-03-02T09:07:40+00:00 db1 busy 84.4

The times are those of the readings, not those of their arrival, so a log that
is read again gives the same alerts.  A reading may come ten seconds after a
newer one; what comes later than that is left out of windows that have closed.
The time in an alert is that of the newest reading of its window.

    python3 -m wallaroo run server_alerts.py --workers 2 readings.csv
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

import wallaroo
from wallaroo import codecs

RANGE = wallaroo.minutes(5)
SLIDE = wallaroo.minutes(1)
BUSY = 80
CALM = 60

LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass
class Reading:
    time: datetime
    host: str
    load: float


@dataclass
class Sum:
    """What a window has seen so far."""

    total: float = 0.0
    number: int = 0
    newest: datetime = LONG_AGO


@dataclass
class Mean:
    time: datetime
    host: str
    load: float


@dataclass
class Alarm:
    """Whether there is one, for each host."""

    on: bool = False


class MeanLoad(wallaroo.Aggregation[Reading, Sum, Mean]):
    def initial_accumulator(self) -> Sum:
        return Sum()

    def update(self, reading: Reading, window: Sum) -> None:
        window.total += reading.load
        window.number += 1
        window.newest = max(window.newest, reading.time)

    def combine(self, a: Sum, b: Sum) -> Sum:
        return Sum(
            a.total + b.total, a.number + b.number, max(a.newest, b.newest))

    def output(self, key: str, window: Sum) -> Optional[Mean]:
        if window.number == 0:
            return None
        return Mean(window.newest, key, window.total / window.number)


def time_of(reading: Reading) -> datetime:
    return reading.time


@wallaroo.key_extractor
def host(reading: Reading) -> str:
    return reading.host


@wallaroo.state_computation(state=Alarm)
def changes(mean: Mean, alarm: Alarm) -> Optional[str]:
    """Only what is news; between the two limits all stays as it is."""
    if mean.load > BUSY and not alarm.on:
        alarm.on = True
    elif mean.load < CALM and alarm.on:
        alarm.on = False
    else:
        return None
    return "%s %s %s %.1f" % (
        mean.time.isoformat(), mean.host, "busy" if alarm.on else "calm",
        mean.load)


def application_setup(args: list[str]) -> tuple[Any, ...]:
    readings = wallaroo.FileSourceConfig(
        "readings", args[1], codecs.csv_lines(Reading))
    alerts = (
        wallaroo.source("Readings", readings)
        .event_time(time_of, lateness=wallaroo.seconds(10))
        .key_by(host)
        .to(wallaroo.range_windows(RANGE).with_slide(SLIDE).over(MeanLoad))
        .to(changes)
        .to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder))
    )
    return wallaroo.build_application("Server alerts", alerts)
