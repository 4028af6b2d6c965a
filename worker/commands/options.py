"""What several commands share: options, settings, the connection, naming a batch, printing.

Importing this costs next to nothing; the functions import what they need.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from dgq.engine.engine_config import DTYPES, KERNELS
from dgq.engine.quantization import PRESETS

from .. import exit_codes
from ..guard import guarded, one_line, say

if TYPE_CHECKING:
    from ..client.client import Batch, Client
    from ..ledger.types import BatchInfo
    from ..settings import Settings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Seeds(click.IntRange):
    """Any seed that a job may have. The range is no help to anybody, so help pages leave it out."""

    def _describe_range(self) -> str:
        return ""


SEEDS = Seeds(-(2**63), 2**64 - 1)


def _to_bytes(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """18GB, 17.5GB, 16GiB or 800MB, in bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size; write 18GB, 16GiB or 800MB", param=param)
    factor = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}[match[2]]
    return int(float(match[1]) * factor)


device_option: Decorator = click.option(
    "--device",
    default="cpu",
    metavar="DEVICE",
    help="Where the model runs: cpu, cuda, cuda:1.  [default: cpu]",
)
dtype_option: Decorator = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Of the weights, in place of DGQ_DTYPE; auto: bfloat16 on a GPU, float32 on a CPU.  "
    "[default: auto]",
)
kernels_option: Decorator = click.option(
    "--kernels",
    type=click.Choice(KERNELS),
    help="Who computes, in place of DGQ_KERNELS; auto: triton on a GPU, else torch.  "
    "[default: auto]",
)
quantize_option: Decorator = click.option(
    "--quantize",
    "preset",
    type=click.Choice(PRESETS),
    default="bf16",
    help="Hold the experts (nf4-experts), or attention and the dense MLP too (nf4), in four bits; "
    "or the experts in eight (fp8-experts); bf16: all as the checkpoint has it.  [default: bf16]",
)
vram_option: Decorator = click.option(
    "--vram",
    "max_memory_bytes",
    callback=_to_bytes,
    metavar="SIZE",
    help="Fit the engine into so much of the device's memory: 18GB, say.  [default: fixed bounds]",
)
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="JSON on stdout, with stable fields."
)
quiet_option: Decorator = click.option(
    "-q", "--quiet", is_flag=True, help="No progress and no summary on stderr."
)
ordered_option: Decorator = click.option(
    "--ordered", is_flag=True, help="Results in input order, not as they finish."
)
timeout_option: Decorator = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Wait no longer than so many seconds, then exit with 6; the batch goes on.",
)
resume_option: Decorator = click.option(
    "--resume",
    is_flag=True,
    help="Keep the rows that OUT has, whatever their status, and append what it lacks.",
)
overwrite_option: Decorator = click.option(
    "--overwrite", is_flag=True, help="Replace the rows that OUT has."
)
batch_argument: Decorator = click.argument("batch_name", metavar="BATCH")

BATCH_JSON = """\b
With --json, one object:
  id, model_name, priority, source, job_key, retry_of, seed, max_attempts
  state        active, paused, cancelled or done
  sealed       whether its input has been handed over to the end
  finished     whether every job has its row
  created_s, finished_s   seconds since 1970; null while not finished
  num_jobs, num_done      accepted jobs, and those that have their row
  num_by_status           an object: ok, invalid_output, error, cancelled
  num_tokens, num_canvases, num_steps"""


def server_command(command: Callable[..., int]) -> Callable[..., None]:
    """Wrap the body of a command that talks to a server; adds the options of ``guarded`` and --redis-url.

    The body is given ``settings``, in which the options that are named like a setting have the last
    word; it does not get those itself.
    """

    @functools.wraps(command)
    def wrapped(**options: Any) -> int:
        from ..settings import Settings, load_settings

        flags = {name: options.pop(name) for name in Settings.model_fields if name in options}
        return command(settings=load_settings(**flags), **options)

    redis_url = click.option(
        "--redis-url",
        metavar="URL",
        help="The server, in place of DGQ_REDIS_URL. A password is safer in DGQ_REDIS_PASSWORD: "
        "others on this machine can read a command line.",
    )
    return redis_url(guarded(wrapped))


@contextmanager
def connected(settings: "Settings") -> Iterator["Client"]:
    """A client of the configured server, or of the private one if it is up.

    Whatever the server refuses meanwhile becomes a ServerError.
    """
    from redis.exceptions import RedisError

    from ..client.client import Client
    from ..ledger.connection import server_error

    with Client(settings=settings) as client:
        try:
            yield client
        except RedisError as error:
            raise server_error(error, client.settings) from error


def find(client: "Client", batch_name: str) -> "Batch":
    """The batch that the command line names. Raises BatchUnknown and UsageFault."""
    from ..client.lookup import find_batch

    return client.batch(find_batch(client.ledger, batch_name).id)


def steer(
    action: Literal["pause", "resume"], batch_name: str, settings: "Settings", *, as_json: bool
) -> int:
    """Pause a batch or go on with it, and say how it stands then; returns the exit code."""
    with connected(settings) as client:
        batch = find(client, batch_name)
        info = batch.pause() if action == "pause" else batch.resume()
    if as_json:
        print_json(batch_fields(info))
    if info.state in ("done", "cancelled"):
        say(f"{info.id} is {'finished' if info.state == 'done' else 'cancelled'} already")
    else:
        words = state_in_words(info)
        say(f"{info.id} is {words}: {info.num_done} of {info.num_jobs} jobs have their rows")
    return exit_codes.OK


def print_json(value: object) -> None:
    """On stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def batch_fields(info: "BatchInfo") -> dict[str, Any]:
    """What --json shows of a batch; see BATCH_JSON."""
    return {
        "id": info.id,
        "state": info.state,
        "sealed": info.sealed,
        "finished": info.finished,
        "model_name": info.label,
        "priority": info.priority,
        "source": info.source,
        "job_key": info.job_key,
        "retry_of": info.retry_of,
        "seed": info.options.seed,
        "max_attempts": info.options.max_attempts,
        "created_s": info.created_s,
        "finished_s": info.finished_s,
        "num_jobs": info.num_jobs,
        "num_done": info.num_done,
        "num_by_status": dict(info.num_by_status),
        "num_tokens": info.num_tokens,
        "num_canvases": info.num_canvases,
        "num_steps": info.num_steps,
    }


def state_in_words(info: "BatchInfo") -> str:
    """The state as people see it: an active batch whose input has not ended is being submitted."""
    return "submitting" if info.state == "active" and not info.sealed else info.state


def failures(num_by_status: Mapping[str, int]) -> str:
    """The rows that are not ok, by status; a dash for none."""
    words = [f"{count} {status}" for status, count in num_by_status.items() if count]
    return ", ".join(word for word in words if not word.endswith(" ok")) or "-"


def local_time(seconds: float) -> str:
    """A time on the clock of this machine's user."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str, limit: int = 500) -> str:
    """In one line, without what a terminal would obey: others have chosen a batch's source."""
    return "".join(char if char.isprintable() else "\ufffd" for char in one_line(text, limit))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns on stdout, as wide as they need to be."""
    table = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
