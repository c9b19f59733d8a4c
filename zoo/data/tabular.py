"""Rows of tables: CSV, TSV and JSON lines by the standard library, Parquet by pyarrow, Hugging Face data sets by `datasets`.

Rows stay in flat memory (buffers, Arrow), never as Python objects, so that loader processes share them.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from zoo.data.folders import ways
from zoo.data.strings import Strings
from zoo.errors import DataError

INSTALL = "pip install 'zoo-ml[tables]'"


class Format(StrEnum):
    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    HF = "hf"


class Header(StrEnum):
    FIRST_LINE = "first_line"
    NONE = "none"


class Quoting(StrEnum):
    STANDARD = "standard"
    NONE = "none"


SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}


class Rows(Protocol):
    """A table, read by row or by column."""

    columns: tuple[str, ...]
    origin: str

    def __len__(self) -> int: ...

    def row(self, index: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterable[Any]: ...


class TextRows:
    """Columns of text.

    Args:
        columns: by name, of equal length.
        origin: the file.
    """

    def __init__(self, columns: Mapping[str, Strings], origin: str) -> None:
        self._columns, self.columns, self.origin = dict(columns), tuple(columns), origin

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def row(self, index: int) -> Mapping[str, Any]:
        return {name: values[index] for name, values in self._columns.items()}

    def column(self, name: str) -> Iterable[Any]:
        return self._columns[name]


class ArrowRows:
    """An Arrow table or a Hugging Face data set: both are memory-mapped or flat."""

    def __init__(self, table: Any, columns: Sequence[str], origin: str) -> None:
        self._table, self.columns, self.origin = table, tuple(columns), origin

    def __len__(self) -> int:
        return len(self._table)

    def row(self, index: int) -> Mapping[str, Any]:
        row = self._table[index] if hasattr(self._table, "features") else self._table.slice(index, 1).to_pylist()[0]
        return {name: _plain(row[name]) for name in self.columns}

    def column(self, name: str) -> Iterable[Any]:
        column = self._table[name]
        return (_plain(value) for value in (column.to_pylist() if hasattr(column, "to_pylist") else column))


def _plain(value: Any) -> Any:
    """The bytes or the path of an undecoded Hugging Face image or sound; anything else as it is."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] or value["path"]
    return value


def read_rows(path: str, format: Format, wanted: Sequence[str], header: Header, quoting: Quoting) -> dict[str, Rows]:
    """The wanted columns of a file ({"": rows}), or of each split of a Hugging Face data set.

    Raises:
        DataError: for a missing file or column, or a damaged row, by line.
    """
    kind = _format(path, format)
    if kind is Format.HF:
        return _hugging_face(path, wanted)
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {file}\n  way out: {ways(file, 'data.path=FILE')}")
    if kind is Format.PARQUET:
        return {"": _parquet(file, wanted)}
    try:
        return {"": _json_lines(file, wanted) if kind is Format.JSONL else _delimited(file, "\t" if kind is Format.TSV else ",", wanted, header, quoting)}
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}; convert it, e.g. with iconv") from error


def _format(path: str, format: Format) -> Format:
    if format is not Format.AUTO:
        return format
    if Path(path).expanduser().is_dir():
        return Format.HF
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: its ending tells no format; set data.format to {', '.join(kind for kind in Format if kind is not Format.AUTO)}")
    return SUFFIXES[suffix]


def check_columns(found: Sequence[str], wanted: Sequence[str], origin: str) -> None:
    """Raises ``DataError`` that lists what is absent and what there is."""
    if absent := [column for column in wanted if column not in found]:
        raise DataError(f"{origin} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; it has {', '.join(found) or 'none'}")


