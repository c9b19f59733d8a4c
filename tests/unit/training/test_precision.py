"""fp16 with a loss scale."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import make_trainer
from tests.unit.training.test_resume import everything, stop_at
from zoo.errors import ConfigError
from zoo.settings import Precision
from zoo.training import precision
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.guard import NonFiniteError
from zoo.training.precision import LossScale, check_precision


def test_the_scale_moves_as_torchs_scaler_moves() -> None:
    """Against torch.amp.GradScaler over made-up steps, some of which overflow."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=LossScale.INTERVAL)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    ours = LossScale()
    for step in range(2 * LossScale.INTERVAL + 50):
        overflow = step in (3, 4, 1000, 3500)
        theirs.scale(torch.zeros(1))
        parameter.grad = torch.full((1,), float("inf") if overflow else 1.0)
        theirs.step(optimizer)
        theirs.update()
        if overflow:
            assert ours.shrink()
        else:
            ours.grow()
        assert ours.value == theirs.get_scale(), step
    assert ours.value != 2.0**16


def test_scaling_in_fp32_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers of two: the scale alone, without half precision, gives the run of fp32, clipping included."""
    plain = make_trainer(clip_norm=0.5)
    plain.fit()
    monkeypatch.setattr("zoo.training.step.autocast", lambda *_: precision.autocast(torch.device("cpu"), Precision.FP32))
    scaled = make_trainer(clip_norm=0.5, precision="fp16")
    scaled.step.faults.scale.value = 2.0**10
    scaled.fit()
    found, wanted = everything(scaled), everything(plain)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-8)
    assert scaled.step.norm == pytest.approx(plain.step.norm, rel=1e-6)


def test_near_fp32() -> None:
    plain, half = make_trainer(dropout=0.0), make_trainer(dropout=0.0, precision="fp16")
    for trainer in (plain, half):
        trainer.fit()
    for (step, row), (_, other) in zip(plain.log.rows, half.log.rows, strict=True):
        if "train/loss" in row:
            assert other["train/loss"] == pytest.approx(row["train/loss"], rel=2e-2), step
            assert other["train/loss_scale"] == 2.0**16


def test_overflows_are_skipped_counted_and_resumed_exactly(tmp_path: Path) -> None:
    """R4: a scale far too large comes down by skipped steps, which leave the weights alone; stopped anywhere, the run ends in the same bits."""

    def trainer(folder: Any) -> Any:
        made = make_trainer(folder, precision="fp16", checkpoint_every=4, log_every=1)
        made.step.faults.scale.value = 2.0**24
        return made

    start = make_trainer().model.state_dict()
    whole = trainer(tmp_path / "whole")
    whole.fit()
    faults = whole.step.faults
    assert 2 <= faults.overflows <= 8
    assert faults.scale is not None
    assert faults.scale.good == 12 - faults.overflows
    assert max(row.get("train/skipped_steps", 0) for _, row in whole.log.rows) == faults.overflows
    for step in (1, 3, 6, 9):
        first, second = trainer(tmp_path / str(step)), trainer(tmp_path / str(step))
        stop_at(first, step)
        first.fit()
        if step == 1:
            assert all(torch.equal(tensor, start[name]) for name, tensor in first.model.state_dict().items())
        checkpoint = newest_checkpoint(tmp_path / str(step))[0]
        assert checkpoint is not None
        second.load(checkpoint)
        second.fit()
        found, wanted = everything(second), everything(whole)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert second.step.faults.state_dict() == faults.state_dict()


def test_what_no_scale_mends_is_refused() -> None:
    trainer = make_trainer(precision="fp16")
    with torch.no_grad():
        trainer.model.head.row.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"trainer.precision=fp32, if it was bf16 or fp16"):
        trainer.fit()


def test_refused_where_torch_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("could not create a primitive descriptor")

    check_precision(torch.device("cpu"), Precision.FP16)
    monkeypatch.setattr(precision, "autocast", fails)
    check_precision(torch.device("cpu"), Precision.BF16)
    with pytest.raises(ConfigError, match=r"trainer.precision: fp16: torch .* cannot compute in it on cpu: could not create[\s\S]*trainer.precision=bf16"):
        check_precision(torch.device("cpu"), Precision.FP16)
