"""What flows at run time: Batch -> Features -> Prediction -> LossTerm.

Letters: B items, N positions, D width, T positions of all items together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

Targets = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the items of a packed input stand: end to end in one row, the longest first, without any padding.

    Attention stays within an item and positions restart with it, so that every item is what it is alone. Targets, ids and features stay by item:
    an encoder that packs (``packs = True``) computes on the row and gives its features back by ``unpack``.

    Args:
        segments: T int64, the item that a position of the row belongs to.
        positions: T int64, its place within the item.
        places: B N int64, the place in the row of each position of each item; 0 for what is padding there.
        mask: B N, True where real.
        items: B int64, the items in the order of the row.
        starts: B + 1 int32, where each item of the row starts, and T.
        runs: (items, length) of neighbours of one length, in the order of the row.
    """

    segments: Tensor
    positions: Tensor
    places: Tensor
    mask: Tensor
    items: Tensor
    starts: Tensor
    runs: tuple[tuple[int, int], ...]

    @property
    def longest(self) -> int:
        return self.places.shape[1]

    def unpack(self, row: Tensor) -> Tensor:
        """1 T ... -> B N ..., zero where padding is."""
        items: Tensor = row[0].index_select(0, self.places.flatten()).unflatten(0, (-1, self.longest))
        return items.masked_fill(~self.mask.view(*self.mask.shape, *[1] * (items.dim() - 2)), 0)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Packing":
        segments, positions, places, mask, items, starts = map(change, (self.segments, self.positions, self.places, self.mask, self.items, self.starts))
        return Packing(segments, positions, places, mask, items, starts, self.runs)


@dataclass(frozen=True, slots=True)
class Values:
    """One input of a batch.

    Args:
        values: one tensor, or several by name (tables); the first axis is B. Packed: 1 T, or 1 ... T.
        mask: B N, True where real; None where every position is.
        present: B bool, False where the sample has no such input and its row is filler; None where every row has it.
        packing: of the items in the one row of ``values``; None where each item is a row.
    """

    values: Tensor | dict[str, Tensor]
    mask: Tensor | None = None
    present: Tensor | None = None
    packing: Packing | None = None

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Values":
        mask, present = (None if tensor is None else change(tensor) for tensor in (self.mask, self.present))
        return Values(self._changed(change), mask, present, None if self.packing is None else self.packing.apply(change))

    def blanked(self) -> "Values":
        """Absent rows as zeros, of one position where lengths vary: what they held takes part in nothing, not even as 0 x infinity."""
        present = self.present
        if present is None:
            return self
        values = self._changed(lambda value: torch.where(present.view(-1, *[1] * (value.dim() - 1)), value, value.new_zeros(())))
        if self.mask is None:
            return Values(values, None, present)
        first = torch.arange(self.mask.shape[1], device=self.mask.device) == 0
        return Values(values, torch.where(present[:, None], self.mask, first), present)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Tensor | dict[str, Tensor]":
        return {name: change(value) for name, value in self.values.items()} if isinstance(self.values, dict) else change(self.values)

    def unpacked(self) -> "Values":
        """The same with each item as a row, zeros as padding."""
        if self.packing is None:
            return self
        assert isinstance(self.values, Tensor), "inputs of several tensors have one shape and are not packed"
        return Values(self.packing.unpack(self.values.movedim(-1, 1)).movedim(1, -1), self.packing.mask)


class BadSample(NamedTuple):
    """A sample that could not be read: its row stays in the batch, with filler values and ``valid`` False."""

    sample: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of data.

    Args:
        inputs: by name.
        targets: by name; empty at prediction.
        ids: B int64, the row's number in its split; keys its randomness and names it in messages.
        valid: B bool; False marks rows that only pad (a sampler's filler, a sample that could not be read) and count for nothing.
        bad: the samples behind rows that could not be read.
        positions: real ones of all inputs whose lengths vary, for the log's throughput.
    """

    inputs: dict[str, Values]
    targets: dict[str, Tensor]
    ids: Tensor
    valid: Tensor
    bad: tuple[BadSample, ...] = ()
    positions: int = 0

    @property
    def size(self) -> int:
        return self.ids.shape[0]

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            inputs={name: values.apply(change) for name, values in self.inputs.items()},
            targets={name: change(target) for name, target in self.targets.items()},
            ids=change(self.ids),
            valid=change(self.valid),
        )

    def to(self, device: torch.device | str) -> "Batch":
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, start: int, stop: int) -> "Batch":
        padded = replace(self, inputs={name: values.unpacked() for name, values in self.inputs.items()})
        return padded.apply(lambda tensor: tensor[start:stop])


@dataclass(frozen=True, slots=True)
class Features:
    """What encoders and decoders give.

    Args:
        tokens: B N D.
        mask: B N, True where real; None where every position is.
        pooled: B D.
        maps: B C H W each, finest first.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None
    maps: tuple[Tensor, ...] = ()


Prediction = dict[str, Tensor]
"""Named tensors, B first: ``logits``, ``values``, ``hidden`` ..."""


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A sum over what was counted, never a mean: the trainer divides by the count of the whole global batch.

    ``count`` is exactly what the head's ``count`` gave for the same rows, so that it can be known before the first forward pass.
    """

    sum: Tensor
    count: Tensor = field(default_factory=lambda: torch.ones(()))
