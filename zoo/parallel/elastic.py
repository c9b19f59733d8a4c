"""Processes that are started again: by torchrun, after one was lost (``--max-restarts``) or when machines come and go (``--nnodes=min:max``); by a
cluster, after a trial of a sweep was preempted.

They are started with the same command, and have to find the run that they are to go on with. Its directory says which job of torchrun's
it belongs to; that of a trial is known. Imports no torch.
"""

import json
import os
import socket
import threading
import time
from pathlib import Path

from zoo.config import RunConfig
from zoo.files import write_whole

FILE = "elastic.json"
NO_ID = ("", "none")
"""What torchrun calls a job that was given no ``--rdzv-id``."""


def job() -> str | None:
    """What tells this job of torchrun's from all others; None where torchrun did not start this process.

    The id that it was given. Without one, the torchrun process itself: one machine, then.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None or name not in NO_ID:
        return name
    parent = os.getppid()
    try:
        begun = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no Linux: process ids alone, which come round again only after a long time
        begun = "0"
    return f"{socket.gethostname()}-{parent}-{begun}"


def begun_before(config: RunConfig, trial: Path | None = None) -> Path | None:
    """The directory of the run that this job began before it was started again.

    One of another config is not it, and one that is done only for a job that failed after it: the same id may be given to a job of another day.
    One that was stopped is: where a machine comes, torchrun ends all processes by SIGTERM, and counts that as no restart.

    Args:
        config: of the run.
        trial: the run's directory, where a sweep gives it.
    """
    if trial is not None:
        return trial if _of(trial, config) and not done(trial) else None
    name = job()
    if name is None:
        return None
    folders = [Path(config.run.run_dir)] if config.run.run_dir else [*(Path("runs") / config.run.name).glob("*")]
    if config.run.resume and (Path(config.run.resume) / FILE).is_file():
        folders.append(Path(config.run.resume))
    notes = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    mine = [note for note in notes if json.loads(note.read_text(encoding="utf-8"))["job"] == name and _of(note.parent, config)]
    if not mine:
        return None
    newest = max(mine, key=lambda note: note.stat().st_mtime_ns).parent
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return newest if again or not done(newest) else None


def done(run_dir: Path) -> bool:
    """Whether a run has come to its end; one that was stopped has not."""
    file = run_dir / "result.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["outcome"] == "done"


def _of(run_dir: Path, config: RunConfig) -> bool:
    file = run_dir / "config.yaml"
    return file.is_file() and RunConfig.load(file) == config


def remember(run_dir: Path) -> None:
    """That this job began the run."""
    if (name := job()) is not None:
        write_whole(run_dir / FILE, json.dumps({"job": name}) + "\n")


def follow_launcher() -> None:
    """Leave when the process that started this one is gone. One that is killed cannot end what it started, and where another machine takes its place
    in the job, two would write the same checkpoints."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(3)

    threading.Thread(target=watch, daemon=True, name="follow-launcher").start()
