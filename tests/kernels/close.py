"""One measure of closeness for all kernels: the worst and the root-mean-square error."""

from torch import Tensor


def assert_close(ours: Tensor, reference: Tensor, worst: float, rms: float) -> None:
    """Both bounds are relative to the reference's root mean square."""
    assert ours.shape == reference.shape and ours.dtype == reference.dtype
    assert ours.isfinite().all()
    error = (ours.double() - reference.double()).abs()
    scale = reference.double().square().mean().sqrt()
    assert error.max() <= worst * scale, f"worst error {error.max() / scale:.2e} of {worst:.0e}"
    assert error.square().mean().sqrt() <= rms * scale, "root-mean-square error"
