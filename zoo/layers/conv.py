"""Convolutional blocks of images and of spectrograms.

Letters: B items, C channels, H W rows and columns, M mel bands, T frames.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout, DropPath
from zoo.layers.feedforward import Activation, activation_module
from zoo.layers.norm import MapNorm, MaskedGroupNorm, groups_of, map_norm


class BlockKind(StrEnum):
    BASIC = "basic"
    SEPARABLE = "separable"


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds (Hu et al., 2018, https://arxiv.org/abs/1709.01507).

    Args:
        channels: C.
        ratio: hidden channels as a fraction of C.
    """

    def __init__(self, channels: int, *, ratio: float) -> None:
        super().__init__()
        hidden = max(4, round(ratio * channels))
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, maps: Tensor) -> Tensor:
        weights: Tensor = self.fc2(self.fc1(maps.mean(dim=(2, 3))).relu()).sigmoid()  # B C
        return maps * weights[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions in a residual branch (He et al., 2016, https://arxiv.org/abs/1512.03385).

    Args:
        channels: coming in.
        width: going out.
        stride: of the first convolution; the shortcut averages over as many pixels.
        kind: basic, or separable (each 3 x 3 by channel, then 1 x 1 across: an eighth of the parameters, more time for each).
        norm: after each convolution.
        activation: after the norms.
        dropout: between the convolutions.
        drop_path: probability of leaving the branch out for a sample.
        squeeze: hidden share of channels in a squeeze-and-excitation at the branch's end; 0 for none.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        stride: int = 1,
        kind: BlockKind = BlockKind.BASIC,
        norm: MapNorm = MapNorm.GROUP,
        activation: Activation = Activation.RELU,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, width, stride, kind)
        self.norm1 = map_norm(norm, width)
        self.activation = activation_module(activation)
        self.dropout = Dropout(dropout)
        self.conv2 = conv3x3(width, width, 1, kind)
        self.norm2 = map_norm(norm, width)
        self.squeeze = SqueezeExcite(width, ratio=squeeze) if squeeze else nn.Identity()
        self.drop_path = DropPath(drop_path)
        # Average before the 1 x 1, so that a strided shortcut loses no pixels (He et al., 2019, https://arxiv.org/abs/1812.01187);
        # ceil_mode because the 3 x 3 rounds up too.
        average = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        self.shortcut = nn.Identity() if stride == 1 and channels == width else nn.Sequential(average, nn.Conv2d(channels, width, 1))

    def forward(self, maps: Tensor) -> Tensor:
        branch = self.dropout(self.activation(self.norm1(self.conv1(maps))))
        branch = self.drop_path(self.squeeze(self.norm2(self.conv2(branch))))
        return self.activation(self.shortcut(maps) + branch)  # type: ignore[no-any-return]


def conv3x3(channels: int, width: int, stride: int, kind: BlockKind = BlockKind.BASIC) -> nn.Module:
    if kind is BlockKind.BASIC:
        return nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False), nn.Conv2d(channels, width, 1, bias=False))


class MaskedResidualBlock(nn.Module):
    """The residual block over time: padded frames are zero before every convolution, as the frames beyond an unpadded edge are.

    Args:
        channels: coming in.
        width: going out.
        stride: of the first convolution, over bands and frames.
        dropout: between the convolutions.
    """

    def __init__(self, *, channels: int, width: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = MaskedGroupNorm(groups_of(width), width)
        self.dropout = Dropout(dropout, axis=3)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = MaskedGroupNorm(groups_of(width), width)
        self.shortcut = nn.Identity() if stride == 1 and channels == width else nn.Conv2d(channels, width, 1, stride=stride)

    def forward(self, maps: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        after = strided_mask(mask, self.stride)
        branch = zero_padding(self.dropout(self.norm1(self.conv1(maps), after).relu()), after)
        branch = self.norm2(self.conv2(branch), after)
        return zero_padding((self.shortcut(maps) + branch).relu(), after), after


def strided_mask(mask: Tensor | None, stride: int) -> Tensor | None:
    """The mask after a convolution with that stride, whose output t is centred on frame t * stride."""
    return mask if mask is None or stride == 1 else mask[:, ::stride]


def zero_padding(maps: Tensor, mask: Tensor | None) -> Tensor:
    """B C M T with zeros at padded frames; ``where``, since padding may hold anything."""
    return maps if mask is None else torch.where(mask[:, None, None, :], maps, maps.new_zeros(()))
