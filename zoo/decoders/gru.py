"""GRU that writes, with attention to the encoder's features (Cho et al., 2014, https://arxiv.org/abs/1406.1078; Luong et al., 2015,
https://arxiv.org/abs/1508.04025, global attention with the general score).

Letters: B texts, N positions written, M positions of the encoder, S its width, D width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.fits import Fit
from zoo.layers.output import Output
from zoo.layers.pooling import masked_mean
from zoo.layers.precision import widen
from zoo.layers.recurrent import Cell, Direction, RecurrentState, go_on, recurrent_layers
from zoo.layers.token import embedding as embedding_table
from zoo.registry import DECODERS
from zoo.specs import FeatureSpec, Layout, WrittenInput
from zoo.structs import Features, Values


@DECODERS.register("gru")
class GruDecoder(nn.Module):
    """What was written so far through layers of GRU, which begin with the mean of the encoder's features; each place then attends to all of them, and what
    it finds is put beside its own state. Attention comes after the recurrence, so that training computes all places at once.

    Args:
        features: filled from the encoder's output; a sequence.
        written: filled from the data's spec.
        dim: width D of every token; 0 for the features'.
        depth: number of layers.
        embedding: own, or tied: the encoder's table of embeddings, for one vocabulary on both sides.
        dropout: probability of leaving out an element, after the embedding, every layer and the attention.
    """

    repeats = ("layers",)
    fits: ClassVar = {"embedding.weight": Fit.VOCABULARY}

    def __init__(
        self, *, features: FeatureSpec, written: WrittenInput, dim: int = 0, depth: int = 1, embedding: Output = Output.OWN, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if features.layout is not Layout.SEQUENCE:
            raise ValueError(f"it attends to a sequence, and the encoder gives a {features.layout}; choose an encoder that gives one: gru, lstm, transformer")
        self.dim, self.written, self.tied = dim or features.dim, written, embedding is Output.TIED
        self.embedding = None if self.tied else embedding_table(written, self.dim, 0)
        self.source: tuple[nn.Module, ...] = ()  # in a tuple: no submodule, whose parameters would be ours as well
        self.layers = recurrent_layers(cell=Cell.GRU, dim=self.dim, depth=depth, direction=Direction.FORWARD, dropout=dropout)
        self.first = nn.Linear(features.dim, depth * self.dim)
        self.score = nn.Linear(features.dim, self.dim, bias=False)
        self.mixed = nn.Linear(self.dim + features.dim, self.dim, bias=False)
        self.dropout, self.dropout2 = Dropout(dropout), Dropout(dropout)
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
        assert isinstance(written.values, Tensor)
        state = self.begin(features, 0)
        return Features(tokens=self.extend(written.values, state), mask=written.mask)

    def begin(self, features: Features, capacity: int) -> RecurrentState:
        """What texts begin with; the features' part of the scores is computed here, once.

        Args:
            features: of the encoder, tokens B M S.
            capacity: positions that each text may come to.
        """
        assert features.tokens is not None, "the spec says that there are tokens"
        mean = masked_mean(features.tokens, features.mask)
        first = self.first(mean).tanh().unflatten(-1, (len(self.layers), self.dim)).transpose(0, 1)  # layers B D
        kept = {"values": features.tokens, "keys": self.score(features.tokens)}
        if features.mask is not None:
            kept["mask"] = features.mask
        return RecurrentState([(layer[None].contiguous(),) for layer in first], kept)

    def extend(self, tokens: Tensor, cache: RecurrentState, counts: Tensor | None = None) -> Tensor:
        """Features B N D of new positions.

        Args:
            tokens: B N.
            cache: of ``begin``, which goes on from them.
            counts: B, how many of each row's are real, the first ones; None for all.
        """
        x = go_on(self.layers, self.dropout(self.embed(tokens)), cache, counts)
        scores = widen(x @ cache.kept["keys"].transpose(1, 2))  # B N M
        if "mask" in cache.kept:
            scores = scores.masked_fill(~cache.kept["mask"][:, None], torch.finfo(scores.dtype).min)
        found = scores.softmax(dim=-1).to(x.dtype) @ cache.kept["values"]  # B N S
        mixed: Tensor = self.dropout2(self.mixed(torch.cat((x, found), dim=-1)).tanh())
        return mixed

    def embed(self, tokens: Tensor) -> Tensor:
        """B N -> B N D."""
        if self.embedding is None and not self.source:
            raise RuntimeError("embedding=tied, and nothing was tied: build the model with zoo.build.build_model, or call tie")
        return (self.source[0] if self.embedding is None else self.embedding)(tokens)  # type: ignore[no-any-return]
