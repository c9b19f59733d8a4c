"""Random changes of colour, rotation, and text.

Letters: B samples, C channels, H W pixels, N tokens.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.transforms.crop import check_probability, image_of
from zoo.random import SampleRandom
from zoo.registry import TRANSFORMS
from zoo.specs import TextInput
from zoo.structs import Values

LUMA = (0.2989, 0.587, 0.114)  # as in torchvision's rgb_to_grayscale


@TRANSFORMS.register("color_jitter")
class ColorJitter:
    """Change brightness, then contrast, then saturation by factors drawn from 1 - strength to 1 + strength.

    Args:
        brightness: strength, 0 to 1.
        contrast: strength, 0 to 1; towards the image's mean grey.
        saturation: strength, 0 to 1; towards each pixel's grey. Nothing for grey images.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        for name, strength in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not 0 <= strength <= 1:
                raise ValueError(f"{name}={strength} does not lie between 0 and 1")
        self.strengths = brightness, contrast, saturation

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        images = image_of(values).to(torch.float32)
        factors = 1 + (random.uniform("color_jitter", 3) * 2 - 1) * torch.tensor(self.strengths)  # B 3
        brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
        images = (images * brightness).clamp(0, 255)
        images = blend(images, grey(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
        if images.shape[1] == 3:
            images = blend(images, grey(images), saturation)
        return Values(images.round_().to(torch.uint8))


def grey(images: Tensor) -> Tensor:
    """B C H W -> B 1 H W."""
    return images if images.shape[1] == 1 else (images * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def blend(images: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * towards).clamp(0, 255)


@TRANSFORMS.register("random_affine")
class RandomAffine:
    """Rotate, shift, scale and shear each image about its centre by small random amounts; black comes in from outside.

    Args:
        degrees: of rotation, at most, either way.
        translate: shift at most, as a part of each side.
        scale: least and largest factor.
        shear: degrees along x, at most, either way.
    """

    input_kind: ClassVar[str] = "image"

    def __init__(self, *, degrees: float = 10.0, translate: float = 0.1, scale: tuple[float, float] = (1.0, 1.0), shear: float = 0.0) -> None:
        if degrees < 0 or not 0 <= translate <= 1 or not 0 < scale[0] <= scale[1] or not 0 <= shear < 90:
            raise ValueError(
                f"degrees={degrees} and shear={shear} from 0 (shear below 90), translate={translate} in 0 .. 1, scale={list(scale)} above 0, the least first"
            )
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        draw = random.uniform("random_affine", 5) * 2 - 1  # B 5 in -1 .. 1
        angle, shear = (torch.deg2rad(draw[:, place] * most) for place, most in ((0, self.degrees), (1, self.shear)))
        scale = self.scale[0] + (draw[:, 2] + 1) / 2 * (self.scale[1] - self.scale[0])
        return Values(affine(image_of(values), angle, draw[:, 3:] * self.translate, scale, shear))


def affine(images: Tensor, angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Change B C H W: counter-clockwise angle and shear in radians (B), shift as parts of width and height (B 2), scale (B); bilinear."""
    height, width = images.shape[2:]
    cos, sin, lean = angle.cos(), angle.sin(), shear.tan()
    # output pixel -> input pixel, in pixels from the centre: undo the shift, the scale, the shear, the rotation
    inverse = torch.stack([torch.stack([cos, -(cos * lean + sin)], -1), torch.stack([sin, cos - sin * lean], -1)], 1) / scale.view(-1, 1, 1)  # B 2 2
    sides = torch.tensor([float(width), float(height)])
    offset = -(inverse @ (translate * sides)[:, :, None])  # B 2 1
    # affine_grid counts in halves of the sides
    theta = torch.cat([inverse * sides / sides[:, None], offset * 2 / sides[:, None]], dim=2)  # B 2 3
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.to(torch.float32), grid, align_corners=False).round_().clamp_(0, 255).to(torch.uint8)


@TRANSFORMS.register("token_dropout")
class TokenDropout:
    """Replace tokens of a text by one identifier (word dropout, Iyyer et al., 2015); the first, which may stand for the whole, stays.

    Args:
        probability: of each token.
        replacement: the identifier that stands in.
    """

    input_kind: ClassVar[str] = "text"

    def __init__(self, *, probability: float = 0.1, replacement: int = 0) -> None:
        if replacement < 0:
            raise ValueError(f"replacement={replacement} is no identifier; 0 or more")
        self.probability, self.replacement = check_probability(probability), replacement

    def check(self, text: TextInput) -> None:
        if self.replacement >= text.vocab_size:
            raise ValueError(f"replacement={self.replacement} is no token of {text.name!r}, which has {text.vocab_size}: 0 to {text.vocab_size - 1}")

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        tokens = image_of(values)  # B N
        dropped = random.uniform("token_dropout", tokens.shape[1]) < self.probability
        dropped[:, 0] = False
        real = torch.ones_like(dropped) if values.mask is None else values.mask
        return Values(tokens.masked_fill(dropped & real, self.replacement), values.mask)


@TRANSFORMS.register("spec_augment")
class SpecAugment:
    """Blank bands of frequency and stretches of time (Park et al., 2019, https://arxiv.org/abs/1904.08779); no time warping.

    Args:
        frequency_masks: bands of each spectrogram.
        frequency_width: mel channels of a band, at most.
        time_masks: stretches of each spectrogram.
        time_width: frames of a stretch, at most.
        time_part: of the clip's real frames that one stretch covers, at most.
    """

    input_kind: ClassVar[str] = "spectrogram"

    def __init__(self, *, frequency_masks: int = 2, frequency_width: int = 8, time_masks: int = 2, time_width: int = 20, time_part: float = 0.2) -> None:
        if min(frequency_masks, frequency_width, time_masks, time_width) < 0 or not 0 <= time_part <= 1:
            raise ValueError(f"counts and widths have to be 0 or more, and time_part={time_part} in 0 .. 1")
        self.frequency = frequency_masks, frequency_width
        self.time = time_masks, time_width
        self.time_part = time_part

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        spectrograms = image_of(values)  # B M T
        mels, frames = spectrograms.shape[1:]
        real = torch.full((len(spectrograms),), frames) if values.mask is None else values.mask.sum(1)  # B
        bands = stripes(
            random.uniform("spec_augment/frequency", self.frequency[0], 2),
            torch.full_like(real, min(self.frequency[1], mels)),
            torch.full_like(real, mels),
            mels,
        )
        widest = torch.minimum((real * self.time_part).floor().to(real.dtype), torch.full_like(real, self.time[1]))
        times = stripes(random.uniform("spec_augment/time", self.time[0], 2), widest, real, frames)
        blank = bands[:, :, None] | times[:, None, :]  # B M T
        # the clip's own mean, so that what is blanked says nothing
        inside = torch.ones_like(blank[:, :1]) if values.mask is None else values.mask[:, None, :]
        mean = (spectrograms * inside).sum((1, 2), keepdim=True) / (real * mels).clamp(min=1).view(-1, 1, 1)
        return Values(torch.where(blank & inside, mean, spectrograms), values.mask)


def stripes(draw: Tensor, widest: Tensor, length: Tensor, size: int) -> Tensor:
    """B size, True inside of stripes: B K 2 numbers in [0, 1) choose width (0 .. widest) and place within length."""
    width = (draw[..., 0] * (widest[:, None] + 1)).floor()  # B K
    start = (draw[..., 1] * (length[:, None] - width + 1)).floor()  # B K
    places = torch.arange(size)
    return ((places >= start[..., None]) & (places < (start + width)[..., None])).any(1)
