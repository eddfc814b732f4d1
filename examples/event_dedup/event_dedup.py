"""Payments that come more than once, counted once.

Most senders send again what was not confirmed to them in time, so the same
payment may come two or three times, minutes apart.  Each has an id that stays
the same: lines of JSON {"id": ..., "account": ..., "cents": ...}.  The first
of each id changes the balance of its account, and a line says the new one:

    anna 1250

For each account the last thousand ids are remembered, so memory is bounded;
an id that comes again after a thousand others would count again.  What the
application itself does is done once anyway, whatever is killed: dedup() is for
what others send twice.

Payments that overdraw an account go to a second file, too.

    python3 -m wallaroo run event_dedup.py --workers 2 payments.json low
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import wallaroo
from wallaroo import codecs, helpers

REMEMBER = 1000


@dataclass
class Payment:
    id: str
    account: str
    cents: int


@dataclass
class Balance:
    cents: int = 0


@dataclass
class Booked:
    account: str
    cents: int


@wallaroo.key_extractor
def account(payment: Payment) -> str:
    return payment.account


def id_of(payment: Payment) -> str:
    return payment.id


@wallaroo.state_computation(state=Balance)
def book(payment: Payment, balance: Balance) -> Booked:
    balance.cents += payment.cents
    return Booked(payment.account, balance.cents)


def below_zero(booked: Booked) -> bool:
    return booked.cents < 0


@wallaroo.encoder
def line(booked: Booked) -> str:
    return "%s %d\n" % (booked.account, booked.cents)


def application_setup(args: list[str]) -> tuple[Any, ...]:
    _, payments, low = args
    booked = (
        wallaroo.source("Payments", wallaroo.FileSourceConfig(
            "payments", payments, codecs.json_lines(Payment)))
        .key_by(account)
        .to(helpers.dedup(id_of, remember=REMEMBER))
        .to(book)
        .to_sinks([
            wallaroo.StdoutSinkConfig(line),
            wallaroo.FileSinkConfig(low, line).where(below_zero),
        ])
    )
    return wallaroo.build_application("Event dedup", booked)
