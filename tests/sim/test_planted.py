"""A test that cannot fail is a defect: each rule that recovery rests on is
broken in turn, often in several ways, and a seed must object."""

import re

import pytest

from test_sim import run

pytestmark = pytest.mark.level("all")

SEEDS = 10000
PLANTS = {
    "RULE1": "outboxes are not cut at the one release word",
    "RULE1B": "only sinks' outboxes are cut",
    "RULE1C": "the release word is stored before the outputs are there",
    "RULE2": "what a channel brings again is not known by its position",
    "RULE2B": "of several outputs of one record the first is known only",
    "RULE3": "a replay drops outputs up to the checkpoint only",
    "RULE3B": "a replay drops outputs before the last position, not at it",
    "RULE4": "acknowledged when read, journaled later",
    "RULE5": "the journal is freed before the checkpoint is there",
    "RULE5B": "a checkpoint has the marks of the journal's tail",
    "RULE6": "a source forgets what was read and not yet published",
    "RULE6B": "a source goes on at the checkpoint's offset",
    "RULE7": "processing waits for an outbox",
    "RULE7B": "credit is given for bytes that are not freed",
    "RULE8": "a checkpoint without remainders, offsets and marks",
    "RULE8B": "a checkpoint without the undecoded remainders of clients",
    "RULE8C": "a checkpoint without the lineages of its marks",
    "RULE8D": "a key that waits to be saved is saved as it became",
    "RULE9": "two owners: neither lock nor end with the supervisor",
    "RULE9B": "two owners: no lock",
    "STABLE1": "a sync counts for what was written while it ran",
    "STABLE2": "a checkpoint commits with outboxes that are not synced",
    "STABLE3": "what is synced here leaves, whatever it came from",
    "STABLE4": "acknowledged before it is synced",
    "STABLE5": "a checkpoint commits before it is stable",
    "STABLE6": "what the last checkpoint needs of an outbox is written over",
    "STABLE7": "behind the cut the old journal stays",
    "STABLE8": "each worker goes back for itself",
    "STABLE9": "a file is written before a checkpoint knows it",
    "STABLE10": "a sync that has failed is tried again",
    "STABLE11": "after a power loss a journal's seals are not looked at",
    "STABLE12": "after a power loss a file goes on at its size",
    "STABLE13": "a checkpoint commits without a sync",
    "STABLE14": "names of new files are not synced",
    "AFTER1": "sinks do not wait for the checkpoint",
    "AFTER2": "other workers do not wait for the checkpoint",
    "AFTER3": "a replay drops outputs that never left",
    "TIME1": "what timers do to a key is not saved: they fire again",
    "TIME2": "a key that has expired is not taken out of the file",
    "TIME3": "the watermark of a step goes back at a recovery",
    "TIME4": "the watermark of a source goes back at a recovery",
    "TIME5": "keys that fire in one tick have one position",
    "TIME6": "what others have said is forgotten at a recovery",
}


@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_planted_bug_is_found(sim, plant):
    code, out = run(sim, "--seeds=%d" % SEEDS, "--jobs=2",
                    "--plant=" + plant, "--until-found")
    found = re.search(r"^seed (\d+): .*", out, re.M)
    assert code != 0 and found, "%s (%s) is not found in %d seeds" % (
        plant, PLANTS[plant], SEEDS)
    print(found.group())
