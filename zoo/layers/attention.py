"""Attention: one function, which picks its kernel by device, type and length.

Measured, forward and backward, two cores, time of explicit matmul-softmax-matmul over ``scaled_dot_product_attention``:
fp32: 65 tokens .72 to .78, 128 tokens .78 to .97, 256 tokens .98 to 1.09, 512 tokens 1.13, 1024 tokens 1.8, 2048 tokens 3.5.
bf16 on a CPU that has bf16 instructions: 65 tokens .19, 128 tokens .27, 512 tokens .55.
bf16 on a CPU that has none: both are slow (16 x 3 x 65 x 64: 88 ms and 876 ms), and the same in fp32 takes 4 ms, casts aside.

Letters: B items, H heads, N queries, M keys, E width of a head, D width of the model.
"""

from contextlib import nullcontext
from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.dropout import Keyed, attention_keep_mask, check_probability
from zoo.layers.position import rotate
from zoo.random import current
from zoo.structs import Packing

EXPLICIT_FP32 = 192  # longest sequence, in keys, for which explicit fp32 attention is no slower than SDPA on a CPU
EXPLICIT_BF16 = 1024  # the same in bf16; beyond it the N x M scores cost more memory than the time they save


class Kernel(StrEnum):
    EXPLICIT = "explicit"
    SDPA = "sdpa"


def pick_kernel(device: str, dtype: torch.dtype, length: int) -> tuple[Kernel, torch.dtype]:
    """Kernel and the type to compute in."""
    if device != "cpu":
        return Kernel.SDPA, dtype
    if dtype is torch.bfloat16 and cpu_has_bf16():
        return (Kernel.EXPLICIT if length <= EXPLICIT_BF16 else Kernel.SDPA), dtype
    wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    return (Kernel.EXPLICIT if length <= EXPLICIT_FP32 else Kernel.SDPA), wide


@cache
def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # torch's only way to ask


def attention(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False, keep: Tensor | None = None) -> Tensor:
    """softmax(query key' / sqrt(E)) value.

    Kernels agree to 1e-6 of the values' size in fp32 and 2e-2 in bf16.

    Args:
        query: B H N E.
        key: B H M E.
        value: B H M E.
        mask: B M, True where a key is real. A row without any real key attends to all of them: finite, and nobody reads it.
        causal: query n sees the keys up to n only (N = M).
        keep: B H N M dropout factors on the attention weights; computed explicitly.
    """
    kernel, dtype = pick_kernel(query.device.type, query.dtype, key.shape[2])
    bias = attention_bias(mask, causal and (mask is not None or kernel is Kernel.EXPLICIT or keep is not None), key, dtype)
    query, key, wide = query.to(dtype), key.to(dtype), value.to(dtype)
    # The type is chosen here: autocast on a CPU would choose again.
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        if kernel is Kernel.EXPLICIT or keep is not None:
            return explicit_attention(query, key, wide, bias, keep).to(value.dtype)
        return F.scaled_dot_product_attention(query, key, wide, attn_mask=bias, is_causal=causal and bias is None).to(value.dtype)


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, keep: Tensor | None = None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # B H N M
    weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
    return (weights if keep is None else weights * keep.to(weights.dtype)) @ value  # B H N E


