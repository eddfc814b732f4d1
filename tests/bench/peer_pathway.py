"""Pathway's word count and counter, from a file to a file.

    peer_pathway.py words|counter native|python INPUT OUTPUT DIRECTORY

It counts and adds by itself, in Rust.  python: the lines are taken apart by
the application's own functions; native: they are words as they are.  Either
way it is not the same work: many changes of a key become one output, where
ours has one for each input.
"""

import sys
import time

import pathway as pw

import bare


def words(way, table):
    if way == "native":
        return table.select(word=table.data)
    work = bare.WORKS["words"]()

    @pw.udf
    def first(line: str) -> str:
        return work.split(work.decode(line.encode()))[0]
    return table.select(word=first(table.data))


def readings(table):
    decode = bare.WORKS["counter"]().decode

    @pw.udf
    def parse(line: str) -> tuple[str, str, int]:
        reading = decode(line.encode())
        return (reading.sensor, reading.place, reading.value)
    split = table.select(parts=parse(table.data))
    return split.select(sensor=split.parts[0], place=split.parts[1],
                        value=split.parts[2])


def build(kind, way, source, target):
    table = pw.io.plaintext.read(source, mode="static")
    if kind == "words":
        rows = words(way, table)
        result = rows.groupby(rows.word).reduce(
            rows.word, count=pw.reducers.count())
    else:
        rows = readings(table)
        result = rows.groupby(rows.sensor).reduce(
            rows.sensor, count=pw.reducers.count(),
            sum=pw.reducers.sum(rows.value))
    pw.io.csv.write(result, target)


def main():
    kind, way, source, target, _ = sys.argv[1:]
    build(kind, way, source, target)
    begun, used = time.monotonic(), time.process_time()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    print("%.6f %.6f" % (time.monotonic() - begun,
                         time.process_time() - used))


if __name__ == "__main__":
    main()
