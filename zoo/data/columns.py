"""Encoded samples as columns: flat values and offsets, fetched for a whole batch by index operations.

Letters: S samples, B rows of a batch, N positions of the longest row, T all positions together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Fetched(NamedTuple):
    values: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Column:
    """One named tensor of many samples.

    Args:
        values: S ... where all samples have one shape; T + 1 ... where they vary, end to end along the first axis, with one position that
            shorter rows of a batch are filled with at the end.
        offsets: S + 1, where each sample starts; None where all samples have one shape.
    """

    values: Tensor
    offsets: Tensor | None = None

    @classmethod
    def of(cls, samples: Sequence[Tensor], *, ragged: bool, pad: int = 0) -> "Column":
        """Stack samples; ``ragged`` ones vary along their last axis."""
        if not ragged:
            return cls(torch.stack(list(samples)))
        lengths = torch.tensor([sample.shape[-1] for sample in samples])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        parts = [sample.movedim(-1, 0) for sample in samples]
        parts.append(torch.full((1, *parts[0].shape[1:]), pad, dtype=parts[0].dtype))
        return cls(torch.cat(parts), offsets)

    def fetch(self, rows: Tensor) -> Fetched:
        """Rows of the column as a batch: B ..., or B ... N with its mask B N."""
        if self.offsets is None:
            return Fetched(self.values.index_select(0, rows), None)
        starts = self.offsets[rows]  # B
        lengths = self.offsets[rows + 1] - starts  # B
        positions = torch.arange(int(lengths.max()) if len(rows) else 0)  # N
        mask = positions < lengths[:, None]  # B N
        places = torch.where(mask, starts[:, None] + positions, len(self.values) - 1)  # B N
        values = self.values.index_select(0, places.flatten()).unflatten(0, tuple(places.shape))  # B N ...
        return Fetched(values if values.dim() == 2 else values.movedim(1, -1).contiguous(), mask)

    def lengths(self) -> Tensor | None:
        """S, or None where all samples have one shape."""
        return None if self.offsets is None else self.offsets.diff()
