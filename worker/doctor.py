"""``dgq doctor``: what is wrong with the server, the workers or this machine; how to mend it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from redis.exceptions import RedisError

from . import exit_codes
from .doctor_machine import examine_machine
from .doctor_server import examine_broker, examine_server
from .errors import CommandError
from .finding import Finding
from .ledger.connection import connect, server_error
from .private_server import using_server
from .settings import Settings

SERVER = "server"
"""The name of the first finding: whether there is a server."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, as it is found. Without a configured server the private one is started for it."""
    private = settings.redis_url is None
    try:
        with using_server(settings) as given, connect(given, client_name="dgq-doctor") as client:
            try:
                yield from examine_server(client, given, private=private)
            except RedisError as error:
                raise server_error(error, given) from None
    except CommandError as error:
        yield Finding(SERVER, "problem", str(error))
    if settings.broker_url is not None:
        yield examine_broker(settings)
    yield from examine_machine(settings)


def exit_code(findings: Sequence[Finding]) -> int:
    """What the command ends with."""
    problems = [finding.name for finding in findings if finding.level == "problem"]
    if SERVER in problems:
        return exit_codes.SERVER
    return exit_codes.CANNOT_RUN if problems else exit_codes.OK


def as_text(finding: Finding) -> str:
    """A line, and a second one with what to do."""
    line = f"{finding.level:8} {finding.name:12} {finding.what}"
    return line if finding.mend is None else f"{line}\n{'':21} -> {finding.mend}"


def as_json(findings: Sequence[Finding]) -> str:
    """One object: whether all is well, and everything that was found."""
    everything = {
        "ok": exit_code(findings) == exit_codes.OK,
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(everything, indent=2, ensure_ascii=False)
