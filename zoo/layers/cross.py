"""Attention of what a decoder writes to what an encoder gave.

Letters: B items, N queries, M keys, H heads, G heads of keys and values, E width of a head, D width of the decoder, S width of the encoder.
"""

from einops import rearrange
from torch import Tensor, nn

from zoo.layers.attention import Scores, attention, attention_factors, check_kv_heads, width_of_heads
from zoo.layers.dropout import Keyed, check_probability
from zoo.random import current


class CrossAttention(Keyed):
    """Queries of one sequence, keys and values of another (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width D of the queries' sequence, and of the output.
        source: width S of the other.
        heads: number of heads H of the queries.
        bias: of the projections to queries, keys and values.
        dropout: probability of leaving out an attention weight.
        kv_heads: number of heads G of keys and values, which divides H; 0 for H.
        head_dim: width E of a head; 0 for D / H.
        out_bias: of the projection after the heads.
        scores: scaled by 1 / sqrt(E), or plain.
    """

    def __init__(
        self,
        *,
        dim: int,
        source: int,
        heads: int,
        bias: bool = True,
        dropout: float = 0.0,
        kv_heads: int = 0,
        head_dim: int = 0,
        out_bias: bool = True,
        scores: Scores = Scores.SCALED,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, check_kv_heads(heads, kv_heads), head_dim or width_of_heads(dim, heads)
        self.dropout, self.scale = check_probability("attention_dropout", dropout), None if scores is Scores.SCALED else 1.0
        self.query = nn.Linear(dim, heads * self.head_dim, bias=bias)
        self.kv = nn.Linear(source, 2 * self.kv_heads * self.head_dim, bias=bias)
        self.proj = nn.Linear(heads * self.head_dim, dim, bias=out_bias)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """B N D -> B N D.

        Args:
            x: B N D.
            memory: keys and values, of ``remember``.
            mask: B M, True where the other sequence is real.
        """
        query = rearrange(self.query(x), "b n (h e) -> b h n e", e=self.head_dim)
        key, value = memory
        keep = None
        if self.training and self.dropout > 0:
            random = current()
            keep = attention_factors(None if random is None else self.keys(random, x.shape[0]), query, key.shape[2], self.dropout)
        mixed = attention(query, key, value, mask=mask, scale=self.scale, keep=keep)
        return self.proj(rearrange(mixed, "b h n e -> b n (h e)"))  # type: ignore[no-any-return]

    def remember(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """B M S -> keys and values, B G M E each: computed once, however long the text that is written."""
        key, value = rearrange(self.kv(tokens), "b m (g two e) -> two b g m e", two=2, e=self.head_dim)
        return key, value
