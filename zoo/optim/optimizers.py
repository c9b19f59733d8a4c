"""Optimizers: torch's with their full options, and every one of timm's by name.

They are fused by default: one kernel over all parameters takes .75 of the time of a small MLP's step and .9 of a Transformer's.
"""

from enum import StrEnum

import torch
from torch import optim

from zoo.errors import did_you_mean
from zoo.optim.groups import ParameterGroups
from zoo.registry import OPTIMIZERS


class Kernel(StrEnum):
    FUSED = "fused"
    FOREACH = "foreach"
    LOOP = "loop"


def _kernel(kernel: Kernel) -> dict[str, bool]:
    return {"fused": kernel is Kernel.FUSED} if kernel is Kernel.FUSED else {"foreach": kernel is Kernel.FOREACH}


@OPTIMIZERS.register("sgd")
def sgd(
    *,
    groups: ParameterGroups,
    lr: float = 0.1,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    kernel: Kernel = Kernel.FUSED,
) -> optim.Optimizer:
    """Stochastic gradient descent with momentum (Sutskever et al., 2013, "On the importance of initialization and momentum in deep learning").

    Args:
        groups: filled from the model.
        lr: learning rate at the schedule's 1.0.
        momentum: share of the last update that is kept; 0 is plain descent.
        dampening: share of the gradient that does not enter the momentum.
        weight_decay: added to the gradient of matrices; norms, biases and embeddings are spared.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening 0.
        kernel: how torch runs it: fused (with dampening foreach), foreach or loop; the same numbers but for rounding.
    """
    if kernel is Kernel.FUSED and dampening:
        kernel = Kernel.FOREACH
    optimizer = optim.SGD(groups.split(weight_decay), lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov, **_kernel(kernel))
    if kernel is Kernel.FUSED and momentum:
        optimizer.register_step_pre_hook(_make_momentum)
    return optimizer


def _make_momentum(optimizer: optim.Optimizer, *_: object) -> None:
    """Zeros for parameters that have their first gradient now: their first momentum is that gradient, as in the other kernels.

    torch's fused kernel refuses parameters with a momentum beside others without one, as thawed ones are, and leaves memory as it found it for those
    whose first update is left out.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@OPTIMIZERS.register("adam")
def adam(
    *,
    groups: ParameterGroups,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    kernel: Kernel = Kernel.FUSED,
) -> optim.Optimizer:
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980).

    Args:
        groups: filled from the model.
        lr: learning rate at the schedule's 1.0.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the root of the second, so that it never divides by zero.
        weight_decay: added to the gradient of matrices (L2), where the running means rescale it; adamw keeps it apart.
        amsgrad: divide by the largest second moment so far (Reddi et al., 2018).
        kernel: how torch runs it: fused, foreach or loop; the same numbers but for rounding.
    """
    return optim.Adam(groups.split(weight_decay), lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, **_kernel(kernel))


@OPTIMIZERS.register("adamw")
def adamw(
    *,
    groups: ParameterGroups,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
    kernel: Kernel = Kernel.FUSED,
) -> optim.Optimizer:
    """Adam with weight decay of its own (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101).

    Args:
        groups: filled from the model.
        lr: learning rate at the schedule's 1.0.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the root of the second, so that it never divides by zero.
        weight_decay: times the learning rate, taken off matrices at each step; norms, biases and embeddings are spared.
        amsgrad: divide by the largest second moment so far (Reddi et al., 2018).
        kernel: how torch runs it: fused, foreach or loop; the same numbers but for rounding.
    """
    return optim.AdamW(groups.split(weight_decay), lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, **_kernel(kernel))


WITHOUT = ("lookahead_*", "bnb*", "fused*", "kron*")
"""Not offered: wrappers with a state of their own, those that need apex or bitsandbytes, and Kron, whose state is no table of tensors."""


class UnfusedKernel(StrEnum):
    FOREACH = "foreach"
    LOOP = "loop"


@OPTIMIZERS.register("rmsprop")
def rmsprop(
    *,
    groups: ParameterGroups,
    lr: float = 1e-3,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    kernel: UnfusedKernel = UnfusedKernel.FOREACH,
) -> optim.Optimizer:
    """RMSprop (Tieleman and Hinton, 2012, lecture 6.5 of "Neural Networks for Machine Learning").

    Args:
        groups: filled from the model.
        lr: learning rate at the schedule's 1.0.
        alpha: decay of the running mean of squared gradients.
        eps: added to its root, so that it never divides by zero.
        weight_decay: added to the gradient of matrices; norms, biases and embeddings are spared.
        momentum: share of the last update that is kept.
        centered: divide by the standard deviation instead of the root mean square (Graves, 2013).
        kernel: how torch runs it: foreach or loop; torch has no fused one.
    """
    foreach = kernel is UnfusedKernel.FOREACH
    return optim.RMSprop(groups.split(weight_decay), lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered, foreach=foreach)


@OPTIMIZERS.register("adagrad")
def adagrad(
    *,
    groups: ParameterGroups,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    initial_accumulator: float = 0.0,
    kernel: Kernel = Kernel.FUSED,
) -> optim.Optimizer:
    """Adagrad (Duchi et al., 2011, https://jmlr.org/papers/v12/duchi11a.html).

    Args:
        groups: filled from the model.
        lr: learning rate at the schedule's 1.0.
        lr_decay: the rate is divided by 1 + lr_decay * steps, on top of the schedule.
        eps: added to the root of the sum of squares, so that it never divides by zero.
        weight_decay: added to the gradient of matrices; norms, biases and embeddings are spared.
        initial_accumulator: where the sum of squares starts.
        kernel: how torch runs it: fused, foreach or loop; the same numbers but for rounding.
    """
    return optim.Adagrad(groups.split(weight_decay), lr=lr, lr_decay=lr_decay, eps=eps, initial_accumulator_value=initial_accumulator, **_kernel(kernel))


@OPTIMIZERS.register("timm")
def timm_optimizer(
    *,
    groups: ParameterGroups,
    optimizer: str = "nadamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    options: dict[str, float | int | bool | str | list[float] | None] = {},  # noqa: B006  (never changed; defaults are literals, they are read from source)
) -> optim.Optimizer:
    """Any optimizer of timm by its name: lamb, lion, muon, adopt, adafactor, nadamw, prodigy ... (https://huggingface.co/docs/timm/reference/optimizers).

    Args:
        groups: filled from the model.
        optimizer: timm's name; `python -c "import timm.optim; print(timm.optim.list_optimizers())"` lists them.
        lr: learning rate at the schedule's 1.0.
        weight_decay: as the optimizer defines it; norms, biases and embeddings are spared.
        momentum: for those that have one.
        options: further arguments of the optimizer itself, e.g. {betas: [0.9, 0.95]}.
    """
    try:
        from timm import optim as timm
    except ImportError as error:
        raise ValueError("optimizer timm needs the timm package: pip install 'zoo-ml[timm]'") from error
    known = timm.list_optimizers(exclude_filters=WITHOUT)
    if optimizer not in known:
        raise ValueError(f"optimizer={optimizer!r} is none of timm's; {did_you_mean(optimizer, known)}")
    extra = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        built: optim.Optimizer = timm.create_optimizer_v2(
            groups.split(weight_decay), opt=optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum, **extra
        )
    except TypeError as error:
        raise ValueError(f"options={options}: timm's {optimizer} does not take them: {error}") from error
    if getattr(built, "is_second_order", False):
        raise ValueError(
            f"optimizer={optimizer!r} needs second derivatives, which the trainer does not make; way out: a first-order one, e.g. optimizer=nadamw"
        )
    return built
