"""The stream of metrics, to receivers that come and go."""

import struct

import pytest

import apps
import harness
import machida_apps
from harness import wait_for
from machida import Machida

pytestmark = pytest.mark.level("all")


def text_at(data, at):
    size, = struct.unpack_from(">I", data, at)
    return data[at + 4:at + 4 + size].decode(), at + 4 + size


def payload(body):
    """What one payload says."""
    event, at = text_at(body, 0)
    topic, at = text_at(body, at)
    size, rest = struct.unpack_from(">II", body, at)
    assert size == rest + 4 == len(body) - at - 4
    at += 8
    found = {"event": event, "topic": topic}
    for name in ("name", "category", "worker", "pipeline"):
        found[name], at = text_at(body, at)
    found["id"], = struct.unpack_from(">H", body, at)
    numbers = struct.unpack_from(">69Q", body, at + 2)
    assert len(body) == at + 2 + 69 * 8
    found["bins"] = numbers[:65]
    found["min"], found["max"], found["period"], found["end"] = numbers[65:]
    return found


def frames(data):
    """(type, what it says) of the whole frames in data."""
    found, at = [], 0
    while len(data) - at >= 4:
        size, = struct.unpack_from(">I", data, at)
        if len(data) - at - 4 < size:
            break
        kind, body = data[at + 4], data[at + 5:at + 4 + size]
        if kind == 2:
            topic, after = text_at(body, 0)
            worker, after = text_at(body, after)
            assert after == len(body)
            found.append((2, (topic, worker)))
        else:
            found.append((kind, payload(body) if kind == 3 else body))
        at += 4 + size
    return found


def payloads(receiver, connection=-1):
    return [body for kind, body in frames(receiver.data()[connection])
            if kind == 3]


def test_counts_and_receivers(cluster, receiver, feeder):
    """Each record in one bin of one period; a receiver that goes and comes
    back changes nothing for the application."""
    port, sink = harness.free_port(), receiver()
    metrics = receiver()
    app = cluster(apps.WORD_COUNT, workers=2,
                  args=apps.word_count_args(port, sink.port),
                  settings={"metrics-address": metrics.address()})
    app.start()
    metrics.wait_connections(1)
    wait_for(lambda: payloads(metrics), "a first period")
    client = feeder(port)
    client.send_frames([b"some words"] * 500)
    wait_for(lambda: sum(sum(p["bins"]) for p in payloads(metrics)) == 500,
             "all records in the metrics")
    first = frames(metrics.data()[0])
    assert first[:3] == [
        (1, b""), (2, ("metrics:word count", "initializer")),
        (2, ("metrics:word count", "worker1"))]
    for p in payloads(metrics):
        assert p["event"] == "metrics" and p["topic"] == first[1][1][0]
        assert p["worker"] in ("initializer", "worker1")
        assert p["category"] == "node-ingress-egress"
        assert p["pipeline"] == "words" and p["period"] > 0
        assert (p["max"] > p["min"]) == (sum(p["bins"]) > 0)
    metrics.reset(metrics.connections[0])
    client.send_frames([b"more"] * 100)
    metrics.wait_connections(2)
    metrics.pause()		# and never reads again
    client.send_frames([b"last"] * 100)
    sink.wait_lines(1200)
    app.stop()


def test_nobody_listens(cluster, receiver, feeder):
    port, sink = harness.free_port(), receiver()
    app = cluster(apps.WORD_COUNT, args=apps.word_count_args(port, sink.port),
                  settings={"metrics-address": "127.0.0.1:%d"
                            % harness.free_port()})
    app.start()
    app.wait_log("metrics: no connection, trying again")
    feeder(port).send_frames([b"word"])
    sink.wait_lines(1)
    app.stop()


@pytest.mark.parametrize("address,text", [
    ("nonsense", "is no address"),
    ("x" * 64 + ":1", "cannot resolve")], ids=["text", "host"])
def test_addresses_that_are_none(cluster, receiver, address, text):
    """No reason not to start."""
    app = cluster(apps.WORD_COUNT, args=apps.word_count_args(
        harness.free_port(), receiver().port),
        settings={"metrics-address": address})
    app.start()
    assert app.log_contains("no metrics are sent: .*" + text)
    app.stop()


def test_of_machida3(opened, receiver):
    m = opened(Machida(machida_apps.ALERTS_STATELESS, ["--count", "5000"]))
    port = int(m.command[m.command.index("--metrics") + 1].split(":")[1])
    metrics = receiver(port=port)
    m.receive().start()
    wait_for(lambda: metrics.data() and {
        p["category"] for p in payloads(metrics)} == {
            "start-to-end", "node-ingress-egress"}, "metrics")
    assert frames(metrics.data()[0])[1] == (
        2, ("metrics:Alerts (stateless)", "initializer"))
    m.end()
