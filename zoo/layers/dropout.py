"""Dropout whose masks belong to the samples, not to the batch.

A mask depends on (seed, step, sample id, the module's name in the model, element within the sample): the same for any batch split, rank count
and padding, and again in a resumed run, with no generator's state to keep. One 64-bit random word serves four elements, 16 bits each, which
is also several times faster than drawing from torch's generator on a CPU.

Letters: B samples, W words, E elements of a sample, T positions of all samples of a packed row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.cuts import Along, Part
from zoo.random import SampleRandom, current, key
from zoo.structs import Packing

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_LEVELS = 1 << 16


class Keyed(nn.Module):
    """A layer with randomness of its own in training; ``name_randomness`` has to have given it its name."""

    def __init__(self) -> None:
        super().__init__()
        self.salt: int | None = None
        self.part: Part | None = None
        """Which part of a sample's elements this process sees, where several share a block."""

    def keys(self, random: SampleRandom, rows: int) -> Tensor:
        """B int64: one key a sample, for this module alone."""
        if self.salt is None:
            raise RuntimeError(
                "this dropout layer has no name yet, and unnamed ones would share their masks: call zoo.layers.dropout.name_randomness(model) once it is built"
            )
        if random.keys.shape[0] != rows:
            raise RuntimeError(
                f"keyed dropout: {rows} rows, but the open randomness scope has {random.keys.shape[0]} samples; the first axis has to be the batch's"
            )
        return random.keys + self.salt  # both are mixed already: 64 random bits, so that streams of modules and samples do not meet


def key_foreign(model: nn.Module) -> None:
    """Put keyed layers in place of torch's ``nn.Dropout``, timm's ``DropPath`` and torchvision's ``StochasticDepth`` of whole samples, of the same
    probability, wherever libraries built them."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout and child.p < 1:
                setattr(parent, name, Dropout(child.p).train(child.training))
            elif type(child).__name__ == "DropPath" and not isinstance(child, Keyed) and getattr(child, "scale_by_keep", False):
                setattr(parent, name, DropPath(float(child.drop_prob or 0.0)).train(child.training))  # type: ignore[arg-type]
            elif type(child).__name__ == "StochasticDepth" and getattr(child, "mode", None) == "row":
                setattr(parent, name, DropPath(float(child.p)).train(child.training))  # type: ignore[arg-type]


def name_randomness(model: nn.Module) -> None:
    """Give every keyed layer the name that it has in ``model``; the same in every process, as parameters' names are."""
    for name, module in model.named_modules():
        if isinstance(module, Keyed):
            salt = key("dropout", name)
            module.salt = salt - (1 << 64) if salt >> 63 else salt


