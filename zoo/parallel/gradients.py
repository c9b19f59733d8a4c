"""Gradients of one optimizer step, summed over ranks.

Losses are divided by the global count before the backward pass, so that ranks' gradients have to be added, not averaged. Torch's
``DistributedDataParallel`` averages, wants the model's ``forward`` to be the wrapped call, and hangs where a parameter has a gradient
on one rank only. Here the backward pass is an ordinary one, and its gradients are copied into one flat buffer, which is reduced once
a step; the same buffer carries the loss terms (so that logs cost no collective of their own) and which parameters had a gradient.
"""

import torch
from torch import Tensor, distributed, nn

from zoo.parallel.collectives import Group

ALIGN = 16
"""Slots start at multiples of this many numbers, so that kernels see aligned memory."""


class Gradients:
    """The gradients of ``parameters``.

    Args:
        parameters: those that the optimizer updates, in the same order on every rank.
        group: the ranks.
        extras: numbers that travel with them.
    """

    def __init__(self, parameters: list[nn.Parameter], group: Group) -> None:
        self.parameters, self.group = parameters, group
        self.flat: dict[torch.dtype, Tensor] = {}
        self.slots: list[Tensor] = []
        self.tail: Tensor | None = None

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def collect(self, extras: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients that any rank has, and ``extras`` (one number each), both summed over ranks.

        Afterwards ``parameter.grad`` is the sum; None where no rank had one, so that the optimizer leaves the parameter alone exactly
        as it would in a single process.
        """
        if self.group.size == 1:
            return [parameter.grad for parameter in self.parameters if parameter.grad is not None], extras
        if self.tail is None:
            self._allocate(len(extras))
        assert self.tail is not None
        have = [parameter.grad is not None for parameter in self.parameters]
        pairs = [(slot, parameter.grad) for slot, parameter in zip(self.slots, self.parameters, strict=True) if parameter.grad is not None]
        if pairs:
            torch._foreach_copy_([slot for slot, _ in pairs], [gradient for _, gradient in pairs])
        for slot, present in zip(self.slots, have, strict=True):
            if not present:
                slot.zero_()
        count = len(extras)
        self.tail[:count] = torch.stack(extras).to(self.tail.dtype)
        self.tail[count:] = torch.tensor(have, dtype=self.tail.dtype)
        for flat in self.flat.values():
            distributed.all_reduce(flat)
        used = have if all(have) else (self.tail[count:] > 0).tolist()
        gradients = []
        for parameter, slot, anywhere in zip(self.parameters, self.slots, used, strict=True):
            parameter.grad = slot if anywhere else None
            if anywhere:
                gradients.append(slot)
        return gradients, list(self.tail[:count].unbind())

    def _allocate(self, extras: int) -> None:
        device = self.parameters[0].device
        widest = torch.float64 if any(parameter.dtype == torch.float64 for parameter in self.parameters) else torch.float32
        sizes: dict[torch.dtype, int] = {widest: 0}
        places = []
        for parameter in self.parameters:
            start = sizes.get(parameter.dtype, 0)
            places.append(start)
            sizes[parameter.dtype] = start + -(-parameter.numel() // ALIGN) * ALIGN
        tail = sizes[widest]
        sizes[widest] = tail + extras + len(self.parameters)
        self.flat = {dtype: torch.zeros(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        self.slots = [
            # In the parameter's memory format: fused kernels walk over both in the order of memory.
            self.flat[parameter.dtype].as_strided(parameter.shape, torch.empty_like(parameter, device="meta").stride(), start)
            for parameter, start in zip(self.parameters, places, strict=True)
        ]
        self.tail = self.flat[widest][tail:]
