"""What a run knows of itself besides its tensors: kept in ``state.json`` of each checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from zoo.settings import Mode, TrainerSettings
from zoo.specs import Horizon


class Ending(StrEnum):
    FINISHED = "finished"  # the run's length was reached
    EARLY = "early"  # a callback asked for it
    INTERRUPTED = "interrupted"  # a signal; the run can be resumed


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    step: int
    value: float


@dataclass
class Progress:
    """Where a run stands after ``step`` optimizer steps.

    Args:
        step: optimizer steps done.
        loader: cursor of the training data: epoch and global batches done in it.
        best: by the monitored metric; None before the first evaluation.
        evaluation: figures of the last evaluation, by name.
        window: sums of the loss terms since the last logged row, and of how many steps.
        stop: why a callback ends the run, if it does.
        anchor: step of the last checkpoint that was due, and not made by an interruption: where the run would go back to.
    """

    step: int = 0
    loader: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "batch": 0})
    best: Best | None = None
    evaluation: dict[str, float] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)
    stop: str | None = None
    anchor: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Progress":
        best = state["best"]
        return cls(**{**state, "best": Best(**best) if best else None})


@dataclass(frozen=True)
class Outcome:
    """How a call of ``Trainer.fit`` ended.

    Args:
        ending: finished, early or interrupted.
        reason: for people.
        progress: where the run stands.
    """

    ending: Ending
    reason: str
    progress: Progress


@dataclass(frozen=True)
class Monitor:
    """Which figure decides what is best.

    Args:
        metric: full name, e.g. ``validation/accuracy``.
        mode: whether less or more of it is better.
    """

    metric: str
    mode: Mode

    def better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        """NaN is better than nothing and worse than every number."""
        if than is None or than != than:
            return True
        return value > than + by if self.mode is Mode.MAX else value < than - by


def horizon_of(settings: TrainerSettings, steps_per_epoch: int) -> Horizon:
    """The run's length: whichever of max_steps and max_epochs comes first."""
    limits = [settings.max_steps, settings.max_epochs * steps_per_epoch if settings.max_epochs is not None else None]
    return Horizon(total_steps=min(limit for limit in limits if limit is not None), steps_per_epoch=steps_per_epoch)
