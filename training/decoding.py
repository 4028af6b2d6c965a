"""How dgq-tiny is decoded best, kind by kind; written beside its weights as dgq.json.

Chosen on held-out jobs of another seed than the reported figures (docs/benchmarks.md).
"""

from typing import Any

DECODING: dict[str, dict[str, Any]] = {
    "fill": {
        "pinned": ["enum", "typed"],
        "slot_tokens": 15,
        "max_attempts": 6,
        "sampling": {
            "stability_threshold": 0,
            "confidence_threshold": 0.02,
            "stop_to_end": True,
            "max_denoising_steps": 8,
            "max_rerolls": 0,
        },
    },
    "fill_pinned": {
        "slot_tokens": 12,
        "max_attempts": 6,
        "sampling": {
            "stability_threshold": 0,
            "confidence_threshold": 0.02,
            "entropy_bound": 0.005,
            "max_rerolls": 0,
        },
    },
    "reformat_python": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 32,
        "room": 1.3,
        "max_attempts": 4,
        "sampling": {
            "stability_threshold": 0,
            "stop_to_end": True,
            "max_denoising_steps": 3,
            "max_rerolls": 0,
        },
    },
    "reformat_json": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 48,
        "room": 1.6,
        "max_attempts": 4,
        "sampling": {"stability_threshold": 0, "stop_to_end": True, "max_denoising_steps": 8},
    },
    "rewrite": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 44,
        "room": 1.2,
        "max_attempts": 4,
        "sampling": {"stability_threshold": 0},
    },
}
