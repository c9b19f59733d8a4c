"""R3 for losses that compare the rows of the global batch: images and texts of unequal lengths, every kind of dropout, an incomplete last window."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.processes import run_ranks
from zoo.build import Nodes, build_model
from zoo.data.fake import fake_batch
from zoo.model import Model
from zoo.optim.groups import ParameterGroups
from zoo.optim.optimizers import adamw
from zoo.parallel.collectives import Group
from zoo.parallel.layout import degrees
from zoo.parallel.mesh import make_mesh
from zoo.parallel.parallelize import place
from zoo.parallel.sharding import put_together, whole_state
from zoo.random import SampleRandom, sample_randomness
from zoo.registry import DECODERS, ENCODERS, HEADS
from zoo.settings import ParallelSettings, Recompute, Strategy, TrainerSettings
from zoo.specs import DataSpec, ImageInput, PairTarget, TextInput
from zoo.structs import Batch, Values
from zoo.training.guard import NonFiniteError
from zoo.training.step import TrainStep

SPEC = DataSpec(
    inputs=(ImageInput(name="image", channels=1, height=8, width=8), TextInput(name="text", vocab_size=40, max_length=12)),
    targets=(PairTarget(name="pair"),),
)
DROPPING = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.1}
BLOCKS: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2} | DROPPING
TOWERS = {"image": {"name": "vit", "patch_size": 4} | BLOCKS, "text": {"name": "transformer"} | BLOCKS}
SOFTMAX, SIGMOID = {"name": "contrastive"}, {"name": "contrastive", "loss": "sigmoid", "bias": -1.0}
WINDOWS = (8, 3)
"""Rows of the steps; the last one is incomplete, and with four parts one of them has no row at all."""
LENGTHS = [3, 9, 1, 12, 5, 5, 2, 7]


@dataclass(frozen=True)
class Layout:
    """How a global batch is split, and the model shared."""

    micro_batches: int = 1
    parallel: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=lambda: SOFTMAX)


@dataclass(frozen=True)
class Answer:
    """Gradients and loss of each step, and the parameters in the end."""

    gradients: list[dict[str, Tensor]]
    losses: list[float]
    weights: dict[str, Tensor]


def make_model(head: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    nodes = Nodes(
        ENCODERS.check_node({"name": "dual", "dim": 16, "encoders": TOWERS}, ""), DECODERS.check_node({"name": "none"}, ""), HEADS.check_node(head, "")
    )
    return build_model(nodes, SPEC).double().train()


def global_batch(step: int) -> Batch:
    """Row 3 is of the same thing as row 2, as row 7 and row 6 are."""
    size = WINDOWS[step]
    batch = fake_batch(SPEC, size, seed=step, lengths=LENGTHS[:size])
    return replace(doubled(batch), ids=torch.arange(size) + 100 * step)


def doubled(batch: Batch) -> Batch:
    return batch.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def part_of(batch: Batch, part: int, parts: int) -> Batch:
    """As a loader gives it: contiguous rows, padded to their own longest; a filler row where there is none."""
    start, stop = batch.size * part // parts, batch.size * (part + 1) // parts
    rows = batch.rows(start, stop) if start < stop else batch.rows(0, 1)
    text = rows.inputs["text"]
    assert isinstance(text.values, Tensor)
    assert text.mask is not None
    longest = int(text.mask.sum(dim=1).max())
    valid = rows.valid if start < stop else torch.zeros_like(rows.valid)
    return replace(rows, inputs=rows.inputs | {"text": Values(text.values[:, :longest], text.mask[:, :longest])}, valid=valid)


def make_step(world: int, layout: Layout) -> TrainStep:
    settings, device, parallel = TrainerSettings(clip_norm=1.0, **layout.trainer), torch.device("cpu"), ParallelSettings(**layout.parallel)
    mesh = make_mesh(degrees(parallel, world), device)
    with torch.device("meta"):
        skeleton = make_model(layout.head)
    model = place(partial(make_model, layout.head), skeleton, mesh, device, settings, parallel).train()
    optimizer = adamw(groups=ParameterGroups(model), lr=0.01)
    return TrainStep(model=model, optimizer=optimizer, schedule=lambda _: 1.0, settings=settings, seed=0, mesh=mesh, device=device)


def train(world: int, layout: Layout) -> Answer:
    step = make_step(world, layout)
    answer = Answer([], [], {})
    for number in range(len(WINDOWS)):
        batch, data, micro = global_batch(number), step.mesh.data, layout.micro_batches
        parts = [part_of(batch, data.rank * micro + place, data.size * micro) for place in range(micro)]
        counts, _ = step.counts(parts, False)
        step(parts, number, counts)
        updated = [(part, step.names[id(part)]) for part in step.gradients.parameters if part.grad is not None]
        answer.gradients.append({name: put_together(part.grad, step.pieces.get(name)).clone() for part, name in updated})
        answer.losses.append(step.terms["contrastive"])
    answer.weights.update(whole_state(step.model, step.mesh.grid))
    return answer


def trainings(rank: int, world: int, layouts: list[Layout]) -> list[Answer]:
    """Several layouts in one group of processes."""
    del rank
    return [train(world, layout) for layout in layouts]


def assert_same(found: Answer, wanted: Answer, name: str) -> None:
    for ours, theirs in zip(found.gradients, wanted.gradients, strict=True):
        assert set(ours) == set(theirs), name
        for key, gradient in theirs.items():
            torch.testing.assert_close(ours[key], gradient, rtol=1e-10, atol=1e-12, msg=lambda text, key=key: f"{name}, {key}: {text}")
    assert found.losses == pytest.approx(wanted.losses, rel=1e-12), name
    for key, parameter in wanted.weights.items():
        torch.testing.assert_close(found.weights[key], parameter, rtol=1e-10, atol=1e-12)


def reference(model: Model, batch: Batch, step: int) -> Tensor:
    """The loss of a whole batch from the papers' formulas, pair by pair; nothing of the head's but its parameters."""
    with sample_randomness(SampleRandom(0, step, batch.ids)):
        tokens = model.encode(batch.inputs).tokens
    assert tokens is not None
    vectors = tokens / tokens.norm(dim=-1, keepdim=True)
    head: Any = model.head
    pair, rows, costs = batch.targets["pair"].tolist(), range(batch.size), []
    scores = [[head.log_scale[0].exp() * (vectors[i, 0] @ vectors[j, 1]) for j in rows] for i in rows]
    for i in rows:
        others = [j for j in rows if pair[j] != pair[i]]
        if head.bias is None:
            for line in ([scores[i][j] for j in others], [scores[j][i] for j in others]):
                costs.append(-torch.log(scores[i][i].exp() / (scores[i][i].exp() + sum(score.exp() for score in line))) / 2)
        else:
            costs.append(-torch.log(torch.sigmoid(scores[i][i] + head.bias[0])))
            costs += [-torch.log(torch.sigmoid(-scores[i][j] - head.bias[0])) for j in others]
    return torch.stack(costs).sum() / batch.size


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_the_gradient_is_that_of_the_papers_formulas(head: dict[str, Any]) -> None:
    """R3: a whole batch in one forward pass, by torch's autograd alone; accumulated, and in one piece."""
    for number in range(len(WINDOWS)):
        model, batch = make_model(head), global_batch(number)
        loss = reference(model, batch, number)
        loss.backward()
        wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is not None for gradient in wanted.values())
        for micro in (1, 2, 4):
            step = make_step(1, Layout(head=head))
            parts = [part_of(batch, place, micro) for place in range(micro)]
            counts, _ = step.counts(parts, False)
            assert counts == {"contrastive": batch.size}
            sums = step.passes(parts, number, counts)
            assert float(sums["contrastive"]) / batch.size == pytest.approx(float(loss.detach()), rel=1e-12)
            for name, parameter in step.model.named_parameters():
                torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-10, atol=1e-13, msg=lambda text, where=f"{micro}, {name}": f"{where}: {text}")


