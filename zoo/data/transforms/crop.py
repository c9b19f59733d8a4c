"""Random crops, flips, erasing and small geometric changes of whole batches of images.

Letters: B images, C channels, H W pixels.
"""

from enum import StrEnum
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.random import SampleRandom
from zoo.registry import TRANSFORMS
from zoo.structs import Values


class Border(StrEnum):
    ZERO = "zero"
    REFLECT = "reflect"
    EDGE = "edge"


@TRANSFORMS.register("random_crop")
class RandomCrop:
    """Shift each image: pad it on all sides, and cut a frame of its own size out at a random place (He et al., 2016, https://arxiv.org/abs/1512.03385).

    Args:
        padding: pixels on each side; below the image's sides where the border is reflect.
        border: what the padding shows: zero (black), reflect, or edge (the last pixels again).
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, padding: int = 4, border: Border = Border.ZERO) -> None:
        if padding < 1:
            raise ValueError(f"padding={padding} pixels crop nothing; 1 or more")
        self.padding, self.border = padding, border

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        place = random.integers("random_crop", 2 * self.padding + 1, 2)  # B 2
        return Values(shift(image_of(values), place[:, 0], place[:, 1], self.padding, self.border))


def shift(images: Tensor, top: Tensor, left: Tensor, padding: int, border: Border = Border.ZERO) -> Tensor:
    """Pad B C H W and cut H W at (top, left), B each."""
    sides = (padding,) * 4
    match border:
        case Border.ZERO:
            padded = F.pad(images, sides)
        case Border.REFLECT:
            padded = F.pad(images, sides, mode="reflect")
        case Border.EDGE:
            padded = F.pad(images, sides, mode="replicate")
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)  # B C places places H W, a view
    # numpy copies whole rows of pixels here, which is four times faster than torch's index kernel
    return torch.from_numpy(windows.numpy()[np.arange(len(images)), :, top.numpy(), left.numpy()])  # B C H W


@TRANSFORMS.register("random_flip")
class RandomFlip:
    """Mirror images left to right.

    Args:
        probability: of each image.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = check_probability(probability)

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        images = image_of(values)
        chosen = random.uniform("random_flip") < self.probability  # B
        mirrored = images.numpy().copy()
        mirrored[chosen.numpy()] = mirrored[chosen.numpy(), ..., ::-1]  # numpy's reversed view is several times faster than torch.flip on bytes
        return Values(torch.from_numpy(mirrored))


@TRANSFORMS.register("random_erasing")
class RandomErasing:
    """Blank out a random rectangle (Zhong et al., 2020, https://arxiv.org/abs/1708.04896).

    Args:
        probability: of each image.
        area: least and largest part of the image that is blanked.
        aspect: least and largest ratio of the rectangle's height to its width, drawn on a logarithmic scale.
        value: grey value, 0 to 255, of the rectangle.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(
        self, *, probability: float = 0.25, area: tuple[float, float] = (0.02, 0.33), aspect: tuple[float, float] = (0.3, 3.3), value: int = 0
    ) -> None:
        if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"area={list(area)} has to lie in 0 .. 1 and aspect={list(aspect)} above 0, the least first")
        if not 0 <= value <= 255:
            raise ValueError(f"value={value} is no grey value from 0 to 255")
        self.probability, self.area, self.aspect, self.value = check_probability(probability), area, aspect, value

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        images = image_of(values)
        height, width = images.shape[2:]
        draw = random.uniform("random_erasing", 5)  # B 5: whether, area, aspect, top, left
        part = self.area[0] + draw[:, 1] * (self.area[1] - self.area[0])
        low, high = (torch.tensor(bound).log() for bound in self.aspect)
        ratio = torch.exp(low + draw[:, 2] * (high - low))
        tall = (part * height * width * ratio).sqrt().round().clamp(1, height)
        wide = (part * height * width / ratio).sqrt().round().clamp(1, width)
        wide = torch.where(draw[:, 0] < self.probability, wide, 0)
        top, left = (draw[:, 3] * (height - tall + 1)).floor(), (draw[:, 4] * (width - wide + 1)).floor()
        return Values(erase(images, top, left, tall, wide, self.value))


@TRANSFORMS.register("cutout")
class Cutout:
    """Blank out a square whose centre is anywhere in the image (DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552).

    Args:
        size: side of the square, in pixels; parts outside the image are lost.
        value: grey value, 0 to 255, of the square.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, size: int = 8, value: int = 0) -> None:
        if size < 1 or not 0 <= value <= 255:
            raise ValueError(f"size={size} pixels and value={value}: 1 or more, and a grey value from 0 to 255")
        self.size, self.value = size, value

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        images = image_of(values)
        place = random.uniform("cutout", 2) * torch.tensor(images.shape[2:])  # B 2
        corner = place.floor() - self.size // 2
        side = torch.full((len(images),), float(self.size))
        return Values(erase(images, corner[:, 0], corner[:, 1], side, side, self.value))


def erase(images: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, value: int) -> Tensor:
    """Set a rectangle of each image, B each, to one value."""
    row, column = torch.arange(images.shape[2]), torch.arange(images.shape[3])
    rows = (row >= top[:, None]) & (row < (top + tall)[:, None])  # B H
    columns = (column >= left[:, None]) & (column < (left + wide)[:, None])  # B W
    inside = rows[:, None, :, None] & columns[:, None, None, :]  # B 1 H W
    return images.masked_fill(inside, value)


def image_of(values: Values) -> Tensor:
    assert isinstance(values.values, Tensor)
    return values.values


def check_probability(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} does not lie between 0 and 1")
    return probability
