"""A Transformer that writes a text from an encoder's features, token by token.

The decoder of the original Transformer (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762); by its options T5's (Raffel et al., 2020,
https://arxiv.org/abs/1910.10683) and BART's (Lewis et al., 2020, https://arxiv.org/abs/1910.13461). The features may be of any modality.

Letters: B items, N written positions, M positions of the features, D width.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.encoders.transformer import EmbeddingNorm, EmbeddingScale, build_positions, check_positions, extended_bias, turned
from zoo.layers.attention import Scores, width_of_heads
from zoo.layers.cache import Cache
from zoo.layers.decoder_block import DecoderBlock
from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation
from zoo.layers.fits import Fit
from zoo.layers.norm import NormKind, token_norm
from zoo.layers.output import Output
from zoo.layers.position import Positions, Rotary
from zoo.layers.relative import RelativeBias
from zoo.layers.token import embedding as embedding_table
from zoo.layers.transformer import Biases, NormPlacement, init_transformer
from zoo.registry import DECODERS
from zoo.specs import FeatureSpec, Layout, WrittenInput
from zoo.structs import Features, Values


@DECODERS.register("transformer")
class TransformerDecoder(nn.Module):
    """What was written so far, through blocks that attend to it and to the encoder's features. Each place sees those before it.

    Args:
        features: filled from the encoder's output; a sequence.
        written: filled from the data's spec.
        dim: width D of every token; 0 for the features'.
        depth: number of blocks.
        heads: attention heads of each block; they divide dim, or have a width of their own (head_dim).
        mlp_ratio: hidden width of each block's position-wise network, in multiples of dim.
        embedding: own, or tied: the encoder's table of embeddings, for one vocabulary on both sides.
        positions: learned (up to the data's max_length), sinusoidal, rotary, relative (T5's bias of the scores), or none.
        placement: norm before each branch (pre) or after each sum (post).
        activation: of the position-wise networks.
        dropout: probability of leaving out an element, after the embedding and in every block.
        attention_dropout: probability of leaving out an attention weight.
        norm_eps: added to the variance in the norms.
        max_positions: learned positions there are, at least the data's max_length; 0 for exactly as many.
        extra_rows: of the table of embeddings, beyond the vocabulary.
        hidden: width of the position-wise networks; 0 for mlp_ratio times dim.
        norm: layer, or rms (T5).
        biases: of all linear layers and layer norms, of queries, keys and values alone, or none (T5).
        kv_heads: heads of keys and values, which divide heads; 0 for as many as heads.
        head_dim: width of a head; 0 for dim / heads.
        scores: scaled by the square root of a head's width, or plain (T5).
        rotary_period: of the slowest rotary pair, in positions over 2 pi.
        relative_buckets: of positions=relative: how many distances have a bias of their own.
        relative_distance: of positions=relative: from which on all have the same.
        embedding_norm: auto (with placement=post), none, or after the embedding.
        embedding_scale: what embeddings are multiplied by: nothing, or the square root of dim.
    """

    repeats = ("blocks",)
    fits: ClassVar = {"embedding.weight": Fit.VOCABULARY, "positions.weight": Fit.POSITIONS}

    def __init__(
        self,
        *,
        features: FeatureSpec,
        written: WrittenInput,
        dim: int = 0,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        embedding: Output = Output.OWN,
        positions: Positions = Positions.LEARNED,
        placement: NormPlacement = NormPlacement.PRE,
        activation: Activation = Activation.GELU,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-6,
        max_positions: int = 0,
        extra_rows: int = 0,
        hidden: int = 0,
        norm: NormKind = NormKind.LAYER,
        biases: Biases = Biases.ALL,
        kv_heads: int = 0,
        head_dim: int = 0,
        scores: Scores = Scores.SCALED,
        rotary_period: float = 10_000.0,
        relative_buckets: int = 32,
        relative_distance: int = 128,
        embedding_norm: EmbeddingNorm = EmbeddingNorm.AUTO,
        embedding_scale: EmbeddingScale = EmbeddingScale.NONE,
    ) -> None:
        super().__init__()
        if features.layout is not Layout.SEQUENCE:
            raise ValueError(f"it attends to a sequence, and the encoder gives a {features.layout}; choose an encoder that gives one: transformer, lstm, vit")
        if depth < 1:
            raise ValueError(f"depth={depth} gives no blocks; choose 1 or more")
        self.dim, self.written, self.tied = dim or features.dim, written, embedding is Output.TIED
        check_positions(written, positions, max_positions)
        if extra_rows < 0 or (extra_rows and self.tied):
            raise ValueError(f"extra_rows={extra_rows}: {'with embedding=tied the table is the encoder’s' if self.tied else 'choose 0 or more'}")
        if embedding_norm is EmbeddingNorm.FIRST:
            raise ValueError("embedding_norm=first is of encoders; choose after or none")
        self.embedding = None if self.tied else embedding_table(written, self.dim, extra_rows)
        self.source: tuple[nn.Module, ...] = ()  # in a tuple: no submodule, whose parameters would be ours as well
        self.scale = self.dim**0.5 if embedding_scale is EmbeddingScale.SQRT else 1.0
        self.positions = build_positions(positions, max_positions or written.max_length, self.dim)
        self.rotary = Rotary(dim=head_dim or width_of_heads(self.dim, heads), period=rotary_period) if positions is Positions.ROTARY else None
        self.relative = (
            RelativeBias(heads=heads, buckets=relative_buckets, distance=relative_distance, causal=True) if positions is Positions.RELATIVE else None
        )
        biased = biases is Biases.ALL
        post = placement is NormPlacement.POST
        normed = embedding_norm is EmbeddingNorm.AFTER or (embedding_norm is EmbeddingNorm.AUTO and post)
        self.embedding_norm = token_norm(norm, self.dim, eps=norm_eps, bias=biased) if normed else nn.Identity()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                dim=self.dim,
                source=features.dim,
                heads=heads,
                mlp_ratio=mlp_ratio,
                placement=placement,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_eps=norm_eps,
                norm=norm,
                biases=biases,
                kv_heads=kv_heads,
                head_dim=head_dim,
                scores=scores,
                hidden=hidden,
            )
            for _ in range(depth)
        )
        self.norm = nn.Identity() if post else token_norm(norm, self.dim, eps=norm_eps, bias=biased)
        init_transformer(self.blocks)
        self.output_spec = FeatureSpec(dim=self.dim, layout=Layout.SEQUENCE, causal=True)

    @property
    def table(self) -> str | None:
        """The name of its own table of embeddings, for an output that is tied to it."""
        return None if self.tied else "embedding"

    def tie(self, table: nn.Module) -> None:
        """Embed by the encoder's table.

        Raises:
            ValueError: where it is of another width, or of fewer entries.
        """
        rows, width = table.weight.shape  # type: ignore[misc]
        if width != self.dim or rows < self.written.vocab_size:
            raise ValueError(
                f"embedding=tied: the encoder's table is {rows} x {width}, where {self.written.vocab_size} x {self.dim} or more rows are needed; choose "
                "embedding=own, or one tokenizer for both texts (data.target_tokenizer=null) and one width"
            )
        self.source = (table,)

    def forward(self, features: Features, written: Values) -> Features:
        """Features of what is to be written at each place.

        Args:
            features: of the encoder, tokens B M S.
            written: identifiers B N of what stands before each place.
        """
        assert features.tokens is not None, "the spec says that there are tokens"
        assert isinstance(written.values, Tensor)
        x = self.embed(written.values)
        x = self.dropout(self.embedding_norm(self.positions(x)))
        length = x.shape[1]
        rotation = None if self.rotary is None else self.rotary(length, x.device)
        relative = None if self.relative is None else self.relative(length, length, x.device)
        for block in self.blocks:
            x = block(x, written.mask, features.tokens, features.mask, rotation, relative)
        return Features(tokens=self.norm(x), mask=written.mask)

    def begin(self, features: Features, capacity: int) -> Cache:
        """Memory for texts that are written position by position; the features' keys and values are computed here, once.

        Args:
            features: of the encoder, tokens B M S.
            capacity: positions that each text may come to.
        """
        assert features.tokens is not None, "the spec says that there are tokens"
        blocks: list[Any] = list(self.blocks)
        shapes = [(block.attention.kv_heads, block.attention.head_dim) for block in blocks]
        cache = Cache.empty(features.tokens.shape[0], capacity, shapes, blocks[0].attention.qkv.weight)
        cache.crossed = [block.cross.remember(features.tokens) for block in blocks]
        cache.source_mask = features.mask
        return cache

    def extend(self, tokens: Tensor, cache: Cache, counts: Tensor | None = None) -> Tensor:
        """Features B N D of new positions.

        Args:
            tokens: B N.
            cache: of ``begin``, which the positions are added to.
            counts: B, how many of each row's are real, the first ones; None for all.
        """
        places = cache.places(tokens.shape[1])
        x = self.embedding_norm(self.positions.at(self.embed(tokens), places))  # type: ignore[operator]
        reach = min(cache.longest + tokens.shape[1], cache.capacity)
        rotation = turned(self.rotary, cache, places, "rotary")
        bias = extended_bias(self.relative, places, reach, 0, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block.extend(x, cache, layer, places, rotation, bias)  # type: ignore[operator]
        cache.advance(counts, tokens.shape[1])
        return self.norm(x)  # type: ignore[no-any-return]

    def embed(self, tokens: Tensor) -> Tensor:
        """B N -> B N D."""
        if self.embedding is None and not self.source:
            raise RuntimeError("embedding=tied, and nothing was tied: build the model with zoo.build.build_model, or call tie")
        x: Tensor = (self.source[0] if self.embedding is None else self.embedding)(tokens)
        return x * self.scale if self.scale != 1 else x
