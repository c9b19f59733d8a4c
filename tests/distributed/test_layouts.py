"""The same numbers in every layout: DDP, FSDP2, HSDP, tensor and sequence parallel, and both; against one process, in double precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.layouts import LAYOUTS, MODELS, Trace, apart, difference, make_trainer, traces
from tests.processes import run_ranks
from zoo.parallel.sharding import whole_state
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.published import published_weights

ACCUMULATED = [*MODELS["vit"], "trainer.accumulate=2"]


@pytest.mark.parametrize("world", [2, 4])
def test_every_layout_trains_the_same(world: int) -> None:
    """R3: loss, norm, gradients and weights of three steps with every kind of dropout, batches of 16 that accumulate."""
    layouts = {name: overrides for name, (processes, overrides) in LAYOUTS.items() if processes == world}
    wanted = traces(0, 1, [MODELS["vit"]], dtype="float64")[0]
    found = run_ranks(traces, world, [[*ACCUMULATED, *overrides] for overrides in layouts.values()], 3, "float64", timeout=120)[0]
    for name, one in zip(layouts, found, strict=True):
        assert max(difference(one, wanted).values()) < 1e-12, name


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_models_without_transformer_blocks_are_sharded(model: str) -> None:
    wanted = traces(0, 1, [MODELS[model]], dtype="float64")[0]
    found = run_ranks(traces, 2, [[*MODELS[model], "parallel.strategy=fsdp"]], 3, "float64", timeout=120)[0][0]
    assert max(difference(found, wanted).values()) < 1e-12


def test_recomputation_changes_no_number() -> None:
    """In one process, and under every kind of sharding at once."""
    wanted = traces(0, 1, [MODELS["vit"]], dtype="float64")[0]
    kinds = [["trainer.recompute=full"], ["trainer.recompute=selective"], ["trainer.recompute=full", "trainer.recompute_every=2"]]
    for one in traces(0, 1, [[*MODELS["vit"], *kind] for kind in kinds], dtype="float64"):
        assert difference(one, wanted) == {"loss": 0.0, "norm": 0.0, "gradient": 0.0, "weights": 0.0}
    both = [[*MODELS["vit"], *LAYOUTS["fsdp+tensor"][1], *kind] for kind in kinds]
    for one in run_ranks(traces, 4, both, 3, "float64", timeout=120)[0]:
        assert max(difference(one, wanted).values()) < 1e-12


OPTIONS = {
    "clipped": ["trainer.clip_norm=0.5"],
    "groups": ["optimizer.layer_decay=0.5", "+optimizer.overrides.head.lr_scale=10", "optimizer.weight_decay=0.3"],
    "frozen": ["trainer.freeze=[encoder.patches,encoder.blocks.0]"],
    "adapters": ["model.lora.rank=2", "model.lora.targets=[encoder.blocks.*]", "model.lora.dropout=0.1"],
    "adagrad": ["optimizer=adagrad"],
    "sgd": ["optimizer=sgd"],
    "reshard": ["parallel.reshard=false"],
    "offload": ["parallel.offload=true"],
}


def test_sharding_goes_with_the_trainers_options() -> None:
    """R3: clipping, rates by layer, frozen parts, adapters and optimizers that keep other state, under FSDP2 on two processes."""
    wanted = traces(
        0, 1, [[*MODELS["vit"], *options] for name, options in OPTIONS.items() if name not in ("reshard", "offload")] + 2 * [MODELS["vit"]], dtype="float64"
    )
    found = run_ranks(traces, 2, [[*MODELS["vit"], "parallel.strategy=fsdp", *options] for options in OPTIONS.values()], 3, "float64", timeout=180)[0]
    for name, one, other in zip(OPTIONS, found, wanted, strict=True):
        assert max(difference(one, other).values()) < 1e-12, name  # type: ignore[arg-type]


def averaged_between(rank: int, world: int, overrides: list[str]) -> Trace:
    """Steps with a look at the averaged model after each, as evaluations take it, and no checkpoint between."""
    del rank, world
    trainer = make_trainer([*MODELS["vit"], "trainer.ema=0.5", "trainer.max_steps=3", *overrides], "float64")
    step, losses = trainer.step, []
    for number, parts in zip(range(3), trainer.train, strict=False):
        trainer.model.train()
        step(parts, number, step.counts(parts, False)[0])
        losses.append(sum(step.terms.values()))
        with torch.no_grad(), step.ema.applied():
            trainer.model.eval()(parts[0].inputs)
    return Trace(losses, [1.0], {}, whole_state(trainer.model, trainer.mesh.grid))


@pytest.mark.parametrize("reshard", ["true", "false"])
def test_evaluations_of_averaged_weights_leave_the_training_alone(reshard: str) -> None:
    """FSDP2 keeps what it gathered for a forward pass: the averaged weights must not be what the next step computes with."""
    wanted = averaged_between(0, 1, [])
    found = run_ranks(averaged_between, 2, ["parallel.strategy=fsdp", f"parallel.reshard={reshard}"], timeout=120)[0]
    assert found.losses == pytest.approx(wanted.losses, rel=1e-12)
    assert apart(found.weights, wanted.weights) < 1e-12


KEPT = [*MODELS["vit"], "trainer.max_steps=3", "trainer.ema=0.9", "trainer.checkpoint_every=2", "schedule=constant"]


SOME = ("single", "fsdp", "sequence")


def save(rank: int, world: int, layouts: list[str], folder: Path) -> None:
    """Two steps in each layout."""
    del rank, world
    for name in layouts:
        make_trainer([*KEPT, *LAYOUTS[name][1], "trainer.max_steps=2"], "float64", folder / name).fit()


def go_on(rank: int, world: int, layouts: list[str], sources: list[str], folder: Path) -> dict[tuple[str, str], Any]:
    """From each source's checkpoint in each of these layouts: the weights after a third step, and the averages."""
    del world
    found = {}
    for name in layouts:
        for source in sources:
            trainer = make_trainer([*KEPT, *LAYOUTS[name][1]], "float64")
            checkpoint, messages = newest_checkpoint(folder / source)
            assert checkpoint is not None
            assert not messages
            trainer.load(checkpoint)
            trainer.fit()
            weights = whole_state(trainer.model, trainer.mesh.grid)
            with trainer.step.ema.applied():
                averages = whole_state(trainer.model, trainer.mesh.grid)
            if rank == 0:
                found[source, name] = weights, averages
    return found


@pytest.mark.parametrize("names", [SOME, pytest.param(tuple(LAYOUTS), marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_checkpoint_of_any_layout_goes_on_in_any_other(names: tuple[str, ...], tmp_path: Path) -> None:
    """R17: every ordered pair: weights, moments, averages and the data's cursor; and each is a plain model for whoever opens it."""
    by_world = {world: found for world in (1, 2, 4) if (found := [name for name in names if LAYOUTS[name][0] == world])}
    straight = make_trainer(KEPT, "float64")
    straight.fit()
    wanted = whole_state(straight.model, None)
    with straight.step.ema.applied():
        averaged = whole_state(straight.model, None)
    for world, layouts in by_world.items():
        run_ranks(save, world, layouts, tmp_path, timeout=120)
    first, _ = newest_checkpoint(tmp_path / "single")
    for name in names:
        found, _ = newest_checkpoint(tmp_path / name)
        assert found is not None
        assert apart(published_weights(found), published_weights(first)) < 1e-12, name  # type: ignore[arg-type]
    pairs: dict[tuple[str, str], Any] = {}
    for world, layouts in by_world.items():
        pairs |= run_ranks(go_on, world, layouts, list(names), tmp_path, timeout=240)[0]
    assert len(pairs) == len(names) ** 2
    for pair, (weights, averages) in pairs.items():
        assert apart(weights, wanted) < 1e-12, pair
        assert apart(averages, averaged) < 1e-12, pair