def test_the_softmax_is_clips() -> None:
    """Where all rows are of different things: torch's cross entropy in both directions, as in open_clip's ClipLoss."""
    model, batch = make_model(SOFTMAX).eval(), doubled(fake_batch(SPEC, 6))
    batch = replace(batch, targets={"pair": torch.arange(6)})
    prediction = model(batch.inputs)
    image, text = prediction["vectors"].unbind(dim=1)
    logits = model.head.log_scale.exp() * image @ text.T  # type: ignore[operator, union-attr]
    wanted = (torch.nn.functional.cross_entropy(logits, torch.arange(6)) + torch.nn.functional.cross_entropy(logits.T, torch.arange(6))) / 2
    term = model.losses(batch)["contrastive"]
    assert float((term.sum / term.count).detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)


def test_accumulation_changes_no_number() -> None:
    """R3: 8 rows, and 3 in the last window: 1, 2 and 4 micro-batches, with recomputation too; clipping and AdamW over both steps."""
    wanted = train(1, Layout())
    for layout in (Layout(2), Layout(4), Layout(2, trainer={"recompute": Recompute.FULL})):
        assert_same(train(1, layout), wanted, str(layout))


FSDP = {"strategy": Strategy.FSDP}
TENSOR = {"tensor": 2, "sequence": True}


