"""Zipf-distributed words from a seed: the same ones everywhere."""

import bisect
import itertools
import random


def vocabulary(size):
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = []
    for number in range(size):
        word = ""
        number += 26
        while number:
            number, rest = divmod(number, 26)
            word = letters[rest] + word
        words.append(word)
    return words


class Zipf:
    def __init__(self, seed, size=1000, exponent=1.0):
        self.random = random.Random(seed)
        self.words = vocabulary(size)
        self.cumulated = list(itertools.accumulate(
            1 / (rank + 1) ** exponent for rank in range(size)))

    def take(self, count):
        total = self.cumulated[-1]
        pick = self.random.random
        return [self.words[bisect.bisect(self.cumulated, pick() * total)]
                for _ in range(count)]

    def lines(self, count, per_line=8):
        """count words as lines of text."""
        words = self.take(count)
        return [" ".join(words[start:start + per_line])
                for start in range(0, count, per_line)]
