"""How samples are dealt to batches that stay within budgets: groups made once from the lengths, so that every epoch has as many batches.

Letters: S samples, R rows among them, I inputs, G groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.budget import Budget

MIXED = 4
"""Batches of a bucket at least: fewer would be nearly the same ones in each epoch."""
GAIN = 0.01
"""Share of its padded positions that splitting a bucket has to save."""


@dataclass(frozen=True)
class Groups:
    """A sample of group g that is number r of its n in an epoch's order goes to batch ``first[g] + r * batches[g] // n``.

    Args:
        group: S int64.
        first: G int64.
        batches: G int64.
        total: batches of an epoch.
    """

    group: Tensor
    first: Tensor
    batches: Tensor
    total: int

    def deal(self, shuffled: Tensor) -> Tensor:
        """S int64: the batch of each sample, where ``shuffled`` is an order of all samples."""
        ordered = shuffled[self.group[shuffled].argsort(stable=True)]
        group = self.group[ordered]
        counts = self.group.bincount(minlength=len(self.first))
        rank = torch.arange(len(ordered)) - (counts.cumsum(0) - counts)[group]
        return torch.empty_like(ordered).index_copy_(0, ordered, self.first[group] + rank * self.batches[group] // counts[group])


def group_samples(size: int, batch_size: int, budgets: Sequence[Budget], *, lengths: Tensor | None, packed: bool) -> Groups:
    """Strata for packed batches in any order, buckets otherwise; a sample that is over a budget by itself is a batch of its own.

    Args:
        size: samples S.
        batch_size: samples of a batch at most.
        budgets: what a batch may cost.
        lengths: S I, to put similar ones together; None makes one bucket of all.
        packed: whether a batch costs the sum of its samples, so that they need not be similar.
    """
    over = torch.zeros(size, dtype=torch.bool)
    for budget in budgets:
        over |= budget.costs.sum(dim=1) > budget.limit * (1 + 1e-9)
    rows = (~over).nonzero().flatten()
    parts: list[Tensor] = []
    first: list[int] = []
    batches: list[int] = []
    total = 0
    if len(rows) and packed and lengths is None:
        total, parts = strata(rows, batch_size, budgets)
        first, batches = [0] * len(parts), [len(part) for part in parts]
    elif len(rows):
        parts = buckets(rows, batch_size, budgets, lengths)
        batches = [batches_of(part, batch_size, budgets) for part in parts]
        first = [sum(batches[:place]) for place in range(len(batches))]
        total = sum(batches)
    alone = over.nonzero().flatten()
    group = torch.empty(size, dtype=torch.int64)
    for number, part in enumerate([*parts, *alone[:, None]]):
        group[part] = number
    first += range(total, total + len(alone))
    batches += [1] * len(alone)
    return Groups(group, torch.tensor(first), torch.tensor(batches), total + len(alone))


def samples_of(rows: Tensor, batch_size: int, budgets: Sequence[Budget]) -> int:
    """How many of these samples fit into a batch, whichever they are."""
    fitting = [batch_size]
    for budget in budgets:
        costs = budget.costs[rows]
        each = float(costs.sum(dim=1).max() if budget.packed else costs.amax(dim=0).sum())
        fitting.append(math.floor(budget.limit * (1 + 1e-9) / each))
    return max(1, min(fitting))


def batches_of(rows: Tensor, batch_size: int, budgets: Sequence[Budget]) -> int:
    return math.ceil(len(rows) / samples_of(rows, batch_size, budgets))


def buckets(rows: Tensor, batch_size: int, budgets: Sequence[Budget], lengths: Tensor | None) -> list[Tensor]:
    """Parts of the samples whose lengths are similar in every input: split in two where that saves most padding, and again."""
    if lengths is None:
        return [rows]
    found, waiting = [], [rows]
    while waiting:
        rows = waiting.pop()
        split = best_split(lengths[rows], need(rows, batch_size, budgets))
        if split is None:
            found.append(rows)
        else:
            order, place = split
            waiting += [rows[order[place:]], rows[order[:place]]]
    return found


def need(rows: Tensor, batch_size: int, budgets: Sequence[Budget]) -> Tensor:
    """R D float64: what each sample asks for of a batch, as a share of each of its limits; the largest counts."""
    shares = [(budget.costs[rows].sum(dim=1) if budget.packed else budget.costs[rows].amax(dim=1) * budget.costs.shape[1]) / budget.limit for budget in budgets]
    return torch.stack([torch.full((len(rows),), 1 / batch_size, dtype=torch.float64), *shares], dim=1)


def best_split(lengths: Tensor, shares: Tensor) -> tuple[Tensor, int] | None:
    """An order of R samples and where to cut it, such that both parts, each padded to its longest in every input, have the fewest positions.

    None where a part would have less than MIXED batches, or where nothing is gained.
    """
    size = len(lengths)
    best, found = (1 - GAIN) * size * float(lengths.amax(dim=0).sum()), None
    count = torch.arange(1, size)  # samples of the first part
    for column in range(lengths.shape[1]):
        order = lengths[:, column].argsort(stable=True)
        (low, high), (few, many) = (prefix_and_suffix(table[order]) for table in (lengths, shares))
        slots = count * low.sum(dim=1) + (size - count) * high.sum(dim=1)
        enough = (count * few.amax(dim=1) > MIXED - 1) & ((size - count) * many.amax(dim=1) > MIXED - 1)
        slots = slots.to(torch.float64).masked_fill(~enough, math.inf)
        if size > 1 and float(slots.min()) < best:
            best, found = float(slots.min()), (order, int(slots.argmin()) + 1)
    return found


def prefix_and_suffix(table: Tensor) -> tuple[Tensor, Tensor]:
    """R-1 I each: the largest of the first 1, 2 ... rows, and of the rest."""
    return table.cummax(dim=0).values[:-1], table.flip(0).cummax(dim=0).values.flip(0)[1:]


def strata(rows: Tensor, batch_size: int, budgets: Sequence[Budget]) -> tuple[int, list[Tensor]]:
    """The fewest batches such that one sample of each stratum is within the budgets, whichever it is; strata have as many samples as there are batches."""
    relative = torch.stack([budget.costs[rows].sum(dim=1) / budget.limit for budget in budgets]).sum(dim=0)
    rows = rows[relative.argsort(stable=True, descending=True)]

    def fits(batches: int) -> bool:
        parts = rows.split(batches)
        worst = ((budget, torch.stack([budget.costs[part].amax(dim=0) for part in parts])) for budget in budgets)  # I of each stratum
        return all(budget.fits(float(most.sum() if budget.packed else len(parts) * most.amax(dim=0).sum())) for budget, most in worst)

    low, high = math.ceil(len(rows) / batch_size), len(rows)  # one sample a batch fits: those that do not are alone already
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low, list(rows.split(low))


def cut_in_order(size: int, batch_size: int, budgets: Sequence[Budget]) -> list[int]:
    """Bounds of batches of neighbours, each as large as the budgets allow."""
    bounds, count = [0], 0
    running: list[list[float]] = []
    table = [budget.costs.tolist() for budget in budgets]
    for row in range(size):
        new = [rows[row] for rows in table]
        if count:
            join = zip(budgets, running, new, strict=True)
            grown = [[a + b if budget.packed else max(a, b) for a, b in zip(old, more, strict=True)] for budget, old, more in join]
            costs = (sum(costs) * (1 if budget.packed else count + 1) for budget, costs in zip(budgets, grown, strict=True))
            if count < batch_size and all(budget.fits(cost) for budget, cost in zip(budgets, costs, strict=True)):
                running, count = grown, count + 1
                continue
            bounds.append(row)
        running, count = new, 1
    return [*bounds, size]
