"""How a model is laid out over devices, and which layouts are legal. No torch here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from zoo.errors import ConfigError
from zoo.parallel.layout import divisors


class Strategy(StrEnum):
    DDP = "ddp"
    FSDP = "fsdp"
    HSDP = "hsdp"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Degrees whose product is the number of devices: replicate x shard x tensor.

    Devices are numbered with ``tensor`` innermost, so that its groups stay within a node; then ``shard``; then ``replicate``.

    Args:
        strategy: ddp keeps everything on every device; fsdp shards parameters, gradients and optimizer over all devices that see
            different data; hsdp shards within groups and replicates over them.
        world: devices.
        tensor: devices that share every block's matrices, with the sequence sharded between them where they do not.
        replicate: groups that hsdp replicates over.
    """

    strategy: Strategy
    world: int
    tensor: int = 1
    replicate: int = 1

    @property
    def data(self) -> int:
        """Devices that see different samples."""
        return self.world // self.tensor

    @property
    def shard(self) -> int:
        """Devices that one copy of the parameters is spread over, beside ``tensor``."""
        return {Strategy.DDP: 1, Strategy.FSDP: self.data, Strategy.HSDP: self.data // self.replicate}[self.strategy]

    def __str__(self) -> str:
        degrees = [str(self.strategy) if self.data > 1 else "single", f"data {self.data}"]
        degrees += [f"replicate {self.replicate} x shard {self.shard}"] if self.strategy is Strategy.HSDP else []
        return ", ".join([*degrees, *([f"tensor {self.tensor}"] if self.tensor > 1 else [])])


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """What degrees have to divide.

    Args:
        heads: attention heads that a layer has, of queries and of keys, each count once.
        widths: of the blocks' linear layers, each once.
        positions: of a sequence; None where samples have none.
        blocks: repeated blocks.
    """

    heads: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    positions: int | None = None
    blocks: int = 0


def check_layout(layout: Layout, dimensions: Dimensions) -> None:
    """Refuse degrees that do not divide, with those that do.

    Raises:
        ConfigError: naming the degree, both numbers and the legal choices.
    """
    for flag, value in (("--world", layout.world), ("--tp", layout.tensor), ("--replicate", layout.replicate)):
        if value < 1:
            raise ConfigError(flag, f"{value} is no number of devices", f"{flag} 1 or more")
    legal = legal_tensor(layout.world, dimensions)
    if layout.tensor not in legal:
        raise ConfigError("--tp", f"{layout.tensor} {_why_not(layout, dimensions)}", f"legal here: --tp {'|'.join(map(str, legal))}")
    if layout.strategy is not Strategy.HSDP and layout.replicate != 1:
        raise ConfigError("--replicate", f"{layout.replicate} belongs to hsdp, and the strategy is {layout.strategy}", "--strategy hsdp", "--replicate 1")
    if layout.strategy is Strategy.HSDP and layout.replicate not in (choices := legal_replicate(layout)):
        ways = [f"legal here: --replicate {'|'.join(map(str, choices))}"] if choices else ["a larger --world, or a smaller --tp"]
        raise ConfigError(
            "--replicate",
            f"{layout.replicate} does not split the {layout.data} devices that see different data ({layout.world} / tensor {layout.tensor}) "
            "into 2 or more groups of 2 or more",
            *ways,
            "--strategy fsdp",
        )


def legal_tensor(world: int, dimensions: Dimensions) -> list[int]:
    """Tensor-parallel degrees that divide the devices, the heads, the widths and the sequence; 1 always."""
    if not dimensions.blocks or not dimensions.heads:
        return [1]
    parts = [*dimensions.heads, *dimensions.widths, *([dimensions.positions] if dimensions.positions else [])]
    return [degree for degree in divisors(world) if all(part % degree == 0 for part in parts)]


def legal_replicate(layout: Layout) -> list[int]:
    return [degree for degree in divisors(layout.data) if 1 < degree < layout.data]


def _why_not(layout: Layout, dimensions: Dimensions) -> str:
    if not dimensions.blocks or not dimensions.heads:
        return "needs a model with repeated Transformer blocks, and this one names none"
    problems = [f"the {layout.world} devices"] if layout.world % layout.tensor else []
    for label, parts in (("heads", dimensions.heads), ("widths", dimensions.widths), ("positions", (dimensions.positions or layout.tensor,))):
        if bad := [part for part in parts if part % layout.tensor]:
            problems.append(f"{' and '.join(map(str, bad))} {label}")
    return f"does not divide {', '.join(problems)}"


def legal_layouts(world: int, dimensions: Dimensions, strategies: Iterable[Strategy] = tuple(Strategy), per_node: int = 8) -> Sequence[Layout]:
    """Every legal layout of ``world`` devices, tensor-parallel groups within a node."""
    found = []
    for tensor in legal_tensor(world, dimensions):
        if tensor > per_node:
            continue
        for strategy in strategies:
            layout = Layout(strategy=strategy, world=world, tensor=tensor)
            if strategy is Strategy.HSDP:
                found += [Layout(strategy=strategy, world=world, tensor=tensor, replicate=degree) for degree in legal_replicate(layout)]
            elif strategy is Strategy.DDP or layout.data > 1 or tensor > 1:
                found.append(layout)
    return found
