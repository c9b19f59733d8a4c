"""How far a download is: a bar on a terminal, a line for a large file elsewhere. Imports no torch."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LARGE = 10_000_000
"""Bytes from which a download is worth a line where there is no terminal."""


class Meter:
    """Of one file.

    Args:
        name: of it.
        size: bytes, where known.
    """

    def __init__(self, name: str, size: int | None) -> None:
        self.name, self.size = name, size
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Meter":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.name, total=self.size)
            self._bar.start()
        elif (self.size or 0) >= LARGE:
            sys.stderr.write(f"fetching {self.name}, {size_of(self.size)}\n")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, received: int, total: int | None) -> None:
        """So many bytes are here."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=received, total=total)


def size_of(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "of unknown size"
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
