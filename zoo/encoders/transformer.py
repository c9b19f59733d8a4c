"""Transformer over identifiers: words of a text, or items of a history.

Bidirectional it is BERT's encoder (Devlin et al., 2019, https://arxiv.org/abs/1810.04805), causal it is GPT's, and SASRec's on histories
(Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781).

Letters: B items, N positions, D width.
"""

from enum import StrEnum

from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.position import LearnedPositions, NoPositions, Positions, Rotary, SinusoidalPositions
from zoo.layers.token import embedding
from zoo.layers.transformer import NormPlacement, TransformerBlock, init_transformer
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
    """

    repeats = ("blocks",)
    packs = True

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
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        causal = attention is AttentionKind.CAUSAL
        self.embedding = embedding(tokens, dim)
        self.positions = build_positions(positions, tokens.max_length, dim)
        self.rotary = Rotary(dim=dim // heads) if positions is Positions.ROTARY else None
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-6) if placement is NormPlacement.POST else nn.Identity()
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
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6) if placement is NormPlacement.PRE else nn.Identity()
        init_transformer(self.blocks)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, causal=causal)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, packing: Packing | None = None) -> Features:
        x = self.dropout(self.embedding_norm(self.positions(self.embedding(tokens), packing)), packing)  # B N D, packed 1 T D
        rotation = None if self.rotary is None else self.rotary(tokens.shape[1] if packing is None else packing.longest, tokens.device)
        for block in self.blocks:
            x = block(x, mask, rotation, packing)
        x = self.norm(x)
        return Features(tokens=x, mask=mask) if packing is None else Features(tokens=packing.unpack(x), mask=packing.mask)


def build_positions(kind: Positions, length: int, dim: int) -> nn.Module:
    match kind:
        case Positions.LEARNED:
            return LearnedPositions(length=length, dim=dim)
        case Positions.SINUSOIDAL:
            return SinusoidalPositions(dim=dim)
        case _:
            return NoPositions()
