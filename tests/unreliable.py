"""Components that fail on purpose, in one of several processes: ``zoo train --import tests/unreliable.py model/encoder=unreliable``."""

import os
import signal
import time
from enum import StrEnum
from pathlib import Path

from torch import Tensor, nn

from zoo.random import SampleRandom
from zoo.registry import ENCODERS, TRANSFORMS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features, Values


class How(StrEnum):
    NONE = "none"
    RAISE = "raise"
    EXIT = "exit"
    HANG = "hang"
    KILLED = "killed"


def strike(how: How) -> None:
    """Note the time, then fail."""
    Path("failed_at").write_text(str(time.time()))
    match how:
        case How.RAISE:
            raise RuntimeError("had enough")
        case How.HANG:
            time.sleep(1000)
        case How.EXIT:
            os._exit(7)
        case How.KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass


def here() -> bool:
    """Whether this process belongs to rank 1."""
    return os.environ.get("RANK") == "1"


@ENCODERS.register("unreliable")
class Unreliable(nn.Module):
    """Fails on rank 1, in its fourth step.

    Args:
        image: filled from the data's spec.
        how: in which way; none never does.
    """

    def __init__(self, *, image: ImageInput, how: How = How.NONE) -> None:
        super().__init__()
        self.linear, self.how, self.calls = nn.Linear(image.channels * image.height * image.width, 16), how, 0
        self.output_spec = FeatureSpec(dim=16, layout=Layout.VECTOR, pooled=True)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        if self.training and here() and values.device.type != "meta":
            self.calls += 1
            if self.calls == 4:
                strike(self.how)
        return Features(pooled=self.linear(values.flatten(1)).relu())


@TRANSFORMS.register("unreliable")
class UnreliableTransform:
    """Leaves pictures as they are; fails on rank 1, in its eighth batch.

    Args:
        how: in which way.
    """

    input_kind = "image"

    def __init__(self, *, how: How = How.NONE) -> None:
        self.how, self.calls = how, 0

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        if here():
            self.calls += 1
            if self.calls == 8:
                strike(self.how)
        return values
