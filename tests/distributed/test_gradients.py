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


def test_the_tiny_data_has_unequal_lengths() -> None:
    lengths = make_batch(torch.arange(8)).inputs["words"].mask.sum(1)
    assert len(set(lengths.tolist())) > 3
