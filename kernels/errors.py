"""The root of all errors of dgq, and what a kernel raises instead of computing something else."""


class DgqError(Exception):
    """Root of all errors that dgq raises on purpose; its text is meant for the user."""


class KernelError(DgqError):
    """A kernel was given a shape, a dtype or a device that it does not serve."""
