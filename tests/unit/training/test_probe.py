"""One trial of ``zoo batch``: what its step is, when its clock is read, and what it leaves behind."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.test_pairs import config as pairs
from tests.unit.training.test_pairs import table
from zoo.compose import compose
from zoo.config import RunConfig
from zoo.training import probe as module
from zoo.training import step as steps
from zoo.training.probe import Probe


def watched(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Rows of all that each comparison is of: two a step at most."""
    seen: list[list[int]] = []
    loss = probe.step.head.loss

    def watching(prediction: dict[str, Tensor], *rest: Any) -> Any:
        seen.append([len(value) for value in prediction.values()])
        return loss(prediction, *rest)

    monkeypatch.setattr(probe.step.head, "loss", watching)
    return seen


@pytest.mark.parametrize(
    ("samples", "processes", "parts", "rows"),
    [(40, 1, [40], 40), (20, 1, [20, 20], 40), (15, 1, [15, 15, 10], 40), (8, 2, [8, 8, 4], 40), (50, 1, [50], 50), (25, 2, [25], 50)],
)
def test_a_loss_over_the_batch_is_measured_over_the_whole_batch(
    samples: int, processes: int, parts: list[int], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data.batch_size=40, whatever goes through the model at once; more where more do, which is the step that is then proposed."""
    tree = pairs(table(tmp_path)).to_dict()
    tree["parallel"]["processes"] = processes
    probe = Probe(RunConfig.from_dict(tree))
    assert probe.sizes(samples) == parts
    seen, forwards = watched(probe, monkeypatch), []
    probe.step.model.encoder.register_forward_hook(lambda _, __, features: forwards.append(len(features.tokens)))
    found = probe.measure(samples)
    assert found["samples"] == samples
    assert seen == [[rows] * 2] * module.STEPS
    assert forwards == (parts if len(parts) == 1 else [*parts, *parts]) * module.STEPS


def test_other_losses_are_measured_on_these_samples_alone(tmp_path: Path) -> None:
    words = [f"data.path={table(tmp_path)}", "data.categories=[first]", "data.target=second", "data.split_column=split"]
    probe = Probe(compose(["data=table", *words, "model/encoder=table", "data.batch_size=40"]))
    assert probe.sizes(7) == [7]
    assert probe.measure(7)["samples"] == 7


def test_the_clock_waits_for_a_deferred_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that defers, both steps' figures are there before the clock is read, and no batch stays behind."""
    monkeypatch.setattr(steps, "PINNED", ("cpu",))
    probe = Probe(pairs(table(tmp_path)))
    assert not probe.step.waits
    happened: list[str] = []
    read = steps.Unseen.read

    def reading(unseen: steps.Unseen) -> list[float]:
        happened.append("figures")
        return read(unseen)

    def clock() -> float:
        happened.append("clock")
        return 0.0

    monkeypatch.setattr(steps.Unseen, "read", reading)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    probe.measure(4)
    assert happened == ["clock", "figures", "figures", "clock"]
    assert probe.step.unseen is None
    assert probe.step.take() == []


def test_a_trial_that_failed_leaves_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PINNED", ("cpu",))
    probe = Probe(pairs(table(tmp_path)))
    passes, calls = probe.step.passes, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return passes(*arguments)

    monkeypatch.setattr(probe.step, "passes", failing)
    with pytest.raises(torch.OutOfMemoryError):
        probe.measure(4)
    assert probe.step.unseen is None
