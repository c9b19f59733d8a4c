"""What is said when a loss or a gradient is not a finite number. Runs once, at the end of a run that has failed."""

import math
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.structs import Batch


class NonFiniteError(ZooError):
    """A loss or gradient is NaN or infinite. The optimizer has not stepped: the weights are those of the step before."""


def explain(parts: list[Batch], describe: Callable[[int], str], backward: Callable[[Batch, int], dict[str, float]], model: torch.nn.Module) -> str:
    """Which samples of this rank do it, found by running each micro-batch again, then each row alone.

    Args:
        parts: this rank's micro-batches.
        describe: a sample's name for people, by its id.
        backward: runs one (micro-batch, its place) forward and backward, gives its loss terms.
        model: whose gradients ``backward`` fills.
    """
    found: list[str] = []
    for place, part in enumerate(parts):
        reason = _reason(part, place, backward, model)
        if reason is None:
            continue
        rows = [part.rows(row, row + 1) for row in range(part.size)] if part.size <= 256 else []
        guilty = [(row, alone) for row in rows if bool(row.valid.all()) and (alone := _reason(row, place, backward, model)) is not None]
        if guilty:
            found += [f"sample {int(row.ids[0])} ({describe(int(row.ids[0]))}): {alone}" for row, alone in guilty[:8]]
            found += [f"and {len(guilty) - 8} more samples"] * (len(guilty) > 8)
        else:
            found.append(f"samples {part.ids.tolist()} together (each alone is finite): {reason}")
    return "; ".join(found) or "none of this rank's samples"


def _reason(part: Batch, place: int, backward: Callable[[Batch, int], dict[str, float]], model: torch.nn.Module) -> str | None:
    model.zero_grad(set_to_none=True)
    terms: dict[str, Any] = backward(part, place)
    if wrong := {name: value for name, value in terms.items() if not math.isfinite(value)}:
        return ", ".join(f"loss {name} is {value}" for name, value in wrong.items())
    bad = [name for name, parameter in model.named_parameters() if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())]
    return f"the loss is finite, the gradient of {bad[0]} is not ({len(bad)} parameters in all)" if bad else None


def describe_failure(rank: int, step: int, parts: list[Batch]) -> str:
    """Where a rank failed, for what it says last on stderr."""
    return f"rank {rank} failed in step {step}, on samples {samples_of(parts)}"


def samples_of(parts: list[Batch]) -> str:
    ids = [sample for part in parts for sample in part.ids.tolist()]
    return ", ".join(map(str, ids[:32])) + (f" and {len(ids) - 32} more" if len(ids) > 32 else "")
