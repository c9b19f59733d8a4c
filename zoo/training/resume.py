"""What may change when a run goes on (R22). Imports no torch.

Each key of the config is in one of three classes: **free** (changes no number: go on), **asked** (changes the numbers from here on: only with
``allow=[key]``), **fixed** (the checkpoint does not fit any more: never). The table is of prefixes; the longest one that matches counts.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from zoo.config import RunConfig, read_yaml
from zoo.errors import ConfigError
from zoo.settings import BatchStatistics
from zoo.training.logging import LOG_FILE, read_rows
from zoo.training.marker import STEP
from zoo.training.store import Store, is_url, run_files


class Change(StrEnum):
    FREE = "free"
    ASKED = "asked"
    FIXED = "fixed"


CHANGES: dict[str, Change] = {
    # of the run
    "name": Change.FREE,
    "run_dir": Change.FREE,
    "resume": Change.FREE,
    "rerun": Change.FREE,
    "allow": Change.FREE,
    "init": Change.FREE,  # used before the first step only
    "init_skip": Change.FREE,
    "init_rename": Change.FREE,
    "init_fit": Change.FREE,
    "seed": Change.ASKED,
    # data: the cursor counts batches of one size in one order
    "data": Change.ASKED,
    "data.name": Change.FIXED,
    "data.batch_size": Change.FIXED,
    "data.batch_tokens": Change.FIXED,
    "data.batch_seconds": Change.FIXED,
    "data.batch_pixels": Change.FIXED,
    "data.packing": Change.ASKED,  # other kernels, other last digits; within budgets, other batches
    "data.order": Change.ASKED,
    "data.eval_batch_size": Change.FREE,
    "data.workers": Change.FREE,
    "data.cache": Change.FREE,
    "data.max_bad_samples": Change.FREE,
    "data.augment": Change.ASKED,
    "data.tokenizer": Change.FIXED,
    # model: names and shapes of what the checkpoint holds
    "model": Change.FIXED,
    "model.encoder.dropout": Change.ASKED,
    "model.decoder.dropout": Change.ASKED,
    "model.head.dropout": Change.ASKED,
    "model.head.label_smoothing": Change.ASKED,
    "model.head.class_weights": Change.ASKED,
    "model.lora": Change.FIXED,
    "model.lora.dropout": Change.ASKED,
    "optimizer": Change.ASKED,
    "optimizer.name": Change.FIXED,
    "optimizer.kernel": Change.FREE,
    "optimizer.layer_decay": Change.ASKED,
    "optimizer.overrides": Change.ASKED,
    "schedule": Change.ASKED,
    # trainer
    "trainer": Change.ASKED,
    "trainer.max_steps": Change.FREE,  # the horizon that schedules see is checked below
    "trainer.max_epochs": Change.FREE,
    "trainer.precision": Change.ASKED,
    "trainer.accumulate": Change.FREE,
    "trainer.clip_norm": Change.ASKED,
    "trainer.ema": Change.ASKED,
    "trainer.compile": Change.ASKED,  # other kernels, other last digits
    "trainer.recompute": Change.FREE,  # the same operations again
    "trainer.recompute_every": Change.FREE,
    "trainer.profile": Change.FREE,
    "trainer.device": Change.ASKED,
    "trainer.eval_every": Change.ASKED,  # which steps can be the best, and when early stopping looks
    "trainer.checkpoint_every": Change.FREE,
    "trainer.checkpoint_to": Change.FREE,  # that they are there is checked below
    "trainer.keep_last": Change.FREE,
    "trainer.monitor": Change.ASKED,
    "trainer.monitor_mode": Change.ASKED,
    "trainer.log_every": Change.FREE,
    "trainer.batch_statistics": Change.ASKED,
    "trainer.freeze": Change.FIXED,  # which parameters the optimizer has
    "trainer.freeze_until": Change.ASKED,
    "trainer.non_finite": Change.ASKED,
    "trainer.spike": Change.ASKED,
    "trainer.on_spike": Change.ASKED,
    "trainer.max_skips": Change.FREE,
    "trainer.max_rollbacks": Change.FREE,
    "trainer.deterministic": Change.ASKED,
    "trainer.memory_format": Change.ASKED,  # other kernels, other last digits
    # processes: the numbers do not depend on them
    "parallel": Change.FREE,
    "logger": Change.FREE,
    "callback": Change.ASKED,
}
LENGTH = ("trainer.max_steps", "trainer.max_epochs")
BEGINNING = ("init", "init_skip", "init_rename", "init_fit")
"""Free once a run has begun; but runs that began otherwise are others."""
SPLIT = ("trainer.accumulate", "parallel.processes")
"""How a batch is split: no number depends on it, but for statistics that each part has of its own."""


def change_of(key: str) -> Change:
    """The class of a dotted key."""
    while key not in CHANGES and "." in key:
        key = key.rpartition(".")[0]
    assert key in CHANGES, f"{key} has no class in zoo/training/resume.py"
    return CHANGES[key]


def differences(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ."""
    old, new = _flat(before.to_dict()), _flat(after.to_dict())
    return {key: (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)}


