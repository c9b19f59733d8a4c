"""RunLog: the local log is complete and true, whatever happens to the run or to its followers."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from zoo.training.logging import RunLog, read_rows


class Recorder:
    """A follower that notes what it is told."""

    def __init__(self, *, fails_in: str = "") -> None:
        self.told: list[Any] = []
        self.fails_in = fails_in

    def _tell(self, event: str, what: Any = None) -> None:
        if event == self.fails_in:
            raise OSError("disk of the follower is full")
        self.told.append((event, what))

    def start(self) -> None:
        self._tell("start")

    def row(self, row: Any) -> None:
        self._tell("row", row["step"])

    def close(self, outcome: str, summary: Any) -> None:
        self._tell("close", (outcome, dict(summary)))

    def state_dict(self) -> dict[str, Any]:
        return {"id": "abc"}

    def load_state_dict(self, state: Any) -> None:
        self._tell("load", dict(state))


def steps(run_dir: Path) -> list[int]:
    return [row["step"] for row in read_rows(run_dir / "log.jsonl")]


def test_every_row_is_one_json_object_on_file_when_the_call_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.row(1, {"train/loss": 0.5, "lr": 1e-3})
    log.row(2, {"train/loss": float("nan"), "grad_norm": float("inf")})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()  # before close
    first, second = (json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) for line in lines)
    assert first["step"] == 1
    assert first["train/loss"] == 0.5
    assert (second["train/loss"], second["grad_norm"]) == ("NaN", "Infinity")
    assert first["time"] <= second["time"]
    log.close()


def test_resume_cuts_to_what_the_checkpoint_had_seen(tmp_path: Path) -> None:
    """R21: no gap and no duplicate, also among several rows of one step."""
    log = RunLog(tmp_path)
    log.row(10, {"train/loss": 1.0})
    log.row(10, {"validation/loss": 2.0})
    state = json.loads(json.dumps(log.state_dict()))
    log.row(10, {"test/loss": 3.0})
    log.row(20, {"train/loss": 0.5})
    log.close("failed")
    resumed = RunLog(tmp_path)
    resumed.load_state_dict(state)
    resumed.row(20, {"train/loss": 0.5})
    resumed.close()
    assert [set(row) - {"step", "time"} for row in read_rows(tmp_path / "log.jsonl")] == [{"train/loss"}, {"validation/loss"}, {"train/loss"}]
    assert read_rows(tmp_path / "log.jsonl")[-1]["time"] >= state["time"]


def test_rewound_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """Rows behind the checkpoint go, the clock goes on, and followers are closed, told the checkpoint's state, and started again."""
    follower = Recorder()
    log = RunLog(tmp_path, loggers={"follower": follower})
    log.row(1, {"train/loss": 1.0})
    state = json.loads(json.dumps(log.state_dict()))
    time.sleep(0.02)
    for step in (2, 3):
        log.row(step, {"train/loss": 9.0})
    spent = log.seconds
    log.rewind(state)
    log.row(2, {"train/loss": 0.5})
    log.close()
    rows = read_rows(tmp_path / "log.jsonl")
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 0.5)]
    assert rows[-1]["time"] >= round(spent, 3) >= 0.02
    assert follower.told == [
        *[("start", None), ("row", 1), ("row", 2), ("row", 3), ("close", ("rolled back", {}))],
        *[("load", {"id": "abc"}), ("start", None), ("row", 2), ("close", ("done", {}))],
    ]


@pytest.mark.parametrize("torn", ['{"step": 3, "tra', '{"step": 3, "time": 1.0, "train/loss": 0.1}', "\x00\x00\x00"])
def test_a_line_torn_by_a_crash_is_dropped(tmp_path: Path, torn: str) -> None:
    log = RunLog(tmp_path)
    log.row(1, {"train/loss": 1.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(torn)  # no newline: the write was cut off
    again = RunLog(tmp_path)
    again.row(2, {"train/loss": 1.0})
    again.close()
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("event", ["start", "row", "close"])
def test_a_follower_that_fails_is_dropped_and_named(tmp_path: Path, event: str, capsys: pytest.CaptureFixture[str]) -> None:
    """R16: no follower can end a run or touch the others."""
    bad, good = Recorder(fails_in=event), Recorder()
    log = RunLog(tmp_path, loggers={"bad": bad, "good": good})
    log.row(1, {"train/loss": 1.0})
    log.row(2, {"train/loss": 1.0})
    log.close("done", {"test/accuracy": 0.9})
    assert good.told == [("start", None), ("row", 1), ("row", 2), ("close", ("done", {"test/accuracy": 0.9}))]
    assert capsys.readouterr().err.count("logger bad failed") == 1
    assert steps(tmp_path) == [1, 2]


def test_followers_keep_their_state_in_checkpoints(tmp_path: Path) -> None:
    log = RunLog(tmp_path, loggers={"wandb": Recorder()})
    log.row(1, {"train/loss": 1.0})
    state = log.state_dict()
    log.close()
    follower = Recorder()
    RunLog(tmp_path, loggers={"wandb": follower}).load_state_dict(state)
    assert follower.told == [("load", {"id": "abc"})]


def test_killed_while_logging(tmp_path: Path) -> None:
    """R5 for the log: SIGKILL in a tight loop leaves whole rows only, and they go on without a gap."""
    code = """
        import sys
        from pathlib import Path
        from zoo.training.logging import RunLog
        log = RunLog(Path(sys.argv[1]))
        print("ready", flush=True)
        for step in range(1, 10**9):
            log.row(step, {"train/loss": 1 / step, "lr": 0.1})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    process.stdout.readline()
    while not (tmp_path / "log.jsonl").exists() or (tmp_path / "log.jsonl").stat().st_size < 10_000:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    log = RunLog(tmp_path)
    last = steps(tmp_path)[-1]
    log.row(last + 1, {"train/loss": 0.0})
    log.close()
    assert steps(tmp_path) == list(range(1, last + 2))
