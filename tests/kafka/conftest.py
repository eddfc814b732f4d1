"""What tests with a real Kafka share."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "system")]


@pytest.fixture(scope="session")
def broker():
    """One node, for all tests that do not harm it."""
    from kafka import Cluster
    with Cluster() as kafka:
        yield kafka
