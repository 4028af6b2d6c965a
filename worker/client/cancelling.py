"""The end of a cancelled batch: its jobs get their rows even where no worker is left to write them."""

import os

from ..fleet.holding import cancelled_rows
from ..ledger.ledger import Ledger
from ..ledger.types import BatchInfo


def write_cancelled_rows(ledger: Ledger, batch: BatchInfo) -> int:
    """Take every shard, from living workers too, and write its rows; the number of shards.

    Does nothing to a batch that is not cancelled. Several may do this at once.
    """
    if batch.state != "cancelled":
        return 0
    num_shards = 0
    while lease := ledger.claim(batch.id, batch.label, f"cancel-{os.getpid()}", 0):
        ledger.commit(lease, cancelled_rows(lease), release=True)
        num_shards += 1
    return num_shards
