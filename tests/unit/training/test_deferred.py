"""A step whose figures are looked at after its update, as on accelerators; here on a CPU, where the same run that waits can be compared with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

import zoo
from tests.tiny import make_trainer
from tests.unit.training.test_faults import make
from tests.unit.training.test_resume import everything, stop_at
from zoo.data.fake import fake_batch
from zoo.parallel.mesh import Mesh
from zoo.settings import TrainerSettings
from zoo.specs import ClassTarget, DataSpec, ImageInput, TextInput
from zoo.training import step as module
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.guard import NonFiniteError
from zoo.training.logging import repeatable
from zoo.training.state import Ending

CLASSES = ClassTarget(name="label", labels=("a", "b", "c"))
IMAGES = DataSpec(inputs=(ImageInput(name="image", channels=1, height=8, width=8),), targets=(CLASSES,))
TEXTS = DataSpec(inputs=(TextInput(name="text", vocab_size=40, max_length=20),), targets=(CLASSES,))


@pytest.fixture
def defers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PINNED", ("cpu",))


def assert_same(found: Any, wanted: Any) -> None:
    ours, theirs = everything(found), everything(wanted)
    assert set(ours) == set(theirs)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert found.progress == wanted.progress
    assert [(at, repr(repeatable(row))) for at, row in found.log.rows] == [(at, repr(repeatable(row))) for at, row in wanted.log.rows]  # NaN is itself


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad"])
@pytest.mark.parametrize("settings", [{"clip_norm": 0.3}, {"clip_norm": None, "log_every": 1}, {"eval_every": 2, "checkpoint_every": 5, "ema": None}])
def test_the_same_bits_as_a_loop_that_waits(optimizer: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments, averages, log rows, which checkpoint is best."""
    wanted = make_trainer(optimizer=optimizer, **settings)
    wanted.fit()
    monkeypatch.setattr(module, "PINNED", ("cpu",))
    found = make_trainer(optimizer=optimizer, **settings)
    assert (wanted.step.waits, found.step.waits) == (True, False)
    found.fit()
    assert_same(found, wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad"])
@pytest.mark.parametrize("settings", [{}, {"freeze": ["encoder"], "freeze_until": 7}])
def test_an_update_that_is_not_finite_is_left_out(optimizer: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad batches are skipped, the first one too, for which an optimizer has no state yet, and the first one of parameters that were frozen before: the
    same bits, averages and counts as in a loop that waits."""
    wanted = make(tmp_path / "a", {0, 4, 7}, non_finite="skip", log_every=4, optimizer=optimizer, **settings)
    wanted.fit()
    monkeypatch.setattr(module, "PINNED", ("cpu",))
    found = make(tmp_path / "b", {0, 4, 7}, non_finite="skip", log_every=4, optimizer=optimizer, **settings)
    found.fit()
    assert found.step.faults.skips == 3
    assert_same(found, wanted)


@pytest.mark.usefixtures("defers")
def test_averages_of_running_statistics_are_taken_before_they_change() -> None:
    """The next forward pass changes them: such a run waits."""

    class Normed(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer, self.last = layer, torch.nn.Linear(3, 3)

    for layer, waits in ((torch.nn.BatchNorm1d(3), True), (torch.nn.LayerNorm(3), False)):
        model = Normed(layer)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        assert module.may_defer(optimizer, TrainerSettings(ema=0.9), torch.device("cpu"), module.Ema(model, 0.9)) is not waits


@pytest.mark.usefixtures("defers")
@pytest.mark.parametrize("more", [{}, {"eval_every": 100, "checkpoint_every": 100}])
def test_waiting_for_the_figures_is_of_the_training_s_time(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only runs while figures are waited for, 50 ms a step: each row has them, whatever else stands between two steps."""
    now = [0.0]
    monkeypatch.setattr("zoo.training.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))
    read = module.Unseen.read

    def waited(unseen: module.Unseen) -> list[float]:
        now[0] += 0.05
        return read(unseen)

    monkeypatch.setattr(module.Unseen, "read", waited)
    trainer = make_trainer(log_every=2, **more)
    trainer.fit()
    rates = [row["samples_per_second"] for _, row in trainer.log.rows if "samples_per_second" in row]
    assert rates == pytest.approx([trainer.train.batch_size / 0.05] * len(rates))
    assert len(rates) >= 6


@pytest.mark.parametrize("log_every", [1, 5, 50])
def test_a_stop_leaves_the_weights_of_the_step_before(log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is noticed, at a row or before the next update: nothing was updated with it or after it, and the message is the same."""
    messages, weights = [], []
    for devices in (("cuda",), ("cpu",)):
        monkeypatch.setattr(module, "PINNED", devices)
        trainer = make(tmp_path / devices[0], {4}, log_every=log_every, eval_every=100, checkpoint_every=100)
        with pytest.raises(NonFiniteError, match="step 5: the loss or the gradient is not finite") as caught:
            trainer.fit()
        messages.append("\n".join([str(caught.value), *caught.value.__notes__]))
        assert "rank 0 failed in step 5, on samples" in messages[-1]
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    assert messages[0] == messages[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.usefixtures("defers")
@pytest.mark.parametrize("step", [1, 2, 5, 11])
def test_resumed_from_any_step(step: int, tmp_path: Path) -> None:
    """R4: a checkpoint waits for the last step's judgement."""
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    first = make_trainer(tmp_path / "run")
    stop_at(first, step)
    assert first.fit().ending is Ending.INTERRUPTED
    second = make_trainer(tmp_path / "run")
    second.load(newest_checkpoint(tmp_path / "run")[0])
    second.fit()
    found, wanted = everything(second), everything(whole)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.usefixtures("defers")
@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"spike": 3.0}, {"non_finite": "rollback"}])
def test_what_has_to_be_judged_at_once_is(settings: dict[str, Any], tmp_path: Path) -> None:
    assert make_trainer(tmp_path, **settings).step.waits


@pytest.mark.usefixtures("defers")
def test_an_optimizer_that_cannot_leave_out_an_update_waits() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert not module.may_defer(torch.optim.AdamW([parameter], foreach=True), TrainerSettings(), torch.device("cpu"))
    assert module.may_defer(torch.optim.AdamW([parameter], fused=True), TrainerSettings(), torch.device("cpu"))


def steps_without_numbers(name: str, *, waits: bool) -> list[str]:
    """Three steps, of two micro-batches each, on tensors that hold no numbers; what the figures are behind each."""
    data = {"vit_tiny": IMAGES, "transformer_tiny": TEXTS}[name]
    host = [[fake_batch(data, 3, seed=2 * step + part) for part in range(2)] for step in range(3)]
    sent: list[str] = []
    with torch.device("meta"):
        model = zoo.create(name, spec=data)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model.to_empty(device="cpu")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        step = module.TrainStep(
            model=model.train(), optimizer=optimizer, schedule=lambda _: 1.0, settings=TrainerSettings(), seed=0, mesh=Mesh(), device=torch.device("cpu")
        )
        step.waits = waits
        step.settle = lambda: None  # type: ignore[method-assign]
        with unset_fake_temporarily():
            counts = [step.counts(parts, False)[0] for parts in host]
        for number, parts in enumerate(host):
            moved = [part.apply(mode.from_tensor) for part in parts]
            step(moved, number, counts[number])
            assert step.unseen is not None
            sent.append(type(step.unseen.figures).__name__)
    return sent


@pytest.mark.parametrize("name", ["vit_tiny", "transformer_tiny"])
def test_nothing_in_a_step_asks_the_device_for_a_number(name: str) -> None:
    """The code path of a GPU, on fake tensors: who asks for a number raises. A loop that waits does ask."""
    assert steps_without_numbers(name, waits=False) == ["FakeTensor"] * 3
    with pytest.raises(DataDependentOutputException):
        steps_without_numbers(name, waits=True)
