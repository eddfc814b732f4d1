"""The counter between two TCP ends as one asyncio loop, without a runtime.

    tcp_loop.py PORT PORT [PROBE FILE]

Listens on the first port and sends to the second one.
"""

import asyncio
import sys

import bare

app = bare.load("bench_app.py")


class Lines(asyncio.Protocol):
    """Each line through the application's functions; the outputs of one
    read leave in one write."""

    def __init__(self, sink):
        self.sink = sink
        self.rest = b""
        self.states = {}

    def data_received(self, data):
        decode, key, count, encode = (
            app.Words().decode, app.first._func, app.count._func,
            app.encode._func)
        *lines, self.rest = (self.rest + data).split(b"\n")
        out = []
        for line in lines:
            words = decode(line)
            name = key(words)
            state = self.states.get(name)
            if state is None:
                state = self.states[name] = app.Count()
            out.append(encode(count(words, state)))
        self.sink.write(b"".join(out))


async def main():
    if sys.argv[3:]:
        app.open_probe(*sys.argv[3:])
    loop = asyncio.get_running_loop()
    sink, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1",
                                           int(sys.argv[2]))
    server = await loop.create_server(lambda: Lines(sink), "127.0.0.1",
                                      int(sys.argv[1]))
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
