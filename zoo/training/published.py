"""Which of a run's checkpoints a model is published from, and its weights."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection
from pathlib import Path

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.layers.lora import merged
from zoo.training.checkpoint import Checkpoint, newest_of, open_checkpoint, step_folders
from zoo.training.remote import Remote
from zoo.training.store import Store, store_of

WEIGHTS = ("model", "ema")
"""Parts that a model is published from."""


def find_checkpoint(run_dir: Path, which: str = "best", store: Store | None = None) -> Checkpoint:
    """A checkpoint of a run. Where it lies in a store, what is downloaded is there for as long as the result is.

    Args:
        run_dir: of the run.
        which: best, last, or a step.
        store: that has the run's checkpoints; None looks where the run's config says.

    Raises:
        CheckpointError: with the steps that there are.
    """
    place, store = str(store or run_dir), store or store_of(run_dir)
    if store is None:
        folders = step_folders(run_dir / "checkpoints")
        return _find(place, which, list(folders), lambda step, parts: open_checkpoint(folders[step], parts=parts))
    folder = Path(tempfile.mkdtemp(prefix="zoo-"))
    remote = Remote(store, folder, "find")
    try:
        found = _find(place, which, store.steps(), remote.open)
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _find(place: str, which: str, known: list[int], open_one: Callable[[int, Collection[str]], Checkpoint]) -> Checkpoint:
    """As ``find_checkpoint``, of the steps that are known in a place that the user has named."""
    if not known:
        raise CheckpointError(f"{place}: has no checkpoint yet\n  way out: zoo train resume={place}")
    steps = ", ".join(map(str, known))
    if which.isdigit():
        if int(which) not in known:
            raise CheckpointError(f"{place}: no checkpoint of step {which}; there are {steps} (trainer.keep_last and trainer.checkpoint_every decide)")
        return open_one(int(which), WEIGHTS)
    if which not in ("best", "last"):
        raise CheckpointError(f"--checkpoint {which}: best, last, or one of {steps}")
    if which == "best":  # the state of the newest says which one that is, so that a store sends one model, not two
        told, _ = newest_of(known, lambda step: open_one(step, ()))
        if told is not None and (step := _best(told, known)) != told.step:
            return open_one(step, WEIGHTS)
    newest, problems = newest_of(known, lambda step: open_one(step, WEIGHTS))
    if newest is None:
        raise CheckpointError(f"{place}: no checkpoint is complete\n" + "\n".join(f"  {problem}" for problem in problems))
    return newest if which == "last" or (step := _best(newest, known)) == newest.step else open_one(step, WEIGHTS)


def _best(checkpoint: Checkpoint, known: list[int]) -> int:
    """The step of the best one so far, if it is still there; else the checkpoint's own."""
    best = checkpoint.state["progress"]["best"]
    step: int = checkpoint.step if best is None else best["step"]
    return step if step in known else checkpoint.step


def published_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The averaged weights where the run kept them, as its evaluations did; what has no average (counters) is the model's own. Adapters are merged."""
    weights = checkpoint.tensors("model")
    return merged(weights | checkpoint.tensors("ema") if checkpoint.has("ema") else weights)
