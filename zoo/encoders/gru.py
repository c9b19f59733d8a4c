"""GRU over identifiers (Cho et al., 2014, https://arxiv.org/abs/1406.1078).

Letters: B items, N positions, D width.
"""

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.recurrent import Cell, Direction, RecurrentState, go_on, recurrent_layers
from zoo.layers.token import embedding
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TokenInput
from zoo.structs import Features


@ENCODERS.register("gru")
class GatedRecurrentUnit(nn.Module):
    """Embedded identifiers through layers of GRU. Padding never changes a real position's output.

    The reset gate is applied after the recurrent product, bias included, as PyTorch and cuDNN do it.

    Args:
        tokens: filled from the data's spec.
        dim: width D of every token; with both directions each has half of it.
        depth: number of layers.
        direction: forward (causal; what next_item needs), or both, each sequence from its own end.
        dropout: probability of leaving out an element, after the embedding and after every layer.
    """

    repeats = ("layers",)
    table = "embedding"

    def __init__(self, *, tokens: TokenInput, dim: int = 256, depth: int = 2, direction: Direction = Direction.BOTH, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = embedding(tokens, dim)
        self.layers = recurrent_layers(cell=Cell.GRU, dim=dim, depth=depth, direction=direction, dropout=dropout)
        self.dropout = Dropout(dropout)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, causal=direction is Direction.FORWARD)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        x = self.dropout(self.embedding(tokens))  # B N D
        for layer in self.layers:
            x = layer(x, mask)
        return Features(tokens=x if mask is None else torch.where(mask[..., None], x, x.new_zeros(())), mask=mask)

    def begin(self, rows: int, capacity: int) -> RecurrentState:
        """What texts that are written position by position begin with.

        Args:
            rows: B texts.
            capacity: positions that each may come to.
        """
        return RecurrentState()

    def extend(self, tokens: Tensor, cache: RecurrentState, counts: Tensor | None = None) -> Tensor:
        """Features B N D of new positions; direction=forward only.

        Args:
            tokens: B N.
            cache: of ``begin``, which goes on from them.
            counts: B, how many of each row's are real, the first ones; None for all.
        """
        return go_on(self.layers, self.dropout(self.embedding(tokens)), cache, counts)
