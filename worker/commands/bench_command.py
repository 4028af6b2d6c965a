"""``dgq bench``: kernels checked, speed and memory measured on the device that is there; the roofline."""

from pathlib import Path

import click

from dgq.engine.quantization import PRESETS

from ..guard import guarded, say

_SECTIONS = ("checks", "kernels", "protocol", "short", "memory", "transformers", "presets")


def _names(_: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """checks,protocol as a tuple; all of them for nothing."""
    if value is None:
        return _SECTIONS
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if unknown := [name for name in names if name not in _SECTIONS]:
        raise click.BadParameter(
            f"{unknown[0]!r} is no section; there are {', '.join(_SECTIONS)}", param=param
        )
    return names


def _numbers(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """1,2,4 as a tuple of numbers from 1 up, each once, the least first."""
    if value is None:
        return None
    words = value.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(
            f"{value!r} is no list of numbers from 1 up; write 1,2,4", param=param
        )
    return tuple(sorted({int(word) for word in words}))


@click.command()
@click.option(
    "--roofline",
    is_flag=True,
    help="Measure nothing: count operations and bytes from the shapes, and predict for H100, RTX 5090, "
    "RTX 4090 and L4.",
)
@click.option(
    "--shape",
    metavar="NAME|PATH",
    help="26b-a4b or micro, random weights at these shapes, or a checkpoint folder.  "
    "[default: 26b-a4b on a GPU and for the roofline, else the shipped dgq-tiny]",
)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(PRESETS),
    multiple=True,
    help="May be given more than once.  [default: all; fp8-experts only for the roofline and on a GPU "
    "of compute capability 8.9 or later]",
)
@click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda or cuda:N.  [default: the first GPU, else cpu]",
)
@click.option(
    "--only",
    "sections",
    callback=_names,
    metavar="LIST",
    help=f"Sections to run, of {','.join(_SECTIONS)}.  [default: all]",
)
@click.option(
    "--canvases",
    callback=_numbers,
    metavar="LIST",
    help="How many at once, in the protocol and the roofline.  [default: 1,2,4,8,16,32; "
    "1,2 where a CPU runs it]",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the protocol's random prompts.  [default: 1024; 128 where a CPU runs it]",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the protocol's answers.  [default: 1024; one canvas where a CPU runs it]",
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=1),
    default=570.0,
    metavar="S",
    help="Leave out what no longer fits into so many seconds, and say so.  [default: 570]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the JSON line there too.",
)
@guarded
def bench(
    roofline: bool,
    shape: str | None,
    presets: tuple[str, ...],
    device: str | None,
    sections: tuple[str, ...],
    canvases: tuple[int, ...] | None,
    prompt_tokens: int | None,
    answer_tokens: int | None,
    time_limit_s: float,
    output: Path | None,
) -> int:
    """Check every kernel and measure speed and memory on the device that is there.

    Prints a table as soon as it is known, and last one line of JSON. Sections: checks (each kernel
    against its reference), kernels (their speed; on a CPU references against plain formulations),
    protocol (16 steps and a commit per canvas, random prompts), short (32-token answers), memory (8
    canvases with 4,096 tokens each), transformers (the same protocol in bf16), presets (dgq-tiny's
    answers in each format). Figures that were not measured are never printed.

    \b
    Exit codes:
      0    everything that was tried worked
      1    a kernel is wrong, or something failed; the rest is there all the same
    """
    unused = {
        "--only": sections != _SECTIONS,
        "--device": device is not None,
        "--answer-tokens": answer_tokens is not None,
    }
    for name, is_given in unused.items():
        if roofline and is_given:
            raise click.UsageError(f"--roofline measures nothing, so it takes no {name}")

    from dgq.bench.run import BenchOptions, run_bench

    return run_bench(
        BenchOptions(
            roofline=roofline,
            shape=shape,
            presets=presets,
            device=device,
            sections=sections,
            canvases=canvases,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            time_limit_s=time_limit_s,
            output=output,
        ),
        click.echo,
        say,
    )
