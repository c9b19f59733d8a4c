"""Where an element stands in its sequence: learned, sinusoidal or rotary positions.

Letters: B items, N positions, D width, H heads, E width of a head.
"""

import math
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.structs import Packing

SLOW, FAST = 1.0, 4.0
"""Turns within the trained length, below which a stretched pair is slow and from which on it is fast."""


class Positions(StrEnum):
    LEARNED = "learned"
    SINUSOIDAL = "sinusoidal"
    ROTARY = "rotary"
    RELATIVE = "relative"
    NONE = "none"


class LearnedPositions(nn.Module):
    """One trained vector a position.

    Args:
        length: positions there are; a longer sequence is an error.
        dim: width D.
    """

    no_decay = ("weight",)

    def __init__(self, *, length: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """B N D at these places, B or 1, N."""
        return x + F.embedding(places, self.weight)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        length = x.shape[1] if packing is None else packing.longest
        if length > self.weight.shape[0]:
            raise ValueError(f"a sequence of {length} positions, where {self.weight.shape[0]} are learned; cut it to the data's max_length")
        return x + (self.weight[:length] if packing is None else F.embedding(packing.positions, self.weight))  # B N D


class SinusoidalPositions(nn.Module):
    """Sines and cosines of the position (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762), for any length.

    Args:
        dim: width D, even.
        period: of the slowest pair, in positions over 2 pi.
    """

    def __init__(self, *, dim: int, period: float = 10_000.0) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"sinusoidal positions need an even width, got dim={dim}; choose {dim - 1} or {dim + 1}")
        self.dim, self.period = dim, period

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """B N D at these places, B or 1, N."""
        angles = places[..., None] * rotation_frequencies(self.dim, self.period, x.device)
        return x + torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(x.dtype)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        angles = rotation_angles(x.shape[1] if packing is None else packing.longest, self.dim, self.period, x.device)  # N D/2
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # N D, sine and cosine in turn
        return x + (table if packing is None else table[packing.positions]).to(x.dtype)


class NoPositions(nn.Module):
    """Nothing is said of where an element stands."""

    def at(self, x: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002 - as the other kinds
        return x

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:  # noqa: ARG002 - as the other kinds
        return x


class Rotary(nn.Module):
    """Queries and keys turned by an angle that grows with the position (Su et al., 2021, https://arxiv.org/abs/2104.09864).

    Args:
        dim: width E of a head, even.
        period: of the slowest pair, in positions over 2 pi.
        stretch: factor that slow pairs turn slower by, for texts longer than those of the first training (Llama 3.1); 1 for none.
        trained: positions of the first training, which say what is slow.
    """

    def __init__(self, *, dim: int, period: float = 10_000.0, stretch: float = 1.0, trained: int = 8192) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"rotary positions need an even width of each head, got {dim}; change dim or heads")
        if stretch < 1 or trained < 1:
            raise ValueError(f"rotary_stretch={stretch}, rotary_trained={trained}: choose 1 or more")
        self.dim, self.period, self.stretch, self.trained = dim, period, stretch, trained

    def forward(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines, N E each."""
        frequencies = rotation_frequencies(self.dim, self.period, device)
        if self.stretch > 1:
            frequencies = self._stretched(frequencies)
        angles = (torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies).repeat(1, 2)  # N E
        return angles.cos(), angles.sin()

    def _stretched(self, frequencies: Tensor) -> Tensor:
        """Pairs that turn less than once in what was trained go slower by the whole factor, those that turn 4 times or more as before, and those between
        by a share of it (Llama Team, 2024, https://arxiv.org/abs/2407.21783; the formula and both bounds are of its published code)."""
        turns = self.trained * frequencies / (2 * math.pi)
        share = ((turns - SLOW) / (FAST - SLOW)).clamp(0, 1)
        return frequencies * (share + (1 - share) / self.stretch)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (e, e + E/2) of B H N E."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def rotation_angles(length: int, dim: int, period: float, device: torch.device) -> Tensor:
    """N D/2 float32: position times frequency."""
    return torch.arange(length, device=device, dtype=torch.float32)[:, None] * rotation_frequencies(dim, period, device)


def rotation_frequencies(dim: int, period: float, device: torch.device) -> Tensor:
    """D/2 float32, the fastest first."""
    return period ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
