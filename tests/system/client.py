import socket, struct, sys

# The whole client that an application's user writes: lines from stdin, each
# with its length before it, to the port given.
out = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for line in sys.stdin.buffer:
    line = line.rstrip(b"\n")
    out.sendall(struct.pack(">I", len(line)) + line)
out.shutdown(socket.SHUT_WR)
out.recv(1)
