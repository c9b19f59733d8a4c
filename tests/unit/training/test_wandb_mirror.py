"""The W&B mirror against W&B's own files: what it wrote is read back with W&B's record format."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import ConfigError
from zoo.registry import LOGGERS
from zoo.training.loggers.wandb import WandbLogger, WandbMode, resolve_mode
from zoo.training.logging import RunInfo, RunLog, read_rows
from zoo.training.wandb_mirror import Mirror

CHECKOUT = Path(__file__).parents[3]


class FakeRun:
    """What the mirror needs of W&B's run."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self.rows.append((step, dict(values)))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "wandb").mkdir()
    return tmp_path


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_rows_of_a_step_are_sent_once_and_together(run_dir: Path) -> None:
    run, log = FakeRun(), RunLog(run_dir)
    mirror = Mirror(run_dir, run)
    log.row(1, {"train/loss": 1.0})
    assert mirror.poll() == 0  # more rows of step 1 may come
    log.row(2, {"train/loss": 0.5})
    log.row(2, {"validation/loss": 0.75})
    mirror.poll()
    assert [step for step, _ in run.rows] == [1]
    mirror.finish()
    assert [step for step, _ in run.rows] == [1, 2]
    assert run.rows[1][1] | {"time": 0} == {"train/loss": 0.5, "validation/loss": 0.75, "time": 0}
    log.close()


def test_history_after_three_preemptions_has_no_gap_and_no_duplicate(run_dir: Path) -> None:
    """R21: killed three times after a checkpoint, each time rewound to it, with a mirror that had run ahead."""
    sent, checkpoint = [], {"rows": 0, "time": 0.0, "loggers": {}}
    for life in range(4):
        log = RunLog(run_dir)
        log.load_state_dict(checkpoint)
        run = FakeRun()
        cursor = run_dir / "wandb" / "cursor.json"
        mirror = Mirror(run_dir, run, sent=json.loads(cursor.read_text())["step"] if cursor.exists() else -1)
        for step in range(10 * life + 1, 10 * life + (11 if life == 3 else 16)):
            log.row(step, {"train/loss": 1 / step})
            if step % 10 == 0:
                checkpoint = log.state_dict()
            if step % 3 == 0:
                mirror.poll()
        mirror.finish()  # parent gone or done: what the log holds is sent
        log.close()
        sent += run.rows
    assert [step for step, _ in sent] == list(range(1, 41))
    assert [step for step, _ in sent] == [row["step"] for row in read_rows(run_dir / "log.jsonl")]


def test_a_log_cut_under_the_mirror_is_read_again(run_dir: Path) -> None:
    run, log = FakeRun(), RunLog(run_dir)
    mirror = Mirror(run_dir, run)
    state = log.state_dict()
    for step in range(1, 6):
        log.row(step, {"train/loss": 1.0})
        state = log.state_dict() if step == 2 else state
    mirror.poll()
    log.rewind(state)
    for step in range(3, 9):
        log.row(step, {"train/loss": 1.0})
    log.close()
    mirror.finish()
    assert [step for step, _ in run.rows] == list(range(1, 9))


def test_mode_without_importing_wandb(no_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_mode(WandbMode.AUTO) is WandbMode.OFFLINE
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert resolve_mode(WandbMode.AUTO) is WandbMode.ONLINE
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(WandbMode.AUTO) is WandbMode.DISABLED
    assert resolve_mode(WandbMode.OFFLINE) is WandbMode.OFFLINE


def test_refuses_to_hold_a_run_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"finish_seconds=31.0 is outside 0 to 30"):
        LOGGERS.build(LOGGERS.check_node({"name": "wandb", "finish_seconds": 31}, "logger.wandb"), "logger.wandb", run=RunInfo(run_dir=tmp_path))


def test_offline_history_equals_the_log(run_dir: Path, no_credentials: None, capfd: pytest.CaptureFixture[str]) -> None:
    """R16, R21: a run without a key is kept offline, said once; its history, in W&B's own file, is the JSONL."""
    log = RunLog(run_dir, loggers={"wandb": WandbLogger(run=RunInfo(run_dir=run_dir, name="mine", config={"optimizer": {"lr": 0.1}}))})
    log.start()
    for step in range(1, 6):
        log.row(step, {"train/loss": 1 / step})
    log.row(5, {"validation/accuracy": 0.5})
    log.close("done", {"test/accuracy": 0.875})
    assert capfd.readouterr().err.count("W&B: offline") == 1
    history, config, summary = read_offline(run_dir)
    assert history == merged(read_rows(run_dir / "log.jsonl"))
    assert config["optimizer"] == {"lr": 0.1}
    assert summary["test/accuracy"] == 0.875


