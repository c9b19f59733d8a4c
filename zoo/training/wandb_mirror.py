"""``python -m zoo.training.wandb_mirror RUN_DIR``: follow a run's log and repeat it in Weights & Biases.

Started by the ``wandb`` logger, never by the run's own process. It ends when the run says so on standard input, or when the run dies
(standard input closes without a word): then it sends what the log holds and ends by itself.

Rows of one step become one W&B row, so the newest step waits until a later one is logged or the run ends. Steps at or below the cursor
have been sent before, in this process or before a resume, and are never sent again (R21). Online, the server's own last step outranks the
local cursor, since a killed mirror may have lost what was under way.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from zoo.training.loggers.wandb import CURSOR_FILE, RUN_FILE, STATUS_FILE, read_json
from zoo.training.logging import LOG_FILE, REWOUND, as_number, follow

POLL_SECONDS = 1.0
INIT_SECONDS = 12.0


class Mirror:
    """Follows one log into one W&B run.

    Args:
        run_dir: the run's directory.
        run: W&B's run object, or anything with ``log(values, step=)``.
        sent: the last step that W&B has.
    """

    def __init__(self, run_dir: Path, run: Any, *, sent: int = -1) -> None:
        self.log, self.cursor = run_dir / LOG_FILE, run_dir / "wandb" / CURSOR_FILE
        self.run, self.sent = run, sent
        self.position, self.inode = 0, -1
        self.waiting: dict[str, Any] = {}
        self.waiting_step = -1

    def poll(self) -> int:
        """Send the steps that are complete; the number of rows sent."""
        if not self.log.exists():
            return 0
        if (inode := self.log.stat().st_ino) != self.inode:  # cut by a rewind: read it again, the cursor knows what was sent
            self.inode, self.position, self.waiting, self.waiting_step = inode, 0, {}, -1
        count = 0
        for position, row in follow(self.log, self.position):
            self.position = position
            if row["step"] <= self.sent:
                continue
            if self.waiting and row["step"] != self.waiting_step:
                count += self._send()
            self.waiting_step = row["step"]
            self.waiting |= {name: as_number(value) for name, value in row.items() if name != "step"}
        if count:
            self._keep_cursor()
        return count

    def finish(self) -> int:
        """Send what is left, the newest step included."""
        count = self.poll()
        if self.waiting:
            count += self._send()
            self._keep_cursor()
        return count

    def _send(self) -> int:
        self.run.log(self.waiting, step=self.waiting_step)
        self.sent, self.waiting = self.waiting_step, {}
        return 1

    def _keep_cursor(self) -> None:
        temporary = self.cursor.with_suffix(".tmp")
        temporary.write_text(json.dumps({"step": self.sent}), encoding="utf-8")
        temporary.replace(self.cursor)


def start_wandb(folder: Path, settings: dict[str, Any]) -> tuple[Any, str | None]:
    """A W&B run, and the problem where it had to be an offline one."""
    import wandb

    common = settings["init"] | {"id": settings["id"], "name": settings["name"], "config": settings["config"], "dir": str(folder), "resume": "allow"}
    finish = max(1.0, settings["finish_seconds"] - 10)
    limits = {
        "console": "off",
        "silent": True,
        "init_timeout": INIT_SECONDS,
        "finish_timeout": finish,
        "x_disable_stats": True,
        "disable_git": True,
        "disable_code": True,
    }
    known = wandb.Settings(**{name: value for name, value in limits.items() if name in wandb.Settings.model_fields})  # older versions know fewer
    if settings["mode"] == "online":
        try:
            return wandb.init(**common, mode="online", settings=known), None
        except Exception as error:  # noqa: BLE001 - wandb raises many kinds; the way on is the same for all of them
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            say(f"online start failed: {type(error).__name__}: {error}")
            wandb.teardown()
            offline = wandb.init(**common, mode="offline", settings=known)
            return offline, f"could not be reached ({reason}); kept offline, to upload: wandb sync {folder}/wandb/*run-*"
    return wandb.init(**common, mode="offline", settings=known), None


def wait_for_parent(seconds: float, parent: int) -> dict[str, Any] | None:
    """The run's last word; ``{}`` when it died without one, None while it goes on."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return {"outcome": "failed"} if os.getppid() != parent else None
    try:
        return json.loads(sys.stdin.readline() or '{"outcome": "failed"}')  # type: ignore[no-any-return]
    except ValueError:
        return {"outcome": "failed"}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")  # into RUN/wandb/mirror.log
    sys.stdout.flush()


def main(run_dir: Path) -> int:
    for received in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(received, signal.SIG_IGN)  # the run decides when this ends
    os.nice(5)
    parent, folder = os.getppid(), run_dir / "wandb"
    settings, status = read_json(folder / RUN_FILE), folder / STATUS_FILE
    status.unlink(missing_ok=True)
    run, problem = start_wandb(folder, settings)
    sent = int(read_json(folder / CURSOR_FILE).get("step", -1))
    if settings["mode"] == "online" and problem is None and run.resumed:
        sent = run.starting_step - 1
    mirror = Mirror(run_dir, run, sent=sent)
    status.write_text(json.dumps({"problem": problem, "url": None if problem or settings["mode"] != "online" else run.url}), encoding="utf-8")
    while (end := wait_for_parent(POLL_SECONDS, parent)) is None:
        mirror.poll()
    began, count = time.monotonic(), mirror.finish()
    for name, value in end.get("summary", {}).items():
        run.summary[name] = value
    run.summary["outcome"] = end["outcome"]
    run.finish(exit_code=0 if end["outcome"] in ("done", "stopped", REWOUND) else 1)
    say(f"finished: {count} last rows, {time.monotonic() - began:.1f} s, outcome {end['outcome']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
