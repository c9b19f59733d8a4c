"""Rows for models of several inputs: mappings of inputs or columns to values, and the files of tables. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.tabular import Reading, read_records
from zoo.errors import DataError, did_you_mean
from zoo.inference.inputs import ROWS, Sample, checked, shown

FILE_KINDS = ("image", "spectrogram")


@dataclass(frozen=True)
class Wanted:
    """One input of the model.

    Args:
        name: of it.
        kind: of its spec.
        columns: that it is read from: one, or those of a table.
    """

    name: str
    kind: str
    columns: tuple[str, ...]

    def of(self, row: Mapping[str, Any]) -> Any:
        """Its raw value; None where the row has none."""
        from zoo.data.codecs.label import is_missing  # it imports torch

        value = row.get(self.name)
        if self.kind in ROWS and value is None:
            value = {column: row[column] for column in self.columns if column in row}
            return None if all(is_missing(entry) for entry in value.values()) else value
        if value is None and len(self.columns) == 1:
            value = row.get(self.columns[0])
        return None if is_empty(value) else checked(value, self.kind)


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


def row_samples(given: Sequence[Any], wanted: Sequence[Wanted], reading: Reading) -> list[Sample]:
    """Raw samples, each a mapping of the inputs that it has.

    Args:
        given: mappings whose keys are inputs or the columns that training read them from; paths of tables, in which paths of files are relative to
            the table's folder; their further columns are left aside.
        wanted: the model's inputs.
        reading: how the files of tables are read.
    """
    found: list[Sample] = []
    for place, entry in enumerate(given):
        try:
            found.extend(_expand(entry, wanted, reading, place))
        except DataError as error:
            found.append(Sample(shown(entry, place), error=str(error)))
    return found


def _expand(entry: Any, wanted: Sequence[Wanted], reading: Reading, place: int) -> Iterator[Sample]:
    known = {key for one in wanted for key in (one.name, *one.columns)}
    if isinstance(entry, Mapping):
        if unknown := [str(key) for key in entry if key not in known]:
            raise DataError(f"the model has no input {unknown[0]!r}; {did_you_mean(unknown[0], known)}")
        yield Sample(shown(entry, place), _raw(entry, wanted))
        return
    path = Path(entry) if isinstance(entry, str | Path) else None
    if path is None or not reading.reads(path):
        raise DataError(f"this model takes several inputs: a row that maps {', '.join(one.name for one in wanted)} to values, or the file of a table")
    for number, row in enumerate(read_records(path, reading, texts=all(one.kind != "history" for one in wanted)), 1):
        name = f"{path}:{number}"
        try:
            if not known & set(row):
                raise DataError(f"{path}, row {number}: has none of the columns {', '.join(sorted(known))}; it has {', '.join(row)}")
            raw = _raw(row, wanted)
        except DataError as error:
            yield Sample(name, error=str(error))
            continue
        files = {one.name for one in wanted if one.kind in FILE_KINDS}
        yield Sample(name, {key: path.parent / value if key in files and isinstance(value, str) else value for key, value in raw.items()})


def _raw(row: Mapping[str, Any], wanted: Sequence[Wanted]) -> dict[str, Any]:
    return {one.name: value for one in wanted if (value := one.of(row)) is not None}