class Dropout(Keyed):
    """Zero elements with probability ``p`` and scale the rest by 1 / (1 - p).

    Without an open randomness scope (``zoo.random.sample_randomness``) it is ``F.dropout`` with torch's generator.

    Args:
        p: probability, in steps of 2**-16.
        axis: the axis that padding makes longer; elements are numbered with it outermost, so that padding behind them changes no mask.
    """

    def __init__(self, p: float = 0.1, *, axis: int = 1) -> None:
        super().__init__()
        self.p, self.axis = check_probability("dropout", p), axis

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        if not self.training or self.p == 0:
            return x
        random = current()
        if random is None:
            return F.dropout(x, self.p)
        if packing is not None:
            return x * self.keep_packed(self.keys(random, packing.mask.shape[0]), x, packing)
        rows = self.keys(random, x.shape[0])
        if self.part is not None:
            return x * self.keep_part(rows, x, self.part)
        if x.dim() <= 2 or self.axis == 1:
            return x * keep_mask(rows, x.shape[1:], self.p, x.dtype)
        outermost = x.movedim(self.axis, 1)
        return x * keep_mask(rows, outermost.shape[1:], self.p, x.dtype).movedim(1, self.axis)

    def keep_packed(self, rows: Tensor, x: Tensor, packing: Packing) -> Tensor:
        """T ..., each position's part of the mask of its sample."""
        own, count, index = x.shape[-1], 1, 0
        if self.part is not None:
            assert self.part.along is Along.HIDDEN, "shared positions are not packed; zoo.checks refuses it"
            count, index = self.part.count, self.part.index
        return packed_keep_mask(rows, packing.segments, packing.positions, own * count, self.p, x.dtype).narrow(1, index * own, own)

    def keep_part(self, rows: Tensor, x: Tensor, part: Part) -> Tensor:
        """This process's part of the mask that a single process would draw."""
        assert self.axis == 1
        shape, axis = list(x.shape[1:]), 0 if part.along is Along.POSITIONS else -1
        own = shape[axis]
        shape[axis] = own * part.count
        whole = keep_mask(rows, torch.Size(shape), self.p, x.dtype)
        return whole.narrow(1 if part.along is Along.POSITIONS else x.dim() - 1, part.index * own, own)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropPath(Keyed):
    """Stochastic depth (Huang et al., 2016, https://arxiv.org/abs/1603.09382): leave a residual branch out for whole samples.

    Args:
        p: probability.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = check_probability("drop_path", p)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        if not self.training or self.p == 0:
            return x
        items, ones = (x.shape[0], [1] * (x.dim() - 1)) if packing is None else (packing.mask.shape[0], [1])
        random = current()
        if random is None:
            keep = F.dropout(torch.ones(items, *ones, dtype=x.dtype, device=x.device), self.p)
        else:
            keep = keep_mask(self.keys(random, items), torch.Size(ones), self.p, x.dtype)
        return x * (keep if packing is None else keep[packing.segments])

    def extra_repr(self) -> str:
        return f"p={self.p}"


@torch.no_grad()
def keep_mask(keys: Tensor, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """B *shape: 0 with probability ``p`` to the nearest 2**-16, else 1 / (1 - p)."""
    elements = shape.numel()
    return threshold(words(keys, -(-elements // 4)).view(torch.int16)[:, :elements], p, dtype).view(-1, *shape)


@torch.no_grad()
def packed_keep_mask(keys: Tensor, segments: Tensor, positions: Tensor, width: int, p: float, dtype: torch.dtype) -> Tensor:
    """T width: what ``keep_mask`` of the samples by row, B N width, has at each position of a packed row."""
    shift = positions * width % 4  # a sample's words do not begin with a position's unless 4 divides the width
    first = positions * width // 4  # words of the sample before those of the position
    bits = words(keys[segments] + first * _GOLDEN, width // 4 if width % 4 == 0 else -(-width // 4) + 1).view(torch.int16)
    if width % 4:
        bits = bits.gather(1, shift[:, None] + torch.arange(width, device=bits.device))
    return threshold(bits, p, dtype)


@torch.no_grad()
def attention_keep_mask(keys: Tensor, heads: int, queries: int, keys_length: int, p: float, dtype: torch.dtype, first_head: int = 0) -> Tensor:
    """B heads queries keys: as ``keep_mask``, numbered by (head, query, key) in fixed strides, since padding makes two axes longer."""
    blocks = -(-keys_length // 4)
    head = torch.arange(first_head, first_head + heads, device=keys.device)[:, None, None] << 40
    query = torch.arange(queries, device=keys.device)[None, :, None] << 20
    places = (head + query + torch.arange(2, blocks + 2, device=keys.device)).view(-1)
    bits = words_at(keys, places).view(torch.int16).view(-1, heads, queries, 4 * blocks)
    return threshold(bits[..., :keys_length], p, dtype)


def threshold(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """Signed 16-bit numbers -> 0 for the lowest share ``p`` of them, else 1 / (1 - p)."""
    dropped = round(p * _LEVELS)
    kept = torch.empty(bits.shape, dtype=dtype, device=bits.device)
    torch.ge(bits, dropped - _LEVELS // 2, out=kept)  # written as numbers at once: a pass over memory less
    return kept.mul_(_LEVELS / (_LEVELS - dropped))


def words(keys: Tensor, count: int) -> Tensor:
    """B count int64: SplitMix64's outputs from the states ``keys``; every bit is random."""
    return words_at(keys, torch.arange(2, count + 2, device=keys.device))


def words_at(keys: Tensor, places: Tensor) -> Tensor:
    """B W int64: the outputs with these numbers, counted from 2."""
    return opaque_words(keys, places) if torch.compiler.is_compiling() else finalise(keys[:, None] + places * _GOLDEN)


@torch.library.custom_op("zoo::words", mutates_args=())
def opaque_words(keys: Tensor, places: Tensor) -> Tensor:
    """For ``torch.compile``, which folds the constants into index arithmetic that does not wrap around, and fails (torch 2.14)."""
    return finalise(keys[:, None] + places * _GOLDEN)


@opaque_words.register_fake
def _(keys: Tensor, places: Tensor) -> Tensor:
    return keys.new_empty(keys.shape[0], places.shape[0])


def finalise(x: Tensor) -> Tensor:
    """``zoo.random.mix_tensor`` after its addition, in place (1.5 times faster); the masks make arithmetic shifts logical."""
    shifted = x >> 30
    x ^= shifted.bitwise_and_((1 << 34) - 1)
    x *= _MIX_1
    x ^= torch.bitwise_right_shift(x, 27, out=shifted).bitwise_and_((1 << 37) - 1)
    x *= _MIX_2
    x ^= torch.bitwise_right_shift(x, 31, out=shifted).bitwise_and_((1 << 33) - 1)
    return x


def check_probability(name: str, p: float) -> float:
    """``p``, if 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}={p} is no probability of leaving out; choose 0 <= {name} < 1, usually 0.0 to 0.5")
    return p
