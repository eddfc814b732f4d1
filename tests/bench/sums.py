"""The work between two topics: records of JSON, a sum per key, one record of
JSON for each.  What everybody's program beside kafka_app.py calls."""

import json

PARTITIONS = 4
KEYS = 10000
SIZE = 100		# of a record


def record(number):
    """(key, value) of the nth record that is sent; its keys are spread
    evenly, and a key is always in the same partition."""
    key = "k%05d" % (number * 7919 % KEYS)
    text = '{"key": "%s", "value": %d, "due": 0, "pad": "' % (
        key, number % 100)
    return key, text + "x" * (SIZE - len(text) - 2) + '"}'


def decode(data):
    return json.loads(data)


def encode(data):
    return json.dumps(data)


def result(data, total):
    return {"key": data["key"], "sum": total, "due": data["due"]}
