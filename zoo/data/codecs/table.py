"""Rows of numbers and categories -> standardised numbers and identifiers.

Letters: K numbers (indicators included), C categorical columns.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from zoo.data.base import Encoded
from zoo.data.codecs.fitting import usable
from zoo.data.codecs.label import is_missing, moments, number, sorted_labels
from zoo.data.codecs.state import list_of, strict
from zoo.errors import CheckpointError, DataError
from zoo.specs import TableInput
from zoo.structs import Values


class Missing(StrEnum):
    REFUSE = "refuse"
    MEAN = "mean"
    INDICATOR = "indicator"


class TableCodec:
    """Numbers standardised with figures of the training split; categories numbered from 1, 0 for unseen.

    Args:
        name: of the input.
        numbers: names of the numeric columns.
        categories: names of the categorical columns.
        missing: a number that is not there (empty, NA, NaN, null, none or ?) is refused; replaced by the training mean; or that, with a column of 0 and 1 that
            says so beside each numeric column. A missing category is a category of its own.
        mean: of each numeric column in the training split.
        std: likewise.
        values: of each categorical column in the training split, in the order of their identifiers.
    """

    kind: ClassVar[str] = "table"
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(
        self,
        *,
        name: str,
        numbers: Sequence[str],
        categories: Sequence[str],
        missing: Missing = Missing.REFUSE,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        values: Sequence[Sequence[str]] = (),
    ) -> None:
        if not numbers and not categories:
            raise ValueError("a table needs columns: numbers=[...] or categories=[...]")
        self.name, self.numbers, self.categories, self.missing = name, tuple(numbers), tuple(categories), missing
        self._use(mean or [0.0] * len(numbers), std or [1.0] * len(numbers), values or [[] for _ in categories])

    def _use(self, mean: Sequence[float], std: Sequence[float], values: Sequence[Sequence[str]]) -> None:
        self.mean, self.std, self.values = list(mean), list(std), [list(known) for known in values]
        self._identifiers = [{value: identifier for identifier, value in enumerate(known, 1)} for known in self.values]
        width = len(self.numbers) * (2 if self.missing is Missing.INDICATOR else 1)
        self.spec = TableInput(name=self.name, numbers=width, categories=tuple(len(known) + 1 for known in self.values))

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Means, standard deviations and categories of the training split's rows, those with text where a number belongs left out.

        Raises:
            DataError: where numbers are missing and that is refused, or a column has no number at all.
        """
        mean: list[float] = []
        std: list[float] = []
        if self.numbers:
            found = list(usable(lambda row: (row, [number(row[column], column) for column in self.numbers]), rows))
            if not found:
                raise DataError(f"no row of the training split has numbers in all of {', '.join(self.numbers)}")
            rows = [row for row, _ in found]
            raw = torch.tensor([figures for _, figures in found], dtype=torch.float64)
            holes = {column: int(count) for column, count in zip(self.numbers, raw.isnan().sum(0), strict=True) if count}
            if holes and self.missing is Missing.REFUSE:
                listed = ", ".join(f"{column} ({count})" for column, count in holes.items())
                raise DataError(f"numbers are missing in the training split: {listed}\n  way out 1: data.missing=mean\n  way out 2: data.missing=indicator")
            mean, std = moments(raw, self.numbers)
        self._use(mean, std, [sorted_labels({canonical(row[column]) for row in rows}) for column in self.categories])

    def encode(self, raw: Any) -> Encoded:
        """A mapping of column names to values -> {"numbers": K, "categories": C}."""
        if not isinstance(raw, Mapping):
            raise DataError(f"a table's row is a mapping of column names to values, not {type(raw).__name__}")
        if absent := [column for column in (*self.numbers, *self.categories) if column not in raw]:
            raise DataError(f"the row lacks {', '.join(absent)}; it has {', '.join(map(str, raw)) or 'nothing'}")
        figures = torch.tensor([number(raw[column], column) for column in self.numbers], dtype=torch.float64)
        holes = figures.isnan()
        if bool(holes.any()) and self.missing is Missing.REFUSE:
            raise DataError(f"{', '.join(column for column, hole in zip(self.numbers, holes.tolist(), strict=True) if hole)} missing, and data.missing=refuse")
        scaled = ((figures - torch.tensor(self.mean, dtype=torch.float64)) / torch.tensor(self.std, dtype=torch.float64)).masked_fill(holes, 0.0)
        if self.missing is Missing.INDICATOR:
            scaled = torch.cat([scaled, holes.to(torch.float64)])
        identifiers = [known.get(canonical(raw[column]), 0) for known, column in zip(self._identifiers, self.categories, strict=True)]
        return {"numbers": scaled.to(torch.float32), "categories": torch.tensor(identifiers, dtype=torch.int64)}

    def finish(self, values: Values) -> Values:
        return values

    def state(self) -> dict[str, Any]:
        return {
            "numbers": list(self.numbers),
            "categories": list(self.categories),
            "missing": str(self.missing),
            "mean": self.mean,
            "std": self.std,
            "values": self.values,
        }

    def save_files(self, folder: Path) -> None:
        pass

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "TableCodec":  # noqa: ARG003
        strict(state, name, numbers=list, categories=list, missing=str, mean=list, std=list, values=list)
        numbers, categories = (list_of(state[key], str, f"{name}.{key}") for key in ("numbers", "categories"))
        mean, std = (list_of(state[key], float, f"{name}.{key}") for key in ("mean", "std"))
        values = [list_of(known, str, f"{name}.values") for known in list_of(state["values"], list, f"{name}.values")]
        if (
            not len(numbers) == len(mean) == len(std)
            or len(values) != len(categories)
            or state["missing"] not in list(Missing)
            or any(figure <= 0 for figure in std)
        ):
            raise CheckpointError(
                f"processor.json: {name} has {len(numbers)} numbers, {len(mean)} means, {len(std)} deviations, {len(categories)} categories that do not fit"
            )
        return cls(name=name, numbers=numbers, categories=categories, missing=Missing(state["missing"]), mean=mean, std=std, values=values)


WHOLE = re.compile(r"(-?\d+)\.0+")


def canonical(value: Any) -> str:
    """One text for each category, whichever file, row or caller it comes from.

    3, 3.0 and "3.0" are "3"; True and "True" are "true"; lists and objects are their JSON; what is missing is "".
    """
    if is_missing(value):
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    text = str(value).strip()
    if whole := WHOLE.fullmatch(text):
        return str(int(whole[1]))
    return text.lower() if text.lower() in ("true", "false") else text
