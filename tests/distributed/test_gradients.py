"""R3: gradients depend on the global batch only. Synthetic sequences of unequal lengths, double precision."""

import pytest
import torch
from torch.nn import functional as F

from tests.processes import run_ranks
from tests.tiny import TinyLoader, make_batch, make_model
from zoo.optim.groups import ParameterGroups
from zoo.optim.optimizers import sgd
from zoo.parallel.collectives import Group
from zoo.parallel.mesh import replicated
from zoo.settings import TrainerSettings
from zoo.training.step import TrainStep

Tensors = dict[str, torch.Tensor]


def gradients(rank: int, world: int, size: int, micro_batches: int, frozen: bool = False) -> tuple[Tensors, dict[str, float], float]:
    """Of one step over a batch of ``size`` rows, split as asked."""
    model = make_model(dtype=torch.float64)
    if frozen:
        model.head.position.weight.requires_grad_(False)
    loader = TinyLoader(size=size, batch_size=size, rank=rank, world=world, micro_batches=micro_batches)
    mesh = replicated(Group(rank, world))
    step = TrainStep(
        model=model,
        optimizer=sgd(groups=ParameterGroups(model), lr=0.0),
        schedule=lambda _: 1.0,
        settings=TrainerSettings(clip_norm=None, accumulate=micro_batches),
        seed=0,
        mesh=mesh,
        device=torch.device("cpu"),
    )
    parts = next(iter(loader))
    counts, stop = step.counts(parts, False)
    assert not stop
    step(parts, 0, counts)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}, step.terms, step.norm


def reference(size: int) -> tuple[Tensors, float]:
    """The whole batch at once, means by torch's own reduction; nothing of the trainer."""
    model = make_model(dtype=torch.float64)
    batch = next(iter(TinyLoader(size=size, batch_size=size)))[0]
    prediction = model(batch.inputs)
    rows = F.cross_entropy(prediction["logits"], batch.targets["label"])
    positions = F.cross_entropy(prediction["positions"].flatten(0, 1), batch.targets["next"].flatten(), ignore_index=-1)
    (rows + positions).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}, norm.item()


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", [8, 5, 1])
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_accumulation_changes_no_gradient(size: int, micro_batches: int) -> None:
    """R3: 8, 2 x 4 accumulated; an incomplete batch of 5, and of 1, where parts have no row."""
    wanted, norm = reference(size)
    found, _, found_norm = gradients(0, 1, size, micro_batches)
    assert_same(found, wanted)
    assert found_norm == pytest.approx(norm, rel=1e-10)


@pytest.mark.parametrize(("size", "world", "micro_batches"), [(8, 2, 2), (5, 2, 2), (1, 2, 1), (7, 3, 2)])
def test_ranks_change_no_gradient(size: int, world: int, micro_batches: int) -> None:
    """R3: 2 ranks x 2 x 2, incomplete batches, a rank without a single row."""
    wanted, norm = reference(size)
    _, terms, _ = gradients(0, 1, size, 1)
    for found, found_terms, found_norm in run_ranks(gradients, world, size, micro_batches):
        assert_same(found, wanted)
        assert found_norm == pytest.approx(norm, rel=1e-10)
        assert found_terms == pytest.approx(terms, rel=1e-10)


def half_used(rank: int, world: int) -> dict[str, bool]:
    from torch import nn

    from zoo.parallel.gradients import Gradients

    both, one, none = (nn.Parameter(torch.ones(3)) for _ in range(3))
    loss = (both * (rank + 1)).sum() + (one.sum() if rank == 1 else 0)
    loss.backward()
    gradients = Gradients([both, one, none], replicated(Group(rank, world)))
    collected, extras = gradients.collect([torch.tensor(float(rank + 1))])
    assert torch.equal(both.grad, torch.full((3,), 3.0))
    assert torch.equal(one.grad, torch.ones(3))
    assert extras[0].item() == 3.0
    return {"none": none.grad is None, "two": len(collected) == 2}


def test_a_parameter_that_one_rank_does_not_use() -> None:
    """R9: no hang, and a parameter that no rank uses has no gradient, as in a single process."""
    assert run_ranks(half_used, 2) == [{"none": True, "two": True}] * 2


