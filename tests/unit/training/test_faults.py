"""Steps that must not be made: skipped, or gone back behind; counted; the same again when resumed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import TinyLoader, make_trainer
from tests.unit.training.test_resume import everything, stop_at
from zoo.structs import Batch
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.faults import SpikeError, TooManyFaultsError
from zoo.training.guard import NonFiniteError
from zoo.training.logging import RunLog, read_rows, repeatable


class BadLoader(TinyLoader):
    """Some global batches, by their number in the whole run, are bad: their rows are marked by labels that the head below reads."""

    def __init__(self, bad: set[int], left_out: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.bad, self.left_out = bad, left_out

    def __iter__(self) -> Iterator[list[Batch]]:
        place = self.state["epoch"] * self.steps_per_epoch + self.state["batch"]
        for parts in super().__iter__():
            if place in self.bad:
                if not self.left_out:
                    yield [replace(part, targets=part.targets | {"bad": torch.ones(part.size)}) for part in parts]
            else:
                yield parts
            place += 1


def make(folder: Any, bad: set[int], factor: float = float("nan"), *, left_out: bool = False, **settings: Any) -> Any:
    """A trainer whose loss is multiplied by ``factor`` on the bad batches."""
    settings = {"accumulate": 2} | settings
    ranks = {name: settings[name] for name in ("rank", "world") if name in settings}
    trainer = make_trainer(folder, loader=BadLoader(bad, left_out, micro_batches=settings["accumulate"], **ranks), **settings)
    own = trainer.model.head.loss

    def loss(prediction: Any, targets: Any, valid: Any) -> Any:
        terms = own(prediction, targets, valid)
        return {name: replace(term, sum=term.sum * factor) for name, term in terms.items()} if "bad" in targets else terms

    trainer.model.head.loss = loss
    return trainer


def snapshot(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in everything(trainer).items()}


def test_stopped_by_default(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 5: the loss or the gradient is not finite"):
        make(tmp_path, {4}).fit()


def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    before, after = make(tmp_path / "a", {4}, non_finite="skip"), make(tmp_path / "b", {4}, non_finite="skip")
    stop_at(before, 4)
    stop_at(after, 5)
    for trainer in (before, after):
        trainer.fit()
    assert after.progress.step == 5
    found, wanted = everything(after), everything(before)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len(found) == len(wanted)
    whole = make(tmp_path / "c", {4, 7}, non_finite="skip")
    whole.fit()
    rows = [row for _, row in whole.log.rows if "lr" in row]
    assert rows[-1]["train/skipped_steps"] == 2
    assert all(row["train/loss"] == row["train/loss"] for row in rows)  # the mean is of the steps that were made
    assert "train/skipped_steps" not in rows[0]


def test_too_many_skips_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TooManyFaultsError, match=r"step 5: loss nan.*one more than trainer.max_skips=2"):
        make(tmp_path, {2, 3, 4, 5}, non_finite="skip", max_skips=2).fit()


def test_rolled_back_is_the_run_that_never_saw_those_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoint after step 4, bad batch 6: back to step 4 and on with batch 7. The same bits as a run whose loader leaves out batches 4 to 6."""
    options: dict[str, Any] = {"checkpoint_every": 4, "log_every": 1, "eval_every": 12}
    run = make(tmp_path / "a", {6}, non_finite="rollback", **options)
    run.fit()
    assert run.step.faults.rollbacks == 1
    reference = make(tmp_path / "b", {4, 5, 6}, left_out=True, **options)
    reference.fit()
    found, wanted = everything(run), everything(reference)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert run.progress == reference.progress
    bare = [(step, {name: value for name, value in repeatable(row).items() if name != "train/rollbacks"}) for step, row in run.log.rows]
    assert bare == [(step, repeatable(row)) for step, row in reference.log.rows]
    assert run.log.rows[-2][1]["train/rollbacks"] == 1
    told = capsys.readouterr().err
    assert "step 7: loss nan, gradient norm nan: going back (1 of 3)" in told
    assert "back at step 4, going on with epoch 1, batch 2" in told


def test_rolled_back_before_the_first_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path, {1}, non_finite="rollback", checkpoint_every=50)
    run.fit()
    assert (run.progress.step, run.step.faults.rollbacks) == (12, 1)


def test_a_run_with_roll_backs_goes_on_exactly(tmp_path: Path) -> None:
    """R4: stopped after every step, on the way to the bad batch, between two of them and behind them."""
    options: dict[str, Any] = {"non_finite": "rollback", "checkpoint_every": 3, "spike": 50.0}
    whole = make(tmp_path / "whole", {4, 9}, **options)
    whole.fit()
    assert whole.step.faults.rollbacks == 2
    wanted = everything(whole)
    for step in range(1, 12):
        folder = tmp_path / f"stopped_{step}"
        first, second = make(folder, {4, 9}, **options), make(folder, {4, 9}, **options)
        stop_at(first, step)
        first.fit()
        checkpoint = newest_checkpoint(folder)[0]
        assert checkpoint is not None
        second.load(checkpoint)
        second.fit()
        found = everything(second)
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == [], f"stopped after step {step}"
        assert second.step.faults.state_dict() == whole.step.faults.state_dict()


def test_too_many_roll_backs_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TooManyFaultsError, match=r"one more than trainer.max_rollbacks=2"):
        make(tmp_path, set(range(4, 40)), non_finite="rollback", max_rollbacks=2).fit()
    assert newest_checkpoint(tmp_path)[0] is not None


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_spikes(tmp_path: Path, policy: str) -> None:
    """A loss of 30 times the usual, after enough steps to know what is usual; one of twice as much is none."""
    options: dict[str, Any] = {"max_steps": 26, "checkpoint_every": 10, "spike": 8.0, "on_spike": policy}
    run = make(tmp_path / "a", {3, 23}, 30.0, **options)  # the first comes before anything is called a spike
    if policy == "stop":
        with pytest.raises(SpikeError, match=r"step 24: the loss .* is a spike: more than trainer.spike=8.0"):
            run.fit()
        return
    run.fit()
    faults = run.step.faults
    assert (faults.skips, faults.rollbacks) == ((1, 0) if policy == "skip" else (0, 1))
    calm = make(tmp_path / "b", {23}, 2.0, **options)
    calm.fit()
    assert (calm.step.faults.skips, calm.step.faults.rollbacks) == (0, 0)


def test_the_local_log_is_true_after_a_roll_back(tmp_path: Path) -> None:
    """R21: no row of the steps that were taken back, none missing, time goes on."""
    run = make(tmp_path / "checkpoints", {6}, non_finite="rollback", checkpoint_every=4, log_every=1, eval_every=12)
    run.log = RunLog(tmp_path)
    run.fit()
    run.log.close()
    rows = [json.loads(json.dumps(row)) for row in read_rows(tmp_path / "log.jsonl")]
    assert [row["step"] for row in rows if "lr" in row] == list(range(1, 13))
    assert [row.get("train/rollbacks", 0) for row in rows if "lr" in row] == [0] * 4 + [1] * 8
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_a_loader_that_fails_is_told_with_rank_and_step() -> None:
    """R12: what a loader process died of says nothing of where the run was."""

    class Failing(TinyLoader):
        def __iter__(self) -> Iterator[list[Batch]]:
            for place, parts in enumerate(super().__iter__()):
                if place == 2:
                    raise OSError("the disk is gone")
                yield parts

    with pytest.raises(OSError, match="the disk is gone") as told:
        make_trainer(loader=Failing(micro_batches=2)).fit()
    assert told.value.__notes__ == ["rank 0 failed in step 3, waiting for its data"]
