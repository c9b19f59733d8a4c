"""Callbacks: a small ordered set of events.

``start`` -> (``evaluated`` after each evaluation | ``saved`` after each checkpoint)* -> ``end``. There is no event for a step: what runs at every
step belongs into the trainer, where its cost is seen. Callbacks run on every rank and see the same figures there; those that write look
at ``progress`` on rank 0 only by being given one.
"""

from collections.abc import Mapping
from typing import Any

from zoo.registry import CALLBACKS
from zoo.training.state import Monitor, Outcome, Progress


class Callback:
    """Does nothing; a callback overrides what it needs. Its state is kept in checkpoints."""

    def start(self, progress: Progress, monitor: Monitor | None) -> None:
        """Before the first step, also when a run goes on."""

    def evaluated(self, progress: Progress, monitor: Monitor | None) -> None:
        """``progress.evaluation`` is new. Setting ``progress.stop`` to a reason ends the run after this step."""

    def saved(self, progress: Progress) -> None:
        """A checkpoint of this step has been handed to the writer."""

    def end(self, outcome: Outcome) -> None:
        """After the last step of this process."""

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint, before ``start``."""


@CALLBACKS.register("early_stopping")
class EarlyStopping(Callback):
    """Ends the run when the monitored metric has stopped getting better (Prechelt, 1998, "Early stopping - but when?").

    Args:
        patience: evaluations without progress that are borne.
        min_delta: progress that counts, in the metric's own units.
    """

    def __init__(self, *, patience: int = 5, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience} would end the run at its first evaluation; way out: 1 or more")
        if min_delta < 0:
            raise ValueError(f"min_delta={min_delta} would count a loss as progress; way out: 0 or more")
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.waited = 0

    def start(self, progress: Progress, monitor: Monitor | None) -> None:
        del progress
        if monitor is None:
            raise ValueError("early_stopping has no metric to watch: the data has no validation split; way out: leave the callback out, or use data with one")

    def evaluated(self, progress: Progress, monitor: Monitor | None) -> None:
        assert monitor is not None
        value = progress.evaluation[monitor.metric]
        if monitor.better(value, self.best, self.min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            progress.stop = f"early_stopping: {monitor.metric} has not got better than {self.best:.6g} in {self.waited} evaluations"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
