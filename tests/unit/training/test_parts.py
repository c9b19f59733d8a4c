"""Callbacks, guards, averages and the refusal of layers that mix a batch. A tiny model over synthetic sequences."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import make_model, make_trainer
from zoo.errors import CheckpointError, ConfigError
from zoo.parallel.collectives import Group
from zoo.parallel.gradients import total_norm
from zoo.parallel.mesh import Mesh, replicated
from zoo.settings import BatchStatistics, Mode, TrainerSettings
from zoo.training.batch_statistics import refuse_mixed_batches
from zoo.training.callbacks import EarlyStopping
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.ema import Ema
from zoo.training.guard import NonFiniteError
from zoo.training.init import init_weights, published
from zoo.training.state import Ending, Monitor, Progress, horizon_of


def test_early_stopping_waits_for_its_patience_and_goes_on_where_it_was() -> None:
    callback, monitor = EarlyStopping(patience=2, min_delta=0.1), Monitor("validation/loss", Mode.MIN)
    for value, stops in ((1.0, False), (0.95, False), (0.8, False), (0.79, False)):
        progress = Progress(evaluation={"validation/loss": value})
        callback.evaluated(progress, monitor)
        assert (progress.stop is not None) is stops
    again = EarlyStopping(patience=2, min_delta=0.1)
    again.load_state_dict(callback.state_dict())
    progress = Progress(evaluation={"validation/loss": math.nan})
    again.evaluated(progress, monitor)
    assert progress.stop == "early_stopping: validation/loss has not got better than 0.8 in 2 evaluations"


def test_early_stopping_ends_a_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=100)
    trainer.callbacks = {"early_stopping": EarlyStopping(patience=1, min_delta=2.0)}
    outcome = trainer.fit()
    assert (outcome.ending, outcome.progress.step) == (Ending.EARLY, 10)
    assert newest_checkpoint(tmp_path)[0].step == 10


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_is_updated_after_a_number_that_is_not_finite(where: str) -> None:
    """R12: the step, the rank and the sample are named."""
    trainer = make_trainer(accumulate=1, dropout=0.0)
    forward = trainer.model.encoder.forward

    def poisoned(values: torch.Tensor, mask: torch.Tensor) -> Any:
        features = forward(values, mask)
        rows = (values.sum(1) == poison)[:, None]
        if where == "loss":
            features.pooled[rows[:, 0]] = math.inf
        elif rows.any():  # finite, but its derivative is not: sqrt at 0
            chosen = rows.nonzero()[:, 0]
            return replace(features, pooled=features.pooled.index_add(0, chosen, (features.pooled[chosen] * 0).sqrt()))
        return features

    part = next(iter(trainer.train))[0]
    poison = int(part.inputs["words"].values.sum(1)[3])
    trainer.train.load_state_dict({"epoch": 0, "batch": 0})
    trainer.model.encoder.forward = poisoned
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(NonFiniteError) as error:
        trainer.fit()
    assert f"rank 0: sample {int(part.ids[3])} (line {int(part.ids[3])}): " in str(error.value)
    assert "step 1:" in str(error.value)
    assert ("gradient of" in str(error.value)) is (where == "gradient")
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_ema_is_the_recursion_and_is_put_aside_again() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    wanted = model.weight.detach().clone().double()
    for step in range(30):
        with torch.no_grad():
            model.weight += 1.0
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model.weight.detach().double()
    own = model.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(model.weight.detach().double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.weight, own)


def test_batch_norm_is_refused_where_the_batch_is_split() -> None:
    """R3: statistics of a part are other numbers."""
    model = make_model()
    model.encoder.norm = nn.Sequential(nn.BatchNorm1d(8))
    model.train()
    refuse_mixed_batches(model, TrainerSettings(), Mesh())
    refuse_mixed_batches(model, TrainerSettings(accumulate=2, batch_statistics=BatchStatistics.LOCAL), Mesh())
    for settings, mesh in ((TrainerSettings(accumulate=2), Mesh()), (TrainerSettings(), replicated(Group(0, 2)))):
        with pytest.raises(ConfigError, match=r"encoder.norm.0.*split into 2 parts"):
            refuse_mixed_batches(model, settings, mesh)


def test_the_last_steps_are_logged_without_a_validation_split() -> None:
    trainer = make_trainer(max_steps=5, log_every=10)
    trainer.evaluator = None
    trainer.fit()
    assert [step for step, values in trainer.log.rows if "train/loss" in values] == [5]


def test_a_loss_without_parameters_is_told_with_ways_out() -> None:
    with pytest.raises(ConfigError, match="no parameter has a gradient") as told:
        total_norm([])
    assert told.value.ways_out


def test_the_shorter_limit_ends_the_run() -> None:
    assert horizon_of(TrainerSettings(max_steps=7, max_epochs=2), 5).total_steps == 7
    assert horizon_of(TrainerSettings(max_steps=70, max_epochs=2), 5).total_steps == 10
    assert horizon_of(TrainerSettings(max_steps=None, max_epochs=3), 5).total_steps == 15


def test_init_takes_everything_or_says_what_does_not_fit(tmp_path: Path) -> None:
    """R6: from a run's checkpoint; strict, with declared exceptions and a report."""
    make_trainer(tmp_path / "checkpoints", ema=None).fit()
    trained = newest_checkpoint(tmp_path / "checkpoints")[0].tensors("model")
    model = make_model()
    report = init_weights(model, str(tmp_path), [])
    best = newest_checkpoint(tmp_path / "checkpoints")[0].state["progress"]["best"]["step"]
    source = tmp_path / "checkpoints" / f"step_{best:08d}" / "model.safetensors"
    assert report.source == str(source)
    assert set(report.loaded) == set(trained) == set(model.state_dict())

    other = make_model()
    other.head.row = nn.Linear(8, 9)
    with pytest.raises(CheckpointError, match=r"other shape: head.row.weight is \[4, 8\] in the file, \[9, 8\] in the model(?s:.)*init_skip=\[head\]"):
        init_weights(other, str(tmp_path), [])
    before = other.head.row.weight.detach().clone()
    report = init_weights(other, str(tmp_path), ["head.row"])
    assert report.skipped == report.unused == ["head.row.weight", "head.row.bias"]
    assert torch.equal(other.head.row.weight, before)
    with pytest.raises(ConfigError, match="no parameter begins with 'hea'"):
        init_weights(other, str(tmp_path), ["hea"])


