"""Exponential moving average of the weights (Polyak and Juditsky, 1992; decay as in Tarvainen and Valpola, 2017)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parallel.sharding import local_state


class Ema:
    """Averages of a model's floating-point parameters and buffers, as far as they are in this process; other buffers are the model's own.

    The decay rises as (1 + step) / (10 + step) up to its final value, so that short runs are not dominated by the initial weights.

    Args:
        model: whose weights are averaged.
        decay: final share of the average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {name: tensor for name, tensor in local_state(model).items() if tensor.is_floating_point()}
        self.average = {name: tensor.clone() for name, tensor in self.live.items()}
        self.of_buffers = any(name in self.live for name, _ in model.named_buffers())
        self._gathered: list[Any] = [module for module in model.modules() if hasattr(module, "reshard")]
        self._live, self._average = list(self.live.values()), list(self.average.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number ``step``, counted from 0."""
        torch._foreach_lerp_(self._average, self._live, 1 - min(self.decay, (1 + step) / (10 + step)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside."""
        with torch.no_grad():
            own = [tensor.clone() for tensor in self._live]
            torch._foreach_copy_(self._live, self._average)
        self._forget_gathered()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live, own)
            self._forget_gathered()

    def _forget_gathered(self) -> None:
        """What sharding has gathered for a forward pass stays for the next one, and would be other weights than those here."""
        for module in self._gathered:
            module.reshard()

    def state_dict(self) -> dict[str, Tensor]:
        return self.average
