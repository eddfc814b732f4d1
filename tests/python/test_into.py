"""JSON and CSV lines into dataclasses, and back."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pickle
import re
import threading
from typing import Any, Dict, List, Literal, Optional, Set, Tuple, Union

import pytest

from wallaroo import WallarooParameterError, codecs


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


@dataclasses.dataclass
class Leg:
    symbol: str
    amount: float = 1.0


@dataclasses.dataclass
class Order:
    id: int
    side: Side
    legs: List[Leg]
    kind: Literal["limit", "market"] = "market"
    price: Optional[decimal.Decimal] = None
    at: Optional[datetime.datetime] = None
    tags: Set[str] = dataclasses.field(default_factory=set)
    pair: Tuple[int, str] = (0, "")
    extra: Dict[str, Union[int, str]] = dataclasses.field(
        default_factory=dict)
    parent: Optional[Order] = None
    anything: Any = None
    seen: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass(frozen=True)
class Tick:
    symbol: str
    price: float
    amount: Optional[int]
    last: bool
    day: datetime.date
    side: Side


LINE = b'{"id": 7, "side": "buy", "legs": [{"symbol": "A", "amount": 2}, ' \
    b'{"symbol": "B"}], "kind": "limit", "price": "1.10", "unknown": 1, ' \
    b'"at": "2026-11-21T12:00:00Z", "tags": ["x", "x"], "pair": [1, "p"], ' \
    b'"extra": {"a": 1, "b": "c"}, "anything": [null], ' \
    b'"parent": {"id": 6, "side": "sell", "legs": []}}'


def test_json():
    decoder = codecs.json_lines(Order)
    made = decoder.decode(LINE)
    assert made == Order(
        7, Side.BUY, [Leg("A", 2.0), Leg("B")], "limit",
        decimal.Decimal("1.10"),
        datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.timezone.utc),
        {"x"}, (1, "p"), {"a": 1, "b": "c"}, Order(6, Side.SELL, []), [None])
    assert type(made.legs[0].amount) is float
    assert decoder.framing == "lines" and decoder.decode(b"  ") is None
    assert pickle.loads(pickle.dumps(decoder)).decode(LINE) == made


def test_there_and_back():
    made = codecs.json_lines(Order).decode(LINE)
    line = codecs.json_encoder.encode(made)
    assert line.endswith(b"\n") and codecs.json_lines(Order).decode(
        line.replace(b'"seen":0', b'"seen":1')) == made


@pytest.mark.parametrize("old, new, text", [
    (b'"id": 7', b'"id": "7"', "Order.id: '7' is not a whole number"),
    (b'"id": 7', b'"id": true', "Order.id: True is not a whole number"),
    (b'"id": 7', b'"id": 7.5', "Order.id: 7.5 is not a whole number"),
    (b'"id": 7, ', b"", "Order: id is missing"),
    (b'"buy"', b'"hold"', "Order.side: 'hold' is not a value of Side"),
    (b'"A"', b"1", "Leg.symbol: 1 is not a text"),
    (b'"amount": 2', b'"amount": "2"', "is not a number"),
    (b'"limit"', b'"stop"', "is not one of 'limit', 'market'"),
    (b'"1.10"', b'"x"', "Order.price: 'x' is not a decimal number"),
    (b"2026-11-21T", b"yesterday", "is not a date and time"),
    (b'["x", "x"]', b'"x"', "Order.tags: 'x' is not a list"),
    (b'[1, "p"]', b"[1]", "Order.pair: [1] is not a list of 2"),
    (b'{"a": 1, "b": "c"}', b"[]", "Order.extra: [] is not an object"),
    (b'"b": "c"', b'"b": null', "Order.extra[...]: None is not"),
    (b'{"id": 6', b'{"id": null', "Order.id: None"),
])
def test_wrong_json(old, new, text):
    assert old in LINE
    with pytest.raises(ValueError, match=re.escape(text)):
        codecs.json_lines(Order).decode(LINE.replace(old, new))


def test_json_that_is_no_object():
    with pytest.raises(ValueError, match="Order: 3 is not an object"):
        codecs.json_lines(Order).decode(b"3")


def test_csv():
    decoder = codecs.csv_lines(Tick)
    made = decoder.decode(b'"A,B",1.5,,true,2026-11-21,sell')
    assert made == Tick("A,B", 1.5, None, True,
                        datetime.date(2026, 11, 21), Side.SELL)
    assert decoder.decode(b"") is None
    assert pickle.loads(pickle.dumps(decoder)).decode(
        b"a,1,2,0,2026-01-01,buy").amount == 2
    assert codecs.csv_lines(Tick, ";").decode(
        b"a;1;2;0;2026-01-01;buy").last is False
    assert codecs.csv_encoder.encode(Leg("a", 2.5)) == b"a,2.5\n"


@pytest.mark.parametrize("line, text", [
    (b"a,1", "Tick: 2 values instead of 6"),
    (b"a,x,2,0,2026-01-01,buy", "Tick.price: 'x' is not a number"),
    (b"a,1,x,0,2026-01-01,buy", "Tick.amount: 'x' is not a whole number"),
    (b"a,1,2,2,2026-01-01,buy", "Tick.last: '2' is not true or false"),
    (b"a,1,2,0,2026,buy", "Tick.day: '2026' is not a date"),
    (b"a,1,2,0,2026-01-01,no", "Tick.side: 'no' is not a value of Side"),
])
def test_wrong_csv(line, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        codecs.csv_lines(Tick).decode(line)


def holding(kind):
    return dataclasses.make_dataclass("Holding", [("what", kind)])


@pytest.mark.parametrize("kind", [
    threading.Thread, Dict[int, str], complex, bytes])
def test_types_that_cannot_be_made(kind, capsys):
    """They are refused where the decoder is made."""
    for make in codecs.json_lines, codecs.csv_lines:
        with pytest.raises(WallarooParameterError, match="Holding.what"):
            make(holding(kind))


def test_what_a_line_cannot_hold(capsys):
    for kind in List[int], Leg, dict:
        codecs.json_lines(holding(kind))
        with pytest.raises(WallarooParameterError, match="Holding.what"):
            codecs.csv_lines(holding(kind))


@pytest.mark.parametrize("what", [int, "Order", Leg("a"), None])
def test_no_dataclass(what, capsys):
    with pytest.raises(WallarooParameterError, match="takes a dataclass"):
        codecs.json_lines(what)


def test_a_type_that_is_not_found(capsys):
    cls = dataclasses.make_dataclass("Holding", [("what", "NoSuchType")])
    with pytest.raises(WallarooParameterError, match="NoSuchType"):
        codecs.json_lines(cls)


def test_what_json_does_not_know():
    with pytest.raises(TypeError, match="type Lock|type lock"):
        codecs.json_encoder.encode({"a": threading.Lock()})
    assert codecs.json_encoder.encode({"a": {2, 1}}) == b'{"a":[1,2]}\n'
