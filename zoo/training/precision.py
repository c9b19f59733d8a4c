"""Autocast, and the loss scale that fp16 needs.

fp16 has no number between 0 and 6e-8, where many gradients are: the loss is scaled before the backward pass, and the gradient scaled back
before anything looks at it. A scale is a power of two, so that scaling changes no digit (Micikevicius et al., 2018,
https://arxiv.org/abs/1710.03740; the rule of growth is ``torch.amp.GradScaler``'s).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.settings import Precision

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """What forward passes run in; it may be entered again and again."""
    return nullcontext() if precision is Precision.FP32 else torch.autocast(device.type, DTYPES[precision])


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse fp16 where torch has no kernels for it.

    Raises:
        ConfigError: with what torch says.
    """
    if precision is not Precision.FP16 or device.type == "meta":
        return
    try:
        with autocast(device, precision):
            layer = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 8)).to(device)
            layer(torch.ones(1, 8, 3, 3, device=device)).float().sum().backward()
    except RuntimeError as error:
        raise ConfigError(
            "trainer.precision",
            f"fp16: torch {torch.__version__} cannot compute in it on {device}: {error}",
            "trainer.precision=bf16",
            "trainer.precision=fp32",
        ) from error


class LossScale:
    """Doubles after 2,000 finite steps in a row, and halves at an overflow.

    ``torch.amp.GradScaler`` decides on the device and for one process; here the gradient's norm, which is the same on every rank, is on the
    host anyway.
    """

    INTERVAL = 2000
    LEAST = 1.0
    """Where the gradient is not finite at this scale, it is not the scale's fault."""

    def __init__(self) -> None:
        self.value, self.good = 2.0**16, 0

    def grow(self) -> None:
        """After a step."""
        self.good += 1
        if self.good == self.INTERVAL:
            self.value, self.good = self.value * 2, 0

    def shrink(self) -> bool:
        """After an overflow; False where the scale cannot have been the reason."""
        if self.value <= self.LEAST:
            return False
        self.value, self.good = self.value / 2, 0
        return True
