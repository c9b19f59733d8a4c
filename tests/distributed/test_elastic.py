"""Processes that torchrun starts again find their run and go on with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoo.config import RunConfig
from zoo.parallel.elastic import FILE, begun_before, job, remember

ROOT = str(Path(__file__).parents[2])
KILL = """
import os
import signal

from zoo.training.trainer import Trainer

log_row = Trainer._log_row


def killed(self):
    if self.progress.step == 70 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    log_row(self)


Trainer._log_row = killed
"""
TRAIN = ["logger=none", "model/encoder=mlp_tiny", "trainer.max_steps=80", "trainer.checkpoint_every=20", "trainer.eval_every=40"]


def test_a_killed_worker_is_started_again_and_the_run_goes_on(tmp_path: Path) -> None:
    """R5, R12: exit code 0, one directory, and the bits of a run that nobody killed."""
    (tmp_path / "kill.py").write_text(KILL)
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "zoo", "train"]
    killed = subprocess.run(
        [*launcher, *TRAIN, "--import", "./kill.py", "name=killed"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert killed.returncode == 0, killed.stderr
    (run,) = (tmp_path / "runs" / "killed").iterdir()
    assert "started again, goes on" in killed.stderr
    assert "going on from" in killed.stderr
    assert any(f"going on from runs/killed/{run.name}/checkpoints/step_000000{step}" in killed.stderr for step in (40, 60))
    whole = [sys.executable, "-m", "zoo", "train", *TRAIN, "run_dir=whole", "parallel.processes=2"]
    done = subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (run / "bundle" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "bundle" / "model.safetensors").read_bytes()
    steps = [[json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (run, tmp_path / "whole")]
    assert steps[0] == steps[1]


SLOW = """
import time

from zoo.training.trainer import Trainer

log_row = Trainer._log_row


def slowly(self):
    time.sleep(0.05)
    log_row(self)


Trainer._log_row = slowly
"""


@pytest.mark.slow
def test_a_machine_that_is_lost_is_done_without(tmp_path: Path) -> None:
    """R12, README's ``--nnodes=1:2``: two launchers meet as two machines, one is killed with its worker, the other goes on alone to the same losses."""
    (tmp_path / "slow.py").write_text(SLOW)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    meeting = ["--rdzv-backend=c10d", "--rdzv-id=job", f"--rdzv-endpoint=localhost:{port}", "--rdzv-conf=last_call_timeout=15", "--local-addr=localhost"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", *meeting, "-m", "zoo", "train"]
    train = [*TRAIN[:2], "trainer.max_steps=300", "trainer.checkpoint_every=20", "trainer.eval_every=300", "trainer.log_every=1", "parallel.timeout=60"]
    nodes = []
    for number in range(2):
        with (tmp_path / f"node_{number}.txt").open("w") as told:
            options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stdout": told, "stderr": told, "start_new_session": True}
            nodes.append(subprocess.Popen([*command, *train, "--import", "./slow.py", "name=elastic"], **options))
        time.sleep(2)  # the first one is the host of the meeting
    try:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "runs").glob("elastic/*/checkpoints/step_*")):
            assert nodes[0].poll() is None, (tmp_path / "node_0.txt").read_text()
            assert time.monotonic() < deadline, (tmp_path / "node_0.txt").read_text()
            time.sleep(0.1)
        (run,) = (tmp_path / "runs" / "elastic").iterdir()
        assert json.loads((run / "environment.json").read_text())["processes"] == 2
        workers = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()
        for process in (nodes[1].pid, *map(int, workers)):
            os.kill(process, signal.SIGKILL)
        assert nodes[0].wait(300) == 0, (tmp_path / "node_0.txt").read_text()
    finally:
        for node in nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
    assert "started again, goes on" in (tmp_path / "node_0.txt").read_text()
    assert [folder.name for folder in (tmp_path / "runs" / "elastic").iterdir()] == [run.name]
    alone = [sys.executable, "-m", "zoo", "train", *train, "run_dir=alone"]
    done = subprocess.run(alone, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found, wanted = ([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (run, tmp_path / "alone"))
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        if "train/loss" in one:
            assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-5)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    from zoo.compose import Composer

    monkeypatch.chdir(tmp_path)
    with Composer() as composer:
        return composer.run_config(composer.compose(["name=x"]), ["name=x"])


def folder(name: str, config: RunConfig) -> Path:
    made = Path("runs") / "x" / name
    made.mkdir(parents=True)
    config.save(made / "config.yaml")
    remember(made)
    return made


def end(run: Path, outcome: str) -> None:
    (run / "result.json").write_text(json.dumps({"outcome": outcome}))


def test_a_job_finds_its_own_newest_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun_before(config) is None
    assert not (folder("plain", config) / FILE).exists()  # torchrun did not start this
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    assert begun_before(config) is None
    first = folder("a", config)
    assert begun_before(config) == first  # machines came or went: no restart is counted
    end(first, "stopped")
    assert begun_before(config) == first  # and the processes had the time to save
    end(first, "done")
    assert begun_before(config) is None  # of another day
    second = folder("b", config)
    other = replace(config, run=replace(config.run, seed=7))
    assert begun_before(other) is None  # the id was used again
    end(second, "done")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert begun_before(config) == second
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job8")
    assert begun_before(config) is None


def test_without_an_id_the_job_is_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert str(os.getppid()) in str(job())


def test_a_trial_that_a_cluster_starts_again_goes_on(config: RunConfig, tmp_path: Path) -> None:
    """Its directory is the sweep's; a finished one, or one of another config, is nobody's to go on with."""
    trial = tmp_path / "sweep" / "0"
    trial.mkdir(parents=True)
    assert begun_before(config, trial) is None
    config.save(trial / "config.yaml")
    assert begun_before(config, trial) == trial
    end(trial, "stopped")
    assert begun_before(config, trial) == trial
    assert begun_before(replace(config, run=replace(config.run, seed=7)), trial) is None
    end(trial, "done")
    assert begun_before(config, trial) is None
