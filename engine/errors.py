"""The errors of dgq: one tree, so that a caller can catch all of it or one kind."""


class DgqError(Exception):
    """Root of all errors that dgq raises on purpose; its text is meant for the user."""


class EngineError(DgqError):
    """The engine cannot do what it was asked."""


class CheckpointError(EngineError):
    """A checkpoint folder is missing, incomplete, or not a DiffusionGemma."""


class RequestError(EngineError):
    """A request that this engine cannot serve (too long, out of range)."""
