"""Memory of a real step of the trainer, as torch's CPU allocator records it."""

import torch
from torch.profiler import ProfilerActivity, profile

from zoo.model import Model
from zoo.parallel.mesh import Mesh
from zoo.settings import Precision, TrainerSettings
from zoo.structs import Batch
from zoo.training.step import TrainStep


def real_peak(model: Model, optimizer: torch.optim.Optimizer, parts: list[Batch], precision: Precision, mesh: Mesh) -> int:
    """Most bytes that were handed out at once in the second step, with what was there before; one micro-batch's inputs alone count."""
    settings = TrainerSettings(precision=precision)
    step = TrainStep(model=model.train(), optimizer=optimizer, schedule=lambda _: 1.0, settings=settings, seed=0, mesh=mesh, device=torch.device("cpu"))
    step(parts, 0, step.counts(parts, False)[0])
    step.gradients.clear()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(parts, 1, step.counts(parts, False)[0])
    now = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    kept = [*model.parameters(), *model.buffers(), *(value for state in optimizer.state.values() for value in state.values())]
    parts[0].apply(lambda tensor: (kept.append(tensor), tensor)[1])
    return peak + sum(tensor.numel() * tensor.element_size() for tensor in kept)