def in_buckets(rank: int, world: int, micro_batches: int) -> tuple[Tensors, dict[str, float], int]:
    """Of three steps, with a bucket for nearly every parameter; and how many buckets were on their way before the backward pass was over."""
    from zoo.parallel import gradients as module

    module.BUCKET = 64
    early = []
    collect = module.Gradients.collect

    def counting(self: module.Gradients, extras: list[torch.Tensor]) -> object:
        early.append(self._sent)
        return collect(self, extras)

    module.Gradients.collect = counting  # type: ignore[method-assign]
    model = make_model(dtype=torch.float64)
    mesh = replicated(Group(rank, world))
    step = TrainStep(
        model=model,
        optimizer=sgd(groups=ParameterGroups(model), lr=0.1),
        schedule=lambda _: 1.0,
        settings=TrainerSettings(clip_norm=None, accumulate=micro_batches),
        seed=0,
        mesh=mesh,
        device=torch.device("cpu"),
    )
    loader = TinyLoader(size=21, batch_size=7, rank=rank, world=world, micro_batches=micro_batches)
    for place, parts in zip(range(3), loader, strict=False):
        counts, _ = step.counts(parts, False)
        step(parts, place, counts)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, step.terms, max(early)


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 1), (2, 3), (3, 1)])
def test_buckets_that_leave_during_the_backward_pass_change_nothing(world: int, micro_batches: int) -> None:
    """R3, and the overlap itself: some buckets have left before the backward pass is over; the first step, which lays them out, has none."""
    ((wanted, terms, none),) = [in_buckets(0, 1, micro_batches)]
    assert none == 0
    for found, found_terms, early in run_ranks(in_buckets, world, micro_batches):
        assert early > 3
        assert_same(found, wanted)
        assert found_terms == pytest.approx(terms, rel=1e-10)


def thawed(rank: int, world: int) -> tuple[list[int], bool]:
    """Of four steps, buckets that were on their way before the backward pass was over; the first parameter is trained from the third step on."""
    from torch import nn

    from zoo.parallel.gradients import Gradients

    parameters = [nn.Parameter(torch.ones(20, dtype=torch.float64)) for _ in range(5)]
    parameters[4].requires_grad_(False)  # of the bucket that would leave first
    gradients = Gradients(parameters, replicated(Group(rank, world)), bucket=8)
    early = []
    for step in range(4):
        if step == 2:
            parameters[4].requires_grad_(True)
        gradients.clear()
        gradients.arm()
        sum((place + 1) * parameters[place].sum() for place in range(5) if parameters[place].requires_grad).backward()
        early.append(gradients._sent)
        gradients.collect([torch.zeros((), dtype=torch.float64)])
    return early, torch.equal(parameters[4].grad, torch.full((20,), 5.0 * world, dtype=torch.float64))


def test_what_is_frozen_or_thawed_holds_no_bucket_back() -> None:
    assert run_ranks(thawed, 2) == [([0, 4, 4, 4], True)] * 2


def by_turns(rank: int, world: int) -> list[list[float] | None]:
    """Each rank leaves out another parameter in each step; buckets of one parameter each."""
    from torch import nn

    from zoo.parallel.gradients import Gradients

    parameters = [nn.Parameter(torch.ones(20, dtype=torch.float64)) for _ in range(5)]
    gradients = Gradients(parameters, replicated(Group(rank, world)), bucket=8)
    found: list[list[float] | None] = []
    for step in range(6):
        gradients.clear()
        gradients.arm()
        used = [place for place in range(5) if place != (step + rank) % 5 and place != step % 3]
        sum((place + 1) * parameters[place].sum() for place in used).backward()
        gradients.collect([torch.zeros((), dtype=torch.float64)])
        found.append([0.0 if parameter.grad is None else parameter.grad[0].item() for parameter in parameters])
        assert parameters[step % 3].grad is None
    return found  # type: ignore[return-value]


def test_ranks_that_use_different_parameters_send_the_same_buckets() -> None:
    """R9: no rank waits for a bucket that another one never fills."""
    several = run_ranks(by_turns, 3)
    assert several[0] == several[1] == several[2]
    for step, values in enumerate(several[0]):
        for place, value in enumerate(values):
            ranks = 0 if place == step % 3 else sum((step + rank) % 5 != place for rank in range(3))
            assert value == ranks * (place + 1)


def test_the_tiny_data_has_unequal_lengths() -> None:
    lengths = make_batch(torch.arange(8)).inputs["words"].mask.sum(1)
    assert len(set(lengths.tolist())) > 3
