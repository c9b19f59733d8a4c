"""One optimizer step: counts, forward and backward of each micro-batch, the sum over ranks, clipping, the update.

Kept lean: this runs at every step, and a small model's step takes a millisecond.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.model import Model
from zoo.optim.schedules import Schedule
from zoo.parallel.gradients import Gradients
from zoo.parallel.mesh import Mesh
from zoo.parallel.parallelize import sharded
from zoo.parallel.seeding import StepSeeds
from zoo.parallel.sharding import Piece, localise, pieces
from zoo.random import SampleRandom, sample_randomness
from zoo.settings import Fault, TrainerSettings
from zoo.structs import Batch
from zoo.training.ema import Ema
from zoo.training.faults import Faults, SpikeError
from zoo.training.guard import NonFiniteError, explain
from zoo.training.optimizer_state import parameter_names
from zoo.training.precision import autocast
from zoo.training.whole_batch import WholeBatch


class TrainStep:
    """What happens to a batch.

    After a call ``terms`` holds the global loss terms, each already divided by its global count, and ``norm`` the gradient's norm before clipping.
    ``terms`` is empty where the step was skipped.

    Args:
        model: in training mode, on ``device``.
        optimizer: over the model's parameters.
        schedule: multiplier of the learning rate by step.
        settings: clipping, precision, EMA.
        seed: the run's.
        mesh: the ranks.
        device: where the model is.
    """

    def __init__(
        self, *, model: Model, optimizer: torch.optim.Optimizer, schedule: Schedule, settings: TrainerSettings, seed: int, mesh: Mesh, device: torch.device
    ) -> None:
        self.model, self.optimizer, self.schedule, self.seed, self.mesh, self.device = model, optimizer, schedule, seed, mesh, device
        self.head: Any = model.head
        self.clip_norm = settings.clip_norm
        self.ema = Ema(model, settings.ema) if settings.ema is not None else None
        self.names, self.pieces, self.gradients = self._share(optimizer)
        self.fsdp: Any = model if sharded(model) else None
        self.rates = [(entry, float(entry["lr"])) for entry in optimizer.param_groups]
        self.labels = {entry["label"]: entry for entry in reversed(optimizer.param_groups) if "label" in entry}
        self.autocast = autocast(device, settings.precision)
        self.faults = Faults(settings, main=mesh.world.main)
        self.loss_scale = 1.0
        self.reseed = StepSeeds(seed, mesh.data.rank, device)
        self.on_cpu = device.type == "cpu"
        self.whole = WholeBatch(self) if getattr(self.head, "whole_batch", False) else None
        self.counting = torch.float32 if device.type == "mps" else torch.float64
        self.describe: Callable[[int], str] = str
        """A sample's name for people, by its id; the trainer sets the loader's."""
        self.terms: dict[str, float] = {}
        self.norm = 0.0

    def _share(self, optimizer: torch.optim.Optimizer) -> tuple[dict[int, str], dict[str, Piece], Gradients]:
        """Names of what the optimizer updates by ``id``, this process's pieces by name, and the gradients."""
        known = parameter_names(self.model)
        held = pieces(self.model, self.mesh.grid)
        owners = localise(optimizer) if held else {}
        updated = [parameter for entry in optimizer.param_groups for parameter in entry["params"]]
        names = {id(parameter): known[id(owners.get(id(parameter), parameter))] for parameter in updated}
        parts = {key: held[name] for key, name in names.items() if name in held}
        return names, held, Gradients(updated, self.mesh, owners=owners, pieces=parts, summed=sharded(self.model))

    def counts(self, parts: list[Batch], stop: bool) -> tuple[dict[str, float], bool]:
        """What each loss term of this global batch is divided by, and whether any rank wants to stop: one small collective."""
        counts = self.head.count(parts[0].targets, parts[0].valid)
        for part in parts[1:]:
            more = self.head.count(part.targets, part.valid)
            counts = {name: count + more[name] for name, count in counts.items()}
        world = self.mesh.world
        if world.size == 1:
            return {name: count.item() for name, count in counts.items()}, stop
        flat = torch.stack([*(count.to(self.counting) for count in counts.values()), torch.full((), float(stop), dtype=self.counting, device=self.device)])
        *totals, stopping = world.sum(flat).tolist()
        copies = self.mesh.degrees.tensor  # processes that see the same rows have counted them as often
        return {name: total / copies for name, total in zip(counts, totals, strict=True)}, stopping > 0

    def backward(self, part: Batch, place: int, step: int, counts: dict[str, float]) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; the sums of its loss terms.

        Each sum enters the backward pass with 1 / its global count as its gradient, which is what dividing it before would come to.
        """
        self.reseed(step, place)
        with sample_randomness(SampleRandom(self.seed, step, part.ids)):
            with self.autocast:
                terms = self.model.losses(part)
            sums = {name: term.sum for name, term in terms.items()}
            torch.autograd.backward(list(sums.values()), self.scales(sums, counts))
        return {name: value.detach() for name, value in sums.items()}

    def scales(self, sums: dict[str, Tensor], counts: dict[str, float]) -> list[Tensor]:
        """What each sum of the loss enters the backward pass with."""
        # A term that nothing counts for is a sum of nothing: 0, whatever it is divided by.
        return [torch.full((), self.loss_scale / (counts[name] or 1.0), dtype=value.dtype, device=value.device) for name, value in sums.items()]

    def passes(self, parts: list[Batch], step: int, counts: dict[str, float]) -> dict[str, Tensor]:
        """Forward and backward of all micro-batches; this rank's part of the sums of the loss terms."""
        if self.whole is not None:
            return self.whole(parts, step, counts)
        if self.fsdp is not None:
            self.fsdp.set_requires_gradient_sync(len(parts) == 1)
        sums = self.backward(parts[0], 0, step, counts)
        for place, part in enumerate(parts[1:], 1):
            if self.fsdp is not None:
                self.fsdp.set_requires_gradient_sync(place == len(parts) - 1)
            more = self.backward(part, place, step, counts)
            sums = {name: value + more[name] for name, value in sums.items()}
        return sums

    def __call__(self, parts: list[Batch], step: int, counts: dict[str, float]) -> None:
        """Optimizer step number ``step``, counted from 0.

        Raises:
            NonFiniteError: on every rank, before anything is updated, when a loss or the gradient of any rank is not finite.
            RollBack: likewise, where the settings ask for it.
        """
        self.gradients.clear()
        faults, factor = self.faults, 1.0
        if faults.scale is not None:
            self.loss_scale = faults.scale.value
        sums = self.passes(parts, step, counts)
        gradients, totals = self.gradients.collect(list(sums.values()))
        norm = self.gradients.norm(gradients)
        if self.on_cpu:
            self.norm = norm.item()
            values = [total.item() for total in totals]
        else:  # one wait for the device, not one for each number
            self.norm, *values = torch.stack([norm.to(self.device, torch.float32), *(total.float() for total in totals)]).tolist()
        self.terms = {name: value / (counts[name] or 1.0) for name, value in zip(sums, values, strict=True)}
        if faults.scale is not None:
            factor = 1 / self.loss_scale
            self.norm *= factor
        if (faults.watching or not (math.isfinite(self.norm) and all(map(math.isfinite, self.terms.values())))) and not self._may(parts, step, counts):
            return
        if self.clip_norm is not None and self.norm > self.clip_norm:
            factor *= self.clip_norm / (self.norm + 1e-6)
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        multiplier = self.schedule(step)
        for entry, rate in self.rates:
            entry["lr"] = rate * multiplier
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step)

    @property
    def lr(self) -> float:
        """Of the parameters that nothing singles out."""
        entry = self.rates[0][0]
        return float(entry["lr"]) / float(entry.get("lr_scale", 1.0))

    @property
    def group_rates(self) -> dict[str, float]:
        """``lr/<group>``, where there is more than one learning rate."""
        return {f"lr/{label}": float(entry["lr"]) for label, entry in sorted(self.labels.items())} if len(self.labels) > 1 else {}

    def _may(self, parts: list[Batch], step: int, counts: dict[str, float]) -> bool:
        """Whether the optimizer may step; if it may not, nothing is left of the step."""
        verdict = self.faults.judge(step, self.terms, self.norm)
        if verdict is None:
            return True
        if verdict is Fault.STOP:
            self._refuse(parts, step, counts)
        self.terms = {}
        return False

    def _refuse(self, parts: list[Batch], step: int, counts: dict[str, float]) -> None:
        def backward(part: Batch, place: int) -> dict[str, float]:
            return {name: value.item() for name, value in self.backward(part, place, step, counts).items()}

        terms = ", ".join(f"{name} {value:g}" for name, value in self.terms.items())
        if math.isfinite(self.norm) and all(map(math.isfinite, self.terms.values())):
            raise SpikeError(
                f"step {step + 1}: the loss ({terms}) is a spike: more than trainer.spike={self.faults.settings.spike} times that of the steps before; "
                "nothing was updated\n"
                "  way out 1: go past it: trainer.on_spike=skip, or trainer.on_spike=rollback\n"
                "  way out 2: a lower rate or a longer warm-up: optimizer.lr, schedule.warmup_steps"
            )
        if self.mesh.degrees.sharded:  # running samples again would need every process at the same time
            reason = f"samples {[sample for part in parts for sample in part.ids.tolist()]}"
        else:
            reason = explain(parts, self.describe, backward, self.model)
        raise NonFiniteError(
            f"step {step + 1}: the loss or the gradient is not finite (loss {terms}, gradient norm {self.norm:g}); nothing was updated\n"
            f"  rank {self.mesh.world.rank}: {reason}\n"
            "  way out 1: a lower rate or a longer warm-up: optimizer.lr, schedule.warmup_steps\n"
            "  way out 2: trainer.precision=fp32, if it was bf16 or fp16\n"
            "  way out 3: look at the samples named above; trainer.non_finite=skip or rollback goes past them"
        )
