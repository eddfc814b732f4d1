"""Two sources merged: deliveries and orders change the stock of articles.

Deliveries are CSV lines "article,number", orders are JSON lines
{"article": ..., "number": ..., "customer": ...}.  Each order is answered by
a line of JSON that says whether there was enough.

    --in deliveries@HOST:PORT,orders@HOST:PORT --out HOST:PORT

Order matters within a source; deliveries and orders of an article meet in
the order in which they arrive.
"""

from __future__ import annotations

from typing import Any, Optional

import wallaroo
from wallaroo import codecs

Fields = dict[str, Any]


class Stock:
    def __init__(self) -> None:
        self.number = 0


def application_setup(args: list[str]) -> tuple[Any, ...]:
    addresses = {
        name: (host, port)
        for name, host, port in wallaroo.tcp_parse_input_addrs(args)
    }
    host, port = addresses["deliveries"]
    deliveries = wallaroo.source(
        "Deliveries",
        wallaroo.TCPSourceConfig(
            "deliveries", host, port,
            codecs.CSVDecoder(["article", "number"]),
        ),
    ).to(delivery)
    host, port = addresses["orders"]
    orders = wallaroo.source(
        "Orders",
        wallaroo.TCPSourceConfig("orders", host, port, codecs.json_decoder),
    )
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    answers = (
        deliveries.merge(orders)
        .key_by(article)
        .to(change_stock)
        .to_sink(wallaroo.TCPSinkConfig(host, port, codecs.json_encoder))
    )
    return wallaroo.build_application("Stock", answers)


@wallaroo.computation(name="Delivery", on_error="dead-letter")
def delivery(fields: Fields) -> Fields:
    return {"article": fields["article"], "number": int(fields["number"])}


@wallaroo.key_extractor
def article(change: Fields) -> str:
    name: str = change["article"]
    return name


@wallaroo.state_computation(name="Stock", state=Stock)
def change_stock(change: Fields, stock: Stock) -> Optional[Fields]:
    if "customer" not in change:
        stock.number += change["number"]
        return None
    accepted = change["number"] <= stock.number
    if accepted:
        stock.number -= change["number"]
    return {
        "customer": change["customer"],
        "article": change["article"],
        "number": change["number"],
        "accepted": accepted,
    }
