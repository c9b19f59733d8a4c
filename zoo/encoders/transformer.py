"""Transformer over identifiers: words of a text, or items of a history.

Bidirectional it is BERT's encoder (Devlin et al., 2019, https://arxiv.org/abs/1810.04805), causal it is GPT's, and SASRec's on histories
(Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781). By its options it is Llama's (Touvron et al., 2023, https://arxiv.org/abs/2302.13971),
T5's encoder (Raffel et al., 2020, https://arxiv.org/abs/1910.10683) and ModernBERT's (Warner et al., 2024, https://arxiv.org/abs/2412.13663).

Letters: B items, N positions, D width.
"""

from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.attention import Scores, width_of_heads
from zoo.layers.cache import Cache, seen
from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.fits import Fit
from zoo.layers.lean import lean_steps
from zoo.layers.norm import NormKind, token_norm
from zoo.layers.position import LearnedPositions, NoPositions, Positions, Rotary, SinusoidalPositions
from zoo.layers.relative import RelativeBias
from zoo.layers.token import embedding
from zoo.layers.transformer import Biases, FirstNorm, NormPlacement, Pooler, TransformerBlock, init_transformer
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TokenInput
from zoo.structs import Features, Packing


class AttentionKind(StrEnum):
    BIDIRECTIONAL = "bidirectional"
    CAUSAL = "causal"


class EmbeddingNorm(StrEnum):
    AUTO = "auto"  # after the embedding with placement=post, as BERT; none with pre
    NONE = "none"
    AFTER = "after"
    FIRST = "first"  # after the embedding, in place of the first block's own (ModernBERT)


class EmbeddingScale(StrEnum):
    NONE = "none"
    SQRT = "sqrt"  # of the width, as the original Transformer


