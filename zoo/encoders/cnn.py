"""A small residual network for images (He et al., 2016, https://arxiv.org/abs/1512.03385).

Letters: B images, C channels, H W pixels, D width.
"""

import torch
from torch import Tensor, nn

from zoo.layers.conv import BlockKind, ResidualBlock
from zoo.layers.feedforward import Activation, activation_module
from zoo.layers.norm import MapNorm, map_norm
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout, MapSpec
from zoo.structs import Features


@ENCODERS.register("cnn")
class ConvolutionalNetwork(nn.Module):
    """A 3 x 3 stem and stages of residual blocks; each stage after the first halves height and width (rounded up).

    Group norm is the default: batch norm makes the numbers depend on how a batch is split over devices and micro-batches.

    Args:
        image: filled from the data's spec.
        widths: channels of each stage; the last is the width of the features.
        blocks: residual blocks of each stage; as many entries as widths.
        stem_stride: stride of the stem; 2 quarters the work for large images.
        block: basic, or separable (an eighth of the parameters).
        norm: group (8 channels each), layer (over channels), batch, or none.
        activation: relu, gelu or silu.
        dropout: probability of leaving out an element inside each block.
        drop_path: probability of leaving out the last block's branch for a sample; earlier blocks in proportion.
        squeeze: hidden share of channels in each block's squeeze-and-excitation; 0 for none, 0.25 is usual.
    """

    repeats = ("blocks",)

    def __init__(
        self,
        *,
        image: ImageInput,
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: tuple[int, ...] = (1, 1, 1),
        stem_stride: int = 1,
        block: BlockKind = BlockKind.BASIC,
        norm: MapNorm = MapNorm.GROUP,
        activation: Activation = Activation.RELU,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        squeeze: float = 0.0,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ValueError(f"widths={list(widths)} and blocks={list(blocks)} need one positive entry for each stage; give both the same number of entries")
        if stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride={stem_stride} is not one of 1, 2, 4")
        self.stem = nn.Sequential(
            nn.Conv2d(image.channels, widths[0], 3, stride=stem_stride, padding=1, bias=False), map_norm(norm, widths[0]), activation_module(activation)
        )
        self.blocks, self.stage_ends = nn.ModuleList(), []
        channels, total = widths[0], sum(blocks)
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                self.blocks.append(
                    ResidualBlock(
                        channels=channels,
                        width=width,
                        stride=2 if stage > 0 and number == 0 else 1,
                        kind=block,
                        norm=norm,
                        activation=activation,
                        dropout=dropout,
                        drop_path=drop_path * (len(self.blocks) + 1) / total,
                        squeeze=squeeze,
                    )
                )
                channels = width
            self.stage_ends.append(len(self.blocks) - 1)
        maps = tuple(MapSpec(channels=width, stride=stem_stride * 2**stage) for stage, width in enumerate(widths))
        self.output_spec = FeatureSpec(dim=widths[-1], layout=Layout.MAP, maps=maps)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Features:
        # channels last: a quarter less time on CPUs, and what tensor cores want; the weights may keep their layout
        x = self.stem(image).contiguous(memory_format=torch.channels_last)  # B C H W
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.stage_ends:
                maps.append(x)
        return Features(maps=tuple(maps))
