"""Recurrent layers whose padding changes nothing, without packing.

A packed sequence makes PyTorch run one small matrix product a step and a length. Dense, the forward direction never sees the padding behind
an item, and the backward direction is a forward one over each item reversed in its own length: the same numbers, on the faster kernel.

Letters: B items, N positions, D width.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout


class Cell(StrEnum):
    LSTM = "lstm"
    GRU = "gru"


class Direction(StrEnum):
    FORWARD = "forward"
    BOTH = "both"


CELLS: dict[Cell, type[nn.LSTM] | type[nn.GRU]] = {Cell.LSTM: nn.LSTM, Cell.GRU: nn.GRU}


class RecurrentLayer(nn.Module):
    """One recurrent layer, in one direction or in both. Padding has to be behind the items.

    Args:
        cell: lstm or gru.
        dim: width D of input and output; each of two directions gives half of it.
        both: backwards too.
        dropout: probability of leaving out an element of the output.
    """

    def __init__(self, *, cell: Cell, dim: int, both: bool, dropout: float) -> None:
        super().__init__()
        width = dim // 2 if both else dim
        self.onward = CELLS[cell](dim, width, batch_first=True)
        self.backward_ = CELLS[cell](dim, width, batch_first=True) if both else None
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # oneDNN has no bf16 recurrence for processors without bf16 instructions: it raises, so on a CPU it stays in the weights' type.
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            return self.both_directions(x.to(next(self.onward.parameters()).dtype) if x.device.type == "cpu" else x, mask)

    def both_directions(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out, _ = self.onward(x)  # B N D
        if self.backward_ is not None:
            order = reversal(mask, x)[..., None]
            back, _ = self.backward_(x.gather(1, order.expand_as(x)))
            out = torch.cat((out, back.gather(1, order.expand_as(back))), dim=-1)
        return self.dropout(out)  # type: ignore[no-any-return]

    def go_on(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Onward from a state: B N D, and the state after the last position."""
        assert self.backward_ is None, "what is still to be written has no end to begin from"
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            dtype = next(self.onward.parameters()).dtype
            x = x.to(dtype) if x.device.type == "cpu" else x
            given = None if state is None else tuple(part.to(x.dtype) for part in state)
            out, last = self.onward(x, given[0] if given is not None and len(given) == 1 else given)
        return self.dropout(out), last if isinstance(last, tuple) else (last,)


@dataclass(slots=True)
class RecurrentState:
    """What recurrent layers keep of the texts behind them.

    Args:
        layers: of each layer, its state's parts, 1 B D each; empty before the first position.
        kept: what stays the same while a text is written, by name, B first.
    """

    layers: list[tuple[Tensor, ...]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; one may be there several times."""
        self.layers = [tuple(part.index_select(1, rows) for part in layer) for layer in self.layers]
        self.kept = {name: value.index_select(0, rows) for name, value in self.kept.items()}


def go_on(layers: nn.ModuleList, x: Tensor, state: RecurrentState, counts: Tensor | None = None) -> Tensor:
    """New positions through all layers: B N D; the state goes on from them.

    Args:
        layers: ``RecurrentLayer``, of one direction.
        x: B N D.
        state: of ``begin``, or after the positions before.
        counts: B, how many of each row's are real, the first ones; None for all. A row's state stays what it was after its last real one.
    """
    shortest = x.shape[1] if counts is None else int(counts.min())
    parts = [_go_on_together(layers, x[:, :shortest], state)] if shortest else []
    for place in range(shortest, x.shape[1]):
        assert counts is not None, "without counts all are real"
        before = state.layers
        parts.append(_go_on_together(layers, x[:, place : place + 1], state))
        goes = (counts > place)[None, :, None]
        old = before or [tuple(torch.zeros_like(part) for part in layer) for layer in state.layers]
        state.layers = [
            tuple(torch.where(goes, new, kept) for new, kept in zip(layer, earlier, strict=True)) for layer, earlier in zip(state.layers, old, strict=True)
        ]
    return torch.cat(parts, dim=1)


def _go_on_together(layers: nn.ModuleList, x: Tensor, state: RecurrentState) -> Tensor:
    found = []
    for number, layer in enumerate(layers):
        x, after = layer.go_on(x, state.layers[number] if state.layers else None)  # type: ignore[operator]
        found.append(after)
    state.layers = found
    return x


def recurrent_layers(*, cell: Cell, dim: int, depth: int, direction: Direction, dropout: float) -> nn.ModuleList:
    """A stack of ``RecurrentLayer``.

    Raises:
        ValueError: for no layers, or a width that two directions cannot share.
    """
    both = direction is Direction.BOTH
    if depth < 1:
        raise ValueError(f"depth={depth} gives no layers; choose 1 or more")
    if both and dim % 2:
        raise ValueError(f"dim={dim} is odd, and direction=both gives half of it to each; choose {dim - 1} or {dim + 1}, or direction=forward")
    return nn.ModuleList(RecurrentLayer(cell=cell, dim=dim, both=both, dropout=dropout) for _ in range(depth))


def reversal(mask: Tensor | None, x: Tensor) -> Tensor:
    """B N int64: the positions of each item in reverse, padding where it is. It is its own inverse."""
    batch, length, _ = x.shape
    places = torch.arange(length, device=x.device).expand(batch, length)
    lengths = torch.full((batch, 1), length, device=x.device) if mask is None else mask.sum(dim=1, keepdim=True)
    return torch.where(places < lengths, lengths - 1 - places, places)
