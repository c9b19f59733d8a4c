"""Activation checkpointing (Chen et al., 2016, https://arxiv.org/abs/1604.06174) of a model's repeated blocks, from outside."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from zoo.settings import Recompute

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""What selective recomputation does not do twice: the operations that take the time."""


def repeated(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks that the model's parts name in ``repeats``, in order."""
    for module in model.modules():
        for name in getattr(module, "repeats", ()):
            yield from getattr(module, name)


def recompute_blocks(model: nn.Module, kind: Recompute, every: int) -> int:
    """Have every n-th block make its activations again in the backward pass; how many do.

    Keyed dropout draws the same masks again by itself; for layers that draw from torch's generator its state is restored.
    """
    if kind is Recompute.NONE:
        return 0
    contexts = partial(create_selective_checkpoint_contexts, _policy) if kind is Recompute.SELECTIVE else None
    chosen = list(repeated(model))[::every]
    for block in chosen:
        block.forward = _again(block.forward, contexts)  # names of parameters stay as they are
    return len(chosen)


def _again(forward: Callable[..., Any], contexts: Callable[[], Any] | None) -> Callable[..., Any]:
    options: dict[str, Any] = {"context_fn": contexts} if contexts is not None else {}

    def recomputed(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **options, **named)

    return recomputed


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:  # noqa: ARG001 - torch's signature
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
