"""Tensor parallelism (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053), with sequence parallelism (Korthikanti et al., 2022,
https://arxiv.org/abs/2205.05198), applied from outside to blocks that say how their matrices may be cut.

A block names its cuts: ``tensor_cuts = {"attention.qkv": Cut.COLUMNS, "attention.proj": Cut.ROWS, ...}``. A matrix cut by columns gives each
process a part of its outputs, one cut by rows takes such a part and gives a sum. Everything else is held, and computed, by each process of the
tensor group alike; with ``sequence`` the norms and dropouts between the matrices work on a share of the positions each.

Letters: B items, N positions, D width, T processes of a tensor group.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import functional as F

from zoo.errors import ConfigError
from zoo.layers.cuts import Along, Cut, Part
from zoo.layers.dropout import Keyed
from zoo.parallel.layout import divisors


def cut_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Blocks that can be shared, with their names."""
    return [(name, module) for name, module in model.named_modules() if getattr(module, "tensor_cuts", None)]


def check_tensor(model: nn.Module, tensor: int) -> None:
    """Whether every matrix that is to be shared divides by ``tensor``.

    Raises:
        ConfigError: with the degrees that are possible.
    """
    if tensor == 1:
        return
    blocks = cut_blocks(model)
    if not blocks:
        raise ConfigError(
            "parallel.tensor",
            f"{tensor} processes could share Transformer blocks, and this model has none",
            "parallel.tensor=1; its rows and parameters can be shared: parallel=ddp, parallel=fsdp",
            "an encoder of Transformer blocks: vit, transformer",
        )
    for name, block in blocks:
        for what, count in block.tensor_units().items():  # type: ignore[operator]
            if count % tensor:
                legal = [degree for degree in divisors(count) if all(other % degree == 0 for _, one in blocks for other in one.tensor_units().values())]  # type: ignore[operator]
                raise ConfigError("parallel.tensor", f"{tensor} does not divide the {count} {what} of {name}", f"parallel.tensor={'|'.join(map(str, legal))}")


def share_tensors(model: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
    """Cut the blocks' matrices over the tensor group. Parameters become DTensors; on the meta device nothing is moved.

    Args:
        model: on any device.
        mesh: of the tensor group.
        sequence: share the positions between the matrices as well.
    """
    place, size = mesh.get_local_rank(), mesh.size()
    for stack in _stacks(model):
        shared = Positions(mesh) if sequence else None
        for number, block in enumerate(stack):
            plan: dict[str, ParallelStyle] = {}
            for name, cut in block.tensor_cuts.items():  # type: ignore[operator, union-attr]
                match cut:
                    case Cut.COLUMNS:
                        plan[name] = ColwiseParallel(input_layouts=Shard(1) if sequence else Replicate())
                    case Cut.ROWS:
                        plan[name] = RowwiseParallel(output_layouts=Shard(1) if sequence else Replicate())
                    case Cut.POSITIONS if sequence:
                        plan[name] = SequenceParallel(use_local_output=True)
            parallelize_module(block, mesh, plan)
            for name, module in block.named_modules():
                if isinstance(module, Keyed):
                    along = block.tensor_parts.get(name)  # type: ignore[operator, union-attr]
                    module.part = Part(along, place, size) if along is not None and (sequence or along is not Along.POSITIONS) else None
            if shared is not None:
                block.register_forward_pre_hook(shared.enter if number == 0 else shared.adapt, with_kwargs=False)
            block.register_forward_pre_hook(partial(_sum_bias, mesh))
        if shared is not None:
            stack[-1].register_forward_hook(shared.leave)


def _stacks(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Lists of consecutive blocks that can be shared."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(getattr(block, "tensor_cuts", None) for block in module):
            yield list(module)


class Positions:
    """Shares the positions of a stack of blocks: split before the first, whole again after the last. Their number is filled up to a multiple of T."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.length, self.filled = mesh, 0, 0

    def enter(self, block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = arguments
        self.length = x.shape[1]
        self.filled = -self.length % self.mesh.size()
        x = F.pad(x, (0, 0, 0, self.filled)) if self.filled else x
        return self.adapt(block, (_Split.apply(x, self.mesh), *rest))

    def adapt(self, block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002 - torch's hook
        """The filling is masked out, and has rotations and a bias. Packed rows are not shared."""
        x, *rest = arguments
        if not self.filled:
            return arguments
        mask: Tensor | None = rest[0] if rest else None
        if mask is None:
            mask = torch.ones(x.shape[0], self.length, dtype=torch.bool, device=x.device)
        rotation = rest[1] if len(rest) > 1 else None
        if rotation is not None:
            rotation = tuple(torch.cat([table, table[-1:].expand(self.filled, -1)]) for table in rotation)
        relative = rest[3] if len(rest) > 3 else None
        if relative is not None:
            relative = F.pad(relative, (0, self.filled, 0, self.filled))
        return x, F.pad(mask, (0, self.filled)), rotation, None, relative

    def leave(self, block: nn.Module, arguments: tuple[Any, ...], x: Tensor) -> Tensor:  # noqa: ARG002 - torch's hook
        whole: Tensor = _Join.apply(x, self.mesh)
        return whole[:, : self.length].contiguous() if self.filled else whole


RELATIVE = 4
"""Place of the bias of the scores among a block's arguments."""


def _sum_bias(mesh: DeviceMesh, block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001 - torch's hook
    """Each process adds its heads' part of a bias to the scores, so that each has a part of its gradient."""
    if len(arguments) <= RELATIVE or arguments[RELATIVE] is None:
        return arguments
    return (*arguments[:RELATIVE], _Used.apply(arguments[RELATIVE], mesh), *arguments[RELATIVE + 1 :])


class _Used(torch.autograd.Function):
    """A value that every process has, and of which each uses a part; what comes before it needs the gradient of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.contiguous()
        distributed.all_reduce(whole, group=ctx.mesh.get_group())
        return whole, None


class _Split(torch.autograd.Function):
    """This process's share of the positions; what comes before is computed by all alike, so each needs the whole gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        return x.chunk(mesh.size(), dim=1)[mesh.get_local_rank()].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather(gradient, ctx.mesh), None


class _Join(torch.autograd.Function):
    """All positions on every process; what follows is computed by all alike, so each takes its share of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        return _gather(x, mesh)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.chunk(ctx.mesh.size(), dim=1)[ctx.mesh.get_local_rank()].contiguous(), None


def _gather(x: Tensor, mesh: DeviceMesh) -> Tensor:
    pieces = [torch.empty_like(x) for _ in range(mesh.size())]
    distributed.all_gather(pieces, x.contiguous(), group=mesh.get_group())
    return torch.cat(pieces, dim=1)
