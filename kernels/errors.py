"""What a kernel raises instead of computing something else."""


class KernelError(Exception):
    """A kernel was given a shape, a dtype or a device that it does not serve."""
