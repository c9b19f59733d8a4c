"""The block of a Transformer that writes: attention to what was written, attention to what an encoder gave, a position-wise network.

Letters: B items, N written positions, M positions of the encoder's features, D width, S width of the features.
"""

from torch import Tensor, nn

from zoo.layers.attention import MultiHeadAttention, Scores
from zoo.layers.cache import Cache
from zoo.layers.cross import CrossAttention
from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation, FeedForward
from zoo.layers.norm import NormKind, token_norm
from zoo.layers.transformer import Biases, NormPlacement


class DecoderBlock(nn.Module):
    """Three residual branches (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width D.
        source: width S of the encoder's features.
        heads: attention heads.
        mlp_ratio: hidden width of the position-wise network, in multiples of D.
        placement: norm before each branch, or after each sum.
        activation: of the position-wise network.
        dropout: on the output of each branch and within the position-wise network.
        attention_dropout: on the attention weights.
        norm_eps: added to the variance in the norms.
        norm: layer or rms.
        biases: of all linear layers and layer norms, of queries, keys and values alone, or none.
        kv_heads: heads of keys and values; 0 for as many as heads.
        head_dim: width of a head; 0 for D / heads.
        scores: scaled by the square root of a head's width, or plain.
        hidden: width of the position-wise network; 0 for mlp_ratio times D.
    """

    def __init__(
        self,
        *,
        dim: int,
        source: int,
        heads: int,
        mlp_ratio: float = 4.0,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-6,
        norm: NormKind = NormKind.LAYER,
        biases: Biases = Biases.ALL,
        kv_heads: int = 0,
        head_dim: int = 0,
        scores: Scores = Scores.SCALED,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        biased, qkv_biased = biases is Biases.ALL, biases is not Biases.NONE
        self.placement = placement
        self.norm1 = token_norm(norm, dim, eps=norm_eps, bias=biased)
        self.attention = MultiHeadAttention(
            dim=dim,
            heads=heads,
            causal=True,
            bias=qkv_biased,
            dropout=attention_dropout,
            kv_heads=kv_heads,
            head_dim=head_dim,
            out_bias=biased,
            scores=scores,
        )
        self.dropout1 = Dropout(dropout)
        self.norm_cross = token_norm(norm, dim, eps=norm_eps, bias=biased)
        self.cross = CrossAttention(
            dim=dim,
            source=source,
            heads=heads,
            bias=qkv_biased,
            dropout=attention_dropout,
            kv_heads=kv_heads,
            head_dim=head_dim,
            out_bias=biased,
            scores=scores,
        )
        self.dropout_cross = Dropout(dropout)
        self.norm2 = token_norm(norm, dim, eps=norm_eps, bias=biased)
        self.mlp = FeedForward(dim=dim, hidden=hidden or round(mlp_ratio * dim), activation=activation, dropout=dropout, bias=biased)
        self.dropout2 = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        source: Tensor,
        source_mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None = None,
        relative: Tensor | None = None,
    ) -> Tensor:
        """B N D -> B N D.

        Args:
            x: B N D, of what was written.
            mask: B N, True where real.
            source: B M S, the encoder's features.
            source_mask: B M, True where real.
            rotation: cosines and sines of each position, N E each.
            relative: H N N, to add to the scores of the first attention.
        """
        if self.placement is NormPlacement.PRE:
            x = x + self.dropout1(self.attention(self.norm1(x), mask, rotation, None, relative))
            x = x + self.dropout_cross(self.cross(self.norm_cross(x), self.cross.remember(source), source_mask))
            return x + self.dropout2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self.dropout1(self.attention(x, mask, rotation, None, relative)))
        x = self.norm_cross(x + self.dropout_cross(self.cross(x, self.cross.remember(source), source_mask)))
        return self.norm2(x + self.dropout2(self.mlp(x)))  # type: ignore[no-any-return]

    def extend(self, x: Tensor, cache: Cache, layer: int, places: Tensor, rotation: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Tensor:
        """New positions B N D, as ``MultiHeadAttention.extend`` takes them; nothing is left out."""
        memory, mask = cache.crossed[layer], cache.source_mask
        if self.placement is NormPlacement.PRE:
            x = x + self.attention.extend(self.norm1(x), cache, layer, places, rotation, bias)
            x = x + self.cross(self.norm_cross(x), memory, mask)
            return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
        x = self.norm1(x + self.attention.extend(x, cache, layer, places, rotation, bias))
        x = self.norm_cross(x + self.cross(x, memory, mask))
        return self.norm2(x + self.mlp(x))  # type: ignore[no-any-return]