def attention_bias(mask: Tensor | None, causal: bool, key: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What to add to the scores, B or 1, 1, N or 1, M: 0 where a key may be seen, the type's lowest finite number elsewhere.

    The lowest finite number, not -inf: its weight is exactly 0 next to any real key, and a row without one stays finite.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    if causal:
        seen = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
        allowed = seen[None, None] if allowed is None else allowed & seen
    if allowed is None:
        return None
    return torch.zeros((), dtype=dtype, device=key.device).masked_fill(~allowed, torch.finfo(dtype).min)


def stack_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Three projections, each (H E) or (H E) D, as one in the order of ``MultiHeadAttention.qkv``: (H 3 E) or (H 3 E) D."""
    return rearrange([query, key, value], "three (h e) ... -> (h three e) ...", h=heads)


def takes_varlen(device: str, dtype: torch.dtype, width: int) -> bool:
    """Whether flash attention over items of unequal lengths takes these heads."""
    return device == "cuda" and dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, causal: bool) -> Tensor:
    """H T E each: every position attends within its own item."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (rearrange(part, "h n e -> n h e").contiguous() for part in (query, key, value))
    window, longest = (-1, 0) if causal else (-1, -1), packing.longest
    mixed = varlen_attn(query, key, value, packing.starts, packing.starts, longest, longest, window_size=window)
    assert isinstance(mixed, Tensor), "a tuple comes only where more is asked for"
    return rearrange(mixed, "n h e -> h n e")


class MultiHeadAttention(Keyed):
    """Self-attention with several heads (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width D, a multiple of ``heads``.
        heads: number of heads H.
        causal: a position sees itself and those before it only.
        bias: of the projections to queries, keys and values.
        dropout: probability of leaving out an attention weight.
    """

    def __init__(self, *, dim: int, heads: int, causal: bool = False, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} is no multiple of heads={heads}; heads that divide it: {', '.join(str(n) for n in range(1, dim + 1) if dim % n == 0)}")
        self.heads, self.head_dim, self.causal, self.dropout = heads, dim // heads, causal, check_probability("attention_dropout", dropout)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, rotation: tuple[Tensor, Tensor] | None = None, packing: Packing | None = None) -> Tensor:
        qkv = self.qkv(x)
        if packing is not None:
            return self.proj(self.mix_packed(qkv, rotation, packing))  # type: ignore[no-any-return]
        return self.proj(self.mix(qkv, mask, rotation, self.dropout_keys(qkv.shape[0])))  # type: ignore[no-any-return]

    def mix(self, qkv: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, keys: Tensor | None) -> Tensor:
        """B N (H 3 E) -> B N (H E)."""
        # The rows of one head stand together (stack_heads), so that a contiguous part of the matrix is a whole number of heads.
        query, key, value = rearrange(qkv, "b n (h three e) -> three b h n e", three=3, e=self.head_dim)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = attention(query, key, value, mask=mask, causal=self.causal, keep=self.keep_weights(query, keys))
        return rearrange(mixed, "b h n e -> b n (h e)")

    def mix_packed(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing) -> Tensor:
        """1 T (H 3 E) -> 1 T (H E), each item by itself."""
        if (self.training and self.dropout > 0) or not takes_varlen(qkv.device.type, qkv.dtype, self.head_dim):
            return self.mix_runs(qkv, rotation, packing)
        query, key, value = rearrange(qkv, "one n (h three e) -> three one h n e", three=3, e=self.head_dim)
        if rotation is not None:
            turn = rotation[0][packing.positions], rotation[1][packing.positions]
            query, key = rotate(query, turn), rotate(key, turn)
        return rearrange(varlen_attention(query[0], key[0], value[0], packing, causal=self.causal), "h n e -> 1 n (h e)")

    def mix_runs(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing) -> Tensor:
        """Neighbours of one length are rows of a batch without padding: views of the packed row, no mask, no gathering."""
        keys, mixed, place, item = self.dropout_keys(packing.mask.shape[0]), [], 0, 0
        for count, length in packing.runs:
            rows = qkv[:, place : place + count * length].view(count, length, qkv.shape[-1])
            turn = None if rotation is None else (rotation[0][:length], rotation[1][:length])
            own = None if keys is None else keys[packing.items[item : item + count]]
            mixed.append(self.mix(rows, None, turn, own).flatten(0, 1))
            place, item = place + count * length, item + count
        return torch.cat(mixed)[None]

    def dropout_keys(self, items: int) -> Tensor | None:
        """B int64; None where no attention weight is left out, or where torch's generator decides."""
        if not self.training or self.dropout == 0 or (random := current()) is None:
            return None
        return self.keys(random, items)

    def keep_weights(self, query: Tensor, keys: Tensor | None) -> Tensor | None:
        """Dropout factors for the heads that there are here: all of them, or this process's part."""
        if not self.training or self.dropout == 0:
            return None
        batch, heads, length, _ = query.shape
        if keys is None:
            return F.dropout(torch.ones(batch, heads, length, length, dtype=query.dtype, device=query.device), self.dropout)
        first = 0 if self.part is None else self.part.index * heads
        return attention_keep_mask(keys, heads, length, length, self.dropout, query.dtype, first)
