"""The parts of the benchmark, in the order in which they run: what is found first is worth most."""

from .checks import ChecksSection
from .kernel_speed import KernelsSection
from .memory_bar import MemorySection
from .protocol import ProtocolSection
from .section import Section
from .short_answers import ShortSection

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        ChecksSection(),
        KernelsSection(),
        ProtocolSection(),
        ShortSection(),
        MemorySection(),
    )
}
