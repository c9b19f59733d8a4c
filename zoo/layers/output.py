"""Scores of every entry of a vocabulary, by a matrix of the head's own or by the table of embeddings.

Letters: D width, V vocabulary.
"""

from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(StrEnum):
    OWN = "own"
    TIED = "tied"  # to the table of embeddings


class OutputScale(StrEnum):
    NONE = "none"
    INVERSE_SQRT = "inverse_sqrt"  # of the width, as T5's tied output


class OutputBias(StrEnum):
    NONE = "none"
    WITH = "with"


class VocabularyScores(nn.Module):
    """D -> V, with weights that are trained, or those of a table of embeddings (Press and Wolf, 2017, https://arxiv.org/abs/1608.05859).

    The table stays the parameter of the part that embeds: it is one entry of the state, of the optimizer and of a checkpoint.

    Args:
        dim: width D.
        vocab_size: V; a table may have more rows, which score nothing.
        kind: own or tied.
        scale: of what comes in.
        bias: of each entry.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, *, dim: int, vocab_size: int, kind: Output = Output.OWN, scale: OutputScale = OutputScale.NONE, bias: OutputBias = OutputBias.NONE
    ) -> None:
        super().__init__()
        self.dim, self.vocab_size, self.tied = dim, vocab_size, kind is Output.TIED
        self.scale = dim**-0.5 if scale is OutputScale.INVERSE_SQRT else 1.0
        self.weight = None if self.tied else nn.Parameter(nn.init.trunc_normal_(torch.empty(vocab_size, dim), std=0.02))
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias is OutputBias.WITH else None
        self.source: tuple[nn.Module, ...] = ()  # in a tuple: no submodule, whose parameters would be ours as well

    def tie(self, table: nn.Module) -> None:
        """Use a table's rows, V or more of them.

        Raises:
            ValueError: where it has another width.
        """
        rows, width = table.weight.shape  # type: ignore[misc]
        if width != self.dim or rows < self.vocab_size:
            raise ValueError(
                f"output=tied: the table of embeddings is {rows} x {width}, where {self.vocab_size} x {self.dim} or more rows are needed; choose output=own"
            )
        self.source = (table,)

    def forward(self, hidden: Tensor) -> Tensor:
        """... D -> ... V."""
        weight: Any = self.weight
        if weight is None:
            if not self.source:
                raise RuntimeError("output=tied, and nothing was tied: build the model with zoo.build.build_model, or call tie")
            weight = self.source[0].weight
            if weight.shape[0] > self.vocab_size:
                weight = weight[: self.vocab_size]
        return F.linear(hidden * self.scale if self.scale != 1 else hidden, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.vocab_size}{', tied' if self.tied else ''}"
