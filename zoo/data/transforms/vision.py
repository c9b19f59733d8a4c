"""torchvision's published augmentation policies, image by image, each with randomness of its own sample.

Letters: B images, C channels, H W pixels.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from zoo.data.transforms.crop import image_of
from zoo.random import SampleRandom
from zoo.registry import TRANSFORMS
from zoo.structs import Values


class Policy(StrEnum):
    IMAGENET = "imagenet"
    CIFAR10 = "cifar10"
    SVHN = "svhn"


@TRANSFORMS.register("rand_augment")
class RandAugment:
    """RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719), by torchvision.

    Args:
        num_ops: operations in a row on each image.
        magnitude: of each, 0 to 30.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, num_ops: int = 2, magnitude: int = 9) -> None:
        if num_ops < 1 or not 0 <= magnitude <= 30:
            raise ValueError(f"num_ops={num_ops} from 1, magnitude={magnitude} from 0 to 30")
        self.num_ops, self.magnitude = num_ops, magnitude

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        from torchvision.transforms import v2

        return each(values, random, "rand_augment", v2.RandAugment(num_ops=self.num_ops, magnitude=self.magnitude))


@TRANSFORMS.register("trivial_augment")
class TrivialAugment:
    """TrivialAugment Wide (Mueller and Hutter, 2021, https://arxiv.org/abs/2103.10158), by torchvision: one operation of random strength."""

    input_kind: ClassVar[str] = "image"

    def __init__(self) -> None:
        pass

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        from torchvision.transforms import v2

        return each(values, random, "trivial_augment", v2.TrivialAugmentWide())


@TRANSFORMS.register("auto_augment")
class AutoAugment:
    """AutoAugment (Cubuk et al., 2019, https://arxiv.org/abs/1805.09501), by torchvision.

    Args:
        policy: the data that the policy was learned on.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, policy: Policy = Policy.IMAGENET) -> None:
        self.policy = policy

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        from torchvision.transforms import v2

        return each(values, random, "auto_augment", v2.AutoAugment(policy=v2.AutoAugmentPolicy(str(self.policy))))


def each(values: Values, random: SampleRandom, purpose: str, change: Callable[[Tensor], Tensor]) -> Values:
    """Change image by image; torch's own generator is seeded by the sample's key and put back afterwards."""
    seeds = random.words(purpose, 1).flatten().tolist()
    images = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(image_of(values), seeds, strict=True):
            torch.default_generator.manual_seed(seed)  # the CPU's alone
            images.append(change(image))
    return Values(torch.stack(images))
