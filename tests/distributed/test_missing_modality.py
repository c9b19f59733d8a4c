"""R9: a missing modality never hangs, and the numbers are those of one process. Image and text on one rank, text alone on the other."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_ranks
from zoo.build import Nodes, build_model
from zoo.checks import check
from zoo.compose import compose
from zoo.config import encoder_node
from zoo.data.fake import fake_batch
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.optim.groups import ParameterGroups
from zoo.optim.optimizers import adamw
from zoo.parallel.layout import degrees
from zoo.parallel.mesh import make_mesh
from zoo.parallel.parallelize import place
from zoo.parallel.sharding import put_together, whole_state
from zoo.registry import DECODERS, HEADS
from zoo.settings import ParallelSettings, Strategy, TrainerSettings
from zoo.specs import ClassTarget, DataSpec, ImageInput, TextInput
from zoo.structs import Batch
from zoo.training.step import TrainStep

SPEC = DataSpec(
    inputs=(ImageInput(name="image", channels=1, height=8, width=8, optional=True), TextInput(name="text", vocab_size=40, max_length=12, optional=True)),
    targets=(ClassTarget(name="label", labels=("a", "b", "c")),),
)
TOKENS = {"combine": "tokens", "depth": 1, "dropout": 0.1}
PARTS = ["+model/encoder@model.encoder.encoders.text=transformer_tiny", "+model/encoder@model.encoder.encoders.table=table_tiny"]
ROWS, STEPS = 8, 3
Answer = tuple[list[dict[str, torch.Tensor]], list[float], dict[str, torch.Tensor]]


def make_model(options: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    node = encoder_node("fusion_tiny", options)
    return build_model(Nodes(node, DECODERS.check_node({"name": "none"}, ""), HEADS.check_node({"name": "classification"}, "")), SPEC).double().train()


def global_batch(step: int, lacks: str) -> Batch:
    """The first half of the rows has both inputs, the second half lacks one, in the last step all rows do."""
    complete = replace(SPEC, inputs=tuple(replace(entry, optional=False) for entry in SPEC.inputs))
    batch = fake_batch(complete, ROWS, seed=step, lengths=[3, 9, 1, 12, 5, 5, 2, 7])
    present = torch.arange(ROWS) < (ROWS // 2 if step < STEPS - 1 else 0)
    batch = replace(batch, inputs=batch.inputs | {lacks: replace(batch.inputs[lacks], present=present).blanked()})
    return batch.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """As a loader gives it: nothing is said of presence where every row has the input."""
    part = batch.rows(start, stop)
    inputs = {
        name: replace(values, present=None) if values.present is not None and bool(values.present.all()) else values for name, values in part.inputs.items()
    }
    return replace(part, inputs=inputs)


def train(rank: int, world: int, micro_batches: int, options: dict[str, Any], lacks: str, strategy: Strategy = Strategy.DDP) -> Answer:
    """Gradients of each step, losses, and the parameters in the end."""
    settings, device, parallel = TrainerSettings(clip_norm=1.0, accumulate=micro_batches), torch.device("cpu"), ParallelSettings(strategy=strategy)
    mesh = make_mesh(degrees(parallel, world), device)
    with torch.device("meta"):
        skeleton = make_model(options)
    model = place(partial(make_model, options), skeleton, mesh, device, settings, parallel).train()
    step = TrainStep(
        model=model,
        optimizer=adamw(groups=ParameterGroups(model), lr=0.01),
        schedule=lambda _: 1.0,
        settings=settings,
        seed=0,
        mesh=mesh,
        device=device,
    )
    found, losses = [], []
    for number in range(STEPS):
        batch, size = global_batch(number, lacks), ROWS // (world * micro_batches)
        first = rank * micro_batches
        parts = [part_of(batch, place * size, (place + 1) * size) for place in range(first, first + micro_batches)]
        counts, _ = step.counts(parts, False)
        step(parts, number, counts)
        updated = [(part, step.names[id(part)]) for part in step.gradients.parameters if part.grad is not None]
        found.append({name: put_together(part.grad, step.pieces.get(name)).clone() for part, name in updated})
        losses.append(step.terms["classification"])
    return found, losses, whole_state(model, mesh.grid)


def assert_same(found: Answer, wanted: Answer) -> None:
    for number, (ours, theirs) in enumerate(zip(found[0], wanted[0], strict=True)):
        assert set(ours) == set(theirs), f"step {number}"
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert found[1] == pytest.approx(wanted[1], rel=1e-12)
    for name, parameter in wanted[2].items():
        torch.testing.assert_close(found[2][name], parameter, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lacks", ["image", "text"])
@pytest.mark.parametrize("options", [{}, {"absent": "skip"}, TOKENS, TOKENS | {"absent": "skip"}], ids=str)
def test_one_rank_has_both_inputs_and_the_other_one(options: dict[str, Any], lacks: str) -> None:
    """R9, R3: gradients, losses and parameters of three steps with dropout, clipping and AdamW; in the last step no row has the input."""
    wanted = train(0, 1, 1, options, lacks)
    parameters = {name for name, _ in make_model(options).named_parameters()}
    lost = {name for name in parameters if name.startswith((f"encoder.encoders.{lacks}.", f"encoder.projections.{lacks}."))}
    assert [parameters - set(step) for step in wanted[0]] == [set(), set(), lost if "absent" in options else set()]
    assert_same(train(0, 1, 4, options, lacks), wanted)
    begun = time.perf_counter()
    for found in run_ranks(train, 2, 1, options, lacks):
        assert_same(found, wanted)
    assert time.perf_counter() - begun < 60


@pytest.mark.parametrize("lacks", ["image", "text"])
@pytest.mark.parametrize("options", [{}, TOKENS], ids=["pooled", "tokens"])
def test_sharded_processes_never_wait_for_a_part_that_one_leaves_out(options: dict[str, Any], lacks: str) -> None:
    """R9 with FSDP2, where each part's parameters are gathered by all processes: two of two micro-batches each."""
    wanted = train(0, 1, 1, options, lacks)
    begun = time.perf_counter()
    for found in run_ranks(train, 2, 2, options, lacks, Strategy.FSDP):
        assert_same(found, wanted)
    assert time.perf_counter() - begun < 60


def test_leaving_parts_out_is_refused_where_they_are_sharded(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,image,label\n" + "a b,,yes\nb,,no\n" * 20)
    overrides = ["data=table", f"data.path={tmp_path}/rows.csv", "data.text=text", "data.numbers=[image]", "data.target=label", "data/tokenizer=byte"]
    with pytest.raises(ConfigError, match="skip leaves a part out") as told:
        check(compose([*overrides, "data.optional=[text]", "model/encoder=fusion", *PARTS, "model.encoder.absent=skip", "parallel=fsdp", "logger=none"]))
    assert told.value.path == "model.encoder.absent"


def test_four_ranks_of_two_micro_batches() -> None:
    """R9: one row each, so that ranks and micro-batches alike have or lack it."""
    wanted = train(0, 1, 1, {"absent": "skip"}, "image")
    for found in run_ranks(train, 4, 2, {"absent": "skip"}, "image"):
        assert_same(found, wanted)


def test_both_ways_give_the_same_gradients() -> None:
    """absent=run and absent=skip, where the global batch has the input at all."""
    run, skip = train(0, 1, 2, {}, "image"), train(0, 1, 2, {"absent": "skip"}, "image")
    for ours, theirs in zip(run[0][:2], skip[0][:2], strict=True):
        assert set(ours) == set(theirs)
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-12) for name in ours)
