"""PyFlink's word count and counter, from a file to a file with the
application's own functions.

    peer_pyflink.py words|counter process|thread INPUT OUTPUT DIRECTORY

One task in Flink's own small cluster, states in its heap; Python in a process
of its own or in a thread of the Java virtual machine.  It cannot count the
CPU seconds of the others: it says when it begins and when it has ended, and
waits until that was seen.
"""

import sys
import time

from pyflink.common import Configuration, Types
from pyflink.common.serialization import Encoder
from pyflink.common.watermark_strategy import WatermarkStrategy
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import (
    FileSink, FileSource, StreamFormat)
from pyflink.datastream.functions import KeyedProcessFunction
from pyflink.datastream.state import ValueStateDescriptor


class Counting(KeyedProcessFunction):
    def __init__(self, kind):
        self.kind = kind

    def open(self, context):
        import bare
        self.work = bare.WORKS[self.kind]()
        self.step, = self.work.steps
        self.state = context.get_state(ValueStateDescriptor(
            "state", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, line, context):
        data = self.work.decode(line.encode())
        if self.work.split:
            data, = self.work.split(data)
        state = self.state.value()
        if state is None:
            state = self.step.new()
        result = self.step.compute(data, state)
        self.state.update(state)
        encoded = self.work.encode(result)
        if type(encoded) is bytes:
            encoded = encoded.decode()
        yield encoded.rstrip("\n")


def main():
    kind, way, source, target, _ = sys.argv[1:]
    configuration = Configuration()
    configuration.set_string("python.execution-mode", way)
    configuration.set_string("python.executable", sys.executable)
    configuration.set_string("python.client.executable", sys.executable)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    env.set_parallelism(1)
    lines = env.from_source(
        FileSource.for_record_stream_format(
            StreamFormat.text_line_format(), source).build(),
        WatermarkStrategy.no_watermarks(), "lines")
    counted = lines.key_by(lambda line: line.split(" ")[0],
                           key_type=Types.STRING()).process(
        Counting(kind), output_type=Types.STRING())
    counted.sink_to(FileSink.for_row_format(
        target, Encoder.simple_string_encoder()).build())
    print("begin", flush=True)
    begun = time.monotonic()
    env.execute(kind)
    print("%.6f" % (time.monotonic() - begun), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
