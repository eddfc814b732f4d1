"""What a sink of the word count must show, checked while it comes.

Every word belongs to one client connection ("7.k12": the word k12 of client
7), so that for a connection that did not survive, where that is allowed, the
words counted must be a prefix of what it sent.
"""

import collections
import json


class Wrong(AssertionError):
    """The output is not exact."""


class Ledger:
    """One sink: each word's counts come in order, 1, 2, 3 and so on."""

    def __init__(self, name):
        self.name = name
        self.last = {}			# word -> its last count
        self.seen = collections.Counter()	# client -> words counted
        self.repeats_allowed = False	# a connection ended with its machine
        self.repeats = 0

    def take(self, lines, where):
        for line in lines:
            word, _, number = line.decode().rpartition(" ")
            client, _, _ = word.partition(".")
            last = self.last.get(word, 0)
            try:
                number, client = int(number), int(client)
            except ValueError:
                raise Wrong("%s: garbage %r at %s" % (self.name, line,
                                                      where)) from None
            if number <= last and self.repeats_allowed:
                self.repeats += 1
                continue
            if number != last + 1:
                raise Wrong("%s: %s: count %d after %d at %s: %s" % (
                    self.name, word, number, last, where,
                    "repeated" if number <= last else "lost"))
            self.last[word] = number
            self.seen[client] += 1

    def lacks(self, clients):
        """How many words of living clients are not yet here."""
        return sum(len(client.words) - self.seen[client.number]
                   for client in clients if not client.dead)

    def check(self, clients):
        """Every word of every client, of a dead one a prefix."""
        for client in clients:
            count = self.seen[client.number]
            if not client.dead and count != len(client.words):
                raise Wrong("%s: client %d sent %d words, %d are counted"
                            % (self.name, client.number, len(client.words),
                               count))
            wanted = collections.Counter(client.words[:count])
            for word, number in wanted.items():
                if self.last.get(word, 0) != number:
                    raise Wrong("%s: client %d: %s is counted %d times, not "
                                "%d" % (self.name, client.number, word,
                                        self.last.get(word, 0), number))


class Letters:
    """The file of dead letters: one for each message that is no use."""

    def __init__(self):
        self.wanted = {}		# key -> client
        self.ids = {}			# key -> the letter's

    def take(self, lines, where):
        for line in lines:
            try:
                letter = json.loads(line)
                key, number = letter["key"], letter["id"]
            except (ValueError, KeyError):
                raise Wrong("garbage in %s: %r" % (where, line)) from None
            if key not in self.wanted:
                raise Wrong("a letter of %s in %s: %r" % (key, where, line))
            if key in self.ids:
                raise Wrong("a second letter of %s in %s: %r" % (key, where,
                                                                 line))
            self.ids[key] = number

    def lacks(self):
        return sum(1 for key, client in self.wanted.items()
                   if key not in self.ids and not client.dead)


class Lines:
    """Whole lines of a stream that grows."""

    def __init__(self):
        self.rest = b""

    def add(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines
