"""R4: a run that is stopped after any of its steps, and gone on with, ends in the same bits.

    python tools/resume_table.py [--stops 1-59] [--processes 1] [--chain] [override ...]
    python tools/resume_table.py --processes 2 --stops 1,7,16,20,27,40,59        # a sample

60 steps on short real texts (tweets, $ZOO_DATA): three epochs and a half, buckets within a budget of tokens, two loader workers, two
micro-batches, dropout, averaged weights, an evaluation every 20 steps, a checkpoint every 9, a row every 7. It runs once undisturbed; then,
for each stop, SIGTERM reaches one process right after that step, the run saves and leaves with exit code 0, and is gone on with to its end.
With ``--chain`` a single run is stopped after every one of the stops, one after the other. Weights, moments, averages, the published bundle, the
log's rows and the figures have to be those of the undisturbed run, bit by bit. ``--stops 1-20`` and so on make parts of a few minutes.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, verdict
from tools.forked import Ranks, differences, go_on, last_words, new_run, preload, results

STEPS, TEXTS = 60, 420
RUN = [
    "data=tweets", "data/tokenizer=byte", "logger=none", "data.order=buckets", "data.batch_tokens=1536", "data.batch_size=32", "data.workers=2",
    f"trainer.max_steps={STEPS}", "trainer.accumulate=2", "trainer.ema=0.98", "trainer.checkpoint_every=9", "trainer.eval_every=20", "trainer.log_every=7",
    "model/encoder=transformer_tiny", "model.encoder.depth=1", "model.encoder.dim=32", "model.encoder.heads=2", "model.encoder.dropout=0.1",
]  # fmt: skip


def some_texts(folder: Path) -> Path:
    """The first of the tweets: few enough for several epochs."""
    source = Path(os.environ.get("ZOO_DATA", "data")) / "tweets" / "tweets.csv"
    if not source.is_file():
        sys.exit(f"{source} is missing; way out: python tools/fetch_real_data.py data vader, or ZOO_DATA where it is")
    with source.open(encoding="utf-8") as lines:
        (folder / "texts.csv").write_text("".join(line for _, line in zip(range(TEXTS + 1), lines, strict=False)), encoding="utf-8")
    return folder / "texts.csv"


def numbers(text: str) -> list[int]:
    """``1-3,7`` -> 1 2 3 7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def stopped(run_dir: Path, world: int, step: int) -> str | None:
    """Start or go on, stop after ``step``; what went wrong."""
    from zoo.training.checkpoint import newest_checkpoint

    codes = Ranks(run_dir, world, stop=(step, step % world)).start().wait(120)
    if codes != [0] * world:
        return f"exit codes {codes} when it was stopped"
    checkpoint, _ = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is None or checkpoint.step != step:
        return f"stands at step {checkpoint.step if checkpoint else None}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=numbers, default=numbers(f"1-{STEPS - 1}"), help="steps, as 1-20,31")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--chain", action="store_true", help="one run, stopped after each of them")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    preload()
    world, problems = options.processes, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [*RUN, f"data.path={some_texts(folder)}", *options.overrides]
        whole, begun = new_run(folder, "whole", overrides), time.monotonic()
        if problem := go_on(whole, world):
            sys.stderr.write(last_words(whole))
            return verdict([f"the undisturbed run {problem}"])
        wanted = results(whole)
        epochs = max(row.get("epoch", 0.0) for row in wanted["rows"])
        print(f"undisturbed: {world} process(es), {wanted['step']} steps, {epochs:.2f} epochs, {time.monotonic() - begun:.1f} s", flush=True)
        one = new_run(folder, "chain", overrides) if options.chain else None
        seconds = []
        for step in options.stops:
            begun = time.monotonic()
            run_dir = one or new_run(folder, f"stop_{step}", overrides)
            problem = stopped(run_dir, world, step)
            if one is None:
                problem = problem or go_on(run_dir, world) or differences(run_dir, wanted)
            seconds.append(time.monotonic() - begun)
            if problem:
                problems.append(f"stopped after step {step}: {problem}")
                print(f"{problems[-1]}\n{last_words(run_dir)}", flush=True)
            if one is None:
                shutil.rmtree(run_dir)
            elif problem:
                break
        if one is not None and not problems and (problem := go_on(one, world) or differences(one, wanted)):
            problems.append(f"stopped after each of {len(options.stops)} steps: {problem}")
        equal = len(options.stops) - len(problems) if one is None else (0 if problems else len(options.stops))
        how = "one run, stopped after each" if options.chain else "a run for each stop"
        stops = f"{min(options.stops)} to {max(options.stops)}"
        row = [world, how, len(options.stops), stops, equal, f"{sum(seconds) / len(seconds):.1f}"]
        print("\n" + markdown(["processes", "how", "stops", "after steps", "ended bit-equal", "seconds a stop"], [row]))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
