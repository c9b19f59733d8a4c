"""What a step sends over the links, collective by collective. No torch here.

Bytes are what one device sends (and receives) in ring collectives: (n - 1) / n of what is gathered or scattered, twice that for an all-reduce
(https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
"""

from dataclasses import dataclass
from enum import StrEnum

from zoo.plan.devices import Device
from zoo.plan.layout import Layout, Strategy


class Collective(StrEnum):
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"


class Axis(StrEnum):
    TENSOR = "tensor"
    SHARD = "shard"
    REPLICATE = "replicate"
    DATA = "data"
    """All devices that see different samples: shard x replicate."""


class When(StrEnum):
    FORWARD = "forward"
    BACKWARD = "backward"
    AFTER = "after"


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """All collectives of one purpose in a step.

    Args:
        purpose: for people.
        collective: which.
        axis: between which devices.
        when: beside what it runs.
        size: bytes of what is gathered, scattered or reduced, summed over the step.
        group: devices that take part.
        calls: how many collectives.
        hidden: whether computation goes on beside it.
    """

    purpose: str
    collective: Collective
    axis: Axis
    when: When
    size: float
    group: int
    calls: int
    hidden: bool

    @property
    def bytes(self) -> float:
        """What one device sends."""
        return self.size * (self.group - 1) / self.group * (2 if self.collective is Collective.ALL_REDUCE else 1)


def transfers(
    layout: Layout,
    *,
    parameters: int,
    trained: int,
    blocks: int,
    micro_batches: int,
    gathered: int,
    block_input: float,
    recomputed: bool,
    gathers_again: bool,
    float8: bool,
    element: int,
    forwards: int = 1,
    compared: float = 0.0,
    tensors: int = 0,
) -> list[Transfer]:
    """The collectives of one optimizer step.

    Args:
        layout: of the devices.
        parameters: numbers in the whole model.
        trained: those with gradients.
        blocks: repeated blocks.
        micro_batches: that a step is accumulated from.
        gathered: bytes of a parameter as FSDP gathers it.
        block_input: bytes of a whole micro-batch at a block's entry.
        recomputed: whether blocks are computed again as a whole, up to what their last product needs.
        gathers_again: whether the sequence is gathered again in the backward pass (any checkpointing).
        float8: activations are cast before they are gathered.
        element: bytes of an activation's element.
        forwards: how often each micro-batch runs forward.
        compared: bytes of all rows' predictions and targets, where the loss compares them.
        tensors: in which they come.
    """
    found = []
    share = 1 / layout.tensor
    if layout.strategy is not Strategy.DDP and layout.shard > 1:
        size, calls = parameters * share * gathered * micro_batches, (blocks + 1) * micro_batches
        for when in (When.FORWARD, When.BACKWARD):
            times = forwards if when is When.FORWARD else 1
            found.append(_transfer("parameters", Collective.ALL_GATHER, Axis.SHARD, when, size * times, layout.shard, calls * times, True))
        size, calls = trained * share * 4, blocks + 1  # by the last micro-batch, of all
        found.append(_transfer("gradients", Collective.REDUCE_SCATTER, Axis.SHARD, When.BACKWARD, size, layout.shard, calls, True))
        if layout.replicate > 1:
            found.append(_transfer("gradients", Collective.ALL_REDUCE, Axis.REPLICATE, When.BACKWARD, size / layout.shard, layout.replicate, calls, True))
    elif layout.data > 1:
        found.append(_transfer("gradients", Collective.ALL_REDUCE, Axis.SHARD, When.AFTER, trained * share * 4, layout.data, 1, False))
    if layout.tensor > 1:
        passes = blocks * micro_batches
        narrow = block_input / element if float8 else block_input
        again_gather, again_scatter = (2 if gathers_again else 0), (1 if recomputed else 0)
        for when, gathers, scatters in ((When.FORWARD, 2 * forwards, 2 * forwards), (When.BACKWARD, 2 + again_gather, 2 + again_scatter)):
            found.append(_transfer("sequence", Collective.ALL_GATHER, Axis.TENSOR, when, narrow * gathers * passes, layout.tensor, gathers * passes, False))
            found.append(
                _transfer("sequence", Collective.REDUCE_SCATTER, Axis.TENSOR, when, block_input * scatters * passes, layout.tensor, scatters * passes, False)
            )
    if compared and layout.data > 1:
        found.append(_transfer("predictions", Collective.ALL_GATHER, Axis.DATA, When.FORWARD, compared, layout.data, tensors + 1, False))  # row counts first
    return found


def _transfer(purpose: str, collective: Collective, axis: Axis, when: When, size: float, group: int, calls: int, hidden: bool) -> Transfer:
    return Transfer(purpose=purpose, collective=collective, axis=axis, when=when, size=size, group=group, calls=calls, hidden=hidden)


def bandwidth(device: Device, layout: Layout, axis: Axis) -> float:
    """Bytes a second of a device's share in a ring, as the data sheet has it: the link within a node; between nodes the members' network ports together."""
    shard = layout.data if layout.strategy is Strategy.DDP else layout.shard
    size = {Axis.TENSOR: layout.tensor, Axis.SHARD: shard, Axis.REPLICATE: layout.replicate, Axis.DATA: layout.data}[axis]
    stride = {Axis.TENSOR: 1, Axis.SHARD: layout.tensor, Axis.REPLICATE: layout.tensor * layout.shard, Axis.DATA: layout.tensor}[axis]
    if size * stride <= device.per_node:
        return device.link
    members = max(1, device.per_node // stride)
    return min(device.link, device.network * members)
