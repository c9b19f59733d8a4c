"""R2: runs that torchrun has started. Real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.cli.main import main

ROOT = Path(__file__).parents[3]
TINY = ["logger=none", "model/encoder=mlp_tiny", "trainer.max_steps=3", "trainer.device=cpu"]


def test_ranks_within_ranks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *TINY, "parallel.processes=2"]) == 2
    assert "2 processes are asked for in each of the 2 that torchrun has started" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_starts_the_ranks_of_one_run(tmp_path: Path) -> None:
    """One directory and one JSON document; `python -m zoo` is the command."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "zoo", "train", *TINY, "name=ours", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (run,) = (tmp_path / "runs" / "ours").iterdir()
    assert (tmp_path / result["run"]).resolve() == run.resolve()
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert (run / "bundle").is_dir()
