"""What ranks say to each other. Everything is a no-op in a single process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Group:
    """This process among those that train together, or among some of them.

    Args:
        rank: 0 .. size - 1.
        size: number of processes.
        handle: torch's process group; None is that of all processes.
    """

    rank: int = 0
    size: int = 1
    handle: Any = None

    @property
    def main(self) -> bool:
        """The one that writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """In place, over ranks."""
        if self.size > 1:
            distributed.all_reduce(tensor, group=self.handle)
        return tensor

    def sum_on(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Like ``sum``, for a CPU tensor of doubles where the ranks speak through ``device``."""
        if self.size == 1 or device.type == "cpu":
            return self.sum(tensor)
        moved = tensor.to(device, torch.float32 if device.type == "mps" else None)
        return self.sum(moved).cpu()

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank. JSON-like values only: they travel pickled, inside the job."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, group=self.handle, group_src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        distributed.all_gather_object(box, value, group=self.handle)
        return box

    def rows(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Each tensor's rows of all ranks, by rank, and where this rank's begin. Ranks may have different numbers of rows, none included.

        Args:
            tensors: of as many rows each; further axes are the same on all ranks.
        """
        if self.size == 1:
            return list(tensors), 0
        own = tensors[0].new_tensor([len(tensors[0])], dtype=torch.int64)
        counts = own.new_empty(self.size)
        distributed.all_gather(list(counts.split(1)), own, group=self.handle)
        sizes = counts.tolist()
        found = []
        for tensor in tensors:
            filled = tensor.new_zeros(max(sizes), *tensor.shape[1:])  # ranks send equal amounts
            filled[: len(tensor)] = tensor
            pieces = [torch.empty_like(filled) for _ in sizes]
            distributed.all_gather(pieces, filled, group=self.handle)
            found.append(torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)]))
        return found, sum(sizes[: self.rank])

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier(group=self.handle)


_data: Group | None = None


def everyone() -> Group:
    """All processes of the job."""
    if distributed.is_available() and distributed.is_initialized():
        return Group(distributed.get_rank(), distributed.get_world_size())
    return Group()


def current_group() -> Group:
    """The processes that see different rows; with tensor parallelism these are not all of them. What is summed over rows is summed here."""
    return _data or everyone()


def use_data_group(group: Group | None) -> None:
    """Say which processes see different rows; None for all."""
    global _data
    _data = group


def broadcast_state(tensors: list[Tensor], group: Group) -> None:
    """Rank 0's values into every rank's tensors; after this all ranks train the same model whatever they started from."""
    if group.size > 1:
        for tensor in tensors:
            with torch.no_grad():
                distributed.broadcast(tensor, src=0)
