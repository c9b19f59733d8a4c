"""Activation checkpointing of a model's repeated blocks, for the trace: torch's own, so that what is measured is what would run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from zoo.errors import ConfigError


class Checkpointing(StrEnum):
    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


_aten = torch.ops.aten
PRODUCTS = (_aten.mm.default, _aten.addmm.default)
KEPT = {
    *PRODUCTS,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
"""Operations whose results selective checkpointing keeps, but for every second matrix product (torchtitan's policy): dear to compute again."""


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that modules name in ``repeats``, in order."""
    named = [getattr(module, name) for module in model.modules() for name in getattr(module, "repeats", ())]
    return [block for blocks in named for block in blocks]


def apply_checkpointing(model: nn.Module, kind: Checkpointing, every: int = 1) -> None:
    """Wrap the blocks' ``forward`` in place.

    Args:
        model: names its blocks in ``repeats``.
        kind: none; full, which keeps a block's input alone; or selective, which also keeps what is dear to compute again.
        every: wraps the first of each ``every`` blocks.

    Raises:
        ConfigError: where there are no blocks to wrap.
    """
    if kind is Checkpointing.NONE:
        return
    blocks = repeated_blocks(model)
    if not blocks:
        raise ConfigError("--checkpoint", f"{kind}, but the model names no repeated blocks", "--checkpoint none", "an encoder with `repeats` (CONTRIBUTING.md)")
    for block in blocks[::every]:
        contexts: dict[str, Any] = {} if kind is Checkpointing.FULL else {"context_fn": _selective}
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **contexts)


def _selective() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    contexts: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = create_selective_checkpoint_contexts(_policy())
    return contexts


def _policy() -> Callable[..., CheckpointPolicy]:
    products = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        keep = operation in KEPT
        if operation in PRODUCTS:
            products[context.is_recompute] += 1
            keep = products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy
