"""What a user reads when connecting fails."""

import pytest

from dgq.worker.errors import ServerError
from dgq.worker.ledger.connection import connect
from dgq.worker.settings import Settings


def settings(url, **fields):
    return Settings(redis_url=url, **{"connect_timeout_s": 2.0} | fields)


def refusal(given, *words, kind=ServerError):
    """The line that connecting gives; it must hold these words and no more than one line."""
    with pytest.raises(kind) as caught:
        connect(given).close()
    line = str(caught.value)
    assert all(word in line for word in words), line
    assert "\n" not in line and len(line) < 450, line
    return line
