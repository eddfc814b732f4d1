"""The fault page that a build with --enable-fault-points shares with its
tests (common/fault.h), and the points that the program itself lists."""

import mmap
import os
import struct
import subprocess

MAGIC = 0x746c7561666c6177
PLANS = 16
ANY = 0xffffffff
IDLE, ARMED, FIRED, ACTED = range(4)

HEAD = struct.Struct("=QIIQ")	# magic, points, kinds, boots
BOOTS_AT = 16
# state, point, kind, worker, after, pid, count, arg
PLAN = struct.Struct("=IIIIIIqq")


class Point:
    def __init__(self, number, name, process, needs, kinds, text):
        self.number = number
        self.name = name
        self.process = process		# "worker", "writer", "supervisor"...
        self.peers = "peers" in needs	# passed with several workers
        self.machine = "machine" in needs	# with this durability
        self.kafka = "kafka" in needs	# tests/kafka has these
        self.kinds = kinds		# of calls, besides those of any point
        self.text = text


class Listed:
    """What --list-fault-points says: points and kinds, by name."""

    def __init__(self, program):
        text = subprocess.run([program, "--list-fault-points"], check=True,
                              stdout=subprocess.PIPE,
                              stdin=subprocess.DEVNULL).stdout.decode()
        rows = [line.split("\t") for line in text.splitlines()]
        self.kinds = {row[1]: number for number, row in enumerate(
            (row for row in rows if row[0] == "kind"), 1)}
        self.points = {}
        for row in rows:
            if row[0] == "kind":
                continue
            name, process, needs, kinds, about = row
            self.points[name] = Point(len(self.points), name, process,
                                      needs, kinds.split(",")[1:], about)
        if not self.points:
            raise RuntimeError("%s lists no fault points: configure it with "
                               "--enable-fault-points" % program)


    def here(self):
        """Points that the matrix's own application passes."""
        return [p for p in self.points.values() if not p.kafka]


class Faults:
    """The page: made before the programs start, open to all of them."""

    def __init__(self, path, listed):
        self.listed = listed
        self.path = path
        size = HEAD.size + PLANS * PLAN.size + 8 * len(listed.points)
        with open(path, "wb") as file:
            file.write(HEAD.pack(MAGIC, len(listed.points),
                                 len(listed.kinds) + 1, 0))
            file.truncate(size)
        os.chmod(path, 0o666)		# the programs may be nobody's
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), size)

    def _at(self, plan):
        return HEAD.size + plan * PLAN.size

    def read(self, plan):
        return PLAN.unpack_from(self.map, self._at(plan))

    def arm(self, plan, point, kind, count=1, worker=ANY, after=ANY, arg=0):
        PLAN.pack_into(self.map, self._at(plan), IDLE,
                       self.listed.points[point].number,
                       self.listed.kinds[kind], worker, after, 0, count, arg)
        # Last, and one word at once: they look at any time.
        struct.pack_into("=I", self.map, self._at(plan), ARMED)

    def disarm(self, plans=range(PLANS)):
        for plan in plans:
            struct.pack_into("=I", self.map, self._at(plan), IDLE)

    def state(self, plan):
        return self.read(plan)[0]

    def pid(self, plan):
        return self.read(plan)[5]

    def boot(self):
        """The machine has booted once more, as far as they can see."""
        boots, = struct.unpack_from("=Q", self.map, BOOTS_AT)
        struct.pack_into("=Q", self.map, BOOTS_AT, boots + 1)

    def passed(self):
        """How often each point was passed so far, by name."""
        at = HEAD.size + PLANS * PLAN.size
        counts = struct.unpack_from("=%dQ" % len(self.listed.points),
                                    self.map, at)
        return dict(zip(self.listed.points, counts))

    def close(self):
        self.map.close()