def test_init_of_a_part_by_another_name(tmp_path: Path) -> None:
    """``init_rename``: the weights of one part become those of another, everything else is as initialised, and the report says so."""
    make_trainer(tmp_path / "checkpoints", ema=None).fit()
    trained = published(tmp_path)[1]
    model = make_model()
    model.add_module("other", make_model().encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = init_weights(model, str(tmp_path), [], rename={"encoder": "other"})
    assert report.loaded
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith("other.")}
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[name.replace("other.", "encoder.")] if name.startswith("other.") else before[name])
    assert set(report.renamed.values()) == {name for name in trained if name.startswith("encoder.")}
    assert set(report.unused) == {name for name in trained if not name.startswith("encoder.")}
    with pytest.raises(ConfigError, match=r"init_rename\.encodr"):
        init_weights(model, str(tmp_path), [], rename={"encodr": "other"})
    del model.other
    with pytest.raises(CheckpointError, match=r"unexpected: nowhere\."):
        init_weights(model, str(tmp_path), [], rename={"encoder": "nowhere"})


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """R5, with the system's own refusal: files of this process may not grow past a limit."""
    import resource
    import signal

    trainer = make_trainer(tmp_path, max_steps=40, checkpoint_every=1)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def tick(step: int) -> None:
        if step == 6:
            trainer.checkpointer.wait()  # step 5 is on disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))

    trainer.tick = tick
    try:
        with pytest.raises(CheckpointError, match=r"(?s)File too large.*zoo train resume="):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    found, messages = newest_checkpoint(tmp_path)
    assert found.step == 5
    assert messages == []


def test_init_takes_the_averages_and_what_has_none(tmp_path: Path) -> None:
    """R6: a counter (batch norm's) has no average: it is the model's own, the rest is averaged, as in a bundle of the run."""

    def counting() -> Any:
        model = make_model()
        model.encoder.register_buffer("seen", torch.tensor(0))
        return model

    trainer = make_trainer(tmp_path / "checkpoints", max_steps=5)
    trainer.model.encoder.register_buffer("seen", torch.tensor(5))
    trainer.fit()
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")[0]
    averages = checkpoint.tensors("ema")
    assert set(averages) < set(checkpoint.tensors("model"))
    model = counting()
    report = init_weights(model, str(tmp_path), [])
    assert "ema.safetensors" in report.source
    assert all(torch.equal(model.state_dict()[name], average) for name, average in averages.items())
    assert int(model.encoder.seen) == 5