def test_a_roll_back_begins_a_new_history(run_dir: Path, no_credentials: None) -> None:
    """R21: W&B takes no row back, so the rows that are left go into a new W&B run, from the first one on; a resumed run goes on in that one."""
    logger = WandbLogger(run=RunInfo(run_dir=run_dir))
    log = RunLog(run_dir, loggers={"wandb": logger})
    log.row(1, {"train/loss": 1.0})
    state = log.state_dict()
    log.row(2, {"train/loss": 9.0})
    first = logger.id
    log.rewind(state)
    log.row(2, {"train/loss": 0.5})
    log.close("done", {})
    assert logger.id != first
    assert {path.name.rpartition("-")[2] for path in (run_dir / "wandb" / "wandb").glob("offline-run-*")} == {first, logger.id}
    for folder in (run_dir / "wandb" / "wandb").glob(f"offline-run-*-{first}"):
        shutil.rmtree(folder)
    history, _, _ = read_offline(run_dir)
    assert history == merged(read_rows(run_dir / "log.jsonl"))
    resumed = WandbLogger(run=RunInfo(run_dir=run_dir))
    resumed.load_state_dict(state["loggers"]["wandb"])  # of a checkpoint from before
    assert resumed.id == logger.id


def test_unreachable_server_costs_a_bounded_time(
    run_dir: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """R16: a key, but no server: the rows are not delayed, the end is bounded, the local log is complete, nothing is left running."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = WandbLogger(run=RunInfo(run_dir=run_dir), finish_seconds=2)
    log = RunLog(run_dir, loggers={"wandb": logger})
    began = time.monotonic()
    for step in range(1, 101):
        log.row(step, {"train/loss": 1 / step})
    assert logger._mirror is not None
    mirror = logger._mirror.pid
    log.close("done")
    assert time.monotonic() - began < 2 + 10  # what was allowed, and room for a busy machine
    assert [row["step"] for row in read_rows(run_dir / "log.jsonl")] == list(range(1, 101))
    assert "the local log is complete" in capfd.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(mirror, 0)


def test_mirror_ends_by_itself_when_the_run_is_killed(run_dir: Path, no_credentials: None) -> None:
    """R16: SIGKILL to the run leaves no process behind, and what had been logged reaches the W&B file."""
    code = """
        import sys, time
        from pathlib import Path
        from zoo.training.logging import RunInfo, RunLog
        from zoo.training.loggers.wandb import WandbLogger
        folder = Path(sys.argv[1])
        logger = WandbLogger(run=RunInfo(run_dir=folder))
        log = RunLog(folder, loggers={"wandb": logger})
        for step in range(1, 8):
            log.row(step, {"train/loss": 1 / step})
        assert "wandb" not in sys.modules and "torch" not in sys.modules
        print(logger._mirror.pid, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(run_dir)], stdout=subprocess.PIPE, cwd=CHECKOUT)
    assert process.stdout is not None
    mirror = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while alive(mirror) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(mirror)
    assert [row["_step"] for row in read_offline(run_dir)[0]] == list(range(1, 8))


# --- W&B's own file -----------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one step as one, as W&B keeps them."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["step"], {"_step": row["step"]}).update({name: value for name, value in row.items() if name != "step"})
    return list(found.values())


def read_offline(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """History, config and summary of all W&B files of a run, by W&B's protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    history, config, summary = [], {}, {}
    for path in sorted((run_dir / "wandb" / "wandb").glob("offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            match record.WhichOneof("record_type"):
                case "history":
                    row = {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in record.history.item}
                    history.append({name: value for name, value in row.items() if name == "_step" or not name.startswith("_")})
                case "run":
                    config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
                case "summary":
                    summary |= {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in record.summary.update}
    return history, config, summary


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """W&B's transaction log: a 7 byte header, then LevelDB's log format (32 KiB blocks of crc, length, type, data)."""
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == 0:
            place += left
            continue
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or the last of several
            yield parts
            parts = b""
