"""zoo plan explains runs that others have published."""

import pytest

from tools.plan_published import OTHERS, SEVEN, SHAPES, Run, predicted
from zoo.plan.devices import DEVICES, GIB
from zoo.plan.layout import Layout, Strategy
from zoo.plan.planner import Choices, plan
from zoo.plan.time import CONSTANTS, SOURCES
from zoo.plan.workload import of_shape


@pytest.mark.parametrize(("name", "billions"), [("llama3_8b", 8.03), ("llama3_70b", 70.6), ("llama2_13b", 13.0), ("llama2_70b", 69.0)])
def test_parameters_are_the_published_ones(name: str, billions: float) -> None:
    assert sum(parameter.numel() for parameter in SHAPES[name].model().parameters()) / 1e9 == pytest.approx(billions, abs=0.05)


def test_flops_a_token_are_the_usual_formula() -> None:
    """6 N + 12 L D S (https://arxiv.org/abs/2204.02311, appendix B), N without the embedding table."""
    shape = SHAPES["llama3_8b"]
    workload = of_shape(shape)
    made = plan(workload, DEVICES["h100"], Choices(layout=Layout(strategy=Strategy.FSDP, world=8), batch=8, bf16=True))
    products = sum(parameter.numel() for parameter in workload.model.parameters() if parameter.dim() == 2) - shape.vocab * shape.dim
    assert made.step.flops / shape.sequence == pytest.approx(6 * products + 12 * shape.layers * shape.dim * shape.sequence, rel=1e-6)


def test_two_constants_and_a_rate_are_fitted_and_every_constant_has_a_source() -> None:
    assert set(SOURCES) == set(vars(CONSTANTS))
    assert [name for name, source in SOURCES.items() if "FITTED" in source] == ["products", "float8"]
    fitted = [(device.name, name) for device in DEVICES.values() for name, source in device.sources.items() if "FITTED" in source]
    assert fitted == [("h100_500w", "products")]
    assert [run.fitted for run in (*SEVEN, *OTHERS) if run.fitted] == ["products of h100_500w", "float8", "products"]


@pytest.mark.parametrize("run", SEVEN, ids=lambda run: f"{run.shape}-{run.world}-{run.compiled}-{run.float8}")
def test_the_seven_published_figures(run: Run) -> None:
    """Bound: 15 %. Seen: 0 to 5 %."""
    assert predicted(run).rate_per_device == pytest.approx(run.tokens, rel=0.15)


def test_mfu_is_the_published_one() -> None:
    """torchtitan gives 33 % without and 39 % with compilation."""
    assert predicted(SEVEN[0]).prediction.mfu == pytest.approx(0.33, abs=0.015)
    assert predicted(SEVEN[1]).prediction.mfu == pytest.approx(0.39, abs=0.015)


@pytest.mark.parametrize("run", SEVEN[:6], ids=lambda run: f"{run.world}-{run.compiled}-{run.float8}")
def test_memory_is_near_what_the_allocator_had_reserved(run: Run) -> None:
    """Reserved is more than allocated, and compiled code saves less: both are outside the prediction."""
    assert run.gib is not None
    assert predicted(run).memory.total / GIB == pytest.approx(run.gib, rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("run", OTHERS, ids=lambda run: f"{run.shape}-{run.device}-{run.world}-{run.checkpointing}")
def test_runs_that_no_constant_was_chosen_for(run: Run) -> None:
    assert predicted(run).rate_per_device == pytest.approx(run.tokens, rel=0.15)
