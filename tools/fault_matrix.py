"""Kills a run again and again, and shows that it ends in the same bits as if nothing had happened.

    python tools/fault_matrix.py [--kills 20] [--terms 20] [--saves 0] [--processes 1,2] [--seed 0] [override ...]
    python tools/fault_matrix.py --kills 0 --terms 0 --saves 100 --processes 1                     # R5; in parts: --saves 25 --seed 0, 1, 2, 3
    python tools/fault_matrix.py --kills 0 --terms 50 --processes 2 [--signal SIGINT]              # R13

A small run on the digits (shuffled, accumulated over two micro-batches, EMA, dropout, loader workers, a checkpoint every three steps) is made
once without a fault. Then it is made again:
- ``--kills``: SIGKILL at a random moment of training; with two processes it goes to one rank, chosen at random, and the other has to leave by itself.
- ``--terms``: SIGTERM (or ``--signal``) to one rank at a random moment; all have to save, and to leave with exit code 0.
- ``--saves``: SIGKILL inside a save, of a run that saves in the background after every step, at a random moment between the save's first file
  and its end. So many have to have struck inside (what was being written lies there, half done); others are counted beside them.
Each is gone on with until it ends: from the newest checkpoint that was complete, none of which may be lost. Weights, moments, averages, the
published bundle, the log's rows and the figures are compared with those of the run without a fault.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, verdict
from tools.forked import Ranks, differences, go_on, last_words, new_run, preload, results

RUN = [
    "logger=none", "data.batch_size=32", "data.workers=1", "trainer.max_steps=75", "trainer.accumulate=2", "trainer.ema=0.98", "trainer.checkpoint_every=3",
    "trainer.eval_every=30", "trainer.log_every=5", "model/encoder=vit_tiny", "model.encoder.patch_size=2", "model.encoder.depth=2", "model.encoder.dim=32",
]  # fmt: skip
EVERY_STEP = ["trainer.checkpoint_every=1"]
SAVING = ".new-*"
LONGEST_SAVE = 0.02
"""Seconds from a save's first file within which SIGKILL is sent; several times what these saves take on an idle machine."""
LEAVE = 15
"""Seconds that the other ranks have to leave after one was killed (R12)."""


