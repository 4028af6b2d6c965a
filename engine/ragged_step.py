"""A step as it is: as many rows as there are, by operations that may ask the device for sizes."""

from collections.abc import Sequence

from torch import Tensor

from .canvas_table import CanvasTable
from .denoising import CanvasRows, Denoised, denoise
from .engine_config import EngineConfig
from .kv_pool import KVPool
from .layout import LayoutBuilder, StepLayout
from .model import DiffusionGemma
from .paged import PagedAttend
from .scheduler import Plan


class RaggedStep:
    """Lays steps out and runs them; see StepPath."""

    def __init__(
        self, model: DiffusionGemma, table: CanvasTable, pool: KVPool, engine_config: EngineConfig
    ) -> None:
        config, weight = model.config, model.decoder.embed_tokens.weight
        self._model = model
        self._table = table
        self._pool = pool
        self._sparse = engine_config.sparse_self_conditioning
        self._layouts = LayoutBuilder(
            config.sliding_window, config.canvas_length, weight.dtype, weight.device
        )

    def lay_out(self, plan: Plan, slots: Sequence[int]) -> StepLayout:
        """slots: of the plan's canvases, in the canvas table, in order."""
        return self._layouts.build(plan, slots)

    def run(self, layout: StepLayout) -> tuple[Tensor, Denoised | None]:
        """Read and denoise."""
        hidden = self.forward(layout)
        return hidden, self.denoise(layout, hidden) if len(layout.slots) else None

    def forward(self, layout: StepLayout) -> Tensor:
        """The canvas rows' hidden states, [num_canvas, d]."""
        config = self._model.config
        attends = [
            PagedAttend(self._pool, layer, layout, config.is_full(layer))
            for layer in range(len(config.layer_types))
        ]
        return self._model.read_and_denoise(
            layout.read_ids,
            self._table.ids.view(-1)[layout.canvas_rows],
            self._table.soft_embeddings[layout.canvas_rows],
            layout.positions,
            attends,
        )

    def denoise(self, layout: StepLayout, hidden: Tensor) -> Denoised:
        """Write what the canvases become into the table."""
        grid, table_rows, held = layout.grid, layout.canvas_rows, None
        if layout.free is not None:  # the head has nothing to say of pinned rows
            held = table_rows[layout.pinned]
            grid, table_rows = grid[layout.free], table_rows[layout.free]
        rows = CanvasRows(layout.slots, layout.free, grid, grid, table_rows, held)
        return denoise(self._model, self._table, rows, hidden, sparse=self._sparse)

    def clear(self) -> None:
        """Nothing is kept between steps."""
