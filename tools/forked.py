"""Ranks of real runs, forked from a server that has imported everything, so that a trial takes seconds.

Apart from that, and from the pictures at the end, they are what ``zoo train`` starts.
"""

import json
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.figures import use_this_tree

use_this_tree()
os.environ.setdefault("OMP_NUM_THREADS", "1")

PRELOAD = ["torch._dynamo", "torchmetrics", "sklearn.datasets", "matplotlib.pyplot", "zoo.training.job", "zoo.hub.bundle", "zoo.parallel.worker"]
context = multiprocessing.get_context("forkserver")


def preload() -> None:
    context.set_forkserver_preload(PRELOAD)


def rank_main(run_dir: str, rank: int, world: int, port: int, stop: tuple[int, int] | None) -> None:
    """One rank, as ``zoo.parallel.worker`` runs it. ``stop``: (step, rank), after which that rank gets SIGTERM."""
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
    if stop is not None and stop[1] == rank:
        stop_after(stop[0])
    code = main(Path(run_dir))
    os._exit(code)


def stop_after(step: int) -> None:
    """This process gets SIGTERM as soon as its trainer has done so many steps."""
    from zoo.training.trainer import Trainer

    fit = Trainer.fit

    def stopping(self: Trainer) -> Any:
        tick = self.tick

        def told(done: int) -> None:
            if tick is not None:
                tick(done)
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        self.tick = told
        return fit(self)

    Trainer.fit = stopping  # type: ignore[method-assign]


@dataclass
class Ranks:
    """The processes of one attempt."""

    run_dir: Path
    world: int
    stop: tuple[int, int] | None = None
    processes: list[Any] = field(default_factory=list)

    def start(self) -> "Ranks":
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.processes = [context.Process(target=rank_main, args=(str(self.run_dir), rank, self.world, port, self.stop)) for rank in range(self.world)]
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


def go_on(run_dir: Path, world: int, limit: float = 120) -> str | None:
    """To the end of the run, in as few attempts as it takes; what went wrong."""
    from zoo.parallel.elastic import done

    for _ in range(4):
        if done(run_dir):
            return None
        codes = Ranks(run_dir, world).start().wait(limit)
        if codes != [0] * world:
            return f"could not be gone on with: exit codes {codes}; see {run_dir}/stderr_*.txt"
    return None if done(run_dir) else "does not end"


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


def differences(run_dir: Path, wanted: dict[str, Any]) -> str | None:
    """What of a finished run is not as in the run without a fault."""
    got = results(run_dir)
    different = [name for name in wanted if got[name] != wanted[name]]
    return f"differs in {', '.join(different)}" if different else None


def last_words(run_dir: Path, rank: int = 0) -> str:
    file = run_dir / f"stderr_{rank}.txt"
    return file.read_text()[-2000:] if file.exists() else ""
