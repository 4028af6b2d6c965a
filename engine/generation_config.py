"""A checkpoint's generation_config.json: the sampler's defaults and the stop tokens. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError, RequestError
from .request import SamplingConfig

PUBLISHED_EOS_IDS = (1, 106, 50)
PUBLISHED_PAD_ID = 0
PUBLISHED_BOS_ID = 2

_SAMPLER_NAME = "EntropyBoundSamplerConfig"
_WHOLE = ("max_denoising_steps", "stability_threshold")
_REAL = ("t_min", "t_max", "confidence_threshold")


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What a checkpoint says about decoding: sampler defaults, and the ids with a meaning.

    eos_ids: any of them ends the text; the first one also fills a canvas after its draft.
    """

    sampling: SamplingConfig
    eos_ids: tuple[int, ...]
    pad_id: int
    bos_id: int | None

    @property
    def filler_id(self) -> int:
        """What stands after the end of a text in a canvas."""
        return self.eos_ids[0] if self.eos_ids else self.pad_id


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. CheckpointError names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; copy the file again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def read_generation_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json; without the file, the published model's values hold.

    CheckpointError names the field that is wrong.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationConfig(
            SamplingConfig(), PUBLISHED_EOS_IDS, PUBLISHED_PAD_ID, PUBLISHED_BOS_ID
        )
    fields = read_json(path)
    try:
        return GenerationConfig(
            sampling=_sampling(fields),
            eos_ids=_ids(fields, "eos_token_id"),
            pad_id=next(iter(_ids(fields, "pad_token_id")), PUBLISHED_PAD_ID),
            bos_id=next(iter(_ids(fields, "bos_token_id")), None),
        )
    except (CheckpointError, RequestError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _sampling(fields: dict[str, Any]) -> SamplingConfig:
    values: dict[str, Any] = {}
    for name in _WHOLE + _REAL:
        value = fields.get(name)
        if value is None:
            continue  # transformers leaves unset fields out, and then takes the published value
        if isinstance(value, bool) or not isinstance(
            value, int if name in _WHOLE else (int, float)
        ):
            raise CheckpointError(f"{name} is {value!r}, expected a number")
        values[name] = value
    sampler = fields.get("sampler_config")
    if sampler is not None:
        values["entropy_bound"] = _entropy_bound(sampler)
    return SamplingConfig(**values)


def _entropy_bound(sampler: Any) -> float:
    """transformers writes the sampler as a dict that carries its class's name."""
    name = sampler.get("_cls_name", _SAMPLER_NAME) if isinstance(sampler, dict) else None
    if name != _SAMPLER_NAME:
        raise CheckpointError(f"sampler_config is {sampler!r}; dgq knows {_SAMPLER_NAME} only")
    bound = sampler.get("entropy_bound")
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise CheckpointError(f"sampler_config.entropy_bound is {bound!r}, expected a number")
    return float(bound)


def _ids(fields: dict[str, Any], name: str) -> tuple[int, ...]:
    """One id or a list of ids; nothing is an empty tuple."""
    value = fields.get(name)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
        raise CheckpointError(f"{name} is {value!r}, expected a token id or a list of them")
    return tuple(ids)
