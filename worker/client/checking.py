"""What a new batch may be called, and within which bounds its numbers lie."""

import re

from ..errors import UsageFault
from ..ledger.types import NewBatch

LABEL = re.compile(r"[A-Za-z0-9._-]{1,100}")
MAX_PRIORITY = 100
MAX_JOB_KEY_CHARACTERS = 200


def check_new(new: NewBatch) -> None:
    """Raises UsageFault, with what would do."""
    if not LABEL.fullmatch(new.label):
        raise UsageFault(
            f"a model's name is 1 to 100 letters, digits, or any of . _ -, not {new.label!r}"
        )
    if not -MAX_PRIORITY <= new.priority <= MAX_PRIORITY:
        raise UsageFault(
            f"the priority must be from {-MAX_PRIORITY} to {MAX_PRIORITY}, not {new.priority}"
        )
    if new.job_key is not None and not (
        1 <= len(new.job_key) <= MAX_JOB_KEY_CHARACTERS and new.job_key.isprintable()
    ):
        raise UsageFault(
            f"a job key is 1 to {MAX_JOB_KEY_CHARACTERS} printable characters, not {new.job_key!r}"
        )
    seed, max_attempts = new.options.seed, new.options.max_attempts
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise UsageFault(f"the seed must be from -2^63 to 2^64 - 1, not {seed}")
    if max_attempts is not None and not 1 <= max_attempts <= 100:
        raise UsageFault(f"max_attempts must be from 1 to 100, not {max_attempts}")
