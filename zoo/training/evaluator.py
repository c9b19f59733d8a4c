"""Figures of a split: each sample once, whatever the number of processes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.data.ahead import fetch
from zoo.data.loader import Loader
from zoo.model import Model
from zoo.parallel.collectives import Group
from zoo.settings import Precision
from zoo.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Figures by full name (``validation/accuracy``), and what is not one number (``confusion``)."""

    figures: dict[str, float]
    tables: dict[str, Any] = field(default_factory=dict)


class Evaluator:
    """Runs a model over one split.

    Args:
        loader: of the split, made with training=False.
        split: prefix of the figures' names.
        group: the ranks.
        device: where the model is.
        precision: as in training.
    """

    def __init__(self, *, loader: Loader, split: str, group: Group, device: torch.device, precision: Precision) -> None:
        self.loader, self.split, self.group, self.device = loader, split, group, device
        self.autocast = autocast(device, precision)

    @torch.no_grad()
    def evaluate(self, model: Model) -> Evaluation:
        """Metrics of the head, and each loss term as sum over count; ``loss`` is their sum. None of a head that compares the rows of a batch."""
        was_training = model.training
        model.eval()
        head: Any = model.head
        metrics = head.metrics()
        alone = not getattr(head, "whole_batch", False)
        sums: dict[str, Tensor] = {}
        self.loader.load_state_dict({"epoch": 0, "batch": 0})
        for fetched in fetch(self.loader, self.device):
            for batch in fetched.parts:
                with self.autocast:
                    prediction = model(batch.inputs)
                    terms = head.loss(prediction, batch.targets, batch.valid) if alone else {}
                for name, term in terms.items():
                    # Double precision, on the CPU since not every device has it: the same figure whichever rank added which rows.
                    pair = torch.stack([term.sum.detach().cpu().double(), term.count.detach().cpu().double()])
                    sums[name] = sums[name] + pair if name in sums else pair
                metrics.update(
                    {name: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value for name, value in prediction.items()},
                    batch.targets,
                    batch.valid,
                )
        model.train(was_training)
        figures: dict[str, float] = {}
        if sums:
            totals = self.group.sum_on(torch.stack(list(sums.values())), self.device).tolist()
            losses = {name: total / count if count else 0.0 for name, (total, count) in zip(sums, totals, strict=True)}
            figures = {"loss": sum(losses.values())} | ({f"loss_{name}": value for name, value in losses.items()} if len(losses) > 1 else {})
        metrics.merge()
        figures |= metrics.compute()
        return Evaluation({f"{self.split}/{name}": float(value) for name, value in figures.items()}, metrics.tables())
