"""``dgq quantize``: a checkpoint in fewer bits, once, so that it need not be done at every start."""

import time
from pathlib import Path

import click

from dgq.engine.quantization import PRESETS, Quantization

from .. import exit_codes
from ..guard import guarded, say
from .options import quiet_option

_PROGRESS_INTERVAL_S = 5.0


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice([preset for preset in PRESETS if preset != "bf16"]),
    default="nf4",
    help="nf4-experts: the experts in four bits; nf4: attention and the dense MLP too; fp8-experts: "
    "the experts in eight bits, for GPUs that multiply these (sm_89 and later).  [default: nf4]",
)
@click.option(
    "--double-quantization",
    is_flag=True,
    help="NF4: quantize the scales of the blocks too, for 4.13 bits a weight, not 4.5.",
)
@quiet_option
@guarded
def quantize(
    source: Path, target: Path, preset: str, double_quantization: bool, quiet: bool
) -> int:
    """Write the checkpoint SRC to the new folder DST with its weights in four or eight bits.

    One tensor at a time is read, quantized and written, so a few gigabytes of memory do for any size.
    Router, embeddings, norms and self-conditioning stay as they are; the vision part is left out. DST
    appears when it is complete, and loads like any other checkpoint. Needs no GPU.
    """
    from dgq.engine.quantized_checkpoint import quantize_checkpoint

    next_s = time.monotonic() + _PROGRESS_INTERVAL_S

    def report(done: int, total: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s and not quiet:
            next_s = time.monotonic() + _PROGRESS_INTERVAL_S
            say(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB quantized")

    quantization = Quantization(preset, double_quantization)
    num_bytes = quantize_checkpoint(source, target, quantization, report)
    if not quiet:
        say(f"{target}: {num_bytes / 1e6:,.0f} MB of weights, {preset}")
    return exit_codes.OK
