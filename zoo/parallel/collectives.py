"""What ranks say to each other. Everything is a no-op in a single process."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    Args:
        rank: 0 .. size - 1.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """The one that writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """In place, over ranks."""
        if self.size > 1:
            distributed.all_reduce(tensor)
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
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        distributed.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()


def current_group() -> Group:
    if distributed.is_available() and distributed.is_initialized():
        return Group(distributed.get_rank(), distributed.get_world_size())
    return Group()


def broadcast_state(tensors: list[Tensor], group: Group) -> None:
    """Rank 0's values into every rank's tensors; after this all ranks train the same model whatever they started from."""
    if group.size > 1:
        for tensor in tensors:
            with torch.no_grad():
                distributed.broadcast(tensor, src=0)