def test_two_processes_change_no_number() -> None:
    """R3: DDP, FSDP2 (with recomputation too) and shared Transformer blocks; the last window has 3 rows for 2 or 4 parts."""
    layouts = [
        Layout(),
        Layout(2),
        Layout(parallel=FSDP),
        Layout(2, FSDP, {"recompute": Recompute.FULL}),
        Layout(2, TENSOR),
        Layout(2, head=SIGMOID),
    ]
    wanted = {head["name"] + head.get("loss", ""): train(1, Layout(head=head)) for head in (SOFTMAX, SIGMOID)}
    for answers in run_ranks(trainings, 2, layouts, timeout=400):
        for layout, found in zip(layouts, answers, strict=True):
            assert_same(found, wanted[layout.head["name"] + layout.head.get("loss", "")], str(layout))


def test_three_and_four_processes_change_no_number() -> None:
    """R3: unequal rows (2, 3 and 3), and processes without a row in the last window; sharded and with shared blocks at once."""
    wanted = train(1, Layout())
    for world, layouts in ((3, [Layout(), Layout(2)]), (4, [Layout(), Layout(2, FSDP | TENSOR)])):
        for answers in run_ranks(trainings, world, layouts, timeout=400):
            for layout, found in zip(layouts, answers, strict=True):
                assert_same(found, wanted, f"{world} processes, {layout}")


def test_the_loss_scale_scales_every_gradient() -> None:
    """fp16: what the optimizer gets is scaled back by the step; here the passes alone, with a scale that is a power of two."""
    batch = global_batch(0)
    gradients = []
    for scale in (1.0, 1024.0):
        step = make_step(1, Layout())
        step.loss_scale = scale
        step.passes([part_of(batch, place, 2) for place in range(2)], 0, {"contrastive": 8.0})
        gradients.append({name: parameter.grad for name, parameter in step.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.equal(1024 * gradient, gradients[1][name]), name  # type: ignore[operator]


def test_a_sample_that_is_not_finite_is_named() -> None:
    step, batch = make_step(1, Layout()), global_batch(0)
    image = batch.inputs["image"].values
    assert isinstance(image, Tensor)
    image[5] = float("nan")
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    parts = [part_of(batch, place, 2) for place in range(2)]
    with pytest.raises(NonFiniteError, match=r"sample 5 .*: loss contrastive is nan"):
        step(parts, 0, {"contrastive": 8.0})
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())


def gathered(rank: int, world: int) -> Any:
    """Of as many rows as the rank's number."""
    own = [torch.arange(rank)[:, None] + 10 * rank, torch.full((rank,), rank % 2 == 1), torch.full((rank, 2, 2), float(rank))]
    found, begin = Group(rank, world).rows(own)
    return [tensor.tolist() for tensor in found], begin


def test_rows_of_all_ranks() -> None:
    for rank, ((numbers, flags, cubes), begin) in enumerate(run_ranks(gathered, 3)):
        assert begin == (0, 0, 1)[rank]
        assert numbers == [[10], [20], [21]]
        assert flags == [True, False, False]
        assert [cube[0][0] for cube in cubes] == [1.0, 2.0, 2.0]


def measured(rank: int, world: int, size: int) -> dict[str, float]:
    """Retrieval over rows that come to three ranks in batches of ``size``, as a loader deals them: fillers where a rank has none left."""
    from zoo.heads.retrieval_metrics import RetrievalMetrics

    generator = torch.Generator().manual_seed(4)
    vectors = torch.nn.functional.normalize(torch.randn(23, 2, 6, generator=generator), dim=-1)
    pair = torch.arange(23) // 2
    metrics = RetrievalMetrics(PairTarget(name="pair"), ("image", "text"), (1, 5))
    for start in range(0, 23, world * size):
        rows = torch.arange(start + rank * size, start + (rank + 1) * size)
        valid = rows < 23
        rows = rows.clamp(max=22)
        metrics.update({"vectors": vectors[rows]}, {"pair": pair[rows]}, valid)
    metrics.merge()
    return metrics.compute()


def test_retrieval_is_over_the_rows_of_all_processes() -> None:
    """R7: 1 and 3 processes, batches of 1, 4 and 20."""
    wanted = measured(0, 1, 23)
    assert 0 < wanted["recall@5"] < 1
    for size in (1, 4):
        assert measured(0, 1, size) == pytest.approx(wanted)
    for found in run_ranks(measured, 3, 20):
        assert found == pytest.approx(wanted)
