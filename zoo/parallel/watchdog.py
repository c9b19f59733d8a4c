"""Names the rank that hangs. The others only see a collective that does not answer, and their message would blame the wrong place."""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

PATIENCE = 3.0
"""Seconds that a process in a collective waits longer, so that the one that it waits for speaks first. Collectives themselves wait twice that."""
COLLECTIVES = f"torch{os.sep}distributed{os.sep}"
T = TypeVar("T")


class Watchdog:
    """While entered, a thread watches the process's own steps; one that takes longer than ``timeout`` is told with its stack, and ends the process.

    ``beat`` is all that a step pays: one assignment. Waiting for the loader's next batch belongs to the step.

    Args:
        rank: of this process, for the message.
        timeout: seconds that a step may take; None watches nothing.
        where: what the process is at: step and samples.
    """

    def __init__(self, rank: int, timeout: float | None, where: Callable[[], str]) -> None:
        self.rank, self.timeout, self.where = rank, timeout, where
        self._since: float | None = None
        self._over = threading.Event()
        self._watched = threading.get_ident()

    def beat(self) -> None:
        """A step begins."""
        self._since = time.monotonic()

    def rest(self) -> None:
        """What follows may take its time: an evaluation, a save, the next epoch."""
        self._since = None

    def over(self, items: Iterator[T], note: Callable[[], str]) -> Iterator[T]:
        """``items``; waiting for one is part of a step. A loader process that hangs is a rank that hangs, and the others would only tell that they wait.

        Args:
            items: batches.
            note: added to what they raise.
        """
        while True:
            self.beat()
            try:
                item = next(items, None)
            except Exception as error:
                error.add_note(note())
                raise
            if item is None:
                self.rest()
                return
            yield item

    def __enter__(self) -> "Watchdog":
        if self.timeout is not None:
            self._watched = threading.get_ident()
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def _watch(self) -> None:
        assert self.timeout is not None
        while not self._over.wait(min(1.0, self.timeout / 4)):
            if self.overdue():
                sys.stderr.write(self.message())
                sys.stderr.flush()
                for child in multiprocessing.active_children():  # a loader process that hangs would outlive this one, and hold its standard error open
                    child.kill()
                os._exit(1)

    def overdue(self) -> bool:
        """Whether the step takes longer than it may."""
        since = self._since
        if since is None or self.timeout is None:
            return False
        return time.monotonic() - since > self.timeout + (PATIENCE if self.in_collective() else 0.0)

    def in_collective(self) -> bool:
        """Whether the watched thread waits for other processes, as far as its stack tells."""
        frame = sys._current_frames().get(self._watched)
        while frame is not None and COLLECTIVES not in frame.f_code.co_filename:
            frame = frame.f_back
        return frame is not None

    def message(self) -> str:
        """Where the watched thread stands."""
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  its thread is gone\n"
        return (
            f"rank {self.rank} has been at {self.where()} for more than parallel.timeout={self.timeout:.0f} s and ends the job\n"
            "  way out 1: if a step may take that long, a larger parallel.timeout\n"
            "  way out 2: where it stands (innermost last; in a collective, it waits for another rank, which tells the same):\n"
            f"{stack}"
        )
