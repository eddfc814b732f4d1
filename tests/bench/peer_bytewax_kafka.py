"""The sums in Bytewax, by its own source and sink.

    peer_bytewax_kafka.py BROKERS SOURCE TARGET WAY DIRECTORY

WAY: default; recovery, with a snapshot of what has changed each second; or
"two processes", with recovery, too.  Its sink is at least once.
"""

import datetime
import os
import socket
import sys

import bytewax.operators as op
from bytewax.connectors.kafka import (
    KafkaSink, KafkaSinkMessage, KafkaSource)
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main

import sums


def add(total, data):
    total = (total or 0) + data["value"]
    return total, sums.result(data, total)


def message(pair):
    key, data = pair
    return KafkaSinkMessage(key.encode(), sums.encode(data).encode())


def build(brokers, source, target):
    flow = Dataflow("sums")
    records = op.input("source", flow, KafkaSource([brokers], [source]))
    data = op.map("decode", records, lambda record: sums.decode(record.value))
    keyed = op.key_on("key", data, lambda data: data["key"])
    added = op.stateful_map("add", keyed, add)
    op.output("target", op.map("encode", added, message),
              KafkaSink([brokers], target))
    return flow


def two_addresses():
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = ["127.0.0.1:%d" % holder.getsockname()[1]
                 for holder in holders]
    for holder in holders:
        holder.close()
    return addresses


def main():
    brokers, source, target, way, directory = sys.argv[1:]
    options = {}
    if way != "default":
        snapshots = os.path.join(directory, "snapshots")
        os.makedirs(snapshots, exist_ok=True)
        init_db_dir(snapshots, 2)
        options = {"recovery_config": RecoveryConfig(snapshots),
                   "epoch_interval": datetime.timedelta(seconds=1)}
    if way != "two processes":
        run_main(build(brokers, source, target), **options)
        return
    addresses = two_addresses()
    index = 1 if os.fork() == 0 else 0
    cluster_main(build(brokers, source, target), addresses, index, **options)


main()
