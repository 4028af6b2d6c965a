"""What an engine may use, and which of its savings are on."""

from dataclasses import dataclass

from .errors import EngineError

KERNELS = ("auto", "triton", "torch")
"""Who computes. auto: triton in bfloat16 on a CUDA device where Triton is installed, else torch."""

DTYPES = ("auto", "bfloat16", "float32")
"""Of the weights and of what is computed with them. auto: bfloat16 on a GPU, float32 on a CPU."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds on what one step holds, and switches.

    max_canvases, max_rows: of one step; out of memory lowers max_rows for good (see loop.py).
    max_kv_tokens: of all texts and canvases in flight, and of the beginnings kept for others: the
        tokens whose keys and values full layers have room for.
    max_sliding_tokens: the same for sliding layers, where a text of any length needs room for its window
        and its canvas only (sliding_pages.py), so this bounds how many texts are in flight and not how
        long they are. At most max_kv_tokens, which is what None takes, and at least what one text
        needs; a little room for one step's reading comes on top. The memory plan chooses it.
    share_prefixes: requests that begin alike share one encoding, to the bit what each would have.
    sparse_self_conditioning: leaves out at most DROPPED_MASS of a row's probability, see head.py.
        Both can be switched off to measure what they save.
    cuda_graphs: on a GPU with the triton kernels, steps whose shape comes again are captured and
        replayed in one call (graphs.py).
    """

    max_canvases: int = 64
    max_rows: int = 2048
    max_kv_tokens: int = 32768
    max_sliding_tokens: int | None = None
    share_prefixes: bool = True
    sparse_self_conditioning: bool = True
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Raise EngineError, naming the field, for a value out of range."""
        for name in ("max_canvases", "max_rows", "max_kv_tokens", "max_sliding_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EngineError(f"{name} must be at least 1, not {value}")


DEFAULT_ENGINE_CONFIG = EngineConfig()
