"""Splits of data: in memory or read from files, and the rules that assign samples to them."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError


class ArraySplit:
    """Images and class indices that are in memory as tensors.

    Args:
        arrays: S ... each, by input or target name.
        labels: of a target's indices, so that a single read gives the raw label.
        what: of one sample, for people: "training image".
    """

    def __init__(self, arrays: Mapping[str, Tensor], *, labels: Mapping[str, Sequence[str]], what: str) -> None:
        self.arrays, self.labels, self.what = dict(arrays), dict(labels), what

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    def read(self, index: int) -> Mapping[str, Any]:
        return {name: self.labels[name][int(array[index])] if name in self.labels else array[index] for name, array in self.arrays.items()}

    def describe(self, index: int) -> str:
        return f"{self.what} {index}"

    def bulk(self, name: str) -> Tensor | None:
        return self.arrays[name]


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the first 8 bytes of its BLAKE2b, over 2**64."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which no file name has
        content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest()) / 2**64


def hash_split(texts: Sequence[str], *, validation: float, test: float) -> dict[str, Tensor]:
    """Rows of each split by the hash of a text: the lowest ``test`` part, then ``validation``, the rest trains. Equal texts stay together."""
    parts = torch.tensor([fraction(text) for text in texts], dtype=torch.float64)
    split = torch.full((len(texts),), 0)
    split[parts < test + validation] = 1
    split[parts < test] = 2
    return named_rows(split)


def stratified_folds(texts: Sequence[str], labels: Sequence[Any], folds: int) -> Tensor:
    """S int64: the fold of each sample. Within a class, samples are dealt out in the order of their texts' hashes; where one class
    ends the next goes on, so that folds differ by one sample at most."""
    order = sorted(range(len(texts)), key=lambda row: (str(labels[row]), fraction(texts[row]), texts[row]))
    fold = torch.empty(len(texts), dtype=torch.int64)
    fold[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(texts)) % folds
    return fold


def named_rows(split: Tensor) -> dict[str, Tensor]:
    """0 trains, 1 validates, 2 tests; splits without samples are left out."""
    rows = {name: (split == number).nonzero().flatten() for number, name in enumerate(("train", "validation", "test"))}
    if not len(rows["train"]):
        raise DataError(f"no sample of {len(split)} is left to train on; make the other splits smaller")
    return {name: found for name, found in rows.items() if len(found)}


def check_fractions(validation: float, test: float) -> None:
    """Raises ``ValueError`` where nothing would be left to train on."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"validation={validation} and test={test} leave {1 - validation - test:g} of the samples to train on; each at least 0, together below 1"
        )
