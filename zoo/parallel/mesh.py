"""The processes of a run as a grid: replicas x shards x tensor."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from zoo.parallel.collectives import Group, everyone, use_data_group
from zoo.parallel.layout import Degrees

REPLICA, SHARD, TENSOR = "replica", "shard", "tensor"


@dataclass(frozen=True)
class Mesh:
    """Where this process stands.

    Args:
        degrees: of parallelism.
        world: all processes: files, signals, the end.
        data: those with other rows than this one, and itself: loader, counts, figures.
        grid: torch's mesh with the axes replica, shard and tensor; None where every process holds the whole model.
    """

    degrees: Degrees = field(default_factory=Degrees)
    world: Group = field(default_factory=Group)
    data: Group = field(default_factory=Group)
    grid: DeviceMesh | None = None

    def axis(self, *names: str) -> DeviceMesh:
        assert self.grid is not None
        return self.grid[names if len(names) > 1 else names[0]]


def replicated(group: Group) -> Mesh:
    """Every process holds the whole model."""
    return Mesh(Degrees(replicas=group.size), group, group)


def make_mesh(degrees: Degrees, device: torch.device) -> Mesh:
    """Every process calls this once the process group is there. Afterwards ``current_group()`` is the data group."""
    world = everyone()
    assert degrees.world == world.size, f"{degrees} in {world.size} processes"
    if not degrees.sharded:
        use_data_group(None)
        return replicated(world)
    grid = init_device_mesh(device.type, (degrees.replicas, degrees.shards, degrees.tensor), mesh_dim_names=(REPLICA, SHARD, TENSOR))
    data = world
    if degrees.tensor > 1:
        handle = _data_handle(degrees, world)
        data = Group(world.rank // degrees.tensor, degrees.data, handle)
    use_data_group(data)
    return Mesh(degrees, world, data, grid)


def _data_handle(degrees: Degrees, world: Group) -> Any:
    """The process group of those in the same place of their tensor groups; every process takes part in making every group."""
    own = None
    for place in range(degrees.tensor):
        handle = distributed.new_group([rank * degrees.tensor + place for rank in range(degrees.data)])
        if world.rank % degrees.tensor == place:
            own = handle
    return own
