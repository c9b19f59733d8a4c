"""Targets that are classes (one or several a sample) and targets that are numbers."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.base import Encoded
from zoo.data.codecs.fitting import usable
from zoo.data.codecs.state import list_of, strict
from zoo.errors import CheckpointError, DataError, did_you_mean
from zoo.specs import ClassTarget, Labelling, NumberTarget


class ClassCodec:
    """A label, or for multi-label targets a list of them, -> indices or zeros and ones.

    Args:
        name: of the target.
        labels: in the order of the model's outputs.
        labelling: single or multi.
        counts: training samples of each label.
        separator: between the labels of one string, for multi-label columns of text files.
    """

    kind: ClassVar[str] = "class"
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(self, *, name: str, labels: Sequence[str], labelling: Labelling = Labelling.SINGLE, counts: Sequence[int] = (), separator: str = "|") -> None:
        self.spec = ClassTarget(name=name, labels=tuple(labels), labelling=labelling, counts=tuple(counts))
        self.separator = separator
        self._index = {label: number for number, label in enumerate(labels)}

    @classmethod
    def fit(cls, name: str, raws: Iterable[Any], *, labelling: Labelling = Labelling.SINGLE, separator: str = "|") -> "ClassCodec":
        """Labels of the training split, sorted (as numbers where all of them are), with their counts."""
        counts: dict[str, int] = {}
        given = (raw for raw in raws if raw is not None)
        for labels_of_one in usable(lambda raw: {raw} if labelling is Labelling.SINGLE else set(split_labels(raw, separator)), given):
            for label in labels_of_one:
                if (text := str(label)) != "":
                    counts[text] = counts.get(text, 0) + 1
        labels = sorted_labels(counts)
        if len(labels) < 2 and labelling is Labelling.SINGLE:
            raise DataError(f"target {name!r} has {len(labels)} class in the training split ({', '.join(labels) or 'none'}); two or more are needed")
        return cls(name=name, labels=labels, labelling=labelling, counts=[counts[label] for label in labels], separator=separator)

    def encode(self, raw: Any) -> Encoded:
        if self.spec.labelling is Labelling.MULTI:
            values = torch.zeros(self.spec.num_classes)
            for label in split_labels(raw, self.separator):
                values[self._lookup(label)] = 1
            return {"values": values}
        return {"values": torch.tensor(self._lookup(raw))}

    def encode_all(self, indices: Tensor) -> Tensor:
        """Indices that a dataset has already made, S int64."""
        return indices.to(torch.int64)

    def _lookup(self, label: Any) -> int:
        found = self._index.get(str(label))
        if found is None:
            hint = did_you_mean(str(label), self._index) if len(self._index) <= 50 else f"{len(self._index)} are known"
            raise DataError(f"label {label!r} of {self.spec.name!r} does not occur in the training split; {hint}")
        return found

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.spec.labels), "labelling": str(self.spec.labelling), "counts": list(self.spec.counts), "separator": self.separator}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "ClassCodec":  # noqa: ARG003
        strict(state, name, labels=list, labelling=str, counts=list, separator=str)
        if state["labelling"] not in list(Labelling):
            raise CheckpointError(f"processor.json: {name}.labelling is {state['labelling']!r}; expected one of {', '.join(Labelling)}")
        labels, counts = list_of(state["labels"], str, f"{name}.labels"), list_of(state["counts"], int, f"{name}.counts")
        if len(set(labels)) != len(labels) or len(counts) not in (0, len(labels)):
            raise CheckpointError(f"processor.json: {name} has {len(labels)} labels ({len(set(labels))} different) and {len(counts)} counts")
        return cls(name=name, labels=labels, labelling=Labelling(state["labelling"]), counts=counts, separator=state["separator"])


class NumberCodec:
    """One or several numbers, in the data's own units; what is missing becomes NaN and is left out of the loss.

    Args:
        name: of the target.
        columns: names of the numbers.
        mean: of the training split.
        std: of the training split.
    """

    kind: ClassVar[str] = "number"
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(self, *, name: str, columns: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        self.spec = NumberTarget(name=name, columns=tuple(columns), mean=tuple(mean), std=tuple(std))

    @classmethod
    def fit(cls, name: str, columns: Sequence[str], raws: Iterable[Any]) -> "NumberCodec":
        """Mean and standard deviation of what is known in the training split."""
        unfitted = cls(name=name, columns=columns, mean=[0.0] * len(columns), std=[1.0] * len(columns))
        rows = [encoded["values"] for encoded in usable(unfitted.encode, raws)]
        if not rows:
            raise DataError(f"target {name!r}: no row of the training split has numbers in {', '.join(columns)}")
        mean, std = moments(torch.stack(rows).to(torch.float64), columns)
        return cls(name=name, columns=columns, mean=mean, std=std)

    def encode(self, raw: Any) -> Encoded:
        values = list(raw) if isinstance(raw, list | tuple) else [raw]
        if len(values) != len(self.spec.columns):
            raise DataError(f"target {self.spec.name!r} has {len(values)} numbers where {len(self.spec.columns)} are needed: {', '.join(self.spec.columns)}")
        return {"values": torch.tensor([number(value, column) for value, column in zip(values, self.spec.columns, strict=True)])}

    def encode_all(self, values: Tensor) -> Tensor:
        return values.to(torch.float32)

    def state(self) -> dict[str, Any]:
        return {"columns": list(self.spec.columns), "mean": list(self.spec.mean), "std": list(self.spec.std)}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "NumberCodec":  # noqa: ARG003
        strict(state, name, columns=list, mean=list, std=list)
        columns = list_of(state["columns"], str, f"{name}.columns")
        mean, std = (list_of(state[key], float, f"{name}.{key}") for key in ("mean", "std"))
        if not len(columns) == len(mean) == len(std):
            raise CheckpointError(f"processor.json: {name} has {len(columns)} columns, {len(mean)} means and {len(std)} standard deviations")
        return cls(name=name, columns=columns, mean=mean, std=std)


MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Texts that stand for a missing value, in lower case."""


