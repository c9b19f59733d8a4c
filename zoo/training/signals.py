"""SIGTERM and SIGINT set a flag; the trainer acts on it between two steps."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """While entered, the first signal is noted in ``name``; a second Ctrl-C ends the process the hard way. It may be entered again inside."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._depth = 0

    def __enter__(self) -> "Interruption":
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.name is None:
            self.name = signal.Signals(number).name
            if number == signal.SIGINT:
                sys.stderr.write("\nstopping after this step (Ctrl-C again to leave at once, without saving)\n")
