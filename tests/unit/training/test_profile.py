"""``trainer.profile``: the parts add up, the trace holds them, and no number changes."""

import json
from pathlib import Path

import pytest
import torch

from zoo.compose import compose
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.job import run_job
from zoo.training.profile import TIMED, TRACED, WARMUP

RUN = ["data=digits", "model/encoder=mlp_tiny", "logger=none", "data.batch_size=32", "trainer.max_steps=16", "trainer.accumulate=2"]


def run(folder: Path, *overrides: str) -> dict:  # type: ignore[type-arg]
    folder.mkdir()
    config = compose([*RUN, *overrides])
    config.save(folder / "config.yaml")
    return run_job(config, folder)


def test_a_profiled_run_is_the_same_run_with_a_page_and_a_trace(tmp_path: Path) -> None:
    plain, profiled = run(tmp_path / "plain"), run(tmp_path / "profiled", "trainer.profile=true")
    assert plain["metrics"] == profiled["metrics"]
    weights = [newest_checkpoint(tmp_path / name / "checkpoints")[0].tensors("model") for name in ("plain", "profiled")]  # type: ignore[union-attr]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])

    page = (tmp_path / "profiled" / "profile" / "summary.md").read_text()
    assert f"steps {1 + WARMUP} to {WARMUP + TIMED}" in page
    rows = {cells[1].strip(): float(cells[2]) for line in page.splitlines() if len(cells := line.split("|")) == 5 and cells[2].strip()[0].isdigit()}
    assert {"data", "forward", "backward", "optimizer"} <= set(rows)
    total = float(page.split(" ms a step")[0].rsplit("\n", 1)[1])
    assert sum(rows.values()) == pytest.approx(total, abs=0.01)
    assert "MFU" in page

    events = json.loads((tmp_path / "profiled" / "profile" / "trace.json").read_text())["traceEvents"]
    named = [event for event in events if event.get("name") == "zoo: forward" and event.get("cat") == "user_annotation"]
    assert len(named) == 2 * TRACED  # two micro-batches


def test_floating_point_operations_are_those_of_the_layers(tmp_path: Path) -> None:
    """Three products a linear layer (forward, and backward to weights and inputs; not to the data), 2 operations a multiplication."""
    run(tmp_path / "run", "trainer.profile=true")
    page = (tmp_path / "run" / "profile" / "summary.md").read_text()
    counted = float(page.split(" GFLOP a step")[0].rsplit("\n", 1)[1])
    layers = [tensor.shape for name, tensor in newest_checkpoint(tmp_path / "run" / "checkpoints")[0].tensors("model").items() if tensor.ndim == 2]  # type: ignore[union-attr]
    first, *others = [2 * 32 * shape.numel() for shape in layers]
    assert counted == pytest.approx((2 * first + 3 * sum(others)) / 1e9, abs=0.001)


def test_a_run_too_short_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", "trainer.profile=true", "trainer.max_steps=4")
    assert "the run ended after 4 steps" in capsys.readouterr().err
    assert not (tmp_path / "run" / "profile").exists()


@pytest.mark.parametrize("steps", [WARMUP + TIMED, WARMUP + TIMED + 2, WARMUP + TIMED + TRACED])
def test_a_run_that_ends_while_it_is_traced(steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is told, nothing stays switched on: torch ends a process that is left with a profiler by a segmentation fault."""
    run(tmp_path / "run", "trainer.profile=true", f"trainer.max_steps={steps}")
    traced = steps - WARMUP - TIMED
    page = (tmp_path / "run" / "profile" / "summary.md").read_text()
    assert (f"Operations of the next {traced} steps" in page) == bool(traced)
    assert (tmp_path / "run" / "profile" / "trace.json").exists() == bool(traced)
    assert "without a trace" in capsys.readouterr().err or traced
    assert not torch.autograd.profiler._is_profiler_enabled
