"""Attention: one function, which picks its kernel by device, type and length.

Measured, forward and backward, two cores, time of explicit matmul-softmax-matmul over ``scaled_dot_product_attention``:
fp32: 65 tokens .72 to .78, 128 tokens .78 to .97, 256 tokens .98 to 1.09, 512 tokens 1.13, 1024 tokens 1.8, 2048 tokens 3.5.
bf16 on a CPU that has bf16 instructions: 65 tokens .19, 128 tokens .27, 512 tokens .55.
bf16 on a CPU that has none: both are slow (16 x 3 x 65 x 64: 88 ms and 876 ms), and the same in fp32 takes 4 ms, casts aside.

Letters: B items, H heads, G heads of keys and values, Q queries for each key, N queries, M keys, E width of a head, D width of the model.
"""

from contextlib import nullcontext
from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.cache import Cache
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


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    window: int = 0,
    relative: Tensor | None = None,
    scale: float | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """softmax(scale query key' + relative) value.

    Kernels agree to 1e-6 of the values' size in fp32 and 2e-2 in bf16.

    Args:
        query: B H N E. H is a multiple of the keys' heads G: neighbours share a key and a value (Ainslie et al., 2023, https://arxiv.org/abs/2305.13245).
        key: B G M E.
        value: B G M E.
        mask: B M, True where a key is real. A row without any real key attends to all of them: finite, and nobody reads it.
        causal: query n sees the keys up to n only (N = M).
        window: keys that a query sees on each side of its own (N = M); 0 for all of them.
        relative: H N M, or B or 1, H or 1, N, M: to add to the scores.
        scale: of the products; None for 1 / sqrt(E).
        keep: B H N M dropout factors on the attention weights; computed explicitly.
    """
    kernel, dtype = pick_kernel(query.device.type, query.dtype, key.shape[2])
    explicit = kernel is Kernel.EXPLICIT or keep is not None
    ordered = causal and (explicit or mask is not None or window > 0 or relative is not None)  # else the kernel orders by itself
    bias = attention_bias(mask, ordered, key, dtype, window)
    if relative is not None:
        bias = relative.to(dtype) if bias is None else relative.to(dtype) + bias
    query, key, wide = query.to(dtype), key.to(dtype), value.to(dtype)
    # The type is chosen here: autocast on a CPU would choose again.
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        if explicit:
            return explicit_attention(query, key, wide, bias, keep, scale).to(value.dtype)
        grouped = query.shape[1] != key.shape[1]
        if bias is not None and bias.dim() == 3:
            bias = bias[None]
        mixed = F.scaled_dot_product_attention(query, key, wide, attn_mask=bias, is_causal=causal and bias is None, scale=scale, enable_gqa=grouped)
        return mixed.to(value.dtype)


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, keep: Tensor | None = None, scale: float | None = None) -> Tensor:
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    if scale != 1:
        query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    if grouped:  # the queries that share a key stand below each other: one product, and no copy of the keys
        query = rearrange(query, "b (g q) n e -> b g (q n) e", g=key.shape[1])
    scores = query @ key.transpose(-1, -2)  # B H N M
    if grouped:
        scores = rearrange(scores, "b g (q n) m -> b (g q) n m", q=heads // key.shape[1])
    weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
    if keep is not None:
        weights = weights * keep.to(weights.dtype)
    if not grouped:
        return weights @ value  # B H N E
    mixed = rearrange(weights, "b (g q) n m -> b g (q n) m", g=key.shape[1]) @ value
    return rearrange(mixed, "b g (q n) e -> b (g q) n e", q=heads // key.shape[1])


def attention_bias(mask: Tensor | None, causal: bool, key: Tensor, dtype: torch.dtype, window: int = 0) -> Tensor | None:
    """What to add to the scores, B or 1, 1, N or 1, M: 0 where a key may be seen, the type's lowest finite number elsewhere.

    The lowest finite number, not -inf: its weight is exactly 0 next to any real key, and a row without one stays finite.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    length = key.shape[2]
    window = window if window < length - 1 else 0  # a wider one leaves nothing out
    if causal or window:
        seen = torch.ones(length, length, dtype=torch.bool, device=key.device)
        seen = seen.tril(0 if causal else window)
        if window:
            seen = seen.triu(-window)
        allowed = seen[None, None] if allowed is None else allowed & seen
    if allowed is None:
        return None
    return torch.zeros((), dtype=dtype, device=key.device).masked_fill(~allowed, torch.finfo(dtype).min)


def stack_heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Three projections as one in the order of ``MultiHeadAttention.qkv``.

    Args:
        query: (G Q E) or (G Q E) D, Q queries for each key.
        key: (G E) or (G E) D.
        value: likewise.
        heads: G, of keys and values.

    Returns:
        (G (Q + 2) E) or (G (Q + 2) E) D.
    """
    return torch.cat([part.unflatten(0, (heads, -1)) for part in (query, key, value)], dim=1).flatten(0, 1)


def split_heads(stacked: Tensor, heads: int, shared: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """What ``stack_heads`` made one of, with ``shared`` queries Q for each key."""
    parts = stacked.unflatten(0, (heads, shared + 2, -1))
    query, key, value = parts[:, :shared], parts[:, shared], parts[:, shared + 1]
    return query.flatten(0, 2), key.flatten(0, 1), value.flatten(0, 1)


def takes_varlen(device: str, dtype: torch.dtype, width: int) -> bool:
    """Whether flash attention over items of unequal lengths takes these heads."""
    return device == "cuda" and dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, causal: bool, window: int = 0, scale: float | None = None) -> Tensor:
    """H T E, and G T E for keys and values: every position attends within its own item."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = query.shape[0] != key.shape[0]
    query, key, value = (rearrange(part, "h n e -> n h e").contiguous() for part in (query, key, value))
    side, longest = window or -1, packing.longest
    sides = (side, 0) if causal else (side, side)
    mixed = varlen_attn(query, key, value, packing.starts, packing.starts, longest, longest, window_size=sides, scale=scale, enable_gqa=grouped)
    assert isinstance(mixed, Tensor), "a tuple comes only where more is asked for"
    return rearrange(mixed, "n h e -> h n e")


class Scores(StrEnum):
    """What the products of queries and keys are multiplied by."""

    SCALED = "scaled"  # 1 / sqrt(E)
    PLAIN = "plain"  # 1, as in T5, whose initial weights make up for it


class MultiHeadAttention(Keyed):
    """Self-attention with several heads (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762).

    Args:
        dim: width D.
        heads: number of heads H of the queries.
        causal: a position sees itself and those before it only.
        bias: of the projections to queries, keys and values.
        dropout: probability of leaving out an attention weight.
        kv_heads: number of heads G of keys and values, which divides H; 0 for H.
        head_dim: width E of a head; 0 for D / H.
        out_bias: of the projection after the heads.
        window: positions that are seen on each side of a position's own; 0 for all.
        scores: scaled by 1 / sqrt(E), or plain.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        kv_heads: int = 0,
        head_dim: int = 0,
        out_bias: bool = True,
        window: int = 0,
        scores: Scores = Scores.SCALED,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, check_kv_heads(heads, kv_heads), head_dim or width_of_heads(dim, heads)
        if window < 0:
            raise ValueError(f"window={window} is negative; choose how many positions are seen on each side, or 0 for all")
        self.causal, self.window, self.dropout = causal, window, check_probability("attention_dropout", dropout)
        self.shared, self.scale = heads // self.kv_heads, None if scores is Scores.SCALED else 1.0
        self.qkv = nn.Linear(dim, (heads + 2 * self.kv_heads) * self.head_dim, bias=bias)
        self.proj = nn.Linear(heads * self.head_dim, dim, bias=out_bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        packing: Packing | None = None,
        relative: Tensor | None = None,
    ) -> Tensor:
        """B N D -> B N D.

        Args:
            x: B N D; packed 1 T D.
            mask: B N, True where real.
            rotation: cosines and sines of each position, N E each.
            packing: of the items in the one row of ``x``.
            relative: H N N, of the longest item if packed: to add to the scores.
        """
        qkv = self.qkv(x)
        if packing is not None:
            return self.proj(self.mix_packed(qkv, rotation, packing, relative))  # type: ignore[no-any-return]
        return self.proj(self.mix(qkv, mask, rotation, self.dropout_keys(qkv.shape[0]), relative))  # type: ignore[no-any-return]

    def parts(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B N (G (Q + 2) E) -> B H N E, and B G N E twice. The rows of one key stand together, so that a contiguous part of the matrix is whole heads."""
        if self.shared == 1:
            query, key, value = rearrange(qkv, "b n (h three e) -> three b h n e", three=3, e=self.head_dim)
            return query, key, value
        grouped = rearrange(qkv, "b n (g all e) -> b g all n e", all=self.shared + 2, e=self.head_dim)
        return grouped[:, :, : self.shared].flatten(1, 2), grouped[:, :, self.shared], grouped[:, :, self.shared + 1]

    def mix(self, qkv: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, keys: Tensor | None, relative: Tensor | None = None) -> Tensor:
        """B N (G (Q + 2) E) -> B N (H E)."""
        query, key, value = self.parts(qkv)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        keep = self.keep_weights(query, keys)
        own = None if relative is None else self.own_heads(relative, query.shape[1])
        mixed = attention(query, key, value, mask=mask, causal=self.causal, window=self.window, relative=own, scale=self.scale, keep=keep)
        return rearrange(mixed, "b h n e -> b n (h e)")

    def mix_packed(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing, relative: Tensor | None = None) -> Tensor:
        """1 T (G (Q + 2) E) -> 1 T (H E), each item by itself."""
        drops = self.training and self.dropout > 0
        if drops or relative is not None or not takes_varlen(qkv.device.type, qkv.dtype, self.head_dim):
            return self.mix_runs(qkv, rotation, packing, relative)
        query, key, value = self.parts(qkv)
        if rotation is not None:
            turn = rotation[0][packing.positions], rotation[1][packing.positions]
            query, key = rotate(query, turn), rotate(key, turn)
        mixed = varlen_attention(query[0], key[0], value[0], packing, causal=self.causal, window=self.window, scale=self.scale)
        return rearrange(mixed, "h n e -> 1 n (h e)")

    def mix_runs(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, packing: Packing, relative: Tensor | None = None) -> Tensor:
        """Neighbours of one length are rows of a batch without padding: views of the packed row, no mask, no gathering."""
        keys, mixed, place, item = self.dropout_keys(packing.mask.shape[0]), [], 0, 0
        for count, length in packing.runs:
            rows = qkv[:, place : place + count * length].view(count, length, qkv.shape[-1])
            turn = None if rotation is None else (rotation[0][:length], rotation[1][:length])
            near = None if relative is None else relative[:, :length, :length]
            own = None if keys is None else keys[packing.items[item : item + count]]
            mixed.append(self.mix(rows, None, turn, own, near).flatten(0, 1))
            place, item = place + count * length, item + count
        return torch.cat(mixed)[None]

    def extend(self, x: Tensor, cache: Cache, layer: int, places: Tensor, rotation: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Tensor:
        """New positions B N D of texts whose earlier ones are kept -> B N D.

        Args:
            x: B N D.
            cache: of all layers; these positions are kept there.
            layer: which of them this is.
            places: B or 1, N: where the new positions stand.
            rotation: cosines and sines at these places, B or 1, 1, N, E each.
            bias: to add to the scores, B or 1, H or 1, N, M; says too what is seen. None where all is.
        """
        query, key, value = self.parts(self.qkv(x))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        keys, values = cache.write(layer, key, value, places)
        mixed = attention(query, keys, values, relative=bias, scale=self.scale)
        return self.proj(rearrange(mixed, "b h n e -> b n (h e)"))  # type: ignore[no-any-return]

    def own_heads(self, relative: Tensor, heads: int) -> Tensor:
        """Of H N M, the heads that there are here: all of them, or this process's part."""
        return relative if self.part is None else relative.narrow(0, self.part.index * heads, heads)

    def dropout_keys(self, items: int) -> Tensor | None:
        """B int64; None where no attention weight is left out, or where torch's generator decides."""
        if not self.training or self.dropout == 0 or (random := current()) is None:
            return None
        return self.keys(random, items)

    def keep_weights(self, query: Tensor, keys: Tensor | None) -> Tensor | None:
        """Dropout factors for the heads that there are here: all of them, or this process's part."""
        if not self.training or self.dropout == 0:
            return None
        first = 0 if self.part is None else self.part.index * query.shape[1]
        return attention_factors(keys, query, query.shape[2], self.dropout, first)


def attention_factors(keys: Tensor | None, query: Tensor, length: int, p: float, first_head: int = 0) -> Tensor:
    """B H N M: dropout factors on attention weights.

    Args:
        keys: B, of the layer for these samples; None for torch's generator.
        query: B H N E.
        length: M.
        p: probability.
        first_head: of those that there are here.
    """
    batch, heads, queries, _ = query.shape
    if keys is None:
        return F.dropout(torch.ones(batch, heads, queries, length, dtype=query.dtype, device=query.device), p)
    return attention_keep_mask(keys, heads, queries, length, p, query.dtype, first_head)


def width_of_heads(dim: int, heads: int) -> int:
    """E = D / H.

    Raises:
        ValueError: where H does not divide D.
    """
    if heads < 1 or dim % heads:
        legal = ", ".join(str(count) for count in range(1, dim + 1) if dim % count == 0)
        raise ValueError(f"dim={dim} is no multiple of heads={heads}; heads that divide it: {legal}")
    return dim // heads


def check_kv_heads(heads: int, kv_heads: int) -> int:
    """G, where 0 stands for H.

    Raises:
        ValueError: where it does not divide H.
    """
    found = kv_heads or heads
    if found < 1 or heads % found:
        legal = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise ValueError(f"kv_heads={kv_heads} does not divide heads={heads}; choose one of {legal}, or 0 for as many as heads")
    return found
