"""One optimizer step: counts, forward and backward of each micro-batch, the sum over ranks, clipping, the update.

Kept lean: this runs at every step, and a small model's step takes a millisecond.

An accelerator works on while the host prepares what comes next, and has to stand still wherever the host waits for a number. So the figures of a step
are looked at when the next one's forward and backward pass are under way, right before its update: by then they are there, and nothing stands still.
Until then the device itself leaves out an update that is not finite. What is judged, and on which weights, is the same as in a loop that waits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.data.ahead import PINNED
from zoo.errors import ZooError
from zoo.model import Model
from zoo.optim.schedules import Schedule
from zoo.parallel.gradients import Gradients
from zoo.parallel.mesh import Mesh
from zoo.parallel.parallelize import sharded
from zoo.parallel.seeding import StepSeeds
from zoo.parallel.sharding import Piece, localise, pieces
from zoo.random import SampleRandom, sample_randomness
from zoo.settings import Fault, Precision, TrainerSettings
from zoo.structs import Batch
from zoo.training.clock import step_clock
from zoo.training.ema import Ema
from zoo.training.faults import Faults, SpikeError
from zoo.training.guard import NonFiniteError, describe_failure, explain
from zoo.training.optimizer_state import parameter_names
from zoo.training.precision import autocast
from zoo.training.whole_batch import WholeBatch


class Unseen:
    """A step whose figures are on their way from the device.

    Args:
        parts: of its batch, on the device.
        step: its number.
        counts: of its loss terms.
        names: of its loss terms, in the order of the figures behind the norm.
    """

    def __init__(self, parts: list[Batch], step: int, counts: dict[str, float], names: list[str]) -> None:
        self.parts, self.step, self.counts, self.names = parts, step, counts, names
        self.figures: Tensor | None = None
        self.sent: Any = None

    def send(self, figures: Tensor) -> None:
        if figures.device.type == "cpu":
            self.figures = figures
            return
        self.figures = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
        self.figures.copy_(figures, non_blocking=True)
        self.sent = torch.Event(figures.device)
        self.sent.record()

    def read(self) -> list[float]:
        assert self.figures is not None
        if self.sent is not None:
            self.sent.synchronize()
        return self.figures.tolist()


def may_defer(optimizer: torch.optim.Optimizer, settings: TrainerSettings, device: torch.device, ema: Ema | None = None) -> bool:
    """Whether a step's figures may be looked at after its update: on a device that copies beside its work, with an optimizer that can leave out an
    update by itself (torch's fused ones), and where what becomes of a bad step changes nothing before the next one's update. Averages of buffers are
    taken before the next forward pass, which changes running statistics."""
    at_once = settings.precision is Precision.FP16 or settings.spike is not None or settings.rolls_back or (ema is not None and ema.of_buffers)
    here = all(parameter.device == device for entry in optimizer.param_groups for parameter in entry["params"])  # not kept in main memory
    return device.type in PINNED and getattr(optimizer, "_step_supports_amp_scaling", False) and here and not at_once


class TrainStep:
    """What happens to a batch.

    After a call, or after ``settle`` on an accelerator, ``terms`` holds the global loss terms, each already divided by its global count, and ``norm`` the
    gradient's norm before clipping. ``terms`` is empty where the step was skipped. ``take`` gives the terms of all steps since it was called last.

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
        self.waits = not may_defer(optimizer, settings, device, self.ema)
        """Whether each step is judged before its update; otherwise before the next one's."""
        self.unseen: Unseen | None = None
        self.judging = False
        """Whether an error is of an earlier step than the one that goes on, and has said so."""
        self._taken: list[dict[str, float]] = []
        self.whole = WholeBatch(self) if getattr(self.head, "whole_batch", False) else None
        self.describe: Callable[[int], str] = str
        """A sample's name for people, by its id; the trainer sets the loader's."""
        self.terms: dict[str, float] = {}
        self.norm = 0.0
        self.positions = 0
        """Real positions of this global batch."""
        self.clock = step_clock(device)

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
        """What each loss term of this global batch is divided by, and whether any rank wants to stop: one small collective between the hosts.

        Args:
            parts: in main memory, so that nothing waits for a device.
            stop: whether this rank wants to.
        """
        counts = self.head.count(parts[0].targets, parts[0].valid)
        for part in parts[1:]:
            more = self.head.count(part.targets, part.valid)
            counts = {name: count + more[name] for name, count in counts.items()}
        world = self.mesh.world
        self.positions = sum(part.positions for part in parts)
        if world.size == 1:
            return {name: count.item() for name, count in counts.items()}, stop
        flat = torch.tensor([*(count.item() for count in counts.values()), self.positions, stop], dtype=torch.float64)
        *totals, positions, stopping = world.sum(flat).tolist()
        copies = self.mesh.degrees.tensor  # processes that see the same rows have counted them as often
        self.positions = round(positions / copies)
        self.clock.mark("communication")
        return {name: total / copies for name, total in zip(counts, totals, strict=True)}, stopping > 0

    def backward(self, part: Batch, place: int, step: int, counts: dict[str, float]) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; the sums of its loss terms.

        Each sum enters the backward pass with 1 / its global count as its gradient, which is what dividing it before would come to.
        """
        self.reseed(step, place)
        with sample_randomness(SampleRandom(self.seed, step, part.ids)):
            with self.autocast:
                terms = self.model.losses(part)
            self.clock.mark("forward")
            sums = {name: term.sum for name, term in terms.items()}
            torch.autograd.backward(list(sums.values()), self.scales(sums, counts))
        self.clock.mark("backward")
        return {name: value.detach() for name, value in sums.items()}

    def scales(self, sums: dict[str, Tensor], counts: dict[str, float]) -> list[Tensor]:
        """What each sum of the loss enters the backward pass with."""
        # A term that nothing counts for is a sum of nothing: 0, whatever it is divided by.
        return [torch.full((), self.loss_scale / (counts[name] or 1.0), dtype=value.dtype, device=value.device) for name, value in sums.items()]

    def announce(self, *, last: bool) -> None:
        """Only what the last backward pass of a step completes is sent to the other ranks, while it goes on."""
        if self.fsdp is not None:
            self.fsdp.set_requires_gradient_sync(last)
        if last:
            self.gradients.arm()

    def passes(self, parts: list[Batch], step: int, counts: dict[str, float]) -> dict[str, Tensor]:
        """Forward and backward of all micro-batches; this rank's part of the sums of the loss terms."""
        if self.whole is not None:
            return self.whole(parts, step, counts)
        self.announce(last=len(parts) == 1)
        sums = self.backward(parts[0], 0, step, counts)
        for place, part in enumerate(parts[1:], 1):
            self.announce(last=place == len(parts) - 1)
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
        if self.mesh.world.size > 1:
            self.clock.mark("communication")
        norm = self.gradients.norm(gradients)
        multiplier = self.schedule(step)
        for entry, rate in self.rates:
            entry["lr"] = rate * multiplier
        if not self.waits:
            self.settle()
            self._update_unseen(gradients, norm, totals, Unseen(parts, step, counts, list(sums)))
            return
        if self.device.type == "cpu":
            self.norm = norm.item()
            values = [total.item() for total in totals]
        else:  # one wait for the device, not one for each number
            self.norm, *values = torch.stack([norm.to(self.device, torch.float32), *(total.float() for total in totals)]).tolist()
        self.terms = {name: value / (counts[name] or 1.0) for name, value in zip(sums, values, strict=True)}
        if faults.scale is not None:
            factor = 1 / self.loss_scale
            self.norm *= factor
        if (faults.watching or not (math.isfinite(self.norm) and all(map(math.isfinite, self.terms.values())))) and not self._may(parts, step, counts):
            self._taken.append(self.terms)
            return
        if self.clip_norm is not None and self.norm > self.clip_norm:
            factor *= self.clip_norm / (self.norm + 1e-6)
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step)
        self._taken.append(self.terms)
        self.clock.mark("optimizer")

    def _update_unseen(self, gradients: list[Tensor], norm: Tensor, totals: list[Tensor], unseen: "Unseen") -> None:
        """Clip and update without knowing the figures, which set out for the host."""
        figures = torch.stack([norm.double(), *(total.double() for total in totals)])
        if self.clip_norm is not None:
            factor = torch.where(figures[0] > self.clip_norm, self.clip_norm / (figures[0] + 1e-6), 1.0)
            torch._foreach_mul_(gradients, factor)
        self.optimizer.found_inf = (~figures.isfinite().all()).float()  # type: ignore[attr-defined] # torch's own way of leaving out an update
        self.optimizer.step()
        unseen.send(figures)
        self.unseen = unseen
        self.clock.mark("optimizer")

    def settle(self) -> None:
        """Look at the figures of the last step, where that has not been done.

        Raises:
            NonFiniteError: as a call does.
        """
        unseen, self.unseen = self.unseen, None
        if unseen is None:
            return
        self.judging = True
        self.norm, *values = unseen.read()
        self.terms = {name: value / (unseen.counts[name] or 1.0) for name, value in zip(unseen.names, values, strict=True)}
        finite = math.isfinite(self.norm) and all(map(math.isfinite, self.terms.values()))
        try:
            made = finite or self._may(unseen.parts, unseen.step, unseen.counts)
        except ZooError as error:
            error.add_note(describe_failure(self.mesh.world.rank, unseen.step + 1, unseen.parts))
            raise
        if made and self.ema is not None:
            self.ema.update(unseen.step)
        self._taken.append(self.terms)
        self.judging = False

    def take(self) -> list[dict[str, float]]:
        """Loss terms of the steps that have become known since the last call, in their order."""
        taken, self._taken = self._taken, []
        return taken

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
