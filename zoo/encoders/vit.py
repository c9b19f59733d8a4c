"""Vision Transformer (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929).

Letters: B images, C channels, H W pixels, N patches, D width.
"""

from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.fits import Fit
from zoo.layers.patch import PatchEmbedding
from zoo.layers.position import LearnedPositions
from zoo.layers.transformer import NormPlacement, Pooler, TransformerBlock, init_transformer
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features


class ImagePool(StrEnum):
    CLS = "cls"
    MEAN = "mean"
    PATCHES = "patches"


class Bias(StrEnum):
    WITH = "with"
    WITHOUT = "without"


class FinalNorm(StrEnum):
    TOKENS = "tokens"
    POOLED = "pooled"


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
        pool: cls (a trained token before the patches), mean over the patches, without such a token, or patches (their mean, beside such a token).
        final_norm: the last norm is of all tokens, or of the pooled vector alone; with placement=pre.
        placement: norm before each branch (pre) or after each sum (post).
        activation: of the position-wise networks.
        dropout: probability of leaving out an element, after the positions and in every block.
        attention_dropout: probability of leaving out an attention weight.
        drop_path: probability of leaving out the last block's branches for a sample; earlier blocks in proportion.
        qkv_bias: with, or without a bias of the projections to queries, keys and values.
        layer_scale: what a trained factor for each of D, on both branches of every block, begins with; 0 for none.
        norm_eps: added to the variance in the norms.
        pooler: none, or first (a linear layer and tanh over the cls token, as transformers' ViTModel has).
    """

    repeats = ("blocks",)
    no_decay = ("cls",)
    fits: ClassVar = {"positions.weight": Fit.GRID, "patches.proj.weight": Fit.PATCHES}

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
        final_norm: FinalNorm = FinalNorm.TOKENS,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        qkv_bias: Bias = Bias.WITH,
        layer_scale: float = 0.0,
        norm_eps: float = 1e-6,
        pooler: Pooler = Pooler.NONE,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        self.patches = PatchEmbedding(channels=image.channels, height=image.height, width=image.width, patch_size=patch_size, dim=dim)
        if final_norm is FinalNorm.POOLED and placement is NormPlacement.POST:
            raise ValueError("final_norm=pooled: with placement=post there is no last norm; choose final_norm=tokens, or placement=pre")
        if pooler is Pooler.FIRST and (pool is not ImagePool.CLS or final_norm is FinalNorm.POOLED):
            raise ValueError(f"pooler=first with pool={pool}, final_norm={final_norm}: it is over the normed cls token; choose pool=cls and final_norm=tokens")
        self.pool, self.final_norm = pool, final_norm
        self.cls = None if pool is ImagePool.MEAN else nn.Parameter(nn.init.normal_(torch.empty(1, 1, dim), std=1e-6))
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
                qkv_bias=qkv_bias is Bias.WITH,
                layer_scale=layer_scale,
                norm_eps=norm_eps,
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if placement is NormPlacement.PRE else nn.Identity()
        init_transformer(self.blocks)
        self.pooler = nn.Linear(dim, dim) if pooler is Pooler.FIRST else None
        if self.pooler is not None:
            init_transformer(self.pooler)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, length=length, pooled=True)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Features:
        x = self.patches(image)  # B N D
        if self.cls is not None:
            x = torch.cat((self.cls.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1)  # B 1+N D
        x = self.dropout(self.positions(x))
        for block in self.blocks:
            x = block(x)
        if self.final_norm is FinalNorm.POOLED:
            return Features(tokens=x, pooled=self.norm(self.pooled(x)))
        x = self.norm(x)
        return Features(tokens=x, pooled=self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """B D."""
        match self.pool:
            case ImagePool.CLS:
                return x[:, 0] if self.pooler is None else self.pooler(x[:, 0]).tanh()
            case ImagePool.MEAN:
                return x.mean(dim=1)
            case ImagePool.PATCHES:
                return x[:, 1:].mean(dim=1)
