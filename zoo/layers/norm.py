"""Normalisation. None of these layers looks at other rows of the batch, so that numbers do not depend on how it is split.

Letters: B items, C channels, H W rows and columns, M mel bands, T frames.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn

from zoo.layers.precision import widen


class NormKind(StrEnum):
    """Of the norms of a Transformer."""

    LAYER = "layer"
    RMS = "rms"


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) times a trained factor (Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467), in fp32 whatever the type of x.

    Args:
        dim: width D.
        eps: added to the mean square.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(widen(x)).to(x.dtype)


def token_norm(kind: NormKind, dim: int, *, eps: float = 1e-6, bias: bool = True) -> nn.Module:
    """The norm over the last axis; ``bias`` of a layer norm."""
    return RMSNorm(dim, eps=eps) if kind is NormKind.RMS else nn.LayerNorm(dim, eps=eps, bias=bias)


class MapNorm(StrEnum):
    GROUP = "group"
    LAYER = "layer"
    BATCH = "batch"
    NONE = "none"


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every place of a map (as in ConvNeXt, Liu et al., 2022, https://arxiv.org/abs/2201.03545).

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, maps: Tensor) -> Tensor:
        normed: Tensor = self.norm(maps.movedim(1, -1))  # B ... C
        return normed.movedim(-1, 1)


class MaskedGroupNorm(nn.Module):
    """Group norm (Wu and He, 2018, https://arxiv.org/abs/1803.08494) of maps over time; padded frames do not enter the statistics.

    Args:
        groups: of channels that share their statistics.
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return nn.functional.group_norm(maps, self.groups, self.weight, self.bias, self.eps)
        batch, channels, bands, frames = maps.shape
        real = mask[:, None, None, None, :].to(torch.promote_types(maps.dtype, torch.float32))  # B 1 1 1 T
        grouped = widen(maps).view(batch, self.groups, channels // self.groups, bands, frames)
        count = (real.sum(dim=(2, 3, 4), keepdim=True) * (bands * channels // self.groups)).clamp_min(1)
        mean = (grouped * real).sum(dim=(2, 3, 4), keepdim=True) / count
        centred = grouped - mean
        variance = (centred * real).square().sum(dim=(2, 3, 4), keepdim=True) / count
        normed = (centred * (variance + self.eps).rsqrt()).view_as(maps)
        scaled = normed * self.weight[:, None, None] + self.bias[:, None, None]  # B C M T
        return scaled.to(maps.dtype) * mask[:, None, None, :]


def map_norm(kind: MapNorm, channels: int, *, group_width: int = 8) -> nn.Module:
    """The norm of maps B C H W; groups hold ``group_width`` channels, or all where that does not divide them."""
    match kind:
        case MapNorm.GROUP:
            return nn.GroupNorm(groups_of(channels, group_width), channels)
        case MapNorm.LAYER:
            return ChannelNorm(channels)
        case MapNorm.BATCH:
            return nn.BatchNorm2d(channels)
        case MapNorm.NONE:
            return nn.Identity()


def groups_of(channels: int, group_width: int = 8) -> int:
    """How many groups of ``group_width`` channels there are; 1 where it does not divide."""
    return channels // group_width if channels % group_width == 0 else 1
