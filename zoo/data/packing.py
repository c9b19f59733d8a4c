"""Padded rows -> one row without padding.

Letters: B items, N positions of the longest, T positions of all items together.
"""

import torch
from torch import Tensor

from zoo.structs import Packing, Values


def pack(values: Values) -> Values:
    """The items of a ragged input end to end in one row, the longest first; an input whose items have one shape stays as it is."""
    if values.mask is None or values.packing is not None or not isinstance(values.values, Tensor):
        return values
    packing = packing_of(values.mask.sum(dim=1))
    rows = values.values.movedim(-1, 1)  # B N ...
    assert values.mask.shape == packing.mask.shape, "an input's rows are filled at the end, and the longest has no filling"
    places = packing.segments * packing.longest + packing.positions
    row = rows.flatten(0, 1).index_select(0, places)  # T ...
    return Values(row.movedim(0, -1)[None].contiguous(), packing=packing)


def packing_of(lengths: Tensor) -> Packing:
    """Where items of these lengths stand, B int64, each 1 or more."""
    items = lengths.argsort(descending=True, stable=True)  # B
    ordered = lengths[items]
    ends = ordered.cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])  # B + 1
    segments = items.repeat_interleave(ordered)  # T
    positions = torch.arange(len(segments)) - starts[:-1].repeat_interleave(ordered)
    steps = torch.arange(int(ordered[0]))  # N
    mask = steps < lengths[:, None]  # B N
    first = torch.empty_like(lengths).index_copy_(0, items, starts[:-1])  # B
    values, counts = ordered.unique_consecutive(return_counts=True)
    return Packing(
        segments=segments,
        positions=positions,
        places=torch.where(mask, first[:, None] + steps, 0),
        mask=mask,
        items=items,
        starts=starts.to(torch.int32),
        runs=tuple(zip(counts.tolist(), values.tolist(), strict=True)),
    )
