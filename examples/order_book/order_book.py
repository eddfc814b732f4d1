"""A check of order books: spreads that are too wide, and crossed markets.

Quotes are lines of CSV "symbol,venue,bid,ask", prices in hundredths; a price
of 0 says that nobody bids or asks there any more.  For each symbol the best
bid and the best ask of all venues are kept.  A line comes out whenever the
market of a symbol changes between

    ok       the ask is above the bid, by at most half a per cent
    wide     by more
    crossed  somebody bids at least what somebody else asks: either there is
             money to be made, or the feed of a venue is stale or broken
    one-sided  nobody bids, or nobody asks

and says which prices, and from which venues, made it so:

    ACME wide 10000@north 10080@south

A quote that makes no sense is an error of its venue, not a reason to stop:
the step sets it aside as a dead letter and goes on with the next one.

    python3 -m wallaroo run order_book.py --workers 2 quotes.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import wallaroo
from wallaroo import codecs

WIDEST = 50  # ten thousandths of the bid
TEN_THOUSAND = 10000


@dataclass
class Quote:
    symbol: str
    venue: str
    bid: int
    ask: int


@dataclass
class Book:
    """Of one symbol: the prices of each venue, and how the market is."""

    bids: dict[str, int] = field(default_factory=dict)
    asks: dict[str, int] = field(default_factory=dict)
    market: str = "one-sided"


@wallaroo.computation(on_error="dead-letter")
def checked(quote: Quote) -> Quote:
    if quote.bid < 0 or quote.ask < 0:
        raise ValueError("a price below zero from %s" % quote.venue)
    if 0 < quote.ask <= quote.bid:
        raise ValueError("%s crosses itself" % quote.venue)
    return quote


@wallaroo.key_extractor
def symbol(quote: Quote) -> str:
    return quote.symbol


def keep(prices: dict[str, int], venue: str, price: int) -> None:
    if price:
        prices[venue] = price
    else:
        prices.pop(venue, None)


@wallaroo.state_computation(state=Book)
def watch(quote: Quote, book: Book) -> Optional[str]:
    keep(book.bids, quote.venue, quote.bid)
    keep(book.asks, quote.venue, quote.ask)
    before = book.market
    if not book.bids or not book.asks:
        book.market = "one-sided"
        return None if before == book.market else "%s %s" % (
            quote.symbol, book.market)
    # Of equal prices that of the first venue by name, on every run.
    bid, buyer = max(
        (price, venue) for venue, price in sorted(book.bids.items()))
    ask, seller = min(
        (price, venue) for venue, price in sorted(book.asks.items()))
    book.market = market_of(bid, ask)
    return None if before == book.market else "%s %s %d@%s %d@%s" % (
        quote.symbol, book.market, bid, buyer, ask, seller)


def market_of(bid: int, ask: int) -> str:
    if ask <= bid:
        return "crossed"
    wide = (ask - bid) * TEN_THOUSAND > WIDEST * bid
    return "wide" if wide else "ok"


def application_setup(args: list[str]) -> tuple[Any, ...]:
    quotes = wallaroo.FileSourceConfig(
        "quotes", args[1], codecs.csv_lines(Quote))
    markets = (
        wallaroo.source("Quotes", quotes)
        .to(checked)
        .key_by(symbol)
        .to(watch)
        .to_sink(wallaroo.StdoutSinkConfig(codecs.lines_encoder))
    )
    return wallaroo.build_application("Order book", markets)
