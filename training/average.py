"""The weighted mean of two checkpoints of one run: ``python -m training.average NEW OLD OUT --share 0.8``.

Weights that went on training from others lie in the same valley, and a mean of the two is often better
than either (model soups, arXiv 2203.05482). What NEW has just learnt survives in a large share of
it only.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def average(new: Path, old: Path, out: Path, share: float) -> None:
    """Write NEW's folder to OUT, with share * NEW + (1 - share) * OLD as its weights."""
    ours, theirs = load_file(new / WEIGHTS), load_file(old / WEIGHTS)
    mean = {
        name: (tensor.float() * share + theirs[name].float() * (1 - share)).to(tensor.dtype)
        for name, tensor in ours.items()
    }
    shutil.copytree(new, out)
    save_file(mean, out / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("new", type=Path)
    parser.add_argument("old", type=Path)
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--share", type=float, default=0.8, help="of NEW")
    arguments = parser.parse_args()
    average(arguments.new, arguments.old, arguments.out, arguments.share)


if __name__ == "__main__":
    main()
