"""``trainer.profile=true``: where the time of a step goes, as a page and as a trace. Put around a trainer from outside; without it a step pays nothing.

After a warm-up some steps are timed by part, with nothing else switched on. The next ones run under torch's profiler, which names the operations and
writes a trace for ``chrome://tracing`` or https://ui.perfetto.dev, and one counts floating-point operations.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from zoo.data.ahead import Fetched
from zoo.settings import Precision

WARMUP, TIMED, TRACED = 3, 5, 3
"""Steps: before anything is measured, timed by part, and traced."""
SHOWN = 15


class Profile:
    """Measures the first steps that a trainer makes, then takes itself off.

    Args:
        trainer: before ``fit``.
        folder: of the page and the trace; made here.
    """

    def __init__(self, trainer: Any, folder: Path) -> None:
        self.trainer, self.folder, self.first = trainer, folder, trainer.progress.step + 1
        self.seconds: dict[str, float] = defaultdict(float)
        self.wall = self._mark = 0.0
        self.timed: dict[str, float] = {}
        self.seen = (0, 0)
        self.samples = self.positions = self.flops = 0
        self.tracer: profile | None = None
        self._done = self._traced = 0
        self._under: profile | FlopCounterMode | None = None
        """What is switched on."""
        self._tick, self._fetch = trainer.tick, trainer.fetch
        step = trainer.step
        self._parts: list[tuple[Any, str, str]] = [
            (step.model, "losses", "forward") if step.whole is None else (step.whole, "forward", "forward"),
            (step, "passes", "forward and backward"),
            (step, "counts", "counts"),
            (step.gradients, "collect", "communication"),
            (step.optimizer, "step", "optimizer"),
        ]
        for owner, name, label in self._parts:
            setattr(owner, name, self._timed(getattr(owner, name), label))
        trainer.fetch, trainer.tick = self._watched, self.tick

    def tick(self, step: int) -> None:
        """A step is done."""
        if self._tick is not None:
            self._tick(step)
        now = self._now()
        self._done += 1
        if self._done == WARMUP:
            self.seconds.clear()
            self.samples = self.positions = 0
            self._mark = now
        elif self._done == WARMUP + TIMED:
            self.wall, self.timed, self.seen = now - self._mark, dict(self.seconds), (self.samples, self.positions)
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it would tell of devices that are not there
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
            self._under = self.tracer = profile(activities=activities, record_shapes=True, profile_memory=True)
            self._under.__enter__()
        elif self._done == WARMUP + TIMED + TRACED:
            self._switch_off()
            if self.trainer.mesh.degrees.sharded:
                self.close()
            else:
                self._under = FlopCounterMode(display=False)
                self._under.__enter__()
        elif self._done == WARMUP + TIMED + TRACED + 1:
            self.close()

    def _switch_off(self) -> None:
        under, self._under = self._under, None
        if under is None:
            return
        under.__exit__(None, None, None)
        if isinstance(under, FlopCounterMode):
            self.flops = under.get_total_flops()
        else:
            self._traced = self._done - WARMUP - TIMED

    def close(self) -> None:
        """Write what was measured and leave the trainer as it was; a run that was too short says so."""
        self._switch_off()
        for owner, name, _ in self._parts:
            delattr(owner, name)
        self.trainer.fetch, self.trainer.tick = self._fetch, self._tick
        if self.wall == 0.0:
            sys.stderr.write(f"profile: the run ended after {self._done} steps, and {WARMUP + TIMED} are needed to measure anything\n")
            return
        self.folder.mkdir(exist_ok=True)
        if self.tracer is not None and self._traced:
            self.tracer.export_chrome_trace(str(self.folder / "trace.json"))
        (self.folder / "summary.md").write_text(self.page(), encoding="utf-8")
        beside = "and trace.json beside it" if self._traced else f"without a trace: the run ended after {self._done} steps, before any was traced"
        sys.stderr.write(f"profile: {self.folder / 'summary.md'} {beside}\n")

    @property
    def open(self) -> bool:
        """Whether it still measures."""
        return bool(self.trainer.tick == self.tick)

    def page(self) -> str:
        """Markdown."""
        parts, (samples, positions) = dict(self.timed), self.seen
        parts["backward"] = parts.pop("forward and backward", 0.0) - parts.get("forward", 0.0)
        parts["the rest: norm, clipping, logging"] = self.wall - sum(parts.values())
        first = self.first + WARMUP
        lines = [
            f"# Profile of steps {first} to {first + TIMED - 1}",
            "",
            f"{1e3 * self.wall / TIMED:.3f} ms a step, {samples / self.wall:,.1f} samples a second in this process"
            + (f", {positions / self.wall:,.0f} real positions" if positions else "")
            + f", {memory()}",
            "",
            "| part | ms a step | share |",
            "|---|---|---|",
            *(f"| {name} | {1e3 * seconds / TIMED:.3f} | {100 * seconds / self.wall:.1f} % |" for name, seconds in parts.items()),
            "",
        ]
        lines += self._utilisation()
        if self.tracer is not None and self._traced:
            table = self.tracer.key_averages().table(sort_by="self_cpu_time_total", row_limit=SHOWN, max_name_column_width=60)
            lines += [f"## Operations of the next {self._traced} steps, under the profiler", "", "```", table.strip(), "```", ""]
        return "\n".join(lines)

    def _utilisation(self) -> list[str]:
        """Floating-point operations, and how much of what the device can do they are."""
        if not self.flops:
            return []
        rate = self.flops / (self.wall / TIMED)
        line = f"{self.flops / 1e9:,.3f} GFLOP a step in this process, {rate / 1e9:,.1f} GFLOP/s"
        if self.trainer.device.type == "cpu":
            from zoo.plan.devices import measure_cpu

            kind = "bf16" if self.trainer.settings.precision is Precision.BF16 else "fp32"
            ceiling = measure_cpu().peak[kind]
            line += f": {100 * rate / ceiling:.0f} % (MFU) of the {ceiling / 1e9:,.0f} GFLOP/s that large products reach here in {kind}, measured just now"
        return [line, ""]

    def _watched(self, loader: Any, device: torch.device) -> Iterator[Fetched]:
        """What the trainer fetches, with the time that it waits for it."""
        batches = self._fetch(loader, device)
        try:
            while True:
                begun = time.perf_counter()
                fetched = next(batches, None)
                if fetched is None:
                    return
                self.seconds["data"] += time.perf_counter() - begun
                self.samples += sum(int(part.valid.sum()) for part in fetched.host)
                self.positions += sum(part.positions for part in fetched.host)
                yield fetched
        finally:
            batches.close()

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = self._now()
            with torch.profiler.record_function(f"zoo: {label}") if self.tracer is not None else nullcontext():
                answer = function(*arguments, **named)
            self.seconds[label] += self._now() - begun
            return answer

        return timed

    def _now(self) -> float:
        """Where a device works beside the host, everything that was asked of it is done first."""
        if self.trainer.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def memory() -> str:
    """The most that this process has held."""
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "cpu":  # type: ignore[union-attr]
        return f"at most {torch.accelerator.max_memory_allocated() / 1e9:.2f} GB of the device"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"at most {peak / 1e9:.2f} GB of memory"
