"""What a person sees: lines without a terminal, a bar on one, the closing table, pictures, TensorBoard."""

import io
from pathlib import Path

import pytest
from PIL import Image

from zoo.registry import LOGGERS
from zoo.training.logging import RunInfo, RunLog
from zoo.training.plots import plot_run, running_mean
from zoo.training.progress import ProgressDisplay, clock, size
from zoo.training.report import closing, stopped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_elsewhere_than_on_a_terminal() -> None:
    """One for each evaluation, and one now and then for training; no control characters."""
    stream = io.StringIO()
    display = ProgressDisplay(total_steps=100, stream=stream)
    for step in range(1, 101):
        display.step(step)
        display.row({"step": step, "time": 0.1, "train/loss": 1 / step, "lr": 0.1, "grad_norm": 2.0})
    display.row({"step": 100, "time": 0.2, "validation/accuracy": 0.9})
    display.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step   1/100  train/loss 1  lr 0.1")
    assert "grad_norm" not in lines[0]
    assert "train/loss 0.01  validation/accuracy 0.9" in lines[1]
    assert "\x1b" not in stream.getvalue()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, rate, time left and memory stand beside it; it is drawn a few times a second at most, whatever the number of steps."""
    monkeypatch.setenv("COLUMNS", "140")
    stream = Terminal()
    display = ProgressDisplay(total_steps=50_000, name="mine", stream=stream)
    for step in range(1, 50_001):
        display.step(step)
    display.row({"step": 50_000, "time": 1.0, "train/loss": 0.25})
    display.row({"step": 50_000, "time": 1.0, "validation/accuracy": 0.5})
    display.close()
    drawn = stream.getvalue()
    assert drawn.count("mine") < 60
    for shown in ("50000/50000", "loss 0.25", "steps/s", "left", "validation/accuracy 0.5"):
        assert shown in drawn


def test_the_closing_table_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()
    metrics = {"validation/loss": 0.5, "validation/accuracy": 0.75, "test/accuracy": 0.7}
    run = tmp_path / "my runs" / "a"
    closing(run_dir=run, metrics=metrics, seconds=75, parameters=1234, trained=34, bundle=run / "bundle", example="PICTURE", stream=stream)
    lines = stream.getvalue().splitlines()
    assert [line.split() for line in lines[:3]] == [["metric", "validation", "test"], ["loss", "0.5000", "-"], ["accuracy", "0.7500", "0.7000"]]
    assert "1,234 parameters, trained 34; 1:15 in training" in stream.getvalue()
    assert "zoo predict 'my runs/a/bundle' PICTURE" in stream.getvalue()  # quoted as a shell needs it
    stopped(run_dir=run, step=3, total_steps=9, stream=stream)
    assert stream.getvalue().endswith("stopped after step 3 of 9, saved; go on with: zoo train resume='my runs/a'\n")


def test_figures_for_people() -> None:
    assert [clock(5), clock(65.4), clock(3723)] == ["0:05", "1:05", "1:02:03"]
    assert [size(999), size(12_300), size(5_000_000), size(2.5e9)] == ["999 B", "12 kB", "5 MB", "2.5 GB"]


def test_pictures_show_what_was_logged(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 121):
        log.row(step, {"train/loss": 1 / step if step != 7 else float("nan"), "lr": 0.1})
    log.row(120, {"validation/loss": 0.5, "validation/f1": 0.5})
    log.close()
    tables = {"test/confusion": [[5, 1], [0, 7]], "test/labels": ["cat", "dog"], "validation/confusion": [[[1, 2], [3, 4]]] * 2}
    written = plot_run(tmp_path, tables=tables, title="mine")
    assert [path.name for path in written] == ["loss.png", "learning_rate.png", "metrics.png", "test_confusion.png"]
    for path in written:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


def test_running_mean() -> None:
    assert running_mean([1.0, 2.0, 6.0, 4.0], 3) == [1.5, 3.0, 4.0, 5.0]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    """By TensorBoard's own reader; a resumed run hides what a killed one had logged after its checkpoint."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def logger() -> object:
        return LOGGERS.build(LOGGERS.check_node({"name": "tensorboard"}, "logger.tensorboard"), "logger.tensorboard", run=RunInfo(run_dir=tmp_path))

    log = RunLog(tmp_path, loggers={"tensorboard": logger()})  # type: ignore[dict-item]
    log.row(1, {"train/loss": 0.5})
    log.row(2, {"train/loss": 0.25})
    state = log.state_dict()
    log.row(3, {"train/loss": 9.0})
    log.close("failed")
    again = RunLog(tmp_path, loggers={"tensorboard": logger()})  # type: ignore[dict-item]
    again.load_state_dict(state)
    again.row(3, {"train/loss": 0.125})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25), (3, 0.125)]
