"""The ready codecs and the MessagePack under them."""

import math
import random

import pytest

from wallaroo import codecs
from wallaroo.codecs import msgpack_pack as pack
from wallaroo.codecs import msgpack_unpack as unpack


def test_lines():
    decode, encode = codecs.lines_decoder.decode, codecs.lines_encoder.encode
    assert decode("grün".encode()) == "grün"
    assert encode("grün") == "grün\n".encode()
    assert encode(7) == b"7\n"
    for raw in (b"", b"\xff\xfe not UTF-8", "ß".encode("latin-1")):
        assert encode(decode(raw)) == raw + b"\n"
    assert codecs.LinesDecoder("latin-1").decode(b"\xdf") == "ß"
    assert codecs.LinesEncoder("latin-1").encode("ß") == b"\xdf\n"
    with pytest.raises(UnicodeDecodeError):
        codecs.LinesDecoder(errors="strict").decode(b"\xff")


def test_json():
    decode, encode = codecs.json_decoder.decode, codecs.json_encoder.encode
    for value in ({"a": [1, 2.5, "ü\n"]}, [], 0, "x", True):
        data = encode(value)
        assert data.endswith(b"\n") and data.count(b"\n") == 1
        assert decode(data[:-1]) == value
    assert decode(b"  ") is None
    with pytest.raises(ValueError):
        decode(b"{")


def test_csv():
    decode, encode = codecs.csv_decoder.decode, codecs.csv_encoder.encode
    assert decode(b'a,"b,""c""",') == ["a", 'b,"c"', ""]
    assert decode(b"") is None
    assert encode(["a", 'b,"c"', 3]) == b'a,"b,""c""",3\n'
    assert encode({"x": 1, "y": 2}) == b"1,2\n"
    named = codecs.CSVDecoder(["x", "y"], delimiter=";")
    assert named.decode("ä;2".encode()) == {"x": "ä", "y": "2"}
    with pytest.raises(ValueError):
        named.decode(b"1;2;3")
    fields = codecs.CSVEncoder(["y", "x"], delimiter=";")
    assert fields.encode({"x": 1, "y": 2, "z": 3}) == b"2;1\n"


def test_framed():
    assert codecs.framed_encoder.encode(b"abc") == b"\0\0\0\3abc"
    assert codecs.framed_encoder.encode("ä") == b"\0\0\0\2\xc3\xa4"
    with pytest.raises(TypeError):
        codecs.framed_encoder.encode(5)
    decoder = codecs.FramedDecoder("<H")
    assert decoder.header_length() == 2
    assert decoder.payload_length(b"\2\1") == 258
    assert decoder.decode(b"abc") == b"abc"


def test_msgpack_codec():
    value = {"a": [1, None, b"\0", "ü", 1.5, True], 7: {}}
    data = codecs.msgpack_encoder.encode(value)
    decoder = codecs.msgpack_decoder
    assert decoder.payload_length(data[:4]) == len(data) - 4
    assert decoder.decode(data[4:]) == value


@pytest.mark.parametrize("value,packed", [
    (None, "c0"), (False, "c2"), (True, "c3"),
    (0, "00"), (127, "7f"), (-1, "ff"), (-32, "e0"),
    (128, "cc80"), (255, "ccff"), (256, "cd0100"), (65536, "ce00010000"),
    (1 << 32, "cf0000000100000000"), ((1 << 64) - 1, "cf" + "ff" * 8),
    (-33, "d0df"), (-129, "d1ff7f"), (-32769, "d2ffff7fff"),
    (-(1 << 63), "d38000000000000000"),
    (1.5, "cb3ff8000000000000"),
    ("", "a0"), ("a" * 31, "bf" + "61" * 31), ("a" * 32, "d920" + "61" * 32),
    (b"", "c400"), (b"\1", "c40101"),
    ([], "90"), ((1, [2]), "92019102"), ({}, "80"), ({"a": 1}, "81a16101"),
])
def test_msgpack_forms(value, packed):
    assert pack(value).hex() == packed
    expected = [1, [2]] if isinstance(value, tuple) else value
    assert unpack(bytes.fromhex(packed)) == expected
    assert type(unpack(bytes.fromhex(packed))) is type(expected)


def test_msgpack_sizes():
    for n in (15, 16, 255, 256, 65535, 65536):
        for value in ("x" * n, b"x" * n, [1] * n, {i: i for i in range(n)}):
            assert unpack(pack(value)) == value


def test_msgpack_reads_longer_forms():
    assert unpack(bytes.fromhex("ca3fc00000")) == 1.5
    assert unpack(bytes.fromhex("cf0000000000000001")) == 1
    assert math.isnan(unpack(pack(math.nan)))


@pytest.mark.parametrize("packed", [
    "", "c1", "01c0", "a261", "c402ff", "92c0", "81a161", "cb00",
    "d4000000", "c70100ff", "d6ff00000000",   # extension types
    "a1ff",                                   # not UTF-8
    "81900" + "1", "818000",                  # keys that cannot be hashed
    "82a16101a16102",                         # a repeated key
    "91" * 200 + "c0",                        # too deep
    "dfffffffff", "ddffffffff", "dbffffffff", # promises much, has nothing
])
def test_msgpack_refuses(packed):
    with pytest.raises(ValueError):
        unpack(bytes.fromhex(packed))


def test_msgpack_refuses_to_pack():
    for bad in (object(), {1}, 1j):
        with pytest.raises(TypeError):
            pack(bad)
    deep = []
    for _ in range(200):
        deep = [deep]
    for bad in (1 << 64, -(1 << 63) - 1, "\ud800", deep):
        with pytest.raises(ValueError):
            pack(bad)


def random_value(rng, depth=4):
    kind = rng.randrange(6 + 2 * (depth > 0))
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randint(-(1 << 63), (1 << 64) - 1)
    if kind == 2:
        return rng.randint(-200, 70000)
    if kind == 3:
        return rng.uniform(-1e9, 1e9)
    if kind == 4:
        return "".join(rng.choices("aäß€😀", k=rng.randrange(40)))
    if kind == 5:
        return rng.getrandbits(320).to_bytes(40, "big")
    items = [random_value(rng, depth - 1) for _ in range(rng.randrange(20))]
    if kind == 6:
        return items
    return {str(i): item for i, item in enumerate(items)}


def test_msgpack_random():
    rng = random.Random(1)
    for _ in range(500):
        value = random_value(rng)
        assert unpack(pack(value)) == value


def test_msgpack_against_another_implementation():
    msgpack = pytest.importorskip("msgpack")
    rng = random.Random(2)
    for _ in range(500):
        value = random_value(rng)
        assert pack(value) == msgpack.packb(value, use_bin_type=True)
        assert msgpack.unpackb(pack(value), raw=False) == value


def test_msgpack_garbage_never_surprises():
    rng = random.Random(3)
    for _ in range(3000):
        data = bytes(rng.randrange(256) for _ in range(rng.randrange(12)))
        try:
            unpack(data)
        except ValueError:
            pass


def test_msgpack_truncations():
    packed = pack({"a": [1, 1 << 40, "xyz", b"abc", 1.5, {"b": None}]})
    for n in range(len(packed)):
        with pytest.raises(ValueError):
            unpack(packed[:n])
