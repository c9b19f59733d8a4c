"""What devices can do, each figure with its source. No torch here, but for measuring this machine's CPU.

Rates are in FLOP a second, memory in bytes, bandwidths in bytes a second and one direction.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from zoo.errors import ConfigError, did_you_mean

TERA, GIGA = 1e12, 1e9
GIB = 2**30

H100_SHEET = "NVIDIA H100 data sheet, SXM, dense rates: https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
H200_SHEET = "NVIDIA H200 data sheet, SXM, dense rates: https://nvdam.widen.net/s/nb5zzzsjdf/hpc-datasheet-sc23-h200-datasheet-3002446"
A100_SHEET = "NVIDIA A100 data sheet, SXM 80 GB: https://www.nvidia.com/en-us/data-center/a100/"
GRAND_TETON = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, section Hardware: 96 GB HBM2e at 2.4 TB/s, 500 W, 400 Gb/s of network a GPU"
MAMF = "best product measured, https://github.com/stas00/ml-engineering/tree/master/compute/accelerator (maximum achievable matmul FLOPS)"
NETWORK = "one 400 Gb/s port a GPU, as in NVIDIA's DGX H100"
NETWORK_A100 = "one 200 Gb/s port a GPU, as in NVIDIA's DGX A100"
FLASH_H100 = "FlashAttention-2 reaches .35 of an H100's peak (FlashAttention-3, abstract, https://arxiv.org/abs/2407.08608)"
FLASH_A100 = "FlashAttention-2 reaches .50 to .73 of an A100's peak (abstract, https://arxiv.org/abs/2307.08691); the middle"


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or the CPU that a process has.

    Args:
        name: as in ``--device``.
        peak: FLOP/s by type: fp32 (without TF32), bf16, float8; the denominator of MFU is bf16's, or fp32's in fp32.
        products: share of the peak that the best matrix product reaches.
        attention: share of the peak that the fused attention kernel reaches.
        memory: bytes.
        bandwidth: of the memory.
        link: to the devices of the same node.
        network: of one device to other nodes.
        per_node: devices of a node.
        launches: whether the device waits while the host prepares a kernel (a CPU does), or runs beside it.
        sources: where the figures come from, by field.
    """

    name: str
    peak: dict[str, float]
    products: float
    attention: float
    memory: float
    bandwidth: float
    link: float
    network: float
    per_node: int = 8
    launches: bool = False
    sources: dict[str, str] = field(default_factory=dict)


_HOPPER = {"fp32": 67 * TERA, "bf16": 989.4 * TERA, "float8": 1978.9 * TERA}

H100 = Device(
    name="h100",
    peak=_HOPPER,
    products=0.801,
    attention=0.35,
    memory=80 * GIGA,
    bandwidth=3.35 * TERA,
    link=450 * GIGA,
    network=50 * GIGA,
    sources={"peak, memory, bandwidth, link": H100_SHEET, "products": f"792.1 of 989 TFLOP/s: {MAMF}", "attention": FLASH_H100, "network": NETWORK},
)
H100_500W = Device(
    name="h100_500w",
    peak=_HOPPER,
    products=0.61,
    attention=0.35,
    memory=96 * GIB,
    bandwidth=2.4 * TERA,
    link=450 * GIGA,
    network=50 * GIGA,
    sources={
        "peak, link": H100_SHEET,
        "memory, bandwidth, network": GRAND_TETON,
        "products": "FITTED to torchtitan's 5,762 tokens/s a GPU (Llama 3.1 8B, 8 GPUs, FSDP): the power limit has no published rate",
        "attention": FLASH_H100,
    },
)
H200 = Device(
    name="h200",
    peak=_HOPPER,
    products=0.801,
    attention=0.35,
    memory=141 * GIGA,
    bandwidth=4.8 * TERA,
    link=450 * GIGA,
    network=50 * GIGA,
    sources={
        "peak, memory, bandwidth, link": H200_SHEET,
        "products": f"the H100's, whose processor it has: {MAMF}",
        "attention": FLASH_H100,
        "network": NETWORK,
    },
)
A100 = Device(
    name="a100",
    peak={"fp32": 19.5 * TERA, "bf16": 312 * TERA},
    products=0.859,
    attention=0.615,
    memory=80 * GIGA,
    bandwidth=2.039 * TERA,
    link=300 * GIGA,
    network=25 * GIGA,
    sources={"peak, memory, bandwidth, link": A100_SHEET, "products": f"267.9 of 312 TFLOP/s: {MAMF}", "attention": FLASH_A100, "network": NETWORK_A100},
)
DEVICES = {device.name: device for device in (H100, H100_500W, H200, A100)}
MEASURED = "cpu"


def find_device(name: str) -> Device:
    """A device by name; ``cpu`` measures this machine's.

    Raises:
        ConfigError: for a name that is not in the table.
    """
    folded = name.lower().replace("-", "_")
    if folded == MEASURED:
        return measure_cpu()
    if folded not in DEVICES:
        known = [*DEVICES, MEASURED]
        raise ConfigError("--device", f"{name!r} is not in the device table; {did_you_mean(folded, known)}", f"one of {', '.join(known)}")
    return DEVICES[folded]


def measure_cpu() -> Device:
    """This process's CPU: products of 1024 x 1024, a copy past the caches; about a second. Links are memory, for want of better."""
    import os
    from functools import partial
    from time import perf_counter

    import torch

    from zoo.layers.attention import cpu_has_bf16

    def best(action: Callable[[], object], rounds: int = 5) -> float:
        times = []
        for _ in range(rounds):
            start = perf_counter()
            action()
            times.append(perf_counter() - start)
        return min(times)

    side = 1024
    rates: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and not cpu_has_bf16():
            rates["bf16"] = rates["fp32"]  # zoo multiplies in fp32 there
            continue
        matrix = torch.ones(side, side, dtype=dtype)
        rates[name] = 2 * side**3 / best(partial(torch.matmul, matrix, matrix))
    block = torch.ones(2**24)
    other = torch.empty_like(block)
    bandwidth = 2 * block.numel() * 4 / best(lambda: other.copy_(block))
    here = f"measured now, {torch.get_num_threads()} threads"
    return Device(
        name=MEASURED,
        peak=rates,
        products=1.0,
        attention=0.5,
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        bandwidth=bandwidth,
        link=bandwidth / 4,
        network=1.25 * GIGA,
        launches=True,
        sources={
            "peak, memory, bandwidth": here,
            "attention": "assumed",
            "link": "assumed: a collective between processes copies each byte in and out of shared memory",
            "network": "assumed: 10 Gb/s",
        },
    )