def steps_logged(run_dir: Path) -> int:
    log = run_dir / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def complete(run_dir: Path) -> int:
    """The newest checkpoint that has its name, which it gets last."""
    return max((int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*")), default=0)


def trial(run_dir: Path, world: int, kind: str, moment: float, chance: random.Random, number: signal.Signals) -> dict[str, Any]:
    """Start, strike, go on. ``moment``: seconds after the first row."""
    ranks = Ranks(run_dir, world).start()
    while ranks.alive() and steps_logged(run_dir) == 0:
        time.sleep(0.005)
    time.sleep(moment)
    if kind == "saves":
        while ranks.alive() and not list((run_dir / "checkpoints").glob(SAVING)):
            pass  # a sleep would miss saves that take milliseconds
        time.sleep(chance.random() * LONGEST_SAVE)
    target = chance.randrange(world)
    found: dict[str, Any] = {"in_time": ranks.alive(), "before": complete(run_dir)}
    struck = time.monotonic()
    if ranks.alive():
        os.kill(ranks.processes[target].pid, number)
    found["codes"] = ranks.wait(30)
    found["seconds"] = time.monotonic() - struck if found["in_time"] else 0.0
    found["in_save"] = bool(list((run_dir / "checkpoints").glob(SAVING)))
    return found


def used(run_dir: Path, since: int) -> int | None:
    """Step of the checkpoint that the run said it went on from."""
    told = re.findall(r"going on from \S*step_(\d+)", (run_dir / "stderr_0.txt").read_text()[since:])
    return int(told[0]) if told else None


def check(kind: str, world: int, found: dict[str, Any], run_dir: Path, wanted: dict[str, Any]) -> str | None:
    """Go on to the end; what is not as it has to be."""
    codes = found["codes"]
    if kind == "terms" and codes != [0] * world:
        return f"exit codes after the signal: {codes}"
    if kind != "terms" and world > 1 and found["in_time"] and (found["seconds"] > LEAVE or 0 in codes):
        return f"the other ranks: exit codes {codes} after {found['seconds']:.1f} s"
    from zoo.training.checkpoint import newest_checkpoint

    newest, _ = newest_checkpoint(run_dir / "checkpoints")
    step = newest.step if newest is not None else 0
    if step < found["before"]:
        return f"checkpoint {found['before']} was complete before the signal, the newest one afterwards is {step}"
    errors = run_dir / "stderr_0.txt"
    length = len(errors.read_text()) if errors.exists() else 0
    over = (run_dir / "result.json").exists() and json.loads((run_dir / "result.json").read_text())["outcome"] == "done"
    if problem := go_on(run_dir, world):
        return problem
    if newest is not None and not over and used(run_dir, length) != step:
        return f"the newest complete checkpoint is that of step {step}, and it went on from {used(run_dir, length)}"
    return differences(run_dir, wanted)


def trials(folder: Path, world: int, kind: str, count: int, overrides: list[str], wanted: dict[str, Any], seconds: float, options: Any) -> list[Any]:
    """A table's row and what went wrong."""
    chance, tally, slowest, problems, number = random.Random(f"{options.seed} {world} {kind}"), Counter[str](), 0.0, list[str](), 0
    wanted_inside = "in_save" if kind == "saves" else "trials"
    while tally[wanted_inside] < count and number < 3 * count:
        run_dir = new_run(folder, f"{kind}_{world}_{number}", overrides)
        strike = signal.Signals[options.signal] if kind == "terms" else signal.SIGKILL
        found = trial(run_dir, world, kind, chance.random() * seconds * 0.9, chance, strike)
        problem = check(kind, world, found, run_dir, wanted)
        number, slowest = number + 1, max(slowest, found["seconds"])
        tally.update(trials=1, in_time=int(found["in_time"]), in_save=int(found["in_save"]), equal=int(problem is None))
        if problem is not None:
            problems.append(f"{kind} {number}, {world} process(es): {problem}")
            print(f"{problems[-1]}\n{last_words(run_dir)}", flush=True)
        shutil.rmtree(run_dir)
    if tally[wanted_inside] < count:
        problems.append(f"{kind}, {world} process(es): only {tally[wanted_inside]} of {number} struck inside a save")
    name = options.signal if kind == "terms" else "SIGKILL"
    what = f"{name}, during a save" if kind == "saves" else name
    return [[world, what, tally["trials"], tally["in_time"], tally["in_save"], tally["equal"], f"{slowest:.1f}"], problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--saves", type=int, default=0)
    parser.add_argument("--signal", default="SIGTERM", choices=["SIGTERM", "SIGINT"], help="of --terms")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    preload()
    rows, problems = [], []
    kinds = {"kills": [], "terms": [], "saves": EVERY_STEP}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for world in map(int, options.processes.split(",")):
            for kind, more in kinds.items():
                count = getattr(options, kind)
                if not count:
                    continue
                overrides = [*RUN, *more, *options.overrides]
                whole, begun = new_run(folder, f"whole_{world}_{kind}", overrides), time.monotonic()
                if problem := go_on(whole, world, 300):
                    sys.stderr.write(last_words(whole))
                    return verdict([f"the run without a fault, {world} process(es), {problem}"])
                seconds = json.loads((whole / "result.json").read_text())["seconds"]
                wanted = results(whole)
                print(f"{kind}, {world} process(es): without a fault {time.monotonic() - begun:.1f} s, {seconds:.1f} s of it training", flush=True)
                row, wrong = trials(folder, world, kind, count, overrides, wanted, seconds, options)
                rows.append(row)
                problems += wrong
    heads = ["processes", "signal", "runs", "struck while running", "inside a save", "ended bit-equal", "seconds until all had left, at most"]
    print("\n" + markdown(heads, rows))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
