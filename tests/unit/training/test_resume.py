"""R4: a run that is stopped after any step and gone on with ends in the same bits. Synthetic data, a tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import make_trainer
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.logging import repeatable
from zoo.training.state import Ending

STEPS = 12  # 37 samples in batches of 8: 5 steps an epoch, the last of them incomplete


def everything(trainer: Any) -> dict[str, torch.Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in trainer.optimizer_state.collect()[0].items()}
    return tensors | ({f"ema/{name}": tensor for name, tensor in trainer.step.ema.average.items()} if trainer.step.ema else {})


def stop_at(trainer: Any, step: int) -> None:
    def tick(done: int) -> None:
        if done == step:
            trainer.interruption.name = "SIGTERM"

    trainer.tick = tick


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("every", [{}, {"eval_every": 4, "checkpoint_every": 3}], ids=["epochs", "steps"])
def test_stopped_after_every_step(tmp_path: Path, optimizer: str, every: dict[str, int]) -> None:
    """R4, R13: shuffled, accumulated over 2, dropout, EMA, warm-up, incomplete batches; weights, moments, averages, best and logged rows are equal."""
    whole = make_trainer(tmp_path / "whole", optimizer=optimizer, **every)
    assert whole.fit().ending is Ending.FINISHED
    wanted = everything(whole)
    for step in range(1, STEPS):
        folder = tmp_path / f"stopped_{step}"
        first = make_trainer(folder, optimizer=optimizer, **every)
        stop_at(first, step)
        outcome = first.fit()
        assert (outcome.ending, outcome.progress.step) == (Ending.INTERRUPTED, step)
        second = make_trainer(folder, optimizer=optimizer, **every)
        checkpoint, messages = newest_checkpoint(folder)
        assert not messages
        second.load(checkpoint)
        assert second.fit().ending is Ending.FINISHED
        found = everything(second)
        assert set(found) == set(wanted)
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == [], f"stopped after step {step}"
        assert second.progress == whole.progress
        rows = first.log.rows[: checkpoint.state["log"]["rows"]] + second.log.rows
        assert [(at, repeatable(row)) for at, row in rows] == [(at, repeatable(row)) for at, row in whole.log.rows]


def test_the_batch_that_was_fetched_when_it_stopped_is_not_lost(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    stop_at(trainer, 7)
    trainer.fit()
    assert newest_checkpoint(tmp_path)[0].state["progress"]["loader"] == {"epoch": 1, "batch": 2}


def test_a_finished_run_that_is_gone_on_with_stays_as_it_is(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit()
    before = sorted(path.name for path in tmp_path.iterdir())
    again = make_trainer(tmp_path)
    again.load(newest_checkpoint(tmp_path)[0])
    assert again.fit().ending is Ending.FINISHED
    assert again.log.rows == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_foreign_randomness_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """R4: a module that draws from torch's own generator, as timm's do."""

    def with_foreign_dropout(folder: Path) -> Any:
        trainer = make_trainer(folder)
        trainer.model.head.row = torch.nn.Sequential(torch.nn.Dropout(0.5), trainer.model.head.row)
        trainer.optimizer_state.names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        return trainer

    whole = with_foreign_dropout(tmp_path / "whole")
    whole.step.ema = None
    whole.fit()
    first = with_foreign_dropout(tmp_path / "first")
    first.step.ema = None
    stop_at(first, 6)
    first.fit()
    torch.rand(5)  # the generator is somewhere else now
    second = with_foreign_dropout(tmp_path / "first")
    second.step.ema = None
    second.load(newest_checkpoint(tmp_path / "first")[0])
    second.fit()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_dropout_is_drawn_anew_at_every_step() -> None:
    """The other side of keyed randomness: it does differ between steps."""
    losses = set()
    for step in range(3):
        trainer = make_trainer(dropout=0.5)
        parts = next(iter(trainer.train))
        counts, _ = trainer.step.counts(parts, False)
        trainer.step(parts, step, counts)
        losses.add(trainer.step.terms["row"])
    assert len(losses) == 3
