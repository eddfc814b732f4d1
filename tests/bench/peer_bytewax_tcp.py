"""The counter between two TCP ends in Bytewax, with the same functions.

    peer_bytewax_tcp.py PORT PORT

Its source and its sink are sockets, read and written as soon as there is
something; nothing is kept for a recovery.
"""

import socket
import sys

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

import bare

app = bare.load("bench_app.py")


class Connection(StatefulSourcePartition):
    def __init__(self, listener):
        self.socket, _ = listener.accept()
        self.socket.setblocking(False)
        self.rest = b""

    def next_batch(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        if not data:
            raise StopIteration()
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines

    def snapshot(self):
        return None


class Source(FixedPartitionedSource):
    def __init__(self, listener):
        self.listener = listener

    def list_parts(self):
        return ["connection"]

    def build_part(self, step_id, for_part, resume_state):
        return Connection(self.listener)


class Writer(StatelessSinkPartition):
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write_batch(self, items):
        self.socket.sendall(b"".join(data for _, data in items))


class Sink(DynamicSink):
    def __init__(self, port):
        self.port = port

    def build(self, step_id, worker_index, worker_count):
        return Writer(self.port)


def count(state, words):
    if state is None:
        state = app.Count()
    return state, app.count._func(words, state)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print("listening", flush=True)
    flow = Dataflow("counter")
    lines = op.input("lines", flow, Source(listener))
    words = op.map("decode", lines, app.Words().decode)
    # its keys are texts
    keyed = op.key_on("key", words, lambda words: words[0].decode())
    counted = op.stateful_map("count", keyed, count)
    encoded = op.map("encode", counted, lambda pair: (
        pair[0], app.encode._func(pair[1])))
    op.output("output", encoded, Sink(int(sys.argv[2])))
    run_main(flow)


main()
