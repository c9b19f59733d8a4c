"""How many processes hold what: degrees of parallelism, checked against the number of processes. Imports no torch."""

import os
from dataclasses import dataclass

from zoo.errors import ConfigError
from zoo.settings import ParallelSettings, Strategy


@dataclass(frozen=True)
class Degrees:
    """Processes = replicas x shards x tensor; the last varies fastest, so that a tensor group sits on one machine.

    Args:
        replicas: groups that hold the whole model, each its own rows.
        shards: processes that hold a share of each parameter, each its own rows.
        tensor: processes that share each matrix of a block, and see the same rows.
    """

    replicas: int = 1
    shards: int = 1
    tensor: int = 1

    @property
    def data(self) -> int:
        """Groups that see different rows."""
        return self.replicas * self.shards

    @property
    def world(self) -> int:
        return self.data * self.tensor

    @property
    def sharded(self) -> bool:
        """Whether any process holds less than the whole model."""
        return self.shards * self.tensor > 1


def world_size(settings: ParallelSettings) -> int:
    """Processes of the run: what torchrun started, or what zoo is going to start."""
    return max(settings.processes, int(os.environ.get("WORLD_SIZE", "1")))


def degrees(settings: ParallelSettings, world: int) -> Degrees:
    """Who holds what.

    Raises:
        ConfigError: where the degrees do not divide the number of processes; with those that do.
    """
    if world % settings.tensor:
        raise ConfigError(
            "parallel.tensor",
            f"{settings.tensor} processes to a block do not divide {world} processes",
            f"parallel.tensor={'|'.join(map(str, divisors(world)))}",
            f"parallel.processes={-(-world // settings.tensor) * settings.tensor}",
        )
    data = world // settings.tensor
    if settings.strategy is Strategy.DDP:
        return Degrees(replicas=data, tensor=settings.tensor)
    if data % settings.replicas:
        raise ConfigError(
            "parallel.replicas",
            f"{settings.replicas} copies of a sharded model do not divide {data} processes"
            + (f" ({world} / parallel.tensor={settings.tensor})" if settings.tensor > 1 else ""),
            f"parallel.replicas={'|'.join(map(str, divisors(data)))}",
        )
    found = Degrees(replicas=settings.replicas, shards=data // settings.replicas, tensor=settings.tensor)
    if found.shards == 1 and (settings.offload or settings.replicas > 1):
        raise ConfigError(
            "parallel.offload" if settings.offload else "parallel.replicas",
            f"{world} processes are {found.replicas} copies of one shard each: nothing is sharded, and this option would do nothing",
            f"parallel.processes={2 * world}",
            "parallel=ddp" if data > 1 else "parallel=single",
        )
    return found


def divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
