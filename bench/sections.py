"""The parts of the benchmark, in the order in which they run: what the others rest on comes first."""

from .beside_transformers import TransformersSection
from .checks import ChecksSection
from .kernel_speed import KernelsSection
from .memory_bar import MemorySection
from .presets import PresetsSection
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
        TransformersSection(),
        PresetsSection(),
    )
}
