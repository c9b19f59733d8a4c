"""One operation of a step: what it is, what it computes, what it reads and writes.

Letters: M K N sizes of a matrix product.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


class Kind(StrEnum):
    PRODUCT = "product"
    ATTENTION = "attention"
    OTHER = "other"


class Phase(StrEnum):
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


@dataclass(slots=True)
class Operation:
    """One kernel.

    Args:
        name: aten's.
        kind: matrix product or convolution, attention, or anything else.
        phase: where it ran; what checkpointing computes again runs in the backward phase.
        flops: multiplications and additions that the model asks for, attention in full.
        work: what the kernel does, without what a causal mask saves.
        reads: bytes of each storage that it reads.
        writes: bytes of each storage that it writes.
        width: bytes of an element of what it computes.
        sizes: M, K and N of a matrix product; empty for others.
    """

    name: str
    kind: Kind
    phase: Phase
    flops: int
    work: int
    reads: dict[int, int]
    writes: dict[int, int]
    width: int
    sizes: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(self.reads.values()) + sum(self.writes.values())


ALLOCATING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")
"""May choose by a mask, whose number of chosen places is data: all of them are taken to be chosen, which is the most that there can be."""
BY_ROWS = ("embedding", "index", "gather", "index_select")


def describe(func: Any, args: Any, kwargs: Any, result: Any, phase: Phase, before: dict[int, Tensor], after: dict[int, Tensor], mutable: bool) -> Operation:
    packet = func._overloadpacket
    name = packet.__name__
    reads = {number: touched(tensor) for number, tensor in before.items()}
    writes = {number: touched(tensor) for number, tensor in (after if after or not mutable else before).items()}
    if name in ALLOCATING:
        reads = writes = {}
    elif name in BY_ROWS:
        reads = dict.fromkeys(reads, min(sum(writes.values()), max(reads.values(), default=0)))
    kind, flops, work = Kind.OTHER, 0, 0
    sizes: tuple[int, ...] = ()
    if "scaled_dot_product" in name:
        kind = Kind.ATTENTION
        flops, work = attention_flops(args, backward="backward" in name)
        if any(value is True for value in (*args, *kwargs.values())):  # the only flag is is_causal
            work //= 2
    elif packet in flop_registry:
        kind, flops = Kind.PRODUCT, int(flop_registry[packet](*args, **kwargs, out_val=result))
        work = flops
        sizes = product_sizes(name, args)
    width = max((tensor.element_size() for tensor in (*after.values(), *before.values()) if tensor.is_floating_point()), default=4)
    if kind is not Kind.OTHER:
        width = min(tensor.element_size() for tensor in before.values() if tensor.is_floating_point())
    return Operation(name, kind, phase, flops, work, reads, writes, width, sizes)


def widest(args: Any) -> Any:
    """Indices of as many places as each mask has, in its stead."""
    indices: list[Tensor | None] = []
    for index in args[1]:
        if index is None or index.dtype is not torch.bool:
            indices.append(index)
        else:
            indices += [torch.empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
    return (args[0], indices, *args[2:])


def touched(tensor: Tensor) -> int:
    """Bytes that a kernel reads or writes of a tensor; an expanded one is read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def attention_flops(args: Any, *, backward: bool) -> tuple[int, int]:
    """What the model asks for, and what the kernel does: backward it computes the scores again (Dao, 2023, https://arxiv.org/abs/2307.08691)."""
    query, key, value = args[1:4] if backward else args[:3]
    batch, heads, queries, width = query.shape
    pairs = 2 * batch * heads * queries * key.shape[2]
    forward = int(pairs * (width + value.shape[3]))
    return (2 * forward, 2 * forward + int(pairs * width)) if backward else (forward, forward)


def product_sizes(name: str, args: Any) -> tuple[int, ...]:
    if name not in ("mm", "addmm"):
        return ()
    left, right = args[-2:] if name == "mm" else args[1:3]
    return (int(left.shape[0]), int(left.shape[1]), int(right.shape[1]))
