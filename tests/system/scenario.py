"""Word count over several runs of the supervisor."""

import collections

import apps
import harness
import oracle
from words import Zipf


class WordCount:
    """Word count on TCP whose output is gathered over several runs."""

    def __init__(self, cluster, receiver, feeder, workers=2, **more):
        self.sink = receiver()
        self.feeder = feeder
        self.port = harness.free_port()
        self.app = cluster(apps.WORD_COUNT, workers=workers,
                           args=apps.word_count_args(self.port,
                                                     self.sink.port), **more)
        self.words = []

    def feed(self, seed, count=8000):
        lines = Zipf(seed).lines(count)
        client = self.feeder(self.port)
        client.send_frames(line.encode() for line in lines)
        client.half_close()
        self.words += " ".join(lines).split()
        return client

    def feed_and_wait(self, seed, count=8000):
        self.feed(seed, count)
        self.sink.wait_lines(len(self.words))

    def check(self):
        """Over all runs and connections in the order of time.  A stop that
        cannot wait for the receiver may leave a torn record at the end of
        a connection; the record comes whole on the next one."""
        lines = [line for data in self.sink.data()
                 for line in data.split(b"\n")[:-1]]
        merged = {}
        for word, number in oracle.count_lines(lines):
            assert number == merged.get(word, 0) + 1, (word, number)
            merged[word] = number

        assert merged == dict(collections.Counter(self.words))

    def check_set(self):
        """The same, when keys have moved while outputs were saved: each
        output once, in order per word on each connection."""
        every = collections.Counter()
        for data in self.sink.data():
            lines = data.split(b"\n")[:-1]
            every.update(lines)
            last = {}
            for word, number in oracle.count_lines(lines):
                assert number > last.get(word, 0), (word, number)
                last[word] = number
        expected = collections.Counter(oracle.counts_of(self.words))
        assert every == expected, (list((every - expected).items())[:5],
                                   list((expected - every).items())[:5])

    def wait_settled(self):
        """Every worker knows that the receivers have all: from then on
        nothing is repeated even when the connections die with all
        processes."""
        harness.wait_for(lambda: self.app.stat("outbox_bytes") == 0,
                         "empty outboxes")
