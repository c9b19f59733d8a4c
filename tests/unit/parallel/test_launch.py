"""R2: runs that torchrun has started. Real processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import ProcessFailure

from zoo.cli.main import main
from zoo.parallel.launch import GRACE, why

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


@pytest.mark.parametrize(
    ("codes", "named"),
    [
        ({0: 1, 1: -9, 2: 1, 3: -15}, "rank 1 was ended by SIGKILL"),  # 0 and 2 lost their connection to it and were found first
        ({0: 1, 1: 7}, r"rank 1 was the first to fail \(exit code 7\)"),
        ({0: 1, 1: 2}, "rank 1 was unable to go on"),
        ({0: 1, 1: 1, 2: -15}, r"ranks 0 and 1 were the first to fail \(exit code 1\)"),
    ],
)
def test_the_cause_among_ranks_that_failed_in_the_same_second(tmp_path: Path, codes: dict[int, int], named: str) -> None:
    failures = {rank: ProcessFailure(rank, 1000 + rank, code, error_file="") for rank, code in codes.items()}
    assert re.search(named, str(why(failures, tmp_path)))


def test_a_rank_that_the_launcher_had_to_kill_later_is_not_the_cause(tmp_path: Path) -> None:
    failures = {rank: ProcessFailure(rank, 1000 + rank, code, error_file="") for rank, code in {0: 1, 1: -9}.items()}
    failures[1].timestamp += GRACE
    assert "rank 0 was the first to fail" in str(why(failures, tmp_path))
