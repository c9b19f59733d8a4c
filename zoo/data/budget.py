"""What a batch costs: positions, seconds or pixels, padding included.

Letters: S samples, I inputs of one unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.settings import LoaderSettings, Order
from zoo.specs import ImageInput, InputSpec, SpectrogramInput, TokenInput

BUDGETS: dict[str, tuple[type[InputSpec], str]] = {
    "batch_tokens": (TokenInput, "text or a history"),
    "batch_seconds": (SpectrogramInput, "sound"),
    "batch_pixels": (ImageInput, "images"),
}
"""Setting -> the inputs that it counts, and a word for them."""


@dataclass(frozen=True)
class Budget:
    """A limit on a global batch.

    Args:
        limit: in its unit.
        costs: S I float64: what each sample needs of it for each input, alone.
        packed: samples stand end to end; otherwise each is filled up to the longest.
    """

    limit: float
    costs: Tensor
    packed: bool

    def cost(self, rows: Tensor) -> float:
        """Of a batch of these samples."""
        costs = self.costs[rows]
        return float(costs.sum() if self.packed else len(costs) * costs.amax(dim=0).sum())

    def fits(self, cost: float) -> bool:
        return cost <= self.limit * (1 + 1e-9)  # seconds are no whole numbers

    def doubled(self) -> "Budget":
        return Budget(2 * self.limit, self.costs, self.packed)


def check_budgets(settings: LoaderSettings, inputs: Sequence[InputSpec]) -> None:
    """Each budget finds an input to count, and an order in which it makes batches of a reasonable size.

    Raises:
        ConfigError: for a budget of what the model's inputs do not have, or of padded rows in random order.
    """
    for name, (kind, word) in BUDGETS.items():
        if getattr(settings, name) is not None and not any(isinstance(entry, kind) for entry in inputs):
            fitting = [other for other, (kind, _) in BUDGETS.items() if any(isinstance(entry, kind) for entry in inputs)]
            raise ConfigError(
                f"data.{name}",
                f"it counts {word}, and the model takes {', '.join(f'{entry.name} ({entry.kind})' for entry in inputs)}",
                *(f"data.{other}=..., which counts what it takes" for other in fitting),
                f"data.{name}=null, and data.batch_size alone limits a batch",
            )
        if getattr(settings, name) is not None and kind is not ImageInput and settings.order is Order.SHUFFLE and not settings.packs:
            raise ConfigError(
                "data.order",
                f"data.{name} with padded rows in random order: every batch would need room for the longest samples, and hold only a few",
                "data.order=buckets: batches of similar lengths",
                "data.packing=flat: no padding, where the encoder can",
            )


def budgets_of(settings: LoaderSettings, inputs: Sequence[InputSpec], lengths: Mapping[str, Tensor] | None, size: int) -> list[Budget]:
    """The budgets that are set.

    Args:
        settings: the limits.
        inputs: that the model takes.
        lengths: S of each ragged input; None where they are not known without reading all samples.
        size: samples S.

    Raises:
        ConfigError: where a budget counts nothing, or lengths that are not known.
    """
    check_budgets(settings, inputs)
    found = []
    for name, (kind, _) in BUDGETS.items():
        limit = getattr(settings, name)
        if limit is None:
            continue
        counted = [entry for entry in inputs if isinstance(entry, kind)]
        if lengths is None and kind is not ImageInput:
            raise ConfigError(
                f"data.{name}",
                "a budget needs the length of every sample, and these are read only when a batch asks for them",
                "data.cache=memory",
                f"data.{name}=null, and data.batch_size alone limits a batch",
            )
        costs = [unit_costs(entry, lengths or {}, size) for entry in counted]
        found.append(Budget(float(limit), torch.stack(costs, dim=1), settings.packs and kind is not ImageInput))
    return found


def unit_costs(entry: InputSpec, lengths: Mapping[str, Tensor], size: int) -> Tensor:
    """S float64: tokens, seconds or pixels of each sample."""
    match entry:
        case ImageInput():
            return torch.full((size,), float(entry.height * entry.width), dtype=torch.float64)  # all images of a data set have one size
        case SpectrogramInput():
            return lengths[entry.name].to(torch.float64) / entry.frame_rate
        case _:
            return lengths[entry.name].to(torch.float64)
