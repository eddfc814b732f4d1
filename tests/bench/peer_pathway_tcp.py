"""The counter between two TCP ends in Pathway.

    peer_pathway_tcp.py PORT PORT

It counts by itself and says of each change what the row is now, with the
latest time when one was due; lines that come together are one change, so it
is not the same work.  Lines are committed every millisecond, the least that
it takes.
"""

import socket
import sys

import pathway as pw


class Lines(pw.io.python.ConnectorSubject):
    def __init__(self, listener):
        super().__init__()
        self.listener = listener

    def run(self):
        connection, _ = self.listener.accept()
        rest = b""
        while True:
            data = connection.recv(1 << 18)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                key, due = line.split(b" ")
                self.next(key=key.decode(), due=int(due))


class Schema(pw.Schema):
    key: str
    due: int


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    sink = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("listening", flush=True)
    table = pw.io.python.read(Lines(listener), schema=Schema,
                              autocommit_duration_ms=1)
    counted = table.groupby(table.key).reduce(
        table.key, count=pw.reducers.count(), due=pw.reducers.max(table.due))

    def changed(key, row, time, is_addition):
        if is_addition:
            sink.sendall(b"%s %d %d\n" % (
                row["key"].encode(), row["count"], row["due"]))
    pw.io.subscribe(counted, changed)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


main()
