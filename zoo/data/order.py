"""The order of an epoch: a pure function of (seed, epoch) and, for buckets, of the samples' lengths.

Letters: S samples, B samples of a batch.
"""

import torch
from torch import Tensor

from zoo.random import SampleRandom, key
from zoo.settings import Order

WINDOW = 50
"""Batches that are sorted by length together: enough for batches of nearly equal lengths, few enough to mix well."""


def epoch_order(size: int, *, order: Order, seed: int, epoch: int, batch_size: int, lengths: Tensor | None = None) -> Tensor:
    """S int64: sample numbers in the order of the epoch; batch b takes ``[b * B : (b + 1) * B]``."""
    if order is Order.SEQUENTIAL:
        return torch.arange(size)
    shuffled = permutation(size, key(seed, "order", epoch))
    if order is Order.SHUFFLE or lengths is None:
        return shuffled
    windows = [window[lengths[window].argsort(stable=True)] for window in shuffled.split(WINDOW * batch_size)]
    by_length = torch.cat(windows) if windows else shuffled
    full = size // batch_size
    batches = by_length[: full * batch_size].view(full, batch_size)
    # the incomplete batch stays last, so that a batch's place is its number times its size
    return torch.cat([batches[permutation(full, key(seed, "batches", epoch))].flatten(), by_length[full * batch_size :]])


def permutation(size: int, seed: int) -> Tensor:
    """A random permutation, the same on every machine and version: numbers sorted by their keyed words."""
    return SampleRandom(seed, 0, torch.arange(size)).words("permutation", 1).flatten().argsort(stable=True)
