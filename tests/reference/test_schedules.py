"""Schedules against torch's and transformers' own."""

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from zoo.errors import ConfigError
from zoo.optim.schedules import Schedule
from zoo.registry import SCHEDULES
from zoo.specs import Horizon

TOTAL = 40


def ours(name: str, **options: Any) -> Schedule:
    wired = {parameter.name: Horizon(total_steps=TOTAL, steps_per_epoch=10) for parameter in SCHEDULES.schema(name).wired}
    return SCHEDULES.build(SCHEDULES.check_node({"name": name, **options}, "schedule"), "schedule", **wired)  # type: ignore[no-any-return]


def theirs(make: Any) -> list[float]:
    """Rates that a torch scheduler gives to the updates 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (("constant", {}), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (("linear", {}), lambda o: lr_scheduler.LinearLR(o, 1.0, 1e-12, TOTAL)),
        (("linear", {"final": 0.25}), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, TOTAL)),
        (("cosine", {}), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        (("cosine", {"final": 0.1}), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1)),
        (("step", {"milestones": [0.5, 0.75], "factor": 0.2}), lambda o: lr_scheduler.MultiStepLR(o, [20, 30], 0.2)),
        (("step", {"milestones": [7, 21], "factor": 0.5}), lambda o: lr_scheduler.MultiStepLR(o, [7, 21], 0.5)),
        (("one_cycle", {}), lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, cycle_momentum=False)),
        (("one_cycle", {"anneal": "linear"}), lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, anneal_strategy="linear", cycle_momentum=False)),
        (
            ("one_cycle", {"warmup_steps": 9, "start": 0.1, "final": 0.001}),
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, pct_start=0.25, div_factor=10, final_div_factor=100, cycle_momentum=False),
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_torch_gives_the_same_rates(schedule: tuple[str, dict[str, Any]], reference: Any) -> None:
    multiplier = ours(schedule[0], **schedule[1])
    assert [multiplier(step) for step in range(TOTAL)] == pytest.approx(theirs(reference), abs=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_transformers_gives_the_same_rates_from_the_peak_on(name: str) -> None:
    """Warm-up differs on purpose: theirs spends its first update at rate 0."""
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[name]
    reference = theirs(lambda optimizer: make(optimizer, 8, TOTAL))
    multiplier = ours(name, warmup_steps=8)
    assert [multiplier(step) for step in range(8, TOTAL)] == pytest.approx(reference[8:], abs=1e-9)
    assert [multiplier(step) for step in range(8)] == pytest.approx([(step + 1) / 9 for step in range(8)])
    assert reference[0] == 0.0
    assert multiplier(0) > 0


def test_step_counts_its_milestones_from_the_runs_start() -> None:
    multiplier = ours("step", milestones=[20], warmup_steps=5)
    assert (multiplier(19), multiplier(20)) == (1.0, 0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("cosine", {"warmup_steps": 40}, "leaves nothing"), ("constant", {"warmup_steps": -1}, "below 0"), ("step", {"milestones": [0]}, "not above 0")],
)
def test_schedules_that_cannot_be_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(name, **options)
