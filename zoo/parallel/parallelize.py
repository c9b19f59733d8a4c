"""Parallelism from outside, in one fixed order: tensor parallel -> recomputation -> compilation -> FSDP2. DDP is a sum of gradients (``gradients``).

A model that is sharded is made on the meta device, cut, given memory for this process's parts only, and then filled, tensor by tensor, with what
the first process has built the ordinary way: the same weights as in a single process, whatever the layout.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn

from zoo.model import Model
from zoo.parallel.mesh import REPLICA, SHARD, TENSOR, Mesh
from zoo.parallel.recompute import recompute_blocks, repeated
from zoo.parallel.sharding import local, part_of
from zoo.settings import MemoryFormat, ParallelSettings, TrainerSettings


def place(build: Callable[[], Model], skeleton: Model, mesh: Mesh, device: torch.device, trainer: TrainerSettings, parallel: ParallelSettings) -> Model:
    """A model on its device and, where the run is sharded, this process's part of it.

    Args:
        build: makes the whole model on the CPU, with its weights.
        skeleton: the same on the meta device; what is given back where the run is sharded.
        mesh: of the run.
        device: of this process.
        trainer: recomputation, compilation, memory format.
        parallel: what is shared.
    """
    if not mesh.degrees.sharded:
        model = build().to(device)
        if trainer.memory_format is MemoryFormat.CHANNELS_LAST:
            model.to(memory_format=torch.channels_last)
        apply(model, mesh, trainer, parallel)
        return model
    source = build() if mesh.world.main else None
    apply(skeleton, mesh, trainer, parallel)
    fill(skeleton, source, torch.device("cpu") if parallel.offload else device, device)
    return skeleton


def apply(model: Model, mesh: Mesh, trainer: TrainerSettings, parallel: ParallelSettings) -> None:
    """The fixed order."""
    if mesh.degrees.tensor > 1:
        from zoo.parallel.tensor import share_tensors  # brings DTensor, which other runs do without

        share_tensors(model, mesh.axis(TENSOR), sequence=parallel.sequence)
    recompute_blocks(model, trainer.recompute, trainer.recompute_every)
    if trainer.compile:
        compile_blocks(model)
    if mesh.degrees.shards > 1:
        shard(model, mesh, parallel)


def compile_blocks(model: Model) -> None:
    """Each repeated block, so that one compilation serves all of them; the whole model where it names none."""
    for module in repeated(model) or [model]:
        module.compile()


def shard(model: Model, mesh: Mesh, parallel: ParallelSettings) -> None:
    """FSDP2: each repeated block by itself, and what is left with the whole model. Gradients are summed, not averaged.

    Parameters are gathered as they are, in fp32, and cast by autocast as in every other layout: gathering bf16 halves the traffic, but then norms,
    embeddings and the residual stream are bf16 in this layout only. A parameter that no row of any process used has a gradient of zeros, not none.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    grid = mesh.axis(REPLICA, SHARD) if mesh.degrees.replicas > 1 else mesh.axis(SHARD)
    options: dict[str, Any] = {
        "mesh": grid,
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.accelerator.is_available()) if parallel.offload else OffloadPolicy(),
    }
    units = [fully_shard(block, reshard_after_forward=parallel.reshard, **options) for block in repeated(model)]
    units.append(fully_shard(model, reshard_after_forward=False, **options))  # the loss and the backward pass need what is in it at once
    for unit in units:  # these two go no deeper by themselves
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    model.set_reduce_scatter_unused_params(True)  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            # Recurrent layers keep a list of their weights beside their attributes, which gathering replaces.
            module.register_forward_pre_hook(_refresh_weights)


def _refresh_weights(module: nn.Module, arguments: Any) -> None:  # noqa: ARG001 - torch's hook
    assert isinstance(module, nn.RNNBase)
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def sharded(model: nn.Module) -> bool:
    """Whether FSDP2 sums this model's gradients."""
    return hasattr(model, "set_requires_gradient_sync")


def fill(model: Model, source: Model | None, home: torch.device, device: torch.device) -> None:
    """Memory for this process's parts, and the first process's values in them.

    Args:
        model: on the meta device, cut.
        source: the whole model, on the first process.
        home: where parameters live.
        device: where the processes speak, and where buffers live.
    """
    model.to_empty(device=home)
    given = dict(source.named_parameters()) | dict(source.named_buffers()) if source is not None else {}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            whole = given[name].detach().to(device) if source is not None else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            distributed.broadcast(whole, src=0)
            local(tensor).copy_(part_of(whole, tensor))
    for module in model.modules():
        module._buffers.update({name: buffer.to(device) for name, buffer in module._buffers.items() if buffer is not None})