@ENCODERS.register("transformer")
class TransformerEncoder(nn.Module):
    """Embedded identifiers through the shared Transformer blocks. Neither padding nor packing changes a real position's output.

    Args:
        tokens: filled from the data's spec.
        dim: width D of every token.
        depth: number of Transformer blocks.
        heads: attention heads of each block; they divide dim, or have a width of their own (head_dim).
        mlp_ratio: hidden width of each block's position-wise network, in multiples of dim.
        attention: bidirectional, or causal (a position sees itself and those before it; what next_item needs).
        positions: learned (up to the data's max_length), sinusoidal, rotary, relative (T5's bias of the scores), or none.
        placement: norm before each branch (pre) or after each sum (post).
        activation: of the position-wise networks.
        dropout: probability of leaving out an element, after the embedding and in every block.
        attention_dropout: probability of leaving out an attention weight.
        drop_path: probability of leaving out the last block's branches for a sample; earlier blocks in proportion.
        segments: kinds of segments that a vector each is trained of (BERT's token types). Of two texts in one sequence, the second has the second kind,
            where there are two or more; everything else has the first. 0 for none.
        pooler: none, or first (a linear layer and tanh over position 0, as in BERT).
        norm_eps: added to the variance in the norms.
        max_positions: learned positions there are, at least the data's max_length; 0 for exactly as many.
        extra_rows: of the table of embeddings, beyond the data's vocabulary; pretrained tables have some, for new tokens or for speed.
        hidden: width of the position-wise networks; 0 for mlp_ratio times dim.
        norm: layer, or rms (Llama, T5).
        biases: of all linear layers and layer norms, of queries, keys and values alone (Qwen 2), or none (Llama, T5).
        kv_heads: heads of keys and values, which divide heads (Llama's grouped queries); 0 for as many as heads.
        head_dim: width of a head; 0 for dim / heads.
        scores: scaled by the square root of a head's width, or plain (T5).
        window: positions that are seen on each side of a position's own; 0 for all.
        global_every: with a window, the first of so many blocks sees all positions (ModernBERT: 3); 0 for none of them.
        rotary_period: of the slowest rotary pair, in positions over 2 pi (Llama's rope_theta).
        rotary_stretch: factor that slow rotary pairs turn slower by, for texts longer than the first training's (Llama 3.1: 8); 1 for none.
        rotary_trained: positions of that first training.
        local_period: the same as rotary_period for blocks with a window; 0 for rotary_period.
        relative_buckets: of positions=relative: how many distances have a bias of their own.
        relative_distance: of positions=relative: from which on all have the same.
        embedding_norm: auto (with placement=post), none, after the embedding, or first: after it and in place of the first block's first norm.
        embedding_scale: what embeddings are multiplied by: nothing, or the square root of dim.
    """

    repeats = ("blocks",)
    packs = True
    table = "embedding"
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
        hidden: int = 0,
        norm: NormKind = NormKind.LAYER,
        biases: Biases = Biases.ALL,
        kv_heads: int = 0,
        head_dim: int = 0,
        scores: Scores = Scores.SCALED,
        window: int = 0,
        global_every: int = 0,
        rotary_period: float = 10_000.0,
        rotary_stretch: float = 1.0,
        rotary_trained: int = 8192,
        local_period: float = 0.0,
        relative_buckets: int = 32,
        relative_distance: int = 128,
        embedding_norm: EmbeddingNorm = EmbeddingNorm.AUTO,
        embedding_scale: EmbeddingScale = EmbeddingScale.NONE,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        causal = attention is AttentionKind.CAUSAL
        if causal and pooler is Pooler.FIRST:
            raise ValueError("pooler=first takes position 0, which has seen nothing else with attention=causal; choose pooler=none, or attention=bidirectional")
        check_positions(tokens, positions, max_positions)
        if rotary_stretch != 1 and positions is not Positions.ROTARY:
            raise ValueError(f"rotary_stretch={rotary_stretch} is of rotary positions; choose positions=rotary, or rotary_stretch=1")
        check_windows(window, global_every, local_period, positions)
        if extra_rows < 0:
            raise ValueError(f"extra_rows={extra_rows} is negative; choose 0 or more")
        if embedding_norm is EmbeddingNorm.AUTO:
            embedding_norm = EmbeddingNorm.AFTER if placement is NormPlacement.POST else EmbeddingNorm.NONE
        if embedding_norm is EmbeddingNorm.FIRST and placement is NormPlacement.POST:
            raise ValueError("embedding_norm=first stands for the norm before the first block's attention, which placement=post has not; choose after or none")
        self.embedding = embedding(tokens, dim, extra_rows)
        self.scale = dim**0.5 if embedding_scale is EmbeddingScale.SQRT else 1.0
        self.segments = Segments(count=segments, dim=dim, separator=getattr(tokens, "separator", None)) if segments else nn.Identity()
        self.positions = build_positions(positions, max_positions or tokens.max_length, dim)
        width = head_dim or width_of_heads(dim, heads)
        self.rotary = Rotary(dim=width, period=rotary_period, stretch=rotary_stretch, trained=rotary_trained) if positions is Positions.ROTARY else None
        self.local_rotary = Rotary(dim=width, period=local_period) if local_period else self.rotary
        self.relative = (
            RelativeBias(heads=heads, buckets=relative_buckets, distance=relative_distance, causal=causal) if positions is Positions.RELATIVE else None
        )
        biased = biases is Biases.ALL
        self.embedding_norm = nn.Identity() if embedding_norm is EmbeddingNorm.NONE else token_norm(norm, dim, eps=norm_eps, bias=biased)
        self.dropout = Dropout(dropout)
        self.windows = tuple(0 if global_every and number % global_every == 0 else window for number in range(depth))
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
                norm=norm,
                biases=biases,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=self.windows[number],
                scores=scores,
                hidden=hidden,
                first_norm=FirstNorm.EMBEDDED if number == 0 and embedding_norm is EmbeddingNorm.FIRST else FirstNorm.OWN,
            )
            for number in range(depth)
        )
        self.norm = token_norm(norm, dim, eps=norm_eps, bias=biased) if placement is NormPlacement.PRE else nn.Identity()
        init_transformer(self.blocks)
        self.pooler = nn.Linear(dim, dim) if pooler is Pooler.FIRST else None
        if self.pooler is not None:
            init_transformer(self.pooler)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, causal=causal, pooled=self.pooler is not None)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, packing: Packing | None = None) -> Features:
        x = self.embedding(tokens)
        x = x * self.scale if self.scale != 1 else x
        if isinstance(self.segments, Segments):
            x = self.segments(x, tokens, packing)
        x = self.positions(x, packing)  # B N D, packed 1 T D
        x = self.dropout(self.embedding_norm(x), packing)
        length = tokens.shape[1] if packing is None else packing.longest
        far = None if self.rotary is None else self.rotary(length, tokens.device)
        near = far if self.local_rotary is self.rotary or self.local_rotary is None else self.local_rotary(length, tokens.device)
        relative = None if self.relative is None else self.relative(length, length, tokens.device)  # H N N
        for block in self.blocks:
            x = block(x, mask, near if block.attention.window else far, packing, relative)  # type: ignore[union-attr]
        x = self.norm(x)
        if packing is not None:
            x, mask = packing.unpack(x), packing.mask
        return Features(tokens=x, mask=mask, pooled=None if self.pooler is None else self.pooler(x[:, 0]).tanh())

    def begin(self, rows: int, capacity: int) -> Cache:
        """Memory for texts that are written position by position.

        Args:
            rows: B texts.
            capacity: positions that each may come to.
        """
        blocks: list[Any] = list(self.blocks)
        shapes = [(block.attention.kv_heads, block.attention.head_dim) for block in blocks]
        cache = Cache.empty(rows, capacity, shapes, self.embedding.weight)
        cache.steps = lean_steps(blocks) if self.relative is None and not torch.is_grad_enabled() else None
        return cache

    def extend(self, tokens: Tensor, cache: Cache, counts: Tensor | None = None) -> Tensor:
        """Features B N D of new positions; causal encoders only.

        Args:
            tokens: B N.
            cache: of ``begin``, which the positions are added to.
            counts: B, how many of each row's are real, the first ones; None for all.
        """
        x = self.embedding(tokens)
        places = cache.places(tokens.shape[1])
        x = x * self.scale if self.scale != 1 else x
        if isinstance(self.segments, Segments):
            x = x + self.segments.weight[0]
        x = self.embedding_norm(self.positions.at(x, places))  # type: ignore[operator]
        reach = min(cache.longest + tokens.shape[1], cache.capacity)
        far = turned(self.rotary, cache, places, "far")
        near = far if self.local_rotary is self.rotary else turned(self.local_rotary, cache, places, "near")
        if cache.steps is not None and tokens.shape[1] == 1 and cache.even and counts is None:
            for layer, (step, window) in enumerate(zip(cache.steps, self.windows, strict=True)):
                x = step(x, cache.layers[layer], cache.longest, near if window else far)
            cache.advance(None, 1)
            return self.norm(x)  # type: ignore[no-any-return]
        bias = {window: extended_bias(self.relative, places, reach, window, x.dtype) for window in set(self.windows)}
        for layer, (block, window) in enumerate(zip(self.blocks, self.windows, strict=True)):
            x = block.extend(x, cache, layer, places, near if window else far, bias[window])  # type: ignore[operator]
        cache.advance(counts, tokens.shape[1])
        return self.norm(x)  # type: ignore[no-any-return]