def accept_resume(config: RunConfig, run_dir: Path) -> None:
    """Check a config against the one that a run was begun with, and make it the run's.

    Raises:
        ConfigError: with every change that has to be asked for or cannot be, as old -> new.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise ConfigError("resume", f"{config.run.resume or run_dir} holds no config.yaml, so it is no run directory")
    before, place = RunConfig.load(file), config.run.resume or run_dir
    changed = differences(before, config)
    length_matters = "horizon" in _schedule_wires(config)
    matters = {
        *(LENGTH if length_matters else ()),
        *(SPLIT if BatchStatistics.LOCAL in (before.trainer.batch_statistics, config.trainer.batch_statistics) else ()),
    }
    asked = {key for key in changed if change_of(key) is Change.ASKED or key in matters} - set(config.run.allow)
    fixed = {key for key in changed if change_of(key) is Change.FIXED}
    if asked or fixed:
        lines = [
            f"\n    {key}: {old} -> {new}" + ("  (cannot change)" if key in fixed else "  (changes the numbers from here on)")
            for key, (old, new) in changed.items()
            if key in asked | fixed
        ]
        ways = [f"leave them as they were: zoo train resume={place}"]
        if fixed:
            weights = f"zoo export {place} --to FOLDER, then init=FOLDER" if is_url(str(place)) else f"init={place}"
            ways.append(f"begin anew: zoo train rerun={place} with the changes; {weights} starts from its weights")
        else:
            ways.append(f"say that they may change: allow=[{','.join(sorted({*asked, *config.run.allow}))}]")
        raise ConfigError("resume", f"the run in {place} goes on with another config:{''.join(lines)}", *ways)
    check_place(before, config, run_dir)
    check_end(config, run_dir)
    config.save(file)


def steps_done(config: RunConfig, run_dir: Path) -> list[int]:
    """Of a run's checkpoints, oldest first."""
    if config.trainer.checkpoint_to is not None:
        return Store(config.trainer.checkpoint_to).steps()
    return sorted(int(match[1]) for path in (run_dir / "checkpoints").glob("step_*") if (match := STEP.fullmatch(path.name)))


def check_place(before: RunConfig, after: RunConfig, run_dir: Path) -> None:
    """A run whose checkpoints are to be found in another place finds them there, and no others.

    Raises:
        ConfigError: where it would begin anew, or go on from those of another run.
    """
    old, new, place = before.trainer.checkpoint_to, after.trainer.checkpoint_to, after.run.resume or run_dir
    if old == new:
        return
    if steps_done(after, run_dir):
        if new is not None and (other := _another_run(before, run_dir, new)):
            raise ConfigError(
                "trainer.checkpoint_to",
                f"{new} holds checkpoints of another run ({other}): this one would go on from them, and remove them",
                f"go on with that run: zoo train resume={new}",
                f"leave the place as it was: zoo train resume={place}",
            )
        return
    if not steps_done(before, run_dir):
        return
    raise ConfigError(
        "trainer.checkpoint_to",
        f"{new} holds no checkpoint of this run; they are in {old or run_dir / 'checkpoints'}",
        "copy them there",
        f"leave the place as it was: zoo train resume={place}",
    )


def _another_run(own: RunConfig, run_dir: Path, url: str) -> str | None:
    """What shows that the checkpoints in a store are of another run than the one in a directory; None where nothing does.

    The first row of a log decides where both have one: it has times, in which equal runs differ, and outlasts changes that were allowed.
    """
    with run_files(url) as files:
        if not (files / "config.yaml").is_file():
            return "without a config.yaml"
        first, begun = (next(iter(read_rows(folder / LOG_FILE)), None) for folder in (files, run_dir))
        if first and first == begun:
            return None
        theirs = RunConfig.from_dict(read_yaml(files / "config.yaml"), lambda _: f"{url}, config.yaml")
        for key, (here, there) in differences(own, theirs).items():
            if key in BEGINNING or change_of(key) is not Change.FREE:
                return f"{key} is {there} there, {here} here"
    return "its log begins with another row" if first and begun else None


def check_end(config: RunConfig, run_dir: Path) -> None:
    """Nothing is left to do for a run that is past its new end; where that is counted in epochs, the job knows it.

    Raises:
        ConfigError: with the steps done.
    """
    if config.trainer.max_steps is not None:
        refuse_past_end(config.run.resume or run_dir, max(steps_done(config, run_dir), default=0), config.trainer.max_steps)


def refuse_past_end(run_dir: Path | str, done: int, total: int) -> None:
    """Raises:
    ConfigError: where more steps are done than the run has.
    """
    if done > total:
        raise ConfigError(
            "trainer.max_steps",
            f"the run in {run_dir} has done {done} steps, and this would end it after {total}",
            f"trainer.max_steps={done} or more",
            f"a bundle of an earlier checkpoint: zoo export {run_dir} --checkpoint STEP --to FOLDER",
        )


def _schedule_wires(config: RunConfig) -> set[str]:
    from zoo.registry import SCHEDULES

    return {parameter.name for parameter in SCHEDULES.schema(config.schedule["name"]).wired}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
