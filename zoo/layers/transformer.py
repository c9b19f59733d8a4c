"""The one Transformer block, for every modality.

Letters: B items, N positions, D width.
"""

from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.attention import MultiHeadAttention, Scores
from zoo.layers.cache import Cache
from zoo.layers.cuts import Along, Cut
from zoo.layers.dropout import Dropout, DropPath
from zoo.layers.feedforward import Activation, FeedForward
from zoo.layers.norm import NormKind, token_norm
from zoo.structs import Packing


class NormPlacement(StrEnum):
    PRE = "pre"
    POST = "post"


class Pooler(StrEnum):
    NONE = "none"
    FIRST = "first"


class Biases(StrEnum):
    """Which layers of a block have a bias."""

    ALL = "all"
    QKV = "qkv"  # the projections to queries, keys and values alone
    NONE = "none"


class FirstNorm(StrEnum):
    """Of the first block, with the norm before each branch."""

    OWN = "own"
    EMBEDDED = "embedded"  # the norm after the embedding stands for it


class TransformerBlock(nn.Module):
    """Attention and a position-wise network, each in a residual branch (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width D.
        heads: attention heads; they divide D.
        mlp_ratio: hidden width of the position-wise network, in multiples of D.
        placement: norm before each branch (steadier to train), or after each sum (the original, BERT).
        activation: of the position-wise network.
        causal: a position sees itself and those before it only.
        dropout: on the output of both branches and within the position-wise network.
        attention_dropout: on the attention weights.
        drop_path: probability of leaving a branch out for a sample.
        qkv_bias: bias of the projections to queries, keys and values.
        norm_eps: added to the variance in the norms.
        layer_scale: what a trained factor for each of D, on the output of both branches, begins with; 0 for none.
        norm: layer or rms.
        biases: of all linear layers and layer norms, of queries, keys and values alone, or none.
        kv_heads: heads of keys and values; 0 for as many as heads.
        head_dim: width of a head; 0 for D / heads.
        window: positions seen on each side of a position's own; 0 for all.
        scores: scaled by the square root of a head's width, or plain.
        hidden: width of the position-wise network; 0 for mlp_ratio times D.
        first_norm: own, or embedded, where what comes in is normed already.
    """

    tensor_cuts: ClassVar = {
        "norm1": Cut.POSITIONS,
        "attention.qkv": Cut.COLUMNS,
        "attention.proj": Cut.ROWS,
        "scale1": Cut.POSITIONS,
        "norm2": Cut.POSITIONS,
        "mlp.fc1": Cut.COLUMNS,
        "mlp.fc2": Cut.ROWS,
        "scale2": Cut.POSITIONS,
    }
    tensor_parts: ClassVar = {"attention": Along.HEADS, "mlp.dropout": Along.HIDDEN, "dropout1": Along.POSITIONS, "dropout2": Along.POSITIONS}

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        layer_scale: float = 0.0,
        norm: NormKind = NormKind.LAYER,
        biases: Biases = Biases.ALL,
        kv_heads: int = 0,
        head_dim: int = 0,
        window: int = 0,
        scores: Scores = Scores.SCALED,
        hidden: int = 0,
        first_norm: FirstNorm = FirstNorm.OWN,
    ) -> None:
        super().__init__()
        biased = biases is Biases.ALL
        self.placement, self.heads, self.hidden = placement, heads, hidden or round(mlp_ratio * dim)
        self.norm1 = token_norm(norm, dim, eps=norm_eps, bias=biased) if first_norm is FirstNorm.OWN else nn.Identity()
        self.attention = MultiHeadAttention(
            dim=dim,
            heads=heads,
            causal=causal,
            bias=qkv_bias and biases is not Biases.NONE,
            dropout=attention_dropout,
            kv_heads=kv_heads,
            head_dim=head_dim,
            out_bias=biased,
            window=window,
            scores=scores,
        )
        self.scale1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.dropout1 = Dropout(dropout)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = token_norm(norm, dim, eps=norm_eps, bias=biased)
        self.mlp = FeedForward(dim=dim, hidden=self.hidden, activation=activation, dropout=dropout, bias=biased)
        self.scale2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.dropout2 = Dropout(dropout)
        self.drop_path2 = DropPath(drop_path)

    def tensor_units(self) -> dict[str, int]:
        """What has to divide by the number of processes that share the block."""
        return {"heads of keys and values" if self.attention.shared > 1 else "heads": self.attention.kv_heads, "hidden units": self.hidden}

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        packing: Packing | None = None,
        relative: Tensor | None = None,
    ) -> Tensor:
        """B N D -> B N D; packed 1 T D, where attention stays within an item. The rest as ``MultiHeadAttention`` takes it."""
        if self.placement is NormPlacement.PRE:
            x = x + self.drop_path1(self.scale1(self.dropout1(self.attention(self.norm1(x), mask, rotation, packing, relative), packing)), packing)
            return x + self.drop_path2(self.scale2(self.dropout2(self.mlp(self.norm2(x), packing), packing)), packing)  # type: ignore[no-any-return]
        x = self.norm1(x + self.drop_path1(self.scale1(self.dropout1(self.attention(x, mask, rotation, packing, relative), packing)), packing))
        return self.norm2(x + self.drop_path2(self.scale2(self.dropout2(self.mlp(x, packing), packing)), packing))  # type: ignore[no-any-return]

    def extend(self, x: Tensor, cache: Cache, layer: int, places: Tensor, rotation: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Tensor:
        """New positions B N D, as ``MultiHeadAttention.extend`` takes them; nothing is left out."""
        if self.placement is NormPlacement.PRE:
            x = x + self.scale1(self.attention.extend(self.norm1(x), cache, layer, places, rotation, bias))
            return x + self.scale2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self.scale1(self.attention.extend(x, cache, layer, places, rotation, bias)))
        return self.norm2(x + self.scale2(self.mlp(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A trained factor for each of D (Touvron et al., 2021, https://arxiv.org/abs/2103.17239).

    Args:
        dim: width D.
        start: what each begins with, small: 1e-5 for deep models.
    """

    no_decay = ("weight",)

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def init_transformer(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for the linear layers within, as in ViT and BERT."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
