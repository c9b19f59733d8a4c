"""Schedules: pure functions of the optimizer step, times ``optimizer.lr``.

Step 0 is the first update. Warm-up rises to 1 over ``warmup_steps`` updates, none of which is wasted at rate 0: update s < W takes
(s + 1) / (W + 1), so that update W is the first at full rate. What follows is exactly the formula of transformers
(``get_cosine_schedule_with_warmup`` ...) and, without warm-up, of ``torch.optim.lr_scheduler``.

Letters: s step, W warm-up steps, T steps in all.
"""

import math
from collections.abc import Callable
from enum import StrEnum

from zoo.registry import SCHEDULES
from zoo.specs import Horizon

Schedule = Callable[[int], float]
"""Optimizer step -> multiplier of the learning rate."""


class Anneal(StrEnum):
    COSINE = "cosine"
    LINEAR = "linear"


def after_warmup(warmup_steps: int, decay: Schedule) -> Schedule:
    """``decay`` sees steps counted from the end of the warm-up."""
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps} is below 0; way out: warmup_steps=0 for none")
    return lambda step: (step + 1) / (warmup_steps + 1) if step < warmup_steps else decay(step - warmup_steps)


def _decay_steps(horizon: Horizon, warmup_steps: int) -> int:
    if warmup_steps and warmup_steps >= horizon.total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} leaves nothing of the run's {horizon.total_steps} steps; way out: fewer warm-up steps or a longer run")
    return max(1, horizon.total_steps - warmup_steps)


@SCHEDULES.register("constant")
def constant(*, warmup_steps: int = 0) -> Schedule:
    """The full rate to the end.

    Args:
        warmup_steps: optimizer steps of linear warm-up.
    """
    return after_warmup(warmup_steps, lambda _: 1.0)


@SCHEDULES.register("linear")
def linear(*, horizon: Horizon, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """A straight line down to the end of the run.

    Args:
        horizon: filled from the run's length.
        warmup_steps: optimizer steps of linear warm-up.
        final: multiplier that the line reaches at the run's end.
    """
    total = _decay_steps(horizon, warmup_steps)
    return after_warmup(warmup_steps, lambda step: final + (1 - final) * max(0.0, 1 - step / total))


@SCHEDULES.register("cosine")
def cosine(*, horizon: Horizon, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine down to the end of the run (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts).

    Args:
        horizon: filled from the run's length.
        warmup_steps: optimizer steps of linear warm-up.
        final: multiplier that the curve reaches at the run's end.
    """
    total = _decay_steps(horizon, warmup_steps)
    return after_warmup(warmup_steps, lambda step: final + (1 - final) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2)


@SCHEDULES.register("step")
def step(*, horizon: Horizon, warmup_steps: int = 0, milestones: list[float] = [0.5, 0.75], factor: float = 0.1) -> Schedule:  # noqa: B006  (never changed)
    """Drops by a factor at given points of the run (He et al., 2016, https://arxiv.org/abs/1512.03385).

    Args:
        horizon: filled from the run's length.
        warmup_steps: optimizer steps of linear warm-up.
        milestones: where it drops: shares of the run in (0, 1), or optimizer steps from 1 on, counted from the run's start.
        factor: what each drop multiplies by.
    """
    if any(point <= 0 for point in milestones):
        raise ValueError(f"milestones={milestones} has points that are not above 0; way out: shares of the run such as 0.5, or steps such as 1000")
    drops = [round(point * horizon.total_steps) if point < 1 else int(point) for point in milestones]
    return after_warmup(warmup_steps, lambda step: factor ** sum(step + warmup_steps >= drop for drop in drops))


@SCHEDULES.register("one_cycle")
def one_cycle(*, horizon: Horizon, warmup_steps: int | None = None, start: float = 0.04, final: float = 4e-6, anneal: Anneal = Anneal.COSINE) -> Schedule:
    """Up to the full rate and down to almost nothing (Smith and Topin, 2018, https://arxiv.org/abs/1708.07120), as ``torch.optim.lr_scheduler.OneCycleLR``.

    Args:
        horizon: filled from the run's length.
        warmup_steps: optimizer steps on the way up; null takes 30 % of the run.
        start: multiplier of the first step.
        final: multiplier of the last step.
        anneal: shape of both ways, cosine or linear.
    """
    total = horizon.total_steps
    _decay_steps(horizon, warmup_steps or 0)
    # The peak lies on step warmup_steps exactly as torch's on pct_start * total - 1, the last step on total - 1.
    peak = warmup_steps if warmup_steps is not None else 0.3 * total - 1

    def between(first: float, last: float, share: float) -> float:
        share = min(max(share, 0.0), 1.0)
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2 if anneal is Anneal.COSINE else first + (last - first) * share

    def multiplier(step: int) -> float:
        return between(start, 1.0, step / peak) if step < peak else between(1.0, final, (step - peak) / max(1e-9, total - 1 - peak))

    return multiplier
