"""One run as a process does it: what is on disk when its parts come to their end."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.config import RunConfig
from zoo.training import job

TREE: dict[str, Any] = {
    "name": "job",
    "data": {"name": "digits", "batch_size": 64, "augment": {}},
    "model": {"encoder": {"name": "mlp", "dims": [8]}, "decoder": {"name": "none"}, "head": {"name": "classification"}},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "constant"},
    "trainer": {"max_epochs": None, "max_steps": 2, "device": "cpu"},
}


class Follower:
    """A logger that may hang at the end; notes what is on disk by then."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.found, self.outcome = run_dir, set[str](), ""

    def start(self) -> None: ...

    def row(self, row: Any) -> None: ...

    def close(self, outcome: str, summary: Any) -> None:
        self.outcome, self.found = outcome, {path.name for path in self.run_dir.iterdir()}

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follower:
    follower = Follower(tmp_path)
    monkeypatch.setattr(job, "build_loggers", lambda *_: {"follower": follower})
    return follower


def test_everything_is_on_disk_before_followers_are_waited_for(tmp_path: Path, follower: Follower) -> None:
    """R16."""
    result = job.run_job(RunConfig.from_dict(TREE), tmp_path)
    assert follower.outcome == "done"
    assert {"bundle", "plots", "result.json"} <= follower.found
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_a_run_that_cannot_publish_has_failed(tmp_path: Path, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(job, "plot_run", full)
    with pytest.raises(OSError, match="no space left"):
        job.run_job(RunConfig.from_dict(TREE), tmp_path)
    assert follower.outcome == "failed"
    assert "result.json" not in follower.found
