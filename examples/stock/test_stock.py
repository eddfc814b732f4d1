"""Tests of an application: python3 -m pytest test_stock.py

PYTHONPATH names the directory of the wallaroo package, unless it is
installed.
"""

import json

import stock
from wallaroo.testing import run, simulate

ARGS = ["stock", "--in", "deliveries@h:1,orders@h:2", "--out", "h:3"]


def order(article, number):
    fields = {"article": article, "number": number, "customer": "c"}
    return json.dumps(fields).encode()


def test_orders_are_refused_when_there_is_too_little():
    result = run(stock.application_setup(ARGS), [
        ("Deliveries", b"apple,3"),
        ("Orders", order("apple", 2)),
        ("Orders", order("apple", 2)),
    ])
    assert [v["accepted"] for v in result.values] == [True, False]


def test_crashes_do_not_show():
    """Whoever dies when, no apple is lost or given away twice."""
    def apples(result):
        given = sum(v["number"] for v in result.values
                    if v["accepted"] and v["article"] == "apple")
        assert given + result.states["Stock"]["apple"].number == 7

    simulate(
        stock.application_setup(ARGS),
        {
            "Deliveries": [b"apple,3", b"pear,1", b"apple,4", b"apple,x"],
            "Orders": [order("apple", 2), order("pear", 1),
                       order("apple", 5), order("apple", 2)],
        },
        check=apples,
    )
