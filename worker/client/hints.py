"""Commands that people are told to type next: on the same server, and as a shell takes them."""

import shlex

from ..ledger.connection import masked
from ..settings import Settings


def command(settings: Settings, *words: str) -> str:
    """``dgq`` with the words, and with --redis-url where that was given, but without its password."""
    if settings.origins["redis_url"] == "flag":
        words = (*words, "--redis-url", masked(settings.redis_url or ""))
    return " ".join(["dgq", *(word if "***" in word else shlex.quote(word) for word in words)])
