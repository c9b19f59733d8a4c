"""The same steps in every layout of processes, as a table of differences to one process.

    python tools/layout_table.py [--models mlp,cnn,vit,text,image+text] [--steps 3]

For each model, layout, accumulation and precision: the largest relative difference of a loss, and the relative difference of the gradient of the
last step and of the weights after it, to one process that takes the whole batch at once in fp32. Real data: digits, tweets (ZOO_DATA), captioned stamps
(ZOO_DATA, in batches some of whose rows have no caption). What a model cannot do is said with the reason.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.layouts import MODELS, difference, traces
from tests.processes import run_ranks

COMMON = ["logger=none", "trainer.clip_norm=null", "data.batch_size=16"]
TEXT = [*COMMON, "data=tweets", "data/tokenizer=byte", "model/encoder=transformer_tiny", "model.encoder.dropout=0.1"]
BOTH = [*COMMON, "experiment=stamps_both", "data.batch_size=16", "schedule.warmup_steps=0"]
CASES = {**MODELS, "cnn": [*MODELS["cnn"], "trainer.batch_statistics=local"], "text": TEXT, "image+text": BOTH}
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single": (1, []),
    "ddp 2": (2, []),
    "fsdp 2": (2, ["parallel.strategy=fsdp"]),
    "tensor 2": (2, ["parallel.tensor=2"]),
    "tensor 2, sequence": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
    "ddp 4": (4, []),
    "fsdp 4": (4, ["parallel.strategy=fsdp"]),
    "hsdp 2 x 2": (4, ["parallel.strategy=fsdp", "parallel.replicas=2"]),
    "ddp 2 x tensor 2": (4, ["parallel.tensor=2"]),
    "fsdp 2 x tensor 2": (4, ["parallel.strategy=fsdp", "parallel.tensor=2", "parallel.sequence=true"]),
}
ACCUMULATIONS = (1, 4)
PRECISIONS = ("fp32", "bf16")
BOUNDS = {"fp32": {"loss": 1e-5, "gradient": 1e-4, "weights": 1e-4}, "bf16": {"loss": 2e-2, "gradient": 1e-1, "weights": 2e-2}}
"""bf16 has 8 bits: a layout rounds in other places than the whole batch in fp32 does."""


def rows_of(name: str, base: list[str], steps: int) -> list[dict[str, Any]]:
    """Every run of one model, next to one process in fp32."""
    wanted = traces(0, 1, [base], steps)[0]
    assert wanted is not None
    rows = []
    for world in sorted({size for size, _ in LAYOUTS.values()}):
        runs = [
            (layout, accumulate, precision, [*base, *overrides, f"trainer.accumulate={accumulate}", f"trainer.precision={precision}"])
            for layout, (size, overrides) in LAYOUTS.items()
            if size == world
            for accumulate in ACCUMULATIONS
            for precision in PRECISIONS
        ]
        asked = [overrides for *_, overrides in runs]
        found = told(0, 1, asked, steps) if world == 1 else run_ranks(told, world, asked, steps, timeout=1200)[0]
        for (layout, accumulate, precision, _), one in zip(runs, found, strict=True):
            row = {"model": name, "layout": layout, "accumulate": accumulate, "precision": precision}
            rows.append(row | ({"refused": one} if isinstance(one, str) else difference(one, wanted)))
    return rows


def told(rank: int, world: int, runs: list[list[str]], steps: int) -> list[Any]:
    """Traces on rank 0, or why a layout was refused."""
    from zoo.errors import ConfigError

    found: list[Any] = []
    for overrides in runs:
        try:
            found += traces(rank, world, [overrides], steps)
        except ConfigError as error:
            found.append(error.problem)
    return found


def main(names: list[str], steps: int, as_json: str | None) -> int:
    everything, beyond = [], 0
    for name in names:
        began = time.perf_counter()
        rows = rows_of(name, CASES[name], steps)
        everything += rows
        print(f"\n{name}  ({time.perf_counter() - began:.0f} s)")
        print(f"  {'layout':22} {'acc':>3} {'type':5} {'loss':>9} {'gradient':>9} {'weights':>9}")
        for row in rows:
            head = f"  {row['layout']:22} {row['accumulate']:>3} {row['precision']:5}"
            if "refused" in row:
                print(f"{head} refused: {row['refused'][:110]}")
                continue
            outside = [key for key, bound in BOUNDS[row["precision"]].items() if row[key] > bound]
            beyond += bool(outside)
            print(f"{head} {row['loss']:9.1e} {row['gradient']:9.1e} {row['weights']:9.1e}" + (f"  beyond the bound: {', '.join(outside)}" if outside else ""))
    ran = [row for row in everything if "refused" not in row]
    print(f"\n{len(everything)} runs: {len(ran)} ran, {beyond} beyond the bounds {BOUNDS}; {len(everything) - len(ran)} refused with a reason")
    if as_json:
        Path(as_json).write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 1 if beyond else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    sys.exit(main(options.models.split(","), options.steps, options.json))
