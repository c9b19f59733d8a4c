"""The cheapest layout, and what is said where there is none."""

from dataclasses import replace

import pytest

from zoo.errors import ConfigError
from zoo.plan.devices import DEVICES, H100, Device
from zoo.plan.layout import Layout, Strategy
from zoo.plan.planner import Choices, plan
from zoo.plan.search import Goal, Space, Target, candidates, cheapest, does_not_fit, fitting_alternatives, parse_target
from zoo.plan.shapes import TransformerShape
from zoo.plan.workload import Workload, of_shape
from zoo.settings import Recompute

SHAPE = TransformerShape(layers=8, dim=512, heads=8, kv_heads=4, hidden=1024, vocab=1000, sequence=256)
ONE = Layout(strategy=Strategy.DDP, world=1)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return of_shape(SHAPE, "small")


def small(gib: float) -> Device:
    return replace(H100, name="small", memory=gib * 2**30)


def test_the_fewest_devices_that_reach_the_target(workload: Workload) -> None:
    choices = Choices(layout=ONE, batch=64, bf16=True, compiled=True)
    one = plan(workload, H100, choices).prediction.tokens_per_second
    assert one is not None
    found = cheapest(workload, H100, choices, Space(world=8), Target(Goal.TOKENS, 1.5 * one))
    assert found.fits
    assert found.prediction.tokens_per_second is not None
    assert found.prediction.tokens_per_second >= 1.5 * one
    # Nothing on fewer devices does, by trying them all.
    fewer = [*candidates(workload, H100, choices, Space(world=found.choices.layout.world // 2))]
    assert len(fewer) > 2
    assert all((plan(workload, H100, one_of, estimate=True).prediction.tokens_per_second or 0) < 1.5 * one for one_of in fewer)


def test_what_the_user_fixed_stays(workload: Workload) -> None:
    space = Space(world=8, strategy=Strategy.FSDP, tensor=2, checkpointing=Recompute.FULL, accumulate=2)
    found = [*candidates(workload, H100, Choices(layout=ONE, batch=64), space)]
    assert {(one.layout.strategy, one.layout.tensor, one.checkpointing, one.accumulate) for one in found} == {(Strategy.FSDP, 2, Recompute.FULL, 2)}
    assert {one.layout.world for one in found} == {2, 4, 8}


def test_a_target_out_of_reach_says_what_is_reached(workload: Workload) -> None:
    with pytest.raises(ConfigError) as caught:
        cheapest(workload, H100, Choices(layout=ONE, batch=16), Space(world=2), Target(Goal.SAMPLES, 1e9))
    assert caught.value.path == "--target"
    assert "2 h100 reach" in str(caught.value)
    assert "--world" in caught.value.ways_out[0]


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would(workload: Workload) -> None:
    device = small(0.75)
    made = plan(workload, device, Choices(layout=ONE, batch=64))
    assert not made.fits
    error = does_not_fit(made)
    over = (made.memory.total - made.usable) / 2**30
    assert f"{over:.1f} too many" in str(error)
    assert f"activations {made.memory.activations / 2**30:.1f}" in str(error)
    ways = fitting_alternatives(made)
    assert ways
    assert all(plan(workload, device, way).fits for way in ways)
    assert all(way.layout.world == 1 for way in ways)
    assert any(way.accumulate > 1 or way.checkpointing is not Recompute.NONE for way in ways)
    assert "--accumulate" in error.ways_out[0]


def test_more_devices_are_offered_where_these_are_too_few(workload: Workload) -> None:
    made = plan(workload, small(0.2), Choices(layout=ONE, batch=2))
    ways = fitting_alternatives(made)
    assert ways
    assert all(way.layout.world > 1 for way in ways)  # parameters, gradients and AdamW alone take .3 GiB
    assert all(way.layout.strategy is not Strategy.DDP or way.layout.tensor > 1 for way in ways)


@pytest.mark.parametrize(("text", "told"), [("tokens=5", "tokens_per_second"), ("tokens_per_second=fast", "no number"), ("samples_per_second=-1", "above 0")])
def test_bad_targets(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_target(text)
    assert parse_target("tokens_per_second=100_000") == Target(Goal.TOKENS, 100_000)


def test_choices_that_contradict_each_other(workload: Workload) -> None:
    with pytest.raises(ConfigError, match="--batch 8 or more"):
        plan(workload, H100, Choices(layout=Layout(strategy=Strategy.DDP, world=4), batch=7, accumulate=2))
    with pytest.raises(ConfigError, match="float8 --compile"):
        plan(workload, H100, Choices(layout=ONE, batch=4, float8=True, bf16=True))
    with pytest.raises(ConfigError, match="a100 has no such products"):
        plan(workload, DEVICES["a100"], Choices(layout=ONE, batch=4, float8=True, bf16=True, compiled=True))


def test_what_makes_a_step_faster_does_so_here(workload: Workload) -> None:
    base = Choices(layout=ONE, batch=32)

    def seconds(**changes: object) -> float:
        return plan(workload, H100, replace(base, **changes)).prediction.seconds  # type: ignore[arg-type]

    assert seconds() > seconds(bf16=True) > seconds(bf16=True, compiled=True)
    assert seconds(checkpointing=Recompute.NONE) < seconds(checkpointing=Recompute.FULL)
    eight = plan(workload, H100, replace(base, layout=Layout(strategy=Strategy.DDP, world=8)))
    assert sum(eight.prediction.parts.values()) == pytest.approx(eight.prediction.seconds)
    assert 0 < eight.prediction.mfu < 1
