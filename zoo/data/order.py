"""The plan of an epoch: which samples make up each global batch. A pure function of (seed, epoch), the samples' lengths and the settings.

Every epoch has the same number of batches, so that the run's length, its schedules and a cursor into it are exact. By number, a batch takes the
next ``batch_size`` samples of the epoch's order. By budget, samples are grouped once (``zoo.data.grouping``) and dealt anew in each epoch.

Letters: S samples, B samples of a batch, I inputs, P parts of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from zoo.data.budget import Budget
from zoo.data.grouping import cut_in_order, group_samples, prefix_and_suffix
from zoo.random import SampleRandom, key
from zoo.settings import Order

WINDOW = 50
"""Batches that are sorted by length together: enough for batches of nearly equal lengths, few enough to mix well."""


@dataclass(frozen=True)
class Plan:
    """An epoch: batch b takes ``order[bounds[b] : bounds[b + 1]]``."""

    order: Tensor
    bounds: list[int]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def rows(self, batch: int) -> Tensor:
        return self.order[self.bounds[batch] : self.bounds[batch + 1]]


class Planner:
    """The plan of any epoch, and how many batches each has: ``steps``.

    Args:
        size: samples S.
        order: of the samples.
        seed: the run's.
        batch_size: samples of a batch at most.
        lengths: S I of the ragged inputs, for buckets.
        budgets: what a batch may cost; none limits it by number alone.
        together: S int64; samples with the same number follow each other in a shuffled order. None where nothing binds them.
    """

    def __init__(
        self,
        size: int,
        *,
        order: Order,
        seed: int,
        batch_size: int,
        lengths: Tensor | None = None,
        budgets: Sequence[Budget] = (),
        together: Tensor | None = None,
    ) -> None:
        self._size, self._order, self._seed, self._batch_size, self._together = size, order, seed, batch_size, together
        self.budgeted = bool(budgets)
        self._lengths = lengths if order is Order.BUCKETS else None
        self._bounds: list[int] | None = [*range(0, size, batch_size), size]
        if budgets and order is Order.SEQUENTIAL:
            self._bounds = cut_in_order(size, batch_size, budgets)
        elif budgets:
            packed = any(budget.packed for budget in budgets)
            self._bounds, self._groups = None, group_samples(size, batch_size, budgets, lengths=self._lengths, packed=packed)
        self.steps = self._groups.total if self._bounds is None else len(self._bounds) - 1

    def plan(self, epoch: int) -> Plan:
        if self._bounds is not None:
            order = epoch_order(self._size, order=self._order, seed=self._seed, epoch=epoch, batch_size=self._batch_size, lengths=self._lengths)
            if self._together is not None and self._order is not Order.SEQUENTIAL:
                order = side_by_side(order, self._together)
            return Plan(order, self._bounds)
        batch = self._groups.deal(permutation(self._size, key(self._seed, "order", epoch)))  # S
        batch = permutation(self.steps, key(self._seed, "batches", epoch))[batch]
        bounds = torch.cat([batch.new_zeros(1), batch.bincount(minlength=self.steps).cumsum(0)])
        return Plan(batch.argsort(stable=True), bounds.tolist())


def epoch_order(size: int, *, order: Order, seed: int, epoch: int, batch_size: int, lengths: Tensor | None = None) -> Tensor:
    """S int64: sample numbers in the order of the epoch; batch b takes ``[b * B : (b + 1) * B]``."""
    if order is Order.SEQUENTIAL:
        return torch.arange(size)
    shuffled = permutation(size, key(seed, "order", epoch))
    if order is Order.SHUFFLE or lengths is None:
        return shuffled
    windows = [window[by_length(lengths[window], batch_size)] for window in shuffled.split(WINDOW * batch_size)]
    sorted_ones = torch.cat(windows) if windows else shuffled
    full = size // batch_size
    batches = sorted_ones[: full * batch_size].view(full, batch_size)
    # the incomplete batch stays last, so that a batch's place is its number times its size
    return torch.cat([batches[permutation(full, key(seed, "batches", epoch))].flatten(), sorted_ones[full * batch_size :]])


def side_by_side(order: Tensor, together: Tensor) -> Tensor:
    """The same samples, each group where its first one stood, in the order of all of them.

    Args:
        order: S int64, sample numbers.
        together: S int64, the group of each sample.
    """
    _, group = together[order].unique(return_inverse=True)  # S, by place
    first = torch.full((int(group.max()) + 1,), len(order)).scatter_reduce_(0, group, torch.arange(len(order)), "amin")
    return order[first[group].argsort(stable=True)]


def by_length(lengths: Tensor, batch_size: int) -> Tensor:
    """S int64, an order of S or S I lengths in which the samples of a batch are similar in every input."""
    lengths = lengths[:, None] if lengths.dim() == 1 else lengths
    if lengths.shape[1] == 1:
        return lengths[:, 0].argsort(stable=True)
    found, waiting = [], [torch.arange(len(lengths))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= batch_size:
            found.append(rows)
            continue
        cuts = torch.arange(batch_size, len(rows), batch_size)  # whole batches, the incomplete one last
        choices = []
        for column in range(lengths.shape[1]):
            order = rows[lengths[rows, column].argsort(stable=True)]
            low, high = prefix_and_suffix(lengths[order])
            slots = (cuts * low[cuts - 1].sum(dim=1) + (len(rows) - cuts) * high[cuts - 1].sum(dim=1)).tolist()
            choices.append((min(slots), slots.index(min(slots)), order))
        _, place, order = min(choices, key=lambda choice: choice[0])
        waiting += [order[cuts[place] :], order[: cuts[place]]]
    return torch.cat(found)


def split_evenly(costs: Tensor | None, count: int, parts: int, *, packed: bool) -> list[Tensor]:
    """P lists of places in a batch, in order, whose costs are as even as whole samples allow.

    Args:
        costs: of each sample of the batch, above 0; None takes equal numbers of neighbours.
        count: samples of the batch.
        parts: P.
        packed: whether a part costs the sum of its samples; otherwise each is filled up to the longest.
    """
    if costs is None:
        bounds = [count * part // parts for part in range(parts + 1)]
        return [torch.arange(start, stop) for start, stop in pairwise(bounds)]
    if parts == 1:
        return [torch.arange(count)]
    order = costs.argsort(stable=True, descending=True)
    if packed:  # there and back: long ones spread over all parts, and what attention costs with them
        turns = torch.arange(count)
        lap, place = turns // parts, turns % parts
        part = torch.where(lap % 2 == 0, place, parts - 1 - place)
        return [order[part == number].sort().values for number in range(parts)]
    return [part.sort().values for part in order.split(even_counts(costs[order].tolist(), parts))]


def even_counts(costs: list[float], parts: int) -> list[int]:
    """How many of samples in falling order of cost each part takes, such that the dearest part (its number times its first) is as cheap as possible."""

    def counts(limit: float) -> list[int] | None:
        found, place = [], 0
        for part in range(parts):
            left = len(costs) - place
            if left <= 0:
                found.append(0)
                continue
            take = int(limit / costs[place] * (1 + 1e-9))
            take = max(1, min(take, left - min(left - 1, parts - part - 1)))  # one at least for each part that follows
            found.append(take)
            place += take
        return found if place >= len(costs) else None

    low, high = 0.0, costs[0] * len(costs)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if counts(middle) else (middle, high)
    return counts(high) or [len(costs)]


def permutation(size: int, seed: int) -> Tensor:
    """A random permutation, the same on every machine and version: numbers sorted by their keyed words."""
    return SampleRandom(seed, 0, torch.arange(size)).words("permutation", 1).flatten().argsort(stable=True)
