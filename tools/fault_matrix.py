"""Kills a run again and again, and shows that it ends in the same bits as if nothing had happened.

    python tools/fault_matrix.py [--kills 20] [--terms 20] [--processes 1,2] [--seed 0] [override ...]

A small run on the digits (shuffled, accumulated over two micro-batches, EMA, dropout, loader workers, a checkpoint every three steps) is made
once without a fault. Then it is made again, with SIGKILL at a random moment of training, every other time as soon as a save has begun; with
two processes the signal goes to one rank, chosen at random, and the other has to leave by itself. And with SIGTERM to one rank, which has to
save and leave with exit code 0. Each is gone on with until it ends. Weights, moments, averages, the published bundle, the log's rows and the
figures are compared with those of the run without a fault.

Processes are forked from a server that has imported everything, so that a trial takes seconds; apart from that,
and from the pictures at the end, they are what `zoo train` starts.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
os.environ.setdefault("OMP_NUM_THREADS", "1")

RUN = [
    "logger=none", "data.batch_size=32", "data.workers=1", "trainer.max_steps=75", "trainer.accumulate=2", "trainer.ema=0.98", "trainer.checkpoint_every=3",
    "trainer.eval_every=30", "trainer.log_every=5", "model/encoder=vit_tiny", "model.encoder.patch_size=2", "model.encoder.depth=2", "model.encoder.dim=32",
]  # fmt: skip
SAVING = ".new-*"
context = multiprocessing.get_context("forkserver")


def rank_main(run_dir: str, rank: int, world: int, port: int) -> None:
    """One rank, as ``zoo.parallel.worker`` runs it."""
    errors = os.open(Path(run_dir) / f"stderr_{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    os.dup2(errors, 1)
    if world > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="localhost", MASTER_PORT=str(port)
        )
    # Children of the server would start their own the server's way, importing everything anew; those of `zoo train` are forked.
    multiprocessing.set_start_method("fork", force=True)
    import zoo.training.job
    from zoo.parallel.worker import main

    zoo.training.job.plot_run = lambda *_, **__: []  # type: ignore[assignment]  # the pictures take longer than the run
    code = main(Path(run_dir))
    os._exit(code)


@dataclass
class Ranks:
    """The processes of one attempt."""

    run_dir: Path
    world: int
    processes: list[Any] = field(default_factory=list)

    def start(self) -> "Ranks":
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.processes = [context.Process(target=rank_main, args=(str(self.run_dir), rank, self.world, port)) for rank in range(self.world)]
        for process in self.processes:
            process.start()
        return self

    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def wait(self, seconds: float) -> list[int | None]:
        """Exit codes; whoever is still there afterwards is ended, and has None."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        return codes


def new_run(folder: Path, name: str, overrides: list[str]) -> Path:
    from zoo.compose import Composer

    run_dir = folder / name
    run_dir.mkdir()
    with Composer() as composer:
        config = composer.run_config(composer.compose(overrides), overrides)
    config.save(run_dir / "config.yaml")
    return run_dir


def results(run_dir: Path) -> dict[str, Any]:
    """All that has to be equal."""
    from zoo.training.checkpoint import newest_checkpoint
    from zoo.training.logging import repeatable

    checkpoint, messages = newest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    assert not messages
    marker = json.loads((checkpoint.folder / "complete.json").read_text())["files"]
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return {
        "step": checkpoint.step,
        "tensors": {name: entry["sha256"] for name, entry in marker.items() if name.endswith(".safetensors")},
        "bundle": (run_dir / "bundle" / "model.safetensors").read_bytes(),
        "metrics": json.loads((run_dir / "result.json").read_text())["metrics"],
        "rows": [repeatable(row) for row in rows],
    }


