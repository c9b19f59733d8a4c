"""Where the time of training goes, by part, for the log: always on, so it costs a look at the clock for each part and waits for nothing.

``data`` is waiting for the loader, ``forward``, ``backward``, ``communication`` (counts and the sum of gradients over processes; what FSDP2 and tensor
parallelism send is inside the two before) and ``optimizer`` (norm, clipping, update, average) are the step, ``rest`` is what stands between two steps.
Evaluations and checkpoints count for none of them.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

PARTS = ("data", "forward", "backward", "communication", "optimizer", "rest")


class StepClock:
    """Seconds since the last ``take``, where the host does the work itself."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._mark = time.perf_counter()

    def begin(self) -> None:
        """A step begins."""

    def mark(self, part: str) -> None:
        """What was done since the last mark was this part of the work."""
        now = time.perf_counter()
        self.seconds[part] += now - self._mark
        self._mark = now

    def skip(self) -> None:
        """What was done since the last mark is no part of a step."""
        self._mark = time.perf_counter()

    def take(self, steps: int) -> tuple[float, dict[str, float]]:
        """Seconds of the ``steps`` since the last call, and ``ms_<part>``, milliseconds a step; begins again."""
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return sum(seconds.values()), {f"ms_{part}": 1e3 * value / max(1, steps) for part, value in seconds.items() if value}


class DeviceClock(StepClock):
    """The same beside an accelerator, which works on after the host has gone on: the parts of the step are taken from the device's own events.

    A row has those of the step before its last one. They are complete when the gradient norm of the last one is known, so that reading them waits
    for nothing. Waiting for data and the rest are the host's time, over all steps.

    Args:
        event: makes an event that takes the time, ``torch.Event`` of the device.
    """

    def __init__(self, event: Callable[[], Any]) -> None:
        super().__init__()
        self._event = event
        self._before: list[tuple[str, Any]] = []
        self._events: list[tuple[str, Any]] = []

    def begin(self) -> None:
        self._before, self._events = self._events, []
        self._record("")

    def mark(self, part: str) -> None:
        super().mark(part)
        if part not in ("data", "rest"):
            self._record(part)

    def take(self, steps: int) -> tuple[float, dict[str, float]]:
        whole, parts = super().take(steps)
        found: dict[str, float] = {name: parts[name] for name in ("ms_data", "ms_rest") if name in parts}
        for (_, start), (part, end) in pairwise(self._before):
            found[f"ms_{part}"] = found.get(f"ms_{part}", 0.0) + start.elapsed_time(end)
        return whole, found

    def _record(self, part: str) -> None:
        event = self._event()
        event.record()
        self._events.append((part, event))


def step_clock(device: torch.device) -> StepClock:
    """The clock of a device."""
    return StepClock() if device.type == "cpu" else DeviceClock(lambda: torch.Event(device=device, enable_timing=True))
