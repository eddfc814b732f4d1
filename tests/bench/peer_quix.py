"""The sums in Quix Streams.

    peer_quix.py BROKERS SOURCE TARGET at-least-once|exactly-once DIRECTORY

Its state is in RocksDB, with a topic that has its changes, as it is when
nothing else is said; it commits every five seconds, also by default.
"""

import sys

from quixstreams import Application


def add(data, state):
    total = state.get("total", 0) + data["value"]
    state.set("total", total)
    return {"key": data["key"], "sum": total, "due": data["due"]}


def main():
    brokers, source, target, way, directory = sys.argv[1:]
    app = Application(
        brokers, consumer_group="quix-" + target,
        auto_offset_reset="earliest", processing_guarantee=way,
        state_dir=directory, loglevel="WARNING")
    records = app.dataframe(app.topic(source, value_deserializer="json"))
    records = records.apply(add, stateful=True)
    records.to_topic(app.topic(target, value_serializer="json"))
    app.run()


main()
