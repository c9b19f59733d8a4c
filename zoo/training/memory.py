"""The largest batch whose optimizer step stays under a memory limit, found by real steps in a process that may be killed. Imports no torch."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

POLL = 0.005
"""Seconds between two looks at the resident memory of a process that works on a CPU."""


@dataclass(frozen=True)
class Trial:
    """Samples at once, what their step took, and why it did not fit, if it did not."""

    samples: int
    peak: int | None
    seconds: float | None
    refused: str | None = None
    holds: dict[str, int] = field(default_factory=dict)


class ProbeProcess:
    """A child that does steps; begun again after it was killed.

    Args:
        config: of the run, as plain values.
        limit: bytes that the process may take; None takes nine tenths of what is free (GPUs: 95 %).
        processes: that share this machine's memory.
    """

    def __init__(self, config: dict[str, Any], limit: int | None, processes: int = 1) -> None:
        self.config, self.chosen = config, limit
        self.limit = limit if limit is not None else free_memory(processes)
        self.size, self.device = 0, "cpu"
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def start(self) -> int:
        """Open the data; how many samples there are."""
        self._started()
        return self.size

    def trial(self, samples: int) -> Trial:
        """One size. On a CPU the child is killed at once when it is over the limit: on a machine that others use, nothing else may be."""
        child = self._started()
        answer, seen = self._ask(child, str(samples))
        if answer is None:
            code = child.poll()
            self.close()
            if code is not None and code > 0 and seen <= self.limit:  # it ended by itself: a size is not what is wrong
                raise ZooError(f"the step on {samples} samples failed, and not for want of memory; what it said is above")
            why = "over the limit" if seen > self.limit else f"the process died with {seen / 2**30:.2f} GiB"
            return Trial(samples, seen, None, why)
        if "memory" in answer:
            return Trial(samples, None, None, answer["memory"])
        peak = int(answer["peak"])
        return Trial(int(answer["samples"]), peak, float(answer["seconds"]), "over the limit" if peak > self.limit else None, answer["holds"])

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is not None:
            return self._child
        command = [sys.executable, "-m", "zoo.training.probe"]
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path}
        self._child = child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
        lines: queue.Queue[str] = queue.Queue()
        self._lines = lines
        threading.Thread(target=_read, args=(child, lines), daemon=True).start()
        answer, seen = self._ask(child, json.dumps(self.config))
        if answer is None:
            self.close()
            if seen > self.limit:
                raise ZooError(f"the model and the data alone take more than {self.limit / 2**30:.2f} GiB; way out: --memory with more, or a smaller model")
            raise ZooError("the process that measures could not start; its own message stands above")
        self.size, self.device = answer["size"], answer["device"]
        if self.chosen is None and answer["free"] is not None:
            self.limit = answer["free"]
        return child

    def _ask(self, child: "subprocess.Popen[str]", line: str) -> tuple[dict[str, Any] | None, int]:
        """The answer, None where the child is gone; and the most resident memory that was seen."""
        assert child.stdin is not None
        child.stdin.write(line + "\n")
        child.stdin.flush()
        seen = 0
        while True:
            try:
                text = self._lines.get(timeout=POLL)
            except queue.Empty:
                if self.device == "cpu":
                    seen = max(seen, resident(child.pid))
                    if seen > self.limit:
                        return None, seen
                continue
            return (json.loads(text) if text else None), seen


def _read(child: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put("")


def resident(process: int) -> int:
    """Bytes of resident memory; 0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def search(trial: Callable[[int], Trial], most: int, tell: Callable[[Trial], None] = lambda _: None, first: int = 1) -> list[Trial]:
    """Sizes in the order of trying: doubled until one does not fit, then halved between the two, up to ``most``.

    Args:
        trial: tries one size.
        most: the largest that makes sense.
        tell: is told each trial.
        first: the size to begin with.
    """
    trials: list[Trial] = []

    def fits(samples: int) -> bool:
        trials.append(trial(samples))
        tell(trials[-1])
        return trials[-1].refused is None

    good, samples = 0, min(first, most)
    while fits(samples):
        good = samples
        if samples >= most:
            return trials
        samples = min(2 * samples, most)
    bad = samples
    while bad - good > max(1, good // 32):  # to 3 %: nearer is within what memory varies by
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return trials


def free_memory(processes: int) -> int:
    """Bytes that each of these processes on this machine's CPU may take: nine tenths of what the system and the control group leave."""
    table = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    left = [int(table["MemAvailable"].split()[0]) * 1024]
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        folder = Path("/sys/fs/cgroup")
        if (folder / limit).is_file() and (text := (folder / limit).read_text(encoding="ascii").strip()) != "max":
            left.append(int(text) - int((folder / used).read_text(encoding="ascii")))
    return int(0.9 * min(left)) // processes
