"""How a block may be shared by several processes, in words that ``zoo.parallel.tensor`` understands. Layers name their cuts and know no process."""

from dataclasses import dataclass
from enum import StrEnum


class Cut(StrEnum):
    COLUMNS = "columns"  # a linear layer: each process has a part of the outputs
    ROWS = "rows"  # a linear layer: each process has a part of the inputs, and the outputs are summed
    POSITIONS = "positions"  # a layer that works on each position alone: each process has a part of them, if positions are shared at all


class Along(StrEnum):
    """Along what a layer inside a shared block sees a part of its values."""

    POSITIONS = "positions"
    HIDDEN = "hidden"
    HEADS = "heads"


@dataclass(frozen=True)
class Part:
    """Part ``index`` of ``count`` equal ones."""

    along: Along
    index: int
    count: int
