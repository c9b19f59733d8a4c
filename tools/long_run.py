"""A long run, watched from outside: does its memory grow, does it leave files or threads open, does a step take longer in the end?

    python tools/long_run.py [--runs digits,texts] [--steps 20000] [--text-steps 4000] [--every 0.5] [override ...]

``zoo train`` of an MLP on the digits, and of a small Transformer on tweets ($ZOO_DATA) in buckets within a budget of tokens, with two loader workers;
rows, evaluations and checkpoints at ordinary intervals. Resident memory, open files and threads of the process and of its children come
from /proc, twice a second, beside the step that the log's last row tells; the time of a step from the rows' own clock, without evaluations and
saves (medians of the rows). Slopes are least squares over what comes after the first tenth of the run. Exits with 1 where memory grows by more than
the bound, where files or threads are more in the end than after the first tenth, or where the last steps take 10 % longer than the first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import ROOT, markdown, use_this_tree, verdict

use_this_tree()
MB = 1e6
GROWTH = 0.5
"""MB for 1,000 steps, of the process itself and of its loader processes together."""
SLOWER = 1.10
ENOUGH = 4
"""Samples, for a slope."""
MORE_FILES = 2
"""A checkpoint that is being written as the sample is taken has a file open, and a thread."""
DIGITS = ["data=digits", "model/encoder=mlp", "trainer.eval_every=500", "trainer.checkpoint_every=1000", "trainer.log_every=10"]
TEXTS = [
    "data=tweets", "data/tokenizer=byte", "data.order=buckets", "data.batch_tokens=1024", "data.batch_size=64", "data.workers=2", "trainer.ema=0.99",
    "model/encoder=transformer_tiny", "model.encoder.depth=1", "model.encoder.dim=32", "model.encoder.heads=2", "trainer.eval_every=500",
    "trainer.checkpoint_every=500",
]  # fmt: skip
RUNS = {"digits": DIGITS, "texts": TEXTS}


@dataclass
class Watch:
    """Samples of a run, one entry each."""

    steps: list[int] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    children: list[dict[int, float]] = field(default_factory=list)
    """By process: those of an evaluation come later than those of the training, which is no growth."""
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self, process: int, step: int) -> None:
        try:
            own, threads = status(process)
            others = {child: status(child)[0] for child in descendants(process)}
            files = len(list(Path(f"/proc/{process}/fd").iterdir()))
        except (OSError, KeyError):
            return  # it is ending
        self.steps.append(step)
        self.own.append(own)
        self.children.append(others)
        self.files.append(files)
        self.threads.append(threads)


def status(process: int) -> tuple[float, int]:
    """Resident MB, of a child without what it shares with its parent, and threads."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line)
    return (int(lines["RssAnon"].split()[0]) + int(lines["RssShmem"].split()[0])) * 1024 / MB, int(lines["Threads"])


def descendants(process: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def slope(steps: list[int], values: list[float]) -> float:
    """Least squares, for 1,000 steps."""
    return statistics.linear_regression(steps, values).slope * 1000 if len(set(steps)) > 1 else 0.0


def together(steps: list[int], samples: list[dict[int, float]]) -> float:
    """The slopes of all processes, each while it is there, added up; of those that there are samples enough of."""
    total = 0.0
    for process in {process for sample in samples for process in sample}:
        known = [(step, sample[process]) for step, sample in zip(steps, samples, strict=True) if process in sample]
        if len(known) >= ENOUGH:
            total += slope([step for step, _ in known], [value for _, value in known])
    return total


def row_times(rows: list[dict[str, float]]) -> list[tuple[int, float]]:
    """(step, milliseconds of a step before it) of neighbouring rows of the training, none of which an evaluation or a save came between."""
    found, before = [], None
    for row in rows:
        training = "train/loss" in row
        if training and before is not None and row["step"] > before["step"]:
            found.append((int(row["step"]), (row["time"] - before["time"]) / (row["step"] - before["step"]) * 1e3))
        before = row if training else None
    return found


def last_step(log: Path) -> int:
    """Of the last whole row."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n") and line.startswith(b"{")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def watch(folder: Path, overrides: list[str], every: float) -> tuple[int, Watch, list[dict[str, float]]]:
    """Exit code, samples, the log's rows."""
    run_dir, found = folder / "run", Watch()
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (folder / "stderr.txt").open("w") as errors:
        command = [sys.executable, "-m", "zoo", "train", "logger=none", f"run_dir={run_dir}", *overrides]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=errors, stderr=errors)
        while process.poll() is None:
            log = run_dir / "log.jsonl"
            if log.exists() and (step := last_step(log)):
                found.take(process.pid, step)
            time.sleep(every)
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()] if (run_dir / "log.jsonl").exists() else []
    return process.returncode, found, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="digits,texts")
    parser.add_argument("--steps", type=int, default=20_000, help="of the digits")
    parser.add_argument("--text-steps", type=int, default=4_000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between samples")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    table, problems = [], []
    for name in options.runs.split(","):
        steps = options.steps if name == "digits" else options.text_steps
        with tempfile.TemporaryDirectory() as folder:
            limits = [f"trainer.max_steps={steps}", "trainer.max_epochs=null"]
            code, found, rows = watch(Path(folder), [*RUNS[name], *limits, *options.overrides], options.every)
            if code:
                sys.stderr.write((Path(folder) / "stderr.txt").read_text()[-3000:])
                return verdict([f"{name}: exit code {code}"])
        part = steps // 10
        times = row_times(rows)
        first = statistics.median(value for step, value in times if step <= part)
        last = statistics.median(value for step, value in times if step > steps - part)
        later = [place for place, step in enumerate(found.steps) if part < step < steps]  # the test and the bundle come after the last step
        if len(later) < ENOUGH:
            return verdict([f"{name}: {len(later)} samples are too few; way out: a smaller --every, or more steps"])
        at = [found.steps[place] for place in later]
        own = [found.own[place] for place in later]
        grows, children_grow = slope(at, own), together(at, [found.children[place] for place in later])
        counts = {}
        for what, series in (("open files", found.files), ("threads", found.threads)):
            begin, end = (statistics.median(series[place] for place in places) for places in (later[: len(later) // 4 or 1], later[-(len(later) // 4 or 1) :]))
            counts[what] = f"{begin:.0f} -> {end:.0f}"
            if end > begin + (MORE_FILES if what == "open files" else 0):
                problems.append(f"{name}: {what} {counts[what]}")
        if grows > GROWTH or children_grow > GROWTH:
            problems.append(f"{name}: memory grows by {grows:.3f} MB, its loader processes' by {children_grow:.3f} MB for 1,000 steps")
        if last > SLOWER * first:
            problems.append(f"{name}: a step takes {last:.2f} ms in the end, {first:.2f} ms in the beginning")
        memory = f"{own[0]:.0f} -> {own[-1]:.0f}"
        table.append(
            [name, steps, len(later), memory, f"{grows:+.3f}", f"{children_grow:+.3f}", *counts.values(), f"{first:.3f}", f"{last:.3f}", f"{last / first:.3f}"]
        )
        print(f"{name}: {rows[-1]['time']:.0f} s", flush=True)
    heads = ["run", "steps", "samples", "MB", "MB / 1,000 steps", "of loader processes", "open files", "threads"]
    print("\n" + markdown([*heads, "ms a step, first tenth", "last tenth", "last / first"], table))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
