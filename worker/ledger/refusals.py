"""What a server's error reply means for the user: one line each, with what to do."""

import re

from redis.exceptions import RedisError

_REPLIES = {
    r"\bOOM\b|used memory > 'maxmemory'": (
        "is full: raise its maxmemory, or cancel batches that nobody needs, then go on"
    ),
    r"\bMISCONF\b": "cannot save its data and refuses to write: look at its disk and its log",
    r"\bREADONLY\b|read only replica": "is a read-only replica: set DGQ_REDIS_URL to the primary",
    r"\bWRONGPASS\b|invalid password|invalid username-password": (
        "refuses the user name or password: check DGQ_REDIS_USERNAME and DGQ_REDIS_PASSWORD or "
        "the URL"
    ),
    r"without any password configured|no password is set": (
        "has no password, but one is given: take it out of the URL or DGQ_REDIS_PASSWORD"
    ),
    r"\bNOAUTH\b|Authentication required": (
        "wants a password: set DGQ_REDIS_PASSWORD (and DGQ_REDIS_USERNAME for an ACL user)"
    ),
    r"permissions? to run the '(?P<what>[^']+)'": (
        "does not let this user run {what}: allow it with ACL SETUSER … +{what}"
    ),
    r"permissions? to access (?:a|one of the|the '?(?P<what>[^' ]+)'?) keys?": (
        "does not let this user touch dgq's keys: allow them with ACL SETUSER … ~dgq:* (what "
        "DGQ_KEY_PREFIX says)"
    ),
    r"permissions? to access (?:a|one of the) channels?": (
        "does not let this user use its channels: allow them with ACL SETUSER … &*"
    ),
    r"\bNOPERM\b|can't run this command": "does not let this user do that: {text}; see ACL SETUSER",
    r"\bLOADING\b|loading the dataset": "is still loading its data: wait, then try again",
    r"\bBUSY\b": "is busy with somebody's script: wait, or end it with SCRIPT KILL",
    r"\bMASTERDOWN\b|Link with MASTER is down": (
        "is a replica that has lost its primary: set DGQ_REDIS_URL to the primary"
    ),
    r"\bNOREPLICAS\b": "has too few replicas to accept a write (min-replicas-to-write): start them",
    r"\bCLUSTERDOWN\b|\bMOVED\b|\bCROSSSLOT\b|\bASK \d|cluster mode": (
        "is part of a cluster, which dgq does not use: set DGQ_REDIS_URL to a server of its own"
    ),
    r"max number of clients": (
        "has no room for another client: raise its maxclients, or stop some clients"
    ),
    r"\bDENIED\b.*protected mode": (
        "runs in protected mode, which lets in nobody from elsewhere: give it a password"
    ),
    r"\bWRONGTYPE\b": (
        "holds something else under dgq's keys: set DGQ_KEY_PREFIX to a name of its own"
    ),
    r"unknown command [`']?(?P<what>[\w|]+)": (
        "does not know the command {what}: dgq needs Redis 6.2 or newer, or any Valkey, with no "
        "command renamed"
    ),
    r"invalid DB index|DB index is out of range": (
        "has no such database: use another number at the end of the URL"
    ),
}
"""Searched in this order: a reply may carry words of several."""


def explain_reply(error: RedisError) -> str | None:
    """What follows "the server …"; None where the error is no reply that we know.

    Scripts wrap a reply in words of their own, which differ from version to version; hence a
    search in the text, not a look at the exception's class.
    """
    text = " ".join(f"{getattr(error, 'status_code', None) or ''} {error}".split())
    for pattern, meaning in _REPLIES.items():
        found = re.search(pattern, text)
        if found:
            what = found.groupdict().get("what") or ""
            return meaning.format(what=what, text=text)
    return None
