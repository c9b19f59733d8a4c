"""Nothing of a run depends on who started it: the trials of a sweep through submitit or Ray, in processes of their own, against a plain ``zoo train``."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from zoo.config import RunConfig
from zoo.training.logging import repeatable

ROOT = str(Path(__file__).parents[2])
TINY = ["logger=none", "model/encoder=mlp_tiny", "trainer.max_steps=12", "trainer.eval_every=4", "trainer.log_every=1"]


def train(folder: Path, *arguments: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo", "train", *TINY, *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [repeatable(row) for row in rows]


SUBMITIT = ["hydra/launcher=submitit_local"]
RAY = ["hydra/launcher=ray", *(f"+hydra.launcher.ray.init.{option}" for option in ("num_cpus=1", "include_dashboard=false", "log_to_driver=false"))]
RAY_IS_HERE = pytest.mark.skipif(find_spec("ray") is None, reason="pip install -e '.[ray]'")


@pytest.mark.parametrize(
    ("launcher", "seeds", "processes"),
    [
        (SUBMITIT, [1], 1),
        pytest.param(SUBMITIT, [0, 1], 2, marks=pytest.mark.slow),
        pytest.param(RAY, [0, 1], 1, marks=[pytest.mark.slow, RAY_IS_HERE]),
    ],
    ids=["submitit", "submitit, 2 x 2", "ray"],
)
def test_a_launcher_trains_what_a_plain_run_does(tmp_path: Path, launcher: list[str], seeds: list[int], processes: int) -> None:
    """R11: one directory a trial, equal hashes, equal losses and weights."""
    layout = [f"parallel.processes={processes}", "name=same"]
    told = train(tmp_path, "-m", *launcher, f"seed={','.join(map(str, seeds))}", *layout)
    assert [trial["outcome"] for trial in told["trials"]] == ["done"] * len(seeds)
    (sweep,) = (tmp_path / "runs" / "same").iterdir()
    trials = sorted(path for path in sweep.iterdir() if path.is_dir() and not path.name.startswith("."))
    assert [path.name for path in trials] == [str(number) for number in range(len(seeds))]
    plain = Path(train(tmp_path, f"seed={seeds[-1]}", "run_dir=plain", *layout)["run"])
    trial, plain = trials[-1], tmp_path / plain
    assert RunConfig.load(trial / "config.yaml").hash() == RunConfig.load(plain / "config.yaml").hash()
    assert figures(trial) == figures(plain)
    assert (trial / "bundle" / "model.safetensors").read_bytes() == (plain / "bundle" / "model.safetensors").read_bytes()