def turned(rotary: Rotary | None, cache: Cache, places: Tensor, kind: str) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines at these places, B or 1, 1, N, E each; the table of all places is made once."""
    if rotary is None:
        return None
    if kind not in cache.tables:
        cache.tables[kind] = rotary(cache.capacity, places.device)
    cos, sin = cache.tables[kind]
    return cos[places][:, None], sin[places][:, None]


def extended_bias(relative: RelativeBias | None, places: Tensor, reach: int, window: int, dtype: torch.dtype) -> Tensor | None:
    """What to add to the scores of new positions: relative positions, and what they do not see."""
    hidden = seen(places, reach, window, dtype)
    if relative is None:
        return hidden
    near = relative.at(places, reach).to(dtype)
    return near if hidden is None else near + hidden


def check_positions(tokens: TokenInput, positions: Positions, max_positions: int) -> None:
    """Raises:
    ValueError: for ``max_positions`` that the data or the kind of positions has no use for.
    """
    if not max_positions or (max_positions >= tokens.max_length and positions is Positions.LEARNED):
        return
    problem = (
        f"positions={positions} has none that are learned; choose 0" if positions is not Positions.LEARNED else f"{tokens.name!r} has up to {tokens.max_length}"
    )
    raise ValueError(f"max_positions={max_positions}: {problem}")


def check_windows(window: int, global_every: int, local_period: float, positions: Positions) -> None:
    """Raises:
    ValueError: for options of local attention that nothing would read.
    """
    if window < 0 or global_every < 0:
        raise ValueError(f"window={window}, global_every={global_every}: choose 0 or more")
    if not window and global_every:
        raise ValueError(f"global_every={global_every} without a window, where every block sees all positions; choose window=64, or global_every=0")
    if local_period and (not window or positions is not Positions.ROTARY):
        raise ValueError(
            f"local_period={local_period} is of rotary positions in blocks with a window; choose positions=rotary and window=64, or local_period=0"
        )


class Segments(nn.Module):
    """A trained vector for each kind of segment: the first, and behind the first of two texts the second.

    Args:
        count: kinds.
        dim: width D.
        separator: the token that closes the first text; None where there is one text.
    """

    no_decay = ("weight",)

    def __init__(self, *, count: int, dim: int, separator: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))
        self.separator = separator if count > 1 else None

    def forward(self, x: Tensor, tokens: Tensor, packing: Packing | None = None) -> Tensor:
        """B N D and the tokens B N that it is of; packed 1 T D and 1 T."""
        if self.separator is None:
            return x + self.weight[0]
        closes = (tokens == self.separator).long()
        before = closes.cumsum(dim=1) - closes  # separators in front of each position
        if packing is not None:
            before = before - before[:, torch.arange(before.shape[1], device=before.device) - packing.positions]  # of each item alone
        return x + self.weight[(before > 0).long()]


def build_positions(kind: Positions, length: int, dim: int) -> nn.Module:
    match kind:
        case Positions.LEARNED:
            return LearnedPositions(length=length, dim=dim)
        case Positions.SINUSOIDAL:
            return SinusoidalPositions(dim=dim)
        case _:
            return NoPositions()
