"""``zoo batch``: how many samples fit into memory at once, and what to type to use that. Writes nothing."""

import re
from collections.abc import Sequence
from math import ceil
from typing import Any

from zoo.cli.output import DONE, note, only_json, say, say_json, table
from zoo.cli.train import parse
from zoo.config import RunConfig
from zoo.errors import ConfigError, ZooError
from zoo.training.memory import ProbeProcess, Trial, search

HELP = """usage: zoo batch [overrides] [--memory 4GiB] [--json]

Finds the largest number of samples whose optimizer step stays under a memory limit: real steps (forward, backward, update) on the longest samples
of the training split, in a process of its own that is ended when it goes over. Doubles until one does not fit, then halves in between. Prints a
table and the overrides to use; changes nothing, since data.batch_size decides the numbers of a run and trainer.accumulate does not. Where the loss
compares the rows of the whole batch (model/head=contrastive), each trial is the step of a whole data.batch_size, in micro-batches of so many samples.

  --memory SIZE   of each process: 800MiB, 4GiB ...; without it, what is free now (nine tenths of it on a CPU, 95 % on a GPU)

  zoo batch data=fashion_mnist model/encoder=vit_tiny --memory 2GiB"""
FEW = 8
"""Micro-batches of the first trial where each trial goes through a whole batch."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def run(arguments: Sequence[str]) -> int:
    words, memory = split_memory(list(arguments))
    if "--help" in words or "-h" in words:
        say(HELP)
        return DONE
    options = parse(words)
    with only_json(options.json):
        from zoo.compose import compose

        config = compose(options.overrides, config_name=options.config_name, config_dir=options.config_dir)
        from zoo.checks import check

        whole = bool(getattr(check(config).model.head, "whole_batch", False))
        tree = find(config, memory, whole=whole)
    if options.json:
        say_json(tree)
    else:
        tell(tree, config)
    return DONE


def split_memory(words: list[str]) -> tuple[list[str], int | None]:
    """The other words, and the bytes of ``--memory``."""
    rest, memory, remaining = [], None, iter(words)
    for word in remaining:
        if word == "--memory":
            memory = parse_bytes(next(remaining, ""))
        elif word.startswith("--memory="):
            memory = parse_bytes(word.removeprefix("--memory="))
        else:
            rest.append(word)
    return rest, memory


def parse_bytes(text: str) -> int:
    """``4GiB``, ``800M``, ``1000000``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ZooError(f"--memory {text!r} is no amount of memory; way out: --memory 4GiB, --memory 800MiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def find(config: RunConfig, memory: int | None, *, whole: bool = False) -> dict[str, Any]:
    """The search, as plain values.

    Args:
        config: checked.
        memory: bytes of each process; None for what is free.
        whole: whether the loss compares the rows of the whole batch, which each trial then goes through: not in micro-batches of one sample at first.
    """
    parallel = config.parallel
    if parallel.strategy != "ddp" or parallel.tensor > 1:
        raise ConfigError(
            "parallel",
            "what a process holds of a sharded model is not measured by one process alone",
            "parallel=single or parallel=ddp",
            "zoo plan, which predicts it",
        )
    probe = ProbeProcess(config.to_dict(), memory, parallel.processes)
    try:
        first = ceil(config.loader.batch_size / (parallel.processes * FEW)) if whole else 1
        trials = search(probe.trial, probe.start(), lambda trial: note(line(trial)), first)
    finally:
        probe.close()
    best = max((trial for trial in trials if trial.refused is None), key=lambda trial: trial.samples, default=None)
    return {
        "limit": probe.limit,
        "device": probe.device,
        "whole_batch": whole,
        "samples": best.samples if best else 0,
        "peak": best.peak if best else None,
        "holds": best.holds if best else {},
        "overrides": overrides(config, best, whole=whole) if best else {},
        "trials": [{"samples": trial.samples, "peak": trial.peak, "seconds": trial.seconds, "refused": trial.refused} for trial in trials],
    }


def overrides(config: RunConfig, best: Trial, *, whole: bool = False) -> dict[str, list[str]]:
    """``same``: keeps data.batch_size and so every number; ``most``: fills the memory without accumulation, which makes it another run.

    A loss over the whole batch was measured with data.batch_size or more, and says nothing about the step of a smaller one without accumulation.
    """
    processes, batch_size = config.parallel.processes, config.loader.batch_size
    found = {"same": [f"data.batch_size={batch_size}", f"trainer.accumulate={ceil(batch_size / (best.samples * processes))}"]}
    if not whole or best.samples * processes >= batch_size:
        found["most"] = [f"data.batch_size={best.samples * processes}", "trainer.accumulate=1"]
    return found


def line(trial: Trial) -> str:
    peak = "" if trial.peak is None else f"  peak {trial.peak / 2**30:.2f} GiB"
    return f"  {trial.samples:>7} samples{peak}  {trial.refused or f'fits, {trial.seconds:.2f} s a step'}"


def tell(tree: dict[str, Any], config: RunConfig) -> None:
    rows = [
        [
            trial["samples"],
            "" if trial["peak"] is None else f"{trial['peak'] / 2**30:.2f}",
            "" if trial["seconds"] is None else f"{trial['seconds']:.2f}",
            trial["refused"] or "fits",
        ]
        for trial in sorted(tree["trials"], key=lambda trial: trial["samples"])
    ]
    say(table(rows, ("samples at once", "peak GiB", "seconds a step", "")))
    limit = f"{tree['limit'] / 2**30:.2f} GiB"
    if not tree["samples"]:
        ways = "a smaller data.batch_size, whose rows are all compared, " if tree["whole_batch"] else ""
        ways += "a smaller model, trainer.recompute=full, trainer.precision=bf16, or shorter samples"
        say(f"not even one of the longest samples fits into {limit}: {ways}")
        return
    held = "".join(f", {positions:,} positions of {name}" for name, positions in tree["holds"].items())
    say(f"{tree['samples']:,} of the longest samples fit into {limit} of each process at once{held}")
    if tree["whole_batch"]:
        say(f"  each trial was the step of a whole batch, whose rows are compared: data.batch_size={config.loader.batch_size}, or as many as fit at once")
    say(f"  the same run, within it:      {' '.join(tree['overrides']['same'])}")
    if "most" in tree["overrides"]:
        say(f"  all of the memory, another run: {' '.join(tree['overrides']['most'])}")
    if config.parallel.processes > 1:
        say(f"  measured in one process for parallel.processes={config.parallel.processes}; copies for communication come on top")
