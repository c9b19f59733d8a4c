"""Steps that must not be made: overflows of fp16, numbers that are not finite, spikes of the loss; and what becomes of them.

Whatever is decided here is decided from the summed loss and gradient norm, so that all ranks decide the same, and from state that is in
every checkpoint, so that a resumed run does too.
"""

import math
import statistics
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from zoo.errors import ZooError
from zoo.settings import Fault, Precision, TrainerSettings
from zoo.training.precision import LossScale

WINDOW, LEAST = 64, 16
"""Losses that a spike is compared with, and how many there have to be before anything is called one."""


class RollBack(Exception):  # noqa: N818 - no error, but a way out of the step
    """Go back to the last checkpoint, and on behind this batch."""


class SpikeError(ZooError):
    """The loss is far above what it was. The optimizer has not stepped."""


class TooManyFaultsError(ZooError):
    """The run has skipped or gone back more often than it may. The weights are those of the step before."""


class Faults:
    """Says of each step whether it may be made, and counts those that may not.

    Args:
        settings: policies and their limits.
        main: whether this rank speaks.
    """

    def __init__(self, settings: TrainerSettings, *, main: bool = True) -> None:
        self.settings, self.main = settings, main
        self.scale = LossScale() if settings.precision is Precision.FP16 else None
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.watching = self.scale is not None or settings.spike is not None
        """Whether every step has to be shown to ``judge``; otherwise only those that are not finite."""
        self.overflows, self.skips, self.rollbacks = 0, 0, 0

    def judge(self, step: int, terms: Mapping[str, float], norm: float) -> Fault | None:
        """None, if the step may be made.

        Args:
            step: counted from 0.
            terms: global means of the loss terms.
            norm: of the gradient, scaled back.

        Raises:
            RollBack: to go back.
            TooManyFaultsError: past a limit.
        """
        loss = sum(terms.values())
        if not math.isfinite(loss) or not math.isfinite(norm):
            if self.scale is not None and math.isfinite(loss) and self.scale.shrink():
                self.overflows += 1
                return Fault.SKIP
            return self._apply(self.settings.non_finite, step, f"loss {loss:g}, gradient norm {norm:g}")
        if (spike := self.settings.spike) is not None:
            if len(self.losses) >= LEAST and loss > spike * (usual := statistics.median(self.losses)) > 0:  # a loss below 0 has no such scale
                return self._apply(self.settings.on_spike, step, f"loss {loss:g}, where the median of the steps before is {usual:g}")
            self.losses.append(loss)
        if self.scale is not None:
            self.scale.grow()
        return None

    def _apply(self, policy: Fault, step: int, reason: str) -> Fault:
        match policy:
            case Fault.SKIP:
                self.skips += 1
                self._limit(self.skips, "max_skips", f"step {step + 1}: {reason}: skipped")
            case Fault.ROLLBACK:
                self.rollbacks += 1
                self._limit(self.rollbacks, "max_rollbacks", f"step {step + 1}: {reason}: going back")
                raise RollBack(f"step {step + 1}: {reason}")
        return policy

    def _limit(self, count: int, name: str, told: str) -> None:
        limit = getattr(self.settings, name)
        if count > limit:
            raise TooManyFaultsError(
                f"{told.rpartition(':')[0]}; that is one more than trainer.{name}={limit}: the run does not get better by itself; nothing was updated\n"
                "  way out 1: a lower rate or a longer warm-up: optimizer.lr, schedule.warmup_steps\n"
                f"  way out 2: look at the samples (trainer.non_finite=stop names them), or a larger trainer.{name}"
            )
        if self.main:
            sys.stderr.write(f"{told} ({count} of {limit})\n")

    @property
    def figures(self) -> dict[str, float]:
        """For the log; nothing where nothing has happened."""
        found = {"train/skipped_steps": self.overflows + self.skips, "train/rollbacks": self.rollbacks}
        shown = {name: float(value) for name, value in found.items() if value}
        return shown if self.scale is None else {**shown, "train/loss_scale": self.scale.value}

    def state_dict(self) -> dict[str, Any]:
        scale = {} if self.scale is None else {"scale": self.scale.value, "good": self.scale.good}
        return {"overflows": self.overflows, "skips": self.skips, "rollbacks": self.rollbacks, "losses": list(self.losses), **scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.overflows, self.skips, self.rollbacks = state["overflows"], state["skips"], state["rollbacks"]
        self.losses = deque(state["losses"], maxlen=WINDOW)
        if self.scale is not None and "scale" in state:
            self.scale.value, self.scale.good = state["scale"], state["good"]
