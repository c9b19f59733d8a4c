"""The run's log: ``log.jsonl`` first and always, then whoever follows it. Imports no torch.

One JSON object a line: ``{"step": 120, "time": 3.25, "train/loss": 0.41, "lr": 0.001}``. ``step`` is the optimizer step after which the
row was made, ``time`` is seconds of training, carried over resumes. Several rows may have one step (training, then evaluation). Numbers
that JSON has no word for are the strings NaN, Infinity and -Infinity.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from zoo.files import write_whole

LOG_FILE = "log.jsonl"
MEASURED = ("time", "memory_gb", "samples_per_second", "positions_per_second")
"""Columns that differ between equal runs, besides ``ms_<part>``."""
REWOUND = "rolled back"
"""Outcome that a follower is closed with when rows that it has shown are taken back; it is started again at once."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger may know of its run. The builder wires it.

    Args:
        run_dir: the run's directory.
        name: the run's name.
        config: the resolved config, as nested plain values.
    """

    run_dir: Path
    name: str = "run"
    config: dict[str, Any] = field(default_factory=dict)


class Logger(Protocol):
    """Registered as kind ``logger``; built with ``run: RunInfo`` on the first rank only. A logger that raises is dropped, the run goes on."""

    def start(self) -> None:
        """Before the first row of this process, after a resumed log has been cut to its checkpoint."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A row that has just been written to the log, ``step`` and ``time`` included."""

    def close(self, outcome: str, summary: Mapping[str, Any]) -> None:
        """The end of the process: "done", "stopped" (can be resumed) or "failed"; the final metrics. "rolled back" takes back rows, after which
        ``load_state_dict`` and ``start`` follow."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps for this logger, as plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Before ``start``, when the run is resumed."""


class Display(Protocol):
    """What shows the rows to a person: ``zoo.training.progress``."""

    def row(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """Writes rows; the trainer's only log.

    An existing log is gone on with: a line torn by a crash is dropped, and the clock goes on. After ``load_state_dict`` (before the run goes
    on) or ``rewind`` (in the middle of it) it holds what the checkpoint had seen and nothing later, so that there is no gap and no duplicate.

    Args:
        run_dir: holds ``log.jsonl``.
        loggers: followers by name, each handed every row after it is on file.
        display: progress for a person.
    """

    def __init__(self, run_dir: Path, *, loggers: Mapping[str, Logger] | None = None, display: Display | None = None) -> None:
        self.path = run_dir / LOG_FILE
        self.loggers: dict[str, Logger] = dict(loggers or {})
        self.display = display
        self._started = False
        self._closed_at: float | None = None
        self._file: IO[str] | None = None
        kept = read_rows(self.path)
        if self.path.exists() and len(_complete_lines(self.path)) != len(self.path.read_bytes().splitlines()):
            _write_lines(self.path, _complete_lines(self.path))
        self._adopt(kept)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row; it is on file (in the system's cache) when this returns."""
        row = {"step": step, "time": round(self.seconds, 3)} | {name: _number(value) for name, value in values.items()}
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._rows += 1
        self.start()
        for name, logger in list(self.loggers.items()):
            self._guard(name, logger.row, row)
        if self.display is not None:
            self.display.row(row)

    def start(self) -> None:
        """Start the followers; the first row does so too. Call it once the run is known to be fit to train."""
        if not self._started:
            self._started = True
            for name, logger in list(self.loggers.items()):
                self._guard(name, logger.start)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included; it stands still once the log is closed."""
        return self._offset + (self._closed_at or time.monotonic()) - self._start

    def rewind(self, state: Mapping[str, Any]) -> None:
        """Take back what came after a checkpoint, while the run goes on: its rows go, its time was spent. Followers end what they show and
        start again from the checkpoint's log."""
        seconds = self.seconds
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._started:
            for name, logger in list(self.loggers.items()):
                self._guard(name, logger.close, REWOUND, {})
        self._started = False
        self.load_state_dict(state)
        self._offset = seconds

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what has been logged by now, which is made safe against a power cut first."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return {"rows": self._rows, "time": round(self.seconds, 3), "loggers": {name: logger.state_dict() for name, logger in self.loggers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the log back to what it was when the checkpoint was written."""
        self._cut(read_rows(self.path)[: state["rows"]])
        self._offset, self._start = float(state["time"]), time.monotonic()
        for name, logger in self.loggers.items():
            if name in state["loggers"]:
                logger.load_state_dict(state["loggers"][name])

    def close(self, outcome: str = "done", summary: Mapping[str, Any] | None = None) -> None:
        """End the followers: "done", "stopped" (can be resumed) or "failed". Safe to call twice."""
        self._closed_at = self._closed_at or time.monotonic()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.display is not None:
            self.display.close()
        if self._started:
            for name, logger in list(self.loggers.items()):
                self._guard(name, logger.close, outcome, dict(summary or {}))
        self._started = False

    def _cut(self, rows: Sequence[Mapping[str, Any]]) -> None:
        assert not self._started, "the log is cut before the run goes on, not while loggers follow it"
        if len(rows) != self._rows:
            _write_lines(self.path, [json.dumps(row) for row in rows])
        self._adopt(rows)

    def _adopt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = len(rows)
        self._offset = float(rows[-1]["time"]) if rows else 0.0
        self._start = time.monotonic()

    def _guard(self, name: str, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - no follower may end the run (R16); it is dropped and named
            self.loggers.pop(name, None)
            sys.stderr.write(f"zoo: logger {name} failed and is off for the rest of the run, the local log goes on: {type(error).__name__}: {error}\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a log; empty where there is none."""
    return [json.loads(line) for line in _complete_lines(path)]


def repeatable(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row is the same in each run of one config: all but times, rates and memory."""
    return {name: value for name, value in row.items() if name not in MEASURED and not name.startswith("ms_")}


def follow(path: Path, position: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows from a byte position on, each with the position behind it; ends at the last complete line."""
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            yield position, json.loads(line)


def as_number(value: Any) -> Any:
    """A logged value as a Python number again."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _number(value: Any) -> int | float | str:
    number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [line.decode() for line in lines[:-1] if line.startswith(b"{") and line.endswith(b"}")]  # a last part without newline was torn


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    # A new file in place of the old one: whoever follows the log sees another inode and starts over.
    write_whole(path, "".join(f"{line}\n" for line in lines))