def steps_logged(run_dir: Path) -> int:
    log = run_dir / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def trial(run_dir: Path, world: int, kind: str, moment: float, chance: random.Random, during_save: bool, saves_before: int) -> dict[str, Any]:
    """Start, strike, go on. ``moment``: seconds after the first row."""
    ranks = Ranks(run_dir, world).start()
    while ranks.alive() and steps_logged(run_dir) == 0:
        time.sleep(0.005)
    if during_save:  # as soon as a save has begun, after a number of complete ones
        while ranks.alive() and len(list((run_dir / "checkpoints").glob("step_*"))) < min(2, saves_before):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.3)
        while ranks.alive() and not list((run_dir / "checkpoints").glob(SAVING)):
            pass
        time.sleep(chance.random() * 0.003)
    else:
        time.sleep(moment)
    target = chance.randrange(world)
    found: dict[str, Any] = {"in_time": ranks.alive(), "target": target}
    if ranks.alive():
        struck = time.monotonic()
        os.kill(ranks.processes[target].pid, signal.SIGKILL if kind == "SIGKILL" else signal.SIGTERM)
        found["codes"] = ranks.wait(30)
        found["seconds"] = time.monotonic() - struck
    else:
        found["codes"] = ranks.wait(30)
    found["in_save"] = bool(list((run_dir / "checkpoints").glob(SAVING)))
    attempts = 0
    while not (run_dir / "result.json").exists() or json.loads((run_dir / "result.json").read_text())["outcome"] != "done":
        codes = Ranks(run_dir, world).start().wait(120)
        attempts += 1
        if codes != [0] * world or attempts > 3:
            found["error"] = f"could not be gone on with: exit codes {codes}; see {run_dir}/stderr_*.txt"
            return found
    return found


def check(kind: str, world: int, found: dict[str, Any], run_dir: Path, wanted: dict[str, Any]) -> str | None:
    if "error" in found:
        return str(found["error"])
    if kind == "SIGTERM" and found["codes"] != [0] * world:
        return f"exit codes after SIGTERM: {found['codes']}"
    if kind == "SIGKILL" and world > 1 and found["in_time"] and (found["seconds"] > 15 or 0 in found["codes"]):
        return f"the other rank: exit codes {found['codes']} after {found['seconds']:.1f} s"
    got = results(run_dir)
    different = [name for name in wanted if got[name] != wanted[name]]
    return f"differs in {different}" if different else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    context.set_forkserver_preload(
        ["torch._dynamo", "torchmetrics", "sklearn.datasets", "matplotlib.pyplot", "zoo.training.job", "zoo.hub.bundle", "zoo.parallel.worker"]
    )
    chance, failures = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for world in map(int, options.processes.split(",")):
            overrides = [*RUN, *options.overrides]
            whole = new_run(Path(folder), f"whole_{world}", overrides)
            begun = time.monotonic()
            codes = Ranks(whole, world).start().wait(300)
            if codes != [0] * world:
                sys.stderr.write((whole / "stderr_0.txt").read_text())
                return 1
            seconds = json.loads((whole / "result.json").read_text())["seconds"]
            wanted = results(whole)
            print(
                f"{world} process(es): the run without a fault takes {time.monotonic() - begun:.1f} s, {seconds:.1f} s of it training, {wanted['step']} steps",
                flush=True,
            )
            for kind, count in (("SIGKILL", options.kills), ("SIGTERM", options.terms)):
                tally: Counter[str] = Counter()
                slowest = 0.0
                for number in range(count):
                    run_dir = new_run(Path(folder), f"{kind}_{world}_{number}", overrides)
                    during_save = kind == "SIGKILL" and number % 2 == 1
                    found = trial(run_dir, world, kind, chance.random() * seconds * 0.9, chance, during_save, chance.randrange(1, 20))
                    problem = check(kind, world, found, run_dir, wanted)
                    slowest = max(slowest, found.get("seconds", 0.0))
                    tally["equal"] += problem is None
                    tally["while training"] += found["in_time"]
                    tally["inside a save"] += found["in_save"]
                    if problem is not None:
                        failures += 1
                        print(f"  {kind} {number}: {problem}\n{(run_dir / 'stderr_0.txt').read_text()[-2000:]}", flush=True)
                inside = f", {tally['inside a save']} of them inside a save" if kind == "SIGKILL" else ""
                print(
                    f"  {kind:<7} {count} runs, {tally['while training']} struck while training{inside}: {tally['equal']} went on and ended bit-equal "
                    f"(weights, moments, averages, bundle, log, figures); all ranks gone at most {slowest:.1f} s after the signal",
                    flush=True,
                )
    print("all equal" if not failures else f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
