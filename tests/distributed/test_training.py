"""Whole runs on one, two and three processes. Synthetic sequences, a tiny model."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_ranks
from tests.tiny import Head, TinyLoader, make_model, make_trainer
from zoo.parallel.collectives import Group
from zoo.settings import Precision
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.evaluator import Evaluator
from zoo.training.logging import repeatable
from zoo.training.state import Ending


def train(rank: int, world: int, folder: str | None, accumulate: int) -> dict[str, Any]:
    trainer = make_trainer(Path(folder) if folder else None, rank=rank, world=world, accumulate=accumulate)
    if folder and Path(folder).exists():
        checkpoint, _ = newest_checkpoint(Path(folder))
        if checkpoint is not None:
            trainer.load(checkpoint)
    ending = trainer.fit().ending
    rows = trainer.log.rows if trainer.log else []
    return {
        "ending": ending,
        "rows": rows,
        "model": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "step": trainer.progress.step,
    }


def test_losses_and_figures_do_not_depend_on_the_number_of_processes() -> None:
    """R3, R7: dropout, EMA and clipping on; 12 steps; logged rows equal to 1e-6 in fp32, evaluation figures equal."""
    (one,) = [train(0, 1, None, 2)]
    for world, accumulate in ((2, 1), (2, 2), (3, 1)):
        several = run_ranks(train, world, None, accumulate)
        for (step, wanted), (found_step, found) in zip(one["rows"], several[0]["rows"], strict=True):
            assert step == found_step
            for name, value in repeatable(wanted).items():
                if name in ("validation/accuracy", "validation/samples"):
                    assert found[name] == value
                else:
                    assert found[name] == pytest.approx(value, abs=2e-6), (world, step, name)
        for rank in several[1:]:
            assert all(torch.equal(tensor, several[0]["model"][name]) for name, tensor in rank["model"].items())


def figures(rank: int, world: int, size: int) -> dict[str, float]:
    loader = TinyLoader(size=23, batch_size=size, rank=rank, world=world, training=False)
    evaluator = Evaluator(loader=loader, split="test", group=Group(rank, world), device=torch.device("cpu"), precision=Precision.FP32)  # type: ignore[arg-type]
    return evaluator.evaluate(make_model()).figures


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_counts_each_sample_once(world: int) -> None:
    """R7: 1, 2 and 3 processes, batches of 1 to 17, 23 samples."""
    (wanted,) = [figures(0, 1, 23)]
    assert wanted["test/samples"] == 23
    for size in range(1, 18) if world == 1 else (1, 2, 5, 16, 17):
        for found in run_ranks(figures, world, size) if world > 1 else [figures(0, 1, size)]:
            assert found["test/samples"] == 23
            assert found["test/accuracy"] == wanted["test/accuracy"]
            assert found["test/loss"] == pytest.approx(wanted["test/loss"], rel=1e-6)


def preempted(rank: int, world: int, folder: str, step: int, target: int) -> dict[str, Any]:
    """Rank ``target`` alone gets SIGTERM, after its step ``step``."""
    trainer = make_trainer(Path(folder), rank=rank, world=world, accumulate=1)
    trainer.tick = lambda done: os.kill(os.getpid(), signal.SIGTERM) if (rank, done) == (target, step) else None
    outcome = trainer.fit()
    return {"ending": outcome.ending, "step": outcome.progress.step, "reason": outcome.reason}


@pytest.mark.parametrize(("step", "target"), [(1, 0), (4, 1), (5, 0), (8, 1), (11, 1)])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path: Path, step: int, target: int) -> None:
    """R13: saved once, gone on with on two processes: bit-equal to the uninterrupted run."""
    outcomes = run_ranks(preempted, 2, str(tmp_path / "run"), step, target)
    assert [outcome["ending"] for outcome in outcomes] == [Ending.INTERRUPTED] * 2
    assert [outcome["step"] for outcome in outcomes] == [step] * 2
    whole = run_ranks(train, 2, None, 1)
    resumed = run_ranks(train, 2, str(tmp_path / "run"), 1)
    for a, b in zip(whole, resumed, strict=True):
        assert a["step"] == b["step"] == 12
        assert all(torch.equal(tensor, b["model"][name]) for name, tensor in a["model"].items())


def test_a_checkpoint_moves_between_numbers_of_processes(tmp_path: Path) -> None:
    """R17, replicated training: 2 -> 1 and 1 -> 2, the data's cursor included."""
    (wanted,) = [train(0, 1, None, 2)]
    run_ranks(preempted, 2, str(tmp_path / "two"), 6, 0)
    on_one = train(0, 1, str(tmp_path / "two"), 2)
    assert preempted(0, 1, str(tmp_path / "one"), 6, 0)["step"] == 6
    on_two = run_ranks(train, 2, str(tmp_path / "one"), 1)[0]
    for found in (on_one, on_two):
        for name, tensor in wanted["model"].items():
            torch.testing.assert_close(found["model"][name], tensor, rtol=0, atol=1e-5)


def failing(rank: int, world: int, how: str) -> tuple[str, float]:
    trainer = make_trainer(rank=rank, world=world, accumulate=1)
    forward = trainer.model.encoder.forward
    begun = time.monotonic()

    def fail(values: torch.Tensor, mask: torch.Tensor) -> Any:
        if rank == 1 and trainer.progress.step == 3:
            if how == "raise":
                raise RuntimeError("this rank has had enough")
            if how == "nan":
                return type(forward(values, mask))(tokens=forward(values, mask).tokens * float("nan"), mask=mask, pooled=forward(values, mask).pooled)
        return forward(values, mask)

    trainer.model.encoder.forward = fail
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - what the test looks at
        del before
        return f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}", time.monotonic() - begun
    return "no error", 0.0


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_the_update() -> None:
    """R12: the rank that has it names its samples; the other says that it has none."""
    (first, _), (second, _) = run_ranks(failing, 2, "nan")
    assert first.startswith("NonFiniteError: step 4:")
    assert "rank 0: none of this rank's samples" in first
    assert "rank 1: sample" in second
    assert "rank 1 failed in step 4, on samples" in second


def starving(rank: int, world: int) -> str:
    head = Head()
    return type(head).__name__ + str(rank)


def test_the_harness_starts_real_processes() -> None:
    assert run_ranks(starving, 2) == ["Head0", "Head1"]
