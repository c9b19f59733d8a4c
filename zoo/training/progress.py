"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere; always on standard error. Imports no torch.

``step`` is on the training loop's hot path: but for a look at the clock it does nothing until a refresh is due.
"""

import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.5
"""A refresh of the bar costs 2 to 5 ms: at two a second under 1 % of any loop."""
LINE_SECONDS = 10.0
SHOWN_FIGURES = 8
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProgressDisplay:
    """A bar with loss, rate, time left and memory, or a line now and then.

    Args:
        total_steps: optimizer steps of the whole run.
        start_step: where a resumed run goes on.
        name: of the run.
        stream: standard error, if not given.
        bar: whether to draw a bar; None does so on a terminal.
    """

    def __init__(self, *, total_steps: int, start_step: int = 0, name: str = "run", stream: IO[str] | None = None, bar: bool | None = None) -> None:
        self.total, self.current, self.name, self.stream = total_steps, start_step, name, stream or sys.stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss: Any = None
        self._marks = [(time.monotonic(), start_step)]
        self._next = self._next_line = 0.0
        if bar if bar is not None else self.stream.isatty():
            self._start_bar(start_step)

    def step(self, step: int) -> None:
        """A step is done. Cheap: about a tenth of a microsecond between refreshes."""
        self.current = step
        if self._bar is not None and time.monotonic() >= self._next:
            self._refresh()

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of the log: the bar takes its loss; figures of an evaluation get a line of their own."""
        self.current = max(self.current, row["step"])
        self._loss = row.get("train/loss", self._loss)
        evaluation = any("/" in name and not name.startswith(("train/", "lr/")) for name in row)
        now = time.monotonic()
        if self._bar is not None:
            if evaluation:
                self.note(self._line(row))
            if evaluation or now >= self._next:
                self._refresh()
            return
        if evaluation or now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self.note(self._line(row))

    def note(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def close(self) -> None:
        """Draw the bar a last time and leave it standing."""
        if self._bar is not None:
            self._refresh()
            self._bar.stop()
            self._bar = None

    def rate(self) -> float:
        """Steps a second over the last half minute."""
        now = time.monotonic()
        self._marks.append((now, self.current))
        while len(self._marks) > 2 and now - self._marks[0][0] > 30:
            self._marks.pop(0)
        began, first = self._marks[0]
        return (self.current - first) / (now - began) if now > began else 0.0

    def _start_bar(self, start_step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(file=self.stream, force_terminal=True)
        columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
        # Refreshed by hand: rich's own thread would wake ten times a second and take the interpreter from the training loop.
        self._bar = Progress(*columns, console=console, auto_refresh=False, expand=True, redirect_stdout=False)
        self._task = self._bar.add_task(self.name, total=self.total, completed=start_step, facts="")
        self._bar.start()
        self._refresh()

    def _refresh(self) -> None:
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=self.current, facts=self._facts())
        self._bar.refresh()
        self._next = time.monotonic() + REFRESH_SECONDS

    def _facts(self) -> str:
        rate = self.rate()
        left = f"{clock((self.total - self.current) / rate)} left" if rate > 0 else "-:-- left"
        loss = [] if self._loss is None else [f"loss {_short(self._loss)}"]
        return "  ".join([*loss, f"{rate:.1f} steps/s" if rate < 1000 else f"{rate:,.0f} steps/s", left, size(memory())])

    def _line(self, row: Mapping[str, Any]) -> str:
        width = len(str(self.total))
        # A row of training goes by unseen between two lines, so an evaluation's line says the loss as well.
        loss = {} if self._loss is None or "train/loss" in row else {"train/loss": self._loss}
        shown = [f"{name} {_short(value)}" for name, value in {**loss, **row}.items() if "/" in name or name == "lr"]
        figures = "  ".join(shown[:SHOWN_FIGURES] + (["…"] if len(shown) > SHOWN_FIGURES else []))
        if self._bar is not None:
            return f"step {row['step']:>{width}}  {figures}"
        rate = self.rate()
        left = f"  {clock((self.total - self.current) / rate)} left" if rate > 0 and self.current < self.total else ""
        return f"step {row['step']:>{width}}/{self.total}  {figures}  {rate:.1f} steps/s{left}  {size(memory())}"


def memory() -> int:
    """Bytes that this process occupies: of the accelerator if it is in use, else of main memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.memory_allocated())
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - on the way of every refresh
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
