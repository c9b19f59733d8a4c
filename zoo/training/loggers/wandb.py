"""Weights & Biases, as a mirror of the local log (https://docs.wandb.ai).

The run never imports wandb and never talks to it. It starts one process (``zoo.training.wandb_mirror``) that follows ``log.jsonl``, and at
the end gives it a bounded time to finish. Whatever happens there, the run and its local log do not notice (R16).
"""

import json
import netrc
import os
import secrets
import signal
import string
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo.fetching import offline
from zoo.files import home
from zoo.registry import LOGGERS
from zoo.training.logging import REWOUND, RunInfo

RUN_FILE, CURSOR_FILE, STATUS_FILE, OUTPUT_FILE = "run.json", "cursor.json", "status.json", "mirror.log"


class WandbMode(StrEnum):
    AUTO = "auto"
    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


@LOGGERS.register("wandb")
class WandbLogger:
    """Mirrors the log to Weights & Biases from a process of its own.

    The W&B run's id is kept in ``RUN/wandb/run.json`` and in every checkpoint, so that a resumed run goes on in the same W&B run and sends
    no row twice.

    Args:
        project: W&B project.
        entity: account or team; null takes the account's own.
        mode: auto is online with an API key (WANDB_API_KEY or `wandb login`), else, or with ZOO_OFFLINE, offline; WANDB_MODE is heeded. disabled sends nothing.
        group: joins runs in W&B, e.g. the folds of one experiment.
        job_type: W&B's label for what the run does, e.g. train.
        tags: labels of the run.
        notes: a sentence about the run.
        finish_seconds: the longest that the end of a run waits for W&B, in seconds; at most 30.
        run: filled by the builder.
    """

    def __init__(
        self,
        *,
        run: RunInfo,
        project: str = "zoo",
        entity: str | None = None,
        mode: WandbMode = WandbMode.AUTO,
        group: str | None = None,
        job_type: str | None = None,
        tags: tuple[str, ...] = (),
        notes: str | None = None,
        finish_seconds: float = 30.0,
    ) -> None:
        if not 0 < finish_seconds <= 30:
            raise ValueError(f"finish_seconds={finish_seconds} is outside 0 to 30: a run is never held up longer than 30 s by W&B")
        if mode is not WandbMode.DISABLED and find_spec("wandb") is None:
            raise ValueError("wandb is not installed; pip install wandb, or leave this logger out")
        self.run, self.mode, self.finish_seconds = run, resolve_mode(mode), finish_seconds
        self.init: dict[str, Any] = {"project": project, "entity": entity, "group": group, "job_type": job_type, "tags": list(tags), "notes": notes}
        self.folder = run.run_dir / "wandb"
        self.id: str | None = None
        self._mirror: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.mode is WandbMode.DISABLED:
            return
        if self.mode is WandbMode.OFFLINE and not (self.folder / RUN_FILE).exists():
            say(f"W&B: offline (no API key, or asked for); the whole log is local. To upload later: wandb sync {self.folder}/wandb/*run-*")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.id = self.id or new_id(self.folder)
        settings = {
            "id": self.id,
            "mode": str(self.mode),
            "name": self.run.name,
            "init": self.init,
            "config": self.run.config,
            "finish_seconds": self.finish_seconds,
        }
        (self.folder / RUN_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        # Its own session: Ctrl-C and a cluster's SIGTERM reach the run, which then ends the mirror in order.
        with (self.folder / OUTPUT_FILE).open("ab") as output:
            self._mirror = subprocess.Popen(
                [sys.executable, "-m", "zoo.training.wandb_mirror", str(self.run.run_dir)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]), "OMP_NUM_THREADS": "1"},
            )

    def row(self, row: Mapping[str, Any]) -> None:
        pass  # the mirror reads the log

    def close(self, outcome: str, summary: Mapping[str, Any]) -> None:
        mirror, self._mirror = self._mirror, None
        if mirror is None:
            return
        # Writing happens beside: a mirror that does not read must not hold the run up.
        threading.Thread(target=_tell, args=(mirror, {"outcome": outcome, "summary": dict(summary)}), daemon=True).start()
        try:
            mirror.wait(self.finish_seconds)
        except subprocess.TimeoutExpired:
            upload = f"wandb sync {self.folder}/wandb/*run-*"
            say(f"W&B: not finished after {self.finish_seconds:.0f} s, stopped waiting; the local log is complete. To upload: {upload}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(mirror.pid, signal.SIGKILL)
            mirror.wait()
        status = read_json(self.folder / STATUS_FILE)
        if status.get("problem"):
            say(f"W&B: {status['problem']}; the local log is complete, details in {self.folder / OUTPUT_FILE}")
        elif status.get("url"):
            say(f"W&B: {status['url']}")

        if outcome == REWOUND:
            self._begin_again()

    def _begin_again(self) -> None:
        """W&B takes no row back: the run's true history goes into a new W&B run, which the mirror fills from the start of the rewound log."""
        (self.folder / CURSOR_FILE).unlink(missing_ok=True)
        self.id = random_id()
        (self.folder / RUN_FILE).write_text(json.dumps({"id": self.id}), encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id} if self.id else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # The run's directory knows better than a checkpoint from before a roll-back.
        known = read_json(self.folder / RUN_FILE).get("id")
        self.id = known if isinstance(known, str) else state.get("id") or self.id


def resolve_mode(mode: WandbMode) -> WandbMode:
    """``auto`` by the environment and the stored API key, without importing wandb."""
    if mode is not WandbMode.AUTO:
        return mode
    if (asked := os.environ.get("WANDB_MODE", "")) in ("online", "offline", "disabled"):
        return WandbMode(asked)
    return WandbMode.ONLINE if has_key() and offline() is None else WandbMode.OFFLINE


def has_key() -> bool:
    """Whether W&B would find credentials: the environment, or the netrc entry that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in filter(None, [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]):
        with suppress(OSError, netrc.NetrcParseError):
            return netrc.netrc(home(path)).authenticators(host) is not None
    return False


def new_id(folder: Path) -> str:
    """The W&B run's id: the one that the run directory already has, or a new one."""
    known = read_json(folder / RUN_FILE).get("id")
    return known if isinstance(known, str) else random_id()


def random_id() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def read_json(path: Path) -> dict[str, Any]:
    """A small state file; empty where it is missing or torn."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _tell(mirror: "subprocess.Popen[bytes]", message: Mapping[str, Any]) -> None:
    assert mirror.stdin is not None
    with suppress(OSError):
        mirror.stdin.write(json.dumps(message, default=str).encode() + b"\n")
        mirror.stdin.close()
