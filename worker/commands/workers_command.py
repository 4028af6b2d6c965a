"""``dgq workers``: who is there to work."""

from typing import TYPE_CHECKING, Any

import click

from .. import exit_codes
from ..guard import say
from .options import connected, json_option, print_json, print_table, printable, server_command

WORKERS_JSON = """\b
With --json, a list of objects:
  id, host, pid, model, version, python
  labels       the model names that it serves, a list
  slots, busy  shards that it leases at once, and those in its hands
  rows         rows that it has written
  state        working or draining
  heartbeat_age_s   seconds since it was last heard of"""

if TYPE_CHECKING:
    from ..ledger.types import WorkerInfo
    from ..settings import Settings

HEADS = ("WORKER", "STATE", "SERVES", "BUSY", "ROWS", "HEARD OF", "VERSION")


@click.command(epilog=WORKERS_JSON)
@json_option
@server_command
def workers(settings: "Settings", as_json: bool) -> int:
    """List the workers that are alive. One that was killed is shown for some seconds more."""
    with connected(settings) as client:
        found = [_fields(worker) for worker in client.ledger.workers()]
    if as_json:
        print_json(found)
    elif found:
        print_table(HEADS, [_cells(fields) for fields in found])
    else:
        say("no worker is alive; start one with: dgq worker")
    return exit_codes.OK


def _fields(worker: "WorkerInfo") -> dict[str, Any]:
    """What --json shows; null for what the worker does not tell."""
    from ..client.lookup import labels_of

    given = worker.fields
    texts = {name: given.get(name) for name in ("host", "model", "version", "python", "state")}
    counts = {
        name: int(given[name]) if given.get(name, "").isdecimal() else None
        for name in ("pid", "slots", "busy", "rows")
    }
    age_s = round(worker.heartbeat_age_s, 3)
    labels = labels_of(worker)
    return {"id": worker.id, **texts, "labels": labels, **counts, "heartbeat_age_s": age_s}


def _cells(fields: dict[str, Any]) -> list[str]:
    cells = (
        fields["id"],
        fields["state"],
        printable(", ".join(fields["labels"]), 60),
        f"{fields['busy']}/{fields['slots']}",
        fields["rows"],
        f"{fields['heartbeat_age_s']:.0f} s ago",
        fields["version"],
    )
    return [str(cell) for cell in cells]
