"""Two processes with one thread each (gloo) against one process with two threads, and against torch's own DistributedDataParallel.

    python tools/bench/gloo.py [--models mlp64,vit,bert] [--rounds 7] [--steps N] [--json FILE]

Everyone trains equal models with equal global batches, kept in memory, with fused AdamW, clipping and a schedule. zoo's runs are its whole trainer with its
loader; the DDP loop is the leanest that there is (``tools/bench/trainer.py``'s raw loop around ``DistributedDataParallel``). All processes are there from
the start and wait; each way trains its own segment in each round, so that the machine's drift hits all alike. Figures are medians of segment
times against those of one process with two threads of the same round, with quartiles. Exits with 1 where two processes of zoo take longer than
those of DDP beyond the quartiles, or, with the ViT and the BERT, more than 1 / 1.6 of one process with one thread.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.figures import markdown, quartiles, use_this_tree, verdict

use_this_tree()
GAIN = 1.6
"""Of two processes with a thread each over one with one thread; for models whose step is long enough to be worth sharing."""
LONG = ("vit", "bert")
context = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Way:
    """Processes, threads of each, and what trains in them."""

    processes: int
    threads: int
    ddp: bool = False


WAYS = {
    "zoo, 1 process x 2 threads": Way(1, 2),
    "zoo, 1 process x 1 thread": Way(1, 1),
    "zoo, 2 processes x 1 thread": Way(2, 1),
    "torch DDP, 2 processes x 1 thread": Way(2, 1, ddp=True),
}
BASE, ALONE, OURS, THEIRS = WAYS


def ddp_segment(model: Any, x: Any, y: Any, size: int, total: int, rank: int, world: int) -> Callable[[int], None]:
    """The raw loop with this rank's rows of each global batch."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from tools.bench.models import batches, lean_loop

    torch.manual_seed(0)  # the same order of rows on every rank
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return lean_loop(model, wrapped, batches(x, y, size), total, slice(size * rank // world, size * (rank + 1) // world))


def rank_main(pipe: Connection, way: Way, rank: int, folder: str, case: str, total: int) -> None:
    """Builds its part, says so, then trains as many steps as it is told; 0 ends it."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    import torch
    from torch import distributed

    from tools.bench.models import CASES
    from tools.bench.zoo_side import zoo
    from zoo.parallel.layout import degrees
    from zoo.parallel.mesh import make_mesh
    from zoo.settings import ParallelSettings

    torch.set_num_threads(way.threads)
    if way.processes > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=way.processes)
    torch.manual_seed(0)
    make, inputs, size, _ = CASES[case]
    x = inputs(max(2048, size * 64) if case.startswith("mlp") else size * 32)
    y, model = torch.randint(0, 10, (len(x),)), make()
    if way.ddp:
        segment = ddp_segment(model, x, y, size, total, rank, way.processes)
    else:
        segment = zoo(model, x, y, size, total, make_mesh(degrees(ParallelSettings(), way.processes), torch.device("cpu")))
    pipe.send(0.0)
    while steps := pipe.recv():
        if way.processes > 1:
            distributed.barrier()
        begun = time.perf_counter()
        segment(steps)
        pipe.send(time.perf_counter() - begun)
    if way.processes > 1:
        distributed.destroy_process_group()


def measure(case: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a step of each way, by round."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as name:
        ranks: dict[str, list[tuple[Connection, Any]]] = {}
        for number, (way, how) in enumerate(WAYS.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            ranks[way] = []
            for rank in range(how.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=rank_main, args=(theirs, how, rank, str(folder), case, steps * (rounds + 2)), daemon=True)
                process.start()
                theirs.close()
                ranks[way].append((ours, process))
        for members in ranks.values():
            for pipe, _ in members:
                pipe.recv()
        for number in range(rounds + 1):
            for way in list(WAYS) if number % 2 else list(WAYS)[::-1]:
                for pipe, _ in ranks[way]:
                    pipe.send(steps)
                seconds = max(pipe.recv() for pipe, _ in ranks[way])
                if number:  # the first round warms up
                    times[way].append(seconds / steps * 1e3)
        for members in ranks.values():
            for pipe, _ in members:
                pipe.send(0)
            for _, process in members:
                process.join(30)
    return times


def beyond(case: str, times: dict[str, list[float]]) -> list[str]:
    problems = []
    low, middle, high = quartiles([a / b for a, b in zip(times[OURS], times[THEIRS], strict=True)])
    if low > 1:
        problems.append(f"{case}: zoo takes {middle:.3f} of DDP's time ({low:.3f} to {high:.3f})")
    gain = quartiles([a / b for a, b in zip(times[ALONE], times[OURS], strict=True)])
    if case in LONG and gain[1] < GAIN:
        limit = quartiles([a / b for a, b in zip(times[ALONE], times[THEIRS], strict=True)])[1]
        problems.append(f"{case}: two processes are {gain[1]:.2f} times as fast as one with one thread, {GAIN} are wanted; torch's DDP: {limit:.2f}")
    return problems


def main() -> int:
    from tools.bench.models import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mlp64,vit,bert", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a segment, instead of each model's own number")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    context.set_forkserver_preload(["torch._dynamo", "tools.bench.zoo_side"])
    everything, problems, rows = {}, [], []
    for case in options.models.split(","):
        times = everything[case] = measure(case, options.rounds, options.steps or CASES[case][3])
        for way in WAYS:
            low, middle, high = quartiles([b / a for a, b in zip(times[way], times[BASE], strict=True)])
            alone = quartiles([b / a for a, b in zip(times[way], times[ALONE], strict=True)])
            rows.append(
                [
                    case,
                    way,
                    f"{quartiles(times[way])[1]:.3f}",
                    f"{middle:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{alone[1]:.2f}",
                    f"{alone[0]:.2f} to {alone[2]:.2f}",
                ]
            )
        print(f"{case}: batch {CASES[case][2]}, {options.rounds} rounds of {options.steps or CASES[case][3]} steps", flush=True)
        problems += beyond(case, times)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    heads = ["model", "way", "median ms", "speed against 1 x 2 threads", "quartiles", "against 1 x 1 thread", "quartiles"]
    print("\n" + markdown(heads, rows))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
