"""What exactly once means for the outputs of the test applications."""

import collections


def count_lines(lines):
    """b"word 3" -> ("word", 3)"""
    pairs = []
    for line in lines:
        word, _, number = line.decode().rpartition(" ")
        pairs.append((word, int(number)))
    return pairs


def check_word_counts(connections, words):
    """connections: the lines of each connection (or file).  Every word's
    counts come on one connection, in order, 1 to n."""
    expected = collections.Counter(words)
    seen = {}
    place = {}
    for index, lines in enumerate(connections):
        for word, number in count_lines(lines):
            last = seen.get(word, 0)
            assert number == last + 1, (
                "%r: count %d after %d on connection %d (%s)" % (
                    word, number, last, index,
                    "repeated or out of order" if number <= last
                    else "lost or out of order"))
            assert place.setdefault(word, index) == index, (
                "%r came on connections %d and %d" % (
                    word, place[word], index))
            seen[word] = number
    assert seen == dict(expected), difference(seen, expected)


def difference(seen, expected):
    words = sorted(set(seen) | set(expected))
    wrong = ["%s: %d, not %d" % (word, seen.get(word, 0),
                                 expected.get(word, 0))
             for word in words if seen.get(word, 0) != expected.get(word, 0)]
    return "%d of %d words are wrong: %s" % (len(wrong), len(expected),
                                             "; ".join(wrong[:10]))


def counts_of(words):
    """The output of word count on one worker, in order."""
    counter = collections.Counter()
    for word in words:
        counter[word] += 1
        yield b"%s %d" % (word.encode(), counter[word])


def per_key(pairs):
    """[(key, value), ...] -> {key: [value, ...]}"""
    result = collections.defaultdict(list)
    for key, value in pairs:
        result[key].append(value)
    return dict(result)
