"""What windows do, in the plainest form, and what is published about them.

The model keeps every pane in a list, empty ones too, and moves them one by
one; the package calculates where they are.  So each is a check of the other.
"""

import math

ENDLESS = 2**64 - 1
SECOND = 10**9
MS = 10**6


class RangeModel:
    """The range windows of one key."""

    def __init__(self, aggregation, length, slide=None, delay=0,
                 policy="drop", offset=0, key="key"):
        self.aggregation = aggregation
        self.length = length
        self.slide = slide or length
        self.policy = policy
        self.offset = offset
        self.key = key
        self.pane = math.gcd(self.length, self.slide)
        self.delay = self.slide * math.ceil(delay / self.slide)
        self.per_slide = self.slide // self.pane
        self.per_window = self.length // self.pane
        self.panes = []			# [begin, accumulator or None]
        self.newest = 0

    def begin(self, watermark):
        first = max(0, watermark - self.delay - self.offset)
        count = self.per_window + self.delay // self.slide * self.per_slide
        self.panes = [[first + n * self.pane, None] for n in range(count)]
        self.newest = watermark

    def end(self):
        return self.panes[-1][0] + self.pane

    def put(self, value, time):
        """False: it is late."""
        if time < self.panes[0][0]:
            return False
        pane = self.panes[(time - self.panes[0][0]) // self.pane]
        if pane[1] is None:
            pane[1] = self.aggregation.initial_accumulator()
        self.aggregation.update(value, pane[1])
        return True

    def grow(self, time):
        need = panes_needed(time, self.end(), self.pane, self.per_slide)
        end = self.end()
        self.panes += [[end + n * self.pane, None] for n in range(need)]

    def message(self, value, time, watermark):
        """([(output, its time)], the newest window's end or 0)"""
        if not self.panes:
            self.begin(watermark)
        self.newest = max(self.newest, time)
        placed = None
        if time < self.end():
            placed = self.put(value, time)
        outputs, newest = self.timeout(watermark)
        if placed is None:
            if time >= self.end():
                self.grow(time)
            placed = self.put(value, time)
        if placed:
            return outputs, newest
        if self.policy == "fire-per-message":
            accumulator = self.aggregation.initial_accumulator()
            self.aggregation.update(value, accumulator)
            output = self.aggregation.output(self.key, accumulator)
            if output is not None:
                outputs.append((output, time))
            newest = max(newest, time)
        elif self.policy == "place-in-oldest-window":
            self.newest = max(self.newest, self.panes[0][0])
            self.put(value, self.panes[0][0])
        return outputs, newest

    def timeout(self, watermark):
        if watermark == ENDLESS:
            watermark = self.newest + self.length + self.delay
        low = max(0, watermark - self.length - self.delay)
        leap = max(0, low - self.panes[-1][0])
        outputs, newest = [], 0
        while self.panes[0][0] + self.length - 1 < watermark - self.delay:
            whole = self.aggregation.initial_accumulator()
            for _, accumulator in self.panes[:self.per_window]:
                if accumulator is not None:
                    whole = self.aggregation.combine(whole, accumulator)
            newest = self.panes[0][0] + self.length - 1
            output = self.aggregation.output(self.key, whole)
            if output is not None:
                outputs.append((output, newest))
            again = self.panes[0][0] + len(self.panes) * self.pane + leap
            del self.panes[:self.per_slide]
            self.panes += [[again + n * self.pane, None]
                           for n in range(self.per_slide)]
        return outputs, newest


def panes_needed(time, end, pane, per_slide):
    """How many to append for an event behind the end."""
    need = (time - end) // pane + 1
    return need * per_slide // math.gcd(need, per_slide)


class CountModel:
    """The count window of one key."""

    def __init__(self, aggregation, count, key="key"):
        self.aggregation = aggregation
        self.count = count
        self.key = key
        self.values = []

    def message(self, value):
        self.values.append(value)
        return self.timeout() if len(self.values) == self.count else []

    def timeout(self):
        if not self.values:
            return []
        accumulator = self.aggregation.initial_accumulator()
        for value in self.values:
            self.aggregation.update(value, accumulator)
        self.values = []
        output = self.aggregation.output(self.key, accumulator)
        return [] if output is None else [output]


# -- published numbers: (value, event time, watermark, outputs) in seconds --

TUMBLING_DELAY = [
    (2, 96, 101, []), (3, 97, 102, []), (4, 98, 103, []), (5, 99, 104, []),
    (1, 105, 106, []), (2, 106, 107, []), (3, 107, 108, []),
    (4, 108, 109, []), (10, 110, 111, [14]), (20, 111, 112, []),
    (30, 112, 113, []), (40, 113, 114, []), (1, 200, 201, [20, 90]),
]

BEGIN = [
    (2, 92, 100, []), (3, 93, 102, []), (4, 94, 103, []), (5, 95, 104, []),
    (1, 102, 106, []), (2, 103, 107, []), (3, 104, 108, []),
    (4, 105, 109, []),
]
SLIDING_DELAY = BEGIN + [
    (10, 108, 112, [14, 14]), (20, 109, 113, []), (30, 110, 114, [12]),
    (40, 111, 115, []),
    (2, 192, 200, [10, 10, 40, 110, 107, 100, 100, 70, 0, 0]),
    (3, 193, 202, [0]), (4, 194, 203, []), (5, 195, 204, [5]),
    (1, 202, 206, [14]), (2, 203, 207, []), (3, 204, 208, [14]),
    (4, 205, 209, []), (10, 211, 212, [14, 14]), (20, 212, 213, []),
    (30, 213, 214, [12]), (40, 214, 215, []),
]
SLIDING = BEGIN + [
    (10, 108, 112, [20, 20]), (20, 109, 113, []), (30, 110, 114, [67]),
    (40, 111, 115, []), (2, 192, 200, [100, 100, 70, 0, 0]),
    (3, 193, 202, [5]), (4, 194, 203, []), (5, 195, 204, [9]),
]
BACKWARDS = [
    (5, 95, 100, []), (4, 94, 102, []), (3, 93, 103, []), (2, 92, 104, []),
    (4, 105, 106, []), (3, 104, 107, []), (2, 103, 108, []),
    (1, 102, 109, []), (40, 111, 112, [14, 14]), (30, 110, 113, []),
    (20, 109, 114, [12]), (10, 108, 115, []),
    (2, 192, 200, [10, 10, 40, 110, 107, 100, 100, 70, 0, 0]),
]
UNEVEN_SLIDE = BEGIN + [
    (10, 111, 112, [14]), (20, 112, 113, [14]), (30, 113, 114, []),
    (40, 114, 115, []),
    (2, 192, 200, [12, 10, 10, 39, 100, 100, 90, 0]), (3, 193, 202, []),
    (4, 194, 203, [0]), (5, 195, 204, []), (1, 202, 206, [5]),
    (2, 203, 207, []), (3, 204, 208, []), (4, 205, 209, [14]),
    (10, 211, 212, [14]), (20, 212, 213, []), (30, 213, 214, []),
    (40, 214, 215, [13]),
]
FUTURE = [
    (1, 92, 100, []), (2, 93, 102, []),
    (10, 199, 200, [3, 3, 0, 0, 0, 0, 0, 0, 0, 0]), (100, 100, 201, []),
    (1, 101, 220, [0, 0, 0, 0, 10, 10, 10, 10, 10, 0]),
]
STANDING_WATERMARK = [
    (2, 92, 100, []), (1, 102, 100, []), (2, 103, 100, []),
    (3, 104, 100, []), (4, 105, 100, []), (10, 108, 100, []),
    (20, 109, 100, []), (30, 110, 100, []), (40, 111, 100, []),
    (3, 93, 102, []), (4, 94, 103, []), (5, 95, 104, []), (0, 1, 106, []),
    (0, 1, 107, []), (0, 1, 108, []), (0, 1, 109, []),
    (0, 1, 112, [14, 14]), (0, 1, 113, []), (0, 1, 114, [12]),
    (0, 1, 115, []),
    (2, 192, 200, [10, 10, 40, 110, 107, 100, 100, 70, 0, 0, 0]),
]
APART = [
    (1, 111, 111, []), (2, 121, 121, [0]),
    (3, 141, 141, [1, 1, 2, 2]),
]

# name: (length, slide, delay in seconds, rows); sums
PUBLISHED = {
    "tumbling, delay": (10, None, 10, TUMBLING_DELAY),
    "sliding, delay": (10, 2, 10, SLIDING_DELAY),
    "sliding": (10, 2, 0, SLIDING),
    "backwards": (10, 2, 10, BACKWARDS),
    "slide that does not divide": (10, 3, 10, UNEVEN_SLIDE),
    "from the future": (10, 2, 10, FUTURE),
    "standing watermark": (10, 2, 10, STANDING_WATERMARK),
    "far apart": (10, 5, 10, APART),
}

# (event ms, panes to append) with 2 s panes that end at 100 s
GROWTH = [
    (100000, 1), (101999, 1), (102000, 2), (103000, 2), (108999, 5),
    (115000, 8), (199999, 50), (1010000, 456),
]
