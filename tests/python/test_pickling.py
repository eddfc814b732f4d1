"""Stage objects through pickle, in this process and into another one."""

import pickle
import subprocess
import sys

import stages
import wallaroo


class Largest(wallaroo.Aggregation):
    """Needs no methods here."""


@wallaroo.experimental.stream_message_decoder
def from_stream(payload):
    return payload


@wallaroo.experimental.stream_message_encoder
def to_stream(data):
    return data


OBJECTS = [
    stages.double, stages.twice, stages.add, stages.add_multi,
    stages.last_digit, stages.decode, stages.encode,
    wallaroo.codecs.lines_decoder, wallaroo.codecs.csv_encoder,
    wallaroo.codecs.CSVDecoder(["a"]), from_stream, to_stream, Largest(),
]


def test_round_trip():
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for obj in OBJECTS:
            again = pickle.loads(pickle.dumps(obj, protocol))
            assert type(again) is type(obj)
            assert again.name() == obj.name()


def test_functions_work_afterwards():
    again = pickle.loads(pickle.dumps(stages.add))
    state = again.initial_state()
    assert again.compute(2, state) == 2
    assert pickle.loads(pickle.dumps(stages.decode)).decode(b"7") == 7


def test_in_another_process(environment, tmp_path):
    # Both processes import the same modules in the same order.
    write = (
        "import pickle, sys, stages, test_pickling as t; pickle.dump(["
        "stages.double, stages.add, stages.decode, stages.Total(),"
        " t.OBJECTS], open(sys.argv[1], 'wb'))"
    )
    read = (
        "import pickle, sys, stages, test_pickling; d, a, c, t, every ="
        " pickle.load(open(sys.argv[1], 'rb'));"
        " print(d.compute(4), a.compute(5, t), c.decode(b'6'),"
        " type(d) is type(stages.double), all(type(one) is type(two)"
        " for one, two in zip(every, test_pickling.OBJECTS)))"
    )
    path = str(tmp_path / "pickle")
    subprocess.run(
        [sys.executable, "-c", write, path], env=environment, check=True)
    out = subprocess.run(
        [sys.executable, "-c", read, path], env=environment, check=True,
        stdout=subprocess.PIPE, text=True,
    )
    assert out.stdout == "8 5 6 True True\n"


def test_published_names_do_not_depend_on_the_process(environment):
    code = "import stages; print(type(stages.add_multi).__qualname__)"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True,
        stdout=subprocess.PIPE, text=True,
    )
    assert out.stdout == "StateComputationMulti_1__add_multi\n"
