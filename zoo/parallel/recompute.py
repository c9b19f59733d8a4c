"""Activation checkpointing (Chen et al., 2016, https://arxiv.org/abs/1604.06174) of a model's repeated blocks, from outside.

``zoo plan`` traces the same functions, so that what it measures is what runs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from zoo.errors import ConfigError
from zoo.settings import Recompute

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
"""Operations whose results selective recomputation keeps, but for every second matrix product (torchtitan's policy): dear to compute again."""


def repeated(model: nn.Module) -> list[nn.Module]:
    """The blocks that the model's parts name in ``repeats``, in order."""
    named = [getattr(module, name) for module in model.modules() for name in getattr(module, "repeats", ())]
    return [block for blocks in named for block in blocks]


def check_recompute(model: nn.Module, kind: Recompute, path: str = "trainer.recompute") -> None:
    """Whether there are blocks whose activations could be made again.

    Raises:
        ConfigError: where the model names none.
    """
    if kind is not Recompute.NONE and not repeated(model):
        raise ConfigError(
            path,
            f"{kind}, but the model names no repeated blocks whose activations could be made again",
            "none",
            "an encoder with `repeats` (CONTRIBUTING.md)",
            "trainer.accumulate=2 or more takes less memory as well",
        )


def recompute_blocks(model: nn.Module, kind: Recompute, every: int = 1, *, keep_generator: bool = True) -> None:
    """Have blocks make their activations again in the backward pass; wraps their ``forward`` in place, so that names stay as they are.

    Args:
        model: names its blocks in ``repeats``.
        kind: none; full, which keeps a block's input alone; or selective, which also keeps what is dear to compute again.
        every: the first of each ``every`` blocks.
        keep_generator: have layers that draw from torch's generator draw the same again; keyed ones do so by themselves.

    Raises:
        ConfigError: where there are no blocks to wrap.
    """
    check_recompute(model, kind)
    if kind is Recompute.NONE:
        return
    for block in repeated(model)[::every]:
        options: dict[str, Any] = {} if kind is Recompute.FULL else {"context_fn": _selective}
        block.forward = _again(block.forward, {"preserve_rng_state": keep_generator, **options})


def _again(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def recomputed(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **options, **named)

    return recomputed


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
