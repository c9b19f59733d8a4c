"""Running figures of regressions, as sums in float64.

Letters: B items, K numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.parallel.collectives import current_group
from zoo.specs import NumberTarget
from zoo.structs import Prediction, Targets


class RegressionMetrics:
    """``mae``, ``rmse`` and ``r2`` in the target's own units; with several columns their means, and each column's as ``mae/NAME`` ...

    ``r2`` is 1 - squared error / squared deviation from the split's own mean; nan where the split holds one value only.

    Args:
        target: columns, and the mean that sums are taken around, for precision.
        values: prediction -> B K float64 in own units, on the CPU.
    """

    def __init__(self, target: NumberTarget, values: Callable[[Prediction], Tensor]) -> None:
        self.target, self.values = target, values
        self.centre = torch.tensor(target.mean, dtype=torch.float64)
        self.sums = torch.zeros(5, len(target.columns), dtype=torch.float64)  # count, |error|, error^2, y, y^2

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None:
        given, wanted = self.values(prediction), targets[self.target.name].cpu().double()
        known = valid.cpu()[:, None] & ~wanted.isnan()
        error = torch.where(known, given - wanted, 0.0)
        around = torch.where(known, wanted - self.centre, 0.0)
        self.sums += torch.stack([known.double(), error.abs(), error.square(), around, around.square()]).sum(dim=1)

    def merge(self) -> None:
        current_group().sum(self.sums)

    def compute(self) -> dict[str, float]:
        count, absolute, squared, total, square = self.sums
        figures = {"mae": absolute / count, "rmse": (squared / count).sqrt(), "r2": 1 - squared / (square - total.square() / count)}
        names = self.target.columns if len(self.target.columns) > 1 else ()
        means = {name: float(columns.nanmean()) for name, columns in figures.items()}
        return means | {f"{figure}/{name}": float(columns[place]) for figure, columns in figures.items() for place, name in enumerate(names)}

    def tables(self) -> dict[str, Any]:
        return {}
