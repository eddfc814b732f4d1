"""Bytewax's word count and counter, from a file to a file with the
application's own functions.

    peer_bytewax.py words|counter WAY INPUT OUTPUT DIRECTORY

Its input is read and its output written in batches by its own connectors;
`tuned` makes these larger.  A snapshot of what has changed each second is
what `recovery` has more, as a worker of ours has it by default.
"""

import datetime
import os
import socket
import sys
import time

import bytewax.operators as op
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main

import bare


def stateful(step):
    compute, new = step.compute, step.new

    def mapper(state, data):
        if state is None:
            state = new()
        return state, compute(data, state)
    return mapper


def build(kind, batch, source, target):
    work = bare.WORKS[kind]()
    step, = work.steps
    decode, encode = work.decode, work.encode

    def written(pair):
        data = encode(pair[1])
        return data.decode().rstrip("\n") if type(data) is bytes \
            else data.rstrip("\n")
    flow = Dataflow(kind)
    lines = op.input("lines", flow, FileSource(source, batch_size=batch))
    if work.split:
        data = op.flat_map("split", lines, lambda line: work.split(
            decode(line.encode())))
    else:
        data = op.map("decode", lines, lambda line: decode(line.encode()))
    keyed = op.key_on("key", data, step.key)
    counted = op.stateful_map("count", keyed, stateful(step))
    encoded = op.map("encode", counted, lambda pair: (pair[0],
                                                      written(pair)))
    op.output("output", encoded, FileSink(target))
    return flow


def two_processes(flow):
    """CPU seconds of the second one, whose memory is its own."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = ["127.0.0.1:%d" % holder.getsockname()[1]
                 for holder in holders]
    for holder in holders:
        holder.close()
    pid = os.fork()
    cluster_main(flow, addresses, 1 if pid == 0 else 0)
    if pid == 0:
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit("the second process ended with %d" % status)
    return usage.ru_utime + usage.ru_stime


def main():
    kind, way, source, target, directory = sys.argv[1:]
    batch = 10000 if way == "tuned" else 1000
    options = {}
    if way == "recovery":
        snapshots = os.path.join(directory, "snapshots")
        os.makedirs(snapshots, exist_ok=True)
        init_db_dir(snapshots, 1)
        options = {"recovery_config": RecoveryConfig(snapshots),
                   "epoch_interval": datetime.timedelta(seconds=1)}
    flow = build(kind, batch, source, target)
    begun, used = time.monotonic(), time.process_time()
    if way == "two processes":
        used -= two_processes(flow)
    else:
        run_main(flow, **options)
    print("%.6f %.6f" % (time.monotonic() - begun,
                         time.process_time() - used))


if __name__ == "__main__":
    main()
