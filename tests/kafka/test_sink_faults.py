"""A worker dies at every fault point of a sink in Kafka."""

import os
import shutil
import signal
import tempfile

import pytest

import harness
from faults import Faults, Listed
from test_sink import expected, fed, feed, got, lines

PART = 40		# lines for each death
ACTED = 3


@pytest.fixture
def page(special_build):
    """In a directory that the programs' user reaches."""
    directory = tempfile.mkdtemp(prefix="wallaroo-faults-")
    os.chmod(directory, 0o755)
    faults = Faults(os.path.join(directory, "faults"), Listed(
        os.path.join(special_build, "wallaroo-worker")))
    yield faults
    faults.close()
    shutil.rmtree(directory)


def test_killed_at_every_point(cluster, broker, special_build, page):
    points = [p.name for p in page.listed.points.values()
              if p.kafka and p.name.startswith((
                  "kafka_begin", "kafka_produce", "kafka_offsets",
                  "kafka_commit"))]
    assert len(points) == 8
    given = lines(PART * (2 * len(points) + 1))
    app, port = fed(cluster, broker, "points", workers=1,
                    programs=special_build,
                    env={"WALLAROO_FAULTS": page.path})
    feed(app, broker, "points", port, given, 0, PART)
    at = PART
    # The next passage, then the third from there: in a producer that is
    # going, and, for most, in one that takes over.
    for point in points:
        for count in (1, 3):
            page.disarm()
            page.arm(0, point, "kill", count=count)
            feed(app, broker, "points", port, given, at, at + PART)
            at += PART
            if count == 1:
                harness.wait_for(lambda: page.state(0) == ACTED,
                                 "a death at " + point)
    app.wait_workers()
    page.disarm()
    app.stop()
    assert got(broker.read("points")) == expected(given)


@pytest.mark.parametrize("point", ["kafka_commit_before",
                                   "kafka_commit_after"])
def test_the_broker_dies_inside_a_commit(cluster, special_build, page,
                                         point):
    """The worker stands still around its commit, the broker is killed."""
    from kafka import Cluster
    given = lines(PART * 2)
    with Cluster() as kafka:
        app, port = fed(cluster, kafka, "inside", workers=1,
                        programs=special_build,
                        env={"WALLAROO_FAULTS": page.path})
        feed(app, kafka, "inside", port, given, 0, PART)
        page.arm(0, point, "stop")
        with harness.Feeder(port) as feeder:
            feeder.send(("\n".join(given[PART:]) + "\n").encode())
            harness.wait_for(lambda: page.state(0) == ACTED, "a stop")
            kafka.kill(1)
            os.kill(page.pid(0), signal.SIGCONT)
            kafka.start(1)
            harness.wait_for(
                lambda: len(kafka.read("inside")) >= len(given),
                "all records", limit=120, step=0.5)
        app.stop()
        assert got(kafka.read("inside")) == expected(given)
