"""How much memory Python itself uses for the states of so many keys: bytes
of a process that has them in a dict, less those before."""

import os
import sys

import bare
import sut


def main():
    app = bare.load("bench_app.py")
    before = sut.anonymous_bytes(os.getpid())
    states = {}
    for number in range(int(sys.argv[1])):
        state = states[b"k%d" % number] = app.Count()
        state.value += 1
    print(sut.anonymous_bytes(os.getpid()) - before)


main()
