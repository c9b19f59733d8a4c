"""Vision Transformer (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929).

Letters: B images, C channels, H W pixels, N patches, D width.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.patch import PatchEmbedding
from zoo.layers.position import LearnedPositions
from zoo.layers.transformer import NormPlacement, TransformerBlock, init_transformer
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features


class ImagePool(StrEnum):
    CLS = "cls"
    MEAN = "mean"


@ENCODERS.register("vit")
class VisionTransformer(nn.Module):
    """Patches of an image as a sequence.

    Args:
        image: filled from the data's spec.
        dim: width D of every token.
        depth: number of Transformer blocks.
        heads: attention heads of each block; they divide dim.
        patch_size: side of a square patch, in pixels; has to divide the image's sides.
        mlp_ratio: hidden width of each block's position-wise network, in multiples of dim.
        pool: cls (a trained token before the patches), or mean over the patches, without such a token.
        placement: norm before each branch (pre) or after each sum (post).
        activation: of the position-wise networks.
        dropout: probability of leaving out an element, after the positions and in every block.
        attention_dropout: probability of leaving out an attention weight.
        drop_path: probability of leaving out the last block's branches for a sample; earlier blocks in proportion.
    """

    repeats = ("blocks",)
    no_decay = ("cls",)

    def __init__(
        self,
        *,
        image: ImageInput,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        pool: ImagePool = ImagePool.CLS,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        self.patches = PatchEmbedding(channels=image.channels, height=image.height, width=image.width, patch_size=patch_size, dim=dim)
        self.pool = pool
        self.cls = nn.Parameter(nn.init.normal_(torch.empty(1, 1, dim), std=1e-6)) if pool is ImagePool.CLS else None
        length = self.patches.count + (self.cls is not None)
        self.positions = LearnedPositions(length=length, dim=dim)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim=dim,
                heads=heads,
                mlp_ratio=mlp_ratio,
                placement=placement,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * (number + 1) / depth,
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6) if placement is NormPlacement.PRE else nn.Identity()
        init_transformer(self.blocks)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, length=length, pooled=True)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Features:
        x = self.patches(image)  # B N D
        if self.cls is not None:
            x = torch.cat((self.cls.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1)  # B 1+N D
        x = self.dropout(self.positions(x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=x.mean(dim=1) if self.cls is None else x[:, 0])
