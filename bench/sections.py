"""The parts of the benchmark, in the order in which they run: what is found first is worth most."""

from .memory_bar import MemorySection
from .protocol import ProtocolSection
from .section import Section
from .short_answers import ShortSection

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        ProtocolSection(),
        ShortSection(),
        MemorySection(),
    )
}
