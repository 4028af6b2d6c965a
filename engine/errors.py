"""The errors of dgq: one tree, so that a caller can catch all of it or one kind."""

from dgq.kernels.errors import DgqError

__all__ = [
    "CheckpointError",
    "DeviceError",
    "DgqError",
    "EngineError",
    "RequestError",
    "RequestTooLarge",
]


class EngineError(DgqError):
    """The engine cannot do what it was asked."""


class DeviceError(EngineError):
    """The device failed under the engine; only a new process may find it well again."""


class CheckpointError(EngineError):
    """A checkpoint folder is missing, incomplete, or not a DiffusionGemma."""


class RequestError(EngineError):
    """A request that this engine cannot serve (too long, out of range)."""


class RequestTooLarge(RequestError):
    """A request that does not fit in the device's memory, even with nothing beside it."""