TRUTH = {"true": 1.0, "false": 0.0}


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and value.strip().lower() in MISSING)


def number(value: Any, column: str) -> float:
    """A number of a table, 1 and 0 for true and false; NaN where it is missing.

    Raises:
        DataError: for text that is no number, and for infinities.
    """
    if is_missing(value):
        return math.nan
    if isinstance(value, str) and (truth := TRUTH.get(value.strip().lower())) is not None:
        return truth
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise DataError(f"column {column!r} holds {value!r}, which is no number") from None
    if math.isinf(result):
        raise DataError(f"column {column!r} holds {value!r}, which is infinite")
    return result


def moments(values: Tensor, columns: Sequence[str]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (population) of each column of S K float64, NaN left out; a constant column gets 1."""
    known = ~values.isnan()
    if not bool(known.any(0).all()):
        empty = [column for column, any_known in zip(columns, known.any(0).tolist(), strict=True) if not any_known]
        raise DataError(f"columns without any number in the training split: {', '.join(empty)}")
    count = known.sum(0)
    mean = torch.where(known, values, 0).sum(0) / count
    std = (torch.where(known, values - mean, 0).square().sum(0) / count).sqrt()
    return mean.tolist(), torch.where(std > 1e-12 * mean.abs().clamp(min=1e-300), std, 1.0).tolist()


def split_labels(raw: Any, separator: str) -> list[str]:
    """The labels of one sample: a list, a JSON list, or a string with a separator."""
    if isinstance(raw, list | tuple | set):
        return [str(label) for label in raw]
    text = str(raw).strip()
    if text.startswith("["):
        try:
            return [str(label) for label in json.loads(text)]
        except ValueError:
            raise DataError(f"labels {text!r} look like a JSON list and are none") from None
    return [label.strip() for label in text.split(separator) if label.strip()]


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """By value where all are numbers, else by text."""
    labels = list(labels)
    try:
        return sorted(labels, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(labels)
