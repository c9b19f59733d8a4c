"""zoo plan against published runs: ``python tools/plan_published.py``. No device is needed."""

import argparse
from dataclasses import dataclass

from zoo.cli.output import say, table
from zoo.plan.devices import DEVICES, GIB
from zoo.plan.layout import Layout, Strategy
from zoo.plan.planner import Choices, Plan, plan
from zoo.plan.shapes import TransformerShape
from zoo.plan.workload import Workload, of_shape
from zoo.settings import Recompute

SHAPES = {
    "llama3_8b": TransformerShape(layers=32, dim=4096, heads=32, kv_heads=8, hidden=14336, vocab=128256, sequence=8192),
    "llama3_70b": TransformerShape(layers=80, dim=8192, heads=64, kv_heads=8, hidden=28672, vocab=128256, sequence=8192),
    "llama2_13b": TransformerShape(layers=40, dim=5120, heads=40, kv_heads=40, hidden=13824, vocab=32000, sequence=4096),
    "llama2_70b": TransformerShape(layers=80, dim=8192, heads=64, kv_heads=8, hidden=28672, vocab=32000, sequence=4096),
}
"""Llama 3: table 3 of https://arxiv.org/abs/2407.21783; Llama 2: https://arxiv.org/abs/2307.09288 and the published configurations."""

H100_RUNS = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, tables 1, 3 and 4; https://arxiv.org/abs/2410.06511"
A100_RUNS = "torchtitan, docs/performance.md of 2024"
H200_RUNS = "torchtitan, benchmarks/llama3_8b_h200_2025-06_torchtitan.md"


@dataclass(frozen=True)
class Run:
    """A published run: tokens a second and GPU, and GiB that the allocator had reserved where that was told."""

    shape: str
    device: str
    world: int
    local_batch: int
    tensor: int
    checkpointing: Recompute
    compiled: bool
    float8: bool
    tokens: float
    gib: float | None
    source: str
    fitted: str = ""
    every: int = 1


NONE, SELECTIVE, FULL = Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL
SEVEN = (
    Run("llama3_8b", "h100_500w", 8, 2, 1, SELECTIVE, False, False, 5762, 82.4, H100_RUNS, "products of h100_500w"),
    Run("llama3_8b", "h100_500w", 8, 2, 1, SELECTIVE, True, False, 6667, 77.0, H100_RUNS),
    Run("llama3_8b", "h100_500w", 8, 2, 1, SELECTIVE, True, True, 8532, 76.8, H100_RUNS, "float8"),
    Run("llama3_8b", "h100_500w", 128, 2, 1, SELECTIVE, False, False, 5605, 67.0, H100_RUNS),
    Run("llama3_8b", "h100_500w", 128, 2, 1, SELECTIVE, True, False, 6514, 62.0, H100_RUNS),
    Run("llama3_8b", "h100_500w", 128, 2, 1, SELECTIVE, True, True, 8380, 61.8, H100_RUNS),
    Run("llama3_70b", "h100_500w", 256, 16, 8, FULL, True, True, 829, 71.9, H100_RUNS),
)
OTHERS = (
    Run("llama3_8b", "a100", 64, 1, 1, SELECTIVE, False, False, 2973, None, A100_RUNS, "products"),
    Run("llama3_8b", "a100", 64, 1, 1, FULL, False, False, 2904, None, A100_RUNS, every=2),
    Run("llama3_70b", "a100", 64, 1, 1, FULL, False, False, 331, None, A100_RUNS),
    Run("llama2_13b", "a100", 64, 2, 1, NONE, False, False, 2162, None, A100_RUNS),
    Run("llama2_13b", "a100", 64, 2, 1, FULL, False, False, 1914, None, A100_RUNS, every=2),
    Run("llama2_13b", "a100", 64, 2, 1, SELECTIVE, False, False, 1904, None, A100_RUNS),
    Run("llama2_70b", "a100", 64, 1, 1, SELECTIVE, False, False, 355, None, A100_RUNS),
    Run("llama2_70b", "a100", 64, 2, 1, FULL, False, False, 353, None, A100_RUNS),
    Run("llama3_8b", "h200", 32, 2, 1, SELECTIVE, True, True, 10938, 48.0, H200_RUNS),
    Run("llama3_8b", "h200", 64, 2, 1, SELECTIVE, True, True, 10753, 47.0, H200_RUNS),
)

_workloads: dict[str, Workload] = {}


def predicted(run: Run) -> Plan:
    if run.shape not in _workloads:
        _workloads[run.shape] = of_shape(SHAPES[run.shape], run.shape)
    layout = Layout(strategy=Strategy.FSDP, world=run.world, tensor=run.tensor)
    choices = Choices(
        layout=layout,
        batch=run.local_batch * layout.data,
        bf16=True,
        float8=run.float8,
        compiled=run.compiled,
        checkpointing=run.checkpointing,
        every=run.every,
    )
    return plan(_workloads[run.shape], DEVICES[run.device], choices)


def row(run: Run) -> list[object]:
    made = predicted(run)
    tokens = made.rate_per_device
    name = f"{run.shape}, {run.world} {run.device}"
    how = ", ".join([f"FSDP{f' x TP {run.tensor}' if run.tensor > 1 else ''}", f"{run.checkpointing}{f' 1/{run.every}' if run.every > 1 else ''}"])
    how += ", compile" * run.compiled + ", float8" * run.float8
    memory = f"{made.memory.total / GIB:.1f} / {run.gib}" if run.gib else f"{made.memory.total / GIB:.1f}"
    return [name, how, round(tokens), round(run.tokens), f"{100 * (tokens / run.tokens - 1):+.1f} %", f"{100 * made.prediction.mfu:.1f} %", memory, run.fitted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="also the runs that no constant was chosen for, on A100 and H200")
    parser.add_argument("--parts", action="store_true", help="seconds by what takes them")
    options = parser.parse_args()
    runs = SEVEN + (OTHERS if options.all else ())
    heads = ["run", "how", "predicted", "published", "error", "MFU", "GiB predicted / reserved", "fitted here"]
    say("tokens a second and GPU\n")
    say(table([row(run) for run in runs], heads))
    say("\n" + "\n".join(sorted({run.source for run in runs})))
    if options.parts:
        for run in runs:
            made = predicted(run)
            parts = ", ".join(f"{name} {seconds:.3f}" for name, seconds in made.prediction.parts.items())
            memory = ", ".join(f"{name} {size / GIB:.1f}" for name, size in made.memory.to_dict().items())
            say(f"{run.shape} {run.world} {run.device}: {made.prediction.seconds:.3f} s: {parts}; GiB: {memory}")


if __name__ == "__main__":
    main()
