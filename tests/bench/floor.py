"""The bare loop that the word count is compared with: one Python process,
the application's own functions, counts in a dict, output joined and written
per 1,000 lines.

    floor.py APPLICATION.py INPUT OUTPUT

Prints the seconds that it took, and those of the processor.
"""

import importlib.util
import sys
import time


def main():
    path, source, target = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("application", path)
    application = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(application)
    # The functions themselves, not the stage objects made of them.
    decode = application.decode
    split = application.split._func
    word = application.word._func
    count = application.count._func
    encode = application.encode._func
    new = application.Total
    begun, used = time.monotonic(), time.process_time()
    counts = {}
    out = []
    with open(source, "rb") as file, open(target, "wb") as output:
        for line in file:
            for data in split(decode(line.rstrip(b"\n"))):
                key = word(data)
                state = counts.get(key)
                if state is None:
                    state = counts[key] = new()
                out.append(encode(count(data, state)))
                if len(out) == 1000:
                    output.write(b"".join(out))
                    out.clear()
        output.write(b"".join(out))
    print(time.monotonic() - begun, time.process_time() - used)


if __name__ == "__main__":
    main()
