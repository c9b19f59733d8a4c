"""What a Transformer that writes keeps of the positions behind it, so that each is computed once.

Letters: B rows, N new positions, C places that there are, G heads of keys and values, E width of a head.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoo.layers.lean import Step


@dataclass(slots=True)
class KeyValues:
    """Keys and values of one layer, B G C E each."""

    keys: Tensor
    values: Tensor


@dataclass(slots=True)
class Cache:
    """Keys and values of every layer, in memory that is taken once.

    Rows may have got to different places: what a row wrote past its own place is overwritten before it is seen.

    Args:
        layers: of each block.
        lengths: B int64, positions that each row has.
        longest: the most of them.
        even: whether all rows have as many.
        crossed: keys and values of the encoder's features, of each block that attends to them.
        source_mask: of those features, B M; None where all are real.
        tables: what a model computes once for all places.
        steps: a lean function for each block (``zoo.layers.lean``); None where there are none.
    """

    layers: list[KeyValues]
    lengths: Tensor
    longest: int = 0
    even: bool = True
    crossed: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    source_mask: Tensor | None = None
    tables: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    steps: "list[Step] | None" = None

    @classmethod
    def empty(cls, rows: int, capacity: int, shapes: list[tuple[int, int]], like: Tensor) -> "Cache":
        """Args:
        rows: B.
        capacity: C.
        shapes: G and E of each block.
        like: a tensor of the type and device to use.
        """
        layers = [KeyValues(like.new_zeros(rows, heads, capacity, width), like.new_zeros(rows, heads, capacity, width)) for heads, width in shapes]
        return cls(layers, torch.zeros(rows, dtype=torch.int64, device=like.device))

    @property
    def capacity(self) -> int:
        return self.layers[0].keys.shape[2]

    def places(self, count: int) -> Tensor:
        """Where ``count`` new positions of each row stand: 1 N where all rows are as far, else B N."""
        new = torch.arange(count, device=self.lengths.device)
        if self.even:
            return (new + self.longest)[None]
        return (self.lengths[:, None] + new).clamp_max(self.capacity - 1)

    def write(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keep B G N E of one layer, and give all of it that a new position may see: B G M E."""
        kept, count = self.layers[layer], keys.shape[2]
        reach = min(self.longest + count, self.capacity)
        if self.even:
            kept.keys[:, :, self.longest : reach] = keys
            kept.values[:, :, self.longest : reach] = values
        else:
            rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
            kept.keys[rows, :, places] = keys.transpose(1, 2)
            kept.values[rows, :, places] = values.transpose(1, 2)
        return kept.keys[:, :, :reach], kept.values[:, :, :reach]

    def advance(self, counts: Tensor | None, count: int) -> None:
        """The new positions are there: ``count`` of each row, or the first ``counts`` of them (B)."""
        if counts is None:
            self.lengths += count
            self.longest += count
            return
        self.lengths += counts
        self.longest = int(self.lengths.max())
        self.even = bool((self.lengths == self.longest).all())

    def shorten(self, lengths: Tensor) -> None:
        """Forget what stands past these lengths, B."""
        self.lengths = lengths.clone()
        self.longest = int(lengths.max())
        self.even = bool((lengths == self.longest).all())

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; one may be there several times."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
        self.crossed = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.crossed]
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, rows)
        self.lengths = self.lengths.index_select(0, rows)
        self.longest = int(self.lengths.max())
        self.even = bool((self.lengths == self.longest).all())


def seen(places: Tensor, reach: int, window: int, dtype: torch.dtype) -> Tensor | None:
    """What to add to the scores of new positions for all that is kept: B or 1, 1, N, M; None where they see all of it.

    Args:
        places: B or 1, N: where the new positions stand.
        reach: M.
        window: that a position sees behind its own; 0 for all.
        dtype: of the scores.
    """
    if places.shape == (1, 1) and not (window and reach - 1 > window):
        return None  # one more position of every row, which is the last of what is kept
    kept = torch.arange(reach, device=places.device)
    allowed = kept <= places[..., None]
    if window:
        allowed &= kept >= places[..., None] - window
    return torch.zeros((), dtype=dtype, device=places.device).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