def _delimited(file: Path, delimiter: str, wanted: Sequence[str], header: Header, quoting: Quoting) -> Rows:
    csv.field_size_limit(1 << 30)  # a whole article in one field is data, not a mistake
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(
            stream, delimiter=delimiter, quoting=csv.QUOTE_NONE if quoting is Quoting.NONE else csv.QUOTE_MINIMAL, strict=quoting is Quoting.STANDARD
        )
        try:
            first = next(rows, None)
            if first is None:
                raise DataError(f"{file} is empty")
            names = first if header is Header.FIRST_LINE else [str(place) for place in range(len(first))]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{file}: its header names {', '.join(map(repr, repeated))} more than once")
            check_columns(names, wanted, str(file))
            places = [names.index(column) for column in wanted]
            table: list[list[str]] = [[] for _ in wanted]
            for row in [first] if header is Header.NONE else []:
                _add(table, row, places)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{file}:{rows.line_num}: {len(row)} fields, expected {len(names)}; data.quoting=none if quotation marks are part of the text"
                    )
                _add(table, row, places)
        except csv.Error as error:
            raise DataError(f"{file}:{rows.line_num}: {error}; data.quoting=none if quotation marks are part of the text") from error
    return _text_rows(file, wanted, table)


def _add(table: list[list[str]], row: Sequence[str], places: Sequence[int]) -> None:
    for column, place in zip(table, places, strict=True):
        column.append(row[place])


def _text_rows(file: Path, wanted: Sequence[str], table: list[list[str]]) -> TextRows:
    if not table or not table[0]:
        raise DataError(f"{file} holds no row")
    return TextRows({name: Strings(values) for name, values in zip(wanted, table, strict=True)}, str(file))


def _json_lines(file: Path, wanted: Sequence[str]) -> Rows:
    table: list[list[str]] = [[] for _ in wanted]
    for line, row in _objects(file):
        if line == 1:
            check_columns(list(row), wanted, str(file))
        if absent := [column for column in wanted if column not in row]:
            raise DataError(f"{file}:{line}: lacks {', '.join(absent)}")
        _add(table, [_text(row[column]) for column in wanted], range(len(wanted)))
    return _text_rows(file, wanted, table)


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise DataError(f"{file}:{line}: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}:{line}: {type(row).__name__}, expected an object")
            yield line, row


def _text(value: Any) -> str:
    """A JSON value as text that codecs read back: strings as they are, nothing for null."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _parquet(file: Path, wanted: Sequence[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{file}: Parquet files need pyarrow: {INSTALL}") from error
    try:
        check_columns(parquet.read_schema(file).names, wanted, str(file))
        table = parquet.read_table(file, columns=list(wanted))
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error
    if not len(table):
        raise DataError(f"{file} holds no row")
    return ArrowRows(table, wanted, str(file))


def _hugging_face(path: str, wanted: Sequence[str]) -> dict[str, Rows]:
    """A folder written by ``save_to_disk``, or whatever ``load_dataset`` knows by this name; code of data sets is never run."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path}: Hugging Face data sets need `datasets`: {INSTALL}") from error
    folder = Path(path).expanduser()
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json"))
    try:
        loaded = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(path)
    except (OSError, ValueError, RuntimeError) as error:  # `datasets` raises these for what is absent, damaged, or needs code
        raise DataError(f"{path} cannot be loaded as a Hugging Face data set: {error}") from error
    splits = {"": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    found: dict[str, Rows] = {}
    for name, part in splits.items():
        check_columns(part.column_names, wanted, f"{path}, split {name!r}" if name else path)
        part = part.select_columns(list(wanted))
        for column, feature in part.features.items():
            if isinstance(feature, datasets.Audio | datasets.Image):
                part = part.cast_column(column, type(feature)(decode=False))
            elif isinstance(feature, datasets.ClassLabel):
                part = part.cast_column(column, datasets.Value("string")) if feature.names is None else _named_labels(part, column, feature)
        found[name] = ArrowRows(part, wanted, f"{path}, split {name!r}" if name else path)
    return found


def _named_labels(part: Any, column: str, feature: Any) -> Any:
    """Class numbers as the names that the data set has for them."""
    import datasets

    names = [None if number is None or number < 0 else feature.int2str(number) for number in part[column]]
    return part.remove_columns(column).add_column(column, names, feature=datasets.Value("string"))
