"""How dgq-tiny is decoded best, kind by kind; written beside its weights as dgq.json.

Chosen on held-out jobs of another seed than the reported figures (docs/benchmarks.md).
"""

from typing import Any

DECODING: dict[str, dict[str, Any]] = {
    "fill": {"slot_tokens": 31, "pinned_slot_tokens": 12, "max_attempts": 6},
    "reformat_python": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 111,
        "room": 1.3,
        "max_attempts": 4,
    },
    "reformat_json": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 48,
        "room": 1.6,
        "max_attempts": 4,
    },
    "rewrite": {
        "draft_noise": [0.0, 0.5, 1.0],
        "piece_tokens": 44,
        "room": 1.2,
        "max_attempts": 4,
    },
}
