"""One more position through a Transformer block on a CPU, with as little between the products as can be.

A step of a small model costs more in calls than in arithmetic: here the block's own weights are taken out of their modules once, and what is left are the
operations themselves, the same as ``TransformerBlock.extend`` does. Blocks with parts that this does not know (adapters, shares of a tensor, biases on
scores, int8 weights) go the usual way.

Letters: B rows, D width, G heads of keys and values, Q queries of each, M places, E width of a head.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.attention import MultiHeadAttention
from zoo.layers.cache import KeyValues
from zoo.layers.feedforward import FeedForward
from zoo.layers.norm import RMSNorm
from zoo.layers.position import rotate
from zoo.layers.transformer import NormPlacement, TransformerBlock

Step = Callable[[Tensor, KeyValues, int, tuple[Tensor, Tensor] | None], Tensor]
"""B 1 D, what is kept of the layer, the new position's place, and its rotation -> B 1 D."""


def lean_steps(blocks: Iterable[nn.Module]) -> list[Step] | None:
    """A function for each block; None where one of them has to go the usual way."""
    found: list[Step] = []
    for block in blocks:
        step = lean_step(block)
        if step is None:
            return None
        found.append(step)
    return found


def lean_step(block: nn.Module) -> Step | None:
    """One block's; None where it has a part that is not known here."""
    if type(block) is not TransformerBlock or type(block.attention) is not MultiHeadAttention or type(block.mlp) is not FeedForward:
        return None
    attention, mlp, parts = block.attention, block.mlp, list(block.modules())
    linear = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
    plain = all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu" for layer in linear)
    known = type(block.scale1) is type(block.scale2) is nn.Identity and attention.part is None
    if not plain or not known or any(part._forward_hooks or part._forward_pre_hooks for part in parts) or block.training:
        return None
    first, second = norm_of(block.norm1), norm_of(block.norm2)
    if first is None or second is None:
        return None
    attend, transform = attending(attention), transforming(mlp)

    def before(x: Tensor, kept: KeyValues, place: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + attend(first(x), kept, place, rotation)
        return x + transform(second(x))

    def after(x: Tensor, kept: KeyValues, place: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = first(x + attend(x, kept, place, rotation))
        return second(x + transform(x))

    return before if block.placement is NormPlacement.PRE else after


def norm_of(norm: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A norm without the module's call; None for a kind that is not known."""
    if type(norm) is nn.LayerNorm:
        shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    return norm.forward if type(norm) in (RMSNorm, nn.Identity) else None


def attending(attention: MultiHeadAttention) -> Step:
    """Attention of one position to all that are kept, itself included."""
    weight, bias, out_weight, out_bias = attention.qkv.weight, attention.qkv.bias, attention.proj.weight, attention.proj.bias
    groups, shared, width, window = attention.kv_heads, attention.shared, attention.head_dim, attention.window
    scale = width**-0.5 if attention.scale is None else attention.scale

    def attend(x: Tensor, kept: KeyValues, place: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        rows = x.shape[0]
        heads = F.linear(x, weight, bias).view(rows, groups, shared + 2, width)
        query, key = heads[:, :, :shared], heads[:, :, shared : shared + 1]  # B G Q E, B G 1 E
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        kept.keys[:, :, place] = key[:, :, 0]
        kept.values[:, :, place] = heads[:, :, shared + 1]
        start = max(0, place - window) if window else 0
        scores = (query * scale) @ kept.keys[:, :, start : place + 1].transpose(-1, -2)  # B G Q M
        mixed = scores.softmax(dim=-1) @ kept.values[:, :, start : place + 1]
        return F.linear(mixed.reshape(rows, 1, -1), out_weight, out_bias)

    return attend


def transforming(mlp: FeedForward) -> Callable[[Tensor], Tensor]:
    """The two linear layers, or three, nothing left out."""
    weight, bias, out_weight, out_bias = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias
    activation: Any = mlp.activation.forward

    def transform(x: Tensor) -> Tensor:
        return F.linear(activation(F.linear(x, weight, bias)), out_weight, out_bias)

    def gated(x: Tensor) -> Tensor:
        gate, hidden = F.linear(x, weight, bias).unflatten(-1, (-1, 2)).unbind(dim=-1)
        return F.linear(activation(gate) * hidden, out_weight, out_bias)

    return gated if mlp.gated else transform
