"""R12: whatever happens to one rank, the job ends within seconds and says which rank, step and samples. Real launches of the ``zoo`` command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "unreliable.py"


def zoo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "zoo.cli.main",
        "train",
        "--import",
        str(PLUGIN),
        "model/encoder=unreliable",
        "parallel.processes=2",
        "logger=none",
        "run_dir=run",
        *arguments,
    ]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told_within(process: "subprocess.Popen[str]", folder: Path, seconds: float) -> str:
    """What a job that has to fail tells; it has to end so soon after the fault."""
    _, errors = process.communicate(timeout=150)
    took = time.time() - float((folder / "failed_at").read_text())
    assert process.returncode not in (0, None)
    assert took < seconds, errors
    return errors


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_rank_that_fails_ends_the_job(tmp_path: Path, how: str) -> None:
    """R12: non-zero exit code within 15 s of the failure."""
    process = zoo(tmp_path, f"model.encoder.how={how}")
    errors = told_within(process, tmp_path, 15)
    if how == "raise":
        assert "RuntimeError: had enough" in errors
        assert "rank 1 failed in step 4, on samples" in errors


def test_a_rank_that_hangs_is_named_with_its_stack(tmp_path: Path) -> None:
    """R12: within the time-out and 15 s, by the rank that hangs itself: the line of the plugin that sleeps."""
    process = zoo(tmp_path, "model.encoder.how=hang", "parallel.timeout=4")
    errors = told_within(process, tmp_path, 4 + 15)
    assert "rank 1 has been at step 4, on samples" in errors
    assert "time.sleep(1000)" in errors


def test_a_loader_process_that_hangs_is_told_by_its_own_rank(tmp_path: Path) -> None:
    """R12: within the time-out and 15 s, though it is the other rank that stands in a collective."""
    process = zoo(tmp_path, "+data.augment.bad={name: unreliable, how: hang}", "data.workers=1", "parallel.timeout=4")
    errors = told_within(process, tmp_path, 4 + 15)
    assert "rank 1 has been at step" in errors
    assert "waiting for its data" in errors


@pytest.mark.parametrize("layout", [[], ["parallel.strategy=fsdp"]], ids=["ddp", "fsdp"])
def test_a_signal_to_the_launcher_saves_and_ends_with_0(layout: list[str], tmp_path: Path) -> None:
    """R13: and says how to go on, which one process then does (R17)."""
    process = zoo(tmp_path, "trainer.max_epochs=100000", *layout)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 1):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "go on with: zoo train resume=run" in errors
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["outcome"] == "stopped"
    assert (tmp_path / "run" / "checkpoints" / f"step_{result['step']:08d}").is_dir()
    steps = result["step"] + 3
    more = zoo(
        tmp_path, "resume=run", "parallel.processes=1", f"trainer.max_steps={steps}", "trainer.max_epochs=null", "allow=[trainer.max_steps,trainer.max_epochs]"
    )
    _, errors = more.communicate(timeout=120)
    assert more.returncode == 0, errors
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == steps
