"""How long a step takes: every matrix product at its rate, everything else at the memory's, the links where they are not hidden. No torch here.

The constants are few and stand here with their sources. Those that are fitted say to which published figure; all others are data sheets,
other people's measurements, or said to be assumed.
"""

from dataclasses import dataclass, field

from zoo.plan.communication import Axis, Transfer, When, bandwidth
from zoo.plan.devices import Device
from zoo.plan.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What no data sheet says.

    Args:
        products: rate of a step's matrix products over the device's best one.
        float8: rate of float8 products over bf16 ones, casts apart.
        stream: share of the memory's bandwidth that elementwise kernels reach.
        links: share of a link's bandwidth that collectives reach.
        latency: seconds of a collective of next to nothing.
        host: seconds that the host needs for a kernel, forward and backward alike.
        host_compiled: the same from compiled code.
    """

    products: float = 0.754
    float8: float = 1.62
    stream: float = 0.9
    links: float = 0.82
    latency: float = 40e-6
    host: float = 8e-6
    host_compiled: float = 4e-6


CONSTANTS = Constants()
SOURCES = {
    "products": "FITTED to torchtitan's 2,973 tokens/s a GPU (Llama 3 8B, 64 A100, FSDP, selective checkpointing; docs/performance.md of 2024)",
    "float8": "FITTED to torchtitan's 8,532 tokens/s a GPU (Llama 3.1 8B, 8 H100, FSDP, compile, float8)",
    "stream": "assumed: what stream benchmarks reach on such memories",
    "links": "367.6 of 450 GB/s, 8 GPUs, ring: github.com/stas00/ml-engineering, network/benchmarks/results/all-reduce-8xH200.md; the network is assumed alike",
    "latency": "32 KiB over 8 GPUs at .82 GB/s, from the same table",
    "host": "assumed; only steps of a few milliseconds feel it",
    "host_compiled": "assumed, as host",
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A step of all devices.

    Args:
        seconds: of an optimizer step.
        parts: seconds of it by what takes them.
        samples_per_second: of all devices.
        tokens_per_second: of all devices; None where samples have no positions.
        mfu: the model's FLOPs over what all devices could have done; checkpointing's second computation does not count.
    """

    seconds: float
    parts: dict[str, float]
    samples_per_second: float
    tokens_per_second: float | None
    mfu: float


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Seconds of one micro-batch on one device, by phase, and kernels.

    Args:
        products: of matrix products.
        attention: of attention.
        memory: of everything else.
        kernels: how many.
    """

    products: dict[When, float] = field(default_factory=dict)
    attention: dict[When, float] = field(default_factory=dict)
    memory: dict[When, float] = field(default_factory=dict)
    kernels: int = 0

    def of(self, when: When) -> float:
        return self.products[when] + self.attention[when] + self.memory[when]


def link_seconds(transfer: Transfer, device: Device, layout: Layout, constants: Constants = CONSTANTS) -> float:
    return transfer.bytes / (bandwidth(device, layout, transfer.axis) * constants.links) + transfer.calls * constants.latency


def step_seconds(
    compute: Compute,
    moved: list[Transfer],
    *,
    device: Device,
    layout: Layout,
    micro_batches: int,
    update_bytes: float,
    update_kernels: int,
    compiled: bool,
    blocks: int,
    constants: Constants = CONSTANTS,
    once: Compute | None = None,
) -> dict[str, float]:
    """Seconds of an optimizer step, by what takes them; they add up.

    Collectives of parameters and gradients run beside the computation of their pass; what is longer than it, and the first gather and
    the last scatter, which nothing runs beside, are exposed. What is computed ``once`` a step, over all micro-batches' rows, is a part of its own.
    """
    kinds = ("products", "attention", "memory")
    parts = {name: sum(getattr(compute, name).values()) * micro_batches for name in kinds}
    if once is not None:
        parts["comparison"] = sum(sum(getattr(once, name).values()) for name in kinds)
    parts["update"] = update_bytes / (device.bandwidth * constants.stream)
    host = (compute.kernels * micro_batches + (once.kernels if once else 0)) * (
        constants.host_compiled if compiled else constants.host
    ) + update_kernels * constants.host
    computing = sum(parts.values())
    parts["host"] = host if device.launches else max(0.0, host - computing)
    for axis in Axis:
        exposed = 0.0
        for when in When:
            here = [transfer for transfer in moved if transfer.axis is axis and transfer.when is when]
            hidden = sum(link_seconds(transfer, device, layout, constants) for transfer in here if transfer.hidden)
            exposed += sum(link_seconds(transfer, device, layout, constants) for transfer in here if not transfer.hidden)
            if hidden:
                beside = compute.of(when) * micro_batches
                exposed += max(0.0, hidden - beside) + hidden / ((blocks + 1) * micro_batches)
        if exposed:
            parts[f"links ({axis})"] = exposed
    return parts
