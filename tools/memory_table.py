"""Peak memory of real steps of a 12-block Transformer, against ``zoo plan``'s prediction.

    python tools/memory_table.py [--cases "none;selective;full;ddp2;fsdp2;fsdp4"] [--dim 256] [--batch 32] [--length 128] [--depth 12] [--steps 2]

A text classifier on rows of ``--length`` bytes, ``--batch`` rows a process; at the default sizes 1 to 2 GB, of which activations are most. One process
with trainer.recompute none, selective and full; DDP on 2 and FSDP2 on 2 and 4 processes, each process measured by itself, the largest told.

What is measured is what torch's allocator has handed out: its own record (``torch.profiler``'s memory events) from before the model is built to the end
of the last step, summed up, and the largest sum within that step. Resident memory would count the libraries, the allocator's hoard and
whatever a product's kernel takes for itself, and depends on the system's malloc; it is told beside (largest resident size in the last
step less that before the model was built, with glibc made to give large blocks back), since a machine has to have it. Exits with 1 where
the prediction is off by more than 10 %.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, use_this_tree, verdict

use_this_tree()
os.environ.setdefault("OMP_NUM_THREADS", "1")
# One arena, and every block from 64 KiB on a mapping of its own, which goes back to the system when it is freed.
os.environ |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000", "MALLOC_TRIM_THRESHOLD_": "65536"}

BOUND = 0.10
MIB = 2**20
FSDP = ["parallel.strategy=fsdp"]
CASES: dict[str, tuple[int, list[str]]] = {
    "none": (1, []),
    "selective": (1, ["trainer.recompute=selective"]),
    "full": (1, ["trainer.recompute=full"]),
    "ddp2": (2, []),
    "fsdp2": (2, FSDP),
    "fsdp4": (4, FSDP),
    "fsdp2, full": (2, [*FSDP, "trainer.recompute=full"]),
    "fsdp2, accumulated": (2, [*FSDP, "trainer.accumulate=4"]),
    "tensor2": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
}
"""Processes and overrides."""


def resident(what: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def measured(rank: int, world: int, overrides: list[str], steps: int) -> dict[str, Any]:
    """On one rank: bytes at the peak of the last of some steps."""
    from torch.profiler import ProfilerActivity, profile, record_function

    from tests.layouts import make_trainer

    del rank, world
    before = resident("VmRSS")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = make_trainer([*overrides, f"trainer.max_steps={steps}"])
        trainer.model.train()
        step = trainer.step
        for number, parts in zip(range(steps), trainer.train, strict=False):
            if number == steps - 1:
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            with record_function(f"zoo step {number}"):
                step(parts, number, step.counts(parts, False)[0])
            del parts
        most = resident("VmHWM")
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # type: ignore[union-attr]
    begin = next(event.start_ns() for event in events if event.name() == f"zoo step {steps - 1}")
    now = peak = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now) if event.start_ns() >= begin else now
    return {"allocated": peak, "resident": most - before}


def predicted(overrides: list[str], world: int) -> Any:
    """What ``zoo plan`` says of one process of this run."""
    from zoo.checks import check
    from zoo.cli.plan import make, parse
    from zoo.compose import compose

    options = parse([*overrides, "--device", "cpu", "--world", str(world)])
    return make(check(compose([*overrides, f"parallel.processes={world}"])), options).memory


def write_texts(folder: Path, rows: int, length: int) -> Path:
    path = folder / "texts.csv"
    path.write_text("text,label\n" + "".join(f"{row} {'ab ' * length},{'yes' if row % 2 else 'no'}\n" for row in range(rows)))
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="none;selective;full;ddp2;fsdp2;fsdp4", help=f"separated by semicolons, of {'; '.join(CASES)}")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32, help="rows of each process")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="the last one is measured; the optimizer's states come with the first")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    cases = options.cases.split(";")
    if unknown := [case for case in cases if case not in CASES]:
        parser.error(f"--cases: {', '.join(unknown)}; there are {'; '.join(CASES)}")
    from tests.processes import run_ranks

    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler's remarks
    rows, problems = [], []
    for case in cases:
        world, more = CASES[case]
        with tempfile.TemporaryDirectory() as folder:
            batch = options.batch * world
            texts = write_texts(Path(folder), 100 + 4 * batch, options.length)
            overrides = [
                "data=table", f"data.path={texts}", "data.text=text", "data.target=label", "data/tokenizer=byte", f"data.max_length={options.length}",
                f"data.batch_size={batch}", "logger=none", "model/encoder=transformer", f"model.encoder.dim={options.dim}",
                f"model.encoder.depth={options.depth}", f"model.encoder.heads={max(1, options.dim // 64)}", *more, *options.overrides,
            ]  # fmt: skip
            plan = predicted(overrides, world)
            found = run_ranks(measured, world, overrides, options.steps, timeout=560)
        allocated = max(one["allocated"] for one in found)
        error = plan.total / allocated - 1
        kept = plan.parameters + plan.gradients + plan.optimizer
        largest = max(one["resident"] for one in found)
        shown = [f"{size / MIB:.1f}" for size in (plan.total, kept, plan.activations, plan.gathered, allocated)]
        rows.append([case, world, *shown, f"{100 * error:+.1f} %", f"{largest / MIB:.0f}"])
        print(f"{case}: planned {plan.total / MIB:.1f} MiB, allocated {allocated / MIB:.1f} MiB, {100 * error:+.1f} %", flush=True)
        if abs(error) > BOUND:
            problems.append(f"{case}: planned {plan.total / MIB:.1f} MiB, allocated {allocated / MIB:.1f} MiB")
    heads = ["run", "processes", "planned MiB", "of it kept", "activations", "gathered", "allocated MiB", "error", "resident MiB"]
    print("\n" + markdown(heads, rows))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
