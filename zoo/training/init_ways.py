"""What to write where weights do not fit a model: only what works for these weights and this model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.fit import Meaning, fits_of, fitted
from zoo.model import Model
from zoo.prefixes import longest

MANY = 8
"""Layers that a way out names one by one."""


@dataclass(frozen=True)
class Misfit:
    """One tensor that does not fit.

    Args:
        name: of it.
        told: for the message.
    """

    name: str
    told: str


@dataclass(frozen=True)
class Sides:
    """The weights and the model, with what was asked for.

    Args:
        found: the weights' tensors, by the model's names.
        state: the model's.
        skip: ``init_skip``.
        fit: ``init_fit``.
        before: what rows of the weights stand for.
        now: what those of the model stand for.
    """

    found: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    skip: Sequence[str]
    fit: Sequence[str]
    before: Meaning
    now: Meaning

    def taken(self, skip: Sequence[str]) -> list[str]:
        """Names that would be taken over with such an ``init_skip``."""
        return [name for name in self.found if name in self.state and longest(name, skip) is None]


def ways_to_init(model: Model, misfits: Sequence[Misfit], sides: Sides) -> list[str]:
    """Each is what to write; the lists hold what was asked for already, since they replace what was typed."""
    names = [misfit.name for misfit in misfits]
    ways = []
    if sides.taken(skip := [*sides.skip, *layers_of(names)]):
        fit = [prefix for prefix in sides.fit if longest(prefix, skip) is None]  # what is skipped is not fitted
        also = f" init_fit=[{','.join(fit)}]" if len(fit) < len(sides.fit) else ""
        ways.append(f"leave what does not fit as initialised: init_skip=[{','.join(skip)}]{also}")
    if able := can_be_fitted(model, names, sides):
        rest = layers_of([name for name in names if name not in able])
        if not any(longest(name, rest) for name in able):
            line = f"init_fit=[{','.join(dict.fromkeys([*sides.fit, *able]))}]"
            line += f" init_skip=[{','.join([*sides.skip, *rest])}]" if rest else ""
            ways.append(f"fit to this data what the weights have in other sizes: {line}")
    return ways or ["the model that the weights are of: nothing of them fits this one", "init=null to start from random weights"]


def layers_of(names: Sequence[str]) -> list[str]:
    """Prefixes that cover these names: by layer, a head whole; by part, where there are many."""
    layers = {name.rpartition(".")[0] or name for name in names}
    prefixes = sorted({"head" if layer.startswith("head.") else layer for layer in layers})
    return prefixes if len(prefixes) <= MANY else sorted({prefix.partition(".")[0] for prefix in prefixes})


def can_be_fitted(model: Model, names: Sequence[str], sides: Sides) -> list[str]:
    """Those that ``init_fit`` would take: tried, since it takes what both sides know of their rows, and sizes that are possible."""
    able: Mapping[str, Any] = fits_of(model)
    good = []
    for name in names:
        if name in able and name in sides.found:
            module, kind = able[name]
            try:
                fitted(name, sides.found[name], sides.state[name], kind, module, sides.before, sides.now)
            except CheckpointError:
                continue
            good.append(name)
    return good
