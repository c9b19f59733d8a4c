"""Random numbers that are keyed, not drawn from a stream.

A number depends on (seed, epoch or step, sample id, purpose, place) and on nothing else: not on the batch that the sample is in, its
padding, the worker, the rank, or where a run was interrupted. The generator is SplitMix64's finaliser (Steele et al., 2014, "Fast
splittable pseudorandom number generators") over a counter, computed for a whole batch at once.

Letters: B samples.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix(value: int) -> int:
    """SplitMix64's finaliser on one integer: 0 .. 2**64 - 1."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def key(*parts: int | str) -> int:
    """One 64-bit key of several integers and names; order counts."""
    state = 0
    for part in parts:
        state = mix(state ^ (zlib.crc32(part.encode()) if isinstance(part, str) else part & _MASK))
    return state


def mix_tensor(values: Tensor) -> Tensor:
    """The same finaliser on int64 tensors, as two's complement."""
    values = values + _signed(_GOLDEN)
    values = (values ^ _shift(values, 30)) * _signed(_MIX_1)
    values = (values ^ _shift(values, 27)) * _signed(_MIX_2)
    return values ^ _shift(values, 31)


def _shift(values: Tensor, places: int) -> Tensor:
    # int64 shifts are arithmetic; the mask makes them logical.
    return (values >> places) & ((1 << (64 - places)) - 1)


class SampleRandom:
    """Random numbers for the samples of one batch.

    Args:
        seed: the run's.
        round: epoch (augmentation) or optimizer step (dropout).
        ids: B int64, the samples' ids.
    """

    def __init__(self, seed: int, round: int, ids: Tensor) -> None:
        self.seed, self.round, self.ids = seed, round, ids

    @cached_property
    def keys(self) -> Tensor:
        """B int64. Made when first asked for: a model without randomness pays nothing for having been offered some."""
        return mix_tensor(self.ids.to(torch.int64) ^ _signed(key(self.seed, self.round)))

    def words(self, purpose: str, count: int) -> Tensor:
        """B count int64: every bit is random."""
        keys = mix_tensor(self.keys ^ _signed(key(purpose)))
        places = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
        return mix_tensor(keys[:, None] + places)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """B *shape float32 in [0, 1)."""
        words = self.words(purpose, prod(shape))
        return ((words >> 40) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24).view(-1, *shape)

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        """B *shape int64 in 0 .. high - 1; the bias is under high / 2**62."""
        words = self.words(purpose, prod(shape)) & ((1 << 62) - 1)
        return (words % high).view(-1, *shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """B *shape float32, standard normal (Box and Muller)."""
        uniform = self.uniform(purpose, 2, *shape)
        return torch.sqrt(-2 * torch.log1p(-uniform[:, 0])) * torch.cos(2 * torch.pi * uniform[:, 1])


_current: SampleRandom | None = None


@contextmanager
def sample_randomness(random: SampleRandom) -> Iterator[None]:
    """Layers inside (dropout, sampled losses) key their randomness by the batch's samples."""
    global _current
    before, _current = _current, random
    try:
        yield
    finally:
        _current = before


def current() -> SampleRandom | None:
    """The batch's randomness, or None outside training."""
    return _current
