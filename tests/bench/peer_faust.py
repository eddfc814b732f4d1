"""The sums in Faust.

    peer_faust.py BROKERS SOURCE TARGET at_least_once|exactly_once DIRECTORY

Its table is in memory, with a topic that has its changes, as it is when
nothing else is said.
"""

import sys

import faust

import sums

brokers, source, target, way, directory = sys.argv[1:]
app = faust.App(
    "faust-" + target, broker="kafka://" + brokers.replace(",", ";kafka://"),
    store="memory://", processing_guarantee=way, datadir=directory,
    topic_partitions=sums.PARTITIONS, topic_replication_factor=1,
    web_enabled=False, consumer_auto_offset_reset="earliest",
    key_serializer="raw", value_serializer="json")
records = app.topic(source, key_type=bytes, value_type=None)
results = app.topic(target, key_type=bytes, value_type=None)
totals = app.Table("totals", default=int, partitions=sums.PARTITIONS)


@app.agent(records)
async def add(stream):
    async for key, data in stream.items():
        totals[key] += data["value"]
        await results.send(key=key,
                           value=sums.result(data, totals[key]))


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--loglevel", "warn"]
    app.main()
