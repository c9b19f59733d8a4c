"""How much memory a real optimizer step takes: one process that opens the data once and does the steps that it is asked for.

``python -m zoo.training.probe``: the first line on standard input is a run's config as JSON, each further one a number of samples. For each, one
line of JSON on standard output. The process may be killed at any time, by the system or by whoever asks: ``zoo.training.memory`` starts another.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.build import build_augment, build_dataset, build_model, build_optimizer
from zoo.config import RunConfig
from zoo.data.loader import Loader
from zoo.layers.lora import add_lora
from zoo.parallel.collectives import Group
from zoo.parallel.device import choose_device, limit_threads
from zoo.parallel.mesh import Mesh
from zoo.parallel.recompute import recompute_blocks
from zoo.plugins import import_from_environment
from zoo.settings import MemoryFormat
from zoo.structs import Batch, Values
from zoo.training.job import taken
from zoo.training.step import TrainStep

STEPS = 2
"""The first step makes the optimizer's state, the second has it."""


@dataclass(frozen=True)
class OneOfAll(Group):
    """This process alone, but for rows that are compared with those of all ``processes``: the others' are its own again.

    Args:
        processes: of the run.
    """

    processes: int = 1

    def rows(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        if self.processes == 1:
            return super().rows(tensors)
        return [torch.cat([tensor.clone() for _ in range(self.processes)]) for tensor in tensors], 0


class Probe:
    """Steps on the longest samples of the training split. Where the loss compares the rows of the whole batch, each step is that of a whole batch, in
    as many micro-batches of these samples as it has: what is compared has to be in memory beside them.

    Args:
        config: checked.
    """

    def __init__(self, config: RunConfig) -> None:
        limit_threads(config.parallel.threads, config.parallel.processes)
        self.device = choose_device(config.trainer.device)
        data = build_dataset(config).open()
        model = build_model(config, data.spec, fetch=False)
        data = taken(data, model)
        add_lora(model, config.lora)
        recompute_blocks(model, config.trainer.recompute, config.trainer.recompute_every)
        model.to(self.device).train()
        if config.trainer.memory_format is MemoryFormat.CHANNELS_LAST:
            model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(config, model)
        self.processes = config.parallel.processes
        mesh = Mesh(data=OneOfAll(processes=self.processes))
        settings = config.trainer
        self.step = TrainStep(model=model, optimizer=optimizer, schedule=lambda _: 0.0, settings=settings, seed=0, mesh=mesh, device=self.device)
        self.loader = Loader(
            data=data, split="train", settings=config.loader, augment=build_augment(config), seed=0, training=True, batch_size=config.loader.batch_size
        )

    def measure(self, samples: int) -> dict[str, Any]:
        """Peak bytes and seconds of a step on the ``samples`` longest ones at once, and what they hold, padding included, by input."""
        begun = time.perf_counter()
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            forget_peak()
        else:
            torch.cuda.reset_peak_memory_stats(self.device)
        batch = self.loader.longest(samples)
        sizes = self.sizes(batch.size)
        made = {size: self.loader.longest(size) if size < batch.size else batch for size in set(sizes)}
        moved = {size: part if on_cpu else part.to(self.device) for size, part in made.items()}
        try:
            for number in range(STEPS):
                counts, _ = self.step.counts([made[size] for size in sizes], False)
                self.step([moved[size] for size in sizes], number, counts)
        finally:  # a step whose figures are still on their way keeps its batch
            self.step.settle()
            self.step.take()
        if not on_cpu:
            torch.accelerator.synchronize(self.device)
        peak = peak_of() if on_cpu else torch.cuda.max_memory_reserved(self.device)
        return {"samples": batch.size, "peak": peak, "seconds": (time.perf_counter() - begun) / STEPS, "holds": holds(batch)}

    def sizes(self, samples: int) -> list[int]:
        """Of a step's micro-batches with at most so many samples."""
        if self.step.whole is None:
            return [samples]
        own = ceil(min(self.loader.batch_size, self.loader.size) / self.processes)
        full, rest = divmod(own, samples)
        return [samples] * full + [rest] * (rest > 0) if full else [samples]


def holds(batch: Batch) -> dict[str, int]:
    """Positions of each input whose samples have unequal lengths."""

    def slots(values: Values) -> int:
        assert isinstance(values.values, torch.Tensor)
        return values.values.shape[0] * values.values.shape[-1]

    return {name: slots(values) for name, values in batch.inputs.items() if values.mask is not None or values.packing is not None}


def forget_peak() -> None:
    """Linux: the peak of resident memory counts from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_of() -> int:
    """Bytes of resident memory at most, since ``forget_peak``."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    import_from_environment()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(make: Callable[[], dict[str, Any]]) -> None:
        try:
            found = make()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            found = {"memory": str(error).splitlines()[0]}
        except RuntimeError as error:
            if "allocate memory" not in str(error) and "out of memory" not in str(error):
                raise
            found = {"memory": str(error).splitlines()[0]}
        answers.write(json.dumps(found) + "\n")

    probe = Probe(RunConfig.from_dict(json.loads(sys.stdin.readline())))
    free = None if probe.device.type == "cpu" else int(0.95 * torch.cuda.mem_get_info(probe.device)[0])
    answers.write(json.dumps({"size": probe.loader.size, "device": probe.device.type, "free": free}) + "\n")
    for line in sys.stdin:
        answer(lambda samples=int(line): probe.measure(samples))  # type: ignore[misc]


if __name__ == "__main__":
    main()
