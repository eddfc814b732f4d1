"""Two sources merged: deliveries and orders change the stock of articles.

Deliveries are CSV lines "article,number", orders are JSON lines
{"article": ..., "number": ..., "customer": ...}.  Each order is answered by
a line of JSON that says whether there was enough.

    --in deliveries@HOST:PORT,orders@HOST:PORT --out HOST:PORT

Order matters within a source; deliveries and orders of an article meet in
the order in which they arrive.
"""

import wallaroo


class Stock:
    def __init__(self):
        self.number = 0


def application_setup(args):
    addresses = {
        name: (host, port)
        for name, host, port in wallaroo.tcp_parse_input_addrs(args)
    }
    host, port = wallaroo.tcp_parse_output_addrs(args)[0]
    deliveries = wallaroo.source(
        "Deliveries",
        wallaroo.TCPSourceConfig(
            "deliveries", *addresses["deliveries"],
            wallaroo.codecs.CSVDecoder(["article", "number"]),
        ),
    ).to(delivery)
    orders = wallaroo.source(
        "Orders",
        wallaroo.TCPSourceConfig(
            "orders", *addresses["orders"], wallaroo.codecs.json_decoder
        ),
    )
    answers = (
        deliveries.merge(orders)
        .key_by(article)
        .to(change_stock)
        .to_sink(
            wallaroo.TCPSinkConfig(host, port, wallaroo.codecs.json_encoder)
        )
    )
    return wallaroo.build_application("Stock", answers)


@wallaroo.computation(name="Delivery", on_error="dead-letter")
def delivery(fields):
    return {"article": fields["article"], "number": int(fields["number"])}


@wallaroo.key_extractor
def article(change):
    return change["article"]


@wallaroo.state_computation(name="Stock", state=Stock)
def change_stock(change, stock):
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
