"""What a process holds of each tensor, as plain tensors: optimizer, averages, norms and checkpoints work on these.

torch's sharded tensors (DTensor) stay where they belong, in the model's forward and backward pass. The update of an element needs that element
alone, so that the optimizer runs on each process's part with the plain kernels: no dispatch through DTensor, and no mixture of meshes.

Importing DTensor takes half as long as importing torch, and a run that shards nothing does without it: hence the imports inside functions.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

from zoo.errors import ConfigError
from zoo.parallel.collectives import everyone

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Piece:
    """A contiguous part of a tensor.

    Args:
        whole: shape of the tensor.
        shape: of the part; a process may hold nothing of a small tensor.
        offset: of the part's first element in each dimension.
        copies: processes that hold the same part.
        owner: whether this process is the one of them that writes it down.
    """

    whole: tuple[int, ...]
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    copies: int
    owner: bool


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is torch's DTensor; asked without importing that."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's part, sharing memory; the tensor itself where it is whole."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state by name, as far as it is here; writing to it writes to the model."""
    return {name: local(tensor.detach()) for name, tensor in model.state_dict().items()}


def pieces(model: nn.Module, grid: "DeviceMesh | None") -> dict[str, Piece]:
    """Which part of each sharded tensor this process holds, by name; tensors that are whole on every process are not in it."""
    if grid is None:
        return {}
    return {name: piece_of(tensor, grid) for name, tensor in model.state_dict().items() if is_sharded(tensor)}


def piece_of(tensor: Any, grid: "DeviceMesh") -> Piece:
    """Args:
    tensor: a DTensor on some axes of the grid.
    grid: all axes of the run.
    """
    shape, offset = bounds(tensor)
    names, places = tensor.device_mesh.mesh_dim_names, grid.get_coordinate()
    assert names is not None
    assert places is not None
    cut = {name for name, placement in zip(names, tensor.placements, strict=True) if not placement.is_replicate()}
    others = [axis for axis, name in enumerate(grid.mesh_dim_names or ()) if name not in cut]
    return Piece(tuple(tensor.shape), tuple(shape), tuple(offset), prod(grid.size(axis) for axis in others), all(places[axis] == 0 for axis in others))


def bounds(tensor: "DTensor") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and offset of this process's part."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)


def part_of(whole: Tensor, like: Any) -> Tensor:
    """What of a whole tensor this process holds of ``like``."""
    if not is_sharded(like):
        return whole
    shape, offset = bounds(like)
    return whole[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]


def whole_state(model: nn.Module, grid: "DeviceMesh | None") -> dict[str, Tensor]:
    """The model's state as plain tensors on the CPU, put together one by one; every process calls this and gets it."""
    held = pieces(model, grid)
    return {name: put_together(tensor, held.get(name)).to("cpu", copy=True) for name, tensor in local_state(model).items()}


def put_together(part: Tensor, piece: Piece | None) -> Tensor:
    """The whole tensor from all processes' parts of it: each owner's in its place, and the sum over processes."""
    if piece is None:
        return part
    whole = torch.zeros(piece.whole, dtype=part.dtype, device=part.device)
    if piece.owner:
        whole[tuple(slice(start, start + size) for start, size in zip(piece.offset, piece.shape, strict=True))] = part
    return everyone().sum(whole)


ELEMENTWISE = (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad)
"""Optimizers whose update of an element depends on that element's gradients alone."""


def check_elementwise(optimizer: optim.Optimizer) -> None:
    """Whether the update of each element depends on that element's gradients alone.

    Raises:
        ConfigError: where it may not.
    """
    if type(optimizer) not in ELEMENTWISE:
        raise ConfigError(
            "optimizer",
            f"{type(optimizer).__name__} may need whole tensors for its update, and parameters are sharded",
            "an optimizer that works on each element alone: optimizer=adamw|adam|sgd|rmsprop|adagrad",
            "parallel=ddp",
        )


def localise(optimizer: optim.Optimizer) -> dict[int, nn.Parameter]:
    """Have an optimizer that has not stepped yet update each process's part of sharded parameters.

    Args:
        optimizer: over the model's parameters.

    Returns:
        ``id`` of each part -> the parameter that it is of.

    Raises:
        ConfigError: where an update needs whole tensors (their norm, their rows).
    """
    check_elementwise(optimizer)
    owners: dict[int, nn.Parameter] = {}
    for entry in optimizer.param_groups:
        parts = []
        for parameter in entry["params"]:
            part = parameter
            if is_sharded(parameter):
                part = nn.Parameter(parameter.to_local(), requires_grad=parameter.requires_grad)
                if parameter in optimizer.state:
                    state = optimizer.state.pop(parameter)
                    optimizer.state[part] = {key: local(value) if isinstance(value, Tensor) else value for key, value in state.items()}
            owners[id(part)] = parameter
            parts.append(part)
        entry["params"] = parts
    return owners


def squared_norm(gradients: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Sum of squares over all processes' parts, each element once.

    Args:
        gradients: this process's parts, and how many processes hold the same part.
    """
    by_copies: Mapping[int, list[Tensor]] = defaultdict(list)
    for gradient, copies in gradients:
        by_copies[copies].append(gradient)
    total = None
    for copies, parts in by_copies.items():
        norms = torch.stack([norm.to(torch.promote_types(norm.dtype, torch.float32)) for norm in torch._foreach_norm(parts)])
        term = norms.square().sum() / copies
        total = term if total is None else total + term
    assert total is not None
    return everyone().sum(total)
