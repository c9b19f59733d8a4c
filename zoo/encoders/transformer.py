"""Transformer over identifiers: words of a text, or items of a history.

Bidirectional it is BERT's encoder (Devlin et al., 2019, https://arxiv.org/abs/1810.04805), causal it is GPT's, and SASRec's on histories
(Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781).

Letters: B items, N positions, D width.
"""

from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.fits import Fit
from zoo.layers.position import LearnedPositions, NoPositions, Positions, Rotary, SinusoidalPositions
from zoo.layers.token import embedding
from zoo.layers.transformer import NormPlacement, Pooler, TransformerBlock, init_transformer
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TokenInput
from zoo.structs import Features, Packing


class AttentionKind(StrEnum):
    BIDIRECTIONAL = "bidirectional"
    CAUSAL = "causal"


@ENCODERS.register("transformer")
class TransformerEncoder(nn.Module):
    """Embedded identifiers through the shared Transformer blocks. Neither padding nor packing changes a real position's output.

    Args:
        tokens: filled from the data's spec.
        dim: width D of every token.
        depth: number of Transformer blocks.
        heads: attention heads of each block; they divide dim.
        mlp_ratio: hidden width of each block's position-wise network, in multiples of dim.
        attention: bidirectional, or causal (a position sees itself and those before it; what next_item needs).
        positions: learned (up to the data's max_length), sinusoidal, rotary, or none.
        placement: norm before each branch (pre) or after each sum (post).
        activation: of the position-wise networks.
        dropout: probability of leaving out an element, after the embedding and in every block.
        attention_dropout: probability of leaving out an attention weight.
        drop_path: probability of leaving out the last block's branches for a sample; earlier blocks in proportion.
        segments: kinds of segments that a vector each is trained of (BERT's token types); every position is of the first. 0 for none.
        pooler: none, or first (a linear layer and tanh over position 0, as in BERT).
        norm_eps: added to the variance in the norms.
        max_positions: learned positions there are, at least the data's max_length; 0 for exactly as many.
        extra_rows: of the table of embeddings, beyond the data's vocabulary; pretrained tables have some, for new tokens or for speed.
    """

    repeats = ("blocks",)
    packs = True
    fits: ClassVar = {"embedding.weight": Fit.VOCABULARY, "positions.weight": Fit.POSITIONS}

    def __init__(
        self,
        *,
        tokens: TokenInput,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        attention: AttentionKind = AttentionKind.BIDIRECTIONAL,
        positions: Positions = Positions.LEARNED,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        segments: int = 0,
        pooler: Pooler = Pooler.NONE,
        norm_eps: float = 1e-6,
        max_positions: int = 0,
        extra_rows: int = 0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        causal = attention is AttentionKind.CAUSAL
        if causal and pooler is Pooler.FIRST:
            raise ValueError("pooler=first takes position 0, which has seen nothing else with attention=causal; choose pooler=none, or attention=bidirectional")
        if max_positions and (max_positions < tokens.max_length or positions is not Positions.LEARNED):
            raise ValueError(
                f"max_positions={max_positions}: "
                + (
                    f"positions={positions} has none that are learned; choose 0"
                    if positions is not Positions.LEARNED
                    else f"{tokens.name!r} has up to {tokens.max_length}"
                )
            )
        if extra_rows < 0:
            raise ValueError(f"extra_rows={extra_rows} is negative; choose 0 or more")
        self.embedding = embedding(tokens, dim, extra_rows)
        self.segments = Segments(count=segments, dim=dim) if segments else nn.Identity()
        self.positions = build_positions(positions, max_positions or tokens.max_length, dim)
        self.rotary = Rotary(dim=dim // heads) if positions is Positions.ROTARY else None
        self.embedding_norm = nn.LayerNorm(dim, eps=norm_eps) if placement is NormPlacement.POST else nn.Identity()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim=dim,
                heads=heads,
                mlp_ratio=mlp_ratio,
                placement=placement,
                activation=activation,
                causal=causal,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * (number + 1) / depth,
                norm_eps=norm_eps,
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if placement is NormPlacement.PRE else nn.Identity()
        init_transformer(self.blocks)
        self.pooler = nn.Linear(dim, dim) if pooler is Pooler.FIRST else None
        if self.pooler is not None:
            init_transformer(self.pooler)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, causal=causal, pooled=self.pooler is not None)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, packing: Packing | None = None) -> Features:
        x = self.positions(self.segments(self.embedding(tokens)), packing)  # B N D, packed 1 T D
        x = self.dropout(self.embedding_norm(x), packing)
        rotation = None if self.rotary is None else self.rotary(tokens.shape[1] if packing is None else packing.longest, tokens.device)
        for block in self.blocks:
            x = block(x, mask, rotation, packing)
        x = self.norm(x)
        if packing is not None:
            x, mask = packing.unpack(x), packing.mask
        return Features(tokens=x, mask=mask, pooled=None if self.pooler is None else self.pooler(x[:, 0]).tanh())


class Segments(nn.Module):
    """A trained vector for each kind of segment, of which every position has the first.

    Args:
        count: kinds.
        dim: width D.
    """

    no_decay = ("weight",)

    def __init__(self, *, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[0]


def build_positions(kind: Positions, length: int, dim: int) -> nn.Module:
    match kind:
        case Positions.LEARNED:
            return LearnedPositions(length=length, dim=dim)
        case Positions.SINUSOIDAL:
            return SinusoidalPositions(dim=dim)
        case _:
            return NoPositions()
