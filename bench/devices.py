"""What GPUs can do at most, by their makers' figures; nothing here is measured.

Sources: NVIDIA's data sheets of H100 SXM and L4, and its Ada and Blackwell (RTX) architecture papers.
Matrix peaks are dense, with sums in fp32; data sheets that give twice as much count zeros.
"""

from dataclasses import dataclass

GB, TERA = 10**9, 10**12

_LANES = 128
"""Instructions that a multiprocessor starts per cycle: 4 schedulers, a warp of 32 each."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU's published limits. clock_hz: boost."""

    name: str
    memory_bytes: int
    bytes_per_s: float
    bf16_per_s: float
    fp8_per_s: float
    num_multiprocessors: int
    clock_hz: float

    @property
    def instructions_per_s(self) -> float:
        """Lane instructions that all multiprocessors start at most."""
        return self.num_multiprocessors * _LANES * self.clock_hz


DEVICES = (
    Device("H100 SXM", 80 * GB, 3.35 * TERA, 989 * TERA, 1979 * TERA, 132, 1.83e9),
    Device("RTX 5090", 32 * GB, 1.792 * TERA, 209.5 * TERA, 419 * TERA, 170, 2.41e9),
    Device("RTX 4090", 24 * GB, 1.008 * TERA, 165.2 * TERA, 330.3 * TERA, 128, 2.52e9),
    Device("L4", 24 * GB, 0.300 * TERA, 121 * TERA, 242 * TERA, 58, 2.04e9),
)


_DRIVER_NAMES = {"H100 80GB HBM3": "H100 SXM"}
"""Where the driver's name is another; an H100 PCIe or NVL, say, is another device."""


def find_device(driver_name: str) -> Device | None:
    """The device that the driver calls so; None if the table has it not."""
    plain = driver_name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    name = _DRIVER_NAMES.get(plain, plain)
    return next((device for device in DEVICES if device.name == name), None)
